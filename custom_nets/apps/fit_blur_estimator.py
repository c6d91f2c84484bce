"""The estimator of a scan's blur, fitted anew.

    python -m custom_nets.apps.fit_blur_estimator TRAIN.json DATA estimator.pt --draws 3000

Measures the training heads of ``DATA`` over and over as a configuration does that trains on points of drawn scans,
with every kind of blur at every scale, describes what was measured by its spectra, and fits the few thousand weights
of :class:`custom_nets.networks.BlurEstimator` to the blur that was drawn. Prints the error on draws that were kept back
and on the validation head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from tqdm import tqdm

from custom_nets.checkpoints import save_checkpoint
from custom_nets.networks import BlurEstimator
from custom_nets.operators.blur_estimate import NUM_FEATURES, spectral_features
from custom_nets.transforms.degradation import RandAcquisition
from custom_nets.utils.commands import CommandParser

__all__ = ["draw_examples", "fit"]


def draw_examples(config: ConfigParser, part: int, draws: int, smooth: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, F] and transfers [N, 2] of ``draws`` scans, one example for each axis that was made coarser.

    Args:
        config: a training configuration with ``split``, and ``train#preprocessing`` that gives ``image`` and ``mtf``.
        part: 0 for the training subjects, 1 for those of validation.
        draws: how many.
        smooth: share of the truths that are smoothed before they are measured.
    """
    subjects = config.get_parsed_content("split")[part]
    transforms = config.get_parsed_content("train#preprocessing").transforms
    acquisition = next(t for t in transforms if isinstance(t, RandAcquisition))
    acquisition.smooth, acquisition.unknown = smooth, 0.0
    loaded = [transforms[0](dict(subject)) for subject in subjects]
    weights = np.array([subject.get("weight", 1.0) for subject in subjects])
    random = np.random.RandomState(part)
    for transform in transforms[1:]:
        if hasattr(transform, "set_random_state"):
            transform.set_random_state(seed=int(random.randint(2**31)))
    features, transfers = [], []
    for _ in tqdm(range(draws), desc=("training", "validation")[part], unit="scan"):
        scan = dict(loaded[random.choice(len(loaded), p=weights / weights.sum())])
        for transform in transforms[1:]:
            scan = transform(scan)
        for axis, scale in enumerate(scan["scale"].tolist()):
            found = spectral_features(scan["image"][0], axis, scan["scale"].tolist()) if scale > 1.2 else None
            if found is not None:
                features.append(torch.from_numpy(found))
                transfers.append(scan["mtf"][axis])
    return torch.stack(features), torch.stack(transfers)


@torch.enable_grad()
def fit(features: torch.Tensor, transfers: torch.Tensor, epochs: int = 60) -> BlurEstimator:
    """Fit mean and standard deviation by their likelihood: features [N, F], transfers [N, 2]."""
    network = BlurEstimator(NUM_FEATURES)
    network.centre.copy_(features.mean(0))
    network.spread.copy_(features.std(0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3)
    steps = epochs * (len(features) // 128 + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(features)).split(128):
            if schedule.last_epoch >= steps:
                break
            mean, std = network(features[chosen] + 0.05 * torch.randn(len(chosen), features.shape[1])).unbind(1)
            loss = torch.nn.functional.gaussian_nll_loss(mean, transfers[chosen], std**2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.apps.fit_blur_estimator CONFIG DATA OUT``"""
    parser = CommandParser(prog="python -m custom_nets.apps.fit_blur_estimator", description=__doc__.split("\n")[0])
    parser.add_argument("config", help="training configuration with RandDegradeCropd")
    parser.add_argument("dataset_dir")
    parser.add_argument("out")
    parser.add_argument("--draws", type=int, default=3000)
    parser.add_argument("--validation_draws", type=int, default=300)
    parser.add_argument("--smooth", type=float, default=0.25, help="share of smoothed truths")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    set_determinism(options.seed)
    config = ConfigParser()
    config.read_config(options.config)
    config.update({"dataset_dir": options.dataset_dir, "patch_size": 48, "num_points": 1})
    features, transfers = draw_examples(config, 0, options.draws, options.smooth)
    kept = len(features) // 10
    network = fit(features[kept:], transfers[kept:])
    checked = {"draws kept back": (features[:kept], transfers[:kept])}
    if options.validation_draws:
        checked["validation head"] = draw_examples(config, 1, options.validation_draws, 0.0)
    for name, (described, true) in checked.items():
        with torch.no_grad():
            mean, std = network(described).unbind(1)
        half, whole = (mean - true).abs().mean(0).tolist()
        print(f"{name}: mean absolute error {half:.3f} at half, {whole:.3f} at Nyquist; said {std[:, 1].mean():.3f}")
    save_checkpoint(options.out, network, {"name": "BlurEstimator", "features": NUM_FEATURES})


if __name__ == "__main__":
    main()
