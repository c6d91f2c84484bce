"""What an export refuses; that it gives the same as the network is shown for every bundle in test_conformance.py."""

from __future__ import annotations

import sys

import pytest
import torch

from custom_nets.bundle import export as module
from custom_nets.bundle.export import export, main


class Changed(torch.nn.Module):
    """The network of a bundle, off by a little."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(1, keepdim=True) + self.by


@pytest.mark.parametrize("by, kept", [(0.0, True), (9e-5, True), (2e-4, False), (float("nan"), False)])
def test_a_file_that_differs_is_not_kept(by, kept, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_network", lambda path: Changed(0.0))
    monkeypatch.setattr(module, "_write_torchscript", lambda _, path, __: torch.jit.script(Changed(by)).save(path))
    target = tmp_path / "new" / "model.ts"
    if kept:
        main(["most_dsa", "--format", "torchscript", "--output", str(target), "--shape", "1", "2", "9", "9"])
        said = capsys.readouterr().out
        assert said.count("largest difference from the network") == 3 and "input [1, 2, 9, 9]" in said
        assert target.is_file()
    else:
        with pytest.raises(SystemExit, match="the torchscript file gives something else than the network"):
            main(["most_dsa", "--format", "torchscript", "--output", str(target)])
    assert [path.name for path in target.parent.iterdir()] == ["model.ts"] * kept


@pytest.mark.parametrize(
    "options, message",
    [
        (("nothing", "onnx"), "bundle 'nothing' not found"),
        (("arssr", "tflite"), "format must be one of torchscript, onnx, got 'tflite'"),
        (("arssr", "onnx", (1, 1, 8, 8)), r"shape must be like \[1, 1, 8, 9, 10\] .*, got \[1, 1, 8, 8\]"),
        (("most_dsa", "onnx", (1, 3, 8, 8)), r"shape must be like \[1, 2, 48, 64\]"),
    ],
)
def test_mistakes(options, message, tmp_path):
    name, format, *shape = options
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export(name, format, tmp_path / "model", *shape)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", torch)  # as if it were there
    with pytest.raises(SystemExit, match="onnxruntime is needed for ONNX: pip install onnx onnxscript onnxruntime"):
        main(["most_dsa", "--format", "onnx", "--output", str(tmp_path / "model.onnx")])
    assert list(tmp_path.iterdir()) == []
