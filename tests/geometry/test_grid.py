"""The geometry contract: known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_nets.geometry import Grid, as_triple
from tests.conftest import random_affine


def corners(grid: Grid) -> np.ndarray:
    """The eight outer corners in mm."""
    index = np.stack(np.meshgrid(*([-0.5, n - 0.5] for n in grid.shape), indexing="ij"), -1).reshape(-1, 3)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def grid(shape=(8, 9, 10), spacing=(1.0, 1.0, 4.0), origin=(0.0, 0.0, -10.0)) -> Grid:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return Grid(shape, affine)


def test_half_voxel_rule():
    """Slices of 4 mm whose first centre lies at -10 begin at -12, so the first of 2 mm lies at -11."""
    for target in (grid().rescaled((1, 1, 2)), grid().with_spacing((1, 1, 2))):
        assert target.shape == (8, 9, 20)
        np.testing.assert_allclose(target.affine[:3, 3], [0, 0, -11])
        np.testing.assert_allclose(target.spacing_mm, [1, 1, 2])


@pytest.mark.parametrize("seed", range(5))
def test_rescaled_keeps_the_field_of_view(seed: int):
    rng = np.random.default_rng(seed)
    source = Grid(tuple(rng.integers(1, 40, 3)), random_affine(rng))
    target = source.rescaled(tuple(rng.uniform(0.2, 5, 3)))
    np.testing.assert_allclose(corners(target), corners(source), atol=1e-9)
    np.testing.assert_allclose(target.rescaled(1).affine, target.affine)


@pytest.mark.parametrize("seed", range(5))
def test_with_spacing_is_exact_and_keeps_the_first_edge(seed: int):
    rng = np.random.default_rng(seed)
    source = Grid(tuple(rng.integers(3, 40, 3)), random_affine(rng))
    wanted = rng.uniform(0.4, 3, 3)
    target = source.with_spacing(tuple(wanted))
    np.testing.assert_allclose(target.spacing_mm, wanted, rtol=1e-12)
    np.testing.assert_allclose(corners(target)[0], corners(source)[0], atol=1e-9)
    lengths = np.array(target.shape) * wanted - np.array(source.shape) * source.spacing_mm
    assert (np.abs(lengths) <= wanted * 0.5001).all()


def test_spacing_of_a_float32_header_is_not_one_voxel_more():
    spacing = np.float64(np.float32(0.9))  # 0.89999998
    assert grid((10, 10, 5), (spacing,) * 3).with_spacing(1.8 - 1e-9).shape == (5, 5, 2)


def test_index_map_says_where_the_same_point_lies():
    rng = np.random.default_rng(0)
    a, b = (Grid((7, 8, 9), random_affine(rng)) for _ in range(2))
    index = np.array([3.0, 1.5, 2.0, 1.0])
    np.testing.assert_allclose(a.affine @ (a.index_map(b) @ index), b.affine @ index, atol=1e-9)


def test_axis_positions():
    source = grid()
    positions = source.axis_positions(source.rescaled((1, 1, 2)))
    np.testing.assert_allclose(positions[0], np.arange(8), atol=1e-12)
    np.testing.assert_allclose(positions[2][:4], [-0.25, 0.25, 0.75, 1.25])
    flipped = Grid(source.shape, source.affine @ np.diag([-1.0, 1, 1, 1]))
    np.testing.assert_allclose(source.axis_positions(flipped)[0], -np.arange(8.0))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.01), -np.sin(0.01)], [np.sin(0.01), np.cos(0.01)]]
    assert source.axis_positions(Grid(source.shape, turn @ source.affine)) is None
    permuted = Grid((10, 9, 8), source.affine[:, [2, 1, 0, 3]])
    assert source.axis_positions(permuted) is None


def test_scale_to():
    np.testing.assert_allclose(grid().scale_to(grid().rescaled((1, 2, 4))), [1, 18 / 9, 4])
    permuted = Grid((10, 9, 8), grid().affine[:, [2, 1, 0, 3]])
    np.testing.assert_allclose(grid().scale_to(permuted), [1, 1, 1])


def test_grid_of_an_image():
    image = MetaTensor(torch.zeros(2, 3, 4, 5), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])))
    found = Grid.of(image)
    assert found.shape == (3, 4, 5) and found.voxels == 60 and found.affine.dtype == np.float64
    with pytest.raises(ValueError, match="no affine"):
        Grid.of(torch.zeros(1, 3, 4, 5))


@pytest.mark.parametrize(
    "shape, affine, message",
    [
        ((0, 4, 4), np.eye(4), "at least one voxel"),
        ((4, 4), np.eye(4), "three axes"),
        ((4, 4, 4), np.eye(3), "invertible 4x4"),
        ((4, 4, 4), np.diag([1.0, 0, 1, 1]), "invertible 4x4"),
        ((4, 4, 4), np.full((4, 4), np.nan), "invertible 4x4"),
    ],
)
def test_grids_that_no_volume_has(shape, affine, message: str):
    with pytest.raises(ValueError, match=message):
        Grid(shape, affine)


@pytest.mark.parametrize("value", [0, -1.0, (1, 2), (1, 0, 1), float("nan"), (1, float("inf"), 1), "1mm", None, []])
def test_a_spacing_that_is_none(value):
    with pytest.raises(ValueError, match="spacing must be"):
        as_triple(value, "spacing")


def test_one_number_stands_for_three():
    assert as_triple(2, "scale").tolist() == as_triple([2], "scale").tolist() == [2, 2, 2]
    assert as_triple((1, 2, 4), "scale").tolist() == [1, 2, 4]
