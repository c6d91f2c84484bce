"""How fast training data come: patches (or gaps) a second of one worker, for all three bundles.

    python -m benchmarks.feeding --volumes DATA --runs RUNS --json feeding.json
    python -m benchmarks.feeding --tiny                     # on data made for it: shows that it runs

The transforms of each bundle's ``train.json`` are called as a worker of its loader calls them, in this process, on data
that are cached already. ``--overlay train_large.json`` takes the sizes of that file. A card that makes B steps a second
with a batch of N needs ``B N`` of these from all workers together.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from custom_nets import bundle_root
from custom_nets.utils.files import write_json
from custom_nets.utils.record import environment

BUNDLES = ("arssr", "transmrsr", "most_dsa")


def dataset_of(bundle: str, data: Path, overlay: str | None, seed: int = 0) -> Any:
    """The training dataset of a bundle, cached."""
    configs = Path(bundle_root(bundle)) / "configs"
    files = [configs / "train.json", *([configs / overlay] if overlay and (configs / overlay).is_file() else [])]
    parser = ConfigParser()
    parser.read_config([str(path) for path in files])
    parser.update({"dataset_dir": str(data), "device": "cpu", "seed": seed})
    dataset = parser.get_parsed_content("train#dataset")
    dataset.transform.set_random_state(seed)
    return dataset


def per_second(dataset: Any, seconds: float, least: int = 3) -> tuple[float, int]:
    """Items a second of one processor, after one that is thrown away, drawn as the loader draws them; and how many.

    It is the process' own time that counts: on a machine that others use, seconds lie.
    """
    weights = torch.tensor([float(item.get("weight", 1.0)) for item in dataset.data])
    order = torch.multinomial(weights, 100000, replacement=True, generator=torch.Generator().manual_seed(0)).tolist()
    dataset[order[0]]
    count, start = 0, time.process_time()
    while count < least or time.process_time() - start < seconds:
        dataset[order[count + 1]]
        count += 1
    return count / (time.process_time() - start), count


def make_tiny_data(folder: Path) -> dict[str, Path]:
    """Two balls of texture as heads, two simulated runs."""
    import nibabel as nib

    from custom_nets.apps.simulate_training_runs import simulate_run

    heads, runs = folder / "heads", folder / "runs"
    heads.mkdir()
    runs.mkdir()
    rng = np.random.default_rng(0)
    ball = sum(axis**2 for axis in np.meshgrid(*[np.linspace(-1, 1, 64)] * 3, indexing="ij"))
    for number in range(2):
        head = (ball < 0.8) * (200 + 600 * rng.random((64, 64, 64)))
        nib.save(nib.Nifti1Image(head.astype(np.int16), np.eye(4)), heads / f"sub-{number:02d}_T1w.nii.gz")
        simulate_run(runs, number + 1, ("fixed", "rotational")[number], (160, 160), 7)
    return {"arssr": heads, "transmrsr": heads, "most_dsa": runs}


def run(data: dict[str, Path], overlay: str | None, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for bundle, folder in data.items():
        print(f"{bundle} ...", file=sys.stderr, flush=True)
        rate, count = per_second(dataset_of(bundle, folder, overlay), seconds)
        rows.append({"bundle": bundle, "patches_per_second": rate, "milliseconds": 1000 / rate, "timed": count})
    return rows


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feeding", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--volumes", type=Path, help="training volumes of arssr and transmrsr")
    parser.add_argument("--runs", type=Path, help="training runs of most_dsa")
    parser.add_argument("--overlay", help="a config of the bundle whose sizes to take, such as train_large.json")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each bundle")
    parser.add_argument("--tiny", action="store_true", help="on tiny data made for it")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    if not (options.tiny or options.volumes or options.runs):
        raise SystemExit("error: give --volumes DATA, --runs RUNS or both (or --tiny).")
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as made:
        if options.tiny:
            data = make_tiny_data(Path(made))
        else:
            given = {"arssr": options.volumes, "transmrsr": options.volumes, "most_dsa": options.runs}
            data = {bundle: folder for bundle, folder in given.items() if folder is not None}
        rows = run(data, options.overlay, 0.0 if options.tiny else options.seconds)
    print("| bundle | patches a second, one worker | ms a patch |\n|---|---|---|")
    for row in rows:
        print(f"| {row['bundle']} | {row['patches_per_second']:.1f} | {row['milliseconds']:.1f} |")
    if options.json:
        write_json(options.json, {"overlay": options.overlay, "rows": rows, "environment": environment()})
    return rows


if __name__ == "__main__":
    main()
