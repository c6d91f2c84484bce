"""Frames between the measured frames of a run: which times, in which order, and in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from numpy.typing import NDArray

from custom_nets.data.angiography.optical_flow import dis_flow_px
from custom_nets.data.angiography.run import AngiographyRun, Gap, bounding_box

__all__ = ["FrameInterpolationInferer", "GapPlan", "plan_times"]

logger = logging.getLogger(__name__)

_STANDS_DEG = 1.0  # a C-arm that moves by no more stands
_FEWEST = 3  # frames that are asked before they count for more than the angles
_WORTH_DB = 0.05  # a start from optical flow that gives less is not worth its time
_SAME_S = 1e-4  # nobody names times more exactly, and no vessel moves in that time


@dataclass(frozen=True)
class GapPlan:
    """What to make in one gap.

    Attributes:
        gap: the pair of measured frames.
        times_s: [T] when, strictly inside the gap.
        before, after: measured frames (indices in the run) on either side of the pair that may be looked at.
    """

    gap: Gap
    times_s: tuple[float, ...]
    before: int | None = None
    after: int | None = None

    @property
    def timesteps(self) -> list[float]:
        """[T] share of the gap that has passed, in (0, 1)."""
        return [(t - self.gap.t0_s) / self.gap.seconds for t in self.times_s]


def plan_times(
    run: AngiographyRun,
    frames_between: int | None = None,
    fps: float | None = None,
    times_s: Sequence[float] | None = None,
    max_gap_s: float = 1.5,
) -> list[GapPlan]:
    """Decide which frames to make.

    Args:
        run: measured frames.
        frames_between: this many in every gap, evenly in time.
        fps: frames per second: a made frame at every ``1 / fps`` s after the first frame that is no mask frame, unless
            one was measured there (within 1 % of the step).
        times_s: at these times (s, in the run's own time), unless a frame was measured there (within 0.1 ms).
        max_gap_s: longer gaps get a warning.

    Returns:
        The gaps to fill, in the order of time; gaps beside mask frames are not among them.

    Raises:
        ValueError: not exactly one way of asking, a number that makes no sense, a moment outside the run or beside a
            mask frame, a rate or times for a run whose times are unknown, nothing to make.
    """
    _check_request(frames_between, fps, times_s)
    gaps = _gaps(run, max_gap_s)
    if frames_between is not None:
        shares = np.arange(1, frames_between + 1) / (frames_between + 1)
        wanted = [gap.t0_s + shares * gap.seconds for gap in gaps]
    else:
        if not run.has_times:
            raise ValueError(
                "the times of the frames are unknown (pictures carry none): give --input_fps, or ask by "
                "--frames_between."
            )
        start_s = gaps[0].t0_s
        times = _grid(run, float(fps), start_s) if fps is not None else _checked_times(run, times_s, gaps)
        # a made frame beside a measured one at the same time would be the same picture twice
        same_s = 0.01 / fps if fps is not None else _SAME_S
        times = np.array([t for t in times if np.abs(run.times_s - t).min() > same_s])
        wanted = [times[(times > gap.t0_s) & (times < gap.t1_s)] for gap in gaps]
    usable = {index for gap in gaps for index in (gap.index, gap.index + 1)}
    plans = [
        GapPlan(
            gap,
            tuple(float(t) for t in times),
            gap.index - 1 if gap.index - 1 in usable else None,
            gap.index + 2 if gap.index + 2 in usable else None,
        )
        for gap, times in zip(gaps, wanted, strict=True)
        if len(times)
    ]
    if not plans:
        raise ValueError("every time that was asked for has a measured frame already: nothing to make.")
    return plans


def _gaps(run: AngiographyRun, max_gap_s: float) -> list[Gap]:
    if not (gaps := run.gaps(max_gap_s)):
        raise ValueError("the run has no two neighbouring measured frames that are not mask frames: nothing to fill.")
    return gaps


def _check_request(frames_between: Any, fps: Any, times_s: Any) -> None:
    given = {"frames_between": frames_between, "fps": fps, "times_s": times_s}
    if sum(value is not None for value in given.values()) != 1:
        found = ", ".join(f"{k} = {v}" for k, v in given.items() if v is not None) or "none"
        raise ValueError(f'give exactly one of --frames_between K, --fps R and --times_s "[...]", got {found}.')
    if frames_between is not None and (
        isinstance(frames_between, bool) or not isinstance(frames_between, int) or not 1 <= frames_between <= 1000
    ):
        raise ValueError(f"frames_between must be a whole number from 1 to 1000, got {frames_between!r}.")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 1000):
        raise ValueError(f"fps must be a number above 0, at most 1000, got {fps!r}.")
    if times_s is not None:
        try:
            times = np.asarray(times_s, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            times = np.zeros(0)
        if not times.size or not np.isfinite(times).all():
            raise ValueError(f'times_s must be a list of seconds such as "[0.5, 1.25]", got {times_s!r}.')


def _grid(run: AngiographyRun, fps: float, start_s: float) -> NDArray[np.float64]:
    measured = 1 / float(np.median(np.diff(run.times_s)))
    if fps < measured * 0.999:
        logger.warning(
            "--fps %g is below the %.3g frames per second of the run; no measured frame is left out.", fps, measured
        )
    seconds = run.times_s[-1] - start_s
    return start_s + np.arange(1, int(np.floor(seconds * fps + 1e-6)) + 1) / fps


def _checked_times(run: AngiographyRun, times_s: Any, gaps: list[Gap]) -> NDArray[np.float64]:
    times = np.unique(np.asarray(times_s, dtype=np.float64).reshape(-1))
    measured = np.abs(times[:, None] - run.times_s).min(1) <= _SAME_S
    run.position_of(times[~measured])  # refuses what lies outside
    if measured.any():
        logger.info("at %s s there are measured frames already.", times[measured].tolist())
    inside = np.array([any(gap.t0_s < t < gap.t1_s for gap in gaps) for t in times])
    if (wrong := times[~inside & ~measured]).size:
        raise ValueError(f"the times {wrong.tolist()} s lie beside a mask frame: nothing is made across the mask.")
    return times


class FrameInterpolationInferer(Inferer):
    """Fill the gaps of a run by a network; see :func:`plan_times` for how to ask.

    Works gap by gap: only the frames of the gaps at hand are turned into network units, and made frames go back to
    stored values at once. Measured frames are not touched.

    Args:
        frames_between, fps, times_s: what to make; with none of them one frame between each pair.
        max_gap_s: warn at longer gaps.
        context: let the network look at the measured frames on either side of the pair, if it can.
        frames_per_batch: how many made frames to compute at a time.
        precision: "float32", or "bfloat16" where the device is faster with it.
        compile: use ``torch.compile`` (worth its minute for long runs on CUDA).
        crop: leave out constant borders and what the shutters hide; made frames have there what the earlier measured
            frame has.
        progress: show a bar.
        flow: let a network that can start from optical flow do so; None: where it helps (:meth:`flow_helps`).
        angles: tell a network that takes it how the C-arm turns, where the run says so.
    """

    def __init__(
        self,
        frames_between: int | None = None,
        fps: float | None = None,
        times_s: Sequence[float] | None = None,
        max_gap_s: float = 1.5,
        context: bool = True,
        frames_per_batch: int = 4,
        precision: str = "float32",
        compile: bool = False,
        crop: bool = False,
        progress: bool = False,
        flow: bool | None = None,
        angles: bool = True,
    ) -> None:
        super().__init__()
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', got {precision!r}.")
        if isinstance(frames_per_batch, bool) or not isinstance(frames_per_batch, int) or frames_per_batch < 1:
            raise ValueError(f"frames_per_batch must be a whole number, 1 or more, got {frames_per_batch!r}.")
        if frames_between is None and fps is None and times_s is None:
            frames_between = 1
        _check_request(frames_between, fps, times_s)
        self.frames_between, self.fps, self.times_s = frames_between, fps, times_s
        self.max_gap_s = max_gap_s
        self.context = context
        self.frames_per_batch = frames_per_batch
        self.precision = precision
        self.compile = compile
        self.crop = crop
        self.progress = progress
        self.flow = flow
        self.flow_used = False  # in the last run
        self.angles = angles

    def check_input(self, run: AngiographyRun) -> None:
        """Refuse a run that nothing can be made in, before the work.

        Raises:
            ValueError: there are no two neighbouring measured frames.
        """
        _gaps(run, self.max_gap_s)

    def uses_angles(self, run: AngiographyRun, network: Any) -> bool:
        """Whether the network is told how the C-arm turns: it takes that, and the run says it of some gap."""
        takes = self.angles and getattr(network, "takes_angles", False)
        return takes and any(run.geometry.turn(gap.index, gap.index + 1).any() for gap in run.gaps())

    def flow_helps(
        self, run: AngiographyRun, network: Any, device: str | torch.device = "cpu", frames: int = 5
    ) -> bool:
        """Tell whether made frames of a run come nearer to measured ones when they start from optical flow.

        Contrast that arrives has an optical flow, too, and must not be moved along it. A C-arm that stands, as its
        angles say, needs none. Otherwise the run itself is asked: some of its frames are made from their neighbours,
        with and without the start. Few frames, which lie twice as far apart then, say less than angles that are known.

        Args:
            run: measured frames.
            network: one that takes ``flow_px``.
            device: where it is.
            frames: how many are made, spread over the run.
        """
        primary, secondary = run.geometry.primary_deg, run.geometry.secondary_deg
        turns: bool | None = None
        if primary is not None and secondary is not None:
            turns = max(float(np.ptp(primary)), float(np.ptp(secondary))) > _STANDS_DEG
        usable = sorted({index for gap in run.gaps() for index in (gap.index, gap.index + 1)})
        if turns is False or len(usable) < 3:
            return bool(turns)
        kept = run.select([*run.mask_frames, *usable[::2]])
        asked = []
        for plan in plan_times(kept, frames_between=1, max_gap_s=np.inf):
            inside = [i for i in usable[1::2] if plan.gap.t0_s < run.times_s[i] < plan.gap.t1_s]
            if inside:
                asked.append((inside[0], replace(plan, times_s=(float(run.times_s[inside[0]]),))))
        if len(asked) < (_FEWEST if turns else 1):
            return bool(turns)
        chosen = np.unique(np.linspace(0, len(asked) - 1, min(frames, len(asked))).round().astype(int))
        truth = run.normalize([asked[k][0] for k in chosen])
        errors = []
        for flow in (True, False):
            other = copy(self)
            other.flow = flow
            made = other.predict(kept, [asked[k][1] for k in chosen], network, device)
            units = np.concatenate([frames for frames, _ in made])
            errors.append(float(((units - truth) ** 2 * run.active).mean()) + 1e-12)
        return bool(10 * np.log10(errors[1] / errors[0]) > _WORTH_DB)

    def __call__(  # type: ignore[override]  # a run is no tensor, and comes back longer
        self, inputs: AngiographyRun, network: Any, device: str | torch.device = "cpu"
    ) -> AngiographyRun:
        """A longer run: measured frames as they were, made frames marked.

        Args:
            inputs: the measured run.
            network: ``network(frame0, frame1, timesteps, ...)``, see ``custom_nets.networks.SymmetricMoStDSA``.
            device: where the network is.
        """
        from tqdm import tqdm

        plans = plan_times(inputs, self.frames_between, self.fps, self.times_s, self.max_gap_s)
        for text in (warning for plan in plans for warning in plan.gap.warnings):
            logger.warning("what is made here may be wrong: %s.", text)
        total = sum(len(plan.times_s) for plan in plans)
        made = np.empty((total, *inputs.size), dtype=inputs.frames.dtype)
        done = 0
        with tqdm(total=total, desc="making frames", unit="frame", disable=not self.progress) as bar:
            for units, positions in self.predict(inputs, plans, network, device):
                made[done : done + len(units)] = inputs.denormalize(units, positions)
                done += len(units)
                bar.update(len(units))
        return inputs.with_inserted([t for plan in plans for t in plan.times_s], made)

    def predict(
        self, run: AngiographyRun, plans: Sequence[GapPlan], network: Any, device: str | torch.device = "cpu"
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float64]]]:
        """Made frames in network units, [n, H, W], and their frame positions [n], batch by batch in order of time."""
        rows, columns = bounding_box(run.active) if self.crop else (slice(None), slice(None))
        call = torch.compile(network, dynamic=False) if self.compile else network
        takes_flow = getattr(network, "takes_flow", False)
        self.flow_used = takes_flow and (self.flow_helps(run, network, device) if self.flow is None else self.flow)
        flows = _Flows() if self.flow_used else None
        for batch in self._batches(plans):
            ends = [(plan.gap.index, plan.gap.index + 1, plan.before, plan.after) for plan in batch]
            needed = sorted({index for end in ends for index in end if index is not None})
            units = dict(zip(needed, run.normalize(needed), strict=True))
            seen = {i: u[rows, columns] for i, u in units.items()}
            pred = self._forward(call, network, run, batch, seen, flows, device)
            for plan, frames in zip(batch, pred, strict=True):
                start = units[plan.gap.index]
                if self.crop:
                    whole = np.repeat(start[None], len(frames), axis=0)
                    whole[:, rows, columns] = frames
                    frames = whole
                # a border that stands still stays exactly as it is, whatever the network does beside it
                border = ~run.active & (start == units[plan.gap.index + 1])
                frames[:, border] = start[border]
                yield frames, run.position_of(plan.times_s)

    def _batches(self, plans: Sequence[GapPlan]) -> Iterator[list[GapPlan]]:
        """Gaps with equally many times, together up to ``frames_per_batch`` frames; long gaps in parts."""
        batch: list[GapPlan] = []
        for plan in plans:
            for start in range(0, len(plan.times_s), self.frames_per_batch):
                part = replace(plan, times_s=plan.times_s[start : start + self.frames_per_batch])
                count = len(part.times_s)
                if batch and (len(batch[0].times_s) != count or (len(batch) + 1) * count > self.frames_per_batch):
                    yield batch
                    batch = []
                batch.append(part)
        if batch:
            yield batch

    def _forward(
        self,
        call: Any,
        network: Any,
        run: AngiographyRun,
        batch: Sequence[GapPlan],
        units: dict[int, NDArray[np.float32]],
        flows: _Flows | None,
        device: str | torch.device,
    ) -> NDArray[np.float32]:
        """[B, T, H, W] for gaps with equally many times."""
        channels = getattr(network, "in_channels", 1)

        def stack(indices: Sequence[int]) -> torch.Tensor:
            frames = torch.from_numpy(np.stack([units[i] for i in indices])[:, None]).to(device)
            return frames.expand(-1, channels, -1, -1)

        arguments: dict[str, Any] = {}
        if self.context and getattr(network, "takes_context", False):
            # where there is no further frame, the pair's own stands in, with nearness 0
            arguments["before"] = stack([p.gap.index if p.before is None else p.before for p in batch])
            arguments["after"] = stack([p.gap.index + 1 if p.after is None else p.after for p in batch])
            nearness = [
                (
                    0.0 if p.before is None else p.gap.seconds / (p.gap.t0_s - run.times_s[p.before]),
                    0.0 if p.after is None else p.gap.seconds / (run.times_s[p.after] - p.gap.t1_s),
                )
                for p in batch
            ]
            arguments["nearness"] = torch.tensor(nearness, dtype=torch.float32, device=device)
        if flows is not None:
            context = self.context and getattr(network, "takes_context", False)
            found = np.stack([flows.of(p, units, context) for p in batch])
            arguments["flow_px"] = torch.from_numpy(found).to(device)
        if self.angles and getattr(network, "takes_angles", False):
            turns = np.stack([run.geometry.turn(p.gap.index, p.gap.index + 1) for p in batch])
            arguments["turn"] = torch.from_numpy(turns).to(device)
        timesteps = torch.tensor([p.timesteps for p in batch], dtype=torch.float32, device=device)
        enabled = self.precision == "bfloat16"
        with torch.no_grad(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled):
            pred = call(
                stack([p.gap.index for p in batch]), stack([p.gap.index + 1 for p in batch]), timesteps, **arguments
            )
        # three equal channels went in; the mean of what comes out has no colour
        return pred.float().mean(dim=2).cpu().numpy()


class _Flows:
    """Motion between neighbouring frames, on the CPU; each is found once, though three gaps look at it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], NDArray[np.float32]] = {}

    def of(self, plan: GapPlan, units: dict[int, NDArray[np.float32]], context: bool) -> NDArray[np.float32]:
        """[8, H, W], see :func:`custom_nets.data.angiography.optical_flow.gap_flows_px`."""
        first, last = plan.gap.index, plan.gap.index + 1
        before, after = (plan.before, plan.after) if context else (None, None)
        self._known = {pair: flow for pair, flow in self._known.items() if min(pair) >= first - 1}
        none = np.zeros((2, *units[first].shape), np.float32)
        pairs = ((first, last), (last, first), (first, before), (last, after))
        return np.concatenate([none if j is None else self._flow(i, j, units) for i, j in pairs])

    def _flow(self, source: int, target: int, units: dict[int, NDArray[np.float32]]) -> NDArray[np.float32]:
        if (source, target) not in self._known:
            self._known[source, target] = dis_flow_px(units[source], units[target])
        return self._known[source, target]
