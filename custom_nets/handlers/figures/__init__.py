"""Pictures that a training draws of what it validates."""

from __future__ import annotations

from .frame_gaps import GapPicture
from .points import ValidationPicture
from .sample_grid import SampleGrid
from .thick_slices import ThickSlicePicture

__all__ = ["GapPicture", "SampleGrid", "ThickSlicePicture", "ValidationPicture"]
