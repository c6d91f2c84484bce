"""The authors' files of TransMRSR and StyleSwin, and centroids, turned into networks."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from custom_nets.checkpoints import load_network
from custom_nets.checkpoints.published import load_published, main, read_centroids
from custom_nets.networks import StyleSwinGenerator, TransMRSR
from custom_nets.utils.weights import read_checkpoint

SIZES: dict[str, Any] = {"size": 16, "channels": [16, 32, 16], "style_dim": 8}
GENERATOR: dict[str, Any] = {"size": 16, "style_dim": 8, "mapping_layers": 3, "image_channels": 1}
CENTROIDS = np.arange(24, dtype=np.float64).reshape(3, 8) / 10

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return TransMRSR(**SIZES).state_dict()


@pytest.fixture(scope="module")
def prior() -> State:
    torch.manual_seed(0)
    return StyleSwinGenerator(**GENERATOR, channels=[16, 8, 8]).state_dict()


def same(a: nn.Module, state: State) -> bool:
    own = a.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def with_leftovers(state: State) -> State:
    """What the published files hold besides: constants, and parts that are never used."""
    return {
        **state,
        "MAB.conv.weight": torch.zeros(3),
        "fusion_convs.0.weight": torch.zeros(3),
        "layers.0.residual_group.blocks.1.attn_mask": torch.zeros(4, 64, 64),
        "layers.0.residual_group.blocks.0.attn.relative_position_index": torch.zeros(64, 64, dtype=torch.long),
        "generator.layers.1.blocks.0.attn_mask2": torch.zeros(4, 64, 64),
        "generator.layers.0.upsample.sin_pos_embed._float_tensor": torch.zeros(1),
    }


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


# ---- TransMRSR ----


def test_sources_of_transmrsr(tmp_path, state):
    """A state dict of tensors or arrays, files of it, of parallel training, and inside of a training checkpoint."""
    parallel = {f"module.{key}": value for key, value in with_leftovers(state).items()}
    for source in (
        state,
        with_leftovers(state),
        {key: value.numpy() for key, value in state.items()},
        {"net_G_I": parallel},
        save(tmp_path / "plain.pth", state),
        str(save(tmp_path / "parallel.pth", parallel)),
        save(tmp_path / "best.pt", {"net_G_I": parallel, "epoch": 7, "optimizer": {"lr": 1e-4}}),
    ):
        net = load_published("transmrsr", source)
        assert isinstance(net, TransMRSR) and not net.training and "centroids" not in net._buffers
        assert same(net, state)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 32, "channels": [16, 32, 32, 16], "style_dim": 24},
        {"size": 16, "channels": [16, 16, 32], "style_dim": 8, "half_modulation": False},
    ],
)
def test_sizes_of_transmrsr_are_read_off_the_keys(tmp_path, options):
    net = TransMRSR(**options).eval()
    path = save(tmp_path / "best.pt", {"net_G_I": net.state_dict()})
    main(["transmrsr", str(path), str(tmp_path / "model.pt")])
    arch = read_checkpoint(tmp_path / "model.pt")["arch"]
    assert arch == {"name": "TransMRSR", "half_modulation": True, **options}
    made = load_network(tmp_path / "model.pt")
    image = torch.rand(1, 3, net.size, net.size)
    with torch.no_grad():
        assert torch.equal(made(image), net(image))


def test_transmrsr_that_does_not_fit_is_named(tmp_path, state):
    with pytest.raises(ValueError, match="1 missing keys .first: conv_last.bias"):
        load_published("transmrsr", {key: value for key, value in state.items() if key != "conv_last.bias"})
    with pytest.raises(ValueError, match="1 unexpected keys .first: step"):
        load_published("transmrsr", {**state, "step": torch.tensor(1)})
    with pytest.raises(ValueError, match=r"best.pt does not fit .* conv_last.bias: \(1,\), expected \(3,\)"):
        load_published("transmrsr", save(tmp_path / "best.pt", {"net_G_I": {**state, "conv_last.bias": torch.ones(1)}}))
    with pytest.raises(ValueError, match="best.pt holds a Tensor as 'net_G_I', expected a state dict"):
        load_published("transmrsr", save(tmp_path / "best.pt", {"net_G_I": torch.ones(1)}))
    with pytest.raises(ValueError, match="best.pt holds a dict as 'net_D', expected a plain state dict"):
        load_published("transmrsr", save(tmp_path / "best.pt", {"net_D": {"conv.weight": torch.ones(1)}}))


@pytest.mark.parametrize("lost", ["layers.0.conv.weight", "final_layers.weight", "generator.input.input", None])
def test_not_a_transmrsr(state, prior, lost):
    broken = dict(prior) if lost is None else {k: v for k, v in state.items() if k != lost}
    if lost == "layers.0.conv.weight":
        broken.pop("layers.1.conv.weight")
    with pytest.raises(ValueError, match="not a TransMRSR state dict: .* found .* keys"):
        load_published("transmrsr", broken)


# ---- centroids ----


def centroid_sources(folder: Path) -> list[Any]:
    np.save(folder / "centers.npy", CENTROIDS)
    (folder / "rows").mkdir()
    (folder / "planes").mkdir()
    for i, row in enumerate(CENTROIDS):
        np.save(folder / "rows" / f"center_{i}.npy", row)
        np.save(folder / "planes" / f"{i}.npy", row[None].astype(np.float32))
    return [CENTROIDS, torch.as_tensor(CENTROIDS), folder / "centers.npy", str(folder / "rows"), folder / "planes"]


def test_sources_of_centroids(tmp_path, state):
    for source in centroid_sources(tmp_path):
        rows = read_centroids(source)
        assert rows.dtype == torch.float32
        np.testing.assert_allclose(rows, CENTROIDS, rtol=1e-6)
        net = load_published("transmrsr", state, source)
        assert isinstance(net, TransMRSR) and net.centroid_rule == "farthest"  # as the authors' code does
        assert torch.equal(net.centroids, rows)
    near = load_published("transmrsr", state, CENTROIDS, "nearest")
    assert near.centroid_rule == "nearest"
    inside = load_published("transmrsr", {**state, "centroids": torch.ones(5, 8)})
    assert inside.centroids.shape == (5, 8)


def test_centroids_that_are_none_are_refused(tmp_path, state):
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "empty", tmp_path / "no.npy"):
        with pytest.raises(FileNotFoundError, match="no centroids .* at "):
            read_centroids(missing)
    for array in (np.zeros(8), np.zeros((2, 3, 8)), np.zeros((0, 8)), np.full((2, 8), np.nan), np.array([["a", "b"]])):
        with pytest.raises(ValueError, match=r"centroids must be rows \[K, S\] of finite numbers"):
            read_centroids(array)
    for length in (7, 9):
        with pytest.raises(ValueError, match=rf"centroids: \(3, {length}\), expected \(3, 8\)"):
            load_published("transmrsr", state, np.zeros((3, length)))
    np.save(tmp_path / "empty" / "0.npy", np.zeros(8))
    np.save(tmp_path / "empty" / "1.npy", np.zeros(7))
    with pytest.raises(ValueError, match="does not hold centroids of one length"):
        read_centroids(tmp_path / "empty")


def test_files_that_hold_no_centroids(tmp_path, monkeypatch):
    """Whatever they are, they are refused by name, and no code in them is run."""
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "whole.npy", CENTROIDS)
    whole = (tmp_path / "whole.npy").read_bytes()
    np.savez(tmp_path / "arrays.npz", CENTROIDS)
    np.save(tmp_path / "object.npy", np.array([Malicious()], dtype=object), allow_pickle=True)
    np.save(tmp_path / "number.npy", np.float64(3))
    for name, content in (
        ("text.npy", b"not an array\n"),
        ("nothing.npy", b""),
        ("cut.npy", whole[:100]),
        ("short.npy", whole[:-9]),
        ("zip.npy", b"PK\x03\x04 and no more"),
    ):
        (tmp_path / name).write_bytes(content)
    for path in sorted(tmp_path.glob("*.np*")):
        if path.name != "whole.npy":
            with pytest.raises(ValueError, match=rf"{path.name} does not hold centroids"):
                read_centroids(path)
    assert not (tmp_path / "owned").exists()


def test_centroids_belong_to_transmrsr(prior):
    for options in ({"centroids": CENTROIDS}, {"centroid_rule": "nearest"}):
        with pytest.raises(ValueError, match="centroids belong to transmrsr, not to styleswin"):
            load_published("styleswin", prior, **options)


def test_a_rule_needs_centroids_and_must_be_known(state):
    with pytest.raises(ValueError, match="centroid_rule needs centroids"):
        load_published("transmrsr", state, centroid_rule="nearest")
    with pytest.raises(ValueError, match="centroid_rule must be one of nearest, farthest, got 'middle'"):
        load_published("transmrsr", state, CENTROIDS, "middle")


# ---- StyleSwin ----


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_sources_of_styleswin(tmp_path, prior):
    """The averaged generator of a training file, which holds the options of its command line too."""
    other = {key: torch.zeros_like(value) for key, value in prior.items()}
    options = argparse.Namespace(size=16, batch=4, path="/data", lr=[1e-3, 2e-3], ttur=True, ckpt=None)
    training = {"g": other, "d": {"final_linear.0.weight": torch.zeros(2)}, "g_ema": prior, "args": options, "iter": 9}
    constants = {"layers.1.blocks.0.attn_mask": torch.zeros(1), "to_rgbs.0.upsample.kernel": torch.ones(4, 4)}
    for source in (
        prior,
        {f"module.{key}": value for key, value in prior.items()},
        {**prior, **constants},
        save(tmp_path / "plain.pt", prior),
        save(tmp_path / "900000.pt", training),
    ):
        net = load_published("styleswin", source)
        assert isinstance(net, StyleSwinGenerator) and not net.training
        assert same(net, prior)


def test_no_code_is_run(tmp_path, monkeypatch, prior):
    monkeypatch.chdir(tmp_path)
    for args in (Malicious(), argparse.Namespace(path=Malicious())):
        path = save(tmp_path / "bad.pt", {"g_ema": prior, "args": args})
        with pytest.raises(ValueError, match="bad.pt is not a checkpoint of plain tensors"):
            load_published("styleswin", path)
    assert not (tmp_path / "owned").exists()
    with pytest.raises(ValueError, match="is not a checkpoint of plain tensors"):  # options belong to StyleSwin's files
        load_published("transmrsr", save(tmp_path / "best.pt", {"args": argparse.Namespace()}))


def test_sizes_of_styleswin_are_read_off_the_keys(tmp_path, prior):
    path = save(tmp_path / "900000.pt", {"g_ema": prior, "args": argparse.Namespace(size=16)})
    main(["styleswin", str(path), str(tmp_path / "model.pt")])
    content = read_checkpoint(tmp_path / "model.pt")
    assert content["arch"] == {"name": "StyleSwinGenerator", **GENERATOR, "channels": [16, 8, 8]}
    assert same(load_network(tmp_path / "model.pt"), prior)


def test_published_widths_of_styleswin_are_a_multiplier():
    """Read without the network: weights of its size, and no memory."""
    for multiplier in (1, 2):
        with torch.device("meta"):
            state = StyleSwinGenerator(256, channel_multiplier=multiplier).state_dict()
        arch = StyleSwinGenerator.published.read_arch(state)
        assert arch["channel_multiplier"] == multiplier and "channels" not in arch
        assert arch["size"] == 256 and arch["style_dim"] == 512 and arch["mapping_layers"] == 8


def test_styleswin_that_does_not_fit_is_named(state, prior):
    with pytest.raises(ValueError, match="1 missing keys .first: to_rgbs.1.bias"):
        load_published("styleswin", {"g_ema": {k: v for k, v in prior.items() if k != "to_rgbs.1.bias"}})
    with pytest.raises(ValueError, match="1 unexpected keys .first: step"):
        load_published("styleswin", {**prior, "step": torch.tensor(1)})
    with pytest.raises(ValueError, match=r"to_rgbs.1.bias: \(2,\), expected \(1, 1, 1, 1\)"):
        load_published("styleswin", {**prior, "to_rgbs.1.bias": torch.ones(2)})
    for broken in ({}, state, {k: v for k, v in prior.items() if k != "style.1.weight"}):
        with pytest.raises(ValueError, match="not a StyleSwin generator: .* found .* keys"):
            load_published("styleswin", broken)


# ---- the command ----


def test_command_converts_with_centroids(tmp_path, state, capsys):
    centroid_sources(tmp_path)
    source, target = save(tmp_path / "best.pt", {"net_G_I": with_leftovers(state)}), tmp_path / "model.pt"
    main(["transmrsr", str(source), str(target), "--centroids", str(tmp_path / "rows")])
    assert "TransMRSR" in capsys.readouterr().out
    net = load_network(target)
    assert isinstance(net, TransMRSR) and net.centroid_rule == "farthest"
    assert torch.equal(net.centroids, read_centroids(CENTROIDS))
    wanted = {"name": "TransMRSR", "half_modulation": True, "num_centroids": 3, "centroid_rule": "farthest", **SIZES}
    assert read_checkpoint(target)["arch"] == wanted
    main(["transmrsr", str(source), str(target), "--centroids", str(tmp_path / "rows"), "--centroid-rule", "nearest"])
    assert load_network(target).centroid_rule == "nearest"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--centroids", "none"], "no centroids"),
        (["--centroids", "wrong.npy"], "centroids: .3, 5., expected .3, 8."),
        (["--centroids", "nothing.npy"], "nothing.npy does not hold centroids"),
        (["--centroid-rule", "nearest"], "centroid_rule needs centroids"),
    ],
)
def test_command_refuses_centroids(tmp_path, monkeypatch, state, arguments, words):
    monkeypatch.chdir(tmp_path)
    np.save("wrong.npy", np.zeros((3, 5)))
    Path("nothing.npy").touch()
    save(tmp_path / "best.pt", {"net_G_I": state})
    with pytest.raises(SystemExit, match=f"error: .*{words}"):
        main(["transmrsr", "best.pt", "model.pt", *arguments])
    assert not (tmp_path / "model.pt").exists()
