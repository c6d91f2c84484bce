"""A bundle's network as TorchScript or ONNX.

    python -m custom_nets.bundle.export BUNDLE --format onnx --output FILE

MONAI's ``ckpt_export`` and ``onnx_export`` make the file; here it is compared with the network that it was made of, and
one that differs is not kept. What is exported is ``network(image)`` with all else at its default. The inferers, which
make a whole volume or run of it, are not part of it.

How a network is exported stands in the bundle's ``metadata.json`` as ``export``: ``input_shapes`` (that a file is
compared at, the first being the one it is made for), ``trace`` (true where the network cannot be scripted), and
``optimize`` (false where ONNX' own optimiser would take minutes).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ckpt_export, onnx_export

from custom_nets.bundle.pack import bundle_folder, bundle_name
from custom_nets.checkpoints import load_network
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.files import new_file

__all__ = ["FORMATS", "TOLERANCE", "export"]

FORMATS = ("torchscript", "onnx")
TOLERANCE = 1e-4  # largest difference from the network itself, in its units of about 0 to 1


def export(
    bundle: str, format: str, output: str | os.PathLike, shape: Sequence[int] | None = None
) -> dict[tuple[int, ...], float]:
    """Write the file and compare it with the network.

    Args:
        bundle: name, or path of its folder.
        format: "torchscript", for inputs of any size, or "onnx", for one size and run by onnxruntime in the comparison.
        output: file to write.
        shape: of the input, [B, C, ...]. ONNX: the one that the file is for. TorchScript: one more to compare at.

    Returns:
        The largest difference from the network for each shape of input, on random images in [0, 1].

    Raises:
        ValueError: an unknown bundle, format or shape, or the file gives something else than the network; it is not
            kept.
        ModuleNotFoundError: onnx, onnxscript and onnxruntime are needed and not there.
    """
    folder = bundle_folder(bundle)
    facts = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8")).get("export")
    if not facts:
        raise ValueError(f"'{bundle_name(folder)}' has no network to export: its metadata.json has no 'export'.")
    known = tuple(tuple(int(n) for n in known_shape) for known_shape in facts["input_shapes"])
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.")
    given = None if shape is None else tuple(int(n) for n in shape)
    expected = known[0]
    if given is not None and (len(given) != len(expected) or given[1] != expected[1] or min(given) < 1):
        raise ValueError(f"shape must be like {list(expected)} (batch, channels, size), got {list(given)}.")
    if format == "onnx":
        _check_onnx()
    target = Path(output)
    shapes = (given or expected,) if format == "onnx" else known + ((given,) if given else ())
    network = load_network(folder / "models" / "model.pt").eval()
    images = {shape: torch.rand(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes}
    with torch.no_grad():
        wanted = {shape: network(image) for shape, image in images.items()}
    with new_file(target) as part:
        if format == "onnx":
            _write_onnx(folder, part, shapes[0], facts)
            run = _onnx_runner(part)
        else:
            _write_torchscript(folder, part, facts)
            run = torch.jit.load(part)
        with torch.no_grad():
            differences = {shape: _difference(run(image), wanted[shape]) for shape, image in images.items()}
        # not a number is not small, either
        if bad := [f"{shape}: {value:.2g}" for shape, value in differences.items() if not value <= TOLERANCE]:
            raise ValueError(
                f"the {format} file gives something else than the network, by up to {TOLERANCE:g} is allowed "
                f"({'; '.join(bad)}): nothing was written."
            )
    return differences


def _difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    if got.shape != wanted.shape:
        raise ValueError(f"the file gives {tuple(got.shape)}, the network {tuple(wanted.shape)}: nothing was written.")
    return float((got - wanted).abs().max())


def _write_torchscript(folder: Path, path: Path, facts: Mapping[str, Any]) -> None:
    traced = facts.get("trace", False)
    shape = list(facts["input_shapes"][0]) if traced else None
    ckpt_export(**_arguments(folder, path), use_trace=traced, input_shape=shape)


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is needed for ONNX: pip install onnx onnxscript onnxruntime.", name=error.name
        ) from error


def _write_onnx(folder: Path, path: Path, shape: tuple[int, ...], facts: Mapping[str, Any]) -> None:
    onnx_export(
        **_arguments(folder, path),
        input_shape=list(shape),
        use_trace=True,
        converter_kwargs={
            "input_names": ["image"],
            "output_names": ["pred"],
            "dynamo": True,
            "external_data": False,  # all in the one file
            "optimize": facts.get("optimize", True),
        },
    )


def _arguments(folder: Path, path: Path) -> dict[str, Any]:
    return {
        "net_id": "network_def",
        "filepath": str(path),
        "ckpt_file": str(folder / "models" / "model.pt"),
        "key_in_ckpt": "model",
        "meta_file": str(folder / "configs" / "metadata.json"),
        "config_file": str(folder / "configs" / "inference.json"),
        "bundle_root": str(folder),
    }


def _onnx_runner(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def main(argv: list[str] | None = None) -> None:
    """``python -m custom_nets.bundle.export BUNDLE --format torchscript|onnx --output FILE [--shape 1 1 32 64 64]``"""
    parser = CommandParser(
        prog="python -m custom_nets.bundle.export",
        description="Export a bundle's network and compare it with the file made.",
    )
    parser.add_argument("bundle", help="name of a bundle, or its folder")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", required=True, help="file to write")
    parser.add_argument("--shape", type=int, nargs="+", help="of the input; an ONNX file is made for this one")
    args = parser.parse_args(argv)
    try:
        differences = export(args.bundle, args.format, args.output, args.shape)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    for shape, value in differences.items():
        print(f"{args.output}: input {list(shape)}, largest difference from the network {value:.1e}")


if __name__ == "__main__":
    main()
