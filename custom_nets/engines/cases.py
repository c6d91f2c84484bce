"""Inference over many scans: one at a time, resumable, and one bad file does not stop the rest."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator

from custom_nets.data.nifti import check_writable
from custom_nets.geometry import Grid
from custom_nets.utils.errors import root_cause

__all__ = ["CaseEvaluator", "RunEvaluator", "record_path"]

logger = logging.getLogger(__name__)


class CaseEvaluator(SupervisedEvaluator):
    """``SupervisedEvaluator`` that treats each item of its loader's dataset as a case of its own.

    A case is done when its volume *and* its record (written last, by
    :class:`custom_nets.handlers.InferenceRecord`) exist and the record says that the same was asked for. Done cases
    are skipped, cases that fail are listed at the end, and then the process exits with status 1.

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
        self.collate_fn = self.data_loader.collate_fn  # type: ignore[union-attr]
        self.records = [h for h in kwargs.get("val_handlers") or () if hasattr(h, "differences")]
        # one engine run per case: its start, end and errors are told here, in fewer words
        self.logger.setLevel(logging.CRITICAL)
        # Ignite's way to go on after an interrupt would skip the run after a failed one
        self.interrupt_resume_enabled = False

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]  # as MONAI's Evaluator has it
        """Run all cases.

        Raises:
            SystemExit: some cases failed; the message lists them.
        """
        check_writable(self.saver.output_dir)
        self.check_options()
        items: Sequence[dict[str, Any]] = self.cases.data
        failed: dict[str, str] = {}
        for number, item in enumerate(items, 1):
            case = str(item["case"])
            say = partial(print, f"[{number}/{len(items)}] {case}:", flush=True)
            try:
                if not self.overwrite and self._already_there(case):
                    say(f"already there, {self.result_of(case)} (--overwrite True computes it again)")
                    continue
                say(item["image"])
                dataset = Dataset([item], self.cases.transform)
                self.data_loader = DataLoader(dataset, batch_size=1, num_workers=0, collate_fn=self.collate_fn)
                self.state.dataloader = self.data_loader
                self.state.epoch_length = 1  # the engine was made for the whole folder
                self.started = time.perf_counter()
                super().run(global_epoch)
                say(f"{self.result_of(case)} ({time.perf_counter() - self.started:.1f} s)")
            except Exception as error:  # any failure of a case is reported, and the next case gets its turn
                cause = root_cause(error)
                kind = "" if isinstance(cause, ValueError | OSError) else f"{type(cause).__name__}: "
                failed[case] = f"{kind}{cause}"
                logger.debug("case %s failed", case, exc_info=True)
                say(f"failed: {failed[case]}")
        if failed:
            lines = "".join(f"\n  {case}: {message}" for case, message in failed.items())
            raise SystemExit(f"error: {len(failed)} of {len(items)} cases failed:{lines}")

    # ---- what differs between volumes and runs ----

    def check_options(self) -> None:
        """Refuse options that suit no input once, before any is read."""
        if hasattr(self.inferer, "target_grid"):
            self.inferer.target_grid(Grid((64, 64, 64), np.eye(4)))

    def result_of(self, case: str) -> Path:
        """The file that a case is written to."""
        return self.saver.path_for(case)

    def record_of(self, case: str) -> Path:
        """The record of a case, written last."""
        return record_path(self.result_of(case))

    def _already_there(self, case: str) -> bool:
        """Whether result and record are there; something else that was made under the same name is not replaced."""
        record = self.record_of(case)
        if not (record.exists() and self.result_of(case).exists()):
            return False
        if others := [text for handler in self.records if (text := handler.differences(record))]:
            raise ValueError(
                f"{self.result_of(case)} is there already, made with {'; '.join(others)}: give --overwrite True to "
                "replace it, or another --output_dir or --output_postfix."
            )
        return True


class RunEvaluator(CaseEvaluator):
    """The same for angiography runs: a case is an ``AngiographyRun``, its file has the format that came in.

    The loader must have ``collate_fn`` :func:`custom_nets.engines.single_item`, the saver must be
    :class:`custom_nets.transforms.SaveRund`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(decollate=False, **kwargs)
        self.add_event_handler(Events.ITERATION_STARTED, self._check_format)

    def _check_format(self, engine: Any) -> None:
        """A format that cannot hold the run is refused before the work is done."""
        self.saver.format_for(engine.state.batch["image"])

    def result_of(self, case: str) -> Path:
        try:
            return Path(json.loads(self.record_of(case).read_text())["output"]["file"])
        except (OSError, ValueError, KeyError, TypeError):
            return self.saver.stem_for(case)

    def record_of(self, case: str) -> Path:
        return self.saver.record_for(case)

    def _already_there(self, case: str) -> bool:
        if strangers := self.saver.strangers(case):
            raise ValueError(
                f"{strangers[0]} is there already and was not written by this program: give another --output_dir or "
                "--output_postfix, or --overwrite True to replace it."
            )
        return super()._already_there(case)


def record_path(volume_path: Path) -> Path:
    """The JSON record beside a written volume."""
    return volume_path.with_name(volume_path.name.removesuffix(".nii.gz") + ".json")
