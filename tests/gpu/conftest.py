"""Tests on a GPU: ``pytest tests/gpu``. They import torch, monai, ignite, numpy, scipy, nibabel, pydicom and pytest.

Without a card they are skipped. ``GPU_TESTS_DEVICE=cpu`` runs them on the CPU, against the CPU: that tests the tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

NAME = os.environ.get("GPU_TESTS_DEVICE", "cuda")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = pytest.mark.skip(reason="no CUDA device (GPU_TESTS_DEVICE=cpu tests the tests)")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if NAME.startswith("cuda") and not torch.cuda.is_available():
                item.add_marker(absent)


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(NAME)


@pytest.fixture(autouse=True)
def all_digits() -> Iterator[None]:
    """float32 with all of its digits: no TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def close(found: torch.Tensor, wanted: torch.Tensor, share: float) -> None:
    """No value is off by more than a share of the range of ``wanted``."""
    found, wanted = found.detach().float().cpu(), wanted.detach().float().cpu()
    assert found.shape == wanted.shape and bool(torch.isfinite(found).all())
    span = float((wanted.max() - wanted.min()).clamp(min=1e-6))
    assert float((found - wanted).abs().max()) / span <= share


def close_in_bfloat16(
    found: torch.Tensor, wanted: torch.Tensor, share: float = 1e-2, size: float | None = None
) -> None:
    """Of the ``size`` of the values, the error is no more than this share on the whole, and nowhere five times as much.

    (bfloat16 has eight binary digits: a single rounding is worth up to 0.4 %, and a network makes hundreds one after
    another. No single layer is to blame: see docs/gpu.md.)
    """
    found, wanted = found.detach().float().cpu(), wanted.detach().float().cpu()
    assert found.shape == wanted.shape and bool(torch.isfinite(found).all())
    size = float(wanted.abs().max().clamp(min=1e-6)) if size is None else size
    error = (found - wanted).abs() / size
    assert float(error.square().mean().sqrt()) <= share and float(error.max()) <= 5 * share
