"""Angiography runs from the field: unusual but real files give the right frames, or a message that names the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from custom_nets.data.angiography import find_runs, make_run, read_angiography, write_run
from custom_nets.data.angiography.writer import check_format
from tests.tools.field_files import frames, put_text, xa_file

tifffile = pytest.importorskip("tifffile")
FRAMES = frames()


def single_files(folder: Path, uid_of=lambda k: generate_uid(), name: str = "f", **tags) -> str:
    series = generate_uid()
    for k, frame in enumerate(FRAMES):
        own = {"SOPInstanceUID": uid_of(k), "InstanceNumber": k + 1, "ContentTime": f"10101{k // 4}.{25 * (k % 4):02d}"}
        xa_file(folder / f"{name}{k}.dcm", frame, SeriesInstanceUID=series, **own, **tags)
    return series


@pytest.mark.parametrize("which", ["two", "all"])
def test_frames_are_told_apart_by_time_and_pixels_not_by_uids(tmp_path: Path, which: str) -> None:
    uid = generate_uid()
    single_files(tmp_path, lambda k: uid if which == "all" or k in (2, 3) else generate_uid())
    run = read_angiography(tmp_path)
    np.testing.assert_array_equal(run.frames, FRAMES)
    np.testing.assert_allclose(np.diff(run.times_s), 0.25)
    assert any("share" in note for note in run.origin.notes)


def test_a_frame_stored_twice_counts_once_under_whatever_uid(tmp_path: Path) -> None:
    single_files(tmp_path)
    copy = pydicom.dcmread(tmp_path / "f3.dcm")
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    copy.save_as(tmp_path / "x.dcm")
    run = read_angiography(tmp_path)
    np.testing.assert_array_equal(run.frames, FRAMES)
    assert "x.dcm is the same image as f3.dcm and left out" in run.origin.notes


def test_links_into_a_store_are_series_where_they_lie(tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for name in "ab":
        single_files(tmp_path / "store", name=name)
    for file in sorted((tmp_path / "store").iterdir()):
        (tmp_path / file.stem).mkdir()
        os.rename(file, moved := tmp_path / file.stem / "key.dcm")
        (links / file.name).symlink_to(moved)
    cases = find_runs(links)
    assert [case["case"] for case in cases] == ["a0", "b0"]
    for case in cases:
        np.testing.assert_array_equal(read_angiography(case["image"]).frames, FRAMES)


def test_a_few_bytes_behind_the_pixels_are_padding(tmp_path: Path) -> None:
    def longer(extra: int):
        def edit(dataset) -> None:
            dataset.PixelData += bytes(extra)

        return edit

    run = read_angiography(xa_file(tmp_path / "a.dcm", FRAMES, longer(16)))
    np.testing.assert_array_equal(run.frames, FRAMES)
    assert "16 bytes behind the pixels are taken for padding" in run.origin.notes
    xa_file(tmp_path / "b.dcm", FRAMES, longer(FRAMES[0].nbytes))
    with pytest.raises(ValueError, match="NumberOfFrames is 6, which makes"):
        read_angiography(tmp_path / "b.dcm")


def test_more_bits_than_the_header_says(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a.dcm: BitsStored is 10, but .* more bits \(up to 12\)"):
        read_angiography(xa_file(tmp_path / "a.dcm", FRAMES, bits=10))


@pytest.mark.parametrize("bits", [10, 12])
def test_the_same_holds_for_compressed_pixels(tmp_path: Path, bits: int) -> None:
    from pydicom.uid import RLELossless

    dataset = pydicom.dcmread(xa_file(tmp_path / "a.dcm", FRAMES))
    if not hasattr(dataset, "compress"):
        pytest.skip("this pydicom does not compress")
    dataset.compress(RLELossless)
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.save_as(tmp_path / "b.dcm")
    if bits == 12:
        np.testing.assert_array_equal(read_angiography(tmp_path / "b.dcm").frames, FRAMES)
    else:
        with pytest.raises(ValueError, match="BitsStored is 10"):
            read_angiography(tmp_path / "b.dcm")


@pytest.mark.parametrize("number", [2147483600, 2147483647, 3])
def test_a_series_number_stays_one(tmp_path: Path, number: int) -> None:
    run = read_angiography(xa_file(tmp_path / "a.dcm", FRAMES, SeriesNumber=number))
    written = pydicom.dcmread(write_run(run, tmp_path / "b.dcm"))
    assert 0 < int(written.SeriesNumber) < 2**31 and int(written.SeriesNumber) != number


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ((0x18, 0x1510), b"REMOVED"),  # PositionerPrimaryAngle
        ((0x20, 0x11), b"456115117112105110101"),  # SeriesNumber
        ((0x18, 0x1164), b"0.3"),  # ImagerPixelSpacing with one value
        ((0x18, 0x1164), b"A\\B"),
    ],
)
def test_a_number_that_is_not_needed_is_left_out_and_said(tmp_path: Path, tag: tuple[int, int], text: bytes) -> None:
    put_text(xa_file(tmp_path / "a.dcm", FRAMES), tag, text)
    run = read_angiography(tmp_path / "a.dcm")
    np.testing.assert_array_equal(run.frames, FRAMES)
    assert any("left out" in note for note in run.origin.notes)
    assert (run.geometry.pixel_spacing_mm is None) == (tag == (0x18, 0x1164))
    assert (run.geometry.primary_deg is None) == (tag == (0x18, 0x1510))
    again = read_angiography(write_run(run, tmp_path / "b.dcm"))
    np.testing.assert_array_equal(again.frames, FRAMES)


def test_empty_elements_say_nothing(tmp_path: Path) -> None:
    def empty(dataset) -> None:
        for name in ("PerFrameFunctionalGroups", "SharedFunctionalGroups", "MaskSubtraction", "ModalityLUT"):
            setattr(dataset, f"{name}Sequence", [])
        for name in ("ImagerPixelSpacing", "PositionerPrimaryAngle", "WindowCenter", "ShutterShape", "FrameTimeVector"):
            setattr(dataset, name, "" if name != "FrameTimeVector" else None)

    run = read_angiography(xa_file(tmp_path / "a.dcm", FRAMES, empty))
    np.testing.assert_array_equal(run.frames, FRAMES)
    np.testing.assert_allclose(np.diff(run.times_s), 0.25)
    np.testing.assert_array_equal(read_angiography(write_run(run, tmp_path / "b.dcm")).frames, FRAMES)


def test_a_header_that_counts_other_frames_is_refused(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    group = Dataset()
    group.ImageComments = "a frame"
    xa_file(tmp_path / "a.dcm", FRAMES, lambda d: setattr(d, "PerFrameFunctionalGroupsSequence", [group] * 4))
    with pytest.raises(ValueError, match="has 6 frames, but its header describes 4"):
        read_angiography(tmp_path / "a.dcm")


# ---- pictures ----


def test_each_tiff_with_several_pages_is_a_run(tmp_path: Path) -> None:
    for name, values in (("a", FRAMES), ("b", FRAMES[::-1])):
        tifffile.imwrite(tmp_path / f"{name}.tif", values)
    cases = find_runs(tmp_path)
    assert [case["case"] for case in cases] == ["a", "b"]
    np.testing.assert_array_equal(read_angiography(cases[1]["image"]).frames, FRAMES[::-1])
    with pytest.raises(ValueError, match="2 runs of several pages"):
        read_angiography(tmp_path)
    (tmp_path / "b.tif").unlink()
    np.testing.assert_array_equal(read_angiography(tmp_path).frames, FRAMES)
    assert [case["case"] for case in find_runs(tmp_path)] == ["a"]
    tifffile.imwrite(tmp_path / "single.tif", FRAMES[0])
    for read in (find_runs, read_angiography):
        with pytest.raises(ValueError, match="a.tif has 6 pages and single.tif is a single picture"):
            read(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("pages", [False, True])
def test_zero_is_white_at_every_depth(tmp_path: Path, dtype: type, pages: bool) -> None:
    values = (FRAMES >> 4).astype(dtype) if dtype == np.uint8 else FRAMES << 4
    stored = np.iinfo(dtype).max - values
    if pages:
        tifffile.imwrite(tmp_path / "run.tif", stored, photometric="miniswhite")
    else:
        for k, frame in enumerate(stored):
            tifffile.imwrite(tmp_path / f"{k}.tif", frame, photometric="miniswhite")
    run = read_angiography(tmp_path)
    np.testing.assert_array_equal(run.frames, values)


def test_rates_that_contradict_each_other_are_said(tmp_path: Path) -> None:
    others = {"CineRate": 15, "FrameTimeVector": [0, 500, 500, 500, 500, 500], "RecommendedDisplayFrameRate": 30}
    run = read_angiography(xa_file(tmp_path / "a.dcm", FRAMES, **others))
    assert run.times_s[1] == 0.25
    notes = "; ".join(run.origin.notes)
    assert "CineRate says 0.06667 s between frames, FrameTime 0.25 s" in notes and "FrameTimeVector says 0.5 s" in notes
    assert "Display" not in notes
    assert not read_angiography(xa_file(tmp_path / "b.dcm", FRAMES, CineRate=4)).origin.notes


def test_values_below_zero_are_refused_before_the_work() -> None:
    run = make_run(FRAMES.astype(np.int16) - 2000, np.arange(6) / 4)
    for kind in ("dicom", "png"):
        with pytest.raises(ValueError, match=f"values down to -[0-9]+, which {kind} cannot hold"):
            check_format(run, kind)
    check_format(run, "nifti")


@pytest.mark.parametrize(("named", "stored"), [(True, 4095), (False, 65535), (True, 60000)])
def test_padding_is_ground_for_the_network_and_is_put_back(tmp_path: Path, named: bool, stored: int) -> None:
    values = frames(bits=11)
    padded = values.copy()
    padded[:, :, :3] = stored
    bits = 12 if stored == 4095 else 16
    tags = {"PixelPaddingValue": stored} if named else {}
    run = read_angiography(xa_file(tmp_path / "a.dcm", padded, bits=bits, **tags))
    plain = read_angiography(xa_file(tmp_path / "b.dcm", values[:, :, 3:], bits=bits))
    assert run.mapping.scale == plain.mapping.scale and run.mapping.offset == plain.mapping.offset
    units = run.normalize([0, 1])
    np.testing.assert_array_equal(units[:, :, 3:], plain.normalize([0, 1]))
    assert (units[:, :, :3] == 0.75).all() and any("are padding" in note for note in run.origin.notes)
    longer = run.with_inserted([0.1], run.denormalize(units[:1], 0.4))
    np.testing.assert_array_equal(longer.frames[1, :, :3], stored)
    again = read_angiography(write_run(longer, tmp_path / "c.dcm"))
    np.testing.assert_array_equal(again.frames, longer.frames)


def test_a_letterbox_within_the_range_is_none(tmp_path: Path) -> None:
    values = frames()
    values[:, :3] = 1000
    assert read_angiography(xa_file(tmp_path / "a.dcm", values)).origin.padding is None


def test_a_bigtiff_with_its_most_significant_byte_first_is_named(tmp_path: Path) -> None:
    for k, frame in enumerate(frames(count=3)):
        tifffile.imwrite(tmp_path / f"{k}.tif", frame, bigtiff=True, byteorder=">")
    with pytest.raises(ValueError, match=r"0\.tif is a BigTIFF file with its most significant byte first"):
        read_angiography(tmp_path)


def without_frame_time(path: Path, steps_ms: list[int]) -> Path:
    tags = {"FrameTimeVector": [str(ms) for ms in steps_ms], "FrameIncrementPointer": 0x00181065}
    return xa_file(path, FRAMES, lambda dataset: dataset.pop("FrameTime"), **tags)


def test_times_from_the_start_are_no_steps(tmp_path: Path) -> None:
    path = without_frame_time(tmp_path / "a.dcm", [0, 250, 500, 750, 1000, 1250])
    with pytest.raises(ValueError, match=r"grows by 250 ms .* times from the start\. Say the rate by --input_fps"):
        read_angiography(path)
    np.testing.assert_allclose(read_angiography(path, fps=4).times_s, np.arange(6) / 4)
    slower = without_frame_time(tmp_path / "b.dcm", [0, 250, 250, 500, 500, 1000])
    np.testing.assert_allclose(read_angiography(slower).times_s, [0, 0.25, 0.5, 1, 1.5, 2.5])


def test_a_rate_that_no_system_has_is_said(tmp_path: Path) -> None:
    run = read_angiography(xa_file(tmp_path / "a.dcm", FRAMES, FrameTime="0.25"))
    assert any("4000 frames a second" in note for note in run.origin.notes)


def test_rates_of_single_files_that_contradict_each_other_are_said(tmp_path: Path) -> None:
    single_files(tmp_path, FrameTime="1000")
    run = read_angiography(tmp_path)
    np.testing.assert_allclose(np.diff(run.times_s), 0.25)
    assert "FrameTime says 1 s between frames, ContentTime 0.25 s: ContentTime counts" in run.origin.notes
    assert "frame times are from ContentTime" in run.origin.notes


@pytest.mark.parametrize("keyword", ["PatientID", "PhotometricInterpretation", "RescaleSlope", "ImagerPixelSpacing"])
def test_single_files_of_which_each_says_something_else_are_no_run(tmp_path: Path, keyword: str) -> None:
    single_files(tmp_path)
    dataset = pydicom.dcmread(tmp_path / "f3.dcm")
    values = {"PhotometricInterpretation": "MONOCHROME1", "ImagerPixelSpacing": ["0.2", "0.2"]}
    setattr(dataset, keyword, values.get(keyword, "2"))
    dataset.save_as(tmp_path / "f3.dcm")
    if keyword == "RescaleSlope":  # who says nothing means 1
        with pytest.raises(ValueError, match="differ in RescaleSlope"):
            read_angiography(tmp_path)
        return
    with pytest.raises(ValueError, match=f"no single run, they differ in {keyword}"):
        read_angiography(tmp_path)


@pytest.mark.parametrize("frame_range", [[2], [6, 2]])
def test_a_range_of_frames_that_is_none_is_refused(tmp_path: Path, frame_range: list[int]) -> None:
    item = pydicom.Dataset()
    item.MaskOperation, item.MaskFrameNumbers, item.ApplicableFrameRange = "AVG_SUB", 1, frame_range
    path = xa_file(tmp_path / "a.dcm", FRAMES, MaskSubtractionSequence=[item])
    with pytest.raises(ValueError, match="is no list of first and last frames. Give --subtract False"):
        read_angiography(path)
    np.testing.assert_array_equal(read_angiography(path, subtract=False).frames, FRAMES)


def test_angles_for_another_number_of_frames_are_said(tmp_path: Path) -> None:
    run = read_angiography(xa_file(tmp_path / "a.dcm", FRAMES, PositionerPrimaryAngleIncrement=["0", "1", "2"]))
    assert "PositionerPrimaryAngleIncrement has 3 entries for 6 frames: left out" in run.origin.notes


def test_numbers_below_zero_that_are_called_unsigned_are_refused(tmp_path: Path) -> None:
    path = xa_file(tmp_path / "a.dcm", (FRAMES.astype(np.int32) - 2000).astype("<i2"), bits=16)
    with pytest.raises(ValueError, match="PixelRepresentation says that no value is below zero"):
        read_angiography(path)
