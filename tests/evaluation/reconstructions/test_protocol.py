"""Evaluation on phantoms: the truth scores as the truth, plain methods as they must, and the report says all of it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from custom_nets.evaluation.reconstructions.protocol import (
    BEST_STILL,
    FDK,
    SART,
    Fitted,
    PhantomEvaluator,
    StillVolume,
    phantom_items,
    score_answer,
)
from custom_nets.evaluation.reconstructions.report import ReconstructionReport
from custom_nets.simulation.phantom import PhantomSettings, VesselFlowPhantom

SMALL = PhantomSettings(
    frames=16, size=(30, 36), pixel_mm=3.6, volume_shape=(24, 24, 24), voxel_mm=2.6, smallest_radius_mm=1.0,
    inlets=1, veins=False,
)  # fmt: skip


class Truth:
    """A method that knows the phantom, with its clock off by ``late_s``."""

    def __init__(self, phantom: VesselFlowPhantom, late_s: float = 0.0) -> None:
        self.phantom, self.late_s = phantom, late_s

    def voxel_curves(self, times_s):
        voxels = self.phantom.voxel_curves[0]
        curves = [self.phantom.volume(float(t) - self.late_s).ravel()[voxels] for t in times_s]
        return torch.from_numpy(voxels), torch.from_numpy(np.stack(curves))


@pytest.fixture(scope="module")
def phantom() -> VesselFlowPhantom:
    return VesselFlowPhantom(1, SMALL)


def test_the_truth_scores_as_the_truth(phantom):
    scores, mean, arrival = score_answer(phantom, Truth(phantom), np.array([3, 8]))
    assert scores["error_4d"] == 0 and scores["dice"] > 0.97 and scores["arrival_s"] == 0
    assert scores["arrival_share"] == 1 and scores["view_nrmse"] < 0.3
    np.testing.assert_allclose(mean, phantom.mean_volume, atol=1e-7)
    np.testing.assert_allclose(arrival[phantom.coverage >= 0.5], phantom.arrival_s[phantom.coverage >= 0.5])


def test_a_late_clock_is_seen_in_arrival_and_4d_error(phantom):
    scores, _, _ = score_answer(phantom, Truth(phantom, late_s=0.3), np.array([3, 8]))
    assert scores["arrival_s"] == pytest.approx(0.3, abs=0.1)
    assert scores["error_4d"] > 0.1


def test_the_best_still_volume_is_the_best(phantom):
    def error(volume):
        return score_answer(phantom, StillVolume(torch.from_numpy(volume)), np.array([3]))[0]["error_4d"]

    best = error(phantom.mean_volume)
    assert best < 1 and best < error(1.1 * phantom.mean_volume) and best < error(0.9 * phantom.mean_volume)
    assert error(np.zeros_like(phantom.mean_volume)) == 1


class Constant:
    """Stands for a field and its fit."""

    def __init__(self) -> None:
        self.level = 0.0

    def fit(self, network, scan, device) -> None:
        network.level = float(scan.projections.max()) / 100
        network.size = int(np.prod(scan.volume_shape))

    def voxel_curves(self, times_s):
        return torch.arange(self.size), torch.full((len(times_s), self.size), self.level)


def test_evaluation_writes_scores_table_summary_and_pictures(tmp_path):
    items = phantom_items([1, 2], "moderate")
    field = Constant()
    methods = {"ours": Fitted(field, field), "FDK": FDK(), "SART": SART(2)}
    report = ReconstructionReport(tmp_path, {"views": 8})
    evaluator = PhantomEvaluator(items, methods, views=8, settings=SMALL, val_handlers=[report])
    evaluator.run()
    assert field.level == 0  # each scan has a copy
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [(r["case"], r["method"]) for r in rows] == [
        (case, method) for case in ("seed 1", "seed 2") for method in ("ours", "FDK", "SART", BEST_STILL)
    ]
    errors = {(r["case"], r["method"]): float(r["error_4d"]) for r in rows}
    assert errors["seed 1", BEST_STILL] < errors["seed 1", "SART"] < errors["seed 1", "ours"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["records"][0]["views"] == [0, 2, 4, 6, 8, 10, 12, 14]
    mean = next(
        r["mean"] for r in summary["summary"] if (r["method"], r["metric"]) == ("SART", "error_4d")
    )  # fmt: skip
    assert mean == pytest.approx((errors["seed 1", "SART"] + errors["seed 2", "SART"]) / 2)
    table = (tmp_path / "table.md").read_text()
    assert "moderate noise, 2 phantoms" in table and "Ours is better in 4D error on: FDK" in table
    assert evaluator.state.metrics["moderate/all/error_4d/SART"] == pytest.approx(mean)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_mistakes():
    assert phantom_items([2], None) == phantom_items([2], "none"), "'none' on a command line would be a word"
    with pytest.raises(ValueError, match="different whole numbers"):
        phantom_items([1, 1])
    with pytest.raises(ValueError, match=r"unknown noise \['loud'\]; there are none, moderate, heavy"):
        phantom_items([1], "loud")
    with pytest.raises(ValueError, match="views must be 2 to 15"):
        PhantomEvaluator(phantom_items([1]), {"FDK": FDK()}, views=16, settings=SMALL)
    with pytest.raises(ValueError, match="at least one"):
        PhantomEvaluator(phantom_items([1]), {}, settings=SMALL)
