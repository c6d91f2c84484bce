"""What all benchmarks measure time with. It imports PyTorch alone, so that a process' peak memory is the network's."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["matmul_rate", "peak_memory_gib", "timed"]


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def timed(function: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    """Result, wall seconds and seconds of CPU time of all threads."""
    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), _cpu_seconds()
    result = function()
    if device == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - wall, _cpu_seconds() - cpu


def matmul_rate(device: str, dtype: torch.dtype = torch.float32, size: int = 1536) -> float:
    """Best of several square matrix products, in GFLOP per second (CPU: per second of CPU time)."""
    a = torch.rand(size, size, device=device, dtype=dtype)
    rates = []
    for _ in range(6):
        _, wall, cpu = timed(lambda: a @ a, device)
        rates.append(2 * size**3 / (wall if device == "cuda" else max(cpu, 1e-2)) / 1e9)
    return max(rates)


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB (:mod:`custom_nets.utils` has it too, with MONAI)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
