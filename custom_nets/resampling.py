"""Interpolation and slice profiles as small matrices, one per axis.

Everything that a bundle does to a regular grid (up-sample it, degrade it, bring it back) is separable: one matrix
[N_out, N_in] per axis. A *position* counts input voxels; 0 is the centre of the first voxel, -0.5 its outer edge.
Boundaries are half-sample symmetric (the first voxel repeats), which keeps constants constant up to the outer edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

__all__ = [
    "PROFILES",
    "apply_separable",
    "bspline_coefficients",
    "bspline_matrix",
    "degrade",
    "linear_matrix",
    "linear_taps",
    "mirror_pad",
    "published_zoom_matrix",
    "sample_bspline",
    "sample_trilinear",
    "sampled_profile_matrix",
    "slice_profile_matrix",
]

PROFILES = ("gaussian", "box")
_FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian, in standard deviations


def apply_separable(volume: torch.Tensor, matrices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Multiply each of the last three axes of ``volume`` [..., X, Y, Z] by its matrix [N', N] (None: leave it)."""
    order = sorted(
        (axis for axis, m in enumerate(matrices) if m is not None),
        key=lambda axis: matrices[axis].shape[0] / matrices[axis].shape[1],  # type: ignore[union-attr]
    )
    for axis in order:  # shrinking axes first: least work
        volume = torch.movedim(torch.movedim(volume, axis - 3, -1) @ matrices[axis].T, -1, axis - 3)  # type: ignore[union-attr]
    return volume


# ---- cubic B-spline ----


def _mirror(index: torch.Tensor, n: int) -> torch.Tensor:
    index = torch.where(index < 0, -1 - index, index)
    index = torch.where(index >= n, 2 * n - 1 - index, index)
    return index.clamp(0, n - 1)


def _bspline_weights(t: torch.Tensor) -> torch.Tensor:
    """Weights [..., 4] of the coefficients at floor - 1 .. floor + 2 for the fraction ``t`` in [0, 1)."""
    u = 1 - t
    return torch.stack([u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3], -1) / 6


def _prefilter_matrix(n: int) -> torch.Tensor:
    """[n, n] float64: samples -> cubic B-spline coefficients."""
    # the cosines of DCT-II are the eigenvectors of [1/6, 4/6, 1/6] with mirrored ends
    order = torch.arange(n, dtype=torch.float64)
    cosines = torch.cos(torch.outer(order, order + 0.5) * (math.pi / n))
    norm = (cosines * cosines).sum(1)
    eigenvalues = (2 + torch.cos(order * (math.pi / n))) / 3
    return cosines.T @ (cosines / (norm * eigenvalues)[:, None])


def bspline_coefficients(volume: torch.Tensor) -> torch.Tensor:
    """Cubic B-spline coefficients of a volume [..., X, Y, Z] (same shape)."""
    for axis in (-3, -2, -1):
        matrix = _prefilter_matrix(volume.shape[axis]).to(volume)
        volume = torch.movedim(torch.movedim(volume, axis, -1) @ matrix.T, -1, axis)
    return volume


def bspline_matrix(n: int, positions: torch.Tensor | NDArray[np.float64], prefilter: bool = True) -> torch.Tensor:
    """[N, n] float64: values at ``positions`` [N] of the cubic B-spline through n samples (or, without
    ``prefilter``, with n coefficients)."""
    positions = torch.as_tensor(positions, dtype=torch.float64)
    floor = positions.floor()
    weights = _bspline_weights(positions - floor)
    taps = _mirror(floor.long()[:, None] + torch.arange(-1, 3), n)
    matrix = torch.zeros(len(positions), n, dtype=torch.float64).scatter_add_(1, taps, weights)
    return matrix @ _prefilter_matrix(n) if prefilter else matrix


def sample_bspline(coefficients: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Spline values at any points.

    Args:
        coefficients: [B, 1, D, H, W] from :func:`bspline_coefficients`.
        positions: [B, K, 3] along D, H, W.

    Returns:
        [B, K].
    """
    b, _, d, h, w = coefficients.shape
    floor = positions.floor()
    weights = _bspline_weights(positions - floor)  # [B, K, 3, 4]
    steps = torch.arange(-1, 3, device=positions.device)
    taps = floor.long()[..., None] + steps
    x = _mirror(taps[:, :, 0], d) * (h * w)
    y = _mirror(taps[:, :, 1], h) * w
    z = _mirror(taps[:, :, 2], w)
    index = (x[..., :, None, None] + y[..., None, :, None]) + z[..., None, None, :]  # [B, K, 4, 4, 4]
    values = coefficients.flatten(1).gather(1, index.flatten(1)).view_as(index)
    values = (values * weights[:, :, 2, None, None, :]).sum(-1)
    values = (values * weights[:, :, 1, None, :]).sum(-1)
    return (values * weights[:, :, 0]).sum(-1)


def mirror_pad(volume: torch.Tensor, width: int) -> torch.Tensor:
    """``width`` voxels more on each side of the last three axes, by the half-sample symmetric continuation that the
    B-spline has too."""
    for axis in (-3, -2, -1):
        n = volume.shape[axis]
        volume = volume.index_select(axis, _mirror(torch.arange(-width, n + width, device=volume.device), n))
    return volume


# ---- linear ----


def linear_taps(
    n: int, positions: torch.Tensor, padding: str = "border"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Linear interpolation along one axis: indices (i0, i1) and weights (w0, w1), each of ``positions``' shape.

    ``padding`` "border" repeats the edge voxel, "zeros" fades to zero beyond the edge voxels' centres.
    """
    floor = positions.floor()
    w1 = positions - floor
    w0 = 1 - w1
    i0 = floor.long()
    i1 = i0 + 1
    if padding == "zeros":
        w0 = torch.where((i0 < 0) | (i0 >= n), torch.zeros_like(w0), w0)
        w1 = torch.where((i1 < 0) | (i1 >= n), torch.zeros_like(w1), w1)
    elif padding != "border":
        raise ValueError(f"padding must be 'border' or 'zeros', got '{padding}'.")
    return i0.clamp(0, n - 1), i1.clamp(0, n - 1), w0, w1


def linear_matrix(n: int, positions: torch.Tensor | NDArray[np.float64], padding: str = "border") -> torch.Tensor:
    """[N, n] float64: values at ``positions`` [N] of the straight lines through n samples."""
    positions = torch.as_tensor(positions, dtype=torch.float64)
    i0, i1, w0, w1 = linear_taps(n, positions, padding)
    matrix = torch.zeros(len(positions), n, dtype=torch.float64)
    return matrix.scatter_add_(1, i0[:, None], w0[:, None]).scatter_add_(1, i1[:, None], w1[:, None])


def sample_trilinear(volume: torch.Tensor, positions: torch.Tensor, padding: str = "border") -> torch.Tensor:
    """Trilinear interpolation at any points, of many channels at once.

    Args:
        volume: [B, C, D, H, W].
        positions: [B, K, 3] along D, H, W.
        padding: see :func:`linear_taps`.

    Returns:
        [B, K, C].
    """
    b, c, d, h, w = volume.shape
    x0, x1, u0, u1 = linear_taps(d, positions[..., 0], padding)
    y0, y1, v0, v1 = linear_taps(h, positions[..., 1], padding)
    z0, z1, w0, w1 = linear_taps(w, positions[..., 2], padding)
    xs, us = torch.stack([x0, x1], -1) * (h * w), torch.stack([u0, u1], -1)
    ys, vs = torch.stack([y0, y1], -1) * w, torch.stack([v0, v1], -1)
    zs, ws = torch.stack([z0, z1], -1), torch.stack([w0, w1], -1)
    index = (xs[..., :, None, None] + ys[..., None, :, None]) + zs[..., None, None, :]
    weights = us[..., :, None, None] * vs[..., None, :, None] * ws[..., None, None, :]
    # one fused gather-and-sum over the voxels of all samples, each voxel a row of C values
    offset = torch.arange(b, device=volume.device)[:, None, None] * (d * h * w)
    table = volume.permute(0, 2, 3, 4, 1).reshape(-1, c)
    rows = F.embedding_bag(
        (index.flatten(2) + offset).flatten(0, 1),
        table,
        mode="sum",
        per_sample_weights=weights.flatten(2).flatten(0, 1).to(table.dtype),
    )
    return rows.view(b, -1, c)


# ---- slice profiles: what a scanner with thicker voxels would have measured ----


def slice_profile_matrix(
    n: int, centres: torch.Tensor | NDArray[np.float64], scale: float, profile: str, thickness: float = 1.0
) -> torch.Tensor:
    """[N, n] float64: thick voxels at ``centres`` [N] (positions on the fine axis) from n fine ones.

    Args:
        n: voxels of the fine axis.
        centres: where the thick voxels lie.
        scale: distance between thick voxels in fine voxels.
        profile: "gaussian" (full width at half maximum = thickness) or "box".
        thickness: slice thickness / slice spacing; below 1 is a gap, above 1 overlapping slices.

    A fine voxel is itself an integral over its width. The Gaussian's width is therefore what has to be *added* to one
    fine voxel (in quadrature), and a box counts each fine voxel by its overlap: scale 1 without a gap is the identity.

    Raises:
        ValueError: unknown profile; thickness not above zero.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got '{profile}'.")
    if not thickness > 0:
        raise ValueError(f"thickness (slice thickness / slice spacing) must be above zero, got {thickness}.")
    centres = torch.as_tensor(centres, dtype=torch.float64)
    width = scale * thickness
    if width <= 1.0:  # thinner than a fine voxel: nothing to average, only to sample
        return bspline_matrix(n, centres)
    if profile == "gaussian":
        sigma = math.sqrt(width**2 - 1) / _FWHM
        offsets = torch.linspace(-3.5, 3.5, 2 * math.ceil(14 * sigma) + 1, dtype=torch.float64) * sigma
        weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
        # between the fine voxels the spline tells the value: exact for any place of the centre, however narrow
        points = bspline_matrix(n, (centres[:, None] + offsets).flatten(), prefilter=False)
        matrix = (points.view(len(centres), -1, n) * (weights / weights.sum())[:, None]).sum(1)
        return matrix @ _prefilter_matrix(n)
    reach = math.ceil(width / 2) + 1
    taps = centres.round().long()[:, None] + torch.arange(-reach, reach + 1)
    distance = taps - centres[:, None]
    weights = ((distance + 0.5).clamp(max=width / 2) - (distance - 0.5).clamp(min=-width / 2)).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.zeros(len(centres), n, dtype=torch.float64).scatter_add_(1, _mirror(taps, n), weights)


def sampled_profile_matrix(n: int, scale: float, profile: str = "gaussian", thickness: float = 1.0) -> torch.Tensor:
    """[floor(n / scale), n] float64: thick slices of fine ones that count as samples, the first edge to edge.

    The plain operator that published numbers can be compared on: the Gaussian's full width at half maximum is the
    thickness itself (cut at 4 standard deviations), and where a slice reaches over the edge, what is inside counts.
    :func:`slice_profile_matrix` knows that a fine slice is an average already.

    Args:
        n: fine slices.
        scale: distance between thick slices in fine ones.
        profile: "gaussian" or "box".
        thickness: slice thickness / slice spacing.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got '{profile}'.")
    centres = (scale - 1) / 2 + torch.arange(int(n // scale), dtype=torch.float64) * scale
    distance = torch.arange(n, dtype=torch.float64) - centres[:, None]
    width = scale * thickness
    if profile == "gaussian":
        sigma = width / _FWHM
        weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= 4 * sigma)
    else:
        weights = (distance + 0.5).clamp(max=width / 2) - (distance - 0.5).clamp(min=-width / 2)
        weights = weights.clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def degrade(
    volume: torch.Tensor, shape: Sequence[int], profile: str = "gaussian", thickness: float = 1.0
) -> torch.Tensor:
    """The same field of view measured with ``shape`` voxels, centre-aligned.

    Args:
        volume: [..., X, Y, Z].
        shape: voxels of the result along X, Y, Z; an axis that keeps its number of voxels is left as it is.
        profile, thickness: see :func:`slice_profile_matrix`.
    """
    matrices: list[torch.Tensor | None] = []
    for n, m in zip(volume.shape[-3:], shape, strict=True):
        scale = n / m
        centres = (torch.arange(m, dtype=torch.float64) + 0.5) * scale - 0.5
        matrices.append(None if n == m else slice_profile_matrix(n, centres, scale, profile, thickness).to(volume))
    return apply_separable(volume, matrices)


def published_zoom_matrix(n: int, m: int) -> torch.Tensor:
    """[m, n] float64: the down-sampling of the published code (``scipy.ndimage.zoom(x, m / n, order=3)``).

    No anti-alias filter, and the first and last *centres* coincide instead of the outer edges: the pairs that it
    makes are magnified about the centre. For parity only. Whole-sample symmetric boundary.
    """

    def mirror(index: torch.Tensor) -> torch.Tensor:
        period = max(2 * (n - 1), 1)
        index = index.abs() % period
        return torch.minimum(index, period - index).clamp(0, n - 1)

    rows = torch.arange(n)
    basis = torch.zeros(n, n, dtype=torch.float64)
    for shift, weight in ((-1, 1 / 6), (0, 4 / 6), (1, 1 / 6)):
        basis.index_put_((rows, mirror(rows + shift)), torch.full((n,), weight, dtype=torch.float64), accumulate=True)
    positions = torch.arange(m, dtype=torch.float64) * ((n - 1) / max(m - 1, 1))
    floor = positions.floor()
    weights = _bspline_weights(positions - floor)
    taps = mirror(floor.long()[:, None] + torch.arange(-1, 3))
    matrix = torch.zeros(m, n, dtype=torch.float64).scatter_add_(1, taps, weights)
    return matrix @ torch.linalg.inv(basis)
