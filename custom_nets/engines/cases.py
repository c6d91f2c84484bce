"""Inference over many scans: one at a time, resumable, and one bad file does not stop the rest."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Events
from monai.data import DataLoader, Dataset, decollate_batch
from monai.engines import SupervisedEvaluator

from custom_nets.data.angiography.file_readers import picture_files, side_file
from custom_nets.data.cases import input_files
from custom_nets.data.whole_files import file_state
from custom_nets.engines.case_summary import FAILED, SKIPPED, SUMMARY, CaseResult, write_summary
from custom_nets.geometry import Grid
from custom_nets.utils.errors import explain, root_cause
from custom_nets.utils.files import PART, absolute, as_typed, check_writable, data_bytes, remove_old_parts, same_file
from custom_nets.utils.processes import StoreGroup, process_rank, share
from custom_nets.utils.record import file_record
from custom_nets.utils.text import one_line

__all__ = ["CaseEvaluator", "CasesFailed", "ReconstructionEvaluator", "RunEvaluator", "record_path"]

logger = logging.getLogger(__name__)


# what is written for a case, behind its stem
_WRITTEN = (
    *("", ".nii.gz", ".json", ".png", ".html", ".dcm", ".npz", ".mp4", ".gif", ".frames.json"),
    *("_uncertainty.nii.gz", "_uncertainty"),
)


class CasesFailed(SystemExit):
    """Some cases of a run failed: ends the process with a message that lists them.

    Attributes:
        causes: case -> what went wrong with it, of those that this process computed.
    """

    def __init__(self, message: str, causes: dict[str, BaseException]) -> None:
        super().__init__(message)
        self.causes = causes


class CaseEvaluator(SupervisedEvaluator):
    """``SupervisedEvaluator`` that treats each item of its loader's dataset as a case of its own.

    A case is done when its volume *and* its record (written last, by
    :class:`custom_nets.handlers.InferenceRecord`) exist and the record says that the same was asked for, of the same
    input. Done cases are skipped, cases that fail are listed at the end, and then the process exits with status 1.
    Processes that ``torchrun`` started share the cases; nothing needs to be said for it.

    Args:
        saver: the transform that writes the result (``SaveVolumed``); it knows the file of a case.
        overwrite: compute done cases again.
        kwargs: of ``SupervisedEvaluator``; ``val_data_loader`` must be a loader over a ``monai.data.Dataset`` whose
            items have a "case".
    """

    def __init__(self, *, saver: Any, overwrite: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.saver = saver
        self.overwrite = overwrite
        self.cases: Dataset = self.data_loader.dataset  # type: ignore[union-attr,assignment]
        self.started = 0.0
        self.causes: dict[str, BaseException] = {}
        self.case = ""  # the one that is computed
        self.inputs: dict[str, _Input] = {}
        self.collate_fn = self.data_loader.collate_fn  # type: ignore[union-attr]
        self.records = [h for h in kwargs.get("val_handlers") or () if hasattr(h, "differences")]
        # one engine run per case: its start, end and errors are told here, in fewer words
        self.logger.setLevel(logging.CRITICAL)
        # Ignite's way to go on after an interrupt would skip the run after a failed one
        self.interrupt_resume_enabled = False
        self.add_event_handler(Events.ITERATION_STARTED, self._check_unchanged)
        self.add_event_handler(Events.ITERATION_STARTED, self._check_format)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]  # as MONAI's Evaluator has it
        """Run all cases; in each process that ``torchrun`` started, its share of them.

        Where there are several cases or processes, ``summary.json`` in the output folder says at the end what became
        of each: as long as it is not there, the work is not done.

        Raises:
            ValueError: two cases would be written to the same file; nothing was computed.
            CasesFailed: (a ``SystemExit``) some cases failed; the message lists them. (Of several processes the first
                one says so.)
        """
        check_writable(self.saver.output_dir)
        self.check_options()
        started = time.perf_counter()
        processes = StoreGroup()
        # the first one's list holds for all: they may have looked at different times
        items: list[dict[str, Any]] = processes.all_gather(list(self.cases.data) if processes.rank == 0 else None)[0]
        self.check_names([str(item["case"]) for item in items])
        self.check_inputs(items)
        summary = self.saver.output_dir / SUMMARY
        several = len(items) > 1 or processes.count > 1
        if processes.rank == 0:
            remove_old_parts(self.saver.output_dir)
            if several:
                summary.unlink(missing_ok=True)
        numbered = list(enumerate(items, 1))
        mine = share(numbered, lambda entry: data_bytes(entry[1]["image"]), processes.count, processes.rank)
        own = [asdict(self._run_case(item, number, len(items), global_epoch)) for number, item in mine]
        results = [CaseResult(**result) for part in processes.all_gather(own) for result in part]
        results.sort(key=lambda result: result.number)
        if processes.rank == 0 and several:
            write_summary(summary, results, processes.count, time.perf_counter() - started)
        processes.all_gather()  # wait for the summary: torchrun ends all processes as soon as one has failed
        failed = [result for result in results if result.status == FAILED]
        if failed and processes.rank == 0:
            lines = "".join(f"\n  {one_line(result.case)}: {result.message}" for result in failed)
            raise CasesFailed(f"error: {len(failed)} of {len(items)} cases failed:{lines}", self.causes)

    def _run_case(self, item: dict[str, Any], number: int, count: int, global_epoch: int) -> CaseResult:
        case = str(item["case"])
        say = partial(_say, f"[{number}/{count}] {case}:")
        result = CaseResult(number, case, str(item["image"]), rank=process_rank())
        self.started = time.perf_counter()
        try:
            self.case = case
            self.inputs[case] = _Input.of(self.input_files(item["image"]))
            if not self.overwrite and self._already_there(case, item["image"]):
                say(f"already there, {self.result_of(case)} (--overwrite True computes it again)")
                result.status = SKIPPED
            else:
                say(item["image"])
                dataset = Dataset([item], self.cases.transform)
                self.data_loader = DataLoader(dataset, batch_size=1, num_workers=0, collate_fn=self.collate_fn)
                self.state.dataloader = self.data_loader
                self.state.epoch_length = 1  # the engine was made for the whole folder
                super().run(global_epoch)
                say(f"{self.result_of(case)} ({time.perf_counter() - self.started:.1f} s)")
            result.output = str(self.result_of(case))
        except Exception as error:  # any failure of a case is reported, and the next case gets its turn
            self.causes[case] = cause = root_cause(error)
            result.status, result.message = FAILED, one_line(_explained(cause))
            logger.debug("case %s failed", case, exc_info=True)
            say(f"failed: {result.message}")
        result.seconds = round(time.perf_counter() - self.started, 2)
        return result

    def input_record(self, case: str) -> dict[str, Any]:
        """Size and hash of what a case is made of, as it was when it was read."""
        return self.inputs[case].record if case in self.inputs else {}

    # ---- what differs between volumes and runs ----

    def input_files(self, image: Any) -> list[Path]:
        """The files of a case; none for what is no file."""
        return input_files(image) if isinstance(image, str | Path) and Path(image).exists() else []

    def stem_of(self, case: str) -> Path:
        """What all that is written for a case begins with."""
        return self.saver.paths_for(case)["dicom"]

    def check_options(self) -> None:
        """Refuse options that suit no input once, before any is read."""
        if hasattr(self.inferer, "target_grid"):
            self.inferer.target_grid(Grid((64, 64, 64), np.eye(4)))

    def result_of(self, case: str) -> Path:
        """The file (a DICOM series: the folder) that a case is written to."""
        return self.saver.path_for(case)

    def record_of(self, case: str) -> Path:
        """The record of a case, written last."""
        return record_path(self.result_of(case))

    def check_names(self, cases: Sequence[str]) -> None:
        """Refuse cases whose files would be the same, before any is computed.

        Raises:
            ValueError: names them.
        """
        taken = {SUMMARY: "the summary"}
        for case in cases:
            name = self.record_of(case).name.casefold()  # as a file system may see it
            if name.startswith(PART):
                raise ValueError(f"case '{case}' has a name of parts of files, which are removed: give it another.")
            if name in taken:
                raise ValueError(
                    f"case '{case}' and {taken[name]} would be written to the same file "
                    f"({self.record_of(case)}): rename one, or give another --output_postfix."
                )
            taken[name] = f"case '{case}'"

    def check_inputs(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Refuse to write onto anything that is read, whatever it is called and however it is linked.

        Raises:
            ValueError: names both.
        """
        read = [Path(item["image"]) for item in items if isinstance(item["image"], str | Path)]
        read += [as_typed(str(other)) for other in self.also_read() if other]
        inside = [file for path in read if path.is_dir() for file in path.iterdir()]
        taken = {identity: path for path in (*read, *inside) if (identity := _identity(path)) is not None}
        for item in items:
            stem = self.stem_of(str(item["case"]))
            for suffix in _WRITTEN:
                path = stem.with_name(stem.name + suffix)
                if (other := taken.get(_identity(path))) is not None:  # type: ignore[arg-type]
                    raise ValueError(
                        f"the result of '{one_line(item['case'])}' would be written onto {other}, which is read: give "
                        "another --output_dir or --output_postfix."
                    )

    def also_read(self) -> list[Any]:
        """What is read beside the cases: the weights, the volume whose grid is taken."""
        return [*(handler.checkpoint for handler in self.records), getattr(self.inferer, "like", None)]

    def _already_there(self, case: str, image: Any) -> bool:
        """Whether result and record are there; something else that was made under the same name is not replaced."""
        record, result = self.record_of(case), self.result_of(case)
        if foreign := self.saver.foreign_outputs(case):
            raise ValueError(
                f"{foreign[0]} is there already and was not written by this program: give another --output_dir or "
                "--output_postfix, or --overwrite True to replace it."
            )
        if not (record.exists() and self._has_result(case)):
            return False
        others = [text for handler in self.records if (text := handler.differences(record))]
        others = others or _other_files(record, result, image, self.inputs[case])
        if others:
            raise ValueError(
                f"{result} is there already, made with {'; '.join(others)}: give --overwrite True to "
                "replace it, or another --output_dir or --output_postfix."
            )
        return result.exists() and not any(handler.lacks(record) for handler in self.records)

    def _has_result(self, case: str) -> bool:
        """Whether there is a result, in whatever format (the record says which was asked for)."""
        return any(path.exists() for path in self.saver.paths_for(case).values())

    def _check_unchanged(self, engine: Any) -> None:
        """What is in memory now is what was hashed."""
        self.inputs[self.case].check()

    def _check_format(self, engine: Any) -> None:
        """A format that cannot hold the result is refused before the work is done."""
        item = decollate_batch(engine.state.batch)[0]
        grid = Grid.of(item["image"])
        if hasattr(self.inferer, "check_input"):
            self.inferer.check_input(grid)
        if hasattr(self.inferer, "target_grid"):
            source, grid = grid, self.inferer.target_grid(grid)
            if text := source.check_overlap(grid):
                print(f"  {item['case']}: {text}", flush=True)
        self.saver.check(str(item["case"]), item["image"], grid)


def _other_files(record: Path, result: Path, image: Any, now: _Input) -> list[str]:
    """What a record says about its files that is not so: another input, another size of the result."""
    content = json.loads(record.read_text())
    found, then, size = [], content["input"], content["output"].get("bytes")
    made_of = then.get("file")  # records of version 0.1 hold the path, and no hash
    if then.get("sha256") is not None:
        if now.record and then["sha256"] != now.record["sha256"]:
            found.append(f"another input (SHA-256 {then['sha256'][:12]}, now {now.record['sha256'][:12]})")
    elif isinstance(image, str | Path) and made_of is not None and os.path.abspath(made_of) != absolute(image):
        found.append(f"input {made_of} (now {absolute(image)})")
    if size is not None and size != data_bytes(result):
        found.append(f"{size} bytes (now {data_bytes(result)}: changed since, or interrupted)")
    return found


@dataclass(frozen=True)
class _Input:
    """The files of a case when its turn came: what they were, and their size and hash."""

    files: list[Path]
    state: list[tuple[int, int, int]]
    record: dict[str, Any]

    @classmethod
    def of(cls, files: list[Path]) -> _Input:
        state = file_state(files)
        return cls(files, state, file_record(files) if files else {})

    def check(self) -> None:
        if self.files and file_state(self.files) != self.state:
            raise ValueError(f"{self.files[0]} changed while it was read: wait until it is written, and start again.")


def _identity(path: Path) -> tuple[int, int] | None:
    """What a path leads to, on which disk; None where there is nothing."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _explained(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({str(error) or 'the system gave no more'}): give a smaller --memory_gb."
    if isinstance(error, OSError) and error.errno and (text := explain(error)):
        return text
    return f"{error}" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"


def _say(begin: str, text: Any) -> None:
    print(one_line(f"{begin} {text}", sys.stdout.encoding or "utf-8"), flush=True)


class RunEvaluator(CaseEvaluator):
    """The same for angiography runs: a case is an ``AngiographyRun``, its file has the format that came in.

    The loader must have ``collate_fn`` :func:`custom_nets.engines.single_item`, the saver must be
    :class:`custom_nets.transforms.SaveAngiographyd`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(decollate=False, **kwargs)

    def _check_format(self, engine: Any) -> None:
        if hasattr(self.inferer, "check_input"):
            self.inferer.check_input(engine.state.batch["image"])
        self.saver.format_for(engine.state.batch["image"])

    def result_of(self, case: str) -> Path:
        try:
            record = self.record_of(case)
            # a name beside the record; in those of version 0.1 a whole path
            return record.parent / json.loads(record.read_text())["output"]["file"]
        except (OSError, ValueError, KeyError, TypeError):
            return self.saver.stem_for(case)

    def record_of(self, case: str) -> Path:
        return self.saver.record_for(case)

    def _has_result(self, case: str) -> bool:
        return self.result_of(case).exists()

    def stem_of(self, case: str) -> Path:
        return self.saver.stem_for(case)

    def input_files(self, image: Any) -> list[Path]:
        files = super().input_files(image)
        beside = [side_file(Path(image))] if files else []
        return files + [file for file in beside if file.is_file() and file not in files]

    def check_inputs(self, items: Sequence[Mapping[str, Any]]) -> None:
        super().check_inputs(items)
        for item in items:
            folder = Path(str(item["image"]))
            if folder.is_dir() and picture_files(folder) and same_file(folder, self.saver.output_dir):
                raise ValueError(
                    f"{folder} is the run itself, and pictures are written beside: give another --output_dir."
                )


class ReconstructionEvaluator(RunEvaluator):
    """The same for rotational acquisitions, each of which gets a fit of its own.

    The loader must have ``collate_fn`` :func:`custom_nets.engines.single_item`, the saver must be
    :class:`custom_nets.transforms.SaveReconstructiond`.
    """

    def _check_format(self, engine: Any) -> None:
        self.inferer.times_for(engine.state.batch["image"])  # type: ignore[attr-defined]

    def result_of(self, case: str) -> Path:
        return self.saver.path_for(case)


def record_path(volume_path: Path) -> Path:
    """The JSON record beside a written volume."""
    return volume_path.with_name(volume_path.name.removesuffix(".nii.gz") + ".json")
