"""Subject lists: nobody on both sides, and clear words for lists that cannot work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from custom_nets.data import expand_scales, load_datalist, split_subjects


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "sub-01/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/anat/sub-01_ses-b_T1w.nii.gz",
        "sub-02_T1w.nii",
        "c.mgz",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.nii").touch()
    return tmp_path


def write(folder: Path, entries: object) -> Path:
    path = folder / "list.json"
    path.write_text(json.dumps(entries))
    return path


def test_folder(folder):
    items = load_datalist(folder)
    assert [item["subject"] for item in items] == ["c", "sub-01", "sub-01", "sub-02"]
    assert all(Path(item["image"]).is_absolute() and item["weight"] == 1 for item in items)


def test_list_has_paths_relative_to_itself(folder):
    path = write(folder, [{"image": "c.mgz", "weight": 2, "labels": True}, "sub-02_T1w.nii"])
    first, second = load_datalist(path)
    assert first == {"image": str((folder / "c.mgz").resolve()), "subject": "c", "weight": 2, "labels": True}
    assert second["subject"] == "sub-02"
    path.rename(folder / "datalist.json")
    assert load_datalist(folder) == [first, second]


@pytest.mark.parametrize("seed", range(8))
def test_no_subject_is_on_both_sides(folder, seed):
    items = load_datalist(folder)
    training, validation = split_subjects(items, 0.3, seed)
    assert len(training) + len(validation) == 4 and training and validation
    assert not {i["subject"] for i in training} & {i["subject"] for i in validation}
    assert split_subjects(items, 0.3, seed) == (training, validation)


def test_given_splits_hold():
    def item(subject, **fields):
        return {"image": subject, "subject": subject, "weight": 1.0, **fields}

    items = [
        item("a"), item("b", split="validation"), item("b"), item("t", split="test"), item("t"), item("l", labels=True)
    ]  # fmt: skip
    training, validation = split_subjects(items)
    assert [i["subject"] for i in training] == ["a", "l"]
    assert [i["subject"] for i in validation] == ["b", "b"]
    # label maps are never drawn for validation
    training, validation = split_subjects([item("s"), item("l", labels=True)])
    assert [i["subject"] for i in validation] == ["s"]


def test_expand_scales():
    items = expand_scales([{"image": "a"}, {"image": "b"}], [[2, 2, 2], [1, 1, 4]])
    assert [(i["image"], i["scale"]) for i in items][:2] == [("a", [2.0, 2.0, 2.0]), ("a", [1.0, 1.0, 4.0])]
    assert len(items) == 4


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "empty"),
        ({"image": "c.mgz"}, "a list"),
        ([{"img": "c.mgz"}], "'image'"),
        ([{"image": "c.mgz", "wieght": 2}], "'wieght'"),
        ([{"image": "c.mgz", "split": "val"}], "train, validation, test"),
        ([{"image": "c.mgz", "weight": -1}], "weight"),
        ([{"image": "c.mgz", "labels": "yes"}], "labels"),
        ([{"image": "missing.nii"}], "does not exist"),
    ],
)
def test_bad_lists(folder, entries, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        load_datalist(write(folder, entries))


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: give --dataset_dir"):
        load_datalist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no volume"):
        load_datalist(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_datalist(tmp_path / "bad.json")


def test_too_few_subjects(folder):
    items = [i for i in load_datalist(folder) if i["subject"] == "sub-01"]
    with pytest.raises(ValueError, match="at least 2 subjects.*found 1"):
        split_subjects(items)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_subjects(load_datalist(folder), 1.0)
    with pytest.raises(ValueError, match="label maps only"):
        split_subjects([*items, {"image": "l", "subject": "l", "weight": 1, "labels": True, "split": "validation"}])
