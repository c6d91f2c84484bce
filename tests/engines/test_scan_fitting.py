"""Fits of one scan: better than a still volume, the same again, going on after a kill, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from custom_nets.data.angiography.views import Acquisition
from custom_nets.engines import ActivateLevels, DensifyAndPrune, GrowGrid, ScanFitting, turn_warning, vessel_support
from custom_nets.engines.scan_fitting import ViewLoader, _Guard
from custom_nets.engines.vessel_support import noise_level
from custom_nets.metrics.reconstruction import error_4d
from custom_nets.networks import TOGS, VPAL, BolusAtoms, TiAVox
from custom_nets.operators.cone_beam import ConeBeamOperator, fdk
from custom_nets.simulation.phantom import PhantomSettings, VesselFlowPhantom

SETTINGS = PhantomSettings(
    frames=40, size=(48, 48), pixel_mm=3.2, volume_shape=(32, 32, 32), voxel_mm=2.8, inlets=1,
    smallest_radius_mm=0.9, counts=5e4,
)  # fmt: skip
METHODS = {
    "atoms": lambda: (BolusAtoms(num_atoms=8, injection_s=2.0), ScanFitting(40, optimizer="fista", progress=False)),
    "tiavox": lambda: (TiAVox(), ScanFitting(20, 5, learning_rate=0.1, schedules=[GrowGrid()], progress=False)),
    "vpal": lambda: (
        VPAL(levels=4, log2_table=12, dynamic_levels=3, width=16),
        ScanFitting(16, 5, learning_rate=0.01, schedules=[ActivateLevels()], time_jitter=0.5, progress=False),
    ),
    "togs": lambda: (
        TOGS(num_gaussians=300),
        ScanFitting(10, 5, schedules=[DensifyAndPrune(every=3)], progress=False),
    ),
}


@cache
def phantom() -> VesselFlowPhantom:
    return VesselFlowPhantom(3, SETTINGS)


@cache
def scan() -> Acquisition:
    whole = phantom().acquisition()
    return whole.subset(whole.views(16))


@cache
def support():
    return vessel_support(scan())


def error_of(field) -> float:
    times = phantom().times_s[::4]
    voxels, curves = field.voxel_curves(times)
    made = np.zeros((len(times), int(np.prod(SETTINGS.volume_shape))), np.float32)
    made[:, voxels.numpy()] = curves.numpy()
    return error_4d(made.reshape(len(times), *SETTINGS.volume_shape), phantom().volumes(times))


@cache
def still_error() -> float:
    volume = fdk(ConeBeamOperator.of(scan()), torch.from_numpy(scan().projections)).clamp(min=0).numpy()
    times = phantom().times_s[::4]
    return error_4d([volume] * len(times), phantom().volumes(times))


def test_the_support_is_small_and_holds_the_vessels():
    found, mean = support(), phantom().mean_volume.flatten()
    assert len(found.voxels) < 0.2 * mean.size
    assert mean[found.voxels.numpy()].sum() > 0.9 * mean.sum()
    assert 0.3 * SETTINGS.iodine_per_mm < found.attenuation < 1.5 * SETTINGS.iodine_per_mm


def test_a_turn_of_the_wrong_sign_is_noticed():
    """Only perspective tells: what is nearer to the source is enlarged more."""
    settings = replace(SETTINGS, frames=16, size=(56, 72), pixel_mm=2.4, volume_shape=(44, 44, 40), voxel_mm=2.2)
    made = VesselFlowPhantom(3, replace(settings, smallest_radius_mm=0.7))
    turned = made.geometry_at(-made.angles_rad)
    names = ("source_mm", "panel_mm", "column_step_mm", "row_step_mm")
    right = made.acquisition()
    wrong = replace(right, **{name: getattr(turned, name) for name in names})
    assert turn_warning(right, vessel_support(right)) is None
    assert "turn the wrong way" in turn_warning(wrong, vessel_support(wrong))


def test_noise_is_measured_beside_the_vessels():
    noise = np.random.default_rng(0).normal(0, 0.02, (4, 40, 40)).astype(np.float32)
    noise[:, 10:14, :8] += 0.5
    assert abs(noise_level(torch.from_numpy(noise)) - 0.02) < 0.002
    weights = torch.full((4, 40, 40), 4.0)
    assert abs(noise_level(torch.from_numpy(noise), weights) - 0.04) < 0.004


def test_a_scan_without_vessels_is_said():
    nothing = np.random.default_rng(0).normal(0, 0.01, scan().projections.shape).astype(np.float32)
    empty = Acquisition(**{**vars(scan()), "projections": nothing, "weights": None})
    with pytest.raises(ValueError, match="no vessel is seen"):
        vessel_support(empty)


@pytest.mark.parametrize("name", METHODS)
def test_a_fit_is_better_than_filtered_back_projection_and_the_same_again(name):
    fields = []
    for _ in range(2):
        field, fitting = METHODS[name]()
        curve = fitting.fit(field, scan(), support=support())
        assert curve.stopped == "done" and len(curve.loss) == fitting.max_epochs
        assert curve.loss[-1] < 0.7 * curve.loss[0]
        fields.append(field)
    assert error_of(fields[0]) < 0.85 * still_error()
    for one, other in zip(fields[0].state_dict().values(), fields[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_injection_is_measured_on_the_scan():
    field, fitting = BolusAtoms(), METHODS["atoms"]()[1]
    curve = fitting.fit(field, scan(), support=support())
    assert abs(field.injection_s - phantom().bolus.duration_s) < 0.4
    assert 1 <= len(curve.notes) <= 3 and f"last {field.injection_s:.2f} s" in curve.notes[-1]
    with pytest.raises(RuntimeError, match="left to the scan"):
        BolusAtoms().curves(torch.zeros(1))


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_fit_goes_on_as_if_nothing_had_been(name, tmp_path, monkeypatch):
    field, fitting = METHODS[name]()
    fitting.save_every_s = 0.0
    whole = fitting.fit(field, scan(), support=support())

    killed, fitting = METHODS[name]()
    fitting.save_every_s = 0.0
    save, saved = _Guard.save, []

    def save_and_die(self, engine):
        save(self, engine)
        saved.append(engine.state.epoch)
        if engine.state.epoch == fitting.max_epochs // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Guard, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        fitting.fit(killed, scan(), state_file=tmp_path / "state.pt", support=support())
    monkeypatch.setattr(_Guard, "save", save)
    again, fitting = METHODS[name]()
    rest = fitting.fit(again, scan(), state_file=tmp_path / "state.pt")
    assert saved[-1] == fitting.max_epochs // 2 and not (tmp_path / "state.pt").exists()
    assert rest.loss == whole.loss
    for one, other in zip(field.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_state_of_another_scan_is_not_taken(tmp_path, caplog):
    field, fitting = METHODS["tiavox"]()
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no state of a fit"):
        fitting.fit(field, scan(), state_file=tmp_path / "state.pt", support=support())


def test_time_and_held_out_views_end_a_fit():
    field, fitting = METHODS["tiavox"]()
    fitting.max_minutes = 1e-9
    curve = fitting.fit(field, scan(), support=support())
    assert curve.stopped == "time" and len(curve.loss) == 1 and "minutes" in curve.notes[0]

    field, fitting = METHODS["tiavox"]()
    fitting.held_out, fitting.patience, fitting.max_epochs = 2, 1, 30
    curve = fitting.fit(field, scan(), support=support())
    assert curve.held_out and set(curve.held_out) <= set(range(5, 31, 5))


def test_views_come_in_an_order_that_follows_from_seed_and_epoch():
    loader = ViewLoader(scan(), 5, seed=1)
    first = [batch["view"].tolist() for batch in loader]
    assert sorted(sum(first, [])) == list(range(16)) and len(loader) == 4
    loader.epoch = 1
    assert [batch["view"].tolist() for batch in loader] != first
    loader.epoch = 0
    assert [batch["view"].tolist() for batch in loader] == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, "adam or fista"),
        ({"loss": "huber"}, "l1 or l2"),
        ({"optimizer": "fista", "views_per_batch": 4}, "all views at once"),
        ({"max_epochs": 0}, "max_epochs >= 1"),
        ({"max_minutes": 0}, "max_minutes > 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScanFitting(**options)
