"""What the tests of all trainings do: run one, look at its checkpoint, make heads to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from scipy import ndimage


def start(
    train: str, tiny: dict[str, Any], data: Path, output: Path, files: str | list[str] | None = None, **override: Any
) -> ConfigWorkflow:
    """The training ``train`` (with overlays: ``files``) of ``data`` into ``output``, ``tiny``, ready to run."""
    given = {**tiny, "dataset_dir": str(data), "output_dir": str(output), **override}
    made = ConfigWorkflow(files or train, workflow_type="train", logging_file=False, **given)
    made.initialize()
    return made


def losses_of(made: ConfigWorkflow) -> list[float]:
    """Run a workflow, give the loss of each iteration."""
    losses: list[float] = []
    trainer = made.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output["loss"])))
    made.run()
    made.finalize()
    return losses


def checkpoint(output: Path) -> dict[str, Any]:
    return torch.load(output / "checkpoint.pt", weights_only=True)


def simulated_head(seed: int, size: int = 48) -> nib.Nifti1Image:
    """A ball of smooth texture in air, raw scanner values."""
    rng = np.random.RandomState(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij")
    texture = ndimage.gaussian_filter(rng.randn(size, size, size), 1.2)
    texture = (texture - texture.min()) / np.ptp(texture)
    inside = sum(a**2 for a in axes) < 0.8
    return nib.Nifti1Image((inside * (200 + 600 * texture)).astype(np.int16), np.diag([1.0, 1.0, 1.0, 1.0]))


def save_heads(folder: Path, size: int = 48) -> Path:
    """Two heads of two subjects in ``folder``."""
    for seed in range(2):
        nib.save(simulated_head(seed, size), folder / f"sub-{seed:02d}_T1w.nii.gz")
    return folder
