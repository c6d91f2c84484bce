"""SymmetricMoStDSA: what every network must do, and what its name promises."""

from __future__ import annotations

import pytest
import torch

from custom_nets.checkpoints import build_network, load_network, save_checkpoint
from custom_nets.networks import SymmetricMoStDSA
from custom_nets.networks.symmetric_most_dsa import antisymmetric, swap, warp
from tests.networks.contract import NetContract

ARCH = {"widths": [4, 6, 6, 8], "pair_width": 6, "time_width": 4}
EXACT = {"rtol": 0, "atol": 1e-5}


def lively(seed: int = 0) -> SymmetricMoStDSA:
    """A network in which everything moves: the heads that start at zero do not stay there."""
    torch.manual_seed(seed)
    network = SymmetricMoStDSA(**ARCH)
    for head in (network.preference, network.output, network.correction):
        torch.nn.init.normal_(head.weight, std=0.3)
        if head.bias is not None:
            torch.nn.init.normal_(head.bias, std=0.3)
    for motion in (network.bottom_motion, *(level.motion for level in network.levels)):
        torch.nn.init.normal_(motion.weight, std=0.3)
    return network.eval()


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def four(batch: int = 2, size: tuple[int, int] = (35, 50)) -> list[torch.Tensor]:
    """Frame before, frame 0, frame 1, frame after."""
    return [rand(batch, 1, *size, seed=seed) for seed in range(4)]


@pytest.fixture(scope="module")
def net() -> SymmetricMoStDSA:
    return lively()


class TestContract(NetContract):
    sizes = ((33, 50), (16, 16), (1, 5), (64, 48))

    def make(self):
        torch.manual_seed(3)
        network = SymmetricMoStDSA(**ARCH)
        for head in (network.preference, network.output):
            torch.nn.init.normal_(head.weight, std=0.1)
        return network

    def inputs(self, batch, size):
        return (rand(batch, 2, *size),)

    def out_shape(self, batch, size):
        return (batch, 1, *size)


@pytest.mark.parametrize("context", [False, True])
@torch.no_grad()
def test_time_may_run_either_way(net, context):
    before, frame0, frame1, after = four()
    times, nearness = torch.tensor([[0.2, 0.5, 0.9], [0.0, 0.31, 1.0]]), torch.tensor([[1.0, 0.4], [0.0, 0.7]])
    there = {"before": before, "after": after, "nearness": nearness} if context else {}
    back = {"before": after, "after": before, "nearness": nearness.flip(1)} if context else {}
    forth = net(frame0, frame1, times, **there)
    torch.testing.assert_close(net(frame1, frame0, 1 - times, **back), forth, **EXACT)
    assert (forth[0, 0] - forth[0, 2]).abs().max() > 1e-2, "different moments look different"


@pytest.mark.parametrize("context", [False, True])
@torch.no_grad()
def test_the_ends_are_the_measured_frames(net, context):
    before, frame0, frame1, after = four()
    there = {"before": before, "after": after} if context else {}
    pred = net(frame0, frame1, [0, 1], **there)
    torch.testing.assert_close(pred[:, 0], frame0, **EXACT)
    torch.testing.assert_close(pred[:, 1], frame1, **EXACT)


@torch.no_grad()
def test_moments_together_are_moments_alone(net):
    before, frame0, frame1, after = four()
    times = torch.tensor([[0.1, 0.5, 0.75], [0.3, 0.6, 0.9]])
    together = net(frame0, frame1, times, before, after)
    assert together.shape == (2, 3, 1, 35, 50)
    for k in range(3):
        torch.testing.assert_close(net(frame0, frame1, times[:, k : k + 1], before, after), together[:, k : k + 1])
    for row in range(2):
        pair = [x[row : row + 1] for x in (frame0, frame1)]
        outer = [x[row : row + 1] for x in (before, after)]
        torch.testing.assert_close(net(*pair, times[row], *outer)[0], together[row], **EXACT)


@torch.no_grad()
def test_forms_of_a_call(net):
    _, frame0, frame1, _ = four()
    wanted = net(frame0, frame1, torch.tensor([0.5]))
    for times in (0.5, [0.5], torch.full((2, 1), 0.5)):
        assert torch.equal(net(frame0, frame1, times), wanted)
    as_channels = net(torch.cat([frame0, frame1], 1))
    assert torch.equal(as_channels, wanted[:, :, 0])
    assert net(torch.cat([frame0, frame1], 1), timesteps=[0.2, 0.4]).shape == (2, 2, 35, 50)


@torch.no_grad()
def test_context_is_seen_and_its_absence_is_said_by_nearness(net):
    before, frame0, frame1, after = four()
    none = net(frame0, frame1)
    both = net(frame0, frame1, before=before, after=after)
    assert (both - none).abs().max() > 1e-3
    far = net(frame0, frame1, before=before, after=after, nearness=torch.tensor([[0.5, 1.0]] * 2))
    assert (far - both).abs().max() > 1e-5
    # a row without a frame beyond, in a batch where others have one
    mixed = net(
        frame0, frame1, before=torch.cat([before[:1], frame0[1:]]), after=torch.cat([after[:1], frame1[1:]]),
        nearness=torch.tensor([[1.0, 1.0], [0.0, 0.0]]),
    )  # fmt: skip
    torch.testing.assert_close(mixed[:1], both[:1], **EXACT)
    torch.testing.assert_close(mixed[1:], none[1:], **EXACT)


@torch.no_grad()
def test_an_untrained_network_is_the_blend():
    """What training starts from: gate in the middle, nothing added, hardly any motion."""
    torch.manual_seed(0)
    network = SymmetricMoStDSA(**ARCH).eval()
    frame0, frame1 = (torch.nn.functional.avg_pool2d(x, 9, 1, 4) for x in four()[:2])
    blend = 0.75 * frame0 + 0.25 * frame1
    assert (network(frame0, frame1, 0.25)[:, 0] - blend).abs().mean() < 5e-3


@torch.no_grad()
def test_odd_sizes_are_their_padded_pictures(net):
    """Padding repeats the border and is cut off again."""
    _, frame0, frame1, _ = four(1, (35, 50))
    padded = [torch.nn.functional.pad(x, (0, 14, 0, 13), mode="replicate") for x in (frame0, frame1)]
    torch.testing.assert_close(net(frame0, frame1), net(*padded)[..., :35, :50], **EXACT)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((rand(1, 3, 32, 32),), r"two frames as channels are needed, \[B, 2, H, W\], got \(1, 3, 32, 32\)"),
        ((rand(1, 2, 32),), "two frames as channels"),
        ((rand(1, 2, 32, 32), rand(1, 2, 32, 32)), r"frames must be \[B, 1, H, W\], got \(1, 2, 32, 32\)"),
        ((rand(1, 1, 32, 32), rand(1, 1, 32, 30)), "frames differ in shape"),
        ((rand(1, 1, 32, 32), rand(2, 1, 32, 32)), "frames differ in shape"),
        ((rand(1, 1, 32, 32), rand(1, 1, 32, 32), 0.5, rand(1, 1, 16, 16)), "frames differ in shape"),
        ((rand(1, 1, 32, 32), rand(1, 1, 32, 32), 1.5), "between 0 and 1"),
        ((rand(1, 1, 32, 32), rand(1, 1, 32, 32), [0.5, -0.1]), "between 0 and 1"),
        ((rand(1, 1, 32, 32), rand(1, 1, 32, 32), [float("nan")]), "between 0 and 1"),
    ],
)
def test_bad_inputs(net, arguments, message):
    with pytest.raises(ValueError, match=message):
        net(*arguments)


def test_a_gradient_reaches_every_weight_through_all_inputs(net):
    network = lively(1).train()
    before, frame0, frame1, after = (x.requires_grad_() for x in four())
    network(frame0, frame1, [0.25, 0.6], before, after).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(x.grad.abs().max() > 0 for x in (before, frame0, frame1, after))


@torch.no_grad()
def test_half_precision_keeps_the_ends(net):
    before, frame0, frame1, after = four()
    with torch.autocast("cpu", torch.bfloat16):
        pred = net(frame0, frame1, [0, 0.5, 1], before, after).float()
    assert torch.isfinite(pred).all()
    torch.testing.assert_close(pred[:, 0], frame0, rtol=0, atol=1e-2)
    torch.testing.assert_close(pred, net(frame0, frame1, [0, 0.5, 1], before, after), rtol=0, atol=0.15)


@torch.no_grad()
def test_exported_network_takes_moments(net):
    script = torch.jit.script(net)
    assert type(net) is SymmetricMoStDSA, "the network itself stays what it was"
    for size in ((35, 50), (16, 20)):
        image = rand(2, 2, *size)
        torch.testing.assert_close(script(image), net(image), **EXACT)
        torch.testing.assert_close(script(image, torch.tensor([0.1, 0.7])), net(image, timesteps=[0.1, 0.7]), **EXACT)
    with pytest.raises(Exception, match="two frames as channels"):
        script(rand(1, 3, 16, 16))
    with pytest.raises(Exception, match="between 0 and 1"):
        script(rand(1, 2, 16, 16), torch.tensor([2.0]))


def test_checkpoint(net, tmp_path):
    save_checkpoint(tmp_path / "model.pt", net, {"name": "SymmetricMoStDSA", **ARCH})
    again = load_network(tmp_path / "model.pt")
    image = rand(1, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(image), net(image))
    with pytest.raises(ValueError, match="cannot be built"):
        build_network({"name": "SymmetricMoStDSA", "width": 3})


# ---- parts ----


def test_warp_moves_by_whole_and_half_pixels():
    image = rand(1, 2, 8, 9)
    flow = torch.zeros(1, 2, 8, 9)
    assert torch.allclose(warp(image, flow), image, atol=1e-6)
    flow[:, 0], flow[:, 1] = 2, -1
    torch.testing.assert_close(warp(image, flow)[..., 1:, :-2], image[..., :-1, 2:], atol=1e-5, rtol=0)
    flow[:, 0], flow[:, 1] = 0.5, 0
    middle = (image[..., :-1] + image[..., 1:]) / 2
    torch.testing.assert_close(warp(image, flow)[..., :-1], middle, atol=1e-5, rtol=0)


def test_sides():
    sides = rand(4, 3)
    assert torch.equal(swap(sides), torch.cat([sides[2:], sides[:2]]))
    torch.testing.assert_close(swap(antisymmetric(sides)), -antisymmetric(sides))
