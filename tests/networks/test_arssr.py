"""ArSSR, published and ours: the contract, and known answers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.networks import RDN, ArSSR, ImplicitDecoder, ResCNN, ResidualArSSR, SRResNet
from custom_nets.networks.layers import PointwiseConv3d, RowLinear
from custom_nets.operators.interpolation import (
    apply_separable,
    bspline_coefficients,
    bspline_matrix,
    mirror_pad,
    sample_bspline,
)
from tests.networks.contract import NetContract

ENCODERS = {"RDN": (6_283_460, 5_918_784), "ResCNN": (2_579_588, 2_214_912), "SRResNet": (4_682_052, 4_317_376)}


def alive(net: ArSSR) -> ArSSR:
    """With random weights the output unit is often dead."""
    nn.init.constant_(net.decoder.stage_two[-2].bias, 0.5)
    return net


def small_residual(**kwargs) -> ResidualArSSR:
    """Random weights in the last layer too, which starts at zero."""
    net = ResidualArSSR(**{"feature_dim": 8, "num_features": 6, "growth": 5, "num_blocks": 2, "num_layers": 2} | kwargs)
    nn.init.normal_(net.decoder[-1].weight, std=0.3)
    return net


class PublishedContract(NetContract):
    encoder = ""
    scriptable = False  # forward calls itself with another shape of result

    def make(self) -> nn.Module:
        return alive(ArSSR(self.encoder, feature_dim=8, decoder_depth=4, decoder_width=16))

    def inputs(self, batch, size):
        generator = torch.Generator().manual_seed(2)
        return (
            torch.rand(batch, 1, *size, generator=generator),
            torch.rand(batch, 1024, 3, generator=generator) * 2 - 1,
        )

    def out_shape(self, batch, size):
        return batch, 1024, 1


class TestPublishedRDN(PublishedContract):
    encoder = "RDN"


class TestPublishedResCNN(PublishedContract):
    encoder = "ResCNN"


class TestPublishedSRResNet(PublishedContract):
    encoder = "SRResNet"


class TestResidual(NetContract):
    mode_matters = True  # in eval mode the volume is continued beyond its edge

    def make(self) -> nn.Module:
        return small_residual()

    def inputs(self, batch, size):
        generator = torch.Generator().manual_seed(2)
        return (
            torch.rand(batch, 1, *size, generator=generator),
            torch.rand(batch, 1024, 3, generator=generator) * torch.tensor(size) - 0.5,
            1 + 3 * torch.rand(batch, 3, generator=generator),
        )

    def out_shape(self, batch, size):
        return batch, 1024, 1


class TestResidualWhole(TestResidual):
    """Without positions: the twice finer volume."""

    def inputs(self, batch, size):
        return super().inputs(batch, size)[:1]

    def out_shape(self, batch, size):
        return (batch, 1, *(2 * n for n in size))


@torch.no_grad()
def test_residual_continues_the_volume_beyond_its_edge():
    """In eval mode the correction is that of the mirrored volume; the interpolation is that of the volume itself."""
    net = small_residual()
    image, positions, scale = TestResidual().inputs(1, (6, 7, 8))
    correction = net.eval()(image, positions, scale)[..., 0] - sample_bspline(bspline_coefficients(image), positions)
    larger, moved = mirror_pad(image, net.border), positions + net.border
    expected = net.train()(larger, moved, scale)[..., 0] - sample_bspline(bspline_coefficients(larger), moved)
    torch.testing.assert_close(correction, expected, atol=1e-5, rtol=1e-5)


def test_mirror_pad_repeats_the_edge_voxel():
    line = torch.arange(1.0, 4.0).expand(3, 3, 3)
    assert mirror_pad(line, 2)[2, 2].tolist() == [2, 1, 1, 2, 3, 3, 2]


# ---- published: known answers ----


@pytest.mark.parametrize("encoder", ENCODERS)
def test_numbers_of_parameters(encoder: str):
    net = ArSSR(encoder)
    whole, inner = ENCODERS[encoder]
    assert sum(p.numel() for p in net.parameters()) == whole
    assert sum(p.numel() for p in net.encoder.parameters()) == inner
    assert sum(p.numel() for p in net.decoder.parameters()) == 364_676
    assert not list(net.buffers())


@torch.no_grad()
def test_published_grid_is_its_points():
    torch.manual_seed(0)
    net = alive(ArSSR("ResCNN", feature_dim=4, decoder_depth=4, decoder_width=8))
    image = torch.rand(1, 1, 4, 5, 6)
    out = net(image, scale=2.5)
    assert out.shape == (1, 1, 10, 12, 15)
    coords = torch.tensor([[(2 * i + 1) / n - 1 for i, n in zip((3, 7, 11), (10, 12, 15), strict=True)]])
    torch.testing.assert_close(net(image, coords[None])[0, 0, 0], out[0, 0, 3, 7, 11])
    assert out.min() >= 0


def test_published_axes_are_z_y_x():
    assert ArSSR.axis_order([1.0, 4.0, 2.0]) == (2, 1, 0)


@pytest.mark.parametrize("depth", [0, 2, 3])
def test_a_decoder_of_one_layer_is_refused(depth: int):
    with pytest.raises(ValueError, match=f"at least 4.*got {depth}"):
        ArSSR("ResCNN", decoder_depth=depth)


def test_an_odd_depth_is_rounded_down():
    assert sum(isinstance(m, nn.Linear) for m in ImplicitDecoder(7, depth=5, width=8).modules()) == 4


@pytest.mark.parametrize("name", ["EDSR", "SRResnet", "rdn", ""])
def test_unknown_encoder(name: str):
    with pytest.raises(ValueError, match=f"unknown encoder '{name}', allowed: RDN, ResCNN, SRResNet"):
        ArSSR(name)


@pytest.mark.parametrize("encoder, radius", [(RDN, 28), (ResCNN, 20), (SRResNet, 39)])
def test_receptive_field(encoder, radius: int):
    """Half-width of what an encoder sees, the halo of its tiles."""
    convs = [m for m in encoder().modules() if isinstance(m, nn.Conv3d)]
    assert sum(conv.kernel_size[0] // 2 for conv in convs) == radius


# ---- ours: known answers ----


@torch.no_grad()
def test_residual_starts_as_the_spline():
    image = torch.rand(2, 1, 5, 7, 6)
    out = ResidualArSSR(feature_dim=8, num_features=8, growth=8, num_blocks=1)(image)
    matrices = [bspline_matrix(n, (torch.arange(2 * n) + 0.5) / 2 - 0.5).float() for n in (5, 7, 6)]
    torch.testing.assert_close(out, apply_separable(image, matrices), atol=2e-6, rtol=0)


@torch.no_grad()
def test_residual_keeps_intensities():
    """The interpolation under the correction is linear, so a constant stays as long as the correction is zero."""
    net = ResidualArSSR(feature_dim=8, num_features=8, growth=8, num_blocks=1)
    torch.testing.assert_close(net(torch.full((1, 1, 4, 4, 4), 0.7)), torch.full((1, 1, 8, 8, 8), 0.7))


@torch.no_grad()
def test_residual_is_continuous():
    """Across the centres of voxels, where features change their neighbours, and across their borders."""
    torch.manual_seed(0)
    net = small_residual()
    image = torch.rand(1, 1, 8, 8, 8)
    places = torch.tensor([[3.0, 4.0, 2.0], [3.5, 2.5, 4.5], [1.0, 2.5, 3.7], [0.0, 7.0, 7.49]])
    scale = torch.tensor([[1.0, 2.0, 3.0]])
    eps = 1e-4
    for axis in range(3):
        step = eps * F.one_hot(torch.tensor(axis), 3)
        jump = net(image, (places + step)[None], scale) - net(image, (places - step)[None], scale)
        assert float(jump.abs().max()) < 100 * eps


@torch.no_grad()
def test_residual_does_not_know_where_the_volume_ends():
    """The same surroundings give the same result, far from the faces, in a volume of another size."""
    torch.manual_seed(0)
    net = small_residual(num_blocks=1, num_layers=1)  # sees 5 voxels around
    image = torch.rand(1, 1, 30, 30, 30)
    position = torch.rand(1, 10, 3) * 2 + 14
    scale = torch.full((1, 3), 2.0)
    whole = net(image, position, scale)
    part = net(image[:, :, 2:, 1:-3, 3:].contiguous(), position - torch.tensor([2.0, 1.0, 3.0]), scale)
    torch.testing.assert_close(part, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "scale, order",
    [
        ((1, 1, 4), (0, 1, 2)),
        ((4, 1, 1), (1, 2, 0)),
        ((1, 4, 1), (0, 2, 1)),
        ((2, 2, 2), (0, 1, 2)),
        ((3, 2, 1), (2, 1, 0)),
        ((2.0001, 2, 2), (0, 1, 2)),  # equal but for rounding
    ],
)
def test_residual_axes_are_sorted_by_scale(scale, order):
    assert ResidualArSSR.axis_order(scale) == order


def test_scale_stays_in_the_trained_range():
    net = ResidualArSSR(feature_dim=4, num_features=4, growth=4, num_blocks=1, max_scale=4.0)
    code = net.scale_code(torch.tensor([[0.5, 2.0, 9.0]]))
    assert code.tolist() == [[0.0, 1.0, 2.0]]


@torch.no_grad()
def test_residual_uses_the_scale():
    torch.manual_seed(0)
    net = small_residual()
    image, position = torch.rand(1, 1, 6, 6, 6), torch.full((1, 1, 3), 2.3)
    values = [float(net(image, position, torch.tensor([s]))) for s in ([1.0, 1, 4], [1.0, 4, 1], [2.0, 2, 2])]
    assert len(set(values)) == 3


def test_residual_refuses_a_decoder_without_hidden_layer():
    with pytest.raises(ValueError, match="decoder_depth must be at least 2"):
        ResidualArSSR(decoder_depth=1)


# ---- layers ----


@pytest.mark.parametrize(
    "shape", [(1024, 5), (64, 5), (1000, 5), (2, 4096, 5), (3, 1024, 5), (1, 1, 5), (8192, 5), (0, 5)]
)
@pytest.mark.parametrize("grad", [True, False])
def test_row_linear_is_linear(shape, grad: bool):
    torch.manual_seed(0)
    layer = RowLinear(5, 7)
    x = torch.randn(shape)
    with torch.set_grad_enabled(grad):
        out = layer(x)
    torch.testing.assert_close(out, F.linear(x, layer.weight, layer.bias), atol=1e-6, rtol=1e-5)
    assert out.shape == (*shape[:-1], 7)


@torch.no_grad()
def test_row_linear_of_a_view_and_of_other_types():
    layer = RowLinear(5, 7)
    x = torch.randn(5, 2048).T
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(layer.double()(x.double()), F.linear(x.double(), layer.weight, layer.bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(x.contiguous()).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(4, 16, 16), (3, 5, 7), (16, 8, 8), (1, 1, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@torch.no_grad()
def test_pointwise_convolution_is_a_convolution(size, memory_format):
    torch.manual_seed(0)
    layer = PointwiseConv3d(6, 5)
    for batch in (1, 2):
        x = torch.randn(batch, 6, *size).contiguous(memory_format=memory_format)
        torch.testing.assert_close(layer(x), F.conv3d(x, layer.weight, layer.bias), atol=1e-6, rtol=1e-5)
