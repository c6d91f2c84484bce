"""Voxels where nothing was measured: found, kept from networks, and put back where these have written.

A value far below or above the signal (-32768 around a head) would stretch the range that a network works in, and all
that was measured would be squeezed into what is left of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from custom_nets.geometry import Grid

__all__ = ["Padding", "find_padding", "measured_box", "padding_on"]

_WITHIN = 0.01  # a padding value no further from the signal than this share of its range is a background like others
_MOST_KINDS = 3  # values that may stand for padding in one volume
_LEAST_SHARE = 0.001  # of all voxels: a border that no header names must be as large
_LEAST = 32  # voxels: fewer are faults, not a border
_SIGNAL = 0.1  # of the intensity range: air is below
_SMOOTHED = 8  # times, over 3 voxels
_CUT = 0.2  # share of the voxels beside padding that show signal, from which on it cuts the head off


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
    the faces of the volume and is NaN, or has one value that is further from all others than these are apart. Several
    of these are taken together, and the first one's value stands for all.

    Args:
        named: voxels that have the header's padding value.

    Returns:
        None where all voxels are signal (zero is a background like others).
    """
    parts: list[Padding] = []
    hidden = np.zeros(volume.shape, dtype=bool)
    while len(parts) < _MOST_KINDS and (part := _next_padding(volume, hidden, named)) is not None:
        parts.append(part)
        hidden |= part.mask
    return Padding(hidden, parts[0].value, "; ".join(part.note for part in parts)) if parts else None


def _next_padding(
    volume: NDArray[np.floating], hidden: NDArray[np.bool_], named: NDArray[np.bool_] | None
) -> Padding | None:
    """One kind of padding among what is not ``hidden`` yet."""
    invalid = np.isnan(volume) & ~hidden
    if invalid.any():
        return Padding(invalid, float("nan"), _note("NaN", invalid)) if _is_border(invalid, hidden) else None
    if named is not None and (mask := named & ~hidden).any() and not (mask | hidden).all():
        value, signal = float(volume[mask].flat[0]), volume[~(mask | hidden)]
        low, high = float(signal.min()), float(signal.max())
        if not low - _WITHIN * (high - low) <= value <= high + _WITHIN * (high - low):
            return Padding(mask, value, _note(f"PixelPaddingValue ({value:g})", mask))
    rest = volume[~hidden]
    for extreme in (float(rest.min()), float(rest.max())):
        mask = (volume == extreme) & ~hidden
        if extreme == 0 or not np.isfinite(extreme) or (mask | hidden).all() or _is_small(mask, hidden):
            continue
        signal = volume[~(mask | hidden)]
        low, high = float(signal.min()), float(signal.max())
        if max(low - extreme, extreme - high) > high - low > 0 and _is_border(mask, hidden):
            return Padding(mask, extreme, _note(f"a border of {extreme:g}, far outside of all other values,", mask))
    return None


def _note(what: str, mask: NDArray[np.bool_]) -> str:
    return (
        f"{what} stands in {100 * mask.mean():.2g} % of the voxels: taken as not measured, and put back in the result"
    )


def _is_small(mask: NDArray[np.bool_], hidden: NDArray[np.bool_]) -> bool:
    """Whether the mask has too few voxels for a border; beside another one, few suffice."""
    return bool(mask.sum() < max(0 if hidden.any() else _LEAST, _LEAST_SHARE * mask.size))


def _is_border(mask: NDArray[np.bool_], hidden: NDArray[np.bool_]) -> bool:
    """Whether the mask is large and, with what is ``hidden``, hangs together with the faces of the volume."""
    if _is_small(mask, hidden) or (mask := mask | hidden).all():
        return False
    from scipy.ndimage import label

    parts, count = label(mask)
    faces = [
        parts[index] for axis in range(3) for index in ((slice(None),) * axis + (0,), (slice(None),) * axis + (-1,))
    ]
    return len(set(np.unique(np.concatenate([face.ravel() for face in faces]))) - {0}) == count


def padding_on(target: Grid, source: Grid, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask [x, y, z] of ``source`` on ``target``: where half of what is around was padding; False outside."""
    from scipy.ndimage import affine_transform

    matrix = source.index_map(target)

    def on_target(values: NDArray[Any], order: int, mode: str) -> NDArray[Any]:
        shift, shape = matrix[:3, 3], target.shape
        return affine_transform(values, matrix[:3, :3], shift, output_shape=shape, order=order, mode=mode)

    inside = on_target(np.ones(source.shape, np.uint8), 0, "grid-constant").astype(bool)
    return inside & (on_target(mask.astype(np.float32), 1, "nearest") >= 0.5 - 1e-4)


def measured_box(image: MetaTensor) -> MetaTensor:
    """The part of a volume that a network may see: nothing in it makes an edge that is not there.

    Planes of padding at which the head is cut off are left out: the volume ends with what was measured, the same as of
    a scan that nobody filled up. Other padding that cuts the head off (obliquely) goes on with what was measured beside
    it. What is left lies in air: its lowest value, which it has from the reader, is near to what was there.

    Args:
        image: [C, x, y, z], intensities of about [0, 1] with the background at the lower end; its ``meta`` says what is
            padding, see :func:`custom_nets.transforms.load_volume`.

    Returns:
        The image itself where nothing is padded.
    """
    mask = image.meta.get("padding")
    if mask is None:
        return image
    padded = np.asarray(mask, dtype=bool)
    measured = ~padded.all(axis=0)
    values = image.as_tensor().cpu().numpy()
    signal = (values > _SIGNAL).any(axis=0) & measured
    box = []
    for axis, n in enumerate(measured.shape):
        planes = tuple({0, 1, 2} - {axis})
        share = signal.sum(axis=planes) / np.maximum(measured.sum(axis=planes), 1)
        first, *_, last = np.flatnonzero(measured.any(axis=planes))  # type: ignore[arg-type]
        box.append(slice(first if share[first] > _CUT else 0, last + 1 if share[last] > _CUT else n))
    inside = (slice(None), *box)
    spacing = Grid.of(image).spacing_mm
    parts = [_continued(*pair, spacing) for pair in zip(values[inside], padded[inside], strict=True)]
    affine = image.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([part.start for part in box], dtype=affine.dtype)
    meta = {key: value for key, value in image.meta.items() if key != "affine"}
    return MetaTensor(torch.from_numpy(np.stack(parts)).to(image.device), affine=affine, meta=meta)


def _continued(
    volume: NDArray[np.float32], padded: NDArray[np.bool_], spacing_mm: NDArray[np.float64]
) -> NDArray[np.float32]:
    """A copy [x, y, z] whose padding goes on with the nearest measured values where it cuts the head off.

    Smoothed, as lines of one value would look like structures.
    """
    from scipy.ndimage import distance_transform_edt, grey_dilation, label, mean, uniform_filter

    parts, count = label(padded)
    beside = np.where(padded, 0, grey_dilation(parts, size=3))  # measured voxels, with the number of what they touch
    cut = np.nan_to_num(mean(volume > _SIGNAL, beside, range(count + 1))) > _CUT
    cut[0] = False
    inside, found = cut[parts], volume.copy()
    if inside.any():
        nearest = distance_transform_edt(padded, spacing_mm, return_distances=False, return_indices=True)
        found[inside] = volume[tuple(index[inside] for index in nearest)]
        for _ in range(_SMOOTHED):
            found[inside] = uniform_filter(found, 3, mode="nearest")[inside]
    return found
