"""DICOM series: every voxel where its own slice header puts it, and a clear refusal of what is no volume."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from custom_nets.data.dicom.files import holds_dicom, is_dicom_file
from custom_nets.data.volumes.dicom_series import load_series
from tests.conftest import blobs, random_affine, world_points
from tests.tools.dicom_writer import MR_IMAGE_STORAGE, write_dataset

pydicom = pytest.importorskip("pydicom")

SHAPE = (7, 10, 6)
AXIAL = np.array([[-1.0, 0, 0, 40], [0, -1.2, 0, 50], [0, 0, 5.0, -20], [0, 0, 0, 1]])


def stored(shape=SHAPE, affine=AXIAL):
    return np.round(blobs(world_points(shape, affine)) * 10).astype(np.int16)


@pytest.mark.parametrize("seed", range(12))
def test_world_coordinates_by_the_standards_formula(tmp_path, write_dicom_series, seed):
    """PS3.3 C.7.6.2.1.1: P = S + X_row di i + Y_col dj j, from each file's own header, against the affine."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 12, 3))
    affine = random_affine(rng)
    volume = rng.integers(-999, 999, shape)
    files = write_dicom_series(tmp_path, volume, affine, slope=0.5, intercept=-3, seed=seed)

    loaded = load_series(tmp_path)

    assert loaded.array.shape == shape and loaded.array.dtype == np.float32
    to_index = np.linalg.inv(loaded.affine)
    for file in files:
        header = pydicom.dcmread(file)
        s, o = np.array(header.ImagePositionPatient, float), np.array(header.ImageOrientationPatient, float)
        row_distance, column_distance = (float(v) for v in header.PixelSpacing)
        for i, j in [(0, 0), (shape[0] - 1, 0), (0, shape[1] - 1), (shape[0] - 1, shape[1] - 1)]:
            lps = s + o[:3] * column_distance * i + o[3:] * row_distance * j
            index = to_index @ [-lps[0], -lps[1], lps[2], 1]
            nearest = np.round(index[:3]).astype(int)
            place = loaded.affine @ [*nearest, 1]
            assert np.abs(place[:3] - lps * [-1, -1, 1]).max() < 1e-3
            assert loaded.array[tuple(nearest)] == header.pixel_array[j, i] * 0.5 - 3


@pytest.mark.parametrize("seed", range(4))
def test_field_is_found_where_it_was_written(tmp_path, write_dicom_series, seed):
    affine = random_affine(np.random.default_rng(100 + seed), spacing=(1.1, 0.9, 4.0))
    affine[:3, 3] = affine[:3, :3] @ -(np.array(SHAPE) / 2)
    write_dicom_series(tmp_path, stored(affine=affine), affine, seed=seed)
    loaded = load_series(tmp_path)
    np.testing.assert_allclose(loaded.array, blobs(world_points(SHAPE, loaded.affine)) * 10, atol=0.6)


def test_slope_and_intercept_of_each_slice(tmp_path, write_dicom_series):
    slopes = [0.5, 1.0, 2.0, 0.25, 3.0, 1.5]
    write_dicom_series(tmp_path, stored(), AXIAL, slope=slopes, intercept=-7)
    np.testing.assert_allclose(load_series(tmp_path).array, stored() * np.array(slopes) - 7, rtol=1e-6)


def test_meta(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path, stored(), AXIAL, series_uid="1.2.3", SliceThickness=4)
    assert load_series(tmp_path).meta == {
        "series_uid": "1.2.3",
        "series_description": "blobs",
        "modality": "MR",
        "bits_stored": 16,
        "original_dtype": "int16",
        "slice_thickness_mm": 4.0,
        "slice_gap_mm": 1.0,
    }


def test_several_series(tmp_path, write_dicom_series):
    files = write_dicom_series(tmp_path, stored(), AXIAL, series_uid="1.2.3", SeriesDescription="T1")
    write_dicom_series(tmp_path, stored() + 5, AXIAL, series_uid="1.2.4", SeriesDescription="T2", prefix="b")
    with pytest.raises(ValueError, match=r"2 DICOM series.*series_uid: 1.2.4 \('T2', 6 files\); 1.2.3 \('T1', 6 files"):
        load_series(tmp_path)
    with pytest.raises(ValueError, match="series_uid 9.9 is not in"):
        load_series(tmp_path, series_uid="9.9")
    np.testing.assert_array_equal(load_series(tmp_path, series_uid="1.2.4").array, stored() + 5)
    np.testing.assert_array_equal(load_series(files[2]).array, stored())  # one file names its series


def test_missing_slice(tmp_path, write_dicom_series):
    files = write_dicom_series(tmp_path, stored(), AXIAL)
    files[3].unlink()
    with pytest.raises(
        ValueError, match=r"10.000 mm between slices 3 and 4 .* 5.000 mm is usual.*1 slice\(s\) missing"
    ):
        load_series(tmp_path)
    loaded = load_series(tmp_path, allow_irregular=True)
    assert loaded.array.shape == (7, 10, 5)
    assert "irregular" in loaded.meta["geometry_note"]
    np.testing.assert_allclose(loaded.affine @ [0, 0, 4, 1], AXIAL @ [0, 0, 5, 1], atol=1e-9)


def test_slightly_irregular_slices_are_reported(tmp_path, write_dicom_series, caplog):
    positions = (AXIAL[:3, 3:] + AXIAL[:3, 2:3] * np.arange(6)).T
    positions[2, 2] += 0.2
    write_dicom_series(tmp_path, stored(), AXIAL, positions=positions)
    loaded = load_series(tmp_path)
    assert "4.800 mm between slices 3 and 4" in caplog.text or "5.200 mm between slices 2 and 3" in caplog.text
    np.testing.assert_allclose(loaded.affine, AXIAL, atol=1e-9)


def test_gantry_tilt_shears_the_affine(tmp_path, write_dicom_series, caplog):
    affine = AXIAL.copy()
    affine[1, 2] = 5 * np.tan(np.radians(15))
    write_dicom_series(tmp_path, stored(), AXIAL, positions=(affine[:3, 3:] + affine[:3, 2:3] * np.arange(6)).T)
    loaded = load_series(tmp_path)
    np.testing.assert_allclose(loaded.affine, affine, atol=1e-6)
    assert "15.00 degrees off their normal" in caplog.text


def test_rounded_positions_give_a_rigid_grid(tmp_path, write_dicom_series, caplog):
    affine = random_affine(np.random.default_rng(5), spacing=(1, 1, 5))
    positions = np.round((affine[:3, 3:] + affine[:3, 2:3] * np.arange(6)).T, 2)
    write_dicom_series(tmp_path, stored(), affine, positions=positions)
    columns = load_series(tmp_path).affine[:3, :3]
    columns = columns / np.linalg.norm(columns, axis=0)
    np.testing.assert_allclose(columns.T @ columns, np.eye(3), atol=1e-12)
    assert caplog.text == ""


def test_two_images_per_position(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path, stored(), AXIAL, series_uid="1.2.3")
    write_dicom_series(tmp_path, stored() + 1, AXIAL, series_uid="1.2.3", prefix="echo2_")
    with pytest.raises(ValueError, match="12 images lie at 6 positions .*multi-echo"):
        load_series(tmp_path)


def test_the_same_file_twice_counts_once(tmp_path, write_dicom_series):
    files = write_dicom_series(tmp_path, stored(), AXIAL)
    shutil.copy(files[0], tmp_path / "copy.dcm")
    assert load_series(tmp_path).array.shape == SHAPE


def test_slices_that_differ(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path, stored(), AXIAL, series_uid="1.2.3")
    turned = AXIAL[:, [0, 2, 1, 3]]
    write_dicom_series(tmp_path, stored(), turned, series_uid="1.2.3", prefix="localiser")
    with pytest.raises(ValueError, match="different orientations .*no single volume"):
        load_series(tmp_path)
    for file in tmp_path.glob("localiser*"):
        file.unlink()
    write_dicom_series(tmp_path, stored((8, 10, 2)), AXIAL, series_uid="1.2.3", prefix="large")
    with pytest.raises(ValueError, match="different matrix sizes"):
        load_series(tmp_path)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"SamplesPerPixel": 3}, "colour"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "MOSAIC"]}, "mosaic.*dcm2niix"),
        ({"NumberOfFrames": 4}, "multi-frame file without a position per frame"),
        ({"ImagePositionPatient": None}, "no valid ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not two perpendicular"),
        ({"PixelSpacing": ["0", "1"]}, "PixelSpacing must be above zero"),
        ({"PixelData": b"\0" * 10}, "pixel data cannot be decoded"),
    ],
)
def test_refusals(tmp_path, write_dicom_series, tags, message):
    write_dicom_series(tmp_path, stored(), AXIAL, **tags)
    with pytest.raises(ValueError, match=message):
        load_series(tmp_path)


def test_single_slice_and_no_image(tmp_path, write_dicom_series):
    write_dicom_series(tmp_path / "one", stored((7, 10, 1)), AXIAL)
    with pytest.raises(ValueError, match="single slice"):
        load_series(tmp_path / "one")
    write_dicom_series(tmp_path / "none", stored(), AXIAL, Rows=None)
    with pytest.raises(ValueError, match="no valid Rows and Columns"):
        load_series(tmp_path / "none")


def test_enhanced_multi_frame(tmp_path):
    """One file, a functional group per frame, frames not in the order of their positions."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def item(**elements):
        dataset = Dataset()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return dataset

    def group(**elements):
        return Sequence([item(**elements)])

    values, order = stored(), [2, 0, 1, 5, 3, 4]
    frames = []
    for k in order:
        x, y, z = AXIAL[:3, 3] + AXIAL[:3, 2] * k
        frames.append(
            item(
                PlanePositionSequence=group(ImagePositionPatient=[-x, -y, z]),
                PixelValueTransformationSequence=group(RescaleSlope=2 + k, RescaleIntercept=1),
            )
        )
    shared = item(
        PlaneOrientationSequence=group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelMeasuresSequence=group(PixelSpacing=[1.2, 1.0], SliceThickness=5),
    )
    elements = {
        "SOPClassUID": MR_IMAGE_STORAGE + ".1", "SOPInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "NumberOfFrames": 6, "Rows": 10,
        "Columns": 7, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1,
        "SharedFunctionalGroupsSequence": Sequence([shared]), "PerFrameFunctionalGroupsSequence": Sequence(frames),
        "PixelData": np.stack([values[:, :, k].T for k in order]).astype("<i2").tobytes(),
    }  # fmt: skip
    write_dataset(tmp_path / "enhanced.dcm", elements)
    loaded = load_series(tmp_path)
    np.testing.assert_allclose(loaded.affine, AXIAL, atol=1e-9)
    np.testing.assert_array_equal(loaded.array, values * (2.0 + np.arange(6)) + 1)


def test_compressed_pixels(tmp_path, write_dicom_series):
    """Run-length encoding is decoded by pydicom itself; an unknown syntax names the plug-ins."""
    files = write_dicom_series(tmp_path, stored(), AXIAL)
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(file)
    np.testing.assert_array_equal(load_series(tmp_path).array, stored())
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
        dataset.save_as(file)
    with pytest.raises(ValueError, match="cannot be decoded .*compressed .*pip install pylibjpeg"):
        load_series(tmp_path)


def test_files_without_preamble(tmp_path, write_dicom_series):
    """As old programs write them: the data set alone, which starts with ImageType (0008,0008)."""
    for file in write_dicom_series(tmp_path, stored(), AXIAL):
        content = file.read_bytes()
        file.write_bytes(content[content.index(b"\x08\x00\x08\x00CS") :])
    np.testing.assert_array_equal(load_series(tmp_path).array, stored())


def test_what_is_dicom(tmp_path, write_dicom_series, save_nifti):
    files = write_dicom_series(tmp_path / "series", stored(), AXIAL)
    (tmp_path / "notes.txt").write_text("no image")
    assert is_dicom_file(files[0]) and holds_dicom(tmp_path / "series")
    assert not is_dicom_file(tmp_path / "notes.txt") and not is_dicom_file(save_nifti(stored()))
    assert not is_dicom_file(tmp_path / "absent") and not holds_dicom(tmp_path)
