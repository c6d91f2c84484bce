"""Flicker: does the error of a volume jump from slice to slice?

A network that makes planes one by one may be right on average and still leave steps between neighbours. Two numbers
per axis tell, both from the error ``e = image - truth`` of neighbouring voxels that both lie in the mask:

* ``error_gradient``: mean of ``|e[i + 1] - e[i]|`` over all such pairs: fine structure of the error, along that axis;
* ``brightness_jump``: of each slice across the axis the mean of ``e[i + 1] - e[i]`` over its pairs, and of these means
  the root mean square: how much whole slices become brighter or darker against their neighbours.

An error that is the same everywhere has neither.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from custom_nets.metrics.image_quality import _pair

__all__ = ["brightness_jump", "error_gradient"]

LEAST_PAIRS = 100  # of a slice that takes part in brightness_jump


def _steps(image: Any, truth: Any, mask: Any, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """[n - 1, ...] steps of the error along an axis, and which of them lie in the mask."""
    image, truth, mask = _pair(image, truth, mask)
    if axis not in (0, 1, 2):
        raise ValueError(f"axis must be 0, 1 or 2, got {axis!r}.")
    inside = np.ones(truth.shape, dtype=bool) if mask is None else mask
    error = np.moveaxis(np.subtract(image, truth, dtype=np.float64), axis, 0)
    inside = np.moveaxis(inside, axis, 0)
    pairs = inside[1:] & inside[:-1]
    if not pairs.any():
        raise ValueError(f"the mask has no two neighbours along axis {axis}.")
    return np.diff(error, axis=0), pairs


def error_gradient(image: Any, truth: Any, mask: Any = None, axis: int = 2) -> float:
    """Mean absolute step of the error between neighbours along an axis, in the truth's unit (see the module).

    Args:
        image, truth: [X, Y, Z], one unit.
        mask: [X, Y, Z], above zero inside; None for the whole volume.
        axis: 0, 1 or 2.
    """
    steps, pairs = _steps(image, truth, mask, axis)
    return float(np.abs(steps[pairs]).mean())


def brightness_jump(image: Any, truth: Any, mask: Any = None, axis: int = 2) -> float:
    """Root mean square of the slices' mean steps along an axis, in the truth's unit (see the module).

    Slices with less than 100 pairs in the mask do not take part, unless all have less.

    Args:
        image, truth: [X, Y, Z], one unit.
        mask: [X, Y, Z], above zero inside; None for the whole volume.
        axis: 0, 1 or 2.
    """
    steps, pairs = _steps(image, truth, mask, axis)
    counts = pairs.sum((1, 2))
    used = counts >= min(LEAST_PAIRS, int(counts.max()))
    means = np.where(pairs, steps, 0.0).sum((1, 2))[used] / counts[used]
    return float(np.sqrt(np.mean(means**2)))
