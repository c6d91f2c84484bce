"""What an XA object says frame by frame, written for a new number of frames: times, angles, table, groups."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.parts import wrap_degrees
from custom_nets.data.angiography.run import AngiographyRun, RunGeometry
from custom_nets.data.angiography.xa_times import STAMPS, parse_stamp, stamp
from custom_nets.data.dicom.derived import decimal
from custom_nets.data.dicom.elements import sequence, text_of

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
        dataset.FrameTime = decimal(round(step_ms, 6))
        dataset.FrameIncrementPointer = 0x00181063
        dataset.ActualFrameDuration = max(1, round(step_ms))
    else:
        # differences of rounded times: roundings do not add up; the first entry is 0 by the standard
        vector = np.diff(np.round(1000 * times_s, 6), prepend=np.round(1000 * times_s[0], 6))
        dataset.FrameTimeVector = [decimal(round(v, 6)) for v in vector]
        dataset.FrameIncrementPointer = 0x00181065
    rate = max(1, round(1 / float(np.median(steps))))
    dataset.CineRate, dataset.RecommendedDisplayFrameRate = rate, rate


def set_angles(dataset: Any, geometry: RunGeometry, styles: Mapping[str, str]) -> None:
    """Start angle and increments; "Primary" and "Secondary" in the style that the source has, otherwise as steps."""
    for name, angles in (("Primary", geometry.primary_deg), ("Secondary", geometry.secondary_deg)):
        increment = f"Positioner{name}AngleIncrement"
        if angles is None:
            setattr(dataset, f"Positioner{name}Angle", text_of(dataset, f"Positioner{name}Angle"))
            if increment in dataset:
                del dataset[increment]
            continue
        if increment in dataset or dataset.get("PositionerMotion") == "DYNAMIC":
            turned = np.unwrap(angles, period=360)  # steps across 180 degrees are small ones
            values = {
                "steps": np.diff(turned, prepend=turned[0]),
                "offsets": turned - turned[0],
                "absolute": angles,
            }[styles.get(name, "steps")]
            setattr(dataset, increment, [decimal(round(v, 6)) for v in values])
        setattr(dataset, f"Positioner{name}Angle", decimal(round(float(angles[0]), 6)))


def set_table(dataset: Any, geometry: RunGeometry) -> None:
    """Table increments from frame to frame."""
    if geometry.table_mm is None:
        for keyword in _TABLE:
            if np.size(dataset.get(keyword)) > 1:  # of the old number of frames; nothing moves
                setattr(dataset, keyword, "0")
        return
    dataset.TableMotion = "DYNAMIC"
    for keyword, values in zip(_TABLE, geometry.table_mm.T, strict=True):
        setattr(dataset, keyword, [decimal(round(v, 6)) for v in np.diff(values, prepend=values[0])])


def set_frame_groups(dataset: Any, run: AngiographyRun) -> None:
    """Functional groups of an enhanced object: those of measured frames as they were, made frames in between.

    A made frame has the groups of the measured frame before it, with numbers about positions interpolated, its own
    time, and its kind said in FrameType and FrameComments. Where the times of the run are not those of the stamps in
    the file, measured frames get new stamps, too: one object has one clock.

    Raises:
        ValueError: a stamp is needed that is no DICOM date and time.
    """
    old = sequence(dataset, "PerFrameFunctionalGroupsSequence")
    if not old:
        return
    for shared in sequence(dataset, "SharedFunctionalGroupsSequence"):
        if run.synthetic.any() and "FramePixelDataPropertiesSequence" in shared:  # FrameType differs from now on
            for group in old:
                group.FramePixelDataPropertiesSequence = copy.deepcopy(shared.FramePixelDataPropertiesSequence)
            del shared.FramePixelDataPropertiesSequence
    measured = np.flatnonzero(run.source_index >= 0)
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
            _mark_made(group)
        groups.append(group)
    if run.origin.meta.get("time_source") not in STAMPS:
        _restamp(groups, run.times_s)
    _number_dimensions(groups, old)
    dataset.PerFrameFunctionalGroupsSequence = groups


def _between(before: Any, after: Any, fraction: float) -> Any:
    group = copy.deepcopy(before)
    for name in _MOVING_GROUPS:
        for item, other in zip(group.get(name) or [], after.get(name) or [], strict=False):
            for element in item:
                later = other.get(element.keyword) if element.keyword else None
                if element.VR in ("FD", "FL", "DS") and element.VM == 1 and later not in (None, ""):
                    change = float(later) - float(element.value)
                    if element.keyword.endswith("Angle"):  # the shorter way round
                        change = float(wrap_degrees(change))
                        value = float(wrap_degrees(float(element.value) + fraction * change))
                    else:
                        value = float(element.value) + fraction * change
                    element.value = decimal(round(value, 6)) if element.VR == "DS" else value
    _stamp_between(_content(group), _content(before), _content(after), fraction)
    return group


def _content(group: Any) -> Any:
    return (group.get("FrameContentSequence") or [{}])[0]


def _parsed(content: Any, keyword: str) -> tuple[int, str] | None:
    """A stamp as microseconds and zone; None where the frame has none."""
    value = content.get(keyword)
    if value in (None, ""):
        return None
    parsed = parse_stamp(value)
    if parsed is None:
        raise ValueError(f"{keyword} {str(value)!r} is no date and time (YYYYMMDDHHMMSS.FFFFFF&ZZXX).")
    return parsed


def _stamp_between(content: Any, before: Any, after: Any, fraction: float) -> None:
    """Each stamp of a made frame lies between those of its neighbours; without both there is none to say."""
    for keyword in STAMPS:
        earlier, later = _parsed(before, keyword), _parsed(after, keyword)
        if earlier is not None and later is not None:
            setattr(content, keyword, stamp(earlier[0] + fraction * (later[0] - earlier[0]), earlier[1]))
        elif keyword in content:
            del content[keyword]


def _restamp(groups: list[Any], times_s: NDArray[np.float64]) -> None:
    """Stamps of all frames by the times of the run, counted from the first frame that has one."""
    contents = [_content(group) for group in groups]
    for keyword in STAMPS:
        first = next((k for k, content in enumerate(contents) if content.get(keyword) not in (None, "")), None)
        start = None if first is None else _parsed(contents[first], keyword)
        if first is None or start is None:
            continue
        for content, seconds in zip(contents, times_s - times_s[first], strict=True):
            if content:
                setattr(content, keyword, stamp(start[0] + 1e6 * float(seconds), start[1]))


def _mark_made(group: Any) -> None:
    content = (group.get("FrameContentSequence") or [None])[0]
    if content is not None:
        content.FrameComments = "synthetic: made between the measured frames beside it"
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
