"""Scores of several methods on the same cases: paired differences, summaries, and how they are written.

A score is a row with "method", "region", "metric", "value", and any other columns, which say what was measured (the
case, the degradation, the frame).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "OURS",
    "Column",
    "Row",
    "csv_text",
    "markdown_rows",
    "markdown_section",
    "method_table",
    "named_means",
    "paired_differences",
    "spread",
    "spread_of_mean",
    "summarise",
    "widened",
]

Row = dict[str, Any]
OURS = "ours"


class Column(NamedTuple):
    """A column of a table: what is in it, what is written above, and how exactly."""

    region: str
    metric: str
    name: str
    digits: int


LOWER_IS_BETTER = (
    *("nrmse", "mae", "rmse", "arrival_s", "peak_s", "area_percent", "curve_mae"),
    *("error_4d", "chamfer_mm", "hd95_mm", "view_nrmse", "seconds"),
    *("padded_rmse", "csf_error_ml", "gm_error_ml", "wm_error_ml"),
    *(
        f"{what}_{where}{end}"
        for what in ("gradient", "jump")
        for where in ("thick", "across")
        for end in ("", "_ratio")
    ),
)


def paired_differences(rows: Iterable[Row], method: str = OURS) -> list[Row]:
    """``method`` minus each other method, for all that was measured of both.

    Returns:
        Rows with the columns of the scores besides method and value, and baseline, ours, other, difference, win (1 if
        ours is better; for errors lower is better). Where a value is infinite the difference is that of the floats
        (maybe NaN).
    """
    values: dict[tuple, dict[str, float]] = {}
    for row in rows:
        key = tuple((name, cell) for name, cell in row.items() if name not in ("method", "value"))
        values.setdefault(key, {})[row["method"]] = row["value"]
    pairs = []
    for key, by_method in values.items():
        ours = by_method.get(method)
        for baseline, other in by_method.items():
            if ours is None or baseline == method:
                continue
            what = dict(key)
            win = ours < other if what["metric"] in LOWER_IS_BETTER else ours > other
            numbers = {"ours": ours, "other": other, "difference": ours - other, "win": int(win)}
            pairs.append({**what, "baseline": baseline, **numbers})
    return pairs


def summarise(rows: Sequence[Row], pairs: Sequence[Row], by: str = "degradation") -> list[Row]:
    """Mean, sample standard deviation (n - 1), n, min and max of the finite values.

    The others (PSNR of equal images is infinite) are counted in "not_finite".

    Rows of paired differences are named "ours - BASELINE" and have standard error (n >= 2) and wins besides.

    Args:
        rows: scores.
        pairs: of :func:`paired_differences`.
        by: the column to group by, besides method, region and metric.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row[by], row["method"], row["region"], row["metric"]), []).append(row)
    for row in pairs:
        name = f"{OURS} - {row['baseline']}"
        groups.setdefault((row[by], name, row["region"], row["metric"]), []).append(row)
    summary = []
    for (group, method, region, metric), members in groups.items():
        values = np.array([m["difference"] if "difference" in m else m["value"] for m in members], dtype=np.float64)
        finite = values[np.isfinite(values)]
        n = len(finite)
        std = float(finite.std(ddof=1)) if n > 1 else None
        row = {
            by: group,
            "method": method,
            "region": region,
            "metric": metric,
            "mean": float(finite.mean()) if n else None,
            "std": std,
            "n": n,
            "min": float(finite.min()) if n else None,
            "max": float(finite.max()) if n else None,
            "standard_error": None,
            "wins": None,
            "not_finite": len(values) - n,
        }
        if "difference" in members[0]:
            row["standard_error"] = std / math.sqrt(n) if std is not None else None
            row["wins"] = sum(m["win"] for m in members)
        summary.append(row)
    return summary


def named_means(summary: Iterable[Row], by: str = "degradation", prefix: str = "") -> dict[str, float]:
    """The means of a summary under names for a tracking server: "iso2/brain/psnr/ours", ".../gain_over_bspline".

    Of metrics where lower is better the paired mean is called "excess_over_...". What has no finite mean is left out.

    Args:
        summary: rows of :func:`summarise`.
        by: the column that says what was measured.
        prefix: put before what it says.
    """
    means = {}
    for row in summary:
        if row["mean"] is not None:
            word = "excess_over_" if row["metric"] in LOWER_IS_BETTER else "gain_over_"
            method = row["method"].replace(f"{OURS} - ", word)
            means[f"{prefix}{row[by]}/{row['region']}/{row['metric']}/{method}"] = row["mean"]
    return means


def spread(row: Row | None, digits: int) -> str:
    """ "mean ± standard deviation" of a row of the summary; empty where there is none."""
    if row is None or row["mean"] is None:
        return ""
    text = f"{row['mean']:.{digits}f}"
    return text if row["std"] is None else f"{text} ± {row['std']:.{digits}f}"


def spread_of_mean(row: Row | None, digits: int) -> str:
    """ "+mean ± standard error" of a row of paired differences; empty where there is none."""
    if row is None or row["mean"] is None:
        return ""
    text = f"{row['mean']:+.{digits}f}"
    return text if row["standard_error"] is None else f"{text} ± {row['standard_error']:.{digits}f}"


def csv_text(rows: Sequence[Row]) -> str:
    """Rows as CSV; None becomes an empty cell, floats keep seven digits."""
    if not rows:
        return ""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()})
    return stream.getvalue()


def markdown_rows(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [list(heads), ["---"] * len(heads), *([str(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def markdown_section(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], level: int = 3) -> list[str]:
    """Lines of a heading and a table."""
    return [f"{'#' * level} {title}", "", *markdown_rows(heads, rows), ""]


def method_table(
    summary: Sequence[Row], by: str, columns: Sequence[Column], gain: Column | None = None, errors: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table: what each method reaches in each group, and what ours gains over it.

    Args:
        summary: rows of :func:`summarise`.
        by: the column that it is grouped by.
        columns: mean ± standard deviation of each.
        gain: in which column ours is compared with the others, and what is written above; None leaves it out.
        errors: write its standard error.
    """
    look_up = {(r[by], r["method"], r["region"], r["metric"]): r for r in summary}
    methods = dict.fromkeys(r["method"] for r in summary if not r["method"].startswith(f"{OURS} - "))
    heads = [by, "method", *(column.name for column in columns), *([gain.name, "wins"] if gain else [])]
    rows = []
    for group in dict.fromkeys(r[by] for r in summary):
        for method in methods:
            cells = [spread(look_up.get((group, method, c.region, c.metric)), c.digits) for c in columns]
            if gain is not None:
                paired = look_up.get((group, f"{OURS} - {method}", gain.region, gain.metric))
                cells += _gain_cells(paired, gain.digits, errors)
            rows.append([str(group), method, *cells])
    return heads, rows


def _gain_cells(paired: Row | None, digits: int, errors: bool) -> list[str]:
    if paired is None:
        return ["", ""]
    if paired["mean"] is None:
        return ["", f"{paired['wins']}/{paired['n'] + paired['not_finite']}"]
    text = spread_of_mean(paired, digits) if errors else f"{paired['mean']:+.{digits}f}"
    return [text, f"{paired['wins']}/{paired['n'] + paired['not_finite']}"]


def widened(rows: Sequence[Row], by_region: bool = True) -> list[Row]:
    """One row for all that was measured of the same thing by the same method, scores side by side.

    Args:
        rows: scores; the columns besides region, metric and value say of what.
        by_region: call the columns REGION_METRIC instead of METRIC.
    """
    wide: dict[tuple, Row] = {}
    names = dict.fromkeys(f"{row['region']}_{row['metric']}" if by_region else row["metric"] for row in rows)
    for row in rows:
        what = {name: cell for name, cell in row.items() if name not in ("region", "metric", "value")}
        line = wide.setdefault(tuple(what.values()), {**what, **dict.fromkeys(names)})
        line[f"{row['region']}_{row['metric']}" if by_region else row["metric"]] = row["value"]
    return list(wide.values())
