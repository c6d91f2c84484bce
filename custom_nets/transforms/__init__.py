"""MONAI transforms of all bundles: reading and writing volumes and runs, intensities, degradation."""

from __future__ import annotations

from .angiography_io import LoadRund, SaveRund
from .degradation import DegradeVolumed, PublishedDegraded, RandDegradeCropd, RandScaledCropd
from .differentiable import DifferentiableAugment
from .frame_interpolation import FixedFrameGapd, LoadTrainingRund, RandFrameGapd, RandSimulatedGapd
from .intensity import RestoreIntensityd, ScaleToUnitRanged
from .io import LoadVolumed, SaveVolumed, load_volume
from .published_arssr import PublishedPaird
from .subjects import LoadSubjectd
from .synthetic_contrast import RandContrastFromLabelsd
from .thick_slices import RandSlabd, RandThickSlicesd, SlabToPlaned
from .uncertainty import SplitUncertaintyd

__all__ = [
    "DegradeVolumed",
    "DifferentiableAugment",
    "FixedFrameGapd",
    "LoadRund",
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
    "SaveRund",
    "SaveVolumed",
    "ScaleToUnitRanged",
    "SlabToPlaned",
    "SplitUncertaintyd",
    "load_volume",
]
