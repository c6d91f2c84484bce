"""What the model zoo's own CI asks of a bundle, offline, for every folder in ``bundles/``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from scipy import ndimage

from custom_nets.bundle.export import export
from custom_nets.bundle.pack import LARGEST_FILE, PERSONAL_PATH
from custom_nets.data.angiography.acquisition_reader import write_npz_acquisition
from custom_nets.simulation.phantom import PhantomSettings, VesselFlowPhantom
from custom_nets.utils.weights import read_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = REPOSITORY / "tests" / "data_schema" / "bundle_metadata.schema.json"
BUNDLES = sorted(path.parents[1] for path in REPOSITORY.glob("bundles/*/configs/metadata.json"))
REQUIRED = (
    "LICENSE",
    "configs/metadata.json",
    "configs/inference.json",
    "configs/evaluate.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
)
TRAINED = ("configs/train.json", "configs/multi_gpu_train.json", "models/model.pt")  # where weights are shipped
WORKFLOWS = {"train": "train", "evaluate": "inference", "inference": "inference"}  # config -> kind of workflow
# what a config needs to be initialized on what lies in DATA, quickly; it is given those that are ids of its own
TINY: dict[str, dict[str, Any]] = {
    "train": {"dataset_dir": "DATA", "validation_crop_size": 32, "crop_size": 32, "longest_gap": 3},
    "evaluate": {"dataset_dir": "DATA", "missing_frames": [1]},
    "inference": {"input": "DATA", "scale": 2, "frames_between": 1},
}

pytestmark = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def metadata_of(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def ships_weights(bundle: Path) -> bool:
    """False for a method that is fitted to one scan at a time."""
    return bool(metadata_of(bundle).get("ships_weights", True))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder for each kind of input: two volumes, or two runs, of smooth noise; a rotational acquisition."""
    folder = tmp_path_factory.mktemp("data")
    for seed in range(2):
        values = ndimage.gaussian_filter(np.random.default_rng(seed).random((40, 40, 40)), 2).astype(np.float32)
        (folder / "volume").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "volume" / f"sub-{seed}.nii.gz")
        run = folder / "angiography_run" / f"patient-{seed}"
        run.mkdir(parents=True)
        np.savez(run / "run.npz", frames=values[:12], times_s=np.arange(12) / 4)
    small = PhantomSettings(frames=12, size=(40, 40), pixel_mm=3, volume_shape=(24, 24, 24), voxel_mm=2.5)
    write_npz_acquisition(VesselFlowPhantom(1, small).acquisition(), folder / "acquisition" / "scan.npz")
    return folder


def config(bundle: Path, name: str) -> str:
    return str(bundle / "configs" / name)


@pytest.fixture
def weights(bundle: Path) -> str:
    """The shipped weights."""
    if not ships_weights(bundle):
        pytest.skip("fitted to one scan at a time: there are no weights")
    path = bundle / "models" / "model.pt"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return str(path)


@pytest.mark.parametrize("name", [*REQUIRED, *TRAINED])
def test_required_file_exists(bundle, name):
    if name in TRAINED and not ships_weights(bundle):
        pytest.skip("fitted to one scan at a time: nothing is trained before")
    path = bundle / name
    assert path.is_file() or (name.startswith("models/") and (bundle / "large_files.yml").is_file())


def test_version_is_in_the_changelog(bundle):
    metadata = metadata_of(bundle)
    assert metadata["version"] in metadata["changelog"]


def test_metadata_follows_the_schema(bundle, tmp_path):
    pytest.importorskip("jsonschema")
    schema = tmp_path / "schema.json"
    shutil.copy(SCHEMA, schema)  # a file that is there is not downloaded
    verify_metadata(meta_file=config(bundle, "metadata.json"), filepath=schema)

    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    for key in ("version", "changelog", "network_data_format", "required_packages_version"):
        broken = tmp_path / "metadata.json"
        broken.write_text(json.dumps({k: v for k, v in metadata.items() if k != key}))
        with pytest.raises(ValueError, match=key):
            verify_metadata(meta_file=str(broken), filepath=schema)


@pytest.mark.parametrize("kind", WORKFLOWS)
def test_properties_are_all_there(bundle, kind, data, request, tmp_path):
    if ships_weights(bundle):
        request.getfixturevalue("weights")
    elif kind == "train":
        pytest.skip("fitted to one scan at a time: nothing is trained before")
    folder = data / metadata_of(bundle)["input_kind"]
    ids = json.loads(Path(config(bundle, f"{kind}.json")).read_text())
    overrides = {key: str(folder) if value == "DATA" else value for key, value in TINY[kind].items() if key in ids}
    workflow = ConfigWorkflow(
        config_file=config(bundle, f"{kind}.json"),
        meta_file=config(bundle, "metadata.json"),
        workflow_type=WORKFLOWS[kind],
        bundle_root=str(bundle),
        output_dir=str(tmp_path),
        device="cpu",
        **overrides,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("any_size", [1, 9])
def test_network_takes_and_gives_what_the_metadata_say(bundle, any_size, weights):
    verify_net_in_out(
        net_id="network_def",
        meta_file=config(bundle, "metadata.json"),
        config_file=config(bundle, "inference.json"),
        device="cpu",
        any=any_size,
        bundle_root=str(bundle),
    )


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torchscript_gives_the_same(bundle, weights, tmp_path):
    differences = export(str(bundle), "torchscript", tmp_path / "model.ts")
    assert len(differences) == 2 and max(differences.values()) <= 1e-4
    files = {"metadata.json": "", "inference.json": ""}
    torch.jit.load(str(tmp_path / "model.ts"), _extra_files=files)
    assert all(json.loads(content) for content in files.values())


def test_onnx_gives_the_same(bundle, weights, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    differences = export(str(bundle), "onnx", tmp_path / "model.onnx")
    assert len(differences) == 1 and max(differences.values()) <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_weights_are_plain_and_alone(bundle, weights):
    content = read_checkpoint(weights)  # weights_only=True
    assert all(isinstance(value, torch.Tensor) for value in content["model"].values())
    # MONAI Label serves the shortest file name among models/*.pt
    assert {path.name for path in (bundle / "models").glob("*.pt")} in ({"model.pt"}, {"model.pt", "model_light.pt"})


def test_no_large_files(bundle):
    skipped = {"eval", "data"}  # what runs leave behind
    files = [p for p in bundle.rglob("*") if p.is_file() and p.relative_to(bundle).parts[0] not in skipped]
    assert {str(p): p.stat().st_size for p in files if p.stat().st_size > LARGEST_FILE} == {}


def test_no_paths_of_a_machine(bundle):
    for path in [*(bundle / "configs").iterdir(), *(bundle / "docs").glob("*.*")]:
        if path.suffix in (".json", ".conf", ".txt", ".md"):
            assert not PERSONAL_PATH.search(path.read_text()), path


def test_configs_are_json_with_inline_handlers(bundle):
    """MONAI's property check stops at a handler that is only a reference."""
    assert not [path.name for path in (bundle / "configs").glob("*.y*ml")]
    for path in (bundle / "configs").glob("*.json"):
        content = json.loads(path.read_text())
        assert isinstance(content, dict) and content
        handlers = [content.get("handlers", [])]
        for section in ("train", "validate"):
            handlers += [content.get(section, {}).get("handlers", []), content.get(f"{section}#handlers", [])]
        assert all(isinstance(entry, dict) for found in handlers for entry in found), path


def test_logging_config_is_inert(bundle):
    """MONAI refuses others since 1.6: classes of ``logging`` alone, arguments without expressions."""
    import configparser

    parser = configparser.RawConfigParser()
    parser.read(bundle / "configs" / "logging.conf")
    for section in parser.sections():
        if section.startswith("handler_"):
            assert re.fullmatch(r"(handlers\.)?\w+", parser[section]["class"])
            assert re.fullmatch(r"\(sys\.(stdout|stderr),?\)|\(\)", parser[section].get("args", "()"))
