"""Write X-ray angiography DICOM of many kinds, for tests, without using the package's own writer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from tests.tools.dicom_writer import EXPLICIT_LITTLE_ENDIAN, save_file

XA = "1.2.840.10008.5.1.4.1.1.12.1"
XRF = "1.2.840.10008.5.1.4.1.1.12.2"
ENHANCED_XA = "1.2.840.10008.5.1.4.1.1.12.1.1"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
J2K_LOSSLESS = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
ENCRYPTED = "1.2.3.4.5.6.7"


def contrast_run(
    count: int = 6, size: tuple[int, int] = (40, 48), dtype: Any = np.uint16, bits: int = 12, seed: int = 0
) -> np.ndarray:
    """[T, H, W] intensities: two frames without contrast, then a vessel that fills and moves; noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    ground = 0.55 + 0.1 * np.sin(x / 7) + 0.05 * np.cos(y / 9)
    frames = []
    for k in range(count):
        vessel = 0.25 * max(k - 1, 0) * np.exp(-((x - size[1] / 2 - k) ** 2) / 20)
        frames.append(ground * np.exp(-vessel) + rng.normal(0, 0.003, size))
    low = -(1 << (bits - 1)) if np.issubdtype(dtype, np.signedinteger) else 0
    return np.round(np.clip(np.stack(frames), 0, 1) * ((1 << bits) - 1) + low).astype(dtype)


def elements(**more: Any) -> Any:
    """A sequence item, or any data set, from keywords (None: left out)."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for keyword, value in more.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def decimals(values: Any) -> list[str]:
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(v)) for v in np.ravel(values)]


def write_xa(
    path: Path,
    frames: np.ndarray,
    bits: int = 12,
    frame_time_ms: float | None = 250.0,
    frame_time_vector_ms: Any = None,
    syntax: str = EXPLICIT_LITTLE_ENDIAN,
    **tags: Any,
) -> Path:
    """A classic XA file; ``tags`` by keyword replace or add elements (None: left out)."""
    from pydicom.uid import generate_uid

    frames = np.asarray(frames)
    common: dict[str, Any] = {
        "SOPClassUID": XA,
        "SOPInstanceUID": generate_uid(),
        "ImageType": ["ORIGINAL", "PRIMARY", "SINGLE PLANE", "VENDOR"],
        "StudyDate": "20200102",
        "StudyTime": "101500",
        "ContentDate": "20200102",
        "ContentTime": "101600",
        "AccessionNumber": "",
        "Modality": "XA",
        "Manufacturer": "Tests",
        "ReferringPhysicianName": "",
        "SeriesDescription": "Carotid left",
        "PatientName": "Phantom^Run",
        "PatientID": "0",
        "PatientBirthDate": "",
        "PatientSex": "",
        "BodyPartExamined": "HEAD",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "StudyID": "1",
        "SeriesNumber": 7,
        "InstanceNumber": 3,
        "PatientOrientation": "",
        "KVP": "80",
        "XRayTubeCurrent": "",
        "ExposureTime": "",
        "RadiationSetting": "GR",
        "PositionerMotion": "STATIC",
        "PositionerPrimaryAngle": "10.5",
        "PositionerSecondaryAngle": "-5",
        "ImagerPixelSpacing": ["0.3", "0.3"],
        "PixelIntensityRelationship": "LOG",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        **pixel_elements(frames, bits),
        "NumberOfFrames": len(frames) if frames.ndim == 3 else None,
    }
    if frame_time_vector_ms is not None:
        common |= {"FrameTimeVector": decimals(frame_time_vector_ms), "FrameIncrementPointer": 0x00181065}
    elif frame_time_ms is not None:
        common |= {"FrameTime": decimals(frame_time_ms)[0], "FrameIncrementPointer": 0x00181063}
    return save(path, elements(**(common | tags)), frames, syntax)


def pixel_elements(frames: np.ndarray, bits: int) -> dict[str, Any]:
    return {
        "Rows": frames.shape[-2],
        "Columns": frames.shape[-1],
        "BitsAllocated": 8 * frames.dtype.itemsize,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(np.issubdtype(frames.dtype, np.signedinteger)),
        "PixelData": frames.astype(frames.dtype.newbyteorder("<")).tobytes(),
    }


def save(path: Path, dataset: Any, frames: np.ndarray, syntax: str = EXPLICIT_LITTLE_ENDIAN) -> Path:
    """Write a data set, with its pixels compressed if the transfer syntax asks for it."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
    file = FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128)
    file["PixelData"].VR = "OW" if file.BitsAllocated > 8 else "OB"
    if syntax in (RLE, J2K_LOSSLESS):
        file.compress(syntax, generate_instance_uid=False)
    elif syntax == JPEG_BASELINE:
        import cv2

        coded = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes() for frame in frames]
        file.PixelData = encapsulate(coded)
        file["PixelData"].VR = "OB"
        file["PixelData"].is_undefined_length = True
        meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(file, path)
    if syntax == ENCRYPTED:
        # same length, so that only the name of the syntax is another
        content = path.read_bytes()
        old = EXPLICIT_LITTLE_ENDIAN.encode() + b"\0"
        path.write_bytes(content.replace(old, ENCRYPTED.encode().ljust(len(old), b"\0"), 1))
    return path


def write_enhanced_xa(
    path: Path,
    frames: np.ndarray,
    times_s: Any,
    bits: int = 12,
    angles_deg: Any = None,
    mask_frames: Any = None,
    **tags: Any,
) -> Path:
    """An Enhanced XA file with times, positions and frame types in functional groups."""
    from pydicom.uid import generate_uid

    groups = []
    for number, seconds in enumerate(times_s, 1):
        stamp = f"20200102{101600 + int(seconds):06d}.{round(seconds % 1 * 1e6):06d}"
        angle = 10.0 if angles_deg is None else float(angles_deg[number - 1])
        groups.append(
            elements(
                FrameContentSequence=[
                    elements(
                        FrameReferenceDateTime=stamp,
                        FrameAcquisitionDateTime=stamp,
                        FrameAcquisitionDuration=8.0,
                        FrameAcquisitionNumber=number,
                        DimensionIndexValues=[number],
                    )
                ],
                PositionerPositionSequence=[elements(PositionerPrimaryAngle=angle, PositionerSecondaryAngle=-5.0)],
            )
        )
    masks = None
    if mask_frames is not None:
        masks = [elements(MaskOperation="AVG_SUB", MaskFrameNumbers=list(mask_frames), SubtractionItemID=1,
                          ApplicableFrameRange=[1, len(frames)])]  # fmt: skip
    organisation = generate_uid()
    common: dict[str, Any] = {
        "SOPClassUID": ENHANCED_XA,
        "SOPInstanceUID": generate_uid(),
        "ImageType": ["ORIGINAL", "PRIMARY", "SINGLE PLANE", "NONE"],
        "StudyDate": "20200102",
        "StudyTime": "101500",
        "SeriesDate": "20200102",
        "SeriesTime": "101500",
        "ContentDate": "20200102",
        "ContentTime": "101600",
        "AcquisitionDateTime": "20200102101600",
        "AccessionNumber": "",
        "Modality": "XA",
        "Manufacturer": "Tests",
        "ManufacturerModelName": "T",
        "DeviceSerialNumber": "1",
        "SoftwareVersions": "1",
        "ReferringPhysicianName": "",
        "PatientName": "Phantom^Run",
        "PatientID": "0",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "StudyID": "1",
        "SeriesNumber": 7,
        "InstanceNumber": 3,
        "AcquisitionNumber": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PresentationLUTShape": "IDENTITY",
        "ContentQualification": "PRODUCT",
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
        "KVP": "80",
        "RadiationSetting": "GR",
        "AcquisitionProtocolName": "P",
        "PlanesInAcquisition": "SINGLE PLANE",
        "CArmPositionerTabletopRelationship": "YES",
        "PlaneIdentification": "MONOPLANE",
        "ExposureInmAs": 1.0,
        "AveragePulseWidth": "8",
        "AcquisitionDuration": float(times_s[-1]),
        "RadiationMode": "PULSED",
        "DistanceReceptorPlaneToDetectorHousing": 5.0,
        "PositionerType": "CARM",
        "AcquiredImageAreaDoseProduct": 1.0,
        "FrameOfReferenceUID": generate_uid(),
        "PositionReferenceIndicator": "",
        "AcquisitionTimeSynchronized": "N",
        "SynchronizationFrameOfReferenceUID": generate_uid(),
        "SynchronizationTrigger": "NO TRIGGER",
        "PatientOrientationCodeSequence": [
            code(
                "102538003",
                "SCT",
                "recumbent",
                PatientOrientationModifierCodeSequence=[code("40199007", "SCT", "supine")],
            )
        ],
        "PatientGantryRelationshipCodeSequence": [code("102540008", "SCT", "headfirst")],
        "AcquisitionContextSequence": [],
        "RecommendedViewingMode": "NAT" if masks is None else "SUB",
        "RecommendedDisplayFrameRate": 4,
        "DimensionOrganizationSequence": [elements(DimensionOrganizationUID=organisation)],
        "DimensionIndexSequence": [
            elements(
                DimensionOrganizationUID=organisation,
                DimensionIndexPointer=0x00209156,
                FunctionalGroupPointer=0x00209111,
            )
        ],
        "SharedFunctionalGroupsSequence": [shared_groups()],
        "PerFrameFunctionalGroupsSequence": groups,
        "MaskSubtractionSequence": masks,
        "NumberOfFrames": len(frames),
        **pixel_elements(frames, bits),
    }
    return save(path, elements(**(common | tags)), frames)


def code(value: str, scheme: str, meaning: str, **more: Any) -> Any:
    return elements(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning, **more)


def shared_groups() -> Any:
    """What an Enhanced XA must say once for all frames."""
    from pydicom.uid import generate_uid

    region = [code("69536005", "SCT", "Head")]
    return elements(
        FrameAnatomySequence=[elements(FrameLaterality="U", AnatomicRegionSequence=region)],
        PixelIntensityRelationshipLUTSequence=[
            elements(
                LUTDescriptor=[4096, 0, 12],
                LUTData=np.arange(4096, dtype="<u2").tobytes(),
                LUTFunction="TO_LINEAR",
            )
        ],
        IrradiationEventIdentificationSequence=[elements(IrradiationEventUID=generate_uid())],
        FramePixelDataPropertiesSequence=[
            elements(
                PixelIntensityRelationship="LOG",
                PixelIntensityRelationshipSign=1,
                GeometricalProperties="UNIFORM",
                ImagerPixelSpacing=["0.3", "0.3"],
                FrameType=["ORIGINAL", "PRIMARY", "SINGLE PLANE", "NONE"],
                ImageProcessingApplied="NONE",
            )
        ],
        PatientOrientationInFrameSequence=[elements(PatientOrientation=["L", "F"])],
        ProjectionPixelCalibrationSequence=[
            elements(
                DistanceObjectToTableTop=100.0,
                ObjectPixelSpacingInCenterOfBeam=[0.2, 0.2],
            )
        ],
        XRayGeometrySequence=[elements(DistanceSourceToIsocenter=800.0, DistanceSourceToDetector=1200.0)],
        TablePositionSequence=[
            elements(
                TableTopVerticalPosition=0.0,
                TableTopLongitudinalPosition=0.0,
                TableTopLateralPosition=0.0,
                TableHorizontalRotationAngle=0.0,
                TableHeadTiltAngle=0.0,
                TableCradleTiltAngle=0.0,
            )
        ],
        CollimatorShapeSequence=[
            elements(
                CollimatorShape="RECTANGULAR",
                CollimatorLeftVerticalEdge=1,
                CollimatorRightVerticalEdge=48,
                CollimatorUpperHorizontalEdge=1,
                CollimatorLowerHorizontalEdge=40,
            )
        ],
        FrameVOILUTSequence=[elements(WindowCenter="2048", WindowWidth="4096")],
    )


def validator_errors(path: Path) -> list[str]:
    """What ``dciodvfy`` calls errors in a file; none where it is not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
