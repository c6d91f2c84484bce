"""Derived MR series: every voxel where the affine puts it, values to half a step, nothing that only the source was."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from custom_nets.data.dicom.derived import decimal
from custom_nets.data.volumes import dicom_writer as mr_output
from custom_nets.data.volumes.dicom_writer import check_mr_series, is_mr_result, write_mr_series
from custom_nets.geometry import Grid
from custom_nets.transforms import load_volume
from tests.conftest import blobs, random_affine, world_points
from tests.tools.dicom_writer import MR_IMAGE_STORAGE
from tests.tools.xa_writer import validator_errors

pydicom = pytest.importorskip("pydicom")

AXIAL = np.array([[-1.0, 0, 0, 8], [0, -1.0, 0, 9], [0, 0, 5.0, -15], [0, 0, 0, 1]])
SHAPE = (17, 19, 7)
# what the standard asks of an MR image besides what the writer of tests sets
COMPLETE = {
    "StudyDate": "20200102", "StudyTime": "101500", "AccessionNumber": "", "ReferringPhysicianName": "",
    "StudyID": "1", "PatientBirthDate": "", "PatientSex": "", "Manufacturer": "Maker", "SeriesNumber": 3,
    "SeriesDate": "20200102", "SeriesTime": "101600", "ContentDate": "20200102", "ContentTime": "101700",
    "PatientPosition": "HFS", "PositionReferenceIndicator": "", "BodyPartExamined": "HEAD",
    "ScanningSequence": "SE", "SequenceVariant": "NONE", "ScanOptions": "", "MRAcquisitionType": "2D",
    "RepetitionTime": "3000", "EchoTime": "90", "EchoTrainLength": 8, "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
    "InPlanePhaseEncodingDirection": "ROW", "WindowCenter": "300", "WindowWidth": "500",
}  # fmt: skip


@pytest.fixture
def series(tmp_path, write_dicom_series):
    """``series(affine, **tags)``: ``meta`` of a series of the field."""

    def make(affine=AXIAL, shape=SHAPE, **tags):
        values = np.round(blobs(world_points(shape, affine))).astype(np.int16)
        write_dicom_series(tmp_path / "source", values, affine, **{**COMPLETE, **tags})
        return load_volume(tmp_path / "source").meta

    return make


def field(affine, shape) -> np.ndarray:
    return blobs(world_points(shape, affine)).astype(np.float32)


def finer(affine=AXIAL, shape=SHAPE, scale=(1, 1, 5)) -> tuple[np.ndarray, np.ndarray]:
    """The field on a finer grid, and its affine."""
    grid = Grid(shape, affine).rescaled(scale)
    return field(grid.affine, grid.shape), grid.affine


def headers_of(folder: Path) -> list:
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


# ---- places and values ----


@pytest.mark.parametrize("seed", range(8))
def test_every_voxel_lies_where_the_affine_says(seed, series, tmp_path):
    """By the standard's formula (PS3.3 C.7.6.2.1.1) from each file's header; oblique, permuted, left-handed grids."""
    rng = np.random.default_rng(seed)
    meta = series(random_affine(rng, (1.0, 1.2, 5.0)))
    affine, shape = random_affine(rng), tuple(rng.integers(2, 12, 3))
    array = rng.normal(0, 500, shape).astype(np.float32)
    folder = write_mr_series(array, affine, tmp_path / "out", meta)

    to_index = np.linalg.inv(affine)
    assert len(list(folder.iterdir())) == shape[2]
    for header in headers_of(folder):
        s, o = np.array(header.ImagePositionPatient, float), np.array(header.ImageOrientationPatient, float)
        row_distance, column_distance = (float(v) for v in header.PixelSpacing)
        for i, j in np.ndindex(header.Columns, header.Rows):
            lps = s + o[:3] * column_distance * i + o[3:] * row_distance * j
            index = (to_index @ [-lps[0], -lps[1], lps[2], 1])[:3]
            assert np.abs(index - index.round()).max() * 5 < 1e-3
            value = header.pixel_array[j, i] * float(header.RescaleSlope) + float(header.RescaleIntercept)
            assert abs(value - array[tuple(index.round().astype(int))]) <= 0.5001 * header.RescaleSlope

    again = load_volume(folder)
    place = Grid.of(again).index_map(Grid(shape, affine))  # our index -> index as read
    ends = np.array([[*end, 1] for end in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in shape), 1]
    found = (ends @ place.T)[:, :3]
    np.testing.assert_allclose(found * again.pixdim.numpy(), found.round() * again.pixdim.numpy(), atol=1e-3)
    assert again.shape[1:] == shape
    flipped = np.linalg.det(affine[:3, :3]) < 0
    np.testing.assert_allclose(
        again[0].numpy()[..., :: -1 if flipped else 1], array, atol=0.5001 * float(header.RescaleSlope) + 1e-4
    )
    depths = sorted(float(header.SliceLocation) for header in headers_of(folder))
    np.testing.assert_allclose(np.diff(depths), float(header.SpacingBetweenSlices), atol=1e-6)


@pytest.mark.parametrize(
    "low, high, signed, proportional",
    [
        (0, 800, 0, True),
        (-20, 800, 1, True),
        (-900, 10, 1, True),
        (300, 310, 0, False),
        (-30010, -30000, 0, False),
        (0, 3e-6, 0, True),
        (7, 7, 0, False),
        (0, 0, 0, True),
    ],
)
def test_values_to_half_a_step(low, high, signed, proportional, series, tmp_path):
    array = np.random.default_rng(0).uniform(low, high, (6, 5, 4)).astype(np.float32)
    array[0, 0, 0], array[1, 1, 1] = low, high
    folder = write_mr_series(array, AXIAL, tmp_path / "out", series())
    header = headers_of(folder)[0]
    slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
    assert header.PixelRepresentation == signed and header.BitsStored == 16 and header.HighBit == 15
    assert (intercept == 0) == proportional
    if high > low:
        assert (high - low) / slope > 32766, "half of the steps are used"
    again = load_volume(folder, check_values=False)[0].numpy()
    np.testing.assert_allclose(again, array, atol=0.5001 * slope + 1e-7 * max(abs(low), abs(high)), rtol=0)
    assert {(h.RescaleSlope, h.RescaleIntercept, h.WindowCenter, h.WindowWidth) for h in headers_of(folder)} == {
        (header.RescaleSlope, header.RescaleIntercept, header.WindowCenter, header.WindowWidth)
    }


# ---- what the headers say ----


def test_what_a_derived_series_says(series, tmp_path):
    meta = series()
    array, affine = finer()
    folder = write_mr_series(array, affine, tmp_path / "out", meta, made_by="arssr 9.9")
    assert [file.name for file in sorted(folder.iterdir())] == [f"IM_{n:04d}.dcm" for n in range(1, 36)]
    old, new = headers_of(tmp_path / "source"), headers_of(folder)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID", "StudyDate", "SOPClassUID",
                    "EchoTime", "InPlanePhaseEncodingDirection", "WindowCenter", "WindowWidth"):  # fmt: skip
        assert {header[keyword].value for header in new} == {old[0][keyword].value}, keyword
    assert len({header.SOPInstanceUID for header in new} | {header.SOPInstanceUID for header in old}) == 35 + 7
    assert len({header.SeriesInstanceUID for header in new}) == 1
    assert new[0].SeriesInstanceUID != old[0].SeriesInstanceUID and new[0].SeriesNumber == 1003
    assert new[0].SeriesDescription == "blobs arssr 9.9"
    assert list(new[0].ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    for what in ("1 x 1 x 1 mm", "arssr 9.9", "estimated, not measured", "For research only"):
        assert what in new[0].DerivationDescription
    equipment = new[0].ContributingEquipmentSequence[-1]
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109103"
    assert equipment.ManufacturerModelName == "arssr 9.9" and "research only" in equipment.ContributionDescription
    assert {header.SeriesDate for header in new} != {"20200102"} and len({header.SeriesTime for header in new}) == 1
    assert new[0].ContentDate == new[0].InstanceCreationDate == new[0].SeriesDate
    for number, header in enumerate(new, 1):
        assert header.InstanceNumber == number and header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        assert float(header.SliceThickness) == float(header.SpacingBetweenSlices) == 1.0


def test_sources_are_the_slices_around(series, tmp_path):
    meta = series()
    places = {header.SOPInstanceUID: header.ImagePositionPatient[2] for header in headers_of(tmp_path / "source")}
    array, affine = finer()
    for header in headers_of(write_mr_series(array, affine, tmp_path / "thin", meta)):
        z = float(header.ImagePositionPatient[2])
        near = [places[item.ReferencedSOPInstanceUID] for item in header.SourceImageSequence]
        assert sorted(near) == sorted(p for p in places.values() if abs(p - z) < 4.999 or p == np.clip(z, -15, 15))
        assert {item.PurposeOfReferenceCodeSequence[0].CodeValue for item in header.SourceImageSequence} == {"121322"}
    sagittal = affine[:, [2, 1, 0, 3]]  # cuts all of them
    for header in headers_of(write_mr_series(array.transpose(2, 1, 0), sagittal, tmp_path / "sagittal", meta)):
        assert {item.ReferencedSOPInstanceUID for item in header.SourceImageSequence} == set(places)
        assert "InPlanePhaseEncodingDirection" not in header


@pytest.mark.parametrize("reverse", [False, True])
def test_scrolls_the_way_the_source_does(reverse, series, tmp_path):
    meta = series()
    for header in headers_of(tmp_path / "source"):
        depth = round((float(header.ImagePositionPatient[2]) + 15) / 5)
        header.InstanceNumber = 7 - depth if reverse else depth + 1
        header.save_as(header.filename)
    array, affine = finer()
    for left_handed in (False, True):
        if left_handed:
            array, affine = array[..., ::-1], affine @ np.diag([1, 1, -1, 1.0]) + [[0] * 4] * 4
            affine[:3, 3] += finer()[1][:3, 2] * (array.shape[2] - 1)
        folder = write_mr_series(array, affine, tmp_path / f"out{left_handed}", meta)
        z = [float(header.ImagePositionPatient[2]) for header in headers_of(folder)]
        assert (np.diff(z) < 0).all() if reverse else (np.diff(z) > 0).all()


def test_nothing_is_said_that_was_the_sources_alone(series, tmp_path):
    tags = {"PixelPaddingValue": 0, "ImagesInAcquisition": 7, "PatientOrientation": ["L", "P"],
            "SmallestImagePixelValue": 1, "SpacingBetweenSlices": "2.0", "SliceThickness": "3.0",
            "ReconstructionDiameter": "220"}  # fmt: skip
    meta = series(**tags)
    for header in headers_of(tmp_path / "source"):
        header.private_block(0x0029, "VENDOR", create=True).add_new(0x01, "LO", "slice 1")
        header.add_new(0x60000010, "US", 19)
        header.add_new(0x60000050, "SS", [1, 1])
        header.save_as(header.filename)
    array, affine = finer(scale=(2, 2, 1))
    for header in headers_of(write_mr_series(array, affine, tmp_path / "out", meta)):
        for keyword in {*tags} - {"SpacingBetweenSlices", "SliceThickness"}:
            assert keyword not in header, keyword
        assert not any(element.tag.is_private or element.tag.group == 0x6000 for element in header)
        # slices as far apart as measured are as thick as measured; this source says its gap where the distance goes
        assert float(header.SpacingBetweenSlices) == 5 and float(header.SliceThickness) == 3
    assert load_volume(tmp_path / "out").meta["slice_gap_mm"] == 2


def test_window_of_the_data_where_the_source_has_none(series, tmp_path):
    meta = series(WindowCenter="0", WindowWidth="0", VOILUTFunction="SIGMOID")
    array, affine = finer()
    header = headers_of(write_mr_series(array / 2000, affine, tmp_path / "out", meta))[0]
    low, high = np.percentile(array / 2000, (0.5, 99.5))
    assert float(header.WindowCenter) == pytest.approx((low + high) / 2)
    assert float(header.WindowWidth) == pytest.approx(high - low) and header.VOILUTFunction == "LINEAR_EXACT"


def test_a_map_is_told_from_the_image(series, tmp_path):
    array, affine = finer()
    folder = write_mr_series(array / 9, affine, tmp_path / "m", series(), made_by="m", content="standard deviation")
    header = headers_of(folder)[0]
    assert header.SeriesDescription == "blobs m standard deviation" and header.SeriesNumber == 1004
    assert list(header.ImageType) == ["DERIVED", "SECONDARY", "OTHER"] and float(header.WindowCenter) != 300
    assert header.DerivationDescription.startswith("Standard deviation on a grid of 1 x 1 x 1 mm")


def test_times_are_in_the_zone_of_the_source(series, tmp_path):
    from datetime import datetime, timedelta, timezone

    array, affine = finer()
    header = headers_of(write_mr_series(array, affine, tmp_path / "o", series(TimezoneOffsetFromUTC="+1345")))[0]
    said = datetime.strptime(header.SeriesDate + header.SeriesTime, "%Y%m%d%H%M%S")
    now = datetime.now(timezone(timedelta(hours=13, minutes=45))).replace(tzinfo=None)
    assert abs(now - said) < timedelta(minutes=10)


@pytest.mark.parametrize("value", [9.9999999999999982, -9.99999999999999, 99.999999999999986, 1 / 3, -1e-5 / 3, 1e20])
def test_decimal_strings_fit(value):
    assert len(decimal(value)) <= 16 and float(decimal(value)) == pytest.approx(value, rel=1e-9)


# ---- refused, whole or not at all ----


def test_what_is_refused(series, tmp_path, write_dicom_series):
    meta, grid = series(), Grid(SHAPE, AXIAL)
    check_mr_series(meta, grid)
    with pytest.raises(ValueError, match="is not a DICOM series.*--output_format nifti"):
        check_mr_series({"filename_or_obj": "scan.nii.gz"}, grid)
    with pytest.raises(ValueError, match="has 3 volumes .*--output_format nifti"):
        check_mr_series(meta, grid, volumes=3)
    for place in ((0, 2), (0, 1)):  # slices over rows, rows over columns
        sheared = AXIAL.copy()
        sheared[place] = 0.02
        with pytest.raises(ValueError, match="not perpendicular .*--output_format nifti"):
            check_mr_series(meta, Grid(SHAPE, sheared))
    with pytest.raises(ValueError, match="not finite"):
        write_mr_series(np.full(SHAPE, np.nan, np.float32), AXIAL, tmp_path / "out", meta)
    for name, uid, words in (("ct", "1.2.840.10008.5.1.4.1.1.2", "no MR image"),
                             ("enhanced", MR_IMAGE_STORAGE + ".1", "enhanced .multi-frame. MR image")):  # fmt: skip
        write_dicom_series(tmp_path / name, np.ones(SHAPE, np.int16), AXIAL, SOPClassUID=uid)
        with pytest.raises(ValueError, match=words):
            check_mr_series(load_volume(tmp_path / name, check_values=False).meta, grid)
    assert not (tmp_path / "out").exists()


def test_whole_or_not_at_all(series, tmp_path, monkeypatch):
    meta = series()
    array, affine = finer()
    folder = write_mr_series(array[..., :3], affine, tmp_path / "results" / "out", meta)
    before = {file: file.read_bytes() for file in folder.iterdir()}

    real, written = mr_output.save_dataset, []

    def full_disk(dataset, path):
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        assert not (folder.parent / "new").exists(), "nothing to be seen under its name yet"
        written.append(real(dataset, path))

    monkeypatch.setattr(mr_output, "save_dataset", full_disk)
    for name in ("out", "new"):
        written.clear()
        with pytest.raises(OSError, match=f"{name} could not be written: No space left"):
            write_mr_series(array, affine, folder.parent / name, meta)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["out"]

    monkeypatch.setattr(mr_output, "save_dataset", real)
    write_mr_series(array, affine, folder, meta)  # an earlier result is replaced
    assert len(list(folder.iterdir())) == 35 and [path.name for path in folder.parent.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_left_alone(series, tmp_path):
    meta = series()
    array, affine = finer()
    with pytest.raises(OSError, match="was not written by this program"):
        write_mr_series(array, affine, tmp_path / "source", meta)
    assert len(list((tmp_path / "source").iterdir())) == 7 and not is_mr_result(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    assert is_mr_result(write_mr_series(array, affine, tmp_path / "empty", meta))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_the_validator_finds_no_new_fault(series, tmp_path):
    meta = series(random_affine(np.random.default_rng(3), (1.0, 1.0, 5.0)))
    source = sorted((tmp_path / "source").iterdir())[0]
    assert validator_errors(source) == []
    affine = random_affine(np.random.default_rng(4))
    folder = write_mr_series(field(affine, (9, 8, 4)) - 300, affine, tmp_path / "out", meta, made_by="arssr 0.1.0")
    for file in folder.iterdir():
        assert validator_errors(file) == []
    files = [str(file) for file in (*(tmp_path / "source").iterdir(), *folder.iterdir())]
    done = subprocess.run(["dcentvfy", *files], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
