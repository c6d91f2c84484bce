"""XA DICOM in and out: every kind of file, true times, honest labels, measured frames bit for bit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from custom_nets.data.angiography.reader import find_runs, read_angiography
from custom_nets.data.angiography.writer import write_run
from custom_nets.data.angiography.xa_marks import synthetic_frames_of
from custom_nets.data.angiography.xa_motion import angle_style
from custom_nets.data.angiography.xa_writer import derived_dataset, frame_ranges, new_xa_dataset, save_dataset
from tests.tools.dicom_writer import write_dataset
from tests.tools.xa_writer import (
    ENCRYPTED,
    ENHANCED_XA,
    J2K_LOSSLESS,
    JPEG_BASELINE,
    RLE,
    XRF,
    contrast_run,
    elements,
    validator_errors,
    write_enhanced_xa,
    write_xa,
)

pydicom = pytest.importorskip("pydicom")

UNEVEN_MS = [0, 250, 250, 250, 500, 1000]
LOG_TAGS = {"RescaleIntercept": "0", "RescaleSlope": "1", "RescaleType": "US"}  # dciodvfy wants them with LOG


def masks(*items):
    return {"MaskSubtractionSequence": [elements(**item) for item in items], "RecommendedViewingMode": "SUB"}


def lengthened(run):
    """The run with a frame in the middle of every gap (the earlier frame plus one)."""
    gaps = run.gaps()
    return run.with_inserted(
        [(gap.t0_s + gap.t1_s) / 2 for gap in gaps], np.stack([run.frames[gap.index] for gap in gaps]) + 1
    )


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_the_validator_finds_faults(tmp_path):
    path = write_xa(tmp_path / "run.dcm", contrast_run(), PixelIntensityRelationship=None)
    assert any("PixelIntensityRelationship" in line for line in validator_errors(path))


@pytest.mark.parametrize(
    "dtype, bits, tags",
    [
        (np.uint8, 8, {}),
        (np.uint16, 12, {}),
        (np.uint16, 16, {}),
        (np.int16, 16, {}),
        (np.int16, 12, {}),
        (np.uint16, 10, {"PhotometricInterpretation": "MONOCHROME1"}),
        (np.uint16, 12, {"SOPClassUID": XRF, "Modality": "RF"}),
    ],
)
def test_round_trip(tmp_path, dtype, bits, tags):
    frames = contrast_run(dtype=dtype, bits=bits)
    source = write_xa(tmp_path / "run.dcm", frames, bits, **LOG_TAGS, **tags)
    run = read_angiography(source)
    np.testing.assert_array_equal(run.frames, frames)
    assert run.frames.dtype == dtype and run.stored_range[1] == (1 << (bits - (frames.min() < 0))) - 1
    np.testing.assert_allclose(run.times_s, np.arange(6) * 0.25)
    assert run.geometry.pixel_spacing_mm == (0.3, 0.3)
    np.testing.assert_array_equal(run.geometry.primary_deg, [10.5] * 6)

    longer = lengthened(run)
    written = write_run(longer, tmp_path / "out" / "run", made_by="most_dsa")

    old, new = pydicom.dcmread(source), pydicom.dcmread(written)
    for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation",
                    "SOPClassUID", "StudyInstanceUID", "PatientID", "KVP"):  # fmt: skip
        assert new[keyword].value == old[keyword].value, keyword
    assert new.NumberOfFrames == 11 and float(new.FrameTime) == 125 and new.CineRate == 8
    np.testing.assert_array_equal(new.pixel_array[0::2], frames)
    np.testing.assert_array_equal(new.pixel_array[1::2], frames[:-1] + 1)
    # the class knows neither signed values nor MONOCHROME1; where a file has them, that stays its only fault
    assert validator_errors(written) == validator_errors(source)
    usual = dtype in (np.uint8, np.uint16) and new.PhotometricInterpretation == "MONOCHROME2"
    if shutil.which("dciodvfy"):
        assert usual == (not validator_errors(written))
    again = read_angiography(written)
    np.testing.assert_array_equal(again.synthetic, longer.synthetic)
    np.testing.assert_array_equal(again.frames, longer.frames)
    assert again.mapping.scale * run.mapping.scale > 0


def test_what_a_derived_run_says(tmp_path):
    source = write_xa(tmp_path / "run.dcm", contrast_run(), frame_time_vector_ms=UNEVEN_MS, **LOG_TAGS)
    run = read_angiography(source)
    np.testing.assert_allclose(run.times_s, np.cumsum(UNEVEN_MS) / 1000)
    written = write_run(lengthened(run), tmp_path / "long.dcm", made_by="most_dsa", description="A test.")

    old, new = pydicom.dcmread(source), pydicom.dcmread(written)
    assert validator_errors(written) == []
    assert list(new.ImageType) == ["DERIVED", "SECONDARY", "SINGLE PLANE", "VENDOR"]
    assert new.SOPInstanceUID != old.SOPInstanceUID and new.SeriesInstanceUID != old.SeriesInstanceUID
    assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
    assert new.SeriesDescription == "Carotid left most_dsa" and new.SeriesNumber != old.SeriesNumber
    assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID
    assert new.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert new.ContributingEquipmentSequence[-1].PurposeOfReferenceCodeSequence[0].CodeValue == "109103"
    assert new.DerivationDescription.startswith(
        "A test. 5 of 11 frames are synthetic, made by most_dsa: 2, 4, 6, 8, 10."
    )
    assert list(new.FrameNumbersOfInterest) == synthetic_frames_of(new) == [2, 4, 6, 8, 10]
    assert set(new.FrameOfInterestDescription) == {"synthetic"}
    assert "FrameTime" not in new and new.FrameIncrementPointer == 0x00181065
    assert [float(v) for v in new.FrameTimeVector] == [0, 125, 125, 125, 125, 125, 125, 250, 250, 500, 500]
    assert synthetic_frames_of(old) == []


def test_a_run_that_is_longer_already_can_be_made_longer_again(tmp_path):
    source = write_xa(tmp_path / "run.dcm", contrast_run(), frame_time_vector_ms=UNEVEN_MS, **LOG_TAGS)
    once = read_angiography(source).with_inserted([0.1], contrast_run()[:1])
    run = read_angiography(write_run(once, tmp_path / "once.dcm"))
    twice = run.with_inserted([2.0], contrast_run()[:1])
    new = pydicom.dcmread(write_run(twice, tmp_path / "twice.dcm"))
    assert sorted(new.FrameNumbersOfInterest) == synthetic_frames_of(new) == [2, 7]
    measured = run.select(np.flatnonzero(~run.synthetic))
    assert synthetic_frames_of(pydicom.dcmread(write_run(measured, tmp_path / "measured.dcm"))) == []


@pytest.mark.parametrize("lost", ["types", "private elements", "frames of interest"])
def test_made_frames_are_known_after_an_archive(tmp_path, lost):
    source = write_xa(tmp_path / "run.dcm", contrast_run(), frame_time_vector_ms=UNEVEN_MS, **LOG_TAGS)
    dataset = pydicom.dcmread(write_run(lengthened(read_angiography(source)), tmp_path / "out.dcm"))
    if lost == "types":
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        dataset.save_as(tmp_path / "archive.dcm", implicit_vr=True, little_endian=True)
    else:
        if lost == "private elements":
            dataset.remove_private_tags()
        else:
            del dataset.FrameNumbersOfInterest
        dataset.save_as(tmp_path / "archive.dcm")
    np.testing.assert_array_equal(np.flatnonzero(read_angiography(tmp_path / "archive.dcm").synthetic), [1, 3, 5, 7, 9])


@pytest.mark.parametrize("syntax", [RLE, J2K_LOSSLESS])
def test_compressed_without_loss(tmp_path, syntax):
    pytest.importorskip("openjpeg")
    frames = contrast_run()
    run = read_angiography(write_xa(tmp_path / "run.dcm", frames, syntax=syntax))
    np.testing.assert_array_equal(run.frames, frames)
    new = pydicom.dcmread(write_run(lengthened(run), tmp_path / "out.dcm"))
    assert new.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    np.testing.assert_array_equal(new.pixel_array[0::2], frames)


def test_compressed_with_loss(tmp_path):
    pytest.importorskip("cv2")
    pytest.importorskip("libjpeg")
    frames = contrast_run(dtype=np.uint8, bits=8)
    run = read_angiography(write_xa(tmp_path / "run.dcm", frames, bits=8, syntax=JPEG_BASELINE))
    assert np.abs(run.frames.astype(int) - frames).max() < 12
    new = pydicom.dcmread(write_run(lengthened(run), tmp_path / "out.dcm"))
    assert new.LossyImageCompression == "01"
    np.testing.assert_array_equal(new.pixel_array[0::2], run.frames)


@pytest.mark.parametrize("relationship, log", [("LIN", True), ("LOG", False), ("DISP", False)])
def test_average_mask(tmp_path, relationship, log):
    item = {"MaskOperation": "AVG_SUB", "MaskFrameNumbers": [1, 2], "ApplicableFrameRange": [3, 6]}
    source = write_xa(
        tmp_path / "run.dcm", contrast_run(bits=12), PixelIntensityRelationship=relationship,
        **(LOG_TAGS if relationship == "LOG" else {}), **masks(item),
    )  # fmt: skip
    run = read_angiography(source)
    assert run.mask_frames == (0, 1) and run.mapping.log is log
    values = run.frames.astype(float)
    mask = values[:2].mean(0)
    expected = np.log(values[4] / mask) if log else values[4] - mask
    np.testing.assert_allclose(run.normalize(4)[0], run.mapping.scale * expected + run.mapping.offset, atol=1e-5)

    longer = run.with_inserted([0.6, 0.9], contrast_run()[:2])
    written = write_run(longer, tmp_path / "out.dcm")
    assert validator_errors(written) == []
    new = pydicom.dcmread(written).MaskSubtractionSequence[0]
    assert list(new.MaskFrameNumbers) == [1, 2] and list(new.ApplicableFrameRange) == [3, 8]
    np.testing.assert_allclose(
        read_angiography(written).mapping.mask(longer.frames, 5), run.mapping.mask(run.frames, 4), rtol=1e-12
    )


def test_late_masks_and_ranges_are_renumbered(tmp_path):
    items = [
        {"MaskOperation": "AVG_SUB", "MaskFrameNumbers": 6, "ApplicableFrameRange": [1, 3]},
        {"MaskOperation": "AVG_SUB", "MaskFrameNumbers": 1, "ApplicableFrameRange": [4, 6]},
    ]
    run = read_angiography(write_xa(tmp_path / "run.dcm", contrast_run(), **masks(*items)))
    assert [gap.index for gap in run.gaps()] == [1, 3], "not beside a mask, not from one mask to the other"
    longer = run.with_inserted([0.3, 0.4, 0.8], contrast_run()[:3])
    new = pydicom.dcmread(write_run(longer, tmp_path / "out.dcm"))
    assert [(item.MaskFrameNumbers, list(item.ApplicableFrameRange)) for item in new.MaskSubtractionSequence] == [
        (9, [1, 5]), (1, [6, 9])
    ]  # fmt: skip


def test_mask_of_the_frame_before(tmp_path):
    source = write_xa(tmp_path / "run.dcm", contrast_run(), **masks({"MaskOperation": "TID", "TIDOffset": 2}))
    run = read_angiography(source)
    values = run.frames.astype(float)
    np.testing.assert_allclose(
        run.normalize(4)[0], run.mapping.scale * (values[4] - values[2]) + run.mapping.offset, atol=1e-5
    )
    new = pydicom.dcmread(write_run(lengthened(run), tmp_path / "even.dcm"))
    assert new.MaskSubtractionSequence[0].TIDOffset == 4
    uneven = run.with_inserted([0.3], contrast_run()[:1])
    new = pydicom.dcmread(write_run(uneven, tmp_path / "uneven.dcm"))
    assert "MaskSubtractionSequence" not in new and new.RecommendedViewingMode == "NAT"


def test_mask_options(tmp_path):
    item = {"MaskOperation": "AVG_SUB", "MaskFrameNumbers": 1, "MaskSubPixelShift": [0.5, -1.0]}
    run = read_angiography(write_xa(tmp_path / "shift.dcm", contrast_run(), **masks(item)))
    assert run.mapping.subtraction[0].shift_px == (0.5, -1.0)
    raw = read_angiography(tmp_path / "shift.dcm", subtract=False)
    assert raw.mapping.subtraction == () and raw.mask_frames == (0,), "still nothing is made beside the mask"

    averaged = write_xa(tmp_path / "average.dcm", contrast_run(), **masks({**item, "ContrastFrameAveraging": 3}))
    with pytest.raises(ValueError, match="ContrastFrameAveraging is 3.*--subtract False"):
        read_angiography(averaged)
    assert read_angiography(averaged, subtract=False).frames.shape[0] == 6
    reverse = read_angiography(write_xa(tmp_path / "rev.dcm", contrast_run(), **masks({"MaskOperation": "REV_TID"})))
    assert "'REV_TID' is not done" in " ".join(reverse.origin.notes)
    with pytest.raises(ValueError, match=r"MaskFrameNumbers \[9\] must name some of the frames 1..6"):
        read_angiography(write_xa(tmp_path / "wrong.dcm", contrast_run(), **masks({**item, "MaskFrameNumbers": 9})))


@pytest.mark.parametrize("style", ["steps", "offsets", "absolute"])
def test_rotation(tmp_path, style):
    angles = np.array([-30.0, -20, -11, 0, 10, 20])
    increments = {"steps": np.diff(angles, prepend=angles[0]), "offsets": angles - angles[0], "absolute": angles}[style]
    source = write_xa(
        tmp_path / "run.dcm", contrast_run(), PositionerMotion="DYNAMIC", PositionerPrimaryAngle="-30", **LOG_TAGS,
        PositionerPrimaryAngleIncrement=[f"{v:g}" for v in increments],
        PositionerSecondaryAngleIncrement=["0"] * 6,
    )  # fmt: skip
    run = read_angiography(source)
    np.testing.assert_allclose(run.geometry.primary_deg, angles)
    assert ("is read as" in " ".join(run.origin.notes)) == (style != "steps")

    written = write_run(lengthened(run), tmp_path / "out.dcm")
    assert validator_errors(written) == []
    again = read_angiography(written).geometry
    np.testing.assert_allclose(again.primary_deg[0::2], angles)
    np.testing.assert_allclose(again.primary_deg[1::2], (angles[1:] + angles[:-1]) / 2)
    assert len(again.secondary_deg) == 11 and not (again.secondary_deg + 5).any()


def test_equal_steps_after_a_first_zero_are_steps():
    assert angle_style(np.array([0.0, 1.5, 1.5, 1.5, 1.5]), -90.0) == "steps"
    assert angle_style(np.array([1.5, 1.5, 1.5]), -90.0) == "steps"


def test_moving_table(tmp_path):
    steps = ["0", "0", "0", "0", "12.5", "0"]
    run = read_angiography(write_xa(tmp_path / "run.dcm", contrast_run(), TableMotion="DYNAMIC",
                            TableVerticalIncrement=["0"] * 6, TableLongitudinalIncrement=steps,
                            TableLateralIncrement=["0"] * 6, **LOG_TAGS))  # fmt: skip
    assert [gap.warnings for gap in run.gaps()][3] == ("the table moves by 12.5 mm between frames 4 and 5",)
    written = write_run(lengthened(run), tmp_path / "out.dcm")
    assert validator_errors(written) == []
    moved = [float(v) for v in pydicom.dcmread(written).TableLongitudinalIncrement]
    assert moved == [0] * 7 + [6.25, 6.25, 0, 0]


def test_shutter(tmp_path):
    run = read_angiography(
        write_xa(tmp_path / "run.dcm", contrast_run(), ShutterShape="RECTANGULAR", ShutterLeftVerticalEdge="5",
                 ShutterRightVerticalEdge="40", ShutterUpperHorizontalEdge="3", ShutterLowerHorizontalEdge="38",
                 ShutterPresentationValue=0)
    )  # fmt: skip
    assert run.active.sum() == 36 * 36 and run.active[2, 4] and not run.active[1, 4]


def test_enhanced(tmp_path):
    times, angles = np.array([0, 0.25, 0.5, 0.75, 1.25, 2.25]), np.arange(6) * 3.0
    source = write_enhanced_xa(tmp_path / "run.dcm", contrast_run(), times, angles_deg=angles, mask_frames=[1])
    run = read_angiography(source)
    np.testing.assert_allclose(run.times_s, times)
    np.testing.assert_allclose(run.geometry.primary_deg, angles)
    assert run.mask_frames == (0,) and run.geometry.source_detector_mm == 1200

    written = write_run(run.with_inserted([0.6, 1.0], contrast_run()[:2]), tmp_path / "out.dcm")

    new = pydicom.dcmread(written)
    assert validator_errors(written) == []
    assert new.SOPClassUID == ENHANCED_XA and new.ContentQualification == "RESEARCH" and new.NumberOfFrames == 8
    assert list(new.ImageType)[:2] == ["DERIVED", "PRIMARY"]
    groups = new.PerFrameFunctionalGroupsSequence
    assert [g.FrameContentSequence[0].DimensionIndexValues for g in groups] == list(range(1, 9))
    kinds = [g.FramePixelDataPropertiesSequence[0].FrameType[0] for g in groups]
    assert [kind == "DERIVED" for kind in kinds] == [False] * 3 + [True, False, True, False, False]
    assert ["synthetic" in str(g.FrameContentSequence[0].get("FrameComments", "")) for g in groups] == [
        kind == "DERIVED" for kind in kinds
    ]
    again = read_angiography(written)
    np.testing.assert_allclose(again.times_s, [0, 0.25, 0.5, 0.6, 0.75, 1.0, 1.25, 2.25])
    np.testing.assert_allclose(again.geometry.primary_deg, [0, 3, 6, 7.2, 9, 10.5, 12, 15])
    np.testing.assert_array_equal(np.flatnonzero(again.synthetic), [3, 5])
    np.testing.assert_array_equal(again.frames[~again.synthetic], run.frames)


def write_singles(folder, frames, reverse_names=False, **tags):
    uid, study = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    for k, frame in enumerate(frames):
        name = f"im{len(frames) - k if reverse_names else k:03d}.dcm"
        own = {"AcquisitionTime": f"1016{k // 2:02d}.{500 * (k % 2):03d}", "InstanceNumber": k + 1}
        write_xa(
            folder / name, frame, frame_time_ms=None, SeriesInstanceUID=uid, StudyInstanceUID=study, **{**own, **tags}
        )


def test_folder_of_single_frames(tmp_path):
    folder = tmp_path / "series"
    write_singles(folder, contrast_run(), reverse_names=True)
    for path in (folder, folder / "im003.dcm"):
        run = read_angiography(path)
        np.testing.assert_array_equal(run.frames, contrast_run())
        np.testing.assert_allclose(run.times_s, np.arange(6) * 0.5)
        assert "frame times are from AcquisitionTime" in run.origin.notes[0]
    assert find_runs(folder) == [{"image": str(folder), "case": "series"}]
    new = pydicom.dcmread(write_run(lengthened(run), tmp_path / "out.dcm"))
    assert new.NumberOfFrames == 11 and len(new.SourceImageSequence) == 6


def test_folder_without_times_goes_by_number(tmp_path):
    write_singles(tmp_path, contrast_run(), reverse_names=True, AcquisitionTime=None, CineRate=4)
    run = read_angiography(tmp_path)
    np.testing.assert_array_equal(run.frames, contrast_run())
    np.testing.assert_allclose(run.times_s, np.arange(6) * 0.25)
    assert "frame times are from CineRate" in run.origin.notes[0]


def test_several_series_in_a_folder(tmp_path):
    write_singles(tmp_path, contrast_run())
    write_xa(tmp_path / "long.dcm", contrast_run(), SeriesInstanceUID="1.2.3")
    with pytest.raises(ValueError, match="holds 2 runs.*1.2.3"):
        read_angiography(tmp_path)
    assert len(read_angiography(tmp_path, series_uid="1.2.3")) == 6
    with pytest.raises(ValueError, match="1.2.4 is not in"):
        read_angiography(tmp_path, series_uid="1.2.4")
    assert [case["case"] for case in find_runs(tmp_path)] == ["im000", "long"]
    assert len(read_angiography(find_runs(tmp_path)[0]["image"])) == 6


@pytest.mark.parametrize(
    "tags, seconds, source",
    [
        ({"CineRate": 5}, 0.2, "CineRate"),
        ({"RecommendedDisplayFrameRate": 2}, 0.5, "RecommendedDisplayFrameRate"),
        ({"FrameTime": "0", "CineRate": 5}, 0.2, "CineRate"),
        ({"FrameTime": "133.5"}, 0.1335, "FrameTime"),
    ],
)
def test_where_times_come_from(tmp_path, tags, seconds, source):
    run = read_angiography(write_xa(tmp_path / "run.dcm", contrast_run(), frame_time_ms=None, **tags))
    np.testing.assert_allclose(run.times_s, np.arange(6) * seconds)
    assert run.origin.meta["time_source"] == source
    assert bool(run.origin.notes) == (source != "FrameTime")


def test_times_can_be_given(tmp_path):
    path = write_xa(tmp_path / "run.dcm", contrast_run(), frame_time_ms=None)
    with pytest.raises(ValueError, match="no frame times.*--input_fps"):
        read_angiography(path)
    np.testing.assert_allclose(read_angiography(path, fps=4).times_s, np.arange(6) / 4)
    np.testing.assert_allclose(read_angiography(path, frame_time_ms=40).times_s, np.arange(6) * 0.04)
    np.testing.assert_allclose(read_angiography(path, times_s=[0, 1, 2, 4, 8, 9]).times_s, [0, 1, 2, 4, 8, 9])
    with pytest.raises(ValueError, match="only one of"):
        read_angiography(path, fps=4, frame_time_ms=40)
    with pytest.raises(ValueError, match="input's fps must be a number above zero, got -1"):
        read_angiography(path, fps=-1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"frame_time_vector_ms": [0, 250]}, "FrameTimeVector has 2 entries for 6 frames"),
        ({"frame_time_vector_ms": [0, 250, 0, 250, 250, 250]}, "times must grow.*frame 2 is at 0.25 s and frame 3"),
        ({"NumberOfFrames": 7}, "NumberOfFrames is 7.*truncated, or the number is wrong"),
        ({"NumberOfFrames": 5}, "NumberOfFrames is 5.*truncated, or the number is wrong"),
        ({"syntax": ENCRYPTED}, "1.2.3.4.5.6.7 is none of the DICOM standard.*export"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}, r"is MR \(MR Image Storage\): an X-ray"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, r"is CT \(CT Image Storage\)"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "RGB with 3 samples"),
        ({"PixelData": None}, "no pixel data"),
    ],
)
def test_bad_files(tmp_path, arguments, message):
    if "PixelData" in arguments:
        path = write_xa(tmp_path / "run.dcm", contrast_run())
        dataset = pydicom.dcmread(path)
        del dataset.PixelData
        dataset.save_as(path)
    else:
        path = write_xa(tmp_path / "run.dcm", contrast_run(), **arguments)
    with pytest.raises(ValueError, match=message):
        read_angiography(path)


def test_single_frame_and_truncated_file(tmp_path):
    with pytest.raises(ValueError, match="single frame"):
        read_angiography(write_xa(tmp_path / "a" / "one.dcm", contrast_run()[:1]))
    path = write_xa(tmp_path / "b" / "run.dcm", contrast_run())
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match="truncated|damaged"):
        read_angiography(path)
    compressed = write_xa(tmp_path / "c" / "run.dcm", contrast_run(), syntax=RLE)
    compressed.write_bytes(compressed.read_bytes()[:-3000])
    with pytest.raises(ValueError, match="cannot be decoded|damaged"):
        read_angiography(compressed)


@pytest.mark.parametrize(
    "count, message", [(5, "NumberOfFrames is 5, but the pixel data holds 6"), (7, "end too early|cannot be decoded")]
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_number_of_compressed_frames(tmp_path, count, message):
    dataset = pydicom.dcmread(write_xa(tmp_path / "run.dcm", contrast_run(), syntax=RLE))
    dataset.NumberOfFrames = count
    dataset.save_as(tmp_path / "wrong.dcm")
    with pytest.raises(ValueError, match=message):
        read_angiography(tmp_path / "wrong.dcm")


def test_a_syntax_that_the_standard_does_not_know(tmp_path):
    path = write_xa(tmp_path / "run.dcm", contrast_run())
    unknown = b"1.2.840.10008.1.2.9\0"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", unknown, 1))
    with pytest.raises(ValueError, match="1.2.840.10008.1.2.9 is none of the DICOM standard"):
        read_angiography(path)


@pytest.mark.skipif(int(pydicom.__version__.split(".")[0]) < 3, reason="written by pydicom 3 only")
def test_implicit_little_endian(tmp_path):
    frames = contrast_run()
    dataset = pydicom.dcmread(write_xa(tmp_path / "run.dcm", frames, **LOG_TAGS))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "implicit.dcm", implicit_vr=True, little_endian=True)
    run = read_angiography(tmp_path / "implicit.dcm")
    np.testing.assert_array_equal(run.frames, frames)
    written = write_run(run, tmp_path / "out.dcm")
    assert validator_errors(written) == []
    np.testing.assert_array_equal(read_angiography(written).frames, frames)


@pytest.mark.skipif(int(pydicom.__version__.split(".")[0]) < 3, reason="written by pydicom 3 only")
def test_big_endian(tmp_path):
    frames = contrast_run()
    dataset = pydicom.dcmread(write_xa(tmp_path / "run.dcm", frames))
    dataset.PixelData = frames.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    big = tmp_path / "big.dcm"
    pydicom.dcmwrite(big, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    run = read_angiography(big)
    np.testing.assert_array_equal(run.frames, frames)
    np.testing.assert_array_equal(read_angiography(write_run(run, tmp_path / "out.dcm")).frames, frames)


def test_a_folder_of_mr_names_it(tmp_path):
    write_dataset(tmp_path / "mr.dcm", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "SOPInstanceUID": "1.2.3",
                                        "Modality": "MR", "Rows": 2, "Columns": 2})  # fmt: skip
    with pytest.raises(ValueError, match=r"no X-ray angiography, but MR \(MR Image Storage\)"):
        read_angiography(tmp_path)
    with pytest.raises(ValueError, match=r"There is: MR \(MR Image Storage\)"):
        find_runs(tmp_path)


def test_elements_that_count_frames(tmp_path):
    source = write_xa(
        tmp_path / "run.dcm", contrast_run(), **LOG_TAGS, RepresentativeFrameNumber=4, FrameNumbersOfInterest=[2, 5],
        FrameOfInterestDescription=["a", "b"], SmallestImagePixelValue=0, LossyImageCompression="01",
        LossyImageCompressionRatio="10", LossyImageCompressionMethod="ISO_10918_1",
    )  # fmt: skip
    new = pydicom.dcmread(
        write_run(read_angiography(source).with_inserted([0.6], contrast_run()[:1]), tmp_path / "out.dcm")
    )
    assert new.RepresentativeFrameNumber == 5 and "SmallestImagePixelValue" not in new
    assert list(new.FrameNumbersOfInterest) == [2, 6, 4]
    assert list(new.FrameOfInterestDescription) == ["a", "b", "synthetic"]
    assert new.LossyImageCompression == "01"


@pytest.mark.parametrize("relationship", ["LIN", "LOG", "DISP"])
@pytest.mark.parametrize("dtype, bits", [(np.uint8, 8), (np.uint16, 10), (np.uint16, None)])
def test_new_object(tmp_path, relationship, dtype, bits):
    from custom_nets.data.angiography.intensity import MaskSubtraction
    from custom_nets.data.angiography.run import RunGeometry

    frames = contrast_run(dtype=dtype, bits=bits or 16)
    geometry = RunGeometry((0.3, 0.3), np.linspace(-30, 20, 6), np.zeros(6), None, 1200.0, 750.0)
    dataset = new_xa_dataset(frames, np.cumsum(UNEVEN_MS) / 1000, bits_stored=bits, relationship=relationship,
                             subtraction=[MaskSubtraction(mask_frames=(0, 1), first=2)], geometry=geometry)  # fmt: skip
    save_dataset(dataset, tmp_path / "new.dcm")
    assert validator_errors(tmp_path / "new.dcm") == []
    run = read_angiography(tmp_path / "new.dcm")
    np.testing.assert_array_equal(run.frames, frames)
    np.testing.assert_allclose(run.times_s, np.cumsum(UNEVEN_MS) / 1000)
    np.testing.assert_allclose(run.geometry.primary_deg, geometry.primary_deg)
    assert run.mask_frames == (0, 1) and run.mapping.log == (relationship == "LIN")
    assert dataset.PatientName == "SIMULATED"


def test_what_dicom_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="float32 frames cannot be DICOM"):
        new_xa_dataset(np.zeros((2, 4, 4), np.float32), [0, 1])
    with pytest.raises(ValueError, match="no values below zero"):
        new_xa_dataset(np.full((2, 4, 4), -3, np.int16), [0, 1])
    with pytest.raises(ValueError, match="do not fit into 8 bits"):
        new_xa_dataset(np.full((2, 4, 4), 300, np.uint16), [0, 1], bits_stored=8)
    np.savez(tmp_path / "run.npz", frames=contrast_run())
    with pytest.raises(ValueError, match="times of the frames are not known"):
        write_run(read_angiography(tmp_path / "run.npz"), tmp_path / "out.dcm", "dicom")
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"], "no partial output"


def test_an_object_made_of_plain_frames_says_what_is_made(tmp_path):
    np.savez(tmp_path / "run.npz", frames=contrast_run(), times_s=np.arange(6) / 4)
    written = write_run(
        lengthened(read_angiography(tmp_path / "run.npz")), tmp_path / "out.dcm", "dicom", made_by="most_dsa"
    )
    assert validator_errors(written) == []
    assert synthetic_frames_of(pydicom.dcmread(written)) == [2, 4, 6, 8, 10]


def test_ranges():
    assert frame_ranges([2, 4, 5, 6, 9]) == "2, 4-6, 9" and frame_ranges([]) == ""


def test_a_long_list_does_not_burst_the_text(tmp_path):
    frames = np.repeat(contrast_run(2, size=(8, 8)), 400, axis=0)
    source = write_xa(tmp_path / "run.dcm", frames, **LOG_TAGS)
    longer = lengthened(read_angiography(source))
    dataset = derived_dataset(longer)
    assert len(dataset.DerivationDescription) < 1024 and "FrameNumbersOfInterest" in dataset.DerivationDescription
    assert len(dataset.FrameNumbersOfInterest) == 799
