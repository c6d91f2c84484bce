import sys

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_nets.geometry import Grid, nearest_axes
from custom_nets.operators.scipy_resampling import resample_bspline, resample_trilinear
from custom_nets.visualize.figure import UprightVolume
from custom_nets.visualize.volumes import comparison_figure, preview_figure

PNG = b"\x89PNG"


def volume(array, grid):
    return MetaTensor(
        torch.as_tensor(np.asarray(array), dtype=torch.float32)[None], affine=torch.as_tensor(grid.affine)
    )


@pytest.fixture
def scans():
    """A low-resolution volume with thick slices, its truth, both oblique and flipped."""
    affine = np.array([[-0.9, 0.05, 0, 40], [0, 0.1, -1.1, 30], [0.02, 1.0, 0.1, -20], [0, 0, 0, 1.0]])
    fine = Grid((20, 24, 16), affine)
    coarse = fine.rescaled((1, 0.25, 1))
    rng = np.random.default_rng(0)
    low = volume(rng.random(coarse.shape), coarse)
    truth = volume(resample_bspline(low[0].numpy(), coarse, fine), fine)
    return low, truth


def test_volumes_are_turned_to_right_anterior_superior():
    # array axes run to the left, up, and to the back
    affine = np.array([[-2.0, 0, 0, 5], [0, 0, -3, 7], [0, 1, 0, -1], [0, 0, 0, 1]])
    assert nearest_axes(affine) == ([0, 2, 1], [True, True, False])
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    upright = UprightVolume.of(data, Grid(data.shape, affine))
    assert upright.data.shape == (2, 4, 3)
    np.testing.assert_allclose(np.diag(upright.grid.affine), [2, 3, 1, 1])
    # the same value lies at the same place
    place = affine @ [1, 2, 3, 1]
    index = np.round(np.linalg.inv(upright.grid.affine) @ place).astype(int)[:3]
    assert upright.data[tuple(index)] == data[1, 2, 3]


def test_the_input_is_drawn_as_its_voxels():
    coarse = Grid((2, 1, 1), np.diag([4.0, 4, 4, 1]))
    blocks = UprightVolume.of(np.array([1.0, 2.0]).reshape(2, 1, 1), coarse).at(coarse.rescaled(4))
    assert (blocks[:4] == 1).all() and (blocks[4:] == 2).all()


def test_comparison_is_written_whole(scans, tmp_path):
    low, truth = scans
    grid = Grid.of(truth)
    spline, linear = (f(low[0].numpy(), Grid.of(low), grid) for f in (resample_bspline, resample_trilinear))
    path = comparison_figure(
        tmp_path / "new" / "case.png",
        low,
        truth,
        {"B-spline": linear, "ours": spline},
        mask=truth[0] > 0.3,
        psnr_db={"B-spline": 20.0, "ours": float("inf")},
        title="case",
    )
    assert path.read_bytes()[:4] == PNG
    assert [p.name for p in path.parent.iterdir()] == ["case.png"]


def test_preview_is_written_and_pyplot_is_not_touched(scans, tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    path = preview_figure(tmp_path / "preview.png", *scans)
    assert path.read_bytes()[:4] == PNG
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_constant_and_perfect_volumes_can_be_drawn(scans, tmp_path):
    low, truth = scans
    comparison_figure(tmp_path / "perfect.png", low, truth, {"ours": truth})
    preview_figure(tmp_path / "flat.png", low * 0, truth * 0)


def test_what_cannot_be_drawn_is_said(scans, tmp_path):
    low, truth = scans
    with pytest.raises(ValueError, match="mask is empty"):
        comparison_figure(tmp_path / "a.png", low, truth, {}, mask=np.zeros(truth.shape))
    with pytest.raises(ValueError, match="one volume"):
        preview_figure(tmp_path / "a.png", torch.cat([low, low]), truth)
    assert not list(tmp_path.iterdir())
