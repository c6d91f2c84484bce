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
    Row,
    markdown_rows,
    paired_differences,
    spread,
    spread_of_mean,
    summarise,
)

__all__ = ["EvaluationReport", "markdown_table", "paired_differences", "summarise"]


def markdown_table(rows: Sequence[Row], pairs: Sequence[Row], summary: Sequence[Row]) -> str:
    """Summary in the brain, in the whole volume by the published definitions, and each case's PSNR in the brain; where
    they were measured also tissues, flicker, padded slices and lesions."""
    look_up = {(r["degradation"], r["method"], r["region"], r["metric"]): r for r in summary}
    degradations = list(dict.fromkeys(r["degradation"] for r in rows))
    methods = list(dict.fromkeys(r["method"] for r in rows))
    metrics = {r["metric"] for r in rows}

    def section(title: str, region: str, columns: Sequence[tuple[str, str, int]]) -> list[str]:
        columns = [c for c in columns if c[0] in metrics]
        if not columns:
            return []
        first, unit = columns[0][0], columns[0][1]
        word = "excess" if first in LOWER_IS_BETTER else "gain"
        heads = ["degradation", "method", *(name for _, name, _ in columns), f"{word} of ours over it, {unit}", "wins"]
        cells_of: list[list[str]] = []
        for degradation in degradations:
            for method in methods:
                cells = [spread(look_up.get((degradation, method, region, m)), digits) for m, _, digits in columns]
                paired = look_up.get((degradation, f"{OURS} - {method}", region, first))
                gain = wins = ""
                if paired is not None and paired["mean"] is not None:
                    gain = spread_of_mean(paired, columns[0][2])
                    wins = f"{paired['wins']}/{paired['n'] + paired['not_finite']}"
                cells_of.append([degradation, method, *cells, gain, wins])
        return [f"### {title}", "", *markdown_rows(heads, cells_of), ""]

    cases = len({r["case"] for r in rows})
    lines = [
        *section(
            f"In the brain mask ({cases} cases; mean ± standard deviation; paired difference ± standard error)",
            "brain",
            (("psnr", "PSNR (dB)", 2), ("ssim", "SSIM", 4), ("nrmse", "NRMSE", 4)),
        ),
        *section(
            "Whole volume, published definitions (background counts)",
            "whole",
            (("published_psnr", "PSNR (dB)", 2), ("published_ssim", "SSIM", 4)),
        ),
        *section(
            "Tissues in the brain mask: Dice with the truth's, and how far their volumes are off",
            "brain",
            (
                ("dice_mean", "Dice, mean", 4),
                *((f"dice_{t}", t.upper(), 4) for t in ("wm", "gm", "csf")),
                *((f"{t}_error_ml", f"{t.upper()} off by (ml)", 1) for t in ("wm", "gm", "csf")),
            ),
        ),
        *section(
            "Padded 8-bit slices, published definitions",
            "whole",
            (("padded_psnr", "PSNR (dB)", 2), ("padded_ssim", "SSIM", 4), ("padded_rmse", "RMSE (of 255)", 3)),
        ),
        *section(
            "Flicker: steps of the error between neighbours (% of the data range), and times those of B-spline",
            "brain",
            tuple(
                (f"{what}_{where}{ratio}", f"{title} {where}{', ratio' if ratio else ''}", 3)
                for what, title in (("jump", "slice jump"), ("gradient", "gradient"))
                for where in ("thick", "across")
                for ratio in ("", "_ratio")
            ),
        ),
        *(
            line
            for name, word in (("contrast", "Contrast"), ("volume", "Volume"))
            for line in section(
                f"Lesions: {word.lower()} kept (% of the truth's)",
                "lesions",
                tuple((metric, metric.split("_")[1].replace("mm", " mm"), 0) for metric in _lesion_metrics(rows, name)),
            )
        ),
        *section(
            "Lesions: contrast kept, times that of B-spline",
            "lesions",
            tuple(
                (f"{metric}_ratio", metric.split("_")[1].replace("mm", " mm"), 2)
                for metric in _lesion_metrics(rows, "contrast")
            ),
        ),
    ]
    for metric, title, digits in (("psnr", "PSNR in the brain mask (dB)", 2), ("dice_mean", "mean Dice of tissues", 4)):
        chosen = [p for p in pairs if (p["region"], p["metric"], p["baseline"]) == ("brain", metric, "bspline")]
        cells = [
            (p["case"], p["degradation"], f"{p['other']:.{digits}f}", f"{p['ours']:.{digits}f}")
            + (f"{p['difference']:+.{digits}f}",)
            for p in chosen
        ]
        if chosen:
            heads = ["case", "degradation", "bspline", "ours", "ours minus bspline"]
            lines += [f"### Each case: {title}", "", *markdown_rows(heads, cells), ""]
    return "\n".join(lines).rstrip() + "\n"


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
    """Input, B-spline, ours, truth and the errors in three planes."""
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
        title=f"{record['case']}, {record['degradation']}: PSNR in the brain mask",
    )


def _caption(method: str) -> str:
    return {"bspline": "B-spline", "trilinear": "trilinear"}.get(method, method)
