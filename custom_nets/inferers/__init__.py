from __future__ import annotations

from .autocast import AutocastInferer
from .frames import FrameInterpolationInferer, plan_times
from .implicit import ImplicitVolumeInferer, PublishedProcedureInferer, resolve_grid
from .streaming import PlaneStreamer

__all__ = [
    "AutocastInferer",
    "FrameInterpolationInferer",
    "ImplicitVolumeInferer",
    "PlaneStreamer",
    "PublishedProcedureInferer",
    "plan_times",
    "resolve_grid",
]
