"""SymmetricMoStDSA: what every network must do, and what its name promises."""

from __future__ import annotations

import pytest
import torch

from custom_nets.checkpoints import build_network, load_network, load_pretrained, save_checkpoint
from custom_nets.networks import SymmetricMoStDSA
from custom_nets.networks.symmetric_most_dsa import antisymmetric, bend, places, sample, swap, warp
from tests.networks.contract import NetContract

ARCH = {"widths": [4, 6, 6, 8], "pair_width": 6, "time_width": 4}
EXACT = {"rtol": 0, "atol": 1e-5}
MODES = ("bilinear", "bicubic")


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


# ---- a motion that is given, and several motions ----


def layered(motions: int, seed: int = 0, **kwargs) -> SymmetricMoStDSA:
    """A network that starts from a given motion, in which every layer does something."""
    torch.manual_seed(seed)
    network = SymmetricMoStDSA(**ARCH, flow=True, motions=motions, **kwargs)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.2)
    return network.eval()


def flows(batch: int = 2, size: tuple[int, int] = (35, 50), px: float = 3.0) -> torch.Tensor:
    coarse = px * torch.randn(batch, 8, 6, 8, generator=torch.Generator().manual_seed(9))
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")


@pytest.mark.parametrize("motions, cubic", [(1, False), (2, False), (3, False), (1, True), (3, True)])
@torch.no_grad()
def test_time_may_run_either_way_along_given_motions(motions, cubic):
    network = layered(motions, cubic=cubic)
    before, frame0, frame1, after = four()
    times, nearness, flow = torch.tensor([[0.2, 0.5, 0.9], [0.0, 0.31, 1.0]]), torch.rand(2, 2), flows()
    forth = network(frame0, frame1, times, before, after, nearness, flow)
    turned = torch.cat([flow[:, 2:4], flow[:, :2], flow[:, 6:], flow[:, 4:6]], dim=1)
    back = network(frame1, frame0, 1 - times, after, before, nearness.flip(1), turned)
    torch.testing.assert_close(back, forth, rtol=0, atol=2e-4)
    assert (forth - network(frame0, frame1, times, before, after, nearness)).abs().max() > 1e-2, "the flow matters"
    ends = network(frame0, frame1, [0, 1], before, after, nearness, flow)
    torch.testing.assert_close(ends[:, 0], frame0, **EXACT)
    torch.testing.assert_close(ends[:, 1], frame1, **EXACT)


@pytest.mark.parametrize("motions, cubic", [(2, False), (3, False), (3, True)])
@torch.no_grad()
def test_moments_of_layers_together_are_moments_alone(motions, cubic):
    network, flow = layered(motions, cubic=cubic), flows()
    before, frame0, frame1, after = four()
    times = torch.tensor([0.1, 0.5, 0.75])
    together = network(frame0, frame1, times, before, after, flow_px=flow)
    for k in range(3):
        alone = network(frame0, frame1, times[k : k + 1], before, after, flow_px=flow)
        torch.testing.assert_close(alone, together[:, k : k + 1], rtol=0, atol=2e-4)
    with torch.enable_grad():  # all moments in one batch
        batched = network(frame0, frame1, times, before, after, flow_px=flow)
    torch.testing.assert_close(batched.detach(), together, rtol=0, atol=2e-4)


@torch.no_grad()
def test_the_weights_of_one_motion_start_several(tmp_path):
    """Nothing is taken of further motions before they are trained: the picture is that of one motion."""
    one = layered(1)
    save_checkpoint(tmp_path / "model.pt", one, {"name": "SymmetricMoStDSA", **ARCH, "flow": True})
    _, frame0, frame1, _ = four()
    for motions in (2, 3):
        several = load_pretrained(SymmetricMoStDSA(**ARCH, flow=True, motions=motions), tmp_path / "model.pt").eval()
        found, wanted = (net(frame0, frame1, [0.3, 0.5], flow_px=flows()) for net in (several, one))
        torch.testing.assert_close(found, wanted, **EXACT)
    with pytest.raises(ValueError, match="unexpected keys"):
        load_pretrained(SymmetricMoStDSA(**ARCH), save(tmp_path / "three.pt", layered(3), motions=3))


def save(path, network, **arch):
    save_checkpoint(path, network, {"name": "SymmetricMoStDSA", **ARCH, "flow": True, **arch})
    return path


@torch.no_grad()
def test_one_motion_without_a_start_is_the_network_as_it_was(net):
    same = SymmetricMoStDSA(**ARCH, flow=False, motions=1).eval()
    same.load_state_dict(net.state_dict())
    before, frame0, frame1, after = four()
    wanted = net(frame0, frame1, 0.3, before, after)
    assert torch.equal(same(frame0, frame1, 0.3, before, after), wanted)
    assert torch.equal(same(frame0, frame1, 0.3, before, after, flow_px=flows()), wanted), "it takes no flow"


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_an_untrained_network_is_what_the_given_flow_makes(mode):
    """It starts as warp and blend along the flow, and cannot be far below it."""
    torch.manual_seed(0)
    network = SymmetricMoStDSA(**ARCH, flow=True, motions=3, cubic=mode == "bicubic").eval()
    torch.nn.init.constant_(network.output.bias[:4], 20.0)  # the gate: all follows the motion
    torch.nn.init.constant_(network.trust.bias, 50.0)
    for motion in (network.bottom_motion, *(level.motion for level in network.levels)):
        torch.nn.init.zeros_(motion.weight)
    frame0, frame1 = (torch.nn.functional.avg_pool2d(x, 5, 1, 2) for x in four(1, (64, 96))[:2])
    flow = torch.nn.functional.avg_pool2d(flows(1, (64, 96)), 3, 1, 1)
    for t in (0.25, 0.5):
        ways = ((frame0, t * flow[:, 2:4]), (frame1, (1 - t) * flow[:, :2]))
        sides = [sample(frame, places(way), mode) for frame, way in ways]
        wanted = torch.lerp(*sides, t)
        torch.testing.assert_close(network(frame0, frame1, t, flow_px=flow)[:, 0], wanted, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_flow_that_explains_nothing_is_not_believed():
    network = SymmetricMoStDSA(**ARCH, flow=True).eval()
    frame = torch.nn.functional.avg_pool2d(rand(1, 1, 64, 96), 5, 1, 2)
    flow = torch.zeros(2, 4, 64, 96)  # to the other frame, and back to the one beyond: by 4 pixels each
    flow[0, 0], flow[1, 0], flow[0, 2], flow[1, 2] = 4, -4, -4, 4
    stops = flow * torch.tensor([1.0, 1, -1, 1]).reshape(1, 4, 1, 1)
    there, elsewhere = torch.cat([frame, torch.roll(frame, 4, 3)]), torch.cat([frame, frame])
    near = torch.ones(2)

    def share(*arguments):
        return float(network._trusted(*arguments)[..., 8:-8].mean())

    assert share(there, flow, near) > 0.95
    assert share(there, flow, 0 * near) > 0.9, "nothing is known beyond"
    assert share(elsewhere, flow, near) < 0.05
    assert share(there, stops, near) < share(there, flow, near) - 0.2, "motion goes on"


@torch.no_grad()
def test_layers_that_cross_add_up():
    """Two vessels that lie over one another in the middle: what both frames have along each motion is its layer."""
    from custom_nets.networks.symmetric_most_dsa import _layers

    ground = torch.full((1, 1, 8, 32), 0.8)

    def picture(*columns: int) -> torch.Tensor:
        image = ground.clone()
        for column in columns:
            image[..., column : column + 2] -= 0.2
        return image

    start, end = picture(8, 16), picture(16, 8)  # one goes right, one goes left, by 8; both are at 12 in the middle
    right, left = (torch.cat([torch.roll(start, s, 3), torch.roll(end, -s, 3)]) for s in (4, -4))
    t = torch.tensor([0.5]).reshape(1, 1, 1, 1)
    overlap, layer, _ = _layers(right, [left], ground, t).unbind(1)
    first = (right[:1] + right[1:]) / 2
    together = first[:, 0] + (overlap + layer) / 4
    torch.testing.assert_close(together, picture(12, 12)[:, 0])


def test_a_gradient_reaches_every_weight_of_every_layer():
    network = layered(3, 1).train()
    before, frame0, frame1, after = four()
    network(frame0, frame1, [0.25, 0.6], before, after, flow_px=flows()).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


@pytest.mark.parametrize("motions", [0, 4, 2.5])
def test_bad_numbers_of_motions(motions):
    with pytest.raises(ValueError, match="motions must be 1, 2 or 3"):
        SymmetricMoStDSA(**ARCH, motions=motions)


def test_a_flow_of_another_shape():
    with pytest.raises(ValueError, match=r"flow_px must be \[B, 8, H, W\]"):
        layered(1)(rand(1, 1, 32, 32), rand(1, 1, 32, 32), flow_px=torch.zeros(1, 4, 32, 32))


@pytest.mark.parametrize("cubic", [False, True])
@torch.no_grad()
def test_a_layered_network_is_exported_without_its_start(cubic):
    network = layered(3, cubic=cubic)
    script, image = torch.jit.script(network), rand(1, 2, 35, 50)
    torch.testing.assert_close(script(image), network(image), **EXACT)


# ---- the C-arm's turn ----

TURN = torch.tensor([[9.0, -4.0, 1.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("motions", [1, 3])
@torch.no_grad()
def test_time_may_run_either_way_while_the_arm_turns(motions):
    network = layered(motions, angles=True)
    before, frame0, frame1, after = four()
    times, nearness = torch.tensor([[0.2, 0.5, 0.9], [0.0, 0.31, 1.0]]), torch.rand(2, 2)
    flow = flows()
    turned = torch.cat([flow[:, 2:4], flow[:, :2], flow[:, 6:], flow[:, 4:6]], dim=1)
    for there, back_again in ((flow, turned), (None, None)):
        forth = network(frame0, frame1, times, before, after, nearness, there, TURN)
        other_way = TURN * torch.tensor([-1.0, -1.0, 1.0])
        back = network(frame1, frame0, 1 - times, after, before, nearness.flip(1), back_again, other_way)
        torch.testing.assert_close(back, forth, rtol=0, atol=2e-4)
        for other in (other_way, None):
            told = network(frame0, frame1, times, before, after, nearness, there, other)
            assert (forth[:1] - told[:1]).abs().max() > 1e-2, "the turn matters"
        assert (forth[1] - told[1]).abs().max() > 1e-2, "so does that the arm stands"
        ends = network(frame0, frame1, [0, 1], before, after, nearness, there, TURN)
        torch.testing.assert_close(ends[:, 0], frame0, **EXACT)
        torch.testing.assert_close(ends[:, 1], frame1, **EXACT)


@torch.no_grad()
def test_a_turn_that_is_unknown_is_none():
    network, (_, frame0, frame1, _) = layered(3, angles=True), four()
    none = network(frame0, frame1, 0.3, flow_px=flows())
    assert torch.equal(network(frame0, frame1, 0.3, flow_px=flows(), turn=torch.zeros(2, 3)), none)
    mixed = network(frame0, frame1, 0.3, flow_px=flows(), turn=TURN * torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(mixed[1:], none[1:], **EXACT)
    image = torch.cat([frame0, frame1], 1)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image), **EXACT)
    with pytest.raises(ValueError, match=r"turn must be \[B, 3\]"):
        network(frame0, frame1, 0.3, turn=torch.zeros(3))


@pytest.mark.parametrize("motions", [1, 3])
@torch.no_grad()
def test_weights_that_know_no_turn_start_those_that_do(tmp_path, motions):
    path = save(tmp_path / "model.pt", layered(motions), motions=motions)
    plain = load_network(path)
    told = load_pretrained(SymmetricMoStDSA(**ARCH, flow=True, motions=motions, angles=True), path).eval()
    before, frame0, frame1, after = four()
    given = frame0, frame1, [0.3, 0.5], before, after, None, flows()
    for turn in (TURN, None):
        assert torch.equal(told(*given, turn), plain(*given))
    assert torch.equal(plain(*given, TURN), plain(*given)), "it takes no turn"
    with pytest.raises(ValueError, match="unexpected keys"):
        load_pretrained(plain, save(tmp_path / "told.pt", told, motions=motions, angles=True))


@torch.no_grad()
def test_a_further_motion_is_that_of_its_depth():
    """A depth of one unit beside what stands still: the further motions are the turn's, to and fro."""
    network = SymmetricMoStDSA(**ARCH, motions=3, angles=True).eval()
    torch.nn.init.zeros_(network.layer_motion.weight)
    network.turn_depth.weight[:, :, 1, 1] = torch.tensor([[1.0], [-1.0]]) / 6
    turns = torch.tensor([[16.0, -8.0, 1.0], [-16.0, 8.0, 1.0]])
    found = network._further_motions(torch.ones(2, 6, 4, 5), torch.zeros(2, 2, 16, 20), turns)
    assert not found.any(), "at both depths alike for both sides: nothing is preferred"
    sides = torch.ones(2, 6, 4, 5) * torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    forth, back = network._further_motions(sides, torch.zeros(2, 2, 16, 20), turns).split(2, dim=1)
    wanted = (turns[:, :2] / 8)[:, :, None, None].expand(2, 2, 4, 5)
    torch.testing.assert_close(forth, wanted)
    torch.testing.assert_close(back, -wanted)


def test_a_gradient_reaches_what_the_turn_tells():
    network = layered(3, 1, angles=True).train()
    before, frame0, frame1, after = four()
    network(frame0, frame1, [0.25, 0.6], before, after, flow_px=flows(), turn=TURN).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


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
        ((rand(1, 1, 32, 32), rand(1, 1, 32, 32), 1.5), "timesteps must lie from 0"),
        ((rand(1, 1, 32, 32), rand(1, 1, 32, 32), [0.5, -0.1]), "timesteps must lie from 0"),
        ((rand(1, 1, 32, 32), rand(1, 1, 32, 32), [float("nan")]), "timesteps must lie from 0"),
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


def test_a_cubic_warp_keeps_what_is_thin():
    """A wave of 4 pixels, half a pixel on: a linear warp leaves 0.71 of it, a cubic one more than 0.9."""
    wave = torch.cos(torch.arange(40.0) * torch.pi / 2).expand(1, 1, 5, 40)
    flow = torch.zeros(1, 2, 5, 40)
    flow[:, 0] = 0.5
    linear, cubic = (sample(wave, places(flow), mode)[..., 8:-8].std() / wave[..., 8:-8].std() for mode in MODES)
    assert linear == pytest.approx(0.5**0.5, abs=0.02) and cubic > 0.9
    flow[:, 0] = 3
    torch.testing.assert_close(sample(wave, places(flow), "bicubic")[..., :-3], wave[..., 3:], atol=1e-4, rtol=0)


def test_sides():
    sides = rand(4, 3)
    assert torch.equal(swap(sides), torch.cat([sides[2:], sides[:2]]))
    torch.testing.assert_close(swap(antisymmetric(sides)), -antisymmetric(sides))


# ---- motion on an arc ----


def towards(at, s: float = 1.0) -> torch.Tensor:
    """Flow [2, 4, N, 1] of points ``at(time)`` [N, 2] to the other frame and to the frame ``s`` gaps beyond."""
    there = [at(1.0) - at(0.0), at(-s) - at(0.0)], [at(0.0) - at(1.0), at(1 + s) - at(1.0)]
    return torch.stack([torch.cat(side, dim=1) for side in there]).mT[..., None].float()


@pytest.mark.parametrize("beyond", [1.0, 0.5, 2.0])
def test_a_parabola_is_followed_exactly(beyond):
    start, speed, half = (rand(5, 2, seed=seed).double() for seed in range(3))
    found = bend(towards(lambda s: start + s * speed + s * s * half, beyond), torch.full((2,), 1 / beyond))
    torch.testing.assert_close(found[0, ..., 0].mT.double(), half, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_nothing_bends_without_both_frames_beyond():
    flow = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    for near in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]):
        assert not bend(flow, torch.tensor(near)).any()


def test_points_of_a_turning_head_are_found_nearer_to_where_they_are():
    """The simulator's exact positions, without pulse and motion of the head: an arc seen in perspective."""
    from custom_nets.simulation.dsa import DSASettings, DSASimulator

    settings = DSASettings(shape=(64, 64), pixel_mm=4.0, rotation_deg_s=20, pulse_mm=0.0)
    simulator = DSASimulator(3, settings)
    points = simulator.arteries.position_mm

    def at(s: float) -> torch.Tensor:
        return torch.from_numpy(simulator.carm.project(points, 20 + 10 * s)[0])  # 10 degrees a gap

    half = bend(towards(at), torch.ones(2))[0, ..., 0].mT.double()
    for t in (0.25, 0.5):
        straight = at(0.0) + t * (at(1.0) - at(0.0))
        error, bent = ((x - at(t)).norm(dim=1).mean() for x in (straight, straight - t * (1 - t) * half))
        assert bent < 0.1 * error


@torch.no_grad()
def test_a_vessel_on_a_circle_is_made_on_the_circle():
    """All of the picture moves as one point does, on a circle; the made vessel is at its exact position."""
    torch.manual_seed(0)
    arguments = {**ARCH, "flow": True, "motions": 3}
    networks = [SymmetricMoStDSA(**arguments, curved=curved).eval() for curved in (False, True)]
    for network in networks:
        torch.nn.init.constant_(network.output.bias[:4], 20.0)  # the gate: all follows the motion
        torch.nn.init.constant_(network.trust.bias, 50.0)
        for motion in (network.bottom_motion, *(level.motion for level in network.levels)):
            torch.nn.init.zeros_(motion.weight)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")

    def place(s: float) -> torch.Tensor:
        angle = torch.tensor(-1.7 + 0.25 * s)
        return torch.stack([64 + 60 * angle.cos(), 100 + 60 * angle.sin()])

    def picture(s: float) -> torch.Tensor:
        px, py = place(s)
        return (0.9 - 0.5 * torch.exp(-((x - px) ** 2 + (y - py) ** 2) / 18))[None, None]

    steps = [(0, 1), (1, 0), (0, -1), (1, 2)]
    flow = torch.cat([place(b) - place(a) for a, b in steps]).reshape(1, 8, 1, 1).expand(1, 8, 96, 128).contiguous()
    frames = picture(0), picture(1), [0.25, 0.5], picture(-1), picture(2), None, flow
    for k, t in enumerate((0.25, 0.5)):
        errors = []
        for network in networks:
            mass = 0.9 - network(*frames)[0, k, 0]
            found = torch.stack([(mass * x).sum(), (mass * y).sum()]) / mass.sum()
            errors.append(float((found - place(t)).norm()))
        assert errors[0] > 0.3 and errors[1] < 0.1 * errors[0]
    forth = networks[1](*frames)
    turned = torch.cat([flow[:, 2:4], flow[:, :2], flow[:, 6:], flow[:, 4:6]], dim=1)
    back = networks[1](frames[1], frames[0], [0.75, 0.5], frames[4], frames[3], None, turned)
    torch.testing.assert_close(back, forth, rtol=0, atol=1e-5)
    ends = networks[1](frames[0], frames[1], [0, 1], frames[3], frames[4], None, flow)
    torch.testing.assert_close(ends[:, 0], frames[0], **EXACT)
    torch.testing.assert_close(ends[:, 1], frames[1], **EXACT)


# ---- what is computed faster, against what it stands for ----


@torch.no_grad()
def test_fast_parts_are_the_plain_ones():
    from custom_nets.networks import symmetric_most_dsa as made

    nn_f, network, x = torch.nn.functional, layered(3), rand(2, 1, 21, 18)
    for size in (3, 7):
        plain = nn_f.avg_pool2d(x, size, 1, size // 2, count_include_pad=False)
        torch.testing.assert_close(made._mean(x, size), plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(made._most(x, 7), nn_f.max_pool2d(x, 7, 1, 3))

    sides = rand(2, 6, 9, 7)
    plain = antisymmetric(network.levels[2].motion(sides))
    torch.testing.assert_close(made.signed(network.levels[2].motion(made.difference(sides))), plain, rtol=0, atol=1e-6)

    level, coarse, own = network.levels[0], rand(2, 8, 4, 5), rand(2, 6, 8, 10, seed=1)
    enlarged = nn_f.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    plain = level.join(torch.cat([enlarged, own, swap(own)], dim=1))
    torch.testing.assert_close(level._joined(coarse, own), plain, rtol=0, atol=1e-5)

    flow, share = 5 * rand(2, 2, 21, 18, seed=2), torch.tensor([0.3, -0.7]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(warp(x, flow, share), warp(x, share * flow), rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_is_seen_at_a_time_is_one_convolution_of_frames_and_time(net):
    frames, moved, since = rand(4, 1, 16, 20), rand(4, 1, 16, 20, seed=1), rand(4, 1, 1, 1, seed=2)
    seen = torch.cat([4 * (net.unshuffle(moved) - 0.7), since.expand(-1, 1, 8, 10)], dim=1)
    still = net.side_still(4 * (net.unshuffle(frames) - 0.7))
    plain = torch.nn.functional.leaky_relu(still + net.side_moved(seen), 0.1)
    passed = torch.nn.functional.conv2d(torch.ones(1, 1, 8, 10), net.side_moved.weight[:, 4:], padding=1)
    found = net._seen(moved, net._still_seen(frames) + since * passed)
    torch.testing.assert_close(found, plain[:2] + plain[2:], rtol=0, atol=1e-5)
