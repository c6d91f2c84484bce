"""Voxels where nothing was measured: found, filled before a network sees them, and put back where it has written.

A value far below or above the signal (-32768 around a head) would stretch the range that a network works in, and all
that was measured would be squeezed into what is left of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from custom_nets.geometry import Grid

__all__ = ["Padding", "find_padding", "padding_on"]

_WITHIN = 0.01  # a padding value no further from the signal than this share of its range is a background like others
_LEAST_SHARE = 0.01  # of all voxels: a border that no header names must be as large


@dataclass(frozen=True)
class Padding:
    """Where nothing was measured.

    Attributes:
        mask: [x, y, z].
        value: what stands there, in units of the volume; may be NaN.
        note: for people.
    """

    mask: NDArray[np.bool_]
    value: float
    note: str


def find_padding(volume: NDArray[np.floating], named: NDArray[np.bool_] | None = None) -> Padding | None:
    """Find what is no signal in a volume [x, y, z].

    That is what the header names, if its value lies outside of the signal's range; and, named by nobody, what touches
    the faces of the volume and is NaN, or has one value that is further from all others than these are apart.

    Args:
        named: voxels that have the header's padding value.

    Returns:
        None where all voxels are signal (zero is a background like others).
    """
    invalid = np.isnan(volume)
    if invalid.any():
        return Padding(invalid, float("nan"), _note("NaN", invalid)) if _is_border(invalid) else None
    if named is not None and named.any() and not named.all():
        value, signal = float(volume[named].flat[0]), volume[~named]
        low, high = float(signal.min()), float(signal.max())
        if not low - _WITHIN * (high - low) <= value <= high + _WITHIN * (high - low):
            return Padding(named, value, _note(f"PixelPaddingValue ({value:g})", named))
    for extreme in (float(volume.min()), float(volume.max())):
        mask = volume == extreme
        if extreme == 0 or mask.all() or mask.mean() < _LEAST_SHARE:
            continue
        signal = volume[~mask]
        low, high = float(signal.min()), float(signal.max())
        if max(low - extreme, extreme - high) > high - low > 0 and _is_border(mask):
            return Padding(mask, extreme, _note(f"a border of {extreme:g}, far outside of all other values,", mask))
    return None


def _note(what: str, mask: NDArray[np.bool_]) -> str:
    return (
        f"{what} stands in {100 * mask.mean():.2g} % of the voxels: taken as not measured, and put back in the result"
    )


def _is_border(mask: NDArray[np.bool_]) -> bool:
    """Whether the mask is large and hangs together with the faces of the volume, all of it."""
    if mask.all() or mask.mean() < _LEAST_SHARE:
        return False
    from scipy.ndimage import label

    parts, count = label(mask)
    faces = [
        parts[index] for axis in range(3) for index in ((slice(None),) * axis + (0,), (slice(None),) * axis + (-1,))
    ]
    return len(set(np.unique(np.concatenate([face.ravel() for face in faces]))) - {0}) == count


def padding_on(target: Grid, source: Grid, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask [x, y, z] of ``source`` on ``target``: that of the nearest voxel, False outside."""
    from scipy.ndimage import affine_transform

    matrix = source.index_map(target)
    found = affine_transform(
        mask.astype(np.uint8), matrix[:3, :3], matrix[:3, 3], output_shape=target.shape, order=0, mode="grid-constant"
    )
    return found.astype(bool)
