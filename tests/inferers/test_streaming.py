"""Streamed a few planes at a time = computed at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.inferers import PlaneStreamer
from custom_nets.networks import RDN, ResCNN, ResidualArSSR, SRResNet


def encoder(name: str) -> nn.Module:
    torch.manual_seed(0)
    return {
        "RDN": lambda: RDN(6, 5, 4, num_blocks=2, num_layers=3),
        "ResCNN": lambda: ResCNN(6, 5),
        "SRResNet": lambda: SRResNet(6, 5, num_blocks=4),
        "residual": lambda: ResidualArSSR(feature_dim=6, num_features=5, growth=4, num_blocks=2).encoder,
    }[name]().eval()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["RDN", "ResCNN", "SRResNet", "residual"])
@torch.no_grad()
def test_streamed_is_whole(name: str, axis: int):
    net = encoder(name)
    channels = next(net.parameters()).shape[1]
    size = [3, 4, 5]
    for length in (1, 2, 3, 29):
        size[axis] = length
        x = torch.rand(1, channels, *size)
        wanted = net(x)
        for slab in (1, 2, 5, 28, 29, 100):
            pieces = list(PlaneStreamer(net, axis)(x, slab))
            assert min(piece.shape[2 + axis] for piece in pieces) > 0
            assert relative(torch.cat(pieces, 2 + axis), wanted) < 2e-5


@torch.no_grad()
def test_every_plane_is_computed_once(monkeypatch):
    """And by every convolution."""
    net = encoder("RDN")
    planes = []
    conv3d = F.conv3d

    def counted(x, weight, *args, **kwargs):
        out = conv3d(x, weight, *args, **kwargs)
        if weight.shape[2] == 3:
            planes.append(out.shape[2])
        return out

    monkeypatch.setattr(F, "conv3d", counted)
    list(PlaneStreamer(net, 0)(torch.rand(1, 1, 40, 3, 3), 4))
    convolutions = sum(isinstance(m, nn.Conv3d) and m.kernel_size[0] == 3 for m in net.modules())
    assert sum(planes) == 40 * convolutions


@torch.no_grad()
def test_slabs_leave_as_soon_as_they_can():
    """The lag is the receptive field, not the volume."""
    net = encoder("RDN")
    radius = sum(m.kernel_size[0] // 2 for m in net.modules() if isinstance(m, nn.Conv3d))
    first = next(iter(PlaneStreamer(net, 0)(torch.rand(1, 1, 60, 2, 2), radius + 1)))
    assert first.shape[2] == 1


@pytest.mark.parametrize("name", ["RDN", "ResCNN", "SRResNet"])
def test_memory_does_not_depend_on_the_length(name: str):
    net = encoder(name)
    streamer = PlaneStreamer(net, 2)
    short, long = (streamer.bytes_per_voxel(1, 4, n) for n in (100, 300))
    # the image itself is held: 4 bytes for each plane more
    assert 0 < long - short <= 4 * 200
    assert streamer.bytes_per_voxel(1, 1, 100) < streamer.bytes_per_voxel(1, 16, 100)


@torch.no_grad()
def test_a_stream_under_autocast_is_finite():
    net = encoder("RDN")
    x = torch.rand(1, 1, 20, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = torch.cat(list(PlaneStreamer(net, 0)(x, 3)), 2).float()
    assert relative(out, net(x)) < 0.05


class Mixed(nn.Module):
    """What else is local: functions, several joins, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv3d(2, 4, 3, padding=1)
        self.b = nn.Conv3d(4, 4, 3, padding=1, groups=2)
        self.c = nn.Conv3d(8, 3, 1)

    def forward(self, x):
        a = F.silu(self.a(x))
        return self.c(torch.cat([a, torch.relu(self.b(a) + a)], 1))


@torch.no_grad()
def test_other_encoders_that_are_local():
    torch.manual_seed(0)
    net, x = Mixed().eval(), torch.rand(1, 2, 4, 13, 3)
    out = torch.cat(list(PlaneStreamer(net, 1)(x, 3)), 3)
    assert relative(out, net(x)) < 2e-5


class Joined(nn.Module):
    def __init__(self, join) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 3, padding=1)
        self.join = join

    def forward(self, x):
        return self.join(self.conv(x), x)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.MaxPool3d(2)),
        nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2)),
        nn.Sequential(nn.Conv3d(1, 2, 3, stride=2, padding=1)),
        nn.Sequential(nn.Conv3d(1, 2, 5, padding=2)),
        nn.Sequential(nn.Conv3d(1, 2, 3, padding=0)),
        nn.Sequential(nn.Conv3d(1, 2, 3, padding=2, dilation=2)),
        nn.Sequential(nn.Conv3d(1, 2, 3, padding=1, padding_mode="replicate")),
        Joined(lambda a, b: a * b),
        Joined(lambda a, b: a + 1),
        Joined(lambda a, b: torch.add(a, b, alpha=2)),
        Joined(lambda a, b: torch.cat([a, b], 2)),
        Joined(lambda a, b: torch.cat([a, b], dim=-1)),
        Joined(lambda a, b: a.mean(2, keepdim=True) + b),
    ],
    ids=range(13),
)
def test_what_is_not_local_is_refused(net: nn.Module):
    with pytest.raises(ValueError, match="cannot stream"):
        PlaneStreamer(net, 0)
