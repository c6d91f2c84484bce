"""Simulated runs on disk, to train on: noise-free, sampled finely in time, with what is needed to add noise.

    python -m custom_nets.apps.simulate_training_runs FOLDER --count 100

Each run is a folder with ``frames.npy`` ([T, H, W] float16, line integrals of the subtracted run without noise),
``background.npy`` ([H, W] float16, attenuation of the head, from which the strength of the noise follows) and
``run.json`` (kind, time step in seconds, settings). The time step is several times finer than a measured run's, so that
gaps of many lengths and moments between the frames have their truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from custom_nets.simulation.dsa import DSASettings, DSASimulator, Kind
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.files import new_folder, write_json

__all__ = ["simulate_run"]


def simulate_run(folder: str | Path, seed: int, kind: Kind, shape: tuple[int, int], num_frames: int) -> Path:
    """Write one run; it appears whole or not at all, and one that is there is kept.

    Args:
        folder: to make ``<kind>_<seed>`` in.
        seed: of everything.
        kind: "fixed" (sampled at 7 to 16 Hz) or "rotational" (a frame every 0.5 to 1.5 degrees).
        shape: [H, W].
        num_frames: T.
    """
    target = Path(folder) / f"{kind}_{seed:05d}"
    if target.exists():
        return target
    rng = np.random.default_rng([seed, 5])
    settings = DSASettings.random(seed, kind, shape)
    if kind == "fixed":
        start_s, step_s = 0.3, rng.uniform(0.06, 0.14)
    else:
        start_s, step_s = rng.uniform(0.8, 3), rng.uniform(0.5, 1.5) / abs(settings.rotation_deg_s)
    times = start_s + step_s * np.arange(num_frames)
    simulator = DSASimulator(seed, settings)
    frames = np.stack([simulator.subtracted(t).astype(np.float16) for t in times])
    with new_folder(target) as part:
        np.save(part / "frames.npy", frames)
        np.save(part / "background.npy", simulator.background(float(times[num_frames // 2])).astype(np.float16))
        write_json(part / "run.json", {"kind": kind, "seed": seed, "step_s": step_s, "settings": asdict(settings)})
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.apps.simulate_training_runs FOLDER``"""
    from tqdm import tqdm

    parser = CommandParser(prog="python -m custom_nets.apps.simulate_training_runs", description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first_seed", type=int, default=1000)
    parser.add_argument("--size", type=int, default=512, help="height and width")
    parser.add_argument("--frames", type=int, default=72)
    parser.add_argument("--rotational", type=float, default=0.33, help="share of rotational runs")
    options = parser.parse_args(arguments)
    if options.count < 1 or options.size < 64 or options.frames < 3 or not 0 <= options.rotational <= 1:
        parser.error("needed: count >= 1, size >= 64, frames >= 3, rotational between 0 and 1.")
    for number in tqdm(range(options.count), desc="simulate", unit="run"):
        turning = int((number + 1) * options.rotational) > int(number * options.rotational)
        kind: Kind = "rotational" if turning else "fixed"
        simulate_run(options.folder, options.first_seed + number, kind, (options.size,) * 2, options.frames)


if __name__ == "__main__":
    main()
