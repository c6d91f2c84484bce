"""Evaluation as a matrix: every way of measuring at every scale, beside B-spline, worst volume named."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from custom_nets.operators.slice_profile import PointSpread
from custom_nets.utils.files import write_text
from custom_nets.visualize.figure import save_figure

__all__ = ["MatrixReport", "matrix_degradations", "matrix_table"]


def matrix_degradations(profiles: Sequence[str], scales: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Degradations for :class:`custom_nets.evaluation.volumes.protocol.MakeInputd`: each scale measured in each way.

    Args:
        profiles: point spreads as text, such as "box:0.8" (see :meth:`PointSpread.of`).
        scales: name -> how many times larger the voxels become along x, y, z.

    Returns:
        "SCALE PROFILE" -> arguments of ``DegradeVolumed``.

    Raises:
        ValueError: an unknown profile.
    """
    return {
        f"{name} {profile}": {"scale": list(scale), "profile": str(PointSpread.of(profile))}
        for name, scale in scales.items()
        for profile in profiles
    }


def matrix_table(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str, float, float, str]]:
    """Scale, profile, mean gain, worst gain and its case, of the paired differences to B-spline in the brain (dB)."""
    cells: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for row in rows:
        if (row["baseline"], row["region"], row["metric"]) == ("bspline", "brain", "psnr"):
            scale, profile = row["degradation"].split(" ", 1)
            cells.setdefault((scale, profile), []).append((float(row["difference"]), row["case"]))
    return [
        (scale, profile, float(np.mean([gain for gain, _ in found])), *min(found))
        for (scale, profile), found in cells.items()
    ]


class MatrixReport:
    """Writes ``matrix.md`` and ``matrix.png`` from the ``paired.csv`` of an
    :class:`custom_nets.evaluation.volumes.report.EvaluationReport`, which it stands after.

    Args:
        output_dir: folder of the report.
        title: of the picture.
    """

    def __init__(self, output_dir: str, title: str = "PSNR in the brain over B-spline (dB)") -> None:
        self.folder = Path(output_dir)
        self.title = title

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        with open(self.folder / "paired.csv", newline="") as stream:
            table = matrix_table(list(csv.DictReader(stream)))
        lines = ["| scale | measured by | mean gain (dB) | worst (dB) | of |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {s} | {p} | {mean:+.2f} | {worst:+.2f} | {case} |" for s, p, mean, worst, case in table]
        write_text(self.folder / "matrix.md", "\n".join(lines) + "\n")
        self.draw(table)

    def draw(self, table: Sequence[tuple[str, str, float, float, str]]) -> None:
        """One square a cell: blue above B-spline, red below; the worst volume under the mean."""
        from matplotlib.figure import Figure

        scales = list(dict.fromkeys(row[0] for row in table))
        profiles = list(dict.fromkeys(row[1] for row in table))
        gains = np.full((len(scales), len(profiles)), np.nan)
        figure = Figure(figsize=(1.5 + 1.15 * len(profiles), 1.6 + 0.75 * len(scales)), layout="constrained")
        ax = figure.add_subplot()
        for scale, profile, mean, worst, _ in table:
            row, column = scales.index(scale), profiles.index(profile)
            gains[row, column] = mean
            ax.text(column, row, f"{mean:+.2f}\nworst {worst:+.2f}", ha="center", va="center", fontsize=8)
        limit = max(float(np.nanmax(np.abs(gains))), 0.5)
        drawn = ax.imshow(gains, cmap="RdBu", vmin=-1.5 * limit, vmax=1.5 * limit, aspect="auto")
        ax.set_xticks(range(len(profiles)), [p.replace(":", "\n") for p in profiles], fontsize=8)
        ax.set_yticks(range(len(scales)), scales)
        ax.set_title(self.title, fontsize=10)
        figure.colorbar(drawn, ax=ax, label="dB")
        figure.set_dpi(110)
        save_figure(figure, self.folder / "matrix.png")
