"""What the inference of the most_dsa bundle refuses: one clear message each, no output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundles.most_dsa_runs import UNEVEN_MS, UNEVEN_S, infer, message_of, outputs, save_weights
from tests.data.angiography.test_files import write_pictures
from tests.tools.xa_writer import ENCRYPTED, contrast_run, write_xa

pytest.importorskip("pydicom")
pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A tiny network that adds something of its own."""
    return save_weights(tmp_path_factory.mktemp("weights"), 0, 0.02)


@pytest.fixture
def dicom(tmp_path) -> Path:
    """A 12-bit run of 6 frames, first 4, then 2, then 1 a second."""
    return write_xa(tmp_path / "in" / "run.dcm", contrast_run(), frame_time_vector_ms=UNEVEN_MS)


def _npz(**arrays: Any):
    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "bad.npz", **arrays)
        return folder / "bad.npz"

    return make


def _with_nan() -> np.ndarray:
    frames = contrast_run().astype(np.float32)
    frames[2, 5, 5] = np.nan
    return frames


def _xa(frames: np.ndarray | None = None, **options: Any):
    return lambda folder: write_xa(folder / "bad.dcm", contrast_run() if frames is None else frames, **options)


def _truncated(folder: Path) -> Path:
    path = _xa()(folder)
    path.write_bytes(path.read_bytes()[:-3000])
    return path


def _pictures(folder: Path) -> Path:
    return write_pictures(folder / "bad", contrast_run())


def _sizes(folder: Path) -> Path:
    frames = contrast_run(dtype=np.uint8, bits=8)
    return write_pictures(folder / "bad", [frames[0], frames[1], frames[2][:-3]])


def _colour(folder: Path) -> Path:
    frames = contrast_run(dtype=np.uint8, bits=8)
    return write_pictures(folder / "bad", [np.dstack([f, f, f // 2]) for f in frames])


def _text(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bad.txt").write_text("this is no run")
    return folder / "bad.txt"


UNKNOWN_SYNTAX = "1.2.840.10008.1.2.9"
MR = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}
BAD_RUNS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "one frame": (_xa(contrast_run()[:1]), {}, "single frame: a run of at least 2 is needed"),
    "one picture": (lambda d: write_pictures(d / "bad", contrast_run()[:1]), {}, "1 frame.* at least 2"),
    "frames of different size": (_sizes, {}, "10.png is 37 x 48 uint8, 8.png is 40 x 48 uint8"),
    "NaN": (_npz(frames=_with_nan(), times_s=UNEVEN_S), {}, "frame 3 has 1 NaN or infinite values of 1920"),
    "no times": (_xa(frame_time_ms=None), {}, "has no frame times .*--input_fps, or all times by --input_times_s"),
    "no times in pictures": (
        _pictures, {"fps": 15}, "times of the frames are unknown.*--input_fps"),
    "times that go back": (_npz(frames=contrast_run(), times_s=[0, 1, 2, 2, 3, 4]), {}, "times must grow.* frame 3 is"),
    "FrameTimeVector that stands": (_xa(frame_time_vector_ms=[0, 9, 9, 0, 9, 9]), {}, "times must grow"),
    "wrong number of times": (_xa(), {"input_times_s": [0, 1, 2]}, "6 frames need 6 times, got 3"),
    "MR": (_xa(**MR), {}, r"MR \(MR Image Storage\): an X-ray angiography run is needed"),
    "colour": (_colour, {}, "8.png is a colour picture with different channels: grey frames are needed"),
    "colour DICOM": (_xa(PhotometricInterpretation="RGB", SamplesPerPixel=3), {}, "RGB with 3 samples"),
    "truncated": (_truncated, {}, "truncated"),
    "too many frames said": (_xa(NumberOfFrames=9), {}, "NumberOfFrames is 9"),
    "encrypted": (_xa(syntax=ENCRYPTED), {}, "1.2.3.4.5.6.7 is none of the DICOM standard"),
    "text": (_text, {}, "bad.txt is no run that can be read"),
    "missing": (lambda d: Path("/nowhere/run.dcm"), {}, "/nowhere/run.dcm does not exist"),
    "none given": (lambda d: "", {}, "--input"),
    "empty folder": (lambda d: d.mkdir(parents=True) or d, {}, "no run in"),
    "constant": (_npz(frames=np.full((4, 9, 9), 7, np.uint8), times_s=range(4)), {}, "every pixel .* the same value"),
    "moments outside": (_xa(), {"times_s": [9.0]}, "nothing is extrapolated"),
    "nothing to make": (_xa(), {"fps": 4}, "nothing to make"),
    "float as DICOM": (
        _npz(frames=contrast_run().astype(np.float32), times_s=UNEVEN_S), {"output_format": "dicom"},
        "dicom cannot hold without loss: give --output_format nifti or npz"),
    "DICOM without times": (
        _pictures, {"output_format": "dicom"}, "DICOM needs them: give --input_fps"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_RUNS)
def test_bad_run(kind, weights, tmp_path):
    make, options, expected = BAD_RUNS[kind]
    message = message_of(make(tmp_path / "in"), tmp_path / "out", checkpoint=weights, **options)
    _expect(expected, message)
    assert outputs(tmp_path / "out") == []


def test_a_syntax_that_nobody_knows(dicom, weights, tmp_path):
    dicom.write_bytes(dicom.read_bytes().replace(b"1.2.840.10008.1.2.1\0", UNKNOWN_SYNTAX.encode() + b"\0", 1))
    _expect(f"{UNKNOWN_SYNTAX} is none of the DICOM", message_of(dicom, tmp_path / "out", checkpoint=weights))
    assert outputs(tmp_path / "out") == []


BAD_OPTIONS = {
    "negative": ({"frames_between": -3}, "frames_between must be a whole number from 1 to 1000, got -3"),
    "none": ({"frames_between": 0}, "got 0"),
    "half a frame": ({"frames_between": 2.5}, "got 2.5"),
    "two ways": ({"frames_between": 1, "fps": 15}, "exactly one of --frames_between K, --fps R and --times_s"),
    "no rate": ({"fps": 0}, "fps must be a number above 0"),
    "no moments": ({"times_s": []}, "times_s must be a list of seconds"),
    "times twice": ({"input_fps": 4, "input_times_s": [0, 1, 2, 3, 4, 5]}, "only one of"),
    "input rate": ({"input_fps": -4}, "input's fps must be a number above zero, got -4"),
    "format": ({"output_format": "avi"}, "output_format must be one of dicom, nifti, .* got 'avi'"),
    "precision": ({"precision": "half"}, "precision must be 'float32' or 'bfloat16', got 'half'"),
    "batch": ({"frames_per_batch": 0}, "frames_per_batch must be a whole number"),
    "intensity": ({"intensity": "minmax"}, "intensity must be 'auto', 'percentile'"),
    "device": ({"device": "gpu"}, "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
    "mistyped": ({"frame_between": 3}, "'frame_between' is not an id of this config; did you mean 'frames_between'"),
    "string boolean": ({"overwrite": "false"}, "overwrite is the text 'false', which counts as true"),
    "no checkpoint": ({"checkpoint": "/nowhere/m.pt"}, "no checkpoint at /nowhere/m.pt"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_bad_option(kind, dicom, weights, tmp_path):
    options, expected = BAD_OPTIONS[kind]
    message = message_of(dicom, tmp_path / "out", **{"checkpoint": weights, **options})
    _expect(expected, message)
    assert outputs(tmp_path / "out") == []


def test_unwritable_output(dicom, weights):
    message = message_of(dicom, dicom / "out", checkpoint=weights)  # below a file: no user can write there
    _expect("output folder .* cannot be written", message)


def _expect(pattern: str, message: str) -> None:
    assert re.search(pattern, message, re.DOTALL), message
    assert len(message) < 900 and "Traceback" not in message


# ---- nothing that is there already is lost ----


@pytest.mark.parametrize("postfix", ["", "a/b"])
def test_a_result_never_lies_where_its_source_lies(dicom, weights, tmp_path, postfix):
    before = dicom.read_bytes()
    said = message_of(dicom, dicom.parent, checkpoint=weights, frames_between=1, output_postfix=postfix)
    assert re.search("output_postfix (must be a word|becomes part of a file's name: a word without slashes)", said), (
        said
    )
    assert dicom.read_bytes() == before and outputs(dicom.parent) == ["run.dcm"]


def test_a_file_of_somebody_else_is_not_replaced(dicom, weights, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run_most_dsa.dcm").write_text("a patient's file")
    said = message_of(dicom, tmp_path / "out", checkpoint=weights, frames_between=1)
    assert "run_most_dsa.dcm is there already and was not written by this program" in said
    assert (tmp_path / "out" / "run_most_dsa.dcm").read_text() == "a patient's file"
    infer(dicom, tmp_path / "out", checkpoint=weights, frames_between=1, overwrite=True)
    assert (tmp_path / "out" / "run_most_dsa.dcm").stat().st_size > 1000


def test_results_of_another_format_do_not_stay_beside_a_new_list_of_frames(dicom, weights, tmp_path):
    infer(dicom, tmp_path / "out", checkpoint=weights, frames_between=1, output_format="npz")
    infer(dicom, tmp_path / "out", checkpoint=weights, frames_between=3, overwrite=True)
    assert outputs(tmp_path / "out") == ["run_most_dsa.dcm", "run_most_dsa.frames.json", "run_most_dsa.json"]


def test_the_folder_of_the_runs_may_be_the_folder_of_the_results(dicom, weights):
    for _ in range(2):  # the second time all is there, and the preview is not taken for a picture to work on
        infer(dicom.parent, dicom.parent, checkpoint=weights, frames_between=1, preview=True)
    assert "run_most_dsa.png" in outputs(dicom.parent)
