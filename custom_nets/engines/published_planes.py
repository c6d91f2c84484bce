"""The published protocol of TransMRSR on grey planes: padding, ImageNet's units, the prior that is kept."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from custom_nets.apps.centroids import fit_centroids
from custom_nets.checkpoints import load_network
from custom_nets.networks import StyleSwinGenerator, TransMRSR
from custom_nets.transforms.published import from_imagenet_units, to_imagenet_units

__all__ = ["PublishedPlanes", "prepare_published_planes", "published_units", "with_published_prior"]


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


def prepare_published_planes(
    batchdata: dict[str, torch.Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    size: int = 256,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For planes of thick slices: ``net(image)`` against ``label``, both as :func:`published_units`."""
    image, label = (
        published_units(batchdata[key].to(device=device, non_blocking=non_blocking, **kwargs), size)
        for key in ("image", "label")
    )
    return image, label


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


def with_published_prior(
    network: TransMRSR, path: str | os.PathLike | None, freeze: bool = False, latents: int = 60000, seed: int = 0
) -> TransMRSR:
    """Take the decoder over from a trained :class:`custom_nets.networks.StyleSwinGenerator` (None: from nowhere), and
    the centroids from ``latents`` of its styles, where the network has any.

    Nothing of the prior is drawn anew afterwards. (The published code did so with 73 % of it.)

    Raises:
        ValueError: the checkpoint is of another network or of other sizes; centroids or frozen weights without a prior.
    """
    centroids = network._buffers.get("centroids")
    if path is None:
        if freeze or centroids is not None:
            raise ValueError("freeze_prior and num_centroids need a prior: name it (prior), or leave them out.")
        return network
    prior = load_network(path)
    if not isinstance(prior, StyleSwinGenerator):
        raise ValueError(f"{path} holds a {type(prior).__name__}, not a StyleSwinGenerator.")
    wanted = network.generator.state_dict()
    try:
        network.generator.load_state_dict({key: value for key, value in prior.state_dict().items() if key in wanted})
    except RuntimeError as error:
        raise ValueError(f"the prior {path} has other sizes than this network: {error}") from error
    if centroids is not None:
        centroids.copy_(fit_centroids(prior.map, prior.style_dim, latents, len(centroids), seed))
    network.generator.requires_grad_(not freeze)
    return network
