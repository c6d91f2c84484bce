"""Ignite handlers of all bundles: seeds, checkpoints, early stop, time budget, progress, MLflow."""

from __future__ import annotations

from .bundle_checkpoint import BundleCheckpoint
from .early_stop import EarlyStop
from .epoch_seed import EpochSeed
from .figures import GapPicture, SampleGrid, ThickSlicePicture, ValidationPicture
from .inference_record import InferenceRecord
from .loss_epoch import LossEpoch
from .mlflow_fits import MLflowFits
from .mlflow_run import MLflowEvaluation, MLflowRun
from .progress import TrainingProgress
from .reconstruction_record import ReconstructionRecord
from .run_record import RunRecord
from .time_budget import TimeBudget
from .training_state import TrainingState

__all__ = [
    "BundleCheckpoint",
    "EarlyStop",
    "EpochSeed",
    "GapPicture",
    "InferenceRecord",
    "LossEpoch",
    "MLflowEvaluation",
    "MLflowFits",
    "MLflowRun",
    "ReconstructionRecord",
    "RunRecord",
    "SampleGrid",
    "ThickSlicePicture",
    "TimeBudget",
    "TrainingProgress",
    "TrainingState",
    "ValidationPicture",
]
