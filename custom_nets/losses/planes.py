"""What the planes of TransMRSR are trained with."""

from __future__ import annotations

import logging
import os

import torch
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from custom_nets.losses.transmrsr import CONTENT_LAYERS, STYLE_LAYERS, TransMRSRLoss
from custom_nets.networks.layers.imagenet import to_imagenet_units
from custom_nets.networks.layers.vgg19 import load_vgg19_layers

__all__ = ["PlaneLoss"]

logger = logging.getLogger(__name__)


class PlaneLoss(_Loss):
    """The published loss (:class:`custom_nets.losses.TransMRSRLoss`) where VGG19's weights are given, otherwise the
    mean absolute difference alone, which the log says.

    Args:
        vgg_weights: torchvision's file ``vgg19-dcbb9e9d.pth``, or None.
        content, style: weights of the two distances seen through VGG19.

    Shapes: grey planes [B, 1, H, W] from 0 to 1, or [B, 3, H, W] in ImageNet's units, twice -> a number.
    """

    def __init__(self, vgg_weights: str | os.PathLike | None = None, content: float = 0.5, style: float = 0.5) -> None:
        super().__init__()
        self.published: TransMRSRLoss | None = None
        if vgg_weights is None:
            logger.info(
                "Loss: L1 alone. Content and style loss of the published training need torchvision's weights of VGG19: "
                "--vgg_weights vgg19-dcbb9e9d.pth."
            )
        else:
            network = load_vgg19_layers(vgg_weights, (*CONTENT_LAYERS, *STYLE_LAYERS))
            self.published = TransMRSRLoss(network, content=content, style=style)
            logger.info("Loss: L1 + %g content + %g style, seen through VGG19 (%s).", content, style, vgg_weights)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.published is None:
            return F.l1_loss(input, target)
        if input.shape[1] == 1:
            input, target = to_imagenet_units(input), to_imagenet_units(target)
        return self.published(input, target)
