from __future__ import annotations

from .degradation import DegradeVolumed, PublishedDegraded, RandDegradeCropd, RandScaledCropd
from .subjects import LoadSubjectd

__all__ = ["DegradeVolumed", "LoadSubjectd", "PublishedDegraded", "RandDegradeCropd", "RandScaledCropd"]
