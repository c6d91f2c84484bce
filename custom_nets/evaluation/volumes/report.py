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

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from custom_nets.evaluation.tables import (
    LOWER_IS_BETTER,
    OURS,
    Row,
    csv_text,
    named_means,
    paired_differences,
    spread,
    spread_of_mean,
    summarise,
)
from custom_nets.utils.files import write_json, write_text
from custom_nets.utils.record import environment, file_record
from custom_nets.visualize.page import evaluation_facts, evaluation_page, shown_names

__all__ = ["EvaluationReport", "markdown_table", "paired_differences", "summarise"]

logger = logging.getLogger(__name__)


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
        lines = [f"### {title}", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
        for degradation in degradations:
            for method in methods:
                cells = [spread(look_up.get((degradation, method, region, m)), digits) for m, _, digits in columns]
                paired = look_up.get((degradation, f"{OURS} - {method}", region, first))
                gain = wins = ""
                if paired is not None and paired["mean"] is not None:
                    gain = spread_of_mean(paired, columns[0][2])
                    wins = f"{paired['wins']}/{paired['n'] + paired['not_finite']}"
                lines.append("| " + " | ".join([degradation, method, *cells, gain, wins]) + " |")
        return [*lines, ""]

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
        if chosen:
            lines += [f"### Each case: {title}", ""]
            lines += ["| case | degradation | bspline | ours | ours minus bspline |", "|" + " --- |" * 5]
        for p in chosen:
            numbers = (f"{p['other']:.{digits}f}", f"{p['ours']:.{digits}f}", f"{p['difference']:+.{digits}f}")
            lines.append("| " + " | ".join((p["case"], p["degradation"], *numbers)) + " |")
        lines += [""] if chosen else []
    return "\n".join(lines).rstrip() + "\n"


def _lesion_metrics(rows: Sequence[Row], what: str) -> list[str]:
    """Metrics such as "contrast_4mm", small lesions first."""
    found = {r["metric"] for r in rows if r["region"] == "lesions" and r["metric"].startswith(f"{what}_")}
    return sorted(
        (m for m in found if m.endswith("mm")), key=lambda metric: float(metric.split("_")[1].removesuffix("mm"))
    )


class EvaluationReport:
    """Handler of the evaluator: collects what ``ScoreMethodsd`` measured and writes the report.

    Put it before tracking handlers: at the end of the epoch it adds the means of the summary to
    ``engine.state.metrics`` as :func:`custom_nets.evaluation.tables.named_means` calls them.

    Args:
        output_dir: folder for the files.
        options: what the evaluation was run with, as plain values; goes into ``report.json``.
        files: name -> further files to list with sha256 (the checkpoint).
        data: the evaluation items, to list their files with sha256.
        pictures: draw a picture for each case and degradation.
        picture: draws it, given path and item; by default three planes through the middle of the brain.
        report: write the page.
        report_identity: the page calls each case by its name, even where that tells whose scan it is.
    """

    def __init__(
        self,
        output_dir: str | Path,
        options: Mapping[str, Any] | None = None,
        files: Mapping[str, str | Path] | None = None,
        data: Sequence[Mapping[str, str]] = (),
        pictures: bool = True,
        picture: Callable[[Path, Mapping[str, Any]], Any] | None = None,
        report: bool = False,
        report_identity: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.options = dict(options or {})
        self.files = {**{str(k): str(v) for k, v in (files or {}).items()}, **_files_of(data)}
        self.pictures = pictures
        self.picture = picture or draw_item
        self.report = report
        self.report_identity = report_identity

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Make the folder now: an unwritable one shall stop the run before the work."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_text(self.output_dir / "cases.csv", "")
        self.rows: list[Row] = []
        self.records: list[Row] = []
        self.drawn: list[tuple[str, str, Path]] = []
        self.tables: dict[str, list[Row]] = {}
        self.started = time.time()

    def begin(self, engine: Engine) -> None:
        self._began = time.perf_counter()

    def add(self, engine: Engine) -> None:
        """One case measured: keep its scores and draw it."""
        for item in engine.state.output:  # type: ignore[union-attr]
            self.rows += item["scores"]
            seconds = round(time.perf_counter() - self._began, 3)
            self.records.append({**item["record"], "seconds": seconds})
            write_text(self.output_dir / "cases.csv", csv_text(self.rows))  # so that a crash loses one case only
            for name, rows in item.get("tables", {}).items():
                self.tables.setdefault(name, []).extend(rows)
                write_text(self.output_dir / f"{name}.csv", csv_text(self.tables[name]))
            if self.pictures:
                record = item["record"]
                name = f"{record['case']}_{record['degradation']}.png"
                self.picture(self.output_dir / "pictures" / name, item)
                self.drawn.append((record["case"], record["degradation"], self.output_dir / "pictures" / name))

    def finish(self, engine: Engine) -> None:
        """Write everything and hand the summary to the engine's metrics."""
        pairs = paired_differences(self.rows)
        summary = summarise(self.rows, pairs)
        table = markdown_table(self.rows, pairs, summary)
        engine.state.metrics.update(named_means(summary))
        report = {
            "summary": summary,
            "paired": pairs,
            "cases": self.rows,
            **self.tables,
            "volumes": self.records,
            "options": self.options,
            "device": str(engine.state.device) if hasattr(engine.state, "device") else None,
            "versions": environment(),
            "files": [{"name": name, "path": path, **file_record(path)} for name, path in self.files.items()],
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.started)),
            "seconds": round(time.time() - self.started, 3),
        }
        write_text(self.output_dir / "paired.csv", csv_text(pairs))
        write_text(self.output_dir / "summary.csv", csv_text(summary))
        write_text(self.output_dir / "table.md", table)
        write_json(self.output_dir / "report.json", report)
        page = self.output_dir / "report.html"
        page.unlink(missing_ok=True)  # of an earlier evaluation
        if self.report:
            cases = dict.fromkeys(row["case"] for row in self.rows)
            sources = {case: self.files.get(f"{case} input") or self.files.get(f"{case} truth", "") for case in cases}
            names = shown_names(sources, self.report_identity)
            facts = evaluation_facts(report, self.report_identity)
            evaluation_page(page, table, pairs, "degradation", LOWER_IS_BETTER, facts, self.drawn, names)
        logger.info("evaluation of %d volumes, report in %s\n%s", len(self.records), self.output_dir, table)


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


def _files_of(data: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Name -> path of every file of the items, once."""
    named: dict[str, str] = {}
    for item in data:
        for key, role in (("label", "truth"), ("image", "input"), ("mask", "mask")):
            if key in item:
                named.setdefault(f"{item['case']} {role}", str(item[key]))
    return named
