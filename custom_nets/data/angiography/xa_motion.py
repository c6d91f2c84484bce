"""Angles and table positions of every frame of an XA run, from elements that vendors fill in different ways."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.dicom.elements import numbers, sequence, valid_number

__all__ = ["angle_style", "positioner_angles", "table_positions"]

_TABLE = ("TableVerticalIncrement", "TableLongitudinalIncrement", "TableLateralIncrement")
_TABLE_ENHANCED = ("TableTopVerticalPosition", "TableTopLongitudinalPosition", "TableTopLateralPosition")


def angle_style(increments: NDArray[np.float64], start_deg: float) -> str:
    """How the increments of a rotational run are meant: ``"steps"``, ``"offsets"`` or ``"absolute"``.

    The standard says "incremental change for each frame"; found are steps from frame to frame, offsets from the first
    frame, and even absolute angles. Steps scatter about one value; the other two grow steadily.
    """
    changes = np.diff(increments)
    span = float(np.abs(increments[-1] - increments[0]))
    grows = len(changes) > 1 and (bool((changes >= 0).all()) or bool((changes <= 0).all())) and span > 0
    # a first step of 0 and equal ones after it grow, too, but once only
    if not grows or (np.abs(changes) > 0.25 * np.abs(changes).max()).mean() <= 0.5:
        return "steps"
    return "absolute" if abs(increments[0] - start_deg) < abs(increments[0]) else "offsets"


def _angles(increments: NDArray[np.float64], start_deg: float) -> tuple[NDArray[np.float64], str]:
    style = angle_style(increments, start_deg)
    if style == "steps":
        # the first value leads to the first frame, which is the angle that the header states
        return start_deg + np.concatenate([[0.0], np.cumsum(increments[1:])]), style
    return (increments if style == "absolute" else start_deg + increments), style


def positioner_angles(
    datasets: list[Any], count: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, dict[str, str], list[str]]:
    """Primary and secondary angles [T] in degrees where the run has them, how increments are meant, and notes on it."""
    first, notes, kinds = datasets[0], list[str](), dict[str, str]()
    found: list[NDArray[np.float64] | None] = []
    for name in ("Primary", "Secondary"):
        angles = None
        if sequence(first, "PerFrameFunctionalGroupsSequence"):
            angles = _per_frame(first, count, "PositionerPositionSequence", f"Positioner{name}Angle")
        elif len(datasets) > 1:
            angles = _all([valid_number(dataset, f"Positioner{name}Angle") for dataset in datasets])
        else:
            start = valid_number(first, f"Positioner{name}Angle")
            values = numbers(first, f"Positioner{name}AngleIncrement", count)
            if start is not None and values is not None:
                angles, style = _angles(values, start)
                kinds[name] = style
                if style != "steps":
                    notes.append(f"Positioner{name}AngleIncrement is read as {style} angles: they grow steadily")
            elif start is not None:
                angles = np.full(count, start)
            told = numbers(first, f"Positioner{name}AngleIncrement")
            if told is not None and len(told) not in (1, count):
                notes.append(f"Positioner{name}AngleIncrement has {len(told)} entries for {count} frames: left out")
        found.append(angles)
    return found[0], found[1], kinds, notes


def table_positions(datasets: list[Any], count: int) -> NDArray[np.float64] | None:
    """[T, 3] vertical, longitudinal, lateral, mm from the first frame; None where the table stands still or nothing
    is known."""
    first = datasets[0]
    if sequence(first, "PerFrameFunctionalGroupsSequence"):
        columns = [_per_frame(first, count, "TablePositionSequence", keyword) for keyword in _TABLE_ENHANCED]
        if any(column is None for column in columns):
            return None
        table = np.stack([column for column in columns if column is not None], axis=1)
        table = table - table[0]
    else:
        steps = []
        for keyword in _TABLE:
            values = numbers(first, keyword, count)
            steps.append(np.zeros(count) if values is None else values)
        table = np.cumsum(np.stack(steps, axis=1), axis=0)
        table = table - table[0]
    return table if np.abs(table).max() > 0 else None


def _per_frame(dataset: Any, count: int, name: str, keyword: str) -> NDArray[np.float64] | None:
    shared = [
        item for group in sequence(dataset, "SharedFunctionalGroupsSequence")[:1] for item in sequence(group, name)
    ]
    values = []
    for group in sequence(dataset, "PerFrameFunctionalGroupsSequence")[:count]:
        items = sequence(group, name) or shared
        values.append(valid_number(items[0], keyword) if items else None)
    return _all(values) if len(values) == count else None


def _all(values: list[float | None]) -> NDArray[np.float64] | None:
    return None if None in values else np.asarray(values, dtype=np.float64)
