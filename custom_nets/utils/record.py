"""What was run, on what, with what: the pieces of every record, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from custom_nets._moved import moved_name
from custom_nets.utils.files import data_bytes, files_of

__all__ = ["environment", "file_record", "git_revision", "peak_memory_gib"]

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


def file_record(path: str | os.PathLike) -> dict[str, Any]:
    """Size and SHA-256 of a file; for a folder (a DICOM series) of its files in the order of their names."""
    path = Path(path)
    parts = files_of(path)
    if not all(part.is_file() for part in parts):
        return {"bytes": None, "sha256": None}
    digest = hashlib.sha256()
    for part in parts:
        with open(part, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return {"bytes": data_bytes(path), "sha256": digest.hexdigest()}


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
