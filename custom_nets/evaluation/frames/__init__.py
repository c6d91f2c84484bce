"""Evaluation of frames: leave out, make, compare."""

from __future__ import annotations
