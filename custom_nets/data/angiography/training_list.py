"""Which runs a training of frame interpolation sees: simulated ones, measured ones, and the published folder layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from custom_nets.data.angiography.file_readers import natural_key
from custom_nets.data.angiography.parts import RunGeometry
from custom_nets.data.angiography.reader import find_runs
from custom_nets.data.datalist import Item, load_datalist
from custom_nets.geometry.cone_beam import CArm
from custom_nets.utils.files import as_typed, read_json

__all__ = ["number_repeats", "patient_of", "published_tuples", "read_simulated", "training_runs"]

_LISTS = {"train": "TrainList.txt", "validation": "TestList.txt"}


def training_runs(source: str | Path, weight: float = 1.0) -> list[Item]:
    """Items of a folder or a JSON list, with the subject that each run belongs to.

    Args:
        source: a folder with any of

            - simulated runs (``custom_nets.apps.simulate_training_runs``): the subject is the seed;
            - measured runs, as :func:`custom_nets.data.angiography.reader.find_runs` takes them, in the folder and,
              one folder a subject, in its sub-folders (for DICOM files the PatientID, where there is one, is the
              subject);
            - the published layout: ``TrainList.txt`` and ``TestList.txt`` beside the tuples' folders or above them;

            or a JSON list as in :func:`custom_nets.data.datalist.load_datalist`, ``image`` being a run.
        weight: how often a run is drawn.

    Returns:
        Items with ``image``, ``subject``, ``weight``, and ``split`` where it is given.

    Raises:
        FileNotFoundError, ValueError: nothing there, or a list that is not one.
    """
    source = as_typed(source)
    if not source.is_dir():
        return load_datalist(source, folders=True)
    if (source / "datalist.json").is_file():
        return load_datalist(source / "datalist.json", folders=True)
    if any((source / name).is_file() for name in _LISTS.values()):
        return published_tuples(source)
    simulated = sorted(path.parent for path in source.glob("*/run.json"))
    items: list[Item] = [
        {"image": str(path.resolve()), "subject": f"simulated_{path.name}", "weight": weight} for path in simulated
    ]
    others = [p for p in sorted(source.iterdir()) if p not in simulated and not p.name.startswith(".")]
    measured = [(source, entry) for entry in _runs_of([p for p in others if not p.is_dir()])]
    for folder in (p for p in others if p.is_dir()):
        measured += [(folder, entry) for entry in _runs_of(folder)]
    for folder, entry in measured:
        subject = patient_of(Path(entry["image"])) or (entry["case"] if folder == source else folder.name)
        items.append({"image": str(Path(entry["image"]).resolve()), "subject": subject, "weight": weight})
    if not items:
        raise FileNotFoundError(
            f"no run in {source}: simulate some by python -m custom_nets.apps.simulate_training_runs {source}, "
            "or put runs there (XA DICOM, folders of pictures, NIfTI, NPZ)."
        )
    return items


def _runs_of(source: Path | list[Path]) -> list[dict[str, str]]:
    if isinstance(source, list) and not source:
        return []
    try:
        return find_runs(source)
    except ValueError as error:
        if isinstance(source, Path) and "no run in" in str(error):
            return []  # a folder of something else
        raise


def patient_of(path: Path) -> str | None:
    """PatientID of a DICOM file, or of the first one in a folder."""
    from custom_nets.data.dicom.files import is_dicom_file

    file = next((p for p in sorted(path.iterdir()) if p.is_file()), path) if path.is_dir() else path
    if not file.is_file() or not is_dicom_file(file):
        return None
    from custom_nets.data.dicom.elements import read_header, text_of

    return text_of(read_header(file, ["PatientID"])[0], "PatientID") or None


def published_tuples(root: str | Path) -> list[Item]:
    """Tuples of the published layout: folders with ``frame_1.png``, ``frame_2_gt.png``, ..., ``frame_k.png``.

    Args:
        root: folder with ``TrainList.txt`` and ``TestList.txt`` (either may be missing); each line names a tuple's
            folder relative to the list, or to a folder beside it.

    Returns:
        Items whose ``split`` is "train" or "validation"; the subject is the folder that holds the tuple, so that tuples
        of one sequence stay together where the lists do not say otherwise.
    """
    root = Path(root)
    items: list[Item] = []
    for split, name in _LISTS.items():
        if not (root / name).is_file():
            continue
        for number, line in enumerate((root / name).read_text(encoding="utf-8-sig").splitlines(), 1):
            if not line.strip():
                continue
            folder = _tuple_folder(root, line.strip(), f"line {number} of {root / name}")
            # the lists are the split: a sequence that stands in both is the user's choice
            subject = f"{split}:{folder.parent.resolve()}"
            items.append({"image": str(folder.resolve()), "subject": subject, "weight": 1.0, "split": split})
    if not items:
        raise ValueError(f"the lists in {root} are empty.")
    return items


def _tuple_folder(root: Path, line: str, where: str) -> Path:
    for candidate in (root / line, *(p / line for p in sorted(root.parent.iterdir()) if p.is_dir())):
        if candidate.is_dir():
            frames = sorted((p.name for p in candidate.glob("frame_*.png")), key=natural_key)
            inner = [name for name in frames if name.endswith("_gt.png")]
            if len(frames) < 3 or len(inner) != len(frames) - 2 or re.search("_gt", frames[0] + frames[-1]):
                raise ValueError(
                    f"{where}: {candidate} must hold frame_1.png, frame_2_gt.png, ..., and a last frame without _gt; "
                    f"found {frames or 'none'}."
                )
            return candidate
    raise FileNotFoundError(f"{where}: there is no folder '{line}' in {root} or beside it.")


def number_repeats(items: Sequence[Item], repeats: int) -> list[Item]:
    """Each item ``repeats`` times with a ``number`` of its own, for validation on fixed samples."""
    return [{**item, "number": k * len(items) + i} for k in range(repeats) for i, item in enumerate(items)]


def read_simulated(folder: Path) -> dict[str, Any]:
    """What :func:`custom_nets.apps.simulate_training_runs.simulate_run` wrote; the frames stay on disk (a memory map).

    Returns:
        ``frames`` [T, H, W] float16 and ``background`` [H, W] float32 (attenuation less its median), ``times_s`` [T],
        ``kind``, ``darkest``, the largest line integral in all but 0.05 % of the pixels, and ``geometry`` (angles from
        the first frame's on, which is taken as the view that the settings name).
    """
    about = read_json(folder / "run.json")
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    background = np.load(folder / "background.npy").astype(np.float32)
    darkest = float(np.quantile(frames[::9, ::4, ::4].astype(np.float32), 0.9995))
    times_s = about["step_s"] * np.arange(len(frames))
    settings = about["settings"]
    return {
        "frames": frames,
        "background": background - np.median(background),
        "times_s": times_s,
        "kind": about["kind"],
        "darkest": max(darkest, 0.05),
        "geometry": RunGeometry.of_simulated(
            CArm(pixel_mm=settings["pixel_mm"]), settings["view_deg"] + settings["rotation_deg_s"] * times_s
        ),
    }
