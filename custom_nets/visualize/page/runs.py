"""The page of a lengthened run: a player that tells measured from made frames, and time-density curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.intensity import BACKGROUND
from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.visualize.page.arrays import halve, pack, round_to_step
from custom_nets.visualize.page.document import PageTooLarge, definitions, warning_box, write_page
from custom_nets.visualize.page.words import number, run_facts

__all__ = ["run_page"]

_LEVELS = (1000, 250)
_MOST_PIXELS = 40_000_000  # of all frames; more makes browsers slow

_BODY = """
<section class='viewer' aria-label='Player'>
<div id='player' tabindex='0' role='application' aria-label='Player of the run' aria-describedby='keys'>
<canvas id='picture' role='img' aria-label='Frame'></canvas></div>
<canvas id='timeline' tabindex='0' role='slider' aria-label='Time' aria-valuemin='1' aria-describedby='legend'></canvas>
<p class='legend' id='legend'><span class='measured'>&#9679; measured, long marks</span><span class='made'>&#9632; made,
short marks</span></p>
<p id='readout' class='readout' role='status' aria-live='polite'></p>
<div class='controls' id='controls'></div>
<p id='keys' class='keys'>Keys: space plays and stops, left and right arrow go frame by frame, M next measured frame, [
and ] swipe, + and - zoom, Home and End. Click a place for its time-density curve, drag the yellow line to swipe.</p>
</section>
<section aria-label='Time-density curve'><h2>Time-density curve</h2>
<div id='curve'><p class='soft'>Click a place in the picture (or press Enter in it for its middle).</p></div></section>
"""


def run_page(path: str | Path, run: AngiographyRun, record: Mapping[str, Any], identity: bool = False) -> Path:
    """Write the page of a run with made frames.

    Frames stand in it in network units (mask subtracted where the run says so, dark vessels, the ground at 0.75).
    Opacity is the ground minus the value.

    Args:
        path: HTML file to write (whole or not at all).
        run: with made frames.
        record: of :class:`custom_nets.handlers.RunRecord`.
        identity: say whose run it is.

    Returns:
        ``path``.
    """
    halved = 0
    while len(run) * np.prod([-(-n >> halved) for n in run.size]) > _MOST_PIXELS:
        halved += 1
    warnings, facts = run_facts(record, identity)
    for attempt in range(5):
        if attempt >= len(_LEVELS):
            halved += 1
        frames = _frames(run, halved)
        try:
            return _write(path, run, frames, _LEVELS[min(attempt, len(_LEVELS) - 1)], halved, warnings, facts)
        except PageTooLarge:
            continue
    raise ValueError(f"{path}: the run is too large for a page; give --report False.")


def _frames(run: AngiographyRun, halved: int) -> NDArray[np.float32]:
    """[T, H, W] in network units, blocks of 2^halved pixels as one."""
    frames = []
    for index in range(len(run)):
        frame = run.normalize(index)
        for _ in range(halved):
            frame = halve(frame, (1, 2))
        frames.append(frame[0])
    return np.stack(frames)


def _write(
    path: str | Path,
    run: AngiographyRun,
    frames: NDArray[np.float32],
    levels: int,
    halved: int,
    warnings: list[str],
    facts: list[tuple[str, str]],
) -> Path:
    shown = np.array([i for i in range(len(run)) if i not in run.mask_frames])
    low, high = (float(v) for v in np.percentile(frames[shown][:, ::2, ::2], (0.2, 99.8)))
    step, offset = round_to_step(frames, levels)
    geometry = run.geometry
    data = {
        "kind": "run",
        "times": run.times_s,
        "has_times": run.has_times,
        "made": run.synthetic,
        "masks": list(run.mask_frames),
        "primary": None if geometry.primary_deg is None else geometry.primary_deg,
        "secondary": None if geometry.secondary_deg is None else geometry.secondary_deg,
        "ground": BACKGROUND,
        "window": [low, max(high, low + step)],
        "range": [float(frames.min()), float(frames.max())],
        "halved": halved,
    }
    rounded = f"values rounded to {number(step, 3)} of the window that the network sees (0 to 1)"
    if halved:
        rounded += f"; pixels averaged {2**halved} x {2**halved} to fit: the file has the detail"
    facts = [*facts, ("in this page", rounded)]
    body = warning_box(warnings) + _BODY + f"<section><h2>What was done</h2>{definitions(facts)}</section>"
    title = facts[0][1] if facts[0][0] == "case" else "Measured and made frames"
    return write_page(path, title, body, data, ("runs.js",), {"frames": pack(frames, step, offset)})
