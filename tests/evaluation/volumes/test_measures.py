import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor

from custom_nets.checkpoints import save_checkpoint
from custom_nets.data.volumes.nifti import write_nifti
from custom_nets.evaluation.volumes.measures import thick_axis_of
from custom_nets.evaluation.volumes.protocol import AddNetworksd, ScoreMethodsd, thick_degradations
from custom_nets.geometry import Grid
from custom_nets.networks import AnySizeTransMRSR, SwinRegressor

pytest.importorskip("dipy")
ROOT = Path(__file__).parents[3]
AFFINE = np.array([[-1.0, 0, 0, 20], [0, 0, 1, -20], [0, -1, 0, 20], [0, 0, 0, 1]])
SHAPE = (36, 40, 40)


def head(seed=0):
    """Nested balls, dark to bright, with texture, on zeros."""
    at = np.stack(np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in SHAPE), indexing="ij"))
    radius = np.sqrt((at**2).sum(0))
    level = np.select([radius < 12, radius < 14.5, radius < 17], [300.0, 200.0, 100.0], 0)
    rng = np.random.default_rng(seed)
    return np.where(level > 0, level + rng.normal(0, 8, SHAPE), 0).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_nifti(folder / "anna.nii.gz", head(), AFFINE)
    torch.manual_seed(0)
    tiny = {"slices": 3, "widths": (8, 16), "style_dim": 16, "head_width": 4, "num_centroids": 0}
    save_checkpoint(folder / "ours.pt", AnySizeTransMRSR(**tiny), {"name": "AnySizeTransMRSR", **tiny})
    plain = {"slices": 3, "dim": 8, "depths": (2,), "head_width": 4}
    save_checkpoint(folder / "plain.pt", SwinRegressor(**plain), {"name": "SwinRegressor", **plain})
    return folder


def evaluate(files, out, **overrides):
    meta = out.parent / "metadata.json"
    meta.write_text(json.dumps({f"{name}version": "1" for name in ("", "monai_", "pytorch_", "numpy_")}))
    flow = ConfigWorkflow(
        config_file=str(ROOT / "bundles" / "transmrsr" / "configs" / "evaluate.json"),
        meta_file=str(meta),
        workflow_type="infer",
        bundle_root=str(ROOT / "bundles" / "transmrsr"),
        cases=[str(files / "anna.nii.gz")],
        output_dir=str(out),
        checkpoint=str(files / "ours.pt"),
        device="$torch.device('cpu')",
        **overrides,
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    with open(out / "cases.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {(r["degradation"], r["method"], r["region"], r["metric"]): float(r["value"]) for r in rows}


@pytest.mark.slow
def test_the_whole_evaluation_through_the_bundle(files, tmp_path):
    out = tmp_path / "out"
    found = evaluate(files, out, factors=[3.3, 4], regressor_checkpoint=str(files / "plain.pt"))
    assert {key[0] for key in found} == {"1x1x3.3", "1x1x4"}
    assert {key[1] for key in found} == {"ours", "bspline", "arssr", "regressor"}
    for method in ("ours", "bspline", "arssr", "regressor"):
        assert 0.5 < found["1x1x4", method, "brain", "dice_mean"] <= 1
        assert found["1x1x4", method, "whole", "padded_psnr"] > found["1x1x4", method, "brain", "psnr"]
        assert found["1x1x4", method, "brain", "gradient_thick"] > 0
    assert found["1x1x4", "bspline", "brain", "jump_across_ratio"] == pytest.approx(1)
    # untrained networks add next to nothing to the B-spline, in the same place and unit
    for method in ("ours", "regressor"):
        assert found["1x1x4", method, "brain", "psnr"] == pytest.approx(
            found["1x1x4", "bspline", "brain", "psnr"], abs=0.3
        )

    report = json.loads((out / "report.json").read_text())
    assert {f["name"] for f in report["files"]} == {"checkpoint", "arssr", "regressor", "anna truth"}
    assert report["volumes"][0]["notes"] == []
    volumes = [r for r in report["volumes_ml"] if (r["degradation"], r["method"]) == ("1x1x4", "ours")]
    assert [r["tissue"] for r in volumes] == ["csf", "gm", "wm"]
    assert sum(r["ml"] for r in volumes) == pytest.approx(report["volumes"][1]["mask_voxels"] / 1000)
    table = (out / "table.md").read_text()
    for title in ("Tissues in the brain mask", "Padded 8-bit slices", "Flicker", "Each case: mean Dice"):
        assert title in table
    assert (out / "pictures" / "anna_1x1x4.png").is_file() and (out / "volumes_ml.csv").is_file()


def test_lesions_through_the_bundle(files, tmp_path):
    out = tmp_path / "out"
    found = evaluate(files, out, factors=[4], lesions=True, arssr_checkpoint="")
    assert {key[2] for key in found} == {"lesions"} and {key[1] for key in found} == {"ours", "bspline"}
    assert 0 < found["1x1x4", "bspline", "lesions", "contrast_2mm"] < 100
    assert found["1x1x4", "bspline", "lesions", "contrast_4mm_ratio"] == pytest.approx(1)
    with open(out / "lesions.csv", newline="") as stream:
        assert {row["kind"] for row in csv.DictReader(stream)} == {"dark", "bright"}
    assert "Lesions: contrast kept, times that of B-spline" in (out / "table.md").read_text()
    assert (out / "pictures" / "anna_1x1x4.png").is_file()


def item(scale=1.0):
    volume = MetaTensor(torch.from_numpy(head()[None]), affine=torch.diag(torch.tensor([scale] * 3 + [1.0])))
    return {"case": "a", "degradation": "d", "label": volume, "image": volume, "pred": volume}


def test_tissues_are_left_out_with_a_note_where_they_mean_nothing():
    score = ScoreMethodsd("pred", ["mae", "tissues"], contrast="FLAIR")
    found = score(item())
    assert {row["metric"] for row in found["scores"]} == {"mae"}
    assert "T1-weighted scans only, contrast is 'FLAIR'" in found["record"]["notes"][0]
    found = ScoreMethodsd("pred", ["tissues"])(item(scale=6.0))
    assert found["scores"] == [] and "more than a brain" in found["record"]["notes"][0]


def test_the_truth_itself_scores_best():
    found = {r["metric"]: r["value"] for r in ScoreMethodsd("pred", ["tissues", "flicker"])(item())["scores"]}
    assert found["dice_mean"] == 1 and found["wm_error_ml"] == 0
    assert found["gradient_thick"] == found["jump_across"] == 0
    with pytest.raises(ValueError, match="has no planted lesions"):
        ScoreMethodsd("pred", ["lesions"])(item())


def test_thick_axis_and_degradations():
    assert thick_degradations([4, 3.3], "y") == {"1x4x1": [1, 4, 1], "1x3.3x1": [1, 3.3, 1]}
    with pytest.raises(ValueError, match="x, y or z"):
        thick_degradations([4], "axial")
    grid = Grid((20, 24, 30), AFFINE)
    assert [thick_axis_of(grid.rescaled(scale), grid) for scale in ((0.2, 1, 1), (1, 0.3, 1), (1, 1, 0.5))] == [0, 1, 2]


def test_networks_without_a_checkpoint_are_left_out(files):
    assert AddNetworksd({"a": {"checkpoint": ""}, "b": {"checkpoint": None}}).networks == {}
    with pytest.raises(FileNotFoundError, match="missing.pt"):
        AddNetworksd({"a": {"checkpoint": str(files / "missing.pt"), "inferer": None}})
