"""Say what scans and runs are, and which bundle takes them, before anything is computed.

    python -m custom_nets.apps.check INPUT [INPUT ...]        # files, DICOM series, folders with all below them
    python -m custom_nets.apps.check INPUT --json             # the same for programs

No network is loaded and nothing is written. What is unusual is said in the words of the record that inference writes.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from custom_nets.data.angiography import read_angiography
from custom_nets.data.angiography.acquisition_folders import is_published_folder
from custom_nets.data.angiography.acquisition_reader import is_npz_acquisition, read_acquisition
from custom_nets.data.angiography.file_readers import picture_files, picture_runs
from custom_nets.data.angiography.xa_reader import frame_count, is_xa
from custom_nets.data.cases import IMAGE_SUFFIXES, existing_path
from custom_nets.data.dicom.elements import read_header, text_of
from custom_nets.data.dicom.files import DICOMDIR_CLASS, dicom_files, is_dicom_file
from custom_nets.data.volumes.dicom_series import load_series
from custom_nets.data.volumes.nifti import check_no_labels, read_nifti
from custom_nets.geometry import Grid
from custom_nets.inferers.reconstruction import turn_covered
from custom_nets.transforms import load_volume
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.errors import one_line_errors, root_cause
from custom_nets.utils.files import to_jsonable

__all__ = ["check", "find_studies", "main"]

_NUMPY = (".npz", ".npy")
_IMG = (".img", ".img.gz")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip", ".7z")
_KEYWORDS = ["SOPClassUID", "Modality", "SeriesInstanceUID", "NumberOfFrames", "Rows", "PositionerMotion"]
_MOST_VOXELS = 8_000_000  # of larger volumes only the header is read, unless all values are asked for
_BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
_PLURALS = {("run", "acquisition"): "acquisitions: a turning run with its mask run"}
_KINDS = {"volume": "volume", "angiography_run": "run"}  # input_kind of a bundle -> what is found here


@dataclass(frozen=True)
class Study:
    """Something that may be a scan or a run.

    Attributes:
        path: of the file or folder.
        kind: "volume", "run", "acquisition" (rotational, for 4D DSA), or "other" for what no bundle reads.
        series_uid: which series of a folder.
        what: of "other", in words.
    """

    path: Path
    kind: str
    series_uid: str | None = None
    what: str = ""


def find_studies(path: Path, within: frozenset[Path] = frozenset()) -> Iterator[Study]:
    """What a file is; of a folder each series, run and image in it and below. The folder of an acquisition is one.

    Args:
        within: folders that this one lies in, as links may lead back to them.
    """
    if path.is_dir():
        if path.resolve() in within:
            return
        within |= {path.resolve()}
        if is_published_folder(path):
            yield Study(path, "acquisition")
            return
        yield from _dicom_studies(path, list(dicom_files(path)))
        yield from _picture_studies(path)
        for entry in sorted(path.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from find_studies(entry, within)
            elif entry.name.lower().endswith(_IMG):
                continue  # the other half of a pair, which is called by its header
            elif not is_dicom_file(entry) and entry not in picture_files(path):
                yield from _file(entry)
    elif is_dicom_file(path):
        yield from _dicom_studies(path, [path])
    else:
        yield from _file(path)


def _file(path: Path) -> Iterator[Study]:
    name = path.name.lower() if path.is_file() else ""  # no pipe, no device
    if name.endswith(_NUMPY):
        yield Study(path, "acquisition" if is_npz_acquisition(path) else "run")
    elif name.endswith((*IMAGE_SUFFIXES, *_IMG)):
        yield Study(path, "run" if _is_nifti_run(path) else "volume")
    elif name.endswith((".png", ".tif", ".tiff")):
        yield Study(path, "run")
    elif name.endswith(_ARCHIVES):
        yield Study(path, "other", what="an archive: unpack it first")


def _is_nifti_run(path: Path) -> bool:
    """[x, y, 1, frame]: a run, where a volume has more than one slice."""
    try:
        shape = read_nifti(path, values=False)[0].shape
    except (ValueError, OSError):
        return False
    return len(shape) == 4 and shape[2] == 1


def _picture_studies(folder: Path) -> Iterator[Study]:
    try:
        for run in picture_runs(folder):
            yield Study(run, "run")
    except ValueError as error:
        yield Study(folder, "other", what=str(error))


def _dicom_studies(path: Path, files: list[Path]) -> Iterator[Study]:
    series: dict[str, tuple[Path, Any]] = {}
    turning: list[bool] = []  # of each run
    for file in files:
        try:
            header, _ = read_header(file, _KEYWORDS)
        except ValueError as error:
            yield Study(file, "other", what=str(error))
            continue
        if is_xa(header) and frame_count(header) > 1:
            turning.append(text_of(header, "PositionerMotion") == "DYNAMIC")
            yield Study(file, "run")
        elif header.get("SOPClassUID") != DICOMDIR_CLASS:
            series.setdefault(text_of(header, "SeriesInstanceUID"), (file, header))
    if path.is_dir() and turning == [True, True]:
        yield Study(path, "acquisition")  # mask and fill
    for uid, (file, header) in series.items():
        if is_xa(header):
            yield Study(file, "run", uid)
        elif header.get("Rows") is None and "Image" not in getattr(header.get("SOPClassUID"), "name", ""):
            yield Study(file, "other", what=f"{text_of(header, 'Modality') or 'DICOM'} without an image")
        else:
            yield Study(path, "volume", uid)


def check(study: Study, all_values: bool = False) -> dict[str, Any]:
    """What a study is, what is unusual about it, and which bundle takes it, as plain values (those of ``--json``)."""
    found: dict[str, Any] = {"path": str(study.path), "kind": study.kind, "notes": []}
    taken: Any = None
    try:
        if study.kind == "volume":
            taken, facts = _volume(study, all_values)
            found |= facts
        elif study.kind == "run":
            taken, facts = _run(study)
            found |= facts
        elif study.kind == "acquisition":
            taken, facts = _acquisition(study)
            found |= facts
        else:
            found["error"] = study.what
    except Exception as error:  # whatever is wrong with a file is what is asked for here
        cause = root_cause(error)
        kind = "" if isinstance(cause, ValueError | OSError) else f"{type(cause).__name__}: "
        found["error"] = f"{kind}{' '.join(str(cause).split())}"
    found["bundles"] = {name: _why_not(bundle, study.kind, taken) for name, bundle in _bundles().items()}
    return to_jsonable(found)


def _volume(study: Study, all_values: bool) -> tuple[Grid, dict[str, Any]]:
    dicom = study.path.is_dir() or is_dicom_file(study.path)
    if dicom:
        volume = load_series(study.path, study.series_uid, values=False)
        shape, affine, meta = volume.array.shape, volume.affine, volume.meta
    else:
        array, affine, meta = read_nifti(study.path, values=False)
        check_no_labels(study.path, meta)
        shape = array.shape
    looked = all_values or (np.prod(shape) <= _MOST_VOXELS and not study.path.name.endswith(".bz2"))
    facts: dict[str, Any] = {"values_read": looked}
    if looked:
        image = load_volume(study.path, study.series_uid)
        meta = image.meta
        measured = image.as_tensor()
        if "padding" in meta:
            facts["padding_share"] = float(meta["padding"].float().mean())
        facts["range"] = [float(measured.min()), float(measured.max())]
    elif len(shape) < 3 or min(shape[:3]) < 2:
        raise ValueError(
            f"{study.path} is 2D (shape {shape}): a volume of at least 2 voxels along x, y and z is needed."
        )
    grid = Grid(shape[:3], affine)
    notes = [str(meta[key]) for key in ("geometry_note", "notes", "padding_note") if key in meta]
    if not looked:
        notes.append("values were not looked at (--values does)")
    import nibabel as nib

    known = ("modality", "series_description", "slice_thickness_mm", "slice_gap_mm", "bits_stored", "time_step_s")
    return grid, {
        "format": "dicom" if dicom else "mgh" if study.path.suffix.lower() in (".mgz", ".mgh") else "nifti",
        "shape": list(grid.shape),
        "volumes": int(shape[3]) if len(shape) > 3 else 1,
        "spacing_mm": grid.spacing_mm.round(6).tolist(),
        "orientation": "".join(nib.aff2axcodes(affine)),
        "dtype": meta.get("original_dtype", ""),
        **{key: meta[key] for key in known if meta.get(key)},
        **facts,
        "notes": notes,
    }


def _run(study: Study) -> tuple[Any, dict[str, Any]]:
    run = read_angiography(study.path)
    steps = np.diff(run.times_s)
    meta, geometry = run.origin.meta, run.geometry
    moves = [a is not None and np.ptp(a) > 0 for a in (geometry.primary_deg, geometry.secondary_deg)]
    return run, {
        "format": run.origin.format,
        "modality": meta.get("modality", ""),
        "frames": len(run),
        "size": list(run.size),
        "dtype": str(run.frames.dtype),
        "bits_stored": int(meta.get("bits_stored") or 8 * run.frames.dtype.itemsize),
        "range": [float(run.frames.min()), float(run.frames.max())],
        "times": meta.get("time_source", "") if run.has_times else "unknown",
        "step_s": [float(steps.min()), float(steps.max())] if run.has_times else None,
        "pixel_spacing_mm": geometry.pixel_spacing_mm,
        "turns": any(moves),
        "mask_frames": [index + 1 for index in run.mask_frames],
        "synthetic_frames": (np.flatnonzero(run.synthetic) + 1).tolist(),
        "active_share": float(run.active.mean()),
        "notes": [*run.origin.notes, *(text for gap in run.gaps() for text in gap.warnings)],
    }


def _acquisition(study: Study) -> tuple[Any, dict[str, Any]]:
    scan = read_acquisition(study.path)
    geometry = scan.geometry
    pixels = (scan.row_step_mm, scan.column_step_mm)
    return scan, {
        "frames": len(scan),
        "size": list(scan.size),
        "duration_s": float(scan.times_s[-1] - scan.times_s[0]),
        "arc_deg": round(float(geometry.steps_deg.sum()), 2),
        "source_isocentre_mm": round(float(np.median(geometry.source_isocentre_mm)), 3),
        "source_panel_mm": round(float(np.median(geometry.source_panel_mm)), 3),
        "pixel_mm": [round(float(np.linalg.norm(steps, axis=1).mean()), 6) for steps in pixels],
        "volume_shape": list(scan.volume_shape),
        "volume_spacing_mm": list(scan.volume_spacing_mm),
        "quantitative": scan.quantitative,
        "notes": [*scan.warnings, *filter(None, [turn_covered(scan)]), *scan.notes],
    }


def _bundles() -> dict[str, Any]:
    """The bundles with their inputs' kind and, made once, their inferer."""
    if not _LOADED:
        from monai.bundle import ConfigParser

        for file in sorted(_BUNDLES.glob("*/configs/inference.json")):
            metadata = json.loads((file.parent / "metadata.json").read_text(encoding="utf-8"))
            parser = ConfigParser(json.loads(file.read_text(encoding="utf-8")))
            kind = _KINDS.get(metadata.get("input_kind", ""), metadata.get("input_kind", ""))
            inferer = parser.get_parsed_content("inferer") if kind in _KINDS.values() else None
            _LOADED[file.parents[1].name] = (kind, inferer)
    return _LOADED


_LOADED: dict[str, Any] = {}


def _why_not(bundle: tuple[str, Any], kind: str, taken: Any) -> str:
    """Why a bundle would not take a study; "" where it would."""
    wanted, inferer = bundle
    if kind == "other" or taken is None:
        return "it cannot be read"
    if wanted != kind:
        given = "an acquisition" if kind == "acquisition" else f"a {kind}"
        return f"{given}, and it takes {_PLURALS.get((kind, wanted), wanted.replace('_', ' ') + 's')}"
    try:
        if hasattr(inferer, "check_input"):
            inferer.check_input(taken)
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """A study in a few lines."""
    yield found["path"]
    if "error" in found:
        yield f"    cannot be read: {found['error']}"
        return
    if found["kind"] == "volume":
        spacing = " x ".join(f"{v:.4g}" for v in found["spacing_mm"])
        several = f", {found['volumes']} in time" if found["volumes"] > 1 else ""
        thick = f"; slices {found['slice_thickness_mm']:.4g} mm thick" if "slice_thickness_mm" in found else ""
        gap = f", gap {found['slice_gap_mm']:.4g} mm" if "slice_gap_mm" in found else ""
        size = " x ".join(map(str, found["shape"]))
        values = "; values {:g} to {:g}".format(*found["range"]) if "range" in found else ""
        what = " ".join(filter(None, (found.get("modality"), "volume,", found["format"] + ",", found["dtype"])))
        place = f"{size} voxels of {spacing} mm, {found['orientation']}"
        yield f"    {what.strip(' ,')}: {place}{several}{thick}{gap}{values}"
    elif found["kind"] == "acquisition":
        rows, columns = found["size"]
        across, spacing = (" x ".join(f"{v:.4g}" for v in found[f"{name}_mm"]) for name in ("pixel", "volume_spacing"))
        yield (
            f"    rotational acquisition: {found['frames']} frames of {rows} x {columns} in {found['duration_s']:.4g} "
            f"s, {found['arc_deg']:.0f} degrees; pixels of {across} mm, source to isocentre "
            f"{found['source_isocentre_mm']:.5g}, to panel {found['source_panel_mm']:.5g} mm; volume of "
            f"{' x '.join(map(str, found['volume_shape']))} voxels of {spacing} mm"
        )
    else:
        step = found["step_s"]
        even = step is not None and step[1] - step[0] < 1e-3 * step[1]
        times = (
            "times unknown" if step is None
            else f"{step[0]:.4g} s apart ({found['times']})" if even
            else f"{step[0]:.4g} to {step[1]:.4g} s apart ({found['times']})"
        )  # fmt: skip
        masks = f"; mask frames {', '.join(map(str, found['mask_frames']))}" if found["mask_frames"] else ""
        made = f"; {len(found['synthetic_frames'])} made frames" if found["synthetic_frames"] else ""
        turning = ", turning" if found["turns"] else ""
        rows, columns = found["size"]
        values = "values {:g} to {:g} of {} bits".format(*found["range"], found["bits_stored"])
        what = " ".join(filter(None, (found["modality"], "run,", found["format"] + ",", found["dtype"])))
        yield f"    {what}: {found['frames']} frames of {rows} x {columns}, {times}{turning}{masks}{made}; {values}"
    for note in found["notes"]:
        yield f"    note: {note}"
    for name, why in found["bundles"].items():
        yield f"    {name}: {'yes' if not why else f'no, {why}'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m custom_nets.apps.check INPUT [...]``; returns 1 where something cannot be read."""
    parser = CommandParser(prog="python -m custom_nets.apps.check", description=__doc__.splitlines()[0])
    parser.add_argument("input", nargs="+", type=Path, help="files, DICOM series, folders")
    parser.add_argument("--json", action="store_true", help="a JSON list instead of lines")
    parser.add_argument("--values", action="store_true", help="look at the values of large volumes, too")
    args = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # notes are part of the report
    found: list[dict[str, Any]] = []
    try:
        with one_line_errors():
            for path in args.input:
                before = len(found)
                for study in find_studies(existing_path(path)):
                    found.append(check(study, args.values))
                    if not args.json:
                        print("\n".join(_lines(found[-1])), flush=True)
                if len(found) == before:
                    raise ValueError(f"there is nothing to read in {path}: no image, no DICOM file, no pictures.")
    finally:
        logging.disable(logging.NOTSET)
    if args.json:
        print(json.dumps(found, indent=2))
    return int(any("error" in study for study in found))


if __name__ == "__main__":
    sys.exit(main())
