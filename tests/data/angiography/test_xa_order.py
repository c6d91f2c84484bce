"""XA DICOM: one clock for all frames, frames in the true order, one projection per run, frame numbers that follow."""

from __future__ import annotations

import numpy as np
import pytest

from custom_nets.data.angiography.parts import RunGeometry, wrap_degrees
from custom_nets.data.angiography.reader import read_angiography
from custom_nets.data.angiography.run import make_run
from custom_nets.data.angiography.writer import write_run
from tests.tools.xa_writer import contrast_run, write_enhanced_xa, write_xa

pydicom = pytest.importorskip("pydicom")

STAMPS = ("FrameReferenceDateTime", "FrameAcquisitionDateTime")


def restamped(path, **columns):
    """An enhanced file with other stamps."""
    dataset = pydicom.dcmread(path)
    for keyword, values in columns.items():
        for group, value in zip(dataset.PerFrameFunctionalGroupsSequence, values, strict=True):
            setattr(group.FrameContentSequence[0], keyword, value)
    dataset.save_as(path)
    return path


def stamps_of(path, keyword):
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    return [str(group.FrameContentSequence[0].get(keyword)) for group in groups]


def test_stamps_of_made_frames_keep_zone_and_their_own_clock(tmp_path):
    path = restamped(
        write_enhanced_xa(tmp_path / "run.dcm", contrast_run(3), [0, 1, 2]),
        FrameReferenceDateTime=["20200102101600+0100", "20200102101601+0100", "20200102101602+0100"],
        FrameAcquisitionDateTime=["20200102101559.5-0230", "20200102101600.7-0230", "20200102101601.5-0230"],
    )
    written = write_run(read_angiography(path).with_inserted([0.25, 1.5], contrast_run(2)), tmp_path / "out.dcm")
    assert stamps_of(written, STAMPS[0]) == [
        "20200102101600+0100", "20200102101600.250000+0100", "20200102101601+0100", "20200102101601.500000+0100",
        "20200102101602+0100",
    ]  # fmt: skip
    assert stamps_of(written, STAMPS[1])[1::2] == ["20200102101559.800000-0230", "20200102101601.100000-0230"]
    np.testing.assert_allclose(read_angiography(written).times_s, [0, 0.25, 1, 1.5, 2])


def test_a_stamp_that_is_none_is_refused(tmp_path):
    path = write_enhanced_xa(tmp_path / "run.dcm", contrast_run(3), [0, 1, 2])
    restamped(path, FrameAcquisitionDateTime=["20200102101600", "20201302101601", "20200102101602"])
    with pytest.raises(ValueError, match="FrameAcquisitionDateTime '20201302101601' is no date and time"):
        write_run(read_angiography(path).with_inserted([0.5], contrast_run(1)), tmp_path / "out.dcm")


def test_given_times_replace_the_stamps_of_all_frames(tmp_path):
    path = write_enhanced_xa(tmp_path / "run.dcm", contrast_run(3), [0, 1, 2])
    restamped(path, FrameReferenceDateTime=[f"2020010210160{k}+0100" for k in range(3)])
    written = write_run(read_angiography(path, fps=4).with_inserted([0.125], contrast_run(1)), tmp_path / "out.dcm")
    assert stamps_of(written, STAMPS[0]) == [
        f"20200102101600.{n:06d}+0100" for n in (0, 125000, 250000, 500000)
    ]  # fmt: skip
    assert stamps_of(written, STAMPS[1])[-1] == "20200102101600.500000"
    np.testing.assert_allclose(read_angiography(written).times_s, [0, 0.125, 0.25, 0.5])


def write_singles(folder, columns, numbers=None, **tags):
    """Single-frame files of one series, their names against the order; ``columns``: values of each file."""
    uid, frames = pydicom.uid.generate_uid(), contrast_run(4)
    for k, frame in enumerate(frames):
        own = {keyword: values[k] for keyword, values in columns.items()}
        number = k + 1 if numbers is None else numbers[k]
        write_xa(
            folder / f"{9 - k}.dcm", frame, frame_time_ms=None, SeriesInstanceUID=uid, InstanceNumber=number,
            **{**tags, **own},
        )  # fmt: skip
    return folder


MIDNIGHT = ["235959.2", "235959.7", "000000.2", "000000.7"]
TWO_DAYS = ["20200102", "20200102", "20200103", "20200103"]


@pytest.mark.parametrize(
    "columns, source",
    [
        ({"AcquisitionTime": MIDNIGHT, "ContentDate": [None] * 4}, "AcquisitionTime"),
        ({"AcquisitionTime": MIDNIGHT}, "AcquisitionTime"),  # with one ContentDate for all
        ({"AcquisitionTime": MIDNIGHT, "AcquisitionDate": TWO_DAYS}, "AcquisitionTime"),
        ({"AcquisitionTime": MIDNIGHT, "ContentDate": TWO_DAYS}, "AcquisitionTime"),
        ({"ContentTime": MIDNIGHT, "ContentDate": TWO_DAYS}, "ContentTime"),
        (
            {"AcquisitionDateTime": [day + time for day, time in zip(TWO_DAYS, MIDNIGHT, strict=True)]},
            "AcquisitionDateTime",
        ),
    ],
)
@pytest.mark.parametrize("numbers", [None, [None] * 4])
def test_a_series_across_midnight(tmp_path, columns, source, numbers):
    run = read_angiography(write_singles(tmp_path, columns, numbers))
    np.testing.assert_array_equal(run.frames, contrast_run(4))
    np.testing.assert_allclose(run.times_s, [0, 0.5, 1, 1.5], atol=1e-6)
    assert run.origin.meta["time_source"] == source


def test_times_against_numbers_are_refused(tmp_path):
    times = ["101600", "101601", "101602", "101603"]
    with pytest.raises(ValueError, match="AcquisitionTime and InstanceNumber contradict.*frame 2 by time has.* 3, by"):
        read_angiography(write_singles(tmp_path, {"AcquisitionTime": times}, [1, 3, 2, 4]))


def test_trigger_times_start_anew_with_each_heartbeat(tmp_path):
    run = read_angiography(
        write_singles(tmp_path, {"TriggerTime": ["100", "600", "90", "590"]}, ContentTime=None, CineRate=2)
    )
    np.testing.assert_array_equal(run.frames, contrast_run(4))
    np.testing.assert_allclose(run.times_s, [0, 0.5, 1, 1.5])


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            {"ImageType": [["ORIGINAL", "PRIMARY", f"BIPLANE {plane}"] for plane in "ABAB"]},
            r"ImageType value 3: 'BIPLANE A' \(2 files\), 'BIPLANE B' \(2 files\)",
        ),
        ({"AcquisitionNumber": [1, 1, 2, 2]}, r"AcquisitionNumber: '1' \(2 files\), '2' \(2 files\)"),
    ],
)
def test_two_projections_in_one_series_are_refused(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        read_angiography(write_singles(tmp_path, columns, ContentTime=None, CineRate=2))


def test_an_acquisition_number_that_counts_frames_is_one_run(tmp_path):
    assert (
        len(
            read_angiography(write_singles(tmp_path, {"AcquisitionNumber": [1, 2, 3, 4]}, ContentTime=None, CineRate=2))
        )
        == 4
    )


@pytest.mark.parametrize(
    "angles, jumps",
    [
        ([0, 30, 0, 30], [0, 1, 2]),  # two projections by turns: the median step is as large
        ([170, 175, -180, -175], []),
        ([10, 10, 15, 15], [1]),
    ],
)
def test_jumps_of_the_arm(angles, jumps):
    run = make_run(contrast_run(4), np.arange(4.0), geometry=RunGeometry(primary_deg=np.array(angles, dtype=float)))
    assert [gap.index for gap in run.gaps() if any("C-arm jumps" in text for text in gap.warnings)] == jumps


def test_angles_between_frames_go_the_shorter_way():
    geometry = RunGeometry(
        primary_deg=np.array([170.0, 178.0, -174.0, -180.0]), secondary_deg=np.array([-170.0, 170.0, 170.0, 0.1])
    )
    between = geometry.at(np.array([0, 0.5, 1.5, 2, 2.5, 3]))
    np.testing.assert_allclose(between.primary_deg, [170, 174, -178, -174, -177, 180])
    np.testing.assert_allclose(geometry.at(np.array([0.25, 0.75])).secondary_deg, [-175, 175])


@pytest.mark.parametrize("enhanced", [False, True])
def test_a_rotation_across_180_degrees(tmp_path, enhanced):
    if enhanced:
        path = write_enhanced_xa(tmp_path / "run.dcm", contrast_run(4), range(4), angles_deg=[172, 176, 180, -176])
    else:
        path = write_xa(
            tmp_path / "run.dcm", contrast_run(4), 12, 1000.0, PositionerMotion="DYNAMIC", PositionerPrimaryAngle="172",
            PositionerPrimaryAngleIncrement=["0", "4", "4", "4"],
        )  # fmt: skip
    written = write_run(read_angiography(path).with_inserted([2.5], contrast_run(1)), tmp_path / "out.dcm")
    again = read_angiography(written)
    np.testing.assert_allclose(wrap_degrees(again.geometry.primary_deg), [172, 176, 180, -178, -176])
    assert not any(gap.warnings for gap in again.gaps())
    if not enhanced:
        np.testing.assert_allclose(pydicom.dcmread(written).PositionerPrimaryAngleIncrement, [0, 4, 4, 2, 2])


def test_overlays_and_vectors_follow_the_frames(tmp_path):
    path = write_xa(
        tmp_path / "run.dcm", contrast_run(4), RWavePointer=[1, 3, 4], FrameLabelVector=list("abcd"),
        RWaveTimeVector=[0.0, 1.0, 2.0, 3.0], PageNumberVector=[1, 2],
    )  # fmt: skip
    dataset = pydicom.dcmread(path)
    for group, frame in ((0x6000, 3), (0x6002, 2), (0x6004, None)):
        dataset.add_new((group, 0x0010), "US", 40)
        if frame:
            dataset.add_new((group, 0x0051), "US", frame)
    dataset.save_as(path)
    run = read_angiography(path)

    same = pydicom.dcmread(write_run(run, tmp_path / "same.dcm"))
    assert list(same.FrameLabelVector) == list("abcd") and same[0x6000, 0x0051].value == 3

    shorter = run.select([0, 2, 3])
    new = pydicom.dcmread(write_run(shorter.with_inserted([0.25], contrast_run(1)), tmp_path / "out.dcm"))
    assert new[0x6000, 0x0051].value == 3 and (0x6004, 0x0010) in new  # one frame fewer before it, one more
    assert not list(new.group_dataset(0x6002))  # its frame is gone
    assert list(new.RWavePointer) == [1, 3, 4]
    assert "FrameLabelVector" not in new and "RWaveTimeVector" not in new and list(new.PageNumberVector) == [1, 2]

    new = pydicom.dcmread(write_run(run.with_inserted([0.1], contrast_run(1)), tmp_path / "longer.dcm"))
    assert [new[group, 0x0051].value for group in (0x6000, 0x6002)] == [4, 3]
    assert list(new.RWavePointer) == [1, 4, 5]
