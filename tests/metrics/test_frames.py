"""PSNR and SSIM of frames: known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from custom_nets.metrics.frames import frame_psnr, frame_ssim, ssim_map, ssim_matlab


def two(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(shape, generator=generator)
    return a, (a + 0.2 * torch.rand(shape, generator=generator)).clamp(0, 1)


def test_psnr():
    a = torch.zeros(2, 3, 1, 8, 8)
    b = a + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(frame_psnr(a, b), torch.tensor([[20.0] * 3, [40.0] * 3]).double())
    assert float(frame_psnr(255 * a[0, 0], 255 * b[0, 0], 255)) == pytest.approx(20)
    assert float(frame_psnr(a[0, 0], a[0, 0])) == float("inf")


def test_ssim_of_one_channel_is_scikit_images_but_for_the_border():
    from skimage.metrics import structural_similarity

    a, b = two((1, 40, 40))
    _, wanted = structural_similarity(
        a[0].double().numpy(),
        b[0].double().numpy(),
        data_range=1.0,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    assert float(frame_ssim(a, b)) == pytest.approx(float(np.mean(wanted)), abs=0.005)  # it mirrors, we repeat
    torch.testing.assert_close(ssim_matlab(a, b), frame_ssim(a, b))
    torch.testing.assert_close(ssim_matlab(a.expand(3, -1, -1), b.expand(3, -1, -1)), frame_ssim(a, b))


def test_ssim_of_each_frame_by_itself():
    a, b = two((2, 3, 3, 20, 24))
    for function in (frame_ssim, ssim_matlab, frame_psnr):
        together = function(a, b)
        assert together.shape == (2, 3) and together.dtype == torch.float64
        torch.testing.assert_close(together[1, 2], function(a[1, 2], b[1, 2]))
    torch.testing.assert_close(ssim_matlab(a, a), torch.ones(2, 3).double())
    assert ssim_matlab(a, b).min() > 0.5


def test_the_map_of_one_channel_is_that_of_the_volume():
    """The fast way for a single slice against the published one, which repeats the channel along the depth."""
    a, b = two((1, 24, 18))
    found = ssim_map(a, b)
    assert found.shape == a.shape
    torch.testing.assert_close(found.mean((-3, -2, -1)), ssim_matlab(a.repeat(3, 1, 1), b.repeat(3, 1, 1)))
    far = b.clone()
    far[:, :, 17] += 0.3  # a change does not reach beyond the window of 11
    torch.testing.assert_close(ssim_map(a, far)[..., :12], found[..., :12])
    assert (ssim_map(a, far)[..., 12:] != found[..., 12:]).all()


def test_the_published_guess_of_the_data_range():
    a, b = two((3, 16, 16))
    torch.testing.assert_close(ssim_matlab(255 * a, 255 * b), ssim_matlab(a, b))
    torch.testing.assert_close(ssim_matlab(2 * a - 1, 2 * b - 1), ssim_matlab(2 * a - 1, 2 * b - 1, data_range=2))
    torch.testing.assert_close(frame_ssim(255 * a, 255 * b, 255), frame_ssim(a, b))


def test_small_frames_and_wrong_ones():
    a, b = two((3, 5, 9))
    assert 0 < float(ssim_matlab(a, b)) < 1
    with pytest.raises(ValueError, match=r"of one shape, got \(3, 5, 9\) and \(3, 5, 8\)"):
        ssim_matlab(a, b[..., :8])
    with pytest.raises(ValueError, match=r"got \(5, 9\) and \(5, 9\)"):
        frame_psnr(a[0], b[0])
