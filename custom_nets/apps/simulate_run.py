"""Write a simulated angiography run: ``python -m custom_nets.apps.simulate_run OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from custom_nets.simulation.acquisition import run_times, simulated_run, write_simulated_run
from custom_nets.simulation.dsa import DSASettings, DSASimulator
from custom_nets.utils.commands import CommandParser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.apps.simulate_run OUT``"""
    parser = CommandParser(
        prog="python -m custom_nets.apps.simulate_run", description="Write a simulated angiography run."
    )
    parser.add_argument("out", help="RUN.dcm, RUN.npz, RUN.nii.gz, RUN.gif, RUN.mp4, or a folder for PNG pictures")
    parser.add_argument("--seed", type=int, default=0, help="of patient, acquisition and noise")
    parser.add_argument("--kind", choices=("fixed", "rotational"), default="fixed", help="standing or turning C-arm")
    parser.add_argument("--frames", type=int, default=30, help="with contrast agent; a raw run has its mask besides")
    parser.add_argument("--fps", type=float, nargs="+", default=[4.0], help="frames/s; several: one after another")
    parser.add_argument("--first_s", type=float, help="time of the first frame, s since the mask (one step)")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="height and width")
    parser.add_argument("--bits", type=int, default=12, help="8 to 16")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--raw", action="store_true", default=None, help="mask frame and frames (default where standing)")
    how.add_argument("--subtracted", dest="raw", action="store_false", help="subtracted frames (where turning)")
    parser.add_argument("--relationship", choices=("LIN", "LOG"), default="LIN", help="of raw values and intensity")
    parser.add_argument(
        "--collimation", type=float, nargs="+", default=[0.0], help="share behind each of the 4 shutters"
    )
    parser.add_argument("--photons", type=float, help="per pixel in air and exposure; inf for none of the noise")
    options = parser.parse_args(arguments)
    sides, shutters = options.size, options.collimation
    if len(sides) > 2 or min(sides) < 32:
        parser.error(f"--size takes one or two numbers from 32 on, got {sides}.")
    if len(shutters) not in (1, 4) or not all(0 <= share < 0.45 for share in shutters):
        parser.error(f"--collimation takes one or four shares from 0 to below 0.45, got {shutters}.")
    settings = DSASettings.random(options.seed, options.kind, (sides[0], sides[-1]))
    settings = replace(settings, collimation=tuple(shutters * (4 // len(shutters))))
    if options.photons is not None:
        settings = replace(settings, photons=options.photons)
    try:
        first_s = 1 / options.fps[0] if options.first_s is None else options.first_s
        times = run_times(options.frames, options.fps, first_s)
        simulator = DSASimulator(options.seed, settings)
        run = simulated_run(simulator, times, raw=options.raw, bits=options.bits, relationship=options.relationship)
        written = write_simulated_run(run, options.out)
    except (ValueError, OSError, ZeroDivisionError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{written}: {len(run)} frames of {run.size[0]} x {run.size[1]}, {options.bits} bits, {options.kind}")


if __name__ == "__main__":
    main()
