"""The bundles at work on a head that comes with nilearn: ``python -m custom_nets.apps.demo --output_dir demo``.

The MNI152 template (1 mm) is degraded to what a faster scan would have measured, brought back by the bundle's own
commands, and compared with the truth and with B-spline interpolation. Every command is printed, so it can be repeated
by hand.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from custom_nets import bundle_root
from custom_nets.transforms import DegradeVolumed, LoadVolumed, SaveVolumed

SETTINGS = {"thick": (1.0, 1.0, 5.0), "coarse": (2.0, 2.0, 2.0)}  # name -> voxel size in mm


def _run(*words: str) -> None:
    print("\n$ " + shlex.join(["python", *words]), flush=True)
    done = subprocess.run([sys.executable, *words])
    if done.returncode:
        raise SystemExit(f"error: the command above ended with status {done.returncode}.")


def _inputs(folder: Path) -> Path:
    """Write truth, brain mask and degraded scans; give the truth's path."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    folder.mkdir(parents=True, exist_ok=True)
    truth = folder / "mni152.nii.gz"
    load_mni152_template(resolution=1).to_filename(truth)
    load_mni152_brain_mask(resolution=1).to_filename(folder / "mni152_mask.nii.gz")
    print(f"{truth}: the MNI152 template of nilearn, 1 mm, taken as the truth")
    for name, spacing_mm in SETTINGS.items():
        item = LoadVolumed("image")({"image": str(truth), "case": "mni152"})
        item = DegradeVolumed("image", spacing_mm=spacing_mm)(item)
        SaveVolumed("image", folder, name)(item)
        print(
            f"{folder / f'mni152_{name}.nii.gz'}: as measured with {' x '.join(f'{s:g}' for s in spacing_mm)} mm voxels"
        )
    return truth


def arssr(output_dir: Path) -> list[str]:
    """Demo of ``bundles/arssr``; gives the lines that say where to look."""
    configs = f"{bundle_root('arssr')}/configs"
    folder = output_dir / "arssr"
    truth = _inputs(folder / "input")
    for name in SETTINGS:
        image = folder / "input" / f"mni152_{name}.nii.gz"
        _run(
            *("-m", "monai.bundle", "run", "--config_file", f"{configs}/inference.json", "--input", str(image)),
            *("--output_dir", str(folder / "output"), "--spacing", "[1,1,1]", "--overwrite", "True"),
        )
    mask = str(folder / "input" / "mni152_mask.nii.gz")
    pairs = [
        {
            "image": str(folder / "input" / f"mni152_{name}.nii.gz"),
            "label": str(truth),
            "mask": mask,
            "case": "mni152",
            "degradation": name,
        }
        for name in SETTINGS
    ]
    _run(
        *("-m", "monai.bundle", "run", "--config_file", f"{configs}/evaluate.json", "--pairs", json.dumps(pairs)),
        *("--output_dir", str(folder / "comparison")),
    )
    return [
        f"pictures   {folder / 'comparison' / 'pictures'}: input, B-spline, ours, truth and the errors",
        f"table      {folder / 'comparison' / 'table.md'}",
        f"volumes    {folder / 'output'}: what the bundle made of the degraded scans, each with preview and record",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m custom_nets.apps.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("demo"))
    args = parser.parse_args()
    started = time.perf_counter()
    lines = arssr(args.output_dir)
    print(f"done in {time.perf_counter() - started:.0f} s. Look at:")
    print("\n".join(f"  {line}" for line in lines))


if __name__ == "__main__":
    main()
