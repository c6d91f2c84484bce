"""Priors of the brain that a network starts from: StyleSwin's generator as published, and ours."""

from __future__ import annotations

import os

import torch

from custom_nets.checkpoints.bundle import load_network
from custom_nets.checkpoints.centroids import fit_centroids
from custom_nets.networks import AnySizeTransMRSR, BrainPrior, StyleSwinGenerator, TransMRSR

__all__ = ["with_prior", "with_published_prior"]


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


def with_prior(network: AnySizeTransMRSR, path: str | os.PathLike | None, freeze: bool = False) -> AnySizeTransMRSR:
    """Take decoder and centroids over from a trained :class:`custom_nets.networks.BrainPrior` (None: from nowhere).

    Args:
        network: to take them over.
        path: of the prior's checkpoint, with centroids.
        freeze: keep the decoder as it is while the rest is trained.

    Returns:
        The network.

    Raises:
        ValueError: the checkpoint is of another network or of other sizes, or its centroids were never fitted; a
            decoder is to be frozen that comes from nowhere.
    """
    if path is None:
        if freeze:
            raise ValueError("freeze_prior keeps the prior as it was trained: name it (prior).")
        return network
    prior = load_network(path)
    if not isinstance(prior, BrainPrior):
        raise ValueError(f"{path} holds a {type(prior).__name__}, not a BrainPrior (pretrain_prior.json makes one).")
    if len(network.centroids) and not bool(torch.isfinite(prior.centroids).all()):
        raise ValueError(f"the prior {path} has no centroids yet: run fit_centroids.json on it, or num_centroids 0.")
    try:
        network.generator.load_state_dict(prior.synthesis.state_dict())
    except RuntimeError as error:
        raise ValueError(f"the prior {path} has other sizes than this network: {error}") from error
    if len(network.centroids):
        if prior.centroids.shape != network.centroids.shape:
            raise ValueError(
                f"the prior {path} has {len(prior.centroids)} centroids, this network takes {len(network.centroids)}."
            )
        network.centroids.copy_(prior.centroids)
    network.generator.requires_grad_(not freeze)
    return network
