"""DICOM series as volumes: positions taken from every slice's own header, never from file names or slice numbers.

ITK and MONAI's readers return a volume for almost any folder; a missing slice, two echoes in one series or a tilted
gantry then end as a wrong geometry that nobody sees. Here the positions are checked first (DICOM PS3.3 C.7.6.2).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.dicom.elements import image_size, numbers, read_header, sequence, text_of, valid_number
from custom_nets.data.dicom.files import DICOMDIR_CLASS, dicom_files
from custom_nets.data.dicom.pixels import apply_table, check_grey, decode_pixels, padding_of

__all__ = ["DicomVolume", "load_series", "series_headers"]

logger = logging.getLogger(__name__)

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAME_POSITION_MM = 1e-3
_ROUNDING_MM = 0.1  # slices nearer than this to their place on a regular grid are there but for rounded headers
_SAME_DISTANCE = 0.1  # share by which the header's distance of slices may differ from that of their places
# what ImageType says of images that are no plain picture of the signal (DICOM PS3.3 C.8.13, and vendors' own names)
_NO_PLAIN_IMAGE = {
    "P": "phase", "PHASE": "phase", "PHASE MAP": "phase", "VELOCITY": "velocities", "ADC": "diffusion coefficients",
    "FA": "anisotropies", "T1 MAP": "relaxation times", "T2 MAP": "relaxation times", "T2_STAR MAP": "relaxation times",
    "PROJECTION IMAGE": "a projection through several slices", "MIP": "a projection through several slices",
    "MNIP": "a projection through several slices", "MIN_IP": "a projection through several slices",
}  # fmt: skip
_HEADER_TAGS = [
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber",
    "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept", "BitsStored", "PixelRepresentation",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PhotometricInterpretation",
    "PixelPresentation", "SpacingBetweenSlices", "AcquisitionMatrix", "MRAcquisitionType", "BitsAllocated",
    "PatientID", "FrameOfReferenceUID", "EchoTime",
]  # fmt: skip


_Header = tuple[Path, Any, dict[str, str]]  # a file, its header, and what of it could not be read


@dataclass(frozen=True)
class DicomVolume:
    """A series as one volume.

    Attributes:
        array: [x, y, z] float32, rescale slope and intercept (or the modality table) applied (x along a row, y down the
            rows, z over slices).
        affine: (4, 4) voxel index -> mm, RAS.
        meta: plain values: ``series_uid``, ``series_description``, ``modality``, ``bits_stored``, ``original_dtype``;
            where the headers have it ``slice_thickness_mm`` and ``slice_gap_mm`` (distance of slices minus thickness),
            ``acquisition_type`` ("2D" or "3D") and ``measured_in_plane_mm`` (voxel that was measured along x and y,
            before the scanner interpolated); ``geometry_note`` if something about the positions is unusual, ``notes``
            if something else is.
        padding: [x, y, z], True where the headers say that nothing was measured; None: nowhere.
    """

    array: NDArray[np.float32]
    affine: NDArray[np.float64]
    meta: dict[str, Any]
    padding: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class _Slice:
    path: Path
    frame: int  # number within a multi-frame file, 0 otherwise
    uid: str
    position: NDArray[np.float64]  # mm, LPS, centre of the first voxel
    axes: NDArray[np.float64]  # (2, 3): direction of growing column index, of growing row index
    spacing: NDArray[np.float64]  # (2,): mm between columns, between rows
    size: tuple[int, int]  # columns, rows
    slope: float
    intercept: float
    thickness: float | None
    modality: str


def load_series(
    path: str | Path, series_uid: str | None = None, allow_irregular: bool = False, values: bool = True
) -> DicomVolume:
    """Read one series, classic (a file per slice) or enhanced multi-frame with a position per frame.

    Slices are ordered by their position along the normal. The third column of the affine is the step from the first to
    the last slice as the positions have it, so that a sheared stack (gantry tilt) lies right, too; a sideways shift
    of no more than 0.1 mm over the whole stack counts as rounded headers, and the step then follows the normal
    (NIfTI's qform and ITK know no shear).

    Args:
        path: folder with the files of the series, or one file of it (then its series is taken).
        series_uid: SeriesInstanceUID to take where the folder holds several.
        allow_irregular: accept slices off a regular grid by more than 10 % of their distance; the volume is then
            spread evenly from the first to the last slice.
        values: False reads the headers only; the array is then zero everywhere and takes no memory.

    Raises:
        ValueError: no DICOM image or several series in the folder, slices that do not form a volume (sizes or
            orientations differ, positions missing, repeated or irregular), colour, pixel data that cannot be decoded.
    """
    path = Path(path)
    name = f"DICOM series {path if path.is_dir() else path.parent}"
    slices, datasets, notes = _find_slices(path, series_uid)
    normal = np.cross(*slices[0].axes)
    positions = np.stack([piece.position for piece in slices])
    step, note = _slice_step(positions, normal, [piece.path.name for piece in slices], name, allow_irregular)
    header = datasets[0][1]
    distance, told = float(step @ normal), valid_number(header, "SpacingBetweenSlices")
    meant = (distance, distance - (slices[0].thickness or 0))  # some scanners write the gap there
    if told and min(abs(abs(told) - mm) for mm in meant) > _SAME_DISTANCE * distance:
        notes.add(f"SpacingBetweenSlices is {told:g} mm, but the slices lie {distance:.4g} mm apart, which counts")
    if len({numbers(own, "RescaleSlope") is None for _, own, _ in datasets}) > 1:
        notes.add("some slices have a RescaleSlope and others none: their units may differ")
    columns, rows = slices[0].size
    array, dtype, padding = (
        _read_pixels(slices, notes)
        if values
        else (np.broadcast_to(np.float32(0), (columns, rows, len(slices))), "", None)
    )
    for text in filter(None, (note, "; ".join(sorted(notes)))):
        logger.warning("%s: %s", name, text)

    lps = np.eye(4)
    lps[:3, :2] = (slices[0].axes * slices[0].spacing[:, None]).T
    lps[:3, 2] = step
    lps[:3, 3] = positions[0]

    meta: dict[str, Any] = {
        "series_uid": text_of(header, "SeriesInstanceUID"),
        "series_description": text_of(header, "SeriesDescription"),
        "modality": text_of(header, "Modality"),
        "bits_stored": int(valid_number(header, "BitsStored") or 0),
        "original_dtype": dtype,
    }
    if slices[0].thickness:
        meta["slice_thickness_mm"] = slices[0].thickness
        meta["slice_gap_mm"] = round(distance - slices[0].thickness, 6)
    if note:
        meta["geometry_note"] = note
    if notes:
        meta["notes"] = "; ".join(sorted(notes))
    if header.get("MRAcquisitionType") in ("2D", "3D"):
        meta["acquisition_type"] = str(header.MRAcquisitionType)
    measured = _measured_in_plane(header.get("AcquisitionMatrix"), slices[0])
    if measured:
        meta["measured_in_plane_mm"] = measured
    return DicomVolume(array, _LPS_TO_RAS @ lps, meta, padding)


def series_headers(path: str | Path, series_uid: str | None = None) -> list[tuple[Path, Any]]:
    """Files of one series and their whole headers without pixels, each image once, as :func:`load_series` takes them.

    Elements that cannot be read are left out.

    Raises:
        ValueError: no DICOM image or several series in the folder.
    """
    slices, _, _ = _find_slices(Path(path), series_uid)
    return [(file, read_header(file)[0]) for file in dict.fromkeys(piece.path for piece in slices)]


def _find_slices(path: Path, series_uid: str | None) -> tuple[list[_Slice], list[_Header], set[str]]:
    """The slices of a series in the order of their places, each once; the files' headers; what is unusual."""
    folder = path if path.is_dir() else path.parent
    name, notes = f"DICOM series {folder}", set[str]()
    datasets = _choose_series(_read_headers(folder), path, series_uid)
    slices = [piece for file, header, unread in datasets for piece in _slices_of(file, header, unread)]
    unread_keywords = {keyword: text for _, _, unread in datasets for keyword, text in unread.items()}
    notes.update(f"{keyword} is {text!r} and left out" for keyword, text in unread_keywords.items())
    _check_alike(slices, name)
    _check_one_measurement(datasets, name, notes)
    normal = np.cross(*slices[0].axes)
    slices.sort(key=lambda piece: float(piece.position @ normal))
    slices = _without_copies(slices, normal, notes)
    if len(slices) < 2:
        raise ValueError(f"{name} has a single slice: a volume is needed (at least 2 slices).")
    shared = len(slices) - len({(piece.uid, piece.frame) for piece in slices})
    if shared:
        notes.add(f"{shared + 1} slices at different places share SOPInstanceUIDs: all are taken")
    matrix = numbers(datasets[0][1], "AcquisitionMatrix")
    if matrix is not None and 0 < matrix.max() < 0.75 * max(slices[0].size):
        notes.add(
            f"AcquisitionMatrix is {' x '.join(f'{n:g}' for n in matrix if n)}: the planes of "
            f"{' x '.join(map(str, slices[0].size))} were interpolated by the scanner"
        )
    for modality in {piece.modality for piece in slices} - {"MR"}:
        notes.add(f"Modality is {modality or 'missing'}, not MR")
    if kind := next((kind for kind in _image_type(datasets[0][1])[2:] if kind in _NO_PLAIN_IMAGE), None):
        notes.add(
            f"ImageType says {kind}: values are {_NO_PLAIN_IMAGE[kind]}, which the networks were not trained on; look "
            "at the result with care"
        )
    return slices, datasets, notes


def _without_copies(slices: list[_Slice], normal: NDArray[np.float64], notes: set[str]) -> list[_Slice]:
    """Leave out images that lie at the place of another and have its pixels: the same one, stored twice.

    The UID does not tell: some software gives all slices the same one, other a new one to each copy.
    """
    kept: list[_Slice] = []
    for piece in slices:
        near = [other for other in kept if abs((other.position - piece.position) @ normal) < _SAME_POSITION_MM]
        twin = next((other for other in near if _same_pixels(other, piece)), None)
        if twin is None:
            kept.append(piece)
        else:
            notes.add(f"{piece.path.name} is the same image as {twin.path.name} and left out")
    return kept


def _same_pixels(one: _Slice, other: _Slice) -> bool:
    if (one.slope, one.intercept) != (other.slope, other.intercept):
        return False
    a, b = (decode_pixels(piece.path) for piece in (one, other))
    a, b = (pixels[piece.frame] if pixels.ndim == 3 else pixels for pixels, piece in ((a, one), (b, other)))
    return np.array_equal(a, b)


def _read_headers(folder: Path) -> list[_Header]:
    """Headers of all images in the folder, without pixels; other DICOM objects (reports, DICOMDIR) are left out."""
    headers: list[_Header] = []
    others: list[tuple[Path, Any]] = []
    for path in dicom_files(folder):
        header, removed = read_header(path, _HEADER_TAGS)
        kind = header.get("SOPClassUID")
        if kind == DICOMDIR_CLASS:
            others.append((path, header))
        elif image_size(header) is not None:
            headers.append((path, header, removed))
        elif {"Rows", "Columns"} & {*removed, *header.dir()} or "Image Storage" in getattr(kind, "name", ""):
            raise ValueError(
                f"{path} has no valid Rows and Columns: a slice would be missing. Export the series again."
            )
        else:
            others.append((path, header))
    if not headers:
        raise ValueError(f"{folder} holds no DICOM image.")
    _check_none_is_cut(folder, [(file, header) for file, header, _ in headers], others)
    return headers


def _check_none_is_cut(folder: Path, headers: list[tuple[Path, Any]], others: list[tuple[Path, Any]]) -> None:
    """Refuse a folder with a file that was a slice: an end slice that vanishes leaves a volume without a gap.

    A cut file is no DICOM any more, or one without an image although it is of the images' class or says no class.
    """
    classes = {kind for _, header in headers for kind in _classes(header)}
    # what is left of a cut UID is the beginning of one
    cut = [path for path, other in others if any(kind.startswith(c) for c in _classes(other) for kind in classes)]
    suffixes = {path.suffix.lower() for path, _ in headers}
    known = {path for path, _ in (*headers, *others)}
    for path in sorted(folder.iterdir()):
        if path in known or path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        if path.suffix.lower() in (".dcm", ".ima", ".dicom") or path.stat().st_size <= 132:
            cut.append(path)
    if cut:
        raise ValueError(
            f"{cut[0]} lies among the slices and is damaged or cut short: copy the series again, or take the file away."
        )


def _classes(header: Any) -> set[str]:
    """The SOP class as the file says it, and as its data set does (which may be cut)."""
    meta = getattr(header, "file_meta", None) or {}
    said = {str(meta.get("MediaStorageSOPClassUID", "")), str(header.get("SOPClassUID", ""))}
    return said - {""} or {""}


def _choose_series(headers: list[_Header], path: Path, series_uid: str | None) -> list[_Header]:
    series: dict[str, list[_Header]] = {}
    for file, header, unread in headers:
        series.setdefault(text_of(header, "SeriesInstanceUID"), []).append((file, header, unread))
    found = "; ".join(
        f"{uid or '(no uid)'} ('{text_of(files[0][1], 'SeriesDescription')}', {len(files)} files)"
        for uid, files in series.items()
    )
    if series_uid is None and path.is_file():
        mine = [uid for uid, files in series.items() if any(file == path for file, _, _ in files)]
        if not mine:
            raise ValueError(f"{path} is a DICOM file without an image.")
        series_uid = mine[0]
    if series_uid is not None:
        if series_uid not in series:
            raise ValueError(f"series_uid {series_uid} is not in {path}; there are: {found}.")
        return series[series_uid]
    if len(series) > 1:
        raise ValueError(f"{path} holds {len(series)} DICOM series, name one of them by series_uid: {found}.")
    return next(iter(series.values()))


def _measured_in_plane(matrix: Any, piece: _Slice) -> list[float] | None:
    """Voxel in mm along x and y that the steps of the measurement make of the field of view; None: not said."""
    try:
        frequency_rows, frequency_columns, phase_rows, phase_columns = (int(n) for n in matrix)
    except (TypeError, ValueError):
        return None
    steps = (frequency_columns or phase_columns, frequency_rows or phase_rows)
    if min(steps) < 1:
        return None
    return [round(float(n * mm / m), 4) for n, mm, m in zip(piece.size, piece.spacing, steps, strict=True)]


def _slices_of(path: Path, header: Any, unread: dict[str, str]) -> Iterator[_Slice]:
    """The slice of a classic file, or all of a multi-frame file."""
    check_grey(header, path)
    if "MOSAIC" in (header.get("ImageType") or []):
        raise ValueError(f"{path} is a Siemens mosaic (all slices in one picture): convert it with dcm2niix first.")
    groups_of_frames = sequence(header, "PerFrameFunctionalGroupsSequence")
    count = int(valid_number(header, "NumberOfFrames") or 1)
    if groups_of_frames:
        if len(groups_of_frames) != max(count, 1):
            raise ValueError(
                f"{path}: NumberOfFrames is {count}, but the header describes {len(groups_of_frames)} frames: it "
                "contradicts itself. Export the series again."
            )
        shared: Any = next(iter(sequence(header, "SharedFunctionalGroupsSequence")), {})
        for number, own in enumerate(groups_of_frames):
            groups: dict[str, Any] = {}
            for name in (
                "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
                "PixelValueTransformationSequence",
            ):  # fmt: skip
                if group := sequence(own, name) or sequence(shared, name):
                    groups.update({element.keyword: element.value for element in group[0]})
            yield _slice(path, number, header, groups, unread)
    elif count > 1:
        raise ValueError(f"{path} is a multi-frame file without a position per frame, so no volume can be made of it.")
    else:
        yield _slice(path, 0, header, header, unread)


def _slice(path: Path, frame: int, header: Any, geometry: Any, unread: dict[str, str]) -> _Slice:
    def needed(keyword: str, count: int) -> NDArray[np.float64]:
        found = numbers(geometry, keyword, count)
        if found is None:
            value = unread.get(keyword, geometry.get(keyword))
            raise ValueError(f"{path} has no valid {keyword} ({value!r}), so its place in the world is unknown.")
        return found

    def scaling(keyword: str, default: float) -> float:
        found = numbers(geometry, keyword)
        if (found is None and keyword in unread) or (found is not None and len(found) > 1):
            value = unread.get(keyword, geometry.get(keyword))
            raise ValueError(f"{path}: {keyword} is {value!r}, so that its values are unknown.")
        return default if found is None else float(found[0])

    axes = needed("ImageOrientationPatient", 6).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-2:
        raise ValueError(f"{path}: ImageOrientationPatient is not two perpendicular unit vectors: {axes.tolist()}.")
    spacing = needed("PixelSpacing", 2)[::-1]  # stored as row distance \ column distance
    if (spacing <= 0).any():
        raise ValueError(f"{path}: PixelSpacing must be above zero, got {spacing[::-1].tolist()}.")
    thickness = valid_number(geometry, "SliceThickness")
    slope = scaling("RescaleSlope", 1.0)
    if slope == 0:
        raise ValueError(f"{path}: RescaleSlope is 0, so that its values are unknown.")
    u, _, vt = np.linalg.svd(axes, full_matrices=False)  # u @ vt: the nearest exactly perpendicular unit vectors
    return _Slice(
        path,
        frame,
        text_of(header, "SOPInstanceUID") or path.name,
        needed("ImagePositionPatient", 3),
        u @ vt,
        spacing,
        (int(header.Columns), int(header.Rows)),
        slope,
        scaling("RescaleIntercept", 0.0),
        thickness if thickness and thickness > 0 else None,
        text_of(header, "Modality"),
    )


def _check_alike(slices: list[_Slice], name: str) -> None:
    first = slices[0]
    for other in slices[1:]:
        for what, mine, theirs, tolerance in (
            ("matrix sizes", first.size, other.size, 0),
            ("orientations", first.axes, other.axes, 1e-4),
            ("pixel spacings", first.spacing, other.spacing, 1e-4),
        ):
            if np.abs(np.asarray(mine) - np.asarray(theirs)).max() > tolerance:
                raise ValueError(
                    f"{name}: slices have different {what} ({first.path.name}: {np.asarray(mine).tolist()}, "
                    f"{other.path.name}: {np.asarray(theirs).tolist()}), so they are no single volume (a localiser?)."
                )


def _image_type(header: Any) -> list[str]:
    value = header.get("ImageType") or []
    return [value] if isinstance(value, str) else list(value)


def _check_one_measurement(datasets: list[_Header], name: str, notes: set[str]) -> None:
    """Slices that fit beside each other may still be of two patients, kinds of image or echoes under one series UID."""

    def found(text: Callable[[Any], str]) -> dict[str, Path]:
        """Each value with the first file that has it; files without one say nothing."""
        return {value: file for file, header, _ in reversed(datasets) if (value := text(header))}

    for what, text in (
        ("PatientID", lambda header: text_of(header, "PatientID")),
        ("ImageType value 3", lambda header: str(kind[2]) if len(kind := _image_type(header)) > 2 else ""),
    ):
        values = found(text)
        # one for each file: an anonymiser that counts
        if 1 < len(values) < len(datasets):
            told = ", ".join(f"{value!r} ({file.name})" for value, file in sorted(values.items())[:3])
            raise ValueError(
                f"{name}: slices differ in {what}: {told}, so they are no single volume. Put the files of each image "
                "into a folder of their own."
            )
    for keyword, meaning in (
        ("EchoTime", "their contrast differs"),
        ("FrameOfReferenceUID", "their positions may not belong together"),
    ):
        if len(values := found(partial(text_of, keyword=keyword))) > 1:
            notes.add(f"slices have {len(values)} values of {keyword}: {meaning}")


def _slice_step(
    positions: NDArray[np.float64], normal: NDArray[np.float64], files: list[str], name: str, allow_irregular: bool
) -> tuple[NDArray[np.float64], str]:
    """Step (mm, LPS) from slice to slice, and a note about what is unusual ("" if nothing is).

    Args:
        positions: (N, 3) sorted along ``normal``.
    """
    depth = positions @ normal
    gaps = np.diff(depth)
    if (gaps < _SAME_POSITION_MM).any():
        places = 1 + int((gaps >= _SAME_POSITION_MM).sum())
        raise ValueError(
            f"{name}: {len(positions)} images lie at {places} positions (a multi-echo, dynamic or diffusion series?). "
            "Give one image per position, e.g. split the series with dcm2niix."
        )
    span = positions[-1] - positions[0]
    sideways = float(np.linalg.norm(span - (span @ normal) * normal))
    step = (span if sideways > _ROUNDING_MM else (span @ normal) * normal) / (len(positions) - 1)
    notes = []

    usual = float(np.median(gaps))
    worst = int(np.abs(gaps - usual).argmax())
    gap_off = abs(gaps[worst] - usual)
    # many small differences add up: how far a slice lies from its place on the regular grid
    off_grid = np.linalg.norm(positions - (positions[0] + np.arange(len(positions))[:, None] * step), axis=1)
    if gap_off > 0.01 * usual or off_grid.max() > _ROUNDING_MM:
        note = (
            f"irregular slice positions: {gaps[worst]:.3f} mm between slices {worst + 1} and {worst + 2} "
            f"({files[worst]}, {files[worst + 1]}; {depth[worst]:.2f} to {depth[worst + 1]:.2f} mm along the normal) "
            f"where {usual:.3f} mm is usual; largest distance from the regular grid {off_grid.max():.3f} mm"
        )
        if gaps[worst] > 1.5 * usual:
            note += f"; about {round(gaps[worst] / usual) - 1} slice(s) missing"
        if max(gap_off, off_grid.max()) > 0.1 * usual and not allow_irregular:
            raise ValueError(f"{name}: {note}. Set allow_irregular=True to spread the slices evenly all the same.")
        notes.append(note)

    if sideways > _ROUNDING_MM:
        angle = np.degrees(np.arctan2(sideways, span @ normal))
        notes.append(
            f"the slices are shifted sideways by {sideways:.2f} mm over the stack, {angle:.2f} degrees off their "
            "normal (gantry tilt?); the affine is sheared accordingly"
        )
    return step, "; ".join(notes)


def _read_pixels(slices: list[_Slice], notes: set[str]) -> tuple[NDArray[np.float32], str, NDArray[np.bool_] | None]:
    """[x, y, z] float32 with slope and intercept of each slice (or its table), the stored data type, padding."""
    columns, rows = slices[0].size
    volume = np.empty((len(slices), rows, columns), dtype=np.float32)
    padding = np.zeros(volume.shape, dtype=bool)
    opened, pixels, header = None, np.empty(0), None
    for k, piece in enumerate(slices):
        if piece.path != opened:
            header, _ = read_header(piece.path, pixels=True)
            opened, pixels = piece.path, decode_pixels(piece.path, header, notes)
        image = pixels[piece.frame] if pixels.ndim == 3 else pixels
        if image.shape != (rows, columns):
            raise ValueError(f"{piece.path}: pixel data is {image.shape}, the header says {(rows, columns)}.")
        values = apply_table(header, image, piece.path)
        if values is not None:
            notes.add("values are those of the table in ModalityLUTSequence")
        volume[k] = image.astype(np.float64) * piece.slope + piece.intercept if values is None else values
        if (found := padding_of(header, image)) is not None:
            padding[k] = found[0]
        if text_of(header, "PhotometricInterpretation") == "MONOCHROME1":
            notes.add("MONOCHROME1: low values are shown bright; values are taken as stored")
    volume, padding = (np.ascontiguousarray(a.transpose(2, 1, 0)) for a in (volume, padding))
    return volume, str(pixels.dtype), padding if padding.any() else None
