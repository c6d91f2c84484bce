"""Branching vessel trees in 3D and the bolus of contrast agent that flows through them.

A tree is a cloud of *nodes*, short pieces of tube along the centrelines. Calibres follow Murray's law
(``r^3 = r1^3 + r2^3``), flow is divided at forks in the same proportions, so the mean speed falls with the radius, and
the arrival time of a node is the time that blood takes along its path. Arteries end in a blush of tissue, from which a
second tree, grown from its outlet, drains.

References: Murray CD, The physiological principle of minimum work, PNAS 12, 1926; Thompson HK et al., Indicator transit
time considered as a gamma variate, Circulation Research 14, 1964.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bolus", "VesselTree", "fork", "grow_tree", "grow_vasculature"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bolus:
    """Contrast agent at the inlet: a box injection smeared by a gamma variate that widens along the way.

    Args:
        start_s: when the injection reaches the inlet of the tree.
        duration_s: of the injection.
        sharpness: shape parameter of the gamma variate (1 is an exponential).
        time_constant_s: its scale at the inlet; the delay that it causes is ``sharpness * time_constant_s``.
        dispersion: growth of the scale per second of travel.
        pulsation: share by which the concentration swings with the heart beat.
        heart_rate_hz: of that swing.
    """

    start_s: float = 0.5
    duration_s: float = 2.5
    sharpness: float = 2.0
    time_constant_s: float = 0.25
    dispersion: float = 0.12
    pulsation: float = 0.0
    heart_rate_hz: float = 1.1

    def concentration(self, time_s: float, arrival_s: Array, smear_s: Array | float = 0.0) -> Array:
        """Concentration relative to the undiluted agent at nodes that blood reaches ``arrival_s`` after the inlet.

        Its integral over time is ``duration_s`` at every node, whatever the dispersion: no agent is lost on the way.

        Args:
            time_s: time since the start of the run.
            arrival_s: [n].
            smear_s: [n] added to the time constant (tissue and veins).
        """
        from scipy.special import gammainc

        scale = self.time_constant_s + self.dispersion * arrival_s + smear_s
        since = time_s - self.start_s - arrival_s
        rise = gammainc(self.sharpness, np.maximum(since, 0) / scale)
        fall = gammainc(self.sharpness, np.maximum(since - self.duration_s, 0) / scale)
        swing: Array | float = 1.0
        if self.pulsation:
            swing = 1 + self.pulsation * np.sin(2 * np.pi * self.heart_rate_hz * since)
        return (rise - fall) * swing


@dataclass(frozen=True)
class VesselTree:
    """Nodes of a tree; all arrays have one entry per node.

    Args:
        position_mm: [n, 3], x to the patient's left, y to the back, z to the head.
        radius_mm: [n].
        length_mm: [n] of the piece of centreline that the node stands for.
        flow_mm3_s: [n].
        arrival_s: [n] travel time from the inlet.
        path_mm: [n] length of the way from the inlet.
        tip: [n] whether the tree ends here.
        smear_s: [n] see :meth:`Bolus.concentration`.
    """

    position_mm: Array
    radius_mm: Array
    length_mm: Array
    flow_mm3_s: Array
    arrival_s: Array
    path_mm: Array
    tip: NDArray[np.bool_]
    smear_s: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if len(self.smear_s) != len(self.radius_mm):
            object.__setattr__(self, "smear_s", np.zeros(len(self.radius_mm)))

    def __len__(self) -> int:
        return len(self.radius_mm)

    @property
    def volume_mm3(self) -> Array:
        """[n] of the blood that each node stands for."""
        return np.pi * self.radius_mm**2 * self.length_mm

    @staticmethod
    def joined(trees: list[VesselTree]) -> VesselTree:
        return VesselTree(**{f.name: np.concatenate([getattr(t, f.name) for t in trees]) for f in fields(VesselTree)})


def fork(radius_mm: Array, share: Array) -> tuple[Array, Array, Array, Array]:
    """Daughters of a fork after Murray.

    Args:
        radius_mm: [n] of the parents.
        share: [n] of the flow that the first daughter takes.

    Returns:
        Radii of both daughters in mm, and their angles to the parent in radians (minimum work).
    """
    r1, r2 = radius_mm * np.cbrt(share), radius_mm * np.cbrt(1 - share)
    cos1 = (radius_mm**4 + r1**4 - r2**4) / (2 * radius_mm**2 * r1**2)
    cos2 = (radius_mm**4 + r2**4 - r1**4) / (2 * radius_mm**2 * r2**2)
    return r1, r2, np.arccos(np.clip(cos1, -1, 1)), np.arccos(np.clip(cos2, -1, 1))


def _unit(v: Array) -> Array:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)


@dataclass
class _Tips:
    """The growing ends of a tree; all arrays have one entry per end."""

    position_mm: Array  # [n, 3]
    heading: Array  # [n, 3], unit vectors
    turn: Array  # [n, 3], rate of turn, in radians per step about an axis
    radius_mm: Array  # [n]
    flow_mm3_s: Array  # [n]
    remaining_mm: Array  # [n], way to the next fork
    arrival_s: Array  # [n]
    path_mm: Array  # [n]

    def __len__(self) -> int:
        return len(self.radius_mm)

    def chosen(self, which: NDArray[np.bool_]) -> _Tips:
        return _Tips(**{f.name: getattr(self, f.name)[which] for f in fields(_Tips)})

    @staticmethod
    def joined(parts: list[_Tips]) -> _Tips:
        return _Tips(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(_Tips)})

    def advance(self, rng: np.random.Generator, step_mm: Array, tortuosity: float, axes_mm: Array) -> None:
        """Go ``step_mm`` [n]: wander smoothly, and bend back inside of the ellipsoid with half axes ``axes_mm`` [3]."""
        # the rate of turn is itself a random walk with a pull to zero; thin vessels wind more
        jolt = rng.normal(0, 1, self.turn.shape) * (tortuosity * 0.25 * np.sqrt(step_mm))[:, None]
        self.turn = 0.9 * self.turn + jolt
        outside = np.linalg.norm(self.position_mm / axes_mm, axis=1)
        inward = -_unit(self.position_mm) * (0.25 * np.clip(outside - 0.85, 0, 0.6))[:, None] * step_mm[:, None]
        self.heading = _unit(self.heading + np.cross(self.turn, self.heading) + inward)
        self.position_mm = self.position_mm + self.heading * step_mm[:, None]
        self.remaining_mm = self.remaining_mm - step_mm

    def flow_on(self, way_mm: Array) -> None:
        """Let blood go ``way_mm`` [n] further."""
        self.arrival_s = self.arrival_s + way_mm * np.pi * self.radius_mm**2 / self.flow_mm3_s
        self.path_mm = self.path_mm + way_mm

    def forked(self, rng: np.random.Generator, tortuosity: float, length_factor: float) -> _Tips:
        """Both daughters of each end: all first ones, then all second ones."""
        n = len(self)
        share = rng.uniform(0.5, 0.85, n)
        r1, r2, angle1, angle2 = fork(self.radius_mm, share)
        axis = _unit(np.cross(self.heading, rng.normal(size=(n, 3))))
        side = np.cross(axis, self.heading)
        daughters = [
            replace(
                self,
                heading=_unit(np.cos(angle)[:, None] * self.heading + sign * np.sin(angle)[:, None] * side),
                radius_mm=radius,
                flow_mm3_s=self.flow_mm3_s * part,
                remaining_mm=length_factor * radius * rng.lognormal(0, 0.35, n),
            )
            for radius, angle, part, sign in ((r1, angle1, share, 1), (r2, angle2, 1 - share, -1))
        ]
        return replace(_Tips.joined(daughters), turn=rng.normal(0, tortuosity / 4, (2 * n, 3)))


def grow_tree(
    rng: np.random.Generator,
    root_mm: Array,
    direction: Array,
    radius_mm: float,
    speed_mm_s: float = 300.0,
    smallest_radius_mm: float = 0.3,
    trunk_mm: float = 60.0,
    tortuosity: float = 0.12,
    bounds_mm: tuple[float, float, float] = (68.0, 88.0, 78.0),
    length_factor: float = 14.0,
) -> VesselTree:
    """Grow one tree; all its tips advance together, a step at a time.

    Args:
        rng: source of all randomness.
        root_mm: [3] where it starts.
        direction: [3] where it heads.
        radius_mm: at the root.
        speed_mm_s: mean speed of blood at the root.
        smallest_radius_mm: tips end below it.
        trunk_mm: length before the first fork.
        tortuosity: how much the direction turns per step.
        bounds_mm: half axes of the ellipsoid, centred at the origin, that the tree bends back into.
        length_factor: mean length of a segment over its radius.
    """
    tips = _Tips(
        position_mm=np.asarray(root_mm, float)[None],
        heading=_unit(np.asarray(direction, float)[None]),
        turn=rng.normal(0, tortuosity / 4, (1, 3)),
        radius_mm=np.array([radius_mm]),
        flow_mm3_s=np.array([np.pi * radius_mm**2 * speed_mm_s]),
        remaining_mm=np.array([trunk_mm]),
        arrival_s=np.zeros(1),
        path_mm=np.zeros(1),
    )
    pieces: list[VesselTree] = []
    for _ in range(4000):
        if not len(tips):
            break
        step = np.clip(0.25 * tips.radius_mm, 0.15, 0.5)
        tips.advance(rng, step, tortuosity, np.asarray(bounds_mm))
        at_end = tips.remaining_mm <= 0
        thin = tips.radius_mm * np.cbrt(0.5) < smallest_radius_mm
        tips.flow_on(0.5 * step)  # a node stands for the middle of its step
        pieces.append(
            VesselTree(
                position_mm=tips.position_mm,
                radius_mm=tips.radius_mm,
                length_mm=step,
                flow_mm3_s=tips.flow_mm3_s,
                arrival_s=tips.arrival_s,
                path_mm=tips.path_mm,
                tip=at_end & thin,
            )
        )
        tips.flow_on(0.5 * step)
        parents = tips.chosen(at_end & ~thin)
        tips = tips.chosen(~at_end)
        if len(parents):
            tips = _Tips.joined([tips, parents.forked(rng, tortuosity, length_factor)])
    return VesselTree.joined(pieces)


def grow_vasculature(
    rng: np.random.Generator,
    inlets: int = 2,
    smallest_radius_mm: float = 0.28,
    tissue_transit_s: float = 2.5,
    speed_mm_s: float = 280.0,
    reach: float = 1.0,
) -> tuple[VesselTree, VesselTree, VesselTree]:
    """Arteries, tissue and veins of one injection.

    Args:
        rng: source of all randomness.
        inlets: number of arterial trees (1 to 4); the first is the largest and heads for the brain.
        smallest_radius_mm: of the arteries that are drawn.
        tissue_transit_s: mean time in the tissue.
        speed_mm_s: mean speed of blood at the inlets.
        reach: what the arteries' segments are longer by: 1 to 2, where branches fill the head.

    Returns:
        The trees; "radius" of a tissue node is that of its blush, its "length" makes volume = flow x transit time.
    """
    neck = np.array([rng.uniform(-15, 15), rng.uniform(-5, 20), -105.0])
    trees = []
    for k in range(inlets):
        radius = rng.uniform(1.7, 2.6) if k == 0 else rng.uniform(0.8, 1.8)
        root = neck + rng.normal(0, 5, 3) * (k > 0)
        heading = _unit(np.array([rng.normal(0, 0.15), rng.normal(0, 0.2 + 0.5 * (k > 0)), 1.0]))
        trunk = rng.uniform(70, 125) if k == 0 else rng.uniform(15, 70)
        tortuosity = rng.uniform(0.08, 0.2)
        factor = reach * rng.uniform(16, 34)
        trees.append(
            grow_tree(
                rng, root, heading, radius, speed_mm_s, smallest_radius_mm, trunk, tortuosity, length_factor=factor
            )
        )
    arteries = VesselTree.joined(trees)

    ends = np.flatnonzero(arteries.tip)
    clouds = 5
    index = np.repeat(ends, clouds)
    n = len(index)
    transit = tissue_transit_s * rng.lognormal(0, 0.15, n)
    blush = rng.uniform(3, 8, n)
    flow = arteries.flow_mm3_s[index] / clouds
    tissue = VesselTree(
        position_mm=arteries.position_mm[index] + rng.normal(0, 5, (n, 3)),
        radius_mm=blush,
        length_mm=flow * transit / (np.pi * blush**2),
        flow_mm3_s=flow,
        arrival_s=arteries.arrival_s[index],
        path_mm=arteries.path_mm[index],
        tip=np.zeros(n, bool),
        smear_s=transit / 2,
    )

    outlet = np.array([rng.uniform(-20, 20), rng.uniform(55, 80), rng.uniform(-60, -20)])
    heading = _unit(np.array([0.0, rng.uniform(-0.3, 0.3), 1.0]))
    vein = grow_tree(
        *(rng, outlet, heading, rng.uniform(2.0, 3.2), 0.5 * speed_mm_s, 1.4 * smallest_radius_mm),
        *(rng.uniform(20, 60), rng.uniform(0.06, 0.15)),
        length_factor=rng.uniform(14, 22),
    )
    vein = replace(vein, flow_mm3_s=vein.flow_mm3_s * (arteries.flow_mm3_s[ends].sum() / vein.flow_mm3_s[0]))
    # blood runs towards the root: what is far up the tree was reached first
    first = float(np.median(arteries.arrival_s[ends])) + tissue_transit_s
    veins = replace(
        vein,
        arrival_s=first + vein.arrival_s.max() - vein.arrival_s,
        smear_s=np.full(len(vein), 0.4 * tissue_transit_s),
    )
    return arteries, tissue, veins
