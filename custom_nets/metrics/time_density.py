"""What a run says about blood flow: contrast over time in regions of vessels, and errors that weigh where contrast is.

Opacity is the ground minus the value: 0 where there is no contrast, larger the darker the vessel. All functions take
numpy arrays in one unit (network units in this project) and times in seconds; sums are in float64. What is not defined
(the arrival of contrast that was there from the start, an error weighted by an empty weight) is NaN, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "VesselFinder", "area_under_curve", "arrival_time", "change_weight", "curve_errors", "deviation_in_time",
    "opacity_weight", "region_errors", "region_means", "time_to_peak", "weighted_error",
]  # fmt: skip

Array = NDArray[Any]


# ---- regions ----


class VesselFinder:
    """Finds vessels in a run that is given frame by frame, and divides them into regions.

    A vessel is where contrast comes or goes: the range over time (highest minus lowest) of the values, averaged over
    ``smooth_px`` pixels against noise, exceeds ``floor`` and ``share`` of its 99.5th percentile in the area. Regions
    are the vessel pixels of each block of a grid over the area's bounding box: a curve of the whole picture would hide
    the errors of an artery behind those of a vein.

    Args:
        area: [H, W] where the picture is.
        floor: in the unit of the frames.
        share: 0 to 1.
        blocks: of the grid, along each side.
        smallest: pixels that a region has at least.
        smooth_px: side of the square to average over.
    """

    def __init__(
        self,
        area: NDArray[np.bool_],
        floor: float = 0.05,
        share: float = 0.3,
        blocks: int = 8,
        smallest: int = 16,
        smooth_px: int = 5,
    ) -> None:
        from scipy.ndimage import uniform_filter

        if not area.any():
            raise ValueError("the area is empty: no place for a vessel.")
        self.area = area
        self.floor, self.share, self.blocks, self.smallest, self.smooth_px = floor, share, blocks, smallest, smooth_px
        coverage = uniform_filter(area.astype(np.float32), smooth_px, mode="constant")
        self._coverage = np.where(area, coverage, 1)
        self._lowest: Array | None = None
        self._highest: Array | None = None

    def add(self, frame: Array) -> None:
        """One frame [H, W]."""
        from scipy.ndimage import uniform_filter

        # what lies outside the area must not leak in
        inside = np.where(self.area, frame, 0).astype(np.float32)
        smooth = uniform_filter(inside, self.smooth_px, mode="constant") / self._coverage
        if self._lowest is None or self._highest is None:
            self._lowest, self._highest = smooth, smooth.copy()
        else:
            np.minimum(self._lowest, smooth, out=self._lowest)
            np.maximum(self._highest, smooth, out=self._highest)

    def regions(self) -> NDArray[np.int64]:
        """[H, W]: 0 where no vessel is, else the number of the region, 1 to R. All 0 if nothing exceeds the floor."""
        if self._lowest is None or self._highest is None:
            raise ValueError("no frame was given: there is nothing to find vessels in.")
        span = np.where(self.area, self._highest - self._lowest, 0)
        vessel = self.area & (span > max(self.floor, self.share * float(np.percentile(span[self.area], 99.5))))
        rows, columns = np.flatnonzero(self.area.any(1)), np.flatnonzero(self.area.any(0))
        block = [
            np.clip((np.arange(n) - where[0]) * self.blocks // (where[-1] - where[0] + 1), 0, self.blocks - 1)
            for n, where in zip(self.area.shape, (rows, columns), strict=True)
        ]
        numbers = np.where(vessel, 1 + block[0][:, None] * self.blocks + block[1], 0)
        counts = np.bincount(numbers.ravel(), minlength=1 + self.blocks**2)
        kept = np.flatnonzero(counts[1:] >= self.smallest) + 1
        new = np.zeros(len(counts), dtype=np.int64)
        new[kept] = np.arange(1, len(kept) + 1)
        return new[numbers]


def region_means(frame: Array, regions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of a frame [H, W] in each region (numbers 1 to R, each with a pixel; 0 belongs to none): [R]."""
    sums = np.bincount(regions.ravel(), weights=np.asarray(frame, dtype=np.float64).ravel())
    return (sums / np.bincount(regions.ravel()))[1:]


# ---- curves ----


@dataclass(frozen=True)
class _Peak:
    index: int
    value: float
    base: float  # lowest value up to the peak


def _checked(times_s: Array, curve: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    times, values = np.asarray(times_s, dtype=np.float64), np.asarray(curve, dtype=np.float64)
    if times.ndim != 1 or times.shape != values.shape or len(times) < 2 or (np.diff(times) <= 0).any():
        raise ValueError(
            f"a curve needs one value for each of two or more growing times, got {values.shape} and {times.shape}."
        )
    return times, values


def _peak(values: NDArray[np.float64]) -> _Peak:
    index = int(values.argmax())
    return _Peak(index, float(values[index]), float(values[: index + 1].min()))


def arrival_time(times_s: Array, curve: Array, share: float = 0.2) -> float:
    """When contrast arrives: the last rise before the peak through ``share`` of the way from the base to the peak.

    The base is the lowest value up to the peak. Between two frames the curve is a straight line. The last rise, not the
    first: noise may touch the level before the contrast does.

    Args:
        times_s: [T].
        curve: [T] opacity.
        share: 0 to 1.

    Returns:
        Seconds; NaN where the curve does not rise to its peak (contrast was there from the start, or never).
    """
    times, values = _checked(times_s, curve)
    peak = _peak(values)
    if not peak.value > peak.base:
        return float("nan")
    level = peak.base + share * (peak.value - peak.base)
    below = np.flatnonzero(values[: peak.index] < level)
    if not below.size:
        return float("nan")
    i = int(below[-1])
    return float(times[i] + (level - values[i]) / (values[i + 1] - values[i]) * (times[i + 1] - times[i]))


def time_to_peak(times_s: Array, curve: Array) -> float:
    """Seconds from the first frame to the peak: vertex of the parabola through the highest value and its neighbours.

    A peak at the first or last frame is taken as it is; NaN for a constant curve.
    """
    times, values = _checked(times_s, curve)
    i = int(values.argmax())
    if values.min() == values[i]:
        return float("nan")
    if 0 < i < len(values) - 1:
        before, after = times[i] - times[i - 1], times[i + 1] - times[i]
        slopes = (values[i] - values[i - 1]) / before, (values[i + 1] - values[i]) / after
        bend = (slopes[1] - slopes[0]) / (before + after)
        if bend < 0:
            slope = (slopes[0] * after + slopes[1] * before) / (before + after)
            shift = -slope / (2 * bend)
            return float(times[i] + np.clip(shift, -before, after) - times[0])
    return float(times[i] - times[0])


def area_under_curve(times_s: Array, curve: Array) -> float:
    """Integral of a curve over time, straight lines between frames; unit of the curve times seconds."""
    times, values = _checked(times_s, curve)
    return float(((values[1:] + values[:-1]) / 2 * np.diff(times)).sum())


def region_errors(times_s: Array, truth: Array, curves: Array, share: float = 0.2) -> dict[str, NDArray[np.float64]]:
    """Absolute errors of the curve of each region of a run.

    Args:
        times_s: [T].
        truth, curves: [R, T] opacity of the measured and of the made run.
        share: see :func:`arrival_time`.

    Returns:
        [R] each: ``arrival_s`` and ``peak_s`` in seconds, ``area_percent`` of the truth's area under the curve (above
        its lowest value), ``curve_mae`` in the unit of the curves. NaN where there is none.
    """
    if truth.shape != curves.shape or truth.ndim != 2:
        raise ValueError(f"curves must be [R, T] like the truth {truth.shape}, got {curves.shape}.")
    found: dict[str, list[float]] = {"arrival_s": [], "peak_s": [], "area_percent": [], "curve_mae": []}
    for true, made in zip(truth, curves, strict=True):
        found["arrival_s"].append(abs(arrival_time(times_s, made, share) - arrival_time(times_s, true, share)))
        found["peak_s"].append(abs(time_to_peak(times_s, made) - time_to_peak(times_s, true)))
        whole = area_under_curve(times_s, true - true.min())
        error = abs(area_under_curve(times_s, made) - area_under_curve(times_s, true))
        found["area_percent"].append(100 * error / whole if whole > 0 else float("nan"))
        found["curve_mae"].append(float(np.abs(made - true).mean()))
    return {name: np.array(values) for name, values in found.items()}


def curve_errors(times_s: Array, truth: Array, curves: Array, share: float = 0.2) -> dict[str, float]:
    """Means over the regions of :func:`region_errors`, of those that are not NaN; NaN where there is no other.

    Besides, ``regions`` says how many there are, ``arrival_undefined`` in how many of them truth or made run have no
    arrival.
    """
    found = region_errors(times_s, truth, curves, share)
    means = {name: _mean_of_finite(values) for name, values in found.items()}
    undefined = int(np.isnan(found["arrival_s"]).sum())
    return {**means, "regions": len(truth), "arrival_undefined": undefined}


def _mean_of_finite(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


# ---- frames ----


def deviation_in_time(before: Array, frame: Array, after: Array, times_s: tuple[float, float, float]) -> Array:
    """A frame minus the straight line in time through its neighbours, pixel by pixel: half the second difference.

    *Flicker* of a made run is the mean of its absolute value over made frames and the active area, divided by the same
    of the measured run at the same frames: 1 is as restless as what was measured (noise included), 0 a straight line.

    Args:
        before, frame, after: [...] of three frames that follow each other.
        times_s: of the three.
    """
    share = (times_s[1] - times_s[0]) / (times_s[2] - times_s[0])
    return frame - ((1 - share) * before + share * after)


def opacity_weight(truth: Array, ground: float, floor: float = 0.05) -> Array:
    """Where vessels are: opacity of the truth above ``floor`` (which keeps noise of the ground out), else 0."""
    return np.maximum(ground - floor - truth, 0)


def change_weight(frame0: Array, frame1: Array, floor: float = 0.05) -> Array:
    """Where contrast comes or goes: absolute change between the measured frames of a gap above ``floor``, else 0."""
    return np.maximum(np.abs(frame1 - frame0) - floor, 0)


def weighted_error(image: Array, truth: Array, weight: Array) -> tuple[float, float]:
    """``sum(w |e|) / sum(w)`` and ``sqrt(sum(w e^2) / sum(w))``: weighted MAE and RMSE, in the unit of the frames.

    Args:
        image, truth, weight: [...] of one shape; weights 0 or more.

    Returns:
        Both; NaN where all weights are 0.
    """
    if not image.shape == truth.shape == weight.shape:
        raise ValueError(f"one shape is needed, got {image.shape}, {truth.shape} and {weight.shape}.")
    weight = np.asarray(weight, dtype=np.float64)
    total = float(weight.sum())
    if not total > 0:
        return float("nan"), float("nan")
    error = np.subtract(image, truth, dtype=np.float64)
    return float((weight * np.abs(error)).sum() / total), float(np.sqrt((weight * error * error).sum() / total))
