import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor

from custom_nets.data.volumes.nifti import write_nifti
from custom_nets.evaluation.volumes import protocol as evaluation
from custom_nets.evaluation.volumes import report as evaluation_report
from custom_nets.geometry import Grid
from custom_nets.metrics import image_quality as iq
from custom_nets.operators.scipy_resampling import resample_bspline, resample_trilinear
from custom_nets.transforms import DegradeVolumed

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "bundles" / "arssr" / "configs"
DEGRADATIONS = {"iso2": [2, 2, 2], "1x1x4": {"scale": [1, 1, 4], "profile": "box"}}


NETWORK = {
    "_target_": "custom_nets.networks.ResidualArSSR",
    "feature_dim": 4,
    "num_features": 4,
    "growth": 4,
    "num_blocks": 1,
    "num_layers": 1,
    "decoder_width": 8,
    "decoder_depth": 2,
}


def truth_volume(seed):
    """A smooth ball with texture on zeros [24, 22, 20], 0 to about 1000."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 22, 20)), indexing="ij"), -1)
    texture = resample_bspline(
        rng.random((8, 8, 8)), Grid((8, 8, 8), np.eye(4)), Grid((24, 22, 20), np.diag([7 / 24, 7 / 22, 7 / 20, 1]))
    )
    return np.where((grid**2).sum(-1) < 0.7, 400 + 600 * texture, 0).astype(np.float32)


@pytest.fixture
def scans(tmp_path):
    affine = np.array([[-1.0, 0, 0, 12], [0, 1, 0.1, 5], [0, -0.1, 1, 3], [0, 0, 0, 1]])
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed, name in enumerate(("anna", "bert")):
        write_nifti(folder / f"{name}.nii.gz", truth_volume(seed), affine)
    return folder


def workflow(output_dir, **overrides):
    meta = output_dir.parent / "metadata.json"
    meta.write_text(json.dumps({f"{name}version": "1" for name in ("", "monai_", "pytorch_", "numpy_")}))
    return ConfigWorkflow(
        config_file=str(CONFIGS / "evaluate.json"),
        meta_file=str(meta),
        workflow_type="infer",
        bundle_root=str(ROOT / "bundles" / "arssr"),
        output_dir=str(output_dir),
        device="$torch.device('cpu')",
        network_def=NETWORK,
        **overrides,
    )


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_whole_evaluation_through_the_bundle(scans, tmp_path):
    out = tmp_path / "out"
    flow = workflow(out, dataset_dir=str(scans), degradations=DEGRADATIONS, data_consistency=False)
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()

    rows = rows_of(out / "cases.csv")
    assert len(rows) == 2 * 2 * 3 * (6 + 4)  # cases, degradations, methods, metrics in whole + brain
    assert {r["method"] for r in rows} == {"ours", "bspline", "trilinear"}

    # one number from first principles: same file, same degradation, in the file's unit
    truth = truth_volume(0)
    grid = Grid(truth.shape, np.array([[-1.0, 0, 0, 12], [0, 1, 0.1, 5], [0, -0.1, 1, 3], [0, 0, 0, 1]]))
    low = DegradeVolumed("x", scale=(2, 2, 2))({"x": MetaTensor(truth[None], affine=torch.as_tensor(grid.affine))})["x"]
    mask = iq.brain_mask(truth)
    for method, resample in (("bspline", resample_bspline), ("trilinear", resample_trilinear)):
        expected = iq.masked_psnr(resample(low[0].numpy(), Grid.of(low), grid), truth, mask)
        found = next(
            r
            for r in rows
            if (r["case"], r["degradation"], r["method"], r["region"], r["metric"])
            == ("anna", "iso2", method, "brain", "psnr")
        )
        assert float(found["value"]) == pytest.approx(expected, abs=2e-3)

    summary = {(r["degradation"], r["method"], r["region"], r["metric"]): r for r in rows_of(out / "summary.csv")}
    gain = summary["1x1x4", "ours - bspline", "brain", "psnr"]
    differences = [
        float(r["difference"])
        for r in rows_of(out / "paired.csv")
        if (r["degradation"], r["baseline"], r["region"], r["metric"]) == ("1x1x4", "bspline", "brain", "psnr")
    ]
    assert len(differences) == int(gain["n"]) == 2
    assert float(gain["mean"]) == pytest.approx(np.mean(differences), rel=1e-4)
    assert float(gain["standard_error"]) == pytest.approx(np.std(differences, ddof=1) / np.sqrt(2), rel=1e-3)
    assert int(gain["wins"]) == sum(d > 0 for d in differences)
    # our network corrects the B-spline by nothing until it is trained: geometry and intensities agree all the way
    assert abs(float(gain["mean"])) < 0.02

    report = json.loads((out / "report.json").read_text())
    assert {f["name"] for f in report["files"]} == {"checkpoint", "anna truth", "bert truth"}
    assert all(len(f["sha256"]) == 64 for f in report["files"] if f["name"] != "checkpoint")
    assert report["options"]["degradations"] == DEGRADATIONS and "torch" in report["versions"]
    assert report["volumes"][0]["mask"] == "foreground of the truth"
    assert "| 1x1x4 | bspline |" in (out / "table.md").read_text()
    assert sorted(p.name for p in (out / "pictures").iterdir()) == [
        f"{case}_{how}.png" for case in ("anna", "bert") for how in ("1x1x4", "iso2")
    ]
    metrics = flow.evaluator.state.metrics
    assert metrics["1x1x4/brain/psnr/gain_over_bspline"] == pytest.approx(float(gain["mean"]), rel=1e-5)
    assert np.isfinite(metrics["brain_psnr"])


def test_a_mask_file_is_drawn(tmp_path):
    truth = truth_volume(0)
    affine = np.eye(4)
    write_nifti(tmp_path / "high.nii.gz", truth, affine)
    write_nifti(tmp_path / "mask.nii.gz", (truth > 0).astype(np.float32), affine)
    flow = workflow(
        tmp_path / "out",
        cases=[str(tmp_path / "high.nii.gz")],
        masks={"high": str(tmp_path / "mask.nii.gz")},
        degradations={"own name": [1, 1, 2]},
        metrics=["psnr"],
    )
    flow.initialize()
    flow.run()
    assert (tmp_path / "out" / "pictures" / "high_own name.png").is_file()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["volumes"][0]["mask"] == "file"


def test_real_pairs_masks_and_tracking(scans, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    truth = truth_volume(0)
    grid = Grid(truth.shape, np.eye(4))
    volume = MetaTensor(truth[None], affine=torch.as_tensor(grid.affine))
    low = DegradeVolumed("x", scale=(1, 1, 2))({"x": volume})["x"]
    write_nifti(tmp_path / "high.nii.gz", truth, grid.affine)
    write_nifti(tmp_path / "low.nii.gz", low[0].numpy()[:, :, :8], low.affine.numpy())  # covers the lower part only
    write_nifti(tmp_path / "mask.nii.gz", (truth > 0).astype(np.float32), grid.affine)
    out = tmp_path / "out"
    pair = {"image": str(tmp_path / "low.nii.gz"), "label": str(tmp_path / "high.nii.gz"), "case": "real"}
    flow = workflow(
        out,
        pairs=[{**pair, "mask": str(tmp_path / "mask.nii.gz")}],
        metrics=["psnr"],
        pictures=False,
        report=True,
        tracking=str(CONFIGS / "mlflow_eval.json"),
    )
    flow.initialize()
    flow.run()
    report = json.loads((out / "report.json").read_text())
    (record,) = report["volumes"]
    assert record["degradation"] == "pair" and record["mask"] == "file"
    assert record["outside_field_of_view_voxels"] == 24 * 22 * 4
    assert record["mask_voxels"] == (truth[:, :, :16] > 0).sum()
    assert not (out / "pictures").exists()

    client = mlflow.MlflowClient(f"sqlite:///{out}/mlruns.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "arssr_evaluate"]
    (run,) = client.search_runs(experiment.experiment_id)
    assert run.info.status == "FINISHED" and run.info.run_name.startswith("evaluate_")
    (row,) = [r for r in rows_of(out / "summary.csv") if (r["method"], r["region"]) == ("bspline", "brain")]
    assert run.data.metrics["pair/brain/psnr/bspline"] == pytest.approx(float(row["mean"]), rel=1e-5)
    assert run.data.params["degradations.iso2"] == "[2, 2, 2]"
    assert {"table.md", "report.json", "report.html"} <= {a.path for a in client.list_artifacts(run.info.run_id)}


def test_the_score_of_a_key_metric():
    row = {"method": "ours", "region": "brain", "metric": "psnr", "value": 30.0}
    assert evaluation.score("ours", "brain", "psnr")([{"scores": [row]}]) == 30.0
    assert np.isnan(evaluation.score("ours", "whole", "psnr")([{"scores": [row]}]))


def test_items(scans, tmp_path):
    items = evaluation.evaluation_items(str(scans), DEGRADATIONS, masks={"bert": str(scans / "bert.nii.gz")})
    assert [(i["case"], i["degradation"], "mask" in i) for i in items] == [
        ("anna", "iso2", False),
        ("anna", "1x1x4", False),
        ("bert", "iso2", True),
        ("bert", "1x1x4", True),
    ]
    only = evaluation.evaluation_items([str(scans / "bert.nii.gz")], {"iso3": [3, 3, 3]})
    assert [i["case"] for i in only] == ["bert"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "nothing to evaluate"),
        ({"pairs": [{"image": "a"}]}, ValueError, "a pair needs"),
        ({"cases": "missing"}, FileNotFoundError, "missing"),
        ({"masks": {"nobody": "a"}}, ValueError, "unknown cases"),
        ({"masks": {"anna": "missing.nii"}}, FileNotFoundError, "the mask of case 'anna'"),
    ],
)
def test_bad_items_are_named(scans, arguments, error, message):
    if "masks" in arguments:
        arguments = {"cases": str(scans), "degradations": DEGRADATIONS, **arguments}
    with pytest.raises(error, match=message):
        evaluation.evaluation_items(**arguments)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="unknown metrics"):
        evaluation.ScoreMethodsd(metrics=["psnr", "lpips"])
    with pytest.raises(ValueError, match="unknown baselines"):
        evaluation.AddBaselinesd(["cubic"])
    volume = MetaTensor(torch.rand(1, 12, 12, 12), affine=torch.eye(4))
    make = evaluation.MakeInputd({"iso2": 2})
    with pytest.raises(ValueError, match="no degradation 'iso9'"):
        make({"label": volume, "case": "a", "degradation": "iso9"})
    with pytest.raises(ValueError, match="one 3D volume"):
        make({"label": torch.cat([volume, volume]), "case": "a", "degradation": "iso2"})
    with pytest.raises(ValueError, match="mask .* not on the grid"):
        make({"label": volume, "mask": volume[:, :5], "case": "a", "degradation": "iso2"})


def test_summary_counts_infinite_values_and_knows_that_small_errors_win():
    def row(case, method, metric, value):
        return {"case": case, "degradation": "d", "method": method, "region": "brain", "metric": metric, "value": value}

    rows = [
        row("a", "ours", "psnr", float("inf")),
        row("a", "bspline", "psnr", 30.0),
        row("b", "ours", "psnr", 32.0),
        row("b", "bspline", "psnr", 31.0),
        row("b", "ours", "mae", 1.0),
        row("b", "bspline", "mae", 2.0),
    ]
    pairs = evaluation_report.paired_differences(rows)
    summary = {(r["method"], r["metric"]): r for r in evaluation_report.summarise(rows, pairs)}
    ours = summary["ours", "psnr"]
    assert (ours["mean"], ours["n"], ours["not_finite"], ours["std"]) == (32.0, 1, 1, None)
    gain = summary["ours - bspline", "psnr"]
    assert (gain["mean"], gain["wins"], gain["not_finite"]) == (1.0, 2, 1)
    assert summary["ours - bspline", "mae"]["wins"] == 1
    table = evaluation_report.markdown_table(rows, pairs, list(summary.values()))
    assert "| d | bspline | 30.50 ± 0.71 |" in table and "| a | d | 30.00 | inf | +inf |" in table


def test_a_folder_that_cannot_be_written_stops_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    report = evaluation_report.EvaluationReport(tmp_path / "file" / "out")
    with pytest.raises(OSError):
        report.start(None)
