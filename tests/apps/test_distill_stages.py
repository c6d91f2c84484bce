"""Students in stages: what is run, in which order, and what is not run again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from custom_nets.apps import distill_stages


def test_each_stage_inherits_from_the_one_before(tmp_path, monkeypatch):
    run: list[list[str]] = []

    def fake(command: list[str]) -> subprocess.CompletedProcess:
        run.append(command)
        folder = Path(command[command.index("--output_dir") + 1])
        folder.mkdir(parents=True)
        (folder / "model_last.pt").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(distill_stages.subprocess, "run", fake)
    line = ["arssr", "--shares", "0.75", "0.5", "--output_dir", str(tmp_path), "--dataset_dir", "DATA"]
    distill_stages.main(line)
    assert [command[command.index("--student_share") + 1] for command in run] == ["0.75", "0.5"]
    assert all(command[command.index("--dataset_dir") + 1] == "DATA" for command in run)
    assert "--inherit_from" not in run[0]
    assert run[1][run[1].index("--inherit_from") + 1] == str(tmp_path / "75_percent" / "model.pt")

    # a finished stage stays, a stopped one goes on
    (tmp_path / "50_percent" / "model_last.pt").rename(tmp_path / "50_percent" / "checkpoint.pt")
    monkeypatch.setattr(distill_stages.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 3))
    with pytest.raises(SystemExit) as stopped:
        distill_stages.main(line)
    assert stopped.value.code == 3
    planned = distill_stages.stages("arssr", [0.75, 0.5], tmp_path, [])
    assert [folder.name for folder, _ in planned] == ["75_percent", "50_percent"]


@pytest.mark.parametrize("shares", [["0.5", "0.75"], ["1.5"], ["0"]])
def test_shares_fall(shares, tmp_path):
    with pytest.raises(SystemExit, match="--shares must fall"):
        distill_stages.main(["arssr", "--output_dir", str(tmp_path), "--shares", *shares])
