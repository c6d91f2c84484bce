"""Ignite handlers of all bundles: seeds, checkpoints, early stop, progress, MLflow."""

from __future__ import annotations

from .bundle_checkpoint import BundleCheckpoint
from .early_stop import EarlyStop
from .epoch_seed import EpochSeed
from .gap_picture import GapPicture
from .inference_record import InferenceRecord
from .loss_epoch import LossEpoch
from .mlflow_run import MLflowEvaluation, MLflowRun
from .progress import TrainingProgress
from .run_record import RunRecord
from .sample_grid import SampleGrid
from .thick_slice_picture import ThickSlicePicture
from .training_state import TrainingState
from .validation_picture import ValidationPicture

__all__ = [
    "BundleCheckpoint",
    "EarlyStop",
    "EpochSeed",
    "GapPicture",
    "InferenceRecord",
    "LossEpoch",
    "MLflowEvaluation",
    "MLflowRun",
    "RunRecord",
    "SampleGrid",
    "ThickSlicePicture",
    "TrainingProgress",
    "TrainingState",
    "ValidationPicture",
]
