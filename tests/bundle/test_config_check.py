"""check_config: what the bundle runner takes without a word, refused with a suggestion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

CHECK = "$custom_nets.bundle.check_config()"
BASE = {
    "imports": ["$import custom_nets"],
    "output_dir": "out",
    "epochs": 3,
    "amp": False,
    "kind": "best",
    "net": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2},
    "train": {"trainer": {"max_epochs": "@epochs"}, "handlers": []},
    "masks": {},
    "degradations": {"iso2": [2, 2, 2]},
    "initialize": [CHECK],
    "run": ["$print('ran', @epochs, @amp)"],
}
OVERLAY = {"train#trainer#extra": 1, "+net": {"bias": False}}
TRACKING = {
    "handlers_id": {"trainer": {"id": "train::trainer", "handlers": "train::handlers"}},
    "configs": {"run_name": "x", "save_execute_config": False, "trainer": {}},
}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, content in {"base": BASE, "overlay": OVERLAY, "mlflow": TRACKING, "metadata": {"version": "1"}}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def start(configs: Path, *files: str, **override):
    workflow = ConfigWorkflow([str(configs / f"{f}.json") for f in files or ("base",)], workflow_type=None, **override)
    workflow.initialize()
    return workflow


@pytest.mark.parametrize(
    "override",
    [
        {},
        {"masks": {"case": "m.nii.gz"}},
        {"degradations": {"mine": [1, 1, 3]}},
        {"epochs": 5},
        {"amp": True},
        {"net#bias": False},
        {"train::trainer::max_epochs": 1},
        {"epochs": "$1 + 1"},
    ],
)
def test_known_overrides_pass(configs, override):
    start(configs, **override)


def test_overlays_and_tracking_add_ids(configs):
    start(configs, "base", "overlay")
    start(configs, tracking=str(configs / "mlflow.json"), run_name="mine")


def test_an_id_that_something_refers_to_is_known(configs):
    start(configs, width=4, **{"net#in_features": "@width"})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"epoch": 5}, ["'epoch'", "did you mean 'epochs'"]),
        ({"zzz": 5}, ["'zzz'", "epochs", "amp"]),
        ({"train::trainer::max_epoch": 5}, ["'train::trainer::max_epoch'", "'train::trainer::max_epochs'"]),
        ({"net#in_feature": 5}, ["argument of torch.nn.Linear", "'net::in_features'"]),
        ({"amp": "false"}, ["amp", "write False"]),
        ({"amp": "None"}, ["amp", "write None"]),
        ({"net#bias": "true"}, ["net::bias", "write True"]),
        ({"epochs": "many"}, ["epochs", "number", "'many'"]),
        ({"epochs": True}, ["epochs", "number", "missing"]),
        ({"amp": -1}, ["amp must be True or False, got -1"]),
        ({"amp": [1, 2]}, ["amp must be True or False"]),
        ({"kind": "none"}, ["kind must be a word such as 'best', got 'none'"]),
        ({"run_name": "tracking is off"}, ["'run_name'"]),
        ({"output_dir": ""}, ["output_dir is empty"]),
    ],
)
def test_mistakes_are_refused(configs, override, words):
    with pytest.raises(SystemExit) as caught:
        start(configs, **override)
    for word in words:
        assert word in str(caught.value)


def test_without_a_workflow_nothing_is_checked(configs):
    parser = ConfigParser({**BASE, "unknown": "false"})
    assert parser.get_parsed_content("initialize") == [None]


@pytest.mark.slow
def test_command_line_shows_one_line(configs):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file"]
        return subprocess.run([*command, str(configs / "base.json"), *arguments], capture_output=True, text=True)

    wrong = run("--epoch", "1")
    assert wrong.returncode == 1
    assert wrong.stderr.strip().splitlines()[-1] == "error: 'epoch' is not an id of this config; did you mean 'epochs'?"
    assert "Traceback" not in wrong.stderr and "ran" not in wrong.stdout
    # an error that the package raises on purpose comes without its traceback too
    late = run("--run", "[\"$custom_nets.bundle_root('nowhere')\"]")
    assert late.returncode == 1
    assert "error: bundle 'nowhere' not found" in late.stderr and "Traceback" not in late.stderr
