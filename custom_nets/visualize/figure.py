"""Panels, letters and files that all figures share."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.geometry import Grid, nearest_axes
from custom_nets.utils.files import new_file
from custom_nets.utils.text import one_line

__all__ = ["can_draw", "save_figure"]

logger = logging.getLogger(__name__)


# name, axis across the plane, horizontal axis, vertical axis, names at left, right, bottom, top (R, A, S = + x, y, z)
PLANES = (
    ("axial", 2, 0, 1, "LRPA"),
    ("coronal", 1, 0, 2, "LRIS"),
    ("sagittal", 0, 1, 2, "PAIS"),
)


PANEL_INCHES = 2.5


DPI = 120


@dataclass(frozen=True)
class UprightVolume:
    """A volume [X, Y, Z] with axes turned to right, anterior, superior, and its grid."""

    data: NDArray
    grid: Grid

    @classmethod
    def of(cls, volume: Any, grid: Grid | None = None) -> UprightVolume:
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


def millimetres(grid: Grid) -> str:
    """Spacing in the order of the file's axes, as the options name it."""
    return " x ".join(f"{s:.2f}".rstrip("0").rstrip(".") for s in grid.spacing_mm) + " mm"


def foreground_box(inside: NDArray[np.bool_], margin: float = 0.04) -> list[slice]:
    """Bounding box of a mask, wider by a part of its size on each side, inside the volume."""
    box = []
    for axis, n in enumerate(inside.shape):
        where = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        wider = int(round(margin * (where[-1] - where[0] + 1)))
        box.append(slice(max(0, int(where[0]) - wider), min(n, int(where[-1]) + 1 + wider)))
    return box


def can_draw(package: str = "matplotlib") -> bool:
    """Tell whether pictures can be drawn here; a training goes on without, and says so."""
    found = importlib.util.find_spec(package) is not None
    if not found:
        logger.warning("No pictures: %s is not installed.", package)
    return found


def panels(widths: list[float], heights: list[float], header: float, right: float, inches: float = PANEL_INCHES):
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


def draw_letters(ax, letters: str) -> None:
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


def colour_bar(figure, axes, drawn) -> None:
    """Scale of the error maps, to the right of the last row."""
    place = axes[-1][-1].get_position()
    bar = figure.add_axes((place.x1 + 0.006, place.y0, 0.008, place.height))
    figure.colorbar(drawn, cax=bar)
    bar.tick_params(labelsize=8)


def save_figure(figure, path: str | Path) -> Path:
    """Write the PNG under another name, then put it in place."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name of a file may have dollar signs
        text.set_text("\n".join(map(one_line, text.get_text().split("\n"))))
    with new_file(path) as part:
        figure.savefig(part, format="png")
    return Path(path)
