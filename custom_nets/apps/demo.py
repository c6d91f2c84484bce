"""The bundles at work: ``python -m custom_nets.apps.demo --output_dir demo``.

``arssr``: the MNI152 template (1 mm, comes with nilearn) is degraded to what a faster scan would have measured.
``transmrsr``: the same with slices of 5 mm; tissues of the result are compared, too (Dice).
``most_dsa``: every second frame of a simulated angiography run is dropped. Both are brought back by the bundle's own
commands, and compared with the truth and with plain interpolation. Every command is printed, so it can be repeated by
hand.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from custom_nets import bundle_root
from custom_nets.simulation.acquisition import run_times, simulated_run, write_simulated_run
from custom_nets.simulation.dsa import DSASettings, DSASimulator
from custom_nets.transforms import DegradeVolumed, LoadVolumed, SaveVolumed

SETTINGS = {"thick": (1.0, 1.0, 5.0), "coarse": (2.0, 2.0, 2.0)}  # name -> voxel size in mm
DSA_SEED, DSA_FRAMES, DSA_FPS, DSA_SIZE = 3, 13, 6.0, 512


def _run(*words: str) -> None:
    print("\n$ " + shlex.join(["python", *words]), flush=True)
    done = subprocess.run([sys.executable, *words])
    if done.returncode:
        raise SystemExit(f"error: the command above ended with status {done.returncode}.")


def _inputs(folder: Path, settings: Mapping[str, tuple[float, float, float]]) -> Path:
    """Write truth, brain mask and degraded scans; give the truth's path."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    folder.mkdir(parents=True, exist_ok=True)
    truth = folder / "mni152.nii.gz"
    load_mni152_template(resolution=1).to_filename(truth)
    load_mni152_brain_mask(resolution=1).to_filename(folder / "mni152_mask.nii.gz")
    print(f"{truth}: the MNI152 template of nilearn, 1 mm, taken as the truth")
    for name, spacing_mm in settings.items():
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
    truth = _inputs(folder / "input", SETTINGS)
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


def transmrsr(output_dir: Path) -> list[str]:
    """Demo of ``bundles/transmrsr``; gives the lines that say where to look."""
    configs = f"{bundle_root('transmrsr')}/configs"
    folder = output_dir / "transmrsr"
    truth = _inputs(folder / "input", {"thick": SETTINGS["thick"]})
    image = folder / "input" / "mni152_thick.nii.gz"
    _run(
        *("-m", "monai.bundle", "run", "--config_file", f"{configs}/inference.json", "--input", str(image)),
        *("--output_dir", str(folder / "output"), "--overwrite", "True"),
    )
    mask = folder / "input" / "mni152_mask.nii.gz"
    pair = {"image": str(image), "label": str(truth), "mask": str(mask), "case": "mni152", "degradation": "thick"}
    _run(
        *("-m", "monai.bundle", "run", "--config_file", f"{configs}/evaluate.json", "--pairs", json.dumps([pair])),
        *("--output_dir", str(folder / "comparison")),
    )
    return [
        f"pictures   {folder / 'comparison' / 'pictures'}: thick slices, B-spline, ours, truth and the errors",
        f"table      {folder / 'comparison' / 'table.md'}: PSNR, SSIM, Dice of the tissues",
        f"volumes    {folder / 'output'}: the isotropic volume, with preview and record",
    ]


def _angiography(folder: Path) -> tuple[Path, Path]:
    """Write a complete simulated run and what is left of it without every second frame."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = replace(
        DSASettings.random(DSA_SEED, "fixed", (DSA_SIZE, DSA_SIZE)),
        pixel_mm=174 / DSA_SIZE,
        centre_mm=(0.0, -18.0),
        collimation=(0.04, 0.04, 0.04, 0.04),
        photons=8e4,
        iodine_per_mm=0.035,
        pulse_mm=0.4,
        breathing_mm=0.1,
        drift_mm=0.3,
        jerk_mm=0.0,
    )
    run = simulated_run(DSASimulator(DSA_SEED, settings), run_times(DSA_FRAMES, (DSA_FPS,), 0.9))
    complete = write_simulated_run(run, folder / "complete.dcm")
    print(f"{complete}: a simulated DSA run, {DSA_FRAMES} frames at {DSA_FPS:g} a second behind its mask frame")
    rest = run.select([0, *range(1, len(run), 2)])
    half = write_simulated_run(rest, folder / "every_second.dcm")
    print(f"{half}: its mask and every second frame, {len(rest) - 1} instead of {DSA_FRAMES}")
    return complete, half


def most_dsa(output_dir: Path) -> list[str]:
    """Demo of ``bundles/most_dsa``; gives the lines that say where to look."""
    configs = f"{bundle_root('most_dsa')}/configs"
    folder = output_dir / "most_dsa"
    complete, half = _angiography(folder / "input")
    _run(
        *("-m", "monai.bundle", "run", "--config_file", f"{configs}/inference.json", "--input", str(half)),
        *("--output_dir", str(folder / "output"), "--frames_between", "1", "--film", "True", "--overwrite", "True"),
    )
    _run(
        *("-m", "monai.bundle", "run", "--config_file", f"{configs}/evaluate.json", "--cases", str(complete)),
        *("--missing_frames", "1", "--output_dir", str(folder / "comparison")),
    )
    return [
        f"pictures   {folder / 'comparison' / 'pictures'}: truth, blend, optical flow, ours, and the errors; curves",
        f"table      {folder / 'comparison' / 'table.md'}",
        f"run        {folder / 'output'}: XA DICOM, film, preview and record of the lengthened run",
    ]


DEMOS: dict[str, Callable[[Path], list[str]]] = {"arssr": arssr, "transmrsr": transmrsr, "most_dsa": most_dsa}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m custom_nets.apps.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("demo"))
    parser.add_argument("--bundles", nargs="+", choices=DEMOS, default=list(DEMOS))
    args = parser.parse_args()
    started = time.perf_counter()
    lines = [line for name in args.bundles for line in DEMOS[name](args.output_dir)]
    print(f"done in {time.perf_counter() - started:.0f} s. Look at:")
    print("\n".join(f"  {line}" for line in lines))


if __name__ == "__main__":
    main()
