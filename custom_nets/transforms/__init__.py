"""MONAI transforms of all bundles: reading and writing volumes, intensities, degradation."""

from __future__ import annotations

from .degradation import DegradeVolumed, PublishedDegraded, RandDegradeCropd, RandScaledCropd
from .intensity import RestoreIntensityd, ScaleToUnitRanged
from .io import LoadVolumed, SaveVolumed, check_writable, load_volume
from .published import PublishedPaird
from .subjects import LoadSubjectd

__all__ = [
    "DegradeVolumed",
    "LoadSubjectd",
    "LoadVolumed",
    "PublishedDegraded",
    "PublishedPaird",
    "RandDegradeCropd",
    "RandScaledCropd",
    "RestoreIntensityd",
    "SaveVolumed",
    "ScaleToUnitRanged",
    "check_writable",
    "load_volume",
]
