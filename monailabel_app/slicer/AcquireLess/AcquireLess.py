"""3D Slicer module: send the open volume to the server, load the result as a volume, show both side by side.

Add this folder to Slicer's additional module paths (Edit, Application Settings, Modules); it uses ``client.py`` of the
checkout that it lies in and needs no further Python packages.
"""

import json
import sys
import tempfile
from pathlib import Path

import ctk
import qt
import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)

sys.path.append(str(Path(__file__).resolve().parents[3]))  # the checkout
from monailabel_app.client import SERVER, LabelClient  # noqa: E402


class AcquireLess(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        parent.title = "Acquire less"
        parent.categories = ["Filtering"]
        parent.contributors = ["The authors of custom_nets"]
        parent.helpText = "Super-resolution of brain MR by a MONAI Label server. For research only."
        parent.acknowledgementText = ""


class AcquireLessWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        super().setup()
        self.logic = AcquireLessLogic()
        box = ctk.ctkCollapsibleButton()
        box.text = "Server"
        self.layout.addWidget(box)
        form = qt.QFormLayout(box)

        self.server = qt.QLineEdit(SERVER)
        connect = qt.QPushButton("Connect")
        connect.connect("clicked()", self.onConnect)
        self.model = qt.QComboBox()
        self.model.connect("currentIndexChanged(int)", self.onModel)
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.addEnabled = self.volume.removeEnabled = False
        self.volume.setMRMLScene(slicer.mrmlScene)
        self.options = qt.QLineEdit("{}")
        self.options.toolTip = 'JSON, for example {"spacing": [1, 1, 1]}; what is not named keeps its default.'
        self.defaults = qt.QLabel()
        self.defaults.wordWrap = True
        run = qt.QPushButton("Run")
        run.connect("clicked()", self.onRun)
        for label, widget in (
            ("URL", self.server),
            ("", connect),
            ("Model", self.model),
            ("Volume", self.volume),
            ("Options", self.options),
            ("Defaults", self.defaults),
            ("", run),
        ):
            form.addRow(label, widget)
        self.layout.addStretch(1)

    def onConnect(self):
        with slicer.util.tryWithErrorDisplay("The server did not answer.", waitCursor=True):
            self.models = self.logic.models(self.server.text)
            self.model.clear()
            self.model.addItems(list(self.models))

    def onModel(self, *_):
        config = self.models.get(self.model.currentText, {}).get("config", {})
        self.defaults.text = json.dumps(config)

    def onRun(self):
        with slicer.util.tryWithErrorDisplay("The volume was not processed.", waitCursor=True):
            options = json.loads(self.options.text or "{}")
            self.logic.process(self.server.text, self.model.currentText, self.volume.currentNode(), options)


class AcquireLessLogic(ScriptedLoadableModuleLogic):
    def models(self, server):
        """The models for volumes: name -> description and config (a run of frames is no volume in Slicer)."""
        return {name: model for name, model in LabelClient(server).models().items() if model["dimension"] == 3}

    def process(self, server, model, volume, options):
        """Send a volume node; the result is loaded as a volume node, put beside it, and returned."""
        if volume is None or not model:
            raise ValueError("Choose a model (Connect lists them) and a volume.")
        with tempfile.TemporaryDirectory() as folder:
            scan = Path(folder) / "scan.nii.gz"
            if not slicer.util.saveNode(volume, str(scan)):
                raise RuntimeError(f"{volume.GetName()} cannot be written as NIfTI.")
            saved, record = LabelClient(server).infer(model, scan, Path(folder) / "result", options)
            result = slicer.util.loadVolume(str(saved), {"name": f"{volume.GetName()} {model}"})
        # both lie in the same frame, so what moves the volume moves the result
        result.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        result.SetAttribute("AcquireLess.record", json.dumps(record))
        self.compare(volume, result)
        return result

    def compare(self, before, after):
        """Before on the left, after on the right, the same place in both."""
        manager = slicer.app.layoutManager()
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        for view, node in (("Red", before), ("Yellow", after)):
            widget = manager.sliceWidget(view)
            composite = widget.mrmlSliceCompositeNode()
            composite.SetLinkedControl(False)
            composite.SetBackgroundVolumeID(node.GetID())
            widget.mrmlSliceNode().SetOrientation("Axial")
        slicer.util.resetSliceViews()
        for view in ("Red", "Yellow"):
            manager.sliceWidget(view).mrmlSliceCompositeNode().SetLinkedControl(True)
