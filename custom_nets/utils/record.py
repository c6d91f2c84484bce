"""What was run, on what, with what: the pieces of every record, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = [
    "absolute",
    "data_bytes",
    "environment",
    "file_record",
    "git_revision",
    "new_folder",
    "part_path",
    "peak_memory_gib",
    "plain",
    "remove_old_parts",
    "write_json",
    "write_text",
]

_PART = ".part-"
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


def absolute(path: str | os.PathLike) -> str:
    """A path that says the same in whatever folder it is read."""
    return os.path.abspath(Path(path).expanduser())


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def data_bytes(path: str | os.PathLike) -> int:
    """Size of a file, or of all files directly in a folder (a DICOM series, pictures); 0 when it is not there."""
    return sum(part.stat().st_size for part in _files(Path(path)) if part.is_file())


def file_record(path: str | os.PathLike) -> dict[str, Any]:
    """Size and SHA-256 of a file; for a folder (a DICOM series) of its files in the order of their names."""
    path = Path(path)
    parts = _files(path)
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


def part_path(path: str | os.PathLike) -> Path:
    """Where to write what is to become ``path`` once it is whole: beside it, hidden, another for each process.

    The suffix stays, as writers choose the format by it.
    """
    path = Path(path)
    return path.with_name(f"{_PART}{os.getpid()}-{path.name}")


def remove_old_parts(folder: str | os.PathLike, age_s: float = 3600.0) -> list[Path]:
    """Remove what processes that were killed left under :func:`part_path` directly in a folder.

    Such a file is never taken for an input or a result; this only frees its space. Others may be at work in the same
    folder, on other machines, too: what somebody wrote to within ``age_s`` seconds stays.

    Returns:
        What was removed.
    """
    old = [p for p in Path(folder).glob(f"{_PART}*") if time.time() - p.lstat().st_mtime > age_s]
    for path in old:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return old


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write beside and rename: a reader never sees half of it."""
    path = Path(path)
    part = part_path(path)
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """:func:`write_text` of :func:`plain` content."""
    write_text(path, json.dumps(plain(content), indent=2) + "\n")


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden folder beside to write into, which takes the name (and the place of a folder of that name) at the end.

    After an error nothing has changed; whoever lists the folder never sees a part of it under its name.
    """
    path = Path(path)
    part = part_path(path)
    old = part.with_name(f"{part.name}-old")
    for left in (part, old):  # by a process of the same number that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        if path.exists():
            path.rename(old)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)
