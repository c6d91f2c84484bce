"""What the README shows must run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
# other commands have these options
OTHER_COMMANDS = {"standalone", "nproc_per_node", "backend", "json", "centroids", "name", "version"}
OTHER_COMMANDS |= {"format", "output", "shape", "option"}


def test_python_example_runs(tmp_path, monkeypatch, head, save_nifti):
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    weights = str(ROOT / "bundles" / "arssr" / "models" / "model.pt")
    save_nifti(head[0, ::2, ::2, ::4].numpy(), np.diag([2.0, 2.0, 4.0, 1.0]), "SCAN.nii.gz")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("bundles/arssr/models/model.pt", weights), "README.md", "exec"), {})
    assert (tmp_path / "OUT" / "SCAN_arssr.nii.gz").is_file()


@pytest.mark.parametrize(
    "option",
    sorted(set(re.findall(r"--([a-z_]+)\b(?!-)", README)) - OTHER_COMMANDS),
)
def test_options_exist(option):
    known = {"config_file", "tracking"}
    for config in (ROOT / "bundles").glob("*/configs/*.json"):
        content = json.loads(config.read_text())
        known |= content.keys() | content.get("configs", {}).keys()  # those of tracking settings
    assert option in known


def test_named_files_exist():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
