"""AnySizeTransMRSR and its prior: the contract, and what their names promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from custom_nets.checkpoints import load_network, save_checkpoint, with_prior
from custom_nets.networks import AnySizeTransMRSR, BrainPrior
from custom_nets.networks.any_size_transmrsr import encode_input
from tests.networks.contract import NetContract

SIZES = {"widths": [8, 16], "style_dim": 16, "head_width": 4}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def small(seed: int = 0, centroids: int = 0, **options) -> AnySizeTransMRSR:
    """Random weights; what starts near zero does not stay there."""
    torch.manual_seed(seed)
    net = AnySizeTransMRSR(3, **SIZES, num_centroids=centroids, **options)
    nn.init.normal_(net.last.weight, std=0.1)
    nn.init.normal_(net.last.bias, std=0.1)
    net.centroids.normal_()
    return net.eval()


class TestAnySizeTransMRSR(NetContract):
    sizes = ((32, 32), (33, 50), (1, 5), (64, 20))
    scriptable = False  # windows of any size

    def make(self) -> nn.Module:
        net = small(centroids=3)
        net.latents[0].weight.data.mul_(3)  # latents that differ between planes
        return net

    def inputs(self, batch: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        return rand(batch, 3, *size), torch.linspace(2.0, 8.0, batch), torch.linspace(-0.4, 0.3, batch)

    def out_shape(self, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (batch, 1, *size)


class TestBrainPrior(NetContract):
    sizes = ((16,),)
    scriptable = False

    def make(self) -> nn.Module:
        return BrainPrior(**SIZES)

    def inputs(self, batch: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.randn(batch, *size, generator=torch.Generator().manual_seed(0)),)

    def out_shape(self, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (batch, 1, 32, 32)


def test_an_untrained_network_changes_little():
    torch.manual_seed(0)
    net, image = AnySizeTransMRSR(3, **SIZES, num_centroids=0).eval(), rand(1, 3, 40, 33)
    with torch.no_grad():
        assert float((net(image) - image[:, 1:2]).abs().max()) < 0.1


@torch.no_grad()
def test_repeated_edges_do_not_change_the_result():
    """What does not fill whole windows is continued by its last row and column: given so, the result is the same."""
    net, image = small(), rand(1, 3, 50, 40)
    wide = torch.cat([image, image[..., -1:].expand(-1, -1, -1, 24)], -1)
    whole = torch.cat([wide, wide[..., -1:, :].expand(-1, -1, 14, -1)], -2)
    assert whole.shape[-2:] == (64, 64)
    torch.testing.assert_close(net(whole, 3.0)[..., :50, :40], net(image, 3.0), atol=1e-6, rtol=0)


@torch.no_grad()
def test_only_the_latents_see_far():
    """A change 150 pixels away comes through the latents alone: with styles that do not matter, not at all."""
    net, image = small(), rand(1, 3, 32, 256)
    for module in net.modules():
        if hasattr(module, "style"):
            nn.init.zeros_(module.style.weight)
    changed = image.clone()
    changed[..., 224:] += 1
    torch.testing.assert_close(net(changed)[..., :64], net(image)[..., :64], atol=1e-6, rtol=0)


# ---- factor and position ----


def test_places_of_the_rows():
    """Rows at the centres of measured slices have sine 0 and cosine 1, those half way between them 0 and -1."""
    x = encode_input(rand(1, 3, 16, 16), 3, 16, 4.0, 0.0)
    assert x.shape == (1, 12 + 5, 8, 8)
    sines, cosines = x[0, 12:14, :, 0].T.flatten(), x[0, 14:16, :, 0].T.flatten()
    angle = 2 * math.pi * torch.arange(16) / 4
    torch.testing.assert_close(sines, angle.sin(), atol=1e-5, rtol=0)
    torch.testing.assert_close(cosines, angle.cos(), atol=1e-5, rtol=0)
    assert float(x[0, -1, 0, 0]) == 0  # log2(4) / 2 - 1


@pytest.mark.parametrize("scale", [2.0, 3.3, 5.0])
def test_the_default_position_is_symmetric(scale):
    """Outer edges of first row and first slice coincide; read backwards, the same holds at the other end."""
    rows = round(8 * scale)
    rows -= rows % 2
    x = encode_input(rand(1, 3, rows, 16), 3, 2, rows / round(rows / scale), None)
    sines, cosines = (x[0, a : a + 2, :, 0].T.flatten() for a in (12, 14))
    torch.testing.assert_close(cosines, cosines.flip(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(sines, -sines.flip(0), atol=1e-4, rtol=0)


@torch.no_grad()
def test_factor_and_position_matter_and_may_differ_in_a_batch():
    net, image = small(), rand(1, 3, 32, 32)
    base = net(image, 4.0, 0.0)
    assert float((net(image, 5.0, 0.0) - base).abs().max()) > 1e-4
    assert float((net(image, 4.0, 0.3) - base).abs().max()) > 1e-4
    torch.testing.assert_close(net(image, 4.0, 1.0), base, atol=1e-5, rtol=0)  # a whole slice on: the same places
    torch.testing.assert_close(net(image, 4.0), net(image, 4.0, 0.5 / 4 - 0.5))
    both = net(image.expand(2, -1, -1, -1), torch.tensor([4.0, 5.0]), 0.0)
    torch.testing.assert_close(both, torch.cat([base, net(image, 5.0, 0.0)]), atol=1e-5, rtol=0)


# ---- truncation ----


def test_latents_are_drawn_to_the_nearest_centroid():
    net = small(centroids=2, truncation=0.75)
    net.centroids[0], net.centroids[1] = 0.0, 1.0
    latents = torch.stack([torch.full((16,), 0.4), torch.full((16,), 0.8), torch.full((16,), 3.0)])[None]
    torch.testing.assert_close(net.truncated(latents)[0, :, 0], torch.tensor([0.3, 0.85, 2.5]))
    assert torch.equal(small().truncated(latents), latents)  # without centroids


@torch.no_grad()
def test_ablations():
    image = rand(1, 3, 32, 32)
    net = small(skip=False)
    assert len(small(multi_resolution=False).condition) == 0
    nn.init.zeros_(net.last.weight)
    nn.init.constant_(net.last.bias, 0.25)
    torch.testing.assert_close(net(image), torch.full((1, 1, 32, 32), 0.25))  # nothing of the input is added
    assert net(image).shape == small(multi_resolution=False)(image).shape


# ---- the prior ----


def prior_file(path, centroids: int = 3, fitted: bool = True, **sizes):
    torch.manual_seed(7)
    arch = {**SIZES, "num_centroids": centroids, **sizes}
    prior = BrainPrior(**arch)
    if fitted:
        prior.centroids.normal_()
    save_checkpoint(path, prior, {"name": "BrainPrior", **arch})
    return prior


def test_prior_is_taken_over(tmp_path):
    prior = prior_file(tmp_path / "prior.pt")
    net = small(centroids=3)
    with pytest.warns(FutureWarning, match="is now custom_nets.checkpoints.priors.with_prior"):
        assert net.with_prior(tmp_path / "prior.pt") is net
    assert with_prior(net, None) is net
    for key, value in prior.synthesis.state_dict().items():
        assert torch.equal(net.generator.state_dict()[key], value)
    assert torch.equal(net.centroids, prior.centroids)
    assert all(p.requires_grad for p in net.parameters())


def test_a_frozen_prior_gets_no_gradient(tmp_path):
    prior_file(tmp_path / "prior.pt", fitted=False)
    net = with_prior(small(), tmp_path / "prior.pt", freeze=True)  # without truncation no centroids are needed
    net(rand(1, 3, 32, 32)).mean().backward()
    assert all(p.grad is None for p in net.generator.parameters())
    assert all(p.grad is not None for name, p in net.named_parameters() if not name.startswith("generator."))


def test_wrong_priors_are_named(tmp_path):
    path = tmp_path / "prior.pt"
    prior_file(path, fitted=False)
    with pytest.raises(ValueError, match="no centroids yet: run fit_centroids.json"):
        with_prior(small(centroids=3), path)
    prior_file(path, centroids=5)
    with pytest.raises(ValueError, match="has 5 centroids, this network takes 3"):
        with_prior(small(centroids=3), path)
    prior_file(path, widths=[8, 8])
    with pytest.raises(ValueError, match="has other sizes"):
        with_prior(small(centroids=3), path)
    save_checkpoint(path, small(), {"name": "AnySizeTransMRSR", "slices": 3, **SIZES, "num_centroids": 0})
    with pytest.raises(ValueError, match="AnySizeTransMRSR, not a BrainPrior"):
        with_prior(small(), path)
    with pytest.raises(ValueError, match=r"name it \(prior\)"):
        with_prior(small(), None, freeze=True)


def test_weights_without_fitted_centroids_are_refused(tmp_path):
    net, arch = small(centroids=3), {"name": "AnySizeTransMRSR", "slices": 3, **SIZES, "num_centroids": 3}
    save_checkpoint(tmp_path / "good.pt", net, arch)
    assert torch.equal(load_network(tmp_path / "good.pt").centroids, net.centroids)
    net.centroids[1, 2] = torch.nan
    save_checkpoint(tmp_path / "bad.pt", net, arch)
    with pytest.raises(ValueError, match="bad.pt cannot be used: its centroids were never fitted"):
        load_network(tmp_path / "bad.pt")
    content = torch.load(tmp_path / "good.pt", weights_only=True)
    del content["model"]["centroids"]
    torch.save(content, tmp_path / "without.pt")
    with pytest.raises(ValueError, match="missing keys.*centroids"):
        load_network(tmp_path / "without.pt")


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="slices must be odd"):
        AnySizeTransMRSR(4)
    with pytest.raises(ValueError, match="multiples of 2 head_width = 8, got 12"):
        AnySizeTransMRSR(3, widths=(8, 12), head_width=4)
    with pytest.raises(ValueError, match="at least 2 levels"):
        AnySizeTransMRSR(3, widths=(8,), head_width=4)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\] \(neighbouring planes\)"):
        small()(rand(1, 5, 32, 32))
