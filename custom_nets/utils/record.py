"""What was run, on what, with what: the pieces of every record, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = [
    "environment",
    "file_record",
    "git_revision",
    "peak_memory_gib",
    "plain",
    "write_json",
    "write_text",
]

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
    parts = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    if not all(part.is_file() for part in parts):
        return {"bytes": None, "sha256": None}
    digest = hashlib.sha256()
    for part in parts:
        with open(part, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return {"bytes": sum(part.stat().st_size for part in parts), "sha256": digest.hexdigest()}


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def plain(value: Any) -> Any:
    """What JSON can hold: arrays become lists, infinite numbers "inf", paths and unknown things their text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, torch.Tensor | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write beside and rename: a reader never sees half of it."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """:func:`write_text` of :func:`plain` content."""
    write_text(path, json.dumps(plain(content), indent=2) + "\n")
