"""Pictures of angiography runs: measured and made frames side by side, and several runs one below the other.

python -m custom_nets.visualize.angiography PICTURE.png RUN [RUN ...]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.run import AngiographyRun, bounding_box
from custom_nets.utils.commands import CommandParser
from custom_nets.visualize.figure import save_figure

__all__ = ["MADE_COLOUR", "MEASURED_COLOUR", "run_figure", "runs_figure"]

MEASURED_COLOUR, MADE_COLOUR = "#222222", "#d55e00"
_MOST = 5  # panels in a row


def run_figure(path: str | Path, run: AngiographyRun, title: str = "") -> Path:
    """A gap with much change, its frames whole and close, and below it the whole run in time.

    Args:
        path: PNG to write (whole or not at all).
        run: with made frames.
        title: line above the picture.

    Raises:
        ValueError: no frame of the run was made.
    """
    from matplotlib.figure import Figure

    chosen = _busiest_gap(run)
    frames = run.normalize(chosen)
    area = bounding_box(run.active)
    frames = frames[:, area[0], area[1]]
    close = _busiest_place(frames[0], frames[-1])
    low, high = np.percentile(frames, (0.2, 99.8))
    height, width = frames.shape[1:]
    panel = 2.6
    size = (panel * len(chosen), panel * height / width + panel + 1.7)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    figure.suptitle(f"{title}: {int(run.synthetic.sum())} made frames among {len(run)}", fontsize=11)
    grid = figure.add_gridspec(3, len(chosen), height_ratios=(height / width, 1, 0.5))
    for column, (index, frame) in enumerate(zip(chosen, frames, strict=True)):
        made = bool(run.synthetic[index])
        colour = MADE_COLOUR if made else MEASURED_COLOUR
        when = f"{run.times_s[index]:.3f} s" if run.has_times else f"{run.times_s[index]:.2f} frames"
        for row, shown in enumerate((frame, frame[close])):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(shown, cmap="gray", vmin=low, vmax=high, interpolation="nearest" if row else "antialiased")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=colour, linewidth=2.5)
            if row == 0:
                axes.set_title(f"{'made' if made else 'measured'}, {when}", fontsize=9, color=colour)
                corner = (close[1].start, close[0].start)
                axes.add_patch(_rectangle(corner, close[1].stop - corner[0], close[0].stop - corner[1]))
    _draw_times(figure.add_subplot(grid[2, :]), run)
    return save_figure(figure, path)


def _busiest_gap(run: AngiographyRun) -> list[int]:
    """Frames of the gap with the largest change, its ends and up to three between."""
    measured = np.flatnonzero(~run.synthetic)
    filled = [(a, b) for a, b in zip(measured[:-1], measured[1:], strict=True) if b - a > 1]
    if not filled:
        raise ValueError("the run has no made frames: nothing to show.")

    def change(pair: tuple[int, int]) -> float:
        ends = run.frames[list(pair), ::4, ::4].astype(np.float32)
        return float(np.abs(ends[1] - ends[0]).mean())

    first, last = max(filled, key=change)
    inner = np.unique(np.linspace(first + 1, last - 1, min(_MOST - 2, last - first - 1)).round().astype(int))
    return [int(first), *(int(i) for i in inner), int(last)]


def _busiest_place(first: NDArray, last: NDArray) -> tuple[slice, slice]:
    """A square of a third of the picture's shorter side, where most changes."""
    from scipy.ndimage import uniform_filter

    height, width = first.shape
    side = max(16, min(height, width) // 3)
    change = uniform_filter(np.abs(last - first), side, mode="constant")
    row, column = np.unravel_index(change.argmax(), change.shape)
    top = int(np.clip(row - side // 2, 0, max(0, height - side)))
    left = int(np.clip(column - side // 2, 0, max(0, width - side)))
    return slice(top, min(height, top + side)), slice(left, min(width, left + side))


def _draw_times(axes: Any, run: AngiographyRun) -> None:
    """Mean opacity of what fills with contrast, over time: a made frame should lie on the curve of its neighbours."""
    step = max(1, min(run.size) // 128)
    small = np.stack([run.normalize(i)[0, ::step, ::step] for i in range(len(run))])
    deepest = np.quantile(small, 0.95, axis=0) - small.min(0)
    vessels = deepest >= np.quantile(deepest, 0.97)
    opacity = np.quantile(small, 0.95, axis=0)[vessels].mean() - small[:, vessels].mean(1)
    axes.plot(run.times_s, opacity, color="0.7", linewidth=1, zorder=1)
    for made, colour, name in ((False, MEASURED_COLOUR, "measured"), (True, MADE_COLOUR, "made")):
        there = run.synthetic == made
        axes.scatter(run.times_s[there], opacity[there], s=12, color=colour, label=name, zorder=2)
    axes.set_xlabel("time (s)" if run.has_times else "time (frames)", fontsize=8)
    axes.set_ylabel("mean opacity of\nwhat changes most", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=8, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _rectangle(corner: tuple[float, float], width: float, height: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, fill=False, edgecolor="#0072b2", linewidth=1)


def runs_figure(path: str | Path, runs: Mapping[str, AngiographyRun], moments: int = 5) -> Path:
    """Runs one below the other at evenly spread moments, all in network units and the same greys.

    Args:
        path: PNG to write (whole or not at all).
        runs: name -> run.
        moments: frames of each.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * moments, 2.7 * len(runs)), dpi=110, layout="constrained")
    axes = figure.subplots(len(runs), moments, squeeze=False)
    for row, (name, run) in enumerate(runs.items()):
        box = bounding_box(run.active)
        usable = [i for i in range(len(run)) if i not in run.mask_frames]
        for column, index in enumerate(np.array(usable)[np.linspace(0, len(usable) - 1, moments).round().astype(int)]):
            ax = axes[row, column]
            ax.imshow(run.normalize(int(index))[0][box], cmap="gray", vmin=0.05, vmax=0.95)
            ax.set_axis_off()
            when = f"{run.times_s[index]:.2f} s" if run.has_times else f"frame {index + 1}"
            ax.set_title(f"{name}, {when}" if column == 0 else when, fontsize=8)
    return save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.visualize.angiography PICTURE.png RUN [RUN ...]``"""
    from custom_nets.data.angiography.reader import read_angiography, run_name

    parser = CommandParser(
        prog="python -m custom_nets.visualize.angiography", description="Draw runs one below the other."
    )
    parser.add_argument("picture")
    parser.add_argument("runs", nargs="+")
    options = parser.parse_args(arguments)
    try:
        runs_figure(options.picture, {run_name(path): read_angiography(path) for path in options.runs})
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
