"""The most_dsa bundle as a person runs it: a run in, a longer run out with the measured frames as they were."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from custom_nets.data.angiography.reader import read_angiography
from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.simulation.acquisition import simulated_run, write_simulated_run
from custom_nets.simulation.dsa import DSASettings, DSASimulator
from tests.bundles import runner
from tests.bundles.most_dsa_runs import (
    BUNDLE,
    CONFIG,
    PLAIN,
    UNEVEN_MS,
    UNEVEN_S,
    infer,
    message_of,
    outputs,
    save_weights,
)  # fmt: skip
from tests.data.angiography.test_files import write_pictures
from tests.tools.xa_writer import ENCRYPTED, contrast_run, elements, validator_errors, write_xa

pydicom = pytest.importorskip("pydicom")
cv2 = pytest.importorskip("cv2")
command = partial(runner.command, CONFIG)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A tiny network that adds something of its own."""
    return save_weights(tmp_path_factory.mktemp("weights"), 0, 0.02)


@pytest.fixture
def dicom(tmp_path) -> Path:
    """A 12-bit run of 6 frames, first 4, then 2, then 1 a second."""
    return write_xa(tmp_path / "in" / "run.dcm", contrast_run(), frame_time_vector_ms=UNEVEN_MS, **PLAIN)


def check(result: AngiographyRun, source: AngiographyRun, made_s: Any) -> None:
    """Measured frames bit for bit at their times, made ones where they were asked for, and each one its own."""
    made_s = np.asarray(made_s)
    assert result.frames.dtype == source.frames.dtype and len(result) == len(source) + len(made_s)
    np.testing.assert_allclose(result.times_s, np.sort(np.concatenate([source.times_s, made_s])), atol=2e-6)
    np.testing.assert_allclose(result.times_s[result.synthetic], made_s, atol=2e-6)
    np.testing.assert_array_equal(result.frames[~result.synthetic], source.frames)
    between = result.frames[result.synthetic].astype(int)
    assert all((np.abs(frame - source.frames.astype(int)).max((1, 2)) > 0).all() for frame in between)
    # no made frame leaves what its neighbours span by far: it is in their units
    assert between.min() > source.frames.min() - 0.3 * np.ptp(source.frames)
    assert between.max() < source.frames.max() + 0.3 * np.ptp(source.frames)


def thirds(times: Any) -> np.ndarray:
    """Moments of --frames_between 3."""
    return np.concatenate([np.linspace(a, b, 5)[1:-1] for a, b in zip(times[:-1], times[1:], strict=True)])


# ---- as a command ----


def test_dicom_through_the_command_line(dicom, weights, tmp_path):
    out = tmp_path / "new" / "out"
    done = command(
        *("--input", dicom, "--output_dir", out, "--frames_between", 3, "--checkpoint", weights, "--device", "cpu"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert outputs(out) == ["run_most_dsa.dcm", "run_most_dsa.frames.json", "run_most_dsa.json", "run_most_dsa.png"]
    assert str(out / "run_most_dsa.dcm") in done.stdout
    check(read_angiography(out / "run_most_dsa.dcm"), read_angiography(dicom), thirds(UNEVEN_S))
    assert validator_errors(out / "run_most_dsa.dcm") == []
    # a bar that reaches its end, and nothing that only its makers understand
    assert "making frames" in done.stderr and "15/15" in done.stderr
    for noise in ("Engine run", "Traceback", "Epoch[1]"):
        assert noise not in done.stdout + done.stderr


def test_one_bad_file_does_not_stop_a_folder(weights, tmp_path):
    folder, out = tmp_path / "folder", tmp_path / "out"
    write_xa(folder / "a.dcm", contrast_run())
    write_xa(folder / "b.dcm", contrast_run(), syntax=ENCRYPTED)
    np.savez(folder / "c.npz", frames=contrast_run(4), times_s=[0, 1, 2, 3])
    done = command(
        *("--input", folder, "--output_dir", out, "--checkpoint", weights, "--preview", "False", "--device", "cpu")
    )
    assert done.returncode == 1
    assert [n for n in outputs(out) if not n.endswith(".json")] == ["a_most_dsa.dcm", "c_most_dsa.npz"]
    assert "error: 1 of 3 cases failed:" in done.stderr
    assert f"b: {folder / 'b.dcm'}" in done.stderr and "1.2.3.4.5.6.7" in done.stderr
    for noise in ("Traceback", "terminating due to exception"):
        assert noise not in done.stdout + done.stderr


def test_a_mistake_is_one_line(dicom, weights, tmp_path):
    done = command(
        *("--input", dicom, "--output_dir", tmp_path / "out", "--checkpoint", weights, "--frames_between", -1)
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == "error: frames_between must be a whole number from 1 to 1000, got -1."
    assert "Traceback" not in done.stdout + done.stderr
    assert outputs(tmp_path / "out") == []


def test_shipped_weights(dicom, tmp_path):
    if not (BUNDLE / "models" / "model.pt").is_file():
        pytest.skip("no weights in models/")
    out = infer(dicom, tmp_path / "out")
    middles = (UNEVEN_S[:-1] + UNEVEN_S[1:]) / 2
    source, result = read_angiography(dicom), read_angiography(out / "run_most_dsa.dcm")
    check(result, source, middles)
    # a smooth change: what the network makes is near the blend
    blend = (source.frames[:-1].astype(float) + source.frames[1:]) / 2
    error = np.abs(result.frames[result.synthetic] - blend).mean()
    assert error < 0.05 * np.ptp(source.frames)


# ---- which moments ----


@pytest.mark.parametrize("vector", [None, UNEVEN_MS], ids=["even", "uneven"])
@pytest.mark.parametrize("request_", ["default", "frames_between", "fps", "times_s"])
def test_moments_in_dicom(vector, request_, weights, tmp_path):
    source = write_xa(tmp_path / "in" / "run.dcm", contrast_run(), frame_time_vector_ms=vector, **PLAIN)
    times = np.arange(6) / 4 if vector is None else UNEVEN_S
    grid = np.arange(1, int(times[-1] * 15 + 1e-6) + 1) / 15
    options, made = {
        "default": ({}, (times[:-1] + times[1:]) / 2),
        "frames_between": ({"frames_between": 3}, thirds(times)),
        "fps": ({"fps": 15}, grid[np.abs(grid[:, None] - times).min(1) > 1e-9]),
        "times_s": ({"times_s": [0.1, 0.9, 1.2]}, [0.1, 0.9, 1.2]),
    }[request_]
    out = infer(source, tmp_path / "out", checkpoint=weights, **options)
    path = out / "run_most_dsa.dcm"
    check(read_angiography(path), read_angiography(source), made)
    assert validator_errors(path) == []
    header = pydicom.dcmread(path)
    assert header.pixel_array.shape == (6 + len(made), 40, 48)
    assert header.ImageType[:2] == ["DERIVED", "SECONDARY"] and header.BitsStored == 12
    assert f"{len(made)} of {6 + len(made)} frames are synthetic, made by most_dsa" in header.DerivationDescription
    assert header.SOPInstanceUID != pydicom.dcmread(source).SOPInstanceUID
    if request_ == "fps" or vector is not None or request_ == "times_s":
        assert ("FrameTimeVector" in header) != ("FrameTime" in header)


def test_raw_run_with_its_mask(weights, tmp_path):
    """Nothing is made beside the mask; made frames are raw frames, and the longer run subtracts as the short one."""
    frames = contrast_run(bits=14)
    item = elements(MaskOperation="AVG_SUB", MaskFrameNumbers=[1], ApplicableFrameRange=[2, 6])
    source = write_xa(
        tmp_path / "in" / "run.dcm", frames, bits=16, frame_time_ms=500.0, PixelIntensityRelationship="LIN",
        MaskSubtractionSequence=[item], RecommendedViewingMode="SUB",
    )  # fmt: skip
    path = infer(source, tmp_path / "out", frames_between=1, checkpoint=weights) / "run_most_dsa.dcm"
    run, result = read_angiography(source), read_angiography(path)
    check(result, run, [0.75, 1.25, 1.75, 2.25])
    assert result.mask_frames == (0,) and result.mapping.log and result.mapping.subtraction[0].last >= 9
    assert validator_errors(path) == []
    # in subtracted units made frames lie between their neighbours
    units = result.normalize(slice(None))
    between = (units[1:-1:2] + units[3::2]) / 2
    assert np.abs(units[2::2] - between).mean() < 0.1 * np.ptp(units)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["input"]["mapping"]["log"] is True and record["output"]["mask_frames"] == [1]

    plain = infer(source, tmp_path / "plain", frames_between=1, subtract=False, checkpoint=weights)
    assert read_angiography(plain / "run_most_dsa.dcm").synthetic.sum() == 4, "not beside the mask, subtracted or not"


# ---- other formats ----


def test_folder_of_pictures(weights, tmp_path):
    frames = contrast_run(dtype=np.uint8, bits=8)
    folder = write_pictures(tmp_path / "pictures", frames)
    out = infer(folder, tmp_path / "out", frames_between=2, checkpoint=weights)
    result = read_angiography(out / "pictures_most_dsa")
    assert len(list((out / "pictures_most_dsa").glob("*.png"))) == 16 and not result.has_times
    np.testing.assert_array_equal(result.frames[~result.synthetic], frames)
    timed = infer(folder, tmp_path / "timed", fps=15, input_fps=4, checkpoint=weights)
    check(read_angiography(timed / "pictures_most_dsa"), read_angiography(folder, fps=4),
          [k / 15 for k in range(1, 19) if (4 * k) % 15])  # fmt: skip
    named = infer(
        folder, tmp_path / "named", times_s=[3.0], input_times_s=UNEVEN_S.tolist()[:5] + [4], checkpoint=weights
    )
    np.testing.assert_allclose(read_angiography(named / "pictures_most_dsa").times_s, [0, 0.25, 0.5, 1, 1.5, 3, 4])


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_arrays(dtype, weights, tmp_path, save_nifti):
    frames = contrast_run(bits=12).astype(dtype)
    np.savez(tmp_path / "run.npz", frames=frames, times_s=UNEVEN_S)
    image = nib.Nifti1Image(frames.transpose(2, 1, 0)[:, :, None], np.diag([0.3, 0.3, 1, 1]))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 0.25
    nib.save(image, tmp_path / "plain.nii.gz")
    both = [str(tmp_path / "run.npz"), str(tmp_path / "plain.nii.gz")]
    out = infer(both, tmp_path / "out", frames_between=3, checkpoint=weights)
    check(read_angiography(out / "run_most_dsa.npz"), read_angiography(both[0]), thirds(UNEVEN_S))
    check(read_angiography(out / "plain_most_dsa.nii.gz"), read_angiography(both[1]), thirds(np.arange(6) / 4))
    written = nib.load(out / "plain_most_dsa.nii.gz")
    assert written.shape == (48, 40, 1, 21) and written.header["pixdim"][4] == 0.0625
    np.testing.assert_allclose(written.affine, image.affine)
    content = np.load(out / "run_most_dsa.npz")
    assert sorted(content.files) == ["frames", "synthetic", "times_s"] and content["synthetic"].sum() == 15


@pytest.mark.parametrize("kind, name", [("npz", "run_most_dsa.npz"), ("nifti", "run_most_dsa.nii.gz"),
                                        ("png", "run_most_dsa"), ("gif", "run_most_dsa.gif")])  # fmt: skip
def test_output_format(kind, name, dicom, weights, tmp_path):
    out = infer(dicom, tmp_path / "out", output_format=kind, frames_between=1, checkpoint=weights)
    assert (out / name).exists() and not list(out.glob("*.dcm"))
    if kind != "gif":
        check(read_angiography(out / name), read_angiography(dicom), (UNEVEN_S[:-1] + UNEVEN_S[1:]) / 2)
    record = json.loads((out / "run_most_dsa.json").read_text())
    assert record["output"]["file"] == name


def test_pictures_become_dicom_with_a_film(weights, tmp_path):
    folder = write_pictures(tmp_path / "pictures", contrast_run(bits=16))
    out = infer(folder, tmp_path / "out", output_format="dicom", film=True, input_fps=2, checkpoint=weights)
    path = out / "pictures_most_dsa.dcm"
    check(read_angiography(path), read_angiography(folder, fps=2), [0.25, 0.75, 1.25, 1.75, 2.25])
    assert validator_errors(path) == []
    assert list(out.glob("pictures_most_dsa.mp4")) or list(out.glob("pictures_most_dsa.gif"))


# ---- record, picture, resume ----


def test_record_and_preview(dicom, weights, tmp_path):
    out = infer(dicom, tmp_path, fps=8, preview=True, checkpoint=weights)
    record = json.loads((out / "run_most_dsa.json").read_text())
    assert record["network"] == "SymmetricMoStDSA" and record["measured_frames_unchanged"] is True
    assert record["input"]["frames"] == 6 and record["input"]["meta"]["bits_stored"] == 12
    made = [i + 1 for i, flag in enumerate(record["output"]["synthetic"]) if flag]
    assert record["output"]["synthetic_frames"] == made and len(made) == 15
    assert record["options"]["fps"] == 8 and record["options"]["frames_between"] is None
    assert record["output"]["source_frames"][:3] == [1, None, 2]
    assert len(record["checkpoint"]["sha256"]) == len(record["output"]["sha256"]) == 64
    assert "Research use only" in record["note"]
    assert cv2.imread(str(out / "run_most_dsa.png")).std() > 10


def test_the_angles_of_a_turning_run_are_used_and_said(weights, tmp_path):
    """By a network that takes them, and by no other; the header has them or has not."""

    def made(name: str, checkpoint: Path, used: bool, **options: Any) -> np.ndarray:
        out = infer(path, tmp_path / name, frames_between=1, checkpoint=checkpoint, **options)
        assert json.loads((out / "turning_most_dsa.json").read_text())["angles_used"] is used
        return read_angiography(out / "turning_most_dsa.dcm").frames

    settings = DSASettings(shape=(48, 64), pixel_mm=3.0, rotation_deg_s=20, tissue=0.0)
    run = simulated_run(DSASimulator(1, settings), np.array([1.0, 1.3, 1.6]))
    path = write_simulated_run(run, tmp_path / "turning.dcm")
    taught = save_weights(tmp_path, 0, 0.5, angles=True)
    made("others", weights, False)
    told, left_out = made("told", taught, True), made("left_out", taught, False, **{"inferer#angles": False})
    header = pydicom.dcmread(path)
    for keyword in [word for word in header.dir("Positioner") if word.endswith(("Angle", "Increment"))]:
        del header[keyword]
    header.save_as(path)
    np.testing.assert_array_equal(made("untold", taught, False), left_out)
    assert (left_out != told).any(), "the angles matter"


def test_a_lengthened_run_is_lengthened_between_measured_frames_only(dicom, weights, tmp_path):
    once = infer(dicom, tmp_path / "once", times_s=[0.1], checkpoint=weights) / "run_most_dsa.dcm"
    twice = infer(once, tmp_path / "twice", frames_between=1, checkpoint=weights)
    result = read_angiography(twice / "run_most_dsa_most_dsa.dcm")
    np.testing.assert_allclose(result.times_s[result.synthetic], [0.1, 0.375, 0.75, 1.25, 2.0])
    record = json.loads((twice / "run_most_dsa_most_dsa.json").read_text())
    assert record["measured_frames_unchanged"] is True
    assert record["seconds_per_made_frame"] == pytest.approx(record["seconds"] / 4, abs=0.01)


def test_what_is_there_is_not_made_again(dicom, weights, tmp_path, capfd):
    target = infer(dicom, tmp_path, frames_between=1, checkpoint=weights) / "run_most_dsa.dcm"
    before = target.stat().st_mtime_ns, target.read_bytes()
    infer(dicom, tmp_path, frames_between=1, checkpoint=weights, frames_per_batch=2)
    assert "already there" in capfd.readouterr().out
    assert (target.stat().st_mtime_ns, target.read_bytes()) == before

    for options, said in (
        ({"frames_between": 2}, "made with frames_between 1 (now 2): give --overwrite True"),
        ({"frames_between": 1, "output_format": "npz"}, "output_format None (now npz)"),
        ({"frames_between": 1, "context": False}, "context True (now False)"),
    ):
        assert said in message_of(dicom, tmp_path, checkpoint=weights, **options)
    other = save_weights(tmp_path / "other", 1, 0.1)
    assert "made with weights" in message_of(dicom, tmp_path, frames_between=1, checkpoint=other)
    assert target.read_bytes() == before[1]

    infer(dicom, tmp_path, frames_between=2, checkpoint=weights, overwrite=True)
    assert len(read_angiography(target)) == 16
    # a run that died before its record was written is not done
    target.with_suffix(".json").unlink()
    infer(dicom, tmp_path, frames_between=1, checkpoint=weights)
    assert len(read_angiography(target)) == 11 and target.with_suffix(".json").is_file()


def test_results_in_the_input_folder_are_no_input(dicom, weights, capfd):
    folder = dicom.parent
    infer(folder, folder, checkpoint=weights)
    infer(folder, folder, checkpoint=weights)
    assert "[1/1] run: already there" in capfd.readouterr().out
    assert [path.name for path in folder.glob("*.dcm")].count("run_most_dsa.dcm") == 1 and len(outputs(folder)) == 4


def test_doubts_are_said(weights, tmp_path, capfd):
    source = write_xa(tmp_path / "run.dcm", contrast_run(), frame_time_vector_ms=[0, 250, 250, 250, 250, 3000])
    out = infer(source, tmp_path / "out", checkpoint=weights)
    said = "3.00 s between frames 5 and 6, more than 1.5 s"
    assert f"WARNING - what is made here may be wrong: {said}" in capfd.readouterr().out
    assert json.loads((out / "run_most_dsa.json").read_text())["warnings"] == [said]
