"""The bundles at work: ``python -m custom_nets.apps.demo --output_dir demo``.

What a bundle shows stands in its ``configs/demo.json``: the data to make (``data``, a function of this file), the
bundle's own ``commands`` on them, and where to ``look_at``; FOLDER stands for the bundle's folder in the output. Each
demo brings back what was left out and compares it with the truth and with plain interpolation. Every command is
printed, so it can be repeated by hand.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom_nets.apps.simulate_acquisition import write_phantom
from custom_nets.bundle.folder import find_bundles
from custom_nets.simulation.acquisition import run_times, simulated_run, write_simulated_run
from custom_nets.simulation.dsa import DSASettings, DSASimulator
from custom_nets.simulation.phantom import NOISE, PhantomSettings, VesselFlowPhantom
from custom_nets.transforms import DegradeVolumed, LoadVolumed, SaveVolumed
from custom_nets.utils.commands import CommandParser

__all__ = ["degraded_brain", "every_second_frame", "run_demo", "turning_scan"]


def _run(*words: str) -> None:
    print("\n$ " + shlex.join(["python", *words]), flush=True)
    done = subprocess.run([sys.executable, *words])
    if done.returncode:
        raise SystemExit(f"error: the command above ended with status {done.returncode}.")


def degraded_brain(folder: str | Path, spacings_mm: Mapping[str, Sequence[float]]) -> None:
    """Write the MNI152 template (1 mm, comes with nilearn) as the truth, its brain mask, and what faster scans measure.

    Args:
        folder: to write to.
        spacings_mm: name -> voxel size (x, y, z) of a scan, written as ``mni152_<name>.nii.gz``.
    """
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    truth = folder / "mni152.nii.gz"
    load_mni152_template(resolution=1).to_filename(truth)
    load_mni152_brain_mask(resolution=1).to_filename(folder / "mni152_mask.nii.gz")
    print(f"{truth}: the MNI152 template of nilearn, 1 mm, taken as the truth")
    for name, spacing_mm in spacings_mm.items():
        item = LoadVolumed("image")({"image": str(truth), "case": "mni152"})
        item = DegradeVolumed("image", spacing_mm=spacing_mm, profile="box")(item)
        SaveVolumed("image", folder, name)(item)
        size = " x ".join(f"{s:g}" for s in spacing_mm)
        print(f"{folder / f'mni152_{name}.nii.gz'}: as measured with {size} mm voxels (means over them)")


def every_second_frame(folder: str | Path, seed: int, num_frames: int, fps: float, size: int) -> None:
    """Write a complete simulated run (``complete.dcm``), and it without every second frame (``every_second.dcm``).

    Args:
        folder: to write to.
        seed: of patient and acquisition.
        num_frames: with contrast agent, behind the mask frame; odd, so that the last one is kept.
        fps: frames a second.
        size: pixels of a side.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = replace(
        DSASettings.random(seed, "fixed", (size, size)),
        pixel_mm=174 / size,
        centre_mm=(0.0, -18.0),
        collimation=(0.04, 0.04, 0.04, 0.04),
        photons=8e4,
        iodine_per_mm=0.035,
        pulse_mm=0.4,
        breathing_mm=0.1,
        drift_mm=0.3,
        jerk_mm=0.0,
    )
    run = simulated_run(DSASimulator(seed, settings), run_times(num_frames, (fps,), 0.9))
    complete = write_simulated_run(run, folder / "complete.dcm")
    print(f"{complete}: a simulated DSA run, {num_frames} frames at {fps:g} a second behind its mask frame")
    rest = run.select([0, *range(1, len(run), 2)])
    half = write_simulated_run(rest, folder / "every_second.dcm")
    print(f"{half}: its mask and every second frame, {len(rest) - 1} instead of {num_frames}")


def turning_scan(folder: str | Path, seed: int, voxels: int, frames: int) -> None:
    """Write a small simulated rotational DSA as a folder (``scan``), its truth in ``scan/truth``.

    Args:
        folder: to write to.
        seed: of vessels, bolus, turn and noise.
        voxels: along each edge of the volume, which is 125 mm.
        frames: of the turn.
    """
    voxel_mm = 125 / voxels
    settings = PhantomSettings(
        frames=frames,
        size=(int(1.25 * voxels), int(1.5 * voxels)),
        pixel_mm=1.3 * voxel_mm,
        volume_shape=(voxels,) * 3,
        voxel_mm=voxel_mm,
        smallest_radius_mm=0.3 * voxel_mm,
        counts=NOISE["moderate"],
    )
    scan = write_phantom(VesselFlowPhantom(seed, settings), Path(folder) / "scan")
    print(f"{scan}: a simulated rotational DSA, {frames} frames of {settings.size[0]} x {settings.size[1]}")


def run_demo(bundle: Path, output_dir: Path) -> list[str]:
    """Make the data of a bundle's demo, run its commands, and give the lines that say where to look."""
    configs = bundle / "configs"
    folder = output_dir / bundle.name
    text = (configs / "demo.json").read_text(encoding="utf-8")
    demo = json.loads(text.replace("FOLDER", json.dumps(str(folder))[1:-1]))
    ConfigParser({"data": {**demo["data"], "folder": str(folder / "input")}}).get_parsed_content("data")
    for command in demo["commands"]:
        files = command["config_file"]
        files = f"{configs}/{files}" if isinstance(files, str) else [f"{configs}/{file}" for file in files]
        options = {"config_file": files, **_without(command, "config_file")}
        words = (word for name, value in options.items() for word in (f"--{name}", _word(value)))
        _run("-m", "monai.bundle", "run", *words)
    return [f"{what:10} {where}" for what, where in demo["look_at"].items()]


def _without(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}


def _word(value: Any) -> str:
    """An option's value as it is typed."""
    return value if isinstance(value, str) else str(value) if isinstance(value, bool) else json.dumps(value)


def main() -> None:
    bundles = {path.name: path for path in find_bundles() if (path / "configs" / "demo.json").is_file()}
    parser = CommandParser(prog="python -m custom_nets.apps.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("demo"))
    parser.add_argument("--bundles", nargs="+", choices=bundles, default=list(bundles))
    args = parser.parse_args()
    started = time.perf_counter()
    lines = [line for name in args.bundles for line in run_demo(bundles[name], args.output_dir)]
    print(f"done in {time.perf_counter() - started:.0f} s. Look at:")
    print("\n".join(f"  {line}" for line in lines))


if __name__ == "__main__":
    main()
