"""Pictures that one can judge at a glance."""

from __future__ import annotations

from typing import Any

from custom_nets._moved import moved_name

from .figure import save_figure
from .volumes import comparison_figure, preview_figure, thick_slice_figure

__all__ = ["comparison_figure", "preview_figure", "save_figure", "thick_slice_figure"]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
