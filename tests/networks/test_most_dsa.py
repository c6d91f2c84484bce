"""MoSt-DSA, the published network: the contract, known answers, and what goes in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.checkpoints.published import load_published, main
from custom_nets.networks import MoStDSA
from custom_nets.networks.most_dsa import (
    FlowHead,
    Interpolation,
    _LambdaInteraction,
    centred_padding,
    half_size,
    warp,
)
from tests.networks.contract import NetContract

SMALL = {
    "num_features": 4,
    "num_blocks": 2,
    "num_heads": 2,
    "key_dim": 4,
    "window": 5,
    "motion_dim": 8,
    "mlp_ratio": 2,
    "head_width": 8,
    "refiner_width": 4,
}
TIMES = [0.25, 0.5, 0.8]


def small(in_channels: int = 3, seed: int = 0) -> MoStDSA:
    """Random weights with which flows are some pixels and the result is not saturated."""
    torch.manual_seed(seed)
    net = MoStDSA(in_channels, **SMALL).eval()
    head = net.block[0].get_submodule("conv.2.0")
    nn.init.normal_(head.weight, std=0.3)
    nn.init.normal_(net.unet.conv.weight, std=0.05)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def pair(batch: int, size: tuple[int, ...], channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth frames, values from 0.2 to 0.8."""
    x = torch.rand(2 * batch, channels, 6, 6, generator=torch.Generator().manual_seed(2))
    frames = 0.2 + 0.6 * F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    return frames[:batch], frames[batch:]


class TestMoStDSA(NetContract):
    sizes = ((48, 32), (37, 50), (16, 80), (3, 1))
    scriptable = False  # shapes of the result depend on what goes in
    mode_matters = True  # batch statistics

    def make(self) -> nn.Module:
        return small()

    def inputs(self, batch, size):
        times = torch.tensor([[0.25, 0.5], [1 / 3, 0.9], [0.0, 1.0]])
        return *pair(batch, size), times[:batch]

    def out_shape(self, batch, size):
        return batch, 2, 3, *size


class TestGreyJoined(NetContract):
    """One channel, both frames in one tensor, as MONAI's bundle tools call it."""

    sizes = ((32, 48), (50, 37))
    scriptable = False
    mode_matters = True

    def make(self) -> nn.Module:
        return small(1)

    def inputs(self, batch, size):
        return (torch.cat(pair(batch, size, 1), 1),)

    def out_shape(self, batch, size):
        return batch, 1, *size


# ---- known answers ----


def test_published_size():
    net = MoStDSA()
    assert sum(p.numel() for p in net.parameters()) == 54_117_133
    assert sum(p.numel() for p in net.feature_bone.parameters()) == 3_034_816
    assert sum(p.numel() for p in net.unet.parameters()) == 50_847_939
    assert len(net.state_dict()) == 217


def test_warp_looks_where_the_flow_points():
    image = torch.rand(1, 2, 5, 7)
    flow = torch.zeros(1, 2, 5, 7)
    torch.testing.assert_close(warp(image, flow), image)
    flow[:, 0] = 1  # content moves one pixel to the left, the border is repeated
    torch.testing.assert_close(warp(image, flow)[..., :-1], image[..., 1:])
    torch.testing.assert_close(warp(image, flow)[..., -1], image[..., -1])
    flow[:, 0], flow[:, 1] = 0, -2  # down
    torch.testing.assert_close(warp(image, flow)[..., 2:, :], image[..., :-2, :])
    torch.testing.assert_close(warp(torch.full_like(image, 0.3), 9 * torch.randn(1, 2, 5, 7)), 0.3 + 0 * image)


def test_warp_keeps_its_grid_in_float32():
    image = torch.arange(1024.0).expand(1, 1, 2, 1024) / 1024
    flow = torch.zeros(1, 2, 2, 1024)
    out = warp(image.bfloat16(), flow.bfloat16())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, image.bfloat16())


@pytest.mark.parametrize("size, padding", [((53, 70), [13, 13, 5, 6]), ((33, 31), [0, 1, 15, 16]), ((64, 96), [0] * 4)])
def test_padding(size, padding):
    assert centred_padding(*size, 32) == padding


def test_half_size_is_the_mean_of_four():
    x = torch.rand(1, 1, 4, 6)
    torch.testing.assert_close(half_size(x), F.avg_pool2d(x, 2))


# ---- fast ways against plain ones ----


@torch.no_grad()
def test_position_lambdas_are_the_published_3d_convolution():
    layer = _LambdaInteraction(channels=16, num_heads=2, key_dim=3, window=5, motion_dim=4)
    v = torch.randn(2, 8, 6, 7)
    plain = layer.pos_conv(v[:, None])  # [2B, K, V, h, w]
    expected = plain.permute(0, 3, 4, 1, 2).reshape(2 * 6 * 7, 3, 8)
    torch.testing.assert_close(layer._position_lambdas(v), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_lambda_interaction_is_the_published_formula():
    """Written out with einsum, frame by frame."""
    layer = _LambdaInteraction(channels=16, num_heads=2, key_dim=3, window=5, motion_dim=4).eval()
    x, coordinates = torch.randn(4, 16, 6, 7), torch.randn(1, 2, 6, 7)
    appearance, motion = layer(x, coordinates)
    other = torch.cat([x[2:], x[:2]])
    q = layer.norm_q(layer.to_q(x)).view(4, 2, 3, 42)
    k = layer.to_k(other).flatten(2).softmax(-1)
    v = layer.norm_v(layer.to_v(other))
    lambdas = torch.einsum("bkn,bvn->bkv", k, v.flatten(2))[..., None] + layer.pos_conv(v[:, None]).flatten(3)
    expected = torch.einsum("bhkn,bkvn->bhvn", q, lambdas).reshape(4, 16, 6, 7)
    torch.testing.assert_close(appearance, expected, atol=1e-5, rtol=1e-5)
    e = layer.cor_embed(coordinates)
    seen = torch.einsum("hkn,bkvn->bhvn", e.view(2, 3, 42), lambdas).reshape(4, 16, 6, 7)
    expected = layer.motion_proj(layer.channel_compress(seen) - e)
    torch.testing.assert_close(motion, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_head_is_linear_in_t_where_it_is_taken_to_be():
    """Many times share the parts of the first convolution; one time takes the plain way."""
    torch.manual_seed(0)
    head = FlowHead(in_channels=3, motion_channels=16, feature_channels=32, hidden=8)
    frames, motion, deepest = torch.rand(4, 3, 32, 48), torch.randn(4, 16, 4, 6), torch.randn(4, 32, 4, 6)
    times = torch.tensor([TIMES, [0.0, 0.4, 1.0]])
    together = head(frames, motion, deepest, times).unflatten(0, (2, 3))
    for i in range(3):
        alone = head(frames, motion, deepest, times[:, i : i + 1])
        torch.testing.assert_close(together[:, i], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pixels", [1, 2 * 48 * 32, 4 * 48 * 32, 2**20])
@torch.no_grad()
def test_times_and_pairs_in_any_groups(pixels: int):
    """One by one is the plain way, also the encoder for each time as in the published code."""
    net, (frame0, frame1) = small(), pair(3, (48, 32))
    times = torch.tensor([TIMES, [0.1, 0.2, 0.3], [0.5, 0.6, 1.0]])
    net.pixels_at_once = pixels
    out = net(frame0, frame1, times, details=True)
    for b in range(3):
        for t in range(3):
            alone = net(frame0[b : b + 1], frame1[b : b + 1], float(times[b, t]), details=True)
            for found, wanted in zip(out, alone, strict=True):
                torch.testing.assert_close(found[b, t], wanted[0, 0], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_rotated_average():
    """Also where the padding is not symmetric: the padded frame is turned."""
    net = small()
    for size in ((48, 32), (37, 50)):
        frame0, frame1 = pair(2, size)
        left, right, top, bottom = padding = centred_padding(*size, 1 if size == (48, 32) else 32)
        a, b = (F.pad(x, padding, mode="replicate") for x in (frame0, frame1))
        expected = (net(a, b, TIMES) + net(a.flip(-2, -1), b.flip(-2, -1), TIMES).flip(-2, -1)) / 2
        expected = expected[..., top : top + size[0], left : left + size[1]]
        torch.testing.assert_close(net(frame0, frame1, TIMES, tta=True), expected, atol=1e-5, rtol=1e-5)


# ---- what goes in, what comes out ----


@torch.no_grad()
def test_ways_to_give_times():
    net, (frame0, frame1) = small(), pair(2, (32, 48))
    wanted = net(frame0, frame1, TIMES)
    assert wanted.shape == (2, 3, 3, 32, 48)
    for times in (tuple(TIMES), torch.tensor(TIMES), torch.tensor([TIMES, TIMES]), torch.tensor(TIMES).double()):
        assert torch.equal(net(frame0, frame1, times), wanted)
    assert net(frame0, frame1).shape == net(frame0, frame1, torch.tensor(0.5)).shape == (2, 1, 3, 32, 48)
    assert torch.equal(net(torch.cat([frame0, frame1], 1), timesteps=TIMES), wanted.flatten(1, 2))
    assert torch.equal(net(torch.cat([frame0, frame1], 1)), net(frame0, frame1, 0.5)[:, 0])


@torch.no_grad()
def test_details():
    net, (frame0, frame1) = small(), pair(2, (37, 50))
    out = net(frame0, frame1, TIMES, details=True)
    assert isinstance(out, Interpolation)
    assert [x.shape[2] for x in out] == [3, 3, 4, 1, 3] and all(x.shape[3:] == (37, 50) for x in out)
    assert torch.equal(out.pred, net(frame0, frame1, TIMES))
    torch.testing.assert_close((out.merged + 2 * out.logits.sigmoid() - 1).clamp(0, 1), out.pred)
    assert 0 < out.mask.min() and out.mask.max() < 1 and out.flow.abs().max() > 0.1


@torch.no_grad()
def test_sizes_that_are_padded():
    """Multiples of 16 go in as they are; all else to multiples of 32; the command line pads everything to 32."""
    net = small()
    seen = []
    net.feature_bone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    for size in ((48, 80), (48, 72), (33, 64)):
        net(*pair(1, size))
    net.pad_to = 32
    net(*pair(1, (48, 80)))
    assert seen == [(48, 80), (64, 96), (64, 64), (64, 96)]


def test_the_published_start():
    torch.manual_seed(0)
    net = MoStDSA(**SMALL)
    conv = net.unet.down3.conv2[0]
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.05)
    assert not conv.bias.any()
    assert float(net.feature_bone.block4[0].mlp.fc1.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert net.block[0].conv[0][0].bias.any()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)), r"expected \[B, 3, H, W\], got \(1, 1, 32, 32\)"),
        ((torch.rand(3, 32, 32), torch.rand(3, 32, 32)), r"expected \[B, 3, H, W\], got \(3, 32, 32\)"),
        ((torch.rand(1, 3, 32, 32),), r"expected \[B, 6, H, W\] \(both frames.*got \(1, 3, 32, 32\)"),
        ((torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 48)), r"one shape, got \(1, 3, 32, 32\) and \(1, 3, 32, 48\)"),
        ((torch.zeros(1, 3, 32, 32, dtype=torch.uint8),) * 2, "floating point numbers 0 to 1, got torch.uint8"),
        ((torch.rand(1, 3, 0, 32),) * 2, r"expected \[B, 3, H, W\], got \(1, 3, 0, 32\)"),
        ((*pair(1, (32, 32)), 1.5), r"from 0 \(frame 0\) to 1 \(frame 1\), got \[1.5\]"),
        ((*pair(1, (32, 32)), [0.5, -0.1]), "must lie from 0"),
        ((*pair(1, (32, 32)), float("nan")), "must lie from 0"),
        ((*pair(1, (32, 32)), []), r"got shape \(0,\)"),
        ((*pair(1, (32, 32)), torch.rand(2, 3)), r"\[B, T\] with B = 1, got shape \(2, 3\)"),
        ((*pair(1, (32, 32)), 0.5, True, True), "tta averages two results"),
        ((*pair(1, (32, 32)), 0.5, False, False, 0.4), r"flow_scale 0.4 makes \(12, 12\) of \(32, 32\)"),
    ],
)
@torch.no_grad()
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small()(*arguments)


@pytest.mark.parametrize("wrong", [{"num_heads": 3}, {"num_features": 3}, {"motion_dim": 6}, {"window": 4}])
def test_sizes_that_do_not_fit_together(wrong):
    with pytest.raises(ValueError, match="must be a multiple of 16"):
        MoStDSA(**(SMALL | wrong))


# ---- published weights ----


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_published_weights_with_and_without_prefix(in_channels: int, prefix: str, tmp_path):
    net = small(in_channels)
    state = {prefix + key: value for key, value in net.state_dict().items()}
    state[prefix + "feature_bone.block4.0.attn_mask"] = torch.zeros(4)
    state[prefix + "feature_bone.block4.1.HW"] = torch.zeros(1)
    torch.save(state, tmp_path / "weights.pkl")
    for source in (state, tmp_path / "weights.pkl"):
        loaded = load_published("most_dsa", source)
        assert isinstance(loaded, MoStDSA) and not loaded.training
        assert torch.equal(loaded(*pair(1, (32, 32), in_channels)), net(*pair(1, (32, 32), in_channels)))


def test_published_weights_that_do_not_fit():
    state = dict(small().state_dict())
    state["unet.down9.weight"] = state.pop("unet.down0.conv2.0.bias")
    with pytest.raises(ValueError, match=r"missing keys \(first: unet.down0.conv2.0.bias\).*unet.down9.weight"):
        load_published("most_dsa", state)
    del state["unet.conv.weight"]
    with pytest.raises(ValueError, match="not a MoSt-DSA or GenDSA state dict: unet.conv.weight missing"):
        load_published("most_dsa", state)
    with pytest.raises(ValueError, match="found 0 keys"):
        load_published("most_dsa", {})


def test_the_converter_on_the_command_line(tmp_path, capsys):
    torch.save({f"module.{k}": v for k, v in small().state_dict().items()}, tmp_path / "in.pkl")
    main(["most_dsa", str(tmp_path / "in.pkl"), str(tmp_path / "out.pt")])
    assert "MoStDSA {'in_channels': 3, 'num_features': 4" in capsys.readouterr().out
