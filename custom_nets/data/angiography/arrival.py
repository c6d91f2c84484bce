"""When the contrast agent arrives: one definition for truth, reconstruction and metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["half_rise_time", "passage_time", "vessel_level"]

_VESSEL = 0.2  # of the attenuation of well filled vessel: a voxel that never gets there is no vessel


def vessel_level(peak: NDArray) -> float:
    """Attenuation that a reconstructed voxel has to reach at some time to count as vessel.

    Args:
        peak: [...] largest attenuation of each voxel within the scan.

    Returns:
        A fifth of what well filled voxels reach; 0 where nothing is filled.
    """
    filled = peak[peak > 0.05 * peak.max()] if peak.size else peak
    return _VESSEL * float(np.quantile(filled, 0.98)) if filled.size else 0.0


def half_rise_time(curves: NDArray, times_s: ArrayLike) -> NDArray[np.float64]:
    """First time at which each curve reaches half of its maximum, linear between samples.

    Args:
        curves: [T, ...] one curve per place, over time.
        times_s: [T] strictly increasing.

    Returns:
        [...] seconds; NaN where a curve never gets above zero. A curve that starts at half of its maximum or above has
        arrived at the first time or before: it gets the first time.

    Raises:
        ValueError: times and curves differ in length.
    """
    times = np.asarray(times_s, dtype=np.float64)
    if times.ndim != 1 or len(times) != len(curves):
        raise ValueError(f"{len(curves)} samples need as many times, got {times.shape}.")
    flat = curves.reshape(len(curves), -1)  # [T, P]
    half = 0.5 * flat.max(0)
    after = (flat >= half).argmax(0)  # [P] the first sample at half or above
    before = np.maximum(after - 1, 0)
    place = np.arange(flat.shape[1])
    low, high = flat[before, place].astype(np.float64), flat[after, place].astype(np.float64)
    rise = np.where(high > low, high - low, 1)
    share = np.clip(np.where(after > 0, (half - low) / rise, 0), 0, 1)
    found = times[before] + share * (times[after] - times[before])
    return np.where(half > 0, found, np.nan).reshape(curves.shape[1:])


def passage_time(curves: NDArray, times_s: ArrayLike) -> float:
    """How long the contrast agent takes to pass a well filled vessel: area below a curve over its peak.

    That of a box is its length, and smearing a long box changes it little.

    Args:
        curves: [T, P] one curve per place, over time.
        times_s: [T] strictly increasing.

    Returns:
        Seconds, the median over the places that get to four tenths of the brightest ones' peak, and that are below half
        of their own peak at both ends. Where there is no such place, NaN.
    """
    times, peak = np.asarray(times_s, dtype=np.float64), curves.max(0)
    well = peak > 2 * vessel_level(peak)
    passed = well & (curves[[0, -1]] < 0.5 * peak).all(0)
    if not passed.any():
        return float("nan")
    area = np.trapezoid(curves[:, passed].astype(np.float64), times, axis=0)
    return float(np.median(area / peak[passed]))
