"""A reconstruction at a glance: measured and fitted views, the volume from three sides, arrival in colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from custom_nets.visualize.figure import draw_letters, panels, save_figure

__all__ = ["reconstruction_figure"]

# name, axis looked along, letters at left, right, bottom, top of a volume [x, y, z] in LPS
_SIDES = (("from the front", 1, "RLIS"), ("from the left", 0, "APIS"), ("from above", 2, "RLAP"))


def reconstruction_figure(path: str | Path, found: Any, case: str = "") -> Path:
    """Draw views and volume of a reconstruction into a PNG.

    Args:
        path: of the file.
        found: a :class:`custom_nets.inferers.Reconstruction`.
        case: its name, for the title.
    """
    scan = found.acquisition
    compared = found.left_out if len(found.left_out) else found.kept
    # the two views, far apart in time, that show much
    amount = np.clip(scan.projections[compared], 0, None).sum((1, 2))
    early, late = np.array_split(np.arange(len(compared)), 2)
    shown = [int(compared[part[np.argmax(amount[part])]]) for part in (early, late) if len(part)]
    some = scan.subset(shown)
    rendered = found.render(some.geometry, some.times_s)
    top = max(float(np.quantile(some.projections, 0.998)), 1e-6)

    figure, axes = panels([1.0] * 3, [1.0] * (len(shown) + 2), 1.05 if found.warnings else 0.75, 1.1)
    for row, (index, picture) in enumerate(zip(shown, rendered, strict=True)):
        measured = scan.projections[index]
        for ax, image, low in zip(
            axes[row], (measured, picture, measured - picture), (0.0, 0.0, -top / 2), strict=True
        ):
            drawn = ax.imshow(image, cmap="gray" if low == 0 else "RdBu_r", vmin=low, vmax=top if low == 0 else top / 2)
        axes[row, 0].set_ylabel(f"frame {index + 1}, {scan.times_s[index]:.2f} s", fontsize=8)
    for ax, name in zip(axes[0], ("measured", "fitted", "measured - fitted"), strict=True):
        ax.set_title(name, fontsize=9)
    _bar(figure, axes[: len(shown), 2], drawn, "measured - fitted")

    peak, arrival = found.peak_volume, found.arrival_s
    vessel = peak[peak > found.vessel_level]
    brightest = float(np.quantile(vessel, 0.98)) if vessel.size else 1.0
    first, last = float(scan.times_s[0]), float(scan.times_s[-1])
    for column, (name, axis, letters) in enumerate(_SIDES):
        volume_ax, arrival_ax = axes[-2, column], axes[-1, column]
        volume_ax.imshow(peak.max(axis).T, cmap="gray", vmin=0, vmax=brightest, origin="lower")
        volume_ax.set_title(name, fontsize=8, pad=2)
        # the arrival of the brightest vessel on each line of sight
        at = np.expand_dims(np.where(np.isnan(arrival), -1, peak).argmax(axis), axis)
        flat = np.take_along_axis(arrival, at, axis).squeeze(axis)
        coloured = arrival_ax.imshow(flat.T, cmap="turbo", vmin=first, vmax=last, origin="lower")
        for ax in (volume_ax, arrival_ax):
            draw_letters(ax, letters)
    axes[-2, 0].set_ylabel("maximum over time", fontsize=8)
    axes[-1, 0].set_ylabel("arrival", fontsize=8)
    _bar(figure, axes[-1:, 2], coloured, "arrival in s")

    height = figure.get_size_inches()[1]
    scores = found.scores
    title = f"{case}: {type(found.network).__name__}, {len(found.kept)} of {len(scan)} views"
    if scores:
        title += f"; {scores['views']} views {scores['which']}: PSNR {scores['psnr']:.1f} dB"
    figure.text(0.02, 1 - 0.22 / height, title, fontsize=10, va="top")
    if found.warnings:
        figure.text(
            0.02, 1 - 0.5 / height, "WARNING: " + found.warnings[0], fontsize=7, color="red", va="top", wrap=True
        )
    save_figure(figure, path)
    return Path(path)


def _bar(figure: Any, beside: Any, drawn: Any, label: str) -> None:
    """A colour bar in the right margin, beside some panels."""
    boxes = [ax.get_position() for ax in beside]
    low, high = min(b.y0 for b in boxes), max(b.y1 for b in boxes)
    bar = figure.add_axes((boxes[0].x1 + 0.01, low + 0.1 * (high - low), 0.012, 0.8 * (high - low)))
    figure.colorbar(drawn, cax=bar).set_label(label, fontsize=7)
    bar.tick_params(labelsize=7)
