"""Frame times of an XA object or series, and elements wherever an object keeps them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.dicom.elements import numbers, sequence, valid_number

__all__ = [
    "CLOCKS",
    "STAMPS",
    "anywhere",
    "clock",
    "file_times",
    "frame_groups",
    "multiframe_times",
    "other_rates",
    "parse_stamp",
    "single_file_times",
    "stamp",
]

STAMPS = ("FrameReferenceDateTime", "FrameAcquisitionDateTime")
CLOCKS = ("AcquisitionDateTime", "AcquisitionTime", "ContentTime", "TriggerTime")
_DATES = {"AcquisitionTime": ("AcquisitionDate", "ContentDate"), "ContentTime": ("ContentDate",)}
_DAY_S = 86400.0
_SAME_RATE = 0.1  # share by which rates of one file may differ
_EPOCH = datetime(1900, 1, 1)
_SAY = 'say the rate by --input_fps, or all times by --input_times_s "[0, 0.25, ...]"'


def multiframe_times(dataset: Any, count: int, path: Path) -> tuple[NDArray[np.float64], str]:
    """Times from the first frame on (s), and the element they come from."""
    if sequence(dataset, "PerFrameFunctionalGroupsSequence"):
        for keyword in STAMPS:
            stamps = [_datetime(anywhere(dataset, keyword, frame)) for frame in range(count)]
            if None not in stamps and len(set(stamps)) == count:
                stamped = np.asarray(stamps, dtype=np.int64)
                return (stamped - stamped[0]).astype(np.float64) / 1e6, keyword
    pointer = dataset.get("FrameIncrementPointer")
    pointers = [] if pointer is None else [pointer] if isinstance(pointer, int) else list(pointer)
    steps = numbers(dataset, "FrameTimeVector")
    if steps is not None and (0x00181065 in pointers or not valid_number(dataset, "FrameTime")):
        if len(steps) != count:
            raise ValueError(f"{path}: FrameTimeVector has {len(steps)} entries for {count} frames: {_SAY}.")
        growth = np.diff(steps)
        if count > 3 and growth[0] > 0 and np.abs(growth - growth[0]).max() < _SAME_RATE * growth[0]:
            raise ValueError(
                f"{path}: FrameTimeVector grows by {growth[0]:g} ms from frame to frame: steps do not, so that these "
                f"seem to be times from the start. {_SAY[0].upper()}{_SAY[1:]}."
            )
        total: NDArray[np.float64] = np.cumsum(steps)
        return (total - total[0]) / 1000, "FrameTimeVector"
    fixed = [("FrameTime", 1e-3, 1), ("CineRate", 1.0, -1), ("RecommendedDisplayFrameRate", 1.0, -1)]
    for keyword, unit, power in [*fixed, ("ActualFrameDuration", 1e-3, 1)]:
        value = valid_number(dataset, keyword)
        if value is not None and value > 0:
            return np.arange(count, dtype=np.float64) * (unit * value**power), keyword
    raise ValueError(f"{path} has no frame times (no FrameTime, FrameTimeVector or CineRate): {_SAY}.")


def other_rates(dataset: Any, step_s: float, source: str) -> list[str]:
    """Notes on elements that say another time between frames than the one that counts (of the display: not asked)."""
    notes = []
    for keyword, unit, power in (("FrameTime", 1e-3, 1), ("FrameTimeVector", 1e-3, 1), ("CineRate", 1.0, -1)):
        values = numbers(dataset, keyword)
        found = 0.0 if values is None or keyword == source else float(np.median(values[-max(len(values) - 1, 1) :]))
        if found > 0 and abs((other := unit * found**power) - step_s) > _SAME_RATE * step_s:
            notes.append(f"{keyword} says {other:.4g} s between frames, {source} {step_s:.4g} s: {source} counts")
    return notes


def single_file_times(datasets: list[Any], path: Path) -> tuple[NDArray[np.float64], str]:
    """Times of single-frame files in order (s from the first), and the element they come from."""
    for keyword in CLOCKS:
        times = file_times(datasets, keyword)
        if times is not None and (np.diff(times) > 0).all():
            return times - times[0], keyword
    return multiframe_times(datasets[0], len(datasets), path)


def file_times(datasets: list[Any], keyword: str) -> NDArray[np.float64] | None:
    """Times of single-frame files by one element, in s, midnights counted; None unless each file has a different one.

    A time of day goes with its date. Where dates are missing, or all the same although the times span more than 12
    hours, the run went across midnight: the early times are of the next day.
    """
    times = [clock(dataset, keyword) for dataset in datasets]
    if None in times:
        return None
    found = np.asarray(times, dtype=np.float64)
    if keyword in _DATES:
        columns = [[_day(dataset.get(date)) for dataset in datasets] for date in _DATES[keyword]]
        days = next((np.asarray(column) for column in columns if None not in column), np.zeros(len(found)))
        if np.ptp(days) > 0:
            found = found + _DAY_S * (days - days.min()).astype(np.float64)
        elif np.ptp(found) > _DAY_S / 2:
            found = np.where(found < found.max() - _DAY_S / 2, found + _DAY_S, found)
    return found if len(np.unique(found)) == len(found) else None


def _day(value: Any) -> int | None:
    """A DICOM DA as a number of days."""
    parsed = parse_stamp(f"{str(value or '').strip()}000000")
    return None if parsed is None else parsed[0] // (1_000_000 * int(_DAY_S))


def clock(dataset: Any, keyword: str) -> float | None:
    """A date and time (DICOM DT), a time of day (TM) or a trigger time (ms) in seconds."""
    value = dataset.get(keyword)
    if value in (None, ""):
        return None
    if keyword == "TriggerTime":
        milliseconds = valid_number(dataset, keyword)
        return None if milliseconds is None else milliseconds / 1000
    if keyword == "AcquisitionDateTime":
        microseconds = _datetime(value)
        return None if microseconds is None else microseconds / 1e6
    match = re.fullmatch(r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)", str(value).strip())
    return None if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def parse_stamp(value: Any) -> tuple[int, str] | None:
    """A DICOM DT as whole microseconds of its own clock, and its time zone as written ("" where it has none)."""
    match = re.fullmatch(r"(\d{14})(?:\.(\d{1,6}))?([+-]\d{4})?", str(value or "").strip())
    if match is None:
        return None
    try:
        whole = datetime.strptime(match[1], "%Y%m%d%H%M%S") - _EPOCH
    except ValueError:  # no such day or time
        return None
    return round(whole.total_seconds()) * 1_000_000 + int((match[2] or "0").ljust(6, "0")), match[3] or ""


def stamp(microseconds: float, zone: str) -> str:
    """A DICOM DT from what :func:`parse_stamp` returns."""
    return f"{_EPOCH + timedelta(microseconds=round(microseconds)):%Y%m%d%H%M%S.%f}{zone}"


def _datetime(value: Any) -> int | None:
    """A DICOM DT as whole microseconds (time zones left out: the difference counts)."""
    parsed = parse_stamp(value)
    return None if parsed is None else parsed[0]


def frame_groups(dataset: Any, frame: int) -> list[Any]:
    """Functional groups of a frame in an enhanced object, its own first, then the shared ones; flat items."""
    own = sequence(dataset, "PerFrameFunctionalGroupsSequence")
    found = []
    for group in [*own[frame : frame + 1], *sequence(dataset, "SharedFunctionalGroupsSequence")]:
        found += [element.value[0] for element in group if element.VR == "SQ" and element.value]
    return found


def anywhere(dataset: Any, keyword: str, frame: int = 0) -> Any:
    """An element of the header, or of the functional groups of a frame; None where it is nowhere, or empty."""
    found = (holder.get(keyword) for holder in (dataset, *frame_groups(dataset, frame)))
    return next((value for value in found if value not in (None, "")), None)
