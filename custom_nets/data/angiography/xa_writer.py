"""Runs as X-ray angiography DICOM: derived from the file a run came from, or made anew.

A derived object says that it is one (:mod:`custom_nets.data.dicom.derived`), and for every frame whether it was
measured. Elements that count frames are renumbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.intensity import IntensityMapping, MaskSubtraction
from custom_nets.data.angiography.run import AngiographyRun, RunGeometry
from custom_nets.data.angiography.xa_frames import set_angles, set_frame_groups, set_table, set_times
from custom_nets.data.angiography.xa_marks import mark_synthetic_frames, remove_marks
from custom_nets.data.angiography.xa_reader import ENHANCED_CLASSES, XA_CLASSES, mask_items
from custom_nets.data.dicom.derived import (
    DerivedSeries,
    copied_dataset,
    decimal,
    derived_number,
    mark_derived,
    save_dataset,
)
from custom_nets.data.dicom.elements import numbers, sequence, text_of, valid_number

__all__ = ["derived_dataset", "frame_ranges", "new_xa_dataset", "save_dataset"]

_XA_BITS = (8, 10, 12, 16)  # PS3.3 C.8.7.1.1.7


def new_xa_dataset(
    frames: NDArray,
    times_s: NDArray | Sequence[float],
    *,
    bits_stored: int | None = None,
    relationship: str = "DISP",
    photometric: str = "MONOCHROME2",
    subtraction: Sequence[MaskSubtraction] = (),
    geometry: RunGeometry | None = None,
    patient: str = "SIMULATED",
    series_description: str = "",
    body_part: str = "HEAD",
    tube_kv: float = 80.0,
) -> Any:
    """A valid multi-frame X-Ray Angiographic Image (pydicom ``FileDataset``) from plain frames.

    Args:
        frames: [T, H, W] uint8 or uint16 (int8 and int16 without values below zero).
        times_s: [T], strictly increasing.
        bits_stored: 8 to 16; None: all bits of the type. The standard has 8, 10, 12 and 16: the next one is said.
        relationship: PixelIntensityRelationship: LIN (intensity), LOG or DISP.
        subtraction: mask subtraction for viewers.
        geometry: angles that change make it a rotational run.
        patient: name and ID.

    Raises:
        ValueError: float frames, values below zero or beyond ``bits_stored``.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    frames, geometry = np.asarray(frames), geometry or RunGeometry()
    if np.issubdtype(frames.dtype, np.signedinteger):
        if frames.min() < 0:
            raise ValueError(
                "XA DICOM has no values below zero (PS3.3 C.8.7.1): write them as NIfTI or NPZ, or as unsigned values."
            )
        frames = frames.view(frames.dtype.str.replace("i", "u"))
    now = datetime.now()
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    rotates = any(a is not None and np.ptp(a) > 0 for a in (geometry.primary_deg, geometry.secondary_deg))
    elements: dict[str, Any] = {
        "ImageType": ["ORIGINAL", "PRIMARY", "SINGLE PLANE"],
        "SOPClassUID": next(iter(XA_CLASSES)),
        "SOPInstanceUID": generate_uid(),
        "StudyDate": now.strftime("%Y%m%d"),
        "ContentDate": now.strftime("%Y%m%d"),
        "StudyTime": now.strftime("%H%M%S"),
        "ContentTime": now.strftime("%H%M%S"),
        "AccessionNumber": "",
        "Modality": "XA",
        "Manufacturer": "custom_nets",
        "ReferringPhysicianName": "",
        "SeriesDescription": series_description or None,
        "PatientName": patient,
        "PatientID": patient,
        "PatientBirthDate": "",
        "PatientSex": "",
        "BodyPartExamined": body_part,
        "KVP": decimal(tube_kv),
        "XRayTubeCurrent": "",
        "ExposureTime": "",
        "RadiationSetting": "GR",
        "PositionerMotion": "DYNAMIC" if rotates else "STATIC",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "StudyID": "1",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "PatientOrientation": "",
        "PixelIntensityRelationship": relationship,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": photometric,
    }
    if relationship == "LOG":  # the standard asks for a modality LUT then; ours says that values are what they are
        elements |= {"RescaleIntercept": "0", "RescaleSlope": "1", "RescaleType": "US"}
    for name, value in (
        ("DistanceSourceToDetector", geometry.source_detector_mm),
        ("DistanceSourceToPatient", geometry.source_isocenter_mm),
    ):
        elements[name] = None if value is None else decimal(value)
    if geometry.pixel_spacing_mm is not None:
        elements["ImagerPixelSpacing"] = [decimal(v) for v in geometry.pixel_spacing_mm]
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    set_times(dataset, np.asarray(times_s, dtype=np.float64))
    set_angles(dataset, geometry, {})
    set_table(dataset, geometry)
    if subtraction:
        dataset.MaskSubtractionSequence = [_mask_element(item, len(frames)) for item in subtraction]
        dataset.RecommendedViewingMode = "SUB"
    if bits_stored is not None:
        bits_stored = min((bits for bits in _XA_BITS if bits >= bits_stored), default=bits_stored)
    _set_pixels(dataset, frames, bits_stored)
    return dataset


def derived_dataset(run: AngiographyRun, made_by: str = "custom_nets", description: str = "") -> Any:
    """The run as a derived DICOM object, ready to be saved (pydicom ``FileDataset``).

    Args:
        run: read from DICOM, then the header is kept as far as it still holds; otherwise the object is made anew.
        made_by: name of the method, for description and contributing equipment.
        description: put in front of the list of made frames in DerivationDescription.

    Raises:
        ValueError: float frames, or a run without times: DICOM must say them.
    """
    if not run.has_times:
        raise ValueError(
            f"{run.origin.path}: times of the frames are not known, but DICOM needs them: give --input_fps or "
            "--input_times_s."
        )
    source = run.origin.dataset
    if source is None:
        dataset = new_xa_dataset(
            run.frames, run.times_s, geometry=run.geometry, subtraction=run.mapping.subtraction,
            bits_stored=run.origin.meta.get("bits_stored"), patient="UNKNOWN",
            relationship="LIN" if run.mapping.log else "DISP",
        )  # fmt: skip
    else:
        dataset = copied_dataset(source)
        _renumber(dataset, run)
        enhanced = str(dataset.SOPClassUID) in ENHANCED_CLASSES
        if not enhanced or "FrameIncrementPointer" in dataset:  # enhanced objects say times with each frame
            set_times(dataset, run.times_s)
        if enhanced:
            set_frame_groups(dataset, run)
        else:
            set_angles(dataset, run.geometry, run.origin.meta.get("angle_styles", {}))
            set_table(dataset, run.geometry)
        _set_pixels(dataset, run.frames, run.origin.meta.get("bits_stored"))
    if source is not None:
        dataset.InstanceNumber = 1
    _describe(dataset, run, made_by, description)
    return dataset


def frame_ranges(numbers: Sequence[int] | NDArray) -> str:
    """[2, 4, 5, 6] -> "2, 4-6"."""
    parts: list[list[int]] = []
    for number in (int(n) for n in numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def _describe(dataset: Any, run: AngiographyRun, made_by: str, description: str) -> None:
    made = np.flatnonzero(run.synthetic) + 1
    rest = list(dataset.get("ImageType") or [])[2:]
    enhanced = str(dataset.SOPClassUID) in ENHANCED_CLASSES
    # the classic object calls every later image secondary, the enhanced one knows primary only
    image_type = ["DERIVED", "PRIMARY" if enhanced else "SECONDARY", *(rest or ["SINGLE PLANE"])]
    text = f"{description} " if description else ""
    text += f"{len(made)} of {len(run)} frames are synthetic, made by {made_by}: {frame_ranges(made) or 'none'}. "
    text = text if len(text) < 900 else f"{text[:880]}... (all of them in FrameNumbersOfInterest). "
    source = run.origin.dataset
    series = DerivedSeries(
        made_by=made_by,
        derivation=f"{text}The other frames are as measured.",
        contribution="Frames were made between measured ones",
        number=None if source is None else derived_number(source, 1000),
        description=DerivedSeries.described(text_of(dataset, "SeriesDescription"), made_by),
    )
    mark_derived(dataset, series, image_type, run.origin.sources)
    if enhanced:
        dataset.ContentQualification = "RESEARCH"
    mark_synthetic_frames(dataset, made.tolist(), run.times_s)


def _renumber(dataset: Any, run: AngiographyRun) -> None:
    """Elements that name frames get the new numbers; those of frames that are gone go."""
    count = max(int(valid_number(dataset, "NumberOfFrames") or 1), int(run.source_index.max()) + 1)
    kept = run.source_index >= 0
    new_index = np.full(count, -1)  # of each old frame
    new_index[run.source_index[kept]] = np.flatnonzero(kept)
    for keyword in ("RepresentativeFrameNumber", "StartTrim", "StopTrim"):
        if keyword in dataset:
            _set_or_drop(dataset, keyword, _new_numbers([int(valid_number(dataset, keyword) or 0)], new_index)[:1])
    named = _whole_numbers(dataset, "FrameNumbersOfInterest")
    new = _new_numbers(named, new_index)
    if named and len(new) == len(named):
        dataset.FrameNumbersOfInterest = new
    else:  # some alone would lose their words
        _drop(dataset, "FrameNumbersOfInterest", "FrameOfInterestDescription", "FrameOfInterestType")
    _set_or_drop(dataset, "RWavePointer", _new_numbers(_whole_numbers(dataset, "RWavePointer"), new_index))
    _renumber_overlays(dataset, new_index)
    if not np.array_equal(run.source_index, np.arange(count)):
        # a value for each old frame (labels, R wave times): nobody knows those of made frames
        for element in list(dataset):
            if element.keyword.endswith("Vector") and element.VM == count:
                del dataset[element.tag]
    remove_marks(dataset)
    if "MaskSubtractionSequence" in dataset:
        _set_or_drop(dataset, "MaskSubtractionSequence", _renumbered_masks(dataset, run, count, new_index))
        if "MaskSubtractionSequence" not in dataset and dataset.get("RecommendedViewingMode") == "SUB":
            dataset.RecommendedViewingMode = "NAT"


def _new_numbers(old: Sequence[int], new_index: NDArray) -> list[int]:
    """New numbers, from 1, of old ones, without those of frames that are gone."""
    return [int(new_index[n - 1]) + 1 for n in old if 1 <= n <= len(new_index) and new_index[n - 1] >= 0]


def _drop(dataset: Any, *keywords: str) -> None:
    for keyword in keywords:
        if keyword in dataset:
            del dataset[keyword]


def _set_or_drop(dataset: Any, keyword: str, values: list[Any]) -> None:
    """Give an element these values; without any, take it away."""
    if values:
        setattr(dataset, keyword, values)
    else:
        _drop(dataset, keyword)


def _whole_numbers(dataset: Any, keyword: str) -> list[int]:
    found = numbers(dataset, keyword)
    return [] if found is None else [int(n) for n in found]


def _number_at(dataset: Any, tag: tuple[int, int]) -> int | None:
    value = dataset[tag].value if tag in dataset else None
    found = valid_number({"value": value}, "value")
    return None if found is None else int(found)


def _renumber_overlays(dataset: Any, new_index: NDArray) -> None:
    """The overlay of one frame follows it, or goes with it; overlays of several frames fit the old frames only."""
    for group in range(0x6000, 0x6020, 2):
        origin = (group, 0x0051)  # ImageFrameOrigin
        several = (_number_at(dataset, (group, 0x0015)) or 1) > 1
        number = _number_at(dataset, origin) or 0
        new = _new_numbers([number], new_index)
        if several or (number and not new):
            for element in list(dataset.group_dataset(group)):
                del dataset[element.tag]
        elif number:
            dataset[origin].value = new[0]


def _renumbered_masks(dataset: Any, run: AngiographyRun, count: int, new_index: NDArray) -> list[Any]:
    from pydicom.dataset import Dataset

    if run.origin.meta.get("subtraction_dropped"):
        return []
    kept = []
    for item in sequence(dataset, "MaskSubtractionSequence"):
        alone = Dataset()
        alone.MaskSubtractionSequence = [item]
        ranges, note = mask_items(alone, count, run.origin.path, strict=False)
        renumbered = IntensityMapping(subtraction=tuple(ranges)).renumbered(new_index)
        if renumbered is None or not renumbered.subtraction or note:
            continue
        if "MaskFrameNumbers" in item:
            item.MaskFrameNumbers = [index + 1 for index in renumbered.subtraction[0].mask_frames]
        if "TIDOffset" in item:
            item.TIDOffset = renumbered.subtraction[0].tid_offset
        if "ApplicableFrameRange" in item:
            ends = [n for part in renumbered.subtraction for n in (part.first + 1, min(part.last + 1, len(run)))]
            item.ApplicableFrameRange = ends
        kept.append(item)
    return kept


def _mask_element(item: MaskSubtraction, count: int) -> Any:
    from pydicom.dataset import Dataset

    element = Dataset()
    element.MaskOperation = item.operation
    element.ApplicableFrameRange = [item.first + 1, min(item.last + 1, count)]
    if item.operation == "AVG_SUB":
        element.MaskFrameNumbers = [index + 1 for index in item.mask_frames]
    else:
        element.TIDOffset = item.tid_offset
    if any(item.shift_px):
        element.MaskSubPixelShift = list(item.shift_px)
    return element


def _set_pixels(dataset: Any, frames: NDArray, bits_stored: int | None) -> None:
    if not np.issubdtype(frames.dtype, np.integer) or frames.dtype.itemsize > 2:
        raise ValueError(
            f"{frames.dtype} frames cannot be DICOM pixels without loss: write them as NIfTI or NPZ (output_format)."
        )
    bits = int(bits_stored or 8 * frames.dtype.itemsize)
    signed = np.issubdtype(frames.dtype, np.signedinteger)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if bits > 8 * frames.dtype.itemsize or int(frames.min()) < low or int(frames.max()) > high:
        raise ValueError(f"frames of {frames.min()} to {frames.max()} ({frames.dtype}) do not fit into {bits} bits.")
    dataset.Rows, dataset.Columns = frames.shape[1:]
    dataset.NumberOfFrames = len(frames)
    dataset.BitsAllocated = 8 * frames.dtype.itemsize
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
    data = frames.astype(frames.dtype.newbyteorder("<"), copy=False).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if frames.dtype.itemsize == 1 else "OW"
