"""SwinRegressor: the contract, and that it differs from AnySizeTransMRSR in nothing but the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from custom_nets.networks import SwinRegressor
from tests.networks.contract import NetContract

ARCH = {"slices": 3, "dim": 8, "depths": (2, 1), "head_width": 4, "ratio": 2}


def small() -> SwinRegressor:
    torch.manual_seed(0)
    net = SwinRegressor(**ARCH)
    nn.init.normal_(net.last.weight, std=0.1)
    return net.eval()


class TestSwinRegressor(NetContract):
    sizes = ((32, 32), (33, 50), (1, 5), (16, 64))
    scriptable = False  # windows of any size

    def make(self) -> nn.Module:
        return small()

    def inputs(self, batch: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        image = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))
        return image, torch.linspace(2.0, 8.0, batch), torch.linspace(-0.4, 0.3, batch)

    def out_shape(self, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (batch, 1, *size)


@torch.no_grad()
def test_factor_and_position_matter():
    net, image = small(), torch.rand(1, 3, 32, 32)
    base = net(image, 4.0, 0.0)
    assert float((net(image, 5.0, 0.0) - base).abs().max()) > 1e-5
    torch.testing.assert_close(net(image, 4.0, 1.0), base, atol=1e-5, rtol=0)
    torch.testing.assert_close(net(image, 4.0), net(image, 4.0, 0.5 / 4 - 0.5))


def test_published_size():
    """1.25 million parameters in the comparison of the paper."""
    assert 1.0e6 < sum(p.numel() for p in SwinRegressor().parameters()) < 1.4e6


def test_another_number_of_planes_is_refused():
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        small()(torch.rand(1, 1, 32, 32))
