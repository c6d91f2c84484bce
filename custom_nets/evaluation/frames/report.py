"""The report of an evaluation of frame interpolation.

Files in ``output_dir`` (each written whole or not at all, by the first process, with what all processes measured):

* ``frames.csv``: a row for each case, number of missing frames, frame and method; columns REGION_METRIC as
  :mod:`custom_nets.evaluation.frames.scores` defines them.
* ``runs.csv``: a row for each case, number of missing frames and method: means over the run's frames, and what is
  measured of a run as a whole.
* ``regions.csv``: a row for each case, number of missing frames, region of vessels and method: where the region lies,
  and the errors of its time-density curve, of which ``runs.csv`` has the means.
* ``table.md``: the same in short, to paste. ``summary.json``: everything summed up, with what failed, versions,
  options, device and files with sha256.
* ``pictures/CASE_N3_frame.png`` (the frame with the most change), ``_errors.png``, ``_curves.png`` (by each process).
* ``report.html``, if asked for: tables and pictures as one page.

Means are over all frames of all runs (``frames``, as published) and over runs, each counted once (``runs``); those of
time-density curves also over all regions of all runs (``regions``), for each number of missing frames and for all. A
score that is infinite or undefined is left out of means and counted as "not_finite".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from custom_nets.data.angiography.run import bounding_box
from custom_nets.evaluation.frames.protocol import METHODS, LeaveOut
from custom_nets.evaluation.report import Report
from custom_nets.evaluation.tables import (
    OURS,
    Column,
    Row,
    markdown_section,
    method_table,
    named_means,
    paired_differences,
    spread_of_mean,
    summarise,
    widened,
)

__all__ = ["FrameReport", "markdown_table", "region_summary", "run_means", "summaries", "widened"]

_FRAME_COLUMNS = (
    Column("full", "psnr", "PSNR (dB), full", 2),
    Column("full", "ssim", "SSIM, full", 4),
    Column("active", "psnr", "PSNR (dB), active", 2),
    Column("active", "ssim", "SSIM, active", 4),
    Column("vessels", "mae", "MAE, vessels", 4),
    Column("change", "mae", "MAE, change", 4),
)
_RUN_COLUMNS = (
    Column("vessels", "arrival_s", "arrival error", 3),
    Column("vessels", "peak_s", "time-to-peak error", 3),
    Column("vessels", "area_percent", "area error (%)", 2),
    Column("vessels", "curve_mae", "MAE of curves", 4),
    Column("active", "flicker", "flicker (measured: 1)", 3),
    Column("active", "brightness_flicker", "brightness flicker", 3),
)
_CURVES = _RUN_COLUMNS[:4]
_UNPAIRED = ("flicker", "brightness_flicker")  # neither higher nor lower is better: 1 is


def run_means(rows: Sequence[Row]) -> list[Row]:
    """Mean over the frames of each run, of the finite scores (NaN if there is none): case, missing, method, ..."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        key = (row["case"], row["missing"], row["method"], row["region"], row["metric"])
        groups.setdefault(key, []).append(row["value"])
    means = []
    for (case, missing, method, region, metric), values in groups.items():
        finite = np.asarray(values)[np.isfinite(values)]
        value = float(finite.mean()) if finite.size else float("nan")
        means.append({"case": case, "missing": missing, "method": method, "region": region, "metric": metric})
        means[-1]["value"] = value
    return means


def summaries(rows: Sequence[Row], run_rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Means over all frames ("frames"), over runs ("runs"), and over frames at each place in the gap ("places").

    Args:
        rows: scores of frames.
        run_rows: scores of runs, :func:`run_means` among them.
    """
    pairs = _pairs(rows)
    by_place = [{**row, "where": f"{row['missing']}:{row['place']}"} for row in rows]
    places = summarise(by_place, (), by="where")
    for row in places:
        missing, place = row.pop("where").split(":")
        row.update(missing=int(missing), place=int(place))
    return {
        "frames": summarise(rows, pairs, by="missing"),
        "runs": summarise(run_rows, _pairs(run_rows), by="missing"),
        "places": places,
    }


def region_summary(region_rows: Sequence[Row]) -> list[Row]:
    """Errors of time-density curves over all regions of all runs, and ours minus those of each other method.

    Args:
        region_rows: as in ``regions.csv``.

    Returns:
        Rows of :func:`custom_nets.evaluation.tables.summarise` by "missing": each number of missing frames, and "all".
    """
    rows = [
        {"case": row["case"], "gap": row["missing"], "missing": missing, "number": row["region"], "region": region}
        | {"method": row["method"], "metric": metric, "value": row[metric]}
        for row in region_rows
        for region, metric, _, _ in _CURVES
        for missing in (row["missing"], "all")
    ]
    return summarise(rows, _pairs(rows), by="missing")


def _pairs(rows: Sequence[Row]) -> list[Row]:
    with np.errstate(invalid="ignore"):
        return paired_differences([row for row in rows if row["metric"] not in _UNPAIRED])


def markdown_table(
    rows: Sequence[Row], run_rows: Sequence[Row], summary: Mapping[str, Sequence[Row]], failed: Sequence[Row] = ()
) -> str:
    """All frames, each run, and what is measured of runs over time, as Markdown."""
    lines: list[str] = []
    if failed:
        lines += [f"**{len(failed)} evaluations failed and are not in the tables:**", ""]
        lines += [f"- {row['case']}, {row['missing']} missing: {row['error']}" for row in failed] + [""]
    if not rows:
        return "\n".join([*lines, "Nothing was measured."]) + "\n"
    runs = len({row["case"] for row in rows})
    gain = Column("active", "psnr", "gain of ours over it (dB, active)", 2)
    lines += markdown_section(
        f"All made frames of {runs} runs: mean ± standard deviation over frames",
        *method_table(summary["frames"], "missing", _FRAME_COLUMNS, gain, errors=False),
    )
    lines += markdown_section("Each run: mean PSNR (dB) in the active area", *_each_run(rows, run_rows))
    lines += markdown_section(
        "Time-density curves and flicker: mean ± standard deviation over runs (times in seconds, in frames for runs "
        "without times)",
        *method_table(summary["runs"], "missing", _RUN_COLUMNS),
    )
    if summary.get("regions"):
        lines += markdown_section(
            "Time-density errors of all regions, ours minus the other's: mean ± standard error (below 0: ours is "
            "nearer)",
            *_each_region(rows, summary["regions"]),
        )
    if unclear := sum(row["not_finite"] for row in summary["frames"] if " - " not in row["method"]):
        lines.append(
            f"{unclear} scores of frames are infinite (equal frames) or undefined (no vessel in sight): left out."
        )
    return "\n".join(lines).rstrip() + "\n"


def _each_run(rows: Sequence[Row], run_rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of PSNR in each run."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    values = {(r["case"], r["missing"], r["method"]): r["value"] for r in run_rows
              if (r["region"], r["metric"]) == ("active", "psnr")}  # fmt: skip
    table: list[list[str]] = []
    for case, missing in dict.fromkeys((row["case"], row["missing"]) for row in rows):
        count = len({row["frame"] for row in rows if (row["case"], row["missing"]) == (case, missing)})
        best = max((values[case, missing, name] for name in methods if name != OURS), default=float("nan"))
        cells = [f"{values[case, missing, name]:.2f}" for name in methods]
        table.append([case, str(missing), str(count), *cells, f"{values[case, missing, OURS] - best:+.2f}"])
    return ["case", "missing", "frames", *methods, "ours minus the best other"], table


def _each_region(rows: Sequence[Row], summary: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of time-density curves."""
    look_up = {(r["missing"], r["method"], r["metric"]): r for r in summary}
    others = [name for name in dict.fromkeys(row["method"] for row in rows) if name != OURS]
    table: list[list[str]] = []
    for missing in [*dict.fromkeys(row["missing"] for row in rows), "all"]:
        for other in others:
            found = [look_up.get((missing, f"{OURS} - {other}", column.metric)) for column in _CURVES]
            cells = [spread_of_mean(row, c.digits) for row, c in zip(found, _CURVES, strict=True)]
            count = max((row["n"] for row in found if row is not None), default=0)
            table.append([str(missing), other, *cells, str(count)])
    return ["missing", "ours minus", *(column.name for column in _CURVES), "regions"], table


class FrameReport(Report):
    """The report of what ``ScoreFramesd`` measured, see :class:`custom_nets.evaluation.report.Report`.

    Metrics are means over all frames (over runs, of what is measured of a run as a whole): N3/active/psnr/METHOD,
    N3/active/psnr/gain_over_METHOD.
    """

    by = "missing"
    prefix = "N"
    record_name = "summary.json"
    what = "runs"

    def files_of(self, item: Mapping[str, Any]) -> dict[str, str]:
        return {item["case"]: str(item["image"])}

    def collect(self, output: Any) -> dict[str, list[Row]]:
        if "failure" in output:
            return {"failed": [output["failure"]]}
        return {
            "scores": output["scores"],
            "runs": [*run_means(output["scores"]), *output["run_scores"]],
            "regions": output["region_scores"],
            "records": [output["record"]],
        }

    def draw(self, output: Any) -> list[Row]:
        _draw(self.output_dir / "pictures", output)
        case, missing = output["record"]["case"], output["record"]["missing"]
        kinds = {"frame": "frame with the most change", "errors": "errors over time", "curves": "contrast over time"}
        stem = self.output_dir / "pictures" / f"{case}_N{missing}"
        return [
            {"case": case, "missing": missing, "title": f"{missing} missing, {what}", "path": f"{stem}_{kind}.png"}
            for kind, what in kinds.items()
        ]

    def summarise(self, rows: Mapping[str, list[Row]]) -> dict[str, Any]:
        found = summaries(rows.get("scores", []), rows.get("runs", []))
        regions = region_summary(rows.get("regions", []))
        return {**found, "regions": regions, "records": rows.get("records", []), "failed": rows.get("failed", [])}

    def means(self, summary: Mapping[str, Any]) -> dict[str, float]:
        # the mean over frames stands where there are both
        return {
            k: v for kind in ("runs", "frames") for k, v in named_means(summary[kind], self.by, self.prefix).items()
        }

    def tables(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> dict[str, list[Row]]:
        wide = {"frames": widened(rows.get("scores", [])), "runs": widened(rows.get("runs", []))}
        return {**wide, "regions": rows.get("regions", [])}

    def markdown(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> str:
        return markdown_table(rows.get("scores", []), rows.get("runs", []), summary, rows.get("failed", []))

    def pairs(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> list[Row]:
        return _pairs(rows.get("runs", []))

    def warnings(self, rows: Mapping[str, list[Row]], names: Mapping[str, str]) -> list[str]:
        failed = rows.get("failed", [])
        return [f"{names[row['case']]} could not be evaluated; the tables are without it." for row in failed]


def _draw(folder: Path, output: Mapping[str, Any]) -> None:
    """The three pictures of a run."""
    from custom_nets.visualize.frame_evaluation import (
        errors_over_time_figure,
        frame_comparison_figure,
        time_density_figure,
    )

    left: LeaveOut = output["image"]
    run, k = left.run, output["most_change"]
    case, number = output["record"]["case"], left.missing
    what = f"{number} missing"  # not the case: pictures leave the machine, where their files get other names
    stem = f"{case}_N{number}"
    index = int(left.targets[k])
    keys = {name: key for key, name in METHODS.items()}
    methods = [name for name in output["curves"] if name in keys]
    box = bounding_box(run.active)
    scores = [row for row in output["scores"] if (row["region"], row["metric"]) == ("active", "psnr")]
    frame_comparison_figure(
        folder / f"{stem}_frame.png",
        run.normalize(index)[0][box],
        {name: left.units_of(output[keys[name]][k], index)[box] for name in methods[1:] + methods[:1]},
        [frame[box] for frame in run.normalize(left.pairs[k])],
        {row["method"]: f"{row['value']:.2f} dB" for row in scores if row["frame"] == index + 1},
        f"{what}: frame {index + 1}, the one with the most change; PSNR in the active area",
    )
    panels: dict[str, dict[str, Any]] = {}
    for region, metric, name, _ in (_FRAME_COLUMNS[2], _FRAME_COLUMNS[4]):
        rows = [row for row in output["scores"] if (row["region"], row["metric"]) == (region, metric)]
        panels[name] = {m: np.array([row["value"] for row in rows if row["method"] == m]) for m in methods}
    kept = np.isin(left.sequence, left.pairs)
    shown_s = output["curves"]["times_s"]
    errors_over_time_figure(
        folder / f"{stem}_errors.png", run.times_s[left.targets], panels, shown_s[kept], run.has_times, what
    )
    time_density_figure(folder / f"{stem}_curves.png", output["curves"], kept, run.has_times, what)
