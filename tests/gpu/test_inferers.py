"""Whole volumes and runs through networks on the GPU: the same as on the CPU, and within the memory that was named."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_nets import bundle_root
from custom_nets.checkpoints import load_network
from custom_nets.data.angiography.run import make_run
from custom_nets.inferers import FrameInterpolationInferer, ImplicitVolumeInferer, ThickSliceInferer
from custom_nets.networks import ArSSR
from tests.gpu.conftest import close, close_in_bfloat16
from tests.gpu.test_networks import FLOAT32, made

SIZE = {"cpu": 12, "cuda": 48}
TRAINED = 4e-3  # root mean square error in bfloat16 of the shipped weights; nowhere five times as much


def shipped(bundle: str) -> Any:
    path = Path(bundle_root(bundle)) / "models" / "model.pt"
    if not path.is_file():
        pytest.skip(f"no weights in {path}")
    return load_network(path)


def volume(*shape: int, thick: float = 1.0) -> MetaTensor:
    values = torch.nn.functional.interpolate(torch.rand(1, 1, 5, 5, 5), size=shape, mode="trilinear")
    affine = torch.diag(torch.tensor([1.0, 1.0, thick, 1.0], dtype=torch.float64))
    return MetaTensor(values, affine=affine)


def both(inferer: Any, image: Any, network: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What comes of a network on the device, and of one on the CPU."""
    there = inferer(image, deepcopy(network).to(device))
    return there.as_tensor(), inferer(image, network).as_tensor()


@pytest.mark.parametrize("name", ["ArSSR-RDN", "ResidualArSSR", "arssr"])
@pytest.mark.parametrize("options", [{}, {"slab": 5, "tile": 9}, {"rows": 1000}])
def test_implicit(name, options, device):
    network = shipped(name) if name == "arssr" else made(name)[0]
    image = volume(*(SIZE[device.type] - i for i in range(3)))
    close(*both(ImplicitVolumeInferer(scale=[2, 1.5, 1], **options), image, network, device), FLOAT32)
    if not options:
        wanted = ImplicitVolumeInferer(scale=2)(image, network).as_tensor()
        half = ImplicitVolumeInferer(scale=2, precision="bfloat16")(image, network.to(device)).as_tensor()
        close_in_bfloat16(half, wanted, TRAINED if name == "arssr" else 1e-2)


def test_implicit_on_an_oblique_grid(device):
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    like = MetaTensor(torch.zeros(1, 9, 9, 9), affine=torch.as_tensor(affine))
    image = volume(12, 11, 10)
    close(*both(ImplicitVolumeInferer(like=like), image, made("ResidualArSSR")[0], device), FLOAT32)


@pytest.mark.parametrize("name", ["AnySizeTransMRSR", "SwinRegressor", "transmrsr"])
@pytest.mark.parametrize("options", [{}, {"directions": "both", "flips": True}])
def test_thick_slices(name, options, device):
    network = shipped(name) if name == "transmrsr" else made(name)[0]
    n = SIZE[device.type]
    image = volume(n, n - 2, max(n // 4, 4), thick=4.0)
    close(*both(ThickSliceInferer(**options), image, network, device), FLOAT32)
    if not options:
        wanted = ThickSliceInferer()(image, network).as_tensor()
        half = ThickSliceInferer(precision="bfloat16")(image, network.to(device)).as_tensor()
        close_in_bfloat16(half, wanted, TRAINED if name == "transmrsr" else 1e-2)


@pytest.mark.parametrize("name", ["MoStDSA", "SymmetricMoStDSA", "most_dsa"])
def test_frames(name, device):
    network = shipped(name) if name == "most_dsa" else made(name)[0]
    smooth = torch.nn.functional.interpolate(torch.rand(1, 5, 6, 6), size=(64, 80), mode="bicubic")[0].clamp(0, 1)
    run = make_run((4000 * smooth).numpy().astype(np.uint16), np.array([0, 0.2, 0.5, 0.7, 1.0]))
    wanted = FrameInterpolationInferer(frames_between=3)(run, network).frames.astype(np.float32)
    for precision in ("float32", "bfloat16"):
        inferer = FrameInterpolationInferer(frames_between=3, precision=precision)
        found = inferer(run, deepcopy(network).to(device), device=device).frames.astype(np.float32)
        if precision == "bfloat16":
            share = TRAINED if name == "most_dsa" else 1e-2
            close_in_bfloat16(torch.as_tensor(found), torch.as_tensor(wanted), share)
        else:  # stored values are whole numbers: one may be off
            close(torch.as_tensor(found), torch.as_tensor(wanted), FLOAT32 + 1 / 4000)


@pytest.mark.parametrize("memory_gb", [1.0, 2.0])
def test_memory_budget_is_held(memory_gb, device):
    if device.type == "cpu":
        pytest.skip("what the card holds is asked of the card")
    network = ArSSR("RDN").eval().to(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    ImplicitVolumeInferer(scale=2, memory_gb=memory_gb)(volume(96, 90, 88), network)
    assert torch.cuda.max_memory_allocated(device) / 2**30 <= memory_gb
    light = shipped("transmrsr").to(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    ThickSliceInferer(memory_gb=memory_gb)(volume(160, 160, 30, thick=4.0), light)
    assert torch.cuda.max_memory_allocated(device) / 2**30 <= memory_gb
