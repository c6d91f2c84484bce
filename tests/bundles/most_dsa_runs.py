"""The inference of the most_dsa bundle as a function, and what its tests give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom_nets.checkpoints import save_checkpoint
from custom_nets.networks import SymmetricMoStDSA
from custom_nets.utils import root_cause

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "bundles" / "most_dsa"
CONFIG = str(BUNDLE / "configs" / "inference.json")
ARCH = {"widths": [4, 4, 4, 4], "pair_width": 4, "time_width": 4}
UNEVEN_MS = [0, 250, 250, 500, 500, 1000]
UNEVEN_S = np.cumsum(UNEVEN_MS) / 1000
PLAIN = {"PixelIntensityRelationship": "DISP"}  # nothing more is needed for a valid file


def save_weights(folder: Path, seed: int, std: float) -> Path:
    torch.manual_seed(seed)
    network = SymmetricMoStDSA(**ARCH)
    torch.nn.init.normal_(network.output.weight, std=std)
    save_checkpoint(folder / "tiny.pt", network, {"name": "SymmetricMoStDSA", **ARCH})
    return folder / "tiny.pt"


def infer(input: Any, output_dir: Path, **options: Any) -> Path:
    """One run of the bundle in this process; the folder with what it wrote."""
    options = {"device": "cpu", "progress": False, "preview": False, **options}
    workflow = ConfigWorkflow(
        config_file=CONFIG,
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        workflow_type="inference",
        input=str(input) if isinstance(input, Path) else input,
        output_dir=str(output_dir),
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return output_dir


def message_of(input: Any, output_dir: Path, **options: Any) -> str:
    """What a run that must fail says."""
    with pytest.raises((SystemExit, Exception)) as caught:
        infer(input, output_dir, **options)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code not in (None, 0)
    return str(root_cause(caught.value))


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.is_dir() else []
