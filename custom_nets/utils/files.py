"""Files that appear whole or not at all, and what JSON can hold."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = [
    "absolute",
    "data_bytes",
    "new_folder",
    "part_path",
    "to_jsonable",
    "remove_old_parts",
    "write_json",
    "write_text",
]


_PART = ".part-"


def absolute(path: str | os.PathLike) -> str:
    """A path that says the same in whatever folder it is read."""
    return os.path.abspath(Path(path).expanduser())


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def data_bytes(path: str | os.PathLike) -> int:
    """Size of a file, or of all files directly in a folder (a DICOM series, pictures); 0 when it is not there."""
    return sum(part.stat().st_size for part in files_of(Path(path)) if part.is_file())


def to_jsonable(value: Any) -> Any:
    """What JSON can hold: arrays become lists, infinite numbers "inf", paths and unknown things their text."""
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(v) for v in value]
    if isinstance(value, torch.Tensor | np.ndarray):
        return to_jsonable(value.tolist())
    if isinstance(value, np.generic):
        return to_jsonable(value.item())
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
    """:func:`write_text` of :func:`to_jsonable` content."""
    write_text(path, json.dumps(to_jsonable(content), indent=2) + "\n")


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


def check_writable(folder: str | Path) -> Path:
    """Make the folder if needed and try a file in it: to be called before any heavy work.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise OSError(
            f"output folder {folder} cannot be written ({error.strerror or error}): choose another one or change its "
            "permissions."
        ) from error
