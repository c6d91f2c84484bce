"""What was run, on what, with what: the pieces of every record, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from custom_nets._moved import moved_name
from custom_nets.utils.files import as_typed, files_of

__all__ = ["environment", "file_record", "git_revision", "peak_memory_gib", "shareable", "shareable_options"]

_PACKAGES = (
    *("custom_nets", "torch", "monai", "pytorch-ignite", "numpy", "scipy"),
    *("nibabel", "pydicom", "scikit-image", "mlflow"),
)


def environment() -> dict[str, str]:
    """Versions of what numbers depend on (installed packages only), and the kind of machine."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str:
    """Commit of the checkout that this package runs from, with "+changes" if files differ from it; or "unknown"."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def file_record(path: str | os.PathLike | Sequence[Path]) -> dict[str, Any]:
    """Size and SHA-256 of a file; for a folder (a DICOM series), or several files, of them in the order of their names.

    Nothing else is told of them: a record may go to others, and a path can say who it is.
    """
    parts = files_of(Path(path)) if isinstance(path, str | os.PathLike) else list(path)
    if not all(part.is_file() for part in parts):
        return {"bytes": None, "sha256": None}
    digest = hashlib.sha256()
    for part in parts:
        with open(part, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return {"bytes": sum(part.stat().st_size for part in parts), "sha256": digest.hexdigest()}


_FREE_TEXT = ("series_description", "study_description")  # what somebody typed at the scanner: also names


def shareable(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an inference as it is written: without paths of the machine and without what somebody typed about the
    patient, as it goes to others with the result.

    The input is known by its hash, the result by its name beside the record, the weights by their name and hash, and a
    reference (an option that is a path) by its hash.
    """
    made_of = Path(record["input"].get("file") or "")
    texts = [text for text in {str(made_of), str(made_of.parent)} if len(text) > 1]

    def without(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: without(item) for key, item in value.items() if key not in _FREE_TEXT}
        if isinstance(value, list | tuple):
            return [without(item) for item in value]
        for text in sorted(texts, key=len, reverse=True) if isinstance(value, str) else ():
            value = value.replace(text, "the input")
        return value

    shared = without({key: value for key, value in record.items() if key not in ("input", "output", "checkpoint")})
    weights = Path(record["checkpoint"]["file"])
    return {
        **{key: shared.get(key) for key in record},
        "input": without({key: value for key, value in record["input"].items() if key != "file"}),
        "output": {**without(record["output"]), "file": Path(record["output"]["file"]).name},
        "checkpoint": {**record["checkpoint"], "file": "/".join(weights.parts[-2:])},
        "options": shareable_options(record["options"]),
    }


def shareable_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the SHA-256 of a reference volume instead of its path."""
    like = options.get("like")
    if not isinstance(like, str | os.PathLike) or not like:
        return dict(options)
    return {**options, "like": f"sha256:{file_record(as_typed(like))['sha256']}"}


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
