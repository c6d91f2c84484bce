"""The registry: what is put in comes back and runs with its own weights; everything else is refused in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from custom_nets.bundle.folder import WEIGHTS, copy_bundle
from custom_nets.checkpoints import build_network, load_network, save_checkpoint
from custom_nets.tracking import registry
from custom_nets.tracking.client import experiment_id, open_client, sqlite_uri
from custom_nets.utils import root_cause
from custom_nets.utils.record import file_record

pytest.importorskip("mlflow")

SHIPPED = Path(__file__).parents[2] / "bundles" / "arssr"
ARCH = {"name": "ResidualArSSR", "feature_dim": 4, "num_features": 4, "growth": 4, "num_blocks": 1, "num_layers": 1,
        "decoder_width": 8, "decoder_depth": 2}  # fmt: skip


def make_bundle(folder: Path, seed: int) -> Path:
    """A bundle under a name of its own, with weights that no other has."""
    torch.manual_seed(seed)
    network = build_network(ARCH)
    torch.nn.init.normal_(network.decoder[-1].weight)  # an untrained one corrects nothing
    save_checkpoint(folder / "weights.pt", network, ARCH)
    return copy_bundle(SHIPPED, folder / "weights.pt", folder / f"bundle_{seed}")


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> tuple[Path, str]:
    """A folder with two bundles, both registered as "arssr"; the address of the registry."""
    folder = tmp_path_factory.mktemp("registry")
    uri = sqlite_uri(folder)
    for seed in (1, 2):
        version = registry.register(str(make_bundle(folder, seed)), "arssr", uri)
        assert str(version.version) == str(seed)
    return folder, uri


def said(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        call(*arguments, **named)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def run_inference(bundle: Path, scan: Path, output: Path) -> tuple[np.ndarray, dict]:
    import nibabel as nib

    made = ConfigWorkflow(
        str(bundle / "configs" / "inference.json"),
        workflow_type="inference",
        logging_file=False,
        input=str(scan),
        output_dir=str(output),
        scale=2,
        device="cpu",
        preview=False,
        progress=False,
    )
    made.initialize()
    made.run()
    record = json.loads(next(output.glob("*.json")).read_text())
    return np.asarray(nib.load(next(output.glob("*.nii.gz"))).dataobj), record


def test_a_fetched_bundle_uses_its_own_weights(registered, tmp_path, save_nifti):
    folder, uri = registered
    assert registry.promote("arssr", 2, tracking_uri=uri) is None
    fetched = {n: registry.fetch("arssr", tmp_path / str(n), version=n, tracking_uri=uri) for n in (1, 2)}
    fetched[3] = registry.fetch("arssr", tmp_path / "3", tracking_uri=uri)  # the production one
    assert fetched[1] == tmp_path / "1" / "arssr"
    scan = save_nifti(np.random.default_rng(0).random((9, 9, 9), np.float32))
    images = {}
    for number, bundle in fetched.items():
        images[number], record = run_inference(bundle, scan, tmp_path / f"out {number}")
        assert record["checkpoint"]["sha256"] == file_record(folder / f"bundle_{min(number, 2)}" / WEIGHTS)["sha256"]
    assert not np.allclose(images[1], images[2], atol=1e-3)
    np.testing.assert_array_equal(images[2], images[3])


def test_configs_that_do_not_know_their_file_find_the_weights_too(registered, tmp_path):
    folder, uri = registered

    def checkpoint(bundle: Path) -> Path:
        parser = ConfigParser()  # as MONAI Label and notebooks do
        parser.read_config(bundle / "configs" / "inference.json")
        return Path(parser.get_parsed_content("checkpoint"))

    place = tmp_path / 'it\'s a "pläce"'
    bundle = registry.fetch("arssr", place, version=1, tracking_uri=uri)
    assert checkpoint(bundle) == bundle / WEIGHTS
    # from one place to another: it is found where it is, or not at all
    moved = bundle.rename(tmp_path / "moved")
    with pytest.raises(RuntimeError) as caught:
        checkpoint(moved)
    assert "is no longer in" in str(root_cause(caught.value))
    made = ConfigWorkflow(str(moved / "configs" / "inference.json"), workflow_type="inference", logging_file=False)
    made.initialize()
    theirs, own = made.network_def.state_dict(), load_network(folder / "bundle_1" / WEIGHTS).state_dict()
    assert all(torch.equal(theirs[key], own[key]) for key in own)
    # and may be registered again
    assert registry.register(str(moved), "again", uri).run_id
    again = registry.fetch("again", tmp_path, version=1, tracking_uri=uri)
    assert checkpoint(again) == again / WEIGHTS


def test_the_record_says_where_it_came_from(registered, tmp_path):
    folder, uri = registered
    registry.promote("arssr", 1, "best", uri)
    bundle = registry.fetch("arssr", tmp_path, alias="best", tracking_uri=uri)
    record = json.loads((bundle / "registered.json").read_text())
    assert (record["name"], str(record["version"]), record["tracking_uri"]) == ("arssr", "1", uri)
    run = open_client(uri).get_run(record["run_id"])
    assert run.info.status == "FINISHED" and run.info.run_name == record["run_name"]
    assert run.data.tags["source"] == "bundle_1"  # no folder: that may be somebody's name
    written = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert set(record["sha256"]) == written - {"registered.json"}
    assert record["sha256"][WEIGHTS] == file_record(bundle / WEIGHTS)["sha256"]
    assert [path.name for path in tmp_path.iterdir()] == ["arssr"]  # nothing is left beside it
    # a second time it is not replaced
    before = (bundle / "registered.json").read_text()
    assert "is there already" in said(registry.fetch, "arssr", tmp_path, alias="best", tracking_uri=uri)
    assert (bundle / "registered.json").read_text() == before


def test_promote_tells_what_was_there(registered):
    _, uri = registered
    assert registry.promote("arssr", 1, "candidate", uri) is None
    assert registry.promote("arssr", "2", "candidate", uri) == "1"
    rows = {row["version"]: row for row in registry.list_versions("arssr", uri)}
    assert "candidate" in rows["2"]["aliases"] and "candidate" not in rows["1"]["aliases"]


def test_a_training_is_registered_from_its_folder_or_by_its_id(registered, tmp_path):
    _, uri = registered
    client = open_client(sqlite_uri(tmp_path), create=True)

    def run_with(bundle: Path | None, status: str | None) -> str:
        run_id = client.create_run(experiment_id(client, "train")).info.run_id
        if bundle is not None:
            client.log_artifacts(run_id, str(bundle), "bundle")
            client.set_tag(run_id, "weights_sha256", file_record(bundle / WEIGHTS)["sha256"])
        if status:
            client.set_terminated(run_id, status)
        return run_id

    bundle = make_bundle(tmp_path, 3)
    run_id = run_with(bundle, "FINISHED")
    version = registry.register(str(tmp_path), "tried")  # the data base there is the registry, too
    assert version.run_id == run_id
    assert f"is version {version.version} of 'tried' already" in said(registry.register, str(tmp_path), "tried")
    moved = registry.register(str(tmp_path), "moved", uri)  # from there into another one
    assert open_client(uri).get_run(moved.run_id).data.tags["source_run_id"] == run_id
    fetched = registry.fetch("moved", tmp_path / "fetched", version=1, tracking_uri=uri)
    assert file_record(fetched / WEIGHTS) == file_record(bundle / WEIGHTS)

    here = sqlite_uri(tmp_path)
    for status in ("FAILED", None):
        other = run_with(bundle, status)
        assert f"is {status or 'RUNNING'}, only a FINISHED run" in said(registry.register, other, "tried", here)
    assert "holds no bundle" in said(registry.register, run_with(None, "FINISHED"), "tried", here)
    assert "no run " in said(registry.register, "0" * 32, "tried", here)
    # whoever tampers with what is kept is found out
    kept = next((tmp_path / "mlruns").glob(f"{run_id}/artifacts/bundle/{WEIGHTS}"))
    shutil.copyfile(make_bundle(tmp_path, 4) / WEIGHTS, kept)
    assert "not those that were registered" in said(
        registry.fetch, "tried", tmp_path / "x", version=1, tracking_uri=here
    )
    assert list((tmp_path / "x").iterdir()) == []


def test_folders_that_are_no_bundle_are_refused(registered, tmp_path):
    _, uri = registered
    assert "holds no mlruns.db" in said(registry.register, str(tmp_path), "arssr", uri)
    bundle = make_bundle(tmp_path, 5)
    weights = bundle / WEIGHTS
    good = weights.read_bytes()
    torch.save(torch.nn.Linear(2, 2), weights)  # a pickled module
    assert "not a checkpoint of plain tensors" in said(registry.register, str(bundle), "arssr", uri)
    torch.save({"weight": torch.zeros(2)}, weights)
    assert "not a bundle checkpoint" in said(registry.register, str(bundle), "arssr", uri)
    weights.unlink()
    assert "has no weights" in said(registry.register, str(bundle), "arssr", uri)
    weights.write_bytes(good)
    (bundle / "configs" / "metadata.json").unlink()
    assert "configs/metadata.json missing" in said(registry.register, str(bundle), "arssr", uri)
    assert len(registry.list_versions("arssr", uri)) == 2


def test_names_versions_aliases_and_addresses_that_do_not_exist(registered, tmp_path, monkeypatch):
    folder, uri = registered
    where = {"output_dir": tmp_path, "tracking_uri": uri}
    assert "there is no 'arsr'" in said(registry.fetch, "arsr", **where)
    assert "registered: " in (message := said(registry.promote, "arsr", 1, tracking_uri=uri)) and " arssr" in message
    assert "has no version 9; there are 2" in said(registry.fetch, "arssr", version=9, **where)
    assert "has no version 9" in said(registry.promote, "arssr", 9, tracking_uri=uri)
    assert "promote --name arssr --version N --alias shining" in said(registry.fetch, "arssr", alias="shining", **where)
    assert "not both" in said(registry.fetch, "arssr", alias="a", version=1, **where)
    assert "cannot be a name" in said(registry.fetch, "../arssr", **where)
    assert "no MLflow data base at" in said(registry.list_versions, None, f"sqlite:///{tmp_path}/none.db")
    assert not list(tmp_path.iterdir())
    assert "plain folders" in said(registry.list_versions, None, str(folder))
    assert "no MLflow server answers at http://localhost:9:" in said(
        registry.list_versions, None, "http://me:secret@localhost:9"
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "Give --tracking_uri" in said(registry.list_versions)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert len(registry.list_versions("arssr")) == 2
    assert "leave one of them out" in said(registry.list_versions, None, "sqlite:///other.db")


def test_command_line(registered, tmp_path, capsys):
    folder, uri = registered
    registry.main(["list", "--tracking_uri", uri])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["name", "version", "aliases"] and any(row.startswith("arssr") for row in rows)
    registry.main(["promote", "--name", "arssr", "--version", "1", "--alias", "line", "--tracking_uri", uri])
    assert "arssr version 1 is 'line' now" in capsys.readouterr().out
    registry.main(["fetch", "--name", "arssr", "--alias", "line", "--output_dir", str(tmp_path), "--tracking_uri", uri])
    assert f"--config_file {tmp_path}/arssr/configs/inference.json" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: there is no 'nobody'"):
        registry.main(["fetch", "--name", "nobody", "--output_dir", str(tmp_path), "--tracking_uri", uri])
    with pytest.raises(SystemExit, match=r"error: .*is neither the id of a run"):
        registry.main(["register", "nowhere", "--name", "arssr", "--tracking_uri", uri])


# ---- what is fetched is what was registered ----


def bundle_artifacts(version: Any, uri: str) -> Path:
    """Where the registry keeps the files of a version."""
    run = open_client(uri).get_run(version.run_id)
    return Path(run.info.artifact_uri.removeprefix("file://")) / "bundle"


@pytest.mark.parametrize("change", ["config", "docs", "new file", "weights"])
def test_a_bundle_that_was_changed_after_registering_is_not_fetched(change, tmp_path):
    """A config is code."""
    uri = sqlite_uri(tmp_path)
    kept = bundle_artifacts(registry.register(str(make_bundle(tmp_path, 1)), "arssr", uri), uri)
    registry.fetch("arssr", tmp_path / "before", version=1, tracking_uri=uri)
    if change == "weights":
        save_checkpoint(kept / WEIGHTS, build_network(ARCH), ARCH)
    else:
        name = {"config": "configs/inference.json", "docs": "docs/README.md", "new file": "configs/more.json"}[change]
        with open(kept / name, "a") as file:
            file.write("{}" if change == "new file" else "\n")
    message = said(registry.fetch, "arssr", tmp_path / "out", version=1, tracking_uri=uri, allow_unverified=True)
    assert "are not those that were registered" in message
    assert list((tmp_path / "out").iterdir()) == []


def test_a_version_whose_configs_nobody_hashed_is_fetched_only_if_asked(tmp_path):
    """As version 0.1 registered them."""
    uri = sqlite_uri(tmp_path)
    registry.register(str(make_bundle(tmp_path, 1)), "arssr", uri)
    open_client(uri).delete_model_version_tag("arssr", "1", "files_sha256")
    message = said(registry.fetch, "arssr", tmp_path / "out", version=1, tracking_uri=uri)
    assert "--allow_unverified" in message
    assert registry.fetch("arssr", tmp_path / "out", version=1, tracking_uri=uri, allow_unverified=True).is_dir()


def test_a_run_of_a_command_that_was_killed_is_closed(tmp_path):
    import subprocess
    import sys

    from custom_nets.utils.files import process_mark

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    uri = sqlite_uri(tmp_path)
    client = open_client(uri, create=True)
    mark = process_mark().split("-")[0]
    tags = [{"process": f"{mark}-{ended.pid}"}, {"process": process_mark()}, {"process": "01234567-1"}]
    runs = [client.create_run(experiment_id(client, "registered_bundles"), tags=one).info.run_id for one in tags]
    registry.register(str(make_bundle(tmp_path, 1)), "arssr", uri)
    assert [client.get_run(run).info.status for run in runs] == ["KILLED", "RUNNING", "RUNNING"]
