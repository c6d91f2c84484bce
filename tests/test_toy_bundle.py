"""A new method is found by itself: a network file and a bundle's folder, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles.runner import newcomer

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "bundles" / "transmrsr"  # whose configs the toy's are made of, as CONTRIBUTING says


@pytest.mark.slow
def test_a_method_of_one_network_file_and_one_folder(tmp_path):
    for part in ("custom_nets", "monailabel_app", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
        unwanted = {"ignore": shutil.ignore_patterns("__pycache__", "golden_data")} if (ROOT / part).is_dir() else {}
        copy(ROOT / part, tmp_path / part, **unwanted)
    shutil.copyfile(Path(__file__).parent / "toy" / "toy.py", tmp_path / "custom_nets" / "networks" / "toy.py")
    toy = tmp_path / "bundles" / "toy"
    for name in ("train", "evaluate", "inference", "multi_gpu_train", "metadata", "mlflow", "mlflow_eval"):
        text = (SOURCE / "configs" / f"{name}.json").read_text().replace("transmrsr", "toy")
        content = json.loads(text)
        if "network_def" in content:
            content["network_def"] = {"_target_": "custom_nets.networks.Toy", "slices": 3}
        if name == "metadata":
            content["network_data_format"]["inputs"]["image"]["num_channels"] = 3
            channels = content["network_data_format"]["inputs"]["image"]["channel_def"]
            content["network_data_format"]["inputs"]["image"]["channel_def"] = {
                k: channels[k] for k in list(channels)[:3]
            }
            content["export"] = {"input_shapes": [[1, 3, 16, 16], [2, 3, 9, 8]]}
        if name == "train":
            content.update(slices=3, trained_network="$load_pretrained(@network_def, @finetune).to(@device)")
        if name == "evaluate":
            content.update(arssr_checkpoint="", factors=[4])  # no other network beside it
        (toy / "configs").mkdir(parents=True, exist_ok=True)
        (toy / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4))
    shutil.copyfile(SOURCE / "configs" / "logging.conf", toy / "configs" / "logging.conf")
    shutil.copyfile(SOURCE / "LICENSE", toy / "LICENSE")
    (toy / "docs").mkdir()
    (toy / "docs" / "README.md").write_text("A toy.\n")
    (toy / "docs" / "data_license.txt").write_text("Noise.\n")

    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "tests/toy/everything.py"]
    conformance = ["tests/bundles/test_conformance.py", "-k", "not onnx"]
    done = subprocess.run(
        [sys.executable, *words, *conformance],
        cwd=tmp_path,
        env=newcomer(),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "toy" in done.stdout or " passed" in done.stdout
    here = [path for path in (tmp_path / "custom_nets").rglob("*.py") if "toy" in path.read_text().lower()]
    assert here == [tmp_path / "custom_nets" / "networks" / "toy.py"]
