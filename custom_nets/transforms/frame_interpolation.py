"""Training samples for frame interpolation: two frames of a run, what was between them, and what lies beyond."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable
from numpy.typing import NDArray

from custom_nets._moved import renamed_arguments
from custom_nets.data.angiography.optical_flow import gap_flows_px
from custom_nets.data.angiography.reader import read_angiography
from custom_nets.data.angiography.training_list import read_simulated

__all__ = ["FixedFrameGapd", "LoadTrainingRund", "RandFrameGapd", "RandSimulatedGapd"]

Array = NDArray[Any]


class LoadTrainingRund(MapTransform):
    """Read a run to train on: simulated ones stay on disk, of measured ones all frames go into memory.

    Adds ``frames`` [T, H, W], ``times_s`` [T] and ``geometry`` (of the C-arm); measured frames are in network units,
    float16, mask frames left out. Simulated runs are line integrals, with ``background``, ``darkest`` and ``kind``.

    Args:
        keys: the entry with the path.
        options: of :func:`custom_nets.data.angiography.reader.read_angiography`.
    """

    def __init__(self, keys: str = "image", **options: Any) -> None:
        super().__init__(keys)
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        path = Path(item[self.keys[0]])
        if (path / "run.json").is_file():
            item.update(read_simulated(path))
            return item
        run = read_angiography(path, **self.options)
        usable = [i for i in range(len(run)) if i not in run.mask_frames and not run.synthetic[i]]
        frames = np.empty((len(usable), *run.size), dtype=np.float16)
        for k, index in enumerate(usable):  # one at a time: float32 of a whole run would be twice the memory
            frames[k] = run.normalize(index)[0]
        geometry = run.geometry.at(np.asarray(usable, dtype=np.float64))
        return {**item, "frames": frames, "times_s": run.times_s[usable], "geometry": geometry}


class RandFrameGapd(Randomizable, MapTransform):
    """Cut a random gap out of a run: any length, any place, and any times that were measured inside it.

    Args:
        keys: the entry with the frames, [T, H, W] (array or memory map) in network units; the times of the frames
            are in ``times_s`` [T], where the C-arm stood in ``geometry``, if that is known.
        crop_size: side of the square cut out of the frames, a multiple of 16; smaller frames are extended at their
            borders.
        longest_gap: largest number of frames between the two ends, plus one.
        num_targets: how many times within the gap are given as truth.
        context_prob: probability that the frames beyond the gap are given, each for itself.
        change_crop_prob: probability that the crop goes where much changes instead of anywhere.
        shortest_gap: smallest number of frames between the two ends, plus one.
        contrast, background: ranges of a factor on a measured run's contrast, and of where its background goes.
        flow_prob: probability that the motion between the frames is found and given
            (``custom_nets.data.angiography.optical_flow``); None gives no ``flow_px`` at all.
        flow_margin: pixels around the crop that the search sees too, as it sees whole frames of a run.
        angle_prob: probability that the C-arm's turn is given, where it is known; None gives no ``turn`` at all.

    Adds ``frame0``, ``frame1``, ``before``, ``after`` [1, S, S], ``nearness`` [2] (see ``SymmetricMoStDSA``),
    ``timesteps`` [M], ``label`` [M, 1, S, S], with ``flow_prob`` ``flow_px`` [8, S, S] and with ``angle_prob`` ``turn``
    [3] (zeros where they are not given), all float32, and takes the run itself away.

    Raises:
        ValueError: a run of fewer than 3 frames.
    """

    @renamed_arguments(moments="num_targets", context="context_prob", busy="change_crop_prob", ground="background")
    def __init__(
        self,
        keys: str = "frames",
        crop_size: int = 160,
        longest_gap: int = 16,
        num_targets: int = 2,
        context_prob: float = 0.75,
        change_crop_prob: float = 0.7,
        shortest_gap: int = 2,
        contrast: Sequence[float] = (0.7, 1.3),
        background: Sequence[float] = (0.6, 0.85),
        flow_prob: float | None = None,
        flow_margin: int = 24,
        angle_prob: float | None = None,
    ) -> None:
        MapTransform.__init__(self, keys)
        if crop_size < 16 or crop_size % 16:
            raise ValueError(f"crop_size must be a multiple of 16, got {crop_size}.")
        if not 2 <= shortest_gap <= longest_gap or num_targets < 1:
            raise ValueError(
                f"needed: 2 <= shortest_gap <= longest_gap and num_targets >= 1, got {shortest_gap}, {longest_gap} and "
                f"{num_targets}."
            )
        self.flow_prob = flow_prob
        self.angle_prob = angle_prob
        self.margin = 0 if flow_prob is None else flow_margin
        self.crop_size = crop_size + 2 * self.margin  # what is drawn; the margin is cut off in the end
        self.shortest_gap, self.longest_gap = shortest_gap, longest_gap
        self.num_targets = num_targets
        self.context_prob = context_prob
        self.change_crop_prob = change_crop_prob
        self.contrast, self.background = (contrast[0], contrast[1]), (background[0], background[1])

    def randomize(self, data: Any = None) -> None:
        """Everything is drawn while a sample is made, from ``self.R``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        name = str(self.keys[0])
        run: dict[str, Any] = {
            key: item.pop(key) for key in (name, "times_s", "geometry", "background", "darkest", "kind") if key in item
        }
        frames, times = run[name], np.asarray(run["times_s"], dtype=np.float64)
        if len(frames) < 3:
            raise ValueError(f"a run to train on needs 3 frames or more, {item.get('image')} has {len(frames)}.")
        before, first, inner, last, after = self._draw_gap(len(frames))
        box = self._draw_box(frames, first, last)
        wanted = [first, last, first if before is None else before, last if after is None else after, *inner]
        cut = np.stack([self._cut(frames[i], box) for i in wanted])
        view, directions = self._draw_view()
        cut = cut[view]
        picture, truth = self.degrade(cut[:4], cut[4:], run, box)
        if before is None:
            picture[2] = picture[0]
        if after is None:
            picture[3] = picture[1]
        span = times[last] - times[first]
        nearness = [
            0.0 if before is None else span / (times[first] - times[before]),
            0.0 if after is None else span / (times[after] - times[last]),
        ]
        size = self.crop_size - 2 * self.margin
        inner_box = (Ellipsis, *2 * (slice(self.margin, self.margin + size),))
        for name, frame in zip(("frame0", "frame1", "before", "after"), picture, strict=True):
            item[name] = _tensor(frame[None])[inner_box]
        item["label"] = _tensor(truth[:, None])[inner_box]
        if self.flow_prob is not None:
            item["flow_px"] = torch.zeros(8, size, size)
            if self.R.rand() < self.flow_prob:
                there = [None if i is None else x for i, x in zip((before, after), picture[2:], strict=True)]
                item["flow_px"] = _tensor(gap_flows_px(picture[0], picture[1], *there))[inner_box]
        if self.angle_prob is not None:
            item["turn"] = torch.zeros(3)
            if self.R.rand() < self.angle_prob and "geometry" in run:
                turn = run["geometry"].turn(first, last)
                item["turn"] = _tensor([*directions @ turn[:2], turn[2]])
        item["timesteps"] = _tensor((times[inner] - times[first]) / span)
        item["nearness"] = _tensor(nearness)
        return item

    def degrade(
        self, measured: Array, between: Array, run: Mapping[str, Any], box: tuple[int, int]
    ) -> tuple[Array, Array]:
        """What is given and what is wanted; here as it was measured, with a random change of brightness and contrast.

        Args:
            measured: [4, S, S] frames 0 and 1, and those beyond.
            between: [M, S, S].
            run: the item's entries.
            box: first row and column of the crop.
        """
        gain, base = self.R.uniform(*self.contrast), self.R.uniform(*self.background)
        return (measured - 0.75) * gain + base, (between - 0.75) * gain + base

    def _draw_gap(self, count: int) -> tuple[int | None, int, list[int], int, int | None]:
        longest = min(self.longest_gap, count - 1)
        shortest = min(self.shortest_gap, longest)
        length = int(np.clip(np.exp(self.R.uniform(np.log(shortest), np.log(longest + 1))), shortest, longest))
        first = int(self.R.randint(0, count - length))
        last = first + length
        inner = sorted(
            int(i) for i in self.R.choice(np.arange(first + 1, last), self.num_targets, length - 1 < self.num_targets)
        )
        # mostly an even run, sometimes another distance
        steps = [length if self.R.rand() < 0.8 else int(self.R.randint(1, 2 * length + 1)) for _ in range(2)]
        given = self.R.rand(2) < self.context_prob
        before = first - steps[0] if given[0] and first >= steps[0] else None
        after = last + steps[1] if given[1] and last + steps[1] < count else None
        return before, first, inner, last, after

    def _draw_box(self, frames: Array, first: int, last: int, candidates: int = 6) -> tuple[int, int]:
        height, width = frames.shape[1:]
        size = self.crop_size
        places = [
            (int(self.R.randint(0, max(1, height - size + 1))), int(self.R.randint(0, max(1, width - size + 1))))
            for _ in range(candidates if self.R.rand() < self.change_crop_prob else 1)
        ]
        if len(places) == 1:
            return places[0]
        change = np.abs(frames[last, ::4, ::4].astype(np.float32) - frames[first, ::4, ::4])
        return max(places, key=lambda p: change[p[0] // 4 : (p[0] + size) // 4, p[1] // 4 : (p[1] + size) // 4].sum())

    def _cut(self, frame: Array, box: tuple[int, int]) -> Array:
        size = self.crop_size
        piece = np.asarray(frame[box[0] : box[0] + size, box[1] : box[1] + size], dtype=np.float32)
        missing = (size - piece.shape[0], size - piece.shape[1])
        return np.pad(piece, ((0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else piece

    def _draw_view(self) -> tuple[tuple[Any, ...], Array]:
        """A random one of the eight ways to look at a square, as an index of [..., S, S], and a matrix [2, 2] that
        turns (x, y) with it."""
        down, across = (int(self.R.choice([-1, 1])) for _ in range(2))
        rows, columns = np.arange(self.crop_size)[::down], np.arange(self.crop_size)[::across]
        if self.R.rand() < 0.5:
            return (Ellipsis, rows[None, :], columns[:, None]), np.array([[0, down], [across, 0]])
        return (Ellipsis, rows[:, None], columns[None, :]), np.array([[across, 0], [0, down]])


class RandSimulatedGapd(RandFrameGapd):
    """The same for simulated runs (``custom_nets.apps.simulate_training_runs``): noise-free, and measured at random.

    Measured runs among the items are treated as by :class:`RandFrameGapd`. Of simulated ones, line integrals become
    display values by a random window. Noise is that of two exposures: each frame has its own, and all frames of a
    standing run share the mask's. The truth keeps the mask's noise, which every frame of the run has, and lacks the
    noise of its own exposure, which nobody could know.

    Args:
        noise: smallest and largest standard deviation of a frame's own noise, in display units, in the median pixel.
        kwargs: of :class:`RandFrameGapd`.
    """

    def __init__(self, keys: str = "frames", noise: Sequence[float] = (0.001, 0.016), **kwargs: Any) -> None:
        super().__init__(keys, **kwargs)
        self.noise = (float(noise[0]), float(noise[1]))

    def degrade(
        self, measured: Array, between: Array, run: Mapping[str, Any], box: tuple[int, int]
    ) -> tuple[Array, Array]:
        if "background" not in run:
            return super().degrade(measured, between, run, box)
        gain = self.R.uniform(0.25, 1.1) / run["darkest"]
        base = self.R.uniform(0.6, 0.85)
        floor = self.R.uniform(0, 0.2) if self.R.rand() < 0.4 else -np.inf  # display windows cut off what is darkest
        strength = self._strength(run, box)
        blur_px = self.R.uniform(0, 0.75)
        still: Array | float = 0.0  # what all frames of a standing run share
        if run.get("kind") != "rotational":
            still = self._mask_noise(strength, blur_px) + self._texture()
        # iodine takes photons away, too
        own = [strength * np.exp(np.clip(x, 0, 3) / 2) * self._noise(blur_px) for x in measured]
        given = np.maximum(base - gain * measured + still + np.stack(own), floor)
        wanted = np.maximum(base - gain * between + still, floor)
        if self.R.rand() < 0.5:
            given = np.round(given * 255) / 255
        return given, wanted

    def _strength(self, run: Mapping[str, Any], box: tuple[int, int]) -> Array:
        """Standard deviation of an exposure's noise, [S, S]: it grows with what the rays have to pass."""
        level = np.exp(self.R.uniform(np.log(self.noise[0]), np.log(self.noise[1])))
        thickness = self._cut(run["background"], box)  # against the run's median
        return (level * np.exp(np.clip(thickness, -2.5, 3) / 2)).astype(np.float32)

    def _mask_noise(self, strength: Array, blur_px: float) -> Array:
        """As strong as a frame's own when the mask is one exposure, weaker for the mean of several; [S, S]."""
        share = 1.0 if self.R.rand() < 0.6 else self.R.uniform(0.0, 1.3)
        return share * strength * self._noise(blur_px)

    def _texture(self) -> Array | float:
        """Vessels too fine for the simulator, which fill the tissue of real runs; [S, S]."""
        from scipy.ndimage import gaussian_filter

        if self.R.rand() < 0.4:
            return 0.0
        texture = np.zeros((self.crop_size,) * 2, dtype=np.float32)
        for width_px in (self.R.uniform(0.7, 2), self.R.uniform(2, 5)):
            layer = gaussian_filter(self._noise(0.0), width_px)
            texture += layer * (np.exp(self.R.uniform(np.log(0.0005), np.log(0.01))) / layer.std())
        return texture

    def _noise(self, blur_px: float) -> Array:
        from scipy.ndimage import gaussian_filter

        # a generator of float32: twice as fast as RandomState
        generator = np.random.Generator(np.random.SFC64(int(self.R.randint(2**31))))
        noise = generator.standard_normal((self.crop_size,) * 2, dtype=np.float32)
        if blur_px < 0.3:
            return noise
        noise = gaussian_filter(noise, blur_px, truncate=3)
        return noise / noise.std()


class FixedFrameGapd(RandSimulatedGapd):
    """The same sample each time, drawn from the item's ``number``: for validation.

    Args:
        seed: with the number, what the sample follows from.
        kwargs: of :class:`RandSimulatedGapd`.
    """

    def __init__(self, keys: str = "frames", seed: int = 0, **kwargs: Any) -> None:
        super().__init__(keys, **kwargs)
        self.seed = seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.set_random_state(int(np.random.SeedSequence([self.seed, data["number"]]).generate_state(1)[0]))
        return super().__call__(data)


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
