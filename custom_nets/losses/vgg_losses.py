"""Perceptual and style distance of images, seen through VGG19; constants of FILM (Reda et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.modules.loss import _Loss

from custom_nets.networks.layers.vgg19 import VGG19Features

__all__ = ["VGGLosses", "perceptual_distance", "style_distance"]

# of conv1_2, conv2_2, conv3_2, conv4_2, conv5_2
LAYER_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)


def perceptual_distance(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> torch.Tensor:
    """Weighted mean absolute differences of features / 255; maps [B, C, h, w] of the five layers -> a number."""
    parts = [weight * (x - y).abs().mean() for weight, x, y in zip(LAYER_WEIGHTS, a, b, strict=True)]
    return torch.stack(parts).sum() / 255


def style_distance(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> torch.Tensor:
    """Weighted mean squared differences of the features' Gram matrices; maps [B, C, h, w] -> a number."""
    parts = [weight * (_gram(x) - _gram(y)).square().mean() for weight, x, y in zip(LAYER_WEIGHTS, a, b, strict=True)]
    return torch.stack(parts).sum()


def _gram(x: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> [B, C, C]: mean over the positions of products of channels (features / 255)."""
    x = x.float().flatten(2) / 255
    return x @ x.transpose(1, 2) / x.shape[-1]


class VGGLosses(_Loss):
    """Perceptual and style distance in one pass of each image; the target's pass keeps no graph.

    Args:
        network: the observer, see :func:`custom_nets.networks.layers.vgg19.load_vgg19_features`.

    Shapes: images [B, 3 or 1, H, W], 0 to 1, at least 188 pixels -> (perceptual, style), two numbers.
    """

    def __init__(self, network: VGG19Features) -> None:
        super().__init__()
        self.network = network

    def target_features(self, target: torch.Tensor) -> list[torch.Tensor]:
        """The target seen by the network, to compare several images with."""
        with torch.no_grad():
            return self.network(target)

    def forward(
        self, input: torch.Tensor, target: torch.Tensor | list[torch.Tensor], style: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            input: [B, 3 or 1, H, W].
            target: such an image, or its :meth:`target_features`.
            style: False leaves the style out, its value is 0 then.
        """
        wanted = self.target_features(target) if isinstance(target, torch.Tensor) else target
        seen = self.network(input)
        return perceptual_distance(seen, wanted), style_distance(seen, wanted) if style else input.new_zeros(())
