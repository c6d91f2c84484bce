"""Interpolation and slice profiles against scipy and against known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from custom_nets.operators.interpolation import (
    apply_separable,
    bspline_coefficients,
    bspline_matrix,
    linear_matrix,
    linear_taps,
    sample_bspline,
    sample_trilinear,
)
from custom_nets.operators.slice_profile import degrade, published_zoom_matrix, slice_profile_matrix


@pytest.fixture(scope="module")
def volume() -> torch.Tensor:
    return torch.as_tensor(np.random.RandomState(0).rand(7, 9, 6))


def edge_aligned(n: int, m: int) -> torch.Tensor:
    return (torch.arange(m, dtype=torch.float64) + 0.5) * n / m - 0.5


# ---- interpolation ----


@pytest.mark.parametrize("order, matrix", [(3, bspline_matrix), (1, linear_matrix)])
def test_matrices_equal_scipy(volume, order: int, matrix):
    """Inside of the field of view, up to its outer edge."""
    axes = [edge_aligned(n, m) for n, m in zip(volume.shape, (15, 20, 11), strict=True)]
    found = apply_separable(volume, [matrix(n, p) for n, p in zip(volume.shape, axes, strict=True)])
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    mode = "reflect" if order == 3 else "nearest"  # the same thing for linear interpolation
    np.testing.assert_allclose(
        found, ndimage.map_coordinates(volume.numpy(), points, order=order, mode=mode), atol=1e-6
    )


def test_points_equal_matrices(volume):
    points = torch.rand(2, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        volume.shape
    ) - torch.tensor(0.5)
    batch = torch.stack([volume, volume.flip(0)])[:, None]
    spline = sample_bspline(bspline_coefficients(batch), points)
    linear = sample_trilinear(batch, points)[..., 0]
    for b in range(2):
        for found, matrix in ((spline, bspline_matrix), (linear, linear_matrix)):
            rows = [matrix(n, points[b, :, a]) for a, n in enumerate(volume.shape)]
            wanted = torch.einsum("px,py,pz,xyz->p", *rows, batch[b, 0])
            torch.testing.assert_close(found[b], wanted, atol=1e-12, rtol=0)


def test_trilinear_of_many_channels_and_zero_padding(volume):
    """As grid_sample has it with padding "zeros" (published features fade at the border)."""
    features = torch.stack([volume, volume**2, 1 - volume])[None]
    n = torch.tensor(volume.shape)
    points = torch.rand(1, 80, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * (n + 2) - 1.5
    coords = ((2 * points + 1) / n - 1).flip(-1)[:, None, None]
    for padding, mode in (("zeros", "zeros"), ("border", "border")):
        wanted = torch.nn.functional.grid_sample(features, coords, padding_mode=mode, align_corners=False)
        found = sample_trilinear(features, points, padding)
        torch.testing.assert_close(found, wanted[:, :, 0, 0].transpose(1, 2), atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="padding must be"):
        linear_taps(5, torch.zeros(3), "reflect")


@pytest.mark.parametrize("matrix", [bspline_matrix, linear_matrix])
def test_known_answers(matrix):
    n = 24
    positions = edge_aligned(n, 60)
    m = matrix(n, positions)
    torch.testing.assert_close(m.sum(1), torch.ones(60, dtype=torch.float64))  # constants stay
    torch.testing.assert_close(matrix(n, torch.arange(n)), torch.eye(n, dtype=torch.float64), atol=1e-12, rtol=0)
    inside = (positions > 8) & (positions < n - 9)  # the symmetric border bends a ramp, and fades by 0.27 per voxel
    ramp = m @ torch.arange(n, dtype=torch.float64)
    torch.testing.assert_close(ramp[inside], positions[inside], atol=2e-5, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_samples(n: int):
    for matrix in (bspline_matrix, linear_matrix):
        m = matrix(n, edge_aligned(n, 4 * n))
        assert m.shape == (4 * n, n) and torch.isfinite(m).all()
        torch.testing.assert_close(m.sum(1), torch.ones(4 * n, dtype=torch.float64))


def test_spline_is_smooth_beyond_the_edge_and_float32_is_close(volume):
    far = torch.tensor([-3.2, 20.0])
    assert torch.isfinite(bspline_matrix(7, far)).all()
    single, double = bspline_coefficients(volume.float()[None]), bspline_coefficients(volume[None])
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=0)


def test_apply_separable_leaves_axes_without_a_matrix(volume):
    m = linear_matrix(9, edge_aligned(9, 3))
    found = apply_separable(volume[None], [None, m, None])
    torch.testing.assert_close(found, torch.einsum("ij,cxjz->cxiz", m, volume[None]))


# ---- slice profiles ----


def spread(matrix_row: torch.Tensor) -> tuple[float, float]:
    """Centre and variance of a row of weights."""
    index = torch.arange(len(matrix_row), dtype=torch.float64)
    centre = float((matrix_row * index).sum())
    return centre, float((matrix_row * (index - centre) ** 2).sum())


@pytest.mark.parametrize("profile", ["gaussian", "box", "trapezoid"])
@pytest.mark.parametrize("scale, thickness", [(1.7, 1.0), (2.0, 1.0), (3.0, 0.7), (5.0, 1.0), (6.0, 1.25)])
def test_profile_mass_centre_and_width(profile: str, scale: float, thickness: float):
    n = 120
    centres = torch.tensor([58.0, 59.5, 60.3])
    matrix = slice_profile_matrix(n, centres, scale, profile, thickness)
    torch.testing.assert_close(matrix.sum(1), torch.ones(3, dtype=torch.float64))
    width = scale * thickness
    for row, centre in zip(matrix, centres, strict=True):
        found, variance = spread(row)
        # a box that ends inside of voxels takes their share as if they were flat, which tilts its centre by a little
        assert found == pytest.approx(float(centre), abs=1e-3 if profile == "gaussian" else 1 / (8 * width) + 1e-9)
        if profile == "gaussian":
            # the Gaussian of full width w less the voxel that is there already
            assert variance == pytest.approx((width**2 - 1) / (8 * np.log(2)), rel=0.01)


def test_gaussian_has_the_full_width_at_half_maximum():
    """Measured on an edge spread: a fine voxel one wide and the profile add up to ``scale``."""
    scale, n = 6.0, 101
    row = slice_profile_matrix(n, torch.tensor([50.0]), scale, "gaussian")[0].numpy()
    fine = np.linspace(40, 60, 4001)
    values = np.interp(fine, np.arange(n), row)
    width = np.ptp(fine[values >= values.max() / 2])
    assert width == pytest.approx(np.sqrt(scale**2 - 1), rel=0.01)


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_box_of_a_whole_factor_is_mean_pooling(volume, factor: int):
    volume = torch.rand(1, 60, 60, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.avg_pool3d(volume, factor)
    torch.testing.assert_close(degrade(volume, wanted.shape[1:], "box"), wanted)


@pytest.mark.parametrize("profile", ["gaussian", "box", "trapezoid"])
def test_no_degradation_at_scale_one(volume, profile: str):
    torch.testing.assert_close(slice_profile_matrix(9, torch.arange(9), 1.0, profile), torch.eye(9).double())
    assert torch.equal(degrade(volume[None], volume.shape, profile), volume[None])


@pytest.mark.parametrize("profile", ["gaussian", "box", "trapezoid"])
def test_degraded_ramp_stays_where_it_is(profile: str):
    """Centre-aligned: an LR voxel's value of a ramp is its own centre, away from the faces."""
    n, m = 60, 20
    ramp = torch.arange(n, dtype=torch.float64)[:, None, None].expand(n, 4, 5)
    coarse = degrade(ramp, (m, 4, 5), profile)
    torch.testing.assert_close(coarse[5:-5, 0, 0], edge_aligned(n, m)[5:-5], atol=1e-4, rtol=0)
    torch.testing.assert_close(degrade(torch.ones(n, 4, 5), (m, 2, 3), profile), torch.ones(m, 2, 3))


def test_gap_keeps_more_detail_than_no_gap():
    wave = torch.cos(torch.arange(60) * 2 * torch.pi / 10).double()[:, None, None]
    amplitude = [float(degrade(wave, (15, 1, 1), "gaussian", t).abs().max()) for t in (0.5, 1.0, 1.5)]
    assert amplitude == sorted(amplitude, reverse=True)


def test_profiles_refuse_nonsense():
    with pytest.raises(ValueError, match="gaussian, box"):
        slice_profile_matrix(9, torch.arange(3), 3.0, "sinc")
    with pytest.raises(ValueError, match="above zero"):
        slice_profile_matrix(9, torch.arange(3), 3.0, "box", 0.0)


# ---- the published operator ----


@pytest.mark.parametrize("n, m", [(40, 10), (23, 12), (17, 8), (20, 10), (9, 23), (14, 6)])
def test_published_zoom_equals_scipy(n: int, m: int):
    line = np.random.RandomState(n).rand(n)
    np.testing.assert_allclose(
        published_zoom_matrix(n, m) @ line, ndimage.zoom(line, m / n, order=3, mode="mirror"), atol=1e-9
    )
