"""The demos: what they write, and that their commands are ones that the configs take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from custom_nets.apps import demo
from custom_nets.bundle.folder import find_bundles
from custom_nets.data.angiography.acquisition_reader import read_acquisition
from custom_nets.data.angiography.reader import read_angiography
from tests.tools.xa_writer import validator_errors

DEMOS = [path for path in find_bundles() if (path / "configs" / "demo.json").is_file()]


def test_every_second_frame_is_dropped(tmp_path):
    demo.every_second_frame(tmp_path, seed=3, num_frames=13, fps=6.0, size=64)
    complete, half = (read_angiography(tmp_path / f"{name}.dcm") for name in ("complete", "every_second"))
    assert validator_errors(tmp_path / "complete.dcm") == validator_errors(tmp_path / "every_second.dcm") == []
    assert len(complete) == 1 + 13 and len(half) == 1 + 7
    assert complete.mask_frames == half.mask_frames == (0,)
    np.testing.assert_array_equal(half.frames, complete.frames[[0, *range(1, len(complete), 2)]])
    np.testing.assert_allclose(half.times_s[1:], complete.times_s[1::2])
    assert half.times_s[-1] == pytest.approx(complete.times_s[-1]), "nothing at the end that nobody could fill"


def test_a_turning_scan_is_one_that_a_bundle_reads(tmp_path):
    demo.turning_scan(tmp_path, seed=3, voxels=16, frames=12)
    scan = read_acquisition(tmp_path / "scan")
    assert scan.projections.shape == (12, 20, 24) and scan.volume_shape == (16, 16, 16) and scan.weights is not None
    assert (tmp_path / "scan" / "truth" / "4d.nii.gz").is_file()


@pytest.mark.parametrize("bundle", DEMOS, ids=lambda path: path.name)
def test_commands_are_what_the_configs_take(bundle, monkeypatch, tmp_path):
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(demo, "_run", lambda *words: ran.append(words))
    content = json.loads((bundle / "configs" / "demo.json").read_text())
    maker = content["data"]["_target_"].rsplit(".", 1)[1]
    made: dict[str, object] = {}
    monkeypatch.setattr(demo, maker, lambda **options: made.update(options))
    lines = demo.run_demo(bundle, tmp_path)
    assert made["folder"] == str(tmp_path / bundle.name / "input")
    assert len(ran) == len(content["commands"]) and all(str(tmp_path) in line for line in lines)
    for words in ran:
        assert words[:3] == ("-m", "monai.bundle", "run")
        options = dict(zip(words[3::2], words[4::2], strict=True))
        files = options.pop("--config_file")
        ids: set[str] = set()
        for config in [Path(files)] if files.endswith(".json") else map(Path, json.loads(files)):
            assert config.is_file(), config
            ids |= set(json.loads(config.read_text()))
        assert {name.removeprefix("--").partition("#")[0] for name in options} <= ids
