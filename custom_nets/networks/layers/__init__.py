"""Layers that more than one network uses."""

from __future__ import annotations

from .rows import PointwiseConv3d, RowLinear

__all__ = ["PointwiseConv3d", "RowLinear"]
