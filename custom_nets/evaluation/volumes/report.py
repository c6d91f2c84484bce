"""The report of an evaluation: per case, summary, paired differences, a table and pictures.

Files in ``output_dir`` (each written whole or not at all):

* ``cases.csv``: case, degradation, method, region, metric, value.
* ``paired.csv``: per case, ours minus each other method.
* ``summary.csv``: per degradation, method, region and metric mean, std, n, min, max; and for the paired differences
  (method "ours - bspline") also the standard error and the number of wins.
* ``TABLE.csv``: what single measures add (volumes of tissues, each lesion).
* ``table.md``: the same, to paste; ``report.json``: everything, with versions, options, device and files with sha256.
* ``pictures/CASE_DEGRADATION.png``; ``report.html``, if asked for: tables and pictures as one page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_nets.evaluation.report import Report
from custom_nets.evaluation.tables import (
    LOWER_IS_BETTER,
    OURS,
    Column,
    Row,
    markdown_section,
    method_table,
    paired_differences,
    summarise,
)

__all__ = ["EvaluationReport", "markdown_table", "paired_differences", "summarise"]


def markdown_table(rows: Sequence[Row], pairs: Sequence[Row], summary: Sequence[Row]) -> str:
    """Summary in the brain, in the whole volume by the published definitions, and each case's PSNR in the brain; where
    they were measured also tissues, flicker, padded slices and lesions."""
    metrics = {row["metric"] for row in rows}
    lines: list[str] = []
    for title, columns in _sections(rows):
        columns = [column for column in columns if column.metric in metrics]
        if columns:
            first = columns[0]
            word = "excess" if first.metric in LOWER_IS_BETTER else "gain"
            gain = first._replace(name=f"{word} of ours over it, {first.name}")
            lines += markdown_section(title, *method_table(summary, "degradation", columns, gain))
    heads = ["case", "degradation", "bspline", "ours", "ours minus bspline"]
    for metric, title, digits in (("psnr", "PSNR in the brain mask (dB)", 2), ("dice_mean", "mean Dice of tissues", 4)):
        each = [
            [p["case"], p["degradation"], f"{p['other']:.{digits}f}", f"{p['ours']:.{digits}f}"]
            + [f"{p['difference']:+.{digits}f}"]
            for p in pairs
            if (p["region"], p["metric"], p["baseline"]) == ("brain", metric, "bspline")
        ]
        if each:
            lines += markdown_section(f"Each case: {title}", heads, each)
    return "\n".join(lines).rstrip() + "\n"


def _sections(rows: Sequence[Row]) -> list[tuple[str, list[Column]]]:
    """Titles and columns of the tables; the first column is the one in which ours is compared."""
    cases = len({row["case"] for row in rows})
    tissues = ("wm", "gm", "csf")
    flicker = [
        Column("brain", f"{what}_{where}{ratio}", f"{title} {where}{', ratio' if ratio else ''}", 3)
        for what, title in (("jump", "slice jump"), ("gradient", "gradient"))
        for where in ("thick", "across")
        for ratio in ("", "_ratio")
    ]
    return [
        (
            f"In the brain mask ({cases} cases; mean ± standard deviation; paired difference ± standard error)",
            [
                Column("brain", "psnr", "PSNR (dB)", 2),
                Column("brain", "ssim", "SSIM", 4),
                Column("brain", "nrmse", "NRMSE", 4),
            ],
        ),
        (
            "Whole volume, published definitions (background counts)",
            [Column("whole", "published_psnr", "PSNR (dB)", 2), Column("whole", "published_ssim", "SSIM", 4)],
        ),
        (
            "Tissues in the brain mask: Dice with the truth's, and how far their volumes are off",
            [
                Column("brain", "dice_mean", "Dice, mean", 4),
                *(Column("brain", f"dice_{t}", t.upper(), 4) for t in tissues),
                *(Column("brain", f"{t}_error_ml", f"{t.upper()} off by (ml)", 1) for t in tissues),
            ],
        ),
        (
            "Padded 8-bit slices, published definitions",
            [
                Column("whole", "padded_psnr", "PSNR (dB)", 2),
                Column("whole", "padded_ssim", "SSIM", 4),
                Column("whole", "padded_rmse", "RMSE (of 255)", 3),
            ],
        ),
        ("Flicker: steps of the error between neighbours (% of the data range), and times those of B-spline", flicker),
        ("Lesions: contrast kept (% of the truth's)", _lesion_columns(rows, "contrast", "", 0)),
        ("Lesions: volume kept (% of the truth's)", _lesion_columns(rows, "volume", "", 0)),
        ("Lesions: contrast kept, times that of B-spline", _lesion_columns(rows, "contrast", "_ratio", 2)),
    ]


def _lesion_columns(rows: Sequence[Row], what: str, end: str, digits: int) -> list[Column]:
    return [
        Column("lesions", f"{metric}{end}", metric.split("_")[1].replace("mm", " mm"), digits)
        for metric in _lesion_metrics(rows, what)
    ]


def _lesion_metrics(rows: Sequence[Row], what: str) -> list[str]:
    """Metrics such as "contrast_4mm", small lesions first."""
    found = {r["metric"] for r in rows if r["region"] == "lesions" and r["metric"].startswith(f"{what}_")}
    return sorted(
        (m for m in found if m.endswith("mm")), key=lambda metric: float(metric.split("_")[1].removesuffix("mm"))
    )


class EvaluationReport(Report):
    """The report of what ``ScoreMethodsd`` measured, see :class:`custom_nets.evaluation.report.Report`.

    Args:
        picture: draws the picture of an item, given path and item; by default three planes through the middle of the
            brain.
        kwargs: of ``Report``.
    """

    what = "volumes"

    def __init__(
        self,
        output_dir: str | Path,
        *args: Any,
        picture: Callable[[Path, Mapping[str, Any]], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_dir, *args, **kwargs)
        self.picture = picture or draw_item

    def files_of(self, item: Mapping[str, Any]) -> dict[str, str]:
        roles = (("label", "truth"), ("image", "input"), ("mask", "mask"))
        return {f"{item['case']} {role}": str(item[key]) for key, role in roles if key in item}

    def collect(self, output: Any) -> dict[str, list[Row]]:
        return {"scores": output["scores"], "records": [dict(output["record"])], **output.get("tables", {})}

    def draw(self, output: Any) -> list[Row]:
        record = output["record"]
        path = self.output_dir / "pictures" / f"{record['case']}_{record['degradation']}.png"
        self.picture(path, output)
        return [
            {
                "case": record["case"],
                "degradation": record["degradation"],
                "title": record["degradation"],
                "path": str(path),
            }
        ]

    def summarise(self, rows: Mapping[str, list[Row]]) -> dict[str, Any]:
        scores = rows.get("scores", [])
        pairs = paired_differences(scores)
        own = {name: rows[name] for name in rows if name not in ("scores", "records")}
        return {
            "summary": summarise(scores, pairs),
            "paired": pairs,
            "cases": scores,
            **own,
            "volumes": rows.get("records", []),
        }

    def tables(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> dict[str, list[Row]]:
        own = {name: rows[name] for name in rows if name not in ("scores", "records")}
        return {"cases": summary["cases"], "paired": summary["paired"], "summary": summary["summary"], **own}

    def markdown(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> str:
        return markdown_table(summary["cases"], summary["paired"], summary["summary"])


def draw_item(path: Path, item: Mapping[str, Any]) -> None:
    """Input, B-spline, ours, truth and the errors in three planes; without the case, as pictures leave the machine."""
    from custom_nets.visualize.volumes import comparison_figure

    record = item["record"]
    psnr = {
        r["method"]: r["value"] for r in item["scores"] if (r["region"], r["metric"]) == ("brain", "psnr")
    }  # fmt: skip
    shown = {name: item[key] for key, name in (("bspline", "bspline"), ("pred", OURS)) if key in item}
    comparison_figure(
        path,
        item["image"],
        item["label"],
        {_caption(name): volume for name, volume in shown.items()},
        mask=item["scored_mask"],
        psnr_db={_caption(name): value for name, value in psnr.items()},
        title=f"{record['degradation']}: PSNR in the brain mask",
    )


def _caption(method: str) -> str:
    return {"bspline": "B-spline", "trilinear": "trilinear"}.get(method, method)
