from __future__ import annotations

from .laplacian import LaplacianPyramidLoss
from .most_dsa import MoStDSALoss
from .vgg_losses import VGGLosses, perceptual_distance, style_distance

__all__ = ["LaplacianPyramidLoss", "MoStDSALoss", "VGGLosses", "perceptual_distance", "style_distance"]
