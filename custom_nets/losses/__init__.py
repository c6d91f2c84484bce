from __future__ import annotations

from .distillation import DistillationLoss, affinity_loss, feature_loss
from .laplacian import LaplacianPyramidLoss
from .most_dsa import MoStDSALoss
from .multiscale import MultiscaleCharbonnierLoss, MultiscalePSNRLoss
from .transmrsr import PlaneLoss, TransMRSRLoss
from .vgg_losses import VGGLosses, perceptual_distance, style_distance

__all__ = [
    "DistillationLoss",
    "affinity_loss",
    "feature_loss",
    "LaplacianPyramidLoss",
    "MoStDSALoss",
    "MultiscaleCharbonnierLoss",
    "MultiscalePSNRLoss",
    "PlaneLoss",
    "TransMRSRLoss",
    "VGGLosses",
    "perceptual_distance",
    "style_distance",
]
