"""A simulated DSA as the run that an angiography suite would have stored: grey values, mask frame, times, angles.

The command ``python -m custom_nets.apps.simulate_run OUT`` writes one as DICOM, NPZ, NIfTI or
pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.intensity import MaskSubtraction
from custom_nets.data.angiography.run import AngiographyRun, RunGeometry, RunOrigin, make_run
from custom_nets.data.angiography.writer import RUN_FORMATS, write_run
from custom_nets.simulation.dsa import DSASimulator
from custom_nets.utils.files import check_writable

__all__ = ["run_times", "simulated_run", "write_simulated_run"]

_GROUND = 0.75  # of the scale: where subtracted frames have nothing
_DEEPEST = 0.1  # where the deepest contrast of subtracted frames lies
_EXPOSURE = 0.35  # where automatic exposure puts the median of the mask; air is beyond the scale, as in real runs


def run_times(count: int, rates_hz: Sequence[float] = (4.0,), first_s: float = 0.25) -> NDArray[np.float64]:
    """[count] seconds of frames at a rate, or at one rate after another for equal parts of the run.

    Example::

        >>> run_times(6, (4, 1), first_s=0)
        array([0.  , 0.25, 0.5 , 0.75, 1.75, 2.75])
    """
    if count < 2 or not rates_hz or not all(0 < rate < np.inf for rate in rates_hz):
        raise ValueError(f"needed: 2 frames or more and rates above 0, got {count} frames at {list(rates_hz)} Hz.")
    rates = np.asarray(rates_hz, dtype=np.float64)
    steps = 1 / rates[np.arange(count - 1) * len(rates) // (count - 1)]
    return first_s + np.concatenate([[0.0], np.cumsum(steps)])


def simulated_run(
    simulator: DSASimulator,
    times_s: NDArray[np.float64] | Sequence[float],
    *,
    raw: bool | None = None,
    bits: int = 12,
    relationship: str = "LIN",
) -> AngiographyRun:
    """Expose, digitise and make a run.

    Args:
        simulator: patient and acquisition.
        times_s: [T] of the frames with contrast agent, s since the mask was taken.
        raw: frames as exposed with the mask frame before them, one step earlier; otherwise frames subtracted already.
            None: raw where the C-arm stands.
        bits: 8 to 16, stored.
        relationship: of raw values and intensity: "LIN" or "LOG".

    Returns:
        [T] subtracted or [1 + T] raw frames, uint8 or uint16, vessels dark, zero behind the shutters.

    Raises:
        ValueError: bits or relationship that there are not, or a raw run of a turning C-arm.
    """
    times = np.asarray(times_s, dtype=np.float64).reshape(-1)
    turning = simulator.settings.rotation_deg_s != 0
    raw = not turning if raw is None else raw
    if not 8 <= bits <= 16:
        raise ValueError(f"bits must be 8 to 16, got {bits}.")
    if relationship not in ("LIN", "LOG"):
        raise ValueError(f"relationship must be 'LIN' or 'LOG', got {relationship!r}.")
    if raw and turning:
        raise ValueError("a turning C-arm has another mask at every angle, which one run cannot hold: take raw=False.")
    mask, fill = simulator.exposures(times)
    values = (
        _raw_values(np.concatenate([mask, fill]), relationship) if raw else _subtracted_values(simulator, mask, fill)
    )
    top = (1 << bits) - 1
    stored = np.rint(np.clip(values, 0, 1) * top) * simulator.field_of_view
    if raw:
        times = np.insert(times, 0, times[0] - np.diff(times)[:1])
    angles_deg = np.array([simulator.angle_deg(float(t)) for t in times])
    return make_run(
        stored.astype(np.uint8 if bits == 8 else np.uint16),
        times,
        subtraction=[MaskSubtraction(mask_frames=(0,), first=1, last=len(times) - 1)] if raw else [],
        log=raw and relationship == "LIN",
        inverted=False,
        geometry=RunGeometry.of_simulated(simulator.carm, angles_deg),
        origin=RunOrigin(
            path=f"simulated run, seed {simulator.seed}",
            meta={"bits_stored": bits, "intensity_relationship": relationship if raw else "DISP"},
        ),
    )


def _raw_values(exposures: NDArray[np.float32], relationship: str) -> NDArray[np.floating]:
    """Intensities as shares of the scale."""
    if relationship == "LIN":
        return exposures * (_EXPOSURE / np.median(exposures[0]))
    logarithm = np.log(exposures)
    return (logarithm - logarithm.min()) / max(float(np.ptp(logarithm)), 1e-6)


def _subtracted_values(
    simulator: DSASimulator, mask: NDArray[np.float32], fill: NDArray[np.float32]
) -> NDArray[np.floating]:
    """ln fill - ln mask as shares of the scale: one window for the whole run."""
    contrast = np.log(mask) - np.log(fill)
    deepest = max(float(np.quantile(contrast[:, simulator.field_of_view], 0.9995)), 1e-3)
    return _GROUND - (_GROUND - _DEEPEST) / deepest * contrast


def write_simulated_run(run: AngiographyRun, path: str | Path) -> Path:
    """Write a run of :func:`simulated_run`; the suffix says how, none stands for a folder of pictures.

    A DICOM file is an original one (:func:`custom_nets.data.angiography.xa_writer.new_xa_dataset`), not derived from
    another, and says SIMULATED^RUN where a patient's name would be.
    """
    path = Path(path)
    formats = [kind for kind, suffix in RUN_FORMATS.items() if suffix and path.name.lower().endswith(suffix)]
    if formats != ["dicom"]:
        if not formats and path.suffix:
            raise ValueError(f"{path}: the end must be {', '.join(filter(None, RUN_FORMATS.values()))}, or none.")
        return write_run(run, path, formats[0] if formats else "png")
    from custom_nets.data.angiography.xa_writer import new_xa_dataset, save_dataset

    check_writable(path.parent)
    dataset = new_xa_dataset(
        run.frames,
        run.times_s,
        bits_stored=run.origin.meta["bits_stored"],
        relationship=run.origin.meta["intensity_relationship"],
        subtraction=run.mapping.subtraction,
        geometry=run.geometry,
        patient="SIMULATED^RUN",
        series_description=run.origin.path,
    )
    save_dataset(dataset, path)
    return path
