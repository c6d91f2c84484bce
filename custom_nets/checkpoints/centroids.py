"""Centroids of a generative prior's latents, to which TransMRSR draws its own (truncation)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import torch

from custom_nets.checkpoints.bundle import build_network, load_network, save_checkpoint
from custom_nets.networks import BrainPrior
from custom_nets.utils.weights import read_checkpoint

__all__ = ["cluster_latents", "fit_centroids", "fit_prior_centroids"]

logger = logging.getLogger(__name__)


def cluster_latents(latents: torch.Tensor, clusters: int = 8, seed: int = 0, n_init: int = 10) -> torch.Tensor:
    """K-means of latents, each dimension scaled to mean 0 and standard deviation 1; random starts.

    Args:
        latents: w [N, S].
        clusters: K.
        seed: of the starts.
        n_init: starts, the best of which is kept. (The published script left it to its scikit-learn, where it was 10.)

    Returns:
        Centres [K, S] in the units of the latents, float32.

    Raises:
        ValueError: fewer latents than clusters, or latents that are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import StandardScaler

    if clusters < 1 or len(latents) < clusters:
        raise ValueError(f"{len(latents)} latents cannot be put into {clusters} clusters: draw more, or take fewer.")
    if not bool(torch.isfinite(latents).all()):
        raise ValueError("some latents are not finite: the prior's mapping is damaged.")
    scaler = StandardScaler()
    scaled = scaler.fit_transform(latents.detach().cpu().double().numpy())
    found = KMeans(clusters, init="random", n_init=n_init, random_state=seed).fit(scaled)
    return torch.as_tensor(scaler.inverse_transform(found.cluster_centers_)).float()


@torch.no_grad()
def fit_centroids(
    mapping: Callable[[torch.Tensor], torch.Tensor],
    style_dim: int,
    count: int = 60000,
    clusters: int = 8,
    seed: int = 0,
    n_init: int = 10,
) -> torch.Tensor:
    """Centroids of what a mapping network makes of noise.

    Args:
        mapping: z [B, S] of a normal distribution -> w [B, S]: ``BrainPrior.latent``, ``StyleSwinGenerator.map``.
        style_dim: S.
        count: latents to draw (60,000 in the paper).
        clusters, n_init: see :func:`cluster_latents`.
        seed: of the latents and of the clusters' starts.

    Returns:
        Centres [clusters, S], float32.
    """
    z = torch.randn(count, style_dim, generator=torch.Generator().manual_seed(seed))
    return cluster_latents(torch.cat([mapping(part) for part in z.split(4096)]), clusters, seed, n_init)


def fit_prior_centroids(
    path: str | os.PathLike, count: int = 60000, clusters: int | None = None, seed: int = 0, n_init: int = 10
) -> torch.Tensor:
    """Fit the centroids of a trained prior and store them in its checkpoint, which is replaced.

    Args:
        path: of the :class:`custom_nets.networks.BrainPrior` that ``pretrain_prior.json`` left.
        clusters: K; as many as the prior was made for where not given.
        count, seed, n_init: see :func:`fit_centroids`.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, or one of another network.
    """
    prior = load_network(path)
    if not isinstance(prior, BrainPrior):
        raise ValueError(f"{path} holds a {type(prior).__name__}, not a BrainPrior (pretrain_prior.json makes one).")
    clusters = len(prior.centroids) if clusters is None else clusters
    arch = {**read_checkpoint(path)["arch"], "num_centroids": clusters}
    centroids = fit_centroids(prior.latent, prior.style_dim, count, clusters, seed, n_init)
    state = prior.state_dict()
    prior = build_network(arch)
    prior.load_state_dict({**state, "centroids": centroids})
    save_checkpoint(path, prior, arch)
    logger.info("%d centroids of %d latents written to %s", clusters, count, path)
    return centroids
