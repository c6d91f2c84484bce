"""Pictures of volumes: methods beside the truth, and an input beside its output.

Volumes are turned to the nearest anatomical axes first, so that the three planes are always axial, coronal and
sagittal, upright, with the patient's left on the left of the picture (neurological view). Pixels are drawn in
millimetres. Only matplotlib's object interface with the Agg canvas is used: no display, no global state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.geometry import Grid
from custom_nets.visualize.figure import (
    PLANES,
    UprightVolume,
    colour_bar,
    draw_letters,
    foreground_box,
    millimetres,
    panels,
    save_figure,
)

__all__ = ["comparison_figure", "preview_figure", "thick_slice_figure"]


def comparison_figure(
    path: str | Path,
    image: Any,
    truth: Any,
    predictions: Mapping[str, Any],
    mask: Any = None,
    psnr_db: Mapping[str, float] | None = None,
    title: str = "",
) -> Path:
    """Input, methods, truth and the methods' error maps in three planes through the middle of the mask.

    Args:
        path: PNG to write (whole or not at all).
        image: MetaTensor [..., X, Y, Z]: the low-resolution input, drawn as its voxels are.
        truth: MetaTensor [..., X', Y', Z'].
        predictions: name -> [..., X', Y', Z'] on the truth's grid, in the truth's unit; drawn in this order.
        mask: [..., X', Y', Z'] above zero inside: sets the planes, the crop, the grey window and the error scale.
        psnr_db: name -> PSNR in the mask in dB, for the titles.
        title: line above the picture.

    Returns:
        ``path``.
    """
    grid = Grid.of(truth)
    reference = UprightVolume.of(truth, grid)
    inside = UprightVolume.of(np.ones(grid.shape) if mask is None else mask, grid).data > 0
    if not inside.any():
        raise ValueError("the mask is empty: no place to draw.")
    methods = {name: UprightVolume.of(volume, grid).data for name, volume in predictions.items()}
    errors = {name: np.abs(volume - reference.data) for name, volume in methods.items()}
    low, high = np.percentile(reference.data[inside], (0.1, 99.8))
    low = min(low, float(reference.data.min()))
    scale = max(float(np.percentile(error[inside], 99.5)) for error in errors.values()) or 1.0
    source = UprightVolume.of(image)

    def named(name: str) -> str:
        return name if psnr_db is None or name not in psnr_db else f"{name}\nPSNR {psnr_db[name]:.2f} dB"

    grey = {"cmap": "gray", "vmin": low, "vmax": high}
    hot = {"cmap": "inferno", "vmin": 0.0, "vmax": scale}
    columns: list[tuple[str, NDArray, dict[str, Any]]] = [
        (f"input\n{millimetres(Grid.of(image))}", source.at(reference.grid), grey),
        *((named(name), volume, grey) for name, volume in methods.items()),
        (f"truth\n{millimetres(grid)}", reference.data, grey),
        *((f"|{name} - truth|", error, hot) for name, error in errors.items()),
    ]
    box = foreground_box(inside)
    centre = [int(round((a.start + a.stop - 1) / 2)) for a in foreground_box(inside, margin=0)]
    spacing = reference.grid.spacing_mm
    sizes = np.array([(a.stop - a.start) for a in box]) * spacing
    heights = [sizes[vertical] / sizes[horizontal] for _, _, horizontal, vertical, _ in PLANES]
    figure, axes = panels([1.0] * len(columns), heights, header=0.9 if title else 0.6, right=0.7)
    for row, (plane, across, horizontal, vertical, letters) in enumerate(PLANES):
        for column, (name, volume, style) in enumerate(columns):
            ax = axes[row][column]
            shown = UprightVolume(volume, reference.grid).plane(across, centre[across])[box[vertical], box[horizontal]]
            drawn = ax.imshow(
                shown, origin="lower", interpolation="nearest", aspect=spacing[vertical] / spacing[horizontal], **style
            )
            if row == 0:
                ax.set_title(name, fontsize=11)
            if column == 0:
                ax.set_ylabel(plane, fontsize=11)
                draw_letters(ax, letters)
            if row == len(PLANES) - 1 and column == len(columns) - 1 and methods:
                colour_bar(figure, axes, drawn)
    if title:
        figure.suptitle(title, fontsize=13, y=1 - 0.12 / figure.get_figheight(), va="top")
    return save_figure(figure, path)


def title_height(title: str, bare: float) -> float:
    """Inches above the panels for a title of several lines; ``bare`` without one."""
    lines = _title_lines(title)
    return bare + (0.3 + 0.18 * (len(lines) - 1) if lines else 0.0)


def draw_title(figure: Any, title: str) -> None:
    """The first line large, what else there is to say small under it."""
    for number, line in enumerate(_title_lines(title)):
        down = (0.12 if number == 0 else 0.2 + 0.18 * number) / figure.get_figheight()
        figure.text(0.5, 1 - down, line, ha="center", va="top", fontsize=9 if number else 13)


def _title_lines(title: str) -> list[str]:
    first, *others = title.split("\n") if title else [""]
    return [line for line in (first, *(piece for text in others for piece in textwrap.wrap(text, 110))) if line]


def preview_figure(path: str | Path, image: Any, output: Any, title: str = "") -> Path:
    """Input above output in three planes through the middle of what is in the picture, each with its own voxels.

    Args:
        path: PNG to write (whole or not at all).
        image: MetaTensor [..., X, Y, Z].
        output: MetaTensor [..., X', Y', Z'], in the same world.
        title: line above the picture.

    Returns:
        ``path``.
    """
    volumes = {"input": UprightVolume.of(image), "output": UprightVolume.of(output)}
    first = volumes["input"]
    low, high = np.percentile(first.data, (0.5, 99.8))
    bright = first.data > low + 0.1 * (high - low)
    box = foreground_box(bright, margin=0) if bright.any() else [slice(0, n) for n in first.data.shape]
    # a voxel centre of the input: between two thick slices, input and output would show different anatomy
    middle = first.grid.affine @ [*((a.start + a.stop - 1) // 2 for a in box), 1.0]
    sizes = {name: np.array(v.grid.shape) * v.grid.spacing_mm for name, v in volumes.items()}
    largest = np.max(list(sizes.values()), axis=0)
    widths = [largest[horizontal] / largest[PLANES[0][2]] for _, _, horizontal, _, _ in PLANES]
    tallest = max(largest[vertical] for _, _, _, vertical, _ in PLANES) / largest[PLANES[0][2]]
    figure, axes = panels(widths, [tallest] * 2, header=title_height(title, 0.35), right=0.1, inches=3.3)
    for row, (name, volume) in enumerate(volumes.items()):
        index = np.linalg.inv(volume.grid.affine) @ middle
        index = np.clip(np.round(index[:3]), 0, np.array(volume.grid.shape) - 1).astype(int)
        for column, (plane, across, horizontal, vertical, letters) in enumerate(PLANES):
            ax = axes[row][column]
            ax.imshow(
                volume.plane(across, index[across]),
                origin="lower",
                interpolation="nearest",
                cmap="gray",
                vmin=low,
                vmax=high,
                extent=(0, sizes[name][horizontal], 0, sizes[name][vertical]),
            )
            ax.set_anchor("N")
            draw_letters(ax, letters)
            if row == 0:
                ax.set_title(plane, fontsize=11)
            if column == 0:
                own = Grid.of({"input": image, "output": output}[name])
                shape = " x ".join(str(n) for n in own.shape)
                ax.set_ylabel(f"{name}\n{millimetres(own)}\n{shape}", fontsize=11)
    draw_title(figure, title)
    return save_figure(figure, path)


def thick_slice_figure(path: str | Path, image: Any, output: Any, title: str = "") -> Path:
    """A stack of thick slices, its B-spline interpolation and the output, in both planes that contain the thick axis.

    Args:
        path: PNG to write (whole or not at all).
        image: MetaTensor [..., X, Y, Z], the stack.
        output: MetaTensor [..., X', Y', Z'], in the same world, along the same axes.
        title: line above the picture.

    Returns:
        ``path``.
    """
    from custom_nets.operators.scipy_resampling import resample_bspline

    stack, sharp = UprightVolume.of(image), UprightVolume.of(output)
    thick = int(stack.grid.spacing_mm.argmax())
    planes = [plane for plane in PLANES if plane[1] != thick]
    low, high = np.percentile(stack.data, (0.5, 99.8))
    bright = sharp.data > low + 0.1 * (high - low)
    box = foreground_box(bright) if bright.any() else [slice(0, n) for n in sharp.data.shape]
    spacing = sharp.grid.spacing_mm
    sizes = np.array([a.stop - a.start for a in box]) * spacing
    heights = [sizes[vertical] / sizes[horizontal] for _, _, horizontal, vertical, _ in planes]
    figure, axes = panels([1.0] * 3, heights, header=title_height(title, 0.6), right=0.1, inches=4.0)
    for row, (name, across, horizontal, vertical, letters) in enumerate(planes):
        index = (box[across].start + box[across].stop - 1) // 2
        shift = np.eye(4)
        shift[across, 3] = index
        shape = list(sharp.grid.shape)
        shape[across] = 1
        grid = Grid((shape[0], shape[1], shape[2]), sharp.grid.affine @ shift)  # this plane alone
        shown = {
            f"input\n{millimetres(Grid.of(image))}": stack.at(grid),
            "input, B-spline": resample_bspline(np.ascontiguousarray(stack.data), stack.grid, grid),
            f"output\n{millimetres(Grid.of(output))}": np.take(sharp.data, [index], across),
        }
        for column, (what, volume) in enumerate(shown.items()):
            ax = axes[row][column]
            ax.imshow(
                np.take(volume, 0, across).T[box[vertical], box[horizontal]],
                origin="lower",
                interpolation="nearest",
                aspect=spacing[vertical] / spacing[horizontal],
                cmap="gray",
                vmin=low,
                vmax=high,
            )
            if row == 0:
                ax.set_title(what, fontsize=11)
            if column == 0:
                ax.set_ylabel(name, fontsize=11)
                draw_letters(ax, letters)
    draw_title(figure, title)
    return save_figure(figure, path)
