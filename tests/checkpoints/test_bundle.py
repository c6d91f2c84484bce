"""Weights that remember their network, and published ones turned into them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from custom_nets.checkpoints import build_network, load_network, save_checkpoint
from custom_nets.checkpoints.published import load_published, main
from custom_nets.networks import ArSSR, ResidualArSSR
from custom_nets.utils.weights import read_checkpoint

ARCH = {"name": "ResidualArSSR", "feature_dim": 4, "num_features": 4, "growth": 4, "num_blocks": 1, "decoder_width": 8}
PUBLISHED = {"encoder": "ResCNN", "feature_dim": 8, "decoder_depth": 4, "decoder_width": 16}


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return ArSSR(**PUBLISHED).state_dict()


def same(a: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    own = a.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


# ---- bundle checkpoints ----


def test_a_checkpoint_rebuilds_its_network(tmp_path):
    net = build_network(ARCH)
    path = tmp_path / "new" / "model.pt"
    save_checkpoint(path, net.train(), ARCH)
    loaded = load_network(path)
    assert isinstance(loaded, ResidualArSSR) and not loaded.training
    assert same(loaded, net.state_dict())
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]  # nothing half written is left
    content = read_checkpoint(path)
    assert content["arch"] == ARCH and content.keys() == {"model", "arch"}


def test_weights_are_stored_in_float32(tmp_path):
    save_checkpoint(tmp_path / "model.pt", build_network(ARCH).bfloat16(), ARCH)
    assert {value.dtype for value in read_checkpoint(tmp_path / "model.pt")["model"].values()} == {torch.float32}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pt"
    save_checkpoint(path, build_network(ARCH), ARCH)
    before = path.read_bytes()
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_checkpoint(path, build_network(ARCH), {"name": lambda: None})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_unknown_network():
    with pytest.raises(ValueError, match="unknown network 'UNet' in the checkpoint, known: .*ResidualArSSR"):
        build_network({"name": "UNet"})
    with pytest.raises(ValueError, match="ResidualArSSR cannot be built from .*'heads': 4"):
        build_network({**ARCH, "heads": 4})


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = build_network(ARCH).state_dict()
    state["extra.weight"] = state.pop("decoder.0.weight")
    state["decoder.0.bias"] = torch.zeros(3)
    torch.save({"model": state, "arch": ARCH}, tmp_path / "model.pt")
    with pytest.raises(ValueError) as error:
        load_network(tmp_path / "model.pt")
    message = str(error.value)
    assert "model.pt does not fit ResidualArSSR" in message
    assert "1 missing keys (first: decoder.0.weight)" in message
    assert "1 unexpected keys (first: extra.weight)" in message
    assert "decoder.0.bias: (3,), expected (8,)" in message


def test_a_published_file_is_not_a_bundle_checkpoint(tmp_path, published):
    torch.save(published, tmp_path / "ArSSR_ResCNN.pkl")
    with pytest.raises(ValueError, match="is not a bundle checkpoint.*python -m custom_nets.checkpoints"):
        load_network(tmp_path / "ArSSR_ResCNN.pkl")


def test_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*missing.pt"):
        load_network(tmp_path / "missing.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_network(tmp_path)
    for name, content in (("text.pt", b"not weights\n"), ("empty.pt", b""), ("cut.pt", b"PK\x03\x04 and no more")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a checkpoint of plain tensors"):
            load_network(tmp_path / name)
    torch.save(torch.zeros(99), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for length in range(1, len(whole), 97):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut.pt"):
            load_network(tmp_path / "cut.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list, expected a dictionary"):
        load_network(tmp_path / "list.pt")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "arch": Malicious()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of plain tensors"):
        load_network(tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of plain tensors"):
        load_published("arssr", tmp_path / "bad.pt")
    assert not (tmp_path / "owned").exists()


# ---- published weights ----


@pytest.mark.parametrize("encoder", ["RDN", "ResCNN", "SRResNet"])
@pytest.mark.parametrize("depth", [4, 5, 8])
def test_encoder_and_sizes_are_read_off_the_keys(encoder: str, depth: int):
    net = ArSSR(encoder, feature_dim=6, decoder_depth=depth, decoder_width=12)
    loaded = load_published("arssr", net.state_dict())
    assert isinstance(loaded, ArSSR) and not loaded.training
    assert type(loaded.encoder) is type(net.encoder)
    assert same(loaded, net.state_dict())


def test_published_sources(tmp_path, published):
    """A file, a state dict of tensors or arrays, and keys of a parallel training."""
    torch.save(published, tmp_path / "plain.pkl")
    torch.save({f"module.{key}": value for key, value in published.items()}, tmp_path / "parallel.pkl")
    for source in (
        tmp_path / "plain.pkl",
        str(tmp_path / "parallel.pkl"),
        published,
        {key: value.numpy() for key, value in published.items()},
    ):
        assert same(load_published("arssr", source), published)


def test_published_state_that_does_not_fit_is_named(published):
    state = dict(published)
    del state["encoder.block1.0.bias"]
    with pytest.raises(ValueError, match=r"state dict does not fit ArSSR: 1 missing keys .*encoder\.block1\.0\.bias"):
        load_published("arssr", state)
    with pytest.raises(ValueError, match="1 unexpected keys .first: step"):
        load_published("arssr", {**published, "step": torch.tensor(1)})
    with pytest.raises(ValueError, match=r"encoder\.conv_start\.0\.weight: \(1,\), expected \(64, 1, 3, 3, 3\)"):
        load_published("arssr", {**published, "encoder.conv_start.0.weight": torch.zeros(1)})


@pytest.mark.parametrize("state", [{}, {"conv.weight": torch.zeros(1)}, {"encoder.output.weight": torch.zeros(4, 4)}])
def test_not_an_arssr(state):
    with pytest.raises(ValueError, match="not an ArSSR state dict: expected .* found .* keys"):
        load_published("arssr", state)


def test_unknown_method(published):
    with pytest.raises(ValueError, match="unknown method 'unet', known: arssr"):
        load_published("unet", published)


def test_wrong_nesting_is_said(tmp_path, published):
    """A training checkpoint around the weights, or a bundle checkpoint given as a published one."""
    torch.save({"state_dict": published, "epoch": 3}, tmp_path / "training.pkl")
    with pytest.raises(ValueError, match="training.pkl holds a OrderedDict as 'state_dict', expected a plain"):
        load_published("arssr", tmp_path / "training.pkl")
    save_checkpoint(tmp_path / "model.pt", build_network(ARCH), ARCH)
    with pytest.raises(ValueError, match="as 'model', expected a plain .* a bundle's are ready to use"):
        load_published("arssr", tmp_path / "model.pt")


# ---- the command ----


def test_command_converts(tmp_path, published, capsys):
    torch.save(published, tmp_path / "ArSSR_ResCNN.pkl")
    main(["arssr", str(tmp_path / "ArSSR_ResCNN.pkl"), str(tmp_path / "out" / "model.pt")])
    assert "ArSSR" in capsys.readouterr().out
    loaded = load_network(tmp_path / "out" / "model.pt")
    assert same(loaded, published) and loaded.axis_order([1, 1, 4]) == (2, 1, 0)
    assert read_checkpoint(tmp_path / "out" / "model.pt")["arch"] == {"name": "ArSSR", **PUBLISHED}


@pytest.mark.slow
def test_command_fails_clearly(tmp_path):
    """In a process of its own: exit code, one line, no traceback, no output file."""
    (tmp_path / "weights.pkl").write_text("not weights")
    command = [sys.executable, "-m", "custom_nets.checkpoints", "arssr"]
    result = subprocess.run([*command, tmp_path / "weights.pkl", tmp_path / "model.pt"], capture_output=True, text=True)
    assert result.returncode != 0
    assert result.stderr.startswith("error: ") and "weights.pkl is not a checkpoint" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "model.pt").exists()


def test_command_refuses_what_it_cannot_write(tmp_path, published):
    torch.save(published, tmp_path / "in.pkl")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="error: "):
        main(["arssr", str(tmp_path / "in.pkl"), str(tmp_path / "file" / "model.pt")])
    with pytest.raises(SystemExit):
        main(["unet", "a", "b"])
