"""Volumes in and out: the same place in the world, the same values, or one clear message and no file."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch

from custom_nets.transforms import LoadVolumed, SaveVolumed, load_volume
from custom_nets.utils.files import check_writable
from tests.conftest import random_affine

SHAPE = (7, 9, 5)
VALUES = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def corners(affine, shape=SHAPE):
    index = np.array([[*c, 1] for c in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in shape), 1]
    return (index @ np.asarray(affine).T)[:, :3]


@pytest.mark.parametrize("seed", range(12))
def test_nifti_round_trip_keeps_the_place(tmp_path, blob_volume, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 12, 3))
    volume = blob_volume(shape, random_affine(rng))
    saved = SaveVolumed("pred", tmp_path)({"pred": volume, "case": "a"})["pred"].meta["saved_to"]
    assert saved == str(tmp_path / "a_trans.nii.gz")
    header = nib.load(saved).header
    truth = corners(volume.affine, shape)
    assert np.abs(corners(header.get_sform(), shape) - truth).max() < 1e-4
    assert np.abs(corners(header.get_qform(), shape) - truth).max() < 1e-3
    assert (header["qform_code"], header["sform_code"]) == (1, 1)
    assert header.get_xyzt_units() == ("mm", "sec") and header.get_data_dtype() == np.float32
    again = load_volume(saved)
    assert np.abs(corners(again.affine, shape) - truth).max() < 1e-4
    assert torch.equal(again.as_tensor(), volume.as_tensor())


@pytest.mark.parametrize(("degrees", "limit_mm"), [(0, 1e-3), (0.01, 0.05), (0.1, 1e-3), (0.5, 1e-3), (2, 1e-3)])
def test_qform_near_a_half_turn(tmp_path, blob_volume, degrees, limit_mm):
    """Axial DICOM slices are a half turn away from RAS, where the stored quaternion is ill conditioned."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    tilt = np.radians(10)
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-c, s, 0], [-s, -c, 0], [0, 0, 1]]) @ about_x * 10  # large voxels: a head's size
    volume = blob_volume((20, 20, 18), affine)
    saved = SaveVolumed("pred", tmp_path)({"pred": volume, "case": "a"})["pred"].meta["saved_to"]
    header = nib.load(saved).header
    assert np.abs(corners(header.get_qform(), (20, 20, 18)) - corners(affine, (20, 20, 18))).max() < limit_mm
    assert np.abs(corners(header.get_sform(), (20, 20, 18)) - corners(affine, (20, 20, 18))).max() < 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_dicom_to_nifti_keeps_the_place(tmp_path, write_dicom_series, seed):
    """The affine by hand, from the series as written: its slices may come in reversed order, no more."""
    affine = random_affine(np.random.default_rng(seed))
    write_dicom_series(tmp_path / "sub-01", VALUES, affine, seed=seed)
    item = LoadVolumed("image")({"image": tmp_path / "sub-01"})
    item = SaveVolumed("pred", tmp_path / "out")({**item, "pred": item["image"]})
    assert item["pred"].meta["saved_to"] == str(tmp_path / "out" / "sub-01_trans.nii.gz")
    saved = nib.load(item["pred"].meta["saved_to"])
    values, place = saved.get_fdata(), saved.affine
    if np.linalg.det(affine[:3, :3]) < 0:  # against the direction of row x column: sorted the other way round
        values = values[:, :, ::-1]
        place = place @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(values, VALUES)
    assert np.abs(corners(place) - corners(affine)).max() < 1e-3


def test_slope_and_intercept(tmp_path):
    image = nib.Nifti1Image(VALUES, np.eye(4))
    image.header.set_slope_inter(0.25, -30)
    nib.save(image, tmp_path / "scaled.nii")
    volume = load_volume(tmp_path / "scaled.nii")
    np.testing.assert_allclose(volume[0].numpy(), nib.load(tmp_path / "scaled.nii").get_fdata(), rtol=1e-6)
    assert volume.dtype == torch.float32 and volume.meta["original_dtype"] == "int16"


def test_codes_of_the_source_and_qform_only(tmp_path):
    affine = random_affine(np.random.default_rng(3))
    image = nib.Nifti1Image(VALUES, None)
    image.set_qform(affine, 2)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "q.nii")
    volume = load_volume(tmp_path / "q.nii")
    assert np.abs(corners(volume.affine) - corners(affine)).max() < 1e-3
    # the network's output has lost the meta: it comes from the source image
    item = {"image": volume, "pred": MetaTensor(volume.as_tensor(), affine=volume.affine)}
    saved = nib.load(SaveVolumed("pred", tmp_path)(item)["pred"].meta["saved_to"])
    assert (saved.header["qform_code"], saved.header["sform_code"]) == (2, 2)


def test_sform_wins_over_a_different_qform(tmp_path, caplog):
    image = nib.Nifti1Image(VALUES, None)
    image.set_qform(np.diag([2.0, 2, 2, 1]), 1)
    image.set_sform(np.diag([2.0, 2, 3, 1]), 4)
    nib.save(image, tmp_path / "two.nii")
    volume = load_volume(tmp_path / "two.nii")
    np.testing.assert_allclose(volume.affine, np.diag([2.0, 2, 3, 1]))
    assert volume.meta["qform_code"] == 4 and "qform and sform differ by up to 4 mm" in caplog.text


def test_sheared_affine_goes_into_the_sform_alone(tmp_path, blob_volume):
    affine = np.diag([1.0, 1, 4, 1])
    affine[1, 2] = 1.0
    saved = SaveVolumed("pred", tmp_path)({"pred": blob_volume(SHAPE, affine), "case": "a"})["pred"].meta["saved_to"]
    header = nib.load(saved).header
    assert (header["qform_code"], header["sform_code"]) == (0, 1)
    np.testing.assert_allclose(header.get_sform(), affine)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("meter", 1000), ("micron", 1e-3), ("unknown", 1)])
def test_units_of_length(tmp_path, unit, factor):
    image = nib.Nifti1Image(VALUES, np.diag([2.0, 2, 2, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "u.nii")
    np.testing.assert_allclose(load_volume(tmp_path / "u.nii").affine, np.diag([2.0 * factor] * 3 + [1]))


def test_four_dimensions(tmp_path):
    series = np.stack([VALUES, VALUES + 3, VALUES * 2], axis=3)
    image = nib.Nifti1Image(series, np.eye(4))
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 1500
    nib.save(image, tmp_path / "bold.nii.gz")
    item = LoadVolumed("image")({"image": str(tmp_path / "bold.nii.gz")})
    assert item["image"].shape == (3, *SHAPE) and item["image"].meta["time_step_s"] == 1.5
    saved = nib.load(SaveVolumed("image", tmp_path, "sr")(item)["image"].meta["saved_to"])
    assert saved.get_filename() == str(tmp_path / "bold_sr.nii.gz")
    np.testing.assert_array_equal(saved.get_fdata(), series)
    assert saved.header.get_zooms()[3] == 1.5 and saved.header.get_xyzt_units() == ("mm", "sec")


def test_trailing_axes_of_one_and_mgh(tmp_path, save_nifti):
    assert load_volume(save_nifti(VALUES[..., None, None])).shape == (1, *SHAPE)
    affine = random_affine(np.random.default_rng(0))
    nib.save(nib.MGHImage(VALUES.astype(np.float32), affine), tmp_path / "brain.mgz")
    volume = load_volume(tmp_path / "brain.mgz")
    np.testing.assert_array_equal(volume[0], VALUES)
    assert np.abs(corners(volume.affine) - corners(affine)).max() < 1e-3


def test_through_a_data_loader(tmp_path, save_nifti, write_dicom_series):
    """What the meta holds survives batches, and comes back as the header needs it."""
    write_dicom_series(tmp_path / "series", VALUES, np.diag([1.0, 1, 3, 1]))
    cases = [{"image": str(save_nifti(VALUES))}, {"image": str(tmp_path / "series")}]
    for batch in DataLoader(Dataset(cases, LoadVolumed("image")), batch_size=1):
        (item,) = decollate_batch(batch)
        SaveVolumed("image", tmp_path / "out")(item)
    assert sorted(os.listdir(tmp_path / "out")) == ["scan_trans.nii.gz", "series_trans.nii.gz"]


def with_values(*values):
    array = VALUES.astype(np.float32)
    array.flat[: len(values)] = values
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (VALUES[:, :, 0], "is 2D"),
        (VALUES[:, :, :1], "is 2D"),
        (VALUES[:, :1, :, None].repeat(3, 3), "is 2D"),
        (with_values(np.nan, np.nan, np.inf), "2 NaN and 1 infinite values among 315"),
        (with_values(-np.inf), "0 NaN and 1 infinite"),
        (np.full(SHAPE, 7, np.int16), "is constant, every voxel is 7"),
        (np.stack([VALUES, np.zeros(SHAPE, np.int16)], 3), r"constant volume \(number 2 in time\)"),
        (np.zeros((*SHAPE, 1, 3), np.float32), "several components per voxel"),
        (VALUES.astype(np.complex64), "several components per voxel"),
        (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "several components per voxel"),
    ],
)
def test_bad_volumes(save_nifti, array, message):
    with pytest.raises(ValueError, match=message):
        load_volume(save_nifti(array))


def test_values_need_not_be_checked(save_nifti):
    assert LoadVolumed("mask", check_values=False)({"mask": save_nifti(np.ones(SHAPE, np.uint8))})["mask"].sum() == 315


def test_affine_that_is_not_invertible(save_nifti):
    path = save_nifti(VALUES, np.diag([1.0, 1, 1, 1]), "flat.nii")
    raw = bytearray(path.read_bytes())
    raw[280:328] = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]], "<f4").tobytes()
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="not invertible"):
        load_volume(path)


def test_zero_spacing(save_nifti):
    path = save_nifti(VALUES, np.eye(4), "zero.nii")
    raw = bytearray(path.read_bytes())
    raw[80:92] = bytes(12)  # pixdim 1..3
    path.write_bytes(raw)
    np.testing.assert_array_equal(load_volume(path).affine, np.eye(4))  # the sform is whole
    raw[254:256] = bytes(2)  # sform code 0
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="zero.nii has voxels of 0 x 0 x 0 mm"):
        load_volume(path)


def test_not_an_image(tmp_path, save_nifti):
    (tmp_path / "text.nii.gz").write_text("hello")
    (tmp_path / "text.txt").write_text("hello")
    whole = save_nifti(np.random.default_rng(0).integers(0, 999, SHAPE).astype(np.int16)).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.nii").write_bytes(b"")
    for name in ("text.nii.gz", "text.txt", "cut.nii.gz", "empty.nii"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an image volume"):
            load_volume(tmp_path / name)
    with pytest.raises(ValueError, match="folder without DICOM files"):
        load_volume(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent.nii does not exist"):
        load_volume(tmp_path / "absent.nii")


def test_nothing_is_left_after_a_failure(tmp_path, blob_volume, monkeypatch):
    def save(image, path):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", save)
    with pytest.raises(OSError, match="a_trans.nii.gz could not be written: No space left"):
        SaveVolumed("pred", tmp_path)({"pred": blob_volume(), "case": "a"})
    assert os.listdir(tmp_path) == []


def test_unwritable_output(tmp_path, blob_volume):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="output folder .* cannot be written"):
        check_writable(tmp_path / "file" / "out")
    with pytest.raises(OSError, match="output folder .* cannot be written"):
        SaveVolumed("pred", tmp_path / "file")({"pred": blob_volume(), "case": "a"})
    assert check_writable(tmp_path / "new" / "out").is_dir() and os.listdir(tmp_path / "new" / "out") == []


def test_save_refuses_what_has_no_geometry(tmp_path):
    with pytest.raises(ValueError, match="'pred' must be a MetaTensor"):
        SaveVolumed("pred", tmp_path)({"pred": torch.zeros(1, 2, 2, 2), "case": "a"})


def test_several_keys_get_several_names(tmp_path, blob_volume):
    save = SaveVolumed(["pred", "bspline"], tmp_path)
    save({"pred": blob_volume(), "bspline": blob_volume(), "case": "a"})
    assert sorted(os.listdir(tmp_path)) == ["a_trans_bspline.nii.gz", "a_trans_pred.nii.gz"]
    assert save.path_for("a", "pred").is_file() and SaveVolumed("pred", tmp_path).path_for("a").name == "a_trans.nii.gz"
