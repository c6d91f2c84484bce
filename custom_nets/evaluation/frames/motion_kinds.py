"""Errors of made frames by what happens at a place: vessels that cross, one that moves, contrast that comes, nothing.

Simulated turning runs are exposed and stored as real ones are (8 bits, about 1.4 degrees a frame), frames are left out,
made again by the network and by the plain methods, and compared at the places that the simulator knows
(:meth:`custom_nets.simulation.dsa.DSASimulator.motion_kinds`). "Noise alone" is the picture without noise: what no
method can be better than.

    python -m custom_nets.evaluation.frames.motion_kinds REPORT --seeds 9301 9302 --checkpoint model.pt

A further method (such as views of a 4D reconstruction of the kept frames) is one more entry of ``methods`` in
:func:`measure`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.evaluation.frames.baselines import BASELINES, USUAL
from custom_nets.evaluation.frames.protocol import AddFrameBaselinesd, LeaveOut, LeaveOutInferer, leave_frames_out
from custom_nets.evaluation.report import write_measured
from custom_nets.evaluation.tables import markdown_rows
from custom_nets.inferers.frames import FrameInterpolationInferer
from custom_nets.metrics.mean import psnr_db
from custom_nets.simulation.acquisition import simulated_run
from custom_nets.simulation.dsa import MOTION_KINDS, DSASettings, DSASimulator
from custom_nets.utils.commands import CommandParser

__all__ = ["main", "markdown_table", "measure", "turning_times"]

REGIONS = ("active", *MOTION_KINDS)
NOISE = "noise alone"
Row = dict[str, Any]
Method = Callable[[LeaveOut], NDArray]


def turning_times(simulator: DSASimulator, frames: int, degrees: float, first_s: float = 1.5) -> NDArray[np.float64]:
    """[frames] seconds, one frame every so many degrees."""
    speed = abs(simulator.settings.rotation_deg_s)
    if not speed:
        raise ValueError("the C-arm of this simulator stands: take DSASettings.random(seed, 'rotational').")
    return first_s + degrees / speed * np.arange(frames, dtype=np.float64)


def measure(
    simulator: DSASimulator,
    times_s: NDArray[np.float64],
    missing: Iterable[int],
    methods: Mapping[str, Method],
    bits: int = 8,
) -> list[Row]:
    """Rows of seed, missing, method, region, pixels, and the sums of squared errors over all made frames.

    The last method is "noise alone": the frames themselves, as they would be without noise.

    Args:
        simulator: patient and acquisition.
        times_s: [T] of the frames.
        missing: numbers of frames left out between two that are kept.
        methods: name -> what gives the frames left out, [M, H, W] stored values.
        bits: stored.
    """
    run = simulated_run(simulator, times_s, bits=bits)
    clean = _without_noise(simulator, run)
    rows = []
    span = float((1 << bits) - 1)
    for number in missing:
        left = leave_frames_out(run, number)
        made = {name: method(left) for name, method in methods.items()} | {NOISE: clean[list(left.targets)]}
        sums: dict[tuple[str, str], float] = defaultdict(float)
        pixels: dict[str, int] = defaultdict(int)
        for k, target in enumerate(left.targets):
            first, last = (float(run.times_s[i]) for i in left.pairs[k])
            kinds = simulator.motion_kinds(first, float(run.times_s[target]), last)
            where = {"active": run.active} | {n: run.active & (kinds == i) for i, n in enumerate(MOTION_KINDS)}
            for region, mask in where.items():
                pixels[region] += int(mask.sum())
            truth = run.frames[target].astype(np.float64) / span
            for name, frames in made.items():
                square = np.square(frames[k].astype(np.float64) / span - truth)
                for region, mask in where.items():
                    sums[name, region] += float(square[mask].sum())
        rows += [
            {"seed": simulator.seed, "missing": number, "method": name, "region": region, "pixels": pixels[region],
             "square_error": sums[name, region]}
            for name in made for region in REGIONS
        ]  # fmt: skip
    return rows


def _without_noise(simulator: DSASimulator, run: AngiographyRun) -> NDArray[np.float64]:
    """[T, H, W] stored values, not rounded; the window of display is that of the run, which its noise had a part in."""
    noiseless = DSASimulator(simulator.seed, replace(simulator.settings, photons=np.inf))
    frames = simulated_run(noiseless, run.times_s, bits=16).frames.astype(np.float64)
    slope, intercept = np.polyfit(frames.ravel(), run.frames.ravel().astype(np.float64), 1)
    return slope * frames + intercept


def _decibel(row: Row) -> float:
    return float(psnr_db(row["square_error"] / row["pixels"])) if row["pixels"] else np.nan


def _mean_decibel(rows: Iterable[Row]) -> float:
    values = [value for value in map(_decibel, rows) if np.isfinite(value)]
    return float(np.mean(values)) if values else float("nan")


def markdown_table(rows: Sequence[Row]) -> str:
    """PSNR (dB) of each kind of place, mean over the runs that have it; below, how much of the picture it is."""
    lines = []
    for number in sorted({row["missing"] for row in rows}):
        here = [row for row in rows if row["missing"] == number]
        table: list[list[str]] = []
        for name in dict.fromkeys(row["method"] for row in here):
            values = [
                _mean_decibel(row for row in here if (row["method"], row["region"]) == (name, r)) for r in REGIONS
            ]
            table.append([name, *(f"{value:.2f}" for value in values)])
        first = here[0]["method"]
        share = {r: sum(row["pixels"] for row in here if (row["method"], row["region"]) == (first, r)) for r in REGIONS}
        parts = [f"{100 * share[region] / max(share['active'], 1):.1f} %" for region in REGIONS]
        table.append(["share of the places", *parts])
        lines += [*markdown_rows([f"{number} missing", *REGIONS], table), ""]
    return "\n".join(lines)


def network_method(checkpoint: str | Path, **options: Any) -> Method:
    """The network of a checkpoint, as inference runs it."""
    from custom_nets.checkpoints import load_network

    network = load_network(checkpoint)
    inferer = LeaveOutInferer(FrameInterpolationInferer(frames_between=1, **options))
    return lambda left: inferer(left, network)


def _plain_method(name: str) -> Method:
    return lambda left: left.stored(AddFrameBaselinesd.made(left, name))


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.evaluation.frames.motion_kinds REPORT``"""
    from tqdm import tqdm

    parser = CommandParser(
        prog="python -m custom_nets.evaluation.frames.motion_kinds", description=__doc__.split("\n")[0]
    )
    parser.add_argument("report", help="folder for table.md, rows.csv and record.json")
    parser.add_argument("--checkpoint", nargs="+", required=True, help="of networks; several are compared")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(9301, 9307)), help="of simulated runs")
    parser.add_argument("--missing", type=int, nargs="+", default=[1, 2, 3], help="frames left out of each gap")
    parser.add_argument("--frames", type=int, default=25, help="of each run")
    parser.add_argument("--size", type=int, nargs=2, default=[384, 512], help="height and width")
    parser.add_argument("--degrees", type=float, default=1.4, help="between two frames")
    parser.add_argument("--baselines", nargs="*", choices=list(BASELINES), default=list(USUAL))
    parser.add_argument("--bits", type=int, default=8, help="stored, 8 to 16")
    options = parser.parse_args(arguments)
    if min(options.size) < 64 or options.frames < max(options.missing) + 2 or options.degrees <= 0:
        parser.error("needed: sides of 64 or more, frames for a gap of each length, degrees above 0.")
    methods: dict[str, Method] = {}
    for path in options.checkpoint:
        methods["ours" if len(options.checkpoint) == 1 else str(path)] = network_method(path)
    methods |= {name: _plain_method(name) for name in options.baselines}
    rows: list[Row] = []
    for seed in tqdm(options.seeds, desc="turning runs", unit="run"):
        simulator = DSASimulator(seed, DSASettings.random(seed, "rotational", tuple(options.size)))
        times = turning_times(simulator, options.frames, options.degrees)
        rows += measure(simulator, times, options.missing, methods, options.bits)
    write_measured(options.report, rows, markdown_table(rows), vars(options), options.checkpoint)


if __name__ == "__main__":
    main()
