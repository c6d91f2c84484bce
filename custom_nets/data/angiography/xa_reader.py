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
from custom_nets.data.angiography.xa_times import CLOCKS, anywhere, file_times, multiframe_times, single_file_times
from custom_nets.data.dicom.files import decode_pixels, dicom_files

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

XA_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.12.1": "X-Ray Angiographic",
    "1.2.840.10008.5.1.4.1.1.12.2": "X-Ray Radiofluoroscopic",
    "1.2.840.10008.5.1.4.1.1.12.1.1": "Enhanced XA",
    "1.2.840.10008.5.1.4.1.1.12.2.1": "Enhanced XRF",
}
ENHANCED_CLASSES = ("1.2.840.10008.5.1.4.1.1.12.1.1", "1.2.840.10008.5.1.4.1.1.12.2.1")
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_GREY = ("MONOCHROME1", "MONOCHROME2")


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
    datasets = [_read(file) for file in files]
    if len(datasets) > 1:
        datasets = _in_order(datasets, path)
    first, notes = datasets[0], list[str]()
    frames = _pixels(datasets, path)
    count = len(frames)
    if count < 2:
        raise ValueError(f"{path} has a single frame: a run of at least 2 is needed, there is no time between.")
    time_source = "given"
    if times_s is None and step_s is not None:
        times_s = np.arange(count) * step_s
    elif times_s is None:
        times_s, time_source = (
            multiframe_times(first, count, path) if len(datasets) == 1 else single_file_times(datasets, path)
        )
        if time_source not in ("FrameTime", "FrameTimeVector", "FrameReferenceDateTime", "FrameAcquisitionDateTime"):
            notes.append(f"frame times are from {time_source}, as the file has no FrameTime")
    items, refused = mask_items(first, count, path, strict=subtract)
    notes += [refused] if refused else []
    relationship = str(anywhere(first, "PixelIntensityRelationship") or "")
    log = subtract and bool(items) and relationship == "LIN"
    if items and relationship not in ("LIN", "LOG", "DISP"):
        notes.append(f"PixelIntensityRelationship is {relationship!r}: the mask is subtracted without a logarithm")
    slope, intercept = float(first.get("RescaleSlope") or 1), float(first.get("RescaleIntercept") or 0)
    geometry, styles, geometry_notes = _geometry(datasets, count)
    origin = RunOrigin(
        path=str(path),
        format="dicom",
        meta={**_meta(first, time_source, relationship), "angle_styles": styles},
        notes=tuple(notes + geometry_notes),
        dataset=_header_only(first),
        sources=tuple((str(d.get("SOPClassUID", "")), str(d.get("SOPInstanceUID", ""))) for d in datasets),
        shutter=_shutter(first),
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


def is_xa(header: Any) -> bool:
    """Whether a DICOM header is of a kind that :func:`read_xa` takes."""
    return str(header.get("SOPClassUID", "")) in XA_CLASSES


def run_headers(files: Iterable[Path], others: set[str]) -> list[tuple[Path, Any]]:
    """The XA and XRF images among DICOM files, with what tells runs apart; ``others`` gets what the rest is."""
    import pydicom

    tags = ["SOPClassUID", "Modality", "SeriesInstanceUID", "NumberOfFrames"]
    found = []
    for file in files:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(tags))
        if is_xa(header):
            found.append((file, header))
        else:
            others.add(_kind(header))
    return found


def xa_series(folder: Path, series_uid: str | None = None) -> list[Path]:
    """The files of one series of single-frame images in a folder (or its only multi-frame file)."""
    others: set[str] = set()
    series: dict[str, list[Path]] = {}
    for file, header in run_headers(dicom_files(folder), others):
        uid = str(header.get("SeriesInstanceUID", ""))
        several = int(header.get("NumberOfFrames") or 1) > 1
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
    if not mine or int(mine[0][1].get("NumberOfFrames") or 1) > 1:
        return [path]
    uid = mine[0][1].get("SeriesInstanceUID")
    beside = run_headers(dicom_files(path.resolve().parent), set())
    same = [file for file, header in beside if header.get("SeriesInstanceUID") == uid]
    return [file for file in same if int(dict(beside)[file].get("NumberOfFrames") or 1) == 1] or [path]


def _kind(header: Any) -> str:
    """Modality and name of the class of an object, for messages."""
    uid = header.get("SOPClassUID")
    name = getattr(uid, "name", "") or "unknown class"
    return f"{header.get('Modality') or 'no modality'} ({name})"


def _read(path: Path) -> Any:
    import pydicom

    try:
        dataset = pydicom.dcmread(path, force=True)
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise ValueError(f"{path} is a damaged DICOM file: {' '.join(str(error).split())}.") from error
    if "SOPClassUID" not in dataset:
        raise ValueError(f"{path} is damaged or truncated: its header cannot be read as DICOM. Export it again.")
    if not is_xa(dataset):
        raise ValueError(
            f"{path} is {_kind(dataset)}: an X-ray angiography run is needed ({', '.join(XA_CLASSES.values())})."
        )
    if int(dataset.get("SamplesPerPixel", 1)) != 1 or dataset.get("PhotometricInterpretation") not in _GREY:
        raise ValueError(
            f"{path} is {dataset.get('PhotometricInterpretation')} with {dataset.get('SamplesPerPixel')} samples per "
            "pixel: grey frames (MONOCHROME1 or MONOCHROME2) are needed."
        )
    return dataset


def _in_order(datasets: list[Any], path: Path) -> list[Any]:
    """Single-frame files by time, where every file has a different one; otherwise by their number.

    Raises:
        ValueError: several projections, no order can be told, or times and numbers tell different ones.
    """
    unique = {str(dataset.get("SOPInstanceUID", number)): dataset for number, dataset in enumerate(datasets)}
    datasets = list(unique.values())
    _one_projection(datasets, path)
    numbers = [dataset.get("InstanceNumber") for dataset in datasets]
    counted = None not in numbers and len(set(numbers)) == len(numbers)
    by_number = np.argsort([int(number) for number in numbers]) if counted else None
    for keyword in CLOCKS:
        times = file_times(datasets, keyword)
        if times is None:
            continue
        by_time = np.argsort(times, kind="stable")
        if by_number is None or (by_time == by_number).all():
            return [datasets[k] for k in by_time]
        if keyword == "TriggerTime":  # counts from each heartbeat anew: no evidence against the numbers
            break
        place = int(np.flatnonzero(by_time != by_number)[0])
        raise ValueError(
            f"{path}: {keyword} and InstanceNumber contradict each other: frame {place + 1} by time has InstanceNumber "
            f"{numbers[by_time[place]]}, by number it would be {numbers[by_number[place]]}. Correct the headers, or "
            "export the series as one multi-frame file."
        )
    if by_number is None:
        raise ValueError(f"{path}: the files have neither times nor InstanceNumbers that put them in an order.")
    return [datasets[k] for k in by_number]


def _one_projection(datasets: list[Any], path: Path) -> None:
    """Refuse a series of several runs: nothing lies between frames of two planes or two acquisitions."""
    planes = [str(kind[2]) for dataset in datasets if len(kind := dataset.get("ImageType") or []) > 2]
    acquisitions = [str(value) for dataset in datasets if (value := dataset.get("AcquisitionNumber")) is not None]
    if len(set(acquisitions)) == len(datasets) > 2:  # a number for each file: it counts frames
        acquisitions = []
    for name, values in (("ImageType value 3", planes), ("AcquisitionNumber", acquisitions)):
        if len(set(values)) > 1:
            found = ", ".join(f"{value!r} ({values.count(value)} files)" for value in sorted(set(values)))
            raise ValueError(
                f"{path}: the files of this series are no single run, they differ in {name}: {found}. Put the files of "
                "each run into a folder of their own."
            )


def _pixels(datasets: list[Any], path: Path) -> NDArray:
    """[T, H, W] stored values of one multi-frame file or many single-frame ones."""
    first = datasets[0]
    shape = (int(first.get("Rows", 0)), int(first.get("Columns", 0)))
    if len(datasets) == 1:
        pixels = _decoded(first, path)
        frames = pixels[None] if pixels.ndim == 2 else pixels
    else:
        frames = None
        for number, dataset in enumerate(datasets):
            name = Path(str(dataset.filename))
            pixels = _decoded(dataset, name)
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


def _decoded(dataset: Any, path: Path) -> NDArray:
    if "PixelData" not in dataset:
        raise ValueError(f"{path} has no pixel data.")
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    count = int(dataset.get("NumberOfFrames") or 1)
    if syntax is None or str(syntax) in _NATIVE:
        need = count * int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
        have = len(dataset.PixelData)
        if not need <= have <= need + 1:
            raise ValueError(
                f"{path}: NumberOfFrames is {count}, which makes {need} bytes of pixels, but the file has {have}: it "
                "is truncated, or the number is wrong. Export the series again."
            )
    pixels = decode_pixels(path, dataset)
    if pixels.ndim == 3 and len(pixels) != count:
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
    for item in dataset.get("MaskSubtractionSequence") or []:
        operation = str(item.get("MaskOperation") or "")
        if operation not in ("AVG_SUB", "TID"):
            note = "" if operation == "NONE" else f"mask operation {operation!r} is not done: frames are taken raw"
            continue
        averaged = int(item.get("ContrastFrameAveraging") or 1)
        if averaged > 1 and strict:
            raise ValueError(
                f"{path}: ContrastFrameAveraging is {averaged}, frames are shown averaged, so that single times are "
                "lost. Give --subtract False to work on the raw frames."
            )
        numbers = item.get("MaskFrameNumbers")
        masks = [int(n) - 1 for n in np.atleast_1d(numbers if numbers is not None else [])]
        if operation == "AVG_SUB" and not (masks and all(0 <= index < count for index in masks)):
            raise ValueError(
                f"{path}: MaskFrameNumbers {[index + 1 for index in masks]} must name some of the frames 1..{count}."
            )
        ranges = [int(n) for n in np.atleast_1d(item.get("ApplicableFrameRange") or [1, 1 << 30])]
        shift = [float(v) for v in np.atleast_1d(item.get("MaskSubPixelShift") or [0.0, 0.0])][:2]
        for first, last in zip(ranges[::2], ranges[1::2], strict=False):
            found.append(
                MaskSubtraction(
                    operation=operation,
                    mask_frames=tuple(masks) if operation == "AVG_SUB" else (),
                    tid_offset=int(item.get("TIDOffset") or 1),
                    shift_px=(shift[0], shift[-1]),
                    first=first - 1,
                    last=last - 1,
                )
            )
    return found, note


def _bright_vessels(dataset: Any) -> bool | None:
    """Whether vessels are high stored values, as far as the header says."""
    sign = anywhere(dataset, "PixelIntensityRelationshipSign")
    if sign is not None:
        return int(sign) < 0  # -1: higher values for less X-ray
    return dataset.get("PhotometricInterpretation") == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"


def _window(dataset: Any, slope: float, intercept: float) -> tuple[float, float] | None:
    """(lowest, highest) stored value of the first display window."""
    centre, width = anywhere(dataset, "WindowCenter"), anywhere(dataset, "WindowWidth")
    if centre is None or width is None:
        return None
    centre, width = float(np.atleast_1d(centre)[0]), float(np.atleast_1d(width)[0])
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
            value = anywhere(dataset, name.format(prefix))
            return [] if value is None else [float(v) for v in np.atleast_1d(value)]

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
        value = anywhere(first, keyword)
        return None if value in (None, "") else float(value)

    spacing = anywhere(first, "ImagerPixelSpacing") or anywhere(first, "PixelSpacing")
    primary, secondary, styles, notes = positioner_angles(datasets, count)
    return (
        RunGeometry(
            pixel_spacing_mm=(float(spacing[0]), float(spacing[1])) if spacing else None,
            primary_deg=primary,
            secondary_deg=secondary,
            table_mm=table_positions(datasets, count),
            source_detector_mm=number("DistanceSourceToDetector"),
            source_isocenter_mm=number("DistanceSourceToPatient") or number("DistanceSourceToIsocenter"),
        ),
        styles,
        notes,
    )


def _meta(dataset: Any, time_source: str, relationship: str) -> dict[str, Any]:
    names = ("SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "BodyPartExamined")
    meta: dict[str, Any] = {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(): str(dataset.get(name)) for name in names if name in dataset
    }
    meta["bits_stored"] = int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 16)
    meta["photometric"] = str(dataset.get("PhotometricInterpretation"))
    meta["intensity_relationship"] = relationship
    meta["time_source"] = time_source
    return meta


def _header_only(dataset: Any) -> Any:
    for keyword in ("PixelData", "PixelDataProviderURL", "IconImageSequence"):
        if keyword in dataset:
            del dataset[keyword]
    return dataset
