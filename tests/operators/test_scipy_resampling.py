import numpy as np
import pytest

from custom_nets.geometry import Grid
from custom_nets.operators.scipy_resampling import BASELINES, inside_field_of_view, resample_bspline, resample_trilinear


def oblique_affine(seed=0):
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * [1.1, 0.9, 3.0]
    affine[:3, 3] = rng.normal(size=3) * 50
    return affine


def field(grid, centre):
    """A smooth field of world coordinates about ``centre``, at the voxels of a grid."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    world = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return np.cos(((world - centre) * [0.10, 0.07, 0.05]).sum(-1))


@pytest.mark.parametrize("seed", range(3))
def test_bspline_finds_the_same_place_in_the_world(seed):
    source = Grid((21, 24, 18), oblique_affine(seed))
    centre = (source.affine @ [10, 11.5, 8.5, 1])[:3]
    volume = field(source, centre)

    target = source.rescaled((1.7, 2, 3))
    inner = (slice(10, -10),) * 3  # away from the edges, which are mirrored
    error = resample_bspline(volume, source, target) - field(target, centre)
    assert np.abs(error[inner]).max() < 3e-3

    turned = oblique_affine(seed + 5)
    turned[:3, :3] *= 0.5
    turned[:3, 3] = centre - turned[:3, :3] @ [4.5, 4.5, 3.5]
    oblique = Grid((10, 10, 8), turned)
    assert np.abs(resample_bspline(volume, source, oblique) - field(oblique, centre)).max() < 3e-3


@pytest.mark.parametrize("method", BASELINES.values())
def test_constants_stay_up_to_the_outer_edge_and_the_own_grid_is_identity(method):
    source = Grid((7, 8, 5), oblique_affine())
    constant = method(np.full(source.shape, 3.0), source, source.rescaled((2, 2.5, 4)))
    np.testing.assert_allclose(constant, 3.0, atol=1e-5)
    noise = np.random.default_rng(0).normal(size=source.shape)
    np.testing.assert_allclose(method(noise, source, source), noise, atol=1e-5)


def test_trilinear_is_exact_on_a_ramp_and_clamps_at_the_edge():
    source = Grid((6, 6, 6), np.eye(4))
    ramp = np.broadcast_to(np.arange(6.0)[:, None, None], (6, 6, 6))
    fine = resample_trilinear(ramp, source, source.rescaled(2))
    np.testing.assert_allclose(fine[:, 0, 0], np.clip((np.arange(12) + 0.5) / 2 - 0.5, 0, 5), atol=1e-6)


def test_bspline_agrees_with_our_own_matrices():
    torch = pytest.importorskip("torch")
    resampling = pytest.importorskip("custom_nets.operators.interpolation")
    source = Grid((9, 8, 7), np.eye(4))
    target = source.rescaled((2, 1, 3.3))
    volume = np.random.default_rng(1).normal(size=source.shape)
    matrices = [
        resampling.bspline_matrix(n, torch.as_tensor(p)).double()
        for n, p in zip(source.shape, source.axis_positions(target), strict=True)
    ]
    ours = resampling.apply_separable(torch.from_numpy(volume), matrices)
    np.testing.assert_allclose(ours.numpy(), resample_bspline(volume, source, target), atol=2e-5)


def test_field_of_view():
    source = Grid((4, 4, 4), np.eye(4))
    assert inside_field_of_view(source, source.rescaled(2)).all()
    moved = np.eye(4)
    moved[0, 3] = 2
    inside = inside_field_of_view(source, Grid((4, 4, 4), moved))
    assert inside[:2].all() and not inside[2:].any()


def test_a_volume_on_another_grid_is_refused():
    grid = Grid((4, 4, 4), np.eye(4))
    with pytest.raises(ValueError, match="does not lie on its grid"):
        resample_trilinear(np.zeros((4, 4, 5)), grid, grid)
