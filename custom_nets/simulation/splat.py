"""Pictures of many small things: discs whose mass is exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["splat_discs"]

Array = NDArray[np.float64]


def splat_discs(
    shape: tuple[int, int], centres: Array, radius_px: Array, mass: Array, chunk: int = 1 << 22
) -> NDArray[np.float64]:
    """Sum of discs with soft edges, each with exactly its mass where it lies inside the picture.

    A row of overlapping discs is the projection of a tube: its profile across is that of a cylinder.

    Args:
        shape: [H, W].
        centres: [n, 2] column and row in pixels.
        radius_px: [n]; below half a pixel a disc is as wide as a pixel, its mass stays.
        mass: [n], the sum over the disc's pixels.
        chunk: pixels to work on at a time.

    Returns:
        [H, W].
    """
    height, width = shape
    picture = np.zeros(height * width)
    r = np.maximum(radius_px, 0.5)
    half = np.ceil(r + 0.5).astype(int)
    near = np.all((centres > -half[:, None] - 1) & (centres < np.array([width, height]) + half[:, None]), axis=1)
    for k in np.unique(half[near]):
        members = np.flatnonzero(near & (half == k))
        offset = np.arange(-k, k + 1)
        for part in np.array_split(members, max(1, len(members) * (2 * k + 1) ** 2 // chunk)):
            nearest = np.rint(centres[part]).astype(np.int64)
            shift = nearest - centres[part]
            across = (shift[:, :1] + offset).astype(np.float32)  # [m, 2k+1]
            down = (shift[:, 1:] + offset).astype(np.float32)
            distance = np.sqrt(down[:, :, None] ** 2 + across[:, None, :] ** 2)
            cover = np.clip(r[part, None, None].astype(np.float32) + 0.5 - distance, 0, 1)
            cover *= (mass[part] / cover.sum((1, 2)))[:, None, None].astype(np.float32)
            column, row = nearest[:, :1] + offset, nearest[:, 1:] + offset
            index = row[:, :, None] * width + column[:, None, :]
            inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
            if inside.all():
                picture += np.bincount(index.ravel(), cover.ravel(), minlength=len(picture))
            else:
                picture += np.bincount(index[inside], cover[inside], minlength=len(picture))
    return picture.reshape(shape)
