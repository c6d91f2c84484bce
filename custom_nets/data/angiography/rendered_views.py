"""Pictures that a reconstruction was asked for, from any angle at any time, as files: XA DICOM, NPZ, PNG, MP4.

NPZ holds line integrals as they are, with the geometry of each view, and can be read as an acquisition again. The
others hold 16 or 8 bits as radiologists look at them, vessels dark, and say that every frame is made, not measured.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from custom_nets.data.angiography.acquisition_reader import write_npz_acquisition
from custom_nets.data.angiography.parts import RunGeometry, RunOrigin
from custom_nets.data.angiography.run import AngiographyRun, make_run
from custom_nets.data.angiography.views import Acquisition
from custom_nets.data.angiography.writer import run_path, write_run
from custom_nets.data.angiography.xa_writer import new_xa_dataset
from custom_nets.data.dicom.derived import DerivedSeries, decimal, mark_derived, save_dataset
from custom_nets.geometry.cone_beam import ConeBeam
from custom_nets.utils.files import new_file

__all__ = ["VIEW_FORMATS", "positioner_angles_of", "views_like", "write_views"]

VIEW_FORMATS = ("dicom", "npz", "png", "mp4", "gif")
_PERSON = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription", "BodyPartExamined"),
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC"),
)


def write_views(
    folder: str | Path,
    name: str,
    views: Acquisition,
    format: str = "npz",
    made_by: str = "custom_nets",
    origin: RunOrigin | None = None,
) -> Path:
    """Write rendered views.

    Args:
        folder: to write into.
        name: of the file, without suffix.
        views: projections with their geometry; ``times_s`` is the clock of a film of them.
        format: one of :data:`VIEW_FORMATS`.
        made_by: name of the method.
        origin: of the measured run, whose patient and study a DICOM file keeps; None: that of ``views``.

    Returns:
        The path written; for ``"png"`` a folder.

    Raises:
        ValueError: another format, or a geometry that DICOM's positioner angles cannot say.
    """
    if format not in VIEW_FORMATS:
        raise ValueError(f"the format of views must be one of {', '.join(VIEW_FORMATS)}, got {format!r}.")
    path = run_path(folder, name, format)
    if format == "npz":
        return write_npz_acquisition(views, path)
    run, darkest, step = _as_run(views, origin or views.origin or RunOrigin())
    if format != "dicom":
        return write_run(run, path, format, made_by=made_by)
    dataset = _dataset(run, darkest, step, made_by, views.quantitative)
    with new_file(path) as part:
        save_dataset(dataset, part)
    return path


def positioner_angles_of(geometry: ConeBeam) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """DICOM's primary and secondary angles [N] of views in degrees, and whether pictures are as seen from the source.

    Raises:
        ValueError: the picture is turned within its plane, which these angles cannot say.
    """
    normal = np.cross(geometry.column_step_mm, geometry.row_step_mm)
    normal *= np.sign(((geometry.panel_mm - geometry.source_mm) * normal).sum(1, keepdims=True))
    x, y, z = (normal / np.linalg.norm(normal, axis=1, keepdims=True)).T  # towards the panel
    primary, secondary = np.arctan2(x, -y), np.arcsin(np.clip(z, -1, 1))
    across = np.stack([np.cos(primary), np.sin(primary), np.zeros_like(primary)], 1)
    columns = geometry.column_step_mm / np.linalg.norm(geometry.column_step_mm, axis=1, keepdims=True)
    share = (columns * across).sum(1)
    if np.abs(share).min() < np.cos(np.deg2rad(0.5)) or len(np.unique(np.sign(share))) > 1:
        raise ValueError(
            "pictures are turned within their plane, which DICOM's positioner angles cannot say: write views as npz."
        )
    return np.rad2deg(np.unwrap(primary)), np.rad2deg(secondary), bool(share[0] < 0)


def _as_run(views: Acquisition, origin: RunOrigin) -> tuple[AngiographyRun, float, float]:
    """Views as a run of 16 bits, as seen from the panel; the largest line integral, and that of one grey value."""
    low, darkest = float(views.projections.min()), float(views.projections.max())
    step = max(darkest - low, 1e-6) / 65535
    stored = np.rint((darkest - views.projections.astype(np.float64)) / step).astype(np.uint16)
    primary, secondary, from_source = positioner_angles_of(views.geometry)
    geometry = views.geometry
    run = make_run(
        stored[:, :, ::-1] if from_source else stored,
        views.times_s,
        synthetic=np.ones(len(views), dtype=bool),
        inverted=False,
        geometry=RunGeometry(
            pixel_spacing_mm=tuple(
                float(np.linalg.norm(steps[0])) for steps in (geometry.row_step_mm, geometry.column_step_mm)
            ),  # type: ignore[arg-type]
            primary_deg=primary,
            secondary_deg=secondary,
            source_detector_mm=float(np.median(geometry.source_panel_mm)),
            source_isocenter_mm=float(np.median(geometry.source_isocentre_mm)),
        ),
        origin=RunOrigin(
            path=origin.path,
            meta={"bits_stored": 16},
            notes=(f"rendered; the line integral is {darkest:.6g} - {step:.6g} x grey value",),
            dataset=origin.dataset,
            sources=origin.sources,
        ),
    )
    return run, darkest, step


def _dataset(run: AngiographyRun, darkest: float, step: float, made_by: str, quantitative: bool) -> Any:
    """Rendered views as a derived XA object of the measured run's patient and study."""
    source = run.origin.dataset
    dataset = new_xa_dataset(
        run.frames, run.times_s, bits_stored=16, relationship="LOG", geometry=run.geometry, patient="UNKNOWN",
        series_description="rendered views",
    )  # fmt: skip
    dataset.RescaleSlope, dataset.RescaleIntercept = decimal(step), decimal(-darkest)  # makes ln of the intensity
    if source is not None:
        for keyword in _PERSON:
            if keyword in source:
                setattr(dataset, keyword, source.get(keyword))
    unit = "" if quantitative else " Their attenuation has no unit."
    series = DerivedSeries(
        made_by=made_by,
        derivation=f"All {len(run)} frames are synthetic: rendered from a 4D reconstruction by {made_by}.{unit}",
        contribution="Frames were rendered from a reconstruction",
        number=None if source is None else int(source.get("SeriesNumber") or 0) + 1000,
        description=DerivedSeries.described("rendered views", made_by),
    )
    mark_derived(dataset, series, ["DERIVED", "SECONDARY", "SINGLE PLANE"], run.origin.sources)
    return dataset


def views_like(scan: Acquisition, projections: ArrayLike, indices: ArrayLike | None = None) -> Acquisition:
    """Other pictures at the places and times of a scan's frames.

    Args:
        scan: whose geometry and times the pictures have.
        projections: [n, H, W].
        indices: [n] frames of the scan; None: all.
    """
    some = scan if indices is None else scan.subset(np.asarray(indices))
    return replace(some, projections=np.asarray(projections, dtype=np.float32), weights=None)
