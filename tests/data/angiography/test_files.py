"""Runs as pictures, NIfTI, NumPy and films: in, out, found in folders, and refused with a reason."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from custom_nets.data.angiography import writer as run_output
from custom_nets.data.angiography.file_readers import natural_key, picture_files
from custom_nets.data.angiography.reader import find_runs, read_angiography, run_name
from custom_nets.data.angiography.run import make_run
from custom_nets.data.angiography.writer import default_format, run_path, run_summary, write_run
from tests.tools.xa_writer import contrast_run, write_xa

cv2 = pytest.importorskip("cv2")

TIMES = [0, 0.25, 0.5, 0.75, 1.25, 2.25]


def write_pictures(folder, frames, suffix=".png", first=8):
    """Frames as 8.png, 9.png, 10.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, first):
        assert cv2.imwrite(str(folder / f"{number}{suffix}"), frame)
    return folder


def longer_run(frames=None, times=TIMES, **more):
    run = make_run(contrast_run() if frames is None else frames, times, **more)
    if not run.has_times:
        return run.with_inserted([2.5], run.frames[2:3])
    return run.with_inserted([0.6, 2.0], run.frames[[2, 4]])


def test_natural_order(tmp_path):
    names = ["10.png", "9.png", "a2.png", "a10.png", "1.png", "B3.PNG"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".hidden.png").touch()
    assert [p.name for p in picture_files(tmp_path)] == ["1.png", "9.png", "10.png", "a2.png", "a10.png", "B3.PNG"]
    assert natural_key("frame_2") < natural_key("frame_10")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype, bits", [(np.uint8, 8), (np.uint16, 16)])
def test_pictures(tmp_path, suffix, dtype, bits):
    frames = contrast_run(dtype=dtype, bits=bits)
    run = read_angiography(write_pictures(tmp_path / "run", frames, suffix))
    np.testing.assert_array_equal(run.frames, frames)
    assert run.frames.dtype == dtype and not run.has_times and run.origin.format == "png"
    np.testing.assert_array_equal(run.times_s, np.arange(6))
    assert "evenly spaced and counted" in run.origin.notes[0]
    timed = read_angiography(tmp_path / "run", fps=4)
    assert timed.has_times and timed.times_s[1] == 0.25 and not timed.origin.notes
    assert read_angiography(tmp_path / "run", times_s=TIMES).times_s[-1] == 2.25


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_three_equal_channels_are_grey(tmp_path, dtype):
    frames = contrast_run(dtype=dtype, bits=8)
    write_pictures(tmp_path, [np.dstack([frame] * 3) for frame in frames[:3]])
    opaque = np.full_like(frames[0], 255)
    write_pictures(tmp_path, [np.dstack([frame] * 3 + [opaque]) for frame in frames[3:]], first=11)
    np.testing.assert_array_equal(read_angiography(tmp_path).frames, frames)


def test_bad_pictures(tmp_path):
    frames = contrast_run(dtype=np.uint8, bits=8)
    coloured = [np.dstack([frame, frame, frame + 1]) for frame in frames]
    with pytest.raises(ValueError, match=r"8.png is a colour picture with different channels"):
        read_angiography(write_pictures(tmp_path / "colour", coloured))
    with pytest.raises(ValueError, match=r"9.png is 39 x 48 uint8, 8.png is 40 x 48 uint8"):
        read_angiography(write_pictures(tmp_path / "sizes", [frames[0], frames[1][1:]]))
    with pytest.raises(ValueError, match=r"9.png is 40 x 48 uint16, 8.png is 40 x 48 uint8"):
        read_angiography(write_pictures(tmp_path / "depths", [frames[0], frames[1].astype(np.uint16)]))
    with pytest.raises(ValueError, match="at least 2"):
        read_angiography(write_pictures(tmp_path / "one", frames[:1]))
    with pytest.raises(ValueError, match="single picture: give the folder"):
        read_angiography(tmp_path / "one" / "8.png")
    (tmp_path / "one" / "9.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(ValueError, match="9.png is damaged or no picture"):
        read_angiography(tmp_path / "one")


def test_tiff_with_pages(tmp_path):
    frames = contrast_run(bits=16)
    assert cv2.imwritemulti(str(tmp_path / "run.tif"), list(frames))
    np.testing.assert_array_equal(read_angiography(tmp_path / "run.tif").frames, frames)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("format", ["nifti", "npz"])
def test_arrays_round_trip(tmp_path, format, dtype):
    run = longer_run(contrast_run(bits=8).astype(dtype), mask_frames=[0])
    written = write_run(run, run_path(tmp_path, "run", format), format)
    again = read_angiography(written)
    np.testing.assert_array_equal(again.frames, run.frames)
    np.testing.assert_array_equal(again.synthetic, run.synthetic)
    np.testing.assert_allclose(again.times_s, run.times_s)
    assert again.frames.dtype == dtype and again.mask_frames == (0,) and again.origin.format == format
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([written.name, "run.frames.json"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_round_trip(tmp_path, dtype):
    run = longer_run(contrast_run(dtype=dtype, bits=8))
    folder = write_run(run, tmp_path / "run_1.5", "png")
    assert [p.name for p in picture_files(folder)][:2] == ["frame_0001.png", "frame_0002.png"]
    again = read_angiography(folder)
    np.testing.assert_array_equal(again.frames, run.frames)
    np.testing.assert_array_equal(again.synthetic, run.synthetic)
    np.testing.assert_allclose(again.times_s, run.times_s)
    shorter = again.select([0, 1, 2])
    assert len(read_angiography(write_run(shorter, folder))) == 3, "an older result is replaced as a whole"
    assert [p.name for p in tmp_path.iterdir()] == ["run_1.5"]


def test_a_foreign_folder_is_not_replaced(tmp_path):
    write_pictures(tmp_path / "mine", contrast_run())
    with pytest.raises(OSError, match="not written by this program"):
        write_run(longer_run(), tmp_path / "mine", "png")
    assert len(list((tmp_path / "mine").iterdir())) == 6


def test_frames_without_times_stay_so(tmp_path):
    run = longer_run(times=None)
    for format in ("npz", "nifti", "png"):
        again = read_angiography(write_run(run, run_path(tmp_path, "run", format), format))
        assert not again.has_times
        np.testing.assert_array_equal(again.synthetic, run.synthetic)


def test_what_pictures_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="float32.*choose nifti or npz"):
        write_run(longer_run(contrast_run().astype(np.float32)), tmp_path / "run", "png")
    with pytest.raises(ValueError, match="int16 frames with values from -"):
        write_run(longer_run(contrast_run(dtype=np.int16)), tmp_path / "run", "png")
    with pytest.raises(ValueError, match="one of dicom, nifti.*'avi'"):
        write_run(longer_run(), tmp_path / "run", "avi")
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def full(run, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_output, "_write_npz", full)
    with pytest.raises(OSError, match="could not be written: No space left"):
        write_run(longer_run(), tmp_path / "run", "npz")
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    with pytest.raises(OSError, match="could not be written"):
        write_run(longer_run(), tmp_path / "run", "png")
    assert not list(tmp_path.iterdir())


def test_nifti_headers(tmp_path, save_nifti):
    import nibabel as nib

    frames = contrast_run()
    array = frames.transpose(2, 1, 0)
    flat = save_nifti(array, name="flat.nii.gz")
    assert not read_angiography(flat).has_times, "the third pixdim is a distance"
    np.testing.assert_array_equal(read_angiography(flat).frames, frames)
    assert not read_angiography(save_nifti(array[:, :, None], name="no_unit.nii.gz")).has_times
    image = nib.Nifti1Image(array[:, :, None], np.diag([0.3, 0.3, 1, 1]))
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 133.0
    nib.save(image, tmp_path / "timed.nii")
    run = read_angiography(tmp_path / "timed.nii")
    np.testing.assert_allclose(run.times_s, np.arange(6) * 0.133, rtol=1e-6)
    assert run.geometry.pixel_spacing_mm == pytest.approx((0.3, 0.3))
    with pytest.raises(ValueError, match=r"shape \(48, 40, 2, 3\): \[x, y, frame\]"):
        read_angiography(save_nifti(array.reshape(48, 40, 2, 3), name="volume.nii.gz"))
    (tmp_path / "bad.nii").write_bytes(b"no image")
    with pytest.raises(ValueError, match="bad.nii cannot be read"):
        read_angiography(tmp_path / "bad.nii")


def test_numpy_files(tmp_path):
    frames = contrast_run()
    np.save(tmp_path / "plain.npy", frames)
    assert not read_angiography(tmp_path / "plain.npy").has_times
    np.savez(tmp_path / "wide.npz", frames=frames.astype(np.int64), times_s=TIMES)
    assert read_angiography(tmp_path / "wide.npz").frames.dtype == np.uint16
    np.savez(tmp_path / "other.npz", pictures=frames)
    with pytest.raises(ValueError, match=r"arrays \['pictures'\]: 'frames'"):
        read_angiography(tmp_path / "other.npz")
    np.savez(tmp_path / "times.npz", frames=frames, times_s=TIMES[:3])
    with pytest.raises(ValueError, match="6 frames need 6 times, got 3"):
        read_angiography(tmp_path / "times.npz")
    np.savez(tmp_path / "nan.npz", frames=np.where(frames > 2000, np.nan, frames), times_s=TIMES)
    with pytest.raises(ValueError, match="NaN or infinite values"):
        read_angiography(tmp_path / "nan.npz")
    np.savez(tmp_path / "big.npz", frames=frames.astype(np.int64) * 1000)
    with pytest.raises(ValueError, match="which 16 bits cannot"):
        read_angiography(tmp_path / "big.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="cannot be read as a NumPy file"):
        read_angiography(tmp_path / "bad.npz")


def test_a_broken_list_of_frames_is_not_passed_over(tmp_path):
    write_run(longer_run(), tmp_path / "run", "png")
    (tmp_path / "run" / "frames.json").write_text("{}")
    with pytest.raises(ValueError, match="frames.json is no list of frames"):
        read_angiography(tmp_path / "run")


def test_unknown_things(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_angiography(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no run itself: give an XA"):
        read_angiography(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="notes.txt is no run that can be read"):
        read_angiography(tmp_path / "notes.txt")


def test_summary(tmp_path):
    written = write_run(longer_run(mask_frames=[0]), tmp_path / "run", "npz")
    side = json.loads((tmp_path / "run.frames.json").read_text())
    assert written.name == "run.npz"
    assert side["times_s"] == [0, 0.25, 0.5, 0.6, 0.75, 1.25, 2.0, 2.25]
    assert side["synthetic_frames"] == [4, 7] and side["mask_frames"] == [1]
    assert side["source_frames"] == [1, 2, 3, None, 4, 5, None, 6]
    assert side == json.loads(json.dumps(run_summary(longer_run(mask_frames=[0]))))


def test_format_that_came_in(tmp_path):
    assert default_format(longer_run()) == "npz"
    path = write_xa(tmp_path / "run.dcm", contrast_run())
    assert default_format(read_angiography(path)) == "dicom"
    assert default_format(read_angiography(write_pictures(tmp_path / "p", contrast_run()))) == "png"
    with pytest.raises(ValueError, match="output format must be one of"):
        run_path(tmp_path, "run", "jpg")


def test_gif_plays_in_true_time(tmp_path):
    from PIL import Image

    film = Image.open(write_run(longer_run(), tmp_path / "run", "gif"))
    durations = []
    marks = []
    for index in range(film.n_frames):
        film.seek(index)
        durations.append(film.info["duration"])
        picture = np.asarray(film.convert("L")).astype(int)
        marks.append(picture[4, 4] > 250 and picture[5, 5] < 5)
    assert film.size == (48, 40)
    np.testing.assert_allclose(durations[:-1], np.diff([0, 0.25, 0.5, 0.6, 0.75, 1.25, 2.0, 2.25]) * 1000, atol=10)
    np.testing.assert_array_equal(marks, longer_run().synthetic)


@pytest.mark.parametrize("size", [(40, 48), (41, 33)])
def test_mp4_plays_in_true_time(tmp_path, size):
    pytest.importorskip("imageio_ffmpeg")
    film = cv2.VideoCapture(str(write_run(longer_run(contrast_run(size=size)), tmp_path / "run", "mp4")))
    count = 0
    while film.read()[0]:
        count += 1
    last = np.median(np.diff([0, 0.25, 0.5, 0.6, 0.75, 1.25, 2.0, 2.25]))
    assert abs(count / 30 - (2.25 + last)) < 0.05
    assert film.get(cv2.CAP_PROP_FRAME_WIDTH) == size[1] // 2 * 2


def test_find_runs(tmp_path):
    write_xa(tmp_path / "left.dcm", contrast_run())
    write_xa(tmp_path / "1.2.840.5", contrast_run())
    write_pictures(tmp_path / "pictures", contrast_run())
    write_run(longer_run(), tmp_path / "stack", "npz")
    write_run(longer_run(), tmp_path / "stack_most_dsa", "npz")
    write_run(longer_run(), tmp_path / "pictures_most_dsa", "png")
    write_xa(tmp_path / "study" / "left.dcm", contrast_run())
    cases = find_runs(tmp_path, skip_postfix="most_dsa")
    assert [os.path.relpath(case["image"], tmp_path) for case in cases] == [
        "1.2.840.5", "left.dcm", "pictures", "stack.npz", "study/left.dcm"
    ]  # fmt: skip
    assert [case["case"] for case in cases] == [
        "1.2.840.5", f"{tmp_path.name}_left", "pictures", "stack", "study_left"
    ]  # fmt: skip
    for case in cases:
        assert len(read_angiography(case["image"])) in (6, 8)
    assert len(find_runs(tmp_path)) == 7
    assert find_runs(tmp_path / "left.dcm") == [{"image": str(tmp_path / "left.dcm"), "case": "left"}]
    several = find_runs([tmp_path / "left.dcm", tmp_path / "pictures"])
    assert [case["case"] for case in several] == ["left", "pictures"]
    (tmp_path / "list.json").write_text(json.dumps([{"image": "left.dcm", "case": "A"}, "pictures"]))
    assert [case["case"] for case in find_runs(tmp_path / "list.json")] == ["A", "pictures"]
    assert run_name("x/Run.NII.gz") == "Run"


def test_nothing_found(tmp_path):
    with pytest.raises(ValueError, match="no run in .* Give an XA"):
        find_runs(tmp_path)
    with pytest.raises(FileNotFoundError):
        find_runs([tmp_path / "missing.dcm"])
    with pytest.raises(ValueError, match="path or a list"):
        find_runs(3)


def test_times_in_an_npz_go_before_a_list_beside_it(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 8, 9)).astype(np.uint8)
    np.savez(tmp_path / "run.npz", frames=frames, times_s=[0.0, 0.1, 0.2, 0.3])
    (tmp_path / "run.frames.json").write_text('{"times_s": [0, 1, 2, 3], "synthetic": [false, false, false, false]}')
    assert read_angiography(tmp_path / "run.npz").times_s.tolist() == [0.0, 0.1, 0.2, 0.3]


def test_a_nifti_header_says_nothing_about_uneven_times(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 8, 9)).astype(np.uint8)
    path = write_run(make_run(frames, [0.0, 0.25, 0.5, 2.5]), tmp_path / "run.nii.gz", "nifti")
    assert read_angiography(path).times_s.tolist() == [0.0, 0.25, 0.5, 2.5]
    (tmp_path / "run.frames.json").unlink()
    assert not read_angiography(path).has_times
    even = write_run(make_run(frames, [0.0, 0.25, 0.5, 0.75]), tmp_path / "even.nii.gz", "nifti")
    (tmp_path / "even.frames.json").unlink()
    assert read_angiography(even).times_s.tolist() == pytest.approx([0.0, 0.25, 0.5, 0.75])
