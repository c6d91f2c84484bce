"""The flow phantom against physics: mass, times, geometry, noise, pathologies; truth and projections agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from custom_nets.data.angiography.arrival import half_rise_time, passage_time
from custom_nets.geometry.cone_beam import ConeBeam
from custom_nets.simulation.phantom import PATHOLOGIES, PhantomSettings, VesselFlowPhantom

SMALL = PhantomSettings(
    frames=12, size=(36, 40), pixel_mm=3.0, volume_shape=(30, 32, 28), voxel_mm=2.0, offset_mm=(4.0, -3.0),
    smallest_radius_mm=0.7,
)  # fmt: skip


@pytest.fixture(scope="module")
def phantom() -> VesselFlowPhantom:
    return VesselFlowPhantom(3, SMALL)


def sampled_projection(phantom: VesselFlowPhantom, volume: np.ndarray, frame: int, step_mm: float = 1.0) -> np.ndarray:
    """Line integrals of voxels by dense trilinear samples on each ray: another way than the phantom's."""
    from scipy.ndimage import map_coordinates

    g, (height, width) = phantom.geometry.at([frame]), SMALL.size
    # a pixel is the mean over its area: three by three rays
    finer = ConeBeam(g.source_mm, g.panel_mm, g.column_step_mm / 3, g.row_step_mm / 3, (3 * height, 3 * width))
    source = g.source_mm[0]
    ray = finer.pixels_mm(0) - source
    length = np.linalg.norm(ray, axis=-1, keepdims=True)
    reach = np.arange(phantom.settings.sad_mm - 60, phantom.settings.sad_mm + 60, step_mm)
    points = source + (ray / length)[..., None, :] * reach[:, None]  # [H, W, S, 3]
    index = points / phantom.settings.voxel_mm + (np.array(volume.shape) - 1) / 2
    rays = map_coordinates(volume, np.moveaxis(index, -1, 0), order=1, mode="grid-constant").sum(-1) * step_mm
    return rays.reshape(height, 3, width, 3).mean((1, 3))


@pytest.mark.parametrize("frame", [4, 9])
def test_projections_are_line_integrals_of_the_truth(phantom, frame):
    sampled = sampled_projection(phantom, phantom.volume(float(phantom.times_s[frame])), frame)
    drawn = phantom.projection(frame)
    assert drawn.sum() == pytest.approx(sampled.sum(), rel=1e-3)
    # voxels of 2 mm blur: places agree, sharpness cannot
    assert np.corrcoef(drawn.ravel(), sampled.ravel())[0, 1] > 0.97
    rows, columns = np.indices(SMALL.size)
    for place in (rows, columns):
        assert (place * drawn).sum() / drawn.sum() == pytest.approx((place * sampled).sum() / sampled.sum(), abs=0.03)


def test_coverage_is_the_volume_of_the_vessels(phantom):
    single = VesselFlowPhantom(3, replace(SMALL, inlets=1, veins=False))
    assert 0 < single.coverage.min() + single.coverage.max() <= 1
    filled = single.coverage.sum() * SMALL.voxel_mm**3
    # at forks tubes share their space, the root and the tips have round ends
    assert 0.85 < filled / single.tree.volume_mm3.sum() < 1.05


def test_curves_and_arrival_follow_the_bolus(phantom):
    times = phantom.times_s
    volumes = phantom.volumes(times)
    np.testing.assert_allclose(volumes.mean(0), phantom.mean_volume, atol=1e-7)
    assert volumes.min() >= 0 and volumes.max() <= SMALL.iodine_per_mm * 1.0001
    arrival = phantom.arrival_s
    np.testing.assert_array_equal(np.isfinite(arrival), volumes.max(0) > 0)
    inlet = phantom.tree.position_mm[phantom.tree.path_mm.argmin()]
    voxel = tuple(np.rint(inlet / SMALL.voxel_mm + (np.array(SMALL.volume_shape) - 1) / 2).astype(int))
    assert phantom.bolus.start_s < arrival[voxel] < phantom.bolus.start_s + 1.2
    assert np.nanmax(arrival) > arrival[voxel] + 1  # veins come later


def test_the_passage_of_a_box_is_its_length():
    times = np.linspace(0, 6, 601)
    boxes = np.stack([(times > start) & (times < start + 2) for start in (0.5, 1.0, 3.0, 5.0)], 1).astype(float)
    faint = 0.1 * (times > 1)[:, None]
    assert abs(passage_time(np.hstack([boxes, faint]), times) - 2) < 0.05, "what is cut off or faint does not count"
    assert np.isnan(passage_time(np.ones((601, 3)), times)) and np.isnan(passage_time(np.zeros((601, 3)), times))


def test_half_rise_is_linear_between_samples():
    curves = np.array([[0.0, 2, 0, 0], [0, 1, 1, 0], [4, 0, 3, 0], [1, 0, 4, 0]])
    np.testing.assert_allclose(half_rise_time(curves, [0, 1, 2, 4]), [1.5, 0, 1.5, np.nan])
    with pytest.raises(ValueError, match="4 samples need as many times"):
        half_rise_time(curves, [0, 1, 2])


def test_colonised_vessels_feed_their_tissue_and_the_agent_comes_back():
    other = VesselFlowPhantom(3, replace(SMALL, vessels="colonised", inlets=1, veins=False))
    tree, bolus = other.tree, other.bolus
    again = VesselFlowPhantom(3, replace(SMALL, vessels="colonised", inlets=1, veins=False))
    np.testing.assert_array_equal(again.projection(5), other.projection(5))
    assert tree.tip.sum() > 5 and tree.radius_mm[tree.tip].max() < 0.6 * tree.radius_mm.max()
    assert tree.arrival_s[tree.tip].min() > tree.arrival_s.min() and not np.array_equal(
        other.coverage, VesselFlowPhantom(3, replace(SMALL, inlets=1, veins=False)).coverage
    )
    times = np.linspace(0, 60, 6001)
    curve = np.array([float(bolus.concentration(t, np.zeros(1))[0]) for t in times])
    assert curve.max() < 1.1 and curve[times < bolus.start_s].max() == 0
    # what the heart's swing adds and takes is nearly nothing in all: the agent is neither made nor lost
    assert np.trapezoid(curve, times) == pytest.approx(bolus.duration_s, rel=0.03)
    late = times > bolus.start_s + bolus.duration_s + 3
    assert curve[late].sum() > 0.03 * curve.sum(), "some comes back"


def test_everything_follows_from_the_seed(phantom):
    again = VesselFlowPhantom(3, SMALL)
    np.testing.assert_array_equal(again.projection(5), phantom.projection(5))
    np.testing.assert_array_equal(again.angles_rad, phantom.angles_rad)
    assert not np.array_equal(VesselFlowPhantom(4, SMALL).coverage, phantom.coverage)


def test_the_arm_speeds_up_and_slows_down(phantom):
    steps = np.abs(np.diff(phantom.angles_rad))
    assert np.ptp(phantom.angles_rad) == pytest.approx(np.deg2rad(200))
    assert steps[0] < 0.8 * steps.max() and steps[-1] < 0.8 * steps.max()


def test_noise_is_that_of_two_exposures():
    noisy = VesselFlowPhantom(3, replace(SMALL, counts=5e3, frames=8))
    scan = noisy.acquisition()
    error = scan.projections - noisy.projections
    assert scan.weights is not None and (scan.projections < 0).any()
    # weights are inverse variances up to the detector's gain: errors scaled by them are alike everywhere
    gain = 0.95 * 65535 / (5e3 * np.exp(3))
    scaled = error * np.sqrt(scan.weights / gain)
    assert scaled.std() == pytest.approx(1, abs=0.03)
    centre = error[:, 14:22, 16:24]
    assert 0.5 < centre.std() / np.sqrt(2 / 5e3) < 2
    clean = VesselFlowPhantom(3, replace(SMALL, frames=8)).acquisition()
    assert clean.weights is None
    np.testing.assert_array_equal(clean.projections, noisy.projections)


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_pathologies_change_the_vessels(phantom, name):
    sick = VesselFlowPhantom(3, replace(SMALL, pathologies=(name,)))
    healthy = phantom.coverage.sum()
    change = sick.coverage.sum() - healthy
    assert change < -0.5 if name == "stenosis" else change > 1
    assert np.isfinite(sick.projection(6)).all()


def test_mistakes():
    with pytest.raises(ValueError, match=r"unknown pathologies \['tumour'\]"):
        PhantomSettings(pathologies=("tumour",))
    with pytest.raises(ValueError, match="vessels must be one of forking, colonised"):
        PhantomSettings(vessels="grown")
    with pytest.raises(ValueError, match="2 frames or more"):
        PhantomSettings(frames=1)
