"""Ignite engines and how they unpack their batches."""

from __future__ import annotations

from .batches import prepare_gap, prepare_points, prepare_run, single_item
from .cases import CaseEvaluator, RunEvaluator, record_path

__all__ = [
    "CaseEvaluator",
    "RunEvaluator",
    "prepare_gap",
    "prepare_points",
    "prepare_run",
    "record_path",
    "single_item",
]
