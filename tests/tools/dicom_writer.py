"""Write a minimal valid MR series, for tests (pydicom 2.4 and 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def _decimal(values) -> list[str]:
    """Decimal strings of at most 16 characters, as DICOM has them."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in np.ravel(values)]


def write_dicom_series(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    slope: float | list[float] = 1.0,
    intercept: float = 0.0,
    positions: np.ndarray | None = None,
    series_uid: str | None = None,
    seed: int = 0,
    prefix: str = "im",
    **tags: Any,
) -> list[Path]:
    """One file per slice along z, in shuffled file order.

    Args:
        volume: [x, y, z] integers, the stored values.
        affine: (4, 4) index -> mm, RAS.
        slope: rescale slope, one for all or one per slice.
        positions: (Z, 3) mm, RAS, of the first voxel of each slice; by default from the affine.
        tags: further elements by keyword; None leaves an element out.

    Returns:
        The files, by slice.
    """
    from pydicom.uid import generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = lps @ affine[:3, :3] / spacing
    count = volume.shape[2]
    if positions is None:
        positions = (affine[:3, 3:] + affine[:3, 2:3] * np.arange(count)).T
    order = np.random.default_rng(seed).permutation(count)
    common = {
        "SOPClassUID": MR_IMAGE_STORAGE,
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "PatientName": "Phantom",
        "PatientID": "0",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": series_uid or generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "SeriesDescription": "blobs",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": volume.shape[1],
        "Columns": volume.shape[0],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleIntercept": _decimal(intercept),
        "PixelSpacing": _decimal(spacing[1::-1]),
        "SliceThickness": _decimal(spacing[2]),
        "ImageOrientationPatient": _decimal(axes[:, :2].T),
    }
    slopes = np.broadcast_to(slope, count)
    files = []
    for k in range(count):
        own = {
            "SOPInstanceUID": generate_uid(),
            "InstanceNumber": int(order[k]) + 1,
            "ImagePositionPatient": _decimal(lps @ positions[k]),
            "RescaleSlope": _decimal(slopes[k]),
            "PixelData": np.ascontiguousarray(volume[:, :, k].T.astype("<i2")).tobytes(),
        }
        files.append(folder / f"{prefix}{order[k]:04d}.dcm")
        write_dataset(files[-1], {**common, **own, **tags})
    return files


def write_dataset(path: Path, elements: dict[str, Any]) -> None:
    """One DICOM file from keywords and values (None: left out)."""
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = elements["SOPClassUID"]
    meta.MediaStorageSOPInstanceUID = elements["SOPInstanceUID"]
    meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    save_file(dataset, path)


def save_file(dataset: Any, path: Path) -> None:
    """Explicit VR Little Endian, with pydicom 2.4 and 3."""
    import pydicom

    if int(pydicom.__version__.split(".")[0]) >= 3:
        dataset.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)
    else:
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        dataset.save_as(path, write_like_original=False)
