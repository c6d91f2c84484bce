"""What the README shows must run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(path.read_text() for path in DOCUMENTS)


def test_python_example_runs(tmp_path, monkeypatch, head, save_nifti):
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    weights = str(ROOT / "bundles" / "arssr" / "models" / "model.pt")
    save_nifti(head[0, ::2, ::2, ::4].numpy(), np.diag([2.0, 2.0, 4.0, 1.0]), "SCAN.nii.gz")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("bundles/arssr/models/model.pt", weights), "README.md", "exec"), {})
    assert (tmp_path / "OUT" / "SCAN_arssr.nii.gz").is_file()


COMMANDS = re.findall(r"monai\.bundle run(?:[^\n\\]|\\\n)*", TEXT)  # a backslash at the end goes on


@pytest.mark.parametrize(
    "option",
    sorted({name for line in COMMANDS for name in re.findall(r"--([a-z_]+)\b(?!-)", line)}),
)
def test_options_exist(option):
    known = {"config_file", "tracking"}
    for config in (ROOT / "bundles").glob("*/configs/*.json"):
        content = json.loads(config.read_text())
        known |= content.keys() | content.get("configs", {}).keys()  # those of tracking settings
    assert option in known


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_named_files_exist(document):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        assert link.startswith("http") or (document.parent / link).exists(), link


def test_commands_of_our_own_exist():
    for module in set(re.findall(r"-m ((?:custom_nets|benchmarks|monailabel_app)[\w.]*)", TEXT)):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
