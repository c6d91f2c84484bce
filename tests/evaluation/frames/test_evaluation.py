"""Leave-frames-out evaluation: the protocol, the scores, and the whole of it through the bundle."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom_nets.checkpoints import save_checkpoint
from custom_nets.data.angiography.parts import RunOrigin
from custom_nets.data.angiography.run import AngiographyRun, make_run
from custom_nets.evaluation.frames import protocol as fe
from custom_nets.evaluation.frames import report
from custom_nets.evaluation.frames.scores import MeanFrameScore, ScoreFramesd, stored_scale
from custom_nets.metrics.frames import frame_psnr, frame_ssim
from custom_nets.networks import SymmetricMoStDSA
from custom_nets.utils.processes import own_share

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "bundles" / "most_dsa" / "configs"
ARCH = {"name": "SymmetricMoStDSA", "widths": [4, 4, 4, 4], "pair_width": 4, "time_width": 4}


def contrast(count=9, size=(48, 56), noise=1.0, seed=0):
    """Frames [T, H, W] uint8: two vessels that fill and empty, one later, on a noisy ground; black on the right."""
    rng = np.random.default_rng(seed)
    frames = np.empty((count, *size))
    for t in range(count):
        frames[t] = 190 + noise * rng.standard_normal(size)
        frames[t, 8:16, 6:34] -= 120 * np.exp(-((t - 0.35 * count) ** 2) / (0.05 * count**2))
        frames[t, 30:38, 10:36] -= 90 * np.exp(-((t - 0.65 * count) ** 2) / (0.05 * count**2))
    frames[:, :, 44:] = 0
    return np.rint(frames).clip(0, 255).astype(np.uint8)


def run_of(frames, times=None, **kwargs) -> AngiographyRun:
    return make_run(frames, np.arange(len(frames)) / 4 if times is None else times, **kwargs)


def scored(run, missing, made=None):
    """All scores of a run; ``made`` [M, H, W] stands for what a network made (the truth itself if left out)."""
    left = fe.leave_frames_out(run, missing)
    item = {"case": "a", "missing": missing, "image": left}
    item["pred"] = run.frames[left.targets] if made is None else made
    return ScoreFramesd()(fe.AddFrameBaselinesd()(item))


def value(rows, method, region, metric):
    return np.array([r["value"] for r in rows if (r["method"], r["region"], r["metric"]) == (method, region, metric)])


# ---- protocol ----


def test_every_so_many_frames_are_kept():
    left = fe.leave_frames_out(run_of(contrast(11), times=[0, 1, 2, 4, 5, 6, 7, 8, 8.5, 9, 10]), 3)
    assert left.targets.tolist() == [1, 2, 3, 5, 6, 7]
    assert left.pairs.tolist() == [[0, 4]] * 3 + [[4, 8]] * 3
    np.testing.assert_allclose(left.timesteps[:3], [0.2, 0.4, 0.8])  # by the run's own times
    assert left.kept.times_s.tolist() == [0, 5, 8.5]  # 9, 10 have no later kept neighbour
    assert [(p.gap.index, p.before, p.after) for p in left.plans] == [(0, None, 2), (1, 0, None)]
    assert left.sequence.tolist() == list(range(9))


def test_nothing_is_left_out_beside_mask_frames_or_counted_from_made_ones():
    masked = fe.leave_frames_out(run_of(contrast(9), mask_frames=[0, 4]), 1)
    assert masked.pairs.tolist() == [[1, 3], [5, 7]] and masked.targets.tolist() == [2, 6]
    assert masked.kept.mask_frames == (0, 3)
    assert [(p.before, p.after) for p in masked.plans] == [(None, None)] * 2
    synthetic = np.arange(9) == 3
    assert fe.leave_frames_out(run_of(contrast(9), synthetic=synthetic), 1).targets.tolist() == [1, 5, 7]
    with pytest.raises(ValueError, match="7 missing frames need 9 measured frames in a row, the run has 4 of 9"):
        fe.leave_frames_out(run_of(contrast(9), mask_frames=[4]), 7)


def test_methods_see_the_kept_frames_alone():
    """What was left out may be anything: nothing that is made changes."""
    frames = contrast(9)
    left = fe.leave_frames_out(run_of(frames), 1)
    changed = frames.copy()
    changed[left.targets] = np.random.default_rng(0).integers(120, 230, changed[left.targets].shape)
    changed[:, :, 44:] = 0
    other = fe.leave_frames_out(run_of(changed), 1)
    network = SymmetricMoStDSA(**{k: v for k, v in ARCH.items() if k != "name"}).eval()
    torch.nn.init.normal_(network.output.weight, std=0.1)
    inferer = fe.LeaveOutInferer(fe.FrameInterpolationInferer())
    made = [{"image": x, "pred": inferer(x, network)} for x in (left, other)]
    first, second = (fe.AddFrameBaselinesd(tuple(fe.METHODS.values()))(item) for item in made)
    for key in fe.METHODS:
        np.testing.assert_array_equal(first[key], second[key])
        assert first[key].dtype == np.uint8 and len(first[key]) == 4
        assert not first[key][:, :, 44:].any()  # the border stays


# ---- scores ----


def test_what_is_right_scores_as_perfect():
    result = scored(run_of(contrast(9)), 1)
    for region in ("full", "active"):
        assert np.isinf(value(result["scores"], "ours", region, "psnr")).all()
        np.testing.assert_allclose(value(result["scores"], "ours", region, "ssim"), 1)
    assert (value(result["scores"], "ours", "vessels", "mae") == 0).all()
    for metric in ("arrival_s", "peak_s", "area_percent", "curve_mae"):
        assert value(result["run_scores"], "ours", "vessels", metric) == [0]
        assert value(result["run_scores"], "nearest", "vessels", metric)[0] > 0
    assert value(result["run_scores"], "ours", "active", "flicker") == [1]
    assert result["record"]["regions"] >= 2 and result["record"]["not_measured"] == {}
    metric = MeanFrameScore()
    metric.reset()
    metric.update(result["scores"])
    assert np.isnan(metric.compute())  # nothing finite
    summary = report.summaries(result["scores"], [*report.run_means(result["scores"]), *result["run_scores"]])
    ours = next(r for r in summary["frames"] if (r["method"], r["region"], r["metric"]) == ("ours", "active", "psnr"))
    assert (ours["mean"], ours["n"], ours["not_finite"]) == (None, 0, 4)
    pair = next(
        r for r in summary["frames"]
        if (r["method"], r["region"], r["metric"]) == ("ours - blend", "active", "psnr")
    )  # fmt: skip
    assert pair["wins"] == 4


def test_blending_is_exact_on_a_ramp_in_time():
    ramp = np.linspace(240, 120, 13)[:, None, None] * np.ones((1, 48, 48)) - 10 * np.eye(48)
    result = scored(run_of(ramp.astype(np.float32)), 2)
    assert (value(result["scores"], "blend", "full", "psnr") > 110).all()
    assert (value(result["scores"], "nearest", "full", "psnr") < 40).all()
    assert value(result["run_scores"], "blend", "vessels", "curve_mae")[0] < 1e-6


def test_psnr_and_ssim_are_the_published_ones():
    frames = contrast(9)
    result = scored(run_of(frames), 1)
    left = result["image"]
    truth, made = (torch.from_numpy(f[:, None] / 255.0) for f in (frames[left.targets], result["blend"]))
    np.testing.assert_allclose(value(result["scores"], "blend", "full", "psnr"), frame_psnr(made, truth))
    np.testing.assert_allclose(value(result["scores"], "blend", "full", "ssim"), frame_ssim(made, truth))
    inside = frame_psnr(made[..., :44], truth[..., :44])
    np.testing.assert_allclose(value(result["scores"], "blend", "active", "psnr"), inside)
    assert (value(result["scores"], "blend", "full", "psnr") > inside.numpy()).all()  # the border flatters
    frames_csv = report.widened(result["scores"])
    assert len(frames_csv) == 4 * 4 and {"full_psnr", "active_ssim", "change_mae"} <= set(frames_csv[0])


def test_the_data_range_is_that_of_the_stored_bits():
    frames = contrast(5)
    assert stored_scale(run_of(frames))[:2] == (0, 255)
    twelve = frames.astype(np.uint16) * 16
    assert stored_scale(run_of(twelve))[:2] == (0, 4095)
    named = run_of(twelve, origin=RunOrigin(meta={"bits_stored": 14}))
    assert stored_scale(named)[:2] == (0, 2**14 - 1)
    assert stored_scale(run_of(twelve.astype(np.int16) - 2048))[:2] == (-2048, 4095)
    low, span, _ = stored_scale(run_of(frames / np.float32(255)))
    assert low > 0.2 and span == pytest.approx(frames[..., :44].max() / 255 - low)


def test_errors_in_units_are_the_same_with_a_mask_that_is_subtracted():
    frames = contrast(9).astype(np.uint16) * 8
    from custom_nets.data.angiography.intensity import MaskSubtraction

    mask = MaskSubtraction(mask_frames=(0,))
    run = run_of(frames, subtraction=[mask], log=True)
    left = fe.leave_frames_out(run, 1)
    item = fe.AddFrameBaselinesd()({"case": "a", "missing": 1, "image": left, "pred": run.frames[left.targets]})
    k, index = 1, int(left.targets[1])
    first, last = run.normalize(left.pairs[k])
    np.testing.assert_allclose(left.units_of(item["blend"][k], index), (first + last) / 2, atol=2e-3)
    np.testing.assert_allclose(left.units_of(item["pred"][k], index), run.normalize(index)[0], atol=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        fe.evaluation_items("")
    for wrong in ([0], [1, 1], [], [1.5], [True]):
        with pytest.raises(ValueError, match="whole numbers"):
            fe.evaluation_items("x", wrong)
    with pytest.raises(ValueError, match="unknown methods"):
        fe.checked_methods(["ours", "magic"])
    with pytest.raises(ValueError, match="must have 'ours'"):
        fe.checked_methods(["blend"])


def test_each_item_belongs_to_one_process(monkeypatch):
    items = [{"case": str(i)} for i in range(7)]
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares += own_share(items)
    assert sorted(item["case"] for item in shares) == [str(i) for i in range(7)]
    with pytest.raises(ValueError, match="3 processes were started for 2"):
        own_share(items[:2])


# ---- all of it ----


@pytest.fixture
def data(tmp_path):
    """Two runs and a small network."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for seed, (name, count) in enumerate((("anna", 9), ("bert", 7))):
        frames = contrast(count, seed=seed) // 2 * 2  # even numbers: their mean needs no rounding
        np.savez(folder / f"{name}.npz", frames=frames, times_s=np.arange(count) / 4)
    torch.manual_seed(0)
    network = SymmetricMoStDSA(**{k: v for k, v in ARCH.items() if k != "name"})
    torch.nn.init.normal_(network.output.weight, std=0.02)
    save_checkpoint(tmp_path / "model.pt", network, ARCH)
    return folder


def workflow(data, out, **overrides):
    meta = data.parent / "metadata.json"
    meta.write_text(json.dumps({f"{name}version": "1" for name in ("", "monai_", "pytorch_", "numpy_")}))
    overrides = {"dataset_dir": str(data), "missing_frames": [1, 2], **overrides}
    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "evaluate.json"),
        meta_file=str(meta),
        workflow_type="infer",
        bundle_root=str(CONFIGS.parent),
        output_dir=str(out),
        checkpoint=str(data.parent / "model.pt"),
        device="cpu",
        **overrides,
    )
    flow.initialize()
    return flow


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_whole_evaluation_through_the_bundle(data, tmp_path):
    out = tmp_path / "out"
    flow = workflow(data, out, pictures=False)
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()

    rows = rows_of(out / "frames.csv")
    assert len(rows) == 4 * (4 + 4 + 3 + 4)  # methods x made frames of anna, bert at N = 1 and 2
    blend = [r for r in rows if (r["case"], r["missing"], r["method"]) == ("anna", "1", "blend")]
    assert [r["frame"] for r in blend] == ["2", "4", "6", "8"] and {r["t"] for r in blend} == {"0.5"}
    # one number from first principles
    frames = contrast(9, seed=0) // 2 * 2.0
    expected = -10 * np.log10(((((frames[0] + frames[2]) / 2 - frames[1]) / 255) ** 2).mean())
    assert float(blend[0]["full_psnr"]) == pytest.approx(expected, abs=1e-4)

    runs = rows_of(out / "runs.csv")
    assert len(runs) == 2 * 2 * 4
    regions = rows_of(out / "regions.csv")
    for run in runs:  # a run's error is the mean over its regions
        mine = [r for r in regions if all(r[k] == run[k] for k in ("case", "missing", "method"))]
        errors = [float(r["curve_mae"]) for r in mine]
        assert len(mine) >= 2 and np.mean(errors) == pytest.approx(float(run["vessels_curve_mae"]), rel=1e-4)
        assert all(0 <= int(r["row"]) < 48 and 0 <= int(r["column"]) < 44 for r in mine), "inside of the picture"
        assert all(int(r["pixels"]) >= 16 and float(r["contrast"]) > 0 for r in mine)
    summary = json.loads((out / "summary.json").read_text())
    for missing in (1, 2, "all"):  # every region counts once, whichever run it is of
        some = [r for r in regions if missing in ("all", int(r["missing"]))]
        both = {m: [float(r["curve_mae"]) for r in some if r["method"] == m] for m in ("ours", "blend")}
        row = next(r for r in summary["regions"] if (r["missing"], r["method"], r["metric"]) ==
                   (missing, "ours - blend", "curve_mae"))  # fmt: skip
        apart = np.subtract(both["ours"], both["blend"])
        assert row["n"] == len(apart) and row["mean"] == pytest.approx(apart.mean(), rel=1e-4)
        assert row["standard_error"] == pytest.approx(apart.std(ddof=1) / len(apart) ** 0.5, rel=1e-4)
    mean = next(
        r for r in summary["frames"]
        if (r["missing"], r["method"], r["region"], r["metric"]) == (2, "ours", "active", "psnr")
    )  # fmt: skip
    ours = [float(r["active_psnr"]) for r in rows if (r["missing"], r["method"]) == ("2", "ours")]
    assert mean["n"] == len(ours) == 8 and mean["mean"] == pytest.approx(np.mean(ours), rel=1e-5)
    places = [r for r in summary["places"] if (r["missing"], r["method"], r["region"], r["metric"]) ==
              (2, "ours", "active", "psnr")]  # fmt: skip
    assert [r["place"] for r in places] == [1, 2]
    assert np.mean([r["mean"] for r in places]) == pytest.approx(mean["mean"])
    metrics = flow.evaluator.state.metrics
    assert metrics["N2/active/psnr/ours"] == pytest.approx(mean["mean"])
    every = [float(r["active_psnr"]) for r in rows if r["method"] == "ours"]
    assert metrics["active_psnr"] == pytest.approx(np.mean(every), rel=1e-5)
    others = [float(r["active_psnr"]) for r in rows if r["method"] == "dis"]
    assert metrics["active_psnr_gain_over_dis"] == pytest.approx(np.mean(every) - np.mean(others), abs=1e-4)

    assert summary["failed"] == [] and {f["name"] for f in summary["files"]} == {"checkpoint", "anna", "bert"}
    assert summary["records"][0]["angles_used"] is False
    assert summary["records"][0]["data_range"] == "8 bits" and summary["records"][0]["regions"] >= 2
    table = (out / "table.md").read_text()
    assert "| 1 | blend |" in table and "| anna | 2 | 4 |" in table and "| all | blend |" in table
    assert not (out / "pictures").exists()
    assert not list(out.glob("*_of_process*"))


def test_what_fails_is_listed_and_the_rest_is_measured(data, tmp_path):
    np.savez(data / "short.npz", frames=contrast(3), times_s=np.arange(3) / 4)
    (data / "torn.npz").write_bytes((data / "anna.npz").read_bytes()[:200])
    out = tmp_path / "out"
    flow = workflow(data, out, missing_frames=[2], pictures=False, report=True)
    with pytest.raises(SystemExit, match="2 evaluations failed") as stop:
        flow.run()
    assert "short, 2 missing: 2 missing frames need 4 measured frames" in str(stop.value)
    assert "torn, 2 missing:" in str(stop.value)
    summary = json.loads((out / "summary.json").read_text())
    assert [f["case"] for f in summary["failed"]] == ["short", "torn"]
    assert {r["case"] for r in rows_of(out / "frames.csv")} == {"anna", "bert"}
    assert (out / "table.md").read_text().startswith("**2 evaluations failed")
    page = (out / "report.html").read_text()
    assert page.index("torn could not be evaluated") < page.index("Wins and losses") and str(tmp_path) not in page


def test_pictures_and_tracking(data, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    (data / "bert.npz").unlink()
    out = tmp_path / "out"
    tracking = str(CONFIGS / "mlflow_eval.json")
    flow = workflow(data, out, missing_frames=[3], methods=["ours", "blend"], tracking=tracking, report=True)
    flow.run()
    names = sorted(p.name for p in (out / "pictures").iterdir())
    assert names == [f"anna_N3_{what}.png" for what in ("curves", "errors", "frame")]
    client = mlflow.MlflowClient(f"sqlite:///{out}/mlruns.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "most_dsa_evaluate"]
    (run,) = client.search_runs(experiment.experiment_id)
    blend = [float(r["active_psnr"]) for r in rows_of(out / "frames.csv") if r["method"] == "blend"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["N3/active/psnr/blend"] == pytest.approx(np.mean(blend), rel=1e-5)
    assert {"N3/vessels/mae/excess_over_blend", "N3/vessels/arrival_s/ours"} <= set(run.data.metrics)
    assert run.data.params["missing_frames"] == "[3]"
    assert (out / "report.html").read_text().count("<img ") == 3
    assert {"table.md", "summary.json", "report.html", "bundle"} <= {
        a.path for a in client.list_artifacts(run.info.run_id)
    }
    pictures = [Path(a.path).name for a in client.list_artifacts(run.info.run_id, "pictures")]
    assert sorted(pictures) == [name.replace("anna", "subject 1") for name in names], "MLflow gets no names"


def test_a_network_that_fails_and_nothing_measured(data, tmp_path):
    out = tmp_path / "out"
    linear = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    flow = workflow(data, out, network_def=linear, report=True)
    with pytest.raises(SystemExit, match="4 evaluations failed"):
        flow.run()
    assert "Nothing was measured" in (out / "table.md").read_text()
    assert "Nothing was measured" in (out / "report.html").read_text()


def test_the_published_network(data, tmp_path):
    arch = {"name": "MoStDSA", "num_features": 8, "num_blocks": 1, "num_heads": 2, "key_dim": 4, "window": 3,
            "motion_dim": 16, "head_width": 8, "refiner_width": 8}  # fmt: skip
    from custom_nets.checkpoints import build_network

    save_checkpoint(data.parent / "model.pt", build_network(arch), arch)
    out = tmp_path / "out"
    workflow(data, out, missing_frames=[1], methods=["ours", "blend"], pictures=False).run()
    assert {r["method"] for r in rows_of(out / "frames.csv")} == {"ours", "blend"}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(data, tmp_path):
    workflow(data, tmp_path / "one", pictures=False).run()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIGS / "evaluate.json")]
    command += ["--dataset_dir", str(data), "--output_dir", str(tmp_path / "two"), "--missing_frames", "[1,2]"]
    command += ["--checkpoint", str(data.parent / "model.pt"), "--device", "cpu", "--pictures", "False"]
    command += ["--bundle_root", str(CONFIGS.parent)]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "PYTHONPATH": path, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        texts = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(texts)
    for name in ("frames.csv", "runs.csv", "regions.csv", "table.md"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["processes"] == 2


def test_a_raw_run_is_scored_as_it_is_looked_at():
    """Subtracted: in raw values the anatomy, which every method has right, would flatter them all."""
    from custom_nets.evaluation.frames.scores import stored_scale
    from custom_nets.simulation.acquisition import run_times, simulated_run
    from custom_nets.simulation.dsa import DSASettings, DSASimulator

    simulator = DSASimulator(1, DSASettings.random(1, "fixed", (48, 48)))
    raw = simulated_run(simulator, run_times(4), raw=True)
    subtracted = simulated_run(simulator, run_times(4), raw=False, bits=8)
    assert stored_scale(raw) == (0.0, 1.0, "network units of the subtracted frames")
    assert stored_scale(subtracted)[:2] == (0.0, 255.0)
