"""StyleSwin's generator and discriminator: the contract, windows in strips, wavelets, norms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.transmrsr import _joined, _shift_masks, _windows
from custom_nets.networks import style_swin
from custom_nets.networks.style_swin import (
    AdaIN,
    PixelNorm,
    SpectralLinear,
    StyleSwinBlock,
    StyleSwinDiscriminator,
    StyleSwinGenerator,
    Upsampler,
    as_map,
    as_tokens,
    attend,
    channels_at,
    enlarge,
    haar,
    inverse_haar,
    map_windows,
    reduce,
    with_group_deviation,
)
from tests.networks.contract import NetContract

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTHS = (16, 32, 8)  # of a generator of 16 x 16, the least with shifted windows


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(net: nn.Module) -> nn.Module:
    """What starts at zero does not stay there."""
    for key, value in net.named_parameters():
        if key.endswith(("bias", "alpha", "bias_table")):
            nn.init.normal_(value, std=0.3)
        elif key.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight", "reduction.weight")):
            nn.init.normal_(value, std=0.7 / math.sqrt(value.shape[1]))
    return net.eval()


class TestStyleSwinGenerator(NetContract):
    sizes = ((16,),)
    scriptable = False  # half of the windows go another way

    def make(self) -> nn.Module:
        return stirred(StyleSwinGenerator(16, style_dim=16, mapping_layers=2, image_channels=1, channels=WIDTHS))

    def inputs(self, batch: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        return (rand(batch, *size),)

    def out_shape(self, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (batch, 1, 16, 16)


class TestStyleSwinDiscriminator(NetContract):
    sizes = ((16, 16),)
    scriptable = False

    def make(self) -> nn.Module:
        return stirred(StyleSwinDiscriminator(16, image_channels=1, channels=(8, 16)))

    def inputs(self, batch: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        return (rand(batch, 1, *size),)

    def out_shape(self, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (batch, 1)

    @torch.no_grad()
    def test_a_batch_is_its_items(self, net: nn.Module):
        """It is its groups of four, each with every second item here: a group is judged together."""
        (images,) = self.inputs(8, self.sizes[0])
        out = net(images)
        torch.testing.assert_close(out[::2], net(images[::2]))
        torch.testing.assert_close(out[1::2], net(images[1::2]))
        assert float((net(images[:1]) - out[:1]).abs()) > 1e-4
        with pytest.raises(ValueError, match="the batch must be a multiple of 4 .* got 6"):
            net(images[:6])


class TestSpectralDiscriminator(TestStyleSwinDiscriminator):
    mode_matters = True  # singular values are followed in training

    def make(self) -> nn.Module:
        return stirred(StyleSwinDiscriminator(16, image_channels=1, channels=(8, 16), spectral_norm=True))


# ---- windows ----


def attention_of_all_windows(x: torch.Tensor, bias: torch.Tensor, window: int, shift: int) -> torch.Tensor:
    """The published order: roll the map, cut all windows, mask each, join, roll back. x: [B, H, W, 3C]."""
    _, h, w, c = x.shape
    heads = len(bias)
    cut = _windows(x.roll((-shift, -shift), (1, 2)), window)
    q, k, v = cut.view(*cut.shape[:2], 3, heads, c // 3 // heads).permute(2, 0, 3, 1, 4)
    logits = 0.3 * q @ k.transpose(-2, -1) + bias
    if shift:
        masks = _shift_masks(h, w, window, shift)
        logits = logits + masks.repeat(len(x), 1, 1)[:, None]
    out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(*cut.shape[:2], c // 3)
    return _joined(out, window, h, w).roll((shift, shift), (1, 2))


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("size", [(16, 16), (8, 24), (40, 8), (32, 24)])
def test_windows_in_strips_are_all_windows(monkeypatch, size: tuple[int, int], shift: int):
    """Whatever is worked on together, with gradients (all at once) and without (strips)."""
    x, bias = rand(2, *size, 24), rand(2, 64, 64, seed=1)
    wanted = attention_of_all_windows(x, bias, 8, shift)

    def attention(windows: torch.Tensor, last_row: bool, last_column: int) -> torch.Tensor:
        return attend(windows, bias, 0.3, shift, last_row, last_column)

    torch.testing.assert_close(map_windows(x, 8, shift, attention), wanted, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for at_once in (1, 2 * 8 * size[1], 3 * 2 * 8 * size[1], 10**6):
            monkeypatch.setattr(style_swin, "VALUES_AT_ONCE", at_once * x.shape[-1])
            torch.testing.assert_close(map_windows(x, 8, shift, attention), wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_come_back_to_their_places(monkeypatch):
    monkeypatch.setattr(style_swin, "VALUES_AT_ONCE", 1)
    x = rand(2, 24, 16, 3)
    for shift in (0, 2, 4):
        assert torch.equal(map_windows(x, 8, shift, lambda windows, last_row, last_column: windows), x)


@pytest.mark.parametrize("size", [(16, 16), (8, 8)])
@torch.no_grad()
def test_strips_and_memory_order_do_not_change_a_block(monkeypatch, size: tuple[int, int]):
    """Also of tokens that are a map's, seen otherwise; and the block leaves its input alone."""
    torch.manual_seed(0)
    block = stirred(StyleSwinBlock(16, 4, 12, 8))
    x, style = rand(2, *size, 16), rand(2, 12)
    with torch.enable_grad():
        wanted = block(x, style).detach()
    seen_otherwise = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    part = torch.cat([x, x], -1)[..., :16]
    assert not seen_otherwise.is_contiguous() and not part.is_contiguous()
    kept = x.clone()
    for at_once in (16 * 64, 16 * 2048):
        monkeypatch.setattr(style_swin, "VALUES_AT_ONCE", at_once)
        for tokens in (x, seen_otherwise, part):
            torch.testing.assert_close(block(tokens, style), wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(x, kept) and torch.equal(seen_otherwise, kept) and torch.equal(part, kept)


def test_maps_and_tokens_share_memory():
    tokens = rand(2, 4, 6, 3)
    image = as_map(tokens)
    assert image.shape == (2, 3, 4, 6) and image.is_contiguous(memory_format=torch.channels_last)
    assert as_tokens(image).data_ptr() == tokens.data_ptr() and torch.equal(as_tokens(image), tokens)


# ---- norms and styles ----


def test_adain_sets_mean_and_deviation():
    torch.manual_seed(0)
    norm, x, style = AdaIN(6, 5), 3 * rand(2, 8, 12, 6) + 7, rand(2, 5)
    y = norm(x, style)
    gamma, beta = norm.style(style).chunk(2, -1)
    torch.testing.assert_close(y.mean((1, 2)), beta, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y.std((1, 2), correction=0), gamma.abs(), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        flat = norm(torch.full((1, 4, 4, 6), 2.5), style[:1])  # nothing to divide by
    torch.testing.assert_close(flat, beta[:1, None, None].expand_as(flat), atol=1e-3, rtol=0)
    assert norm(x.bfloat16(), style).dtype == torch.float32


def test_pixel_norm():
    torch.testing.assert_close(PixelNorm()(rand(3, 50)).square().mean(1), torch.ones(3))


def test_singular_values_are_followed_in_training_alone():
    torch.manual_seed(0)
    layer, x = SpectralLinear(7, 5), rand(2, 7)
    for _ in range(100):
        layer(x)
    assert float(torch.linalg.matrix_norm(layer.weight().detach(), 2)) == pytest.approx(1, abs=1e-4)
    before = layer.weight_u.clone()
    layer.eval()(x)
    assert torch.equal(layer.weight_u, before)
    layer.train()
    (layer(x).sum() - layer(2 * x).sum()).backward()  # two passes before one gradient, as in a discriminator's step
    assert layer.weight_orig.grad is not None and bool(layer.weight_orig.grad.isfinite().all())


def test_styles_of_each_block():
    net = TestStyleSwinGenerator().make()
    z = rand(2, 16)
    with torch.no_grad():
        w = net.map(z)
        image = net(z)
        torch.testing.assert_close(net.synthesise(w), image)
        each = w[:, None].repeat(1, 6, 1)
        torch.testing.assert_close(net.synthesise(each), image)
        each[:, -1] = w.flip(0)
        assert float((net.synthesise(each) - image).abs().max()) > 1e-3
        mean = w.mean(0, keepdim=True)
        torch.testing.assert_close(net(z, 0.0, mean), net.synthesise(mean).expand_as(image), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(net(z, 0.5, mean), net.synthesise(mean + 0.5 * (w - mean)), atol=1e-5, rtol=1e-5)
    for call, words in (
        (lambda: net(rand(2, 15)), r"expected noise \[B, 16\], got \(2, 15\)"),
        (lambda: net(rand(16)), "expected noise"),
        (lambda: net.synthesise(rand(2, 5, 16)), r"expected styles \[B, 16\] or \[B, 6, 16\]"),
        (lambda: net(z, 0.7), "truncation needs truncation_latent"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# ---- wavelets and smoothing ----


def test_wavelets():
    x = rand(2, 3, 8, 12)
    bands = haar(x)
    assert bands.shape == (2, 12, 4, 6)
    torch.testing.assert_close(inverse_haar(bands), x)
    torch.testing.assert_close(bands.square().sum(), x.square().sum())
    torch.testing.assert_close(bands[:, :3], 2 * F.avg_pool2d(x, 2))
    along_rows = torch.tensor([1.0, -1]).repeat(4)[None, None, :, None].expand(1, 1, 8, 8)  # differs from row to row
    assert [float(b.abs().max()) for b in haar(along_rows)[0]] == [0, 2, 0, 0]
    assert [float(b.abs().max()) for b in haar(along_rows.mT)[0]] == [0, 0, 2, 0]


def test_smoothing_keeps_what_is_constant():
    x = torch.full((1, 2, 8, 8), 3.0)
    assert enlarge(x).shape == (1, 2, 16, 16) and reduce(x).shape == (1, 2, 4, 4)
    torch.testing.assert_close(enlarge(x)[..., 1:-1, 1:-1], torch.full((1, 2, 14, 14), 3.0))
    torch.testing.assert_close(reduce(x)[..., 1:-1, 1:-1], torch.full((1, 2, 2, 2), 3.0))


def test_variety_of_a_group():
    x = rand(8, 2, 3, 3)
    out = with_group_deviation(x)
    assert out.shape == (8, 3, 3, 3) and torch.equal(out[:, :2], x)
    for group in (slice(0, 8, 2), slice(1, 8, 2)):
        wanted = (x[group].var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[group, 2], wanted.expand(4, 3, 3))
    assert float(with_group_deviation(x[:1])[0, 2].max()) == pytest.approx(1e-4)  # one image has no variety
    assert float(with_group_deviation(x[:1].expand(4, -1, -1, -1))[:, 2].max()) == pytest.approx(1e-4)


# ---- sizes ----


def test_published_widths():
    assert [channels_at(2**i) for i in range(2, 9)] == [512, 512, 512, 512, 256, 128, 64]
    assert [channels_at(2**i, 2) for i in range(2, 9)] == [512, 512, 512, 512, 512, 256, 128]


@pytest.mark.parametrize("size", [0, 4, 24, 100, 255])
def test_sizes_that_are_no_power_of_two_are_refused(size: int):
    with pytest.raises(ValueError, match=f"size must be a power of two from 8 on, got {size}"):
        StyleSwinGenerator(size)
    with pytest.raises(ValueError, match=f"size must be a power of two from 16 on, got {size}"):
        StyleSwinDiscriminator(size)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="size 32 has 4 levels, got 3 channels"):
        StyleSwinGenerator(32, 8, channels=(16, 16, 16))
    with pytest.raises(ValueError, match="size 32 has 3 branches, got 2 channels"):
        StyleSwinDiscriminator(32, channels=(16, 16))
    with pytest.raises(ValueError, match=r"heads \(3\) must be even and divide the channels \(12\)"):
        StyleSwinBlock(12, 3, 8, 8)
    with pytest.raises(ValueError, match="a multiple of 4 channels, got 6"):
        Upsampler(8, 6)
    net = StyleSwinDiscriminator(16, image_channels=1, channels=(8, 16))
    for shape in ((2, 3, 16, 16), (2, 1, 32, 32), (1, 16, 16)):
        with pytest.raises(ValueError, match=r"expected images \[B, 1, 16, 16\]"):
            net(torch.zeros(shape))
