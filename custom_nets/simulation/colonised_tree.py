"""Vessels of another kind than :mod:`custom_nets.simulation.vessel_tree`, for methods that were settled on those.

A tree grows towards tissue that lacks blood (space colonisation) until all of it has some. Calibres follow from how
many ends a vessel feeds, speed from the calibre. The agent leaves an injection pump's box through a mixing chamber (an
exponential), swings with the heart beat, and comes back diluted after a turn through the body.

Reference: Runions A, Lane B, Prusinkiewicz P, Modeling trees with a space colonization algorithm, Eurographics Workshop
on Natural Phenomena, 2007.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from custom_nets.simulation.vessel_tree import VesselTree

__all__ = ["ReturningBolus", "colonise"]

Array = NDArray[np.float64]

_STEP_MM = 1.5
_REACHED_MM = 5.0  # of a place of tissue: it has blood
_WANDER = 0.35  # of a step, sidewards
_MOST_STEPS = 500
_SWING = 0.1  # of the concentration, with the heart beat
_BACK_S, _BACK_SHARE = 4.0, 0.08  # recirculation


@dataclass(frozen=True)
class ReturningBolus:
    """Contrast agent at the inlet; has the ``concentration`` of :class:`custom_nets.simulation.vessel_tree.Bolus`.

    Args:
        start_s: when the injection reaches the inlet of the tree.
        duration_s: of the injection.
        time_constant_s: of the exponential that smears it at the inlet.
        dispersion: growth of the time constant per second of travel.
        heart_rate_hz: of the heart.
    """

    start_s: float = 0.3
    duration_s: float = 1.8
    time_constant_s: float = 0.5
    dispersion: float = 0.1
    heart_rate_hz: float = 1.2

    def concentration(self, time_s: float, arrival_s: Array, smear_s: Array | float = 0.0) -> Array:
        """Concentration relative to the undiluted agent at nodes that blood reaches ``arrival_s`` after the inlet."""
        since = time_s - self.start_s - arrival_s
        scale = self.time_constant_s + self.dispersion * arrival_s + smear_s
        swing = 1 + _SWING * np.sin(2 * np.pi * self.heart_rate_hz * since)
        return (1 - _BACK_SHARE) * self._passed(since, scale) * swing + _BACK_SHARE * self._passed(
            since - _BACK_S, 3 * scale
        )

    def _passed(self, since_s: Array, scale_s: Array | float) -> Array:
        rise, fall = (1 - np.exp(-np.maximum(t, 0) / scale_s) for t in (since_s, since_s - self.duration_s))
        return rise - fall


def colonise(
    rng: np.random.Generator,
    root_mm: Array,
    direction: Array,
    tissue_mm: Array,
    radius_mm: float,
    speed_mm_s: float,
    trunk_mm: float,
    law: float = 2.6,
    slowing: float = 0.7,
) -> VesselTree:
    """Grow one tree from its root to the tissue.

    Args:
        rng: source of all randomness.
        root_mm: [3] where it starts.
        direction: [3] where its trunk heads.
        tissue_mm: [n, 3] places that need blood.
        radius_mm: at the root.
        speed_mm_s: mean speed of blood at the root.
        trunk_mm: length before tissue draws on it.
        law: radius to this power is shared between daughters.
        slowing: speed goes with the radius to this power.
    """
    place, parent = _grown(rng, root_mm, direction, tissue_mm, trunk_mm)
    count = len(place)
    children = np.bincount(parent[1:], minlength=count)
    for _ in range(3):  # no corners
        after = np.zeros_like(place)
        np.add.at(after, parent[1:], place[1:])
        inner = children > 0
        inner[0] = False
        smooth = 0.5 * place + 0.25 * place[parent] + 0.25 * after / np.maximum(children, 1)[:, None]
        place = np.where(inner[:, None], smooth, place)
    ends = (children == 0).astype(np.float64)  # that each node feeds
    for node in range(count - 1, 0, -1):  # a parent comes before its children
        ends[parent[node]] += ends[node]
    share = ends / ends[0]
    radius = radius_mm * share ** (1 / law)
    speed = speed_mm_s * share ** (slowing / law)
    length = np.linalg.norm(place - place[parent], axis=1)
    path, arrival = np.zeros(count), np.zeros(count)
    for node in range(1, count):
        path[node] = path[parent[node]] + length[node]
        arrival[node] = arrival[parent[node]] + length[node] / speed[node]
    pieces = 8  # of each step
    edges = np.arange(1, count)
    at = np.tile((np.arange(pieces) + 0.5) / pieces, count - 1)
    child = np.repeat(edges, pieces)
    before = parent[child]

    def along(values: Array) -> Array:
        share_after = at.reshape(-1, *[1] * (values.ndim - 1))
        return (1 - share_after) * values[before] + share_after * values[child]

    # a thin branch leaves the middle of a thick trunk: it has its own calibre from there
    own = radius[child]
    return VesselTree(
        position_mm=along(place),
        radius_mm=np.where(children[before] > 1, own, along(radius)),
        length_mm=length[child] / pieces,
        flow_mm3_s=np.pi * own**2 * speed[child],
        arrival_s=along(arrival),
        path_mm=along(path),
        tip=(children[child] == 0) & (at > 1 - 1 / pieces),
    )


def _grown(
    rng: np.random.Generator, root_mm: Array, direction: Array, tissue_mm: Array, trunk_mm: float
) -> tuple[Array, NDArray[np.int64]]:
    """Places [n, 3] and parents [n] of the nodes; the root is its own parent."""
    heading = np.asarray(direction, float) / np.linalg.norm(direction)
    place = [np.asarray(root_mm, float)]
    while len(place) * _STEP_MM < trunk_mm:
        heading = heading + 0.1 * rng.normal(size=3)
        heading /= np.linalg.norm(heading)
        place.append(place[-1] + _STEP_MM * heading)
    parent = [max(0, k - 1) for k in range(len(place))]
    ends = [len(place) - 1]  # the trunk does not branch before its end
    grown = np.array(place)
    waiting = np.asarray(tissue_mm, float)
    able = np.zeros(len(grown), bool)
    able[ends] = True
    parents = np.array(parent)
    for _ in range(_MOST_STEPS):
        if not len(waiting):
            break
        nodes = np.flatnonzero(able)
        apart = np.linalg.norm(waiting[:, None] - grown[nodes], axis=-1)  # [waiting, nodes]
        nearest = nodes[apart.argmin(1)]
        new, of = [], []
        for node in np.unique(nearest):
            towards = waiting[nearest == node] - grown[node]
            towards /= np.linalg.norm(towards, axis=1, keepdims=True)
            pull = towards.mean(0)
            if np.linalg.norm(pull) < 0.5:  # drawn to and fro, it would not get anywhere
                pull = towards[0]
            pull = pull / np.linalg.norm(pull) + _WANDER * rng.normal(size=3)
            new.append(grown[node] + _STEP_MM * pull / max(np.linalg.norm(pull), 1e-9))
            of.append(node)
        grown, parents = np.concatenate([grown, new]), np.concatenate([parents, of])
        able = np.concatenate([able, np.ones(len(new), bool)])
        reached = np.linalg.norm(waiting[:, None] - np.array(new), axis=-1).min(1) < _REACHED_MM
        waiting = waiting[~reached]
    return grown, parents
