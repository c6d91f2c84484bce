"""Errors by kind of motion: each error is counted at its place, and the command writes what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from custom_nets.evaluation.frames.motion_kinds import main, markdown_table, measure, turning_times
from custom_nets.simulation.dsa import MOTION_KINDS, DSASettings, DSASimulator


@pytest.fixture(scope="module")
def simulator() -> DSASimulator:
    return DSASimulator(1, DSASettings(shape=(64, 80), pixel_mm=2.0, rotation_deg_s=40, view_deg=20))


def test_known_errors_at_their_places(simulator):
    times = turning_times(simulator, 5, 2.0, first_s=2.5)
    methods = {
        "right": lambda left: left.run.frames[left.targets],
        "off": lambda left: left.run.frames[left.targets] ^ 1,  # one grey level everywhere
    }
    rows = measure(simulator, times, [1, 3], methods)
    assert {row["region"] for row in rows} == {"active", *MOTION_KINDS}
    for number in (1, 3):
        here = {(r["method"], r["region"]): r for r in rows if r["missing"] == number}
        parts = sum(here["right", kind]["pixels"] for kind in MOTION_KINDS)
        assert parts == here["right", "active"]["pixels"] > 0, "each place is of one kind"
        for kind in ("active", *MOTION_KINDS):
            assert here["right", kind]["square_error"] == 0
            wanted = here["off", kind]["pixels"] / 255**2
            assert here["off", kind]["square_error"] == pytest.approx(wanted)
    table = markdown_table(rows)
    assert "| off | 48.13 |" in table and "3 missing" in table


def test_noise_alone_is_what_no_method_can_be_better_than(simulator):
    times = turning_times(simulator, 3, 2.0, first_s=2.5)
    rounding = 1 / 12 / 255**2  # mean square of what rounding to 8 bits leaves
    for photons, low, high in ((np.inf, 0.9, 1.1), (6e4, 2, np.inf)):
        one = DSASimulator(1, replace(simulator.settings, photons=photons))
        rows = {row["region"]: row for row in measure(one, times, [1], {})}
        assert rows["active"]["method"] == "noise alone"
        assert low * rounding < rows["active"]["square_error"] / rows["active"]["pixels"] < high * rounding


def test_command(tmp_path, capsys):
    arguments = "--seeds 5 --missing 1 --frames 3 --size 64 80 --checkpoint".split()
    from custom_nets.bundle.root import bundle_root

    main([str(tmp_path / "report"), *arguments, bundle_root("most_dsa") + "/models/model.pt"])
    table = (tmp_path / "report" / "table.md").read_text()
    assert table in capsys.readouterr().out
    names = ("ours", "nearest", "blend", "dis", "noise alone", "share of the places")
    assert all(f"| {name} |" in table for name in names)
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"table.md", "rows.csv", "record.json"}


def test_command_refuses(tmp_path):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--frames", "2", "--missing", "3"])


def test_a_standing_arm_has_no_degrees():
    with pytest.raises(ValueError, match="stands"):
        turning_times(DSASimulator(1, DSASettings(shape=(32, 32), pixel_mm=4.0)), 3, 1.4)
    assert np.allclose(np.diff(turning_times(DSASimulator(1, DSASettings(rotation_deg_s=-20)), 3, 1.0)), 0.05)
