"""Inference over many scans: one at a time, resumable, and one bad file does not stop the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator

from custom_nets.data.nifti import check_writable
from custom_nets.geometry import Grid
from custom_nets.transforms import SaveVolumed
from custom_nets.utils.errors import root_cause

__all__ = ["CaseEvaluator"]

logger = logging.getLogger(__name__)


class CaseEvaluator(SupervisedEvaluator):
    """``SupervisedEvaluator`` that treats each item of its loader's dataset as a case of its own.

    A case is done when its volume *and* its record (written last, by
    :class:`custom_nets.handlers.InferenceRecord`) exist and the record says that the same was asked for. Done cases
    are skipped, cases that fail are listed at the end, and then the process exits with status 1.

    Args:
        saver: the transform that writes the result; it knows the file of a case.
        overwrite: compute done cases again.
        kwargs: of ``SupervisedEvaluator``; ``val_data_loader`` must be a loader over a ``monai.data.Dataset`` whose
            items have a "case".
    """

    def __init__(self, *, saver: SaveVolumed, overwrite: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.saver = saver
        self.overwrite = overwrite
        self.cases: Dataset = self.data_loader.dataset  # type: ignore[union-attr,assignment]
        self.started = 0.0
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
        if hasattr(self.inferer, "target_grid"):  # options that suit no input are refused once, before any is read
            self.inferer.target_grid(Grid((64, 64, 64), np.eye(4)))
        items: Sequence[dict[str, Any]] = self.cases.data
        failed: dict[str, str] = {}
        for number, item in enumerate(items, 1):
            case = str(item["case"])
            say = partial(print, f"[{number}/{len(items)}] {case}:", flush=True)
            target = self.saver.path_for(case)
            try:
                if not self.overwrite and self._already_there(target):
                    say(f"already there, {target} (--overwrite True computes it again)")
                    continue
                say(item["image"])
                self.data_loader = DataLoader(Dataset([item], self.cases.transform), batch_size=1, num_workers=0)
                self.state.dataloader = self.data_loader
                self.state.epoch_length = 1  # the engine was made for the whole folder
                self.started = time.perf_counter()
                super().run(global_epoch)
                say(f"{target} ({time.perf_counter() - self.started:.1f} s)")
            except Exception as error:  # any failure of a case is reported, and the next case gets its turn
                cause = root_cause(error)
                kind = "" if isinstance(cause, ValueError | OSError) else f"{type(cause).__name__}: "
                failed[case] = f"{kind}{cause}"
                logger.debug("case %s failed", case, exc_info=True)
                say(f"failed: {failed[case]}")
        if failed:
            lines = "".join(f"\n  {case}: {message}" for case, message in failed.items())
            raise SystemExit(f"error: {len(failed)} of {len(items)} cases failed:{lines}")

    def _already_there(self, target: Path) -> bool:
        """Whether volume and record are there; something else that was made under the same name is not replaced."""
        if not (target.exists() and record_path(target).exists()):
            return False
        if others := [text for record in self.records if (text := record.differences(record_path(target)))]:
            raise ValueError(
                f"{target} is there already, made with {'; '.join(others)}: give --overwrite True to replace it, or "
                "another --output_dir or --output_postfix."
            )
        return True


def record_path(volume_path: Path) -> Path:
    """The JSON record beside a written volume."""
    return volume_path.with_name(volume_path.name.removesuffix(".nii.gz") + ".json")
