"""Laying data sets out: splits, links, crops and the list, on tiny fake folders."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_nets.apps.prepare_data import (
    HCP_SPLIT,
    OPEN_VOLUMES,
    _by_order,
    crop_to_foreground,
    largest_component,
    main,
    prepare_hcp,
    prepare_ixi,
)
from custom_nets.data import load_datalist, split_subjects


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())
    return path


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = nib.MGHImage if path.suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(array.astype(np.float32), np.eye(4) if affine is None else affine), path)


def box(shape=(20, 22, 24)) -> np.ndarray:
    array = np.zeros(shape)
    array[8:12, 8:14, 9:15] = np.random.RandomState(0).uniform(50, 100, (4, 6, 6))
    return array


def test_hcp_split_is_the_published_one():
    names = [f"{100000 + i}" for i in range(1113)]
    splits = _by_order(names, HCP_SPLIT)
    assert {name: list(splits.values()).count(name) for name in HCP_SPLIT} == HCP_SPLIT
    assert [splits[names[i]] for i in (0, 779, 780, 890, 891, 1112)] == [
        "train", "train", "validation", "validation", "test", "test"
    ]  # fmt: skip
    for n in (3, 4, 10, 1000):
        assert set(_by_order(names[:n], HCP_SPLIT).values()) == set(HCP_SPLIT)


def test_hcp_folders(tmp_path, capsys):
    for i in range(6):
        touch(tmp_path / f"src/{100307 + i}/T1w/T1w_acpc_dc_restore.nii.gz")
        touch(tmp_path / f"src/{100307 + i}/T1w/T1w_acpc_dc_restore_brain.nii.gz")
    touch(tmp_path / "src/readme/T1w/T1w_acpc_dc_restore_brain.nii.gz")
    main(["hcp", str(tmp_path / "src"), str(tmp_path / "dst")])
    assert "6 volumes (4 train, 1 validation, 1 test)" in capsys.readouterr().out
    items = load_datalist(tmp_path / "dst")
    assert [item["subject"] for item in items] == [str(100307 + i) for i in range(6)]
    assert Path(items[0]["image"]).read_bytes() == b"T1w_acpc_dc_restore_brain.nii.gz"
    training, validation = split_subjects(items)
    assert (len(training), len(validation)) == (4, 1)


def test_hcp_flat_files_are_copied(tmp_path):
    for i in range(3):
        touch(tmp_path / f"src/{100307 + i}_3T_T1w.nii.gz")
    prepare_hcp(tmp_path / "src", tmp_path / "dst", copy=True)
    assert not (tmp_path / "dst/train/100307.nii.gz").is_symlink()


def test_ixi(tmp_path):
    for i in range(20):
        touch(tmp_path / f"src/IXI-T1/IXI{i + 2:03d}-Guys-0828-T1.nii.gz")
        touch(tmp_path / f"src/IXI-T2/IXI{i + 2:03d}-Guys-0828-T2.nii.gz")
    items = prepare_ixi(tmp_path / "src", tmp_path / "dst", "T2")
    assert [item["split"] for item in items] == (["train"] * 8 + ["validation", "test"]) * 2
    assert (tmp_path / "dst/train/IXI002.nii.gz").read_bytes().endswith(b"T2.nii.gz")


@pytest.mark.parametrize(("dataset", "words"), [("ixi", "IXI002"), ("hcp", "SUBJECT/T1w"), ("open", "t1_colin27")])
def test_nothing_found_is_said(tmp_path, dataset, words):
    with pytest.raises(SystemExit, match=words):
        main([dataset, str(tmp_path), str(tmp_path / "dst")])
    with pytest.raises(SystemExit, match="not a folder"):
        main([dataset, str(tmp_path / "nowhere"), str(tmp_path / "dst")])
    assert not (tmp_path / "dst").exists()


def test_crop_keeps_the_place_in_the_world():
    affine = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1.0]])
    array = box()
    cropped, moved = crop_to_foreground(array, affine, margin=2)
    assert cropped.shape == (8, 10, 10)
    inside, before = np.argwhere(cropped == array.max())[0], np.argwhere(array == array.max())[0]
    np.testing.assert_allclose(moved @ [*inside, 1], affine @ [*before, 1])


def test_largest_component_drops_spheres_and_fills_holes():
    mask = np.zeros((20, 20, 20), bool)
    mask[2:12, 2:12, 2:12] = True
    mask[6, 6, 6] = False
    mask[16:19, 16:19, 16:19] = True
    kept = largest_component(mask)
    assert kept.sum() == 1000 and kept[6, 6, 6]


def test_open_subjects(tmp_path, write_dicom_series, blob_volume, capsys):
    source = tmp_path / "src"
    spheres = box()
    spheres[0:2, 0:2, 0:2] = 90
    for volume in OPEN_VOLUMES:
        if not volume.source.endswith(".tar.xz"):
            write(source / volume.source, spheres if volume.name == "nii2mesh" else box())
    affine = np.diag([0.7, 0.7, 0.7, 1.0])
    head = blob_volume((20, 24, 16), affine)[0].numpy()
    write_dicom_series(tmp_path / "dicoms", head, affine)
    archive = source / "t1_studyforrest_dicom/dicoms.tar.xz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:xz") as packed:
        packed.add(tmp_path / "dicoms", "dicoms")
    labels = np.where(box() > 0, 17, 0)
    write(source / "labels_synthseg20/training_seg_07.nii.bz2", labels)

    main(["open", str(source), str(tmp_path / "dst")])
    assert "13 volumes (12 train, 1 validation, 0 test)" in capsys.readouterr().out
    entries = json.loads((tmp_path / "dst/datalist.json").read_text())
    assert all(entry["licence"] and entry["source"] for entry in entries)
    items = {Path(item["image"]).name.split(".")[0]: item for item in load_datalist(tmp_path / "dst")}
    assert items["labels07"]["labels"] and items["labels07"]["weight"] == 0.08
    # all scans of one person go together
    assert items["arc_t2"]["subject"] == items["stroke_flair"]["subject"]
    training, validation = split_subjects(list(items.values()))
    assert len(training) == 12 and [item["subject"] for item in validation] == ["niivue"]

    assert nib.load(items["nii2mesh"]["image"]).shape == (16, 18, 18)
    assert nib.load(items["colin27"]["image"]).shape == (16, 18, 18)
    fine, coarse = (nib.load(items[name]["image"]) for name in ("studyforrest", "studyforrest_1mm"))
    np.testing.assert_allclose(fine.header.get_zooms(), 0.7, rtol=1e-5)
    np.testing.assert_allclose(
        coarse.header.get_zooms(), np.array([20, 24, 16]) * 0.7 / np.round([14, 16.8, 11.2]), 1e-4
    )
    assert nib.load(items["labels07"]["image"]).get_data_dtype() == np.int16


def test_missing_sets_are_left_out_and_named(tmp_path, capsys):
    write(tmp_path / "src/t1_colin27/ch2.nii.gz", box())
    main(["open", str(tmp_path / "src"), str(tmp_path / "dst")])
    said = capsys.readouterr().out
    assert "colin27: written" in said and "niivue: left out" in said
