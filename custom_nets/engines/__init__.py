"""Ignite engines and how they unpack their batches."""

from __future__ import annotations

from .adversarial import AdversarialTrainer
from .batches import (
    predict_gap,
    predict_published_gap,
    prepare_gap,
    prepare_planes,
    prepare_points,
    prepare_published_gap,
    prepare_run,
    single_item,
)
from .cases import CaseEvaluator, RunEvaluator, record_path

__all__ = [
    "AdversarialTrainer",
    "CaseEvaluator",
    "RunEvaluator",
    "predict_gap",
    "predict_published_gap",
    "prepare_gap",
    "prepare_planes",
    "prepare_points",
    "prepare_published_gap",
    "prepare_run",
    "record_path",
    "single_item",
]
