"""The read report: every study once, in the right words, and which bundle takes it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from custom_nets.apps.check import find_studies, main
from custom_nets.apps.simulate_acquisition import write_phantom
from custom_nets.data.angiography.acquisition_reader import read_acquisition, write_npz_acquisition
from custom_nets.simulation.phantom import PhantomSettings, VesselFlowPhantom
from tests.tools.field_files import frames, head, mr_series, put_text, xa_file


@pytest.fixture
def folder(tmp_path: Path, save_nifti) -> Path:
    """One of each kind, as they lie about in a research group."""
    root = tmp_path / "all"
    padded = head((16, 18, 8))
    padded[:, :3] = -32768
    mr_series(root / "mr", padded, lambda d, k: d.add_new(0x00280120, "SS", -32768), SliceThickness="2.5")
    for file in (root / "mr").iterdir():
        put_text(file, (0x20, 0x11), b"REMOVED")
    xa_file(root / "xa" / "run.dcm", frames())
    (root / "pictures").mkdir()
    for k, frame in enumerate(frames()):
        cv2.imwrite(str(root / "pictures" / f"{k}.png"), frame)
    save_nifti(head((16, 18, 16)), np.eye(4), name="all/iso.nii.gz")
    (root / "broken.nii").write_bytes(b"no image")
    (root / "more.tar.xz").write_bytes(b"")
    (root / "notes.txt").write_text("nothing")
    return root


def report(capsys, *arguments: str) -> tuple[int, dict[str, dict]]:
    code = main([*arguments, "--json"])
    return code, {Path(study["path"]).name: study for study in json.loads(capsys.readouterr().out)}


def test_each_study_is_told_once_and_rightly(folder: Path, capsys) -> None:
    code, found = report(capsys, str(folder))
    assert code == 1 and set(found) == {"mr", "run.dcm", "pictures", "iso.nii.gz", "broken.nii", "more.tar.xz"}
    mr = found["mr"]
    assert (mr["kind"], mr["modality"], mr["shape"], mr["spacing_mm"]) == ("volume", "MR", [16, 18, 8], [1, 1, 3])
    assert (mr["slice_thickness_mm"], mr["slice_gap_mm"], mr["orientation"], mr["bits_stored"]) == (2.5, 0.5, "LPS", 16)
    assert mr["range"][0] >= 0 and mr["padding_share"] == pytest.approx(3 / 18)
    assert any("PixelPaddingValue (-32768) stands in 17 %" in note for note in mr["notes"])
    assert any("SeriesNumber is 'REMOVED' and left out" in note for note in mr["notes"])
    assert mr["bundles"]["arssr"] == "" and mr["bundles"]["transmrsr"] == ""
    assert mr["bundles"]["most_dsa"] == "a volume, and it takes runs"
    run = found["run.dcm"]
    assert (run["kind"], run["frames"], run["size"], run["step_s"]) == ("run", 6, [20, 24], [0.25, 0.25])
    assert run["bundles"]["most_dsa"] == "" and run["times"] == "FrameTime" and run["bits_stored"] == 12
    assert found["pictures"]["frames"] == 6 and found["pictures"]["times"] == "unknown"
    assert "no thick slices" in found["iso.nii.gz"]["bundles"]["transmrsr"]
    assert "cannot be read as an image volume" in found["broken.nii"]["error"]
    assert "unpack it" in found["more.tar.xz"]["error"]
    assert set(found["broken.nii"]["bundles"].values()) == {"it cannot be read"}


def test_the_lines_say_the_same(folder: Path, capsys) -> None:
    assert main([str(folder / "mr"), str(folder / "xa")]) == 0
    out = capsys.readouterr().out
    assert "MR volume, dicom, int16: 16 x 18 x 8 voxels of 1 x 1 x 3 mm, LPS; slices 2.5 mm thick, gap 0.5 mm" in out
    assert "XA run, dicom, uint16: 6 frames of 20 x 24, 0.25 s apart (FrameTime)" in out
    assert "    arssr: yes" in out and "    most_dsa: no, a volume, and it takes runs" in out


def test_rotational_acquisitions_are_told_however_they_are_stored(tmp_path: Path, capsys) -> None:
    small = PhantomSettings(frames=12, size=(40, 44), pixel_mm=3, volume_shape=(24, 24, 24), voxel_mm=2.5, counts=5e4)
    scan = write_phantom(VesselFlowPhantom(1, small), tmp_path / "scan", xa="LIN")
    write_npz_acquisition(read_acquisition(scan), tmp_path / "scan" / "xa" / "scan.npz")
    code, found = report(capsys, str(scan), str(scan / "xa"))
    assert code == 0 and set(found) == {"scan", "xa", "fill.dcm", "mask.dcm", "scan.npz"}
    for name in ("scan", "xa", "scan.npz"):
        assert (found[name]["kind"], found[name]["frames"], found[name]["size"]) == ("acquisition", 12, [40, 44])
        assert found[name]["arc_deg"] == pytest.approx(200, abs=0.1)
        assert {found[name]["bundles"][b] for b in ("tiavox", "vpal", "togs")} == {""}
        assert found[name]["bundles"]["arssr"] == "an acquisition, and it takes volumes"
    assert found["fill.dcm"]["kind"] == "run" and "with its mask run" in found["fill.dcm"]["bundles"]["togs"]
    main([str(scan)])
    out = capsys.readouterr().out
    assert "rotational acquisition: 12 frames of 40 x 44 in 5.5 s, 200 degrees; pixels of 3 x 3 mm, source to" in out


def test_each_series_of_a_folder_is_a_study(tmp_path: Path, capsys) -> None:
    mr_series(tmp_path, head((10, 12, 6)), SeriesDescription="one")
    for file in tmp_path.iterdir():
        file.rename(file.with_suffix(".1"))
    mr_series(tmp_path, head((10, 12, 5)), SeriesDescription="two")
    main([str(tmp_path), "--json"])
    studies = json.loads(capsys.readouterr().out)
    assert {(s["series_description"], s["shape"][2]) for s in studies} == {("one", 6), ("two", 5)}


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    mr_series(tmp_path / "a", head((10, 12, 6)))
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert [study.path.name for study in find_studies(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(("name", "words"), [("nowhere", "does not exist"), ("", "nothing to read")])
def test_what_is_not_there_is_said(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(SystemExit, match=f"error: .*{words}"):
        main([str(tmp_path / name)])
