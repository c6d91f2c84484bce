"""The estimator of the blur: fitted to drawn scans by its command, and what ships with the package is good."""

from __future__ import annotations

import numpy as np
import torch

from custom_nets.apps.fit_blur_estimator import fit
from custom_nets.inferers.measured_blur import _estimator
from custom_nets.operators.blur_estimate import NUM_FEATURES, spectral_features
from custom_nets.operators.slice_profile import degrade


def test_a_fit_finds_mean_and_spread():
    torch.manual_seed(0)
    features = torch.randn(2000, NUM_FEATURES)
    wanted = torch.stack([features[:, 0], features[:, 1]], 1).sigmoid()
    true = (wanted + 0.1 * torch.randn(2000, 2)).clamp(0, 1)
    with torch.no_grad():
        mean, std = fit(features, true, epochs=15)(features).unbind(1)
    assert (mean - wanted).abs().mean() < 0.08 and 0.05 < std.mean() < 0.2


def test_features_do_not_know_intensities_and_see_a_filter():
    rng = np.random.default_rng(0)
    fine = torch.as_tensor(rng.random((96, 96, 96))).float()
    sharp, soft = (degrade(fine, (48, 48, 48), p) for p in ("kspace", "kspace_hann"))
    described = spectral_features(sharp, 1, [2, 2, 2])
    assert described.shape == (NUM_FEATURES,) and described.dtype == np.float32
    np.testing.assert_allclose(spectral_features(7 * sharp + 3, 1, [2, 2, 2]), described, atol=1e-3)
    fall = spectral_features(soft, 1, [2, 2, 2]) - described
    assert fall[33] < -2 < fall[0]  # the highest band along the axis lost most
    assert spectral_features(sharp[:20], 1, [2, 2, 2]) is None
    assert spectral_features(torch.zeros(30, 30, 30), 0, [1, 1, 1]) is None
    with torch.no_grad():
        (_, hann), _ = _estimator()(torch.from_numpy(spectral_features(soft, 1, [2, 2, 2]))[None])[0]
    assert float(hann) < 0.3
