"""Time-density curves, flicker and vessel-weighted errors: known answers."""

from __future__ import annotations

import numpy as np
import pytest

from custom_nets.metrics import time_density as td


def test_arrival_is_where_the_line_crosses_the_level():
    times = np.array([0.0, 1, 2, 4])  # uneven
    curve = np.array([0.0, 0, 0.5, 1])
    assert td.arrival_time(times, curve, 0.2) == pytest.approx(1.4)
    assert td.arrival_time(times, curve, 0.75) == pytest.approx(3.0)
    # on a ground that is off by a constant the arrival is the same
    assert td.arrival_time(times, curve - 0.3, 0.2) == pytest.approx(1.4)
    # noise that touched the level before does not count, washing out neither
    assert td.arrival_time(np.arange(6.0), np.array([0, 0.3, 0, 0.4, 1, 0.1]), 0.2) == pytest.approx(2.5)


def test_what_has_no_arrival_or_peak_is_not_a_number():
    times = np.arange(4.0)
    assert np.isnan(td.arrival_time(times, np.array([1, 0.8, 0.5, 0.2])))  # there from the start
    assert np.isnan(td.arrival_time(times, np.full(4, 0.3)))
    assert np.isnan(td.time_to_peak(times, np.full(4, 0.3)))


def test_peak_of_a_parabola():
    times = np.array([1.0, 2, 2.5, 4, 4.5])
    assert td.time_to_peak(times, 3 - (times - 2.9) ** 2) == pytest.approx(1.9)
    assert td.time_to_peak(times, times) == pytest.approx(3.5)  # at the end: as it is
    assert td.time_to_peak(np.arange(4.0), np.array([0, 1, 1, 0])) == pytest.approx(1.5)


def test_area():
    assert td.area_under_curve(np.array([0.0, 1, 3]), np.array([0.0, 2, 2])) == pytest.approx(1 + 4)


def test_errors_of_a_late_and_a_weak_curve():
    times = np.arange(0, 10, 0.5)
    truth = np.exp(-((times - 5) ** 2) / 2)
    late = np.exp(-((times - 5.5) ** 2) / 2)
    errors = td.curve_errors(times, np.stack([truth, truth]), np.stack([late, 0.9 * truth]))
    assert errors["arrival_s"] == pytest.approx((0.5 + 0) / 2, abs=1e-4)
    assert errors["peak_s"] == pytest.approx((0.5 + 0) / 2, abs=1e-6)
    assert errors["area_percent"] == pytest.approx(5, abs=0.05)
    assert (errors["regions"], errors["arrival_undefined"]) == (2, 0)
    same = td.curve_errors(times, truth[None], truth[None])
    assert [same[k] for k in ("arrival_s", "peak_s", "area_percent", "curve_mae")] == [0, 0, 0, 0]
    falling = td.curve_errors(times, np.stack([truth, -times]), np.stack([truth, -times]))
    assert (falling["arrival_s"], falling["arrival_undefined"]) == (0, 1)
    nothing = td.curve_errors(times, np.empty((0, 20)), np.empty((0, 20)))
    assert np.isnan(nothing["arrival_s"]) and nothing["regions"] == 0


def test_vessels_are_found_where_contrast_comes_and_go_into_blocks():
    rng = np.random.default_rng(0)
    area = np.ones((48, 64), dtype=bool)
    area[:, 56:] = False
    finder = td.VesselFinder(area, blocks=2, smooth_px=3)
    for step in range(6):
        frame = 0.75 + 0.01 * rng.standard_normal(area.shape)
        frame[10:16, 4:20] -= 0.1 * step  # an artery, upper left
        frame[30:36, 40:64] -= 0.08 * step  # a vein, lower right, partly outside
        frame[20, 30:33] -= 0.1 * step  # too small
        frame[:, 56:] = step
        finder.add(frame)
    regions = finder.regions()
    assert regions.max() == 2
    assert (regions[11:15, 5:19] == 1).all() and (regions[31:35, 41:56] == 2).all()
    assert not regions[:, 56:].any() and (regions > 0).mean() < 0.1
    np.testing.assert_allclose(td.region_means(np.where(regions == 2, 3.0, 1.0), regions), [1, 3])
    still = td.VesselFinder(area)
    still.add(np.zeros(area.shape))
    assert not still.regions().any() and td.region_means(frame, still.regions()).shape == (0,)


def test_deviation_from_a_straight_line_in_time():
    ramp = [np.full((3, 3), v) for v in (1.0, 2.0, 4.0)]
    assert np.abs(td.deviation_in_time(*ramp, (0, 1, 3))).max() == pytest.approx(0)
    assert td.deviation_in_time(*ramp, (0, 1, 2)) == pytest.approx(-0.5)  # half of 1 - 2 * 2 + 4, turned round


def test_weighted_errors():
    truth = np.array([0.75, 0.72, 0.45, 0.25])
    weight = td.opacity_weight(truth, ground=0.75)
    np.testing.assert_allclose(weight, [0, 0, 0.25, 0.45])
    mae, rmse = td.weighted_error(truth + [1, 1, 0.1, 0], truth, weight)
    assert mae == pytest.approx(0.1 * 0.25 / 0.7) and rmse == pytest.approx(np.sqrt(0.01 * 0.25 / 0.7))
    np.testing.assert_allclose(td.change_weight(truth, truth - [0, 0.04, 0.15, -0.25]), [0, 0, 0.1, 0.2])
    assert np.isnan(td.weighted_error(truth, truth, np.zeros(4))).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="growing times"):
        td.arrival_time(np.array([0.0, 0, 1]), np.zeros(3))
    with pytest.raises(ValueError, match="one shape"):
        td.weighted_error(np.zeros(3), np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="like the truth"):
        td.curve_errors(np.arange(3.0), np.zeros((1, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="empty"):
        td.VesselFinder(np.zeros((4, 4), dtype=bool))
    with pytest.raises(ValueError, match="no frame"):
        td.VesselFinder(np.ones((4, 4), dtype=bool)).regions()
