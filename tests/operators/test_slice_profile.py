"""The point spread: its matrices against its formula, its description, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from custom_nets.operators.slice_profile import PROFILES, PointSpread, degrade, point_spread_matrix

SPREADS = [
    PointSpread("gaussian", 0.7),
    PointSpread("gaussian", 1.2),
    PointSpread("box", 1.0),
    PointSpread("box", 0.8),
    PointSpread("trapezoid", 1.0, 0.5),
    PointSpread("kspace_hann"),
    PointSpread("kspace_hamming"),
    PointSpread("kspace_tukey", 1.0, 0.4),
    PointSpread("kspace_hann", 1.3),
]


@pytest.mark.parametrize("spread", SPREADS, ids=lambda s: f"{s.profile}-{s.thickness}")
@pytest.mark.parametrize("scale", [2.0, 4.0, 5.5])
def test_matrix_passes_waves_as_the_response_says(spread: PointSpread, scale: float):
    """The Fourier transform of a row, far from the ends, is the transfer at each frequency of the measured band."""
    n, centre = 240, 120.5 if scale % 2 == 0 else 120.0
    row = point_spread_matrix(n, torch.tensor([centre]), scale, spread)[0].numpy()
    frequency = np.linspace(0.02, 0.95, 24) / (2 * scale)
    waves = np.exp(-2j * np.pi * frequency[:, None] * (np.arange(n) - centre))
    # a box that ends inside of a voxel takes its share as if it were flat: the narrower, the more that is
    blocky = 0.25 / scale if spread.profile in ("box", "trapezoid") else 0.012
    np.testing.assert_allclose(waves @ row, spread.response(frequency, scale), atol=blocky)
    assert row.sum() == pytest.approx(1.0)


def test_a_crop_of_kspace_keeps_what_it_measures_and_nothing_else():
    """Waves that fit the mirrored axis: those below the new Nyquist frequency stay, those above are gone."""
    n, m = 60, 20
    centres = (torch.arange(m, dtype=torch.float64) + 0.5) * 3 - 0.5
    matrix = point_spread_matrix(n, centres, 3.0, PointSpread("kspace"))
    place = torch.arange(n, dtype=torch.float64) + 0.5
    for order in (0, 1, 7, 19, 21, 40, 59):
        found = matrix @ torch.cos(torch.pi * order * place / n)
        wanted = torch.cos(torch.pi * order * (centres + 0.5) / n) * (order < m)
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


def test_a_trapezoid_lies_between_box_and_triangle():
    centres = torch.tensor([30.2])
    box = point_spread_matrix(61, centres, 5.0, PointSpread("box"))
    torch.testing.assert_close(point_spread_matrix(61, centres, 5.0, PointSpread("trapezoid", 1.0, 0.0)), box)
    torch.testing.assert_close(
        point_spread_matrix(61, centres, 5.0, PointSpread("trapezoid", 1.0, 1e-3)), box, atol=1e-3, rtol=0
    )
    triangle = point_spread_matrix(61, torch.tensor([30.0]), 5.0, PointSpread("trapezoid", 1.0, 1.0))[0]
    distance = torch.arange(61, dtype=torch.float64) - 30
    wanted = (5 - distance.abs()).clamp(min=0) / 25  # the mean over a voxel of a triangle is its middle, but at the tip
    torch.testing.assert_close(triangle, wanted, atol=0.011, rtol=0)


@pytest.mark.parametrize("profile", PROFILES)
def test_constants_stay_and_scale_one_is_nothing(profile: str):
    ones = torch.ones(1, 24, 20, 30, dtype=torch.float64)
    torch.testing.assert_close(degrade(ones, (8, 20, 7), profile), torch.ones(1, 8, 20, 7, dtype=torch.float64))
    matrix = point_spread_matrix(9, torch.arange(9), 1.0, PointSpread(profile))
    torch.testing.assert_close(matrix, torch.eye(9).double())
    assert PointSpread(profile).transfer(1.0) == (1.0, 1.0)


def test_every_kind_has_a_description_of_its_own():
    """Half and whole Nyquist tell kinds apart, and say which is sharper; a gap is sharper than none."""
    told = {name: PointSpread(name).transfer(4.0) for name in PROFILES}
    assert told["kspace"] == (1.0, 1.0) and told["kspace_hann"] == pytest.approx((0.5, 0.05), abs=0.01)
    assert told["gaussian"] == pytest.approx((0.81, 0.53), abs=0.01)
    assert told["box"] == pytest.approx((0.90, 0.73), abs=0.01)
    assert told["box"][1] > told["trapezoid"][1] > told["gaussian"][1] > told["kspace_tukey"][1]
    sharper = [PointSpread("gaussian", t).transfer(4.0)[1] for t in (0.6, 0.8, 1.0, 1.2)]
    assert sharper == sorted(sharper, reverse=True)
    # a filter that is nearly none is described nearly as none
    slight = PointSpread("kspace_tukey", 1.0, 0.05).transfer(4.0)
    assert slight == pytest.approx((1.0, 1.0), abs=0.12)


def test_wider_keeps_the_profile_and_a_crop_of_kspace_possible():
    assert PointSpread("trapezoid", 1.0, 0.5).wider(1.3) == PointSpread("trapezoid", 1.3, 0.5)
    assert PointSpread("kspace_hann").wider(0.7) == PointSpread("kspace_hann")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sinc",), "profile must be one of gaussian, box, trapezoid, kspace"),
        (("box", 0.0), "above zero"),
        (("kspace", 0.9), "at least 1"),
        (("box", 1.0, 0.3), "for trapezoid and kspace_tukey only"),
        (("trapezoid", 1.0, 1.5), "within"),
    ],
)
def test_nonsense_is_refused(arguments, words: str):
    with pytest.raises(ValueError, match=words):
        PointSpread(*arguments)
