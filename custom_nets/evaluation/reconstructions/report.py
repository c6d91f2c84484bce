"""The report of an evaluation of 4D reconstructions.

Files in ``output_dir``, each written whole or not at all: ``scores.csv`` (a row for each case and method), ``table.md``
(means with spread, and each case), ``summary.json`` (everything summed up, with options and versions), and
``pictures/seed_1_moderate.png`` for each case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.evaluation.reconstructions.protocol import BEST_STILL, wins_over
from custom_nets.evaluation.report import Report
from custom_nets.evaluation.tables import OURS, Row, markdown_section, paired_differences, spread, summarise, widened
from custom_nets.visualize.figure import save_figure

__all__ = ["ReconstructionReport", "markdown_table", "reconstruction_figure"]

_COLUMNS = (
    ("error_4d", "4D error", 3),
    ("dice", "Dice", 3),
    ("centreline_dice", "centreline Dice", 3),
    ("chamfer_mm", "Chamfer (mm)", 2),
    ("hd95_mm", "HD95 (mm)", 2),
    ("arrival_s", "arrival error (s)", 3),
    ("arrival_share", "of the vessel voxels that have one", 2),
    ("view_nrmse", "left-out views: relative error", 3),
    ("view_psnr", "PSNR (dB)", 2),
    ("view_ssim", "SSIM", 4),
    ("view_published_psnr", "published PSNR (dB)", 2),
    ("seconds", "s", 0),
)
_EACH = ("error_4d", "dice", "arrival_s")


def markdown_table(rows: Sequence[Row], summary: Sequence[Row]) -> str:
    """Means with spread, wins of ours, and each case, as Markdown."""
    if not rows:
        return "Nothing was measured.\n"
    look_up = {(row["noise"], row["method"], row["metric"]): row for row in summary}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines: list[str] = []
    for noise in dict.fromkeys(row["noise"] for row in rows):
        cases = list(dict.fromkeys(row["case"] for row in rows if row["noise"] == noise))
        heads = ["method", *(name for _, name, _ in _COLUMNS)]
        table = [
            [method, *(spread(look_up.get((noise, method, metric)), digits) for metric, _, digits in _COLUMNS)]
            for method in methods
        ]
        how = "no" if noise == "none" else noise
        title = f"{how} noise, {len(cases)} phantoms: mean ± standard deviation over phantoms"
        lines += markdown_section(title, heads, table)
        if OURS in methods:
            mine = [row for row in rows if row["noise"] == noise]
            for metric in ("error_4d", "dice"):
                name = next(title for key, title, _ in _COLUMNS if key == metric)
                parts = [f"{other} {w}/{n}" for other, (w, n) in wins_over(mine, metric).items() if other != BEST_STILL]
                lines.append(f"Ours is better in {name} on: {', '.join(parts) or 'no other method'}.")
            lines.append("")
        values = {(r["case"], r["method"], r["metric"]): r["value"] for r in rows if r["noise"] == noise}
        for metric, title, digits in _COLUMNS:
            if metric in _EACH:
                each = [[case, *(f"{values[case, m, metric]:.{digits}f}" for m in methods)] for case in cases]
                lines += markdown_section(f"{title}, each phantom", ["phantom", *methods], each, level=4)
    lines.append(
        f"'{BEST_STILL}' is the true volume's mean over time, seen at all times: what no still answer can better in 4D "
        "error. Shapes are those of the mean volume, at each method's threshold of best Dice, against voxels "
        "that truly reach a quarter of the undiluted agent's attenuation within the scan. Arrival is measured where a "
        "voxel is at least half vessel. Left-out views are compared with projections free of noise."
    )
    return "\n".join(lines) + "\n"


class ReconstructionReport(Report):
    """The report of :class:`custom_nets.evaluation.reconstructions.protocol.PhantomEvaluator`, see
    :class:`custom_nets.evaluation.report.Report`."""

    by = "noise"
    record_name = "summary.json"
    what = "phantoms"

    def collect(self, output: Any) -> dict[str, list[Row]]:
        return {"scores": output["scores"], "records": [output["record"]]}

    def draw(self, output: Any) -> list[Row]:
        case, noise = output["record"]["case"], output["record"]["noise"]
        path = self.output_dir / "pictures" / f"{case}_{noise}.png".replace(" ", "_")
        reconstruction_figure(path, output["phantom"], output["means"], output["arrivals"])
        return [{"case": case, "noise": noise, "title": f"{noise} noise", "path": str(path)}]

    def summarise(self, rows: Mapping[str, list[Row]]) -> dict[str, Any]:
        scores = rows.get("scores", [])
        pairs = paired_differences(scores)
        return {
            "summary": summarise(scores, pairs, by=self.by),
            "paired": pairs,
            "scores": widened(scores, by_region=False),
            "records": rows.get("records", []),
        }

    def tables(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> dict[str, list[Row]]:
        return {"scores": summary["scores"]}

    def markdown(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> str:
        return markdown_table(rows.get("scores", []), summary["summary"])


def reconstruction_figure(
    path: str | Path, phantom: Any, means: Mapping[str, NDArray], arrivals: Mapping[str, NDArray]
) -> Path:
    """Draw truth and methods: maximum intensity of the mean volume from two sides, and arrival, each in one scale.

    Args:
        path: PNG to write, whole or not at all.
        phantom: :class:`custom_nets.simulation.phantom.VesselFlowPhantom`.
        means, arrivals: method -> [nx, ny, nz].
    """
    from matplotlib.figure import Figure

    true = np.where(phantom.coverage >= 0.5, phantom.arrival_s, np.nan)
    columns = {"truth": (phantom.mean_volume, true)}
    columns.update({name: (means[name], arrivals[name]) for name in means if name != BEST_STILL})
    figure = Figure(figsize=(2.5 * len(columns) + 0.6, 7.6), dpi=110, layout="constrained")
    axes = figure.subplots(3, len(columns), squeeze=False)
    top = float(phantom.mean_volume.max())
    for column, (name, (mean, arrival)) in enumerate(columns.items()):
        # LPS volume: from the front the patient's left is on the right, the head on top
        front, side = mean.max(1).T[::-1], mean.max(0).T[::-1]
        early = _earliest(arrival).T[::-1]
        for row, picture in enumerate((front, side)):
            drawn = axes[row, column].imshow(picture, cmap="gray", vmin=0, vmax=top)
        times = axes[2, column].imshow(early, cmap="turbo", vmin=0, vmax=float(phantom.times_s[-1]))
        axes[0, column].set_title(name, fontsize=10)
        for row in range(3):
            axes[row, column].set(xticks=[], yticks=[])
    for row, word in enumerate(("from the front", "from the side", "first arrival, front")):
        axes[row, 0].set_ylabel(word, fontsize=9)
    figure.colorbar(drawn, ax=axes[:2, -1], label="mean attenuation (1/mm), maximum along the ray", shrink=0.7)
    figure.colorbar(times, ax=axes[2, -1], label="s", shrink=0.8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return save_figure(figure, path)


def _earliest(arrival: NDArray) -> NDArray:
    """[nx, nz] the first arrival along y; NaN where there is none."""
    return np.where(np.isfinite(arrival).any(1), np.nanmin(np.where(np.isfinite(arrival), arrival, np.inf), 1), np.nan)
