"""Two runs side by side: what differs and nothing else, with the right sign, and a picture of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from custom_nets.tracking import compare
from custom_nets.tracking.client import experiment_id, open_client, sqlite_uri

pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, str, list[str]]:
    """Two trainings and two evaluations: folder, address, ids."""
    folder = tmp_path_factory.mktemp("runs")
    client = open_client(sqlite_uri(folder), create=True)
    ids = []
    for number in range(2):
        run = client.create_run(experiment_id(client, "train"), run_name=f"train {number}", tags={"kind": "training"})
        ids.append(run_id := run.info.run_id)
        for key, value in {"learning_rate": 0.1 + number, "batch_size": 4, f"only_{number}": "x|y"}.items():
            client.log_param(run_id, key, value)
        for step in range(1, 9):
            client.log_metric(run_id, "train_loss", 1 / step + 0.1 * number, step=10 * step)
        for epoch in (2, 4):
            client.log_metric(run_id, "val_psnr_db", 30 + epoch / 4 + number, step=epoch)
        files = [{"image": "a.nii.gz", "sha256": "0a"}, {"image": f"b{number}.nii.gz", "sha256": f"0b{number}"}]
        client.log_dict(
            run_id, {"train": files, "validation": [{"image": f"{number}/c.nii.gz", "sha256": "0c"}]}, "data.json"
        )
        client.set_terminated(run_id)
    for number in range(2):
        run = client.create_run(experiment_id(client, "evaluate"), run_name=f"ev {number}", tags={"kind": "evaluation"})
        ids.append(run.info.run_id)
        for how in ("iso2", "1x1x4"):
            for metric, value in (("psnr", 31.5), ("ssim", 0.95)):
                client.log_metric(run.info.run_id, f"{how}/brain/{metric}/ours", value * (1 + 0.01 * number))
                client.log_metric(run.info.run_id, f"{how}/brain/{metric}/bspline", value * 0.9)
        client.set_terminated(run.info.run_id)
    return folder, sqlite_uri(folder), ids


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_trainings(runs, tmp_path, capsys):
    folder, uri, ids = runs
    compare.main([ids[0], ids[1], "--tracking_uri", uri, "--output_dir", str(tmp_path / "out")])
    assert "comparison.png" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out" / "comparison.csv")
    assert [(r["kind"], r["name"], r["a"], r["b"]) for r in rows if r["kind"] != "metric"] == [
        ("setting", "learning_rate", "0.1", "1.1"),
        ("setting", "only_0", "x|y", ""),
        ("setting", "only_1", "", "x|y"),
        ("data", "train", "b0.nii.gz", ""),  # the same content in another folder is the same
        ("data", "train", "", "b1.nii.gz"),
    ]
    metrics = {r["name"]: r for r in rows if r["kind"] == "metric"}
    assert set(metrics) == {"train_loss", "val_psnr_db"}
    assert float(metrics["val_psnr_db"]["difference"]) == pytest.approx(1)  # b minus a
    assert float(metrics["train_loss"]["a"]) == pytest.approx(1 / 8)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert f"a: train 0 ({ids[0][:8]})" in text and "| val_psnr_db | 31 | 32 | 1 |" in text
    assert r"| only_0 | x\|y |  |" in text
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_the_picture_shows_the_points_that_were_recorded(runs):
    _, uri, ids = runs
    a, b = (compare.read_angiography(client, run) for client, run in (compare.find_run(i, uri) for i in ids[:2]))
    figure = compare.comparison_figure(a, b)
    assert [ax.get_title() for ax in figure.axes] == ["train_loss", "val_psnr_db"]
    for ax, name in zip(figure.axes, ("train_loss", "val_psnr_db"), strict=True):
        for line, run in zip(ax.lines, (a, b), strict=True):
            np.testing.assert_allclose(line.get_xydata(), run.curves[name])

    a, b = (compare.read_angiography(client, run) for client, run in (compare.find_run(i, uri) for i in ids[2:]))
    figure = compare.comparison_figure(a, b)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["brain/psnr", "brain/ssim"]
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, [31.5, 31.5, 31.815, 31.815])


def test_nothing_in_common_and_what_cannot_be_compared(runs, tmp_path):
    folder, uri, ids = runs
    written = compare.compare_runs(ids[0], str(folder), tmp_path, uri)  # the last run there, an evaluation
    assert [path.name for path in written] == ["comparison.md", "comparison.csv"]
    assert all(row["difference"] == "" for row in rows_of(written[1]))
    with pytest.raises(ValueError, match="are the same run"):
        compare.compare_runs(ids[3], str(folder), tmp_path, uri)
    with pytest.raises(SystemExit, match="error: .*holds no mlruns.db"):
        compare.main([str(tmp_path), ids[0], "--tracking_uri", uri, "--output_dir", str(tmp_path)])
