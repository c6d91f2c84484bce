"""The benchmarks for a GPU run on a CPU, every line of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from benchmarks import feeding, gpu, gpu_session

REPOSITORY = Path(__file__).resolve().parents[2]


def test_table(tmp_path, capsys):
    found = gpu.main(["--device", "cpu", "--tiny", "--no_compile", "--json", str(tmp_path / "gpu.json")])
    rows = found["rows"]
    assert not [row for row in rows if "failed" in row] and not found["left_out"]
    assert {row["precision"] for row in rows} == set(gpu.PRECISIONS)
    assert all(row["milliseconds"] > 0 and row["tflop"] > 0 and math.isfinite(row["of_matmul_rate"]) for row in rows)
    # all ways of a task compute the same
    exact = [row["difference"] for row in rows if row["precision"] == "float32" and "difference" in row]
    assert len(exact) >= 8 and max(exact) < 1e-4
    assert max(row.get("difference", 0) for row in rows) < 0.1
    # an encoding for every plane is what the published procedure costs
    tasks = {(row["way"], row["precision"]): row["tflop"] for row in rows if row["task"] == rows[0]["task"]}
    assert tasks["published (one encoding a plane)", "float32"] > 5 * tasks["ours", "float32"]
    assert json.loads((tmp_path / "gpu.json").read_text())["device"] == "CPU"
    assert capsys.readouterr().out.count("\n| ") == len(rows) + 1


def test_a_way_that_fails_and_a_time_that_is_over(monkeypatch):
    def broken(precision: str, compiled: bool):
        raise MemoryError("no room\nmore words")

    for of in ("most_dsa_ways", "transmrsr_ways"):
        monkeypatch.setattr(gpu, of, lambda sizes, device: [])
    monkeypatch.setattr(gpu, "arssr_ways", lambda sizes, device: [gpu.Way("task", "ours", broken)])
    saved: list[int] = []
    found = gpu.run(torch.device("cpu"), gpu.TINY, save=lambda found: saved.append(len(found["rows"])))
    assert saved[:3] == [1, 2, 3], "what is measured is kept, whatever comes after it"
    assert found["rows"][0]["failed"] == "MemoryError: no room" and "MemoryError" in gpu.table(found)
    found = gpu.run(torch.device("cpu"), gpu.TINY, max_minutes=1e-9)
    assert found["rows"] == [] and len(found["left_out"]) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card():
    with pytest.raises(SystemExit, match="--device cpu --tiny"):
        gpu.main([])
    with pytest.raises(SystemExit):
        gpu_session.main(["--minutes", "1", "--output_dir", "out"])


def test_feeding(tmp_path):
    rows = feeding.main(["--tiny", "--json", str(tmp_path / "feeding.json")])
    assert [row["bundle"] for row in rows] == list(feeding.BUNDLES)
    assert all(row["patches_per_second"] > 0 and row["timed"] == 3 for row in rows)


@pytest.mark.parametrize("bundle", gpu_session.BUNDLES)
def test_larger_configurations(bundle):
    """They are what docs/gpu.md says: larger than the light ones, 16 MB at most, fed by workers on a GPU only."""
    configs = REPOSITORY / "bundles" / bundle / "configs"
    sizes = []
    for files in (["train.json"], ["train.json", "train_large.json"]):
        parser = ConfigParser()
        parser.read_config([str(configs / name) for name in files])
        parser.update({"device": "cpu"})
        assert parser.get_parsed_content("num_workers") == 0
        with torch.device("meta"):
            sizes.append(sum(p.numel() for p in parser.get_parsed_content("network_def").parameters()))
    assert 1.5 * sizes[0] < sizes[1] and 4 * sizes[1] <= 16e6


@pytest.mark.slow
def test_session(tmp_path, monkeypatch):
    """Checks, benchmark and a training of arssr, in this order; the training has what the others left."""
    data = feeding.make_tiny_data(tmp_path)["arssr"]
    out = tmp_path / "out"
    usual = gpu_session.Session.command

    def command(self: gpu_session.Session, name: str, arguments: list[str], log: str, limit: float) -> None:
        wanted = {"checks": ["-c", "import time; time.sleep(60)"], "benchmark": ["-c", "print('table'); exit(3)"]}
        usual(self, name, wanted[name], log, 0.5 if name == "checks" else limit)

    monkeypatch.setattr(gpu_session.Session, "command", command)
    options = ["--minutes", "0.5", "--train", "arssr", "--dataset_dir", str(data), "--output_dir", str(out)]
    gpu_session.main([*options, "--device", "cpu", "--tiny", "--option", "seed=3", "validation_fraction=0.5"])
    checks, benchmark, training = json.loads((out / "session.json").read_text())["steps"]
    assert "stopped after" in checks["result"] and "status 3, see benchmark.txt" in benchmark["result"]
    assert (out / "benchmark.txt").read_text() == "table\n"
    assert training["result"] == "done" and training["iterations"] > 0 and "psnr_db" in training["last"]
    state = torch.load(out / "training" / "checkpoint.pt", weights_only=True)
    assert state["time_budget"]["seconds"] < 30 and state["optimizer"]["param_groups"][0]["lr"] == 0
    assert (out / "training" / "model_last.pt").is_file()


def test_session_says_what_is_wrong(tmp_path, capsys):
    start = ["--minutes", "1", "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    for more, words in (
        (["--train", "arssr"], "--train arssr needs --dataset_dir"),
        (["--train", "arssr", "--dataset_dir", "nowhere"], "--dataset_dir nowhere is not a folder"),
        (["--option", "seed"], "'seed' is not NAME=VALUE"),
    ):
        with pytest.raises(SystemExit):
            gpu_session.main([*start, *more])
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
