"""The published protocol of TransMRSR on grey planes: padding and ImageNet's units."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from custom_nets.networks.layers.imagenet import from_imagenet_units, to_imagenet_units
from custom_nets.networks.transmrsr import TransMRSR

__all__ = ["PublishedPlanes", "published_units"]


def published_units(planes: torch.Tensor, size: int) -> torch.Tensor:
    """Grey planes [B, 1, H, W], 0 to 1 -> [B, 3, size, size]: zeros around them, ImageNet's mean and deviation.

    Raises:
        ValueError: planes larger than ``size``.
    """
    height, width = planes.shape[-2:]
    if max(height, width) > size:
        raise ValueError(f"planes of {height} x {width} pixels do not fit into the network's {size} x {size}.")
    top, left = (size - height + 1) // 2, (size - width + 1) // 2
    return to_imagenet_units(F.pad(planes, [left, size - width - left, top, size - height - top]))


class PublishedPlanes(nn.Module):
    """The published network seen as :class:`custom_nets.inferers.ThickSliceInferer` wants networks.

    Args:
        network: [B, 3, S, S] -> [B, 3, S, S] in published units.

    Shapes: [B, 1, H, W] grey, up to S -> [B, 1, H, W].
    """

    slices = 1
    divisor = 1

    def __init__(self, network: TransMRSR) -> None:
        super().__init__()
        self.network = network
        self.largest = network.size

    def forward(self, image: torch.Tensor, scale: Any = None, position: Any = None) -> torch.Tensor:
        size = self.network.size
        grey = from_imagenet_units(self.network(published_units(image, size))).mean(1, keepdim=True)
        height, width = image.shape[-2:]
        top, left = (size - height + 1) // 2, (size - width + 1) // 2
        return grey[..., top : top + height, left : left + width]
