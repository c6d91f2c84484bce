"""The page of a super-resolved volume: before and after, with a swipe, in three planes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.geometry import Grid
from custom_nets.visualize.figure import UprightVolume
from custom_nets.visualize.page.arrays import halve, pack, round_to_step
from custom_nets.visualize.page.document import PageTooLarge, definitions, warning_box, write_page
from custom_nets.visualize.page.words import number, volume_facts

__all__ = ["volume_page"]

_LEVELS = (4000, 1000, 250)  # grey values between the 0.1 and the 99.9 percentile, as many as fit into a page
_MOST_VOXELS = 36_000_000  # more makes browsers slow

_BODY = """
<section class='viewer' aria-label='Volume before and after'>
<div id='planes' tabindex='0' role='application' aria-label='Three planes through the volume, before and after'
 aria-describedby='keys'></div>
<p id='readout' class='readout' role='status' aria-live='polite'></p>
<div class='controls' id='controls'></div>
<p id='keys' class='keys'>Keys, with the pictures in focus: arrows and Page up / Page down move, + and - zoom, [ and ]
swipe, B before or after alone, O next overlay, R reset. Mouse: click or drag for the place, drag the yellow line to
swipe, wheel for slices, Ctrl and wheel to zoom, right button for the window.</p>
</section>
"""


def volume_page(
    path: str | Path,
    image: Any,
    output: Any,
    record: Mapping[str, Any],
    residual: NDArray | None = None,
    uncertainty: Any = None,
    identity: bool = False,
) -> Path:
    """Write the page of a volume and its result.

    Args:
        path: HTML file to write (whole or not at all).
        image: MetaTensor [..., X, Y, Z], one volume.
        output: MetaTensor [..., X', Y', Z'], in the same world and unit.
        record: of :class:`custom_nets.handlers.InferenceRecord`.
        residual: [X, Y, Z] on the input's grid: result measured again minus what was measured; 0 where unknown.
        uncertainty: MetaTensor [..., X', Y', Z'], standard deviation in the same unit.
        identity: say whose scan it is.

    Returns:
        ``path``.
    """
    grid = Grid.of(output)
    volumes = {"before": UprightVolume.of(image), "after": UprightVolume.of(output)}
    if residual is not None:
        volumes["residual"] = UprightVolume.of(residual, Grid.of(image))
    if uncertainty is not None:
        volumes["uncertainty"] = UprightVolume.of(uncertainty, grid)
    warnings, facts = volume_facts(record, identity)
    halved = 0
    while volumes["after"].grid.voxels > _MOST_VOXELS:
        volumes, halved = {name: _halved(v) for name, v in volumes.items()}, halved + 1
    for attempt in range(6):
        if attempt >= len(_LEVELS):
            volumes, halved = {name: _halved(v) for name, v in volumes.items()}, halved + 1
        try:
            return _write(path, volumes, grid, _LEVELS[min(attempt, len(_LEVELS) - 1)], halved, warnings, facts)
        except PageTooLarge:
            continue
    raise ValueError(f"{path}: the volume is too large for a page; give --report False.")


def _write(
    path: str | Path,
    volumes: Mapping[str, UprightVolume],
    file_grid: Grid,
    levels: int,
    halved: int,
    warnings: list[str],
    facts: list[tuple[str, str]],
) -> Path:
    before, after = volumes["before"], volumes["after"]
    step, offset = round_to_step(after.data, levels)
    offset = min(offset, float(before.data.min()))
    packed = {"after": pack(_planes(after), step, offset)}
    for name, volume in volumes.items():
        if name != "after":
            own_step, own_offset = round_to_step(volume.data, levels if name == "before" else 250)
            packed[name] = pack(_planes(volume), own_step, own_offset)
    low, high = (float(v) for v in np.percentile(before.data, (0.5, 99.8)))
    overlays = [{"name": "added", "label": "added: after minus interpolation", "signed": True}]
    if "residual" in volumes:
        overlays.append({"name": "residual", "label": "result measured again minus measured", "signed": True})
    if "uncertainty" in volumes:
        overlays.append({"name": "uncertainty", "label": "uncertainty (standard deviation)", "signed": False})
    data = {
        "kind": "volume",
        "spacing": after.grid.spacing_mm,
        "affine": after.grid.affine,  # index of the page -> mm
        "to_input": before.grid.index_map(after.grid),  # index of the page -> index of the input, upright too
        "to_file": np.linalg.inv(file_grid.affine) @ after.grid.affine,
        "window": [low, max(high, low + step)],
        "range": [offset, max(float(after.data.max()), float(before.data.max()), low + step)],
        "overlays": overlays,
    }
    shown = f"values rounded to {number(step, 3)}"
    if halved:
        shown += f"; voxels averaged {2**halved} x {2**halved} x {2**halved} to fit: the file has the detail"
    facts = [*facts, ("in this page", shown)]
    body = warning_box(warnings) + _BODY + f"<section><h2>What was done</h2>{definitions(facts)}</section>"
    title = facts[0][1] if facts[0][0] == "case" else "Before and after"
    return write_page(path, title, body, data, ("volumes.js",), packed, viewer=True)


def _planes(volume: UprightVolume) -> NDArray:
    """[Z, Y, X]: x runs fastest, as viewers have it."""
    return volume.data.transpose(2, 1, 0)


def _halved(volume: UprightVolume) -> UprightVolume:
    """Blocks of 2 x 2 x 2 as one voxel."""
    n = np.array(volume.grid.shape)
    axes = tuple(int(a) for a in np.flatnonzero(n > 1))
    wider = np.eye(4)
    for axis in axes:
        wider[axis, axis], wider[axis, 3] = 2, 0.5
    data = halve(volume.data, axes)
    return replace(volume, data=data, grid=Grid(data.shape, volume.grid.affine @ wider))
