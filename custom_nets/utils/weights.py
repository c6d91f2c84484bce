"""Weight files, read safely: they come from colleagues and from the net."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from custom_nets.utils.files import check_zip, new_file

__all__ = ["PublishedWeights", "StateDict", "checked_arch", "read_checkpoint", "write_checkpoint"]


StateDict = Mapping[str, torch.Tensor]

_WORD = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_ .+-]{0,62}[A-Za-z0-9_])?")
_LARGEST = 1 << 16  # no size of a layer, nor a number of layers, comes near
_DEEPEST = 3  # lists in lists


@dataclass(frozen=True)
class PublishedWeights:
    """How the authors' weights of a method are read; the attribute ``published`` of its network.

    Args:
        method: name on the command line.
        read_arch: state dict -> the network's description (see :func:`custom_nets.checkpoints.build_network`), or
            ValueError with the keys that are missing.
        entry: of a larger checkpoint, the entry with the network that is used.
        leftovers: parts of keys that are not loaded: other networks' weights, constant buffers, unused modules.
        also_holds: classes that the files hold besides tensors and plain types.
        takes_centroids: whether the method has centroids of styles in other files.
    """

    method: str
    read_arch: Callable[[StateDict], dict[str, Any]]
    entry: str | None = None
    leftovers: tuple[str, ...] = ()
    also_holds: tuple[type, ...] = ()
    takes_centroids: bool = False


def read_checkpoint(path: str | os.PathLike, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """What a weight file holds, safely: nothing but tensors and plain types (``weights_only=True``), no byte changed
    since it was written, and in ``arch`` nothing that a config could take for code (:func:`checked_arch`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of tensors and plain types, a damaged one, or an ``arch`` that is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}.")
    try:
        check_zip(path, packed=False)  # PyTorch compares no checksums
        content = torch.load(path, map_location=map_location, weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a file that is something else, or is damaged, fails in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors.")
    if "arch" in content:
        content["arch"] = checked_arch(content["arch"], str(path))
    if (name := _not_a_number(content)) is not None:
        raise ValueError(f"{path}: '{name}' has values that are no numbers: the weights are damaged.")
    return content


_MAY_BE_UNFITTED = ("centroids",)


def _not_a_number(content: Any) -> str | None:
    """Name of a tensor with NaN in it, or without values that lie there, at any depth; None where there is none."""
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_meta:
                return str(name)
            once = tuple(slice(0, 1) if step == 0 else slice(None) for step in value.stride())  # as it is in the file
            # what is not fitted yet is NaN, and the network says so that needs it
            if bool(torch.isnan(value[once]).any()) and str(name).rpartition(".")[2] not in _MAY_BE_UNFITTED:
                return str(name)
        elif (inner := _not_a_number(value)) is not None:
            return f"{name}.{inner}"
    return None


def write_checkpoint(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write tensors and plain types; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with new_file(path) as part:
        try:
            torch.save(dict(content), part)
        except RuntimeError as error:  # how PyTorch reports a full disk, or a folder that cannot be written
            raise OSError(f"{path} could not be written; is the disk full? ({str(error).splitlines()[0]})") from error


def checked_arch(arch: Any, origin: str = "the checkpoint") -> dict[str, Any]:
    """A network's description, if it is nothing but that: {"name": word, argument: value, ...}.

    It gets into configs, whose language evaluates texts that begin with "$", "@" or "%" and imports what ``_target_``
    names. So the names are words, and the values numbers, true, false, None, words, or lists of these.

    Raises:
        ValueError: anything else, at any depth; or a number far above that of any network.
    """
    if not isinstance(arch, Mapping) or not isinstance(arch.get("name"), str) or not arch["name"].isidentifier():
        raise ValueError(f"{origin} does not say which network it belongs to: 'arch' is {_short(arch)}.")
    for key, value in arch.items():
        if not (isinstance(key, str) and key.isidentifier() and not key.startswith("_")):
            raise ValueError(f"{origin}: {_short(key)} in 'arch' is no name of an argument, so it is refused.")
        if not _is_plain(value, _DEEPEST):
            raise ValueError(
                f"{origin}: the argument '{key}' of its network is {_short(value)}; only numbers (up to {_LARGEST}), "
                "words and lists of them are taken from a weight file."
            )
    return {str(key): list(value) if isinstance(value, tuple) else value for key, value in arch.items()}


def _is_plain(value: Any, depth: int) -> bool:
    if type(value) in (list, tuple):
        return depth > 0 and len(value) <= 64 and all(_is_plain(item, depth - 1) for item in value)
    if type(value) in (int, float):
        return abs(value) <= _LARGEST  # not a number, or infinite, is not
    if type(value) is str:
        return _WORD.fullmatch(value) is not None
    return value is None or type(value) is bool


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
