"""Published weights turned into bundle checkpoints.

python -m custom_nets.checkpoints arssr ArSSR_RDN.pkl model.pt
python -m custom_nets.checkpoints transmrsr best.pt model.pt --centroids centroids/
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from custom_nets.checkpoints.bundle import build_empty, load_strictly, save_checkpoint
from custom_nets.utils.weights import StateDict, read_checkpoint

__all__ = ["load_published", "read_centroids"]


def _arssr_arch(state: StateDict) -> dict[str, Any]:
    """Read encoder and sizes of a published ArSSR off its keys."""
    marks = {
        "RDN": "encoder.output.weight",
        "ResCNN": "encoder.conv_end.0.weight",
        "SRResNet": "encoder.features.20.0.weight",
    }
    found = [name for name, key in marks.items() if key in state]
    if len(found) != 1 or "decoder.stage_one.0.weight" not in state:
        wanted = ", ".join(f"{key} ({name})" for name, key in marks.items())
        raise ValueError(
            f"not an ArSSR state dict: expected decoder.stage_one.0.weight and one of {wanted}; "
            f"found {len(state)} keys (first: {', '.join(list(state)[:4]) or 'none'})."
        )
    linears = sum(bool(re.fullmatch(r"decoder\.stage_one\.\d+\.weight", key)) for key in state)
    return {
        "name": "ArSSR",
        "encoder": found[0],
        "feature_dim": int(state[marks[found[0]]].shape[0]),
        "decoder_depth": 2 * linears,
        "decoder_width": int(state["decoder.stage_one.0.weight"].shape[0]),
    }


def _most_dsa_arch(state: StateDict) -> dict[str, Any]:
    """Read the sizes of a published MoSt-DSA or GenDSA off its keys."""
    block = "feature_bone.block4.0."
    marks = {
        "features": ("feature_bone.block1.conv.0.weight", 4),
        "queries": (block + "Lambda.to_q.weight", 4),
        "keys": (block + "Lambda.to_k.weight", 4),
        "window": (block + "Lambda.pos_conv.weight", 5),
        "motion": (block + "Lambda.motion_proj.weight", 4),
        "mlp": (block + "mlp.fc1.weight", 2),
        "head": ("block.0.conv.0.0.weight", 4),
        "refiner": ("unet.conv.weight", 4),
    }
    missing = [key for key, ndim in marks.values() if key not in state or state[key].ndim != ndim]
    if missing:
        raise ValueError(
            f"not a MoSt-DSA or GenDSA state dict: {', '.join(missing)} missing or of another kind; "
            f"found {len(state)} keys (first: {', '.join(list(state)[:4]) or 'none'})."
        )
    shape = {name: state[key].shape for name, (key, _) in marks.items()}
    return {
        "name": "MoStDSA",
        "in_channels": int(shape["features"][1]),
        "num_features": int(shape["features"][0]),
        "num_blocks": len({key.split(".")[2] for key in state if key.startswith("feature_bone.block4.")}),
        "num_heads": int(shape["queries"][0] // shape["keys"][0]),
        "key_dim": int(shape["keys"][0]),
        "window": int(shape["window"][-1]),
        "motion_dim": int(shape["motion"][0]),
        "mlp_ratio": int(shape["mlp"][0] // shape["mlp"][1]),
        "head_width": int(shape["head"][0]),
        "refiner_width": int(shape["refiner"][1]),
    }


def _transmrsr_arch(state: StateDict) -> dict[str, Any]:
    """Read size and kind of modulation of a published TransMRSR off its keys."""
    levels = {key.split(".")[1] for key in state if re.fullmatch(r"layers\.\d+\.conv\.weight", key)}
    head, latents = state.get("condition_scale.0.2.weight"), state.get("final_layers.weight")
    if not levels or head is None or head.ndim != 4 or latents is None or "generator.input.input" not in state:
        raise ValueError(
            "not a TransMRSR state dict: layers.N.conv.weight, condition_scale.0.2.weight, final_layers.weight or "
            f"generator.input.input missing or of another kind; found {len(state)} keys (first: "
            f"{', '.join(list(state)[:4]) or 'none'})."
        )
    size = 2 ** (len(levels) + 2)
    arch: dict[str, Any] = {"name": "TransMRSR", "size": size, "half_modulation": 2 * head.shape[0] == head.shape[1]}
    if "centroids" in state:
        arch["num_centroids"] = len(state["centroids"])
    style_dim = latents.shape[0] // (2 * len(levels) + 2)
    if style_dim != 512:
        arch["style_dim"] = style_dim
    widths = _level_widths(state, "generator.")
    if widths != [_published_width(4 * 2**i) for i in range(len(widths))]:
        arch["channels"] = widths
    return arch


def _published_width(resolution: int, multiplier: int = 1) -> int:
    from custom_nets.networks.style_swin import channels_at

    return channels_at(resolution, multiplier)


def _level_widths(state: StateDict, prefix: str = "") -> list[int]:
    """Channels of a StyleSwin's levels from 4x4 on, by their key ``layers.N.blocks.0.proj.bias``."""
    found: dict[int, int] = {}
    for key, value in state.items():
        match = re.fullmatch(re.escape(prefix) + r"layers\.(\d+)\.blocks\.0\.proj\.bias", key)
        if match:
            found[int(match[1])] = len(value)
    return [found[level] for level in sorted(found)]


def _styleswin_arch(state: StateDict) -> dict[str, Any]:
    """Read the sizes of a published StyleSwin generator off its keys."""
    widths = _level_widths(state)
    if len(widths) < 2 or "style.1.weight" not in state or "to_rgbs.0.conv.weight" not in state:
        raise ValueError(
            "not a StyleSwin generator: layers.N.blocks.0.proj.bias, style.1.weight or to_rgbs.0.conv.weight missing; "
            f"found {len(state)} keys (first: {', '.join(list(state)[:4]) or 'none'})."
        )
    arch: dict[str, Any] = {
        "name": "StyleSwinGenerator",
        "size": 2 ** (len(widths) + 1),
        "style_dim": int(state["style.1.weight"].shape[0]),
        "mapping_layers": sum(bool(re.fullmatch(r"style\.\d+\.weight", key)) for key in state),
        "image_channels": int(state["to_rgbs.0.conv.weight"].shape[0]),
    }
    multipliers = [m for m in (1, 2) if widths == [_published_width(4 * 2**i, m) for i in range(len(widths))]]
    if multipliers:
        arch["channel_multiplier"] = multipliers[0]
    else:
        arch["channels"] = widths
    return arch


_PUBLISHED: dict[str, Callable[[StateDict], dict[str, Any]]] = {
    "arssr": _arssr_arch,
    "most_dsa": _most_dsa_arch,
    "styleswin": _styleswin_arch,
    "transmrsr": _transmrsr_arch,
}


# a larger checkpoint's entry with the network that is used
_ENTRIES = {"styleswin": "g_ema", "transmrsr": "net_G_I"}


# parts of keys that are not loaded: leftovers of other networks, buffers that are known, modules that are never used
_CONSTANTS = ("attn_mask", "relative_position_index", "_float_tensor", "upsample.kernel")


_LEFTOVERS = {
    "most_dsa": ("attn_mask", "HW"),
    "styleswin": _CONSTANTS,
    "transmrsr": (*_CONSTANTS, "MAB.", "fusion_convs."),
}


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


def _content(method: str, source: str | os.PathLike | StateDict) -> tuple[dict[str, Any], str]:
    """The state dict and what to call it."""
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    if isinstance(source, Mapping):
        content = dict(source)
    elif method == "styleswin":  # the published files hold the command line's options too
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = read_checkpoint(source)
    else:
        content = read_checkpoint(source)
    entry = _ENTRIES.get(method)
    if entry in content:
        inner = content[entry]
        if not isinstance(inner, Mapping):
            raise ValueError(f"{origin} holds a {type(inner).__name__} as '{entry}', expected a state dict.")
        content = dict(inner)
    return content, origin


def _published(
    method: str,
    source: str | os.PathLike | StateDict,
    centroids: Any = None,
    centroid_rule: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    if method not in _PUBLISHED:
        raise ValueError(f"unknown method '{method}', known: {', '.join(_PUBLISHED)}.")
    if method != "transmrsr" and (centroids is not None or centroid_rule is not None):
        raise ValueError(f"centroids belong to transmrsr, not to {method}.")
    content, origin = _content(method, source)
    state = {}
    for key, value in content.items():
        if any(part in str(key) for part in _LEFTOVERS.get(method, ())):
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
    arch = _PUBLISHED[method](state)
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
        method: "arssr": ``net(image [B, 1, D, H, W], coords [B, K, 3]) -> [B, K, 1]``, axes (z, y, x);
            "most_dsa" (GenDSA's too): ``net(frame0 [B, 3, H, W], frame1, times) -> [B, T, 3, H, W]``, 0 to 1;
            "transmrsr": ``net(planes [B, 3, S, S]) -> [B, 3, S, S]``, in ImageNet's units;
            "styleswin": ``net(noise [B, 512]) -> [B, 3, S, S]``, the averaged generator of a training file.
        source: an authors' file, or its state dict (tensors or arrays).
        centroids: of "transmrsr", which has them in other files: see :func:`read_centroids`. None for no truncation.
        centroid_rule: "farthest" (the default: as the authors' code does) or "nearest" (as their paper says).

    Raises:
        ValueError: unknown method; keys or shapes that do not fit, named.
    """
    return _published(method, source, centroids, centroid_rule)[0]


def main(argv: list[str] | None = None) -> None:
    """``python -m custom_nets.checkpoints METHOD IN OUT``"""
    parser = argparse.ArgumentParser(
        prog="python -m custom_nets.checkpoints", description="Turn an authors' weight file into a bundle checkpoint."
    )
    parser.add_argument("method", choices=sorted(_PUBLISHED))
    parser.add_argument("source", help="the authors' file (.pkl, .pth)")
    parser.add_argument("target", help="bundle checkpoint to write (.pt)")
    parser.add_argument("--centroids", help="transmrsr: .npy file or a folder of them; default: no truncation")
    parser.add_argument("--centroid-rule", choices=["farthest", "nearest"], help="transmrsr: default farthest")
    args = parser.parse_args(argv)
    try:
        network, arch = _published(args.method, args.source, args.centroids, args.centroid_rule)
        save_checkpoint(args.target, network, arch)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{args.target}: {arch.pop('name')} {arch}, {parameters:,} parameters")
