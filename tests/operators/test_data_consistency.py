"""Thin slices that give the measured ones: exactly, smoothly, without much noise."""

from __future__ import annotations

import pytest
import torch

from custom_nets.operators.data_consistency import LARGEST_GAIN, TOLERANCE, SliceMeasurement, make_consistent, measure
from custom_nets.operators.slice_profile import degrade

CASES = [
    (factor, profile, thickness)
    for factor in (2.0, 3.3, 5.0, 8.0)
    for profile, thickness in (("gaussian", 1.0), ("gaussian", 0.6), ("gaussian", 1.25), ("box", 1.0), ("box", 0.6))
]


def stack(factor: float, profile: str, thickness: float, slices: int = 9) -> SliceMeasurement:
    rows = int(slices * factor)
    centres = (torch.arange(slices, dtype=torch.float64) + 0.5) * factor - 0.5
    return SliceMeasurement(rows, centres, factor, profile, thickness)


@pytest.mark.parametrize("factor, profile, thickness", CASES)
def test_measured_again_it_gives_what_was_measured(factor, profile, thickness):
    slices = stack(factor, profile, thickness)
    generator = torch.Generator().manual_seed(0)
    measured = torch.rand(9, 7, 5, generator=generator)
    volume = torch.rand(int(9 * factor), 7, 5, generator=generator)
    found = slices.forward(slices.make_consistent(volume, measured))
    assert float((found - measured).abs().max()) < TOLERANCE / 100  # float32, and room for the network's


@pytest.mark.parametrize("factor, profile, thickness", CASES)
def test_the_correction_is_smooth(factor, profile, thickness):
    """A constant residual is corrected by a constant: no stripes, no steps, whatever the gap."""
    slices = stack(factor, profile, thickness)
    volume = torch.zeros(int(9 * factor), 1, 1)
    constant = slices.make_consistent(volume, torch.ones(9, 1, 1))
    torch.testing.assert_close(constant, torch.ones_like(constant), atol=1e-5, rtol=0)
    # one of least norm would be 2 where the slices are and nearly 0 in their gaps
    alternating = slices.make_consistent(volume, torch.tensor([1.0, -1.0] * 5)[:9, None, None])[:, 0, 0]
    largest = alternating.abs().max()
    assert alternating.diff().abs().max() < 4 * largest / factor
    assert slices.gain <= LARGEST_GAIN / 2


def test_what_is_consistent_stays_as_it_is():
    volume = torch.rand(4, 30, 6, generator=torch.Generator().manual_seed(0))
    measured = measure(volume, 6, axis=1)
    torch.testing.assert_close(make_consistent(volume, measured, axis=1), volume, atol=1e-5, rtol=0)


def test_the_measurement_is_the_degradation_of_training():
    volume = torch.rand(4, 5, 33, generator=torch.Generator().manual_seed(0))
    for profile in ("gaussian", "box"):
        wanted = degrade(volume, (4, 5, 10), profile, 0.8)
        torch.testing.assert_close(measure(volume, 10, profile=profile, thickness=0.8), wanted)


@pytest.mark.parametrize("profile, thickness", [("gaussian", 2.0), ("kspace_hann", 1.0)])
def test_what_a_blur_has_all_but_removed_is_corrected_as_far_as_noise_allows(profile, thickness):
    slices = stack(5, profile, thickness)
    assert slices.gain > LARGEST_GAIN and not slices.exact
    grown = torch.linalg.matrix_norm(slices.inverse, 2) / 5**0.5
    assert LARGEST_GAIN / 2 < grown <= LARGEST_GAIN
    smooth = slices.forward(torch.linspace(-1, 1, 45)[:, None, None].square().expand(45, 2, 2))
    volume = slices.make_consistent(torch.zeros(45, 2, 2), smooth, tolerance=1e-4)
    assert float((slices.forward(volume) - smooth).abs().max()) < 1.01e-4
    assert float(volume.abs().max()) < 1.5


def test_an_exact_correction_is_one_step():
    slices = stack(5, "box", 1.0)
    torch.testing.assert_close(slices.matrix @ slices.inverse, torch.eye(9, dtype=torch.float64))
    assert slices.exact
