"""Weights that remember their network: bundle checkpoints, and published ones turned into them.

A bundle checkpoint is a dictionary ``{"model": state_dict, "arch": {"name": class, ...keyword arguments}}`` of tensors
and plain Python types, so it loads with ``weights_only=True`` and the network is rebuilt without guessing.

    python -m custom_nets.checkpoints arssr ArSSR_RDN.pkl model.pt
    python -m custom_nets.checkpoints transmrsr best.pt model.pt --centroids centroids/
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from custom_nets.utils.weights import StateDict, read_checkpoint

__all__ = ["build_network", "load_network", "save_checkpoint", "load_pretrained"]


def build_network(arch: Mapping[str, Any]) -> nn.Module:
    """Network of ``custom_nets.networks`` from its description.

    Args:
        arch: "name" of the class and its keyword arguments.

    Raises:
        ValueError: no such network, or arguments that it does not take.
    """
    from custom_nets import networks

    kwargs = dict(arch)
    name = kwargs.pop("name", None)
    if name not in networks.__all__:
        raise ValueError(f"unknown network {name!r} in the checkpoint, known: {', '.join(networks.__all__)}.")
    try:
        return getattr(networks, name)(**kwargs)
    except TypeError as error:
        raise ValueError(f"{name} cannot be built from the checkpoint's {kwargs}: {error}") from error


def build_empty(arch: Mapping[str, Any]) -> nn.Module:
    """:func:`build_network` without drawing weights that are loaded afterwards: seconds for a large network."""
    with torch.device("meta"):
        network = build_network(arch)
    if len(network.state_dict()) < len([*network.parameters(), *network.buffers()]):
        return build_network(arch)  # it has buffers that no file holds
    return network.to_empty(device="cpu")


def save_checkpoint(path: str | os.PathLike, network: nn.Module, arch: Mapping[str, Any]) -> None:
    """Write a bundle checkpoint (beside, then renamed: a reader never sees half of one).

    Args:
        path: of the file.
        network: whose weights to store (on the CPU, in float32).
        arch: see :func:`build_network`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().float().cpu().contiguous() for key, value in network.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    try:
        torch.save({"model": state, "arch": dict(arch)}, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_strictly(network: nn.Module, state: StateDict, origin: str) -> None:
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [
        f"{key}: {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    problems = [
        f"{len(found)} {kind} (first: {', '.join(found[:4])})"
        for kind, found in (("missing keys", missing), ("unexpected keys", unexpected), ("wrong shapes", shapes))
        if found
    ]
    if problems:
        raise ValueError(f"{origin} does not fit {type(network).__name__}: {'; '.join(problems)}.")
    network.load_state_dict(state)


def load_network(path: str | os.PathLike, map_location: str | torch.device = "cpu") -> nn.Module:
    """The network of a bundle checkpoint, with its weights, in eval mode.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_checkpoint`; also when the weights do not fit or the network's
            ``check_weights`` refuses them, or the file is a published one (which is converted first).
    """
    content = read_checkpoint(path, map_location)
    if not {"model", "arch"} <= content.keys():
        found = ", ".join(map(str, list(content)[:4]))
        raise ValueError(
            f"{path} is not a bundle checkpoint (it needs 'model' and 'arch', found: {found}). Authors' weights are "
            f"converted by: python -m custom_nets.checkpoints METHOD {path} model.pt"
        )
    network = build_empty(content["arch"])
    load_strictly(network, content["model"], str(path))
    if callable(check := getattr(network, "check_weights", None)):
        try:
            check()
        except ValueError as error:
            raise ValueError(f"{path} cannot be used: {error}") from error
    return network.to(map_location).eval()


def load_pretrained(network: nn.Module, path: str | os.PathLike | None) -> nn.Module:
    """The network itself, after the weights of a bundle checkpoint were put into it (None: it stays as it is).

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or that of another network.
    """
    if path is not None:
        content = read_checkpoint(path)
        name = (content.get("arch") or {}).get("name")
        if name != type(network).__name__:
            raise ValueError(f"{path} has the weights of {name}, but this config trains {type(network).__name__}.")
        load_strictly(network, content["model"], str(path))
    return network


# ---- published weights ----
