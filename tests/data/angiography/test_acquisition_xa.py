"""Mask and fill runs in XA DICOM: pairs by angle, what headers say in several ways, and each refusal."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from custom_nets.data.angiography import acquisition_xa
from custom_nets.data.angiography.acquisition_reader import (
    read_acquisition,
    read_npz_acquisition,
    write_npz_acquisition,
)
from custom_nets.data.angiography.acquisition_xa import turning_angles
from tests.tools.acquisition_writer import write_vpal
from tests.tools.xa_writer import decimals, elements, write_enhanced_xa, write_xa

COUNT, SIZE = 12, (10, 14)
ANGLES = np.linspace(-100, 98, COUNT)
STEPS = np.diff(ANGLES, prepend=ANGLES[0])
TABLE = {"DistanceSourceToDetector": "1200", "DistanceSourceToPatient": "765", "PositionerMotion": "DYNAMIC"}
LINE_INTEGRALS = np.random.default_rng(3).gamma(0.3, 0.2, (COUNT, *SIZE))


def ground(angles: np.ndarray) -> np.ndarray:
    """[N, H, W] attenuation of a head that looks different from every angle, linear in between."""
    slope = np.linspace(0.5, 1.5, SIZE[0] * SIZE[1]).reshape(SIZE)
    return 2 + slope * np.asarray(angles)[:, None, None] / 200


def rotational(angles: np.ndarray, **more) -> dict:
    steps = np.diff(angles, prepend=angles[0])
    return {
        **TABLE,
        "PositionerPrimaryAngle": decimals(angles[:1])[0],
        "PositionerPrimaryAngleIncrement": decimals(steps),
        "PositionerSecondaryAngle": "0",
        "PositionerSecondaryAngleIncrement": decimals(np.zeros(len(angles))),
        "PixelIntensityRelationship": "LIN",
        "ImagerPixelSpacing": ["9", "8"],
        **more,
    }


def stored(scan) -> np.ndarray:
    """Pictures of an acquisition as the file has them: seen from the panel, not from the source."""
    return scan.projections[:, :, ::-1]


def linear(attenuation: np.ndarray) -> np.ndarray:
    return np.rint(6e4 * np.exp(-(attenuation - 1))).astype(np.uint16)


def write_pair(folder: Path, mask_angles: np.ndarray = ANGLES, fill_tags=None, mask_tags=None) -> tuple[Path, Path]:
    fill_frames = linear(ground(ANGLES) + LINE_INTEGRALS)
    fill = write_xa(folder / "fill.dcm", fill_frames, 16, 40.0, **rotational(ANGLES, **(fill_tags or {})))
    mask_frames = linear(ground(mask_angles))
    mask = write_xa(
        folder / "mask.dcm", mask_frames, 16, 40.0,
        **rotational(mask_angles, **{"AcquisitionTime": "101400", **(mask_tags or {})}),
    )  # fmt: skip
    return mask, fill


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"EstimatedRadiographicMagnificationFactor": "1.57"}, ""),
        (
            {"EstimatedRadiographicMagnificationFactor": "1.72"},
            "1.569 times as large on the panel, the header says 1.7",
        ),
        ({"FieldOfViewDimensions": ["90", "112"]}, ""),
        ({"FieldOfViewDimensions": ["144"]}, ""),  # the diagonal
        ({"FieldOfViewDimensions": ["105", "130"]}, "112 x 90 mm on the panel, the header says 105 x 130 mm"),
    ],
)
def test_a_header_that_contradicts_its_sizes_is_said(tags, said, tmp_path):
    mask, fill = write_pair(tmp_path, fill_tags=tags)
    warnings = read_acquisition(fill, mask).warnings
    assert len(warnings) == bool(said) and said in " ".join(warnings)
    assert read_acquisition(fill, mask, pixel_mm=8.5, sad_mm=765.0, sid_mm=1200.0).warnings == []


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    return write_pair(tmp_path)


def test_a_pair_becomes_line_integrals_angles_and_seconds(pair):
    mask, fill = pair
    scan = read_acquisition(fill, mask)
    np.testing.assert_allclose(stored(scan), LINE_INTEGRALS, atol=3e-4)  # 16 bits
    np.testing.assert_allclose(scan.times_s, 0.04 * np.arange(COUNT))
    assert scan.quantitative
    a = np.deg2rad(ANGLES)
    np.testing.assert_allclose(scan.source_mm, 765 * np.stack([-np.sin(a), np.cos(a), 0 * a], -1), atol=1e-3)
    np.testing.assert_allclose(scan.column_step_mm, -8 * np.stack([np.cos(a), np.sin(a), 0 * a], -1), atol=1e-4)
    np.testing.assert_allclose(scan.row_step_mm, np.broadcast_to([0, 0, -9], (COUNT, 3)), atol=1e-9)
    counts = [6e4 * np.exp(-(x - 1)) for x in (ground(ANGLES), ground(ANGLES) + LINE_INTEGRALS)]
    np.testing.assert_allclose(scan.weights[:, :, ::-1], 1 / (1 / counts[0] + 1 / counts[1]), rtol=1e-3)


def test_a_folder_with_two_runs_is_a_pair_in_the_order_of_time(tmp_path):
    write_pair(tmp_path, fill_tags={"AcquisitionTime": "101500"})
    scan = read_acquisition(tmp_path)
    np.testing.assert_allclose(stored(scan), LINE_INTEGRALS, atol=3e-4)
    assert "the earlier one is taken as the mask run" in scan.notes[0]
    assert not any("dcm" in note or str(tmp_path) in note for note in scan.notes)  # records say nobody's name


def test_a_folder_whose_runs_have_no_order_is_refused(tmp_path):
    tags = {"AcquisitionTime": None, "ContentTime": None, "SeriesTime": None}
    write_pair(tmp_path, fill_tags=tags, mask_tags=tags)
    with pytest.raises(ValueError, match="which of fill.dcm and mask.dcm is the mask run: give --mask"):
        read_acquisition(tmp_path)


@pytest.mark.parametrize("angles", [ANGLES - 0.07, ANGLES + 4.5, np.linspace(-101, 99, 31), ANGLES[::-1] - 3])
def test_the_mask_is_paired_by_angle(tmp_path, angles):
    mask, fill = write_pair(tmp_path, angles)
    scan = read_acquisition(fill, mask)
    inside = (ANGLES >= angles.min() - 0.1) & (ANGLES <= angles.max() + 0.1)
    # by angle the head vanishes; by number it would stay with its slope of up to 0.0075 per degree
    np.testing.assert_allclose(stored(scan), LINE_INTEGRALS[inside], atol=1e-3)
    np.testing.assert_allclose(scan.times_s, 0.04 * np.arange(COUNT)[inside])  # the clock is that of the run
    assert len(scan) == inside.sum()
    assert any("left out" in note for note in scan.notes) == (not inside.all())


def test_arcs_that_do_not_meet_are_refused(tmp_path):
    mask, fill = write_pair(tmp_path, ANGLES + 150)
    with pytest.raises(ValueError, match=r"overlap in \d of 12 frames only"):
        read_acquisition(fill, mask)


@pytest.mark.parametrize(
    ("increments", "style"),
    [(STEPS, "steps"), (ANGLES - ANGLES[0], "offsets"), (ANGLES, "absolute"), (np.full(COUNT, 18.0), "steps")],
)
def test_increments_are_read_as_what_makes_a_turn(tmp_path, increments, style):
    angles, found = turning_angles(increments, ANGLES[0])
    assert found == style
    np.testing.assert_allclose(angles, ANGLES, atol=1e-9)
    mask, fill = write_pair(tmp_path, fill_tags={"PositionerPrimaryAngleIncrement": decimals(increments)})
    scan = read_acquisition(fill, mask)
    np.testing.assert_allclose(np.rad2deg(np.arctan2(-scan.source_mm[:, 0], scan.source_mm[:, 1])), ANGLES, atol=1e-4)
    assert any(f"read as {style}" in note for note in scan.notes) == (style != "steps")


def test_an_arm_that_speeds_up_is_still_read_as_steps():
    steps = np.concatenate([[0], np.linspace(0.2, 3, 100)])
    angles, style = turning_angles(steps, -80.0)
    assert style == "steps" and angles[-1] == pytest.approx(-80 + steps.sum())
    assert turning_angles(np.array([3.0, -5, 2, 7]), 0.0) is None


def test_runs_of_16_bits_log_by_slope_table_and_given_scale(tmp_path):
    k = 65535 / np.log(65535)
    logs = [np.rint(k * np.log(6e4 * np.exp(-(a - 1)))) for a in (ground(ANGLES), ground(ANGLES) + LINE_INTEGRALS)]
    mask_frames, fill_frames = (v.astype(np.uint16) for v in logs)

    def read(tags, **options):
        tags = {"PixelIntensityRelationship": "LOG", **tags}
        files = [
            write_xa(tmp_path / name, frames, 16, 40.0, **rotational(ANGLES, **tags))
            for name, frames in (("m.dcm", mask_frames), ("f.dcm", fill_frames))
        ]
        return read_acquisition(files[1], files[0], **options)

    by_slope = read({"RescaleSlope": decimals([1 / k])[0], "RescaleIntercept": "0", "RescaleType": "US"})
    np.testing.assert_allclose(stored(by_slope), LINE_INTEGRALS, atol=1.1 / k)
    assert by_slope.quantitative and any("natural logarithms" in note for note in by_slope.notes)
    given = read({}, log_scale=1 / k)
    np.testing.assert_allclose(stored(given), LINE_INTEGRALS, atol=1.1 / k)
    table = np.rint(np.exp(np.arange(65536) / k)).astype("<u2").tobytes()
    lut = elements(LUTDescriptor=[0, 0, 16], LUTData=table, ModalityLUTType="US")
    by_table = read({"ModalityLUTSequence": [lut]})
    np.testing.assert_allclose(stored(by_table), LINE_INTEGRALS, atol=5e-4)
    unknown = read({})
    assert not unknown.quantitative and unknown.weights is None and any("--log_scale" in n for n in unknown.notes)
    ratio = stored(unknown) / np.maximum(LINE_INTEGRALS, 1e-9)
    np.testing.assert_allclose(ratio[LINE_INTEGRALS > 0.1], np.median(ratio), rtol=5e-3)


def test_enhanced_runs_have_their_angles_with_each_frame(tmp_path):
    files = []
    for name, attenuation in (("m.dcm", ground(ANGLES)), ("f.dcm", ground(ANGLES) + LINE_INTEGRALS)):
        files.append(
            write_enhanced_xa(tmp_path / name, linear(attenuation), 0.04 * np.arange(COUNT), 16, ANGLES,
                              PixelIntensityRelationship="LIN", ImagerPixelSpacing=["9", "8"])
        )  # fmt: skip
    scan = read_acquisition(files[1], files[0])
    np.testing.assert_allclose(stored(scan), LINE_INTEGRALS, atol=3e-4)
    np.testing.assert_allclose(scan.times_s, 0.04 * np.arange(COUNT), atol=1e-6)
    assert np.linalg.norm(scan.source_mm, axis=1) == pytest.approx(800)  # DistanceSourceToIsocenter
    assert scan.source_mm[0, 2] == pytest.approx(-800 * np.sin(np.deg2rad(-5)))  # the secondary angle counts


def test_pictures_seen_from_the_source(pair, tmp_path):
    mask, fill = pair
    usual, mirrored = (read_acquisition(fill, mask, seen_from=side) for side in ("panel", "source"))
    np.testing.assert_allclose(mirrored.column_step_mm, usual.column_step_mm)  # one way round for all
    np.testing.assert_allclose(stored(mirrored), usual.projections)
    # the offset is that along the stored columns
    shifted = [read_acquisition(fill, mask, seen_from=s, offset_mm=(5.0, 0.0)) for s in ("panel", "source")]
    np.testing.assert_allclose(shifted[0].panel_mm - usual.panel_mm, usual.panel_mm - shifted[1].panel_mm, atol=1e-9)
    angles = np.linspace(0, 180, COUNT)
    tags = {"PatientOrientation": ["R", "F"]}
    files = [
        write_xa(tmp_path / n, linear(ground(angles) + p), 16, 40.0, **rotational(angles, **tags))
        for n, p in (("m2.dcm", 0), ("f2.dcm", LINE_INTEGRALS))
    ]
    told = read_acquisition(files[1], files[0])
    np.testing.assert_allclose(told.projections, LINE_INTEGRALS, atol=1e-3)  # stored as seen from the source
    for tags, words in (({"PatientOrientation": ["L", "H"]}, "rows run to the head"),):
        fill = write_xa(tmp_path / "f2.dcm", linear(ground(angles)), 16, 40.0, **rotational(angles, **tags))
        with pytest.raises(ValueError, match=words):
            read_acquisition(fill, files[0])


def test_shutters_do_not_count(tmp_path):
    shutter = {
        "CollimatorShape": "RECTANGULAR", "CollimatorLeftVerticalEdge": "3", "CollimatorRightVerticalEdge": "14",
        "CollimatorUpperHorizontalEdge": "1", "CollimatorLowerHorizontalEdge": "8",
    }  # fmt: skip
    mask, fill = write_pair(tmp_path, fill_tags=shutter)
    scan = read_acquisition(fill, mask)
    assert scan.weights is not None
    weights = scan.weights[:, :, ::-1]
    assert not weights[:, :, :2].any() and not weights[:, 8:].any() and weights[:, :8, 2:].all()


@pytest.mark.parametrize(
    ("fill_tags", "mask_tags", "words"),
    [
        ({"PixelIntensityRelationship": "DISP"}, {}, "displayed grey values .*DISP.* or give --any_intensity"),
        ({"PixelIntensityRelationship": None}, {}, "displayed grey values .*absent"),
        ({}, {"PixelIntensityRelationship": "DISP"}, "mask.dcm holds displayed grey values"),
        ({"PositionerPrimaryAngleIncrement": decimals(np.zeros(COUNT))}, {}, "a standing arm"),
        ({"PositionerPrimaryAngleIncrement": None}, {}, "a standing arm"),
        ({"PositionerPrimaryAngle": None, "PositionerPrimaryAngleIncrement": None}, {}, "no angles.*--primary_deg"),
        ({"PositionerPrimaryAngleIncrement": decimals(STEPS / 4)}, {}, "turns by 49.5 degrees only"),
        ({"PositionerPrimaryAngleIncrement": decimals(np.tile([0, 170, -20], 4))}, {}, "no turn in one direction"),
        ({"DistanceSourceToDetector": None}, {}, "does not say DistanceSourceToDetector .--sid_mm"),
        ({"DistanceSourceToPatient": None}, {}, "does not say DistanceSourceToPatient .--sad_mm"),
        ({"ImagerPixelSpacing": None, "PixelSpacing": ["5", "5"]}, {}, "does not say ImagerPixelSpacing .--pixel_mm"),
        ({"DistanceSourceToPatient": "800"}, {}, "differ in source_isocenter_mm: 765 and 800"),
        ({"DistanceSourceToPatient": "1300"}, {"DistanceSourceToPatient": "1300"}, "behind the isocentre"),
        ({"ImagerPixelSpacing": ["4", "4"]}, {}, "differ in pixel size"),
        ({}, {"PositionerSecondaryAngle": "20"}, "taken 20.0 degrees apart"),
        ({"TableLateralIncrement": decimals(np.linspace(0, 1, COUNT))}, {}, "the table moves by"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(tmp_path, fill_tags, mask_tags, words):
    mask, fill = write_pair(tmp_path, fill_tags=fill_tags, mask_tags=mask_tags)
    with pytest.raises(ValueError, match=words):
        read_acquisition(fill, mask)


def test_each_remedy_helps(tmp_path):
    bare = dict.fromkeys(
        ("DistanceSourceToDetector", "DistanceSourceToPatient", "ImagerPixelSpacing", "PositionerPrimaryAngle",
         "PositionerPrimaryAngleIncrement")
    )  # fmt: skip
    mask, fill = write_pair(tmp_path, fill_tags={**bare, "PixelIntensityRelationship": "DISP"})
    scan = read_acquisition(
        fill, mask, sid_mm=1200, sad_mm=765, pixel_mm=(9, 8), primary_deg=ANGLES, any_intensity=True, duration_s=5.5
    )
    assert not scan.quantitative and scan.times_s[-1] == pytest.approx(5.5)
    np.testing.assert_allclose(scan.geometry.source_panel_mm, 1200)
    with pytest.raises(ValueError, match="12 frames need 12 finite primary angles, got 3"):
        read_acquisition(fill, mask, sid_mm=1200, sad_mm=765, pixel_mm=9, primary_deg=[0, 1, 2])


def test_exchanged_runs_and_runs_of_other_sizes_are_refused(pair, tmp_path):
    mask, fill = pair
    with pytest.raises(ValueError, match="mask and fill run exchanged"):
        read_acquisition(mask, fill)
    other = write_xa(tmp_path / "small.dcm", linear(ground(ANGLES))[:, :8], 16, 40.0, **rotational(ANGLES))
    with pytest.raises(ValueError, match="differ in size"):
        read_acquisition(fill, other)


# ---- one run ----


def test_one_run_that_names_its_mask(tmp_path):
    """Mask and fill sweep in one file, subtracted frame by frame (TID)."""
    there = np.concatenate([ANGLES, ANGLES])
    frames = linear(np.concatenate([ground(ANGLES), ground(ANGLES) + LINE_INTEGRALS]))
    item = elements(MaskOperation="TID", TIDOffset=COUNT, ApplicableFrameRange=[COUNT + 1, 2 * COUNT])
    file = write_xa(tmp_path / "both.dcm", frames, 16, 40.0, **rotational(there, MaskSubtractionSequence=[item]))
    scan = read_acquisition(file)
    np.testing.assert_allclose(stored(scan), LINE_INTEGRALS, atol=3e-4)
    np.testing.assert_allclose(scan.times_s, 0.04 * np.arange(COUNT), atol=1e-9)  # from the first fill frame
    assert scan.weights is not None
    one = elements(MaskOperation="AVG_SUB", MaskFrameNumbers=[1], ApplicableFrameRange=[1, COUNT])
    fill = write_xa(
        tmp_path / "one.dcm", linear(ground(ANGLES)), 16, 40.0, **rotational(ANGLES, MaskSubtractionSequence=[one])
    )
    with pytest.raises(ValueError, match="the mask that the file names for frame 2 was taken 18.0 degrees away"):
        read_acquisition(fill)


def test_one_run_without_a_mask(tmp_path):
    bare = write_xa(tmp_path / "f.dcm", linear(ground(ANGLES)), 16, 40.0, **rotational(ANGLES))
    with pytest.raises(ValueError, match="without a mask: bone would stay"):
        read_acquisition(bare)
    grey = np.rint(3000 - 2000 * LINE_INTEGRALS).clip(0).astype(np.uint16)
    file = write_xa(tmp_path / "s.dcm", grey, 12, 40.0, **rotational(ANGLES, PixelIntensityRelationship="LOG"))
    with_scale = read_acquisition(file, subtracted=True, log_scale=1 / 2000)
    ground_level = np.median(stored(with_scale) - LINE_INTEGRALS)
    strong = LINE_INTEGRALS < 1.4
    error = stored(with_scale) - LINE_INTEGRALS - ground_level
    np.testing.assert_allclose(error[strong], 0, atol=1e-3)
    assert with_scale.quantitative
    without = read_acquisition(file, subtracted=True)
    assert not without.quantitative and any("scale is unknown" in note for note in without.notes)


# ---- the door ----


def test_npz_holds_all_of_it(pair, tmp_path):
    mask, fill = pair
    scan = read_acquisition(fill, mask)
    again = read_acquisition(write_npz_acquisition(scan, tmp_path / "scan.npz"))
    for name in ("projections", "times_s", "source_mm", "panel_mm", "column_step_mm", "row_step_mm", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scan, name))
    assert (again.volume_shape, again.volume_spacing_mm) == (scan.volume_shape, scan.volume_spacing_mm)
    assert again.notes == scan.notes and again.quantitative
    np.savez(tmp_path / "less.npz", projections=scan.projections)
    with pytest.raises(ValueError, match="lacks times_s, source_mm"):
        read_npz_acquisition(tmp_path / "less.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match="cannot be read as a NumPy archive"):
        read_acquisition(tmp_path / "bad.npz")


def test_the_door_tells_by_content(tmp_path, pair):
    mask, fill = pair
    folder = write_vpal(tmp_path / "vpal", {"proj": np.zeros((3, 10, 12)) + np.arange(3)[:, None, None]})
    scan = read_acquisition(folder, voxel_mm=5.0)
    assert scan.volume_spacing_mm == (5.0, 5.0, 5.0) and scan.volume_shape == (12, 15, 19)
    assert read_acquisition(folder, volume_shape=(4, 4, 4)).volume_shape == (4, 4, 4)
    with pytest.raises(ValueError, match="mask, sad_mm is for runs in XA DICOM"):
        read_acquisition(folder, mask, sad_mm=700)
    read_acquisition(folder, offset_mm=[0.0, 0.0], seen_from=None, subtracted=False)  # what they are by themselves
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_acquisition(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no rotational acquisition that can be read"):
        read_acquisition(tmp_path / "empty")
    with pytest.raises(ValueError, match="not both"):
        read_acquisition(fill, mask, times_s=[0, 1], duration_s=3)
    with pytest.raises(ValueError, match="voxel_mm must be above zero"):
        read_acquisition(fill, mask, voxel_mm=0)


@pytest.mark.parametrize("bundle", ["tiavox", "vpal", "togs"])
def test_what_a_message_asks_for_can_be_said_on_the_command_line(bundle):
    """Every ``--option`` in the readers' messages is a key of the inference configs, and reaches the reader."""
    folder = Path(acquisition_xa.__file__).parent
    words = "".join((folder / f"acquisition_{kind}.py").read_text() for kind in ("xa", "folders", "reader"))
    asked = set(re.findall(r"--([a-z_]+)", words)) | {"sid_mm", "sad_mm"}
    root = Path(__file__).resolve().parents[3]
    config = json.loads((root / "bundles" / bundle / "configs" / "inference.json").read_text())
    assert {"log_scale", "primary_deg", "mask", "duration_s"} <= asked <= set(config)
    loader = config["preprocessing"]["transforms"][0]
    assert asked <= {str(value).removeprefix("@") for value in loader.values()}
    assert {field.name for field in fields(acquisition_xa.XAOptions)} <= set(loader)
