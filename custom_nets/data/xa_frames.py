"""What an XA object says frame by frame, written for a new number of frames: times, angles, table, groups."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.runs import AngiographyRun, RunGeometry

__all__ = ["set_angles", "set_frame_groups", "set_table", "set_times"]

_EVEN_S = 5e-6
_MOVING_GROUPS = (
    "PositionerPositionSequence", "IsocenterReferenceSystemSequence", "TablePositionSequence", "XRayGeometrySequence",
)  # fmt: skip
_TABLE = ("TableVerticalIncrement", "TableLongitudinalIncrement", "TableLateralIncrement")


def set_times(dataset: Any, times_s: NDArray[np.float64]) -> None:
    """FrameTime where the frames are evenly spaced, otherwise FrameTimeVector; pointer and rates to match."""
    steps = np.diff(times_s)
    even = np.abs(times_s - np.linspace(times_s[0], times_s[-1], len(times_s))).max() < _EVEN_S
    for keyword in ("FrameTime", "FrameTimeVector", "ActualFrameDuration"):
        if keyword in dataset:
            del dataset[keyword]
    if even:
        step_ms = 1000 * (times_s[-1] - times_s[0]) / (len(times_s) - 1)
        dataset.FrameTime = _decimal(round(step_ms, 6))
        dataset.FrameIncrementPointer = 0x00181063
        dataset.ActualFrameDuration = max(1, round(step_ms))
    else:
        # differences of rounded times: roundings do not add up; the first entry is 0 by the standard
        vector = np.diff(np.round(1000 * times_s, 6), prepend=np.round(1000 * times_s[0], 6))
        dataset.FrameTimeVector = [_decimal(round(v, 6)) for v in vector]
        dataset.FrameIncrementPointer = 0x00181065
    rate = max(1, round(1 / float(np.median(steps))))
    dataset.CineRate, dataset.RecommendedDisplayFrameRate = rate, rate


def set_angles(dataset: Any, geometry: RunGeometry, styles: Mapping[str, str]) -> None:
    """Start angle and increments; "Primary" and "Secondary" in the style that the source has, otherwise as steps."""
    for name, angles in (("Primary", geometry.primary_deg), ("Secondary", geometry.secondary_deg)):
        increment = f"Positioner{name}AngleIncrement"
        if angles is None:
            setattr(dataset, f"Positioner{name}Angle", dataset.get(f"Positioner{name}Angle") or "")
            if increment in dataset:
                del dataset[increment]
            continue
        if increment in dataset or dataset.get("PositionerMotion") == "DYNAMIC":
            values = {
                "steps": np.diff(angles, prepend=angles[0]),
                "offsets": angles - angles[0],
                "absolute": angles,
            }[styles.get(name, "steps")]
            setattr(dataset, increment, [_decimal(round(v, 6)) for v in values])
        setattr(dataset, f"Positioner{name}Angle", _decimal(round(float(angles[0]), 6)))


def set_table(dataset: Any, geometry: RunGeometry) -> None:
    """Table increments from frame to frame."""
    if geometry.table_mm is None:
        for keyword in _TABLE:
            if np.size(dataset.get(keyword)) > 1:  # of the old number of frames; nothing moves
                setattr(dataset, keyword, "0")
        return
    dataset.TableMotion = "DYNAMIC"
    for keyword, values in zip(_TABLE, geometry.table_mm.T, strict=True):
        setattr(dataset, keyword, [_decimal(round(v, 6)) for v in np.diff(values, prepend=values[0])])


def set_frame_groups(dataset: Any, run: AngiographyRun) -> None:
    """Functional groups of an enhanced object: those of measured frames as they were, made frames in between.

    A made frame has the groups of the measured frame before it, with numbers about positions interpolated, its own
    time, and its kind said in FrameType and FrameComments.
    """
    old = list(dataset.PerFrameFunctionalGroupsSequence)
    for shared in dataset.get("SharedFunctionalGroupsSequence") or []:
        if run.synthetic.any() and "FramePixelDataPropertiesSequence" in shared:  # FrameType differs from now on
            for group in old:
                group.FramePixelDataPropertiesSequence = copy.deepcopy(shared.FramePixelDataPropertiesSequence)
            del shared.FramePixelDataPropertiesSequence
    measured = np.flatnonzero(run.source_index >= 0)
    start = _stamp(old[int(run.source_index[measured[0]])])
    groups = []
    for k, source in enumerate(run.source_index):
        if source >= 0:
            group = copy.deepcopy(old[int(source)])
        else:
            before = measured[measured < k][-1]
            after = measured[measured > k][0]
            span = run.times_s[after] - run.times_s[before]
            group = _between(
                old[int(run.source_index[before])], old[int(run.source_index[after])],
                float((run.times_s[k] - run.times_s[before]) / span),
            )  # fmt: skip
            _mark_made(group, start, run.times_s[k] - run.times_s[measured[0]])
        groups.append(group)
    _number_dimensions(groups, old)
    dataset.PerFrameFunctionalGroupsSequence = groups


def _between(before: Any, after: Any, fraction: float) -> Any:
    group = copy.deepcopy(before)
    for name in _MOVING_GROUPS:
        for item, other in zip(group.get(name) or [], after.get(name) or [], strict=False):
            for element in item:
                later = other.get(element.keyword) if element.keyword else None
                if element.VR in ("FD", "FL", "DS") and element.VM == 1 and later not in (None, ""):
                    value = float(element.value) + fraction * (float(later) - float(element.value))
                    element.value = _decimal(round(value, 6)) if element.VR == "DS" else value
    return group


def _stamp(group: Any) -> datetime | None:
    content = (group.get("FrameContentSequence") or [{}])[0]
    text = str(content.get("FrameReferenceDateTime") or content.get("FrameAcquisitionDateTime") or "")
    try:
        return datetime.strptime(text[:14], "%Y%m%d%H%M%S") + timedelta(seconds=float("0" + text[14:21].strip("+-")))
    except ValueError:
        return None


def _mark_made(group: Any, start: datetime | None, seconds: float) -> None:
    content = (group.get("FrameContentSequence") or [None])[0]
    if content is not None:
        content.FrameComments = "synthetic: made between the measured frames beside it"
        for keyword in ("FrameReferenceDateTime", "FrameAcquisitionDateTime"):
            if keyword in content and start is not None:
                setattr(content, keyword, (start + timedelta(seconds=seconds)).strftime("%Y%m%d%H%M%S.%f"))
    for kind in group.get("FramePixelDataPropertiesSequence") or []:
        kind.FrameType = ["DERIVED", *list(kind.get("FrameType") or ["", "PRIMARY"])[1:]]


def _number_dimensions(groups: list[Any], old: list[Any]) -> None:
    """Dimension indices that grew with the frames count the new ones."""

    def values(group: Any) -> list[int]:
        found = (group.get("FrameContentSequence") or [{}])[0].get("DimensionIndexValues")
        return [] if found is None else [int(v) for v in np.atleast_1d(found)]

    table = [values(group) for group in old]
    if not table[0] or len({len(row) for row in table}) != 1:
        return
    counts = [bool((np.diff(column) > 0).all()) for column in zip(*table, strict=True)]
    for number, group in enumerate(groups, 1):
        own = values(group)
        group.FrameContentSequence[0].DimensionIndexValues = [
            number if grows else value for value, grows in zip(own, counts, strict=True)
        ]


def _decimal(value: float) -> str:
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))
