import numpy as np
import pytest

from custom_nets.metrics.flicker import brightness_jump, error_gradient


@pytest.fixture
def truth():
    return np.random.default_rng(0).random((20, 22, 24))


def test_a_constant_error_does_not_flicker(truth):
    for axis in range(3):
        assert error_gradient(truth + 3, truth, axis=axis) == pytest.approx(0, abs=1e-12)
        assert brightness_jump(truth + 3, truth, axis=axis) == pytest.approx(0, abs=1e-12)


def test_slices_that_are_brighter_in_turn_jump_along_their_axis_only(truth):
    image = truth.copy()
    image[:, :, ::2] += 0.5
    assert brightness_jump(image, truth, axis=2) == pytest.approx(0.5)
    assert error_gradient(image, truth, axis=2) == pytest.approx(0.5)
    assert brightness_jump(image, truth, axis=0) == pytest.approx(0, abs=1e-12)


def test_noise_has_a_gradient_but_hardly_a_jump(truth):
    image = truth + np.random.default_rng(1).normal(0, 1, truth.shape)
    assert error_gradient(image, truth, axis=1) == pytest.approx(2 / np.sqrt(np.pi), rel=0.05)
    assert brightness_jump(image, truth, axis=1) < 0.15


def test_the_mask_bounds_what_is_seen(truth):
    mask = np.zeros(truth.shape, bool)
    mask[5:15, 5:15, 5:15] = True
    image = truth + np.where(mask, 1.0, np.random.default_rng(2).normal(0, 50, truth.shape))
    assert error_gradient(image, truth, mask) == pytest.approx(0, abs=1e-12)
    assert brightness_jump(image, truth, mask) == pytest.approx(0, abs=1e-12)


def test_bad_inputs_are_named(truth):
    with pytest.raises(ValueError, match="axis must be 0, 1 or 2, got 3"):
        error_gradient(truth, truth, axis=3)
    lone = np.zeros(truth.shape, bool)
    lone[3, 3, 3] = True
    with pytest.raises(ValueError, match="no two neighbours along axis 1"):
        brightness_jump(truth, truth, lone, axis=1)
