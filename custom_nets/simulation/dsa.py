"""Simulated DSA runs whose truth is known at every moment.

A head of ellipsoids and bones and a tree of vessels (:mod:`custom_nets.simulation.vessel_tree`) are seen by a C-arm
(:mod:`custom_nets.geometry.cone_beam`), standing or turning. The picture of iodine is its line integral,

    subtracted(t) = ln I_mask - ln I_fill = vessels(t) + background(t) - background(mask)

so what the head moves between mask and fill stays behind as the bright and dark edges that real runs have. Noise is
that of two Poisson exposures: the mask's is the same in all frames of a standing run. Everything follows from the seed.

    python -m custom_nets.apps.simulate_run RUN.dcm --seed 3 --kind rotational
    python -m custom_nets.apps.simulate_run RUN.dcm --frames 30 --fps 4 2 1 --size 1024 --bits 14 --collimation 0.05

(:mod:`custom_nets.simulation.acquisition` makes runs of grey values of it.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from custom_nets.geometry.cone_beam import CArm, rotation_matrix
from custom_nets.simulation.splat import splat_discs
from custom_nets.simulation.vessel_tree import Bolus, VesselTree, grow_vasculature

__all__ = ["MOTION_KINDS", "DSASettings", "DSASimulator"]

Picture = NDArray[np.float32]
Kind = Literal["fixed", "rotational"]

MOTION_KINDS = ("crossing", "moving", "contrast", "quiet")

_SKULL_MM = (75.0, 95.0, 85.0)  # outer half axes of the skull


@dataclass(frozen=True)
class DSASettings:
    """One acquisition.

    Args:
        shape: [H, W] of a frame.
        pixel_mm: size of a pixel at the isocentre.
        centre_mm: where the picture's centre looks at the isocentre plane (right, up).
        view_deg: 0 frontal, 90 lateral; of the first frame.
        rotation_deg_s: speed of the C-arm, 0 for a standing one.
        iodine_per_mm: attenuation of undiluted contrast agent in blood, 1/mm.
        photons: per pixel in air and exposure; infinite for none of the noise.
        mask_exposures: averaged for the mask.
        blur_px: standard deviation of the detector's blur, which correlates the noise.
        pulse_mm: how far large vessels move with the heart beat.
        breathing_mm, drift_mm, jerk_mm: motion of the head: periodic, slow, and at one moment.
        jaw_mm: how far the lower jaw goes when the patient swallows; it comes back within a frame or a few.
        off_axis_mm: where the head's centre is, seen from the axis that the C-arm turns about (x, y).
        mask_angle_deg: how far the angles of mask and fill differ, at most, when the C-arm turns: bone edges stay.
        collimation: share of the picture behind the shutters on each side (top, bottom, left, right).
        tissue: strength of the tissue's blush, 1 keeps the mass of iodine.
        bolus: of contrast agent.
    """

    shape: tuple[int, int] = (512, 512)
    pixel_mm: float = 0.45
    centre_mm: tuple[float, float] = (0.0, -10.0)
    view_deg: float = 90.0
    rotation_deg_s: float = 0.0
    iodine_per_mm: float = 0.035
    photons: float = 60000.0
    mask_exposures: int = 1
    blur_px: float = 0.5
    pulse_mm: float = 0.4
    breathing_mm: float = 0.1
    drift_mm: float = 0.3
    jerk_mm: float = 0.0
    jaw_mm: float = 0.0
    off_axis_mm: tuple[float, float] = (0.0, 0.0)
    mask_angle_deg: float = 0.0
    collimation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    tissue: float = 1.0
    bolus: Bolus = Bolus()

    @staticmethod
    def random(seed: int, kind: Kind = "fixed", shape: tuple[int, int] = (512, 512)) -> DSASettings:
        """Settings as they occur in the angiography suite; ``kind`` is "fixed" or "rotational"."""
        if kind not in ("fixed", "rotational"):
            raise ValueError(f"kind must be 'fixed' or 'rotational', got {kind!r}.")
        rng = np.random.default_rng([seed, 1])
        still = rng.random() < 0.3
        turning = kind == "rotational"
        pixel = 512 / min(shape) * rng.uniform(0.2, 0.4 if turning else 0.5)
        calm = 0.4 if turning else 1.0  # mask and fill of a turn are few seconds apart
        free = max(0.0, 110 - 0.5 * pixel * min(shape))
        return DSASettings(
            shape=shape,
            pixel_mm=pixel,
            centre_mm=(rng.uniform(-0.6, 0.6) * free, rng.uniform(-1, 0.6) * free - 10),
            view_deg=float(rng.choice([0, 90, -90])) + rng.normal(0, 15),
            rotation_deg_s=float(rng.choice([-1, 1]) * rng.uniform(18, 50)) if turning else 0.0,
            iodine_per_mm=rng.uniform(0.02, 0.05),
            # a turn is exposed at the dose of pictures that are reconstructed: 0.004 to 0.02 of the display's range
            photons=float(np.exp(rng.uniform(*np.log((3e5, 4e6) if turning else (1.5e4, 3e5))))),
            mask_exposures=int(rng.choice([1, 1, 1, 2, 4])),
            blur_px=rng.uniform(0.3, 0.9),
            pulse_mm=1.0 * rng.random() ** 1.5,
            breathing_mm=0.0 if still else calm * 0.4 * rng.random() ** 2,
            drift_mm=0.0 if still else calm * 1.2 * rng.random() ** 2,
            jerk_mm=calm * rng.uniform(0.2, 1.5) if not still and rng.random() < 0.3 else 0.0,
            collimation=(0.0, 0.0, 0.0, 0.0),
            tissue=rng.uniform(0.3, 1.0),
            bolus=Bolus(
                start_s=rng.uniform(0.2, 0.8),
                # a turn is exposed while the vessels stay full
                duration_s=rng.uniform(3.0, 7.0) if turning else rng.uniform(1.2, 4.0),
                sharpness=rng.uniform(1.5, 3.0),
                time_constant_s=rng.uniform(0.08, 0.4),
                dispersion=rng.uniform(0.05, 0.2),
                pulsation=rng.uniform(0, 0.3),
                heart_rate_hz=rng.uniform(0.9, 1.6),
            ),
            jaw_mm=rng.uniform(0.3, 3.0) if not still and rng.random() < 0.5 else 0.0,
            off_axis_mm=(rng.normal(0, 25), rng.normal(0, 15)) if turning else (0.0, 0.0),
            mask_angle_deg=0.15 * rng.random() if turning else 0.0,
        )


class DSASimulator:
    """One patient, one injection, one acquisition.

    Args:
        seed: of anatomy, motion and noise.
        settings: of the acquisition; ``DSASettings.random(seed)`` where not given.

    Example::

        >>> DSASimulator(seed=1).vessels(2.0).shape
        (512, 512)
    """

    def __init__(self, seed: int = 0, settings: DSASettings | None = None) -> None:
        self.seed = seed
        self.settings = s = DSASettings.random(seed) if settings is None else settings
        self.carm = CArm(shape=s.shape, pixel_mm=s.pixel_mm, centre_mm=s.centre_mm)
        rng = np.random.default_rng([seed, 2])
        self.arteries, self.tissue, self.veins = grow_vasculature(
            rng,
            inlets=int(rng.integers(2, 5) if s.rotation_deg_s else rng.integers(1, 4)),
            smallest_radius_mm=max(0.22, 0.55 * s.pixel_mm),
            tissue_transit_s=rng.uniform(1.5, 3.0),
            speed_mm_s=rng.uniform(130, 380),
            reach=rng.uniform(1.3, 2.0) if s.rotation_deg_s else 1.0,
        )
        self._bones = _bones(rng)
        self._jaw = _jaw(self._bones[0])
        self._motion = _Motion(np.random.default_rng([seed, 3]), s)
        # smooth field of unit size: which way a place moves with the pulse
        self._sway = rng.normal(0, 1 / 35, (6, 3)), rng.uniform(0, 2 * np.pi, 6), rng.normal(0, 0.7, (6, 3))

    # ---- truth ----

    def angle_deg(self, time_s: float) -> float:
        """Where the C-arm stands."""
        return self.settings.view_deg + self.settings.rotation_deg_s * time_s

    def vessels(self, time_s: float) -> Picture:
        """Line integral of the iodine's attenuation, [H, W], no unit, zero or more."""
        s = self.settings
        picture = self._tubes(self.arteries, time_s) + self._tubes(self.veins, time_s)
        if s.tissue > 0:
            picture += s.tissue * self._blush(time_s)
        return (s.iodine_per_mm * picture).astype(np.float32)

    def background(self, time_s: float, moved: bool = True) -> Picture:
        """Line integral of the head without iodine, [H, W]; ``moved=False``: as in the mask run at this angle."""
        from scipy.ndimage import gaussian_filter

        pose = self._motion.pose(time_s) if moved else self._motion.pose(0.0)
        angle = self.angle_deg(time_s) + (0.0 if moved else self._motion.mask_angle_deg(time_s))
        bones_mm = self._bones[0] + (self._motion.jaw_mm(time_s) if moved else 0.0) * self._jaw
        uv, magnification = self.carm.project(_place(bones_mm, pose), angle)
        scale = magnification / self.carm.pixel_mm
        bones = splat_discs(self.carm.shape, uv, self._bones[1] * scale, self._bones[2] * scale**2)
        total = np.maximum(bones + self._ellipsoids(pose, angle), 0)
        return gaussian_filter(total.astype(np.float32), 0.8)  # bone has no edge as sharp as a pixel

    def subtracted(self, time_s: float) -> Picture:
        """ln(mask) - ln(fill) without noise, [H, W]: vessels, and what the head's motion leaves of the background."""
        vessels = self.vessels(time_s)
        if self._motion.still and not self.settings.mask_angle_deg:
            return vessels
        return vessels + self.background(time_s) - self._mask_background(time_s)

    def _mask_background(self, time_s: float) -> Picture:
        return self.background(time_s, moved=False) if self.settings.rotation_deg_s else self._standing_mask

    @cached_property
    def _standing_mask(self) -> Picture:
        return self.background(0.0, moved=False)

    def motion_kinds(
        self, first_s: float, time_s: float, last_s: float, moves_px: float = 1.0, opacity_floor: float = 0.05
    ) -> NDArray[np.uint8]:
        """What happens at each place at ``time_s`` of a gap, [H, W], as a number of :data:`MOTION_KINDS`.

        - crossing: vessels lie over one another that move differently (the standard deviation of their motion over
          the gap, weighted by opacity, is above ``moves_px``), two pixels around included;
        - moving: vessels that move by more than ``moves_px`` over the gap, where their ends are included;
        - contrast: opacity changes by more than the floor, and nothing moves;
        - quiet: the rest.

        Args:
            first_s, last_s: the gap's ends.
            time_s: inside of it.
            moves_px: what counts as motion.
            opacity_floor: what counts as a vessel, as a share of the deepest contrast (99.95 % of the pixels).
        """
        from scipy.ndimage import binary_dilation

        moments = [np.zeros(self.carm.shape) for _ in range(4)]  # opacity, times motion x, y, and times its square
        for tree in (self.arteries, self.veins):
            concentration = self.settings.bolus.concentration(time_s, tree.arrival_s, tree.smear_s)
            filled = concentration > 1e-4
            if not filled.any():
                continue
            uv = [self.carm.project(self._moved(tree, s)[filled], self.angle_deg(s)) for s in (first_s, time_s, last_s)]
            motion = uv[2][0] - uv[0][0]
            scale = uv[1][1] / self.carm.pixel_mm
            mass = concentration[filled] * tree.volume_mm3[filled] * scale**2
            for k, weight in enumerate((1.0, motion[:, 0], motion[:, 1], (motion**2).sum(1))):
                moments[k] += splat_discs(self.carm.shape, uv[1][0], tree.radius_mm[filled] * scale, mass * weight)
        opacity = self.settings.iodine_per_mm * moments[0]
        mean_x, mean_y, square = (m / np.maximum(moments[0], 1e-9) for m in moments[1:])
        size = np.hypot(mean_x, mean_y)
        spread = np.sqrt(np.maximum(square - size**2, 0))
        vessels = [self.vessels(s) for s in (first_s, last_s)]
        floor = opacity_floor * max(float(np.quantile(opacity, 0.9995)), 1e-6)
        there = opacity > floor
        kinds = np.full(self.carm.shape, MOTION_KINDS.index("quiet"), np.uint8)
        changes = np.abs(vessels[1] - vessels[0]) > floor
        kinds[changes] = MOTION_KINDS.index("contrast")
        # where a vessel goes or comes from, its motion changes the picture, too
        moves = there & (size > moves_px)
        near = binary_dilation(moves, iterations=int(np.ceil(np.quantile(size[moves], 0.9))) if moves.any() else 1)
        kinds[moves | (near & changes)] = MOTION_KINDS.index("moving")
        kinds[binary_dilation(there & (spread > moves_px), iterations=2)] = MOTION_KINDS.index("crossing")
        return kinds

    # ---- measured ----

    def exposures(self, times_s: NDArray[np.float64]) -> tuple[Picture, Picture]:
        """Mask and fill run as fractions of the air value, [T, H, W] each (when standing one mask frame, [1, H, W])."""
        s = self.settings
        rng = np.random.default_rng([self.seed, 4])
        times = np.atleast_1d(times_s)
        mask_times = times if s.rotation_deg_s else times[:1]
        mask = np.stack([self._expose(rng, self._mask_background(t), s.mask_exposures) for t in mask_times])
        fill = []
        for t in times:
            still = self._motion.still and not s.rotation_deg_s
            background = self._standing_mask if still else self.background(t)
            fill.append(self._expose(rng, background + self.vessels(t), 1))
        return mask, np.stack(fill)

    def _expose(self, rng: np.random.Generator, attenuation: Picture, exposures: int) -> Picture:
        from scipy.ndimage import gaussian_filter

        expected = np.exp(-attenuation)
        photons = self.settings.photons * exposures
        if np.isfinite(photons):
            noise = rng.poisson(np.maximum(photons * expected, 0)) / photons - expected
            # the blur acts on noise and signal alike; the discs' soft edges already stand for the signal's
            expected = expected + gaussian_filter(noise, self.settings.blur_px)
            expected = np.maximum(expected, 0.5 / photons)
        return expected.astype(np.float32)

    def subtracted_run(self, times_s: NDArray[np.float64]) -> Picture:
        """Measured and subtracted frames, [T, H, W], line integrals with noise; 0 behind the shutters."""
        mask, fill = self.exposures(times_s)
        return (np.log(mask) - np.log(fill)) * self.field_of_view

    @cached_property
    def field_of_view(self) -> NDArray[np.bool_]:
        """[H, W] what the shutters leave open."""
        height, width = self.settings.shape
        top, bottom, left, right = self.settings.collimation
        inside = np.zeros((height, width), bool)
        inside[round(top * height) : round((1 - bottom) * height), round(left * width) : round((1 - right) * width)] = (
            True
        )
        return inside

    # ---- parts ----

    def _moved(self, tree: VesselTree, time_s: float) -> NDArray[np.float64]:
        waves, phases, directions = self._sway
        field = np.cos(tree.position_mm @ waves.T + phases) @ directions
        beat = 2 * np.pi * self.settings.bolus.heart_rate_hz * time_s
        pulse = 0.6 * np.sin(beat) + 0.3 * np.sin(2 * beat + 0.6)
        reach = self.settings.pulse_mm * np.minimum(1, np.sqrt(tree.radius_mm / 2)) * pulse
        return _place(tree.position_mm + field * reach[:, None], self._motion.pose(time_s))

    def _tubes(self, tree: VesselTree, time_s: float) -> NDArray[np.float64]:
        concentration = self.settings.bolus.concentration(time_s, tree.arrival_s, tree.smear_s)
        filled = concentration > 1e-4
        if not filled.any():
            return np.zeros(self.carm.shape)
        uv, magnification = self.carm.project(self._moved(tree, time_s)[filled], self.angle_deg(time_s))
        scale = magnification / self.carm.pixel_mm
        mass = concentration[filled] * tree.volume_mm3[filled] * scale**2
        return splat_discs(self.carm.shape, uv, tree.radius_mm[filled] * scale, mass)

    def _blush(self, time_s: float, coarse: int = 8) -> NDArray[np.float64]:
        """Tissue: clouds too soft to need every pixel."""
        from scipy.ndimage import gaussian_filter, zoom

        tree = self.tissue
        concentration = self.settings.bolus.concentration(time_s, tree.arrival_s, tree.smear_s)
        height, width = self.carm.shape
        uv, magnification = self.carm.project(self._moved(tree, time_s), self.angle_deg(time_s))
        scale = magnification / self.carm.pixel_mm
        margin = 4  # coarse pixels around the picture, so that clouds at its edge are not cut
        shape = (height // coarse + 2 * margin, width // coarse + 2 * margin)
        small = splat_discs(
            shape,
            (uv + 0.5) / coarse - 0.5 + margin,
            tree.radius_mm * scale / coarse,
            concentration * tree.volume_mm3 * scale**2 / coarse**2,
        )
        small = gaussian_filter(small, 3.0 / self.carm.pixel_mm / coarse)
        large = zoom(small, coarse, order=1, mode="nearest", grid_mode=True)
        edge = margin * coarse
        return np.pad(
            large[edge : edge + height, edge : edge + width],
            ((0, max(0, height - (large.shape[0] - edge))), (0, max(0, width - (large.shape[1] - edge)))),
            mode="edge",
        )[:height, :width]

    def _ellipsoids(self, pose: tuple[Any, Any], angle_deg: float) -> NDArray[np.float64]:
        """Skull, brain, neck and shoulders: chords of rays through ellipsoids."""
        height, width = self.carm.shape
        carm, a = self.carm, np.deg2rad(angle_deg)
        across = (np.arange(width) - (width - 1) / 2) * carm.pixel_mm + carm.centre_mm[0]
        up = -(np.arange(height) - (height - 1) / 2) * carm.pixel_mm + carm.centre_mm[1]
        right, along = np.array([np.cos(a), np.sin(a), 0]), np.array([-np.sin(a), np.cos(a), 0])
        source = carm.source_axis_mm * along
        turn, shift = pose
        total = np.zeros((height, width))
        for centre, axes, density in _ELLIPSOIDS:
            # the ray in the ellipsoid's own frame, where it is the unit ball
            def own(v: NDArray, axes: tuple = axes) -> NDArray:
                return (turn.T @ v) / np.asarray(axes)

            start = own(source - shift) - np.asarray(centre) / np.asarray(axes)
            base, u, v = own(-source), own(right), own(np.array([0.0, 0.0, 1.0]))
            # |base + across u + up v|^2 and its product with the start, without an [H, W, 3] array
            dd = (base @ base + 2 * across * (base @ u) + across**2 * (u @ u))[None] + (
                2 * up * (base @ v) + up**2 * (v @ v)
            )[:, None]
            dd += 2 * (u @ v) * up[:, None] * across[None]
            sd = (start @ base + across * (start @ u))[None] + (up * (start @ v))[:, None]
            root = _mean_root(sd**2 - dd * (start @ start - 1))
            ray_mm = np.sqrt(carm.source_axis_mm**2 + across[None] ** 2 + up[:, None] ** 2)
            total += density * 2 * root / dd * ray_mm
        return total


def _mean_root(square: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of ``sqrt(max(square, 0))`` over each pixel of [H, W], in which ``square`` goes in a straight line.

    A chord's length rises from the rim of an ellipsoid without end to its slope: at single points it would be another
    from pixel to pixel along the rim, and the rim dashed in what two exposures leave of it.
    """
    slopes = [np.abs(slope) for slope in np.gradient(square)]
    # differences of a steep function lose digits where it hardly changes
    least = 1e-3 * (np.abs(square) + slopes[0] + slopes[1]) + 1e-12
    a, b = (np.maximum(slope, least) for slope in slopes)
    integral = np.zeros_like(square)
    for i, j in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        corner = np.maximum(square + (i * a + j * b) / 2, 0)
        integral += i * j * corner**2 * np.sqrt(corner)
    return 4 / 15 * integral / (a * b)


# centre (mm), half axes (mm), attenuation (1/mm; a hollow is a negative one)
_ELLIPSOIDS = (
    ((0, 0, 0), _SKULL_MM, 0.035),
    ((0, 0, 0), tuple(a - 7 for a in _SKULL_MM), -0.017),
    ((0, 10, -95), (48, 52, 70), 0.016),
    ((0, 30, -190), (190, 90, 70), 0.016),
)


def _bones(rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
    """Positions [n, 3], radii [n] in mm and masses [n] (1/mm x mm^3) of skull base, face and the skull's texture."""
    rods, radii, density = [], [], []
    for _ in range(60):
        start = np.array([rng.uniform(-45, 45), rng.uniform(-85, 60), rng.uniform(-85, -25)])
        direction = rng.normal(size=3)
        bend = rng.normal(0, 0.6, 3)
        steps = np.linspace(0, 1, 60)[:, None]
        length = rng.uniform(10, 60)
        rods.append(start + length * (direction / np.linalg.norm(direction) * steps + bend * steps**2))
        radius = rng.uniform(0.8, 4.5)
        radii.append(np.full(60, radius))
        density.append(np.full(60, rng.uniform(0.004, 0.02) * np.pi * radius**2 * length / 60))
    n = 5000
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    rods.append(direction * (np.array(_SKULL_MM) - rng.uniform(0, 7, (n, 1))))
    grain = rng.uniform(0.4, 2.0, n)
    radii.append(grain)
    density.append(rng.choice([-1, 1], n) * rng.uniform(0.002, 0.012, n) * 4 / 3 * np.pi * grain**3)
    return np.concatenate(rods), np.concatenate(radii), np.concatenate(density)


def _jaw(bones_mm: NDArray) -> NDArray:
    """[n, 3]: which way each place goes for one mm of the jaw: down and back, all of it below the face, none above."""
    front = 1 / (1 + np.exp((bones_mm[:, 1] - 20) / 5))
    low = 1 / (1 + np.exp((bones_mm[:, 2] + 55) / 3))
    return (front * low)[:, None] * np.array([0.0, 0.4, -0.9])


def _place(points_mm: NDArray, pose: tuple[NDArray, NDArray]) -> NDArray:
    turn, shift = pose
    return points_mm @ turn.T + shift


class _Motion:
    """Where the head is: breathing, drift and one jerk, each a turn and a shift; and how far the jaw is moved."""

    def __init__(self, rng: np.random.Generator, settings: DSASettings) -> None:
        sizes = (settings.breathing_mm, settings.drift_mm, settings.jerk_mm)
        self.still = not any(sizes) and not settings.jaw_mm
        self.sizes = sizes
        self.off_axis_mm = np.array([*settings.off_axis_mm, 0.0])
        self.axes = rng.normal(0, 1, (3, 6))
        self.axes /= np.linalg.norm(self.axes[:, 3:], axis=1, keepdims=True)
        self.rate_hz, self.phase = rng.uniform(0.2, 0.33), rng.uniform(0, 2 * np.pi)
        self.drift_hz = rng.uniform(0.05, 0.4, 3)
        self.drift_phase = rng.uniform(0, 2 * np.pi, 3)
        self.jerk_at_s, self.jerk_s = rng.uniform(1.0, 7.0), rng.uniform(0.1, 0.5)
        self.swallow_mm = settings.jaw_mm * rng.uniform(0.3, 1.0, 3)
        self.swallow_at_s, self.swallow_s = rng.uniform(0.5, 9.0, 3), rng.uniform(0.08, 0.4, 3)
        self.wobble_deg = settings.mask_angle_deg * rng.uniform(-0.5, 0.5, 2)
        self.wobble_hz = rng.uniform(0.3, 2.0)

    def pose(self, time_s: float) -> tuple[NDArray, NDArray]:
        """Turn [3, 3] and shift [3] in mm against the moment zero, and off the axis."""
        breath = np.sin(2 * np.pi * self.rate_hz * time_s + self.phase) - np.sin(self.phase)
        waves = np.sin(2 * np.pi * self.drift_hz * time_s + self.drift_phase) - np.sin(self.drift_phase)
        jerk = 1 / (1 + np.exp(-(time_s - self.jerk_at_s) / self.jerk_s * 4))
        parts = np.array(self.sizes) * [breath, waves.mean() * 1.5, jerk]
        motion = parts @ self.axes
        turn, shift = motion[:3] / 90, motion[3:] + self.off_axis_mm
        return rotation_matrix(turn), shift  # about one mm at the head's surface per mm of shift

    def mask_angle_deg(self, time_s: float) -> float:
        """By how much the mask's angle differs from the fill's: an offset, and a slow wobble of the arm."""
        return float(self.wobble_deg @ [1.0, np.sin(2 * np.pi * self.wobble_hz * time_s)])

    def jaw_mm(self, time_s: float) -> float:
        """How far the jaw is from where it rests: away and back with each of three swallows."""
        return float(self.swallow_mm @ np.exp(-(((time_s - self.swallow_at_s) / self.swallow_s) ** 2) / 2))
