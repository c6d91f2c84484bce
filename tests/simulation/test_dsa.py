"""Simulated DSA against physics and its own truth: flow, mass, times, subtraction, noise; and as a run on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from custom_nets.apps.simulate_run import main
from custom_nets.data.angiography.reader import read_angiography
from custom_nets.geometry.cone_beam import CArm
from custom_nets.simulation.acquisition import run_times, simulated_run, write_simulated_run
from custom_nets.simulation.dsa import MOTION_KINDS, DSASettings, DSASimulator
from custom_nets.simulation.splat import splat_discs
from custom_nets.simulation.vessel_tree import Bolus, VesselTree, fork, grow_tree
from tests.tools.xa_writer import validator_errors

STILL = {"breathing_mm": 0.0, "drift_mm": 0.0, "jerk_mm": 0.0}
# all of the head in a small picture: large pixels, and few vessels for it
WIDE = DSASettings(shape=(96, 80), pixel_mm=3.0, **STILL)
TURNING = replace(WIDE, rotation_deg_s=30.0)


@pytest.fixture(scope="module")
def still() -> DSASimulator:
    return DSASimulator(seed=3, settings=WIDE)


@pytest.fixture(scope="module")
def tree() -> VesselTree:
    return grow_tree(
        np.random.default_rng(1), np.array([0.0, 0, -100]), np.array([0.0, 0, 1]), 2.2, 300.0, smallest_radius_mm=0.8
    )


def branches(tree: VesselTree) -> list[np.ndarray]:
    """Nodes of each piece between two forks, along the flow; every piece has a radius of its own."""
    pieces = [np.flatnonzero(tree.radius_mm == r) for r in np.unique(tree.radius_mm)]
    return [nodes[np.argsort(tree.path_mm[nodes])] for nodes in pieces]


def parent_of(tree: VesselTree, piece: np.ndarray, pieces: list[np.ndarray]) -> np.ndarray | None:
    """The piece whose end lies where this one starts."""
    start = tree.position_mm[piece[0]]
    wider = [other for other in pieces if tree.radius_mm[other[0]] > tree.radius_mm[piece[0]]]
    if not wider:
        return None
    return min(wider, key=lambda other: float(np.linalg.norm(tree.position_mm[other[-1]] - start)))


# ---- vessels and flow ----


def test_forks_follow_murray():
    rng = np.random.default_rng(0)
    radius, share = rng.uniform(0.5, 3, 50), rng.uniform(0.5, 0.9, 50)
    r1, r2, angle1, angle2 = fork(radius, share)
    np.testing.assert_allclose(r1**3 + r2**3, radius**3, rtol=1e-12)
    np.testing.assert_allclose(r1**3 / radius**3, share, rtol=1e-12)
    assert (angle1 <= angle2 + 1e-12).all(), "the wider daughter goes straighter on"
    # an even fork: 37.5 degrees to each side, the known minimum-work angle
    even = fork(np.ones(1), np.full(1, 0.5))
    np.testing.assert_allclose(np.rad2deg(even[2:]), 37.467, atol=0.01)


def test_flow_is_conserved(tree):
    root = tree.path_mm.argmin()
    assert tree.tip.sum() > 8
    assert tree.flow_mm3_s[root] == pytest.approx(np.pi * 2.2**2 * 300)
    assert tree.flow_mm3_s[tree.tip].sum() == pytest.approx(tree.flow_mm3_s[root], rel=1e-9)
    assert (tree.radius_mm[tree.tip] ** 3).sum() == pytest.approx(2.2**3, rel=1e-9)
    np.testing.assert_allclose(tree.flow_mm3_s / tree.radius_mm**3, tree.flow_mm3_s[root] / 2.2**3, rtol=1e-9)


def test_flow_is_conserved_at_every_fork(tree):
    pieces = branches(tree)
    daughters: dict[int, list[np.ndarray]] = {}
    for piece in pieces:
        parent = parent_of(tree, piece, pieces)
        if parent is not None:
            daughters.setdefault(int(parent[0]), []).append(piece)
    assert len(daughters) > 7
    for first, both in daughters.items():
        assert len(both) == 2
        assert sum(tree.flow_mm3_s[piece[0]] for piece in both) == pytest.approx(tree.flow_mm3_s[first], rel=1e-9)
        assert sum(tree.radius_mm[piece[0]] ** 3 for piece in both) == pytest.approx(tree.radius_mm[first] ** 3)


def test_arrival_is_the_integral_of_the_way_over_the_speed(tree):
    pieces = branches(tree)
    speed = tree.flow_mm3_s / (np.pi * tree.radius_mm**2)
    tips = [piece for piece in pieces if tree.tip[piece[-1]]]
    assert len(tips) == tree.tip.sum()
    for piece in tips:
        end = piece[-1]
        seconds, way = -0.5 * tree.length_mm[end] / speed[end], -0.5 * tree.length_mm[end]  # nodes are in the middle
        part: np.ndarray | None = piece
        while part is not None:
            seconds += tree.length_mm[part].sum() / speed[part[0]]
            way += tree.length_mm[part].sum()
            part = parent_of(tree, part, pieces)
        assert tree.path_mm[end] == pytest.approx(way, rel=1e-9)
        assert tree.arrival_s[end] == pytest.approx(seconds, rel=1e-9)


def test_curves_rise_when_the_agent_arrives():
    bolus = Bolus(start_s=0.4, duration_s=2.0, time_constant_s=0.1, dispersion=0.1)
    arrival = np.array([0.0, 0.7, 2.5])
    times = np.linspace(0, 20, 2001)
    curves = np.stack([bolus.concentration(t, arrival) for t in times])
    for k, seconds in enumerate(arrival):
        assert not curves[times < bolus.start_s + seconds - 1e-9, k].any()
        assert curves[times > bolus.start_s + seconds + 0.02, k][0] > 0
        # nothing is lost on the way, and the middle is late by what the gamma variate adds
        assert np.trapezoid(curves[:, k], times) == pytest.approx(bolus.duration_s, rel=1e-3)
        late = bolus.sharpness * (bolus.time_constant_s + bolus.dispersion * seconds)
        middle = np.trapezoid(times * curves[:, k], times) / bolus.duration_s
        assert middle == pytest.approx(bolus.start_s + seconds + bolus.duration_s / 2 + late, abs=5e-3)


def test_pictures_fill_when_the_agent_arrives():
    settings = replace(WIDE, tissue=0.0, pulse_mm=0.0, bolus=Bolus(start_s=0.5, time_constant_s=0.01, dispersion=0.0))
    simulator = DSASimulator(3, settings)
    arteries = simulator.arteries
    farthest = int(np.where(arteries.tip, arteries.arrival_s, 0).argmax())
    arrival = 0.5 + arteries.arrival_s[farthest]
    (column, row), _ = (a[0] for a in simulator.carm.project(arteries.position_mm[[farthest]], 90.0))
    spot = np.s_[round(row) - 1 : round(row) + 2, round(column) - 1 : round(column) + 2]
    assert not simulator.vessels(0.5).any()
    before, after = simulator.vessels(arrival - 0.1)[spot].sum(), simulator.vessels(arrival + 0.15)[spot].sum()
    assert after > before + 1e-4


# ---- mass ----


def test_discs_keep_their_mass():
    rng = np.random.default_rng(0)
    centres, mass = rng.uniform(10, 30, (40, 2)), rng.random(40)
    picture = splat_discs((40, 44), centres, rng.uniform(0.1, 6, 40), mass, chunk=500)
    assert picture.sum() == pytest.approx(mass.sum(), rel=1e-5)
    # half of a disc at the edge is outside
    assert splat_discs((40, 44), np.array([[-0.5, 20]]), np.array([5.0]), np.ones(1)).sum() == pytest.approx(0.5, 1e-4)


def test_projection_of_known_points():
    carm = CArm(shape=(101, 81), pixel_mm=0.5, centre_mm=(2.0, -3.0))
    (pixels, magnification) = carm.project(np.array([[2.0, 0, -3.0], [0, 0, 7.0], [100.0, 10, 0]]), 0)
    np.testing.assert_allclose(pixels[:2], [[40, 50], [36, 30]])
    np.testing.assert_allclose(magnification, [1, 1, 765 / 755])
    turned, _ = carm.project(np.array([[-10.0, 100, 0]]), 90)
    np.testing.assert_allclose(turned, pixels[2:], err_msg="turning the C-arm is turning the patient back")


@pytest.mark.parametrize("settings", [WIDE, TURNING], ids=["fixed", "rotational"])
@pytest.mark.parametrize("time_s", [1.2, 3.0, 6.0])
def test_mass_of_iodine_is_that_of_the_vessels(settings, time_s):
    simulator = DSASimulator(3, settings)
    s, wanted = simulator.settings, 0.0
    for tree in (simulator.arteries, simulator.tissue, simulator.veins):
        magnification = simulator.carm.project(tree.position_mm, simulator.angle_deg(time_s))[1]
        agent = s.bolus.concentration(time_s, tree.arrival_s, tree.smear_s)
        wanted += s.iodine_per_mm * float((tree.volume_mm3 * agent * magnification**2).sum())
    assert simulator.vessels(time_s).sum() * s.pixel_mm**2 == pytest.approx(wanted, rel=0.01)


def test_the_agent_inside_is_what_was_injected():
    """Without dispersion: flow times time, until the first of it leaves."""
    settings = replace(WIDE, bolus=Bolus(start_s=0.3, duration_s=9.0, time_constant_s=0.01, dispersion=0.0))
    simulator = DSASimulator(5, settings)
    arteries, bolus = simulator.arteries, settings.bolus
    inlets = arteries.path_mm < 0.5 * arteries.length_mm + 1e-9
    assert 1 <= inlets.sum() <= 3
    inflow = arteries.flow_mm3_s[inlets].sum()
    leaves = float(arteries.arrival_s[arteries.tip].min())
    assert leaves > 0.1
    for share in (0.5, 0.7, 0.9):
        agent = bolus.concentration(bolus.start_s + share * leaves, arteries.arrival_s)
        # a front a few nodes wide instead of a step that falls between two nodes; it comes later by its mean
        seconds = share * leaves - bolus.sharpness * bolus.time_constant_s
        assert (agent * arteries.volume_mm3).sum() == pytest.approx(inflow * seconds, rel=0.01)
    later = bolus.concentration(bolus.start_s + 3 * leaves, arteries.arrival_s)
    assert (later * arteries.volume_mm3).sum() < 0.9 * inflow * 3 * leaves


def test_veins_fill_after_the_arteries(still):
    ratio = [still.veins.volume_mm3 @ still.settings.bolus.concentration(t, still.veins.arrival_s) for t in (1.5, 6.0)]
    assert ratio[1] > 100 * ratio[0]
    assert still.veins.arrival_s.min() > np.median(still.arteries.arrival_s[still.arteries.tip])


# ---- subtraction and noise ----


def test_kinds_of_motion_are_where_vessels_are():
    """A turning arm moves vessels, and those that lie over one another apart; a standing one does neither."""
    calm = replace(TURNING, pulse_mm=0.0, breathing_mm=0.0, drift_mm=0.0)
    turning = DSASimulator(4, calm)
    kinds = turning.motion_kinds(3.0, 3.2, 3.4)
    share = {name: float((kinds == k).mean()) for k, name in enumerate(MOTION_KINDS)}
    assert share["moving"] > 0.003 and share["crossing"] > 0.001 and share["quiet"] > 0.5
    change = np.abs(turning.vessels(3.4) - turning.vessels(3.0))
    quiet = change[kinds == MOTION_KINDS.index("quiet")].mean()
    assert change[kinds == MOTION_KINDS.index("crossing")].mean() > 5 * quiet
    assert change[kinds == MOTION_KINDS.index("moving")].mean() > 5 * quiet
    standing = DSASimulator(4, replace(calm, rotation_deg_s=0.0)).motion_kinds(1.0, 1.5, 2.0)
    assert set(np.unique(standing)) == {MOTION_KINDS.index("contrast"), MOTION_KINDS.index("quiet")}


def test_a_mask_at_another_angle_leaves_bone():
    turned = replace(TURNING, pulse_mm=0.0, breathing_mm=0.0, drift_mm=0.0, mask_angle_deg=0.3)
    simulator = DSASimulator(3, turned)
    residue = simulator.subtracted(1.0) - simulator.vessels(1.0)
    assert np.abs(residue).max() > 1e-3
    same = DSASimulator(3, replace(turned, mask_angle_deg=0.0))
    assert np.abs(same.subtracted(1.0) - same.vessels(1.0)).max() < 1e-5


def test_a_head_off_the_axis_moves_across():
    on, off = (DSASimulator(3, replace(TURNING, off_axis_mm=mm)) for mm in ((0.0, 0.0), (40.0, 0.0)))
    place = [float((s.background(t).sum(0) * np.arange(s.settings.shape[1])).sum() / s.background(t).sum())
             for s in (on, off) for t in (0.0, 1.0)]  # fmt: skip
    assert abs(place[3] - place[2]) > abs(place[1] - place[0]) + 0.5


def test_rims_are_the_means_of_pixels():
    """As many rays through each pixel say: single rays would dash the rims, where chords rise without end."""
    rays = 7
    whole = DSASettings(shape=(96, 80), pixel_mm=2.0)
    fine = replace(whole, shape=(rays * 96, rays * 80), pixel_mm=2.0 / rays)
    one, many = (DSASimulator(seed=3, settings=view) for view in (whole, fine))
    pose = one._motion.pose(0.5)
    wanted = many._ellipsoids(pose, 20.0).reshape(96, rays, 80, rays).mean((1, 3))
    np.testing.assert_allclose(one._ellipsoids(pose, 20.0), wanted, atol=0.01 * wanted.max())


@pytest.mark.parametrize("settings", [WIDE, TURNING], ids=["fixed", "rotational"])
def test_no_residue_without_motion_and_noise(settings):
    simulator = DSASimulator(3, replace(settings, photons=np.inf))
    times = np.array([0.0, 1.5, 3.0])
    frames = simulator.subtracted_run(times)
    for t, frame in zip(times, frames, strict=True):
        np.testing.assert_array_equal(simulator.subtracted(t), simulator.vessels(t))
        np.testing.assert_allclose(frame, simulator.vessels(t), atol=2e-6)
    assert not simulator.subtracted(0.0).any() and simulator.vessels(3.0).max() > 0.05


def test_motion_leaves_a_residue():
    moving = DSASimulator(3, replace(WIDE, drift_mm=3.0, photons=np.inf))
    residue = moving.subtracted(3.0) - moving.vessels(3.0)
    assert np.abs(residue).max() > 0.01
    np.testing.assert_array_equal(moving.subtracted(0.0), moving.vessels(0.0))
    np.testing.assert_allclose(moving.subtracted_run(np.array([3.0]))[0], moving.subtracted(3.0), atol=2e-6)


@pytest.mark.parametrize("settings", [WIDE, TURNING], ids=["fixed", "rotational"])
def test_a_swallow_leaves_a_residue_at_the_jaw_only_and_only_then(settings):
    simulator = DSASimulator(3, replace(settings, jaw_mm=3.0, view_deg=90.0 - settings.rotation_deg_s))
    motion = simulator._motion
    moment = float(motion.swallow_at_s[motion.swallow_s.argmin()])
    times = np.linspace(0, 12, 2401)
    calm = times[np.argmin([motion.jaw_mm(t) for t in times])]
    residues = [simulator.subtracted(t) - simulator.vessels(t) for t in (moment, calm)]
    assert np.abs(residues[0]).max() > 0.01 > 100 * np.abs(residues[1]).max()
    assert np.abs(residues[0][:40]).max() < 0.02 * np.abs(residues[0]).max(), "the vault stands still"


def test_noise_is_that_of_two_exposures():
    """Variance 1/N of each exposure's logarithm, N the photons that arrive; the mask's is the same in all frames."""
    simulator = DSASimulator(3, replace(WIDE, photons=2e5, blur_px=0.0, mask_exposures=2))
    frames = simulator.subtracted_run(np.full(24, 0.05))  # before any agent
    arrived = 2e5 * np.exp(-simulator.background(0.0))
    own = frames.var(axis=0, ddof=1)
    assert (own * arrived).mean() == pytest.approx(1.0, abs=0.05)
    shared = frames.mean(0)
    assert (shared**2 * arrived).mean() == pytest.approx(1 / 2 + 1 / 24, abs=0.05)


def test_a_turning_run_has_new_mask_noise_in_every_frame():
    simulator = DSASimulator(3, replace(TURNING, photons=2e5, blur_px=0.0))
    frames = simulator.subtracted_run(np.array([0.0, 0.01]))
    arrived = 2e5 * np.exp(-simulator.background(0.0))
    assert (frames[0] ** 2 * arrived).mean() == pytest.approx(2.0, abs=0.1)
    assert abs(np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1]) < 0.05


def test_blur_correlates_noise():
    settings = replace(WIDE, photons=2e4, blur_px=1.0)
    frames = DSASimulator(3, settings).subtracted_run(np.array([0.0]))[0]
    assert np.corrcoef(frames[:, :-1].ravel(), frames[:, 1:].ravel())[0, 1] > 0.5


def test_everything_follows_from_the_seed():
    settings = DSASettings.random(4, "fixed", (48, 64))
    assert settings == DSASettings.random(4, "fixed", (48, 64)) != DSASettings.random(5, "fixed", (48, 64))
    times = np.array([1.0, 2.0])
    first, again, other = (DSASimulator(seed, settings).subtracted_run(times) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 1e-3
    with pytest.raises(ValueError, match="kind must be"):
        DSASettings.random(4, "spiral")  # type: ignore[arg-type]


def test_shutters():
    simulator = DSASimulator(3, replace(WIDE, collimation=(0.125, 0.25, 0.0, 0.1)))
    assert simulator.field_of_view[12:72, :72].all() and simulator.field_of_view.sum() == 60 * 72
    frame = simulator.subtracted_run(np.array([2.0]))[0]
    assert not frame[~simulator.field_of_view].any() and frame[simulator.field_of_view].std() > 0
    run = simulated_run(simulator, [1.0, 2.0])
    np.testing.assert_array_equal(run.active, simulator.field_of_view)


# ---- as a run ----


def test_times_of_a_run():
    np.testing.assert_allclose(run_times(3, (4.0,), 0.25), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(np.diff(run_times(7, (4, 2, 1))), [0.25, 0.25, 0.5, 0.5, 1, 1])
    for wrong in ({"count": 1}, {"count": 3, "rates_hz": ()}, {"count": 3, "rates_hz": (4, 0)}):
        with pytest.raises(ValueError, match="2 frames or more and rates above 0"):
            run_times(**wrong)


@pytest.mark.parametrize("relationship", ["LIN", "LOG"])
@pytest.mark.parametrize("bits", [8, 10, 16])
def test_raw_run_shows_the_vessels_after_subtraction(relationship, bits):
    simulator = DSASimulator(3, replace(WIDE, photons=np.inf, iodine_per_mm=0.2))
    run = simulated_run(simulator, [1.5, 2.5], bits=bits, relationship=relationship)
    assert run.frames.dtype == (np.uint8 if bits == 8 else np.uint16) and run.frames.max() < 1 << bits
    assert run.mask_frames == (0,) and run.mapping.log == (relationship == "LIN")
    np.testing.assert_allclose(run.times_s, [0.5, 1.5, 2.5])
    units, truth = run.normalize([1, 2]), np.stack([simulator.vessels(t) for t in (1.5, 2.5)])
    lit = truth > 0.1
    # dark vessels, in proportion to the iodine: the rest is rounding to the stored bits
    slope, offset = np.polyfit(truth.ravel(), units.ravel(), 1)
    assert slope < 0
    error = np.abs(units - (slope * truth + offset))[lit].mean() / np.ptp(units)
    assert error < {8: 0.06, 10: 0.02, 16: 1e-3}[bits]


def test_subtracted_run_is_dark_on_bright():
    simulator = DSASimulator(3, replace(TURNING, photons=1e6))
    run = simulated_run(simulator, [0.5, 2.0, 3.5], bits=12)
    assert not run.mask_frames and not run.mapping.subtraction
    assert np.median(run.frames) / 4095 == pytest.approx(0.75, abs=0.02)
    units, truth = run.normalize([1])[0], simulator.vessels(2.0)
    assert np.corrcoef(units.ravel(), truth.ravel())[0, 1] < -0.9
    np.testing.assert_allclose(run.geometry.primary_deg, [105, 150, 195])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bits": 7}, "bits must be 8 to 16"),
        ({"relationship": "DISP"}, "relationship must be"),
        ({"raw": True}, "another mask at every angle"),
    ],
)
def test_runs_that_there_are_not(options, message):
    with pytest.raises(ValueError, match=message):
        simulated_run(DSASimulator(3, TURNING), [1.0, 2.0], **options)


@pytest.mark.parametrize(
    "kind, options, bits",
    [
        ("fixed", (), 12),
        ("fixed", ("--relationship", "LOG", "--bits", "14", "--collimation", "0.1"), 14),
        ("fixed", ("--subtracted", "--bits", "8"), 8),
        ("rotational", ("--bits", "16"), 16),
    ],
)
def test_command_writes_dicom(kind, options, bits, tmp_path, capsys):
    pydicom = pytest.importorskip("pydicom")
    path = tmp_path / "run.dcm"
    arguments = ["--seed", "3", "--kind", kind, "--frames", "5", "--fps", "4", "1", "--size", "64", "48", *options]
    main([str(path), *arguments])
    assert "run.dcm" in capsys.readouterr().out
    assert validator_errors(path) == []
    run, header = read_angiography(path), pydicom.dcmread(path)
    raw = kind == "fixed" and "--subtracted" not in options
    assert len(run) == 5 + raw and run.size == (64, 48) and header.BitsStored == {14: 16}.get(bits, bits)
    steps = [0.25] * raw + [0.25, 0.25, 1, 1]
    np.testing.assert_allclose(run.times_s, np.cumsum([0, *steps]))
    assert run.mask_frames == ((0,) if raw else ()) and not run.synthetic.any()
    relationship = "DISP" if not raw else "LOG" if "LOG" in options else "LIN"
    assert header.PixelIntensityRelationship == relationship
    assert header.PositionerMotion == ("DYNAMIC" if kind == "rotational" else "STATIC")
    # the same run in memory and through the file
    settings = DSASettings.random(3, kind, (64, 48))
    if "--collimation" in options:
        settings = replace(settings, collimation=(0.1,) * 4)
    times = run_times(5, (4, 1), 0.25)
    direct = simulated_run(
        DSASimulator(3, settings), times, raw=raw, bits=bits, relationship="LOG" if "LOG" in options else "LIN"
    )
    np.testing.assert_array_equal(run.frames, direct.frames)
    np.testing.assert_allclose(run.normalize(slice(None)), direct.normalize(slice(None)), atol=1e-5)
    np.testing.assert_allclose(run.geometry.primary_deg, direct.geometry.primary_deg, atol=1e-5)
    np.testing.assert_allclose(run.geometry.pixel_spacing_mm, direct.geometry.pixel_spacing_mm, rtol=1e-6)


def test_command_writes_other_formats(tmp_path):
    arguments = ["--seed", "3", "--frames", "3", "--size", "48", "--photons", "inf"]
    for name in ("run.npz", "run.nii.gz", "pictures"):
        main([str(tmp_path / name), *arguments])
    runs = [read_angiography(tmp_path / name) for name in ("run.npz", "run.nii.gz", "pictures")]
    for run in runs:
        np.testing.assert_array_equal(run.frames, runs[0].frames)
        np.testing.assert_allclose(run.times_s, [0, 0.25, 0.5, 0.75])
        assert run.mask_frames == (0,)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run.doc"], "the end must be"),
        (["run.dcm", "--bits", "17"], "bits must be 8 to 16"),
        (["run.dcm", "--kind", "rotational", "--raw"], "another mask at every angle"),
        (["run.dcm", "--frames", "1"], "2 frames or more"),
        (["run.dcm", "--fps", "0"], "rates above 0|division"),
    ],
)
def test_command_refuses(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path / arguments[0]), "--size", "48", "--frames", "3", *arguments[1:]])
    assert not list(tmp_path.iterdir())


def test_a_simulated_run_from_memory_is_no_derived_one(still, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = write_simulated_run(simulated_run(still, [1.0, 2.0]), tmp_path / "run.dcm")
    header = pydicom.dcmread(path)
    assert header.ImageType[0] == "ORIGINAL" and header.PatientName == "SIMULATED^RUN"
