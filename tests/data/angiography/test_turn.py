"""What the C-arm's turn does to the picture: the simulator's points and pictures, and what a header does not say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from custom_nets.apps.simulate_training_runs import simulate_run
from custom_nets.data.angiography.reader import read_angiography
from custom_nets.data.angiography.run import RunGeometry
from custom_nets.data.angiography.training_list import read_simulated
from custom_nets.geometry import positioner_trajectory
from custom_nets.simulation.acquisition import simulated_run, write_simulated_run
from custom_nets.simulation.dsa import DSASettings, DSASimulator

KNOWN = {"pixel_spacing_mm": (0.3, 0.4), "source_detector_mm": 1200.0, "source_isocenter_mm": 800.0}


def arm(primary, secondary=(0.0, 0.0), **more) -> RunGeometry:
    return RunGeometry(primary_deg=np.array(primary), secondary_deg=np.array(secondary), **{**KNOWN, **more})


@pytest.mark.parametrize("speed_deg_s", [20.0, -20.0])
def test_points_of_the_simulator_move_as_their_depth_says(speed_deg_s):
    settings = DSASettings(shape=(64, 64), pixel_mm=2.0, view_deg=75.0, rotation_deg_s=speed_deg_s)
    simulator = DSASimulator(3, settings)
    times = np.array([1.0, 1.2])  # 4 degrees
    x, y, known = simulated_run(simulator, times).geometry.turn(0, 1)
    angles = [simulator.angle_deg(t) for t in times]
    points = simulator.arteries.position_mm
    start, end = (simulator.carm.project(points, angle)[0] for angle in angles)
    middle = np.deg2rad(np.mean(angles))
    depth_mm = points @ [-np.sin(middle), np.cos(middle), 0]  # towards the source
    moved_px = (end - start)[:, 0]
    assert known == 1 and y == 0 and np.sign(x) == np.sign(speed_deg_s)
    assert np.corrcoef(depth_mm / 50 * x, moved_px)[0, 1] > 0.99
    assert np.polyfit(depth_mm / 50 * x, moved_px, 1)[0] == pytest.approx(1, abs=0.1)


def test_a_vessel_in_the_simulators_picture_moves_by_it(tmp_path):
    """One ball of iodine, 50 mm nearer to the source half-way: in pictures, and in the file that is written of them."""
    settings = DSASettings(
        shape=(64, 96), pixel_mm=0.5, centre_mm=(0, 0), view_deg=30.0, rotation_deg_s=10.0, tissue=0.0, pulse_mm=0.0,
        breathing_mm=0.0, drift_mm=0.0,
    )  # fmt: skip
    simulator, times = DSASimulator(1, settings), np.array([1.0, 1.4])
    angle = np.deg2rad(simulator.angle_deg(1.2))
    tree = simulator.arteries
    ball = {name: getattr(tree, name)[:1] for name in ("path_mm", "tip", "flow_mm3_s", "arrival_s", "smear_s")}
    place = 50 * np.array([[-np.sin(angle), np.cos(angle), 0]])
    simulator.arteries = replace(tree, position_mm=place, radius_mm=np.ones(1), length_mm=np.ones(1), **ball)
    simulator.veins = replace(simulator.arteries, radius_mm=np.full(1, 1e-3))
    pictures = [simulator.vessels(t) for t in times]
    column = [float((p.sum(0) * np.arange(96)).sum() / p.sum()) for p in pictures]
    run = simulated_run(simulator, times)
    turn = run.geometry.turn(0, 1)
    assert column[1] - column[0] == pytest.approx(turn[0], abs=0.05) and turn[0] > 5
    again = read_angiography(write_simulated_run(run, tmp_path / "run.dcm"))
    np.testing.assert_allclose(again.geometry.turn(0, 1), turn, atol=1e-3)


def test_both_angles_move_a_point_as_the_geometry_says():
    geometry = arm([20.0, 26.0], [-10.0, -7.0])
    x, y, known = geometry.turn(0, 1)
    views = positioner_trajectory([20.0, 26.0, 23.0], [-10.0, -7.0, -8.5], 800, 1200, (5, 7), (0.4, 0.3))
    point = 50 * views.source_mm[2] / 800
    moved_px = views.project(point, 1)[0] - views.project(point, 0)[0]
    np.testing.assert_allclose([x, y, known], [*moved_px, 1], rtol=1e-5)
    # small turns about one axis: depth x sine x magnification over the pixel's size. To the left: the source goes to
    # the right behind the patient, and what is near it is seen more to the left, in later columns. Up: in earlier rows
    enlarged = 1200 / (800 - 50)
    for degrees in (0.5, -0.5):
        sine = np.sin(np.deg2rad(degrees))
        right, up = arm([0.0, degrees]).turn(0, 1), arm([0.0, 0.0], [0.0, degrees]).turn(0, 1)
        np.testing.assert_allclose(right[:2], [50 * sine * enlarged / 0.4, 0], rtol=1e-3, atol=1e-9)
        np.testing.assert_allclose(up[:2], [0, -50 * sine * enlarged / 0.3], rtol=1e-3, atol=1e-9)


def test_the_other_order_is_the_opposite_and_angles_go_the_shorter_way():
    geometry = arm([178.0, -177.0, -177.0], [5.0, 9.0, 9.0])
    forth, back = geometry.turn(0, 1), geometry.turn(1, 0)
    np.testing.assert_allclose(forth * [-1, -1, 1], back, rtol=1e-5)
    np.testing.assert_allclose(forth, arm([178.0, 183.0], [5.0, 9.0]).turn(0, 1), rtol=1e-5)
    assert geometry.turn(1, 2).tolist() == [0, 0, 1], "it stands"


def test_what_is_not_known():
    still, turning = [10.0, 10.0], [10.0, 12.0]
    assert arm(still, pixel_spacing_mm=None, source_detector_mm=None).turn(0, 1).tolist() == [0, 0, 1]
    for missing in ({"pixel_spacing_mm": None}, {"primary_deg": None}, {"secondary_deg": None}):
        assert not replace(arm(turning), **missing).turn(0, 1).any()
    usual = arm(turning, source_isocenter_mm=765.0).turn(0, 1)
    for wrong in ({"source_isocenter_mm": None}, {"source_detector_mm": None}, {"source_isocenter_mm": 1300.0}):
        assert arm(turning, **wrong).turn(0, 1).tolist() == usual.tolist(), "a usual C-arm"


def test_training_runs_on_disk_say_how_they_turn(tmp_path):
    for kind, seed in (("rotational", 2), ("fixed", 3)):
        path = simulate_run(tmp_path, seed, kind, (64, 64), 5)
        settings = DSASettings.random(seed, kind, (64, 64))
        run = read_simulated(path)
        simulated = simulated_run(DSASimulator(seed, settings), 1.0 + run["times_s"][[1, 4]], raw=False)
        wanted = simulated.geometry.turn(0, 1)
        np.testing.assert_allclose(run["geometry"].turn(1, 4), wanted, rtol=1e-4)
        assert bool(wanted[:2].any()) is (kind == "rotational") and wanted[2] == 1
