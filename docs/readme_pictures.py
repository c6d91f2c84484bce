"""The two pictures of the README, from what ``make demo`` left: ``python docs/readme_pictures.py demo docs/images``.

Thick slices made thin (a coronal plane of the head: measured, ours, truth), and a made frame beside the measured one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.reader import read_angiography
from custom_nets.data.angiography.run import bounding_box
from custom_nets.transforms import load_volume
from custom_nets.visualize.figure import UprightVolume, save_figure

__all__ = ["made_frame_picture", "main", "thick_slices_picture"]


def thick_slices_picture(demo: Path, path: Path) -> Path:
    """Draw the demo's thick slices, the bundle's thin ones and the truth in one coronal plane; gives ``path``."""
    folder = demo / "transmrsr"
    measured, truth = (folder / "input" / f"mni152{end}.nii.gz" for end in ("_thick", ""))
    made = folder / "output" / "mni152_thick_transmrsr.nii.gz"
    volumes = [UprightVolume.of(load_volume(file)) for file in (measured, made, truth)]
    grid = volumes[2].grid
    planes = [volume.at(grid)[:, grid.shape[1] * 11 // 20].T for volume in volumes]
    return _row(path, dict(zip(("slices of 5 mm, as measured", "made thin", "the truth"), planes, strict=True)))


def made_frame_picture(demo: Path, path: Path) -> Path:
    """Draw the made frame with the most change, the measured one, and their difference; gives ``path``."""
    folder = demo / "most_dsa"
    complete = read_angiography(folder / "input" / "complete.dcm")
    made = read_angiography(folder / "output" / "every_second_most_dsa.dcm")
    wanted = [k for k in range(2, len(complete) - 1, 2)]
    box = bounding_box(complete.active)
    frames = complete.normalize(wanted)
    before = complete.normalize([index - 1 for index in wanted])
    change = np.abs(frames - before)[:, box[0], box[1]].mean((1, 2))
    k = wanted[int(np.argmax(change))]
    nearest = int(np.abs(made.times_s - complete.times_s[k]).argmin())
    true, ours = complete.normalize([k])[0][box], made.normalize([nearest])[0][box]
    planes = {"made between its neighbours": ours, "measured": true, "difference x 4": 0.5 + 4 * (ours - true)}
    return _row(path, planes, (0, 1))


def _row(path: Path, planes: dict[str, NDArray], limits: tuple[float, float] | None = None) -> Path:
    from matplotlib.figure import Figure

    first = next(iter(planes.values()))
    low, high = limits or (float(np.percentile(first, 1)), float(np.percentile(first, 99.7)))
    width = 2.6
    figure = Figure(figsize=(width * len(planes), width * first.shape[0] / first.shape[1] + 0.3), dpi=100)
    axes = figure.subplots(1, len(planes))
    figure.subplots_adjust(0, 0, 1, 0.9, wspace=0.02)
    for ax, (name, plane) in zip(axes, planes.items(), strict=True):
        ax.imshow(plane, cmap="gray", vmin=low, vmax=high, origin="lower" if limits is None else "upper")
        ax.set_title(name, fontsize=10)
        ax.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder of make demo")
    parser.add_argument("output_dir", type=Path)
    options = parser.parse_args()
    print(thick_slices_picture(options.demo, options.output_dir / "thick_slices.png"))
    print(made_frame_picture(options.demo, options.output_dir / "made_frame.png"))


if __name__ == "__main__":
    main()
