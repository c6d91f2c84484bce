"""How far a sharpened image may go beside an edge.

A network that sharpens, and any correction that makes its result reproduce what was measured, overshoot at edges: the
bright side becomes brighter than anything measured around, the dark side darker. What is measured around a place says
how far the truth can go:

- a positive blur (a slice profile, Gaussian tails) brings nothing beyond the truth, so beside an edge the truth is not
  beyond the measured voxels on either side of it;
- a blur lowers peaks (a small lesion, a thin sheet), so there the truth may be as far again beyond as the peak stands
  out. Whether a voxel stands out is asked along each axis by a morphological opening (Serra, Image Analysis and
  Mathematical Morphology, 1982): the difference to it is the white top-hat;
- a crop of k-space rings beside an edge, and at the rim of something large a voxel stands out a little along its rim.
  What stands out by less than a share of the strongest edge around is therefore no peak. A smooth maximum is none
  either, by this rule, and is held a little too low; so it is for results that are made to reproduce what was measured,
  which gives it back;
- what leaves the volume is seen in part: in the last slice alone, a lesion and the beginning of an edge look the same
  along the axis, and are told apart by how wide they are across the face.

Lower bounds are the upper ones of the negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.operators.interpolation import linear_matrix
from custom_nets.operators.slice_profile import PointSpread

__all__ = ["NO_PEAK", "OvershootLimits", "upper_bound", "way_of"]

_AROUND = 3  # measured voxels, across, that bound a place
_NARROW = 9  # measured voxels, across, that a peak at an outer face does not fill
_MARGIN = 0.03  # of the range around, that a result may go beyond
# what stands out by less than this share of the range within so many measured voxels across is no peak. A cropped step
# of 1 goes up to 1.09 beside the edge and down to 0.95 again, two voxels on to 1.03 and 0.98
NO_PEAK: dict[str, dict[int, float]] = {"unknown": {}, "blurred": {5: 0.12}, "cropped": {5: 0.16, 9: 0.07}}
_ROWS = 16  # at once


class OvershootLimits:
    """Bounds of a result from what was measured.

    Args:
        measured: [n, n', n''], the measured voxels.
        positions: for each axis the result's places, counted in measured voxels; None: those of the measured ones.
        how: it was measured, see :func:`upper_bound`.

    Example::

        >>> step = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).expand(4, 4, 6)
        >>> limits = OvershootLimits(step, [None, None, np.arange(-0.25, 5.5, 0.5)])
        >>> result = torch.full((4, 4, 12), 1.2)
        >>> limits.clip(result) > 0
        True
        >>> round(float(result.max()), 3)
        1.03
    """

    def __init__(
        self, measured: torch.Tensor, positions: Sequence[NDArray[np.float64] | None], how: str = "unknown"
    ) -> None:
        high, low = upper_bound(measured, how), -upper_bound(-measured, how)
        self.high, self.low = torch.maximum(high, low), torch.minimum(high, low)  # in noise they can cross
        self.matrices: list[torch.Tensor | None] = []
        for p, n in zip(positions, measured.shape, strict=True):
            if p is None or (len(p) == n and np.abs(p - np.arange(n)).max() < 1e-4):
                self.matrices.append(None)
            else:
                self.matrices.append(linear_matrix(n, p).float())

    def clip(self, volume: torch.Tensor, columns: slice = slice(None)) -> float:
        """Bring ``volume`` [N, N', N''] within the bounds, in place; how far it was beyond.

        Args:
            columns: the part of the second axis that ``volume`` is.
        """
        rows, *others = self.matrices
        if others[0] is not None:
            others[0] = others[0][columns]
            columns = slice(None)
        beyond = 0.0
        for first in range(0, len(volume), _ROWS):
            here = slice(first, first + _ROWS)
            part = volume[here]
            low, high = (self._spread(bound[:, columns], rows, here, others) for bound in (self.low, self.high))
            beyond = max(beyond, float((part - high).max()), float((low - part).max()))
            torch.minimum(torch.maximum(part, low), high, out=part)
        return beyond

    @staticmethod
    def _spread(
        bound: torch.Tensor, rows: torch.Tensor | None, here: slice, others: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """A bound on the result's grid, some rows of it."""
        part = bound[here] if rows is None else torch.tensordot(rows[here], bound, 1)
        if others[0] is not None:
            part = others[0] @ part
        return part if others[1] is None else part @ others[1].T


def way_of(spreads: Iterable[PointSpread | None], corrected: bool) -> str:
    """How a volume was measured, for :func:`upper_bound`.

    Args:
        spreads: of its axes; None: an axis that is not made finer.
        corrected: the result is made to reproduce what was measured.
    """
    if not corrected:
        return "unknown"
    return "cropped" if any(spread is not None and spread.profile == "kspace" for spread in spreads) else "blurred"


def upper_bound(measured: torch.Tensor, how: str = "unknown") -> torch.Tensor:
    """How bright the truth may be within a voxel of each: [n, n', n''], same shape and units.

    Args:
        measured: [n, n', n''].
        how: it was measured, one of :data:`NO_PEAK`: "cropped" in k-space without a filter, "blurred" otherwise.
    """
    peak = torch.zeros_like(measured)
    for axis in range(3):
        peak = torch.maximum(peak, _peak(measured, axis, doubt_faces=how != "unknown"))
    real = peak
    for width, share in NO_PEAK[how].items():
        real = torch.minimum(real, peak - share * (_largest(measured, width) - _smallest(measured, width)))
    level = measured - peak + torch.minimum(2 * peak, 6 * real.clamp(min=0))
    around = _largest(measured, _AROUND) - _smallest(measured, _AROUND)
    return _largest(level, _AROUND) + _MARGIN * around


def _peak(measured: torch.Tensor, axis: int, doubt_faces: bool) -> torch.Tensor:
    """How far each voxel stands out along ``axis``: its white top-hat.

    What is bright in the last voxel alone may be half of an edge that goes on outside as well as a peak. With
    ``doubt_faces`` it counts as a peak as far as it is narrow across the face, too.
    """
    peak = measured - _opened(measured, axis, _AROUND)
    for end in (0, measured.shape[axis] - 1) if doubt_faces else ():
        face, last = measured.narrow(axis, end, 1), peak.narrow(axis, end, 1)
        across = [_opened(face, other, _NARROW, goes_on=True) for other in range(3) if other != axis]
        torch.minimum(last, face - torch.minimum(*across), out=last)
    return peak


def _opened(volume: torch.Tensor, axis: int, width: int, goes_on: bool = False) -> torch.Tensor:
    """The opening along ``axis``; with ``goes_on`` the volume goes on beyond its faces as it ends there."""
    beyond, n = width // 2 if goes_on else 0, volume.shape[axis]
    ends = [volume.narrow(axis, end, 1) for end in (0, n - 1)]
    longer = torch.cat([*beyond * [ends[0]], volume, *beyond * [ends[1]]], axis)
    return _largest(_smallest(longer, width, axis), width, axis).narrow(axis, beyond, n)


def _largest(volume: torch.Tensor, width: int, axis: int | None = None) -> torch.Tensor:
    """Largest value within ``width`` voxels across (odd), along one axis or all."""
    for each in range(3) if axis is None else (axis,):
        for _ in range(width // 2):  # several times faster on a CPU than pooling
            wider, n = volume.clone(), volume.shape[each] - 1
            for here, there in ((0, 1), (1, 0)):
                ahead = wider.narrow(each, here, n)
                torch.maximum(ahead, volume.narrow(each, there, n), out=ahead)
            volume = wider
    return volume


def _smallest(volume: torch.Tensor, width: int, axis: int | None = None) -> torch.Tensor:
    return -_largest(-volume, width, axis)
