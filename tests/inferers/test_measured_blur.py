"""Who says how a scan was blurred, in which order, and what people read of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer
from custom_nets.inferers.measured_blur import UNSEEN, BlurOptions, to_measured
from custom_nets.networks import ResidualArSSR
from custom_nets.operators.data_consistency import LARGEST_OVERREACH, VolumeMeasurement, agreement, overreach
from custom_nets.operators.slice_profile import PointSpread, degrade, point_spread_matrix

STACK = Grid((40, 40, 10), np.diag([1.0, 1.0, 5.0, 1.0]))


def noise(shape, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_the_user_speaks_first_then_the_header():
    volume = noise(STACK.shape)
    header = {"acquisition_type": "2D", "slice_thickness_mm": 4.0}
    told = BlurOptions("box").resolve(volume, STACK, header)
    assert told.said_by == "told" and told.spreads[2] == PointSpread("box", 0.8)
    mm = BlurOptions("gaussian", thickness_mm=6.0).resolve(volume, STACK, header)
    assert mm.spreads[2] == PointSpread("gaussian", 1.2) and mm.spreads[0].thickness == 1.0
    read = BlurOptions().resolve(volume, STACK, header)
    assert read.said_by == "header" and read.spreads[2] == PointSpread("trapezoid", 0.8)
    assert read.guessed == (UNSEEN, UNSEEN, None)  # too few slices to judge the others by
    assert "by the header" in read.sentence(STACK.spacing_mm) and "1 x 1 x 4 mm" in read.sentence(STACK.spacing_mm)
    data = BlurOptions().resolve(volume, STACK, {"point_spread": "kspace_tukey:1.0:0.4"})
    assert data.said_by == "told" and data.spreads[2] == PointSpread("kspace_tukey", 1.0, 0.4)


def test_an_mtf_finds_its_kind():
    true = PointSpread("gaussian", 0.9)
    found = BlurOptions(mtf=true.transfer(4.0)).resolve(noise(STACK.shape), STACK, {}).spreads[2]
    assert found.transfer(4.0) == pytest.approx(true.transfer(4.0), abs=0.02)
    assert PointSpread.from_transfer(1.0, 1.0).profile == "kspace"
    assert PointSpread.from_transfer(0.5, 0.05).transfer(4.0) == pytest.approx((0.5, 0.05), abs=0.02)


def test_only_axes_that_are_made_finer_are_told():
    blur = BlurOptions().resolve(noise(STACK.shape), STACK, {"slice_thickness_mm": 5.0})
    assert blur.transfer([1.0, 1.0, 5.0])[:2].tolist() == [[1.0, 1.0]] * 2
    assert blur.transfer([1.0, 1.0, 5.0])[2].tolist() == pytest.approx(PointSpread("trapezoid").transfer(5.0))


def test_axes_that_are_all_alike_are_judged_by_their_spectra_and_rather_too_sharp():
    """A filter is seen in sharp blobs, a crop of k-space loses nothing, and a scan too small to judge is taken so."""
    fine = np.zeros((96, 96, 96))
    for seed, sigma in enumerate((1.0, 2.0, 4.0, 8.0)):
        fine += (gaussian_filter(noise(fine.shape, seed).numpy() - 0.5, sigma, mode="wrap") > 0) * sigma
    cube = Grid((48, 48, 48), np.eye(4))
    soft, sharp = (
        BlurOptions().resolve(degrade(torch.as_tensor(fine).float(), cube.shape, profile), cube, {})
        for profile in ("kspace_hann", "kspace")
    )
    assert sharp.said_by == "image" and None not in sharp.guessed
    assert sharp.transfer([2, 2, 2])[:, 1].min() > 0.8 and soft.transfer([2, 2, 2])[:, 1].max() < 0.3
    said = soft.sentence(cube.spacing_mm)
    assert "judged by the spectra" in said and "1 x 1 x 1 mm" in said
    assert soft.record(cube.spacing_mm)["guessed_deviation_at_nyquist"] == list(soft.guessed)
    small = Grid((20, 20, 20), np.eye(4))
    unknown = BlurOptions().resolve(noise(small.shape), small, {})
    assert unknown.spreads == (PointSpread("kspace"),) * 3 and unknown.guessed == (UNSEEN,) * 3
    assert "too few voxels" in unknown.sentence(small.spacing_mm)


def test_a_scan_that_the_scanner_interpolated_goes_back_to_what_was_measured():
    grid = Grid((64, 64, 20), np.diag([0.5, 0.5, 1.5, 1.0]))
    measured = noise((32, 32, 20))
    centres = (torch.arange(64, dtype=torch.float64) + 0.5) / 2 - 0.5
    finer = torch.linalg.pinv(point_spread_matrix(64, (torch.arange(32) + 0.5) * 2 - 0.5, 2.0, PointSpread("kspace")))
    assert len(centres) == 64
    volume = torch.einsum("ai,bj,ijk->abk", finer.float(), finer.float(), measured)
    meta = {"measured_in_plane_mm": [1.0, 1.0], "acquisition_type": "2D", "slice_thickness_mm": 1.5}
    blur = BlurOptions().resolve(volume, grid, meta)
    assert blur.shares == (0.5, 0.5, 1.0) and "interpolated by the scanner" in blur.sentence(grid.spacing_mm)
    back, coarse = to_measured(volume, grid, blur.shares)
    torch.testing.assert_close(back, measured, atol=1e-4, rtol=0)
    assert coarse.spacing_mm.tolist() == [1.0, 1.0, 1.5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"profile": "sinc"}, "profile must be auto or one of gaussian"),
        ({"profile": "box", "mtf": [1, 1]}, "profile or mtf, not both"),
        ({"mtf": [1, 2, 3]}, "two numbers"),
        ({"mtf": [1.5, 0.2]}, "between 0 and 1"),
        ({"thickness_mm": 0}, "above zero"),
    ],
)
def test_what_cannot_be_is_refused(options, words: str):
    with pytest.raises(ValueError, match=words):
        BlurOptions(**options)


# ---- agreement with what was measured ----


@pytest.mark.parametrize("profile", ["gaussian", "box", "kspace"])
def test_a_volume_is_brought_to_agree(profile: str):
    """Whatever the result was: measured again, it gives the input; and nothing is changed where it does already."""
    fine, shape, scale = (24, 20, 36), (12, 20, 12), (2.0, 1.0, 3.0)
    places = [(np.arange(n) + 0.5) / s - 0.5 for n, s in zip(fine, scale, strict=True)]
    spreads = [PointSpread(profile), None, PointSpread(profile)]
    slices = VolumeMeasurement(places, shape, scale, spreads)
    smooth = torch.nn.functional.avg_pool3d(noise((1, 26, 22, 38)), 3, stride=1)[0]
    measured = degrade(smooth, shape, profile)
    torch.testing.assert_close(slices.forward(smooth), measured, atol=1e-5, rtol=0)
    assert torch.equal(slices.correction(measured - slices.forward(smooth), 1e-4, 20)[0], torch.zeros(shape))
    wrong = smooth + 0.1 * torch.nn.functional.avg_pool3d(noise((1, 26, 22, 38), 1), 3, stride=1)[0]
    rest, left = slices.correction(measured - slices.forward(wrong), 1e-3, 60)
    out = slices.add_interpolated(wrong.clone(), rest)
    assert float((slices.forward(out) - measured).abs().max()) < 1.5e-3
    torch.testing.assert_close(measured - slices.forward(out), left, atol=1e-5, rtol=0)


def test_what_a_filter_has_all_but_removed_is_reached_by_damped_steps():
    fine, shape, scale = (48, 48, 12), (24, 24, 12), (2.0, 2.0, 1.0)
    places = [(np.arange(n) + 0.5) / s - 0.5 for n, s in zip(fine, scale, strict=True)]
    slices = VolumeMeasurement(places, shape, scale, [PointSpread("kspace_hann"), PointSpread("kspace_hann"), None])
    truth = torch.nn.functional.avg_pool3d(noise((1, 50, 50, 14)), 3, stride=1)[0]
    measured = degrade(truth, shape, "kspace_hann")
    missing = measured - slices.forward(slices.add_interpolated(torch.zeros(fine), measured))
    plain, left = slices.correction(missing, 1e-3, 20)
    more, rest = slices.correction(left, 1e-3, 20, damping=0.05)
    assert float(rest.abs().max()) <= 1e-3 < float(left.abs().max())
    again = slices.forward(slices.add_interpolated(torch.zeros(fine), measured + plain + more))
    torch.testing.assert_close(measured - again, rest, atol=1e-5, rtol=0)


def test_a_correction_that_the_measurement_denies_is_not_kept():
    """Sharpened for a blur that was not there, a result measured again is off, and the share says by how much."""
    fine, shape, scale = (24, 24, 24), (12, 12, 12), (2.0, 2.0, 2.0)
    places = [(np.arange(24) + 0.5) / 2 - 0.5] * 3
    smooth = torch.nn.functional.avg_pool3d(noise((1, 28, 28, 28)), 5, stride=1)[0]
    slices = VolumeMeasurement(places, shape, scale, [PointSpread("gaussian")] * 3)
    measured = slices.forward(smooth)
    interpolated = slices.add_interpolated(torch.zeros(fine), measured)
    again = slices.forward_interpolated(measured)
    torch.testing.assert_close(slices.forward(interpolated), again, atol=1e-5, rtol=0)
    assert agreement(measured - again, measured - again) == pytest.approx(1.0)  # all that was missing
    over = again + 4 * (measured - again)
    assert agreement(over - again, measured - again) == pytest.approx(0.25, abs=1e-3)
    assert agreement(again - measured, measured - again) == 0.0


def test_a_blur_that_is_taken_too_wide_is_noticed():
    """It asks for a correction larger than what was added, and far larger than what was missing."""
    one = torch.ones(3)
    assert overreach(2 * one, one, 4 * one) == pytest.approx(1.0) and overreach(one, one, 0 * one) == 0.0
    fine, shape, scale = (48, 12, 12), (16, 12, 12), (3.0, 1.0, 1.0)
    truth = torch.nn.functional.avg_pool3d(noise((1, 50, 14, 14)), 3, stride=1)[0]
    measured = degrade(truth, shape, "gaussian:1.2")
    places = [(np.arange(n) + 0.5) / s - 0.5 for n, s in zip(fine, scale, strict=True)]
    reach = []
    for thickness in (1.2, 1.6):
        slices = VolumeMeasurement(places, shape, scale, [PointSpread("gaussian", thickness), None, None])
        interpolated = slices.add_interpolated(torch.zeros(fine), measured)
        result = interpolated + 0.7 * (truth - interpolated)
        missing = measured - slices.forward(result)
        correction, _ = slices.correction(missing, 1e-3, 20)
        reach.append(overreach(correction, missing, slices.sample(result) - measured))
    assert reach[0] < LARGEST_OVERREACH < reach[1]


@pytest.mark.filterwarnings("ignore:what the network adds", "ignore:the result is not corrected")
def test_weights_say_how_far_a_correction_of_theirs_may_go():
    network = ResidualArSSR(feature_dim=4, num_features=4, growth=4, num_blocks=1, num_layers=1, decoder_width=8).eval()
    image = MetaTensor(noise((1, 1, 12, 12, 12)), affine=torch.eye(4, dtype=torch.float64))
    for bound, applied in ((1e6, True), (-1.0, False)):
        network.largest_overreach = bound
        result = ImplicitVolumeInferer(scale=2, profile="box")(image, network)
        assert json.loads(result.meta["inference"][0])["data_consistency"]["applied"] == applied
