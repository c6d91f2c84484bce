"""What a DICOM object that was computed from others must say, whatever its kind (PS3.3 C.7.6.1, C.7.5.2, C.12.1).

New UIDs in the study and frame of reference of the source, DERIVED, what was done, from which instances, by which
software, for research only; and nothing any more that held for the source's pixels or transfer alone. Private elements
of the source are left out, of volumes and runs alike: nobody but their vendor knows which of them hold for these pixels
alone, or say who the patient is.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from custom_nets.data.dicom.elements import drop_unreadable, sequence, valid_number

__all__ = [
    "DerivedSeries",
    "code_item",
    "copied_dataset",
    "decimal",
    "derived_number",
    "mark_derived",
    "save_dataset",
]

_LARGEST_IS = 2**31 - 1

_LOSSY = (
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
)  # fmt: skip
_GONE = (
    # about pixels, files or transfers that are no longer
    "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
    "IconImageSequence", "SourceImageSequence", "DigitalSignaturesSequence", "MACParametersSequence",
    "ReferencedImageEvidenceSequence", "SourceImageEvidenceSequence", "DataSetTrailingPadding", "RetrieveAETitle",
    "RetrieveURL", "RetrieveURI", "InstanceAvailability",
)  # fmt: skip


def _new_uid() -> str:
    from pydicom.uid import generate_uid

    return generate_uid()


@dataclass(frozen=True)
class DerivedSeries:
    """What all objects of one derived series share.

    Attributes:
        made_by: name (and version) of the method.
        derivation: sentences on what was done; " For research only." is added.
        contribution: what the software did to the image, in a few words.
        number: SeriesNumber; None: as it is.
        description: SeriesDescription, at most 64 characters.
        uid: SeriesInstanceUID, a new one.
        made_at: local time.
    """

    made_by: str
    derivation: str
    contribution: str
    number: int | None = None
    description: str = ""
    uid: str = field(default_factory=_new_uid)
    made_at: datetime = field(default_factory=lambda: datetime.now().astimezone())

    @staticmethod
    def described(base: Any, *words: str) -> str:
        """The source's SeriesDescription with words behind it, shortened so that these stay."""
        end = " ".join(word for word in words if word)
        return f"{str(base or '')[: max(0, 63 - len(end))]} {end}".strip()[:64]


def copied_dataset(source: Any) -> Any:
    """A copy of a pydicom ``FileDataset`` whose elements are decoded, with file meta of its own and no stale elements.

    (An element left undecoded would be written in the byte order that it was read in.)
    """
    from pydicom.dataset import FileMetaDataset

    dataset = copy.deepcopy(source)
    drop_unreadable(dataset)  # decodes all of it
    dataset.remove_private_tags()
    if hasattr(dataset, "original_character_set"):  # pydicom 3 guards against just that
        dataset.set_original_encoding(False, True, dataset.original_character_set)
    for keyword in _GONE:
        if keyword in dataset:
            del dataset[keyword]
    if str(getattr(getattr(source, "file_meta", None), "TransferSyntaxUID", "")) in _LOSSY:
        dataset.LossyImageCompression = "01"  # the loss stays, whatever the pixels are stored as now
    dataset.file_meta = FileMetaDataset()
    return dataset


def derived_number(header: Any, step: int) -> int:
    """SeriesNumber of a series derived from another: ``step`` further on, within what an IS may hold."""
    number = valid_number(header, "SeriesNumber") or 0
    return int(number) + step if 0 <= number <= _LARGEST_IS - step else step


def mark_derived(
    dataset: Any, series: DerivedSeries, image_type: Sequence[str], sources: Iterable[tuple[str, str]]
) -> None:
    """Make the data set an object of its own in a derived series; study, patient and frame of reference stay.

    Args:
        image_type: all values of ImageType; the first is DERIVED.
        sources: (SOPClassUID, SOPInstanceUID) of the instances that it was computed from.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    import custom_nets

    dataset.file_meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _new_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.SeriesInstanceUID = series.uid
    if series.number is not None:
        dataset.SeriesNumber = series.number
    if series.description:
        dataset.SeriesDescription = series.description
    now = series.made_at.astimezone(_timezone(dataset))
    for name in ("Series", "Content", "InstanceCreation"):
        setattr(dataset, f"{name}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{name}Time", now.strftime("%H%M%S"))
    dataset.ImageType = list(image_type)
    dataset.DerivationDescription = f"{series.derivation} For research only."
    if items := [_source_item(*source) for source in sources]:
        dataset.SourceImageSequence = items
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [code_item("109103", "DCM", "Modifying Equipment")]
    equipment.Manufacturer, equipment.ManufacturerModelName = "custom_nets", series.made_by
    equipment.SoftwareVersions = custom_nets.__version__
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    equipment.ContributionDescription = f"{series.contribution}; for research only"
    dataset.ContributingEquipmentSequence = [*sequence(dataset, "ContributingEquipmentSequence"), equipment]


def _timezone(dataset: Any) -> Any:
    """The zone that the times of a data set are meant in: its own where it names one (as "+0100"), or local time."""
    try:
        return datetime.strptime(str(dataset.get("TimezoneOffsetFromUTC") or ""), "%z").tzinfo
    except ValueError:
        return None


def _source_item(class_uid: str, instance_uid: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = class_uid, instance_uid
    item.PurposeOfReferenceCodeSequence = [code_item("121322", "DCM", "Source image for image processing operation")]
    return item


def code_item(value: str, scheme: str, meaning: str) -> Any:
    """An item of a code sequence."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def decimal(value: float) -> str:
    """A decimal string: at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    text = format_number_as_ds(float(value))
    # pydicom makes 17 characters of a number that is rounded up to a power of ten
    return text if len(text) <= 16 else format_number_as_ds(float(f"{value:.12g}"))


def save_dataset(dataset: Any, path: Any) -> None:
    """Write a data set as Explicit VR Little Endian (pydicom 2.4 and 3).

    Whoever calls it writes beside the result and renames, a file or a whole folder.
    """
    import pydicom

    if int(pydicom.__version__.split(".")[0]) < 3:
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        dataset.save_as(path, write_like_original=False)
        return
    pixels = dataset.PixelData
    try:
        # written from a stream piece by piece; from bytes pydicom would make two more copies of a whole run
        dataset["PixelData"].value = io.BytesIO(pixels)
        dataset.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)
    finally:
        dataset["PixelData"].value = pixels
