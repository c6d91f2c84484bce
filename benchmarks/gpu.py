"""Speed on a GPU of all three methods, in one run and one table: published order of operations, and ours.

    python -m benchmarks.gpu --json gpu.json
    python -m benchmarks.gpu --device cpu --tiny           # every line of it at sizes that a test can wait for

Milliseconds are the median of repeated calls after warm-up, by CUDA events. Operations are counted (2 for a
multiply-add) on the way itself, and their rate is set beside that of a matrix product of the same precision in the same
run: the share says what the card could still do. What has to be brought to the card and back counts where the way
does that (whole volumes). Weights are random, but for the shipped light networks.

The published procedure of ArSSR encodes the volume again for every output plane; one plane is timed and multiplied.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import peak_memory_gib
from benchmarks.transmrsr import PlainTransMRSR, filled
from custom_nets import bundle_root
from custom_nets.checkpoints import load_network
from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer, ThickSliceInferer
from custom_nets.networks import ArSSR, MoStDSA, SymmetricMoStDSA, TransMRSR
from custom_nets.utils.files import write_json
from custom_nets.utils.record import environment

PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class Sizes:
    """What is measured: voxels or pixels of a side, and how many of them."""

    volume: int = 128
    scale: float = 2.0
    volumes: tuple[int, ...] = (160, 192, 224, 256, 288, 320)  # for the largest one that fits
    frame: int = 1024
    times: tuple[int, ...] = (1, 3)
    plane: int = 256
    planes: int = 32
    head: tuple[int, int, int] = (256, 256, 36)  # slices of 5 mm, made 180 of 1 mm
    matmul: int = 8192
    seconds: float = 2.0  # to repeat a call in
    arssr: dict[str, Any] = field(default_factory=dict)
    most_dsa: dict[str, Any] = field(default_factory=dict)
    transmrsr: dict[str, Any] = field(default_factory=dict)


TINY = Sizes(
    volume=8,
    volumes=(10, 12),
    frame=64,
    plane=16,
    planes=2,
    head=(12, 10, 4),
    matmul=64,
    seconds=0.0,
    arssr={"encoder": "ResCNN", "feature_dim": 16, "decoder_depth": 4, "decoder_width": 32},
    most_dsa={"num_features": 8, "num_blocks": 1, "window": 5, "motion_dim": 16, "head_width": 8, "refiner_width": 8},
    transmrsr={"channels": (16, 32, 16), "style_dim": 8},
)


@dataclass
class Way:
    """One way to compute something.

    Attributes:
        task: what is computed; ways of the same task give the same result.
        name: of the way.
        make: a function that computes it in a precision, ready to be called again and again.
        times: the call is this share of the task: one of so many equal parts.
        compiles: whether it is also tried with ``torch.compile``.
        whole: a whole inferer, which sets the precision of its network itself.
    """

    task: str
    name: str
    make: Callable[[str, bool], Callable[[], torch.Tensor]]
    times: int = 1
    compiles: bool = False
    whole: bool = False


# ---- the ways ----


def arssr_ways(sizes: Sizes, device: torch.device) -> Iterator[Way]:
    n, m = sizes.volume, int(sizes.volume * sizes.scale)
    task = f"ArSSR {sizes.arssr.get('encoder', 'RDN')}, {n}^3 -> {m}^3"
    axis = (2 * torch.arange(m, dtype=torch.float32, device=device) + 1) / m - 1
    volume = torch.rand(n, n, n)
    image = volume[None, None].to(device)

    def network() -> ArSSR:
        torch.manual_seed(0)
        made = ArSSR(**sizes.arssr).eval().to(device)
        made.decoder.get_parameter(_last_bias(made.decoder)).data.fill_(0.5)  # no dead output unit
        return made

    def plane(number: int) -> torch.Tensor:
        rest = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        return torch.cat([axis[number].expand(len(rest), 1), rest], 1)[None]

    def published(precision: str, compiled: bool) -> Callable[[], torch.Tensor]:
        net = network()
        coordinates = plane(m // 2)
        return lambda: net(image, coordinates)

    def encode_once(precision: str, compiled: bool) -> Callable[[], torch.Tensor]:
        net = network()

        def run() -> torch.Tensor:
            features = net.encoder(image)
            planes = []
            for number in range(m):
                points = plane(number)
                seen = torch.nn.functional.grid_sample(
                    features, points.flip(-1)[:, None, None].to(features), padding_mode="zeros", align_corners=False
                )
                planes.append(net.decoder(torch.cat([seen[:, :, 0, 0].transpose(1, 2), points.to(seen)], -1)).float())
            return torch.cat(planes).view(m, m, m)

        return run

    def ours(precision: str, compiled: bool) -> Callable[[], torch.Tensor]:
        return _implicit(network(), volume, sizes.scale, precision, compiled, device)

    yield Way(task, "published (one encoding a plane)", published, times=m)
    yield Way(task, "encoded once, plain order", encode_once)
    yield Way(task, "ours", ours, compiles=True, whole=True)


def _last_bias(decoder: nn.Module) -> str:
    return [name for name, _ in decoder.named_parameters() if name.endswith("bias")][-1]


def _implicit(
    net: nn.Module, volume: torch.Tensor, scale: float, precision: str, compiled: bool, device: torch.device
) -> Callable[[], torch.Tensor]:
    """A volume [z, y, x] through the inferer of the bundle, from the CPU and back to it."""
    if compiled:
        for part in (net.encoder, net.decoder):
            part.forward = torch.compile(part.forward)  # type: ignore[union-attr,method-assign]
    source = Grid(tuple(volume.shape), np.eye(4))  # type: ignore[arg-type]
    target = source.rescaled(scale)
    inferer = ImplicitVolumeInferer(
        scale=scale,
        memory_gb=_memory_gb(device),
        precision="bfloat16" if precision == "bfloat16" else "float32",
    )
    return lambda: inferer.sample(net, volume.permute(2, 1, 0), source, target).permute(2, 1, 0)


def _memory_gb(device: torch.device) -> float:
    """Nine tenths of the card's memory."""
    return 0.9 * torch.cuda.mem_get_info(device)[1] / 2**30 if device.type == "cuda" else 8.0


def most_dsa_ways(sizes: Sizes, device: torch.device) -> Iterator[Way]:
    n = sizes.frame
    frame0, frame1 = (torch.rand(1, 1, n, n, device=device) for _ in range(2))

    def network() -> MoStDSA:
        torch.manual_seed(0)
        return MoStDSA(**sizes.most_dsa).eval().to(device)

    def published(count: int) -> Callable[[str, bool], Callable[[], torch.Tensor]]:
        def make(precision: str, compiled: bool) -> Callable[[], torch.Tensor]:
            net, times = network(), [(i + 1) / (count + 1) for i in range(count)]
            pair = frame0.expand(-1, 3, -1, -1), frame1.expand(-1, 3, -1, -1)
            return lambda: torch.cat([net(*pair, [t]) for t in times], 1)

        return make

    def ours(count: int) -> Callable[[str, bool], Callable[[], torch.Tensor]]:
        def make(precision: str, compiled: bool) -> Callable[[], torch.Tensor]:
            times = torch.tensor([[(i + 1) / (count + 1) for i in range(count)]], device=device)
            net = network()
            call = torch.compile(net, dynamic=False) if compiled else net
            pair = frame0.expand(-1, 3, -1, -1), frame1.expand(-1, 3, -1, -1)
            return lambda: call(*pair, times)

        return make

    def symmetric(net: SymmetricMoStDSA, count: int) -> Callable[[str, bool], Callable[[], torch.Tensor]]:
        def make(precision: str, compiled: bool) -> Callable[[], torch.Tensor]:
            times = torch.tensor([[(i + 1) / (count + 1) for i in range(count)]], device=device)
            call = torch.compile(net, dynamic=False) if compiled else net
            return lambda: call(frame0, frame1, times)

        return make

    for count in sizes.times:
        task = f"MoSt-DSA, {n} x {n}, {count} frame{'s' if count > 1 else ''}"
        yield Way(task, "published (encoder for each time)", published(count))
        yield Way(task, "ours", ours(count), compiles=True)
    light = _shipped("most_dsa", device)
    for count in sizes.times:
        task = f"most_dsa as shipped, {n} x {n}, {count} frame{'s' if count > 1 else ''}"
        if isinstance(light, SymmetricMoStDSA):
            yield Way(task, "ours", symmetric(light, count), compiles=True)


def _shipped(name: str, device: torch.device) -> nn.Module | None:
    """The light network of a bundle; None where its weights are not there."""
    path = Path(bundle_root(name)) / "models" / "model.pt"
    return load_network(path).to(device) if path.is_file() else None


def transmrsr_ways(sizes: Sizes, device: torch.device) -> Iterator[Way]:
    task = f"TransMRSR, {sizes.planes} slices of {sizes.plane} x {sizes.plane}"
    image = torch.randn(sizes.planes, 3, sizes.plane, sizes.plane, device=device)

    def network() -> TransMRSR:
        torch.manual_seed(0)
        net = filled(TransMRSR(sizes.plane, num_centroids=8, centroid_rule="farthest", **sizes.transmrsr))
        centroids = net.get_buffer("centroids")
        centroids.copy_(0.5 * torch.randn(centroids.shape))
        assert isinstance(net, TransMRSR)
        return net.to(device)

    def published(precision: str, compiled: bool) -> Callable[[], torch.Tensor]:
        net = PlainTransMRSR(network().state_dict(), sizes.plane)
        return lambda: net(image)

    def ours(precision: str, compiled: bool) -> Callable[[], torch.Tensor]:
        net = network()
        call = torch.compile(net, dynamic=False) if compiled else net
        return lambda: call(image)

    if sizes.plane >= 256:
        yield Way(task, "published order", published)
    yield Way(task, "ours", ours, compiles=True)

    light = _shipped("transmrsr", device)
    affine = torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0], dtype=torch.float64))
    head = MetaTensor(torch.rand(1, 1, *sizes.head), affine=affine)

    def volume(precision: str, compiled: bool) -> Callable[[], torch.Tensor]:
        assert light is not None
        inferer = ThickSliceInferer(
            memory_gb=_memory_gb(device), precision="bfloat16" if precision == "bfloat16" else "float32"
        )
        return lambda: inferer(head, light).as_tensor()  # type: ignore[attr-defined]

    if light is not None:
        wide, deep, slices = sizes.head
        yield Way(
            f"transmrsr as shipped, a head of {wide} x {deep}, {slices} -> {5 * slices} slices",
            "ours",
            volume,
            whole=True,
        )


# ---- measuring ----


@contextmanager
def in_precision(precision: str, device: torch.device) -> Iterator[None]:
    """float32 with all of its digits, float32 with TF32's in products, or bfloat16 by autocast."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext(), torch.no_grad():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def milliseconds(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Median time of a call after two warm-ups (one where it is slow), in about ``seconds``."""
    start = time.perf_counter()
    call()
    _wait(device)
    if time.perf_counter() - start < seconds:
        call()
        _wait(device)
    found: list[float] = []
    start = time.perf_counter()
    while not found or (len(found) < 30 and time.perf_counter() - start < seconds):
        found.append(_one(call, device))
    return statistics.median(found)


def _one(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - start)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rates(device: torch.device, size: int) -> dict[str, float]:
    """TFLOP/s of a square matrix product in each precision."""
    found = {}
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a = torch.rand(size, size, device=device, dtype=dtype)
        with in_precision("tf32" if precision == "tf32" else "float32", device):
            found[precision] = 2 * size**3 / milliseconds(lambda a=a: a @ a, device, 0.5) / 1e9  # type: ignore[misc]
    return found


def measure(
    way: Way,
    precision: str,
    compiled: bool,
    device: torch.device,
    rate: float,
    seconds: float,
    flop: float | None = None,
) -> dict[str, Any]:
    """A row of the table, and what was computed under ``output``. Operations are counted where they are not known."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    around = "float32" if way.whole and precision == "bfloat16" else precision
    with in_precision(around, device):
        call = way.make(precision, compiled)
        output = call()
        spent = milliseconds(call, device, seconds)
        peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else peak_memory_gib()
    if flop is None:
        with in_precision("float32", device), FlopCounterMode(display=False) as counter:
            call()
        flop = way.times * counter.get_total_flops()
    spent *= way.times
    return {
        "milliseconds": spent,
        "tflop": flop / 1e12,
        "tflop_per_second": flop / spent / 1e9,
        "of_matmul_rate": flop / spent / 1e9 / rate,
        "peak_gib": peak,
        "output": output.detach().float().cpu(),
    }


def largest_volume(sizes: Sizes, device: torch.device, ends: float, rate: float) -> list[dict[str, Any]]:
    """Ours on larger and larger volumes, in bfloat16, until the card has no room, or the time is over."""
    rows = []
    for n in sizes.volumes:
        if time.monotonic() > ends:
            break
        torch.manual_seed(0)
        net = ArSSR(**sizes.arssr).eval().to(device)
        way = Way(
            f"ArSSR {sizes.arssr.get('encoder', 'RDN')}, {n}^3 -> {int(n * sizes.scale)}^3",
            "ours",
            lambda precision, compiled, net=net, n=n: _implicit(  # type: ignore[misc]
                net, torch.rand(n, n, n), sizes.scale, precision, compiled, device
            ),
            whole=True,
        )
        row = _attempt(way, "bfloat16", False, device, rate, sizes.seconds)
        row.pop("output", None)
        rows.append(row)
        if "failed" in row:
            break
    return rows


def _attempt(way: Way, precision: str, compiled: bool, device: torch.device, *details: Any) -> dict[str, Any]:
    name = {"task": way.task, "way": way.name, "precision": precision, "compiled": compiled}
    print(f"{way.task}: {way.name}, {precision}{', compiled' if compiled else ''} ...", file=sys.stderr, flush=True)
    try:
        return {**name, **measure(way, precision, compiled, device, *details)}
    except Exception as error:  # one way that does not run, or has no room, must not cost the rest of the table
        return {**name, "failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]}


def run(
    device: torch.device,
    sizes: Sizes,
    compiling: bool = True,
    max_minutes: float | None = None,
    save: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """All rows; those for which there was no time are named. What is there is saved after each: it may be stopped."""
    ends = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
    rates = matmul_rates(device, sizes.matmul)
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    ways = [way for of in (arssr_ways, most_dsa_ways, transmrsr_ways) for way in of(sizes, device)]
    # what matters most comes first: our ways, then what they are compared with, then compiled ones
    plans: list[tuple[Way, str, bool]] = [(w, p, False) for w in ways if w.name == "ours" for p in PRECISIONS]
    plans += [(w, p, False) for w in ways if w.name != "ours" for p in PRECISIONS]
    plans += [(w, p, True) for w in ways if w.compiles and compiling for p in ("float32", "bfloat16")]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    found: dict[str, Any] = {"device": name, "matmul_tflop_per_second": rates, "rows": rows, "left_out": left_out}
    found["environment"] = environment()
    outputs: dict[str, torch.Tensor] = {}
    flops: dict[tuple[str, str], float] = {}
    for way, precision, compiled in plans:
        if time.monotonic() > ends:
            left_out.append(f"{way.task}: {way.name}, {precision}{', compiled' if compiled else ''}")
            continue
        key = (way.task, way.name)
        # a compiled way is not counted; it does what the other one does
        known = flops.get(key, float("nan") if compiled else None)
        row = _attempt(way, precision, compiled, device, rates[precision], sizes.seconds, known)
        output = row.pop("output", None)
        if output is not None:
            flops[key] = 1e12 * row["tflop"]
            if way.times == 1:  # a part of the result is not compared
                wanted = outputs.setdefault(way.task, output)
                row["difference"] = float((output - wanted).abs().max() / (wanted.max() - wanted.min()).clamp(min=1e-9))
        rows.append(row)
        save(found)
    rows += largest_volume(sizes, device, ends, rates["bfloat16"])
    save(found)
    return found


def table(found: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        f"{found['device']}; matrix product: "
        + ", ".join(f"{rate:.3g} TFLOP/s in {name}" for name, rate in found["matmul_tflop_per_second"].items()),
        "",
        "| task | way | precision | compiled | ms | TFLOP | TFLOP/s | of a matrix product | peak GiB | difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        start = f"| {row['task']} | {row['way']} | {row['precision']} | {'yes' if row['compiled'] else ''} |"
        if "failed" in row:
            lines.append(f"{start} {row['failed']} | | | | | |")
            continue
        lines.append(
            f"{start} {row['milliseconds']:.3g} | {row['tflop']:.3g} | {row['tflop_per_second']:.3g} "
            f"| {row['of_matmul_rate']:.2f} | {row['peak_gib']:.2f} "
            f"| {'' if 'difference' not in row else format(row['difference'], '.0e')} |"
        )
    if found["left_out"]:
        lines += ["", f"No time was left for: {'; '.join(found['left_out'])}."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--tiny", action="store_true", help="every line at tiny sizes: shows that it runs")
    parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--max_minutes", type=float, help="begin no new line after so many minutes")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device here; --device cpu --tiny shows that the benchmark runs.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sizes = TINY if options.tiny else Sizes()
        save = partial(write_json, options.json) if options.json else lambda found: None
        found = run(device, sizes, not options.no_compile, options.max_minutes, save)
    print(table(found))
    return found


if __name__ == "__main__":
    main()
