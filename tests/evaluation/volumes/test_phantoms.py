"""Phantoms of which all is known: their shape, and the figures of a network that only interpolates."""

import json

import numpy as np
import pytest

import custom_nets
from custom_nets.evaluation.volumes import phantoms
from custom_nets.networks import ResidualArSSR


def test_a_sphere_holds_its_volume_and_an_edge_half():
    ball = phantoms.sphere(32, 10)
    filled = (ball - phantoms.LOW) / (phantoms.HIGH - phantoms.LOW)
    assert filled.sum() == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.01)
    assert filled[16, 16, 16] == pytest.approx(1) and filled[0, 0, 0] == pytest.approx(0)
    np.testing.assert_allclose(ball, ball[::-1, ::-1, ::-1])
    edge = phantoms.oblique_edge(32)
    assert edge.mean() == pytest.approx((phantoms.LOW + phantoms.HIGH) / 2, abs=0.01)


def test_interpolation_is_measured_as_it_is(monkeypatch):
    monkeypatch.setattr(phantoms, "PROFILES", ("kspace:1.0",))
    monkeypatch.setattr(phantoms, "SCALES", {"iso2": (2, 2, 2)})
    plain = ResidualArSSR(feature_dim=4, num_features=4, growth=4, num_blocks=1, num_layers=1, decoder_width=8)
    ours, spline = sorted(phantoms.measure({"ours": plain.eval()}, side=48), key=lambda row: row["method"] != "ours")
    assert spline["overshoot, edge (%)"] > 5 > ours["overshoot, edge (%)"] > 0  # limited, which the spline is not
    assert 0.8 < spline["noise, sd"] < 1.2 and spline["noise, largest"] > 3
    assert spline["noise, sd"] < ours["noise, sd"] < 1.4 * spline["noise, sd"]  # made consistent: noise, too


def test_the_command_writes_a_table_and_a_record(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(phantoms, "measure", lambda networks, told: [{"method": n, "noise, sd": 1.0} for n in networks])
    phantoms.main([str(tmp_path / "report"), "--checkpoint", f"{custom_nets.bundle_root('arssr')}/models/model.pt"])
    assert "| ResidualArSSR | 1.0 |" in (tmp_path / "report" / "table.md").read_text() == capsys.readouterr().out[:-1]
    assert json.loads((tmp_path / "report" / "record.json").read_text())["options"]["auto"] is False
