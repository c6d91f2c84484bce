"""Tiny data for all tests, made on the fly."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

# where tests run whole bundles, servers or tracking
SLOW_FOLDERS = {"bundles", "label", "tracking", "apps", "gpu", "benchmarks"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    for item in items:
        if item.path.relative_to(root).parts[0] in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _fast_tests_start_no_python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts another Python takes seconds, so it has to be marked slow."""
    if request.node.get_closest_marker("slow") or request.node.get_closest_marker("browser"):
        return
    start = subprocess.Popen.__init__

    def checked(self: subprocess.Popen, args: Any, *rest: Any, **options: Any) -> None:
        program = str(args[0]) if isinstance(args, list | tuple) else str(args)
        assert Path(program).name not in (Path(sys.executable).name, "torchrun"), f"mark it slow: it starts {args}"
        start(self, args, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", checked)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For files whose tensors are small, on a machine that may be busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blobs(points: np.ndarray) -> np.ndarray:
    """A smooth field in the world: points [..., 3] in mm -> values in about 0..1000, different at every place."""
    x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
    bumps = sum(
        height * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * width**2))
        for height, a, b, c, width in ((500, 3, -4, 2, 14), (300, -9, 6, -5, 9), (250, 8, 9, 7, 7))
    )
    return bumps + 100 + 20 * np.sin(x / 9 + 0.3) * np.cos(y / 11) + 10 * np.sin(z / 7)


def random_affine(rng: np.random.Generator, spacing: tuple[float, float, float] | None = None) -> np.ndarray:
    """Random rotation, axes permuted and flipped, spacing 0.6-5 mm (or the given one), offset up to 100 mm."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation = rotation[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = rotation * (rng.uniform(0.6, 5, 3) if spacing is None else np.asarray(spacing))
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


def world_points(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Voxel centres in mm, [x, y, z, 3]."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


@pytest.fixture(scope="session")
def blob_field() -> Callable[[np.ndarray], np.ndarray]:
    return blobs


@pytest.fixture(scope="session")
def blob_volume() -> Callable[..., MetaTensor]:
    """``blob_volume(shape, affine)``: the field sampled on a grid, [1, x, y, z] float32 with its affine."""

    def make(shape: tuple[int, int, int] = (11, 14, 9), affine: np.ndarray | None = None) -> MetaTensor:
        if affine is None:
            affine = np.diag([2.0, 2.0, 2.0, 1.0])
            affine[:3, 3] = -np.array(shape) + 1
        values = blobs(world_points(shape, affine)).astype(np.float32)
        return MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(np.asarray(affine, np.float64)))

    return make


@pytest.fixture(scope="session")
def head() -> MetaTensor:
    """The middle of the MNI152 head, [1, 48, 56, 48] float32, 1 mm, values 0..255."""
    spec = importlib.util.find_spec("nilearn")  # only its data file: importing nilearn takes seconds
    if spec is None or spec.origin is None:
        pytest.skip("nilearn (MNI152 template) is not installed")
    import nibabel as nib

    folder = Path(spec.origin).parent / "datasets" / "data"
    image = nib.load(next(folder.glob("mni_icbm152_t1_tal_nlin_sym_09a_converted*.nii.gz")))
    start = [(n - m) // 2 for n, m in zip(image.shape, (48, 56, 48), strict=True)]
    crop = image.slicer[start[0] : start[0] + 48, start[1] : start[1] + 56, start[2] : start[2] + 48]
    data = np.asarray(crop.dataobj, dtype=np.float32)
    return MetaTensor(torch.from_numpy(data)[None], affine=torch.from_numpy(np.array(crop.affine, np.float64)))


@pytest.fixture(scope="session")
def write_dicom_series() -> Callable[..., list[Path]]:
    """``write_dicom_series(folder, volume, affine, **tags)``: see tests/tools/dicom_writer.py."""
    from tests.tools.dicom_writer import write_dicom_series as write

    return write


@pytest.fixture
def save_nifti(tmp_path: Path) -> Callable[..., Path]:
    """``save_nifti(array, affine, name=...)``: a plain NIfTI file in the test's folder."""

    def save(array, affine=None, name: str = "scan.nii.gz") -> Path:
        import nibabel as nib

        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
        nib.save(nib.Nifti1Image(np.asarray(array), affine), path)
        return path

    return save
