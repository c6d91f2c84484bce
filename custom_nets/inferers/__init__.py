from __future__ import annotations

from .autocast import AutocastInferer
from .frames import FrameInterpolationInferer, plan_times
from .implicit import ImplicitVolumeInferer, PublishedProcedureInferer, resolve_grid
from .streaming import PlaneStreamer
from .thick_slices import ThickSliceInferer, find_thick_axis

__all__ = [
    "AutocastInferer",
    "FrameInterpolationInferer",
    "ImplicitVolumeInferer",
    "PlaneStreamer",
    "PublishedProcedureInferer",
    "ThickSliceInferer",
    "find_thick_axis",
    "plan_times",
    "resolve_grid",
]
