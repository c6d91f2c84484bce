"""Centroids of a prior: K-means with a known answer, and the checkpoint that keeps them."""

from __future__ import annotations

import pytest
import torch

from custom_nets.checkpoints import load_network, save_checkpoint
from custom_nets.checkpoints.centroids import cluster_latents, fit_centroids, fit_prior_centroids
from custom_nets.networks import BrainPrior, SwinRegressor

ARCH = {"widths": [8, 16], "style_dim": 16, "head_width": 4}


def prior_file(path, **more):
    torch.manual_seed(0)
    save_checkpoint(path, BrainPrior(**ARCH, **more), {"name": "BrainPrior", **ARCH, **more})
    return path


def test_clusters_that_are_there_are_found():
    torch.manual_seed(0)
    # the second dimension is a thousand times as wide: without scaling it alone would decide
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5000.0]])
    latents = (centres[:, None] + torch.randn(3, 200, 2) * torch.tensor([0.1, 100.0])).flatten(0, 1)
    found = cluster_latents(latents, 3)
    order = (found[:, 0] + found[:, 1] / 500).argsort()
    torch.testing.assert_close(
        found[order] / torch.tensor([1, 1000]), centres / torch.tensor([1, 1000]), atol=0.05, rtol=0
    )


def test_same_seed_same_centroids():
    net = BrainPrior(**ARCH).eval()
    first = fit_centroids(net.latent, 16, 400, 4)
    assert first.shape == (4, 16) and torch.equal(first, fit_centroids(net.latent, 16, 400, 4))
    assert not torch.equal(first, fit_centroids(net.latent, 16, 400, 4, seed=1))


@pytest.mark.parametrize("clusters", [None, 3])
def test_centroids_go_into_the_checkpoint(tmp_path, clusters):
    path = prior_file(tmp_path / "prior.pt", num_centroids=5)
    before = load_network(path).state_dict()
    centroids = fit_prior_centroids(path, 300, clusters)
    after = load_network(path)
    assert len(after.centroids) == (clusters or 5) and torch.equal(after.centroids, centroids)
    assert all(torch.equal(value, before[key]) for key, value in after.state_dict().items() if key != "centroids")
    assert [p.name for p in tmp_path.iterdir()] == ["prior.pt"]


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="3 latents cannot be put into 8 clusters"):
        cluster_latents(torch.rand(3, 2))
    with pytest.raises(ValueError, match="not finite"):
        cluster_latents(torch.full((9, 2), torch.nan))
    arch = {"slices": 3, "dim": 8, "depths": [1], "head_width": 4}
    save_checkpoint(tmp_path / "other.pt", SwinRegressor(**arch), {"name": "SwinRegressor", **arch})
    content = (tmp_path / "other.pt").read_bytes()
    with pytest.raises(ValueError, match="SwinRegressor, not a BrainPrior"):
        fit_prior_centroids(tmp_path / "other.pt")
    assert (tmp_path / "other.pt").read_bytes() == content
