"""How far corrections go, of networks that only interpolate: known gains, and a bound that is put back."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_nets.evaluation import report
from custom_nets.evaluation.volumes import overreach, phantoms
from custom_nets.inferers import thick_slices
from custom_nets.networks import AnySizeTransMRSR, ResidualArSSR

HEADS = {"ball": torch.from_numpy(phantoms.sphere(24, 8))}


def plain_arssr() -> ResidualArSSR:
    return ResidualArSSR(
        feature_dim=4, num_features=4, growth=4, num_blocks=1, num_layers=1, decoder_width=8, largest_overreach=1.7
    ).eval()


def test_a_correction_helps_where_the_blur_is_told_right_and_less_where_it_is_too_wide():
    network = plain_arssr()
    rows = overreach.measure(network, HEADS, ["gaussian:1.0"], {"iso2": (2, 2, 2)})
    assert [row["told"] for row in rows] == [1.0, 1.3]
    for row in rows:
        assert row["left"] == pytest.approx(0, abs=1e-4)  # it adds nothing to the interpolation
    assert rows[0]["corrected"] > 0.5 and rows[0]["corrected"] > rows[1]["corrected"]
    assert network.largest_overreach == 1.7


def test_what_goes_beyond_the_bound_is_measured_too():
    network = plain_arssr()
    network.largest_overreach = -1.0
    row = overreach.measure(network, HEADS, ["box:1.0"], {"iso2": (2, 2, 2)}, told=[1.0])[0]
    assert row["corrected"] > 0.5 and network.largest_overreach == -1.0


def test_networks_of_thick_slices_are_asked_for_thick_slices_only(monkeypatch):
    monkeypatch.setattr(thick_slices, "LEAST_AGREEMENT", -1.0)  # whatever a network without training adds
    network = AnySizeTransMRSR(slices=3, widths=(8, 16), style_dim=16, head_width=4, num_centroids=0, takes_mtf=True)
    rows = overreach.measure(network.eval(), HEADS, ["box:1.0"], {"iso2": (2, 2, 2), "1x1x4": (1, 1, 4)}, told=[1.0])
    assert [row["scale"] for row in rows] == ["1x1x4"] and rows[0]["overreach"] > 0


def test_the_command_writes_a_table_and_a_record(monkeypatch, tmp_path, capsys):
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image(np.pad(phantoms.sphere(24, 8), 4), np.eye(4)), path)
    monkeypatch.setattr(overreach, "load_network", lambda _: plain_arssr())
    monkeypatch.setattr(report, "file_record", str)
    command = ["--checkpoint", "weights.pt", "--heads", str(path), "--side", "24"]
    overreach.main([str(tmp_path / "report"), *command, "--profiles", "box:1.0", "--scales", "iso2"])
    table = (tmp_path / "report" / "table.md").read_text()
    first, second = table.splitlines()[2:]
    assert first.startswith("| head.nii.gz | iso2 | box:1.0 | 1.00 |") and first.endswith("| 0.00 |")
    assert second.startswith("| head.nii.gz | iso2 | box:1.0 | 1.30 |") and table in capsys.readouterr().out
    assert json.loads((tmp_path / "report" / "record.json").read_text())["options"]["side"] == 24


def test_one_volume_a_file(tmp_path):
    path = tmp_path / "series.nii.gz"
    nib.save(nib.Nifti1Image(np.stack(2 * [phantoms.sphere(8, 3)], -1), np.eye(4)), path)
    with pytest.raises(ValueError, match="must be one 3D volume"):
        overreach.read_head(path, 8)
