"""The page of a reconstructed scan: the vessels turning, at any of the 4D volume's times, and when each was filled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.visualize.page.arrays import pack
from custom_nets.visualize.page.document import definitions, warning_box, write_page
from custom_nets.visualize.page.words import number, reconstruction_facts

__all__ = ["reconstruction_page", "turned_maxima"]

_DIRECTIONS = 24  # over half a turn; from behind, a maximum is the mirror image
_MOST_TIMES = 16
_MOST_PIXELS = 160  # of a side
_LEVELS = 250

_BODY = """
<section class='viewer' aria-label='Vessels, turning'>
<div id='player' tabindex='0' role='application' aria-label='Vessels, turning' aria-describedby='keys'>
<canvas id='picture' role='img' aria-label='Maximum along the line of sight'></canvas></div>
<p id='readout' class='readout' role='status' aria-live='polite'></p>
<div class='controls' id='controls'></div>
<p id='keys' class='keys'>Drag the picture, or use the left and right arrow, to turn it; up and down arrow go through
the times; space turns it by itself and stops; A shows the arrival, P the peak over all times, T one time.</p>
</section>
"""


def turned_maxima(
    places_mm: NDArray, values: NDArray, angles_rad: NDArray, pixel_mm: float, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Look at points along parallel lines from several sides, and see the largest value on each line.

    At the angle 0 from the front (x to the right), at 90 degrees from the left (y to the right); z is up.

    Args:
        places_mm: [M, 3] LPS, from the middle.
        values: [T, M], not below zero.
        angles_rad: [A].
        pixel_mm: of the pictures; not below the distance of neighbouring points.
        size: (rows, columns).

    Returns:
        Pictures [A, T, rows, columns], and the point [A, rows, columns] whose mean value is the largest there (-1:
        none).
    """
    rows, columns = size
    pictures = np.zeros((len(angles_rad), len(values), rows * columns), np.float32)
    nearest = np.full((len(angles_rad), rows * columns), -1, np.int64)
    row = np.rint((rows - 1) / 2 - places_mm[:, 2] / pixel_mm).astype(np.int64)
    strength = values.mean(0)
    for k, angle in enumerate(angles_rad):
        along = places_mm[:, 0] * np.cos(angle) + places_mm[:, 1] * np.sin(angle)
        place = np.round(along / pixel_mm + (columns - 1) / 2, 3)
        # both neighbours: a turned grid would have holes
        flat = np.concatenate([row * columns + side(place).astype(np.int64) for side in (np.floor, np.ceil)])
        inside = np.concatenate([(side(place) >= 0) & (side(place) < columns) for side in (np.floor, np.ceil)])
        inside &= np.tile((row >= 0) & (row < rows), 2)
        point = np.tile(np.arange(len(places_mm)), 2)[inside]
        flat = flat[inside]
        if not len(flat):
            continue
        order = np.lexsort((strength[point], flat))
        flat, point = flat[order], point[order]
        starts = np.flatnonzero(np.diff(flat, prepend=-1))
        pictures[k][:, flat[starts]] = np.maximum.reduceat(values[:, point], starts, axis=1)
        nearest[k][flat[starts]] = point[np.append(starts[1:], len(flat)) - 1]
    return pictures.reshape(len(angles_rad), len(values), rows, columns), nearest.reshape(-1, rows, columns)


def reconstruction_page(path: str | Path, found: Any, record: Mapping[str, Any], identity: bool = False) -> Path:
    """Write the page of a reconstruction.

    Args:
        path: HTML file to write (whole or not at all).
        found: a :class:`custom_nets.inferers.Reconstruction`.
        record: of :class:`custom_nets.handlers.ReconstructionRecord`.
        identity: say whose scan it is.

    Returns:
        ``path``.
    """
    scan = found.acquisition
    shape, spacing = np.asarray(scan.volume_shape), np.asarray(scan.volume_spacing_mm)
    chosen = np.linspace(0, len(found.times_s) - 1, min(len(found.times_s), _MOST_TIMES)).round().astype(int)
    times = np.asarray(found.times_s)[chosen]
    voxels, tensor = found.network.voxel_curves(times)
    peak, arrival = found.peak_volume.ravel(), found.arrival_s.ravel()
    flat = voxels.numpy()
    seen = peak[flat] > 0.25 * found.vessel_level  # fainter ones are haze, and fill the page
    flat, curves = flat[seen], tensor.numpy()[:, seen]
    places = (np.stack(np.unravel_index(flat, shape), 1) - (shape - 1) / 2) * spacing
    extent = shape * spacing
    pixel_mm = float(max(spacing.max(), extent.max() / _MOST_PIXELS))
    rows, columns, wide = (int(np.ceil(e / pixel_mm - 1e-6)) for e in (extent[2], np.hypot(*extent[:2]), extent[0]))
    size = (rows, columns + (columns - wide) % 2)  # from the front a voxel is a pixel
    angles = np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS
    pictures, _ = turned_maxima(places, curves, angles, pixel_mm, size)
    filled = np.isfinite(arrival[flat])
    peaks, nearest = turned_maxima(places[filled], peak[flat][filled][None], angles, pixel_mm, size)
    first, last = float(scan.times_s[0]), float(scan.times_s[-1])
    step_s = (last - first) / _LEVELS
    coloured = np.where(nearest >= 0, np.append(arrival[flat][filled], 0)[nearest], first - step_s)
    vessel = peak[peak > found.vessel_level]
    top = float(np.quantile(vessel, 0.98)) if vessel.size else max(float(peak.max()), 1e-6)
    step = max(float(peak.max()), top) / _LEVELS
    arrays = {
        "times": pack(pictures, step, 0.0),
        "peak": pack(peaks[:, 0], step, 0.0),
        "arrival": pack(coloured, step_s, first - step_s),
    }
    data = {
        "kind": "reconstruction",
        "times_s": times,
        "scan_s": [first, last],
        "top": top,
        "unit": "1/mm" if scan.quantitative else "no unit",
        "pixel_mm": pixel_mm,
    }
    warnings, facts = reconstruction_facts(record, identity)
    shown = f"maxima along {2 * _DIRECTIONS} directions at {len(times)} times, pixels of {number(pixel_mm, 3)} mm"
    facts = [*facts, ("in this page", shown)]
    body = warning_box(warnings) + _BODY + f"<section><h2>What was done</h2>{definitions(facts)}</section>"
    title = facts[0][1] if facts[0][0] == "case" else "Vessels over space and time"
    return write_page(path, title, body, data, ("reconstructions.js",), arrays)
