"""What runs on a machine that has little more than PyTorch and MONAI: importing the rest there would be an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = """
import sys
ABSENT = {ABSENT}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import importlib, json, pathlib
from pydoc import locate

def targets(value):
    if isinstance(value, dict):
        yield from [value["_target_"]] if "_target_" in value else []
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from targets(item)

for module in (
    "custom_nets.apps.prepare_data", "custom_nets.apps.simulate_training_runs", "custom_nets.bundle.config_check",
    "benchmarks.gpu", "benchmarks.gpu_session", "benchmarks.feeding", "tests.gpu.test_networks",
    "tests.gpu.test_inferers", "tests.gpu.test_training",
):
    importlib.import_module(module)
for name in ("arssr", "most_dsa", "transmrsr"):
    for path in pathlib.Path("bundles", name, "configs").glob("*.json"):
        for target in targets(json.loads(path.read_text())):
            if target.startswith("custom_nets.") and "mlflow" not in path.name:
                assert locate(target) is not None, target
"""
ABSENT = {
    "PIL", "cv2", "dipy", "fire", "imageio", "itk", "jsonschema", "matplotlib", "mlflow", "nilearn", "onnx", "pandas",
    "pylibjpeg", "skimage", "sklearn",
}  # fmt: skip


@pytest.mark.slow
def test_training_and_gpu_tests_import_nothing_else():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    script = SCRIPT.replace("{ABSENT}", repr(ABSENT))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
