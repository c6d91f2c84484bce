"""Scores of made frames against those that were left out of a run.

Of each frame (region/metric):

* ``full/psnr`` (dB), ``full/ssim``: as published (:mod:`custom_nets.metrics.frames`), data range 1 over the stored
  values as :func:`stored_scale` puts them onto 0 to 1; raw runs are scored subtracted, as they are looked at. Constant
  borders count.
* ``active/psnr``, ``active/ssim``: the same pixel errors and the same SSIM map, averaged over ``run.active`` alone.
* ``vessels/mae``, ``vessels/rmse``: in network units, weighted by the truth's opacity; ``change/mae``: weighted by how
  much the kept frames of the gap differ (:mod:`custom_nets.metrics.time_density`).

Of each run, of what a person gets (kept and made frames together) against the complete run at the same times:

* ``vessels/arrival_s``, ``peak_s``, ``area_percent``, ``curve_mae``: errors of the time-density curves in regions.
* ``active/flicker``: mean absolute deviation of made frames from the straight line through their neighbours in time,
  over the same of the measured frames; 1 is as restless as what was measured.
* ``active/brightness_flicker``: the same of the mean over the active area.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.transforms import Transform
from numpy.typing import NDArray

from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.evaluation.frames.protocol import METHODS, USUAL_METHODS, LeaveOut, checked_methods
from custom_nets.metrics import time_density as td
from custom_nets.metrics.frames import ssim_map
from custom_nets.metrics.mean import MeanMetric, psnr_db

__all__ = ["MeanFrameScore", "ScoreFramesd", "stored_scale"]


def stored_scale(run: AngiographyRun) -> tuple[float, float, str]:
    """How PSNR and SSIM see stored values: ``(value - lowest) / span``, the same for every method and network.

    Returns:
        lowest, span, and what that is: for whole numbers the range of the bits stored (255 for 8 bits), where a file
        does not say how many (NIfTI, NPZ, 16-bit pictures) of as many bits as the run's values need; for float32 the
        range of the measured frames in the active area. For raw runs with a mask 0, 1: network units of the subtracted
        frames.
    """
    if run.mapping.subtraction:
        return 0.0, 1.0, "network units of the subtracted frames"
    if not np.issubdtype(run.frames.dtype, np.integer):
        inside = run.frames[~run.synthetic][:, run.active]
        low, high = float(inside.min()), float(inside.max())
        return low, high - low or 1.0, f"float32: range of the run's values, {low:g} to {high:g}"
    limits = np.iinfo(run.frames.dtype)
    bits, how = run.origin.meta.get("bits_stored"), "bits stored"
    if bits is None:
        largest = max(int(run.frames.max()), -int(run.frames.min()) - 1)
        bits = limits.bits if limits.bits == 8 else max(8, largest.bit_length() + (limits.min < 0))
        how = "bits" if limits.bits == 8 else "bits, as many as the run's values need"
    low = -float(1 << (int(bits) - 1)) if limits.min else 0.0
    return low, float((1 << int(bits)) - 1), f"{int(bits)} {how}"


class ScoreFramesd(Transform):
    """Measure what the methods made of the :class:`custom_nets.evaluation.frames.protocol.LeaveOut` in "image".

    Adds

    * "scores": rows of case, missing, frame, place in the gap (both count from 1), time_s, t, method, region, metric,
      value;
    * "run_scores": rows of case, missing, method, region, metric, value;
    * "region_scores": rows of case, missing, region (number), row, column (of its centre, from 0), pixels, contrast,
      method, and the errors of its curve (:func:`custom_nets.metrics.time_density.region_errors`);
    * "curves": times_s [S], pixels [R], and name -> opacity [R, S];
    * "most_change": number (from 0) of the made frame that has the largest change in time around it;
    * "record": what it was measured with.

    Args:
        methods: see :func:`custom_nets.evaluation.frames.protocol.checked_methods`.
        opacity_floor: opacity in network units that counts as noise of the ground.
        arrival_share: see :func:`custom_nets.metrics.time_density.arrival_time`.
        device: where SSIM is computed.
    """

    def __init__(
        self,
        methods: Sequence[str] = USUAL_METHODS,
        opacity_floor: float = 0.05,
        arrival_share: float = 0.2,
        device: str | torch.device = "cpu",
    ) -> None:
        self.methods = checked_methods(methods)
        self.opacity_floor, self.arrival_share = opacity_floor, arrival_share
        self.device = device

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        left: LeaveOut = d["image"]
        made = {name: d[key] for key, name in METHODS.items() if name in self.methods}
        which = {"case": d["case"], "missing": left.missing}
        ground, regions = self._survey(left)
        course = _FrameWalk(left, made, ground, regions)
        d["scores"] = []
        for place in range(len(left.sequence)):
            units = course.advance(place)
            k = course.made_at.get(place)
            if k is not None:
                index = int(left.targets[k])
                where = {"frame": index + 1, "place": k % left.missing + 1, "time_s": float(left.run.times_s[index])}
                for method, values in self._of_frame(course, k, units).items():
                    row = {**which, **where, "t": float(left.timesteps[k]), "method": method}
                    for (region, metric), value in values.items():
                        d["scores"].append({**row, "region": region, "metric": metric, "value": value})
        d["curves"] = course.curves()
        found = self._places(regions, d["curves"]["truth"])
        d["run_scores"], d["region_scores"], undefined = [], [], {}
        for method in made:
            curves = d["curves"]["times_s"], d["curves"]["truth"], d["curves"][method], self.arrival_share
            each = td.region_errors(*curves)
            for number, where in enumerate(found):
                own = {name: float(values[number]) for name, values in each.items()}
                d["region_scores"].append({**which, **where, "method": method, **own})
            errors = td.curve_errors(*curves)
            undefined[method] = int(errors.pop("arrival_undefined"))
            errors.pop("regions")
            values = {("vessels", metric): value for metric, value in errors.items()}
            values |= {("active", metric): value for metric, value in course.flicker(method).items()}
            for (region, metric), value in values.items():
                d["run_scores"].append({**which, "method": method, "region": region, "metric": metric, "value": value})
        d["most_change"] = course.most_change
        d["record"] = {**which, **self._record(left, ground, regions), "arrival_undefined": undefined}
        return d

    def _survey(self, left: LeaveOut) -> tuple[float, NDArray[np.int64]]:
        """Ground (median in the active area, network units) and regions of vessels, of the measured frames."""
        finder = td.VesselFinder(left.run.active, floor=self.opacity_floor)
        medians = []
        for index in left.sequence:
            frame = left.run.normalize(int(index))[0]
            medians.append(float(np.median(frame[left.run.active])))
            finder.add(frame)
        return float(np.median(medians)), finder.regions()

    @staticmethod
    def _places(regions: NDArray[np.int64], truth: NDArray) -> list[dict[str, Any]]:
        """Number, centre (from 0), size and contrast (highest minus lowest opacity) of each region."""
        from scipy.ndimage import center_of_mass

        centres = center_of_mass(regions > 0, regions, np.arange(1, len(truth) + 1))
        pixels = np.bincount(regions.ravel())[1:]
        return [
            {
                "region": k + 1, "row": round(float(row)), "column": round(float(column)),
                "pixels": int(pixels[k]), "contrast": float(np.ptp(truth[k])),
            }
            for k, (row, column) in enumerate(centres)
        ]  # fmt: skip

    def _of_frame(
        self, course: _FrameWalk, k: int, units: Mapping[str, NDArray]
    ) -> dict[str, dict[tuple[str, str], float]]:
        """Method -> (region, metric) -> score of made frame number k."""
        left, run, active = course.left, course.left.run, course.left.run.active
        low, span, _ = course.scale

        def seen(stored: NDArray, name: str) -> NDArray[np.float64]:
            values = units[name] if run.mapping.subtraction else stored
            return (values.astype(np.float64) - low) / span

        truth = seen(run.frames[left.targets[k]], "truth")
        opacity = np.where(active, td.opacity_weight(units["truth"], course.ground, self.opacity_floor), 0)
        first, last = run.normalize(left.pairs[k])
        change = np.where(active, td.change_weight(first, last, self.opacity_floor), 0)
        found = {}
        for name, frames in course.made.items():
            image = seen(frames[k], name)
            square = np.square(image - truth)
            tensors = [torch.from_numpy(x[None]).to(self.device) for x in (image, truth)]
            ssim = ssim_map(tensors[0], tensors[1])[0].cpu().numpy()
            mae, rmse = td.weighted_error(units[name], units["truth"], opacity)
            found[name] = {
                ("full", "psnr"): psnr_db(square.mean()),
                ("full", "ssim"): float(ssim.mean()),
                ("active", "psnr"): psnr_db(square[active].mean()),
                ("active", "ssim"): float(ssim[active].mean()),
                ("vessels", "mae"): mae,
                ("vessels", "rmse"): rmse,
                ("change", "mae"): td.weighted_error(units[name], units["truth"], change)[0],
            }
        return found

    def _record(self, left: LeaveOut, ground: float, regions: NDArray[np.int64]) -> dict[str, Any]:
        run = left.run
        unused = np.setdiff1d(np.arange(len(run)), left.sequence)
        reasons = {
            "mask frames": [i for i in unused if i in run.mask_frames],
            "made frames of the input": [i for i in unused if run.synthetic[i]],
        }
        named = {i for found in reasons.values() for i in found}
        reasons["beyond the last gap that is filled"] = [i for i in unused if i not in named]
        return {
            "frames": len(run),
            "size": list(run.size),
            "dtype": str(run.frames.dtype),
            "kept": (np.unique(left.pairs) + 1).tolist(),
            "measured": len(left.targets),
            "not_measured": {why: [int(i) + 1 for i in found] for why, found in reasons.items() if found},
            "has_times": run.has_times,
            "data_range": stored_scale(run)[2],
            "active_fraction": float(run.active.mean()),
            "ground": ground,
            "opacity_floor": self.opacity_floor,
            "arrival_share": self.arrival_share,
            "vessel_pixels": int((regions > 0).sum()),
            "regions": int(regions.max()),
            "seconds_per_frame": {name: round(s / len(left.targets), 4) for name, s in left.seconds.items()},
            **left.told,
            "warnings": [text for plan in left.plans for text in plan.gap.warnings],
            "notes": list(left.kept.origin.notes),
        }


class _FrameWalk:
    """Walks through the longer runs of all methods and of the truth at once, three frames in memory."""

    def __init__(self, left: LeaveOut, made: Mapping[str, NDArray], ground: float, regions: NDArray[np.int64]) -> None:
        self.left, self.made, self.ground, self.regions = left, made, ground, regions
        self.scale = stored_scale(left.run)
        sequence = left.sequence
        self.times = left.run.times_s[sequence]
        self.made_at = {int(place): k for k, place in enumerate(np.searchsorted(sequence, left.targets))}
        self.pixels = np.bincount(regions.ravel())[1:]
        names = ("truth", *made)
        self._curves: dict[str, list[NDArray]] = {name: [] for name in names}
        self._recent: dict[str, list[NDArray]] = {name: [] for name in names}
        self._flicker_sum = dict.fromkeys(names, 0.0)
        self._brightness_sum = dict.fromkeys(names, 0.0)
        self._largest = -1.0
        self.most_change = 0

    def advance(self, place: int) -> dict[str, NDArray[np.float32]]:
        """The frame at a place of the sequence in network units, name -> [H, W]."""
        run = self.left.run
        index = int(self.left.sequence[place])
        truth = run.normalize(index)[0]
        units = dict.fromkeys(self._curves, truth)
        if (k := self.made_at.get(place)) is not None:
            units |= {name: self.left.units_of(frames[k], index) for name, frames in self.made.items()}
        for name, frame in units.items():
            self._curves[name].append(self.ground - td.region_means(frame, self.regions))
            self._recent[name] = [*self._recent[name][-2:], frame]
        if place >= 2 and place - 1 in self.made_at:
            self._look_back(place)
        return units

    def _look_back(self, place: int) -> None:
        """The made frame before this place now has both its neighbours."""
        active = self.left.run.active
        times = (float(self.times[place - 2]), float(self.times[place - 1]), float(self.times[place]))
        for name, (before, frame, after) in self._recent.items():
            deviation = td.deviation_in_time(before, frame, after, times)[active]
            self._flicker_sum[name] += float(np.abs(deviation).mean(dtype=np.float64))
            self._brightness_sum[name] += abs(float(deviation.mean(dtype=np.float64)))
        before, _, after = self._recent["truth"]
        change = float(np.abs(after - before)[active].mean())
        if change > self._largest:
            self._largest, self.most_change = change, self.made_at[place - 1]

    def curves(self) -> dict[str, NDArray]:
        """Times [S], pixels of the regions [R], and name -> opacity [R, S]."""
        found = {name: np.stack(values, axis=1) for name, values in self._curves.items()}
        return {"times_s": self.times, "pixels": self.pixels, **found}

    def flicker(self, name: str) -> dict[str, float]:
        """Restlessness of the made frames over that of the measured ones; NaN where those do not change at all."""

        def ratio(sums: dict[str, float]) -> float:
            return sums[name] / sums["truth"] if sums["truth"] > 0 else float("nan")

        return {"flicker": ratio(self._flicker_sum), "brightness_flicker": ratio(self._brightness_sum)}


class MeanFrameScore(MeanMetric):
    """Mean of a score over all frames of all runs, shared by the processes of a distributed run.

    Infinite and undefined scores are left out (the report counts them); NaN if there is no other.

    Args:
        method, region, metric: which score.
        minus: another method whose score is subtracted, frame by frame.
        missing: count only runs with so many frames left out.
    """

    def __init__(
        self,
        method: str = "ours",
        region: str = "active",
        metric: str = "psnr",
        minus: str | None = None,
        missing: int | None = None,
    ) -> None:
        self.score, self.method, self.minus, self.missing = (region, metric), method, minus, missing
        super().__init__()

    def iteration_completed(self, engine: Engine) -> None:
        """Take the scores of the run just measured; one that failed has none."""
        output: Any = engine.state.output
        self.update(output.get("scores", ()))

    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of :class:`ScoreFramesd`."""
        rows = [row for row in output if (row["region"], row["metric"]) == self.score]
        rows = [row for row in rows if self.missing in (None, row["missing"])]
        values, others = (
            np.array([row["value"] for row in rows if row["method"] == name], dtype=np.float64)
            for name in (self.method, self.minus)
        )
        if self.minus is not None:
            if len(others) != len(values):  # one of the two was not asked for
                return
            with np.errstate(invalid="ignore"):  # both infinite
                values = values - others
        self.add(values[np.isfinite(values)])
