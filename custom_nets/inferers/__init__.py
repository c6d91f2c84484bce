from __future__ import annotations

from .autocast import AutocastInferer
from .frames import FrameInterpolationInferer, plan_times
from .implicit import ImplicitVolumeInferer, PublishedProcedureInferer, resolve_grid
from .reconstruction import Reconstruction, ReconstructionInferer, load_fit, save_fit
from .streaming import PlaneStreamer
from .teacher import TeacherInferer
from .thick_slices import ThickSliceInferer, find_thick_axis

__all__ = [
    "AutocastInferer",
    "FrameInterpolationInferer",
    "ImplicitVolumeInferer",
    "PlaneStreamer",
    "PublishedProcedureInferer",
    "Reconstruction",
    "ReconstructionInferer",
    "TeacherInferer",
    "ThickSliceInferer",
    "find_thick_axis",
    "load_fit",
    "plan_times",
    "resolve_grid",
    "save_fit",
]
