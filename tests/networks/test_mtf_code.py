"""Networks that are told the blur: what the numbers are, and that a warm start changes nothing."""

from __future__ import annotations

import pytest
import torch

from custom_nets.checkpoints import load_pretrained, save_checkpoint
from custom_nets.networks import AnySizeTransMRSR, ResidualArSSR
from custom_nets.networks.layers.mtf_code import mtf_code
from tests.networks.contract import NetContract

IMPLICIT = {"feature_dim": 6, "num_features": 6, "growth": 4, "num_blocks": 2, "num_layers": 1, "decoder_width": 8}
PLANES = {"slices": 3, "widths": [8, 16], "style_dim": 16, "head_width": 4, "num_centroids": 0}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def alive(net: torch.nn.Module) -> torch.nn.Module:
    """Nothing stays at the zero that it starts with."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        if not parameter.abs().max() > 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


class TestToldImplicit(NetContract):
    mode_matters = True  # in eval mode the volume is continued beyond its edge

    def make(self) -> torch.nn.Module:
        return alive(ResidualArSSR(**IMPLICIT, takes_mtf=True))

    def inputs(self, batch: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        positions = rand(batch, 9, 3) * (torch.tensor(size) - 1)
        return rand(batch, 1, *size), positions, 1 + 3 * rand(batch, 3), rand(batch, 3, 2)

    def out_shape(self, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (batch, 9, 1)


class TestToldPlanes(NetContract):
    sizes = ((32, 32), (33, 50))
    scriptable = False

    def make(self) -> torch.nn.Module:
        return alive(AnySizeTransMRSR(**PLANES, takes_mtf=True))

    def inputs(self, batch: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        return rand(batch, 3, *size), torch.linspace(2, 8, batch), torch.linspace(-0.4, 0.3, batch), rand(batch, 2)

    def out_shape(self, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (batch, 1, *size)


def test_what_is_not_known_is_zero():
    like = torch.zeros(1)
    mtf = torch.tensor([[[1.0, 0.5], [0.25, 0.0], [1.0, 1.0]], [[1.0, torch.nan], [0.0, 0.0], [1.0, 1.0]]])
    assert mtf_code(mtf, 2, 6, like).tolist() == [[1.0, 0.0, -0.5, -1.0, 1.0, 1.0, 1.0], [0.0] * 7]
    assert mtf_code(None, 2, 2, like).tolist() == [[0.0] * 3] * 2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["implicit", "planes"])
def test_it_matters_what_is_told(kind: str):
    if kind == "implicit":
        net, given = alive(ResidualArSSR(**IMPLICIT, takes_mtf=True)), (rand(1, 1, 6, 6, 6), rand(1, 20, 3) * 5)
        given += (torch.full((1, 3), 2.0),)
        sharp, soft = torch.ones(1, 3, 2), torch.full((1, 3, 2), 0.4)
    else:
        net, given = alive(AnySizeTransMRSR(**PLANES, takes_mtf=True)), (rand(1, 3, 32, 32), 4.0, 0.0)
        sharp, soft = torch.ones(1, 2), torch.full((1, 2), 0.4)
    outputs = [net(*given, mtf) for mtf in (sharp, soft, None)]
    assert all(float((a - b).abs().max()) > 1e-4 for a, b in zip(outputs, outputs[1:], strict=False))
    torch.testing.assert_close(net(*given, sharp * torch.nan), outputs[2])  # not a number: not known


@torch.no_grad()
@pytest.mark.parametrize("kind", ["implicit", "planes"])
def test_a_warm_start_is_the_network_it_came_from(tmp_path, kind: str):
    cls, sizes = (ResidualArSSR, IMPLICIT) if kind == "implicit" else (AnySizeTransMRSR, PLANES)
    old = alive(cls(**sizes))
    save_checkpoint(tmp_path / "old.pt", old, {"name": cls.__name__, **sizes})
    new = load_pretrained(cls(**sizes, takes_mtf=True), tmp_path / "old.pt").eval()
    given = (
        (rand(1, 1, 6, 6, 6), rand(1, 20, 3) * 5, torch.full((1, 3), 2.0))
        if kind == "implicit"
        else (rand(1, 3, 32, 32), 4.0, 0.0)
    )
    mtf = rand(1, 3, 2) if kind == "implicit" else rand(1, 2)
    torch.testing.assert_close(new(*given, mtf), old(*given), atol=1e-6, rtol=0)
    torch.testing.assert_close(old(*given, mtf), old(*given))  # without takes_mtf it is not looked at
    # other sizes are still refused
    wider = {"feature_dim": 7} if kind == "implicit" else {"style_dim": 24}
    with pytest.raises(ValueError, match="wrong shapes"):
        load_pretrained(cls(**{**sizes, **wider}, takes_mtf=True), tmp_path / "old.pt")
