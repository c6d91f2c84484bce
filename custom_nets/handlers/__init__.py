"""Ignite handlers of all bundles: seeds, checkpoints, early stop, progress, MLflow."""

from __future__ import annotations

from .bundle_checkpoint import BundleCheckpoint
from .early_stop import EarlyStop
from .epoch_seed import EpochSeed
from .inference_record import InferenceRecord
from .mlflow_run import MLflowRun
from .progress import TrainingProgress
from .run_record import RunRecord
from .training_state import TrainingState
from .validation_picture import ValidationPicture

__all__ = [
    "BundleCheckpoint",
    "EarlyStop",
    "EpochSeed",
    "InferenceRecord",
    "MLflowRun",
    "RunRecord",
    "TrainingProgress",
    "TrainingState",
    "ValidationPicture",
]
