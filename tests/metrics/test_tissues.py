import numpy as np
import pytest

from custom_nets.metrics.tissues import segment_tissues, tissue_dice, tissue_volumes_ml

pytest.importorskip("dipy")
LEVELS = {1: 30.0, 2: 70.0, 3: 110.0}


def phantom(noise=0.0, seed=0, shift=0):
    """Nested balls of three levels on zeros [40, 36, 38], their labels, and the mask."""
    at = np.stack(np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in (40, 36, 38)), indexing="ij"))
    at[2] -= shift
    radius = np.sqrt((at**2).sum(0))
    labels = np.select([radius < 10, radius < 13.5, radius < 16], [3, 2, 1], 0)
    volume = np.select([labels == k for k in LEVELS], list(LEVELS.values()), 0.0)
    rng = np.random.default_rng(seed)
    return np.where(labels > 0, volume + rng.normal(0, noise, volume.shape), 0), labels, labels > 0


def test_three_noisy_levels_are_found_with_their_volumes():
    volume, labels, mask = phantom(noise=10)
    found = segment_tissues(volume, mask)
    assert min(tissue_dice(found, labels).values()) > 0.97
    truth_ml, ml = (tissue_volumes_ml(x, (1, 1, 2)) for x in (labels, found))
    assert truth_ml["wm"] == pytest.approx((labels == 3).sum() * 2 / 1000)
    assert ml == pytest.approx(truth_ml, rel=0.05)
    assert sum(ml.values()) == pytest.approx(mask.sum() * 2 / 1000)


def test_the_map_is_deterministic_and_has_no_unit():
    volume, _, mask = phantom(noise=10)
    found = segment_tissues(volume, mask)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, segment_tissues(volume, mask))
    np.testing.assert_array_equal(found, segment_tissues(volume * 0.004, mask))
    outside = volume + np.where(mask, 0, 500)  # what lies outside of the mask is not seen
    np.testing.assert_array_equal(found, segment_tissues(outside, mask))


def test_dice_of_shifted_boxes():
    a, b = np.zeros((10, 10, 10), np.uint8), np.zeros((10, 10, 10), np.uint8)
    a[2:6], b[3:7] = 3, 3
    assert tissue_dice(a, b) == pytest.approx({"csf": 1.0, "gm": 1.0, "wm": 0.75, "mean": 2.75 / 3})
    assert tissue_dice(a, a)["mean"] == 1.0


def test_what_cannot_be_segmented_is_refused():
    volume, labels, mask = phantom()
    with pytest.raises(ValueError, match="T1-weighted scans only, got contrast 'FLAIR'"):
        segment_tissues(volume, mask, "FLAIR")
    with pytest.raises(ValueError, match="intensities in the mask go from 0 to 0"):
        segment_tissues(np.zeros_like(volume), mask)
    with pytest.raises(ValueError, match="mask is empty"):
        segment_tissues(volume, np.zeros_like(mask))
    with pytest.raises(ValueError, match="one shape"):
        tissue_dice(labels, labels[1:])
