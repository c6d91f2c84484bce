"""A packed bundle runs where this repository is not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_nets.bundle.pack import bundle_files, main, pack
from custom_nets.utils.record import file_record
from tests.bundles.runner import REPOSITORY, newcomer

HOME = "/".join(["", "home", ""])  # put together: a search for folders of one machine finds none here
ALONE = """
import runpy, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
import custom_nets
print("custom_nets is", custom_nets.__file__)
sys.argv[0] = "monai.bundle"
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""
CASES = {  # bundle -> options, what it writes
    "arssr": (["--scale", "2"], "scan_arssr.nii.gz", (24, 24, 16)),
    "transmrsr": ([], "scan_transmrsr.nii.gz", (12, 12, 32)),
    "most_dsa": (["--frames_between", "1"], "run_most_dsa.npz", (5, 32, 32)),
}


@pytest.mark.parametrize("bundle", CASES)
@pytest.mark.slow
def test_runs_from_the_unpacked_folder_alone(bundle, save_nifti, tmp_path):
    if not (REPOSITORY / "bundles" / bundle / "models" / "model.pt").is_file():
        pytest.skip("no weights in models/")
    options, result, shape = CASES[bundle]
    random = np.random.default_rng(0)
    if bundle == "most_dsa":
        scan = tmp_path / "run.npz"
        np.savez(scan, frames=random.integers(0, 255, (3, 32, 32), dtype=np.uint8), times_s=np.arange(3) / 4)
    else:
        scan = save_nifti(random.random((12, 12, 8), dtype=np.float32), np.diag([1.0, 1.0, 4.0, 1.0]))
    with zipfile.ZipFile(pack(bundle, tmp_path / "packed.zip")) as archive:
        archive.extractall(tmp_path / "empty")
    folder = tmp_path / "empty" / bundle
    assert [path.name for path in (tmp_path / "empty").iterdir()] == [bundle]

    line = [sys.executable, "-c", ALONE, "run", "--config_file", "configs/inference.json", "--input", str(scan)]
    line += ["--output_dir", str(tmp_path / "out"), "--preview", "False", "--device", "cpu", *options]
    done = subprocess.run(line, cwd=folder, env=newcomer(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"custom_nets is {folder / 'custom_nets' / '__init__.py'}" in done.stdout
    out = tmp_path / "out" / result
    assert (np.load(out)["frames"] if bundle == "most_dsa" else nib.load(out)).shape == shape
    record = json.loads(out.with_name(out.name.split(".")[0] + ".json").read_text())
    assert (folder / record["checkpoint"]["file"]).resolve() == folder / "models" / "model.pt", "its own weights"


def test_the_manifest_says_what_is_in_it(tmp_path, capsys):
    main(["arssr", "--output", str(tmp_path / "a.zip")])
    said = capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    folder = tmp_path / "arssr"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert f"{len(names)} files" in said and file_record(tmp_path / "a.zip")["sha256"] in said
    assert {f"arssr/{name}" for name in manifest["files"]} | {"arssr/manifest.json"} == set(names)
    for name, entry in manifest["files"].items():
        assert file_record(folder / name) == entry
    assert manifest["version"] == json.loads((folder / "configs" / "metadata.json").read_text())["version"]
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(\+changes)?", manifest["git_revision"])
    needed = {"LICENSE", "configs/inference.json", "docs/README.md", "models/model.pt", "custom_nets/__init__.py"}
    assert needed <= set(manifest["files"])
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name or "/eval/" in name]


@pytest.fixture
def copy(tmp_path) -> Path:
    """The smallest bundle, to be spoilt."""
    source = REPOSITORY / "bundles" / "most_dsa"
    return Path(shutil.copytree(source, tmp_path / "most_dsa", ignore=shutil.ignore_patterns("eval", "data")))


def test_same_files_same_zip(copy, tmp_path):
    first = pack(str(copy), tmp_path / "first.zip").read_bytes()
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    (copy / "eval").mkdir()
    (copy / "eval" / "left.json").write_text("{}")
    (copy / "configs" / ".hidden").write_text("x")
    assert pack(str(copy), tmp_path / "second.zip").read_bytes() == first
    copy.rename(tmp_path / "renamed")  # its configs know its name
    assert pack(str(tmp_path / "renamed"), tmp_path / "third.zip").read_bytes() == first


def _large(copy: Path) -> None:
    with open(copy / "models" / "model.pt", "wb") as file:
        file.truncate(26 * 2**20)


def _personal(copy: Path) -> None:
    path = copy / "docs" / "README.md"
    path.write_text(path.read_text() + f"\nThe data lie in {HOME}somebody/data.\n")


MISTAKES = {
    "too large": (_large, r"model.pt has 26 MiB, .* list it in large_files.yml"),
    "personal path": (_personal, rf"docs/README.md, line \d+, names a folder of one machine \({HOME}\)"),
    "no licence": (lambda copy: (copy / "LICENSE").unlink(), "is no bundle that can be handed over: it lacks LICENSE"),
    "no weights": (lambda copy: (copy / "models" / "model.pt").unlink(), r"it lacks models/model.pt \(or large_files"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_what_must_not_be_handed_over(kind, copy, tmp_path):
    spoil, message = MISTAKES[kind]
    spoil(copy)
    with pytest.raises(SystemExit, match=message):
        main([str(copy), "--output", str(tmp_path / "out" / "x.zip")])
    assert not (tmp_path / "out").exists()


def test_large_files_that_are_listed_stay_out(copy):
    _large(copy)
    (copy / "large_files.yml").write_text(
        "large_files:\n  - path: models/model.pt\n    url: https://example.org/m.pt\n"
    )
    assert {"large_files.yml", "configs/inference.json"} <= set(files := bundle_files(copy))
    assert "models/model.pt" not in files


def test_no_such_bundle(tmp_path):
    for name, message in (("nothing", "bundle 'nothing' not found"), ("a/b", "a/b is no folder")):
        with pytest.raises(SystemExit, match=message):
            main([name])
