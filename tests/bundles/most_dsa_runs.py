"""The inference of the most_dsa bundle as a function, and what its tests give it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_nets.checkpoints import save_checkpoint
from custom_nets.networks import SymmetricMoStDSA
from tests.bundles import runner
from tests.bundles.runner import REPOSITORY

BUNDLE = REPOSITORY / "bundles" / "most_dsa"
CONFIG = str(BUNDLE / "configs" / "inference.json")
ARCH = {"widths": [4, 4, 4, 4], "pair_width": 4, "time_width": 4}
UNEVEN_MS = [0, 250, 250, 500, 500, 1000]
UNEVEN_S = np.cumsum(UNEVEN_MS) / 1000
PLAIN = {"PixelIntensityRelationship": "DISP"}  # nothing more is needed for a valid file


def save_weights(folder: Path, seed: int, std: float, **arch: Any) -> Path:
    torch.manual_seed(seed)
    network = SymmetricMoStDSA(**ARCH, **arch)
    torch.nn.init.normal_(network.output.weight, std=std)
    if network.takes_angles:
        torch.nn.init.normal_(network.turn_bottom.weight)
    save_checkpoint(folder / "tiny.pt", network, {"name": "SymmetricMoStDSA", **ARCH, **arch})
    return folder / "tiny.pt"


infer = partial(runner.infer, BUNDLE)
message_of = partial(runner.message_of, BUNDLE)


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.is_dir() else []
