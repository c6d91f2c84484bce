"""MR volumes as classic DICOM series, derived from the series that they were computed from.

One file per slice along the volume's last axis. What only held for a slice of the source (its place, its pixels, its
vendor's private elements, which some readers trust more than the standard's) is written anew or left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.dicom.derived import (
    DerivedSeries,
    copied_dataset,
    decimal,
    derived_number,
    mark_derived,
    save_dataset,
)
from custom_nets.data.dicom.elements import text_of, valid_number
from custom_nets.data.volumes.dicom_series import series_headers
from custom_nets.data.volumes.nifti import largest_distance
from custom_nets.geometry import Grid
from custom_nets.utils.files import new_folder

__all__ = ["check_mr_series", "is_mr_result", "write_mr_series"]

_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
_ENHANCED = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PERPENDICULAR = 1e-3  # the cosine of axes that count as perpendicular
_ROUNDING_MM = 0.1
_SAME_PLACE_MM = 1e-3
_INSTEAD = "give --output_format nifti."
_OF_THE_SOURCE = (
    # its grid
    "PatientOrientation", "ImagePosition", "ImageOrientation", "Location", "ReconstructionDiameter",
    "ImagesInAcquisition", "StackID", "InStackPositionNumber", "PixelAspectRatio",
    # its stored values
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "VOILUTSequence",
    "RealWorldValueMappingSequence", "WindowCenterWidthExplanation", "VOILUTFunction",
)  # fmt: skip


def check_mr_series(meta: Mapping[str, Any], grid: Grid, volumes: int = 1) -> None:
    """Refuse what cannot become a derived MR series: better before hours of work than after.

    Args:
        meta: of the source volume, as :func:`custom_nets.transforms.load_volume` gives it.
        grid: of the result.
        volumes: in the result.

    Raises:
        ValueError: the source is no DICOM series of classic MR images, there are several volumes, or the grid's axes
            are not perpendicular.
    """
    if volumes != 1:
        name = meta.get("filename_or_obj")
        raise ValueError(f"{name} has {volumes} volumes and a DICOM series is written of one only: {_INSTEAD}")
    _Slices.of(grid)
    _Source.of(meta)


def write_mr_series(
    array: NDArray[np.floating],
    affine: NDArray[np.float64],
    folder: str | Path,
    source: Mapping[str, Any],
    *,
    made_by: str = "custom_nets",
    content: str = "",
    padding: NDArray[np.bool_] | None = None,
) -> Path:
    """Write a volume as ``folder/IM_0001.dcm``, ...: the whole folder at once, or nothing.

    Rows, columns and positions are those of the affine; slices are numbered in the direction in which the source's
    are. Each image has the header of the source slice nearest to its centre, and names as its sources the slices that
    it lies between or in (slices parallel to the source's: one or two; others: those that it crosses). One slope and
    intercept for all slices gives the values in their own units to within half a step; all 16 bits are used, or at
    least half of their steps where the intercept can then be 0 (MR readers often know none).

    Args:
        array: [x, y, z].
        affine: (4, 4), index -> mm, RAS; left-handed ones are allowed, sheared ones are not.
        folder: is made; an earlier result of this function there is replaced.
        source: ``meta`` of the volume that the result was computed from (its path and ``series_uid``).
        made_by: name (and version) of the method.
        content: what the values are where they are not the scan's signal, such as "standard deviation".
        padding: [x, y, z], where nothing was measured: these voxels get a PixelPaddingValue.

    Raises:
        ValueError: see :func:`check_mr_series`; values that are not finite.
        OSError: the folder cannot be written, or is there and holds something else.
    """
    folder = Path(folder)
    slices, headers = _Slices.of(Grid(array.shape, affine)), _Source.of(source)  # type: ignore[arg-type]
    if not np.isfinite(array).all():
        raise ValueError(f"{folder}: the result has values that are not finite, which DICOM pixels cannot be.")
    if folder.exists() and not is_mr_result(folder):
        raise OSError(f"{folder} is there already and was not written by this program: choose another output folder.")
    pixels = _Pixels.of(array, padding)
    window = _window([] if content else headers.headers, array)
    series = _series(headers.headers[0], slices, made_by, content)
    rest = ["OTHER"] if content else list(headers.headers[0].get("ImageType") or [])[2:] or ["OTHER"]
    try:
        with new_folder(folder) as part:
            for k, number in enumerate(slices.numbers(headers)):
                around, nearest = headers.near(slices.corners(k))
                dataset = copied_dataset(headers.headers[nearest])
                _remove_what_was_the_sources(dataset, slices)
                mark_derived(dataset, series, ["DERIVED", "SECONDARY", *rest], [headers.uids[i] for i in around])
                dataset.InstanceNumber = number
                slices.write(dataset, k, headers)
                pixels.write(dataset, array[:, :, k], None if padding is None else padding[:, :, k])
                for keyword, value in window.items():
                    setattr(dataset, keyword, value)
                save_dataset(dataset, part / f"IM_{number:04d}.dcm")
    except OSError as error:
        raise OSError(f"{folder} could not be written: {error.strerror or error}.") from error
    return folder


def is_mr_result(folder: Path) -> bool:
    """Whether a folder is empty or holds nothing but a series that :func:`write_mr_series` wrote."""
    import pydicom

    files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    if not files:
        return True
    if not all(re.fullmatch(r"IM_\d{4,}\.dcm", file.name) for file in files):
        return False
    header = pydicom.dcmread(files[0], stop_before_pixels=True, force=True)
    makers = [item.get("Manufacturer") for item in header.get("ContributingEquipmentSequence") or []]
    return "custom_nets" in makers


@dataclass(frozen=True)
class _Source:
    """Headers of the source's slices, by their place along the normal (depth, mm, LPS)."""

    headers: list[Any]
    uids: list[tuple[str, str]]  # (class, instance)
    normal: NDArray[np.float64]
    depths: NDArray[np.float64]

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> _Source:
        path, uid = meta.get("filename_or_obj"), meta.get("series_uid")
        if not uid:
            raise ValueError(f"{path} is not a DICOM series, so no DICOM series can be derived from it: {_INSTEAD}")
        headers = []
        for file, header in series_headers(str(path), str(uid)):
            kind = text_of(header, "SOPClassUID")
            if kind != _MR_IMAGE:
                what = "an enhanced (multi-frame) MR image" if kind in _ENHANCED else "no MR image"
                raise ValueError(f"{file} is {what}; DICOM is written for series of classic MR images: {_INSTEAD}")
            headers.append(header)
        normal = np.cross(*_orientation(headers[0]))
        headers.sort(key=lambda header: float(_position(header) @ normal))
        uids = [(str(header.SOPClassUID), text_of(header, "SOPInstanceUID")) for header in headers]
        return cls(headers, uids, normal, np.array([_position(header) @ normal for header in headers]))

    @property
    def numbered_along_normal(self) -> bool:
        first, last = (valid_number(self.headers[i], "InstanceNumber") or 0 for i in (0, -1))
        return first <= last

    @property
    def spacing_mm(self) -> float:
        return float(self.depths[-1] - self.depths[0]) / (len(self.depths) - 1)

    def near(self, points: NDArray[np.float64]) -> tuple[list[int], int]:
        """Slices between or in which the points (N, 3) lie, and the one nearest to their middle."""
        depths = points @ self.normal
        below = int(np.searchsorted(self.depths, depths.min() + _SAME_PLACE_MM, "right")) - 1
        above = int(np.searchsorted(self.depths, depths.max() - _SAME_PLACE_MM, "left"))
        around = list(range(max(below, 0), min(above, len(self.depths) - 1) + 1))
        return around, int(np.abs(self.depths - depths.mean()).argmin())


def _position(header: Any) -> NDArray[np.float64]:
    return np.array([float(v) for v in header.ImagePositionPatient])


def _orientation(header: Any) -> NDArray[np.float64]:
    return np.array([float(v) for v in header.ImageOrientationPatient]).reshape(2, 3)


@dataclass(frozen=True)
class _Slices:
    """A grid in DICOM's terms (mm, LPS).

    Attributes:
        grid: [columns, rows, slices].
        axes: (2, 3) unit vectors: along a row, down a column.
        spacing: (3,) between columns, rows, slices (along the normal).
        first: centre of the first voxel of the first slice.
        step: from slice to slice.
    """

    grid: Grid
    axes: NDArray[np.float64]
    spacing: NDArray[np.float64]
    first: NDArray[np.float64]
    step: NDArray[np.float64]

    @classmethod
    def of(cls, grid: Grid) -> _Slices:
        lps = _RAS_TO_LPS @ grid.affine
        unit = lps[:3, :3] / grid.spacing_mm
        cosine = float(np.abs(unit.T @ unit - np.eye(3)).max())
        u, _, vt = np.linalg.svd(unit[:, :2].T, full_matrices=False)
        axes = u @ vt  # the nearest exactly perpendicular ones
        written = lps.copy()
        written[:3, :2] = axes.T * grid.spacing_mm[:2]
        if cosine > _PERPENDICULAR or largest_distance(lps, written, grid.shape) > _ROUNDING_MM:
            raise ValueError(
                f"the axes of the result are not perpendicular (cosine {cosine:.4f}; a tilted gantry, or a sheared "
                f"affine of the reference), which viewers of DICOM series do not expect: {_INSTEAD}"
            )
        spacing = np.array([*grid.spacing_mm[:2], abs(lps[:3, 2] @ np.cross(*axes))])
        return cls(grid, axes, spacing, lps[:3, 3], lps[:3, 2])

    def numbers(self, source: _Source) -> list[int]:
        """InstanceNumber of each slice: scrolling goes the same way as in the source."""
        count = self.grid.shape[2]
        up = float(self.step @ source.normal)
        backwards = abs(up) > _PERPENDICULAR and (up > 0) != source.numbered_along_normal
        return list(range(count, 0, -1) if backwards else range(1, count + 1))

    def corners(self, k: int) -> NDArray[np.float64]:
        """(4, 3): centres of the corner voxels of a slice."""
        ends = [[x, y] for x in (0, self.grid.shape[0] - 1) for y in (0, self.grid.shape[1] - 1)]
        return self.first + k * self.step + (ends * self.spacing[:2]) @ self.axes

    def write(self, dataset: Any, k: int, source: _Source) -> None:
        normal = np.cross(*self.axes)
        position = self.first + k * self.step
        dataset.ImagePositionPatient = [decimal(v) for v in position]
        dataset.ImageOrientationPatient = [decimal(v) for v in self.axes.ravel()]
        dataset.PixelSpacing = [decimal(self.spacing[1]), decimal(self.spacing[0])]
        dataset.SpacingBetweenSlices = decimal(self.spacing[2])
        dataset.SliceLocation = decimal(position @ normal)
        # slices as far apart as they were measured have the thickness that was measured
        same = abs(normal @ source.normal) > 1 - _PERPENDICULAR**2
        if not (same and np.isclose(self.spacing[2], source.spacing_mm, rtol=1e-3) and dataset.get("SliceThickness")):
            dataset.SliceThickness = decimal(self.spacing[2])


def _remove_what_was_the_sources(dataset: Any, slices: _Slices) -> None:
    turned = np.abs(np.abs(slices.axes @ _orientation(dataset).T) - np.eye(2)).max() > _PERPENDICULAR
    for keyword in (*_OF_THE_SOURCE, *(("InPlanePhaseEncodingDirection",) if turned else ())):
        if keyword in dataset:
            del dataset[keyword]
    for element in list(dataset):
        if element.tag.group & 0xFFE1 in (0x5000, 0x6000):  # curves and overlays
            del dataset[element.tag]


@dataclass(frozen=True)
class _Pixels:
    """Stored values of 16 bits: value = slope * stored + intercept."""

    slope: float
    intercept: float
    signed: bool

    @classmethod
    def of(cls, array: NDArray[np.floating], padding: NDArray[np.bool_] | None = None) -> _Pixels:
        if padding is not None and padding.any() and not padding.all():
            array = array[~padding]  # the lowest stored value is for the rest
        low, high = float(array.min()), float(array.max())
        signed = low < 0 or padding is not None
        slope = max(high / 32767, -low / 32767) if signed else high / 65535
        intercept = 0.0
        if (high - low) < 32767 * slope * (1 - 1e-6):
            # the whole range of 16 bits, but for the value that padding has
            first = -32767 if padding is not None else 0
            signed, slope = padding is not None, (high - low) / (65534 if padding is not None else 65535)
            intercept = float(decimal(low - first * slope))
        return cls(float(decimal(slope)) or 1.0, intercept, signed)

    def write(self, dataset: Any, image: NDArray[np.floating], padding: NDArray[np.bool_] | None = None) -> None:
        """Pixels of a slice [x, y]: rows are y."""
        limits = np.iinfo("i2" if self.signed else "u2")
        stored = np.rint((image.T.astype(np.float64) - self.intercept) / self.slope).clip(limits.min, limits.max)
        dataset.Columns, dataset.Rows = image.shape
        dataset.SamplesPerPixel = 1
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = int(self.signed)
        if padding is not None:
            stored = np.where(padding.T, limits.min, stored.clip(limits.min + 1))
            dataset.add_new(0x00280120, "SS", limits.min)
        dataset.RescaleSlope, dataset.RescaleIntercept = decimal(self.slope), decimal(self.intercept)
        dataset.RescaleType = dataset.get("RescaleType") or "US"
        dataset.PixelData = stored.astype("<i2" if self.signed else "<u2").tobytes()
        dataset["PixelData"].VR = "OW"


def _window(headers: list[Any], array: NDArray[np.floating]) -> dict[str, Any]:
    """The usual window of the source's slices (values have the same units), or one from the data."""
    pairs = []
    for header in headers:
        center, width = (valid_number(header, f"Window{what}") for what in ("Center", "Width"))
        if center is not None and width is not None and width >= 1:
            pairs.append((center, width))
    if pairs:
        center, width = np.median(pairs, axis=0)
        function = headers[0].get("VOILUTFunction")
    else:
        low, high = np.percentile(array, (0.5, 99.5))
        center, width = (low + high) / 2, max(high - low, 1e-6)
        function = None if width >= 1 else "LINEAR_EXACT"  # the usual function has no width below 1
    window = {"WindowCenter": decimal(center), "WindowWidth": decimal(width)}
    return {**window, **({"VOILUTFunction": function} if function else {})}


def _series(header: Any, slices: _Slices, made_by: str, content: str) -> DerivedSeries:
    spacing = " x ".join(f"{mm:.4g}" for mm in slices.spacing)
    what = content.capitalize() if content else "Values"
    return DerivedSeries(
        made_by=made_by,
        derivation=f"{what} on a grid of {spacing} mm, computed by {made_by} from series "
        f"{text_of(header, 'SeriesInstanceUID')}. "
        "Detail between the measured voxels is estimated, not measured.",
        contribution=f"{content.capitalize() or 'Detail'} estimated on another grid",
        number=derived_number(header, 1001 if content else 1000),
        description=DerivedSeries.described(text_of(header, "SeriesDescription"), made_by, content),
    )
