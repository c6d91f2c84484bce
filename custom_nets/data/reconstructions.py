"""What a 4D reconstruction is written as: volumes over time in NIfTI, surfaces as STL and PLY."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from custom_nets.data.volumes.nifti import write_nifti
from custom_nets.utils.files import new_file, write_json

__all__ = ["extract_surface", "write_4d", "write_surface"]

Array = NDArray[np.float64]
_EVEN = 1e-3  # steps that differ by less are even, as headers say them


def write_4d(
    path: str | Path, volumes: NDArray | Iterable[NDArray], affine_ras: Array, times_s: ArrayLike
) -> tuple[Path, Path]:
    """Write volumes over time as NIfTI [x, y, z, t], and beside it a JSON file with their times.

    NIfTI can say a first time and one step; where the times are uneven its header has no unit of time, and the JSON
    file (``times_s``) alone says when each volume is.

    Args:
        path: ends in .nii or .nii.gz.
        volumes: [T, x, y, z], or one [x, y, z] after another.
        affine_ras: (4, 4) voxel index -> mm, RAS.
        times_s: [T] in this order.

    Returns:
        Both files.

    Raises:
        ValueError: not as many times as volumes.
    """
    path = Path(path)
    times = np.atleast_1d(np.asarray(times_s, dtype=np.float64))
    first, *rest = volumes
    array = np.empty((*first.shape, len(times)), dtype=np.float32)
    count = 0
    for volume in (first, *rest):
        if count < len(times):
            array[..., count] = volume
        count += 1
    if count != len(times):
        raise ValueError(f"{count} volumes need as many times, got {len(times)}.")
    steps = np.diff(times)
    even = len(steps) > 0 and bool(np.allclose(steps, steps[0], rtol=_EVEN))
    step_s = float(steps[0]) if even else 1.0 if len(times) == 1 else None
    write_nifti(path, array, affine_ras, time_step_s=step_s, first_time_s=0.0 if step_s is None else float(times[0]))
    side = path.with_name(f"{path.name.removesuffix('.gz').removesuffix('.nii')}.json")
    write_json(side, {"times_s": times})
    return path, side


def extract_surface(
    volume: NDArray, level: float, spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the surface where a volume that is centred on the isocentre crosses a level.

    Args:
        volume: [x, y, z].
        level: in the volume's unit; what is above it is inside.
        spacing_mm: x, y, z.

    Returns:
        Vertices [V, 3] in mm, LPS, and triangles [F, 3] that turn outwards; closed at the volume's border.

    Raises:
        ValueError: nothing of the volume is above the level, or the level is not above nothing.
    """
    from skimage.measure import marching_cubes

    low, high = min(0.0, float(np.min(volume))), float(np.max(volume))  # outside of the volume there is nothing
    if not low < level < high:
        raise ValueError(f"there is no surface at {level:g}: the volume goes from {low:g} to {high:g}.")
    padded = np.pad(np.asarray(volume, dtype=np.float32), 1, constant_values=low)
    vertices, faces, _, _ = marching_cubes(padded, level)
    centre = (np.asarray(volume.shape) - 1) / 2 + 1
    return (vertices - centre) * np.asarray(spacing_mm), faces[:, ::-1].astype(np.int64)


def write_surface(
    path: str | Path, vertices_mm: NDArray, faces: NDArray, values: NDArray | None = None, value_name: str = "arrival_s"
) -> Path:
    """Write a surface as binary STL or PLY, by the suffix; the file says that its coordinates are LPS.

    Args:
        path: ends in .stl or .ply.
        vertices_mm: [V, 3] LPS.
        faces: [F, 3].
        values: [V] a number at each vertex, for PLY.
        value_name: what the number is.

    Raises:
        ValueError: another suffix, or values that STL cannot hold.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".stl", ".ply"):
        raise ValueError(f"{path}: a surface is written as .stl or .ply.")
    if kind == ".stl" and values is not None:
        raise ValueError(f"{path}: STL holds no values at vertices: write .ply.")
    content = _stl(vertices_mm, faces) if kind == ".stl" else _ply(vertices_mm, faces, values, value_name)
    with new_file(path) as part:
        part.write_bytes(content)
    return path


def _stl(vertices: NDArray, faces: NDArray) -> bytes:
    corners = vertices[faces].astype(np.float32)  # [F, 3, 3]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    records = np.zeros(len(faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    records["normal"], records["corners"] = normal, corners
    return b"SPACE=LPS mm".ljust(80) + np.uint32(len(faces)).tobytes() + records.tobytes()


def _ply(vertices: NDArray, faces: NDArray, values: NDArray | None, value_name: str) -> bytes:
    names = ["x", "y", "z"] + ([value_name] if values is not None else [])
    columns = [*vertices.T] + ([values] if values is not None else [])
    points = np.stack(columns, 1).astype("<f4")
    triangles = np.zeros(len(faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    triangles["count"], triangles["corners"] = 3, faces
    lines = ["ply", "format binary_little_endian 1.0", "comment SPACE=LPS mm", f"element vertex {len(points)}"]
    lines += [f"property float {name}" for name in names]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(lines).encode() + points.tobytes() + triangles.tobytes()
