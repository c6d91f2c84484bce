"""Plain interpolation with the right geometry: what a trained network has to beat.

Both functions put a volume onto any other grid, also an oblique one, in one interpolation. They use scipy, not our own
matrices (``custom_nets.operators.interpolation``), so that a fault of ours cannot flatter both sides of a comparison.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.geometry import Grid

__all__ = ["BASELINES", "inside_field_of_view", "resample_bspline", "resample_trilinear"]


def _resample(volume: NDArray, source: Grid, target: Grid, **options: Any) -> NDArray[np.float32]:
    from scipy import ndimage

    if volume.shape != source.shape:
        raise ValueError(f"the volume {volume.shape} does not lie on its grid {source.shape}.")
    matrix = source.index_map(target)
    linear, offset = matrix[:3, :3], matrix[:3, 3]
    if source.axis_positions(target) is not None:
        linear = np.diag(linear)  # scipy's fast path; same positions
    return ndimage.affine_transform(
        volume, linear, offset, output_shape=target.shape, output=np.float32, prefilter=False, **options
    )


def resample_bspline(volume: NDArray, source: Grid, target: Grid) -> NDArray[np.float32]:
    """Cubic B-spline interpolation through the samples, edges mirrored with the first voxel repeated.

    Args:
        volume: [X, Y, Z] on ``source``.
        source: where the volume lies.
        target: where it is wanted.

    Returns:
        [X', Y', Z'] on ``target``, in the volume's unit; it may overshoot the volume's range.
    """
    from scipy import ndimage

    coefficients = ndimage.spline_filter(volume, order=3, output=np.float64, mode="reflect")
    return _resample(coefficients, source, target, order=3, mode="reflect")


def resample_trilinear(volume: NDArray, source: Grid, target: Grid) -> NDArray[np.float32]:
    """Trilinear interpolation, edges repeated; arguments and result as in ``resample_bspline``."""
    return _resample(np.asarray(volume, dtype=np.float64), source, target, order=1, mode="nearest")


def inside_field_of_view(source: Grid, target: Grid) -> NDArray[np.bool_]:
    """Which voxel centres of ``target`` [X', Y', Z'] lie inside the outer edges of ``source``."""
    matrix = source.index_map(target)
    inside = np.ones(target.shape, dtype=bool)
    for axis, n in enumerate(source.shape):
        steps = [matrix[axis, a] * np.arange(target.shape[a]) for a in range(3)]
        position = matrix[axis, 3] + steps[0][:, None, None] + steps[1][:, None] + steps[2]
        inside &= (position >= -0.5 - 1e-6) & (position <= n - 0.5 + 1e-6)
    return inside


BASELINES = {"bspline": resample_bspline, "trilinear": resample_trilinear}
