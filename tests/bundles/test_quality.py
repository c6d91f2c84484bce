"""`--quality light`: the smaller weights of the bundles that ship them, and records that say so."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_nets.bundle import quality_of, shipped_weights
from custom_nets.checkpoints import load_network
from monailabel_app.lib.bundles import find_bundles, run_inference
from tests.bundles.runner import expect, infer, message_of

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
LIGHT = sorted(path.parents[1] for path in BUNDLES.glob("*/models/model_light.pt"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A ball in slices of 3 mm."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (18, 16, 6)), indexing="ij")
    ball = 100 * (sum(a**2 for a in axes) < 0.7) + np.random.default_rng(0).normal(10, 1, (18, 16, 6))
    path = tmp_path_factory.mktemp("scan") / "ball.nii.gz"
    nib.save(nib.Nifti1Image(ball.astype(np.float32), np.diag([1, 1, 3, 1])), path)
    return path


@pytest.mark.parametrize("bundle", LIGHT, ids=lambda path: path.name)
def test_light_weights_are_a_smaller_network_of_the_same_kind(bundle):
    light, best = (load_network(shipped_weights(bundle, quality)) for quality in ("light", "best"))
    assert type(light) is type(best)
    assert sum(p.numel() for p in light.parameters()) <= 0.5 * sum(p.numel() for p in best.parameters())


@pytest.mark.parametrize("bundle", LIGHT, ids=lambda path: path.name)
def test_the_record_says_which_were_used(bundle, scan, tmp_path):
    found = {}
    for quality in ("best", "light"):
        infer(bundle, scan, tmp_path / quality, quality=quality, spacing=[1, 1, 1])
        (record,) = (json.loads(path.read_text()) for path in (tmp_path / quality).glob("*.json"))
        assert record["checkpoint"]["quality"] == quality
        (path,) = (tmp_path / quality).glob("*.nii.gz")
        found[quality] = np.asarray(nib.load(path).dataobj)
    assert found["light"].shape == found["best"].shape and not np.array_equal(found["light"], found["best"])
    other = infer(bundle, scan, tmp_path / "own", checkpoint=_copied(bundle, tmp_path), spacing=[1, 1, 1])
    (record,) = (json.loads(path.read_text()) for path in other.glob("*.json"))
    assert record["checkpoint"]["quality"] is None

    served = find_bundles(BUNDLES)[bundle.name]
    assert served.options()["quality"] == "best"
    _, record = run_inference(served, scan, tmp_path / "served", {"quality": "light", "spacing": [1, 1, 1]})
    assert record["checkpoint"]["quality"] == "light"


def _copied(bundle: Path, folder: Path) -> Path:
    path = folder / "model.pt"
    path.write_bytes((bundle / "models" / "model_light.pt").read_bytes())
    return path


def test_other_words_and_bundles_without_light_weights_are_refused(scan, tmp_path):
    expect("quality must be one of best, light, got 'fast'", message_of(LIGHT[0], scan, tmp_path, quality="fast"))
    (tmp_path / "models").mkdir()
    with pytest.raises(ValueError, match="no light weights"):
        shipped_weights(tmp_path, "light")
    assert shipped_weights(tmp_path, "best") == str(tmp_path / "models" / "model.pt")
    assert quality_of(tmp_path / "models" / "model.pt", tmp_path) == "best"
    assert quality_of(tmp_path / "mine.pt", tmp_path) is None
