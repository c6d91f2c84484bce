"""Metrics of reconstructions against known answers."""

from __future__ import annotations

import numpy as np
import pytest

from custom_nets.metrics.reconstruction import (
    arrival_error,
    best_threshold,
    centreline_dice,
    dice,
    error_4d,
    surface_distances,
    vessel_scores,
    view_scores,
)


def tube(radius: float, shape=(24, 24, 24), gap: slice | None = None) -> np.ndarray:
    """A straight vessel along z with a soft edge; its wall is where it is 0.5."""
    x, y, _ = np.indices(shape) - 11.5
    cover = np.clip((radius - np.hypot(x, y)) / 3 + 0.5, 0, 1)
    cover[:, :, :3] = cover[:, :, -3:] = 0
    if gap is not None:
        cover[:, :, gap] = 0
    return cover


def test_error_of_known_answers():
    truth = np.random.default_rng(0).random((3, 4, 5, 6)).astype(np.float32)
    assert error_4d(truth, truth) == 0
    assert error_4d(np.zeros_like(truth), truth) == 1
    assert error_4d(1.25 * truth, truth) == pytest.approx(0.25, rel=1e-5)
    still = np.broadcast_to(truth.mean(0), truth.shape)  # the best still answer: what is left is the change in time
    assert error_4d(still, truth) == pytest.approx(np.sqrt(((truth - still) ** 2).sum() / (truth**2).sum()), rel=1e-6)
    with pytest.raises(ValueError, match="one shape"):
        error_4d(truth[:, :2], truth)
    with pytest.raises(ValueError, match="longer"):
        error_4d(truth[:2], truth)
    assert error_4d((v for v in truth), (v for v in truth)) == 0
    with pytest.raises(ValueError, match="empty at all times"):
        error_4d(truth, 0 * truth)


def test_dice_and_its_best_threshold():
    truth = tube(3) >= 0.5
    assert dice(truth, truth) == 1 and dice(~truth, truth) == 0 and dice(truth & False, truth & False) == 1
    wide = tube(4) >= 0.5
    assert dice(wide, truth) == pytest.approx(2 * truth.sum() / (truth.sum() + wide.sum()))
    # of any scale, the volume is as good as its shape
    for scale in (0.01, 7.0):
        threshold, score = best_threshold(scale * tube(3), truth)
        assert score > 0.99 and 0.3 * scale < threshold < 0.7 * scale
    assert best_threshold(np.zeros(truth.shape), truth) == (0, 0)
    with pytest.raises(ValueError, match="no vessel to find"):
        best_threshold(tube(3), truth & False)


def test_the_best_threshold_is_the_best_of_a_plain_search():
    rng = np.random.default_rng(1)
    truth = tube(2) >= 0.5
    volume = tube(2) + rng.normal(0, 0.3, truth.shape)
    threshold, score = best_threshold(volume, truth)
    plain = [dice(volume >= level, truth) for level in volume.max() * np.arange(1, 64) / 64]
    assert score == pytest.approx(max(plain)) == pytest.approx(dice(volume >= threshold, truth))


def test_a_broken_vessel_costs_the_centreline_and_a_wide_one_does_not():
    truth = tube(2) >= 0.5
    assert centreline_dice(truth, truth) == 1
    assert centreline_dice(tube(4) >= 0.5, truth) > 0.85 > dice(tube(4) >= 0.5, truth)
    half = centreline_dice(tube(2, gap=slice(12, 24)) >= 0.5, truth)
    assert half == pytest.approx(2 / 3, abs=0.05)  # all of it is right, half of it is there
    assert centreline_dice(truth & False, truth) == 0 and centreline_dice(truth & False, truth & False) == 1


def test_distances_of_shifted_points():
    points = np.random.default_rng(0).uniform(0, 1000, (300, 3))
    chamfer, hd95 = surface_distances(points + [0.3, 0, 0], points)
    assert chamfer == pytest.approx(0.6) and hd95 == pytest.approx(0.3)
    far = np.concatenate([points, [[5000.0, 0, 0]] * 30])  # a tenth is an invention
    chamfer, hd95 = surface_distances(far, points)
    assert hd95 > 3000 and chamfer == pytest.approx(np.mean([0] * 300 + [4000] * 30), rel=0.2)
    assert surface_distances(points[:0], points) == (np.inf, np.inf)


def test_shape_scores_are_in_mm():
    coverage = tube(3)
    perfect = vessel_scores(0.02 * coverage, coverage, 0.5, (1.0, 1.0, 1.0))
    assert perfect["dice"] > 0.99 and perfect["centreline_dice"] == 1
    assert perfect["chamfer_mm"] < 0.6 and perfect["hd95_mm"] < 0.5  # the same voxels, a threshold below the wall
    moved = np.roll(coverage, 2, axis=0)
    one, two = (vessel_scores(moved, coverage, 0.5, (s,) * 3) for s in (1.0, 2.0))
    assert two["chamfer_mm"] == pytest.approx(2 * one["chamfer_mm"], rel=1e-6)
    assert 1 < one["hd95_mm"] < 3
    nothing = vessel_scores(0 * coverage, coverage, 0.5, (1.0, 1.0, 1.0))
    assert nothing["dice"] == 0 and nothing["chamfer_mm"] == np.inf


def test_arrival():
    truth = np.array([0.5, 1.0, 2.0, np.nan])
    where = np.array([True, True, True, True])
    assert arrival_error(truth + 0.2, truth, where) == (pytest.approx(0.2), 1)
    error, share = arrival_error(np.array([0.4, np.nan, 2.0, 1.0]), truth, where)
    assert error == pytest.approx(0.05) and share == pytest.approx(2 / 3)
    error, share = arrival_error(np.full(4, np.nan), truth, where)
    assert np.isnan(error) and share == 0
    with pytest.raises(ValueError, match="no voxel with a true arrival"):
        arrival_error(truth, truth, ~where)


def test_views_in_the_range_of_the_truth_and_as_published():
    truth = np.random.default_rng(0).random((4, 20, 24))
    scores = view_scores(truth + 0.1, truth)
    assert scores["psnr"] == pytest.approx(20 * np.log10(np.ptp(truth) / 0.1), abs=1e-6)
    assert scores["published_psnr"] > 100  # an offset is invisible there
    half = view_scores(0.5 * truth, truth)
    assert half["nrmse"] == pytest.approx(0.5) and half["published_ssim"] == pytest.approx(1)
    assert half["ssim"] < 0.9
    blank = view_scores(np.zeros_like(truth), truth)
    assert blank["nrmse"] == 1 and "published_psnr" not in blank
    with pytest.raises(ValueError, match="one shape"):
        view_scores(truth[:2], truth)
