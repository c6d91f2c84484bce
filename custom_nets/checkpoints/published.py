"""Published weights turned into bundle checkpoints: ``python -m custom_nets.checkpoints METHOD IN OUT``.

How a method's weights are read stands with its network, in ``published``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from custom_nets.checkpoints.bundle import build_empty, load_strictly, save_checkpoint
from custom_nets.networks import network_classes
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.weights import PublishedWeights, StateDict, read_checkpoint

__all__ = ["load_published", "published_methods", "read_centroids"]


def published_methods() -> dict[str, PublishedWeights]:
    """How the authors' weights of each method are read, by its name: what the networks say in ``published``."""
    said = (vars(network).get("published") for network in network_classes().values())
    found = [weights for weights in said if isinstance(weights, PublishedWeights)]
    return {weights.method: weights for weights in sorted(found, key=lambda weights: weights.method)}


def read_centroids(source: str | os.PathLike | Any) -> torch.Tensor:
    """Centroids [K, S] in float32.

    Args:
        source: an array; a .npy file of it; or a folder of .npy files with one centroid each, taken by name.

    Raises:
        FileNotFoundError, ValueError: nothing there, or not rows of finite numbers.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise FileNotFoundError(f"no centroids (.npy) at {path}.")
        try:
            rows = [np.load(file, allow_pickle=False) for file in files]
            array = np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows])
        except OSError:
            raise
        except Exception as error:  # a file that is something else, or is damaged, fails in any way
            raise ValueError(f"{path} does not hold centroids of one length: {error}") from error
    else:
        array = source.detach().cpu().numpy() if isinstance(source, torch.Tensor) else np.asarray(source)
    if array.ndim != 2 or not len(array) or not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise ValueError(f"centroids must be rows [K, S] of finite numbers, got {array.dtype} {array.shape}.")
    return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32))


def _content(weights: PublishedWeights, source: str | os.PathLike | StateDict) -> tuple[dict[str, Any], str]:
    """The state dict and what to call it."""
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    if isinstance(source, Mapping):
        content = dict(source)
    else:
        with torch.serialization.safe_globals(list(weights.also_holds)):
            content = read_checkpoint(source)
    if weights.entry in content:
        inner = content[weights.entry]
        if not isinstance(inner, Mapping):
            raise ValueError(f"{origin} holds a {type(inner).__name__} as '{weights.entry}', expected a state dict.")
        content = dict(inner)
    return content, origin


def _published(
    method: str,
    source: str | os.PathLike | StateDict,
    centroids: Any = None,
    centroid_rule: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    known = published_methods()
    if method not in known:
        raise ValueError(f"unknown method '{method}', known: {', '.join(known)}.")
    weights = known[method]
    if not weights.takes_centroids and (centroids is not None or centroid_rule is not None):
        those = ", ".join(name for name, other in known.items() if other.takes_centroids)
        raise ValueError(f"centroids belong to {those}, not to {method}.")
    content, origin = _content(weights, source)
    state = {}
    for key, value in content.items():
        if any(part in str(key) for part in weights.leftovers):
            continue
        try:
            state[str(key).removeprefix("module.")] = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{origin} holds a {type(value).__name__} as '{key}', expected a plain state dict (name: tensor) of "
                "the authors; weights inside of a larger checkpoint have to be taken out first, a bundle's are ready "
                "to use."
            ) from error
    if centroids is not None:
        state["centroids"] = read_centroids(centroids)
    arch = weights.read_arch(state)
    if "num_centroids" in arch:
        arch["centroid_rule"] = centroid_rule or "farthest"
    elif centroid_rule is not None:
        raise ValueError("centroid_rule needs centroids: without them styles are not drawn anywhere.")
    network = build_empty(arch, state, origin)
    load_strictly(network, state, origin)
    return network.eval(), arch


def load_published(
    method: str,
    source: str | os.PathLike | StateDict,
    centroids: Any = None,
    centroid_rule: str | None = None,
) -> nn.Module:
    """The authors' network with the authors' weights, in eval mode.

    Args:
        method: one of :func:`published_methods`; what its network takes and gives stands at the network.
        source: an authors' file, or its state dict (tensors or arrays).
        centroids: of methods that have them in other files: see :func:`read_centroids`. None for no truncation.
        centroid_rule: "farthest" (the default: as the authors' code does) or "nearest" (as their paper says).

    Raises:
        ValueError: unknown method; keys or shapes that do not fit, named.
    """
    return _published(method, source, centroids, centroid_rule)[0]


def main(argv: list[str] | None = None) -> None:
    """``python -m custom_nets.checkpoints METHOD IN OUT``"""
    parser = CommandParser(
        prog="python -m custom_nets.checkpoints", description="Turn an authors' weight file into a bundle checkpoint."
    )
    parser.add_argument("method", choices=list(published_methods()))
    parser.add_argument("source", help="the authors' file (.pkl, .pth)")
    parser.add_argument("target", help="bundle checkpoint to write (.pt)")
    parser.add_argument(
        "--centroids", help="of methods that take them: .npy file or a folder of them; default: no truncation"
    )
    parser.add_argument("--centroid-rule", choices=["farthest", "nearest"], help="default farthest")
    args = parser.parse_args(argv)
    try:
        network, arch = _published(args.method, args.source, args.centroids, args.centroid_rule)
        save_checkpoint(args.target, network, arch)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{args.target}: {arch.pop('name')} {arch}, {parameters:,} parameters")
