"""What MR volumes and angiography runs share of DICOM."""

from __future__ import annotations
