"""Inputs stay, results belong to their inputs, one bad name ends nothing, and records say nobody's name."""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import partial
from io import BytesIO, TextIOWrapper
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_nets.utils.record import file_record
from tests.bundles import runner
from tests.bundles.test_many_studies import ARSSR, studies, summary_of, weights

__all__ = ["weights"]  # a fixture

infer = partial(runner.infer, ARSSR, scale=2)
message_of = partial(runner.message_of, ARSSR, scale=2)


@pytest.fixture
def folder(tmp_path) -> Path:
    return studies(tmp_path / "in", 1)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_record(path)["sha256"] for path in folder.iterdir()}


# ---- inputs ----


@pytest.mark.parametrize("linked", ["", "symlink", "hardlink", "folder"])
def test_a_result_never_goes_onto_an_input(linked, folder, weights, tmp_path):
    scan, out = folder / "sub-00.nii.gz", folder
    if linked == "folder":
        out = tmp_path / "link"
        out.symlink_to(folder)
    elif linked:
        out = tmp_path / "out"
        out.mkdir()
        link = os.symlink if linked == "symlink" else os.link
        link(scan, out / "sub-00.nii.gz")
    before = hashes(folder)
    for overwrite in (False, True):
        message = message_of(scan, out, output_postfix="", checkpoint=weights, overwrite=overwrite)
        assert "would be written onto" in message and "--output_postfix" in message
    assert hashes(folder) == before


def test_nor_onto_another_input_or_a_reference_or_a_list(folder, weights):
    scan, other = folder / "sub-00.nii.gz", folder / "sub-00_arssr.nii.gz"
    shutil.copy(scan, other)
    before = hashes(folder)
    assert "would be written onto" in message_of([str(scan), str(other)], folder, checkpoint=weights, overwrite=True)
    like = message_of(scan, folder, scale=None, like=str(other), checkpoint=weights, overwrite=True)
    assert "would be written onto" in like
    assert "was not written by this program" in message_of(scan, folder, checkpoint=weights)
    assert hashes(folder) == before


@pytest.mark.parametrize("postfix", ["x/../../y", "/x", "..\\x", "a\nb"])
def test_a_postfix_stays_in_the_folder(postfix, folder, weights, tmp_path):
    for bundle in ("arssr", "transmrsr", "most_dsa"):
        root = ARSSR.parent / bundle
        message = runner.message_of(root, folder / "sub-00.nii.gz", tmp_path / "out" / "in", output_postfix=postfix)
        assert "output_postfix becomes part of a file's name" in message
    assert not list(tmp_path.rglob("*y.nii.gz")) and not (tmp_path / "out" / "in").exists()


# ---- what is there already ----


def test_what_lies_where_a_result_goes_is_left_or_said(folder, weights, tmp_path):
    """A link is replaced, never what it leads to; a folder is said; a pipe is no scan and nobody waits for it."""
    scan, out, kept = folder / "sub-00.nii.gz", tmp_path / "out", tmp_path / "kept.json"
    out.mkdir()
    kept.write_text("mine")
    (out / "sub-00_arssr.json").symlink_to(kept)
    infer(scan, out, checkpoint=weights, overwrite=True)
    assert kept.read_text() == "mine" and not (out / "sub-00_arssr.json").is_symlink()
    (tmp_path / "other" / "sub-00_arssr.json").mkdir(parents=True)
    assert "a folder lies where a file" in message_of(scan, tmp_path / "other", checkpoint=weights)
    os.mkfifo(folder / "pipe.nii.gz")
    os.mkfifo(folder / "pipe.dcm")
    assert "neither a file nor a folder" in message_of(folder / "pipe.nii.gz", out, checkpoint=weights)
    infer(folder, out, checkpoint=weights)
    assert runner.volumes(out) == ["sub-00_arssr.nii.gz"]


def test_overwrite_is_no_word(folder, weights, tmp_path):
    message = message_of(folder, tmp_path / "out", checkpoint=weights, overwrite="no")
    assert "overwrite must be True or False, got 'no'" in message


def test_a_result_is_not_called_as_parts_are(folder, weights, tmp_path):
    """They are removed when they are old."""
    scan = (folder / "sub-00.nii.gz").rename(folder / ".part-a.nii.gz")
    assert "a name of parts of files" in message_of(scan, tmp_path / "out", checkpoint=weights)


def test_a_changed_input_is_not_done(folder, weights, tmp_path):
    scan, out = folder / "sub-00.nii.gz", tmp_path / "out"
    infer(scan, out, checkpoint=weights)
    made = file_record(out / "sub-00_arssr.nii.gz")
    moved = tmp_path / "moved" / scan.name
    moved.parent.mkdir()
    shutil.move(scan, moved)
    infer(moved, out, checkpoint=weights)  # the same content: done
    assert file_record(out / "sub-00_arssr.nii.gz") == made
    image = nib.load(moved)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), moved)
    assert "another input (SHA-256" in message_of(moved, out, checkpoint=weights)
    infer(moved, out, checkpoint=weights, overwrite=True)
    assert file_record(out / "sub-00_arssr.nii.gz") != made


def test_a_changed_reference_is_not_done(folder, weights, tmp_path):
    scan, out, like = folder / "sub-00.nii.gz", tmp_path / "out", tmp_path / "like.nii.gz"
    options = {"scale": None, "like": str(like), "checkpoint": weights}
    nib.save(nib.Nifti1Image(np.zeros((8, 9, 12)), np.diag([1.0, 1.0, 1.0, 1.0])), like)
    infer(scan, out, **options)
    infer(scan, out, **options)
    nib.save(nib.Nifti1Image(np.zeros((8, 9, 9)), np.diag([1.0, 1.0, 1.0, 1.0])), like)
    assert "made with like sha256:" in message_of(scan, out, **options)


def test_a_record_of_version_0_1_is_understood(folder, weights, tmp_path):
    """It holds paths, and no hash of the input."""
    scan, out = folder / "sub-00.nii.gz", tmp_path / "out"
    infer(scan, out, checkpoint=weights)
    path = out / "sub-00_arssr.json"
    record = json.loads(path.read_text())
    record["input"] = {"file": str(scan)}
    record["output"]["file"] = str(out / "sub-00_arssr.nii.gz")
    path.write_text(json.dumps(record))
    state = path.stat().st_mtime_ns
    infer(scan, out, checkpoint=weights)
    assert path.stat().st_mtime_ns == state
    record["input"]["file"] = str(tmp_path / "other.nii.gz")
    path.write_text(json.dumps(record))
    assert "made with input" in message_of(scan, out, checkpoint=weights)


def test_an_input_that_changes_between_hash_and_reading_fails(folder, weights, tmp_path, monkeypatch):
    scan = folder / "sub-00.nii.gz"
    from custom_nets.transforms import io

    real = io.load_volume

    def late(*args, **kwargs):
        nib.save(nib.Nifti1Image(np.random.default_rng(9).random((8, 9, 6)), np.eye(4)), scan)
        return real(*args, **kwargs)

    monkeypatch.setattr(io, "load_volume", late)
    assert "changed while it was read" in message_of(scan, tmp_path / "out", checkpoint=weights)
    assert runner.volumes(tmp_path / "out") == []


# ---- names ----


@pytest.mark.filterwarnings("ignore")
def test_a_name_that_cannot_be_shown_ends_nothing(weights, tmp_path, monkeypatch):
    """On a terminal of ASCII: letters with dots, bytes that are no text, a line break, TeX, blanks."""
    folder = studies(tmp_path / "in", 6)
    names = ["Müller", os.fsdecode(b"m\xfcller"), "a\nERROR forged", r"$\frac$", "x y", "n" * 245]
    for path, name in zip(sorted(folder.iterdir()), names, strict=True):
        path.rename(folder / f"{name}.nii.gz")
    screen = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    message = message_of(folder, tmp_path / "out", checkpoint=weights, preview=True)
    screen.flush()
    lines = screen.buffer.getvalue().decode("ascii").splitlines()
    assert "1 of 6 cases failed" in message, "the name of 245 letters is too long with its postfix"
    statuses = [result["status"] for result in summary_of(tmp_path / "out")["results"]]
    assert sorted(statuses) == ["failed", *["made"] * 5]
    assert not any(line.startswith("ERROR") for line in lines)
    assert len(list((tmp_path / "out").glob("*.png"))) == 5


# ---- identities ----


def test_nothing_that_is_shared_says_who_it_is(weights, tmp_path, write_dicom_series):
    """Patient, dates and paths are in none of the files but the derived DICOM itself."""
    series = tmp_path / "records of QDOEX" / "series"
    volume = np.random.default_rng(0).random((12, 11, 6)) * 900
    who = {"PatientName": "QDOEX^JANE", "PatientID": "K4711", "PatientBirthDate": "19480321", "StudyDate": "20240517"}
    write_dicom_series(series, volume, np.diag([1.0, 1.0, 3.0, 1.0]), **who)
    like = tmp_path / "records of QDOEX" / "like.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((12, 11, 12)), np.diag([1.0, 1.0, 1.5, 1.0])), like)
    out = infer(series, tmp_path / "out", scale=None, like=str(like), checkpoint=weights, preview=True)
    infer([str(series)], out, scale=None, like=str(like), checkpoint=weights)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".json", ".png", ".gz"}
    for path in files:
        content = path.read_bytes().lower()
        for word in (b"qdoex", b"jane", b"k4711", b"19480321", b"1948", b"20240517", str(tmp_path).encode().lower()):
            assert path.suffix == ".gz" or word not in content, (path, word)
    record = json.loads((out / "series_arssr.json").read_text())
    assert record["options"]["like"] == f"sha256:{file_record(like)['sha256']}"
