"""The logic of the 3D Slicer module, with a stand-in for Slicer."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest

MODULE = Path(__file__).resolve().parents[2] / "monailabel_app" / "slicer" / "AcquireLess" / "AcquireLess.py"


class Volume:
    def __init__(self, name, transform=None):
        self.name, self.transform, self.attributes = name, transform, {}

    def GetName(self):
        return self.name

    def GetID(self):
        return f"id of {self.name}"

    def GetTransformNodeID(self):
        return self.transform

    def SetAndObserveTransformNodeID(self, transform):
        self.transform = transform

    def SetAttribute(self, name, value):
        self.attributes[name] = value


@pytest.fixture
def slicer(monkeypatch):
    stand_in = MagicMock()
    base = ModuleType("slicer.ScriptedLoadableModule")
    for part in ("", "Logic", "Widget"):
        setattr(base, f"ScriptedLoadableModule{part}", type(f"Base{part}", (), {}))
    for name, module in (
        ("slicer", stand_in),
        ("slicer.ScriptedLoadableModule", base),
        ("ctk", MagicMock()),
        ("qt", MagicMock()),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    stand_in.util.saveNode.side_effect = lambda node, path: bool(Path(path).write_bytes(node.name.encode()))
    stand_in.views = {"Red": MagicMock(), "Yellow": MagicMock()}
    stand_in.app.layoutManager().sliceWidget.side_effect = stand_in.views.__getitem__
    return stand_in


@pytest.fixture
def module(slicer):
    spec = importlib.util.spec_from_file_location("AcquireLess", MODULE)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_result_is_loaded_as_a_volume_where_the_input_lies(module, slicer, monkeypatch):
    sent, loaded = {}, {}

    class Client:
        def __init__(self, server):
            sent["server"] = server

        def infer(self, model, image, output_dir, options):
            sent.update(model=model, content=image.read_bytes(), options=options)
            Path(output_dir).mkdir()
            (Path(output_dir) / "out.nii.gz").write_bytes(b"result")
            return Path(output_dir) / "out.nii.gz", {"case": "scan"}

    def load(path, properties):
        loaded.update(content=Path(path).read_bytes(), path=path)
        return Volume(properties["name"])

    monkeypatch.setattr(module, "LabelClient", Client)
    slicer.util.loadVolume.side_effect = load
    volume = Volume("T1", transform="id of a transform")
    result = module.AcquireLessLogic().process("http://x:1", "arssr", volume, {"spacing": [1, 1, 1]})
    assert sent == {"server": "http://x:1", "model": "arssr", "content": b"T1", "options": {"spacing": [1, 1, 1]}}
    assert loaded["content"] == b"result" and not Path(loaded["path"]).exists()
    assert result.name == "T1 arssr" and result.transform == "id of a transform"
    assert json.loads(result.attributes["AcquireLess.record"]) == {"case": "scan"}
    for view, node in (("Red", volume), ("Yellow", result)):
        composite = slicer.views[view].mrmlSliceCompositeNode()
        composite.SetBackgroundVolumeID.assert_called_once_with(node.GetID())
        assert [call.args for call in composite.SetLinkedControl.call_args_list] == [(False,), (True,)]
        slicer.views[view].mrmlSliceNode().SetOrientation.assert_called_once_with("Axial")


def test_what_cannot_be_sent(module, slicer):
    logic = module.AcquireLessLogic()
    with pytest.raises(ValueError, match="Choose a model"):
        logic.process("http://x:1", "arssr", None, {})
    slicer.util.saveNode.side_effect = lambda node, path: False
    with pytest.raises(RuntimeError, match="T1 cannot be written"):
        logic.process("http://x:1", "arssr", Volume("T1"), {})


def test_models_for_volumes(module, monkeypatch):
    models = {"arssr": {"dimension": 3}, "most_dsa": {"dimension": 2}}
    monkeypatch.setattr(module, "LabelClient", lambda server: MagicMock(models=lambda: models))
    assert list(module.AcquireLessLogic().models("http://x:1")) == ["arssr"]
