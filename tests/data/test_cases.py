"""From what a user names to a list of cases."""

from __future__ import annotations

import json

import numpy as np
import pytest

from custom_nets.data import case_name, find_cases

VALUES = np.arange(4 * 5 * 3, dtype=np.int16).reshape(4, 5, 3)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(cases):
    return [case["case"] for case in cases]


def test_case_name(tmp_path, write_dicom_series):
    for file in ("sub-01.T1.nii.gz", "sub-01.T1.nii", "sub-01.T1.mgz", "a/b/sub-01.T1.NII.GZ"):
        assert case_name(file) == "sub-01.T1"
    files = write_dicom_series(tmp_path / "T1.axial", VALUES, np.eye(4))
    assert case_name(tmp_path / "T1.axial") == case_name(files[0]) == "T1.axial"


def test_one_file_and_one_series(tmp_path, write_dicom_series):
    touch(tmp_path, "scan.nii.gz")
    assert find_cases(tmp_path / "scan.nii.gz") == [{"image": str(tmp_path / "scan.nii.gz"), "case": "scan"}]
    files = write_dicom_series(tmp_path / "series", VALUES, np.eye(4))
    assert find_cases(str(tmp_path / "series")) == [{"image": str(tmp_path / "series"), "case": "series"}]
    assert find_cases(files[1]) == [{"image": str(files[1]), "case": "series"}]


def test_folder(tmp_path, write_dicom_series, caplog):
    touch(tmp_path, "b.nii.gz", "a.nii", "c.mgz", ".hidden.nii", "notes.txt", "deeper/d.nii")
    write_dicom_series(tmp_path / "series", VALUES, np.eye(4))
    with caplog.at_level("INFO"):
        assert names(find_cases(tmp_path)) == ["a", "b", "c", "series"]
    assert "ignored deeper, notes.txt" in caplog.text
    assert names(find_cases(tmp_path, suffixes=[".mgz"])) == ["c", "series"]


def test_results_of_an_earlier_run_are_no_cases(tmp_path):
    touch(tmp_path, "a.nii.gz", "a_arssr.nii.gz")
    assert names(find_cases(tmp_path, skip_postfix="arssr")) == ["a"]


def test_names_are_unique(tmp_path):
    touch(tmp_path, "s1/T1.nii.gz", "s2/t1.nii.gz", "s2/T1.nii", "s3/T2.nii")
    cases = find_cases([tmp_path / name for name in ("s3/T2.nii", "s2/T1.nii", "s2/t1.nii.gz", "s1/T1.nii.gz")])
    assert names(cases) == ["s1_T1", "s2_T1", "s2_t1-2", "T2"]
    assert [case["image"] for case in cases] == sorted(case["image"] for case in cases)


def test_series_that_are_results_are_no_input(tmp_path, write_dicom_series):
    for name in ("t2", "t2_arssr", "t2_arssr_uncertainty", "flair"):
        write_dicom_series(tmp_path / name, np.ones((3, 4, 2), np.int16), np.eye(4))
    assert names(find_cases(tmp_path, skip_postfix=["arssr", "arssr_uncertainty"])) == ["flair", "t2"]
    assert names(find_cases(tmp_path / "t2_arssr", skip_postfix="arssr")) == ["t2_arssr"], "named, so wanted"


def test_json_datalist(tmp_path):
    touch(tmp_path, "data/a.nii", "data/b.nii")
    path = tmp_path / "list.json"
    path.write_text(json.dumps(["data/b.nii", {"image": str(tmp_path / "data/a.nii"), "case": "x/first"}]))
    assert names(find_cases(path)) == ["x_first", "b"]
    path.write_text(json.dumps({"name": "mine", "testing": [{"image": "data/a.nii"}]}))
    assert names(find_cases(path)) == ["a"]
    touch(tmp_path, "~root/c.nii")
    path.write_bytes(json.dumps(["~root/c.nii", {"image": "data/a.nii", "case": None}]).encode("utf-16"))
    assert names(find_cases(path)) == ["a", "c"]
    path.write_text(json.dumps({"training": ["data/a.nii"], "testing": ["data/b.nii"]}))
    assert names(find_cases(path, section="testing")) == ["b"]
    with pytest.raises(ValueError, match=r"has the lists \['testing', 'training'\]: name one"):
        find_cases(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ("3", "must hold a list"), ("[3]", "every entry must be"), ("[]", "nothing to read")]
    + [('{"a": ["x"], "a": ["y"]}', "the key 'a' stands in it twice"), (f"[{'9' * 5000}]", "list.json is not valid")],
)
def test_bad_json(tmp_path, content, message):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        find_cases(tmp_path / "list.json")


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        find_cases(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="b.nii does not exist"):
        touch(tmp_path, "a.nii")
        find_cases([tmp_path / "a.nii", tmp_path / "b.nii"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nothing to read in .*empty: allowed are .nii"):
        find_cases(tmp_path / "empty")
    with pytest.raises(ValueError, match="folder without DICOM files"):
        find_cases([tmp_path / "empty"])
    with pytest.raises(ValueError, match="a path is needed, got ''"):
        find_cases("")
    with pytest.raises(ValueError, match="input must be a path"):
        find_cases(3)
