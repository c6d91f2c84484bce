"""Which volumes a training sees, and which people are held out of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from custom_nets.utils.files import read_json

__all__ = ["expand_scales", "load_datalist", "split_subjects"]

Item = dict[str, Any]

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
SPLITS = ("train", "validation", "test")
_FIELDS = ("image", "subject", "weight", "labels", "split", "licence", "source")


def _stem(path: Path) -> str:
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def subject_of(path: str | Path) -> str:
    """The person that a file belongs to: ``sub-XXX`` of its name or folders (BIDS), otherwise the name itself."""
    path = Path(path)
    for part in (path.name, *(parent.name for parent in path.parents)):
        if match := re.match(r"sub-[A-Za-z0-9]+", part):
            return match.group()
    return _stem(path)


def load_datalist(source: str | Path, folders: bool = False) -> list[Item]:
    """Training items of a folder or a JSON file.

    Args:
        source: a JSON list of ``{"image": path}`` with the optional fields

            - ``subject``: who it is; scans of one subject are never divided between training and validation;
            - ``weight``: how often it is drawn (1);
            - ``labels``: true for a label map, from which synthetic scans are made;
            - ``split``: "train", "validation" or "test" (test items are never used);
            - ``licence``, ``source``: for the record.

            Paths are relative to the JSON file. Or a folder: its ``datalist.json`` if there is one, otherwise all
            NIfTI and MGH files in it and below.
        folders: an ``image`` may be a folder (a run of pictures, say).

    Returns:
        Items with absolute ``image``, ``subject`` and ``weight``; ``labels`` and ``split`` where given.

    Raises:
        FileNotFoundError: the folder, the list or an image is missing, or nothing is there.
        ValueError: a list that is not one.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(
            f"{source} does not exist: give --dataset_dir FOLDER (NIfTI files) or --datalist FILE.json."
        )
    if source.is_dir():
        if (source / "datalist.json").is_file():
            return load_datalist(source / "datalist.json", folders)
        files = [p for p in sorted(source.rglob("*")) if p.name.lower().endswith(SUFFIXES) and p.name[0] != "."]
        if not files:
            raise FileNotFoundError(f"no volume in {source}: expected files ending in {', '.join(SUFFIXES)}.")
        return [{"image": str(p.resolve()), "subject": subject_of(p.relative_to(source)), "weight": 1.0} for p in files]
    entries = read_json(source)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{source} must hold a list of items such as {{'image': 'a.nii.gz'}}, and not an empty one.")
    return [_item(entry, source, number, folders) for number, entry in enumerate(entries)]


def _item(entry: Any, source: Path, number: int, folders: bool) -> Item:
    where = f"item {number} of {source}"
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise ValueError(f"{where} must have an 'image' (a path), got {entry!r}.")
    if unknown := sorted(set(entry) - set(_FIELDS)):
        raise ValueError(f"{where} has the unknown field '{unknown[0]}', allowed: {', '.join(_FIELDS)}.")
    if entry.get("split") not in (None, *SPLITS):
        raise ValueError(f"{where}: split must be one of {', '.join(SPLITS)}, got {entry['split']!r}.")
    if not isinstance(entry.get("labels", False), bool):
        raise ValueError(f"{where}: labels must be true or false, got {entry['labels']!r}.")
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
        raise ValueError(f"{where}: weight must be a number, zero or more, got {weight!r}.")
    path = (source.parent / entry["image"]).resolve()
    if entry.get("split") != "test" and not (path.exists() if folders else path.is_file()):
        raise FileNotFoundError(f"{where}: {path} does not exist (paths are relative to the JSON file).")
    return {**entry, "image": str(path), "subject": str(entry.get("subject") or subject_of(path)), "weight": weight}


def split_subjects(
    items: Sequence[Item], validation_fraction: float = 0.2, seed: int = 0
) -> tuple[list[Item], list[Item]]:
    """Divide items into training and validation, by subject.

    Splits given in the list hold, and the people of "validation" and "test" items are kept out of training altogether.
    Where no item is marked "validation", a share of the subjects (at least one) is drawn; label maps always train.

    Args:
        items: from :func:`load_datalist`.
        validation_fraction: share of the subjects to hold out, above 0 and below 1.
        seed: of the draw.

    Returns:
        Training items and validation items.

    Raises:
        ValueError: nothing would be left to train on or to validate with.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}.")
    tested = {item["subject"] for item in items if item.get("split") == "test"}
    usable = [item for item in items if item["subject"] not in tested]
    held_out = {item["subject"] for item in usable if item.get("split") == "validation"}
    scans = [item for item in usable if not item.get("labels", False)]
    if not held_out:
        free = sorted({i["subject"] for i in scans} - {i["subject"] for i in usable if i.get("split") == "train"})
        subjects = {item["subject"] for item in usable}
        if len(subjects) < 2 or not free:
            raise ValueError(
                f"at least 2 subjects are needed, one to train on and one to validate with; found {len(subjects)} "
                f"({len(items)} items, {len(tested)} test subjects left out, {len(free)} free to hold out)."
            )
        count = min(max(1, round(validation_fraction * len(free))), len(subjects) - 1)
        held_out = {free[i] for i in np.random.RandomState(seed).permutation(len(free))[:count]}
    validation = [item for item in scans if item["subject"] in held_out and item.get("split") != "train"]
    training = [item for item in usable if item["subject"] not in held_out]
    if not training or not sum(item["weight"] for item in training) > 0:
        raise ValueError("no item with a weight above zero is left to train on: all subjects are held out.")
    if not validation:
        raise ValueError("the items marked 'validation' are label maps only: mark a scan.")
    return training, validation


def expand_scales(items: Sequence[Item], scales: Sequence[Sequence[float]], profiles: Sequence[str] = ()) -> list[Item]:
    """Each item once per scale [3] and profile, with the fields ``scale`` and (where profiles are named) ``profile``:
    validation at fixed degradations."""
    each = [{**item, "scale": [float(s) for s in scale]} for item in items for scale in scales]
    return [{**item, "profile": profile} for item in each for profile in profiles] if profiles else each
