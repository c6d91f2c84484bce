"""A GPU for some minutes: is everything right there, how fast is it, and a training for the rest of the time.

    python -m benchmarks.gpu_session --minutes 9 --train arssr --dataset_dir DATA --output_dir OUT
    python -m benchmarks.gpu_session --minutes 9 --train most_dsa --output_dir OUT       # simulates its own runs
    python -m benchmarks.gpu_session --minutes 2 --train arssr --dataset_dir DATA --output_dir OUT --device cpu --tiny

Everything that comes of it lies in OUT: ``checks.txt`` (``pytest tests/gpu``), ``gpu.json`` and ``gpu.md`` (the
benchmark's table), ``training/`` (weights, checkpoint, log) and ``session.json`` (what was done, when, and how it
ended). Checks and benchmark get at most a sixth of the minutes each; whatever they leave is the training's, and if one
of them fails the training starts all the same. It needs torch, monai, pytorch-ignite, numpy, scipy, nibabel, pydicom,
tqdm and, for the checks, pytest; no network. See docs/gpu.md.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from benchmarks.gpu import table
from custom_nets import bundle_root
from custom_nets.utils.files import write_json, write_text
from custom_nets.utils.record import environment

BUNDLES = ("arssr", "most_dsa", "transmrsr")
TINY: dict[str, dict[str, Any]] = {
    "arssr": {"patch_size": 12, "num_points": 500, "batch_size": 2, "validation_crop_size": 40},
    "most_dsa": {"crop_size": 48, "longest_gap": 4, "batch_size": 2, "validation_repeats": 1},
    "transmrsr": {"slices": 3, "rows": 32, "columns": 32, "batch_size": 2, "validation_crop_size": 32},
}
_SHARE = 1 / 6  # of the minutes, for checks and for the benchmark
_CLOSING_S = 10.0  # records, and the end of the process


class Session:
    """Steps one after another within the minutes, each with its place in the record.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.started = time.monotonic()
        self.output_dir: Path = options.output_dir
        self.steps: list[dict[str, Any]] = []

    def left(self) -> float:
        """Seconds that are left."""
        return 60 * self.options.minutes - (time.monotonic() - self.started)

    def note(self, name: str, result: str, seconds: float, **more: Any) -> None:
        """Write down how a step ended; the record is whole after each of them."""
        self.steps.append({"step": name, "result": result, "seconds": round(seconds, 1), **more})
        print(f"{name}: {result} ({seconds:.0f} s, {self.left():.0f} s left)", flush=True)
        write_json(
            self.output_dir / "session.json",
            {
                "options": {k: str(v) for k, v in vars(self.options).items()},
                "device": _name(self.options.device),
                "steps": self.steps,
                "environment": environment(),
            },
        )

    def command(self, name: str, arguments: Sequence[str], log: str, limit: float) -> None:
        """Run ``python ARGUMENTS`` for at most ``limit`` seconds, with its output in a file."""
        start = time.monotonic()
        variables = {**os.environ, "GPU_TESTS_DEVICE": self.options.device}
        with open(self.output_dir / log, "w") as file:
            try:
                done = subprocess.run(
                    [sys.executable, *arguments],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=max(limit, 1.0),
                    env=variables,
                )
                result = "done" if done.returncode == 0 else f"ended with status {done.returncode}, see {log}"
            except subprocess.TimeoutExpired:
                result = f"stopped after {limit:.0f} s, see {log}"
        self.note(name, result, time.monotonic() - start)

    # ---- the steps ----

    def checks(self) -> None:
        tests = ["tests/gpu"]
        if self.options.tiny:
            tests = ["tests/gpu/test_networks.py", "-k", "SymmetricMoStDSA or BrainPrior"]
        limit = _SHARE * 60 * self.options.minutes
        self.command("checks", ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], "checks.txt", limit)

    def benchmark(self) -> None:
        limit = _SHARE * 60 * self.options.minutes
        arguments = ["-m", "benchmarks.gpu", "--device", self.options.device]
        arguments += ["--json", str(self.output_dir / "gpu.json"), "--max_minutes", str(0.8 * limit / 60)]
        if self.options.tiny:
            arguments += ["--tiny", "--no_compile"]
        self.command("benchmark", arguments, "benchmark.txt", limit)
        if (found := self.output_dir / "gpu.json").is_file():  # also when it was stopped
            write_text(self.output_dir / "gpu.md", table(json.loads(found.read_text())) + "\n")

    def simulate(self) -> list[subprocess.Popen]:
        """Start to simulate runs, in as many processes as there are processors; they work beside the other steps."""
        processes = min(os.cpu_count() or 1, 2 if self.options.tiny else 16)
        size, frames, each = ("64", "7", "1") if self.options.tiny else ("512", "72", "8")
        folder = str(self.output_dir / "runs")
        command = [sys.executable, "-m", "custom_nets.apps.simulate_training_runs", folder, "--count", each]
        command += ["--size", size, "--frames", frames]
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        log = open(self.output_dir / "simulation.txt", "w")  # noqa: SIM115  # as long as they write to it
        return [
            subprocess.Popen(
                [*command, "--first_seed", str(1000 * (number + 1))], env=variables, stdout=log, stderr=log
            )
            for number in range(processes)
        ]

    def end_of_simulation(self, processes: Sequence[subprocess.Popen]) -> None:
        """Wait for the runs until half of the minutes are over; those that are whole by then are enough."""
        start = time.monotonic()
        for process in processes:
            try:
                process.wait(max(self.left() - 30 * self.options.minutes, 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
        runs = sum(path.is_dir() for path in (self.output_dir / "runs").iterdir())
        failed = sum(process.wait() > 0 for process in processes)
        result = f"{failed} of {len(processes)} processes failed, see simulation.txt" if failed else "done"
        self.note("simulation", result, time.monotonic() - start, runs=runs)

    def train(self, data: Path) -> None:
        start = time.monotonic()
        minutes = (self.left() - _CLOSING_S) / 60
        if minutes <= 0:
            self.note("training", "no time was left", 0.0)
            return
        configs = Path(bundle_root(self.options.train)) / "configs"
        large = configs / "train_large.json"
        files = [configs / "train.json"]
        if large.is_file() and not (self.options.tiny or self.options.light):
            files.append(large)
        given = {
            "dataset_dir": str(data),
            "output_dir": str(self.output_dir / "training"),
            "device": self.options.device,
            "max_minutes": minutes,
            **(TINY[self.options.train] if self.options.tiny else {}),
            **self.options.option,
        }
        if self.options.train == "most_dsa" and importlib.util.find_spec("cv2") is None:
            print("opencv is not installed: most_dsa is trained without the motion that it finds (flow_prob None).")
            given.setdefault("flow_prob", None)
        try:
            workflow = ConfigWorkflow([str(path) for path in files], workflow_type="train", **given)
            workflow.initialize()
            workflow.run()
            workflow.finalize()
            trainer, evaluator = workflow.trainer, workflow.evaluator
            found = {
                "epochs": trainer.state.epoch,
                "iterations": trainer.state.iteration,
                "last": {name: float(value) for name, value in evaluator.state.metrics.items()},
                "best": {"metric": float(evaluator.state.best_metric), "epoch": evaluator.state.best_metric_epoch},
            }
            self.note("training", "done", time.monotonic() - start, configs=[p.name for p in files], **found)
        except (Exception, SystemExit) as error:
            self.note("training", f"failed: {type(error).__name__}: {error}"[:1000], time.monotonic() - start)
            raise


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def _option(text: str) -> tuple[str, Any]:
    """``batch_size=16`` -> its name and value, as Python reads it where it can."""
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_session", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, required=True, help="for all of it, from the start of this command")
    parser.add_argument("--train", choices=BUNDLES, help="which bundle to train; left out: checks and benchmark only")
    parser.add_argument("--dataset_dir", type=Path, help="training data; most_dsa can do without: it simulates them")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--light", action="store_true", help="train.json without train_large.json")
    parser.add_argument("--skip", nargs="*", default=[], choices=["checks", "benchmark"])
    parser.add_argument("--option", nargs="*", type=_option, default=[], help="of the training: NAME=VALUE ...")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes everywhere: shows that every step runs")
    options = parser.parse_args(arguments)
    options.option = dict(options.option)
    if options.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {options.minutes}.")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu --tiny shows that every step runs.")
    if options.train and options.train != "most_dsa" and options.dataset_dir is None:
        parser.error(f"--train {options.train} needs --dataset_dir.")
    if options.dataset_dir is not None and not options.dataset_dir.is_dir():
        parser.error(f"--dataset_dir {options.dataset_dir} is not a folder.")
    options.output_dir.mkdir(parents=True, exist_ok=True)

    session = Session(options)
    simulating = session.simulate() if options.train == "most_dsa" and options.dataset_dir is None else []
    try:
        for step in ("checks", "benchmark"):
            if step not in options.skip:
                getattr(session, step)()
        if simulating:
            session.end_of_simulation(simulating)
        if options.train:
            session.train(options.dataset_dir or options.output_dir / "runs")
    finally:
        for process in simulating:
            process.kill()


if __name__ == "__main__":
    main()
