"""Volumes from the field: unusual but real headers give the right values, or a message that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from scipy.ndimage import gaussian_filter

from custom_nets.apps.check import check, find_studies
from custom_nets.bundle import bundle_root, shipped_weights
from custom_nets.checkpoints import load_network
from custom_nets.data.cases import find_cases
from custom_nets.data.volumes.dicom_writer import write_mr_series
from custom_nets.data.volumes.padding import find_padding, measured_box, padding_on
from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer, ThickSliceInferer
from custom_nets.networks import AnySizeTransMRSR, ResidualArSSR
from custom_nets.transforms import RestoreIntensityd, SaveVolumed, ScaleToUnitRanged, load_volume
from tests.tools.field_files import head, mr_series, put_text

VOLUME = head()


def brain(shape: tuple[int, int, int], thickness: int) -> np.ndarray:
    """Smooth structures in an ellipsoid and noise around it, measured in slices ``thickness`` times as thick."""
    rng = np.random.default_rng(0)
    fine = (*shape[:2], shape[2] * thickness)
    inside = sum(np.meshgrid(*[np.linspace(-1.3, 1.3, n) ** 2 for n in fine], indexing="ij")) < 1
    structures = gaussian_filter(rng.normal(size=fine), 1.5)
    thin = gaussian_filter(inside * (600 + 200 * structures / structures.std()), 0.7)
    thick = thin.reshape(*shape, thickness).mean(-1) + rng.normal(0, 5, shape)
    # what is brightest is saturated: the range, a percentile, does not hang on how much air is counted
    return np.clip(np.rint(thick), 0, np.percentile(thick, 98)).astype(np.int16)


def values(path: Path) -> np.ndarray:
    return load_volume(path)[0].numpy()


@pytest.mark.parametrize("which", ["two", "all", "empty", "none"])
def test_slices_are_told_apart_by_their_places_not_by_uids(tmp_path: Path, which: str) -> None:
    uid = generate_uid()

    def share(dataset, k: int) -> None:
        if which == "none":
            del dataset.SOPInstanceUID
        elif which != "two" or k < 2:
            dataset.SOPInstanceUID = "" if which == "empty" else uid

    mr_series(tmp_path / "in", VOLUME, share)
    image = load_volume(tmp_path / "in")
    np.testing.assert_array_equal(image[0].numpy(), VOLUME)
    if which in ("two", "all"):
        assert "share SOPInstanceUIDs" in image.meta["notes"]
    folder = write_mr_series(image[0].numpy(), image.affine.numpy(), tmp_path / "out", image.meta)
    np.testing.assert_allclose(values(folder), VOLUME, atol=0.02)


def test_an_image_stored_twice_counts_once_under_whatever_uid(tmp_path: Path) -> None:
    files = mr_series(tmp_path, VOLUME)
    copy = pydicom.dcmread(files[2])
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    copy.save_as(tmp_path / "copy.dcm")
    image = load_volume(tmp_path)
    np.testing.assert_array_equal(image[0].numpy(), VOLUME)
    assert "is the same image as" in image.meta["notes"]


def padded(number: int, vr: str = "SS", limit: int | None = None):
    def edit(dataset, k: int) -> None:
        dataset.add_new(0x00280120, vr, number)
        if limit is not None:
            dataset.add_new(0x00280121, vr, limit)

    return edit


@pytest.mark.parametrize(
    ("value", "limit", "stored"), [(-32768, None, -32768), (-3000, -2000, -2500), (30000, None, 30000)]
)
def test_padding_is_no_signal_and_is_put_back(tmp_path: Path, value: int, limit: int | None, stored: int) -> None:
    volume = VOLUME.copy()
    volume[:, :3] = stored
    mr_series(tmp_path / "in", volume, padded(value, limit=limit))
    image = load_volume(tmp_path / "in")
    assert (image[0, :, :3] == VOLUME[:, 3:].min()).all() and float(image.max()) == VOLUME[:, 3:].max()
    np.testing.assert_array_equal(image[0, :, 3:].numpy(), VOLUME[:, 3:])
    assert image.meta["padding_value"] == stored and "stands in 21 %" in image.meta["padding_note"]
    for kind in ("nifti", "dicom"):
        save = SaveVolumed("pred", tmp_path, "out", output_format=kind)
        item = save({"image": image, "pred": image.clone(), "case": "a"})
        found = load_volume(item["pred"].meta["saved_to"])
        np.testing.assert_allclose(found[0].numpy(), image[0].numpy(), atol=0.02)  # read again: padding, and filled
        np.testing.assert_array_equal(found.meta["padding"], image.meta["padding"])
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "a_out.nii.gz").dataobj)[:, :3], stored)


@pytest.mark.parametrize("named", [-32768, 65535])
def test_padding_is_found_whatever_sign_its_element_has(tmp_path: Path, named: int) -> None:
    volume = VOLUME.copy()
    volume[:, :3] = named if named < 0 else -1
    mr_series(tmp_path, volume, padded(named % 65536, vr="US"))
    image = load_volume(tmp_path)
    assert ("padding" in image.meta) == (named < 0)  # -1 lies at the edge of the range: a background like others
    assert float(image.min()) == (0 if named < 0 else -1)


@pytest.mark.parametrize("value", [-32768.0, -2000.0, 5000.0, np.nan])
def test_a_border_that_no_header_names_is_found_in_nifti(save_nifti, value: float) -> None:
    volume = VOLUME.astype(np.float32)
    volume[:2], volume[:, -2:] = value, value
    image = load_volume(save_nifti(volume))
    np.testing.assert_array_equal(image[0, 2:, :-2].numpy(), volume[2:, :-2])
    assert float(image.min()) == 0 and float(image.max()) == VOLUME[2:, :-2].max()
    assert image.meta["padding"].float().mean() == pytest.approx(np.mean(volume != VOLUME))


def test_several_kinds_of_padding_and_a_few_voxels_are_found(save_nifti) -> None:
    volume = VOLUME.astype(np.float32)
    volume[:2], volume[:, -2:], volume[-1, 0, :2] = np.nan, -1000, 4000
    image = load_volume(save_nifti(volume))
    assert float(image.min()) == 0 and float(image.max()) == VOLUME[2:, :-2].max()
    assert np.isnan(image.meta["padding_value"]) and image.meta["padding_note"].count("stands in") == 3


def test_backgrounds_holes_and_lesions_are_no_padding(save_nifti) -> None:
    dark = np.where(VOLUME < 100, -1, VOLUME).astype(np.float32)
    for volume in (np.where(VOLUME < 100, 0, VOLUME), dark, VOLUME - 500):
        assert find_padding(volume.astype(np.float32)) is None
    hole = VOLUME.astype(np.float32)
    hole[5:7, 5:7, 2:4] = np.nan
    with pytest.raises(ValueError, match="has 8 NaN"):
        load_volume(save_nifti(hole))
    scored = np.where(VOLUME < 50, 0, VOLUME).astype(np.float32)
    assert find_padding((scored - scored.mean()) / scored.std()) is None


def test_a_value_that_is_no_intensity_is_refused_by_its_voxel(save_nifti) -> None:
    volume = VOLUME.astype(np.float32)
    volume[4, 5, 3] = 30 * volume.max()
    assert load_volume(save_nifti(volume))[0].max() == volume.max()  # a bright vessel is one
    volume[4, 5, 3] = -3e38
    with pytest.raises(ValueError, match=r"-3e\+38 at voxel \(4, 5, 3\)"):
        load_volume(save_nifti(volume))


def test_nothing_that_is_not_finite_comes_out() -> None:
    image = ScaleToUnitRanged("image")({"image": MetaTensor(torch.rand(1, 4, 4, 4))})["image"]
    pred = torch.ones(1, 8, 8, 8)
    pred[0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="1 values that are NaN or infinite"):
        RestoreIntensityd("pred")({"pred": pred, "image": image})


def test_a_slope_that_is_infinite_is_said(save_nifti) -> None:
    path = save_nifti(VOLUME, name="slope.nii")
    header = bytearray(path.read_bytes())
    header[112:116] = np.float32(np.inf).tobytes()
    path.write_bytes(header)
    image = load_volume(path)
    np.testing.assert_array_equal(image[0].numpy(), VOLUME)
    assert "scl_slope is inf" in image.meta["notes"]


@pytest.mark.parametrize("inferer", [ImplicitVolumeInferer, ThickSliceInferer])
@pytest.mark.parametrize(("rows", "consistent"), [(1, False), (1, True), (5, False), (5, True)])
def test_padded_and_unpadded_scans_give_the_same_where_both_measured(
    tmp_path: Path, inferer, rows: int, consistent: bool
) -> None:
    """Rows in air that were padded are empty; where the head is cut off, the scan ends."""
    torch.manual_seed(0)
    thick = {"slices": 3, "widths": (8, 16), "style_dim": 16, "head_width": 4, "num_centroids": 0}
    thin = {"feature_dim": 4, "num_features": 4, "growth": 4, "num_blocks": 1, "num_layers": 1, "decoder_width": 8}
    network = (AnySizeTransMRSR(**thick) if inferer is ThickSliceInferer else ResidualArSSR(**thin)).eval()
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.1)  # a network that has not learned yet adds nothing

    def result(name: str, volume: np.ndarray, like: Grid, edit=None, first_row: int = 0) -> MetaTensor:
        def moved(dataset, k: int) -> None:
            dataset.ImagePositionPatient = [0, first_row, 3 * k]
            if edit is not None:
                edit(dataset, k)

        mr_series(tmp_path / name, volume, moved)
        image = ScaleToUnitRanged("image")({"image": load_volume(tmp_path / name)})["image"]
        return inferer(like=like, data_consistency=consistent)(image[None], network)[0]

    mr_series(tmp_path / "whole", VOLUME)
    like = Grid.of(load_volume(tmp_path / "whole")).rescaled((1, 1, 3))
    hidden, empty = VOLUME.copy(), VOLUME.copy()
    hidden[:, :rows], empty[:, :rows] = -32768, VOLUME[:, rows:].min()
    found = result("hidden", hidden, like, padded(-32768))[0, :, rows:].as_tensor()
    if rows == 1:
        wanted = result("empty", empty, like)[0, :, rows:].as_tensor()
    else:
        wanted = result("cut", VOLUME[:, rows:], like, first_row=rows)[0, :, rows:].as_tensor()
    assert float((found - wanted).abs().max()) < 1e-4
    assert float(wanted.std()) > 0.1


@pytest.mark.parametrize(
    ("bundle", "inferer", "reach"), [("arssr", ImplicitVolumeInferer, 8), ("transmrsr", ThickSliceInferer, 12)]
)
@pytest.mark.parametrize("profile", ["box", "kspace"])
def test_padding_over_measured_rows_changes_nothing_beyond_what_a_network_sees(
    tmp_path: Path, bundle: str, inferer, reach: int, profile: str
) -> None:
    """Shipped weights and all corrections: neither range, strength nor steps carry the difference further."""
    volume, rows = brain((36, 40, 8), thickness=3), 2
    hidden = volume.copy()
    hidden[:, :rows] = -32768
    network = load_network(shipped_weights(bundle_root(bundle), "best")).eval()
    results = []
    for name, stored, edit in (("plain", volume, None), ("hidden", hidden, padded(-32768))):
        mr_series(tmp_path / name, stored, edit)
        image = ScaleToUnitRanged("image")({"image": load_volume(tmp_path / name)})["image"]
        like = Grid.of(image).rescaled((1, 1, 3))
        pred = inferer(like=like, profile=profile, thickness_mm=3.0)(image[None], network)[0]
        restored = RestoreIntensityd(["pred", "image"], ref_key="image")({"pred": pred, "image": image})["pred"]
        results.append(torch.as_tensor(restored)[0, :, rows + reach :])
    span = float(volume.max() - volume.min())
    assert float((results[0] - results[1]).abs().max()) < 1e-4 * span
    assert float(results[0].std()) > 0.1 * span


def test_a_volume_ends_with_what_was_measured_where_padding_cuts_the_head_off(save_nifti) -> None:
    volume = VOLUME.astype(np.float32)
    volume[:6], volume[:, -1:] = np.nan, np.nan  # through the middle, and in air
    image = ScaleToUnitRanged("image")({"image": load_volume(save_nifti(volume))})["image"]
    part = measured_box(image)
    np.testing.assert_array_equal(part.numpy(), image[:, 6:].numpy())
    np.testing.assert_allclose(
        part.affine @ torch.tensor([0.0, 0, 0, 1], dtype=torch.float64), image.affine[:, 0] * 6 + image.affine[:, 3]
    )


def test_what_is_cut_off_obliquely_goes_on_and_air_stays_air() -> None:
    x, y, z = np.indices((14, 14, 10))
    corner, far = x + y + z > 24, x + y + z < 4
    volume = np.where(x + y + z > 8, 0.5, 0.0)
    image = torch.from_numpy(np.where(corner | far, 0, volume).astype(np.float32))[None]
    meta = {"padding": torch.from_numpy((corner | far).astype(np.uint8))[None]}
    found = measured_box(MetaTensor(image, affine=torch.eye(4, dtype=torch.float64), meta=meta))
    np.testing.assert_allclose(found[0].numpy(), volume, atol=1e-6)


def test_padding_lies_at_the_same_place_on_another_grid() -> None:
    source = Grid((8, 8, 4), np.diag([2.0, 2, 4, 1]))
    mask = np.zeros(source.shape, dtype=bool)
    mask[:3] = True
    target = source.rescaled(2)
    found = padding_on(target, source, mask)
    assert found[:6].all() and not found[6:].any()


def test_a_folder_called_as_a_home_is_no_home(tmp_path: Path, save_nifti, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_nifti(VOLUME, name="~root/scan.nii.gz")
    image = load_volume("~root/scan.nii.gz")
    item = SaveVolumed("pred", "~root", "out")({"image": image, "pred": image.clone(), "case": "a"})
    np.testing.assert_array_equal(values(Path(item["pred"].meta["saved_to"])), VOLUME)
    assert (tmp_path / "~root" / "a_out.nii.gz").is_file()


def test_scales_and_distances_that_contradict_each_other(tmp_path: Path) -> None:
    def some(dataset, k: int) -> None:
        dataset.SpacingBetweenSlices = "5"
        if k % 2:
            dataset.RescaleSlope, dataset.RescaleIntercept = "2", "0"

    mr_series(tmp_path / "a", VOLUME, some)
    image = load_volume(tmp_path / "a")
    np.testing.assert_array_equal(image[0, :, :, 1::2].numpy(), 2 * VOLUME[:, :, 1::2])
    assert "SpacingBetweenSlices is 5 mm, but the slices lie 3 mm apart" in image.meta["notes"]
    assert "their units may differ" in image.meta["notes"] and image.affine[2, 2] == 3
    mr_series(tmp_path / "b", VOLUME, RescaleSlope=["1", "2"], RescaleIntercept="0")
    with pytest.raises(ValueError, match=r"RescaleSlope is .*1.* 2.*, so that its values are unknown"):
        load_volume(tmp_path / "b")


def test_colour_numbers_are_refused(tmp_path: Path) -> None:
    mr_series(tmp_path, VOLUME, PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(ValueError, match="im000.dcm is PALETTE COLOR .*numbers of colours"):
        load_volume(tmp_path)
    mr_series(tmp_path, VOLUME, PixelPresentation="COLOR")
    with pytest.raises(ValueError, match="some pixels in colour"):
        load_volume(tmp_path)


def test_the_modality_table_is_applied(tmp_path: Path) -> None:
    def table(dataset, k: int) -> None:
        item = Dataset()
        item.LUTDescriptor, item.ModalityLUTType = [1200, 0, 16], "US"
        item.LUTData = (np.arange(1200) ** 2 // 100).astype("<u2").tobytes()
        item["LUTData"].VR = "OW"
        dataset.PixelRepresentation, dataset.ModalityLUTSequence = 0, [item]

    mr_series(tmp_path, VOLUME, table)
    image = load_volume(tmp_path)
    np.testing.assert_array_equal(image[0].numpy(), VOLUME.astype(np.int64) ** 2 // 100)
    assert "ModalityLUTSequence" in image.meta["notes"]


def test_an_empty_sequence_is_none(tmp_path: Path) -> None:
    names = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "ModalityLUTSequence")
    mr_series(tmp_path, VOLUME, lambda dataset, k: [setattr(dataset, name, []) for name in names])
    np.testing.assert_array_equal(values(tmp_path), VOLUME)


@pytest.mark.parametrize("tag", [(0x18, 0x50), (0x20, 0x11), (0x20, 0x13)])
@pytest.mark.parametrize("text", [b"REMOVED", b"456115117112105110101", b"NaN", b""])
def test_a_word_in_a_number_that_is_not_needed(tmp_path: Path, tag: tuple[int, int], text: bytes) -> None:
    for file in mr_series(tmp_path / "in", VOLUME):
        put_text(file, tag, text)
    image = load_volume(tmp_path / "in")
    np.testing.assert_array_equal(image[0].numpy(), VOLUME)
    assert text != b"REMOVED" or tag == (0x20, 0x13) or "'REMOVED' and left out" in image.meta["notes"]
    folder = write_mr_series(image[0].numpy(), image.affine.numpy(), tmp_path / "out", image.meta)
    first = pydicom.dcmread(next(folder.iterdir()))
    assert 0 < int(first.SeriesNumber) < 2**31 and float(first.SliceThickness) > 0
    np.testing.assert_allclose(values(folder), VOLUME, atol=0.02)


@pytest.mark.parametrize(
    ("tag", "name"),
    [((0x20, 0x32), "ImagePositionPatient"), ((0x28, 0x30), "PixelSpacing"), ((0x20, 0x37), "ImageOrientationPatient")],
)
def test_a_word_in_a_number_that_is_needed_names_file_and_element(tmp_path: Path, tag, name: str) -> None:
    put_text(mr_series(tmp_path, VOLUME)[3], tag, b"REMOVED")
    with pytest.raises(ValueError, match=rf"im003.dcm has no valid {name} \('REMOVED'\)"):
        load_volume(tmp_path)


def test_a_scaling_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    files = mr_series(tmp_path, VOLUME, RescaleSlope="2", RescaleIntercept="1")
    np.testing.assert_array_equal(values(tmp_path), 2 * VOLUME.astype(int) + 1)
    put_text(files[1], (0x28, 0x1053), b"REMOVED")
    with pytest.raises(ValueError, match="im001.dcm: RescaleSlope is 'REMOVED'"):
        load_volume(tmp_path)


def test_more_bits_than_the_header_says(tmp_path: Path) -> None:
    mr_series(tmp_path / "ten", VOLUME * 4, BitsStored=10, HighBit=9, PixelRepresentation=0)
    with pytest.raises(ValueError, match="BitsStored is 10, but .* more bits .*up to 12"):
        load_volume(tmp_path / "ten")
    signed = VOLUME - 500  # bits above the sign repeat it
    mr_series(tmp_path / "signed", signed, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(values(tmp_path / "signed"), signed)
    mr_series(tmp_path / "high", VOLUME, BitsStored=12, HighBit=15)
    with pytest.raises(ValueError, match="do not fit together"):
        load_volume(tmp_path / "high")


def test_an_overlay_in_the_high_bits_is_no_intensity(tmp_path: Path) -> None:
    volume = VOLUME.copy()
    volume[3:5, 3:5] |= 1 << 12

    def overlay(dataset, k: int) -> None:
        dataset.add_new(0x60000100, "US", 16)
        dataset.add_new(0x60000102, "US", 12)

    mr_series(tmp_path, volume, overlay, BitsStored=12, HighBit=11, PixelRepresentation=0)
    np.testing.assert_array_equal(values(tmp_path), VOLUME)


@pytest.mark.parametrize("suffix", [".dcm", "", ".1"])
def test_files_that_begin_with_the_file_meta_group(tmp_path: Path, suffix: str) -> None:
    for file in mr_series(tmp_path, VOLUME):
        file.with_suffix(suffix).write_bytes(file.read_bytes()[132:])
        if suffix != ".dcm":
            file.unlink()
    np.testing.assert_array_equal(values(tmp_path), VOLUME)


def test_links_lie_where_they_are(tmp_path: Path) -> None:
    files = mr_series(tmp_path / "store", VOLUME)
    (tmp_path / "scan").mkdir()
    for number, file in enumerate(files):
        file.rename(moved := tmp_path / "store" / f"key{number}")
        (tmp_path / "scan" / f"{number}.dcm").symlink_to(moved)
    first = tmp_path / "scan" / "0.dcm"
    np.testing.assert_array_equal(values(first), VOLUME)
    assert find_cases(first)[0]["case"] == "scan"


def test_a_slice_does_not_vanish_without_a_word(tmp_path: Path) -> None:
    put_text(mr_series(tmp_path, VOLUME)[2], (0x28, 0x10), b"REMOVED?")
    with pytest.raises(ValueError, match="im002.dcm has no valid Rows"):
        load_volume(tmp_path)


# ---- NIfTI ----


def raw_header(path: Path, place: int, content: np.ndarray) -> Path:
    raw = bytearray(path.read_bytes())
    raw[place : place + content.nbytes] = content.tobytes()
    path.write_bytes(raw)
    return path


def test_a_fourth_dimension_of_zero_is_one_volume(save_nifti) -> None:
    path = save_nifti(VOLUME, name="a.nii")
    raw_header(path, 40, np.array([4, *VOLUME.shape, 0], "<i2"))
    image = load_volume(path)
    np.testing.assert_array_equal(image[0].numpy(), VOLUME)
    assert "taken as 1" in image.meta["notes"]


@pytest.mark.parametrize(("longer", "read"), [(1.2e-6, True), (5e-5, True), (1e-2, False)])
def test_a_quaternion_that_rounding_made_too_long(tmp_path: Path, longer: float, read: bool) -> None:
    image = nib.Nifti1Image(VOLUME, None)
    image.set_qform(affine := np.diag([-1.0, -1, 3, 1]), 1)
    image.set_sform(None, 0)
    nib.save(image, path := tmp_path / "a.nii")
    raw_header(path, 256, np.array([0, 0, 1 + longer], "<f4"))
    if read:
        found = load_volume(path)
        np.testing.assert_array_equal(found[0].numpy(), VOLUME)
        np.testing.assert_allclose(found.affine.numpy(), affine, atol=1e-2)
    else:
        with pytest.raises(ValueError, match="a.nii cannot be read as an image volume: the quaternion"):
            load_volume(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_lists_as_editors_save_them(save_nifti, tmp_path: Path, encoding: str) -> None:
    save_nifti(VOLUME, name="ü#1.nii.gz")
    (tmp_path / "list.json").write_text(json.dumps(["ü#1.nii.gz"], ensure_ascii=False), encoding=encoding)
    assert find_cases(tmp_path / "list.json") == [{"image": str(tmp_path / "ü#1.nii.gz"), "case": "ü#1"}]


def test_a_grid_beside_the_scan_is_refused_and_a_small_overlap_is_said() -> None:
    scan = Grid((10, 10, 10), np.eye(4))
    far, near = np.eye(4), np.eye(4)
    far[0, 3], near[0, 3] = 500, 8
    assert scan.share_inside(Grid((10, 10, 10), near)) == 0.2
    assert (
        scan.check_overlap(Grid((10, 10, 10), near))
        == "only 20 % of the wanted grid lies in the scan, the rest is empty"
    )
    assert scan.check_overlap(scan.rescaled(2)) == ""
    turn = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert 0.3 < scan.share_inside(Grid((10, 10, 10), turn)) < 0.9
    for affine in (far, turn + np.eye(4)[:, [3]] * 0 + np.array([[0, 0, 0, 500.0]] + [[0] * 4] * 3)):
        with pytest.raises(ValueError, match="no voxel in common"):
            scan.check_overlap(Grid((10, 10, 10), affine))


def pair(path: Path) -> Path:
    nib.save(nib.Nifti1Pair(VOLUME, np.diag([1.0, 1, 3, 1])), path)
    return path.with_suffix(".hdr")


def test_a_pair_is_taken_from_a_folder_by_its_header(tmp_path: Path) -> None:
    header = pair(tmp_path / "s.img")
    assert [case["image"] for case in find_cases(tmp_path)] == [str(header)]
    for path in (tmp_path, header, header.with_suffix(".img")):  # as the report says it
        (study,) = find_studies(path)
        assert check(study)["bundles"]["arssr"] == ""
        np.testing.assert_array_equal(values(study.path), VOLUME)


@pytest.mark.parametrize(
    ("intent", "last", "says"),
    [("label", (), "map of labels"), ("vector", (3,), "several components"), ("time series", (3,), "")],
)
def test_an_intent_that_is_no_intensity_is_refused(tmp_path: Path, intent: str, last: tuple, says: str) -> None:
    image = nib.Nifti1Image(np.broadcast_to(VOLUME.reshape(*VOLUME.shape, *[1] * len(last)), VOLUME.shape + last), None)
    image.header.set_intent(intent)
    nib.save(image, tmp_path / "s.nii")
    (study,) = find_studies(tmp_path)
    assert (says in check(study).get("error", "")) and bool(says) == ("error" in check(study))
    if says:
        with pytest.raises(ValueError, match=f"s.nii .*{says}"):
            load_volume(tmp_path / "s.nii")
    if intent == "label":  # who asks for labels gets them
        np.testing.assert_array_equal(load_volume(tmp_path / "s.nii", check_values=False)[0].numpy(), VOLUME)


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_voxel_sizes_that_the_affine_does_not_have_are_said(tmp_path: Path, form: str) -> None:
    image = nib.Nifti1Image(VOLUME, np.diag([1.0, 1, 3, 1]))
    image.set_qform(image.affine, int(form == "qform"))
    image.set_sform(np.eye(4) if form == "sform" else None, int(form == "sform"))
    image.header["pixdim"][1:4] = (1, 1, 3)
    nib.save(image, tmp_path / "s.nii")
    raw = bytearray((tmp_path / "s.nii").read_bytes())
    raw[88:92] = np.float32(3 if form == "sform" else -3).tobytes()
    (tmp_path / "s.nii").write_bytes(raw)
    scan = load_volume(tmp_path / "s.nii")
    says = "pixdim says voxels of 1 x 1 x 3, and the sform 1 x 1 x 1" if form == "sform" else "signs mean nothing"
    assert says in scan.meta["geometry_note"]
    assert np.allclose(np.linalg.norm(scan.affine[:3, 2]), 1 if form == "sform" else 3)


MIXED = {
    "patients": (
        lambda d, k: setattr(d, "PatientID", "AB"[k // 3]),
        "differ in PatientID: 'A' .im000.dcm., 'B' .im003",
    ),
    "kinds": (
        lambda d, k: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "MP"[k // 3]]),
        "differ in ImageType value 3",
    ),
    "segmentation": (lambda d, k: setattr(d, "Modality", "SEG"), "im000.dcm is a segmentation"),
    "float": (lambda d, k: d.update({"FloatPixelData": bytes(4 * 168)}), "im000.dcm has floating-point pixels"),
    "sign": (lambda d, k: setattr(d, "PixelRepresentation", 0), "PixelRepresentation says that no value is below zero"),
}


@pytest.mark.parametrize("kind", MIXED)
def test_what_is_no_single_measurement_or_no_intensity_is_refused(tmp_path: Path, kind: str) -> None:
    edit, says = MIXED[kind]
    mr_series(tmp_path, VOLUME - 500, edit)
    with pytest.raises(ValueError, match=says):
        load_volume(tmp_path)


def test_slices_of_several_echoes_or_frames_of_reference_are_said(tmp_path: Path) -> None:
    def edit(dataset, k: int) -> None:
        dataset.EchoTime, dataset.FrameOfReferenceUID = str(10 + k % 2), generate_uid()

    mr_series(tmp_path, VOLUME, edit)
    scan = load_volume(tmp_path)
    np.testing.assert_array_equal(scan[0].numpy(), VOLUME)
    assert "2 values of EchoTime" in scan.meta["notes"] and "6 values of FrameOfReferenceUID" in scan.meta["notes"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [(["ORIGINAL", "PRIMARY", "P", "NONE"], "says P: values are phase"), (["DERIVED", "PRIMARY", "ADC"], "says ADC"),
     (["DERIVED", "SECONDARY", "PROJECTION IMAGE", "CSA MIP"], "a projection through several slices"),
     (["ORIGINAL", "PRIMARY", "M", "ND"], None)],
)  # fmt: skip
def test_images_that_are_no_plain_picture_of_the_signal_are_said(tmp_path: Path, kind: list[str], says: str | None):
    mr_series(tmp_path, VOLUME, lambda dataset, k: setattr(dataset, "ImageType", kind))
    notes = load_volume(tmp_path).meta.get("notes", "")
    assert says in notes if says else "ImageType" not in notes
