"""Fit a field to one scan: the "training" of a method that has no weights, because every scan is its own.

An iteration sees a few views of the scan, each at its own angle and time; an epoch sees all of them once. What changes
in the course of a fit (the grid grows, levels come in, Gaussians split) are schedules, attached as handlers are.
Everything random follows from the seed and the epoch's number, so a fit that was killed goes on as if nothing had been.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from tqdm import tqdm

from custom_nets.engines.vessel_support import VesselSupport, turn_warning, vessel_support
from custom_nets.networks.layers.attenuation_field import AttenuationField, ScanGrid
from custom_nets.operators.cone_beam import SupportOperator, view_vectors
from custom_nets.optimizers.fista import NonnegativeFista
from custom_nets.utils.files import new_file

__all__ = [
    "ActivateLevels",
    "DensifyAndPrune",
    "FitCurve",
    "GrowGrid",
    "ScanFitter",
    "ScanFitting",
    "ViewLoader",
    "acquisition_fingerprint",
]

logger = logging.getLogger(__name__)

_SHORT = 40  # epochs of a fit that only looks


def acquisition_fingerprint(acquisition: Any) -> str:
    """SHA-256 of all that a fit sees of an acquisition."""
    digest = hashlib.sha256()
    parts = [acquisition.projections, acquisition.times_s, view_vectors(acquisition)]
    parts += [np.asarray(acquisition.volume_shape), np.asarray(acquisition.volume_spacing_mm)]
    for part in [*parts, *([] if acquisition.weights is None else [acquisition.weights])]:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


class ViewLoader:
    """The views of a scan in batches, in an order that follows from seed and epoch.

    Args:
        acquisition: the scan.
        views_per_batch: at most; 0: all.
        seed: of the order, with :attr:`epoch`.
        device: that holds the views.
    """

    def __init__(
        self, acquisition: Any, views_per_batch: int = 0, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.image = torch.as_tensor(acquisition.projections).to(device)[:, None]  # [N, 1, H, W]
        weights = acquisition.weights
        self.weight = None
        if weights is not None:
            self.weight = torch.as_tensor(weights / weights[weights > 0].mean()).to(device)[:, None]
        self.vectors = torch.as_tensor(view_vectors(acquisition))  # float64, on the CPU: they choose what is computed
        self.time_s = torch.as_tensor(acquisition.times_s, dtype=torch.float32).to(device)
        self.views_per_batch = min(views_per_batch or len(self.image), len(self.image))
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.image) // self.views_per_batch)

    def batch(self, views: torch.Tensor) -> dict[str, Any]:
        """What an iteration sees of some views."""
        at = views.to(self.image.device)
        weight = None if self.weight is None else self.weight[at]
        time_s = self.time_s[at]
        return {
            "view": views,
            "image": self.image[at],
            "weight": weight,
            "vectors": self.vectors[views],
            "time": time_s,
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        count = len(self.image)
        if self.views_per_batch == count:
            order = torch.arange(count)
        else:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))
        for views in order.split(self.views_per_batch):
            yield self.batch(views.sort().values)


@dataclass
class FitCurve:
    """How a fit went.

    Args:
        loss: mean of each epoch.
        held_out: epoch -> relative error of the views that were held out.
        seconds: of the whole fit, over all calls.
        stopped: why it ended: "done", "time" or "held-out views".
        notes: sentences for people.
        warnings: sentences that have to be read first.
    """

    loss: list[float] = field(default_factory=list)
    held_out: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    stopped: str = "done"
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class ScanFitter(SupervisedTrainer):
    """Ignite engine of one fit; made by :class:`ScanFitting`."""

    network: AttenuationField

    def __init__(self, options: ScanFitting, network: AttenuationField, loader: ViewLoader, unit: float) -> None:
        super().__init__(
            device=loader.image.device,
            max_epochs=options.max_epochs,
            train_data_loader=loader,  # type: ignore[arg-type]
            network=network,
            optimizer=None,  # type: ignore[arg-type]  # made below: it needs the loss
            loss_function=None,  # type: ignore[arg-type]
            epoch_length=len(loader),
            iteration_update=self._fit_views,  # type: ignore[arg-type]
        )
        self.logger.setLevel(logging.WARNING)  # one line per epoch is too much here
        self.options, self.loader, self.unit = options, loader, unit
        self.curve = FitCurve()
        self.numbers = ("loss",)
        self.losses: list[float] = []
        self.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        self.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)

    def new_optimizer(self) -> None:
        """Make an optimizer for the parameters as they are now."""
        if self.options.optimizer == "fista":
            self.optimizer = _fista(self)
        else:
            groups = self.network.parameter_groups(self.options.learning_rate)
            for group in groups:
                group["initial_lr"] = group["lr"]
            self.optimizer = torch.optim.Adam(groups, betas=cast(tuple[float, float], self.options.betas), eps=1e-15)

    def data_loss(
        self, predicted: torch.Tensor, batch: dict[str, Any], confidence: torch.Tensor | None
    ) -> torch.Tensor:
        """Weighted mean misfit, in units of what a well filled voxel adds to a pixel."""
        residual = (predicted - batch["image"]) / self.unit
        misfit = residual.abs() if self.options.loss == "l1" else residual.square()
        if batch["weight"] is not None:
            misfit = misfit * (batch["weight"].sqrt() if self.options.loss == "l1" else batch["weight"])
        if confidence is not None:
            misfit = misfit * confidence[:, None, None, None]
        return misfit.mean()

    def _start_epoch(self, engine: Any) -> None:
        self.loader.epoch = self.state.epoch
        self.losses = []
        share = (self.state.epoch - 1) / max(self.options.max_epochs - 1, 1)
        low = self.options.final_rate
        factor = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimizer.param_groups:
            if "initial_lr" in group:
                group["lr"] = group["initial_lr"] * factor

    def _fit_views(self, engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
        self.network.train()
        time_s, confidence = self._jittered(batch)
        self.optimizer.zero_grad(set_to_none=True)
        predicted = self.network(batch["vectors"], time_s)  # [B, 1, H, W]
        loss = self.data_loss(predicted, batch, confidence) + self.network.regularization()
        loss.backward()
        self.optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(
                f"the fit came to a loss of {value} in epoch {self.state.epoch}: give a smaller learning rate "
                "(--fitting#learning_rate)."
            )
        self.losses.append(value)
        return {"loss": value}

    def _jittered(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """VPAL's temporal perturbation: half of the views at a time somewhat off, which then count less."""
        sigma = self.options.time_jitter
        if sigma <= 0:
            return batch["time"], None
        count = len(self.loader.image)
        duration = float(self.loader.time_s.max())
        seed = (self.options.seed * 7919 + self.state.iteration) % (1 << 62)
        off = torch.randn(len(batch["time"]), generator=torch.Generator().manual_seed(seed)) * sigma / count
        off[len(off) // 2 :] = 0
        off = off.to(batch["time"])
        confidence = 1 / (1 + 10 * (count / (3 * sigma)) * off.abs())
        return (batch["time"] + off * duration).clamp(0, duration), confidence

    def _end_epoch(self, engine: Any) -> None:
        self.curve.loss.append(float(np.mean(self.losses)))


class GrowGrid:
    """Make a grid finer after some shares of the epochs.

    Args:
        shares: of ``max_epochs``, rising, one for each halving.
    """

    def __init__(self, shares: Sequence[float] = (0.25, 0.5)) -> None:
        self.shares = tuple(shares)

    def attach(self, engine: ScanFitter) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: ScanFitter) -> None:
        at = [max(1, round(share * engine.options.max_epochs)) for share in self.shares]
        for _ in range(at.count(engine.state.epoch)):
            if engine.network.grow():  # type: ignore[operator]
                engine.new_optimizer()


class ActivateLevels:
    """Begin with the coarsest levels of a hash encoding and add one at a time.

    Args:
        first: levels at the start.
        share: of ``max_epochs`` by which all are active.
    """

    def __init__(self, first: int = 4, share: float = 0.2) -> None:
        self.first, self.share = first, share

    def attach(self, engine: ScanFitter) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: ScanFitter) -> None:
        network: Any = engine.network
        levels = max(encoding.levels for encoding, _ in (network.probability, network.still, network.moving))
        over = max(1.0, self.share * engine.options.max_epochs)
        network.set_levels(self.first + math.floor((levels - self.first) * min(1.0, (engine.state.epoch - 1) / over)))


class DensifyAndPrune:
    """Split Gaussians that are pulled about, and drop those that are empty.

    Args:
        every: epochs between two rounds.
        from_share, to_share: of ``max_epochs``, when to do it.
        split_share: of the Gaussians, the largest pulls, to split in a round.
        split_voxels: only Gaussians at least so wide.
        empty: drop below this share of the scan's attenuation at all times.
        most: Gaussians.
    """

    def __init__(
        self,
        every: int = 10,
        from_share: float = 0.1,
        to_share: float = 0.6,
        split_share: float = 0.05,
        split_voxels: float = 0.9,
        empty: float = 0.02,
        most: int = 100_000,
    ) -> None:
        self.every, self.from_share, self.to_share = every, from_share, to_share
        self.split_share, self.split_voxels, self.empty, self.most = split_share, split_voxels, empty, most
        self.pulls: torch.Tensor | None = None

    def attach(self, engine: ScanFitter) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.watch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def start(self, engine: ScanFitter) -> None:
        self.pulls = None

    def watch(self, engine: ScanFitter) -> None:
        pull = engine.network.mean.grad.norm(dim=1)  # type: ignore[union-attr, operator]
        self.pulls = pull if self.pulls is None else self.pulls + pull

    def __call__(self, engine: ScanFitter) -> None:
        epoch, last = engine.state.epoch, engine.options.max_epochs
        if epoch % self.every or not self.from_share * last <= epoch <= self.to_share * last or self.pulls is None:
            return
        network: Any = engine.network
        spacing = float(np.mean(network.grid.spacing_mm))
        with torch.no_grad():
            full = torch.nn.functional.softplus(network.table).amax(1) > self.empty
            wide = network.scales().exp().amax(1) > self.split_voxels * spacing
            room = max(0, min(int(self.split_share * len(full)), self.most - len(full)))
            ranked = torch.where(full & wide, self.pulls, torch.zeros_like(self.pulls))
            chosen = torch.zeros_like(full)
            chosen[ranked.topk(room).indices] = True
            chosen &= ranked > 0
            chosen = chosen[full]
            network.pruned(full)
            network.split(chosen, torch.Generator().manual_seed(engine.options.seed * 31 + epoch))
        engine.new_optimizer()
        self.pulls = None


def _fista(engine: ScanFitter) -> NonnegativeFista:
    """An optimizer for a field that is linear in one non-negative parameter.

    Curvature and price come from the loss itself: the gradient at one, with nothing measured, bounds the curvature; the
    gradient at zero, with nothing but noise measured, says how large a gradient means nothing.
    """
    (parameter,) = engine.network.parameters()
    views = torch.arange(len(engine.loader.image))
    batch = engine.loader.batch(views)
    kept = parameter.detach().clone()

    def gradient(value: float, image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            parameter.fill_(value)
        parameter.grad = None
        predicted = engine.network(batch["vectors"], batch["time"])
        engine.data_loss(predicted, {**batch, "image": image}, None).backward()
        return parameter.grad.detach().clone()  # type: ignore[attr-defined]

    curvature = gradient(1.0, torch.zeros_like(batch["image"]))
    noise = torch.randn(batch["image"].shape, generator=torch.Generator().manual_seed(engine.options.seed))
    noise = noise.to(batch["image"]) * engine.options.noise
    if batch["weight"] is not None:
        noise = noise / batch["weight"].clamp(min=1e-6).sqrt()
    price = engine.options.sparsity * gradient(0.0, noise).std(dim=0)
    with torch.no_grad():
        parameter.copy_(kept)
    parameter.grad = None
    floor = 1e-4 * float(curvature.max())  # what hardly any view sees must not run away
    return NonnegativeFista([parameter], curvature.clamp(min=floor), price)


class ScanFitting:
    """How to fit a field to a scan.

    Args:
        max_epochs: sweeps over all views.
        views_per_batch: 0: all at once.
        optimizer: "adam", or "fista" for a field that is linear in one non-negative parameter.
        learning_rate: of Adam; falls as a half cosine to ``final_rate`` times that.
        final_rate: see ``learning_rate``.
        betas: of Adam.
        loss: "l1" or "l2".
        sparsity: of FISTA: price of a coefficient in standard deviations of the gradient that noise alone makes.
        time_jitter: VPAL's temporal perturbation, in steps between views; 0: none.
        schedules: handlers such as :class:`GrowGrid`.
        held_out: views to hold out and watch, evenly chosen; 0: none.
        patience: epochs without a better error of those views after which the fit stops.
        max_minutes: stop after so long; None: never.
        check_turn: try the mirrored scan, too, and warn where it fits better.
        save_every_s: seconds between two saved states.
        seed: of everything random.
        progress: show a bar.
    """

    def __init__(
        self,
        max_epochs: int = 100,
        views_per_batch: int = 0,
        optimizer: str = "adam",
        learning_rate: float = 0.05,
        final_rate: float = 0.1,
        betas: Sequence[float] = (0.9, 0.99),
        loss: str = "l2",
        sparsity: float = 1.0,
        time_jitter: float = 0.0,
        schedules: Sequence[Any] = (),
        held_out: int = 0,
        patience: int = 20,
        max_minutes: float | None = None,
        check_turn: bool = False,
        save_every_s: float = 30.0,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        if optimizer not in ("adam", "fista") or loss not in ("l1", "l2"):
            raise ValueError(f"optimizer must be adam or fista and loss l1 or l2, got {optimizer!r} and {loss!r}.")
        if optimizer == "fista" and (views_per_batch or loss != "l2" or time_jitter):
            raise ValueError("fista needs all views at once (views_per_batch 0), loss l2 and no time_jitter.")
        if max_epochs < 1 or (max_minutes is not None and max_minutes <= 0) or held_out < 0:
            raise ValueError(
                f"needed: max_epochs >= 1, max_minutes > 0 (or none) and held_out >= 0; got {max_epochs}, "
                f"{max_minutes} and {held_out}."
            )
        self.max_epochs, self.views_per_batch, self.optimizer = max_epochs, views_per_batch, optimizer
        self.learning_rate, self.final_rate, self.betas, self.loss = learning_rate, final_rate, tuple(betas), loss
        self.sparsity, self.time_jitter, self.schedules = sparsity, time_jitter, tuple(schedules)
        self.held_out, self.patience, self.max_minutes = held_out, patience, max_minutes
        self.check_turn = check_turn
        self.save_every_s, self.seed, self.progress = save_every_s, seed, progress
        self.noise = 0.0

    @torch.enable_grad()
    def fit(
        self,
        network: AttenuationField,
        acquisition: Any,
        device: torch.device | str = "cpu",
        state_file: str | Path | None = None,
        support: VesselSupport | None = None,
        operator: SupportOperator | None = None,
    ) -> FitCurve:
        """Fit a network, in place.

        Args:
            network: not bound to a scan yet.
            acquisition: all that the fit may see.
            device: to compute on.
            state_file: written every ``save_every_s`` seconds; if it is there and of the same scan, the fit goes on
                from it. Removed at the end.
            support: where vessels may be, if it is known.
            operator: of that support, with the matrices that it remembers.

        Raises:
            ValueError: no vessel is seen, or the fit diverges.
        """
        started = time.perf_counter()
        state_path = None if state_file is None else Path(state_file)
        earlier = self._earlier(state_path, acquisition)
        kept, watched = self._divided(acquisition)
        if earlier is None:
            support = support or vessel_support(kept, device)
            noise, attenuation = support.noise, support.attenuation
            turn = turn_warning(kept, support, device) if self.check_turn else None
            found = self._scouted(network, kept, support, device)
            operator = operator or network.operator
            network.bind(ScanGrid.of(acquisition, attenuation), support.voxels, support.mean, self.seed)
            network.operator = operator or network.operator
        else:
            for name, value in earlier["network"]["arguments"].items():
                setattr(network, name, value)  # what was left to the scan is settled
            network.restore(earlier["network"], device)
            noise, attenuation = earlier["noise"], earlier["network"]["grid"]["attenuation"]
        self.noise = noise
        loader = ViewLoader(kept, self.views_per_batch, self.seed, device)
        unit = attenuation * float(np.mean(acquisition.volume_spacing_mm))
        engine = ScanFitter(self, network, loader, unit)
        engine.new_optimizer()
        for schedule in self.schedules:
            schedule.attach(engine)
        before_s = 0.0
        if earlier is None:
            engine.curve.notes += found
            engine.curve.warnings += [turn] if turn else []
        else:
            engine.optimizer.load_state_dict(earlier["optimizer"])
            engine.state.epoch = earlier["epoch"]
            engine.state.iteration = earlier["epoch"] * len(loader)
            engine.curve = FitCurve(**earlier["curve"])
            before_s = engine.curve.seconds
            logger.info("going on from epoch %d of %s", earlier["epoch"], state_path)
        guard = _Guard(self, engine, watched, state_path, started, before_s, acquisition_fingerprint(acquisition))
        engine.add_event_handler(Events.EPOCH_COMPLETED, guard)
        with tqdm(
            total=self.max_epochs, initial=engine.state.epoch or 0, desc="fitting", unit="epoch",
            disable=None if self.progress else True,
        ) as bar:  # fmt: skip
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: _advance(bar, e))
            if (engine.state.epoch or 0) < self.max_epochs:
                engine.run()
        if isinstance(engine.optimizer, NonnegativeFista):
            engine.optimizer.settle()
        network.eval()
        engine.curve.seconds = before_s + time.perf_counter() - started
        if state_path is not None:
            state_path.unlink(missing_ok=True)
        return engine.curve

    def _scouted(self, network: AttenuationField, scan: Any, support: VesselSupport, device: Any) -> list[str]:
        """Settle what the network leaves to the scan."""
        short = ScanFitting(**{**self._arguments(), "max_epochs": min(self.max_epochs, _SHORT), "progress": False})
        short.held_out, short.check_turn = 0, False
        operator: SupportOperator | None = None
        found: list[str] = []
        while (scout := network.scout()) is not None:
            short.fit(scout, scan, device, support=support, operator=operator)
            network.operator = operator = scout.operator
            found.append(network.learn_from(scout, scan.times_s))
        return found

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def _divided(self, acquisition: Any) -> tuple[Any, Any]:
        if not self.held_out:
            return acquisition, None
        count = len(acquisition)
        if self.held_out > count // 3:
            raise ValueError(f"held_out must be at most a third of the {count} views, got {self.held_out}.")
        # in the middle of equal stretches, so neither the first nor the last
        out = ((np.arange(self.held_out) + 0.5) * count / self.held_out).astype(int)
        return acquisition.subset(np.setdiff1d(np.arange(count), out)), acquisition.subset(out)

    def _earlier(self, path: Path | None, acquisition: Any) -> dict[str, Any] | None:
        if path is None or not path.is_file():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a broken file brings up
            raise ValueError(f"{path} is no state of a fit ({error}): remove it.") from error
        if state["fingerprint"] != acquisition_fingerprint(acquisition) or state["options"] != self.plain():
            logger.warning("%s is of another scan or of other options: the fit begins anew", path)
            return None
        return state

    def plain(self) -> dict[str, Any]:
        """What decides the result, as text for files."""
        skipped = {"progress", "max_minutes", "check_turn", "save_every_s", "noise", "schedules"}
        found = {key: str(value) for key, value in vars(self).items() if key not in skipped}
        for schedule in self.schedules:
            settings = {k: v for k, v in vars(schedule).items() if k != "pulls"}
            found[type(schedule).__name__] = str(settings)
        return found


class _Guard:
    """After every epoch: watch the held-out views and the clock, and save the state."""

    def __init__(
        self,
        options: ScanFitting,
        engine: ScanFitter,
        watched: Any,
        path: Path | None,
        started: float,
        before_s: float,
        fingerprint: str,
    ) -> None:
        self.options, self.path, self.started, self.before_s = options, path, started, before_s
        self.fingerprint = fingerprint
        self.saved = time.perf_counter()
        self.watched = None if watched is None else ViewLoader(watched, 0, 0, engine.loader.image.device)

    def __call__(self, engine: ScanFitter) -> None:
        epoch, curve = engine.state.epoch, engine.curve
        if self.watched is not None and (epoch % 5 == 0 or epoch == self.options.max_epochs):
            batch = self.watched.batch(torch.arange(len(self.watched.image)))
            with torch.no_grad():
                seen = engine.network(batch["vectors"], batch["time"])
            curve.held_out[epoch] = float((seen - batch["image"]).norm() / batch["image"].norm())
            best = min(curve.held_out, key=curve.held_out.__getitem__)
            if epoch - best >= self.options.patience:
                curve.stopped = "held-out views"
                curve.notes.append(f"stopped after epoch {epoch}: the held-out views were best at epoch {best}")
                engine.terminate()
        seconds = time.perf_counter() - self.started
        limit = self.options.max_minutes
        if limit is not None and seconds > 60 * limit and epoch < self.options.max_epochs:
            curve.stopped = "time"
            curve.notes.append(
                f"stopped after {seconds / 60:.1f} minutes, at epoch {epoch} of {self.options.max_epochs}"
            )
            engine.terminate()
        if self.path is not None and time.perf_counter() - self.saved > self.options.save_every_s:
            curve.seconds = self.before_s + seconds
            self.save(engine)
            self.saved = time.perf_counter()

    def save(self, engine: ScanFitter) -> None:
        state = {
            "fingerprint": self.fingerprint,
            "options": self.options.plain(),
            "epoch": engine.state.epoch,
            "network": engine.network.saved(),  # type: ignore[operator]
            "optimizer": engine.optimizer.state_dict(),
            "noise": self.options.noise,
            "curve": {**vars(engine.curve)},
        }
        with new_file(self.path) as part:  # type: ignore[arg-type]
            torch.save(state, part)


def _advance(bar: Any, engine: ScanFitter) -> None:
    bar.update(1)
    bar.set_postfix(loss=f"{engine.curve.loss[-1]:.4g}", refresh=False)
