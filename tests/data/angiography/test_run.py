"""A run: what it refuses, grey values there and back, gaps, and frames put in without touching the measured ones."""

from __future__ import annotations

import numpy as np
import pytest

from custom_nets.data.angiography.intensity import IntensityMapping, MaskSubtraction
from custom_nets.data.angiography.run import AngiographyRun, RunGeometry, RunOrigin, active_area, bounding_box, make_run
from tests.tools.xa_writer import contrast_run

TIMES = np.array([0, 0.25, 0.5, 0.75, 1.25, 2.25])


def run_of(frames=None, times=TIMES, **more) -> AngiographyRun:
    return make_run(contrast_run() if frames is None else frames, times, **more)


@pytest.mark.parametrize(
    "frames, times, message",
    [
        (np.ones((1, 8, 8), np.uint8), [0.0], "1 frame.*at least 2"),
        (np.ones((8, 8), np.uint8), [0.0], r"\[T, H, W\]"),
        (np.ones((2, 8, 8), np.int32), [0.0, 1.0], "int32"),
        (np.ones((2, 1, 8), np.uint8), [0.0, 1.0], "no pictures"),
        (np.full((2, 8, 8), np.nan, np.float32), [0.0, 1.0], "frame 1 has 64 NaN"),
        (np.ones((2, 8, 8), np.uint8), [0.0, 1.0], "same value"),
        (contrast_run(3), [0.0, 0.5, 0.5], "frame 2 is at 0.5 s and frame 3 at 0.5 s"),
        (contrast_run(3), [0.0, 1.0, 0.5], "must grow"),
        (contrast_run(3), [0.0, 1.0], "3 frames need 3 times, got 2"),
        (contrast_run(3), [0.0, np.nan, 1.0], "NaN or infinite times"),
    ],
)
def test_no_run(frames, times, message):
    with pytest.raises(ValueError, match=message):
        make_run(frames, times)


def test_mask_frames_must_exist():
    with pytest.raises(ValueError, match=r"mask frames \[9\] are not among the frames 1..6"):
        run_of(mask_frames=[8])


@pytest.mark.parametrize(
    "dtype, bits, log",
    [
        *[(np.uint8, 8, log) for log in (False, True)],
        *[(np.uint16, bits, log) for bits in (12, 16) for log in (False, True)],
        *[(np.int16, bits, False) for bits in (12, 16)],
    ],
)
@pytest.mark.parametrize("mask", ["none", "average", "shifted", "previous"])
def test_grey_values_come_back(dtype, bits, log, mask):
    items = {
        "none": (),
        "average": [MaskSubtraction(mask_frames=(0, 1))],
        "shifted": [MaskSubtraction(mask_frames=(1,), shift_px=(0.5, -1.25))],
        "previous": [MaskSubtraction("TID", tid_offset=2)],
    }[mask]
    frames = contrast_run(dtype=dtype, bits=bits)
    run = run_of(frames, subtraction=items, log=log, origin=RunOrigin(meta={"bits_stored": bits}))

    units = run.normalize(slice(None))

    assert units.dtype == np.float32 and units.shape == frames.shape
    np.testing.assert_array_equal(run.denormalize(units, np.arange(6)), frames)


def test_subtracted_frames_are_dark_on_a_ground_at_three_quarters():
    run = run_of(subtraction=[MaskSubtraction(mask_frames=(0, 1))], log=True)
    units = run.normalize([4, 5])
    assert abs(np.median(units) - 0.75) < 0.03
    assert units[1][:, 27:31].mean() < 0.4, "the vessel is dark"
    assert -0.05 < units.min() and units.max() < 1.05


def test_the_logarithm_makes_the_vessel_independent_of_what_lies_behind():
    run = run_of(contrast_run(bits=16), subtraction=[MaskSubtraction(mask_frames=(0, 1))], log=True)
    vessel = run.normalize(5)[0][:, 29]
    assert np.ptp(vessel) < 0.1, "the ground behind it varies by 20 %"


@pytest.mark.parametrize("inverted", [None, True])
def test_bright_vessels_become_dark(inverted):
    frames = contrast_run(bits=16)
    flat = np.clip(40000 - (frames[0].astype(int) - frames), 0, 65535).astype(np.uint16)
    bright = (65535 - flat).astype(np.uint16)
    run, same = run_of(bright, inverted=inverted), run_of(flat)
    assert run.mapping.scale < 0 < same.mapping.scale
    np.testing.assert_allclose(run.normalize(slice(None)), same.normalize(slice(None)), atol=1e-4)
    np.testing.assert_array_equal(run.denormalize(run.normalize(slice(None)), np.arange(6)), bright)


def test_eight_bit_frames_as_published_networks_expect_them():
    frames = contrast_run(dtype=np.uint8, bits=8)
    np.testing.assert_allclose(run_of(frames).normalize(2)[0], frames[2] / 255, atol=1e-6)


def test_window():
    run = run_of(intensity="window", window=(1000.0, 3000.0))
    np.testing.assert_allclose(run.normalize(3)[0], (run.frames[3] - 1000.0) / 2000, atol=1e-6)
    with pytest.raises(ValueError, match="needs a window"):
        run_of(intensity="window")
    with pytest.raises(ValueError, match="'percentile'.*got 'best'"):
        run_of(intensity="best")
    with pytest.raises(ValueError, match="with mask subtraction"):
        run_of(intensity="full", subtraction=[MaskSubtraction(mask_frames=(0,))])


def test_rounded_and_clipped_to_the_stored_bits():
    run = run_of(intensity="full", origin=RunOrigin(meta={"bits_stored": 12}))
    units = np.stack([np.full(run.size, v) for v in (-1.0, 1000.6 / 65535, 1000.4 / 65535, 2.0)])
    made = run.denormalize(units, 2.5)
    assert [int(frame[0, 0]) for frame in made] == [0, 1001, 1000, 4095]
    with pytest.raises(ValueError, match="NaN or infinite"):
        run.denormalize(np.full((1, *run.size), np.nan), 2.5)
    with pytest.raises(ValueError, match="do not belong"):
        run.denormalize(np.zeros((1, 3, 3)), 2.5)


def test_mask_of_the_frame_before_between_frames():
    """TID: halfway between two frames, the mask is halfway between theirs."""
    run = run_of(subtraction=[MaskSubtraction("TID", tid_offset=1)])
    middle = run.denormalize(np.full((1, *run.size), run.mapping.offset), 3.5)[0]
    np.testing.assert_allclose(middle, (run.frames[2] / 2.0 + run.frames[3] / 2.0), atol=0.51)


def test_gaps_keep_away_from_masks_and_warn():
    geometry = RunGeometry(
        primary_deg=np.array([0.0, 2, 4, 6, 30, 32]), table_mm=np.array([[0, 0, 0]] * 5 + [[0, 8.0, 0]])
    )
    run = run_of(mask_frames=[0], geometry=geometry)
    gaps = run.gaps(max_gap_s=0.6)
    assert [gap.index for gap in gaps] == [1, 2, 3, 4]
    assert gaps[0].warnings == () and (gaps[0].t0_s, gaps[0].t1_s) == (0.25, 0.5)
    assert "C-arm jumps by 24.0 degrees (primary angle) between frames 4 and 5" in gaps[2].warnings[0]
    assert "1.00 s between frames 5 and 6" in gaps[3].warnings[0] and "table moves by 8.0 mm" in gaps[3].warnings[1]


def test_a_frame_that_shows_nothing_is_said_on_both_sides():
    run = run_of()
    frames = run.frames.copy()
    frames[3] = 0
    warnings = [gap.warnings for gap in make_run(frames, run.times_s).gaps()]
    assert [len(each) for each in warnings] == [0, 0, 1, 1, 0]
    assert "frame 4 shows nothing (all values are 0)" in warnings[2][0] and warnings[2] == warnings[3]


def test_no_gap_where_the_mask_changes():
    items = [MaskSubtraction(mask_frames=(0,), last=3), MaskSubtraction(mask_frames=(1,), first=4)]
    assert [gap.index for gap in run_of(subtraction=items).gaps()] == [2, 4]


def test_insertion():
    geometry = RunGeometry(primary_deg=np.linspace(-30, 20, 6), secondary_deg=np.zeros(6))
    run = run_of(subtraction=[MaskSubtraction(mask_frames=(0, 1), last=5)], log=True, geometry=geometry)
    made = np.stack([run.frames[3] + 1, run.frames[2] + 2])

    longer = run.with_inserted([1.0, 0.625], made)

    np.testing.assert_array_equal(longer.times_s, [0, 0.25, 0.5, 0.625, 0.75, 1.0, 1.25, 2.25])
    np.testing.assert_array_equal(longer.synthetic, [0, 0, 0, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(longer.source_index, [0, 1, 2, -1, 3, -1, 4, 5])
    np.testing.assert_array_equal(longer.frames[~longer.synthetic], run.frames)
    np.testing.assert_array_equal(longer.frames[[5, 3]], made)
    np.testing.assert_allclose(longer.geometry.primary_deg, [-30, -20, -10, -5, 0, 5, 10, 20])
    assert longer.mask_frames == (0, 1)
    np.testing.assert_array_equal(longer.normalize([4]), run.normalize([3]))
    assert [gap.index for gap in longer.gaps()] == [6], "made frames are no ground for others"


@pytest.mark.parametrize(
    "time, message",
    [(-0.1, "beyond the run"), (3.0, "beyond the run"), (0.5, "a measured time"), (0.1, "beside a mask frame")],
)
def test_no_frame_there(time, message):
    run = run_of(mask_frames=[0])
    with pytest.raises(ValueError, match=message):
        run.with_inserted([time], run.frames[:1])


def test_inserted_frames_must_fit():
    run = run_of()
    with pytest.raises(ValueError, match="float64"):
        run.with_inserted([0.6], run.frames[:1].astype(float))
    with pytest.raises(ValueError, match="1 frames of"):
        run.with_inserted([0.6], run.frames[:2])
    with pytest.raises(ValueError, match="must grow"):
        run.with_inserted([0.6, 0.6], run.frames[:2])


def test_selection():
    run = run_of(subtraction=[MaskSubtraction(mask_frames=(1,), first=1)], geometry=RunGeometry(primary_deg=TIMES * 4))
    fewer = run.select([1, 3, 5])
    np.testing.assert_array_equal(fewer.frames, run.frames[[1, 3, 5]])
    np.testing.assert_array_equal(fewer.times_s, TIMES[[1, 3, 5]])
    np.testing.assert_array_equal(fewer.source_index, [1, 3, 5])
    assert fewer.mask_frames == (0,) and fewer.mapping.subtraction[0].mask_frames == (0,)
    np.testing.assert_allclose(fewer.geometry.primary_deg, TIMES[[1, 3, 5]] * 4)
    np.testing.assert_array_equal(fewer.normalize(1), run.normalize(3))
    with pytest.raises(ValueError, match=r"mask frames \[2\] must be kept"):
        run.select([0, 2, 4])


def test_frame_offset_masks_are_renumbered_or_left_out():
    run = run_of(subtraction=[MaskSubtraction("TID", tid_offset=1)])
    evenly = run.with_inserted((TIMES[:-1] + TIMES[1:]) / 2, run.frames[:5])
    assert evenly.mapping.subtraction[0].tid_offset == 2
    np.testing.assert_array_equal(evenly.normalize(4), run.normalize(2))
    once = run.with_inserted([0.6], run.frames[:1])
    assert once.mapping.subtraction == () and "subtraction was left out" in once.origin.notes[-1]


def test_mapping_needs_a_scale():
    with pytest.raises(ValueError, match="scale other than 0"):
        IntensityMapping(scale=0.0)


def test_active_area_of_a_letterbox_of_any_grey():
    frames = np.full((6, 60, 80), 700, np.uint16)
    frames[:, 5:45, 20:68] = contrast_run()
    run = run_of(frames)
    assert bounding_box(active_area(run)) == (slice(5, 45), slice(20, 68))
    assert active_area(run).sum() == 40 * 48


def test_active_area_of_a_round_field():
    frames = contrast_run(size=(60, 60))
    y, x = np.mgrid[:60, :60]
    inside = (y - 29.5) ** 2 + (x - 29.5) ** 2 < 28**2
    frames[:, ~inside] = 0
    np.testing.assert_array_equal(active_area(run_of(frames)), inside)


def test_a_quiet_ground_is_no_border():
    frames = np.full((6, 40, 48), 3000, np.uint16)
    for k in range(6):
        frames[k, 10 : 12 + 3 * k, 20:24] = 1000
        frames[k, :, 2], frames[k, :, -3], frames[k, 2], frames[k, -3] = 900 + k, 900 + k, 900 + k, 900 + k
    area = active_area(run_of(frames))
    assert area[5:-5, 5:-5].all()


def test_active_area_in_the_shutter():
    shutter = {"rectangle": [11, 40, 6, 35], "circle": [20, 24, 14], "polygon": [(1, 1), (1, 48), (40, 48), (40, 20)]}
    area = active_area(run_of(origin=RunOrigin(shutter=shutter)))
    row, column = np.mgrid[1:41, 1:49]
    expected = (column >= 11) & (column <= 40) & (row >= 6) & (row <= 35)
    expected &= (row - 20) ** 2 + (column - 24) ** 2 <= 14**2
    expected &= column > 1 + (row - 1) * 19 / 39
    assert (area == expected).mean() > 0.995


def test_the_border_says_nothing_about_grey_values():
    frames = np.zeros((6, 60, 80), np.uint16)
    frames[:, 5:45, 20:68] = contrast_run()
    inner, whole = run_of().mapping, run_of(frames).mapping
    assert (inner.scale, inner.offset) == pytest.approx((whole.scale, whole.offset), rel=0.02)
