"""Volumes: NIfTI, and DICOM series of MR."""

from __future__ import annotations

from typing import Any

from custom_nets._moved import moved_name


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
