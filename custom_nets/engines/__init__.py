"""Ignite engines and how they unpack their batches."""

from __future__ import annotations

from .adversarial import AdversarialTrainer
from .batches import (
    predict_gap,
    predict_published_gap,
    prepare_acquisition,
    prepare_gap,
    prepare_planes,
    prepare_points,
    prepare_published_gap,
    prepare_run,
    single_item,
)
from .cases import CaseEvaluator, ReconstructionEvaluator, RunEvaluator, record_path
from .gates import GatedNetwork, gated_network
from .scan_fitting import ActivateLevels, DensifyAndPrune, FitCurve, GrowGrid, ScanFitting
from .vessel_support import VesselSupport, turn_warning, vessel_support

__all__ = [
    "ActivateLevels",
    "DensifyAndPrune",
    "FitCurve",
    "GatedNetwork",
    "GrowGrid",
    "gated_network",
    "ScanFitting",
    "VesselSupport",
    "turn_warning",
    "vessel_support",
    "AdversarialTrainer",
    "CaseEvaluator",
    "ReconstructionEvaluator",
    "RunEvaluator",
    "predict_gap",
    "predict_published_gap",
    "prepare_acquisition",
    "prepare_gap",
    "prepare_planes",
    "prepare_points",
    "prepare_published_gap",
    "prepare_run",
    "record_path",
    "single_item",
]
