"""Weight files come from others: nothing in them is run, and none is taken that is damaged."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from custom_nets.checkpoints import build_network, load_network, load_pretrained, save_checkpoint
from custom_nets.networks import RDN, ArSSR
from custom_nets.utils.weights import checked_arch, read_checkpoint, write_checkpoint

ARCH = {"name": "ArSSR", "encoder": "SRResNet", "feature_dim": 4, "decoder_depth": 4, "decoder_width": 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_checkpoint(path, build_network(ARCH), ARCH)
    return path


CODE = "$__import__('os').system('touch run')"
HOSTILE = {
    "an expression": {**ARCH, "encoder": CODE},
    "a reference": {**ARCH, "encoder": "@network"},
    "a macro": {**ARCH, "encoder": "%file.json::a"},
    "in a list": {**ARCH, "feature_dim": [[CODE]]},
    "in a dictionary": {**ARCH, "feature_dim": {"_target_": "os.system", "command": "touch run"}},
    "as a name": {**ARCH, "name": CODE},
    "as a key": {**ARCH, CODE: 1},
    "a key of the config language": {**ARCH, "_requires_": CODE},
    "behind a space": {**ARCH, "encoder": " " + CODE},
    "another class": {"name": "os.system", "command": "touch run"},
    "no network of ours": {"name": "published_units"},
    "an unknown argument": {**ARCH, "hook": 1},
    "a tensor": {**ARCH, "feature_dim": torch.ones(1)},
    "a number": 3,
    "nothing": None,
    "a list": ["ArSSR"],
    "a size beyond all memory": {**ARCH, "decoder_width": 2**40},
    "no number": {**ARCH, "decoder_width": float("nan")},
    "far more layers than the file has": {**ARCH, "decoder_depth": 60000},
    "a size below zero": {**ARCH, "decoder_width": -1},
}


@pytest.mark.parametrize("arch", HOSTILE.values(), ids=HOSTILE)
def test_nothing_in_a_weight_file_is_run(arch, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    torch.save({"model": torch.load(weights, weights_only=True)["model"], "arch": arch}, path)
    for read in (load_network, lambda p: load_pretrained(RDN(4, 4, 4, 1, 1), p), lambda p: load_pretrained(small(), p)):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert not (tmp_path / "run").exists()


def small() -> ArSSR:
    return ArSSR("SRResNet", 4, 4, 8)


@pytest.mark.parametrize("arch", [ARCH, {"name": "StyleSwinGenerator", "size": 8, "channels": (4, 8)}])
def test_descriptions_of_our_networks_are_taken(arch):
    assert checked_arch(arch)["name"] == arch["name"]
    build_network(arch)


@pytest.mark.parametrize("model", [3, [1], {"a": 3}, {1: torch.ones(1)}, None])
def test_weights_of_another_kind_are_refused(model, tmp_path):
    torch.save({"model": model, "arch": ARCH}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="dictionary of tensors|does not fit|more weights"):
        load_network(tmp_path / "model.pt")


def test_damaged_weights_are_refused_or_the_same(tmp_path):
    """PyTorch compares no checksums by itself."""
    path, refused = tmp_path / "model.pt", 0
    arch = {"name": "ImplicitDecoder", "in_dim": 8, "depth": 4, "width": 8}
    save_checkpoint(path, build_network(arch), arch)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    before = read_checkpoint(path)["model"]
    for number in range(200):
        damaged = bytearray(content)
        if number % 4 == 0:
            damaged = damaged[: rng.integers(len(damaged))]
        else:
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            after = read_checkpoint(path)
        except ValueError:
            refused += 1
            continue
        assert after["arch"] == arch and all(torch.equal(after["model"][key], value) for key, value in before.items())
    assert refused > 100


def test_a_full_disk_leaves_the_old_checkpoint_and_no_part(weights, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(weights.read_bytes())

    def full(content, target):
        target.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    for write in (save_checkpoint, lambda path, *_: write_checkpoint(path, {})):
        with pytest.raises(OSError, match="is the disk full"):
            write(path, build_network(ARCH), ARCH)
    assert path.read_bytes() == weights.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("kind", ["no number", "no storage", "sparse"])
def test_weights_that_are_no_numbers_are_refused(kind, weights, tmp_path):
    content = torch.load(weights, weights_only=True)
    name, value = next(iter(content["model"].items()))
    made = {"no number": value * torch.nan, "no storage": value.to("meta"), "sparse": value.to_sparse()}
    torch.save({**content, "model": {**content["model"], name: made[kind]}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=f"model.{name}' has values that are no numbers"):
        load_network(tmp_path / "model.pt")


def test_a_weight_file_does_not_unpack_to_more_than_it_is(weights, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as bomb, zipfile.ZipFile(weights) as plain:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
        bomb.writestr("archive/data/999", bytes(1 << 20))
    with pytest.raises(ValueError, match="unpacks to .* MiB, more than it is"):
        load_network(tmp_path / "model.pt")
