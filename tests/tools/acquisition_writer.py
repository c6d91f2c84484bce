"""Write small rotational acquisitions in the public layouts, without using the package's own writers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SAD, SID, SIZE, SPACING, OFFSET = 765.0, 1200.0, (10, 12), (13.0, 14.0), (1.5, -0.8)  # SIZE is [H, W]


def save_stack(path: Path, stack: np.ndarray) -> None:
    """[N, H, W] as NIfTI [column, row, frame] with a geometry that means nothing."""
    nib.save(nib.Nifti1Image(stack.astype(np.float32).transpose(2, 1, 0), np.diag([7.0, 5.0, 3.0, 1.0])), path)


def transforms(count: int = 5, **changes: Any) -> dict[str, Any]:
    """Content of ``transforms.json``; None as a value leaves a key out."""
    times = np.array([0, 0.1, 0.25, 0.3, 0.5, 0.8, 1.0, 1.1])[:count]
    angles = 0.5 + 0.4 * np.arange(count) ** 1.1
    content: dict[str, Any] = {
        "sad": SAD,
        "sid": SID,
        "N_views": count,
        "proj_resolution": [SIZE[1], SIZE[0]],
        "proj_spacing": list(SPACING),
        "proj_phy": [SIZE[1] * SPACING[0], SIZE[0] * SPACING[1]],
        "volume_resolution": [6, 7, 8],
        "volume_spacing": [10.0, 11.0, 12.0],
        "volume_phy": [60.0, 77.0, 96.0],
        "detector_offset_mm": list(OFFSET),
        "frames": [
            {"PrimaryAngle": float(a), "SecondaryAngle": 0, "file": f"{k:03d}", "index": k, "time_s": float(t)}
            for k, (a, t) in enumerate(zip(angles, times, strict=True))
        ],
    }
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


def write_vpal(folder: Path, files: dict[str, np.ndarray], content: dict[str, Any] | None = None) -> Path:
    """A folder with ``transforms.json`` and [N, H, W] stacks by name ("proj", "mask_run", "fill_run")."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, stack in files.items():
        save_stack(folder / f"{name}.nii.gz", stack)
    count = len(next(iter(files.values())))
    (folder / "transforms.json").write_text(json.dumps(content or transforms(count)))
    return folder


def write_togs(folder: Path, times: np.ndarray, train: list[int], test: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A folder of TOGS with one dark pixel per picture on white; camera matrices [N, 4, 4] and the dark point."""
    import cv2

    size, field, radius, point = 40, 0.25, 0.6, np.array([0.01, -0.02, 0.015])
    focal = size / 2 / np.tan(field / 2)
    matrices = []
    for k, _ in enumerate(times):
        a = 0.4 + 0.7 * k
        back = np.array([np.cos(a), np.sin(a), 0.0])  # the camera looks along -z, which is inwards
        up = np.array([0.0, 0, 1])
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([np.cross(up, back), up, back], 1)
        matrix[:3, 3] = radius * back
        matrices.append(matrix)
        local = matrix[:3, :3].T @ (point - matrix[:3, 3])
        column = size / 2 - 0.5 + focal * local[0] / -local[2]
        row = size / 2 - 0.5 - focal * local[1] / -local[2]
        picture = np.full((size, size, 3), 255, np.uint8)
        picture[4:, ::5] = 250 - k
        picture[round(row), round(column)] = 0
        cv2.imwrite(str(folder / f"r_{k}.png"), picture)
    for name, members in (("train", train), ("test", test)):
        frames = [
            {"file_path": f"./r_{k}", "rotation": 0, "time": times[k], "transform_matrix": matrices[k].tolist()}
            for k in members
        ]
        content = {"camera_angle_x": field, "frames": frames}
        (folder / f"transforms_{name}.json").write_text(json.dumps(content))
    return np.stack(matrices), point
