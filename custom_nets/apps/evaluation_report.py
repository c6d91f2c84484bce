"""The report of an evaluation: per case, summary, paired differences, a table and pictures.

Files in ``output_dir`` (each written whole or not at all):

* ``cases.csv``: case, degradation, method, region, metric, value.
* ``paired.csv``: per case, ours minus each other method.
* ``summary.csv``: per degradation, method, region and metric mean, std, n, min, max; and for the paired differences
  (method "ours - bspline") also the standard error and the number of wins.
* ``table.md``: the same, to paste; ``report.json``: everything, with versions, options, device and files with sha256.
* ``pictures/CASE_DEGRADATION.png``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from custom_nets.apps.scores import OURS, Row, csv_text, paired_differences, spread, summarise
from custom_nets.utils.record import environment, file_record, write_json, write_text

__all__ = ["EvaluationReport", "markdown_table", "paired_differences", "summarise"]

logger = logging.getLogger(__name__)


def markdown_table(rows: Sequence[Row], pairs: Sequence[Row], summary: Sequence[Row]) -> str:
    """Summary in the brain, in the whole volume by the published definitions, and each case's PSNR in the brain."""
    look_up = {(r["degradation"], r["method"], r["region"], r["metric"]): r for r in summary}
    degradations = list(dict.fromkeys(r["degradation"] for r in rows))
    methods = list(dict.fromkeys(r["method"] for r in rows))
    metrics = {r["metric"] for r in rows}

    def section(title: str, region: str, columns: Sequence[tuple[str, str, int]]) -> list[str]:
        columns = [c for c in columns if c[0] in metrics]
        if not columns:
            return []
        first, unit = columns[0][0], columns[0][1]
        heads = ["degradation", "method", *(name for _, name, _ in columns), f"gain of ours over it, {unit}", "wins"]
        lines = [f"### {title}", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
        for degradation in degradations:
            for method in methods:
                cells = [spread(look_up.get((degradation, method, region, m)), digits) for m, _, digits in columns]
                paired = look_up.get((degradation, f"{OURS} - {method}", region, first))
                gain = wins = ""
                if paired is not None and paired["mean"] is not None:
                    error = paired["standard_error"]
                    gain = f"{paired['mean']:+.2f}" + ("" if error is None else f" ± {error:.2f}")
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
    ]
    chosen = [p for p in pairs if (p["region"], p["metric"], p["baseline"]) == ("brain", "psnr", "bspline")]
    if chosen:
        lines += ["### Each case: PSNR in the brain mask (dB)", ""]
        lines += ["| case | degradation | bspline | ours | ours minus bspline |", "|" + " --- |" * 5]
        for p in chosen:
            cells = (p["case"], p["degradation"], f"{p['other']:.2f}", f"{p['ours']:.2f}", f"{p['difference']:+.2f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).rstrip() + "\n"


class EvaluationReport:
    """Handler of the evaluator: collects what ``ScoreMethodsd`` measured and writes the report.

    Put it before tracking handlers: at the end of the epoch it adds the summary to ``engine.state.metrics`` as
    DEGRADATION/brain/psnr/METHOD and DEGRADATION/brain/psnr/gain_over_BASELINE (and the same for ssim).

    Args:
        output_dir: folder for the files.
        options: what the evaluation was run with, as plain values; goes into ``report.json``.
        files: name -> further files to list with sha256 (the checkpoint).
        data: the evaluation items, to list their files with sha256.
        pictures: draw a picture for each case and degradation.
    """

    def __init__(
        self,
        output_dir: str | Path,
        options: Mapping[str, Any] | None = None,
        files: Mapping[str, str | Path] | None = None,
        data: Sequence[Mapping[str, str]] = (),
        pictures: bool = True,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.options = dict(options or {})
        self.files = {**{str(k): str(v) for k, v in (files or {}).items()}, **_files_of(data)}
        self.pictures = pictures

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
            if self.pictures:
                self._draw(item)

    def _draw(self, item: Mapping[str, Any]) -> None:
        from custom_nets.visualize import comparison_figure

        record = item["record"]
        psnr = {
            r["method"]: r["value"] for r in item["scores"] if (r["region"], r["metric"]) == ("brain", "psnr")
        }  # fmt: skip
        shown = {name: item[key] for key, name in (("bspline", "bspline"), ("pred", OURS)) if key in item}
        comparison_figure(
            self.output_dir / "pictures" / f"{record['case']}_{record['degradation']}.png",
            item["image"],
            item["label"],
            {_caption(name): volume for name, volume in shown.items()},
            mask=item["scored_mask"],
            psnr_db={_caption(name): value for name, value in psnr.items()},
            title=f"{record['case']}, {record['degradation']}: PSNR in the brain mask",
        )

    def finish(self, engine: Engine) -> None:
        """Write everything and hand the summary to the engine's metrics."""
        pairs = paired_differences(self.rows)
        summary = summarise(self.rows, pairs)
        table = markdown_table(self.rows, pairs, summary)
        for row in summary:
            if row["region"] == "brain" and row["metric"] in ("psnr", "ssim") and row["mean"] is not None:
                method = row["method"].replace(f"{OURS} - ", "gain_over_")
                engine.state.metrics[f"{row['degradation']}/brain/{row['metric']}/{method}"] = row["mean"]
        report = {
            "summary": summary,
            "paired": pairs,
            "cases": self.rows,
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
        logger.info("evaluation of %d volumes, report in %s\n%s", len(self.records), self.output_dir, table)


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
