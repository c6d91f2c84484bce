"""Killed (SIGKILL) at random moments and started again: the end is that of an undisturbed work, and no part is left.

``KILLS=30 python -m pytest tests/test_kills.py`` kills each kind of work 30 times; the suite does it twice, and leaves
trainings and the registry out, which take their time to start.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from custom_nets.utils.record import file_record
from tests.tools.identities import found_in

KILLS = int(os.environ.get("KILLS", 0))
LIMIT_S = 300.0
NAMED = "records of QDOEX"  # whose name must stand in nothing that a killed process leaves

# children are forked from a process that has imported all of this, and has done nothing
PRELOADED = ["tests.test_kills", "tests.bundles.test_arssr_training", "tests.bundles.test_many_studies"]
PRELOADED += ["custom_nets.bundle.pack", "custom_nets.visualize.figure", "custom_nets.tracking.registry", "mlflow"]


def inference(folder: Path) -> None:
    from tests.bundles.runner import infer
    from tests.bundles.test_many_studies import ARSSR

    infer(ARSSR, folder / NAMED, folder / "out", scale=2, checkpoint=folder / "tiny.pt", preview=True)


def training(folder: Path) -> None:
    import torch

    from tests.bundles.test_arssr_training import workflow

    short = {"max_epochs": 3, "iterations_per_epoch": 2, "val_interval": 1}
    state = folder / "out" / "checkpoint.pt"
    if state.is_file() and torch.load(state, weights_only=True)["complete"]:
        return
    made = workflow(folder / "heads", folder / "out", resume=state.is_file(), **short)
    made.run()
    made.finalize()


def packing(folder: Path) -> None:
    from custom_nets.bundle.pack import pack

    pack("arssr", folder / "out" / "arssr.zip")


def reporting(folder: Path) -> None:
    from matplotlib.figure import Figure

    from custom_nets.utils.files import write_json, write_text
    from custom_nets.visualize.figure import save_figure

    for number in range(4):
        figure = Figure(figsize=(4, 4))
        figure.subplots().imshow(np.full((50, 50), number))
        save_figure(figure, folder / "out" / f"{number}.png")
        write_text(folder / "out" / "rows.csv", "a,b\n" * (number + 1) * 20_000)
    write_json(folder / "out" / "report.json", list(range(50_000)))


def registering(folder: Path) -> None:
    from custom_nets.tracking import registry
    from custom_nets.tracking.client import sqlite_uri

    (folder / "registry").mkdir(exist_ok=True)
    uri = sqlite_uri(folder / "registry")
    try:
        there = registry.list_versions("arssr", uri)
    except (ValueError, OSError):
        there = []
    if not there:
        registry.register(str(folder / "bundle"), "arssr", uri)
    registry.promote("arssr", registry.list_versions("arssr", uri)[0]["version"], tracking_uri=uri)
    if not (folder / "out" / "arssr").exists():
        registry.fetch("arssr", folder / "out", tracking_uri=uri)


def prepared(kind: str, folder: Path) -> Path:
    """What a work needs; the same for every call."""
    import nibabel as nib

    from tests.bundles.test_many_studies import ARSSR, studies
    from tests.bundles.training import simulated_head
    from tests.tools.pages import tiny_arssr

    folder.mkdir()
    (folder / "out").mkdir()
    (folder / "tmp").mkdir()
    if kind == "inference":
        studies(folder / NAMED, 2)
    elif kind == "training":
        (folder / "heads").mkdir()
        for seed in range(2):
            nib.save(simulated_head(seed), folder / "heads" / f"sub-{seed:02d}_T1w.nii.gz")
    if kind in ("inference", "registering"):
        tiny_arssr(folder, 4)
    if kind == "registering":
        from custom_nets.bundle.folder import copy_bundle

        copy_bundle(ARSSR, folder / "tiny.pt", folder / "bundle")
    return folder


WORKS: dict[str, Callable[[Path], None]] = {
    work.__name__: work for work in (inference, training, packing, reporting, registering)
}


def work_in(kind: str, folder: str) -> None:
    os.setpgid(0, 0)
    tempfile.tempdir = str(Path(folder) / "tmp")
    WORKS[kind](Path(folder))


def run(kind: str, folder: Path, kill_after_s: float | None = None) -> float:
    """Seconds that it took; with a time to kill it at."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work_in, args=(kind, str(folder)))
    started = time.monotonic()
    process.start()
    process.join(LIMIT_S if kill_after_s is None else kill_after_s)
    if kill_after_s is None:
        assert process.exitcode == 0
    elif process.is_alive():
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join(60)
    return time.monotonic() - started


def end_of(kind: str, folder: Path) -> dict[str, str]:
    """Name -> hash of what a work leaves, without what says when it was."""
    import json

    import torch

    found = {}
    for path in sorted((folder / "out").rglob("*")):
        if path.is_dir() or path.suffix in (".log", ".db") or "mlruns" in path.parts:
            continue
        name = path.relative_to(folder / "out").as_posix()
        if path.suffix == ".pt":  # the archive of the same tensors may differ
            weights = torch.load(path, weights_only=True)
            found[name] = hashlib.sha256(repr([(k, v.sum().item()) for k, v in _tensors(weights)]).encode()).hexdigest()
        elif path.suffix == ".json" and kind in ("inference", "registering"):
            found[name] = (
                "" if path.name in ("registered.json", "summary.json") else _lasting(json.loads(path.read_text()))
            )
        else:
            found[name] = str(file_record(path)["sha256"])
    return found


def _tensors(content: object, prefix: str = "") -> list:
    if hasattr(content, "items"):
        return [found for key, value in content.items() for found in _tensors(value, f"{prefix}/{key}")]
    return [(prefix, content)] if hasattr(content, "sum") else []


def _lasting(record: dict) -> str:
    passing = ("seconds", "peak_memory_gib", "bundle_root", "checkpoint")  # the folder of the weights is another
    return repr({key: value for key, value in record.items() if key not in passing})


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", WORKS)
@pytest.mark.slow
def test_killed_and_started_again(kind, tmp_path):
    if kind in ("training", "registering"):
        pytest.importorskip("mlflow")
        if not KILLS:
            pytest.skip("minutes: KILLS=30 runs it")
    kills = KILLS or 2
    whole = prepared(kind, tmp_path / "undisturbed")
    took = run(kind, whole)
    wanted = end_of(kind, whole)
    assert wanted
    rng = np.random.default_rng(len(kind))
    rounds = 1 if kills <= 3 else 5
    for number in range(rounds):
        folder = prepared(kind, tmp_path / f"killed{number}")
        for _ in range(max(1, kills // rounds)):
            run(kind, folder, kill_after_s=float(rng.uniform(0.02, took)))
            assert found_in(folder / "out", ["qdoex"]) == found_in(folder / "tmp", ["qdoex"]) == []
        run(kind, folder)
        assert end_of(kind, folder) == wanted
        assert [path for path in folder.rglob(".part-*")] == []
