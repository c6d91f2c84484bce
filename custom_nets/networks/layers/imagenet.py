"""ImageNet's units, in which published networks take their planes."""

from __future__ import annotations

import torch

__all__ = ["from_imagenet_units", "to_imagenet_units"]

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def to_imagenet_units(image: torch.Tensor) -> torch.Tensor:
    """[..., 3 or 1, H, W] from 0 to 1 -> [..., 3, H, W] minus ImageNet's mean, over its deviation."""
    mean, deviation = (image.new_tensor(v)[:, None, None] for v in (_MEAN, _DEVIATION))
    return (image - mean) / deviation


def from_imagenet_units(image: torch.Tensor) -> torch.Tensor:
    """Undoes :func:`to_imagenet_units`; three channels stay three."""
    mean, deviation = (image.new_tensor(v)[:, None, None] for v in (_MEAN, _DEVIATION))
    return image * deviation + mean
