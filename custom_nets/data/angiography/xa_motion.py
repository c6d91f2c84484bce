"""Angles and table positions of every frame of an XA run, from elements that vendors fill in different ways."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        if "PerFrameFunctionalGroupsSequence" in first:
            angles = _per_frame(first, count, "PositionerPositionSequence", f"Positioner{name}Angle")
        elif len(datasets) > 1:
            angles = _all([dataset.get(f"Positioner{name}Angle") for dataset in datasets])
        else:
            start = first.get(f"Positioner{name}Angle")
            increments = first.get(f"Positioner{name}AngleIncrement")
            values = np.atleast_1d(np.asarray([] if increments is None else increments, dtype=np.float64))
            if start not in (None, "") and len(values) == count:
                angles, style = _angles(values, float(start))
                kinds[name] = style
                if style != "steps":
                    notes.append(f"Positioner{name}AngleIncrement is read as {style} angles: they grow steadily")
            elif start not in (None, ""):
                angles = np.full(count, float(start))
        found.append(angles)
    return found[0], found[1], kinds, notes


def table_positions(datasets: list[Any], count: int) -> NDArray[np.float64] | None:
    """[T, 3] vertical, longitudinal, lateral, mm from the first frame; None where the table stands still or nothing
    is known."""
    first = datasets[0]
    if "PerFrameFunctionalGroupsSequence" in first:
        columns = [_per_frame(first, count, "TablePositionSequence", keyword) for keyword in _TABLE_ENHANCED]
        if any(column is None for column in columns):
            return None
        table = np.stack([column for column in columns if column is not None], axis=1)
        table = table - table[0]
    else:
        steps = []
        for keyword in _TABLE:
            value = first.get(keyword)
            values = np.atleast_1d(np.asarray([0.0] if value in (None, "") else value, dtype=np.float64))
            steps.append(values if len(values) == count else np.zeros(count))
        table = np.cumsum(np.stack(steps, axis=1), axis=0)
        table = table - table[0]
    return table if np.abs(table).max() > 0 else None


def _per_frame(dataset: Any, count: int, sequence: str, keyword: str) -> NDArray[np.float64] | None:
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0].get(sequence)
    values = []
    for group in dataset.PerFrameFunctionalGroupsSequence[:count]:
        items = group.get(sequence) or shared or []
        values.append(items[0].get(keyword) if len(items) else None)
    return _all(values) if len(values) == count else None


def _all(values: list[Any]) -> NDArray[np.float64] | None:
    return None if any(v in (None, "") for v in values) else np.asarray(values, dtype=np.float64)
