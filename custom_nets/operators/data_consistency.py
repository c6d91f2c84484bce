"""Data consistency: a volume of thin slices that, measured again, gives the thick slices that it was made from.

Along the thick axis, m measured slices y are a small matrix W [m, n] (the slice profile) times n thin ones x. Any G
with W G = 1 makes a volume consistent: x + G (y - W x). Ours is the spline through corrected slices,

    G = B (W B)^-1,    B [n, m] the cubic B-spline through m slices at the thin slices' places,

because its correction is smooth: a constant residual is corrected by a constant. The correction of least norm,
W^T (W W^T)^-1, is steps for a box profile and stripes where slices have gaps: a constant residual of 1 is corrected by
0.8 to 1.2 for a Gaussian of 0.8 slice spacings, and not at all within the gaps between boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.operators.interpolation import bspline_matrix
from custom_nets.operators.slice_profile import PointSpread, slice_profile_matrix

__all__ = [
    "DAMPING",
    "ENDS_AT",
    "LARGEST_GAIN",
    "LARGEST_OVERREACH",
    "LEAST_AGREEMENT",
    "STEPS",
    "TOLERANCE",
    "SliceMeasurement",
    "VolumeMeasurement",
    "agreement",
    "disagreement",
    "make_consistent",
    "measure",
    "not_exact",
    "overreach",
    "too_much_taken",
    "too_wide",
]

TOLERANCE = 1e-3  # of the intensity range: how exactly a consistent volume reproduces the measured slices
ENDS_AT = 0.1  # of the tolerance, where steps end: one more, for a voxel far away, is then not seen elsewhere
LEAST_AGREEMENT = 0.7  # share of a correction that must agree with what was measured, or it is shrunk to it
# of a correction (`overreach`): 0.4 to 2.0 on training heads where the blur is right; weights may bring another bound
LARGEST_OVERREACH = 2.2
LARGEST_GAIN = 6.0  # noise may grow by so much, not more: reached by Gaussian slices that overlap by more than half
POSSIBLE_GAIN = 1e6  # beyond it waves are lost altogether, and slices that hold them cannot have been measured so
DAMPING = 0.05  # of what is corrected beyond that, where a filter has left next to nothing
STEPS = 20  # at most, of a correction that goes by steps


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
        gain: how many times larger than a residual its correction would have to be (root mean square).
        exact: the gain is at most :data:`LARGEST_GAIN`. Otherwise G is what Landweber's iteration reaches within that
            gain, and what it leaves of a residual is taken by damped steps.
        possible: the gain is at most :data:`POSSIBLE_GAIN`. Otherwise the point spread loses waves that measured slices
            can hold (a crop of k-space that is smaller than the slices are many), and there may be no thin slices
            that give them: steps would go on for ever, so none is taken.

    Example::

        >>> slices = SliceMeasurement(10, [2.0, 7.0], scale=5.0)
        >>> volume = slices.make_consistent(torch.zeros(10, 4, 4), torch.ones(2, 4, 4))
        >>> bool((slices.forward(volume) - 1).abs().max() < 1e-5)
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
        both, one = self.matrix @ spline, torch.eye(len(places), dtype=torch.float64)

        def gain(solved: torch.Tensor) -> float:
            return float(torch.linalg.matrix_norm(spline @ solved, 2)) / scale**0.5

        self.solved = torch.linalg.inv(both)
        self.gain = gain(self.solved)
        self.exact, self.possible = self.gain <= LARGEST_GAIN, self.gain <= POSSIBLE_GAIN
        if not self.exact:
            self.damped = spline @ torch.linalg.inv(both + DAMPING * one)
            self.solved = step = one
            while gain(step) <= LARGEST_GAIN:
                self.solved, step = step, step + one - both @ step
        self.inverse = spline @ self.solved
        self.sampled = bspline_matrix(rows, places)

    def forward(self, volume: torch.Tensor, axis: int = 0) -> torch.Tensor:
        """Measure the thick slices of ``volume``, whose ``axis`` holds the thin ones."""
        return _along(self.matrix, volume, axis)

    def adjoint(self, measured: torch.Tensor, axis: int = 0) -> torch.Tensor:
        """Apply the transpose of :meth:`forward`: thick slices to thin ones."""
        return _along(self.matrix.T, measured, axis)

    def overreach(self, residual: torch.Tensor, added: torch.Tensor) -> float:
        """:func:`overreach` of correcting ``residual`` [m, ...], where the network added ``added`` [rows, ...]."""
        return overreach(_along(self.solved, residual, 0), residual, _along(self.sampled, added, 0))

    def make_consistent(
        self, volume: torch.Tensor, measured: torch.Tensor, axis: int = 0, tolerance: float = 0.0
    ) -> torch.Tensor:
        """``volume`` with the smooth correction after which :meth:`forward` gives ``measured``.

        Args:
            tolerance: where G is not ``exact``, how much of a residual may be left.
        """
        volume = volume + _along(self.inverse, measured - self.forward(volume, axis), axis)
        for _ in range(STEPS if self.possible and not self.exact else 0):
            residual = measured - self.forward(volume, axis)
            if float(residual.abs().max()) <= tolerance:
                break
            volume = volume + _along(self.damped, residual, axis)
        return volume


class VolumeMeasurement:
    """How a volume on a fine grid is measured along three axes, and how a result is brought to agree with it.

    A result is the interpolation of what was measured plus a correction. Both are known on the measured grid, so that
    all but the last step is done there:

    - how much of the correction agrees with the measurement (:func:`agreement`);
    - what is still missing, r, becomes a smooth addition B c with c = sum of (1 - W B)^j r: Landweber's iteration,
      which stops when the measured voxels are reproduced to :data:`TOLERANCE`, and never amplifies what a blur has all
      but removed by more than the number of its steps. Where these do not suffice (a Hann filter leaves next to
      nothing at its edge), some more are taken with a damped inverse.

    Args:
        positions: for each axis the fine voxels' places, counted in measured voxels.
        shape: measured voxels along each axis.
        scale: distance of measured voxels in fine ones, for each axis.
        spreads: of each axis; None: it is measured as it is (its voxels are the fine ones).

    Attributes:
        down: W, three matrices [n, N] or None.
        up: B, three matrices [N, n] or None: cubic B-spline.
        at: three matrices [n, N] or None: the value at the measured voxels' centres.
    """

    def __init__(
        self,
        positions: Sequence[NDArray[np.float64]],
        shape: Sequence[int],
        scale: Sequence[float],
        spreads: Sequence[PointSpread | None],
    ) -> None:
        self.down: list[torch.Tensor | None] = []
        self.up: list[torch.Tensor | None] = []
        self.at: list[torch.Tensor | None] = []
        for p, n, s, spread in zip(positions, shape, scale, spreads, strict=True):
            same = len(p) == n and np.abs(p - np.arange(n)).max() < 1e-4
            centres = (np.arange(n) - p[0]) * s
            self.up.append(None if same else bspline_matrix(n, p).float())
            self.at.append(None if same else bspline_matrix(len(p), centres).float())
            if same or spread is None:
                self.down.append(None)
            else:
                self.down.append(slice_profile_matrix(len(p), centres, s, spread).float())
        self.both = [None if w is None or b is None else w @ b for w, b in zip(self.down, self.up, strict=True)]

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Measure, W: [N, N', N''] -> [n, n', n'']."""
        return _each_axis(self.down, volume)

    def adjoint(self, measured: torch.Tensor) -> torch.Tensor:
        """Apply the transpose of :meth:`forward`: [n, n', n''] -> [N, N', N'']."""
        return _each_axis([None if m is None else m.T for m in self.down], measured)

    def sample(self, volume: torch.Tensor) -> torch.Tensor:
        """Values at the measured voxels' centres: [N, N', N''] -> [n, n', n'']."""
        return _each_axis(self.at, volume)

    def forward_interpolated(self, measured: torch.Tensor) -> torch.Tensor:
        """What is measured of the interpolation of ``measured`` [n, n', n'']: W B, same shape."""
        return _each_axis(self.both, measured)

    def correction(
        self, residual: torch.Tensor, tolerance: float, steps: int, damping: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """c and what is left of ``residual`` [n, n', n''], in at most ``steps`` steps.

        Args:
            damping: of each axis' inverse (W B + damping)^-1, which every step then applies: reaches what a filter has
                all but removed. None: plain steps.
        """
        inverse = [
            None if m is None or damping is None else torch.linalg.inv(m.double() + damping * torch.eye(len(m))).float()
            for m in self.both
        ]
        total = torch.zeros_like(residual)
        for _ in range(steps):
            if float(residual.abs().max()) <= tolerance:
                break
            step = _each_axis(inverse, residual)
            total += step
            residual = residual - self.forward_interpolated(step)
        return total, residual

    def add_interpolated(self, volume: torch.Tensor, coarse: torch.Tensor, share: float = 1.0) -> torch.Tensor:
        """``share`` of ``volume`` [N, N', N''] plus B ``coarse``, in place."""
        last = max(range(3), key=lambda axis: volume.shape[axis] / coarse.shape[axis])  # grows most: never held whole
        coarse = _each_axis([None if axis == last else m for axis, m in enumerate(self.up)], coarse)
        matrix = self.up[last]
        for low in range(0, len(volume), 16):
            rows = slice(low, low + 16)
            if matrix is None:
                part = coarse[rows]
            elif last == 0:
                part = _each_axis([matrix[rows], None, None], coarse)
            else:
                part = _each_axis([matrix if axis == last else None for axis in range(3)], coarse[rows])
            volume[rows].mul_(share).add_(part)
        return volume


def agreement(change: torch.Tensor, residual: torch.Tensor) -> float:
    """Share of a correction, 0 to 1, that comes nearest to what was measured.

    In whole hundredths, as people are told it: a few voxels more or less at a border leave all others as they are.

    Args:
        change: what the correction changes of the volume, measured again.
        residual: what was measured, less what is measured of the volume without it; same shape.
    """
    power = float(change.square().sum())
    wanted = float((change * residual).sum())
    return round(min(max(wanted / power, 0.0), 1.0), 2) if power > 0 else 1.0


def disagreement(share: float) -> str:
    """Say that only a ``share`` of a correction agrees."""
    return (
        f"what the network adds does not agree with what was measured: {share:.0%} of it does, so that share is kept. "
        "The blur may be another than taken (--profile, --thickness_mm), or the image one that the network does not "
        "know."
    )


def overreach(correction: torch.Tensor, residual: torch.Tensor, change: torch.Tensor) -> float:
    """How far a correction goes beyond what the network holds for likely.

    A blur that is taken for wider than it was asks for detail that was never there: the correction becomes larger than
    what the network adds, and far larger than the residual that it removes, because it lies where the blur has left
    next to nothing. The product of both ratios tells such a blur from the right one; neither does alone. (On two
    training heads, sharp and smooth: 0.4 to 2.0 for the right blur, 1.8 and more for one 30 % too wide that harms.)

    Args:
        correction: what is to be added, on the measured grid.
        residual: what was missing, measured.
        change: what the network adds to the interpolation, on the measured grid.
    """
    size, missing, added = (float(torch.linalg.vector_norm(x)) for x in (correction, residual, change))
    return size**2 / (missing * added) if missing * added > 0 else 0.0


def too_wide(times: float) -> str:
    """Say that the correction is left out because its :func:`overreach` is so many times what it may be."""
    return (
        f"the result is not corrected to what was measured: the correction would reach {times:.1f} "
        "times as far as it may. The blur is narrower than taken (--profile, --thickness_mm), or the network does not "
        "know such an image."
    )


def too_much_taken(gain: float) -> str:
    """Say that the correction is left out because noise would grow by ``gain``."""
    if gain > POSSIBLE_GAIN:
        return (
            "the result is not corrected to what was measured: a blur as it was taken would have left nothing of some "
            "detail that is there. It is narrower than taken (--profile, --thickness_mm)."
        )
    return (
        "the result is not corrected to what was measured: the blur has taken so much away that noise would grow "
        f"{gain:.0f} times, and the correction would go farther than the network. Or the blur is narrower than taken "
        "(--profile, --thickness_mm)."
    )


def not_exact(deviation: float, gain: float) -> str:
    """Say that measured slices are reproduced only to a ``deviation``, a share of their range."""
    return (
        f"the result reproduces the measured slices only to {deviation:.2g} of their range: their blur has taken so "
        f"much away that noise would grow {gain:.0f} times."
    )


def _each_axis(matrices: Sequence[torch.Tensor | None], volume: torch.Tensor) -> torch.Tensor:
    """Each axis of [X, Y, Z] times its matrix (None: as it is), without copies of the volume; shrinking axes first."""

    def growth(axis: int) -> float:
        matrix = matrices[axis]
        return 1.0 if matrix is None else matrix.shape[0] / matrix.shape[1]

    for axis in sorted(range(3), key=growth):
        matrix = matrices[axis]
        if matrix is None:
            continue
        if axis == 0:
            volume = (matrix @ volume.reshape(len(volume), -1)).view(-1, *volume.shape[1:])
        else:
            volume = torch.matmul(matrix, volume) if axis == 1 else volume @ matrix.T
    return volume


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
    return _edge_aligned(volume.shape[axis], slices, profile, thickness).forward(volume, axis)


def make_consistent(
    volume: torch.Tensor, measured: torch.Tensor, axis: int = -1, profile: str = "gaussian", thickness: float = 1.0
) -> torch.Tensor:
    """``volume`` corrected so that :func:`measure` gives ``measured``, which covers the same field of view."""
    return _edge_aligned(volume.shape[axis], measured.shape[axis], profile, thickness).make_consistent(
        volume, measured, axis
    )
