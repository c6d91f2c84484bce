import numpy as np
import pytest
import torch
from monai.handlers import IgniteMetricHandler
from monai.metrics import SSIMMetric

from custom_nets.metrics import image_quality as iq


@pytest.fixture
def pair():
    """A bright box with structure on zeros [24, 20, 22], and a noisy copy."""
    rng = np.random.default_rng(0)
    truth = np.zeros((24, 20, 22), np.float32)
    truth[4:20, 4:16, 3:18] = 100 + 50 * rng.random((16, 12, 15), dtype=np.float32)
    return truth + rng.normal(0, 5, truth.shape).astype(np.float32), truth


def test_known_answers():
    truth = np.zeros((12, 12, 12))
    truth[3:9, 3:9, 3:9] = 100.0
    mask = truth > 0
    off = truth.copy()
    off[mask] += 1.0
    # range 100, mse 1 inside the mask: 40 dB; outside the error is 0
    assert iq.masked_psnr(off, truth, mask, data_range=100) == pytest.approx(40)
    assert iq.published_psnr(truth + 1, truth) == pytest.approx(40)
    assert iq.mae(off, truth, mask) == pytest.approx(1)
    assert iq.mae(off, truth) == pytest.approx(mask.mean())
    assert iq.nrmse(off, truth, mask) == pytest.approx(0.01)
    assert iq.masked_ssim(truth, truth, mask, data_range=100) == pytest.approx(1)


def test_units_do_not_matter(pair):
    image, truth = pair
    mask = iq.brain_mask(truth)
    for measure in (iq.masked_psnr, iq.masked_ssim, iq.nrmse):
        assert measure(image * 1e3, truth * 1e3, mask) == pytest.approx(measure(image, truth, mask), rel=1e-4)


def test_errors_outside_the_mask_do_not_count(pair):
    image, truth = pair
    mask = iq.brain_mask(truth)
    worse = np.where(mask, image, 1e4)
    for measure in (iq.masked_psnr, iq.nrmse, iq.mae):
        assert measure(worse, truth, mask) == measure(image, truth, mask)


def test_ssim_agrees_with_monai_and_with_the_map_of_the_whole_volume(pair):
    image, truth = pair
    data_range = iq.robust_range(truth)
    monai = SSIMMetric(spatial_dims=3, data_range=data_range)(
        torch.from_numpy(image)[None, None], torch.from_numpy(truth)[None, None]
    )
    assert iq.masked_ssim(image, truth) == pytest.approx(monai.item(), abs=1e-5)

    from skimage.metrics import structural_similarity

    _, ssim = structural_similarity(
        truth, image, data_range=100.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    small = np.zeros(truth.shape, bool)
    small[0, 1, 20] = small[9:11, 8, 9] = True
    assert iq.masked_ssim(image, truth, small, 100.0) == pytest.approx(ssim[small].mean(), abs=1e-5)


def test_robust_range_is_the_stated_percentiles(pair):
    _, truth = pair
    mask = truth > 0
    spiked = truth.copy()
    spiked[10, 10, 10] = 1e5
    expected = np.subtract(*np.percentile(truth[mask], (99.9, 0.1)))
    assert iq.robust_range(truth, mask) == pytest.approx(expected)
    assert iq.robust_range(spiked, mask, (1, 99)) < 60


def test_brain_mask_is_the_largest_piece_filled(pair):
    _, truth = pair
    truth[10:12, 9:11, 9:11] = 0  # a hole
    truth[0:2, 0:2, 0:2] = 500  # an artificial ball outside
    expected = np.zeros(truth.shape, bool)
    expected[4:20, 4:16, 3:18] = True
    assert (iq.brain_mask(truth) == expected).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: iq.masked_psnr(v[0], v), "volume"),
        (lambda v: iq.published_psnr(v[1:], v), "one shape"),
        (lambda v: iq.mae(v, v, np.zeros(v.shape)), "empty"),
        (lambda v: iq.mae(v, v, np.ones((2, 2, 2))), "shape of the truth"),
        (lambda v: iq.brain_mask(np.ones_like(v)), "constant"),
        (lambda v: iq.masked_psnr(v, np.ones_like(v)), "constant"),
        (lambda v: iq.masked_ssim(v[:8], v[:8]), "at least 11"),
        (lambda v: iq.published_ssim(v[:5], v[:5]), "at least 7"),
        (lambda v: iq.nrmse(v, np.zeros_like(v)), "zero"),
    ],
)
def test_bad_inputs_are_named(pair, call, message):
    with pytest.raises(ValueError, match=message):
        call(pair[1])


@pytest.mark.parametrize("metric", [iq.PublishedPSNR, iq.PublishedSSIM, iq.MaskedPSNR, iq.MaskedSSIM])
def test_metric_classes_reduce_over_the_batch(pair, metric):
    image, truth = (torch.from_numpy(a)[None] for a in pair)
    values = metric()
    values(torch.stack([image, image + 1]), torch.stack([truth, truth]))
    buffer = values.get_buffer()
    assert buffer.shape == (2, 1)
    assert values.aggregate().item() == pytest.approx(buffer.mean().item())


def test_infinite_values_are_counted_and_left_out_of_the_mean(pair):
    image, truth = (torch.from_numpy(a)[None, None] for a in pair)
    metric = iq.PublishedPSNR(get_not_nans=True)
    metric(image, truth)
    metric(truth, truth)
    mean, count = metric.aggregate()
    assert mean.item() == pytest.approx(iq.published_psnr(*pair), rel=1e-6)
    assert (count.item(), metric.infinite) == (1, 1)
    assert torch.isinf(metric.get_buffer()).sum() == 1

    only = iq.PublishedPSNR()
    only(truth, truth)
    assert only.aggregate().item() == float("inf")


def test_works_as_an_ignite_key_metric(pair):
    from ignite.engine import Engine

    image, truth = (torch.from_numpy(a)[None] for a in pair)
    engine = Engine(lambda engine, batch: [{"pred": image, "label": truth}])
    from monai.handlers import from_engine

    IgniteMetricHandler(iq.MaskedPSNR(), output_transform=from_engine(["pred", "label"])).attach(engine, "brain_psnr")
    engine.run([0, 1])
    expected = iq.masked_psnr(*pair, iq.brain_mask(pair[1]))
    assert engine.state.metrics["brain_psnr"] == pytest.approx(expected, rel=1e-5)
