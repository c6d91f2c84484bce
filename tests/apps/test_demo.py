"""The demo: what it writes of angiography, and that its commands are ones that the configs take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from custom_nets.apps import demo
from custom_nets.data.angiography.reader import read_angiography
from tests.tools.xa_writer import validator_errors


@pytest.fixture
def commands(monkeypatch) -> list[tuple[str, ...]]:
    """What would have been run."""
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(demo, "_run", lambda *words: ran.append(words))
    monkeypatch.setattr(demo, "DSA_SIZE", 64)
    return ran


def test_every_second_frame_is_dropped(commands, tmp_path):
    lines = demo.most_dsa(tmp_path)
    folder = tmp_path / "most_dsa" / "input"
    complete, half = (read_angiography(folder / f"{name}.dcm") for name in ("complete", "every_second"))
    assert validator_errors(folder / "complete.dcm") == validator_errors(folder / "every_second.dcm") == []
    assert len(complete) == 1 + demo.DSA_FRAMES and len(half) == 1 + (demo.DSA_FRAMES + 1) // 2
    assert complete.mask_frames == half.mask_frames == (0,)
    np.testing.assert_array_equal(half.frames, complete.frames[[0, *range(1, len(complete), 2)]])
    np.testing.assert_allclose(half.times_s[1:], complete.times_s[1::2])
    assert half.times_s[-1] == pytest.approx(complete.times_s[-1]), "nothing at the end that nobody could fill"
    assert all(str(tmp_path) in line for line in lines)


@pytest.mark.parametrize("name", ["most_dsa", "transmrsr"])
def test_commands_are_what_the_configs_take(commands, monkeypatch, tmp_path, name):
    monkeypatch.setattr(demo, "_inputs", lambda folder, settings: folder / "mni152.nii.gz")
    demo.DEMOS[name](tmp_path)
    assert len(commands) == 2
    for words in commands:
        assert words[:3] == ("-m", "monai.bundle", "run")
        options = dict(zip(words[3::2], words[4::2], strict=True))
        config = Path(options.pop("--config_file"))
        assert config.is_file(), config
        ids = json.loads(config.read_text())
        assert {name.removeprefix("--") for name in options} <= set(ids)
