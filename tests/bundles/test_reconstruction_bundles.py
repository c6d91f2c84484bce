"""The bundles that reconstruct a rotational scan, by their own configs: files, record, refusals, rendering again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from custom_nets.data.angiography.acquisition_reader import read_acquisition, write_npz_acquisition
from custom_nets.engines.cases import CasesFailed
from custom_nets.simulation.phantom import PhantomSettings, VesselFlowPhantom
from tests.tools.pages import Page

ROOT = Path(__file__).resolve().parents[2] / "bundles"
SETTINGS = PhantomSettings(
    frames=24, size=(40, 40), pixel_mm=3.6, volume_shape=(24, 22, 20), voxel_mm=3.2, inlets=1, veins=False,
    smallest_radius_mm=1.0, counts=5e4,
)  # fmt: skip
GEOMETRY = ("source_mm", "panel_mm", "column_step_mm", "row_step_mm")
TINY = {
    "tiavox": {"max_epochs": 4},
    "vpal": {"max_epochs": 2, "network_def#levels": 3, "network_def#log2_table": 10, "network_def#dynamic_levels": 2},
    "togs": {"max_epochs": 2, "network_def#num_gaussians": 100},
    "atoms": {"max_epochs": 8, "network_def#injection_s": 2.0},
}


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "head.npz"
    return write_npz_acquisition(VesselFlowPhantom(1, SETTINGS).acquisition(), path)


def run(method: str, scan: Path, output: Path, **overrides) -> None:
    bundle = "tiavox" if method == "atoms" else method
    configs = ROOT / bundle / "configs"
    files = [str(configs / "inference.json"), *([str(configs / "atoms.json")] if method == "atoms" else [])]
    workflow = ConfigWorkflow(
        config_file=files,
        meta_file=str(configs / "metadata.json"),
        workflow_type="inference",
        bundle_root=str(ROOT / bundle),
        input=str(scan),
        output_dir=str(output),
        device="cpu",
        **{"views": 12, "progress": False, **TINY[method], **overrides},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def test_a_page_shows_the_vessels_turning_and_says_nobodys_name(scan_file, tmp_path):
    secret = tmp_path / "Mustermann" / "Erika.npz"
    secret.parent.mkdir()
    shutil.copy(scan_file, secret)
    run("atoms", secret, tmp_path / "out", report=True, num_times=5)
    page = Page(tmp_path / "out" / "Erika.html")
    assert "mustermann" not in page.text.casefold() and "erika" not in page.text.casefold()
    pictures, arrival = page.array("times"), page.array("arrival")
    moving = nib.load(tmp_path / "out" / "Erika_4d.nii.gz").get_fdata()
    assert pictures.shape[:2] == (24, 5) and arrival.shape == (24, *pictures.shape[2:])
    # from the front: the patient's left to the right, as the file's first axis runs, z up
    front = moving.max(1).transpose(2, 1, 0)[:, ::-1]  # [t, z, x]
    left = (pictures.shape[3] - front.shape[2]) / 2
    assert left == int(left), "the middle of the volume is the middle of the picture"
    seen = pictures[0][:, :, int(left) : int(left) + front.shape[2]]
    shown = front > 0.3 * front.max()
    np.testing.assert_allclose(seen[shown], front[shown], atol=0.51 * page.data["arrays"]["times"]["step"])
    times = nib.load(tmp_path / "out" / "Erika_arrival.nii.gz").get_fdata()
    assert arrival.max() <= np.nanmax(times) + page.data["arrays"]["arrival"]["step"]
    for text in ("24 frames of 40 x 40 pixels", "12 of them fitted", "fitted to this scan", "default-src 'none'"):
        assert text in page.text, text


def test_each_fit_is_a_run_in_mlflow_that_names_nobody(scan_file, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    folder = tmp_path / "Mustermann"
    folder.mkdir()
    shutil.copy(scan_file, folder / "Erika.npz")
    (folder / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(CasesFailed, match="1 of 2 cases failed"):
        run(
            "tiavox",
            folder,
            tmp_path / "out",
            tracking=str(ROOT / "tiavox" / "configs" / "mlflow_fit.json"),
            held_out=2,
        )
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/out/mlruns.db")
    experiment = client.get_experiment_by_name("tiavox_fit")
    runs = {run.info.status: run for run in client.search_runs(experiment.experiment_id)}
    assert set(runs) == {"FINISHED", "FAILED"}
    done = runs["FINISHED"]
    record = json.loads((tmp_path / "out" / "Erika_record.json").read_text())
    history = client.get_metric_history(done.info.run_id, "loss")
    assert [point.value for point in history] == pytest.approx(record["fit"]["loss"])
    assert done.data.metrics["left_out_psnr"] == pytest.approx(record["left_out_views"]["psnr"])
    assert client.get_metric_history(done.info.run_id, "held_out")
    names = {entry.path for entry in client.list_artifacts(done.info.run_id)}
    assert {"preview.png", "data.json", "config.json"} < names
    local = Path(client.download_artifacts(done.info.run_id, "", str(tmp_path)))
    texts = [path.read_text() for path in local.rglob("*.json") if path.parent == local]
    told = " ".join([*names, str(done.data), str(done.info.run_name), *texts]).casefold()
    assert "mustermann" not in told and "erika" not in told and str(tmp_path) not in told


@pytest.mark.parametrize("method", TINY)
def test_inference_writes_volumes_in_place_and_a_record(method, scan_file, tmp_path):
    run(method, scan_file, tmp_path, times_s=[0.5, 2.0, 4.5])
    scan = read_acquisition(scan_file)
    volume, moving, arrival = (nib.load(tmp_path / f"head_{n}.nii.gz") for n in ("volume", "4d", "arrival"))
    assert volume.shape == arrival.shape == scan.volume_shape and moving.shape == (*scan.volume_shape, 3)
    for image in (volume, moving, arrival):
        np.testing.assert_allclose(image.affine, scan.affine_ras(), atol=1e-4)
    values, times = volume.get_fdata(), arrival.get_fdata()
    assert values.min() >= 0 and values.max() > 0
    there = np.isfinite(times)
    assert 0 < there.mean() < 0.5 and times[there].min() >= 0 and times[there].max() <= scan.times_s[-1]
    assert json.loads((tmp_path / "head_4d.json").read_text())["times_s"] == [0.5, 2.0, 4.5]
    record = json.loads((tmp_path / "head_record.json").read_text())
    assert next(iter(record)) == "warnings" and record["input"]["kept_frames"] == (scan.views(12) + 1).tolist()
    assert record["left_out_views"]["which"] == "left out" and record["left_out_views"]["views"] == 12
    assert len(record["fit"]["loss"]) == TINY[method]["max_epochs"] and record["peak_memory_gib"] > 0
    assert (tmp_path / "head_preview.png").stat().st_size > 10_000
    assert not list(tmp_path.glob(".*"))


def test_a_fit_is_rendered_again_without_fitting(scan_file, tmp_path):
    run("togs", scan_file, tmp_path / "first", mesh=False)
    run("togs", scan_file, tmp_path / "again", fit_file=str(tmp_path / "first" / "head_fit.pt"), views_out=4, mesh=True)
    one, other = (nib.load(tmp_path / f / "head_volume.nii.gz").get_fdata() for f in ("first", "again"))
    np.testing.assert_allclose(one, other, atol=1e-7)
    assert json.loads((tmp_path / "again" / "head_record.json").read_text())["fit"] is None
    assert len(read_acquisition(tmp_path / "again" / "head_views.npz")) == 4
    assert (tmp_path / "again" / "head_mesh.stl").is_file() and (tmp_path / "again" / "head_mesh.ply").is_file()
    with pytest.raises(CasesFailed, match="is a fit of TOGS"):
        run("tiavox", scan_file, tmp_path / "wrong", fit_file=str(tmp_path / "first" / "head_fit.pt"))


def test_a_result_is_not_replaced_and_not_computed_twice(scan_file, tmp_path, capsys):
    run("atoms", scan_file, tmp_path)
    first = (tmp_path / "head_record.json").read_bytes()
    run("atoms", scan_file, tmp_path)
    assert "already there" in capsys.readouterr().out and (tmp_path / "head_record.json").read_bytes() == first
    with pytest.raises(CasesFailed, match="overwrite"):
        run("atoms", scan_file, tmp_path, num_times=3)


def test_a_scan_that_does_not_fit_is_said_first(scan_file, tmp_path):
    scan = read_acquisition(scan_file)
    mixed = np.random.default_rng(0).permutation(len(scan))
    wrong = replace(scan, **{name: getattr(scan, name)[mixed] for name in GEOMETRY})
    path = write_npz_acquisition(wrong, tmp_path / "wrong" / "head.npz")
    run("atoms", path, tmp_path / "out")
    record = (tmp_path / "out" / "head_record.json").read_text()
    assert record.splitlines()[1].strip().startswith('"warnings": [') and "does not fit" in record.splitlines()[2]


def test_a_scan_that_turns_the_wrong_way_is_said_first(scan_file, tmp_path, monkeypatch):
    monkeypatch.setattr("custom_nets.engines.scan_fitting.turn_warning", lambda *_: "this seems to turn the wrong way")
    run("atoms", scan_file, tmp_path)
    assert json.loads((tmp_path / "head_record.json").read_text())["warnings"] == ["this seems to turn the wrong way"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"times_s": [0.5, 99.0]}, "within the scan"),
        ({"views": 500}, "views must be"),
        ({"fit_file": "nowhere.pt"}, "no saved fit"),
    ],
)
def test_what_cannot_be_is_refused(overrides, message, scan_file, tmp_path):
    with pytest.raises(CasesFailed, match=message):
        run("tiavox", scan_file, tmp_path, **overrides)
    assert not list(tmp_path.glob("*.nii.gz"))
