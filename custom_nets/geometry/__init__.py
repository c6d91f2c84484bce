"""Where voxels and pixels lie; numpy only."""

from __future__ import annotations

from .grid import Grid, as_triple, nearest_axes

__all__ = ["Grid", "as_triple", "nearest_axes"]
