"""The published loss of TransMRSR (Huang et al., 2023): absolute difference, content and style seen through VGG19."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from custom_nets.networks.layers.imagenet import to_imagenet_units
from custom_nets.networks.layers.vgg19 import VGG19Layers, load_vgg19_layers

__all__ = ["PlaneLoss", "TransMRSRLoss", "content_distance", "layer_style_distance"]

logger = logging.getLogger(__name__)

# places in VGG19's list of layers, of the published code; the paper has layer 10 among the content too
CONTENT_LAYERS = (2, 4, 7)
STYLE_LAYERS = (1, 3, 5, 9, 13)

Features = Mapping[int, torch.Tensor]


def content_distance(a: Features, b: Features, layers: Sequence[int] = CONTENT_LAYERS) -> torch.Tensor:
    """Sum over ``layers`` of the mean squared difference of features [B, C, H, W]; a number."""
    return torch.stack([F.mse_loss(a[layer].float(), b[layer].float()) for layer in layers]).sum()


def layer_style_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two layers' Gram matrices; [B, C, H, W] -> a number."""
    return F.mse_loss(_gram(a), _gram(b))


def _gram(x: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> [B, C, C]: sum over the positions of products of channels / (C H W)."""
    rows = x.float().flatten(2)
    return rows @ rows.transpose(1, 2) / rows[0].numel()


class TransMRSRLoss(_Loss):
    """``l1 * |a - b| + content * content + style * style``, published as 1, 0.5, 0.5.

    Args:
        network: :func:`custom_nets.networks.layers.vgg19.load_vgg19_layers` with the layers below (its weights are not
            shipped); None for the absolute difference alone.
        l1, content, style: weights.
        content_layers, style_layers: places in VGG19's list of layers.

    Shapes: [B, 3, H, W] in ImageNet's units, twice -> a number.

    Raises:
        ValueError: the network does not give a layer that is needed.
    """

    def __init__(
        self,
        network: VGG19Layers | None = None,
        l1: float = 1.0,
        content: float = 0.5,
        style: float = 0.5,
        content_layers: Sequence[int] = CONTENT_LAYERS,
        style_layers: Sequence[int] = STYLE_LAYERS,
    ) -> None:
        super().__init__()
        missing = set() if network is None else {*content_layers, *style_layers} - set(network.places)
        if missing:
            raise ValueError(
                f"the network must give the layers {sorted(missing)} too: load_vgg19_layers(file, places)."
            )
        self.network = network
        self.l1, self.content, self.style = l1, content, style
        self.content_layers, self.style_layers = tuple(content_layers), tuple(style_layers)

    def parts(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms before they are weighed: "l1" and, with a network, "content" and "style"."""
        if input.shape != target.shape:
            raise ValueError(f"both images must have one shape, got {tuple(input.shape)} and {tuple(target.shape)}.")
        parts = {"l1": F.l1_loss(input.float(), target.float())}
        if self.network is not None:
            with torch.no_grad():
                wanted = self.network(target)
            seen = self.network(input)
            parts["content"] = content_distance(seen, wanted, self.content_layers)
            parts["style"] = torch.stack(
                [layer_style_distance(seen[layer], wanted[layer]) for layer in self.style_layers]
            ).sum()
        return parts

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        weights = {"l1": self.l1, "content": self.content, "style": self.style}
        return torch.stack([weights[name] * value for name, value in self.parts(input, target).items()]).sum()


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
