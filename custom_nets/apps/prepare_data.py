"""Lay a downloaded data set out for training: a folder with a ``datalist.json`` that ``--dataset_dir`` takes.

    python -m custom_nets.apps.prepare_data hcp  HCP_FOLDER DST     # T1w, 780 / 111 / 222 subjects as published
    python -m custom_nets.apps.prepare_data ixi  IXI_FOLDER DST     # T1 (or --modality T2, PD), 80 / 10 / 10 %
    python -m custom_nets.apps.prepare_data open SRC_FOLDER DST     # the open subjects of the shipped weights

``hcp`` and ``ixi`` link to the downloaded files (``--copy`` copies them); ``open`` writes new ones, cut to the head.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.volumes.nifti import read_nifti
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.files import new_file, write_json

__all__ = ["OPEN_VOLUMES", "crop_to_foreground", "largest_component", "prepare_hcp", "prepare_ixi", "prepare_open"]

Item = dict[str, Any]

HCP_SPLIT = {"train": 780, "validation": 111, "test": 222}
HCP_FILES = (
    "T1w/T1w_acpc_dc_restore_brain.nii.gz",
    "T1w/T1w_acpc_dc_restore.nii.gz",
    "unprocessed/3T/T1w_MPR1/*_T1w_MPR1.nii.gz",
)
HCP_LICENCE = "WU-Minn HCP Consortium Open Access Data Use Terms"
IXI_LICENCE = "CC BY-SA 3.0 (brain-development.org/ixi-dataset)"


# ---- published data sets: whole volumes, divided by subject ----


def prepare_hcp(source: str | Path, target: str | Path, copy: bool = False) -> list[Item]:
    """HCP-1200 T1w, 0.7 mm: subjects in sorted order, the first 780 train, 111 validate, 222 test.

    The published split goes by the order of a folder listing; sorted, it is the same everywhere. With other than
    1113 subjects the shares are kept. (The paper cuts six random 40^3 blocks out of each training subject once; here
    whole volumes are given, and blocks are drawn anew in every epoch.)

    Args:
        source: folder with one folder per subject (six digits) as ConnectomeDB unpacks them, or with one NIfTI file
            per subject whose name starts with these digits.
        target: folder to fill.
        copy: copy instead of linking.

    Returns:
        The items of ``datalist.json``.
    """
    source = _folder(source)
    files: dict[str, Path] = {}
    for entry in sorted(source.iterdir()):
        if not (match := re.match(r"(\d{6})(?!\d)", entry.name)):
            continue
        found = [entry] if entry.is_file() else [p for pattern in HCP_FILES for p in sorted(entry.glob(pattern))]
        found = [p for p in found if p.name.endswith((".nii", ".nii.gz"))]
        if found:
            files.setdefault(match.group(1), found[0])
    if len(files) < 3:
        expected = " or ".join(f"SUBJECT/{pattern}" for pattern in HCP_FILES)
        raise FileNotFoundError(
            f"found {len(files)} HCP subjects in {source}, at least 3 are needed: expected {expected}."
        )
    return _lay_out(files, _by_order(sorted(files), HCP_SPLIT), Path(target), HCP_LICENCE, copy)


def prepare_ixi(source: str | Path, target: str | Path, modality: str = "T1", copy: bool = False) -> list[Item]:
    """IXI (about 1 mm, three hospitals): of ten subjects by number eight train, one validates, one tests.

    No split of IXI is published with ArSSR, so this one is ours: taking every tenth subject spreads the three
    hospitals over all parts, and it does not change when a few files are missing elsewhere in the list.

    Args:
        source: folder with files such as IXI002-Guys-0828-T1.nii.gz (in it or below).
        target: folder to fill.
        modality: "T1", "T2", "PD" or "MRA".
        copy: copy instead of linking.

    Returns:
        The items of ``datalist.json``.
    """
    source = _folder(source)
    pattern = re.compile(rf"(IXI\d+)-.*-{re.escape(modality)}\.nii(\.gz)?$", re.IGNORECASE)
    files: dict[str, Path] = {}
    for path in sorted(source.rglob("*")):
        if match := pattern.match(path.name):
            files.setdefault(match.group(1).upper(), path)
    if len(files) < 3:
        raise FileNotFoundError(
            f"found {len(files)} IXI subjects with {modality} in {source}, at least 3 are needed: expected files such "
            f"as IXI002-Guys-0828-{modality}.nii.gz."
        )
    names = sorted(files)
    if len(names) < 10:
        splits = _by_order(names, {"train": 8, "validation": 1, "test": 1})
    else:
        splits = {name: {8: "validation", 9: "test"}.get(i % 10, "train") for i, name in enumerate(names)}
    return _lay_out(files, splits, Path(target), IXI_LICENCE, copy)


def _folder(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder: give the one that the download was unpacked into.")
    return path


def _by_order(names: Sequence[str], counts: dict[str, int]) -> dict[str, str]:
    """Consecutive parts of the sizes ``counts``, or of their shares when there are other than their sum of names."""
    total = sum(counts.values())
    edges = np.round(np.cumsum(list(counts.values())) * (len(names) / total)).astype(int)
    edges[0] = min(edges[0], len(names) - 2)
    edges[1] = min(max(edges[1], edges[0] + 1), len(names) - 1)
    return {name: list(counts)[int(np.searchsorted(edges, i, side="right"))] for i, name in enumerate(names)}


def _lay_out(files: dict[str, Path], splits: dict[str, str], target: Path, licence: str, copy: bool) -> list[Item]:
    items = []
    for subject in sorted(files):
        source, split = files[subject].resolve(), splits[subject]
        suffix = ".nii.gz" if source.name.endswith(".nii.gz") else ".nii"
        path = target / split / f"{subject}{suffix}"
        with new_file(path) as part:
            if copy:
                shutil.copyfile(source, part)
            else:
                part.symlink_to(source)
        image = path.relative_to(target).as_posix()
        items.append({"image": image, "subject": subject, "split": split, "weight": 1.0, "licence": licence})
    return _write_list(target, items)


def _write_list(target: Path, items: list[Item]) -> list[Item]:
    write_json(target / "datalist.json", items)
    return items


# ---- the open subjects of the shipped weights ----


@dataclass(frozen=True)
class OpenVolume:
    """One volume that the shipped weights saw.

    Attributes:
        name: of the file made.
        source: below the source folder.
        subject: who it is; several scans may be of one person.
        weight: how often it is drawn: less for noisy scans and for finer ones, whose detail is beyond 1 mm.
        licence: of the images.
        split: "train", or "validation" for the subject held out.
    """

    name: str
    source: str
    subject: str
    weight: float
    licence: str
    split: str = "train"


OPEN_VOLUMES = (
    OpenVolume("colin27", "t1_colin27/ch2.nii.gz", "colin27", 1.0, "McConnell BIC, permissive"),
    OpenVolume("fsbrain", "t1_freesurferformats/brain.mgz", "fsbrain", 3.0, "MIT"),
    OpenVolume("nii2mesh", "t1_nii2mesh_bet/bet.nii.gz", "nii2mesh", 3.0, "BSD-2-Clause"),
    OpenVolume("stroke_t1", "stroke_t1_t2_flair/T1.nii.gz", "M2208", 1.0, "MIT"),
    OpenVolume("stroke_t2", "stroke_t1_t2_flair/T2.nii.gz", "M2208", 0.7, "MIT"),
    OpenVolume("stroke_flair", "stroke_t1_t2_flair/FLAIR.nii.gz", "M2208", 0.7, "MIT"),
    OpenVolume("arc_t2", "t2_arc_M2208/M2208_T2w.nii.gz", "M2208", 0.7, "BSD-2-Clause (CC0 inferred)"),
    OpenVolume("studyforrest", "t1_studyforrest_dicom/dicoms.tar.xz", "studyforrest", 0.7, "PDDL-1.0"),
    OpenVolume("studyforrest_1mm", "t1_studyforrest_dicom/dicoms.tar.xz", "studyforrest", 2.0, "PDDL-1.0"),
    OpenVolume("adi", "t1_fnndsc_adi/t1_fnndsc_adi.nii.gz", "adi", 1.0, "Apache-2.0"),
    OpenVolume("uih", "t1_uih/t1_uih.nii.gz", "uih", 1.0, "BSD-2-Clause"),
    OpenVolume("niivue", "t1_niivue_norm/norm.mgz", "niivue", 1.0, "BSD-2-Clause", "validation"),
)
LABELS_FOLDER = "labels_synthseg20"
LABELS_WEIGHT = 0.08


def prepare_open(source: str | Path, target: str | Path, say: Callable[[str], None] = print) -> list[Item]:
    """The open scans and label maps that the shipped weights were trained on, cut to the head.

    Two artificial spheres beside the head of ``nii2mesh`` are removed. ``studyforrest`` (0.7 mm) is used as it is and
    once more as a 1 mm scan, which is less noisy. Twenty label maps become synthetic scans during training.

    Args:
        source: folder with the folders named in :data:`OPEN_VOLUMES`; what is missing is left out, and said.
        target: folder to fill.
        say: told about each file.

    Returns:
        The items of ``datalist.json``.
    """
    source, target = _folder(source), Path(target)
    items: list[Item] = []
    for volume in OPEN_VOLUMES:
        path = source / volume.source
        if not path.is_file():
            say(f"{volume.name}: left out, {path} is not there")
            continue
        array, affine = _read_archive(path) if path.name.endswith(".tar.xz") else _read(path)
        if volume.name == "nii2mesh":
            array = array * largest_component(array > 0.02 * array.max())
        if volume.name.endswith("_1mm"):
            array, affine = _at_one_mm(array, affine)
        _write(target / f"{volume.name}.nii.gz", *crop_to_foreground(array, affine), np.float32)
        say(f"{volume.name}: written")
        items.append(
            {"image": f"{volume.name}.nii.gz", "subject": volume.subject, "split": volume.split}
            | {"weight": volume.weight, "licence": volume.licence, "source": volume.source}
        )
    for path in sorted((source / LABELS_FOLDER).glob("*.nii*")):
        name = "labels" + "".join(re.findall(r"\d+", path.name.split(".")[0])[-1:])
        _write(target / f"{name}.nii.gz", *crop_to_foreground(*_read(path)), np.int16)
        say(f"{name}: written")
        items.append(
            {"image": f"{name}.nii.gz", "subject": name, "split": "train", "labels": True}
            | {"weight": LABELS_WEIGHT, "licence": "Apache-2.0", "source": f"{LABELS_FOLDER}/{path.name}"}
        )
    if not items:
        raise FileNotFoundError(f"none of the open data sets is in {source}: expected folders such as t1_colin27.")
    return _write_list(target, items)


def crop_to_foreground(
    array: NDArray, affine: NDArray[np.float64], margin: int = 6
) -> tuple[NDArray, NDArray[np.float64]]:
    """Cut a volume [X, Y, Z] to what is above 1 % of its maximum, plus ``margin`` voxels; the affine follows."""
    inside = np.argwhere(array > 0.01 * array.max())
    low = np.maximum(inside.min(0) - margin, 0)
    high = np.minimum(inside.max(0) + margin + 1, array.shape)
    moved = affine.copy()
    moved[:3, 3] = (affine @ [*low, 1])[:3]
    return array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], moved


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part of a mask, its holes filled."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(labels == sizes.argmax())


def _read(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    array, affine, _ = read_nifti(path)
    return np.squeeze(array), affine


def _read_archive(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """A DICOM series packed as .tar.xz."""
    from custom_nets.transforms.io import load_volume

    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():  # by its bare name: no path of the archive can leave the folder
                    member.name = Path(member.name).name
                    archive.extract(member, folder, **_EXTRACT)
        volume = load_volume(folder)
    return volume[0].numpy(), volume.affine.numpy()


_EXTRACT: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def _at_one_mm(array: NDArray, affine: NDArray[np.float64]) -> tuple[NDArray, NDArray[np.float64]]:
    """The same head measured with 1 mm voxels."""
    import torch

    from custom_nets.geometry import Grid
    from custom_nets.operators.slice_profile import degrade

    fine = Grid(array.shape, affine)
    coarse = fine.rescaled([float(s) for s in fine.spacing_mm])
    volume = degrade(torch.from_numpy(array), coarse.shape, "gaussian", 0.8).clamp(min=0)
    return volume.numpy(), coarse.affine


def _write(path: Path, array: NDArray, affine: NDArray[np.float64], dtype: type) -> None:
    import nibabel as nib

    with new_file(path) as part:
        nib.save(nib.Nifti1Image(array.astype(dtype), affine), part)


# ---- command line ----


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.apps.prepare_data ixi|hcp|open SRC DST``"""
    parser = CommandParser(
        prog="python -m custom_nets.apps.prepare_data", description="Lay a downloaded data set out for training."
    )
    parser.add_argument("dataset", choices=("ixi", "hcp", "open"))
    parser.add_argument("source", help="folder of the download")
    parser.add_argument("target", help="folder to fill; give it to the training as --dataset_dir")
    parser.add_argument("--modality", default="T1", choices=("T1", "T2", "PD", "MRA"), help="of ixi (default: T1)")
    parser.add_argument("--copy", action="store_true", help="copy the files of ixi and hcp instead of linking to them")
    options = parser.parse_args(arguments)
    try:
        if options.dataset == "hcp":
            items = prepare_hcp(options.source, options.target, options.copy)
        elif options.dataset == "ixi":
            items = prepare_ixi(options.source, options.target, options.modality, options.copy)
        else:
            items = prepare_open(options.source, options.target)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    splits = [item["split"] for item in items]
    counts = ", ".join(f"{splits.count(name)} {name}" for name in ("train", "validation", "test"))
    print(f"{len(items)} volumes ({counts}) in {Path(options.target) / 'datalist.json'}")


if __name__ == "__main__":
    main()
