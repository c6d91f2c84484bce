"""Small DICOM files as hospitals, anonymisers and archives write them: valid ones to be bent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.tools.dicom_writer import save_file

LITTLE = "1.2.840.10008.1.2.1"


def head(shape: tuple[int, int, int] = (12, 14, 6), seed: int = 0) -> np.ndarray:
    """A bright ellipsoid with structure in a dark room with a little noise, int16 0..1000."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    r = np.sqrt(x**2 + y**2 + z**2)
    values = 600 * (r < 0.9) + 300 * np.cos(6 * x) * np.cos(5 * y) * (r < 0.8)
    return np.clip(np.rint(values + np.random.default_rng(seed).normal(0, 4, shape)), 0, None).astype(np.int16)


def frames(count: int = 6, size: tuple[int, int] = (20, 24), bits: int = 12) -> np.ndarray:
    """A bolus that passes, uint16 of ``bits`` bits, every frame another."""
    y, x = np.mgrid[: size[0], : size[1]]
    ground = 0.7 + 0.1 * np.sin(x / 7) + 0.05 * np.cos(y / 9)
    passing = [ground * np.exp(-0.2 * k * np.exp(-((x - size[1] / 2 - k) ** 2) / 20)) for k in range(count)]
    return np.rint(np.stack(passing) * ((1 << bits) - 1)).astype(np.uint16)


def _dataset(sop_class: str, elements: dict[str, Any]) -> Any:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import generate_uid

    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.TransferSyntaxUID = LITTLE
    dataset.SOPInstanceUID = generate_uid()
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def mr_series(
    folder: Path,
    volume: np.ndarray,
    edit: Callable[[Any, int], None] | None = None,
    spacing_mm: float = 3.0,
    **tags: Any,
) -> list[Path]:
    """A classic MR series, a file for each slice of [x, y, z]; ``edit(dataset, k)`` bends slice k before it is saved.

    ``tags``: further elements by keyword; None leaves one out.
    """
    from pydicom.uid import generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    study, series, files = generate_uid(), generate_uid(), []
    for k in range(volume.shape[2]):
        dataset = _dataset(
            "1.2.840.10008.5.1.4.1.1.4",
            {
                "Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"], "PatientName": "A", "PatientID": "1",
                "StudyInstanceUID": study, "SeriesInstanceUID": series, "FrameOfReferenceUID": study,
                "SeriesNumber": 3, "InstanceNumber": k + 1, "SeriesDescription": "t1",
                "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": volume.shape[1],
                "Columns": volume.shape[0], "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
                "PixelRepresentation": 1, "PixelSpacing": ["1", "1"], "SliceThickness": str(spacing_mm),
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, k * spacing_mm],
                "PixelData": np.ascontiguousarray(volume[:, :, k].T).astype("<i2").tobytes(), **tags,
            },
        )  # fmt: skip
        if edit is not None:
            edit(dataset, k)
        files.append(folder / f"im{k:03d}.dcm")
        save_file(dataset, files[-1])
    return files


def xa_file(
    path: Path, values: np.ndarray, edit: Callable[[Any], None] | None = None, bits: int = 12, **tags: Any
) -> Path:
    """A classic XA file, [T, H, W] or a single frame [H, W]."""
    from pydicom.uid import generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    several = {"NumberOfFrames": len(values), "FrameTime": "250", "FrameIncrementPointer": 0x00181063}
    elements = {
        "Modality": "XA", "ImageType": ["ORIGINAL", "PRIMARY", "SINGLE PLANE"], "PatientName": "A", "PatientID": "1",
        "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "SeriesNumber": 3, "InstanceNumber": 1,
        "PositionerMotion": "STATIC", "PositionerPrimaryAngle": "10", "PositionerSecondaryAngle": "0",
        "ImagerPixelSpacing": ["0.3", "0.3"], "PixelIntensityRelationship": "DISP", "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": values.shape[-2], "Columns": values.shape[-1],
        "BitsAllocated": 16, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0,
        "PixelData": values.astype("<u2").tobytes(), **(several if values.ndim == 3 else {}), **tags,
    }  # fmt: skip
    dataset = _dataset("1.2.840.10008.5.1.4.1.1.12.1", elements)
    if edit is not None:
        edit(dataset)
    save_file(dataset, path)
    return path


def put_text(path: Path, tag: tuple[int, int], text: bytes) -> None:
    """Write text into an element of an explicit little endian file, whatever its type allows."""
    raw = path.read_bytes()
    place = raw.index(tag[0].to_bytes(2, "little") + tag[1].to_bytes(2, "little"), 132)
    length = int.from_bytes(raw[place + 6 : place + 8], "little")
    text += b" " * (len(text) % 2)
    path.write_bytes(raw[: place + 6] + len(text).to_bytes(2, "little") + text + raw[place + 8 + length :])
