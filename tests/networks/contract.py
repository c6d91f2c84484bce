"""What every network must do, whatever it is for. A network's test class inherits :class:`NetContract`."""

from __future__ import annotations

import pytest
import torch
from torch import nn


class NetContract:
    """Inherit, and give :meth:`make` and :meth:`inputs`; ``sizes`` and ``scriptable`` where they differ."""

    sizes: tuple[tuple[int, ...], ...] = ((5, 6, 7), (3, 8, 4), (1, 2, 3))
    scriptable = True  # by torch.jit.script; else by torch.jit.trace
    mode_matters = False  # whether train() and eval() give different results on purpose

    def make(self) -> nn.Module:
        """A small network in eval mode with weights that let a gradient through everywhere."""
        raise NotImplementedError

    def inputs(self, batch: int, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """Arguments of ``forward``, each with ``batch`` items, different ones."""
        raise NotImplementedError

    def out_shape(self, batch: int, size: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result."""
        raise NotImplementedError

    @pytest.fixture
    def net(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    @torch.no_grad()
    def test_sizes(self, net: nn.Module):
        for size in self.sizes:
            out = net(*self.inputs(2, size))
            assert tuple(out.shape) == self.out_shape(2, size)
            assert torch.isfinite(out).all()

    @torch.no_grad()
    def test_a_batch_is_its_items(self, net: nn.Module):
        together = self.inputs(3, self.sizes[0])
        out = net(*together)
        alone = torch.cat([net(*(x[i : i + 1] for x in together)) for i in range(3)])
        torch.testing.assert_close(out, alone, atol=1e-5, rtol=1e-5)

    def test_a_gradient_reaches_every_weight(self, net: nn.Module):
        net.train()(*self.inputs(2, self.sizes[0])).square().mean().backward()
        dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert not dead

    @torch.no_grad()
    def test_the_same_twice(self, net: nn.Module):
        inputs = self.inputs(1, self.sizes[0])
        assert torch.equal(net(*inputs), net(*inputs))
        if not self.mode_matters:
            torch.testing.assert_close(net.train()(*inputs), net.eval()(*inputs))

    @torch.no_grad()
    def test_gradient_mode_does_not_change_the_result(self, net: nn.Module):
        """Without gradients some layers take a faster way when there are many rows."""
        inputs = self.inputs(1, self.sizes[0])
        with torch.enable_grad():
            slow = net(*inputs).detach()
        torch.testing.assert_close(net(*inputs), slow, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_half_precision_is_finite(self, net: nn.Module):
        inputs = self.inputs(1, self.sizes[0])
        wanted = net(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(*inputs).float()
        assert torch.isfinite(out).all()
        torch.testing.assert_close(out, wanted, atol=0.05 * float(wanted.abs().max()), rtol=0)

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    @torch.no_grad()
    def test_torchscript(self, net: nn.Module, tmp_path):
        inputs = self.inputs(1, self.sizes[0])
        exported = torch.jit.script(net) if self.scriptable else torch.jit.trace(net, inputs, check_trace=False)
        torch.jit.save(exported, tmp_path / "net.ts")
        loaded = torch.jit.load(tmp_path / "net.ts")
        torch.testing.assert_close(loaded(*inputs), net(*inputs), atol=1e-6, rtol=1e-5)

    @torch.no_grad()
    def test_save_and_load(self, net: nn.Module, tmp_path):
        torch.save(net.state_dict(), tmp_path / "net.pt")
        torch.manual_seed(1)
        other = self.make().eval()
        other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
        inputs = self.inputs(1, self.sizes[0])
        assert torch.equal(other(*inputs), net(*inputs))
