"""A folder of studies by torchrun: each done once and whole, also when the job is killed; a summary of all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_nets.utils.record import file_record
from tests.bundles import most_dsa_runs, runner, test_transmrsr_inference
from tests.bundles.runner import REPOSITORY, command_line, newcomer, volumes
from tests.tools.pages import tiny_arssr

ARSSR = REPOSITORY / "bundles" / "arssr"
infer = partial(runner.infer, ARSSR)
message_of = partial(runner.message_of, ARSSR)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny_arssr(tmp_path_factory.mktemp("weights"), 4)


def studies(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        values = np.random.default_rng(number).random((8, 9, 6), dtype=np.float32)
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), folder / f"sub-{number:02}.nii.gz")
    return folder


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


# ---- by torchrun ----


def workers(launcher: int) -> list[int]:
    """Processes that torchrun started."""
    children = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True).stdout.split()
    return sorted(map(int, children))


def test_a_killed_job_started_again_does_the_rest(weights, tmp_path):
    folder, out = studies(tmp_path / "in", 40), tmp_path / "out"
    arguments = ("--input", folder, "--output_dir", out, "--scale", "2", "--checkpoint", weights, "--preview", "False")
    config = str(ARSSR / "configs" / "inference.json")
    line = command_line(config, *arguments, processes=2)
    with open(tmp_path / "first.log", "w") as log:
        job = subprocess.Popen(line, cwd=REPOSITORY, env=newcomer(), stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 300
        while len(list(out.glob("*.json"))) < 5:
            assert job.poll() is None and time.monotonic() < end, (tmp_path / "first.log").read_text()[-3000:]
            time.sleep(0.005)
        os.kill(workers(job.pid)[-1], signal.SIGKILL)
        assert job.wait(timeout=120) != 0
    done = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    done |= {path: path.stat().st_mtime_ns for record in list(done) for path in [record.with_suffix(".nii.gz")]}
    assert 10 <= len(done) < 80 and not (out / "summary.json").exists()

    again = runner.command(config, *arguments, processes=2)
    assert again.returncode == 0, again.stderr[-3000:]
    assert volumes(out) == [f"sub-{number:02}_arssr.nii.gz" for number in range(40)]
    for number in range(40):
        image = nib.load(out / f"sub-{number:02}_arssr.nii.gz")
        assert image.shape == (16, 18, 12) and np.isfinite(image.get_fdata()).all()
        record = json.loads((out / f"sub-{number:02}_arssr.json").read_text())
        assert record["input"]["sha256"] == file_record(folder / f"sub-{number:02}.nii.gz")["sha256"]
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what was there was not computed again"

    summary = summary_of(out)
    assert (summary["cases"], summary["failed"], summary["processes"]) == (40, 0, 2)
    assert summary["already_there"] == len(done) // 2 and summary["made"] == 40 - len(done) // 2
    assert [result["case"] for result in summary["results"]] == [f"sub-{number:02}" for number in range(40)]
    ranks = [result["rank"] for result in summary["results"]]
    assert ranks.count(0) == ranks.count(1) == 20
    for result in summary["results"]:
        there = out / f"{result['case']}_arssr.json" in done
        assert result["status"] == ("already there" if there else "made")
    assert str(out / "summary.json") in again.stdout


SCRIPT = """
import json, os, sys
from pathlib import Path
from tests.bundles.runner import REPOSITORY, infer

codes = []
for bundle, input, out, options in json.loads(sys.argv[1]):
    try:
        infer(REPOSITORY / "bundles" / bundle, Path(input), Path(out), **options)
    except SystemExit as error:
        codes.append(str(error.code))
sys.exit("; ".join(codes) or None)
"""


def test_every_bundle_shares_its_studies(weights, tmp_path):
    """Three bundles one after the other in the same two processes: less studies than processes, and one that fails."""
    alone = studies(tmp_path / "alone", 1)
    thick = studies(tmp_path / "thick", 2)
    (tmp_path / "runs").mkdir()
    for number in range(3):
        frames = np.random.default_rng(number).integers(0, 255, (4, 24, 20), dtype=np.uint8)
        np.savez(tmp_path / "runs" / f"run-{number}.npz", frames=frames, times_s=np.arange(4) / 4)
    (tmp_path / "runs" / "run-3.npz").write_text("this is no run")
    frame_weights = most_dsa_runs.save_weights(tmp_path, 0, 0.02)
    plane_weights = test_transmrsr_inference.save_weights(tmp_path / "thick", 0.02)
    work = [
        ("arssr", alone, {"scale": 2, "checkpoint": weights}),
        ("transmrsr", thick, {"checkpoint": plane_weights}),
        ("most_dsa", tmp_path / "runs", {"frames_between": 1, "checkpoint": frame_weights}),
    ]
    given = [(bundle, folder, tmp_path / f"out_{bundle}", options) for bundle, folder, options in work]
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "script.py"), json.dumps(given, default=str)],
        cwd=tmp_path, env={**newcomer(), "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "error: 1 of 4 cases failed:\n  run-3: " in done.stderr, done.stderr[-3000:]
    assert volumes(tmp_path / "out_arssr") == ["sub-00_arssr.nii.gz"]
    assert volumes(tmp_path / "out_transmrsr") == ["sub-00_transmrsr.nii.gz", "sub-01_transmrsr.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "out_most_dsa").glob("*.npz")) == [
        f"run-{number}_most_dsa.npz" for number in range(3)
    ]
    summaries = {bundle: summary_of(tmp_path / f"out_{bundle}") for bundle, *_ in work}
    assert {name: (s["made"], s["failed"], s["processes"]) for name, s in summaries.items()} == {
        "arssr": (1, 0, 2),
        "transmrsr": (2, 0, 2),
        "most_dsa": (3, 1, 2),
    }
    assert {result["rank"] for result in summaries["transmrsr"]["results"]} == {0, 1}
    failed = summaries["most_dsa"]["results"][3]
    assert failed["status"] == "failed" and "run-3.npz" in failed["message"] and failed["output"] is None


# ---- in one process ----


def test_one_process_writes_the_summary_too(weights, tmp_path, capfd):
    folder, out = studies(tmp_path / "in", 3), tmp_path / "out"
    (folder / "sub-01.nii.gz").write_text("this is no image")
    message = message_of(folder, out, scale=2, checkpoint=weights)
    assert message.startswith("error: 1 of 3 cases failed:\n  sub-01: ")
    summary = summary_of(out)
    assert [result["status"] for result in summary["results"]] == ["made", "failed", "made"]
    assert "cannot be read as an image volume" in summary["results"][1]["message"]
    assert summary["results"][2]["output"] == "sub-02_arssr.nii.gz" and str(folder) not in json.dumps(summary)
    assert "all                3       2              0       1" in capfd.readouterr().out

    infer(folder / "sub-00.nii.gz", tmp_path / "single", scale=2, checkpoint=weights)
    assert not (tmp_path / "single" / "summary.json").exists(), "of one study the record says all"


def test_what_a_killed_process_left_is_neither_input_nor_result(weights, tmp_path):
    folder = studies(tmp_path / "in", 2)
    left = [folder / ".part-01234567-1-sub-00_arssr.nii.gz", folder / ".part-01234567-1-sub-01.nii.gz"]
    for path in left:
        path.write_bytes(b"half of a file")
    an_hour_ago = time.time() - 3700
    os.utime(left[0], (an_hour_ago, an_hour_ago))
    infer(folder, folder, scale=2, checkpoint=weights)
    assert volumes(folder) == [
        left[1].name, "sub-00.nii.gz", "sub-00_arssr.nii.gz", "sub-01.nii.gz", "sub-01_arssr.nii.gz",
    ]  # fmt: skip  # the young one may be somebody's work in another process
    assert [result["status"] for result in summary_of(folder)["results"]] == ["made", "made"]


def test_a_run_whose_list_of_frames_alone_is_there_is_made(tmp_path):
    """Killed between the two files that belong together."""
    weights = most_dsa_runs.save_weights(tmp_path, 0, 0.02)
    np.savez(tmp_path / "run.npz", frames=np.random.default_rng(0).random((4, 24, 20), dtype=np.float32))
    out = most_dsa_runs.infer(tmp_path / "run.npz", tmp_path / "out", frames_between=1, checkpoint=weights)
    for name in ("run_most_dsa.npz", "run_most_dsa.json"):
        (out / name).unlink()
    most_dsa_runs.infer(tmp_path / "run.npz", out, frames_between=1, checkpoint=weights)
    assert len(np.load(out / "run_most_dsa.npz")["frames"]) == 7


def test_the_result_of_another_input_is_not_taken_for_this_one(weights, tmp_path, monkeypatch):
    """The same relative path in two folders, and a result that changed after its record was written."""
    for name in ("a", "b"):
        studies(tmp_path / name, 2)
    (tmp_path / "b" / "sub-01.nii.gz").replace(tmp_path / "b" / "sub-00.nii.gz")  # another person
    monkeypatch.chdir(tmp_path / "a")
    infer("sub-00.nii.gz", tmp_path / "out", scale=2, checkpoint=weights)
    infer(str(tmp_path / "a" / "sub-00.nii.gz"), tmp_path / "out", scale=2, checkpoint=weights)
    monkeypatch.chdir(tmp_path / "b")
    message = message_of("sub-00.nii.gz", tmp_path / "out", scale=2, checkpoint=weights)
    assert re.search(r"made with another input \(SHA-256 \w{12}, now \w{12}\)", message)
    monkeypatch.chdir(tmp_path / "a")
    with open(tmp_path / "out" / "sub-00_arssr.nii.gz", "ab") as file:
        file.write(b"more")
    message = message_of("sub-00.nii.gz", tmp_path / "out", scale=2, checkpoint=weights)
    assert "changed since, or interrupted" in message and "--overwrite True" in message


@pytest.mark.parametrize("names, postfix", [(("a", "A"), "arssr"), (("a_arssr", "a"), ""), (("summary", "b"), "")])
def test_two_results_of_one_name_are_refused(names, postfix, weights, tmp_path):
    """File systems may take upper and lower case for the same; the summary has a name as well."""
    folder = studies(tmp_path / "in", 2)
    items = [{"image": str(path), "case": case} for path, case in zip(sorted(folder.iterdir()), names, strict=True)]
    options = {"dataset#data": items, "scale": 2, "checkpoint": weights, "output_postfix": postfix}
    if names == ("a_arssr", "a"):
        infer(folder, tmp_path / "out", **options)
        assert volumes(tmp_path / "out") == ["a.nii.gz", "a_arssr.nii.gz"]
        return
    message = message_of(folder, tmp_path / "out", **options)
    assert "would be written to the same file" in message and "--output_postfix" in message
    assert volumes(tmp_path / "out") == []
