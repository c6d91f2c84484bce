"""Grids of any place, direction and size: what holds for all of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from custom_nets.geometry import Grid

shapes = st.tuples(*[st.integers(1, 40)] * 3)
spacings = st.tuples(*[st.floats(0.2, 8)] * 3)
scales = st.tuples(*[st.floats(0.3, 5)] * 3)


@st.composite
def grids(draw) -> Grid:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-3, 3)] * 3))).as_matrix()
    flips = np.array(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    affine[:3, :3] = turn * flips * np.array(draw(spacings))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return Grid(draw(shapes), affine)


def corner(grid: Grid, far: bool) -> np.ndarray:
    """An outer corner of the field of view in mm."""
    index = np.array(grid.shape) - 0.5 if far else np.full(3, -0.5)
    return grid.affine[:3, :3] @ index + grid.affine[:3, 3]


@given(grids(), scales)
@settings(max_examples=60, deadline=None)
def test_rescaled_keeps_the_field_of_view(grid, scale):
    new = grid.rescaled(scale)
    for far in (False, True):
        np.testing.assert_allclose(corner(new, far), corner(grid, far), atol=1e-6)
    assert new.shape == tuple(max(1, round(n * s)) for n, s in zip(grid.shape, scale, strict=True))


@given(grids(), spacings)
@settings(max_examples=60, deadline=None)
def test_with_spacing_is_exact_and_ends_within_half_a_voxel(grid, spacing):
    new = grid.with_spacing(spacing)
    np.testing.assert_allclose(new.spacing_mm, spacing, rtol=1e-9)
    np.testing.assert_allclose(corner(new, False), corner(grid, False), atol=1e-6)
    off = np.array(new.shape) * new.spacing_mm - np.array(grid.shape) * grid.spacing_mm
    single = np.array(new.shape) == 1  # there is always one voxel, however large
    assert (np.abs(off) <= 0.5 * np.array(spacing) * (1 + 1e-4))[~single].all()


@given(grids(), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
@settings(max_examples=60, deadline=None)
def test_turned_is_the_same_place(grid, order, flips):
    volume = np.arange(grid.voxels).reshape(grid.shape)
    turned = np.flip(volume.transpose(order), [axis for axis in range(3) if flips[axis]])
    new = grid.turned(order, flips)
    assert new.shape == turned.shape
    for index in np.ndindex(tuple(min(n, 3) for n in new.shape)):
        old = np.unravel_index(turned[index], grid.shape)
        np.testing.assert_allclose(new.affine @ [*index, 1.0], grid.affine @ [*(float(i) for i in old), 1.0], atol=1e-6)


@given(grids(), grids())
@settings(max_examples=60, deadline=None)
def test_index_maps_undo_each_other(a, b):
    np.testing.assert_allclose(a.index_map(b) @ b.index_map(a), np.eye(4), atol=1e-6)
