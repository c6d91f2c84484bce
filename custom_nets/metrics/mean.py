"""Decibels, and means of them over all that a run measures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce

__all__ = ["MeanMetric", "psnr_db"]


def psnr_db(square_error: Any, data_range: float = 1.0) -> Any:
    """Turn mean square errors into PSNR in dB, ``20 log10(data_range) - 10 log10(square_error)``.

    Args:
        square_error: number, array or tensor; in the unit of ``data_range``, squared.
        data_range: what an error is compared with.

    Returns:
        The same kind and shape; infinite where there is no error.
    """
    if isinstance(square_error, torch.Tensor):
        return 20 * math.log10(data_range) - 10 * square_error.log10()
    with np.errstate(divide="ignore"):
        return 20 * np.log10(data_range) - 10 * np.log10(square_error)


class MeanMetric(Metric):
    """The mean of all values that were added; all processes of a distributed run share it. NaN of none."""

    @reinit__is_reduced
    def reset(self) -> None:
        self._sum = 0.0
        self._count = 0

    @reinit__is_reduced
    def add(self, values: Iterable[float]) -> None:
        """Add values to the mean."""
        found = [float(value) for value in values]
        self._sum += sum(found)
        self._count += len(found)

    @sync_all_reduce("_sum", "_count")
    def compute(self) -> float:
        return self._sum / self._count if self._count else float("nan")
