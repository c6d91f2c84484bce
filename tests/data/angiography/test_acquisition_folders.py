"""Folders of published methods: what they mean, to the pixel and the second, and each refusal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from custom_nets.data.angiography.acquisition_folders import read_togs_folder, read_vpal_folder
from custom_nets.data.angiography.acquisition_list import find_acquisitions
from tests.tools.acquisition_writer import OFFSET, SAD, SID, SIZE, SPACING, transforms, write_togs, write_vpal

STACK = np.random.default_rng(0).normal(0.2, 0.3, (5, *SIZE)).astype(np.float32)


def test_pixels_angles_times_and_volume_are_those_of_the_folder(tmp_path):
    scan = read_vpal_folder(write_vpal(tmp_path, {"proj": STACK}))
    np.testing.assert_array_equal(scan.projections, STACK)  # [frame, row, column], below zero too
    np.testing.assert_allclose(scan.times_s, [0, 0.1, 0.25, 0.3, 0.5])
    assert scan.quantitative and scan.weights is None and not scan.notes
    assert scan.volume_shape == (6, 7, 8) and scan.volume_spacing_mm == (10.0, 11.0, 12.0)
    a = 0.5 + 0.4 * np.arange(5) ** 1.1
    np.testing.assert_allclose(scan.source_mm, SAD * np.stack([np.cos(a), np.sin(a), 0 * a], -1))
    # the formula of the layout for where a point is seen
    x, y, z = 30.0, -20.0, 25.0
    w = SAD - x * np.cos(a) - y * np.sin(a)
    column = (SID * (y * np.cos(a) - x * np.sin(a)) / w - OFFSET[0]) / SPACING[0] + (SIZE[1] - 1) / 2
    row = (-SID * z / w - OFFSET[1]) / SPACING[1] + (SIZE[0] - 1) / 2
    for frame in range(5):
        pixel, _ = scan.geometry.project([x, y, z], frame)
        np.testing.assert_allclose(pixel, [column[frame], row[frame]], atol=1e-9)


def test_runs_are_subtracted_and_weighted(tmp_path):
    rng = np.random.default_rng(1)
    mask, fill = rng.uniform(50, 400, (2, 5, *SIZE)).astype(np.float32)
    fill[2, 3, 4] = 0  # a dead pixel
    scan = read_vpal_folder(write_vpal(tmp_path, {"mask_run": mask, "fill_run": fill}))
    assert scan.weights is not None
    assert scan.weights[2, 3, 4] == 0 and scan.projections[2, 3, 4] == 0
    fill[2, 3, 4] = mask[2, 3, 4]
    np.testing.assert_allclose(scan.projections, np.log(mask) - np.log(fill), atol=1e-6)
    expected = 1 / (1 / mask + 1 / fill)
    expected[2, 3, 4] = 0
    np.testing.assert_allclose(scan.weights, expected, rtol=1e-6)


def test_projections_are_taken_before_runs_which_still_give_weights(tmp_path):
    mask, fill = np.full((2, 5, *SIZE), 100.0)
    scan = read_vpal_folder(write_vpal(tmp_path, {"proj": STACK, "mask_run": mask, "fill_run": fill}))
    np.testing.assert_array_equal(scan.projections, STACK)
    np.testing.assert_allclose(scan.weights, 50)


def test_without_times_they_are_asked_for(tmp_path):
    frames = [{"PrimaryAngle": 0.1 * k} for k in range(5)]
    write_vpal(tmp_path, {"proj": STACK}, transforms(5, frames=frames, detector_offset_mm=None))
    with pytest.raises(ValueError, match="says nothing about time: .*duration_s"):
        read_vpal_folder(tmp_path)
    scan = read_vpal_folder(tmp_path, duration_s=4.0)
    np.testing.assert_allclose(scan.times_s, [0, 1, 2, 3, 4])
    assert "evenly spaced over 4 s" in scan.notes[0]
    times = [0, 0.5, 1.5, 1.7, 2]
    np.testing.assert_allclose(read_vpal_folder(tmp_path, times_s=times).times_s, times)


def frame_with(**change) -> list[dict]:
    frames = transforms(5)["frames"]
    frames[1].update(change)
    return frames


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sad": None}, "has no 'sad'"),
        ({"sid": "far"}, r"'sid' must be 1 number\(s\) above zero, got 'far'"),
        ({"sid": 700}, "behind the isocentre"),
        ({"N_views": 4}, "N_views is 4, but 'frames' has 5"),
        ({"proj_resolution": [10, 12], "proj_phy": None}, "rows and columns are exchanged"),
        ({"proj_resolution": [12.5, 10], "proj_phy": None}, "whole numbers"),
        ({"proj_spacing": [13.0]}, "2 number"),
        ({"proj_phy": [99, 140]}, "'proj_phy' is .* but resolution x spacing"),
        ({"volume_phy": [60, 77, 80]}, "'volume_phy' is .* but resolution x spacing"),
        ({"volume_resolution": None}, "has no 'volume_resolution'"),
        ({"frames": {}}, "must be a list"),
        ({"frames": frame_with(PrimaryAngle=None)}, "frame 2 has no PrimaryAngle"),
        ({"frames": frame_with(PrimaryAngle=None, extrinsics=[])}, "matrices alone are not read"),
        ({"frames": frame_with(PrimaryAngle=120.0)}, "radians"),
        ({"frames": frame_with(SecondaryAngle=0.2)}, "SecondaryAngle 0.2"),
        ({"frames": frame_with(time_s=None)}, "frame 2 has no time_s"),
        ({"frames": frame_with(time_s=0.26)}, "times must grow"),
        ({"frames": frame_with()[:4], "N_views": 4}, r"transforms.json says \(12, 10, 4\)"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, change, words):
    write_vpal(tmp_path, {"proj": STACK}, transforms(5, **change))
    with pytest.raises(ValueError, match=words):
        read_vpal_folder(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    (tmp_path / "transforms.json").write_text(json.dumps(transforms(5)))
    with pytest.raises(FileNotFoundError, match=r"proj.nii.gz, or mask_run.nii.gz and fill_run.nii.gz, is needed"):
        read_vpal_folder(tmp_path)
    write_vpal(tmp_path, {"mask_run": STACK})
    with pytest.raises(FileNotFoundError, match=r"there is mask_run.nii.gz, transforms.json"):
        read_vpal_folder(tmp_path)
    write_vpal(tmp_path, {"mask_run": STACK, "fill_run": -np.abs(STACK)})
    with pytest.raises(ValueError, match="linear intensities are needed"):
        read_vpal_folder(tmp_path)
    for run in tmp_path.glob("*_run.nii.gz"):
        run.unlink()
    write_vpal(tmp_path, {"proj": np.where(STACK > 1, np.nan, STACK)})
    with pytest.raises(ValueError, match="values are NaN"):
        read_vpal_folder(tmp_path)
    (tmp_path / "proj.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match="proj.nii.gz cannot be read"):
        read_vpal_folder(tmp_path)
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        read_vpal_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_vpal_folder(tmp_path / "nowhere")


# ---- TOGS ----


def test_togs_cameras_see_points_where_the_pictures_have_them(tmp_path):
    times = np.array([0.0, 0.3, 0.45, 0.75])
    matrices, dark = write_togs(tmp_path, times, train=[0, 2], test=[3, 1])
    scan = read_togs_folder(tmp_path, duration_s=6.0, voxels=16)
    assert not scan.quantitative and "no unit" in scan.notes[0]
    np.testing.assert_allclose(scan.times_s, times / 0.75 * 6)  # both lists, in the order of time
    for frame in range(4):
        row, column = np.unravel_index(scan.projections[frame].argmax(), scan.size)
        pixel, _ = scan.geometry.project(dark * 1000, frame)
        np.testing.assert_allclose(pixel, [column, row], atol=0.51)
        assert scan.projections[frame].max() == 1
    np.testing.assert_allclose(scan.source_mm, 1000 * matrices[:, :3, 3])
    # rows that are always white were blanked: they prove nothing
    assert scan.weights is not None and not scan.weights[:, :4].any() and scan.weights[:, 10:30].all()
    half = read_togs_folder(tmp_path, duration_s=6.0, mm_per_unit=500, voxels=16)
    assert half.volume_spacing_mm[0] == pytest.approx(scan.volume_spacing_mm[0] / 2)


def test_togs_mistakes(tmp_path):
    with pytest.raises(FileNotFoundError, match="transforms_train.json does not exist"):
        read_togs_folder(tmp_path)
    write_togs(tmp_path, np.array([0.0, 0.5, 1.0]), train=[0, 1, 2], test=[])
    with pytest.raises(ValueError, match="says nothing about time"):
        read_togs_folder(tmp_path)
    with pytest.raises(ValueError, match="mm_per_unit"):
        read_togs_folder(tmp_path, duration_s=5, mm_per_unit=0)
    listed = json.loads((tmp_path / "transforms_train.json").read_text())

    def changed(frame: dict, **top):
        content = {**listed, **top, "frames": [{**listed["frames"][0], **frame}, *listed["frames"][1:]]}
        (tmp_path / "transforms_train.json").write_text(json.dumps(content))
        return pytest.raises(ValueError)

    with changed({"time": 0.5}) as told:
        read_togs_folder(tmp_path, duration_s=5)
    assert "1 frames share their time" in str(told.value)
    with changed({"transform_matrix": [[1, 0], [0, 1]]}) as told:
        read_togs_folder(tmp_path, duration_s=5)
    with changed({"transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}) as told:
        read_togs_folder(tmp_path, duration_s=5)
    assert "looks away" in str(told.value)
    with changed({}, camera_angle_x=14.28) as told:
        read_togs_folder(tmp_path, duration_s=5)
    assert "radians" in str(told.value)
    (tmp_path / "transforms_train.json").write_text(json.dumps(listed))
    (tmp_path / "r_1.png").unlink()
    with pytest.raises(FileNotFoundError, match="r_1.png does not exist"):
        read_togs_folder(tmp_path, duration_s=5)


def test_a_datalist_names_acquisitions(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "transforms.json").write_text("{}")
    entries = [{"image": "b", "case": "second"}, "a"]
    (tmp_path / "list.json").write_text(json.dumps({"test": entries}))
    found = find_acquisitions(tmp_path / "list.json")
    assert found == [{"image": str(tmp_path / "a"), "case": "a"}, {"image": str(tmp_path / "b"), "case": "second"}]
