"""Evaluation of frame interpolation: frames are left out of complete runs, made again, and compared with the measured.

The parts sit around a MONAI ``SupervisedEvaluator`` (``bundles/most_dsa/configs/evaluate.json``):

    LoadAngiographyd -> LeaveFramesOutd -> network between the kept frames -> AddFrameBaselinesd
    -> ScoreFramesd (custom_nets.evaluation.frames.scores) -> FrameReport (custom_nets.evaluation.frames.report)

What every method makes goes the way that inference takes: network units, then the run's stored values, rounded. No
method sees a frame that was left out. (The map between stored values and units is that of the complete run: one linear
map, the same for all methods.)

The runs are shared out among the processes that ``torchrun`` starts, none twice; scores are reduced over all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.transforms import Transform
from numpy.typing import NDArray

from custom_nets.data.angiography.reader import find_runs
from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.evaluation.frames.baselines import BASELINES, USUAL
from custom_nets.inferers.frames import FrameInterpolationInferer, GapPlan
from custom_nets.utils.errors import root_cause

__all__ = [
    "METHODS", "USUAL_METHODS", "AddFrameBaselinesd", "FrameEvaluator", "LeaveFramesOutd", "LeaveOut",
    "LeaveOutInferer", "checked_methods", "evaluation_items", "leave_frames_out",
]  # fmt: skip

logger = logging.getLogger(__name__)

METHODS = {"pred": "ours", **{name: name for name in BASELINES}}  # data key -> name in the tables
USUAL_METHODS = ("ours", *USUAL)


# ---- what to measure ----


def evaluation_items(
    cases: str | Path | Sequence[Any] | None, missing_frames: int | Sequence[int] = (1, 2, 3, 7)
) -> list[dict[str, Any]]:
    """The list of things to measure: each run with each number of frames left out.

    Args:
        cases: complete runs, as :func:`custom_nets.data.angiography.reader.find_runs` takes them.
        missing_frames: how many frames to leave out between two that are kept.

    Returns:
        Items with "image" (path), "case", "missing".

    Raises:
        ValueError: no runs named, or a number that makes no sense.
    """
    if not cases:
        raise ValueError("nothing to evaluate: give complete runs as --dataset_dir FOLDER or --cases \"['a.dcm']\".")
    numbers = [missing_frames] if isinstance(missing_frames, int) else list(missing_frames)
    if not numbers or len(set(numbers)) < len(numbers) or any(type(n) is not int or n < 1 for n in numbers):
        raise ValueError(f"missing_frames must be different whole numbers from 1, got {missing_frames!r}.")
    return [{**found, "missing": number} for found in find_runs(cases) for number in numbers]


def checked_methods(methods: Sequence[str]) -> list[str]:
    """Names of methods: "ours" and any of the baselines.

    Raises:
        ValueError: another name, or "ours" is not among them.
    """
    known = list(METHODS.values())
    if unknown := sorted(set(methods) - set(known)):
        raise ValueError(f"unknown methods {unknown}; there are {', '.join(known)}.")
    if "ours" not in methods:
        raise ValueError(f"methods must have 'ours', which the others are compared with, got {list(methods)}.")
    return [name for name in known if name in methods]


# ---- leaving frames out ----


@dataclass(frozen=True, eq=False)
class LeaveOut:
    """A complete run and what is left of it.

    Attributes:
        run: all frames.
        missing: frames left out between two kept ones.
        kept: the run without the frames that were left out, all that a method may look at.
        plans: the gaps of ``kept`` to fill, in the order of time.
        targets: [M] indices in ``run`` of the frames left out, which are the truth.
        pairs: [M, 2] indices in ``run`` of the kept frames around each.
        timesteps: [M] share of the gap that has passed at each, by the times of the run.
        seconds: method -> how long it took, filled in as methods run.
        told: what else than frames and times the network was told, filled in when it runs.
    """

    run: AngiographyRun
    missing: int
    kept: AngiographyRun
    plans: tuple[GapPlan, ...]
    targets: NDArray[np.int64]
    pairs: NDArray[np.int64]
    timesteps: NDArray[np.float64]
    seconds: dict[str, float] = field(default_factory=dict)
    told: dict[str, bool] = field(default_factory=dict)

    @property
    def sequence(self) -> NDArray[np.int64]:
        """[S] indices in ``run`` of the longer run that a method gives back: kept and made frames, in order of time."""
        return np.unique(np.concatenate([self.targets, self.pairs.ravel()]))

    def units_of(self, stored: NDArray, index: int) -> NDArray[np.float32]:
        """A made frame [H, W] of stored values in network units, in the place of frame ``index`` of the complete run.

        A mask that is subtracted is the same for the made and the measured frame, so it need not be known here.
        """
        mapping = self.run.mapping
        difference = mapping.scale * (mapping.forward(stored) - mapping.forward(self.run.frames[index]))
        return self.run.normalize(index)[0] + difference.astype(np.float32)

    def stored(self, batches: Iterable[tuple[NDArray, NDArray]]) -> NDArray:
        """Made frames in units with their positions in ``kept``, batch by batch -> [M, H, W] stored values."""
        frames = np.empty((len(self.targets), *self.run.size), dtype=self.run.frames.dtype)
        done = 0
        for units, positions in batches:
            frames[done : done + len(units)] = self.kept.denormalize(units, positions)
            done += len(units)
        if done != len(frames):
            raise ValueError(f"{len(frames)} frames were to be made, got {done}.")
        return frames


def leave_frames_out(run: AngiographyRun, missing: int) -> LeaveOut:
    """Keep every ``missing + 1``-th frame: the first, the one ``missing + 1`` later, and so on.

    Counting starts anew after a mask frame, a made frame and wherever else frames cannot be made across
    (``AngiographyRun.gaps``). Frames after the last one that is kept have no later neighbour and are not measured.

    Raises:
        ValueError: no stretch of the run is long enough.
    """
    step = missing + 1
    stretches: list[list[int]] = []
    for gap in run.gaps(np.inf):
        if stretches and stretches[-1][-1] == gap.index:
            stretches[-1].append(gap.index + 1)
        else:
            stretches.append([gap.index, gap.index + 1])
    pairs = [(a, a + step) for s in stretches for a in range(s[0], s[-1] - missing, step)]
    if not pairs:
        longest = max((len(s) for s in stretches), default=0)
        raise ValueError(
            f"{missing} missing frames need {missing + 2} measured frames in a row, the run has {longest} of "
            f"{len(run)}: leave {missing} out of --missing_frames."
        )
    ends = {index for pair in pairs for index in pair}
    indices = sorted(ends | set(run.mask_frames))
    kept = run.select(indices)
    place = {old: new for new, old in enumerate(indices)}
    gaps = {gap.index: gap for gap in kept.gaps()}
    follows = {first: last for first, last in pairs}
    comes_before = {last: first for first, last in pairs}
    plans = []
    for first, last in pairs:
        if place[first] not in gaps or place[last] != place[first] + 1:
            raise ValueError(f"frames {first + 1} and {last + 1} are no longer neighbours once others are left out.")
        before, after = comes_before.get(first), follows.get(last)
        times = tuple(float(t) for t in run.times_s[first + 1 : last])
        context = (None if i is None else place[i] for i in (before, after))
        plans.append(GapPlan(gaps[place[first]], times, *context))
    targets = np.array([i for first, last in pairs for i in range(first + 1, last)])
    around = np.repeat(np.array(pairs), missing, axis=0)
    return LeaveOut(
        run, missing, kept, tuple(plans), targets, around, np.array([t for plan in plans for t in plan.timesteps])
    )


class LeaveFramesOutd(Transform):
    """Turn the complete run in "image" into a :class:`LeaveOut`, with "missing" frames left out of each gap."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        d["image"] = leave_frames_out(d["image"], d["missing"])
        return d


# ---- making them again ----


class LeaveOutInferer(Inferer):
    """The network between the kept frames, as ``inferer`` does it for a run of a person.

    Args:
        inferer: with its options (context, precision, frames per batch).
    """

    def __init__(self, inferer: FrameInterpolationInferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Any, network: Any, device: str | torch.device = "cpu") -> NDArray:  # type: ignore[override]
        """[M, H, W] stored values."""
        started = time.perf_counter()
        made = inputs.stored(self.inferer.predict(inputs.kept, inputs.plans, network, device))
        inputs.seconds["ours"] = time.perf_counter() - started
        inputs.told["flow_used"] = self.inferer.flow_used
        inputs.told["angles_used"] = self.inferer.uses_angles(inputs.kept, network)
        return made


class AddFrameBaselinesd(Transform):
    """Add what plain interpolation makes of the kept frames of "image", under the names of ``methods``.

    A constant border stays as it is, as :class:`custom_nets.inferers.FrameInterpolationInferer` leaves it.

    Args:
        methods: see :func:`checked_methods`.
    """

    def __init__(self, methods: Sequence[str] = USUAL_METHODS) -> None:
        self.baselines = [name for name in checked_methods(methods) if name in BASELINES]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for name in self.baselines:
            started = time.perf_counter()
            d[name] = d["image"].stored(self.made(d["image"], name))
            d["image"].seconds[name] = time.perf_counter() - started
        return d

    @staticmethod
    def made(left: LeaveOut, name: str) -> Iterable[tuple[NDArray, NDArray]]:
        for plan in left.plans:
            frame0, frame1 = left.kept.normalize([plan.gap.index, plan.gap.index + 1])
            frames = BASELINES[name](frame0, frame1, plan.timesteps)
            border = ~left.kept.active & (frame0 == frame1)
            frames[:, border] = frame0[border]
            yield frames, left.kept.position_of(plan.times_s)


# ---- the engine ----


class FrameEvaluator(SupervisedEvaluator):
    """``SupervisedEvaluator`` that lists what fails, measures the rest, and then ends the process with status 1.

    A run that cannot be read is treated like one that no frame can be left out of or that the network fails on: its
    item gets the output ``{"failure": {"case", "missing", "error"}}``.

    Args:
        preprocessing: transform of an item, done here instead of in the dataset so that its errors are seen.
        kwargs: of ``SupervisedEvaluator``; ``val_data_loader`` has ``collate_fn``
            :func:`custom_nets.engines.single_item`.
    """

    def __init__(self, *, preprocessing: Any, **kwargs: Any) -> None:
        super().__init__(decollate=False, **kwargs)
        self.preprocessing = preprocessing
        self.failures: list[dict[str, Any]] = []

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        try:
            engine.state.batch = self.preprocessing(batchdata)
            return super()._iteration(engine, engine.state.batch)
        except Exception as error:  # whatever it is, it is listed and the next run gets its turn
            cause = root_cause(error)
            known = isinstance(cause, ValueError | OSError)
            what = {"case": batchdata["case"], "missing": batchdata["missing"]}
            text = str(cause) if known else f"{type(cause).__name__}: {cause}"
            logger.error("%(case)s, %(missing)d missing: failed", what, exc_info=None if known else error)
            self.failures.append({**what, "error": text})
            engine.state.output = {"failure": self.failures[-1]}
            return engine.state.output

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]  # as MONAI's Evaluator has it
        """Measure everything.

        Raises:
            SystemExit: something failed; the message lists it.
        """
        self.failures = []
        super().run(global_epoch)
        shares: Any = idist.all_gather(self.failures)
        failed = [failure for share in shares for failure in share]
        if failed:
            lines = "".join(f"\n  {f['case']}, {f['missing']} missing: {f['error']}" for f in failed)
            raise SystemExit(f"error: {len(failed)} evaluations failed:{lines}")
