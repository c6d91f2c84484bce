"""Smaller networks from larger ones: all of the weights, those that matter, and gates that are cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from custom_nets.checkpoints import inherit, load_network, save_checkpoint, student_network
from custom_nets.checkpoints.inheritance import space_sizes
from custom_nets.engines import GatedNetwork
from custom_nets.networks import AnySizeTransMRSR, ArSSR, ResidualArSSR, SymmetricMoStDSA

MADE: dict[str, tuple[type[nn.Module], dict, Callable[[], tuple]]] = {
    "ResidualArSSR": (
        ResidualArSSR,
        {"feature_dim": 8, "num_features": 8, "growth": 16, "num_blocks": 2, "num_layers": 2, "decoder_width": 16},
        lambda: (torch.rand(1, 1, 7, 6, 5),),
    ),
    "AnySizeTransMRSR": (
        AnySizeTransMRSR,
        {"slices": 3, "widths": [16, 32], "style_dim": 32, "head_width": 4, "window": 4, "num_centroids": 0},
        lambda: (torch.rand(1, 3, 32, 16),),
    ),
    "SymmetricMoStDSA": (
        SymmetricMoStDSA,
        {"widths": [8, 8, 16, 16], "pair_width": 8, "time_width": 8, "flow": True, "motions": 3, "angles": True},
        lambda: (
            torch.rand(1, 1, 32, 16),
            torch.rand(1, 1, 32, 16),
            [0.25, 0.5],
            *4 * (None,),
            torch.tensor([[8.0, 3.0, 1.0]]),
        ),
    ),
}


def alive(network: nn.Module) -> nn.Module:
    """Random weights everywhere, also where training starts at zero."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.fixture(params=MADE)
def kind(request) -> tuple[type[nn.Module], dict, tuple]:
    network, arch, inputs = MADE[request.param]
    torch.manual_seed(1)
    return network, arch, inputs()


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@torch.no_grad()
def test_at_100_percent_the_student_is_the_teacher(kind, tmp_path):
    network, arch, inputs = kind
    teacher = alive(network(**arch))
    save_checkpoint(tmp_path / "teacher.pt", teacher, {"name": network.__name__, **arch})
    for how in ("importance", "interval"):
        student = student_network(tmp_path / "teacher.pt", 1.0, how).eval()
        assert torch.equal(student(*inputs), teacher(*inputs))
    anew = student_network(tmp_path / "teacher.pt", 1.0, "scratch")
    assert any(not torch.equal(a, b) for a, b in zip(anew.parameters(), teacher.parameters(), strict=True))


@torch.no_grad()
def test_a_student_is_a_plain_smaller_network(kind, tmp_path):
    network, arch, inputs = kind
    teacher = alive(network(**arch))
    save_checkpoint(tmp_path / "teacher.pt", teacher, {"name": network.__name__, **arch})
    sizes = []
    for share in (0.75, 0.5):
        student = student_network(tmp_path / "teacher.pt", share)
        sizes.append(weights(student) / weights(teacher))
        save_checkpoint(tmp_path / "student.pt", student, student.arch)
        loaded = load_network(tmp_path / "student.pt")
        assert type(loaded) is network and torch.equal(loaded(*inputs), student.eval()(*inputs))
    assert sizes[1] < sizes[0] < 0.95 and sizes[1] < 0.65
    # in stages: from the student of a stage before
    staged = student_network(tmp_path / "teacher.pt", 0.25, start=tmp_path / "student.pt")
    assert weights(staged) < weights(student)


@torch.no_grad()
def test_units_that_nobody_reads_are_cut_without_a_trace(kind):
    """Which holds only if every channel that is cut is cut in each place."""
    network, arch, inputs = kind
    teacher = alive(network(**arch))
    small = network(**{**arch, **teacher.shrunk(0.5)})
    channels, spaces = teacher.channels(), teacher.channels().spaces()
    sizes = space_sizes(small, teacher)
    for name, (whole, count) in sizes.items():
        if not spaces[name].cuttable:
            sizes[name] = (whole, whole)
        elif count < whole:
            dead = torch.randperm(whole)[: whole - count]
            for key, axis in channels.reads.items():
                start = 0
                for part in axis:
                    width = part if isinstance(part, int) else part.units * part.width
                    if not isinstance(part, int) and part.name == name:
                        place = start + (dead[:, None] * part.width + torch.arange(part.width)).flatten()
                        teacher.state_dict()[key][:, place] = 0
                    start += width
    gated = GatedNetwork(teacher, small)
    assert gated.kept == {n: k for n, (w, k) in space_sizes(small, teacher).items() if k < w and spaces[n].cuttable}
    if all(spaces[name].cuttable for name, (whole, count) in space_sizes(small, teacher).items() if count < whole):
        student = inherit(small, teacher).eval()
        torch.testing.assert_close(student(*inputs), teacher(*inputs), atol=1e-5, rtol=1e-5)


def hidden_alone(kind) -> tuple[nn.Module, nn.Module, tuple]:
    """A teacher, and a student in which only what may have gates is smaller."""
    network, arch, inputs = kind
    teacher = alive(network(**arch))
    smaller = {"ratio": 1} if network is AnySizeTransMRSR else teacher.shrunk(0.5)
    return teacher, network(**{**arch, **smaller}), inputs


def test_gates_cut_to_a_plain_network_give_the_same(kind):
    teacher, small, inputs = hidden_alone(kind)
    gated = GatedNetwork(teacher, small).train()
    with torch.no_grad():
        for gate in gated.gates:
            gate.copy_(torch.randn_like(gate) / 10)
        gated.eval()
        student = gated.cut().eval()
        assert type(student) is type(teacher) and weights(student) < weights(teacher)
        torch.testing.assert_close(student(*inputs), gated(*inputs), atol=1e-5, rtol=1e-5)
        assert not torch.equal(gated(*inputs), teacher(*inputs))


def test_gates_find_what_is_needed_and_close_as_far_as_they_have_to():
    """A teacher of 16 hidden units, 8 of which do nothing: the constraint takes those."""
    torch.manual_seed(0)
    arch = {"feature_dim": 8, "num_features": 8, "growth": 16, "num_blocks": 1, "num_layers": 1, "decoder_width": 16}
    teacher = alive(ResidualArSSR(**arch))
    idle = torch.arange(0, 16, 2)
    with torch.no_grad():
        teacher.encoder.rdbs[0].layers[0].conv.bias.fill_(1.0)  # no unit is dead by itself
        teacher.encoder.rdbs[0].lff.weight[:, 8 + idle] *= 0.01
    small = ResidualArSSR(**{**arch, **teacher.shrunk(0.5)})
    gated = GatedNetwork(teacher, small, ramp=10)
    image = torch.rand(2, 1, 6, 6, 6)
    wanted = teacher.train()(image).detach()  # in eval mode it mirrors the border
    optimizer = torch.optim.Adam(gated.gates.parameters(), 0.01)
    prices = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = 20 * (gated.train()(image) - wanted).square().mean()
        price = gated.price()
        prices.append(price.item())
        (loss + price).backward()
        optimizer.step()
    (kept,) = (gate.nonzero().flatten() for gate in gated._fixed(exactly=True).values())
    assert len(kept) == 8 and len(set(kept.tolist()) & set(idle.tolist())) <= 1  # one of the others may be dead
    assert prices[-1] < max(prices) / 4 and bool((gated.multipliers > 10).all())
    with torch.no_grad():
        first = inherit(ResidualArSSR(**{**arch, **teacher.shrunk(0.5)}), teacher, "interval")
        ours, theirs = (float((student.train()(image) - wanted).square().mean()) for student in (gated.cut(), first))
        assert ours < 0.1 * theirs


def test_what_cannot_be_inherited_is_refused(tmp_path):
    arch = MADE["ResidualArSSR"][1]
    small, large = ResidualArSSR(**arch), ResidualArSSR(**{**arch, "growth": 24})
    with pytest.raises(ValueError, match="larger than its teacher: 24 of 16 units"):
        inherit(large, small)
    with pytest.raises(ValueError, match="cannot inherit from a SymmetricMoStDSA"):
        inherit(small, SymmetricMoStDSA())
    with pytest.raises(ValueError, match="does not say how encoder.gff.0.weight shrinks"):
        inherit(ResidualArSSR(**{**arch, "num_blocks": 1}), small)
    with pytest.raises(ValueError, match="no unit of ResidualArSSR"):
        GatedNetwork(small, ResidualArSSR(**arch))
    save_checkpoint(tmp_path / "x.pt", small, {"name": "ResidualArSSR", **arch})
    for wrong, words in (((1.5,), "at most 1, got 1.5"), ((0.5, "best"), "one of importance, interval, scratch")):
        with pytest.raises(ValueError, match=words):
            student_network(tmp_path / "x.pt", *wrong)
    other = {"encoder": "ResCNN", "feature_dim": 8, "decoder_depth": 4, "decoder_width": 8}
    save_checkpoint(tmp_path / "y.pt", ArSSR(**other), {"name": "ArSSR", **other})
    with pytest.raises(ValueError, match="ArSSR does not say how it shrinks"):
        student_network(tmp_path / "y.pt")
