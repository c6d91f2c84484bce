"""Rotational acquisitions from X-ray angiography DICOM: a mask and a fill run, or one run.

Mask and fill frames are paired by angle, not by number: the arm never stands twice at the same angle at the same
moment. What the header does not say is asked for, not guessed; what it says in one of several ways is read the way that
makes a turn of it, and the choice is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.intensity import BACKGROUND, MaskSubtraction
from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.data.angiography.views import Acquisition, default_volume
from custom_nets.data.angiography.xa_reader import read_xa, run_headers
from custom_nets.data.angiography.xa_times import anywhere, clock
from custom_nets.data.dicom.elements import valid_number
from custom_nets.data.dicom.files import dicom_files
from custom_nets.geometry.cone_beam import ConeBeam, SeenFrom, positioner_trajectory

__all__ = ["XAOptions", "read_xa_acquisition", "rotational_pair", "turning_angles"]

_SHORTEST_ARC_DEG, _LONGEST_ARC_DEG = 90.0, 370.0
_BACKWARDS_DEG = 0.05  # an arm that starts or stops trembles
_SAME_ANGLE_DEG = 0.1  # nearer than this a mask frame is taken as it is
_SAME_PLACE_MM = 0.5
_SAME_SIZE, _SAME_ENLARGEMENT = 0.06, 0.03  # two statements may differ by so much, as rounded and nominal ones do
_FEWEST = 8
_LONE_LOG_SPAN = 5.0  # of line integrals over the range of stored LOG values, where nobody knows: a unit of no meaning


@dataclass(frozen=True)
class XAOptions:
    """What a person may say where the header does not.

    Args:
        primary_deg: [N] positioner angles of the (fill) run.
        sad_mm, sid_mm: source to isocentre, source to detector.
        pixel_mm: edge of a pixel at the detector, one or (between rows, between columns).
        offset_mm: (along columns, along rows) from where the central ray meets the detector to the picture's centre.
        seen_from: how pictures are stored: see :func:`custom_nets.geometry.cone_beam.positioner_trajectory`; None: as
            PatientOrientation says, otherwise ``"panel"``, as radiologists look at pictures.
        subtracted: the single run holds subtracted frames.
        log_scale: line integral per stored grey value, of LOG or subtracted frames.
        any_intensity: take displayed grey values (DISP) nevertheless; the acquisition is then not quantitative.
    """

    primary_deg: Sequence[float] | NDArray | None = None
    sad_mm: float | None = None
    sid_mm: float | None = None
    pixel_mm: float | Sequence[float] | None = None
    offset_mm: tuple[float, float] = (0.0, 0.0)
    seen_from: SeenFrom | None = None
    subtracted: bool = False
    log_scale: float | None = None
    any_intensity: bool = False


def read_xa_acquisition(
    fill: str | Path,
    mask: str | Path | None = None,
    times_s: Sequence[float] | NDArray | None = None,
    duration_s: float | None = None,
    options: XAOptions | None = None,
) -> Acquisition:
    """Read a rotational acquisition from one or two XA runs; its pictures are turned to be as seen from the source.

    Args:
        fill: the run with contrast agent; or, without ``mask``, a folder with two rotational runs (the earlier one is
            the mask), or one run that says its mask itself or is subtracted already.
        mask: the run without contrast agent, on the same path of the arm.
        times_s: [N] of the fill frames, instead of the times in the file.
        duration_s: from the first fill frame to the last, instead of the times in the file.
        options: what the headers do not say.

    Raises:
        ValueError: a standing arm, no angles, distances or pixel size, displayed grey values, runs that do not belong
            together; the message says what to do.
    """
    options = options or XAOptions()
    notes: list[str] = []
    if mask is None and Path(fill).is_dir() and (pair := rotational_pair(Path(fill))) is not None:
        mask, fill = pair
        notes.append("of the two runs the earlier one is taken as the mask run")
    run = _read(fill, times_s, duration_s, subtract=not options.subtracted)
    masks = None if mask is None else _read(mask)
    own = None if masks is not None or options.subtracted else _with_own_mask(run)
    primary, secondary = _angles(run, options.primary_deg, notes, own)
    geometry, mirrored = _geometry(run, options, primary, secondary, notes)
    _check_still_table(run)
    if masks is None:
        projections, weights, kept, quantitative = _alone(run, own, primary, options, notes)
    else:
        logarithm, known = _logarithm(run, options, notes)
        mask_logarithm, mask_known = _logarithm(masks, options, [])
        quantitative = known and mask_known
        _check_pair(run, masks)
        mask_primary, mask_secondary = _angles(masks, None, notes)
        _check_same_plane(run, secondary, masks, mask_secondary)
        kept, parts = _mask_shares(mask_primary, primary, notes)
        projections, weights = _subtracted(
            (sum((s * mask_logarithm(masks.frames[k]) for k, s in part), np.zeros(run.size)) for part in parts),
            (logarithm(run.frames[k]) for k in kept),
            (len(kept), *run.size),
            quantitative,
        )
        _check_sign(projections, run, masks)
    seen = _open_area(run, None if masks is None else masks)
    if not seen.all():
        weights = np.ones(projections.shape, np.float32) if weights is None else weights
        weights = weights * seen
        projections = projections * seen
    if mirrored:  # one way round for all: files of the same exposures make the same acquisition
        projections = np.ascontiguousarray(projections[:, :, ::-1])
        weights = None if weights is None else np.ascontiguousarray(weights[:, :, ::-1])
    geometry = geometry.at(kept)
    shape, spacing = default_volume(geometry)
    times = np.asarray(run.times_s, dtype=np.float64) - run.times_s[0 if own is None else kept[0]]
    return Acquisition(
        projections=projections,
        times_s=times[kept],
        source_mm=geometry.source_mm,
        panel_mm=geometry.panel_mm,
        column_step_mm=geometry.column_step_mm,
        row_step_mm=geometry.row_step_mm,
        weights=weights,
        volume_shape=shape,
        volume_spacing_mm=spacing,
        quantitative=quantitative,
        notes=notes,
        warnings=_contradictions(run, options, geometry),
        origin=run.origin if masks is None else replace(run.origin, sources=run.origin.sources + masks.origin.sources),
    )


def rotational_pair(folder: Path) -> tuple[Path, Path] | None:
    """The two multi-frame runs of a folder, the earlier one first; None where there are not exactly two.

    Raises:
        ValueError: two runs, but nothing says which one was first.
    """
    runs = [
        file for file, header in run_headers(dicom_files(folder), set()) if int(header.get("NumberOfFrames") or 1) > 1
    ]
    if len(runs) != 2:
        return None
    import pydicom

    headers = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in runs]
    for keyword in ("AcquisitionDateTime", "AcquisitionTime", "ContentTime", "SeriesTime"):
        times = [clock(header, keyword) for header in headers]
        if None not in times and times[0] != times[1]:
            return (runs[0], runs[1]) if times[0] < times[1] else (runs[1], runs[0])  # type: ignore[operator]
    for keyword in ("AcquisitionNumber", "SeriesNumber", "InstanceNumber"):
        numbers = [header.get(keyword) for header in headers]
        if None not in numbers and int(numbers[0]) != int(numbers[1]):
            return (runs[0], runs[1]) if int(numbers[0]) < int(numbers[1]) else (runs[1], runs[0])
    names = " and ".join(file.name for file in runs)
    raise ValueError(f"{folder}: neither times nor numbers say which of {names} is the mask run: give --mask FILE.")


def _read(
    path: str | Path,
    times_s: Sequence[float] | NDArray | None = None,
    duration_s: float | None = None,
    subtract: bool = True,
) -> AngiographyRun:
    if times_s is None and duration_s is not None:
        count = len(read_xa(path, step_s=1.0))
        times_s = np.linspace(0, float(duration_s), count)
    return read_xa(path, times_s, subtract=subtract)


# ---- geometry ----


def turning_angles(
    increments: NDArray[np.float64], start_deg: float, frames: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], str] | None:
    """Read increments the way that makes a turn: one direction, 90 to 370 degrees. None where no way does.

    Args:
        increments: [N] or [N - 1] as stored.
        start_deg: angle of the first frame in the header.
        frames: those that must make the turn; None: all.

    Returns:
        [N] degrees, and ``"steps"`` (from frame to frame), ``"offsets"`` (from the first) or ``"absolute"``.
    """
    values = np.asarray(increments, dtype=np.float64)
    ways = {
        "steps": start_deg + np.concatenate([[0.0], np.cumsum(values[1:])]),
        "offsets": start_deg + values,
        "absolute": np.unwrap(values, period=360),
    }
    chosen = slice(None) if frames is None else frames
    turns = {style: angles for style, angles in ways.items() if _is_turn(angles[chosen])}
    if len(turns) == 2 and "steps" not in turns:  # both grow alike: which one begins at the angle of the first frame?
        nearer = "absolute" if abs(values[0] - start_deg) < abs(values[0]) else "offsets"
        return turns[nearer], nearer
    return next(((angles, style) for style, angles in turns.items()), None)


def _is_turn(angles: NDArray[np.float64]) -> bool:
    steps = np.diff(angles) * np.sign(angles[-1] - angles[0])
    arc = abs(float(angles[-1] - angles[0]))
    return _SHORTEST_ARC_DEG <= arc <= _LONGEST_ARC_DEG and bool((steps >= -_BACKWARDS_DEG).all())


def _angles(
    run: AngiographyRun,
    given_deg: Sequence[float] | NDArray | None,
    notes: list[str],
    frames: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N] primary and secondary positioner angles; ``frames`` (None: all) must make a turn."""
    name, count = run.origin.path, len(run)
    secondary = run.geometry.secondary_deg
    if secondary is None:
        notes.append("the header has no secondary angle: it is taken as 0")
        secondary = np.zeros(count)
    if given_deg is not None:
        primary = np.asarray(given_deg, dtype=np.float64).reshape(-1)
        if len(primary) != count or not np.isfinite(primary).all():
            raise ValueError(f"{name}: {count} frames need {count} finite primary angles, got {len(primary)}.")
    else:
        dataset = run.origin.dataset
        start = dataset.get("PositionerPrimaryAngle")
        stored = np.atleast_1d(np.asarray(dataset.get("PositionerPrimaryAngleIncrement") or [], dtype=np.float64))
        if len(stored) == count - 1:  # none for the first frame
            stored = np.insert(stored, 0, 0.0)
        found = None
        if start not in (None, "") and len(stored) == count:
            found = turning_angles(stored, float(start), frames)
        if found is not None:
            primary, style = found
            if style != "steps":
                notes.append(f"PositionerPrimaryAngleIncrement is read as {style} angles")
        elif run.geometry.primary_deg is not None:
            primary = np.unwrap(run.geometry.primary_deg, period=360)
        else:
            raise ValueError(
                f"{name} says no angles of the arm (PositionerPrimaryAngle and its increments): give the positioner's "
                'primary angle of every frame as --primary_deg "[-100, -98.5, ...]".'
            )
    chosen = slice(None) if frames is None else frames
    moving = [np.asarray(angles)[chosen] for angles in (primary, secondary)]
    turns = [angles for angles in moving if np.ptp(angles) >= _SHORTEST_ARC_DEG]
    if not turns:
        arc = max(float(np.ptp(angles)) for angles in moving)
        if arc < 1:
            raise ValueError(
                f"{name} is a run of a standing arm ({arc:.2f} degrees): a volume needs a rotational run. If the "
                "header is wrong, give the angles as --primary_deg."
            )
        raise ValueError(
            f"{name}: the arm turns by {arc:.1f} degrees only, at least {_SHORTEST_ARC_DEG:g} are needed. If its "
            "increments mean something else, give the angles as --primary_deg."
        )
    if not _is_turn(turns[0]):
        raise ValueError(
            f"{name}: the arm's angles ({turns[0][0]:.1f} to {turns[0][-1]:.1f} degrees) are no turn in one direction "
            f"of up to {_LONGEST_ARC_DEG:g} degrees: give the angles as --primary_deg, or a file with one sweep."
        )
    return primary, np.asarray(secondary, dtype=np.float64)


def _geometry(
    run: AngiographyRun, options: XAOptions, primary: NDArray, secondary: NDArray, notes: list[str]
) -> tuple[ConeBeam, bool]:
    """Source and panel of pictures as seen from the source, and whether the stored ones are their mirror image."""
    name, dataset = run.origin.path, run.origin.dataset
    sid = options.sid_mm or run.geometry.source_detector_mm
    sad = options.sad_mm or run.geometry.source_isocenter_mm
    missing = [
        f"{keyword} (--{option})"
        for value, keyword, option in (
            (sid, "DistanceSourceToDetector", "sid_mm"), (sad, "DistanceSourceToPatient", "sad_mm"),
        )
        if not value
    ]  # fmt: skip
    spacing = anywhere(dataset, "ImagerPixelSpacing") if options.pixel_mm is None else options.pixel_mm
    if spacing is None or spacing == "":
        missing.append("ImagerPixelSpacing (--pixel_mm)")
    if missing:
        raise ValueError(
            f"{name} does not say {', '.join(missing)}: without it nobody knows the size of anything. Give it as the "
            "system's manual has it; typical are sad_mm 750 to 785, sid_mm 1195 to 1200."
        )
    rows, columns = (float(v) for v in np.broadcast_to(np.asarray(spacing, dtype=np.float64), 2))
    seen_from = options.seen_from or _seen_from(dataset, float(primary[0]), name, notes)
    mirrored = seen_from == "panel"
    across, down = options.offset_mm
    try:
        geometry = positioner_trajectory(
            primary, secondary, float(sad or 0), float(sid or 0), run.size, (columns, rows),
            (-across if mirrored else across, down), seen_from="source",
        )  # fmt: skip
        return geometry, mirrored
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _contradictions(run: AngiographyRun, options: XAOptions, geometry: ConeBeam) -> list[str]:
    """What else the header says of sizes, where it does not fit those that were taken: the pictures do not tell."""
    dataset, found = run.origin.dataset, list[str]()
    enlarged = valid_number(dataset, "EstimatedRadiographicMagnificationFactor")
    taken = float(np.median(geometry.magnification))
    if enlarged and abs(taken / enlarged - 1) > _SAME_ENLARGEMENT and not (options.sad_mm and options.sid_mm):
        found.append(
            f"distances make the isocentre {taken:.3f} times as large on the panel, the header says {enlarged:.3f} "
            "(EstimatedRadiographicMagnificationFactor): all sizes may be off by as much. Check --sad_mm and --sid_mm."
        )
    stated = np.atleast_1d(np.asarray(anywhere(dataset, "FieldOfViewDimensions") or [], dtype=np.float64))
    steps = (geometry.row_step_mm[0], geometry.column_step_mm[0])
    height, width = (n * float(np.linalg.norm(step)) for n, step in zip(run.size, steps, strict=True))
    sides = np.array([height, width, np.hypot(height, width)])  # a nominal size may be any of them
    if options.pixel_mm is None and stated.size and (stated > 0).all():
        if np.abs(sides[:, None] / stated - 1).min() > _SAME_SIZE:
            found.append(
                f"pixels make a picture of {width:.0f} x {height:.0f} mm on the panel, the header says "
                f"{' x '.join(f'{mm:.0f}' for mm in stated)} mm (FieldOfViewDimensions): all sizes may be off by as "
                "much. Check --pixel_mm."
            )
    return found


def _seen_from(dataset: Any, primary_deg: float, name: str, notes: list[str]) -> SeenFrom:
    """From which side pictures are stored, by the patient's direction along rows of the first frame."""
    stated = dataset.get("PatientOrientation") or anywhere(dataset, "PatientOrientation") or []
    words = [str(word) for word in (stated if not isinstance(stated, str) else [stated]) if str(word)]
    if len(words) == 2:
        if words[1][0] == "H":
            raise ValueError(f"{name}: rows run to the head (PatientOrientation {words}): store pictures head up.")
        p = np.deg2rad(primary_deg)
        across = {"L": np.cos(p), "R": -np.cos(p), "P": np.sin(p), "A": -np.sin(p)}  # seen from the panel
        if abs(share := float(across.get(words[0][0], 0.0))) > 0.3:
            return "panel" if share > 0 else "source"
    notes.append("pictures are taken to be stored as radiologists look at them, facing the patient")
    return "panel"


def _check_still_table(run: AngiographyRun) -> None:
    table = run.geometry.table_mm
    if table is not None and (moved := float(np.ptp(table, axis=0).max())) > _SAME_PLACE_MM:
        raise ValueError(f"{run.origin.path}: the table moves by {moved:.1f} mm during the run: one place is needed.")


# ---- intensities ----


def _logarithm(
    run: AngiographyRun, options: XAOptions, notes: list[str]
) -> tuple[Callable[[NDArray], NDArray[np.float64]], bool]:
    """A map from stored frames to ln of the intensity up to a constant (-inf where there is none), and whether its
    scale is known."""
    dataset, name = run.origin.dataset, run.origin.path
    relationship = str(run.origin.meta.get("intensity_relationship") or "")
    lookup = anywhere(dataset, "ModalityLUTSequence") or anywhere(dataset, "PixelIntensityRelationshipLUTSequence")
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    sign = int(anywhere(dataset, "PixelIntensityRelationshipSign") or 1)
    top = run.stored_range[1]

    def line(scale: float, offset: float = 0.0) -> Callable[[NDArray], NDArray[np.float64]]:
        return lambda stored: scale * stored.astype(np.float64) + offset

    if relationship == "LIN":
        # sign below zero: more X-ray, smaller values
        linear = line(slope, intercept) if sign > 0 else line(-slope, top * slope)
        return lambda stored: _safe_log(linear(stored)), True
    if relationship == "LOG":
        if options.log_scale is not None:
            return line(sign * abs(options.log_scale)), True
        if lookup:
            return lambda stored: _safe_log(_looked_up(lookup[0], stored)), True
        if str(dataset.get("RescaleType") or "") == "OD":  # thousandths of an optical density, darker is less X-ray
            return line(-np.log(10) / 1000 * slope, -np.log(10) / 1000 * intercept), True
        if slope != 1:
            notes.append(f"LOG values: RescaleSlope {slope:g} is taken to make natural logarithms of them")
            return line(sign * slope, sign * intercept), True
        notes.append(
            "LOG values without a scale: attenuation has no unit. Give the line integral per grey value as --log_scale "
            "to have one"
        )
        return line(sign * _LONE_LOG_SPAN / top), False
    if not options.any_intensity:
        raise ValueError(
            f"{name} holds displayed grey values (PixelIntensityRelationship {relationship or 'is absent'}): they say "
            "nothing of attenuation. Export the raw runs (LIN or LOG), or give --any_intensity True to get shapes "
            "without a unit."
        )
    notes.append("displayed grey values, as asked for: attenuation has no unit")
    return line(sign * _LONE_LOG_SPAN / top), False


def _safe_log(intensity: NDArray[np.float64]) -> NDArray[np.float64]:
    usable = intensity > 0
    return np.where(usable, np.log(np.where(usable, intensity, 1)), -np.inf)


def _looked_up(item: Any, frames: NDArray) -> NDArray[np.float64]:
    """Stored values through a table (PS3.3 C.11.1.1) to linear intensity."""
    entries, first, bits = (int(n) for n in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, "<u2" if bits > 8 or len(data) >= 2 * (entries or 65536) else np.uint8)
    table = np.asarray(data, dtype=np.float64)[: entries or 65536]
    return table[np.clip(frames.astype(np.int64) - first, 0, len(table) - 1)]


def _subtracted(
    masks: Iterable[NDArray[np.float64]],
    fills: Iterable[NDArray[np.float64]],
    shape: tuple[int, int, int],
    known: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Line integrals, and weights where the scale of the intensity is known, of logarithms frame by frame."""
    projections = np.empty(shape, np.float32)
    weights = np.empty(shape, np.float32)
    unit = None
    for k, (mask, fill) in enumerate(zip(masks, fills, strict=True)):
        usable = np.isfinite(mask) & np.isfinite(fill)
        mask, fill = np.where(usable, mask, 0), np.where(usable, fill, 0)
        projections[k] = mask - fill
        if unit is None:  # that of an intensity is free: keep counts as they are, others in their range
            highest = float(mask.max())
            unit = highest - np.log(65535) if not 0 < highest < 30 else 0.0
        # 1 / (1 / mask + 1 / fill)
        weights[k] = usable * (np.exp(mask + fill - unit) / (np.exp(mask) + np.exp(fill)) if known else 1.0)
    if (share := float((weights > 0).mean())) < 0.5:
        raise ValueError(f"{100 * (1 - share):.0f} % of the pixels have no intensity above zero in mask or fill run.")
    return projections, weights if known or share < 1 else None


def _check_sign(projections: NDArray, run: AngiographyRun, masks: AngiographyRun) -> None:
    step = max(1, projections.size // (1 << 22))
    low, high = np.percentile(projections.ravel()[::step], (0.1, 99.9))
    if -low > 3 * max(high, 0):
        raise ValueError(
            f"{masks.origin.path} minus {run.origin.path}: vessels come out below zero. Are mask and fill run "
            "exchanged? Then give them the other way round."
        )


def _open_area(run: AngiographyRun, masks: AngiographyRun | None) -> NDArray[np.bool_]:
    """[H, W] inside the shutters that the headers state."""
    from custom_nets.data.angiography.field_of_view import find_active_area

    seen = np.ones(run.size, dtype=bool)
    for one in (run, masks):
        if one is not None and one.origin.shutter:
            changing = np.zeros((2, *one.size), np.uint8)  # so that only the header decides
            changing[1] = 1
            seen &= find_active_area(changing, one.origin.shutter)
    return seen


# ---- two runs ----


def _check_pair(run: AngiographyRun, masks: AngiographyRun) -> None:
    names = f"{masks.origin.path} (mask) and {run.origin.path} (fill)"
    if run.size != masks.size:
        raise ValueError(f"{names} differ in size: {masks.size} and {run.size}. Give two runs of one acquisition.")
    for what in ("source_detector_mm", "source_isocenter_mm"):
        fill_mm, mask_mm = getattr(run.geometry, what), getattr(masks.geometry, what)
        if fill_mm is not None and mask_mm is not None and abs(fill_mm - mask_mm) > 1:
            raise ValueError(
                f"{names} differ in {what}: {mask_mm:g} and {fill_mm:g} mm. Give two runs of one acquisition."
            )
    pixels = [anywhere(r.origin.dataset, "ImagerPixelSpacing") for r in (masks, run)]
    one, other = (None if p is None else np.asarray(p, dtype=np.float64) for p in pixels)
    if one is not None and other is not None and not np.allclose(one, other, rtol=1e-3):
        raise ValueError(f"{names} differ in pixel size: {pixels[0]} and {pixels[1]} mm.")
    _check_still_table(masks)


def _check_same_plane(run: AngiographyRun, secondary: NDArray, masks: AngiographyRun, mask_secondary: NDArray) -> None:
    apart = abs(float(np.median(secondary) - np.median(mask_secondary)))
    if apart > 0.5:
        raise ValueError(
            f"{masks.origin.path} and {run.origin.path} were taken {apart:.1f} degrees apart (secondary angle): a mask "
            "must see the head from the same side."
        )


def _mask_shares(
    mask_deg: NDArray[np.float64], fill_deg: NDArray[np.float64], notes: list[str]
) -> tuple[NDArray[np.int64], list[list[tuple[int, float]]]]:
    """Where each fill frame has its mask: a frame of the mask run that is near enough, otherwise between two.

    Returns:
        The K fill frames that have a mask (those beyond the mask's arc have none), and for each of them frames of the
        mask run and their shares.
    """
    order = np.argsort(mask_deg, kind="stable")
    angles = mask_deg[order]
    # whole turns between the two clocks of angles
    fill = fill_deg + 360 * np.round((np.mean(angles) - np.mean(fill_deg)) / 360)
    kept = np.flatnonzero((fill >= angles[0] - _SAME_ANGLE_DEG) & (fill <= angles[-1] + _SAME_ANGLE_DEG))
    if len(kept) < max(_FEWEST, len(fill) // 2):
        raise ValueError(
            f"the arcs of mask ({angles[0]:.1f} to {angles[-1]:.1f} degrees) and fill run ({fill.min():.1f} to "
            f"{fill.max():.1f}) overlap in {len(kept)} of {len(fill)} frames only: give two runs on the same path."
        )
    if gone := len(fill) - len(kept):
        notes.append(f"{gone} fill frames beyond the arc of the mask run are left out")
    parts: list[list[tuple[int, float]]] = []
    for angle in fill[kept]:
        nearest = int(np.abs(angles - angle).argmin())
        if abs(angles[nearest] - angle) <= _SAME_ANGLE_DEG:
            parts.append([(int(order[nearest]), 1.0)])
            continue
        after = int(np.searchsorted(angles, angle))
        share = float((angle - angles[after - 1]) / (angles[after] - angles[after - 1]))
        parts.append([(int(order[after - 1]), 1 - share), (int(order[after]), share)])
    if between := sum(len(part) > 1 for part in parts):
        notes.append(f"the mask of {between} frames is interpolated in angle between two of its frames")
    return kept, parts


# ---- one run ----


def _with_own_mask(run: AngiographyRun) -> NDArray[np.int64] | None:
    """The frames that the file itself names a mask for; None where it names none."""
    items = run.mapping.subtraction
    if not items:
        return None
    found = []
    for index in range(len(run)):
        item = items[run.mapping.item_for(index) or 0]
        masks = _mask_frames(item, index)
        if item.first <= index <= item.last and index not in masks and 0 <= min(masks) and max(masks) < len(run):
            found.append(index)
    return np.array(found, dtype=np.int64)


def _mask_frames(item: MaskSubtraction, index: int) -> tuple[int, ...]:
    return item.mask_frames if item.operation == "AVG_SUB" else (index - item.tid_offset,)


def _alone(
    run: AngiographyRun, own: NDArray[np.int64] | None, primary: NDArray, options: XAOptions, notes: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.int64], bool]:
    """A run that holds its own mask, or subtracted frames: projections, weights, frames, whether quantitative."""
    name, count = run.origin.path, len(run)
    if options.subtracted:
        slope = float(run.origin.dataset.get("RescaleSlope") or 1)
        if run.origin.meta.get("intensity_relationship") == "LOG" and slope != 1 and options.log_scale is None:
            logarithm, known = _logarithm(run, options, notes)
            values = np.stack([-logarithm(frame).astype(np.float32) for frame in run.frames])
            return values, None, np.arange(count), known
        grey = BACKGROUND - run.normalize(slice(None))  # how far below the ground, in units of the window
        if options.log_scale is not None:
            notes.append(f"subtracted frames: {options.log_scale:g} of line integral per grey value, as given")
            grey = grey * (abs(options.log_scale) / abs(run.mapping.scale))
            return grey.astype(np.float32), None, np.arange(count), True
        notes.append(
            "subtracted frames whose scale is unknown: attenuation has no unit. Give the line integral per grey value "
            "as --log_scale to have one"
        )
        return grey.astype(np.float32), None, np.arange(count), False
    if own is None:
        raise ValueError(
            f"{name} is one run without a mask: bone would stay in it. Give the mask run as --mask FILE, or "
            "--subtracted True if the frames are subtracted already."
        )
    if len(own) < _FEWEST:
        raise ValueError(f"{name}: only {len(own)} frames have a mask within the file: give --mask FILE.")
    logarithm, known = _logarithm(run, options, notes)
    parts = []
    for index in own:
        frames = list(_mask_frames(run.mapping.subtraction[run.mapping.item_for(index) or 0], int(index)))
        if (apart := float(np.abs(primary[frames] - primary[index]).max())) > _SAME_ANGLE_DEG:
            raise ValueError(
                f"{name}: the mask that the file names for frame {index + 1} was taken {apart:.1f} degrees away. A "
                "turning arm needs a mask run: give --mask FILE, or --subtracted True if the frames are subtracted."
            )
        parts.append(frames)
    projections, weights = _subtracted(
        (np.mean([logarithm(run.frames[k]) for k in frames], axis=0) for frames in parts),
        (logarithm(run.frames[k]) for k in own),
        (len(own), *run.size),
        known,
    )
    return projections, weights, own, known
