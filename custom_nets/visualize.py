"""Pictures of volumes: methods beside the truth, and an input beside its output.

Volumes are turned to the nearest anatomical axes first, so that the three planes are always axial, coronal and
sagittal, upright, with the patient's left on the left of the picture (neurological view). Pixels are drawn in
millimetres. Only matplotlib's object interface with the Agg canvas is used: no display, no global state.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.geometry import Grid, nearest_axes
from custom_nets.utils.record import part_path

__all__ = ["comparison_figure", "preview_figure", "save_figure", "thick_slice_figure"]

# name, axis across the plane, horizontal axis, vertical axis, names at left, right, bottom, top (R, A, S = + x, y, z)
PLANES = (
    ("axial", 2, 0, 1, "LRPA"),
    ("coronal", 1, 0, 2, "LRIS"),
    ("sagittal", 0, 1, 2, "PAIS"),
)
PANEL_INCHES = 2.5
DPI = 120


@dataclass(frozen=True)
class _Upright:
    """A volume [X, Y, Z] with axes turned to right, anterior, superior, and its grid."""

    data: NDArray
    grid: Grid

    @classmethod
    def of(cls, volume: Any, grid: Grid | None = None) -> _Upright:
        """From a MetaTensor [..., X, Y, Z] (leading axes of length 1), or an array with its grid."""
        grid = Grid.of(volume) if grid is None else grid
        data = volume.detach().cpu().numpy() if isinstance(volume, torch.Tensor) else np.asarray(volume)
        if data.size != grid.voxels:
            raise ValueError(f"one volume {grid.shape} can be drawn at a time, got shape {tuple(data.shape)}.")
        order, flips = nearest_axes(grid.affine)
        data = np.flip(data.reshape(grid.shape).transpose(order), tuple(a for a in range(3) if flips[a]))
        return cls(data, grid.turned(order, flips))

    def at(self, other: Grid) -> NDArray:
        """The nearest voxel at each voxel of ``other`` (edges repeated): blocks as large as the voxels."""
        from scipy import ndimage

        matrix = self.grid.index_map(other)
        # 1e-6: a centre on the border of two voxels falls on the same side everywhere
        return ndimage.affine_transform(
            self.data.astype(np.float32), matrix[:3, :3], matrix[:3, 3] - 1e-6, other.shape, order=0, mode="nearest"
        )

    def plane(self, across: int, index: int) -> NDArray:
        """One plane as imshow wants it with origin "lower": [vertical, horizontal]."""
        return np.take(self.data, index, across).T


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
    reference = _Upright.of(truth, grid)
    inside = _Upright.of(np.ones(grid.shape) if mask is None else mask, grid).data > 0
    if not inside.any():
        raise ValueError("the mask is empty: no place to draw.")
    methods = {name: _Upright.of(volume, grid).data for name, volume in predictions.items()}
    errors = {name: np.abs(volume - reference.data) for name, volume in methods.items()}
    low, high = np.percentile(reference.data[inside], (0.1, 99.8))
    low = min(low, float(reference.data.min()))
    scale = max(float(np.percentile(error[inside], 99.5)) for error in errors.values()) or 1.0
    source = _Upright.of(image)

    def named(name: str) -> str:
        return name if psnr_db is None or name not in psnr_db else f"{name}\nPSNR {psnr_db[name]:.2f} dB"

    grey = {"cmap": "gray", "vmin": low, "vmax": high}
    hot = {"cmap": "inferno", "vmin": 0.0, "vmax": scale}
    columns: list[tuple[str, NDArray, dict[str, Any]]] = [
        (f"input\n{_millimetres(Grid.of(image))}", source.at(reference.grid), grey),
        *((named(name), volume, grey) for name, volume in methods.items()),
        (f"truth\n{_millimetres(grid)}", reference.data, grey),
        *((f"|{name} - truth|", error, hot) for name, error in errors.items()),
    ]
    box = _box(inside)
    centre = [int(round((a.start + a.stop - 1) / 2)) for a in _box(inside, margin=0)]
    spacing = reference.grid.spacing_mm
    sizes = np.array([(a.stop - a.start) for a in box]) * spacing
    heights = [sizes[vertical] / sizes[horizontal] for _, _, horizontal, vertical, _ in PLANES]
    figure, axes = _panels([1.0] * len(columns), heights, header=0.9 if title else 0.6, right=0.7)
    for row, (plane, across, horizontal, vertical, letters) in enumerate(PLANES):
        for column, (name, volume, style) in enumerate(columns):
            ax = axes[row][column]
            shown = _Upright(volume, reference.grid).plane(across, centre[across])[box[vertical], box[horizontal]]
            drawn = ax.imshow(
                shown, origin="lower", interpolation="nearest", aspect=spacing[vertical] / spacing[horizontal], **style
            )
            if row == 0:
                ax.set_title(name, fontsize=11)
            if column == 0:
                ax.set_ylabel(plane, fontsize=11)
                _letters(ax, letters)
            if row == len(PLANES) - 1 and column == len(columns) - 1 and methods:
                _colour_bar(figure, axes, drawn)
    if title:
        figure.suptitle(title, fontsize=13, y=1 - 0.12 / figure.get_figheight(), va="top")
    return save_figure(figure, path)


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
    volumes = {"input": _Upright.of(image), "output": _Upright.of(output)}
    first = volumes["input"]
    low, high = np.percentile(first.data, (0.5, 99.8))
    bright = first.data > low + 0.1 * (high - low)
    box = _box(bright, margin=0) if bright.any() else [slice(0, n) for n in first.data.shape]
    # a voxel centre of the input: between two thick slices, input and output would show different anatomy
    middle = first.grid.affine @ [*((a.start + a.stop - 1) // 2 for a in box), 1.0]
    sizes = {name: np.array(v.grid.shape) * v.grid.spacing_mm for name, v in volumes.items()}
    largest = np.max(list(sizes.values()), axis=0)
    widths = [largest[horizontal] / largest[PLANES[0][2]] for _, _, horizontal, _, _ in PLANES]
    tallest = max(largest[vertical] for _, _, _, vertical, _ in PLANES) / largest[PLANES[0][2]]
    figure, axes = _panels(widths, [tallest] * 2, header=0.65 if title else 0.35, right=0.1, inches=3.3)
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
            _letters(ax, letters)
            if row == 0:
                ax.set_title(plane, fontsize=11)
            if column == 0:
                own = Grid.of({"input": image, "output": output}[name])
                shape = " x ".join(str(n) for n in own.shape)
                ax.set_ylabel(f"{name}\n{_millimetres(own)}\n{shape}", fontsize=11)
    if title:
        figure.suptitle(title, fontsize=13, y=1 - 0.12 / figure.get_figheight(), va="top")
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
    from custom_nets.apps.baselines import resample_bspline

    stack, sharp = _Upright.of(image), _Upright.of(output)
    thick = int(stack.grid.spacing_mm.argmax())
    planes = [plane for plane in PLANES if plane[1] != thick]
    low, high = np.percentile(stack.data, (0.5, 99.8))
    bright = sharp.data > low + 0.1 * (high - low)
    box = _box(bright) if bright.any() else [slice(0, n) for n in sharp.data.shape]
    spacing = sharp.grid.spacing_mm
    sizes = np.array([a.stop - a.start for a in box]) * spacing
    heights = [sizes[vertical] / sizes[horizontal] for _, _, horizontal, vertical, _ in planes]
    figure, axes = _panels([1.0] * 3, heights, header=0.9 if title else 0.6, right=0.1, inches=4.0)
    for row, (name, across, horizontal, vertical, letters) in enumerate(planes):
        index = (box[across].start + box[across].stop - 1) // 2
        shift = np.eye(4)
        shift[across, 3] = index
        shape = list(sharp.grid.shape)
        shape[across] = 1
        grid = Grid((shape[0], shape[1], shape[2]), sharp.grid.affine @ shift)  # this plane alone
        shown = {
            f"input\n{_millimetres(Grid.of(image))}": stack.at(grid),
            "input, B-spline": resample_bspline(np.ascontiguousarray(stack.data), stack.grid, grid),
            f"output\n{_millimetres(Grid.of(output))}": np.take(sharp.data, [index], across),
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
                _letters(ax, letters)
    if title:
        figure.suptitle(title, fontsize=13, y=1 - 0.12 / figure.get_figheight(), va="top")
    return save_figure(figure, path)


def _millimetres(grid: Grid) -> str:
    """Spacing in the order of the file's axes, as the options name it."""
    return " x ".join(f"{s:.2f}".rstrip("0").rstrip(".") for s in grid.spacing_mm) + " mm"


def _box(inside: NDArray[np.bool_], margin: float = 0.04) -> list[slice]:
    """Bounding box of a mask, wider by a part of its size on each side, inside the volume."""
    box = []
    for axis, n in enumerate(inside.shape):
        where = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        wider = int(round(margin * (where[-1] - where[0] + 1)))
        box.append(slice(max(0, int(where[0]) - wider), min(n, int(where[-1]) + 1 + wider)))
    return box


def _panels(widths: list[float], heights: list[float], header: float, right: float, inches: float = PANEL_INCHES):
    """A figure of dark panels; widths and heights in units of ``inches``, header and right margin in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    left, gap = 0.8, 0.06
    width = left + sum(widths) * inches + right
    height = header + sum(heights) * inches + gap * len(heights)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(heights),
        len(widths),
        squeeze=False,
        gridspec_kw={
            "width_ratios": widths,
            "height_ratios": heights,
            "left": left / width,
            "right": 1 - right / width,
            "top": 1 - header / height,
            "bottom": gap / height,
            "wspace": 0.03,
            "hspace": 0.03,
        },
    )
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_facecolor("black")
    return figure, axes


def _letters(ax, letters: str) -> None:
    """Names of the sides: left, right, bottom, top."""
    for letter, (x, y) in zip(letters, ((0.03, 0.5), (0.97, 0.5), (0.5, 0.03), (0.5, 0.97)), strict=True):
        ax.text(
            x,
            y,
            letter,
            transform=ax.transAxes,
            color="#ffd34d",
            fontsize=9,
            ha={0.03: "left", 0.97: "right"}.get(x, "center"),
            va={0.03: "bottom", 0.97: "top"}.get(y, "center"),
        )


def _colour_bar(figure, axes, drawn) -> None:
    """Scale of the error maps, to the right of the last row."""
    place = axes[-1][-1].get_position()
    bar = figure.add_axes((place.x1 + 0.006, place.y0, 0.008, place.height))
    figure.colorbar(drawn, cax=bar)
    bar.tick_params(labelsize=8)


def save_figure(figure, path: str | Path) -> Path:
    """Write the PNG under another name, then put it in place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    try:
        figure.savefig(part, format="png")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
