"""The matrix of profiles and scales: its degradations, and what it tells of the paired differences."""

from __future__ import annotations

import csv

import pytest

from custom_nets.evaluation.volumes.matrix import MatrixReport, matrix_degradations, matrix_table
from custom_nets.evaluation.volumes.protocol import MakeInputd


def test_each_scale_is_measured_in_each_way():
    made = matrix_degradations(["box:0.8", "kspace"], {"iso2": [2, 2, 2], "1x1x4": [1, 1, 4]})
    assert list(made) == ["iso2 box:0.8", "iso2 kspace", "1x1x4 box:0.8", "1x1x4 kspace"]
    degraders = MakeInputd(made).degraders
    assert degraders["1x1x4 box:0.8"].spread.thickness == 0.8
    with pytest.raises(ValueError, match="profile must be one of"):
        matrix_degradations(["sinc"], {"iso2": [2, 2, 2]})


def test_means_worst_and_picture(tmp_path):
    names = ["case", "degradation", "baseline", "region", "metric", "difference"]
    rows = [
        dict(zip(names, row, strict=True))
        for row in (
            ("a", "iso2 box", "bspline", "brain", "psnr", "1.0"),
            ("b", "iso2 box", "bspline", "brain", "psnr", "-0.5"),
            ("a", "iso2 kspace", "bspline", "brain", "psnr", "0.2"),
            ("a", "iso2 kspace", "trilinear", "brain", "psnr", "9"),
        )
    ]
    assert matrix_table(rows) == [("iso2", "box", 0.25, -0.5, "b"), ("iso2", "kspace", 0.2, 0.2, "a")]
    with open(tmp_path / "paired.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
    MatrixReport(str(tmp_path))(None)
    assert "| iso2 | box | +0.25 | -0.50 | b |" in (tmp_path / "matrix.md").read_text()
    assert (tmp_path / "matrix.png").stat().st_size > 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["matrix.md", "matrix.png", "paired.csv"]
