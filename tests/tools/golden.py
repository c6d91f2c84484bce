"""Golden vectors: what the published code gave for weights and inputs that anybody can make again.

The complete set lies beside the repository (``../shared/golden``) where it is at hand; a compact part of it is in
``tests/golden_data`` so that parity is checked anywhere. Both have the same file and array names; the compact one
lacks files and arrays. ``python -m tests.tools.golden`` makes the compact part from the complete set.

ArSSR's volumes and coordinates are in the array order of the published code, (z, y, x). TransMRSR has many networks,
each with a manifest of its own; those of its tests have a tag before their keys.
"""

from __future__ import annotations

import json
import sys
import zlib
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
COMPLETE = ROOT.parent / "shared" / "golden"
COMPACT = ROOT / "tests" / "golden_data"

_DEGRADED_ONLY_COMPLETE = [
    f"ax{axis}_{profile}" for axis in ("0_s4", "1_s4", "2_s2") for profile in ("gaussian", "box")
]

# left out of the compact part: arrays by file (names or patterns), or (None) the whole file
_LEFT_OUT = {
    "arssr": {
        "encoder_RDN_inner": None,
        "encoder_ResCNN_inner": None,
        "encoder_SRResnet_inner": None,
        "forward_RDN_free": ("decoder_in",),
        "forward_ResCNN_free": ("decoder_in",),
        "forward_SRResnet_free": ("decoder_in",),
        "forward_RDN_k2p6": None,
        "forward_ResCNN_k2p6": ("decoder_in", "stage_one_out"),
        "forward_SRResnet_k2p6": None,
        "forward_RDN_long": ("features_axis0_step9",),
        "forward_ResCNN_long": ("features_axis0_step9",),
        "forward_SRResnet_long": ("features_axis0_step9",),
        "forward_RDN_k2": ("decoder_in", "stage_one_out"),
        "forward_ResCNN_k2": ("features", "decoder_in", "stage_one_out"),
        "forward_SRResnet_k2": ("features", "decoder_in", "stage_one_out"),
    },
    "most_dsa": {
        "forward_A": ("merged", "flow", "mask_sigmoid", "unet_logits"),
        "inter_A": (
            *("af0_s4", "af1_s2", "af2_s2", "af3", "mf3", "patch_embed4", "lambda0_appearance", "block0_out"),
            *("warped_c0_3", "warped_c1_0_s4", "unet_s0_s4", "unet_s3", "supple_c0", "unet_up0_s2"),
        ),
        "cli_B": ("tta",),
        "forward_C": None,
    },
    "transmrsr": {
        "degrade_proposed": tuple(f"{part}_{kind}" for part in ("lr", "up") for kind in _DEGRADED_ONLY_COMPLETE),
        "metrics": (*("1/gt_u8", "1/lr_u8", "1/pred_norm", "1/psnr", "1/ssim", "1/rmse"),),
        "sr_full_256": ("hr_u8", "y_notrunc", "rec255_sub", "gt255_sub", "mid/*", "midshape/*", "midstat/*"),
        "sr_small": ("s16_b2_half1/mid/*", "s64_b1_half1/y_notrunc", "s64_b1_half1/y_trunc_nearest"),
        "stage1": ("aug/*", "g256/*", "d256_sn/*"),
        "submodules": ("swin_noshift/*", "styleswin_block8/*", "layer_cwss_*"),
    },
}


class Golden:
    """One set of golden files.

    Args:
        folder: with ``manifest.json`` and ``*.npz``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def manifest(self) -> dict[str, list]:
        """Model -> ordered rows [key, shape, dtype, kind] of its state dict; one model has the method's name."""
        content = json.loads((self.folder / "manifest.json").read_text())
        return content if isinstance(content, dict) else {self.folder.name: content}

    def rows(self, model: str) -> list[list]:
        """The rows [key, shape, dtype, kind] of ``manifest_{model}.json``, or ``manifest.json`` for ""."""
        return json.loads((self.folder / f"manifest{model and '_' + model}.json").read_text())

    def names(self, pattern: str = "*") -> list[str]:
        return sorted(path.stem for path in self.folder.glob(f"{pattern}.npz"))

    def load(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as arrays:
            return {key: arrays[key] for key in arrays.files}

    def weights(self, model: str) -> dict[str, np.ndarray]:
        """The state dict of ``model``: every tensor is a function of its key and shape."""
        return _filled(self.folder.name, json.dumps(self.manifest[model]))


def golden_sets(method: str) -> list[Golden]:
    """The compact set and, where it lies beside the repository, the complete one."""
    complete = COMPLETE / method
    return [Golden(COMPACT / method)] + ([Golden(complete)] if complete.is_dir() else [])


def name_of(golden: Golden) -> str:
    """For pytest's ids."""
    return "compact" if golden.folder.parent == COMPACT else "complete"


@lru_cache(maxsize=4)
def _filled(method: str, rows: str) -> dict[str, np.ndarray]:
    return {key: _WEIGHTS[method](key, shape, kind) for key, shape, _, kind in json.loads(rows)}


def _normal(key: str, shape: list[int]) -> np.ndarray:
    """Standard normal numbers seeded by the key's CRC-32."""
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    return state.standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)


def arssr_weight(key: str, shape: list[int], kind: str) -> np.ndarray:
    """Scaled so that the signal keeps its size through the net."""
    x = _normal(key, shape)
    if kind == "bias":
        return np.float32(0.1) * x
    if kind == "bias_out":
        return np.float32(0.8) + np.float32(0.1) * x
    if kind != "weight":
        raise ValueError(f"unknown kind '{kind}' of {key} in the manifest.")
    gain = 2.0 if key.startswith("decoder.") else 0.25 if ".lff." in key or ".m.1.0." in key else 1.0
    return x * np.float32(np.sqrt(gain / np.prod(shape[1:])))


def most_dsa_weight(key: str, shape: list[int], kind: str) -> np.ndarray:
    """Also of the VGG19 in its losses, whose keys are ``vgg19.features.N.weight`` and ``.bias``."""
    if kind == "num_batches":
        return np.asarray(1000, dtype=np.int64)
    x = _normal(key, shape)
    if kind in ("weight", "deconv_weight"):
        # an output of a 4x4 transposed convolution of stride 2 sees 2x2 taps of each input channel
        fan_in = int(np.prod(shape[1:])) if kind == "weight" else shape[0] * shape[2] * shape[3] // 4
        gains = {"block.0.conv.2.0.weight": 4.0, "unet.conv.weight": 0.1, "Lambda.": 1.0, "mlp.": 1.0}
        gain = next((g for part, g in {**gains, "patch_embed4.": 1.0}.items() if part in key), 2.0)
        return x * np.float32(np.sqrt(gain / fan_in))
    if kind == "running_var":
        return np.exp(np.float32(0.25) * x).astype(np.float32)
    offset, scale = {
        "bias": (0.0, 0.1),
        "running_mean": (0.0, 0.1),
        "norm_weight": (1.0, 0.1),
        "prelu": (0.25, 0.05),
    }[kind]
    return np.float32(offset) + np.float32(scale) * x


def transmrsr_weight(key: str, shape: list[int], kind: str) -> np.ndarray:
    """Of the order of one where the layer scales its weight itself, else scaled by the inputs."""
    x = _normal(key, shape)
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1.0
    if kind == "norm_weight":
        return 1 + np.float32(0.1) * x
    if kind == "alpha":
        return np.float32(0.5) + np.float32(0.1) * x
    if kind == "eq_weight_lr":
        return x / np.float32(0.01)
    if kind == "sn_u":
        return x / np.float32(np.linalg.norm(x.astype(np.float64)))
    return x * np.float32(
        {
            "weight": 0.7 / np.sqrt(fan_in),
            "vgg_weight": np.sqrt(2 / fan_in),
            "sn_weight": 1 / np.sqrt(fan_in),
            "bias": 0.1,
            "eq_bias_lr": 0.1 / 0.01,
            "table": 0.5,
            "eq_weight": 1,
            "const_input": 1,
        }[kind]
    )


def transmrsr_weights(rows: list[list], tag: str = "") -> dict[str, np.ndarray]:
    """A state dict without buffers that are known and weights that are not used.

    Args:
        rows: [key, shape, dtype, kind].
        tag: put before the keys where numbers are drawn.
    """
    out, last = {}, []
    for key, shape, _, kind in rows:
        if kind == "sn_v":
            last.append((key, shape))
        elif kind not in ("const", "unused"):
            out[key] = transmrsr_weight(tag + key, shape, kind)
    for key, shape in last:  # what the power iteration would have found
        base = key.removesuffix("weight_v")
        weight, u = (out[base + name].astype(np.float64) for name in ("weight_orig", "weight_u"))
        v = weight.reshape(len(weight), -1).T @ u
        out[key] = (v / np.linalg.norm(v)).astype(np.float32).reshape(shape)
    return out


_WEIGHTS = {"arssr": arssr_weight, "most_dsa": most_dsa_weight}


def make_compact(method: str) -> int:
    """Write the compact part; returns its size in bytes."""
    source, folder = Golden(COMPLETE / method), COMPACT / method
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.folder.glob("manifest*.json"):
        rows = json.dumps(json.loads(path.read_text()), separators=(",", ":")).replace("]],", "]],\n")
        (folder / path.name).write_text(rows + "\n")
    for name in source.names():
        left_out = _LEFT_OUT[method].get(name, ())
        if left_out is None:
            continue
        arrays = {k: v for k, v in source.load(name).items() if not any(fnmatch(k, part) for part in left_out)}
        np.savez_compressed(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    for method in sys.argv[1:] or _LEFT_OUT:
        print(f"{method}: {make_compact(method):,} bytes in {COMPACT / method}")
