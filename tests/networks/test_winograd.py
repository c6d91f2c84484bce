"""The fast way through 3x3x3 convolutions against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.networks import RDN, ResCNN, SRResNet
from custom_nets.networks.layers import winograd


@pytest.fixture(autouse=True)
def plain_tensors():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 15, 20), (32, 12, 12)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_one_convolution(size, layout):
    conv = winograd.SameConv3d(64, 64)
    x = torch.randn(1, 64, *size).contiguous(memory_format=layout)
    assert winograd.suits(x, [conv])
    assert relative(conv(x), F.conv3d(x, conv.weight, conv.bias, padding=1)) < 5e-6


@pytest.mark.parametrize("depth", [16, 17])
def test_dense_block(depth):
    convs = [winograd.SameConv3d(64, 64), winograd.SameConv3d(128, 64)]
    x = torch.randn(1, 64, depth, 16, 16)
    plain = x
    for conv in convs:
        plain = torch.cat([plain, F.conv3d(plain, conv.weight, conv.bias, padding=1).relu()], 1)
    assert relative(winograd.dense_relu(x, convs), plain) < 5e-6


@pytest.mark.parametrize("encoder", [RDN(num_blocks=2), ResCNN(), SRResNet(num_blocks=3)])
def test_encoders(encoder, monkeypatch):
    x = torch.rand(1, 1, 16, 17, 18)
    fast = encoder(x)
    monkeypatch.setattr(winograd, "suits", lambda x, convs: False)
    assert relative(fast, encoder(x)) < 5e-6


def test_changed_weights_are_seen():
    conv = winograd.SameConv3d(64, 64)
    x = torch.randn(1, 64, 16, 16, 16)
    before = conv(x)
    conv.weight.mul_(2)
    assert relative(conv(x) - conv.bias[:, None, None, None], 2 * (before - conv.bias[:, None, None, None])) < 5e-6
    conv.load_state_dict(winograd.SameConv3d(64, 64).state_dict())
    assert relative(conv(x), F.conv3d(x, conv.weight, conv.bias, padding=1)) < 5e-6


def test_only_where_it_is_meant():
    conv = winograd.SameConv3d(64, 64)
    x = torch.randn(1, 64, 16, 16, 16)
    assert not winograd.suits(x.double(), [conv])
    assert not winograd.suits(x.expand(2, -1, -1, -1, -1), [conv])
    assert not winograd.suits(x[..., :4], [conv])
    assert not winograd.suits(x, [winograd.SameConv3d(64, 32)])
    with torch.enable_grad():
        assert not winograd.suits(x, [conv])
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.suits(x, [conv])


def test_gradients_take_the_plain_way():
    with torch.enable_grad():
        conv, reference = winograd.SameConv3d(64, 64), nn.Conv3d(64, 64, 3, padding=1)
        reference.load_state_dict(conv.state_dict())
        x = torch.randn(1, 64, 16, 16, 16)
        conv(x).sum().backward()
        reference(x).sum().backward()
    assert torch.equal(conv.weight.grad, reference.weight.grad)
