"""What `--quality light` saves: whole inferences of a bundle with both shipped weights, by turns in one process.

    python -m benchmarks.light arssr transmrsr --json benchmarks/light.json

The scan is the middle of the MNI152 template, measured in slices of 5 mm, brought back to 1 mm. Seconds are CPU time of
all threads, the least of the repeats; they hold reading, the network, data consistency, the record, and writing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import torch
from monai.bundle import ConfigWorkflow

from benchmarks.measuring import timed
from custom_nets.apps.demo import degraded_brain
from custom_nets.bundle import bundle_root, shipped_weights
from custom_nets.checkpoints import load_network
from custom_nets.utils.files import write_json
from custom_nets.utils.record import environment

QUALITIES = ("best", "light")


def thick_scan(folder: Path, side: int = 96) -> Path:
    """Write a scan of ``side`` x ``side`` voxels of 1 mm in slices of 5 mm."""
    degraded_brain(folder, {"thick": (1, 1, 5)})
    whole: Any = nib.load(folder / "mni152_thick.nii.gz")
    i, j = ((n - side) // 2 for n in whole.shape[:2])
    path = folder / "scan.nii.gz"
    nib.save(whole.slicer[i : i + side, j : j + side], path)
    return path


def seconds(bundle: str, quality: str, scan: Path, folder: Path) -> float:
    """CPU time of one inference."""
    made = ConfigWorkflow(
        str(Path(bundle_root(bundle)) / "configs" / "inference.json"),
        workflow_type="inference",
        logging_file=False,
        input=str(scan),
        output_dir=str(folder),
        quality=quality,
        spacing=[1, 1, 1],
        profile="box",
        device="cpu",
        preview=False,
        progress=False,
        overwrite=True,
    )
    made.initialize()
    return timed(made.run, "cpu")[2]


def main(argv: list[str] | None = None) -> None:
    """``python -m benchmarks.light BUNDLE ...``"""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.light", description=__doc__.split("\n")[0])
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {"threads": args.threads, "versions": environment()}
    print("| bundle | quality | parameters | CPU s | times as fast |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = thick_scan(folder)
        for bundle in args.bundles:
            spent: dict[str, list[float]] = {quality: [] for quality in QUALITIES}
            for _ in range(args.repeats):
                for quality in QUALITIES:
                    spent[quality].append(round(seconds(bundle, quality, scan, folder), 2))
            for quality in QUALITIES:
                network = load_network(shipped_weights(bundle_root(bundle), quality))
                count = sum(p.numel() for p in network.parameters())
                faster = min(spent["best"]) / min(spent[quality])
                print(f"| {bundle} | {quality} | {count:,} | {min(spent[quality]):.1f} | {faster:.2f} |", flush=True)
                found.setdefault(bundle, {})[quality] = {"parameters": count, "cpu_s": spent[quality]}
            if args.json:
                write_json(args.json, found)


if __name__ == "__main__":
    main()
