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
    "SeparableOperator",
    "apply_separable",
    "bspline_coefficients",
    "bspline_matrix",
    "linear_matrix",
    "linear_taps",
    "mirror_pad",
    "sample_bspline",
    "sample_trilinear",
]


def apply_separable(volume: torch.Tensor, matrices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Multiply each of the last three axes of ``volume`` [..., X, Y, Z] by its matrix [N', N] (None: leave it)."""
    order = sorted(
        (axis for axis, m in enumerate(matrices) if m is not None),
        key=lambda axis: matrices[axis].shape[0] / matrices[axis].shape[1],  # type: ignore[union-attr]
    )
    for axis in order:  # shrinking axes first: least work
        volume = torch.movedim(torch.movedim(volume, axis - 3, -1) @ matrices[axis].T, -1, axis - 3)  # type: ignore[union-attr]
    return volume


class SeparableOperator:
    """One matrix per axis.

    Args:
        matrices: [N', N] of each of the last three axes; None leaves an axis as it is.
    """

    def __init__(self, matrices: Sequence[torch.Tensor | None]) -> None:
        self.matrices = matrices

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """[..., X, Y, Z] -> [..., X', Y', Z']."""
        return apply_separable(volume, [None if m is None else m.to(volume) for m in self.matrices])

    def adjoint(self, volume: torch.Tensor) -> torch.Tensor:
        """Apply the transpose of :meth:`forward`: [..., X', Y', Z'] -> [..., X, Y, Z]."""
        return apply_separable(volume, [None if m is None else m.to(volume).T for m in self.matrices])


# ---- cubic B-spline ----


def mirror_index(index: torch.Tensor, n: int) -> torch.Tensor:
    index = torch.where(index < 0, -1 - index, index)
    index = torch.where(index >= n, 2 * n - 1 - index, index)
    return index.clamp(0, n - 1)


def bspline_weights(t: torch.Tensor) -> torch.Tensor:
    """Weights [..., 4] of the coefficients at floor - 1 .. floor + 2 for the fraction ``t`` in [0, 1)."""
    u = 1 - t
    return torch.stack([u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3], -1) / 6


def prefilter_matrix(n: int) -> torch.Tensor:
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
        matrix = prefilter_matrix(volume.shape[axis]).to(volume)
        volume = torch.movedim(torch.movedim(volume, axis, -1) @ matrix.T, -1, axis)
    return volume


def bspline_matrix(n: int, positions: torch.Tensor | NDArray[np.float64], prefilter: bool = True) -> torch.Tensor:
    """[N, n] float64: values at ``positions`` [N] of the cubic B-spline through n samples (or, without
    ``prefilter``, with n coefficients)."""
    positions = torch.as_tensor(positions, dtype=torch.float64)
    floor = positions.floor()
    weights = bspline_weights(positions - floor)
    taps = mirror_index(floor.long()[:, None] + torch.arange(-1, 3), n)
    matrix = torch.zeros(len(positions), n, dtype=torch.float64).scatter_add_(1, taps, weights)
    return matrix @ prefilter_matrix(n) if prefilter else matrix


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
    weights = bspline_weights(positions - floor)  # [B, K, 3, 4]
    steps = torch.arange(-1, 3, device=positions.device)
    taps = floor.long()[..., None] + steps
    x = mirror_index(taps[:, :, 0], d) * (h * w)
    y = mirror_index(taps[:, :, 1], h) * w
    z = mirror_index(taps[:, :, 2], w)
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
        volume = volume.index_select(axis, mirror_index(torch.arange(-width, n + width, device=volume.device), n))
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
