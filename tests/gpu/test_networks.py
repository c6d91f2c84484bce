"""Every network on the GPU gives what it gives on the CPU, forwards, backwards and compiled."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from tests.gpu.conftest import close, close_in_bfloat16
from tests.networks.test_placement import NETWORKS

FLOAT32 = 1e-4  # share of the range


def made(name: str) -> tuple[nn.Module, list[Any]]:
    """A network whose every layer has a say, and inputs for it, on the CPU."""
    make, arguments, inputs, _ = NETWORKS[name]
    network = make(**arguments).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():  # many a network starts as an interpolation, its last layer at zero
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:  # units of a published ArSSR must not be dead
                parameter += 0.1
        for name, buffer in network.named_buffers():
            if name.endswith("centroids"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    found: list[Any] = []
    for value in inputs():
        if isinstance(value, torch.Tensor):  # between 0.25 and 0.75: right for images, times and places alike
            value = 0.25 + 0.5 * torch.rand(value.shape, generator=generator)
        found.append(value)
    return network, found


def moved(values: list[Any], device: torch.device) -> list[Any]:
    return [value.to(device) if isinstance(value, torch.Tensor) else value for value in values]


@pytest.mark.parametrize("name", NETWORKS)
def test_forward(name, device):
    network, inputs = made(name)
    with torch.no_grad():
        wanted = network(*inputs)
        network.to(device)
        found = network(*moved(inputs, device))
        assert found.device.type == device.type
        close(found, wanted, FLOAT32)
        with torch.autocast(device.type, torch.bfloat16):
            found = network(*moved(inputs, device))
        logits = 1.0 if name == "StyleSwinDiscriminator" else None  # they are about zero, and count beside 1
        # random weights do not calm an error down, as trained ones do
        close_in_bfloat16(found, wanted, 2e-2, logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_backward(name, device):
    network, inputs = made(name)
    other = deepcopy(network).to(device)
    network(*inputs).square().mean().backward()
    other(*moved(inputs, device)).square().mean().backward()
    largest = max(float(p.grad.abs().max()) for p in network.parameters() if p.grad is not None)
    for (key, wanted), found in zip(network.named_parameters(), other.parameters(), strict=True):
        assert (wanted.grad is None) == (found.grad is None), key
        if wanted.grad is not None:
            assert float((found.grad.cpu() - wanted.grad).abs().max()) <= 1e-3 * largest, key


@pytest.mark.parametrize(
    "name", ["ResidualArSSR", "MoStDSA-times", "SymmetricMoStDSA", "AnySizeTransMRSR", "TransMRSR"]
)
def test_compiled_is_eager(name, device):
    if device.type == "cpu":
        pytest.skip("the compiler of a CPU is another one")
    network, inputs = made(name)
    network, inputs = network.to(device), moved(inputs, device)
    with torch.no_grad():
        close(torch.compile(network, dynamic=False)(*inputs), network(*inputs), FLOAT32)
