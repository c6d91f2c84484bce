"""Slice profiles as matrices, one per axis: what a scanner with thicker voxels would have measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.operators.interpolation import (
    apply_separable,
    bspline_matrix,
    bspline_weights,
    mirror_index,
    prefilter_matrix,
)

__all__ = ["PROFILES", "degrade", "published_zoom_matrix", "sampled_profile_matrix", "slice_profile_matrix"]


PROFILES = ("gaussian", "box")


_FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian, in standard deviations


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
        return matrix @ prefilter_matrix(n)
    reach = math.ceil(width / 2) + 1
    taps = centres.round().long()[:, None] + torch.arange(-reach, reach + 1)
    distance = taps - centres[:, None]
    weights = ((distance + 0.5).clamp(max=width / 2) - (distance - 0.5).clamp(min=-width / 2)).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.zeros(len(centres), n, dtype=torch.float64).scatter_add_(1, mirror_index(taps, n), weights)


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
    weights = bspline_weights(positions - floor)
    taps = mirror(floor.long()[:, None] + torch.arange(-1, 3))
    matrix = torch.zeros(m, n, dtype=torch.float64).scatter_add_(1, taps, weights)
    return matrix @ torch.linalg.inv(basis)
