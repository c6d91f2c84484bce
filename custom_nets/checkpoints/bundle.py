"""Weights that remember their network: bundle checkpoints, and published ones turned into them.

A bundle checkpoint is a dictionary ``{"model": state_dict, "arch": {"name": class, ...keyword arguments}}`` of tensors
and plain Python types, so it loads with ``weights_only=True`` and the network is rebuilt without guessing.

    python -m custom_nets.checkpoints METHOD AUTHORS_FILE model.pt
"""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from custom_nets.networks import network_classes
from custom_nets.utils.weights import StateDict, checked_arch, read_checkpoint, write_checkpoint

__all__ = ["build_network", "load_network", "save_checkpoint", "load_pretrained"]


def build_network(arch: Mapping[str, Any]) -> nn.Module:
    """Network of ``custom_nets.networks`` from its description.

    Args:
        arch: "name" of the class and its keyword arguments.

    Raises:
        ValueError: no such network, or arguments that it does not take.
    """
    kwargs = checked_arch(arch)
    name = kwargs.pop("name")
    known = network_classes()
    if name not in known:
        raise ValueError(f"unknown network {name!r} in the checkpoint, known: {', '.join(sorted(known))}.")
    network = known[name]
    if unknown := sorted(set(kwargs) - set(inspect.signature(network).parameters)):
        raise ValueError(f"{name} cannot be built from the checkpoint's {kwargs}: it has no argument '{unknown[0]}'.")
    try:
        return network(**kwargs)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(f"{name} cannot be built from the checkpoint's {kwargs}: {error}") from error


def build_empty(arch: Mapping[str, Any], state: StateDict, origin: str) -> nn.Module:
    """:func:`build_network` for weights that are loaded afterwards: seconds faster for a large network, as none are
    drawn, and a description that does not belong to ``state`` is refused before it takes memory or time.
    """
    most = 2 * len(check_state(state, origin)) + 64
    seen = itertools.count(1)

    def count(module: nn.Module, name: str, value: Any) -> None:
        if next(seen) > most:
            raise ValueError(f"{origin}: its network has far more weights than the file.")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            network = build_network(arch)
    finally:
        hook.remove()
    check_fit(network, state, origin)
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
    state = {key: value.detach().float().cpu().contiguous() for key, value in network.state_dict().items()}
    write_checkpoint(path, {"model": state, "arch": dict(arch)})


def check_state(state: Any, origin: str) -> StateDict:
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{origin} has no dictionary of tensors as its weights.")
    return state


def check_fit(network: nn.Module, state: StateDict, origin: str) -> None:
    own, state = network.state_dict(), check_state(state, origin)
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(map(str, state.keys() - own.keys()))
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


def load_strictly(network: nn.Module, state: StateDict, origin: str) -> None:
    check_fit(network, state, origin)
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
    network = build_empty(content["arch"], content["model"], str(path))
    load_strictly(network, content["model"], str(path))
    if callable(check := getattr(network, "check_weights", None)):
        try:
            check()
        except ValueError as error:
            raise ValueError(f"{path} cannot be used: {error}") from error
    return network.to(map_location).eval()


def load_pretrained(network: nn.Module, path: str | os.PathLike | None) -> nn.Module:
    """The network itself, after the weights of a bundle checkpoint were put into it (None: it stays as it is).

    Parts that a network names in ``optional_parts`` may be missing in the checkpoint: they stay as they were made. A
    network that takes the blur (``takes_mtf``) starts from one that does not as exactly that one: the weights of what
    it is told are zero.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or that of another network.
    """
    if path is not None:
        content = read_checkpoint(path)
        name = content.get("arch", {}).get("name")
        if name != type(network).__name__ or "model" not in content:
            raise ValueError(f"{path} has the weights of {name}, but this config trains {type(network).__name__}.")
        state = content["model"]
        if getattr(network, "takes_mtf", False) and not content["arch"].get("takes_mtf", False):
            state = _with_more_inputs(state, network.state_dict())
        optional = tuple(f"{part}." for part in getattr(network, "optional_parts", ()))
        fresh = {k: v for k, v in network.state_dict().items() if optional and k.startswith(optional)}
        load_strictly(network, {**fresh, **state}, str(path))
    return network


def _with_more_inputs(state: StateDict, wanted: StateDict) -> dict[str, torch.Tensor]:
    """Weights [out, in, ...] that lack inputs at the end get zeros for them."""
    widened = dict(state)
    for key, own in wanted.items():
        given = state.get(key)
        if given is None or own.ndim < 2 or own.ndim != given.ndim or own.shape[1] <= given.shape[1]:
            continue
        if own.shape[0] == given.shape[0] and own.shape[2:] == given.shape[2:]:
            widened[key] = torch.cat([given, given.new_zeros(own[:, given.shape[1] :].shape)], 1)
    return widened


# ---- published weights ----
