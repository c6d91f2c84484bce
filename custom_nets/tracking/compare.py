"""Two MLflow runs side by side: settings and data that differ, metrics and their difference, and the curves.

    python -m custom_nets.tracking.compare RUN_A RUN_B --output_dir DIR

Written to DIR: ``comparison.md``, ``comparison.csv`` and, where the runs have a metric in common, ``comparison.png``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custom_nets.evaluation.tables import csv_text, markdown_rows
from custom_nets.tracking.client import find_run
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.errors import one_line_errors
from custom_nets.utils.files import write_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["TrackedRun", "compare_runs", "comparison_figure", "comparison_rows", "read_angiography"]

_COLOURS = ("#1f77b4", "#d62728")
_MOST_PANELS = 9


@dataclass(frozen=True)
class TrackedRun:
    """What a run recorded.

    Attributes:
        name: run name and the start of its id.
        settings: parameters.
        data: list -> SHA-256 -> file.
        metrics: name -> last value.
        curves: name -> points (step, value) of a metric that has several.
    """

    name: str
    settings: Mapping[str, str]
    data: Mapping[str, Mapping[str, str]]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]


def read_angiography(client: MlflowClient, run: Run) -> TrackedRun:
    """All that is compared of a run."""
    run_id = run.info.run_id
    curves = {}
    if run.data.tags.get("kind") != "evaluation":  # one point each, of many metrics
        for metric in run.data.metrics:
            curves[metric] = [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]
    data: dict[str, dict[str, str]] = {}
    if "data.json" in [entry.path for entry in client.list_artifacts(run_id)]:
        with tempfile.TemporaryDirectory() as folder:
            record = json.loads(Path(client.download_artifacts(run_id, "data.json", folder)).read_text())
        for name, entries in record.items():
            data[name] = {str(entry["sha256"]): _path(entry) for entry in entries}
    return TrackedRun(
        f"{run.info.run_name} ({run_id[:8]})",
        run.data.params,
        data,
        run.data.metrics,
        {name: sorted(points) for name, points in curves.items() if len(points) > 1},
    )


def _path(entry: Mapping[str, Any]) -> str:
    return next(str(entry[key]) for key in ("image", "label", "mask") if key in entry)


def comparison_rows(a: TrackedRun, b: TrackedRun) -> list[dict[str, Any]]:
    """What differs: rows of kind (setting, data, metric), name, a, b, difference (b minus a, of metrics).

    Settings and data that are the same are left out; of the data a row is a file that one run alone had, known by its
    content. All metrics are there, those of one run alone, too.
    """
    rows: list[dict[str, Any]] = []

    def add(kind: str, name: str, of_a: Any, of_b: Any, difference: Any = "") -> None:
        rows.append({"kind": kind, "name": name, "a": of_a, "b": of_b, "difference": difference})

    for name in sorted({*a.settings, *b.settings}):
        if (first := a.settings.get(name, "")) != (second := b.settings.get(name, "")):
            add("setting", name, first, second)
    for name in dict.fromkeys([*a.data, *b.data]):
        files_a, files_b = a.data.get(name, {}), b.data.get(name, {})
        for sha256 in dict.fromkeys([*files_a, *files_b]):
            if (sha256 in files_a) != (sha256 in files_b):
                add("data", name, files_a.get(sha256, ""), files_b.get(sha256, ""))
    for name in sorted({*a.metrics, *b.metrics}):
        of_a, of_b = a.metrics.get(name, ""), b.metrics.get(name, "")
        add("metric", name, of_a, of_b, of_b - of_a if isinstance(of_a, float) and isinstance(of_b, float) else "")
    return rows


def markdown(a: TrackedRun, b: TrackedRun, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as tables."""
    lines = [f"a: {a.name}", "", f"b: {b.name}", ""]
    titles = {
        "setting": "Settings that differ",
        "data": "Data of one run alone (by SHA-256)",
        "metric": "Metrics (last value)",
    }
    for kind, title in titles.items():
        chosen = [row for row in rows if row["kind"] == kind]
        lines += [f"### {title}", ""]
        if not chosen:
            lines += ["None.", ""]
            continue
        heads = ["name", "a", "b", *(["b - a"] if kind == "metric" else [])]
        table = [
            [_cell(row[name]) for name in ("name", "a", "b", *(["difference"] if kind == "metric" else []))]
            for row in chosen
        ]
        lines += [*markdown_rows(heads, table), ""]
    return "\n".join(lines).rstrip() + "\n"


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def comparison_figure(a: TrackedRun, b: TrackedRun) -> Any:
    """Curves of the metrics that both runs recorded over time; without any, bars of those that both measured.

    Returns:
        A matplotlib figure; None when the runs have no metric in common.
    """
    shared = sorted(set(a.curves) & set(b.curves), key=lambda name: (not name.startswith("train_"), name))
    bars = {} if shared else _bars([name for name in a.metrics if name in b.metrics])
    panels = (shared or sorted(bars, key=_interest))[:_MOST_PANELS]
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.1 * lines + 0.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        ax.set_title(panel, fontsize=10)
        ax.grid(alpha=0.3, axis="both" if shared else "y")
        for number, run in enumerate((a, b)):
            style: dict[str, Any] = {"color": _COLOURS[number], "label": f"{'ab'[number]}: {run.name}"}
            if shared:
                steps, values = zip(*run.curves[panel], strict=True)
                ax.plot(steps, values, marker="." if len(steps) < 40 else None, **style)
                ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
                ax.set_xlabel("epoch" if panel.startswith("val_") else "iteration")
            else:
                heights = [run.metrics[name] for name in bars[panel].values()]
                places = [place + 0.4 * (number - 0.5) for place in range(len(heights))]
                ax.bar_label(ax.bar(places, heights, 0.36, **style), fmt="%.4g", fontsize=7)
                ax.set_xticks(range(len(heights)), list(bars[panel]), fontsize=8)
                ax.margins(y=0.12)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=1, fontsize=9)
    return figure


def _bars(metrics: Sequence[str]) -> dict[str, dict[str, str]]:
    """Panel -> label -> metric, of names such as "iso2/brain/psnr/ours": what differs between runs is ours."""
    panels: dict[str, dict[str, str]] = {}
    for metric in [name for name in metrics if name.endswith("/ours")] or metrics:
        what, _, panel = metric.removesuffix("/ours").partition("/")
        panels.setdefault(panel or metric, {})[what if panel else ""] = metric
    return panels


def _interest(name: str) -> tuple[int, str]:
    wanted = ("brain/psnr", "active/psnr", "brain/ssim", "active/ssim", "brain/dice_mean", "full/psnr", "whole/")
    return next((i for i, part in enumerate(wanted) if name.startswith(part)), len(wanted)), name


def compare_runs(run_a: str, run_b: str, output_dir: str | Path, tracking_uri: str | None = None) -> list[Path]:
    """Write the comparison of two runs.

    Args:
        run_a, run_b: ids of runs, or output folders of runs that were tracked without a server.
        output_dir: folder for the files.
        tracking_uri: where ids are looked up.

    Returns:
        The files.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: as :func:`custom_nets.tracking.client.find_run`; also when both
            are the same run.
    """
    found = [find_run(run, tracking_uri) for run in (run_a, run_b)]
    if found[0][1].info.run_id == found[1][1].info.run_id:
        raise ValueError(f"{run_a} and {run_b} are the same run, {found[0][1].info.run_id}.")
    a, b = (read_angiography(client, run) for client, run in found)
    rows = comparison_rows(a, b)
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_text(output_dir / "comparison.md", markdown(a, b, rows))
    write_text(output_dir / "comparison.csv", csv_text(rows))
    written = [output_dir / "comparison.md", output_dir / "comparison.csv"]
    if (figure := comparison_figure(a, b)) is not None:
        from custom_nets.visualize.figure import save_figure

        written.append(save_figure(figure, output_dir / "comparison.png"))
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.tracking.compare RUN_A RUN_B --output_dir DIR``"""
    parser = CommandParser(
        prog="python -m custom_nets.tracking.compare", description="Put two MLflow runs side by side."
    )
    for name in ("run_a", "run_b"):
        parser.add_argument(name, help="id of a run, or output folder of a run that was tracked without a server")
    parser.add_argument("--tracking_uri", metavar="URI", help="where ids are looked up (default: MLFLOW_TRACKING_URI)")
    parser.add_argument("--output_dir", required=True, help="folder for the tables and the picture")
    with one_line_errors():
        written = compare_runs(**vars(parser.parse_args(arguments)))
    print(written[0].read_text(encoding="utf-8"))
    print("written: " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
