"""A network that starts from a prior: the generator of a first stage of training."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
from torch import nn

from custom_nets.checkpoints.bundle import load_network
from custom_nets.checkpoints.centroids import fit_centroids

__all__ = ["with_prior"]

N = TypeVar("N", bound=nn.Module)


def with_prior(
    network: N, path: str | os.PathLike | None, freeze: bool = False, latents: int = 60000, seed: int = 0
) -> N:
    """Take decoder and centroids over from a trained prior (None: from nowhere).

    Args:
        network: one that has ``take_prior(prior)`` and a ``generator``.
        path: of the prior's checkpoint.
        freeze: keep the decoder as it is while the rest is trained.
        latents: of the prior, drawn with ``seed`` to fit the centroids where the prior brings none.

    Returns:
        The network.

    Raises:
        ValueError: the checkpoint is of another network or of other sizes, or its centroids were never fitted; a
            decoder is to be frozen, or centroids are wanted, that come from nowhere.
    """
    if path is None:
        if freeze or getattr(network, "needs_prior", False):
            raise ValueError(
                "freeze_prior keeps the prior as it was trained, and num_centroids may need one: name it (prior), or "
                "leave them out."
            )
        return network
    prior = load_network(path)
    try:
        network.take_prior(prior)  # type: ignore[operator]
    except ValueError as error:
        raise ValueError(f"the prior {path} cannot be used: {error}") from error
    centroids = network._buffers.get("centroids")
    if centroids is not None and len(centroids) and not bool(torch.isfinite(centroids).all()):
        centroids.copy_(fit_centroids(prior.map, prior.style_dim, latents, len(centroids), seed))  # type: ignore[arg-type]
    network.generator.requires_grad_(not freeze)  # type: ignore[union-attr]
    return network
