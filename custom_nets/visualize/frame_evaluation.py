"""Pictures of an evaluation of frame interpolation: frames beside the truth, errors and contrast over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.visualize.figure import save_figure

__all__ = ["errors_over_time_figure", "frame_comparison_figure", "time_density_figure"]

COLOURS = {"truth": "#222222", "ours": "#d55e00", "blend": "#0072b2", "dis": "#009e73", "nearest": "#999999"}
CAPTIONS = {"blend": "linear blend", "dis": "DIS flow", "nearest": "nearest frame"}
_PANEL_INCHES = 2.6
_DPI = 110


def caption(method: str) -> str:
    """Name of a method for people."""
    return CAPTIONS.get(method, method)


def _figure(width: float, height: float, margins: tuple[float, float, float, float], space: float = 0.25) -> Any:
    """A figure with margins (left, right, bottom, top; inches) set by hand: layout engines draw twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left, right, bottom, top = margins
    figure.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, wspace=space, hspace=space
    )
    return figure


def frame_comparison_figure(
    path: str | Path,
    truth: NDArray,
    frames: Mapping[str, NDArray],
    ends: Sequence[NDArray],
    scores: Mapping[str, str],
    title: str = "",
) -> Path:
    """A frame as it was measured and as methods made it; below, what changes across the gap and the methods' errors.

    Args:
        path: PNG to write (whole or not at all).
        truth: [H, W].
        frames: method -> [H, W] in the truth's unit, drawn in this order.
        ends: the two measured frames of the gap.
        scores: method -> text under its name.
        title: line above the picture.
    """
    low, high = np.percentile(truth, (0.2, 99.8))
    errors = {name: np.abs(frame - truth) for name, frame in frames.items()}
    largest = max(float(np.percentile(error, 99.7)) for error in errors.values()) or 1.0
    height, width = truth.shape
    columns = 1 + len(frames)
    tall = _PANEL_INCHES * height / width
    figure = _figure(_PANEL_INCHES * columns + 0.8, 2 * tall + 1.6, (0.1, 0.7, 0.1, 0.85), space=0.0)
    figure.subplots_adjust(wspace=0.03, hspace=0.35 / tall)
    axes = figure.subplots(2, columns, squeeze=False)
    grey = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6)}
    hot = {"cmap": "inferno", "vmin": 0.0, "vmax": largest}
    top = [("measured", truth), *((f"{caption(name)}\n{scores.get(name, '')}", f) for name, f in frames.items())]
    bottom = [
        ("change across the gap", np.abs(ends[1] - ends[0])),
        *((f"|{caption(name)} - measured|", error) for name, error in errors.items()),
    ]
    for row, (panels, style) in enumerate(((top, grey), (bottom, hot))):
        for ax, (name, picture) in zip(axes[row], panels, strict=True):
            drawn = ax.imshow(picture, interpolation="antialiased", **style)
            ax.set(xticks=[], yticks=[])
            ax.set_title(name, fontsize=9)
    place = axes[1][-1].get_position()
    bar = figure.add_axes((place.x1 + 0.006, place.y0, 0.008, place.height))
    figure.colorbar(drawn, cax=bar)
    bar.tick_params(labelsize=7)
    if title:
        figure.suptitle(title, fontsize=11)
    return save_figure(figure, path)


def _time_axes(ax: Any, has_times: bool, last: bool) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=7)
    ax.locator_params(nbins=5)
    if last:
        ax.set_xlabel("time (s)" if has_times else "time (frames)", fontsize=8)


def errors_over_time_figure(
    path: str | Path,
    times_s: NDArray,
    panels: Mapping[str, Mapping[str, NDArray]],
    kept_s: NDArray,
    has_times: bool = True,
    title: str = "",
) -> Path:
    """Scores of made frames over time, one panel a score.

    Args:
        path: PNG to write (whole or not at all).
        times_s: [M] of the made frames.
        panels: name of the score -> method -> [M]; what is not finite is not drawn.
        kept_s: times of the kept frames, drawn as grey lines.
        has_times: False: times count frames.
        title: line above the picture.
    """
    figure = _figure(8.5, 0.9 + 2.2 * len(panels), (0.7, 0.15, 0.5, 0.4))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for number, (ax, (name, methods)) in enumerate(zip(axes, panels.items(), strict=True)):
        for time in kept_s:
            ax.axvline(time, color="0.9", linewidth=0.8, zorder=0)
        for method, values in methods.items():
            shown = np.where(np.isfinite(values), values, np.nan)
            style = {"color": COLOURS.get(method), "linewidth": 1, "marker": "o", "markersize": 2.5}
            ax.plot(times_s, shown, label=caption(method), **style)
        ax.set_ylabel(name, fontsize=8)
        _time_axes(ax, has_times, last=number == len(panels) - 1)
    axes[0].legend(fontsize=7, frameon=False, ncols=len(COLOURS))
    if title:
        figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)


def time_density_figure(
    path: str | Path,
    curves: Mapping[str, NDArray],
    kept: NDArray[np.bool_],
    has_times: bool = True,
    title: str = "",
) -> Path:
    """Opacity over time: of all vessels, and of an early, a middle and a late region.

    Args:
        path: PNG to write (whole or not at all).
        curves: of :class:`custom_nets.evaluation.frames.scores.ScoreFramesd`: ``times_s`` [S], ``pixels`` [R], and
            name -> [R, S], "truth" among them.
        kept: [S] which frames were kept, drawn as dots.
        has_times: False: times count frames.
        title: line above the picture.
    """
    times, pixels = curves["times_s"], curves["pixels"]
    names = [name for name in curves if name not in ("times_s", "pixels")]
    truth = curves["truth"]
    chosen: dict[str, NDArray] = {}
    if len(pixels):
        chosen["all vessels"] = pixels / pixels.sum()
        large = np.flatnonzero(pixels >= np.median(pixels))
        by_peak = large[np.argsort(truth[large].argmax(1), kind="stable")]
        for place, word in ((0, "early"), (len(by_peak) // 2, "middle"), (len(by_peak) - 1, "late")):
            chosen[f"{word} region, {pixels[by_peak[place]]} pixels"] = np.eye(len(pixels))[by_peak[place]]
    figure = _figure(9, 6, (0.7, 0.15, 0.5, 0.6))
    axes = figure.subplots(2, 2).ravel()
    for number, ax in enumerate(axes):
        _time_axes(ax, has_times, last=number > 1)
        if number >= len(chosen):
            ax.text(0.5, 0.5, "no vessel found", ha="center", transform=ax.transAxes, fontsize=9, color="0.4")
            continue
        name, share = list(chosen.items())[number]
        for method in names:
            thick = 1.6 if method == "truth" else 0.9
            label = "measured" if method == "truth" else caption(method)
            ax.plot(times, share @ curves[method], color=COLOURS.get(method), linewidth=thick, label=label)
        ax.plot(times[kept], (share @ truth)[kept], "o", color=COLOURS["truth"], markersize=3, label="kept frames")
        ax.set_title(name, fontsize=9)
        ax.set_ylabel("mean opacity", fontsize=8)
    if chosen:
        axes[0].legend(fontsize=7, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)
