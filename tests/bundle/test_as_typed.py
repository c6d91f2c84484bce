"""Paths and names reach the program as they were typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from custom_nets.bundle import as_typed
from custom_nets.bundle.as_typed import as_text, is_path_or_name, text_of, typed_options
from custom_nets.bundle.workflow import merged_config

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
CONFIG = {
    "imports": ["$import custom_nets"],
    "bundle_root": "$'/b'",
    "dataset_dir": "",
    "input": "@dataset_dir",
    "output_dir": "$@bundle_root + '/eval'",
    "output_postfix": "ours",
    "like": None,
    "checkpoint": "$@bundle_root + '/models/model.pt'",
    "cases": None,
    "spacing": None,
    "noise": "moderate",
    "files": {"found": "$[str(@input)]", "saver": {"output_dir": "@output_dir", "postfix": "$@output_postfix + '_x'"}},
    "initialize": ["$custom_nets.bundle.check_config()", "$[@input, @output_dir]"],
}
ODD = ["data#2", "a#b#c.nii.gz", "2020_01_02", "1e3", "None", "True", "0x10", "[a]", "{x}", "@home", "50%", "null"]
ODD += ["$x_o", "$1+1", "~root"]
ODD += ['it\'s "#1"', "ü#\n", "a@#b"]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch):
    """``typed("--input", "data#2")``: the parser of a run that was started with these arguments."""
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "base.json").write_text(json.dumps(CONFIG))
    (configs / "metadata.json").write_text(json.dumps({"version": "1"}))
    monkeypatch.chdir(tmp_path)

    def start(*arguments: str) -> ConfigParser:
        from fire.parser import DefaultParseValue

        monkeypatch.setattr(as_typed, "_typed_on_command_line", lambda: typed_options(["run", *arguments]))
        given = {name: DefaultParseValue(text) for name, text in typed_options(arguments).items() if text is not None}
        override = {name: value for name, value in given.items() if value is not None}  # as MONAI's runner does
        workflow = ConfigWorkflow(str(configs / "base.json"), workflow_type=None, **override)
        workflow.initialize()
        return workflow.parser

    return start


@pytest.mark.parametrize("text", ODD)
def test_every_path_and_name_is_what_was_typed(typed, text: str) -> None:
    options = {name: text for name in ("dataset_dir", "output_dir", "output_postfix", "checkpoint")}
    parser = typed(*(part for name, value in options.items() for part in (f"--{name}", value)))
    for name in (*options, "input"):
        assert parser.get_parsed_content(name) == text
    assert parser.get_parsed_content("files") == {
        "found": [text],
        "saver": {"output_dir": text, "postfix": f"{text}_x"},
    }


def test_dataset_dir_reaches_input_and_equals_signs_and_dashes_are_read(typed) -> None:
    parser = typed("--dataset_dir=data#2", "--output-dir", "2024_05")
    assert (parser.get_parsed_content("input"), parser.get_parsed_content("output_dir")) == ("data#2", "2024_05")


def test_a_null_option_can_be_given_none_unless_such_a_file_is_there(typed, tmp_path: Path) -> None:
    assert typed("--like", "None").get_parsed_content("like") is None
    (tmp_path / "None").touch()
    assert typed("--like", "None").get_parsed_content("like") == "None"


def test_none_reaches_an_option_that_is_not_null(typed) -> None:
    parser = typed("--noise", "None", "--files#saver#postfix", "None")
    assert parser["noise"] is None and parser["files#saver#postfix"] is None
    assert typed("--nose", "None")["noise"] == "moderate"


def test_lists_and_quoted_texts_hold_names_as_typed(typed) -> None:
    assert typed("--cases", "['a#1', b, 2020_01]").get_parsed_content("cases") == ["a#1", "b", "2020_01"]
    nested = typed("--cases", '[{"image": "a#1", "n": 2}]').get_parsed_content("cases")
    assert nested == [{"image": "a#1", "n": 2}]
    assert typed("--input", "'data#2'").get_parsed_content("input") == "data#2"


def test_the_configs_own_language_stays(typed, tmp_path: Path) -> None:
    parser = typed("--output_dir", "$@bundle_root + '/x'", "--input", "@output_dir")
    assert parser.get_parsed_content("input") == "/b/x"
    (tmp_path / "$home").mkdir()
    assert typed("--input", "$home").get_parsed_content("input") == "$home"


def test_a_missing_value_is_said(typed) -> None:
    with pytest.raises(SystemExit, match="value of --output_dir is missing"):
        typed("--input", "x", "--output_dir")


def test_python_gives_the_same(tmp_path: Path, typed, monkeypatch) -> None:
    typed()
    monkeypatch.setattr(as_typed, "_typed_on_command_line", dict)
    base = str(tmp_path / "configs" / "base.json")
    workflow = ConfigWorkflow(base, workflow_type=None, input="data#2", output_postfix=7, cases=["a#1"])
    workflow.initialize()
    found = [workflow.parser.get_parsed_content(name) for name in ("input", "output_postfix", "cases")]
    assert found == ["data#2", "7", ["a#1"]]
    self = workflow  # noqa: F841  # merged_config looks for the workflow in the callers' frames
    assert merged_config()["input"] == "data#2"  # a record shows what was typed


@pytest.mark.parametrize("text", ODD)
def test_as_text_is_undone(text: str) -> None:
    assert text_of(as_text(text)) == text
    assert ConfigParser({"x": as_text(text)}).get_parsed_content("x") == text


def test_every_path_of_every_bundle_is_known() -> None:
    """Whatever is used as a path or a name in a bundle's config is one here."""
    known = {"input", "dataset_dir", "output_dir", "output_postfix", "checkpoint", "like", "cases", "datalist"}
    known |= {"finetune", "prior", "series_uid", "tracking_uri", "experiment_name", "run_name", "bundle_root"}
    assert all(map(is_path_or_name, known))
    assert not any(map(is_path_or_name, ("spacing", "scale", "times_s", "precision", "batch_size", "profile", "fps")))
    for file in sorted(BUNDLES.glob("*/configs/*.json")):
        content = json.loads(file.read_text())
        if file.stem == "metadata":
            continue
        for name, value in {**content, **content.get("configs", {})}.items():
            if isinstance(value, str) and "/" in value.split("'")[-2:][0] and not name.startswith("_"):
                assert is_path_or_name(name), f"{file}: {name}"


def test_a_request_of_the_server_reaches_the_image_that_it_names(tmp_path: Path, save_nifti) -> None:
    """Two studies side by side; the one with ``#`` in its path is the one that is computed, into a folder like that."""
    import nibabel as nib
    import numpy as np

    from monailabel_app.lib.bundles import find_bundles, run_inference

    for number, folder in enumerate(("data", "data#2"), 1):
        save_nifti(number * np.arange(600.0).reshape(10, 10, 6), name=f"{folder}/scan.nii.gz")
    bundle = find_bundles(names=["arssr"])["arssr"]
    file, record = run_inference(bundle, tmp_path / "data#2" / "scan.nii.gz", tmp_path / "out#1", {"scale": 1.5})
    assert file.parent == tmp_path / "out#1" and record["case"] == "scan"
    assert float(np.asarray(nib.load(file).dataobj).max()) > 1000
