"""What all benchmarks measure time with. It imports PyTorch alone, so that a process' peak memory is the network's."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

__all__ = ["matmul_rate", "peak_memory_gib", "run_ways", "timed"]


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


def run_ways(module: str, ways: Iterable[str], threads: int, **options: Any) -> tuple[list[dict[str, Any]], dict]:
    """Run ``python -m MODULE --way WAY`` with ``options`` for each way, a process each, so that memory is its own.

    Returns:
        What each printed as JSON in its last line, and the array that each saved as BENCHMARK_OUTPUT.
    """
    import numpy as np

    results, outputs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            print(f"running {way} ...", file=sys.stderr, flush=True)
            file = Path(folder) / f"{way}.npy"
            command = [sys.executable, "-m", module, "--way", way, "--threads", str(threads)]
            command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
            environment = {**os.environ, "BENCHMARK_OUTPUT": str(file), "OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            outputs[way] = np.load(file)
    return results, outputs
