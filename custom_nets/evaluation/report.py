"""What the report of every evaluation does: collect, gather from all processes, write tables, pictures and a page."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from custom_nets.evaluation.tables import LOWER_IS_BETTER, Row, csv_text, named_means
from custom_nets.utils.files import write_json, write_text
from custom_nets.utils.record import environment, file_record, peak_memory_gib
from custom_nets.visualize.page import evaluation_facts, evaluation_page, shown_names

__all__ = ["Report", "write_measured"]

logger = logging.getLogger(__name__)


def write_measured(
    folder: str | Path,
    rows: Sequence[Row],
    table: str,
    options: Mapping[str, Any],
    checkpoints: Sequence[str | Path],
) -> None:
    """Write what a command measured, and print its table: ``table.md``, ``rows.csv`` and ``record.json``.

    Args:
        folder: made where it is missing.
        rows: all that was measured.
        table: what is to be read of it, in Markdown.
        options: of the command.
        checkpoints: of the networks, listed with sha256.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", table)
    write_text(folder / "rows.csv", csv_text(rows))
    listed = [file_record(path) for path in checkpoints]
    write_json(folder / "record.json", {"options": dict(options), "checkpoints": listed, **environment()})
    print(table)


class Report:
    """Handler of an evaluator: collects what was measured of each item and writes the report, each file whole or not
    at all.

    Put it before tracking handlers: at the end of the epoch it adds the means of the summary to
    ``engine.state.metrics`` as :func:`custom_nets.evaluation.tables.named_means` calls them. With several processes
    each measures its share (:func:`custom_nets.utils.processes.own_share`), and the first one writes.

    A subclass says what an item gives (:meth:`collect`), how it is summed up (:meth:`summarise`), which tables are
    written (:meth:`tables`, :meth:`markdown`) and what is drawn (:meth:`draw`).

    Args:
        output_dir: folder for the files.
        options: what the evaluation was run with, as plain values; goes into the record.
        files: name -> further files to list with sha256 (the checkpoint).
        data: all items, to list their files with sha256 and to know their order.
        pictures: draw pictures.
        report: write ``report.html``, tables and pictures as one page.
        report_identity: the page calls each case by its name, even where that tells whose scan it is.
    """

    by = "degradation"  # the column that says, with "case", what was measured
    prefix = ""  # put before its value in the names of metrics
    record_name = "report.json"
    what = "cases"

    def __init__(
        self,
        output_dir: str | Path,
        options: Mapping[str, Any] | None = None,
        files: Mapping[str, str | Path] | None = None,
        data: Sequence[Mapping[str, Any]] = (),
        pictures: bool = True,
        report: bool = False,
        report_identity: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.options = dict(options or {})
        self.files = {str(name): str(path) for name, path in (files or {}).items()}
        for item in data:
            for name, path in self.files_of(item).items():
                self.files.setdefault(name, path)
        self.order = {(item["case"], item[self.by]): number for number, item in enumerate(data)}
        self.pictures = pictures
        self.report = report
        self.report_identity = report_identity

    # ---- what a subclass says ----

    def files_of(self, item: Mapping[str, Any]) -> dict[str, str]:
        """Name -> path of the files that an item of the data is made of."""
        return {}

    def collect(self, output: Any) -> dict[str, list[Row]]:
        """What one item gives: kind -> rows; "scores" are the scores, "records" say what was done, one an item."""
        raise NotImplementedError

    def draw(self, output: Any) -> list[Row]:
        """Draw an item; rows with "case", what it shows ("title") and "path"."""
        return []

    def summarise(self, rows: Mapping[str, list[Row]]) -> dict[str, Any]:
        """What the record says of all rows; "summary" is a list of :func:`custom_nets.evaluation.tables.summarise`."""
        raise NotImplementedError

    def tables(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> dict[str, list[Row]]:
        """Name -> rows of the CSV files."""
        raise NotImplementedError

    def markdown(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> str:
        """The table to paste."""
        raise NotImplementedError

    def means(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """What goes into the engine's metrics."""
        return named_means(summary["summary"], self.by, self.prefix)

    def pairs(self, rows: Mapping[str, list[Row]], summary: Mapping[str, Any]) -> list[Row]:
        """Paired differences that the page shows as wins and losses."""
        return summary.get("paired", [])

    def warnings(self, rows: Mapping[str, list[Row]], names: Mapping[str, str]) -> list[str]:
        """What the page says first."""
        return []

    # ---- what all do ----

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Make the folder now: an unwritable one shall stop the run before the work."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.part = self.output_dir / f"scores_of_process_{idist.get_rank()}.csv"
        write_text(self.part, "")
        self.rows: dict[str, list[Row]] = {}
        self.drawn: list[Row] = []
        self.started = time.time()

    def begin(self, engine: Engine) -> None:
        self._began = time.perf_counter()

    def add(self, engine: Engine) -> None:
        """One item measured: keep its scores, and draw it."""
        outputs: Any = engine.state.output
        seconds = round(time.perf_counter() - self._began, 3)
        for output in outputs if isinstance(outputs, list) else [outputs]:
            found = self.collect(output)
            for record in found.get("records", []):
                record.setdefault("seconds", seconds)
            for kind, rows in found.items():
                self.rows.setdefault(kind, []).extend(rows)
            write_text(self.part, csv_text(self.rows.get("scores", [])))  # so that a crash loses one item only
            if self.pictures and "failed" not in found:
                self.drawn += self.draw(output)

    def finish(self, engine: Engine) -> None:
        """Gather what all processes measured, write everything, hand the means to the engine's metrics."""
        shares: Any = idist.all_gather((self.rows, self.drawn))
        kinds = dict.fromkeys(kind for rows, _ in shares for kind in rows)
        rows = {kind: self._sorted([row for share, _ in shares for row in share.get(kind, [])]) for kind in kinds}
        summary = self.summarise(rows)
        engine.state.metrics.update(self.means(summary))
        if idist.get_rank() == 0:
            self._write(engine, rows, summary, self._sorted([row for _, drawn in shares for row in drawn]))
        self.part.unlink(missing_ok=True)

    def _sorted(self, rows: list[Row]) -> list[Row]:
        """Rows in the order of the data; rows of one item as they were measured."""
        return sorted(rows, key=lambda row: self.order.get((row["case"], row.get(self.by)), -1))

    def _write(
        self, engine: Engine, rows: Mapping[str, list[Row]], summary: Mapping[str, Any], drawn: Sequence[Row]
    ) -> None:
        table = self.markdown(rows, summary)
        for name, content in self.tables(rows, summary).items():
            write_text(self.output_dir / f"{name}.csv", csv_text(content))
        write_text(self.output_dir / "table.md", table)
        record = {
            **summary,
            "options": self.options,
            "processes": idist.get_world_size(),
            "device": str(engine.state.device) if hasattr(engine.state, "device") else None,
            "versions": environment(),
            # by their hashes: a path can say whose scan it is
            "files": [{"name": name, **file_record(path)} for name, path in self.files.items()],
            "peak_memory_gib": round(peak_memory_gib(), 2),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.started)),
            "seconds": round(time.time() - self.started, 3),
        }
        write_json(self.output_dir / self.record_name, record)
        self._write_page(table, rows, summary, record, drawn)
        logger.info("evaluation of %d %s, report in %s", len(rows.get("records", [])), self.what, self.output_dir)
        print(table)

    def _write_page(
        self,
        table: str,
        rows: Mapping[str, list[Row]],
        summary: Mapping[str, Any],
        record: dict[str, Any],
        drawn: Sequence[Row],
    ) -> None:
        """The page, or none: one of an earlier evaluation would be wrong."""
        page = self.output_dir / "report.html"
        page.unlink(missing_ok=True)
        if not self.report:
            return
        cases = dict.fromkeys(row["case"] for kind in ("scores", "failed") for row in rows.get(kind, []))
        names = shown_names({case: self._source(case) for case in cases}, self.report_identity)
        pictures = [(row["case"], str(row["title"]), Path(row["path"])) for row in drawn]
        facts = evaluation_facts(record, self.report_identity)
        pairs = self.pairs(rows, summary)
        evaluation_page(
            page, table, pairs, self.by, LOWER_IS_BETTER, facts, pictures, names, self.warnings(rows, names)
        )

    def _source(self, case: str) -> str:
        """The file that a case comes from."""
        return next((self.files[name] for name in (case, f"{case} input", f"{case} truth") if name in self.files), "")
