"""MONAI transforms of all bundles: reading and writing volumes and runs, intensities, degradation."""

from __future__ import annotations

from typing import Any

from custom_nets._moved import moved_name

from .angiography_io import LoadAngiographyd, SaveAngiographyd
from .degradation import DegradeVolumed, PublishedDegraded, RandDegradeCropd, RandScaledCropd
from .differentiable import DifferentiableAugment
from .frame_interpolation import FixedFrameGapd, LoadTrainingRund, RandFrameGapd, RandSimulatedGapd
from .intensity import RestoreIntensityd, ScaleToUnitRanged
from .io import LoadVolumed, SaveVolumed, load_volume
from .published_arssr import PublishedPaird
from .reconstruction_io import LoadAcquisitiond, SaveReconstructiond
from .subjects import LoadSubjectd
from .synthetic_contrast import RandContrastFromLabelsd
from .thick_slices import RandSlabd, RandThickSlicesd, SlabToPlaned
from .uncertainty import SplitUncertaintyd

__all__ = [
    "DegradeVolumed",
    "DifferentiableAugment",
    "FixedFrameGapd",
    "LoadAcquisitiond",
    "LoadAngiographyd",
    "LoadSubjectd",
    "LoadTrainingRund",
    "LoadVolumed",
    "PublishedDegraded",
    "PublishedPaird",
    "RandContrastFromLabelsd",
    "RandDegradeCropd",
    "RandFrameGapd",
    "RandScaledCropd",
    "RandSimulatedGapd",
    "RandSlabd",
    "RandThickSlicesd",
    "RestoreIntensityd",
    "SaveAngiographyd",
    "SaveReconstructiond",
    "SaveVolumed",
    "ScaleToUnitRanged",
    "SlabToPlaned",
    "SplitUncertaintyd",
    "load_volume",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
