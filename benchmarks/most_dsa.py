"""Speed of MoSt-DSA with the same weights: as published, as its command line does it, and ours; and what we ship.

    python -m benchmarks.most_dsa                       # 512 x 512, 1 and 3 frames in a gap, prints a table
    python -m benchmarks.most_dsa --json benchmarks/most_dsa.json

The ways:

* ``published``: PyTorch's plain layers, the encoder again for every time (evaluation and training of the authors).
* ``command_line``: plain layers, padded to multiples of 32, averaged with the rotated run, the encoder once for a pair.
* ``ours``: :class:`custom_nets.networks.MoStDSA` as it is, in float32 and in bfloat16 (on a CPU only where the
  processor computes bfloat16 itself, or where asked for: elsewhere it takes minutes).
* ``shipped``: the light network of the bundle on one grey channel (left out where its weights are not there).
* ``shipped_turning``: the same as in a turning run: optical flow between the two frames first, which it starts from.
* ``one_motion``: the light network with one motion a place and no start, random weights.

Each runs in a process of its own, one after another in one run, so peak memory is its own and the machine the same.
Ratios of CPU time are what to compare: seconds on a shared machine lie. The rates of a matrix product and of a
convolution are measured in each process, right before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import matmul_rate, run_ways, timed
from custom_nets.checkpoints import load_network
from custom_nets.checkpoints.published import load_published
from custom_nets.data.angiography.optical_flow import gap_flows_px
from custom_nets.networks import SymmetricMoStDSA, most_dsa
from custom_nets.networks.most_dsa import MoStDSA
from custom_nets.utils.files import write_json
from custom_nets.utils.record import environment, peak_memory_gib
from tests.tools.golden import COMPACT, Golden

WAYS = (
    "published", "command_line", "ours", "ours_bfloat16", "shipped", "shipped_bfloat16", "shipped_turning", "one_motion"
)  # fmt: skip
SHIPPED = Path(__file__).resolve().parents[1] / "bundles" / "most_dsa" / "models" / "model.pt"

Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def conv_rate(device: str, dtype: torch.dtype = torch.float32, size: int = 128) -> float:
    """Best of several 3x3 convolutions of 128 channels, in GFLOP per second (CPU: per second of CPU time)."""
    x = torch.rand(1, 128, size, size, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(128, 128, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    rates = []
    for _ in range(6):
        _, wall, cpu = timed(lambda: F.conv2d(x, weight, padding=1), device)
        rates.append(2 * 9 * 128 * 128 * size * size / (wall if device == "cuda" else max(cpu, 1e-2)) / 1e9)
    return max(rates)


def rates(device: str, dtype: torch.dtype) -> np.ndarray:
    return np.array([matmul_rate(device, dtype), conv_rate(device, dtype)])


def frames(size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A grey pair [1, 1, size, size] with values from 0 to 1: smooth, some pixels apart, with noise."""
    generator = torch.Generator().manual_seed(0)
    wide = F.interpolate(torch.rand(1, 1, 20, 20, generator=generator), size=(size + 8,) * 2, mode="bicubic")
    noise = 0.006 * torch.randn(2, 1, size, size, generator=generator)
    pair = torch.cat([wide[..., :-8, :-8], wide[..., :-8, 5:-3]]) + noise
    frame0, frame1 = pair.clamp(0, 1).to(device).split(1)
    return frame0, frame1


def start_px(frame0: torch.Tensor, frame1: torch.Tensor) -> torch.Tensor:
    """Motion between the two frames as inference finds it, [1, 8, H, W]."""
    cv2.setNumThreads(torch.get_num_threads())
    found = gap_flows_px(frame0[0, 0].cpu().numpy(), frame1[0, 0].cpu().numpy())
    return torch.from_numpy(found)[None].to(frame0.device)


def plainly() -> None:
    """From here on MoSt-DSA runs on PyTorch's plain layers, as the published code does."""
    most_dsa._MEMORY_FORMAT = torch.contiguous_format

    def position_lambdas(self: most_dsa._LambdaInteraction, v: torch.Tensor) -> torch.Tensor:
        return self.pos_conv(v[:, None]).permute(0, 3, 4, 1, 2).flatten(0, 2)

    most_dsa._LambdaInteraction._position_lambdas = position_lambdas  # type: ignore[method-assign]


def make_way(way: str, count: int, device: str) -> Call:
    """The way as a function of a grey pair, for ``count`` frames in the gap."""
    times = [(i + 1) / (count + 1) for i in range(count)]
    if way == "one_motion":
        light = SymmetricMoStDSA().to(device).eval()
        return lambda frame0, frame1: light(frame0, frame1, times)
    if way.startswith("shipped"):
        shipped = load_network(SHIPPED).to(device)
        if way == "shipped_turning":
            return lambda frame0, frame1: shipped(frame0, frame1, times, flow_px=start_px(frame0, frame1))
        return lambda frame0, frame1: shipped(frame0, frame1, times)
    if not way.startswith("ours"):
        plainly()
    filled = Golden(COMPACT / "most_dsa").weights("most_dsa")
    weights = {key: torch.as_tensor(value) for key, value in filled.items()}
    network = load_published("most_dsa", weights).to(device)
    assert isinstance(network, MoStDSA)

    def once(frame0: torch.Tensor, frame1: torch.Tensor, times: list[float], **options: Any) -> torch.Tensor:
        return network(frame0.expand(-1, 3, -1, -1), frame1.expand(-1, 3, -1, -1), times, **options)

    if way == "published":
        return lambda frame0, frame1: torch.cat([once(frame0, frame1, [t]) for t in times], 1)
    if way == "command_line":
        network.pad_to = 32
        return lambda frame0, frame1: once(frame0, frame1, times, tta=True)
    return lambda frame0, frame1: once(frame0, frame1, times)


def run_way(way: str, count: int, size: int, threads: int, device: str, repeats: int) -> dict[str, Any]:
    """Time one way; its output is saved to the path in BENCHMARK_OUTPUT for the comparison."""
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if way.endswith("bfloat16") else torch.float32
    call = make_way(way, count, device)
    pair = frames(size, device)

    def run() -> torch.Tensor:
        with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return call(*pair)

    counted = 128  # all operations grow with the pixels
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(*frames(counted, device))
    flop = counter.get_total_flops() * (size / counted) ** 2
    run()
    before = rates(device, dtype)
    runs = [timed(run, device) for _ in range(repeats)]
    rate = np.maximum(before, rates(device, dtype))
    output, wall, cpu = min(runs, key=lambda r: r[2])
    np.save(os.environ["BENCHMARK_OUTPUT"], output.float().cpu().numpy())
    seconds = wall if device == "cuda" else cpu
    return {
        "way": way,
        "frames": count,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "seconds": seconds,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else peak_memory_gib(),
        "gmac": flop / 2e9,
        "matmul_gflop_per_second": rate[0],
        "conv_gflop_per_second": rate[1],
        "fraction_of_matmul_rate": flop / seconds / 1e9 / rate[0],
        "fraction_of_conv_rate": flop / seconds / 1e9 / rate[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.most_dsa", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 3], help="new frames in a gap")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores, as PyTorch does")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the CPU, then CUDA if it is there")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all that make sense here")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device here; use --device cpu.")
    if args.way:
        print(
            json.dumps(run_way(args.way, args.frames[0], args.size, args.threads, args.device or "cpu", args.repeats))
        )
        return
    devices = [args.device] if args.device else ["cpu"] + ["cuda"] * torch.cuda.is_available()

    results: list[dict[str, Any]] = []
    for device in devices:
        for count in args.frames:
            results += _compare(args.ways or _sensible_ways(device), count, device, args)
    print(f"\n{args.size} x {args.size}, {args.threads} thread(s)\n")
    print(
        "| way | new frames | device | s | of the command line | peak GiB | GMAC | of the matmul rate "
        "| of the conv rate | max difference |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in results:
        part, difference = r["of_command_line"], r["max_difference"]
        print(
            f"| {r['way']} | {r['frames']} | {r['device']} | {r['seconds']:.2f} "
            f"| {'' if part is None else f'{part:.2f}'} | {r['peak_memory_gib']:.2f} | {r['gmac']:.1f} "
            f"| {r['fraction_of_matmul_rate']:.2f} | {r['fraction_of_conv_rate']:.2f} "
            f"| {'' if difference is None else f'{difference:.1e}'} |"
        )
    if args.json:
        options = {k: v for k, v in vars(args).items() if k not in ("json", "way")}
        write_json(args.json, {"options": options, "results": results, "environment": environment()})


def _sensible_ways(device: str) -> list[str]:
    ways = list(WAYS)
    if not SHIPPED.is_file():
        print(f"no weights at {SHIPPED}: the shipped network is left out.", file=sys.stderr)
        ways = [way for way in ways if not way.startswith("shipped")]
    if device == "cpu" and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        print("this processor computes bfloat16 in software: it is left out.", file=sys.stderr)
        ways = [way for way in ways if not way.endswith("bfloat16")]
    return ways


def _compare(ways: list[str], count: int, device: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All ways with ``count`` frames; times against the command line, outputs against the published evaluation."""
    print(f"{count} frame(s), {device}:", file=sys.stderr, flush=True)
    options = {"frames": count, "device": device, "size": args.size, "repeats": args.repeats}
    results, outputs = run_ways("benchmarks.most_dsa", ways, args.threads, **options)
    seconds = {result["way"]: result["seconds"] for result in results}
    for result in results:
        way = result["way"]
        result["of_command_line"] = seconds[way] / seconds["command_line"] if "command_line" in seconds else None
        comparable = "published" in outputs and not way.startswith(("shipped", "one_motion"))
        result["max_difference"] = (
            float(np.abs(outputs[way] - outputs["published"]).max()) if comparable else None
        )  # in units of the full scale, 0 to 1
    return results


if __name__ == "__main__":
    main()
