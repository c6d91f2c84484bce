"""MONAI transforms of all bundles: reading and writing volumes and runs, intensities, degradation."""

from __future__ import annotations

from .degradation import DegradeVolumed, PublishedDegraded, RandDegradeCropd, RandScaledCropd
from .differentiable import DifferentiableAugment
from .frame_gaps import FixedFrameGapd, LoadTrainingRund, RandFrameGapd, RandSimulatedGapd
from .intensity import RestoreIntensityd, ScaleToUnitRanged
from .io import LoadVolumed, SaveVolumed, check_writable, load_volume
from .published import PublishedPaird
from .runs import LoadRund, SaveRund
from .subjects import LoadSubjectd
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
    "check_writable",
    "load_volume",
]
