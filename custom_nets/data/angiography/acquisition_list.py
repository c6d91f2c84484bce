"""Which rotational acquisitions to work on: one, a folder of them, a list, or a JSON datalist become named cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from custom_nets.data.angiography.acquisition_folders import is_published_folder
from custom_nets.data.cases import existing_path, from_json, unique_names
from custom_nets.data.dicom.files import holds_dicom, is_dicom_file

__all__ = ["find_acquisitions"]


def find_acquisitions(input: str | Path | Sequence[str | Path]) -> list[dict[str, str]]:
    """List the acquisitions that ``input`` names.

    Args:
        input: an acquisition as :func:`custom_nets.data.angiography.acquisition_reader.read_acquisition` reads it (a
            folder of VPAL, 4DRGS or TOGS, of mask and fill run in XA DICOM, a fill run, NPZ); a folder of such folders
            and NPZ files; a list of them; or a ``.json`` datalist.

    Returns:
        ``{"image": path, "case": name}`` sorted by path.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: nothing that can be read.
    """
    named: dict[Path, str] = {}
    if isinstance(input, str | Path):
        path = existing_path(input)
        if path.suffix.lower() == ".json" and path.is_file():
            named = from_json(path, None, existing_path)
        elif path.is_dir() and not _is_acquisition(path):
            named = {p: "" for p in sorted(path.iterdir()) if not p.name.startswith(".") and _is_acquisition(p)}
        else:
            named = {path: ""}
    elif isinstance(input, Iterable):
        named = {existing_path(entry): "" for entry in input}
    else:
        raise ValueError(f"input must be a path or a list of paths, got {input!r}.")
    if not named:
        raise ValueError(
            f"no rotational acquisition in {input}: allowed are folders of VPAL, 4DRGS (transforms.json) or TOGS "
            "(transforms_train.json), folders with mask and fill run in XA DICOM, fill runs, and NPZ."
        )
    paths = sorted(named)
    names = unique_names([named[p] or (p.name if p.is_dir() else p.stem) for p in paths], paths)
    return [{"image": str(path), "case": name} for path, name in zip(paths, names, strict=True)]


def _is_acquisition(path: Path) -> bool:
    if path.is_dir():
        return is_published_folder(path) or holds_dicom(path)
    return path.suffix.lower() == ".npz" or is_dicom_file(path)
