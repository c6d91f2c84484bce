"""The blur is found where it can be seen, and not where it cannot: known answers on drawn heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from custom_nets.operators.blur_estimate import compare_axes, measured_share, power_spectrum
from custom_nets.operators.slice_profile import PointSpread, degrade, point_spread_matrix


@pytest.fixture(scope="module")
def head() -> torch.Tensor:
    """Blobs of all sizes, alike along all axes, with sharp edges and a little noise, [96, 96, 96]."""
    random = np.random.RandomState(0)
    image = np.zeros((96, 96, 96))
    for sigma in (1.0, 2.0, 4.0, 8.0):
        image += (ndimage.gaussian_filter(random.randn(96, 96, 96), sigma, mode="wrap") > 0) * sigma
    return torch.as_tensor(image + 0.02 * random.randn(96, 96, 96)).float()


@pytest.mark.parametrize(
    "spread",
    [
        PointSpread("gaussian", 0.7),
        PointSpread("gaussian", 1.2),
        PointSpread("box"),
        PointSpread("trapezoid"),
        PointSpread("kspace"),
        PointSpread("kspace_hann"),
    ],
    ids=str,
)
@pytest.mark.parametrize("axis", [0, 2])
def test_thick_slices_are_compared_with_the_planes(head, spread: PointSpread, axis: int):
    shape = [24 if a == axis else 96 for a in range(3)]
    spacing = [4.0 if a == axis else 1.0 for a in range(3)]
    found = compare_axes(degrade(head, shape, spread), spacing, axis)
    assert found is not None
    # the mean over all that comes into question lies below the sharpest of them
    tolerance = 0.25 if spread.profile == "kspace" else 0.12
    assert found[0].transfer(4.0)[1] == pytest.approx(spread.transfer(4.0)[1], abs=tolerance)
    assert 0 <= found[1] < 0.2


def test_without_a_finer_axis_nothing_is_said(head):
    assert compare_axes(head, [1.0, 1.0, 1.2], 2) is None
    assert compare_axes(head[..., :6], [1.0, 1.0, 4.0], 2) is None


@pytest.mark.parametrize("share", [0.5, 0.65, 0.8])
def test_zero_filling_is_seen(head, share: float):
    matrix = point_spread_matrix(96, torch.arange(96), 1.0, PointSpread("kspace", 1 / share)).float()
    filled = torch.einsum("ij,jkl->ikl", matrix, head)
    assert measured_share(filled, 0) == pytest.approx(share, abs=0.06)
    assert measured_share(filled, 1) == 1.0


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
def test_smooth_is_not_zero_filled(head, sigma: float):
    smooth = torch.as_tensor(ndimage.gaussian_filter(head.numpy(), sigma))
    noise = 0.02 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0))
    assert [measured_share(smooth + noise, axis) for axis in range(3)] == [1.0, 1.0, 1.0]
    assert measured_share(head[:40], 0) == 1.0  # too short to say


def test_power_of_a_wave_lies_at_its_frequency():
    place = (torch.arange(64.0) + 0.5) / 64
    wave = torch.cos(torch.pi * 10 * place)[:, None, None].expand(64, 5, 5)
    power = power_spectrum(wave, 0)
    assert power.argmax() == 10 and power[10] == pytest.approx(power.sum())
