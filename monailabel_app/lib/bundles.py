"""The bundles that can be served: what they are, which options they take, one run in this process."""

from __future__ import annotations

import difflib
import json
import logging
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custom_nets.bundle.as_typed import as_text
from custom_nets.engines.cases import CasesFailed
from custom_nets.utils import one_line, root_cause

__all__ = ["BUNDLES", "Bundle", "WrongRequest", "as_wrong_request", "check_options", "find_bundles", "run_inference"]

WORK = "acquireless_"  # how folders of requests in the temporary folder begin
BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


logger = logging.getLogger(__name__)


class WrongRequest(ValueError):
    """Something that whoever asked can mend; becomes an HTTP answer with this status and message."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and its configs.

    Attributes:
        root: the folder.
        metadata, inference: of ``configs/metadata.json`` and ``configs/inference.json``.
        train: of ``configs/train.json``; None where there is none.
    """

    root: Path
    metadata: dict[str, Any]
    inference: dict[str, Any]
    train: dict[str, Any] | None

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def modality(self) -> str:
        """DICOM modality of the input: "MR" or "XA"."""
        return str(self.metadata["network_data_format"]["inputs"]["image"]["modality"])

    @property
    def weights(self) -> Path:
        """The shipped weights."""
        return self.root / "models" / "model.pt"

    def options(self) -> dict[str, Any]:
        """What a request may set for inference, with the defaults: the config's ``displayable_configs``."""
        shown = self.inference.get("displayable_configs", {})
        return {name: self.inference.get(name) for name in shown}

    def training_options(self) -> dict[str, Any]:
        """What a request may set for training: the numbers, lists of numbers and switches at the config's top."""
        return {
            name: value
            for name, value in (self.train or {}).items()
            if name != "resume" and (isinstance(value, bool | int | float) or (name != "imports" and _numbers(value)))
        }


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, int | float) or _numbers(v) for v in value)


def find_bundles(folder: Path = BUNDLES, names: Iterable[str] | None = None) -> dict[str, Bundle]:
    """The bundles in a folder that can be served: those with ``inference.json``, ``metadata.json`` and weights.

    Bundles that are fitted to one scan at a time (``ships_weights: false``) are run by their command.

    Args:
        folder: that holds the bundles.
        names: take only these.

    Raises:
        ValueError: a name that is not there, or no bundle at all.
    """
    found = {}
    for path in sorted(folder.glob("*/configs/inference.json")):
        configs = path.parent
        if not (configs / "metadata.json").is_file():
            continue
        read = {
            name: json.loads((configs / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("metadata", "inference", "train")
            if (configs / f"{name}.json").is_file()
        }
        root = configs.parent
        if not read["metadata"].get("ships_weights", True):
            continue  # fitted to each scan for minutes: no request can wait for that
        found[root.name] = Bundle(root, read["metadata"], read["inference"], read.get("train"))
    if names is not None:
        if missing := sorted(set(names) - set(found)):
            raise ValueError(f"no bundle {', '.join(missing)} in {folder}; there are: {', '.join(found) or 'none'}.")
        found = {name: bundle for name, bundle in found.items() if name in set(names)}
    if not found:
        raise ValueError(f"no bundle with configs/inference.json and configs/metadata.json in {folder}.")
    return found


def check_options(given: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Refuse options that are not there, and values that the config language would take for code.

    Raises:
        WrongRequest: the message names the allowed options.
    """
    names = sorted(allowed)
    for name, value in given.items():
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise WrongRequest(f"there is no option '{name}'; {hint}Allowed are: {', '.join(names)}.")
        if not _is_plain(value):
            raise WrongRequest(
                f"{name} must be a finite number, true, false, null, a word, or a list of them, got {value!r}."
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(v) for v in value)
    if isinstance(value, str):
        return not set(value) & set("$@%")
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def run_inference(
    bundle: Bundle,
    image: Path,
    output_dir: Path,
    options: Mapping[str, Any],
    device: str = "cpu",
    checkpoint: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """One case through the bundle's own ``inference.json``, as ``python -m monai.bundle run`` does it.

    Args:
        bundle: which.
        image: an image file, a run, or the folder of a DICOM series.
        output_dir: for the result and its record.
        options: overrides, see :meth:`Bundle.options`.
        device: to compute on.
        checkpoint: weights; where not given, the shipped ones (of the option ``quality``).

    Returns:
        The file (or, for a DICOM series, the folder) of the result, and its record.

    Raises:
        ValueError, OSError, CasesFailed, SystemExit: as the bundle does; see :func:`as_wrong_request`.
    """
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        config_file=str(bundle.root / "configs" / "inference.json"),
        meta_file=str(bundle.root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=as_text(str(bundle.root)),
        input=as_text(str(image)),
        output_dir=as_text(str(output_dir)),
        device=device,
        preview=False,
        progress=False,
        **({} if checkpoint is None else {"checkpoint": as_text(str(checkpoint))}),
        **{name: as_text(value) if isinstance(value, str) else value for name, value in options.items()},
    )
    before = list(sys.path)
    try:
        workflow.initialize()
        evaluator = workflow.evaluator
        cases = [str(item["case"]) for item in evaluator.cases.data]
        if len(cases) != 1:
            raise ValueError(f"{image} holds {len(cases)} images ({', '.join(cases[:5])}): name one of them.")
        workflow.run()
        workflow.finalize()
    finally:
        sys.path[:] = before  # run() puts the bundle's folder there, each time anew
    record = json.loads(evaluator.record_of(cases[0]).read_text(encoding="utf-8"))
    return evaluator.result_of(cases[0]), record


def as_wrong_request(error: BaseException, *hidden: Path) -> WrongRequest | None:
    """What a failed run tells whoever asked; None when it is nothing that could be mended outside of this program.

    Args:
        error: from :func:`run_inference` or a training.
        hidden: folders of this machine to leave out of the message.
    """
    cause = root_cause(error)
    if isinstance(cause, CasesFailed):
        cause = next(iter(cause.causes.values()))
        status = 422
    else:
        status = 400
    if isinstance(cause, WrongRequest):
        return cause
    if isinstance(cause, MemoryError):
        return WrongRequest(f"there is not enough memory for it ({str(cause) or 'the system gave no more'}).", 413)
    if isinstance(cause, TypeError | ArithmeticError):
        logger.exception("taken for a mistake of the request", exc_info=cause)  # as most are: a list for a word, 1e300
        return WrongRequest(
            f"the options cannot be used as they are ({type(cause).__name__}: {one_line(cause)}).", status
        )
    if not isinstance(cause, ValueError | OSError | SystemExit):
        return None
    message = str(cause).removeprefix("error: ")
    for folder in (*hidden, BUNDLES.parent, tempfile.gettempdir(), Path.home()):
        message = message.replace(f"{folder}/", "") if len(str(folder)) > 1 else message
    return WrongRequest(message, status)
