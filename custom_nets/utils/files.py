"""Files that appear whole or not at all, and what JSON can hold."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = [
    "PART",
    "absolute",
    "as_typed",
    "check_name",
    "check_zip",
    "data_bytes",
    "new_file",
    "new_folder",
    "is_dead",
    "part_path",
    "process_mark",
    "read_json",
    "private_folder",
    "remove_old_parts",
    "remove_private_folders",
    "same_file",
    "to_jsonable",
    "write_json",
    "write_text",
]


PART = ".part-"  # how what is not whole yet is called
_LONGEST_NAME = 255  # bytes, of usual file systems
_REUSED_S = 24 * 3600.0  # a living process that wrote nothing for so long only has the number of the one that did


def absolute(path: str | os.PathLike) -> str:
    """A path that says the same in whatever folder it is read."""
    return os.path.abspath(as_typed(path))


def as_typed(path: str | os.PathLike, folder: str | os.PathLike = "") -> Path:
    """The path (that begins in ``folder``); a "~" is the home folder only where nothing has just that name."""
    literal = Path(folder) / path
    return literal if os.path.lexists(literal) else Path(folder) / Path(path).expanduser()


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
    return path.with_name(_fitting(f"{PART}{_machine()}-{os.getpid()}-", path.name))


def _fitting(prefix: str, name: str) -> str:
    """Prefix and name, where need be with a short name of the same suffix: it may be as long as names can be."""
    if len(os.fsencode(prefix + name)) <= _LONGEST_NAME:
        return prefix + name
    return f"{prefix}{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{''.join(Path(name).suffixes[-2:])[-20:]}"


def _machine() -> str:
    """Whose process numbers these are: of this machine, and in it of this container."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def remove_old_parts(folder: str | os.PathLike, age_s: float = 3600.0, of: str = "") -> list[Path]:
    """Remove what processes that were killed left under :func:`part_path` directly in a folder.

    Such a file is never taken for an input or a result; this only frees its space. Others may be at work in the same
    folder, on other machines, too. A part of a process of this machine stays as long as that process lives; of another
    machine, what somebody wrote to within ``age_s`` seconds.

    Args:
        of: only parts of this name.

    Returns:
        What was removed.
    """
    removed = []
    for path in Path(folder).glob(f"{PART}*"):
        if path.name.endswith(of) and _is_left(path, age_s):
            _remove(path)
            removed.append(path)
    return removed


def _remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link (and not what it leads to)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def private_folder(prefix: str, folder: str | os.PathLike | None = None) -> Iterator[Path]:
    """A folder for the time of a work, in the temporary folder, that nobody else may read.

    :func:`remove_private_folders` removes it later where the process was killed.
    """
    path = Path(tempfile.mkdtemp(prefix=f"{prefix}{_machine()}-{os.getpid()}-", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_private_folders(prefix: str) -> None:
    """Remove what processes of this machine that were killed left of :func:`private_folder`."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}{_machine()}-*"):
        if _is_left(path, math.inf, prefix):
            shutil.rmtree(path, ignore_errors=True)


def process_mark() -> str:
    """This process among those of all machines, for :func:`is_dead`."""
    return f"{_machine()}-{os.getpid()}"


def is_dead(mark: str) -> bool:
    """Whether a :func:`process_mark` is that of a process of this machine that has ended."""
    machine, _, number = mark.partition("-")
    if machine != _machine() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # it lives, and is somebody else's
    return False


def _is_left(path: Path, age_s: float, prefix: str = PART) -> bool:
    """Whether nobody will finish a part."""
    try:
        unchanged_s = time.time() - path.lstat().st_mtime
    except OSError:
        return False  # its owner, or somebody who cleans as we do, was faster
    mark = "-".join(path.name.removeprefix(prefix).split("-")[:2])
    if not mark.startswith(f"{_machine()}-"):
        return unchanged_s > age_s
    return is_dead(mark) or unchanged_s > _REUSED_S


def same_file(a: str | os.PathLike, b: str | os.PathLike) -> bool:
    """Whether two paths are one thing on disk, be it by links or by upper and lower case; False if one is not there."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def check_name(text: str, what: str) -> str:
    """Refuse what would lead to another folder when it becomes a part of a file's name.

    Raises:
        ValueError: a slash, a backslash or a control character in it.
    """
    if set(text) & set("/\\") or not all(sign == " " or sign.isprintable() for sign in text):
        raise ValueError(f"{what} becomes part of a file's name: a word without slashes is needed, got {text!r}.")
    return text


def check_zip(path: str | os.PathLike, packed: bool = True) -> int:
    """Compare all files of a zip (an NPZ, what ``torch.save`` writes) with their checksums; other files pass.

    Args:
        packed: it may unpack to more than it is.

    Returns:
        Bytes that it unpacks to.

    Raises:
        ValueError: it is damaged, or unpacks to more than it is.
    """
    if not zipfile.is_zipfile(path):
        return 0
    with zipfile.ZipFile(path) as archive:
        if not packed and (size := sum(entry.file_size for entry in archive.infolist())) > os.path.getsize(path):
            raise ValueError(f"it unpacks to {size / 2**20:.0f} MiB, more than it is: torch.save packs nothing.")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"it is damaged ({damaged} has another checksum): copy it again from where it came.")
        return sum(entry.file_size for entry in archive.infolist())


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden file beside to write, which takes the name (and the place of a file of that name) at the end.

    After an error nothing has changed; a reader never sees half of it. What a killed process left of the same file is
    removed first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_old_parts(path.parent, of=f"-{path.name}")
    part = part_path(path)
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds, in UTF-8 or UTF-16, with a byte order mark or without (editors write all of them).

    Raises:
        ValueError: no JSON.
    """
    content = Path(path).read_bytes()
    try:
        return json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' stands in it twice")
    return found


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with new_file(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no text


def write_json(path: str | os.PathLike, content: Any) -> None:
    """:func:`write_text` of :func:`to_jsonable` content."""
    write_text(path, json.dumps(to_jsonable(content), indent=2) + "\n")


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden folder beside to write into, which takes the name (and the place of a folder of that name) at the end.

    After an error nothing has changed; whoever lists the folder never sees a part of it under its name.
    """
    path = Path(path)
    if path.parent.is_dir():
        remove_old_parts(path.parent, of=f"-{path.name}")
    part = part_path(path)
    old = part.with_name(_fitting(f"{PART}{_machine()}-{os.getpid()}-old-", path.name))
    for left in (part, old):  # by a process of the same number that was killed
        _remove(left)
    try:
        part.mkdir(parents=True)
        yield part
        if os.path.lexists(path):
            path.rename(old)
        part.rename(path)
    finally:
        _remove(part)
        if os.path.lexists(old) and not os.path.lexists(path):
            old.rename(path)
        _remove(old)


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
