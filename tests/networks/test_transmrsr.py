"""The published TransMRSR: the contract, the plain order of operations, centroids, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.transmrsr import PlainTransMRSR, filled
from custom_nets.networks import TransMRSR, style_swin
from custom_nets.networks.transmrsr import PatchMerging, SwinBlock, drawn_to_centroids, modulated
from tests.networks.contract import NetContract

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"size": 16, "channels": (16, 32, 16), "style_dim": 8}
SHIFTED: dict[str, Any] = {"size": 32, "channels": (16, 32, 32, 16), "style_dim": 8}  # levels with shifted windows


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(**options: Any) -> TransMRSR:
    torch.manual_seed(0)
    net = filled(TransMRSR(**options))
    assert isinstance(net, TransMRSR)
    if "centroids" in net._buffers:
        net.centroids.copy_(2 * rand(*net.centroids.shape, seed=5))
    return net


class TestTransMRSR(NetContract):
    sizes = ((16, 16),)
    scriptable = False  # windows at the edges go another way

    def make(self) -> nn.Module:
        return made(**SMALL, num_centroids=3)

    def inputs(self, batch: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        return (rand(batch, 3, *size),)

    def out_shape(self, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (batch, 3, *size)


# ---- the same as in the plain order ----


@pytest.mark.parametrize(
    "options",
    [
        {"num_centroids": 5, "centroid_rule": "farthest"},
        {"num_centroids": 5, "centroid_rule": "nearest"},
        {"half_modulation": False},
    ],
)
@torch.no_grad()
def test_it_is_the_plain_order(monkeypatch, options: dict[str, Any]):
    net, image = made(**SHIFTED, **options), rand(2, 3, 32, 32)
    wanted = PlainTransMRSR(net.state_dict(), 32, net.centroid_rule)(image)
    assert float((wanted - image).abs().max()) > 0.1
    for values, tokens in ((2**11, 100), (2**16, 2**16)):  # strips of one row of windows, and all of it
        monkeypatch.setattr(style_swin, "VALUES_AT_ONCE", values)
        monkeypatch.setattr(style_swin, "TOKENS_AT_ONCE", tokens)
        torch.testing.assert_close(net(image), wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


def test_gradients_are_those_of_the_plain_order():
    net, image = made(**SHIFTED), rand(1, 3, 32, 32)
    state = {key: value.detach().clone().requires_grad_() for key, value in net.state_dict().items()}
    ways = (net, PlainTransMRSR(state, 32))
    inputs = [image.clone().requires_grad_() for _ in ways]
    for way, x in zip(ways, inputs, strict=True):
        (way(x) - image).square().mean().backward()
    assert inputs[0].grad is not None and inputs[1].grad is not None
    found = {"image": inputs[0].grad, **{key: value.grad for key, value in net.named_parameters()}}
    wanted = {"image": inputs[1].grad, **{key: value.grad for key, value in state.items()}}
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert float(value.abs().max()) > 0, key
        torch.testing.assert_close(
            found[key], value, atol=1e-4 * float(value.abs().max()), rtol=0, msg=lambda m, key=key: f"{key}: {m}"
        )


@torch.no_grad()
def test_memory_order_does_not_matter():
    net = made(**SMALL)
    grey = rand(2, 1, 16, 16)
    wanted = net(grey.repeat(1, 3, 1, 1))
    for image in (
        grey.expand(-1, 3, -1, -1),
        grey.repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last),
        grey.repeat(1, 3, 1, 1).mT.contiguous().mT,
    ):
        kept = image.clone()
        torch.testing.assert_close(net(image), wanted, atol=1e-5, rtol=1e-5)
        assert torch.equal(image, kept)


# ---- parts ----


@torch.no_grad()
def test_shifted_windows_do_not_see_across_the_edges():
    """A token changes what shares its window, and nothing at the opposite edge."""
    torch.manual_seed(0)
    block = filled(SwinBlock(8, 2, 4))
    x = rand(1, 24, 16, 8)
    changed = x.clone()
    changed[0, 0, 0] = rand(8, seed=1)
    moved = (block(changed) - block(x))[0].abs().amax(-1) > 1e-6
    wanted = torch.zeros(24, 16, dtype=torch.bool)
    wanted[:4, :4] = True  # the corner is a window of its own
    assert torch.equal(moved, wanted)
    changed = x.clone()
    changed[0, 9, 9] = rand(8, seed=1)
    moved = (block(changed) - block(x))[0].abs().amax(-1) > 1e-6
    wanted = torch.zeros(24, 16, dtype=torch.bool)
    wanted[4:12, 4:12] = True
    assert torch.equal(moved, wanted)
    with pytest.raises(ValueError, match="3 heads do not divide 8 channels"):
        SwinBlock(8, 3, 0)


def test_four_tokens_become_one_column_by_column():
    layer = PatchMerging(1, 4)
    nn.init.eye_(layer.reduction.weight)
    layer.norm = nn.Identity()  # type: ignore[assignment]
    x = torch.arange(16.0).view(1, 4, 4, 1)
    assert layer(x)[0, 0, 1].tolist() == [2, 6, 3, 7] and layer(x).shape == (1, 2, 2, 4)


def test_modulation_leaves_the_other_channels():
    x, scale, shift = rand(2, 3, 5, 8), rand(2, 4, 3, 5, seed=1), rand(2, 4, 3, 5, seed=2)
    y = modulated(x, scale, shift)
    torch.testing.assert_close(y[..., :4], x[..., :4] * scale.permute(0, 2, 3, 1) + shift.permute(0, 2, 3, 1))
    assert torch.equal(y[..., 4:], x[..., 4:])


# ---- centroids ----


def test_nearest_and_farthest_centroid():
    latents = torch.tensor([[[1.0, 0.0], [-3.0, 0.0]]])
    centroids = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 0.5]])
    out, index = drawn_to_centroids(latents, centroids, "nearest", 0.9)
    assert index.tolist() == [[0, 1]]
    torch.testing.assert_close(out, torch.tensor([[[1.1, 0.0], [-2.9, 0.0]]]))
    out, index = drawn_to_centroids(latents, centroids, "farthest", 0.5)
    assert index.tolist() == [[1, 0]]
    torch.testing.assert_close(out, torch.tensor([[[-0.5, 0.0], [-0.5, 0.0]]]))


@torch.no_grad()
def test_truncation_of_the_network():
    image = rand(1, 3, 16, 16)
    net = made(**SMALL, num_centroids=3)
    plain = made(**SMALL)
    plain.load_state_dict({key: value for key, value in net.state_dict().items() if key != "centroids"})
    near = net(image)
    net.centroid_rule = "farthest"
    assert float((net(image) - near).abs().max()) > 1e-3
    net.truncation = 1.0  # all of the distance is kept
    torch.testing.assert_close(net(image), plain(image), atol=1e-5, rtol=1e-5)
    net.truncation = 0.0  # styles are centroids: the last level's do not matter
    net.centroids[:] = net.centroids[:1].clone()
    net.final_layers.bias.normal_()
    torch.testing.assert_close(net._styles(rand(2, 4, 4, 16)), net.centroids[:1].expand(2, 6, -1))


def test_centroids_that_were_never_set_are_refused():
    net = TransMRSR(**SMALL, num_centroids=3).eval()
    with pytest.raises(ValueError, match="the centroids were never set"):
        net(rand(1, 3, 16, 16))


# ---- what is refused ----


@pytest.mark.parametrize("size", [0, 8, 24, 100, 255])
def test_sizes_that_are_no_power_of_two_are_refused(size: int):
    with pytest.raises(ValueError, match=f"size must be a power of two from 16 on, got {size}"):
        TransMRSR(size)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 4096}, "size must be at most 2048, got 4096"),
        ({"centroid_rule": "middle"}, "centroid_rule must be one of nearest, farthest, got 'middle'"),
        ({"channels": (16, 16)}, "size 16 has 3 widths from 4x4 on, got 2"),
        ({"channels": (16, 16, 8)}, "16 heads do not divide 8 channels"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        TransMRSR(**{**SMALL, **options})


def test_other_planes_are_refused():
    net = made(**SMALL)
    for shape in ((1, 3, 16, 32), (1, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(ValueError, match=r"expected planes \[B, 3, 16, 16\]"):
            net(torch.zeros(shape))
    with pytest.raises(ValueError, match="floating point numbers, got torch.uint8"):
        net(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
