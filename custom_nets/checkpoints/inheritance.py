"""A smaller network that begins with the weights of a larger one (after TinyCLIP, Wu et al., ICCV 2023).

TinyCLIP's student keeps layers at an interval and the leading channels of each tensor ("manual inheritance"). Here a
network says itself which channels are the same (``channels``), so what is cut in one layer is cut where it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import torch
from torch import nn

from custom_nets.checkpoints.bundle import build_network, load_network, load_strictly
from custom_nets.networks.layers.channels import ChannelMap, Space, positions
from custom_nets.utils.weights import read_checkpoint

__all__ = ["HOW", "inherit", "importance", "space_sizes", "student_network"]

HOW = ("importance", "interval", "scratch")


def student_network(
    teacher: str | os.PathLike, share: float = 0.5, how: str = "importance", start: str | os.PathLike | None = None
) -> nn.Module:
    """A network like the teacher with about ``share`` of its weights.

    Args:
        teacher: bundle checkpoint that says how large the whole is.
        share: of the teacher's number of weights, above 0 and at most 1.
        how: what the student begins with: "importance" and "interval" as in :func:`inherit`, "scratch" for nothing.
        start: bundle checkpoint to inherit from, one between teacher and student (a stage before); the teacher where
            not given.

    Returns:
        The network, whose attribute ``arch`` says how to build it again.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, a network that does not say how it shrinks, or options that
            are not allowed.
    """
    if not 0 < share <= 1:
        raise ValueError(f"student_share is a share of the teacher's weights, above 0 and at most 1, got {share}.")
    if how not in HOW:
        raise ValueError(f"inherit must be one of {', '.join(HOW)}, got {how!r}.")
    arch = read_checkpoint(teacher).get("arch")
    if arch is None:
        raise ValueError(f"{teacher} is not a bundle checkpoint: it does not say its network.")
    whole = build_network(arch)
    if not hasattr(whole, "shrunk"):
        raise ValueError(f"{type(whole).__name__} does not say how it shrinks: it cannot be a teacher.")
    arch = {**arch, **whole.shrunk(share)}  # type: ignore[operator]
    student = build_network(arch)
    if how != "scratch":
        inherit(student, load_network(start or teacher), how)
    student.arch = arch  # type: ignore[assignment]
    return student


def inherit(
    student: nn.Module, teacher: nn.Module, how: str = "importance", units: Mapping[str, torch.Tensor] | None = None
) -> nn.Module:
    """Give a student the weights of its teacher that it has room for.

    A student of the same size becomes the teacher, exactly.

    Args:
        student: of the teacher's class, no larger in any place. It has ``channels`` (a
            :class:`custom_nets.networks.layers.channels.ChannelMap`), and may have ``depths``: names of its lists of
            equal layers, of which a student may have fewer.
        teacher: to inherit from.
        how: which units of each space are kept: the first ones ("interval"), or those with the largest weights on both
            sides of them ("importance"). Layers are taken at an interval either way.
        units: {space: which of its units}, where somebody knows better (learned gates).

    Returns:
        The student.

    Raises:
        ValueError: another kind of network, a larger one, or an unknown ``how``.
    """
    if type(student) is not type(teacher) or not hasattr(teacher, "channels"):
        raise ValueError(f"a {type(student).__name__} cannot inherit from a {type(teacher).__name__}.")
    if how not in HOW[:2]:
        raise ValueError(f"how must be one of {', '.join(HOW[:2])}, got {how!r}.")
    channels = teacher.channels()  # type: ignore[operator]
    state, layers = teacher.state_dict(), _kept_layers(student, teacher)
    kept = dict(units or {})
    score = importance(channels, state) if how == "importance" else {}
    for name, (whole, count) in space_sizes(student, teacher).items():
        if count > whole:
            raise ValueError(f"the student is larger than its teacher: {count} of {whole} units of {name}.")
        if name not in kept:
            kept[name] = score[name].argsort(descending=True)[:count].sort().values if score else torch.arange(count)
    found = {}
    for key, own in student.state_dict().items():
        source = _deeper(key, student, teacher)
        value = state[source]
        for dim, axis in channels.axes.get(source, {}).items():
            value = value.index_select(dim, positions(axis, kept, layers).to(value.device))
        if value.shape != own.shape:
            raise ValueError(
                f"{type(teacher).__name__}.channels does not say how {key} shrinks: {tuple(value.shape)} came of the "
                f"teacher, {tuple(own.shape)} is needed."
            )
        found[key] = value
    load_strictly(student, found, "what is left of the teacher")
    return student


def importance(channels: ChannelMap, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """How much each unit of each space matters: norm of the weights that make it, times norm of those that read it."""
    made: dict[str, torch.Tensor] = {}
    read: dict[str, torch.Tensor] = {}
    for key, axes in channels.axes.items():
        if key not in state or not state[key].is_floating_point():
            continue
        for dim, axis in axes.items():
            weights = state[key].double().movedim(dim, 0)
            energy = weights.reshape(len(weights), -1).square().sum(1).nan_to_num().cpu()
            start = 0
            for part in axis:
                if isinstance(part, int):
                    start += part
                    continue
                own = energy[start : start + part.units * part.width].view(part.units, part.width).sum(1)
                start += part.units * part.width
                side = read if dim == 1 and key in channels.reads else made
                side[part.name] = side.get(part.name, 0) + own
    return {name: made.get(name, torch.ones(1)) * read.get(name, torch.ones(1)) for name in channels.spaces()}


def _deeper(key: str, student: nn.Module, teacher: nn.Module) -> str:
    """The teacher's name of a tensor or module: the layers of a shorter list are the teacher's at an interval."""
    for name in getattr(teacher, "depths", ()):
        if place := re.match(rf"{re.escape(name)}\.(\d+)(.*)", key):
            own, whole = len(student.get_submodule(name)), len(teacher.get_submodule(name))  # type: ignore[arg-type]
            if own > whole:
                raise ValueError(f"the student is larger than its teacher: {own} of {whole} layers of {name}.")
            return f"{name}.{int(place[1]) * (whole // own)}{place[2]}"
    return key


def space_sizes(student: nn.Module, teacher: nn.Module) -> dict[str, tuple[int, int]]:
    """{the teacher's space: (units that it has, units that the student has)}"""
    ours, theirs = student.channels(), teacher.channels()  # type: ignore[operator]
    layers = _kept_layers(student, teacher)
    found = {}
    for key in student.state_dict():
        source = _deeper(key, student, teacher)
        for dim, axis in ours.axes.get(key, {}).items():
            parts = theirs.axes[source][dim]
            wholes = [part for part in parts if isinstance(part, int) or not part.layer or part.layer in layers]
            if len(axis) != len(wholes):
                raise ValueError(f"{type(teacher).__name__}.channels does not say how {key} shrinks.")
            for own, whole in zip(axis, wholes, strict=True):
                if isinstance(own, Space) and isinstance(whole, Space):
                    found[whole.name] = (whole.units, own.units)
    return found


def _kept_layers(student: nn.Module, teacher: nn.Module) -> set[str]:
    """The teacher's modules that the student has."""
    return {_deeper(name, student, teacher) for name, _ in student.named_modules()}
