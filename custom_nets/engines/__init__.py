"""Ignite engines and how they unpack their batches."""

from __future__ import annotations

from .batches import prepare_points
from .cases import CaseEvaluator, record_path

__all__ = ["CaseEvaluator", "prepare_points", "record_path"]
