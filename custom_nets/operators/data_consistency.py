"""Data consistency: a volume of thin slices that, measured again, gives the thick slices that it was made from.

Along the thick axis, m measured slices y are a small matrix W [m, n] (the slice profile) times n thin ones x. Any G
with W G = 1 makes a volume consistent: x + G (y - W x). Ours is the spline through corrected slices,

    G = B (W B)^-1,    B [n, m] the cubic B-spline through m slices at the thin slices' places,

because its correction is smooth: a constant residual is corrected by a constant. The correction of least norm,
W^T (W W^T)^-1, is steps for a box profile and stripes where slices have gaps: a constant residual of 1 is corrected by
0.8 to 1.2 for a Gaussian of 0.8 slice spacings, and not at all within the gaps between boxes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.operators.interpolation import bspline_matrix
from custom_nets.operators.slice_profile import PointSpread, slice_profile_matrix

__all__ = ["LARGEST_GAIN", "TOLERANCE", "SliceMeasurement", "make_consistent", "measure"]

TOLERANCE = 1e-3  # of the intensity range: how exactly a consistent volume reproduces the measured slices
LARGEST_GAIN = 6.0  # noise may grow by so much, not more: reached by Gaussian slices that overlap by more than half


class SliceMeasurement:
    """How thick slices are measured from thin ones along one axis.

    Args:
        rows: number of thin slices.
        centres: of the thick slices, counted in thin slices (0 is the centre of the first one).
        scale: distance of thick slices in thin ones.
        profile: point spread, or its name (:data:`custom_nets.operators.slice_profile.PROFILES`).
        thickness: slice thickness / slice spacing, of a profile by its name; below 1 is a gap.

    Attributes:
        matrix: W [m, rows] float64, thin to thick.
        inverse: G [rows, m] float64, W G = 1: the smooth thin slices that give the thick ones.
        gain: how many times larger than a residual its correction can be (root mean square).

    Example::

        >>> slices = SliceMeasurement(10, [2.0, 7.0], scale=5.0)
        >>> volume = slices.make_consistent(torch.zeros(10, 4, 4), torch.ones(2, 4, 4))
        >>> bool((slices.measure(volume) - 1).abs().max() < 1e-5)
        True
    """

    def __init__(
        self,
        rows: int,
        centres: NDArray[np.float64] | torch.Tensor | list[float],
        scale: float,
        profile: str | PointSpread = "gaussian",
        thickness: float = 1.0,
    ) -> None:
        places = torch.as_tensor(centres, dtype=torch.float64)
        self.matrix = slice_profile_matrix(rows, places, scale, profile, thickness)
        spline = bspline_matrix(len(places), (torch.arange(rows, dtype=torch.float64) - places[0]) / scale)
        self.inverse = spline @ torch.linalg.inv(self.matrix @ spline)
        self.gain = float(torch.linalg.matrix_norm(self.inverse, 2)) / scale**0.5

    def measure(self, volume: torch.Tensor, axis: int = 0) -> torch.Tensor:
        """Thick slices of ``volume``, whose ``axis`` holds the thin ones."""
        return _along(self.matrix, volume, axis)

    def make_consistent(self, volume: torch.Tensor, measured: torch.Tensor, axis: int = 0) -> torch.Tensor:
        """``volume`` with the smooth correction after which :meth:`measure` gives ``measured``."""
        return volume + _along(self.inverse, measured - self.measure(volume, axis), axis)


def _along(matrix: torch.Tensor, volume: torch.Tensor, axis: int) -> torch.Tensor:
    moved = volume.movedim(axis, 0)
    out = matrix.to(volume) @ moved.reshape(moved.shape[0], -1)
    return out.view(-1, *moved.shape[1:]).movedim(0, axis)


def _edge_aligned(rows: int, slices: int, profile: str, thickness: float) -> SliceMeasurement:
    scale = rows / slices
    centres = (torch.arange(slices, dtype=torch.float64) + 0.5) * scale - 0.5
    return SliceMeasurement(rows, centres, scale, profile, thickness)


def measure(
    volume: torch.Tensor, slices: int, axis: int = -1, profile: str = "gaussian", thickness: float = 1.0
) -> torch.Tensor:
    """The same field of view measured with ``slices`` thick slices along ``axis``."""
    return _edge_aligned(volume.shape[axis], slices, profile, thickness).measure(volume, axis)


def make_consistent(
    volume: torch.Tensor, measured: torch.Tensor, axis: int = -1, profile: str = "gaussian", thickness: float = 1.0
) -> torch.Tensor:
    """``volume`` corrected so that :func:`measure` gives ``measured``, which covers the same field of view."""
    return _edge_aligned(volume.shape[axis], measured.shape[axis], profile, thickness).make_consistent(
        volume, measured, axis
    )
