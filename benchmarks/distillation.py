"""What a student gains from inheriting its teacher's weights, and from imitating it; equal steps, some seeds.

    python -m benchmarks.distillation arssr DATA --steps 48 --seeds 0 1 2 --json benchmarks/distillation.json

Every training is the bundle's own (train.json and distill.json); the ways differ in nothing but the four weights of the
loss and in what the student begins with. PSNR is that of the bundle's validation. A training this short says how fast a
student learns, not how good it gets.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from benchmarks.measuring import timed
from custom_nets.bundle import bundle_root
from custom_nets.checkpoints import load_network
from custom_nets.utils.files import write_json
from custom_nets.utils.record import environment

WAYS: dict[str, dict[str, Any]] = {
    "from scratch": {"inherit": "scratch"},
    "output": {"inherit": "scratch", "output_weight": 1.0},
    "affinity": {"inherit": "scratch", "affinity_weight": 0.01},
    "inheritance": {"inherit": "importance"},
    "inheritance and affinity": {"inherit": "importance", "affinity_weight": 0.01},
    "inheritance and output": {"inherit": "importance", "output_weight": 1.0},
}
NOTHING = {"task_weight": 1.0, "output_weight": 0.0, "affinity_weight": 0.0, "feature_weight": 0.0}
# of each bundle, what makes a step and a validation cheap
SMALL: dict[str, dict[str, Any]] = {
    "volumes": {
        "validation_crop_size": 72,
        "validation_profiles": ["gaussian"],
        # seeds change what is drawn, not who is validated on
        "split": "$custom_nets.data.split_subjects(@subjects, @validation_fraction, 0)",
    },
    "arssr": {"batch_size": 1, "patch_size": 16, "num_points": 4000, "validation_scales": [[2, 2, 2], [1, 1, 4]]},
}


def workflow(bundle: str, data: str, output: str, settings: dict[str, Any]) -> ConfigWorkflow:
    """A training, ready to run."""
    configs = Path(bundle_root(bundle)) / "configs"
    made = ConfigWorkflow(
        [str(configs / "train.json"), str(configs / "distill.json")],
        workflow_type="train",
        logging_file=False,
        dataset_dir=data,
        output_dir=output,
        **settings,
    )
    made.initialize()
    return made


def train(bundle: str, data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One training: PSNR before it and after each epoch, and sizes."""
    with tempfile.TemporaryDirectory() as output:
        made = workflow(bundle, data, output, settings)
        psnr_db: list[float] = []
        evaluator = made.evaluator
        evaluator.add_event_handler(
            Events.COMPLETED, lambda engine: psnr_db.append(float(engine.state.metrics[engine.state.key_metric_name]))
        )
        evaluator.run()
        started = time.process_time()
        made.run()
        return {
            "psnr_db": psnr_db,
            "cpu_s": round(time.process_time() - started, 1),
            **size(made, evaluator.network),
        }


def size(made: ConfigWorkflow, network: torch.nn.Module) -> dict[str, Any]:
    """Parameters, and CPU time of one call with a validation item, the best of three."""
    evaluator = made.evaluator
    batch = next(iter(evaluator.data_loader))
    image, _, others, options = evaluator.prepare_batch(batch, evaluator.state.device)
    network.eval()
    with torch.no_grad():
        seconds = min(timed(lambda: evaluator.inferer(image, network, *others, **options), "cpu")[2] for _ in range(3))
    return {"parameters": sum(p.numel() for p in network.parameters()), "call_cpu_s": round(seconds, 3)}


def teacher_of(bundle: str, data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The same numbers of the teacher, which learns nothing."""
    with tempfile.TemporaryDirectory() as output:
        made = workflow(bundle, data, output, settings)
        evaluator = made.evaluator
        evaluator.network = load_network(made.parser.get_parsed_content("teacher"))
        evaluator.run()
        return {
            "psnr_db": float(evaluator.state.metrics[evaluator.state.key_metric_name]),
            **size(made, evaluator.network),
        }


def markdown(found: dict[str, Any]) -> str:
    """The table of the model card."""
    per_epoch = found["steps"] // found["epochs"]
    ways, teacher = found["ways"], found["teacher"]
    goal = mean(run["psnr_db"][-1] for run in ways["from scratch"])
    columns = ("student", "PSNR at the start (dB)", "in the end", "below the teacher", "steps to where scratch ends")
    heads = (*columns, "parameters", "CPU s a call")
    sizes = [f"{teacher['parameters']:,}", f"{teacher['call_cpu_s']:.2f}"]
    rows = [["teacher", "", f"{teacher['psnr_db']:.2f}", "", "", *sizes]]
    for name, runs in ways.items():
        last = [run["psnr_db"][-1] for run in runs]
        curve = [mean(values) for values in zip(*(run["psnr_db"] for run in runs), strict=True)]
        reached = next((str(per_epoch * i) for i, value in enumerate(curve) if value >= goal), "never")
        spread = stdev(last) if len(last) > 1 else 0.0
        calls = min(run["call_cpu_s"] for run in runs)
        rows.append(
            [
                name,
                f"{curve[0]:.2f}",
                f"{curve[-1]:.2f} ± {spread:.2f}",
                f"{teacher['psnr_db'] - curve[-1]:.2f}",
                reached,
            ]
            + [f"{runs[0]['parameters']:,}", f"{calls:.2f}"]
        )
    lines = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """``python -m benchmarks.distillation BUNDLE DATA``"""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation", description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("data", help="the bundle's --dataset_dir")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=4, help="validations on the way")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--learning_rate", type=float, default=0.0005)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", default="{}", help="further settings of train.json, as JSON")
    parser.add_argument("--json", type=Path, help="where to write all that was measured")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    settings: dict[str, Any] = {
        **(SMALL["volumes"] if args.bundle != "most_dsa" else {}),
        **SMALL.get(args.bundle, {}),
        **NOTHING,
        "student_share": args.share,
        "learning_rate": args.learning_rate,
        "max_epochs": args.epochs,
        "iterations_per_epoch": args.steps // args.epochs,
        "val_interval": 1,
        "lr_scheduler#warmup_steps": max(1, args.steps // 10),
        "ema#momentum": 0.1,
        "device": "cpu",
        **json.loads(args.set),
    }
    found: dict[str, Any] = {
        "bundle": args.bundle,
        "steps": args.steps,
        "epochs": args.epochs,
        "settings": settings,
        "teacher": teacher_of(args.bundle, args.data, settings),
        "ways": {name: [] for name in WAYS},
        "versions": environment(),
    }
    for seed in args.seeds:
        for name, way in WAYS.items():
            run = train(args.bundle, args.data, {**settings, **way, "seed": seed})
            found["ways"][name].append({"seed": seed, **run})
            print(name, seed, run, flush=True)
            if args.json:
                write_json(args.json, found)
    print(markdown(found))


if __name__ == "__main__":
    main()
