"""Line integrals through a volume as a C-arm sees them, their adjoint, and the plain reconstructions.

A view is twelve numbers in mm: source, panel centre, step from a column to the next, step from a row to the next (the
"vector" form that ASTRA uses, too), so gantry angles, oblique views, panel offsets and calibrated wobble are all the
same to what is here. The volume is centred on the isocentre, its axes are those of the world.

The projector is Joseph's: along the axis that the view's rays follow most, each slice is interpolated bilinearly where
the ray crosses it. It is linear, and forward and adjoint share their coefficients, so they are an exact pair.

References: Joseph PM, An improved algorithm for reprojecting rays through pixel images, IEEE Trans Med Imaging 1(3),
1982; Feldkamp LA, Davis LC, Kress JW, Practical cone-beam algorithm, J Opt Soc Am A 1(6), 1984; Parker DL, Optimal
short scan convolution reconstruction for fan beam CT, Med Phys 9(2), 1982.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ConeBeamOperator",
    "SupportOperator",
    "cgls",
    "compressed_rows",
    "fdk",
    "panel_positions",
    "parker_weights",
    "sart",
    "sparse_product",
    "view_vectors",
]

Array = NDArray[np.float64]


def view_vectors(acquisition: Any) -> Array:
    """Give the views of an acquisition as [N, 12]: source, panel centre, column step, row step, in mm."""
    parts = (acquisition.source_mm, acquisition.panel_mm, acquisition.column_step_mm, acquisition.row_step_mm)
    return np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)


class ConeBeamOperator:
    """Project volumes and back-project pictures, an exact pair of forward and adjoint.

    Works on the device of what it is given; needs ``memory_gb`` beyond input and output at most.

    Args:
        vectors: [N, 12] of the views, see :func:`view_vectors`.
        panel_shape: (H, W) in pixels.
        volume_shape: (nx, ny, nz).
        spacing_mm: of the voxels.
        memory_gb: for the coordinates that are held at a time.
    """

    def __init__(
        self,
        vectors: ArrayLike,
        panel_shape: Sequence[int],
        volume_shape: Sequence[int],
        spacing_mm: ArrayLike,
        memory_gb: float = 0.5,
    ) -> None:
        self.vectors = np.atleast_2d(np.asarray(vectors, np.float64))
        if self.vectors.shape[1] != 12 or not np.isfinite(self.vectors).all():
            raise ValueError(f"vectors must be [N, 12] finite numbers in mm, got shape {self.vectors.shape}.")
        self.panel_shape = (int(panel_shape[0]), int(panel_shape[1]))
        self.volume_shape = tuple(int(n) for n in volume_shape)
        self.spacing_mm = np.asarray(spacing_mm, np.float64)
        if len(self.volume_shape) != 3 or self.spacing_mm.shape != (3,) or not (self.spacing_mm > 0).all():
            raise ValueError(
                f"a volume needs three sizes and three spacings above 0 mm, got {volume_shape} and {spacing_mm!r}."
            )
        self.memory_gb = memory_gb

    @classmethod
    def of(cls, acquisition: Any, **options: Any) -> ConeBeamOperator:
        """Make the operator of an acquisition: its views, panel and volume grid."""
        panel, volume = acquisition.projections.shape[1:], acquisition.volume_shape
        return cls(view_vectors(acquisition), panel, volume, acquisition.volume_spacing_mm, **options)

    def __len__(self) -> int:
        return len(self.vectors)

    def forward(self, volume: torch.Tensor, views: Sequence[int] | None = None) -> torch.Tensor:
        """Integrate along the ray of each pixel. Differentiable.

        Args:
            volume: [nx, ny, nz] in 1/mm.
            views: which; None: all.

        Returns:
            [N, H, W], unit-free.
        """
        views = range(len(self)) if views is None else views
        return torch.stack([_Forward.apply(volume, self, view) for view in views])

    def adjoint(self, projections: torch.Tensor, views: Sequence[int] | None = None) -> torch.Tensor:
        """Apply the transpose of :meth:`forward`: [N, H, W] to [nx, ny, nz]. Differentiable."""
        views = range(len(self)) if views is None else views
        if len(views) != len(projections):
            raise ValueError(f"{len(projections)} projections for {len(views)} views.")
        total = projections.new_zeros(self.volume_shape)
        for picture, view in zip(projections, views, strict=True):
            total = total + _Adjoint.apply(picture, self, view)
        return total

    # ---- one view ----

    def _crossings(
        self, chunk: slice, source: torch.Tensor, rays: torch.Tensor, axis: int, first: int, second: int
    ) -> torch.Tensor:
        """Where rays cross slices, [K, H, W, 2], in the units of ``grid_sample``."""
        place = torch.arange(chunk.start, chunk.stop, device=rays.device, dtype=rays.dtype)
        place = (place - (self.volume_shape[axis] - 1) / 2) * float(self.spacing_mm[axis])
        way = (place[:, None, None] - source[axis]) / rays[..., axis]  # [K, H, W]
        # -1 and 1 are the outer faces of the first and last voxel; grid_sample wants the last axis first
        half = [self.volume_shape[a] * float(self.spacing_mm[a]) / 2 for a in (second, first)]
        along = [(source[a] + way * rays[..., a]) / h for a, h in zip((second, first), half, strict=True)]
        return torch.stack(along, dim=-1)

    def _chunks(self, view: int, like: torch.Tensor) -> tuple[int, torch.Tensor, Callable[[], Any]]:
        source, rays = _rays(self.vectors[view], self.panel_shape, like)  # [3], [H, W, 3]
        axis, (first, second) = _walk(self.vectors[view])
        step = rays.norm(dim=-1) / rays[..., axis].abs() * float(self.spacing_mm[axis])  # [H, W]
        count = self.volume_shape[axis]
        size = max(1, int(self.memory_gb * 2**30 / (5 * 4 * rays[..., 0].numel())))

        def chunks() -> Any:
            for start in range(0, count, size):
                chunk = slice(start, min(start + size, count))
                yield chunk, self._crossings(chunk, source, rays, axis, first, second)

        return axis, step, chunks

    def forward_view(self, volume: torch.Tensor, view: int) -> torch.Tensor:
        """One view of :meth:`forward`, [H, W], without gradient."""
        axis, step, chunks = self._chunks(view, volume)
        slices = volume.movedim(axis, 0)[:, None]  # [n, 1, n1, n2]
        total = torch.zeros_like(step)
        for chunk, grid in chunks():
            found = F.grid_sample(slices[chunk], grid, padding_mode="zeros", align_corners=False)  # [K, 1, H, W]
            total += found.sum(dim=(0, 1))
        return total * step

    def adjoint_view(self, picture: torch.Tensor, view: int) -> torch.Tensor:
        """One view of :meth:`adjoint`, [nx, ny, nz], without gradient."""
        axis, step, chunks = self._chunks(view, picture)
        sizes = [self.volume_shape[axis], *(n for a, n in enumerate(self.volume_shape) if a != axis)]
        slices = picture.new_zeros(sizes)[:, None]  # [n, 1, n1, n2]
        weighted = (picture * step)[None, None]
        for chunk, grid in chunks():
            given = weighted.expand(len(grid), -1, -1, -1).contiguous()  # [K, 1, H, W]
            # the transpose of grid_sample (bilinear, zeros) is what its own backward pass computes
            slices[chunk], _ = torch.ops.aten.grid_sampler_2d_backward(
                given, slices[chunk], grid, 0, 0, False, [True, False]
            )
        return slices[:, 0].movedim(0, axis)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, volume: torch.Tensor, beam: ConeBeamOperator, view: int) -> torch.Tensor:  # type: ignore[override]
        ctx.beam, ctx.view = beam, view
        return beam.forward_view(volume, view)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return ctx.beam.adjoint_view(grad, ctx.view), None, None


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, picture: torch.Tensor, beam: ConeBeamOperator, view: int) -> torch.Tensor:  # type: ignore[override]
        ctx.beam, ctx.view = beam, view
        return beam.adjoint_view(picture, view)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return ctx.beam.forward_view(grad, ctx.view), None, None


def _walk(vector: Array) -> tuple[int, tuple[int, int]]:
    """The axis that a view's central ray follows most, and the two others."""
    axis = int(np.argmax(np.abs(vector[3:6] - vector[:3])))
    first, second = (a for a in range(3) if a != axis)
    return axis, (first, second)


def _rays(vector: Array, panel_shape: tuple[int, int], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Source [3] and, from there, the way to the centre of each pixel [H, W, 3], in mm."""
    height, width = panel_shape
    rows = torch.arange(height, device=like.device, dtype=like.dtype) - (height - 1) / 2
    columns = torch.arange(width, device=like.device, dtype=like.dtype) - (width - 1) / 2
    source, panel, column_step, row_step = (_on(vector[k : k + 3], like) for k in (0, 3, 6, 9))
    return source, (panel - source) + columns[None, :, None] * column_step + rows[:, None, None] * row_step


def _on(values: ArrayLike, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=like.dtype).to(like.device)


class SupportOperator:
    """The same projector for volumes that are zero but for a few voxels: each view is a sparse matrix, kept.

    Vessels fill 1 to 3 % of a head. A matrix has about a dozen entries for each of their voxels, so a view takes a
    millisecond where the whole volume takes a hundred.

    Args:
        volume_shape, spacing_mm: of the whole volume.
        panel_shape: (H, W).
        voxels: [M] flat indices (of [nx, ny, nz]) of the voxels that are not zero.
        memory_gb: for matrices that are kept; those beyond are made anew each time.
    """

    def __init__(
        self,
        volume_shape: Sequence[int],
        spacing_mm: ArrayLike,
        panel_shape: Sequence[int],
        voxels: torch.Tensor,
        memory_gb: float = 2.0,
    ) -> None:
        self.volume_shape = tuple(int(n) for n in volume_shape)
        self.spacing_mm = np.asarray(spacing_mm, np.float64)
        self.panel_shape = (int(panel_shape[0]), int(panel_shape[1]))
        self.voxels = voxels
        self.memory_gb = memory_gb
        self.remember = True  # keep the matrices of views that are seen for the first time
        self._matrices: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = {}
        self._bytes = 0

    def positions(self) -> torch.Tensor:
        """Give the centres of the voxels in mm, [M, 3]."""
        index = torch.stack(torch.unravel_index(self.voxels, self.volume_shape), dim=-1)  # [M, 3]
        centre = torch.tensor([(n - 1) / 2 for n in self.volume_shape], device=index.device)
        return (index - centre) * torch.as_tensor(self.spacing_mm, dtype=torch.float32).to(index.device)

    def forward(self, values: torch.Tensor, vectors: Array) -> torch.Tensor:
        """Integrate along the rays of each view. Differentiable.

        Args:
            values: [B, M] in 1/mm, one set of voxel values for each view.
            vectors: [B, 12] of the views.

        Returns:
            [B, H, W], unit-free.
        """
        if values.is_meta:  # how many entries a matrix has depends on values: the dense projector does not ask
            return self._project_dense(values, vectors)
        pictures = [sparse_product(row, *self.matrices(vector)) for row, vector in zip(values, vectors, strict=True)]
        return torch.stack(pictures).unflatten(1, self.panel_shape)

    def adjoint(self, pictures: torch.Tensor, vectors: Array) -> torch.Tensor:
        """Apply the transpose of :meth:`forward` without gradient: [B, H, W] to [B, M]."""
        found = [
            self.matrices(vector)[1] @ picture.reshape(-1) for picture, vector in zip(pictures, vectors, strict=True)
        ]
        return torch.stack(found)

    def _project_dense(self, values: torch.Tensor, vectors: Array) -> torch.Tensor:
        beam = ConeBeamOperator(vectors, self.panel_shape, self.volume_shape, self.spacing_mm)
        flat = values.new_zeros(len(values), int(np.prod(self.volume_shape)))
        volumes = flat.index_add(1, self.voxels.to(values.device), values).unflatten(1, self.volume_shape)
        return torch.cat([beam.forward(volume, [view]) for view, volume in enumerate(volumes)])

    def matrices(self, vector: Array) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the matrix [H W, M] of a view and its transpose, both in compressed rows."""
        key = vector.tobytes()
        if (known := self._matrices.get(key)) is None:
            known = self._build(vector)
            size = sum(part.numel() * part.element_size() for m in known for part in _parts(m))
            if self.remember and self._bytes + size <= self.memory_gb * 2**30:
                self._matrices[key] = known
                self._bytes += size
        return known

    def _build(self, vector: Array, candidates: int = 1 << 21) -> tuple[torch.Tensor, torch.Tensor]:
        positions = self.positions()  # [M, 3]
        height, width = self.panel_shape
        source, rays = _rays(vector, self.panel_shape, positions)
        axis, (first, second) = _walk(vector)
        step = rays.norm(dim=-1) / rays[..., axis].abs() * float(self.spacing_mm[axis])  # [H, W]
        # a voxel reaches as far as its neighbours in its slice: the pixels between their shadows may see it
        reach = torch.zeros(4, 3, device=positions.device)
        reach[:, first] = torch.tensor([-1.0, -1, 1, 1]) * float(self.spacing_mm[first])
        reach[:, second] = torch.tensor([-1.0, 1, -1, 1]) * float(self.spacing_mm[second])
        corners = panel_positions(
            positions[:, None] + reach.to(positions.device), vector, self.panel_shape
        )  # [M, 4, 2]
        start = corners.amin(dim=1).ceil().long()  # [M, 2] column, row
        size = (corners.amax(dim=1).floor().long() - start + 1).amax(dim=0).clamp(min=1)
        columns = torch.arange(int(size[0]), device=positions.device)
        rows = torch.arange(int(size[1]), device=positions.device)
        pixel_of, voxel_of, value_of = [], [], []
        chunk = max(1, candidates // (len(columns) * len(rows)))
        for begin in range(0, len(positions), chunk):
            at = slice(begin, begin + chunk)
            column = (start[at, 0, None] + columns)[:, None, :]  # [m, 1, w]
            row = (start[at, 1, None] + rows)[:, :, None]  # [m, h, 1]
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)  # [m, h, w]
            pixel = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            ray = rays.reshape(-1, 3)[pixel]  # [m, h, w, 3]
            way = (positions[at, axis, None, None] - source[axis]) / ray[..., axis]
            weight = step.reshape(-1)[pixel] * inside
            for a in (first, second):
                distance = (source[a] + way * ray[..., a] - positions[at, a, None, None]).abs()
                weight = weight * (1 - distance / float(self.spacing_mm[a])).clamp(min=0)
            voxel, *_ = found = weight.nonzero(as_tuple=True)
            pixel_of.append(pixel[found])
            voxel_of.append(voxel + begin)
            value_of.append(weight[found])
        pixel, voxel, value = torch.cat(pixel_of), torch.cat(voxel_of), torch.cat(value_of)
        transposed = compressed_rows(voxel, pixel, value, (len(positions), height * width))
        order = torch.argsort(pixel, stable=True)
        return compressed_rows(pixel[order], voxel[order], value[order], (height * width, len(positions))), transposed


def sparse_product(values: torch.Tensor, matrix: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
    """Multiply ``matrix @ values``; the gradient takes ``transposed``, which PyTorch would make at each step."""
    found: torch.Tensor = _Product.apply(values, matrix, transposed)
    return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, matrix: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.transposed = transposed
        return matrix @ values

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return ctx.transposed @ grad.contiguous(), None, None


def compressed_rows(
    row: torch.Tensor, column: torch.Tensor, value: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """Make a sparse matrix in compressed rows (CSR), of entries sorted by row."""
    ends = torch.zeros(shape[0] + 1, dtype=torch.int32, device=row.device)
    ends[1:] = torch.bincount(row, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():  # PyTorch calls them beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(ends, column.int(), value, shape, check_invariants=False)


def _parts(matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return matrix.crow_indices(), matrix.col_indices(), matrix.values()


def panel_positions(points_mm: torch.Tensor, vector: Array, panel_shape: tuple[int, int]) -> torch.Tensor:
    """Tell where points [..., 3] in mm are seen: column and row [..., 2]; 0 is the centre of the first pixel."""
    source, panel, column_step, row_step = (vector[k : k + 3] for k in (0, 3, 6, 9))
    normal = np.cross(column_step, row_step)
    ray = points_mm - _on(source, points_mm)
    way = float(normal @ (panel - source)) / (ray * _on(normal, points_mm)).sum(-1, keepdim=True)
    on_panel = ray * way + _on(source - panel, points_mm)
    steps = np.linalg.pinv(np.stack([column_step, row_step], axis=1))  # [2, 3]
    centre = torch.tensor([(panel_shape[1] - 1) / 2, (panel_shape[0] - 1) / 2]).to(on_panel)
    return on_panel @ _on(steps.T, points_mm) + centre


# ---- plain reconstructions ----


def _turn(vectors: Array) -> tuple[Array, Array, Array, Array]:
    """Axis of rotation [3], gantry angles [N] in rad (rising), signs, distances, of views that turn about an axis."""
    source = vectors[:, :3]
    normals = np.linalg.svd(source - source.mean(0), full_matrices=False)[2] if len(source) > 2 else np.eye(3)
    axis = normals[2]
    axis = axis * (1 if axis[np.argmax(np.abs(axis))] > 0 else -1)
    flat = source - np.outer(source @ axis, axis)
    first = flat[0] / np.linalg.norm(flat[0])
    second = np.cross(axis, first)
    return axis, np.unwrap(np.arctan2(flat @ second, flat @ first)), first, second


def parker_weights(vectors: ArrayLike, panel_shape: Sequence[int]) -> Array:
    """Weights [N, H, W] that count each line of a short scan once, and by the angle that a view stands for, in rad.

    The overscan is taken to be the arc beyond half a turn (Parker's weights for any arc of half a turn plus more than
    nothing). Arcs below half a turn are left without, full turns are halved.

    Raises:
        ValueError: fewer than three views, or angles that do not rise or fall all along.
    """
    vectors = np.atleast_2d(np.asarray(vectors, np.float64))
    if len(vectors) < 3:
        raise ValueError(f"filtered back-projection needs at least 3 views, got {len(vectors)}.")
    axis, angles, _, _ = _turn(vectors)
    steps = np.diff(angles)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            "filtered back-projection needs views in the order of their angles, which rise or fall all along; these do "
            "not. SART takes any order."
        )
    # each view stands for half the way to its neighbours; the outer ones for a half step beyond, too
    shares = np.abs(np.gradient(angles)) if len(angles) > 1 else np.ones(1)
    arc = abs(angles[-1] - angles[0]) + 0.5 * (abs(steps[0]) + abs(steps[-1]))
    weights = np.broadcast_to(shares[:, None, None], (len(angles), *panel_shape)).copy()
    if arc >= 2 * np.pi - 1e-3:
        return weights * (np.pi / arc)
    over = (arc - np.pi) / 2
    if over <= 0:
        return weights
    sign = 1.0 if steps[0] > 0 else -1.0
    for k, vector in enumerate(vectors):
        begin = abs(angles[k] - angles[0]) + 0.5 * abs(steps[0])
        fan = sign * _fan_angles(vector, panel_shape, axis)[None, :]  # [1, W]
        rise = np.sin(np.pi / 4 * np.clip(begin / np.maximum(over - fan, 1e-9), 0, 2)) ** 2
        fall = np.sin(np.pi / 4 * np.clip((np.pi + 2 * over - begin) / np.maximum(over + fan, 1e-9), 0, 2)) ** 2
        rising, falling = begin < 2 * (over - fan), begin > np.pi - 2 * fan
        weights[k] *= np.where(rising, rise, np.where(falling, fall, 1.0))
    return weights


def _fan_angles(vector: Array, panel_shape: Sequence[int], axis: Array) -> Array:
    """Angle [W] in rad of the middle row's rays to the ray through the axis, counted as gantry angles are."""
    columns = np.arange(panel_shape[1]) - (panel_shape[1] - 1) / 2
    rays = vector[3:6] - vector[:3] + columns[:, None] * vector[6:9]
    rays = rays - np.outer(rays @ axis, axis)
    inward = -(vector[:3] - (vector[:3] @ axis) * axis)
    side = np.cross(axis, inward)
    return np.arctan2(rays @ side, rays @ inward)


def fdk(beam: ConeBeamOperator, projections: torch.Tensor, weights: ArrayLike | None = None) -> torch.Tensor:
    """Reconstruct by filtered back-projection after Feldkamp, Davis and Kress, on a short scan with Parker's weights.

    Args:
        beam: the operator of the views, which turn about one axis in order of their angles.
        projections: [N, H, W], unit-free.
        weights: [N, H, W] in rad in place of :func:`parker_weights`.

    Returns:
        [nx, ny, nz] in 1/mm. Values below zero are kept.
    """
    vectors = beam.vectors
    weights = parker_weights(vectors, beam.panel_shape) if weights is None else np.asarray(weights)
    height, width = beam.panel_shape
    volume = projections.new_zeros(beam.volume_shape)
    axes = [
        (torch.arange(n, device=volume.device, dtype=volume.dtype) - (n - 1) / 2) * float(s)
        for n, s in zip(beam.volume_shape, beam.spacing_mm, strict=True)
    ]
    length = 1 << (2 * width - 1).bit_length()
    slab = max(1, int(beam.memory_gb * 2**30 / (40 * beam.volume_shape[1] * beam.volume_shape[2])))
    for k, vector in enumerate(vectors):
        source, panel, column_step, row_step = (vector[j : j + 3] for j in (0, 3, 6, 9))
        normal = np.cross(column_step, row_step)
        normal = normal / np.linalg.norm(normal)
        normal = normal * np.sign(normal @ (panel - source))
        to_panel, to_centre = float(normal @ (panel - source)), float(-normal @ source)
        _, rays = _rays(vector, beam.panel_shape, projections)
        cosine = to_panel / rays.norm(dim=-1)  # [H, W]
        pixel_mm = float(np.linalg.norm(column_step)) * to_centre / to_panel  # at the isocentre
        picture = projections[k] * cosine * _on(weights[k], projections)
        ramp = torch.fft.rfft(_ramp(length, pixel_mm).to(picture))
        filtered = torch.fft.irfft(torch.fft.rfft(picture, n=length) * ramp, n=length)[:, :width] * pixel_mm
        for begin in range(0, beam.volume_shape[0], slab):
            part = slice(begin, begin + slab)
            points = torch.stack(torch.meshgrid(axes[0][part], axes[1], axes[2], indexing="ij"), dim=-1)
            seen = panel_positions(points, vector, beam.panel_shape)  # [n, ny, nz, 2]
            grid = (2 * seen + 1) / torch.tensor([width, height]).to(seen) - 1
            found = F.grid_sample(
                filtered[None, None], grid.reshape(1, -1, beam.volume_shape[2], 2), align_corners=False
            ).reshape(points.shape[:3])
            depth = ((points - _on(source, points)) * _on(normal, points)).sum(-1)
            volume[part] += found * (to_centre / depth) ** 2
    return volume


def _ramp(length: int, pixel_mm: float) -> torch.Tensor:
    """The band-limited ramp in space, [length], around 0."""
    place = torch.fft.fftfreq(length, 1 / length, dtype=torch.float64).round()
    odd = place % 2 != 0
    kernel = torch.where(odd, -1 / (torch.pi * pixel_mm * torch.where(odd, place, 1.0)) ** 2, 0.0)
    kernel[0] = 1 / (4 * pixel_mm**2)
    return kernel


def sart(
    beam: ConeBeamOperator,
    projections: torch.Tensor,
    sweeps: int = 5,
    relaxation: float = 0.5,
    nonnegative: bool = True,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Reconstruct a still volume by SART, a view after the other, in steps of the golden ratio through the scan.

    Reference: Andersen AH, Kak AC, Simultaneous algebraic reconstruction technique, Ultrasonic Imaging 6(1), 1984.

    Args:
        projections: [N, H, W], unit-free.
        sweeps: over all views.
        relaxation: share of each correction that is made.
        nonnegative: set what falls below zero to zero after each view.
        start: [nx, ny, nz]; None: zeros.
    """
    volume = projections.new_zeros(beam.volume_shape) if start is None else start.clone()
    lengths = beam.forward(torch.ones_like(volume))  # [N, H, W]
    covered = [beam.adjoint_view(torch.ones_like(picture), k) for k, picture in enumerate(projections)]
    order = np.argsort((np.arange(len(beam)) * 0.6180339887498949) % 1.0, kind="stable")
    for _ in range(sweeps):
        for k in order:
            residual = (projections[k] - beam.forward_view(volume, k)) / lengths[k].clamp(min=1e-3)
            volume += relaxation * beam.adjoint_view(residual * (lengths[k] > 1e-3), k) / covered[k].clamp(min=1e-3)
            if nonnegative:
                volume.clamp_(min=0)
    return volume


def cgls(beam: ConeBeamOperator, projections: torch.Tensor, iterations: int = 12) -> torch.Tensor:
    """Reconstruct a still volume by conjugate gradients on the least-squares problem; few iterations regularise.

    Reference: Hestenes MR, Stiefel E, Methods of conjugate gradients, J Res Natl Bur Stand 49(6), 1952.

    Args:
        projections: [N, H, W], unit-free.
    """
    residual = projections.clone()
    gradient = beam.adjoint(residual)
    volume, direction, power = torch.zeros_like(gradient), gradient.clone(), gradient.square().sum()
    for _ in range(iterations):
        if float(power) == 0:
            break
        shadow = beam.forward(direction)
        step = power / shadow.square().sum()
        volume += step * direction
        residual -= step * shadow
        gradient = beam.adjoint(residual)
        power, before = gradient.square().sum(), power
        direction = gradient + (power / before) * direction
    return volume
