"""How large a page is, how long it takes to write, and after how many seconds it can be used.

    python -m benchmarks.pages                            # a head of 256^3 voxels with noise, and a run of 1024 x 1024
    python -m benchmarks.pages --json benchmarks/pages.json

The browser is a headless Chromium without a graphics card (Debian: chromium, chromium-driver; pip install selenium).
Its own clock says when the page can be used, counted from when it began to open the file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from custom_nets.data.angiography.run import make_run
from custom_nets.geometry import Grid
from custom_nets.utils.files import write_json
from custom_nets.utils.record import environment
from custom_nets.visualize.page import run_page, volume_page

_MADE = {
    "case": "a",
    "options": {},
    "network": "none",
    "checkpoint": {"sha256": "0"},
    "device": "cpu",
    "threads": 1,
    "seconds": 0,
    "peak_memory_gib": 0,
    "versions": {},
    "note": "a benchmark",
}


def head(size: int) -> tuple[Any, Any, dict[str, Any]]:
    """A noisy ball with structure in noisy air, ``size``^3, and the same with half as many voxels per axis: the noise
    of a scan, which is what does not compress."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij", sparse=True)
    inside = sum(a**2 for a in axes) < 0.75
    signal = np.where(inside, 600 + 200 * np.sin(20 * axes[0]) * np.sin(17 * axes[1]) * np.cos(15 * axes[2]), 0)
    fine = np.hypot(signal + rng.normal(0, 12, signal.shape), rng.normal(0, 12, signal.shape)).astype(np.float32)
    coarse = fine.reshape(size // 2, 2, size // 2, 2, size // 2, 2).mean((1, 3, 5))
    grid = Grid((size // 2,) * 3, np.diag([2.0, 2.0, 2.0, 1.0]))
    images = [
        MetaTensor(torch.from_numpy(np.ascontiguousarray(a))[None], affine=torch.from_numpy(g.affine))
        for a, g in ((coarse, grid), (fine, grid.rescaled(2)))
    ]
    described = {"shape": [size] * 3, "spacing_mm": [1, 1, 1]}
    record = {"input": described, "output": described, "consistency": {"computed": False, "reason": "a benchmark"}}
    return images[0], images[1], {**_MADE, **record}


def run(frames: int, size: int) -> tuple[Any, dict[str, Any]]:
    """Noisy frames with a vessel, every second one made."""
    rng = np.random.default_rng(0)
    values = rng.normal(2900, 40, (frames, size, size))
    values[frames // 4 :, size // 3 : size // 2, size // 4 : size // 3] -= 1500
    made = np.arange(frames) % 2 == 1
    made[-1] = False
    angiography = make_run(values.astype(np.uint16), np.arange(frames) / 8, synthetic=made)
    record = {
        "input": {"frames": int((~made).sum()), "size": [size, size], "dtype": "uint16", "notes": []},
        "output": {"frames": frames, "synthetic_frames": np.flatnonzero(made).tolist(), "has_times": True},
        "warnings": [],
        "measured_frames_unchanged": True,
    }
    return angiography, {**_MADE, **record}


def measure(page: Path, seconds: float, repeats: int) -> dict[str, Any]:
    """Size, and how long a page takes to open: each time in a fresh browser."""
    from tests.tools.browser import Browser

    opened = []
    for _ in range(repeats):
        browser = Browser()
        try:
            opened.append(round(browser.open(page), 2))
        finally:
            browser.close()
    return {"megabytes": round(page.stat().st_size / 1e6, 1), "seconds_to_write": round(seconds, 1), "usable_s": opened}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=29)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        image, output, record = head(args.size)
        started = time.perf_counter()
        page = volume_page(Path(folder) / "volume.html", image, output, record)
        results[f"volume {args.size}^3"] = measure(page, time.perf_counter() - started, args.repeats)
        angiography, record = run(args.frames, 1024)
        started = time.perf_counter()
        page = run_page(Path(folder) / "run.html", angiography, record)
        results[f"run {args.frames} x 1024 x 1024"] = measure(page, time.perf_counter() - started, args.repeats)
    for name, result in results.items():
        print(f"{name}: {result}")
    if args.json:
        write_json(args.json, {"results": results, "versions": environment()})


if __name__ == "__main__":
    main()
