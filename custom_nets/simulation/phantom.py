"""A vessel tree through which a bolus flows, seen by a turning C-arm: projections whose 4D truth is known.

The vessels are filled with small cubes, several per edge of a voxel. Each cube has a coverage (how much of it is
vessel) and the arrival time of its place on the tree. The truth in voxels is the sum of the cubes, and so is every
projection, with the exact magnification of each cube: neither goes by way of the other, and no projector of a
reconstruction was used (no inverse crime). Noise is that of two Poisson exposures behind a head.

The tree grows by Murray's law (:mod:`custom_nets.simulation.vessel_tree`), or, for trials of what was settled on such
ones, towards tissue that lacks blood, with a bolus of another kind (:mod:`custom_nets.simulation.colonised_tree`).
Pathologies are switches. What is left out: scatter, blur of the detector, motion between the runs, tissue blush.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from custom_nets.data.angiography.acquisition_folders import line_integrals
from custom_nets.data.angiography.arrival import half_rise_time
from custom_nets.data.angiography.views import Acquisition
from custom_nets.geometry.cone_beam import ConeBeam, circular_trajectory
from custom_nets.simulation.colonised_tree import ReturningBolus, colonise
from custom_nets.simulation.splat import splat_discs
from custom_nets.simulation.vessel_tree import Bolus, VesselTree, grow_tree

__all__ = ["NOISE", "PATHOLOGIES", "VESSELS", "PhantomSettings", "VesselFlowPhantom"]

Array = NDArray[np.float64]

VESSELS = ("forking", "colonised")
PATHOLOGIES = ("aneurysm", "stenosis", "avm", "fistula")
NOISE = {"none": np.inf, "moderate": 5e4, "heavy": 5e3}  # counts per pixel behind an attenuation of 3
_BEHIND = 3.0
_CUBES = 3  # per edge of a voxel
_NODES_AT_ONCE = 1 << 14
# half axes as shares of the volume's half edges, attenuation over such a half edge: skull, less what brain is below it
_HEAD = ((0.98, 3.4), (0.90, -2.0))  # together about 3 through the centre


@dataclass(frozen=True)
class PhantomSettings:
    """One patient on one C-arm.

    Args:
        frames: exposures of the turn.
        duration_s: from the first fill frame to the last.
        arc_deg: angle of the turn.
        size: (H, W) of a projection.
        pixel_mm: edge of a pixel at the panel.
        offset_mm: (along columns, along rows) of the panel's centre from the central ray.
        sad_mm, sid_mm: source to isocentre, source to panel; typical values, not those of one system.
        volume_shape: (nx, ny, nz).
        voxel_mm: edge of a voxel.
        vessels: one of :data:`VESSELS`: how the trees grow, and what bolus flows through them.
        inlets: arterial trees.
        smallest_radius_mm: forking vessels end below it.
        veins: whether a venous tree drains, after the tissue's transit time.
        iodine_per_mm: attenuation of undiluted agent in blood, 1/mm.
        pathologies: some of :data:`PATHOLOGIES`.
        counts: photons per pixel and exposure behind an attenuation of 3; ``inf``: no noise.
    """

    frames: int = 133
    duration_s: float = 5.5
    arc_deg: float = 200.0
    size: tuple[int, int] = (160, 192)
    pixel_mm: float = 1.3
    offset_mm: tuple[float, float] = (0.0, 0.0)
    sad_mm: float = 765.0
    sid_mm: float = 1200.0
    volume_shape: tuple[int, int, int] = (96, 96, 96)
    voxel_mm: float = 1.3
    vessels: str = "forking"
    inlets: int = 2
    smallest_radius_mm: float = 0.45
    veins: bool = True
    iodine_per_mm: float = 0.045
    pathologies: tuple[str, ...] = ()
    counts: float = np.inf

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.pathologies) - set(PATHOLOGIES)):
            raise ValueError(f"unknown pathologies {unknown}; there are {', '.join(PATHOLOGIES)}.")
        if self.vessels not in VESSELS:
            raise ValueError(f"vessels must be one of {', '.join(VESSELS)}, got {self.vessels!r}.")
        if self.frames < 2 or not self.duration_s > 0 or not self.counts > 0:
            raise ValueError(
                f"needed: 2 frames or more, a duration and counts above zero; got {self.frames} frames, "
                f"{self.duration_s:g} s, {self.counts:g} counts."
            )


class VesselFlowPhantom:
    """One phantom; everything follows from the seed.

    Args:
        seed: of tree, bolus, turn and noise.
        settings: of the scan.

    Example::

        >>> small = PhantomSettings(frames=12, size=(40, 40), pixel_mm=3, volume_shape=(32, 32, 32), voxel_mm=2)
        >>> VesselFlowPhantom(1, small).acquisition().projections.shape
        (12, 40, 40)
    """

    def __init__(self, seed: int = 0, settings: PhantomSettings | None = None) -> None:
        self.seed = seed
        self.settings = s = settings or PhantomSettings()
        rng = np.random.default_rng([seed, 11])
        self.bolus = _bolus(rng, s.vessels)
        self.tree = _grow(seed, s, self._reach_mm)
        self.times_s: Array = np.linspace(0, s.duration_s, s.frames)
        self.angles_rad = _turn(rng, s)

    # ---- truth ----

    @property
    def _reach_mm(self) -> Array:
        """Half axes of the ellipsoid that the tree stays in: within the volume, and in every picture."""
        s = self.settings
        half = 0.46 * s.voxel_mm * np.asarray(s.volume_shape)
        seen = 0.5 * s.pixel_mm * np.array(s.size[::-1]) * s.sad_mm / s.sid_mm  # across, along the axis
        free = 1 - half[:2].max() / s.sad_mm  # what is nearer to the source is enlarged more
        return np.minimum(half, 0.96 * free * np.array([seen[0], seen[0], seen[1]]))

    @cached_property
    def _cubes(self) -> tuple[Array, NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Of every cube that vessel reaches: centre [n, 3], coverage [n], node of the tree [n], voxel [n] (flat)."""
        s = self.settings
        return _fill(self.tree, s.volume_shape, s.voxel_mm)

    def _concentrations(self, time_s: float) -> Array:
        """[n] of the cubes."""
        nodes = self.bolus.concentration(time_s, self.tree.arrival_s, self.tree.smear_s)
        return nodes[self._cubes[2]]

    @cached_property
    def coverage(self) -> NDArray[np.float32]:
        """[nx, ny, nz] share of each voxel that is vessel."""
        return self._in_voxels(self._cubes[1])

    def _in_voxels(self, amounts: NDArray) -> NDArray[np.float32]:
        shape = self.settings.volume_shape
        total = np.bincount(self._cubes[3], amounts, minlength=int(np.prod(shape)))
        return (total / _CUBES**3).astype(np.float32).reshape(shape)

    def volume(self, time_s: float) -> NDArray[np.float32]:
        """[nx, ny, nz] attenuation of the agent at one time, 1/mm."""
        return self._in_voxels(self.settings.iodine_per_mm * self._cubes[1] * self._concentrations(time_s))

    def volumes(self, times_s: ArrayLike) -> NDArray[np.float32]:
        """[T, nx, ny, nz] attenuation at several times, 1/mm."""
        return np.stack([self.volume(float(t)) for t in np.atleast_1d(np.asarray(times_s, dtype=np.float64))])

    @cached_property
    def voxel_curves(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Flat indices [V] of the voxels with vessel, and their curves [T, V] at the frames' times."""
        inside = np.flatnonzero(self.coverage)
        return inside, np.stack([self.volume(float(t)).ravel()[inside] for t in self.times_s])

    @cached_property
    def mean_volume(self) -> NDArray[np.float32]:
        """[nx, ny, nz] mean over the frames' times, 1/mm."""
        return self._spread(self.voxel_curves[1].mean(0), 0.0)

    @cached_property
    def peak_volume(self) -> NDArray[np.float32]:
        """[nx, ny, nz] maximum over the frames' times, 1/mm."""
        return self._spread(self.voxel_curves[1].max(0), 0.0)

    @cached_property
    def arrival_s(self) -> NDArray[np.float32]:
        """[nx, ny, nz] when each voxel reaches half of its maximum within the scan; NaN where there is no vessel."""
        return self._spread(half_rise_time(self.voxel_curves[1], self.times_s), np.nan)

    def _spread(self, values: NDArray, elsewhere: float) -> NDArray[np.float32]:
        volume = np.full(int(np.prod(self.settings.volume_shape)), elsewhere, np.float32)
        volume[self.voxel_curves[0]] = values
        return volume.reshape(self.settings.volume_shape)

    # ---- measured ----

    @cached_property
    def geometry(self) -> ConeBeam:
        """Source and panel of all frames."""
        return self.geometry_at(self.angles_rad)

    def geometry_at(self, angles_rad: ArrayLike) -> ConeBeam:
        """Source and panel at any angles."""
        s = self.settings
        return circular_trajectory(angles_rad, s.sad_mm, s.sid_mm, s.size, (s.pixel_mm,) * 2, s.offset_mm)

    def projection(self, frame: int) -> NDArray[np.float32]:
        """[H, W] line integrals of the agent, free of noise."""
        centres, coverage, _, _ = self._cubes
        amount = coverage * self._concentrations(float(self.times_s[frame]))
        filled = amount > 1e-5
        return self._seen(centres[filled], amount[filled], frame)

    def _seen(self, centres: Array, amount: Array, frame: int) -> NDArray[np.float32]:
        s, geometry = self.settings, self.geometry
        edge = s.voxel_mm / _CUBES
        pixels, enlarged = geometry.project(centres, frame)
        # an oblique ray is longer within a slab, so that the same mass weighs more
        source = geometry.source_mm[frame]
        from_source = centres - source
        towards = geometry.panel_mm[frame] - source
        axis = np.cross(geometry.column_step_mm[frame], geometry.row_step_mm[frame])
        axis *= np.sign(axis @ towards) / np.linalg.norm(axis)
        oblique = np.linalg.norm(from_source, axis=1) / (from_source @ axis)
        mass = s.iodine_per_mm * amount * edge**3 * enlarged**2 * oblique / s.pixel_mm**2
        radius = (3 / (4 * np.pi)) ** (1 / 3) * edge * enlarged / s.pixel_mm
        return splat_discs(s.size, pixels, radius, mass).astype(np.float32)

    @cached_property
    def projections(self) -> NDArray[np.float32]:
        """[N, H, W] line integrals of the agent, free of noise."""
        return np.stack([self.projection(frame) for frame in range(self.settings.frames)])

    def exposures(self, mask_angles_rad: ArrayLike | None = None) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Mask and fill run as a detector of 16 bits has them, [M, H, W] and [N, H, W] intensities.

        Counts are scaled so that air is near the end of the detector's range.

        Args:
            mask_angles_rad: [M] where the mask run was taken; None: at the angles of the fill run.
        """
        rng = np.random.default_rng([self.seed, 12])
        mask_geometry = self.geometry if mask_angles_rad is None else self.geometry_at(mask_angles_rad)
        mask = np.stack([self._digitised(rng, self._background(mask_geometry, k)) for k in range(len(mask_geometry))])
        fill = np.stack(
            [self._digitised(rng, self._background(self.geometry, k) + p) for k, p in enumerate(self.projections)]
        )
        return mask, fill

    def _digitised(self, rng: np.random.Generator, attenuation: NDArray) -> NDArray[np.uint16]:
        counts = self.settings.counts
        air = (counts if np.isfinite(counts) else NOISE["moderate"]) * np.exp(_BEHIND)
        expected = air * np.exp(-attenuation)
        measured = rng.poisson(expected) if np.isfinite(counts) else expected
        return np.clip(np.rint(measured * (0.95 * 65535 / air)), 1, 65535).astype(np.uint16)

    def _background(self, geometry: ConeBeam, frame: int) -> Array:
        """[H, W] line integrals of the head."""
        half = 0.5 * self.settings.voxel_mm * np.asarray(self.settings.volume_shape)
        ray = geometry.pixels_mm(frame) - geometry.source_mm[frame]
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        total = np.zeros(geometry.shape)
        for share, attenuation in _HEAD:
            start, step = geometry.source_mm[frame] / (share * half), ray / (share * half)
            a, b, c = (step**2).sum(-1), step @ start, start @ start - 1  # where |start + l step| = 1
            total += attenuation / half.mean() * 2 * np.sqrt(np.maximum(b**2 - a * c, 0)) / a
        return total

    def acquisition(self) -> Acquisition:
        """What a reader of this scan would give: with noise, the two exposures subtracted; without, the truth."""
        if np.isfinite(self.settings.counts):
            return self._acquisition(*line_integrals(*self.exposures()))
        return self._acquisition(self.projections)

    @property
    def acquisition_geometry(self) -> Acquisition:
        """Views and volume of the scan, with the projections free of noise."""
        return self._acquisition(self.projections)

    def _acquisition(self, projections: NDArray[np.float32], weights: NDArray[np.float32] | None = None) -> Acquisition:
        s, geometry = self.settings, self.geometry
        return Acquisition(
            projections=projections,
            times_s=self.times_s,
            source_mm=geometry.source_mm,
            panel_mm=geometry.panel_mm,
            column_step_mm=geometry.column_step_mm,
            row_step_mm=geometry.row_step_mm,
            weights=weights,
            volume_shape=s.volume_shape,
            volume_spacing_mm=(s.voxel_mm,) * 3,
            notes=[f"simulated, seed {self.seed}"],
        )


def _bolus(rng: np.random.Generator, vessels: str) -> Bolus | ReturningBolus:
    if vessels == "colonised":
        return ReturningBolus(
            start_s=rng.uniform(0.1, 0.6),
            duration_s=rng.uniform(1.4, 2.6),
            time_constant_s=rng.uniform(0.3, 0.7),
            dispersion=rng.uniform(0.05, 0.15),
            heart_rate_hz=rng.uniform(0.9, 1.6),
        )
    return Bolus(
        start_s=rng.uniform(0.1, 0.5),
        duration_s=rng.uniform(1.5, 3.0),
        sharpness=rng.uniform(2.0, 3.0),
        time_constant_s=rng.uniform(0.1, 0.3),
        dispersion=rng.uniform(0.08, 0.2),
    )


def _turn(rng: np.random.Generator, s: PhantomSettings, ramp: float = 0.1) -> Array:
    """[N] radians: the arm speeds up, turns and slows down."""
    share = np.linspace(0, 1, s.frames)
    speed = np.minimum(1, np.minimum(share, 1 - share) / ramp * 0.7 + 0.3)
    way = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2)])
    start, sign = rng.uniform(-0.3, 0.3), rng.choice([-1, 1])
    return start + sign * np.deg2rad(s.arc_deg) * way / way[-1]


# ---- the tree ----


def _grow(seed: int, s: PhantomSettings, reach_mm: Array) -> VesselTree:
    """Arteries, veins and pathologies, all within the reach; each has its own chance, so that a switch changes no
    other part."""
    arteries = VesselTree.joined(
        [_artery(np.random.default_rng([seed, 13, k]), s, reach_mm, main=k == 0) for k in range(s.inlets)]
    )
    rngs = {name: np.random.default_rng([seed, 14, k]) for k, name in enumerate(("veins", *PATHOLOGIES))}
    outlet = reach_mm * [rngs["veins"].uniform(-0.2, 0.2), 0.75, -0.5]
    parts = [_stenosed(rngs["stenosis"], arteries) if "stenosis" in s.pathologies else arteries]
    if "aneurysm" in s.pathologies:
        parts.append(_aneurysm(rngs["aneurysm"], arteries))
    if "avm" in s.pathologies:
        parts.append(_nidus(rngs["avm"], arteries, outlet))
    if "fistula" in s.pathologies:
        parts.append(_fistula(rngs["fistula"], arteries, outlet))
    if s.veins:
        parts.append(_veins(rngs["veins"], s, arteries, outlet, reach_mm))
    tree = VesselTree.joined(parts)
    within = (np.abs(tree.position_mm) + tree.radius_mm[:, None] < reach_mm / 0.92).all(1)
    return VesselTree(**{name: value[within] for name, value in vars(tree).items()})


def _artery(rng: np.random.Generator, s: PhantomSettings, reach_mm: Array, main: bool) -> VesselTree:
    root = reach_mm * [rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), -0.9]
    heading = np.array([rng.normal(0, 0.3), rng.normal(0, 0.3), 1.0])
    radius = rng.uniform(1.8, 2.5) if main else rng.uniform(1.2, 2.0)
    if s.vessels == "colonised":
        tissue = _tissue(rng, int(rng.integers(22, 36) if main else rng.integers(8, 18)), reach_mm)
        return colonise(rng, root, heading, tissue, radius, rng.uniform(150, 300), 0.5 * float(reach_mm[2]))
    return grow_tree(
        rng, root, heading, radius, rng.uniform(200, 350), s.smallest_radius_mm, reach_mm[2] * rng.uniform(0.4, 0.8),
        rng.uniform(0.06, 0.12), tuple(0.9 * reach_mm), rng.uniform(14, 22),
    )  # fmt: skip


def _tissue(rng: np.random.Generator, count: int, reach_mm: Array) -> Array:
    """[count, 3] places within the reach, most of them far out as the cortex is."""
    way = rng.normal(size=(count, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    return 0.9 * reach_mm * way * rng.uniform(0.4, 1, (count, 1)) ** 0.5


def _veins(
    rng: np.random.Generator, s: PhantomSettings, arteries: VesselTree, outlet_mm: Array, reach_mm: Array
) -> VesselTree:
    """A tree that blood reaches from its tips, after the tissue."""
    transit = rng.uniform(1.2, 2.2)
    start = outlet_mm, np.array([0.0, rng.uniform(-0.4, 0), 1.0])
    radius, trunk = rng.uniform(1.6, 2.4), 0.4 * float(reach_mm[2])
    if s.vessels == "colonised":
        vein = colonise(rng, *start, _tissue(rng, int(rng.integers(12, 24)), reach_mm), radius, 120.0, trunk)
    else:
        vein = grow_tree(
            rng, *start, radius, 180.0, 1.3 * s.smallest_radius_mm, trunk, 0.08, tuple(0.9 * reach_mm),
            rng.uniform(12, 18),
        )  # fmt: skip
    first = float(np.median(arteries.arrival_s[arteries.tip])) + transit
    arrival = first + vein.arrival_s.max() - vein.arrival_s
    return replace(vein, arrival_s=arrival, smear_s=np.full(len(vein), 0.4 * transit))


def _place_on(rng: np.random.Generator, tree: VesselTree, low: float, high: float) -> int:
    """A node of middling calibre, within shares of the tree's radii from below."""
    order = np.argsort(tree.radius_mm)
    return int(order[int(rng.uniform(low, high) * (len(order) - 1))])


def _sac(position: Array, radius: float, tree: VesselTree, node: int, smear_s: float, delay_s: float) -> VesselTree:
    return VesselTree(
        position_mm=np.asarray(position)[None],
        radius_mm=np.array([radius]),
        length_mm=np.array([4 / 3 * radius]),  # so that radius and length make the volume of a ball
        flow_mm3_s=tree.flow_mm3_s[[node]],
        arrival_s=tree.arrival_s[[node]] + delay_s,
        path_mm=tree.path_mm[[node]],
        tip=np.array([False]),
        smear_s=np.array([smear_s]),
    )


def _aneurysm(rng: np.random.Generator, tree: VesselTree) -> VesselTree:
    """A sac of 2 to 5 mm radius on a large vessel; it takes in a tenth of the flow, so it fills and empties late."""
    node = _place_on(rng, tree, 0.8, 0.95)
    radius = rng.uniform(2, 5)
    side = rng.normal(size=3)
    side /= np.linalg.norm(side)
    mixing_s = 4 / 3 * np.pi * radius**3 / (0.1 * tree.flow_mm3_s[node])
    return _sac(tree.position_mm[node] + 0.9 * radius * side, radius, tree, node, min(mixing_s, 1.5) / 2, 0.05)


def _stenosed(rng: np.random.Generator, tree: VesselTree) -> VesselTree:
    """The tree with one narrow place: down to 0.3 to 0.6 of the radius, over some radii's length."""
    node = _place_on(rng, tree, 0.75, 0.9)
    away = np.linalg.norm(tree.position_mm - tree.position_mm[node], axis=1)
    same = np.isclose(tree.radius_mm, tree.radius_mm[node])
    narrow = 1 - (1 - rng.uniform(0.3, 0.6)) * np.exp(-0.5 * (away / (1.2 * tree.radius_mm[node])) ** 2)
    return replace(tree, radius_mm=np.where(same, tree.radius_mm * narrow, tree.radius_mm))


def _drain(
    rng: np.random.Generator, start: Array, end: Array, radius_mm: float, arrival_s: float, speed_mm_s: float
) -> VesselTree:
    """A bent vein from one place to another."""
    way = np.linspace(0, 1, max(8, int(np.linalg.norm(end - start) / 0.4)))[:, None]
    bow = rng.normal(0, 0.15, 3) * np.linalg.norm(end - start)
    position = start + (end - start) * way + bow * np.sin(np.pi * way)
    step = np.linalg.norm(np.diff(position, axis=0, prepend=position[:1]), axis=1)
    path = np.cumsum(step)
    n = len(position)
    return VesselTree(
        position, np.full(n, radius_mm), np.maximum(step, 1e-6), np.full(n, np.pi * radius_mm**2 * speed_mm_s),
        arrival_s + path / speed_mm_s, path, np.zeros(n, bool), np.full(n, 0.1),
    )  # fmt: skip


def _nidus(rng: np.random.Generator, tree: VesselTree, outlet_mm: Array) -> VesselTree:
    """A tangle of short cuts on a branch, 4 to 8 mm in radius, and the early vein that drains it."""
    node = _place_on(rng, tree, 0.3, 0.6)
    size, thick = rng.uniform(4, 8), 0.6
    centre = tree.position_mm[node]
    position = np.zeros((400, 3))
    head = rng.normal(size=3)
    for k in range(1, len(position)):
        head = 0.8 * head + 0.6 * rng.normal(size=3) - 0.3 * position[k - 1] / size
        position[k] = position[k - 1] + 0.4 * head / np.linalg.norm(head)
    position *= min(1, size / np.linalg.norm(position, axis=1).max())
    n = len(position)
    since = tree.arrival_s[node] + 0.25 * np.arange(n) / n
    tangle = VesselTree(
        centre + position, np.full(n, thick), np.full(n, 0.4), np.full(n, 4 * tree.flow_mm3_s[node]), since,
        np.zeros(n), np.zeros(n, bool), np.full(n, 0.05),
    )  # fmt: skip
    vein = _drain(rng, centre + position[-1], outlet_mm, rng.uniform(1.2, 1.8), float(since[-1]), 150.0)
    return VesselTree.joined([tangle, vein])


def _fistula(rng: np.random.Generator, tree: VesselTree, outlet_mm: Array) -> VesselTree:
    """A vein that an artery opens into directly: it fills early."""
    node = _place_on(rng, tree, 0.6, 0.8)
    radius = float(np.clip(1.3 * tree.radius_mm[node], 1.0, 2.0))
    return _drain(rng, tree.position_mm[node], outlet_mm, radius, float(tree.arrival_s[node]), 200.0)


# ---- from tree to cubes ----


def _fill(
    tree: VesselTree, shape: Sequence[int], voxel_mm: float
) -> tuple[Array, NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Cubes that the balls around the nodes reach: see :attr:`VesselFlowPhantom._cubes`.

    The balls lie a quarter of a radius apart, so that they make tubes; a cube takes the largest coverage and its node.
    Vessels thinner than a cube are as wide as one, with their cross-section kept.
    """
    edge = voxel_mm / _CUBES
    fine = np.asarray(shape) * _CUBES
    position = tree.position_mm / edge + (fine - 1) / 2  # in cubes
    radius = tree.radius_mm / edge
    wide = np.maximum(radius, 0.5)
    half = np.ceil(wide + 0.5).astype(int)
    found: list[tuple[NDArray, NDArray, NDArray]] = []
    for k in np.unique(half):
        offset = np.stack(np.meshgrid(*[np.arange(-k, k + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
        offset = offset[np.linalg.norm(offset, axis=1) < k + 1]
        members = np.flatnonzero(half == k)
        for part in np.array_split(members, max(1, len(members) * len(offset) // (64 * _NODES_AT_ONCE))):
            nearest = np.rint(position[part]).astype(np.int64)
            cell = nearest[:, None] + offset  # [m, o, 3]
            distance = np.linalg.norm(cell - position[part, None], axis=-1)
            cover = np.clip(wide[part, None] + 0.5 - distance, 0, 1) * ((radius / wide)[part, None] ** 2)
            there = (cover > 1e-3) & ((cell >= 0) & (cell < fine)).all(-1)
            flat = np.ravel_multi_index(tuple(cell[there].T), tuple(fine))
            found.append((flat, cover[there].astype(np.float32), np.repeat(part, there.sum(1))))
    flat, cover, node = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((cover, flat))
    last = order[np.flatnonzero(np.diff(flat[order], append=-1))]  # of each cube the largest coverage
    flat, cover, node = flat[last], cover[last], node[last]
    cell = np.stack(np.unravel_index(flat, tuple(fine)), -1)
    voxel = np.ravel_multi_index(tuple((cell // _CUBES).T), tuple(shape))
    return (cell - (fine - 1) / 2) * edge, cover, node, voxel
