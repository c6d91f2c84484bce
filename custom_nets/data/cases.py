"""Which volumes to work on: a file, a DICOM series, a folder, a list or a JSON datalist become named cases."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from custom_nets.data.dicom.files import dicom_files, holds_dicom, is_dicom_file, series_files
from custom_nets.utils.files import as_typed, read_json

__all__ = ["IMAGE_SUFFIXES", "case_name", "existing_path", "find_cases", "from_json", "input_files", "unique_names"]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nii.bz2", ".hdr", ".mgz", ".mgh")


def case_name(path: str | Path) -> str:
    """File name without its image suffix; for a DICOM series (folder, or a file in it) the folder's name."""
    path = Path(os.path.abspath(as_typed(path)))  # links are called by their own name
    if path.is_dir():
        return path.name or "volume"
    if path.is_file() and is_dicom_file(path):
        return path.parent.name or "volume"
    for suffix in sorted((*IMAGE_SUFFIXES, ".img", ".img.gz"), key=len, reverse=True):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def find_cases(
    input: str | Path | Sequence[str | Path],
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    section: str | None = None,
    skip_postfix: str | Sequence[str] | None = None,
) -> list[dict[str, str]]:
    """List the volumes that ``input`` names.

    Args:
        input: an image file; a folder with a DICOM series, or one file of it; a folder of images (its own files, and
            those of its sub-folders that hold a DICOM series); a list of such files and series; or a ``.json``
            datalist (a list, or a dictionary with one list, of paths or of ``{"image": path}`` with an optional
            ``"case"``; relative paths start at the JSON file's folder).
        suffixes: of the image files to take from a folder.
        section: the list to take from a JSON dictionary with several.
        skip_postfix: leave files ``*_<skip_postfix><suffix>`` and sub-folders ``*_<skip_postfix>`` of a folder out:
            results of an earlier run. One or more.

    Returns:
        ``{"image": path, "case": name}`` sorted by path; names are unique without regard to upper and lower case. Where
        file names collide, the folder's name is put in front.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: nothing found that can be read, or a JSON file that is no datalist.
    """
    named: dict[Path, str] = {}
    if isinstance(input, (str, Path)):
        path = existing_path(input)
        if path.suffix.lower() == ".json" and path.is_file():
            named = from_json(path, section)
        elif path.is_dir():
            named = dict.fromkeys(_from_folder(path, tuple(suffixes), skip_postfix), "")
        else:
            named = {path: ""}
    elif isinstance(input, Iterable):
        named = {_series_or_file(entry): "" for entry in input}
    else:
        raise ValueError(f"input must be a path or a list of paths, got {input!r}.")
    if not named:
        raise ValueError(f"nothing to read in {input}: allowed are {', '.join(suffixes)} files and DICOM series.")
    paths = sorted(named)
    names = unique_names([named[path] or case_name(path) for path in paths], paths)
    return [{"image": str(path), "case": name} for path, name in zip(paths, names, strict=True)]


def existing_path(path: str | Path) -> Path:
    """The path, after a look whether it is there."""
    if not isinstance(path, (str, Path)) or not str(path).strip():
        raise ValueError(f"a path is needed, got {path!r}: --input names an image file, a DICOM series or a folder.")
    found = as_typed(path)
    if not found.exists():
        raise FileNotFoundError(f"{path} does not exist (current folder: {Path.cwd()}).")
    if not (found.is_file() or found.is_dir()):
        raise ValueError(f"{path} is neither a file nor a folder (a pipe, a device): copy what it gives into a file.")
    return found


def input_files(path: str | Path) -> list[Path]:
    """The files that a case is read from: of a DICOM series all its files, of a pair of header and image both.

    They say whether a result still belongs to its input.
    """
    path = Path(path)
    if path.is_dir():
        inside = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
        return list(dicom_files(path)) or inside
    if is_dicom_file(path):
        return series_files(path)
    pairs = {".hdr": (".img", ".img.gz"), ".img": (".hdr",)}
    beside = [path.with_suffix(suffix) for suffix in pairs.get(path.suffix.lower(), ())]
    return [path, *(file for file in beside if file.is_file())]


def _series_or_file(path: str | Path) -> Path:
    found = existing_path(path)
    if found.is_dir() and not holds_dicom(found):
        raise ValueError(f"{path} in the list is a folder without DICOM files: list image files and DICOM series.")
    return found


def _from_folder(folder: Path, suffixes: tuple[str, ...], skip_postfix: str | Sequence[str] | None) -> list[Path]:
    postfixes = (skip_postfix,) if isinstance(skip_postfix, str) else tuple(skip_postfix or ())
    own = tuple(f"_{postfix}" for postfix in postfixes if postfix)
    found: list[Path] = [folder] if holds_dicom(folder) else []
    ignored: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            take = holds_dicom(path) and not path.name.endswith(own)
        else:
            readable = path.is_file() or not path.exists()  # a pipe is not; a broken link is said later
            take = readable and path.name.lower().endswith(suffixes) and not case_name(path).endswith(own)
        if take:
            found.append(path)
        elif not (path.is_file() and is_dicom_file(path)):
            ignored.append(path.name)
    if ignored:
        more = f" and {len(ignored) - 5} more" if len(ignored) > 5 else ""
        logger.info("%s: ignored %s%s", folder, ", ".join(ignored[:5]), more)
    return found


def from_json(path: Path, section: str | None, check: Callable[[str | Path], Path] | None = None) -> dict[Path, str]:
    """Paths and names ("" where none is given) of a JSON datalist; ``check`` says which paths may be in it."""
    check = check or _series_or_file
    content = read_json(path)
    if isinstance(content, dict):
        lists = {name: value for name, value in content.items() if isinstance(value, list)}
        if section is None and len(lists) == 1:
            section = next(iter(lists))
        if section not in lists:
            raise ValueError(f"{path} has the lists {sorted(lists)}: name one of them as section, got {section!r}.")
        content = lists[section]
    if not isinstance(content, list):
        raise ValueError(f"{path} must hold a list of paths or of {{'image': path}}, got a {type(content).__name__}.")
    named: dict[Path, str] = {}
    for entry in content:
        image = entry.get("image") if isinstance(entry, dict) else entry
        if not isinstance(image, str):
            raise ValueError(f"{path}: every entry must be a path or {{'image': path}}, got {entry!r}.")
        case = entry.get("case") if isinstance(entry, dict) else None
        # a case names files, so it must not lead into another folder
        named[check(as_typed(image, path.parent))] = (
            "" if case is None else str(case).replace("/", "_").replace("\\", "_")
        )
    return named


def unique_names(names: list[str], paths: list[Path]) -> list[str]:
    """Put the folder in front of names that collide, then a number behind those that still do."""

    def colliding(candidates: list[str]) -> set[str]:
        return {name for name, count in Counter(name.casefold() for name in candidates).items() if count > 1}

    twice = colliding(names)
    names = [
        f"{Path(os.path.abspath(path)).parent.name}_{name}" if name.casefold() in twice else name
        for name, path in zip(names, paths, strict=True)
    ]
    taken: set[str] = set()
    for position, name in enumerate(names):
        number = 1
        while names[position].casefold() in taken:
            number += 1
            names[position] = f"{name}-{number}"
        taken.add(names[position].casefold())
    return names
