"""The acquisition as a data type: what it holds, which frames it gives, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from custom_nets.data.angiography.views import Acquisition, default_volume
from custom_nets.geometry.cone_beam import circular_trajectory


def acquisition(count: int = 7, **changes) -> Acquisition:
    geometry = circular_trajectory(np.linspace(0, 3, count), 765, 1200, (4, 6), (30, 31))
    rng = np.random.default_rng(0)
    arguments = {
        "projections": rng.normal(0, 1, (count, 4, 6)).astype(np.float32),
        "times_s": np.linspace(0, 2, count) ** 1.2,
        "source_mm": geometry.source_mm,
        "panel_mm": geometry.panel_mm,
        "column_step_mm": geometry.column_step_mm,
        "row_step_mm": geometry.row_step_mm,
        "weights": np.ones((count, 4, 6), np.float32),
        "volume_shape": (5, 6, 8),
        "volume_spacing_mm": (10.0, 9.0, 8.0),
    }
    return Acquisition(**{**arguments, **changes})


def test_negative_values_are_kept():
    assert (acquisition().projections < 0).any()


def test_views_are_chosen_as_the_papers_choose_them():
    scan = acquisition(7)
    assert scan.views(3).tolist() == [0, 2, 4]
    assert scan.left_out(scan.views(3)).tolist() == [1, 3, 5, 6]
    assert scan.views(7).tolist() == list(range(7))
    for count in (1, 8):
        with pytest.raises(ValueError, match="views must be 2 to 7"):
            scan.views(count)


def test_a_subset_is_the_acquisition_of_these_frames():
    scan = acquisition(7)
    some = scan.subset([1, 4, 6])
    assert some.weights is not None
    np.testing.assert_array_equal(some.projections, scan.projections[[1, 4, 6]])
    np.testing.assert_array_equal(some.times_s, scan.times_s[[1, 4, 6]])  # the clock is that of the scan
    np.testing.assert_array_equal(some.geometry.source_mm, scan.geometry.at([1, 4, 6]).source_mm)
    assert some.volume_shape == scan.volume_shape


def test_the_volume_is_centred_and_lps():
    affine = acquisition().affine_ras()
    expected = [[-10, 0, 0, 20], [0, -9, 0, 22.5], [0, 0, 8, -28], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected)
    x, y, z = acquisition().voxel_centres_mm()
    np.testing.assert_allclose((affine @ [4, 5, 7, 1])[:3] * [-1, -1, 1], [x[4], y[5], z[7]])
    assert x.sum() == y.sum() == z.sum() == 0


def test_the_default_volume_is_what_can_be_seen():
    scan = acquisition()
    shape, spacing = default_volume(scan.geometry, voxels=32)
    seen = np.array([6 * 30, 6 * 30, 4 * 31]) * 765 / 1200
    assert shape[0] == shape[1] == 32
    np.testing.assert_allclose(np.array(shape) * spacing, seen, atol=spacing[0])
    assert default_volume(scan.geometry, voxel_mm=2.0)[1] == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="below the field of view"):
        default_volume(scan.geometry, voxel_mm=500)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"projections": np.zeros((7, 4), np.float32)}, r"\[N, H, W\]"),
        ({"projections": np.full((7, 4, 6), np.nan, np.float32)}, "frame 1: 24 of 24 values are NaN"),
        ({"times_s": np.zeros(7)}, "times must grow"),
        ({"times_s": np.arange(6.0)}, "7 frames need 7 finite times"),
        ({"times_s": np.full(7, np.inf)}, "finite times"),
        ({"source_mm": np.zeros((6, 3))}, "one row per frame"),
        ({"weights": np.ones((7, 4, 5), np.float32)}, "weights must be"),
        ({"weights": -np.ones((7, 4, 6), np.float32)}, "0 or more"),
        ({"weights": np.zeros((7, 4, 6), np.float32)}, "above 0 somewhere"),
        ({"volume_shape": (5, 0, 5)}, "three axes"),
        ({"volume_spacing_mm": (1.0, -1.0, 1.0)}, "voxels above zero"),
    ],
)
def test_what_is_no_acquisition_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        acquisition(**change)


def test_fields_can_be_replaced():
    scan = acquisition()
    assert replace(scan, weights=None).weights is None
    assert scan.with_volume((3, 3, 3), (5, 5, 5)).volume_spacing_mm == (5.0, 5.0, 5.0)
