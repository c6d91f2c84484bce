"""Where the picture is within the frames of a run: shutter tags, letterboxes, round image intensifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_active_area", "find_padding"]

_SMALLEST_FRACTION = 0.1  # an area below this is no field of view but a picture with a flat ground
_SOLID = 0.5  # a field of view fills its bounding box (circle: 0.79); a vessel tree does not


def find_active_area(frames: NDArray, shutter: dict[str, Any] | None = None) -> NDArray[np.bool_]:
    """The pixels inside the field of view, [H, W].

    A border counts as outside where it is exactly constant over time and space: whole rows and columns from the edge
    inwards (letterbox of any grey), and parts of any shape that touch the edge at the lowest or highest value of the
    run (round or octagonal fields).

    Args:
        frames: [T, H, W].
        shutter: ``shapes``: list of RECTANGULAR, CIRCULAR, POLYGONAL; ``rectangle`` (left, right, upper, lower),
            ``circle`` (row, column, radius), ``polygon`` [(row, column), ...]: numbers from 1, as DICOM has them.
    """
    inside = _inside_shutter(frames.shape[1:], shutter or {})
    lowest, highest = frames[0].copy(), frames[0].copy()
    for frame in frames[1:]:
        np.minimum(lowest, frame, out=lowest)
        np.maximum(highest, frame, out=highest)
    still = lowest == highest
    if still.any() and not still.all():
        box = _within_letterbox(lowest, still)
        seen = np.zeros_like(inside)
        seen[box] = _within_round_field(lowest[box], still[box], (lowest.min(), highest.max()))
        inside &= seen
    return inside if inside.mean() >= _SMALLEST_FRACTION else np.ones(frames.shape[1:], dtype=bool)


def find_padding(
    frames: NDArray, named: tuple[NDArray[np.bool_], float] | None = None
) -> tuple[NDArray[np.bool_], float] | None:
    """Pixels [H, W] where nothing was measured, and the value that says so; None where there are none.

    That is what the header names, if its value lies outside of the signal's range; and, named by nobody, a border that
    has in all frames one value which is further from all others than these are apart. (Such a value would reach far
    beyond what a network was trained on.)

    Args:
        frames: [T, H, W].
        named: pixels [H, W] with the header's padding value in some frame, and the value.
    """
    if named is not None and named[0].any() and not named[0].all():
        signal = frames[:, ~named[0]]
        low, high = float(signal.min()), float(signal.max())
        if not low - 0.01 * (high - low) <= named[1] <= high + 0.01 * (high - low):
            return named
    for extreme in (frames.min(), frames.max()):
        mask = (frames == extreme).all(0)
        if extreme == 0 or mask.all() or mask.mean() < 0.01:
            continue
        signal = frames[:, ~mask]
        low, high = float(signal.min()), float(signal.max())
        if max(low - float(extreme), float(extreme) - high) > high - low > 0:
            return mask, float(extreme)
    return None


def _within_letterbox(values: NDArray, still: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns left when whole constant ones are taken off from the edges."""
    ends = []
    for lines, quiet in ((values, still), (values.T, still.T)):
        content = np.flatnonzero(~(quiet.all(1) & (lines == lines[:, :1]).all(1)))
        ends.append(slice(int(content[0]), int(content[-1]) + 1) if content.size else slice(None))
    rows, columns = ends
    if values[rows, columns].size < _SMALLEST_FRACTION * values.size:
        return slice(None), slice(None)
    return rows, columns


def _within_round_field(values: NDArray, still: NDArray[np.bool_], extremes: tuple[Any, Any]) -> NDArray[np.bool_]:
    """All but the constant parts at an extreme value that touch the edge."""
    from scipy.ndimage import binary_fill_holes, label

    outside = np.zeros(values.shape, dtype=bool)
    for extreme in extremes:
        parts, _ = label(still & (values == extreme))
        edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
        outside |= np.isin(parts, edge[edge > 0])
    area = binary_fill_holes(~outside)
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1) if rows.size else 0
    return area if box and area.sum() >= _SOLID * box else np.ones(values.shape, dtype=bool)


def _inside_shutter(shape: tuple[int, ...], shutter: dict[str, Any]) -> NDArray[np.bool_]:
    row, column = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    inside = np.ones(shape, dtype=bool)
    if "rectangle" in shutter:
        left, right, upper, lower = shutter["rectangle"]
        # the edges themselves still belong to the picture
        inside &= (column >= left) & (column <= right) & (row >= upper) & (row <= lower)
    if "circle" in shutter:
        centre_row, centre_column, radius = shutter["circle"]
        inside &= (row - centre_row) ** 2 + (column - centre_column) ** 2 <= radius**2
    if "polygon" in shutter:
        # even-odd rule: a pixel is inside where a line from it to the right crosses the outline an odd number of times
        odd = np.zeros(shape, dtype=bool)
        corners = shutter["polygon"]
        for (row_a, column_a), (row_b, column_b) in zip(corners, [*corners[1:], corners[0]], strict=True):
            if row_a != row_b:
                crossing = column_a + (row - row_a) * (column_b - column_a) / (row_b - row_a)
                odd ^= ((row > row_a) != (row > row_b)) & (column < crossing)
        inside &= odd
    return inside
