"""X-ray angiography DICOM as runs: multi-frame XA and XRF, Enhanced XA and XRF, and series of single-frame files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.intensity import MaskSubtraction
from custom_nets.data.angiography.run import AngiographyRun, RunGeometry, RunOrigin, make_run
from custom_nets.data.angiography.xa_marks import synthetic_frames_of
from custom_nets.data.angiography.xa_motion import positioner_angles, table_positions
from custom_nets.data.angiography.xa_times import (
    CLOCKS,
    anywhere,
    file_times,
    multiframe_times,
    other_rates,
    single_file_times,
)
from custom_nets.data.dicom.elements import image_size, numbers, read_header, sequence, text_of, valid_number
from custom_nets.data.dicom.files import dicom_files
from custom_nets.data.dicom.pixels import check_grey, decode_pixels, padding_of

__all__ = [
    "ENHANCED_CLASSES",
    "XA_CLASSES",
    "is_xa",
    "mask_items",
    "read_xa",
    "run_headers",
    "xa_series",
]

logger = logging.getLogger(__name__)

_SHORTEST_S = 0.005  # from frame to frame

XA_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.12.1": "X-Ray Angiographic",
    "1.2.840.10008.5.1.4.1.1.12.2": "X-Ray Radiofluoroscopic",
    "1.2.840.10008.5.1.4.1.1.12.1.1": "Enhanced XA",
    "1.2.840.10008.5.1.4.1.1.12.2.1": "Enhanced XRF",
}
ENHANCED_CLASSES = ("1.2.840.10008.5.1.4.1.1.12.1.1", "1.2.840.10008.5.1.4.1.1.12.2.1")


def read_xa(
    path: str | Path,
    times_s: Sequence[float] | NDArray | None = None,
    step_s: float | None = None,
    series_uid: str | None = None,
    subtract: bool = True,
    intensity: str = "auto",
    inverted: bool | None = None,
) -> AngiographyRun:
    """Read one run from a multi-frame file, or from a series of single-frame files.

    Args:
        path: the multi-frame file; or the folder of the series, or one file of it (then its series is taken).
        times_s, step_s: a time per frame, or the time from frame to frame, instead of the times in the file.
        series_uid: SeriesInstanceUID to take where a folder holds several.
        subtract: do the mask subtraction that the file asks for on the way to network units.
        intensity, inverted: see :func:`custom_nets.data.angiography.intensity.fit_mapping`; ``inverted`` overrules the
            file.

    Raises:
        ValueError: another modality, colour, a single frame, no or impossible times, damaged or undecodable pixels.
    """
    path = Path(path)
    files = xa_series(path, series_uid) if path.is_dir() else _with_its_series(path)
    remarks: set[str] = set()
    datasets = [_read(file, remarks) for file in files]
    frames, datasets = _frames_in_order(datasets, path, remarks)
    first, notes, count = datasets[0], sorted(remarks), len(frames)
    _check_count(datasets, count, path)
    times_s, time_source, time_notes = _times(datasets, count, path, times_s, step_s)
    items, log, mask_notes = _mask_subtraction(first, count, path, subtract)
    notes += time_notes + mask_notes
    slope, intercept = valid_number(first, "RescaleSlope") or 1.0, valid_number(first, "RescaleIntercept") or 0.0
    if sequence(first, "ModalityLUTSequence"):
        notes.append("ModalityLUTSequence is not applied: frames are made of the stored values")
    geometry, styles, geometry_notes = _geometry(datasets, count)
    padding = padding_of(first, frames)
    origin = RunOrigin(
        path=str(path),
        format="dicom",
        meta={**_meta(first, time_source), "angle_styles": styles},
        notes=tuple(notes + geometry_notes),
        dataset=_header_only(first),
        sources=tuple((str(d.get("SOPClassUID", "")), str(d.get("SOPInstanceUID", ""))) for d in datasets),
        shutter=_shutter(first),
        padding=None if padding is None else np.asarray(padding[0].any(0)),
        padding_value=0.0 if padding is None else float(padding[1]),
    )
    return make_run(
        frames,
        times_s,
        synthetic=np.isin(np.arange(1, count + 1), synthetic_frames_of(first)),
        mask_frames=[index for item in items for index in item.mask_frames],
        subtraction=items if subtract else (),
        log=log,
        zero=intercept / slope,
        inverted=_bright_vessels(first) if inverted is None else inverted,
        intensity=intensity,
        window=_window(first, slope, intercept),
        geometry=geometry,
        origin=origin,
    )


def _check_count(datasets: Sequence[Any], count: int, path: Path) -> None:
    if count < 2:
        raise ValueError(f"{path} has a single frame: a run of at least 2 is needed, there is no time between.")
    described = len(sequence(datasets[0], "PerFrameFunctionalGroupsSequence"))
    if len(datasets) == 1 and described not in (0, count):
        raise ValueError(
            f"{path} has {count} frames, but its header describes {described}: it contradicts itself. Export it again."
        )


def _times(
    datasets: list[Any], count: int, path: Path, times_s: Sequence[float] | NDArray | None, step_s: float | None
) -> tuple[Sequence[float] | NDArray, str, list[str]]:
    """Times of the frames as given, or as the file says; what they are from; and notes."""
    if times_s is not None:
        return times_s, "given", []
    if step_s is not None:
        return np.arange(count) * step_s, "given", []
    if len(datasets) == 1:
        times_s, source = multiframe_times(datasets[0], count, path)
    else:
        times_s, source = single_file_times(datasets, path)
    own = ("FrameTime", "FrameTimeVector", "FrameReferenceDateTime", "FrameAcquisitionDateTime")
    notes, step = list[str](), float(np.median(np.diff(times_s)))
    if source not in own:
        why = "" if valid_number(datasets[0], "FrameTime") else ", as the file has no FrameTime"
        notes.append(f"frame times are from {source}{why}")
    if 0 < step < _SHORTEST_S:
        notes.append(f"{source} makes {1 / step:.4g} frames a second, faster than any X-ray system: is its unit right?")
    return times_s, source, notes + other_rates(datasets[0], step, source)


def _mask_subtraction(
    header: Any, count: int, path: Path, subtract: bool
) -> tuple[Sequence[MaskSubtraction], bool, list[str]]:
    """What the file asks to subtract, whether of logarithms, and notes."""
    items, refused = mask_items(header, count, path, strict=subtract)
    notes = [refused] if refused else []
    relationship = _relationship(header)
    if items and relationship not in ("LIN", "LOG", "DISP"):
        notes.append(f"PixelIntensityRelationship is {relationship!r}: the mask is subtracted without a logarithm")
    return items, subtract and bool(items) and relationship == "LIN", notes


def _relationship(header: Any) -> str:
    return str(anywhere(header, "PixelIntensityRelationship") or "")


def is_xa(header: Any) -> bool:
    """Whether a DICOM header is of a kind that :func:`read_xa` takes."""
    return str(header.get("SOPClassUID", "")) in XA_CLASSES


def run_headers(files: Iterable[Path], others: set[str]) -> list[tuple[Path, Any]]:
    """The XA and XRF images among DICOM files, with what tells runs apart; ``others`` gets what the rest is."""
    found = []
    for file in files:
        header, _ = read_header(file, ["SOPClassUID", "Modality", "SeriesInstanceUID", "NumberOfFrames"])
        if is_xa(header):
            found.append((file, header))
        else:
            others.add(_kind(header))
    return found


def frame_count(header: Any) -> int:
    """NumberOfFrames; 1 where it is absent, empty or no number."""
    return int(valid_number(header, "NumberOfFrames") or 1)


def xa_series(folder: Path, series_uid: str | None = None) -> list[Path]:
    """The files of one series of single-frame images in a folder (or its only multi-frame file)."""
    others: set[str] = set()
    series: dict[str, list[Path]] = {}
    for file, header in run_headers(dicom_files(folder), others):
        uid = str(header.get("SeriesInstanceUID", ""))
        several = frame_count(header) > 1
        series.setdefault(f"{uid} ({file.name})" if several else uid, []).append(file)
    if not series:
        raise ValueError(f"{folder} holds no X-ray angiography, but {', '.join(sorted(others)) or 'no DICOM image'}.")
    chosen = [key for key in series if series_uid is None or key.split(" ")[0] == series_uid]
    if len(chosen) != 1:
        found = "; ".join(f"{key}: {len(files)} file(s)" for key, files in series.items())
        if series_uid is not None and not chosen:
            raise ValueError(f"series_uid {series_uid} is not in {folder}; there are: {found}.")
        raise ValueError(f"{folder} holds {len(series)} runs, name one by its file or series_uid: {found}.")
    return series[chosen[0]]


def _with_its_series(path: Path) -> list[Path]:
    """A multi-frame file itself; for a single-frame one all files of its series."""
    mine = run_headers([path], set())
    if not mine or frame_count(mine[0][1]) > 1:
        return [path]
    uid = mine[0][1].get("SeriesInstanceUID")
    # links lie together where they are, not where they lead to
    beside = run_headers(dicom_files(path.absolute().parent), set())
    same = [file for file, header in beside if header.get("SeriesInstanceUID") == uid]
    return [file for file in same if frame_count(dict(beside)[file]) == 1] or [path]


def _kind(header: Any) -> str:
    """Modality and name of the class of an object, for messages."""
    uid = header.get("SOPClassUID")
    name = getattr(uid, "name", "") or "unknown class"
    return f"{header.get('Modality') or 'no modality'} ({name})"


def _read(path: Path, remarks: set[str]) -> Any:
    dataset, unread = read_header(path, pixels=True)
    remarks.update(f"{keyword} is {text!r} and left out" for keyword, text in unread.items())
    if "SOPClassUID" not in dataset:
        raise ValueError(f"{path} is damaged or truncated: its header cannot be read as DICOM. Export it again.")
    if not is_xa(dataset):
        raise ValueError(
            f"{path} is {_kind(dataset)}: an X-ray angiography run is needed ({', '.join(XA_CLASSES.values())})."
        )
    check_grey(dataset, path)
    if image_size(dataset) is None:
        raise ValueError(f"{path} has no valid Rows and Columns: export it again.")
    dataset.filename = str(path)
    return dataset


def _frames_in_order(datasets: list[Any], path: Path, remarks: set[str]) -> tuple[NDArray, list[Any]]:
    """Frames [T, H, W] and their files in the order of time, each image once.

    Raises:
        ValueError: several projections, no order can be told, or times and numbers tell different ones.
    """
    frames = _pixels(datasets, path, remarks)
    if len(datasets) == 1:
        return frames, datasets
    kept = _without_copies(datasets, frames, remarks)
    order = _order([datasets[k] for k in kept], path)
    kept = [kept[k] for k in order]
    uids = {text_of(datasets[k], "SOPInstanceUID") for k in kept}
    if len(uids) < len(kept):
        remarks.add(f"{len(kept)} frames share {len(uids)} SOPInstanceUID(s): all are taken")
    return frames[kept], [datasets[k] for k in kept]


def _without_copies(datasets: list[Any], frames: NDArray, remarks: set[str]) -> list[int]:
    """Leave out files with the number, time and pixels of another: the same image, stored twice.

    The UID does not tell: some software gives all frames the same one.
    """
    kept: dict[tuple, list[int]] = {}
    for k, dataset in enumerate(datasets):
        key = (dataset.get("InstanceNumber"), *(str(dataset.get(clock) or "") for clock in CLOCKS))
        twin = next((other for other in kept.get(key, []) if np.array_equal(frames[other], frames[k])), None)
        if twin is None:
            kept.setdefault(key, []).append(k)
        else:
            names = [Path(str(datasets[i].filename)).name for i in (k, twin)]
            remarks.add(f"{names[0]} is the same image as {names[1]} and left out")
    return sorted(k for group in kept.values() for k in group)


def _order(datasets: list[Any], path: Path) -> list[int]:
    """Single-frame files by time, where every file has a different one; otherwise by their number."""
    if len(datasets) < 2:
        return list(range(len(datasets)))
    _one_projection(datasets, path)
    found = [valid_number(dataset, "InstanceNumber") for dataset in datasets]
    numbered = [number for number in found if number is not None]
    counted = len(set(numbered)) == len(found)
    by_number = np.argsort(numbered) if counted else None
    for keyword in CLOCKS:
        times = file_times(datasets, keyword)
        if times is None:
            continue
        by_time = np.argsort(times, kind="stable")
        if by_number is None or (by_time == by_number).all():
            return by_time.tolist()
        if keyword == "TriggerTime":  # counts from each heartbeat anew: no evidence against the numbers
            break
        place = int(np.flatnonzero(by_time != by_number)[0])
        raise ValueError(
            f"{path}: {keyword} and InstanceNumber contradict each other: frame {place + 1} by time has InstanceNumber "
            f"{numbered[by_time[place]]:g}, by number it would be {numbered[by_number[place]]:g}. Correct the headers, "
            "or export the series as one multi-frame file."
        )
    if by_number is None:
        raise ValueError(f"{path}: the files have neither times nor InstanceNumbers that put them in an order.")
    return by_number.tolist()


def _one_projection(datasets: list[Any], path: Path) -> None:
    """Refuse a series of several runs: nothing lies between frames of two planes or two acquisitions."""
    planes = [str(kind[2]) for dataset in datasets if len(kind := dataset.get("ImageType") or []) > 2]
    acquisitions = [text for dataset in datasets if (text := text_of(dataset, "AcquisitionNumber"))]
    if len(set(acquisitions)) == len(datasets) > 2:  # a number for each file: it counts frames
        acquisitions = []
    # what is said once for a run is taken from its first file
    once: dict[str, list[str]] = {}
    for name in ("PatientID", "PhotometricInterpretation"):
        once[name] = [text for dataset in datasets if (text := text_of(dataset, name))]
    for name, default in (("ImagerPixelSpacing", []), ("RescaleSlope", [1.0]), ("RescaleIntercept", [0.0])):
        stated = [_numbers(dataset, name, default).tolist() for dataset in datasets]
        once[name] = [str(value) for value in stated if value]
    for name, values in (("ImageType value 3", planes), ("AcquisitionNumber", acquisitions), *once.items()):
        if len(set(values)) > 1:
            found = ", ".join(f"{value!r} ({values.count(value)} files)" for value in sorted(set(values))[:3])
            raise ValueError(
                f"{path}: the files of this series are no single run, they differ in {name}: {found}. Put the files of "
                "each run into a folder of their own."
            )


def _pixels(datasets: list[Any], path: Path, remarks: set[str]) -> NDArray:
    """[T, H, W] stored values of one multi-frame file or many single-frame ones."""
    first = datasets[0]
    shape = (int(first.Rows), int(first.Columns))
    if len(datasets) == 1:
        pixels = _decoded(first, path, remarks)
        frames = pixels[None] if pixels.ndim == 2 else pixels
    else:
        frames = None
        for number, dataset in enumerate(datasets):
            name = Path(str(dataset.filename))
            pixels = _decoded(dataset, name, remarks)
            if frames is None:
                frames = np.empty((len(datasets), *shape), dtype=pixels.dtype)
            if pixels.shape != shape or pixels.dtype != frames.dtype:
                raise ValueError(
                    f"{path}: {name.name} is {pixels.shape} {pixels.dtype}, the first file {shape} {frames.dtype}: the "
                    "frames of a run have one size and type."
                )
            frames[number] = pixels
    assert frames is not None
    if frames.shape[1:] != shape:
        raise ValueError(f"{path}: pixel data is {frames.shape}, the header says {shape}.")
    if frames.dtype.itemsize > 2:
        raise ValueError(f"{path} has {frames.dtype} pixels: 8 to 16 bits per pixel are needed.")
    return frames


def _decoded(dataset: Any, path: Path, remarks: set[str]) -> NDArray:
    count = frame_count(dataset)
    pixels = decode_pixels(path, dataset, remarks)
    if (len(pixels) if pixels.ndim == 3 else 1) != count:
        raise ValueError(f"{path}: NumberOfFrames is {count}, but the pixel data holds {len(pixels)} frames.")
    del dataset.PixelData  # the decoded frames are enough
    dataset._pixel_array = None
    return pixels


def mask_items(
    dataset: Any, count: int, path: str | Path = "", strict: bool = True
) -> tuple[list[MaskSubtraction], str]:
    """The items of MaskSubtractionSequence, one per frame range; and a note on what was left out.

    Args:
        strict: refuse what cannot be done for single frames, instead of ignoring it.
    """
    found: list[MaskSubtraction] = []
    note = ""
    for item in sequence(dataset, "MaskSubtractionSequence"):
        operation = text_of(item, "MaskOperation")
        if operation not in ("AVG_SUB", "TID"):
            note = "" if operation == "NONE" else f"mask operation {operation!r} is not done: frames are taken raw"
            continue
        averaged = int(valid_number(item, "ContrastFrameAveraging") or 1)
        if averaged > 1 and strict:
            raise ValueError(
                f"{path}: ContrastFrameAveraging is {averaged}, frames are shown averaged, so that single times are "
                "lost. Give --subtract False to work on the raw frames."
            )
        masks = [int(n) - 1 for n in _numbers(item, "MaskFrameNumbers", [])]
        if operation == "AVG_SUB" and not (masks and all(0 <= index < count for index in masks)):
            raise ValueError(
                f"{path}: MaskFrameNumbers {[index + 1 for index in masks]} must name some of the frames 1..{count}."
            )
        ranges = [int(n) for n in _numbers(item, "ApplicableFrameRange", [1, 1 << 30])]
        if strict and (len(ranges) % 2 or any(a > b for a, b in zip(ranges[::2], ranges[1::2], strict=True))):
            raise ValueError(
                f"{path}: ApplicableFrameRange {ranges} is no list of first and last frames. Give --subtract False to "
                "work on the raw frames."
            )
        shift = [float(v) for v in _numbers(item, "MaskSubPixelShift", [0.0, 0.0])][:2]
        for first, last in zip(ranges[::2], ranges[1::2], strict=False):
            found.append(
                MaskSubtraction(
                    operation=operation,
                    mask_frames=tuple(masks) if operation == "AVG_SUB" else (),
                    tid_offset=int(valid_number(item, "TIDOffset") or 1),
                    shift_px=(shift[0], shift[-1]),
                    first=first - 1,
                    last=last - 1,
                )
            )
    return found, note


def _numbers(header: Any, keyword: str, default: Sequence[float]) -> NDArray[np.float64]:
    found = numbers(header, keyword)
    return np.asarray(default, dtype=np.float64) if found is None else found


def _bright_vessels(dataset: Any) -> bool | None:
    """Whether vessels are high stored values, as far as the header says."""
    sign = numbers({"sign": anywhere(dataset, "PixelIntensityRelationshipSign")}, "sign")
    if sign is not None:
        return bool(sign[0] < 0)  # -1: higher values for less X-ray
    return dataset.get("PhotometricInterpretation") == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"


def _window(dataset: Any, slope: float, intercept: float) -> tuple[float, float] | None:
    """(lowest, highest) stored value of the first display window."""
    found = {name: anywhere(dataset, f"Window{name}") for name in ("Center", "Width")}
    centre, width = valid_number(found, "Center"), valid_number(found, "Width")
    if centre is None or width is None:
        return None
    low, high = sorted((value - intercept) / slope for value in (centre - width / 2, centre + width / 2))
    return low, high


def _shutter(dataset: Any) -> dict[str, Any]:
    """Shutter, or where there is none collimator, as plain numbers."""
    for prefix in ("Shutter", "Collimator"):
        shapes = anywhere(dataset, f"{prefix}Shape")
        if not shapes:
            continue
        wanted = [shapes] if isinstance(shapes, str) else list(shapes)
        found: dict[str, Any] = {}

        def values(name: str, prefix: str = prefix) -> list[float]:
            return _numbers({"value": anywhere(dataset, name.format(prefix))}, "value", []).tolist()

        edges = ("{}LeftVerticalEdge", "{}RightVerticalEdge", "{}UpperHorizontalEdge", "{}LowerHorizontalEdge")
        rectangle = [v for name in edges for v in values(name)]
        circle = values("CenterOfCircular{}") + values("RadiusOfCircular{}")
        polygon = values("VerticesOfThePolygonal{}")
        if "RECTANGULAR" in wanted and len(rectangle) == 4:
            found["rectangle"] = rectangle
        if "CIRCULAR" in wanted and len(circle) == 3:
            found["circle"] = circle
        if "POLYGONAL" in wanted and len(polygon) >= 6:
            found["polygon"] = [tuple(polygon[k : k + 2]) for k in range(0, len(polygon) - 1, 2)]
        if found:
            return found
    return {}


def _geometry(datasets: list[Any], count: int) -> tuple[RunGeometry, dict[str, str], list[str]]:
    first = datasets[0]

    def number(keyword: str) -> float | None:
        return valid_number({keyword: anywhere(first, keyword)}, keyword)

    notes = list[str]()
    spacing = None
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        value = anywhere(first, keyword)
        found = numbers({keyword: value}, keyword)
        if found is not None and len(found) == 2 and (found > 0).all():
            spacing = (float(found[0]), float(found[1]))
            break
        if value not in (None, ""):
            notes.append(f"{keyword} is {value!r}, not two distances, and left out")
    primary, secondary, styles, angle_notes = positioner_angles(datasets, count)
    notes += angle_notes
    return (
        RunGeometry(
            pixel_spacing_mm=spacing,
            primary_deg=primary,
            secondary_deg=secondary,
            table_mm=table_positions(datasets, count),
            source_detector_mm=number("DistanceSourceToDetector"),
            source_isocenter_mm=number("DistanceSourceToPatient") or number("DistanceSourceToIsocenter"),
        ),
        styles,
        notes,
    )


def _meta(dataset: Any, time_source: str) -> dict[str, Any]:
    names = ("SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "BodyPartExamined")
    meta: dict[str, Any] = {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(): str(dataset.get(name)) for name in names if name in dataset
    }
    meta["bits_stored"] = int(valid_number(dataset, "BitsStored") or valid_number(dataset, "BitsAllocated") or 16)
    meta["photometric"] = str(dataset.get("PhotometricInterpretation"))
    meta["intensity_relationship"] = _relationship(dataset)
    meta["time_source"] = time_source
    return meta


def _header_only(dataset: Any) -> Any:
    for keyword in ("PixelData", "PixelDataProviderURL", "IconImageSequence"):
        if keyword in dataset:
            del dataset[keyword]
    return dataset
