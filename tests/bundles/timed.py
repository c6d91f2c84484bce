"""What every training config does with ``max_minutes``, on a clock that moves on by a second in each iteration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from custom_nets.checkpoints import load_network
from custom_nets.handlers import time_budget


def check_time_budget(make: Callable[..., Any], output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for twelve seconds, be killed in the middle, go on.

    Args:
        make: an initialized workflow with the given overrides, which writes to ``output``.
    """
    now = 0.0

    def advance(engine: Any) -> None:
        nonlocal now
        now += 1

    def kill(engine: Any) -> None:
        raise KeyboardInterrupt

    def timed(**override: Any) -> Any:
        made = make(max_minutes=0.2, **{"time_budget#epochs": 4}, **override)
        made.parser.get_parsed_content("train#trainer").add_event_handler(Events.ITERATION_STARTED, advance)
        return made

    monkeypatch.setattr(time_budget, "monotonic", lambda: now)
    made = timed()
    made.parser.get_parsed_content("train#trainer").add_event_handler(Events.EPOCH_COMPLETED(once=2), kill)
    # MONAI's workflow makes errors of its own of what it does not catch
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        made.run()
    killed = torch.load(output / "checkpoint.pt", weights_only=True)
    assert (killed["time_budget"]["seconds"], killed["epoch"], killed["iteration"]) == (6, 2, 6)
    now += 1000  # nobody trains meanwhile

    made = timed(resume=True)
    made.run()
    made.finalize()
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert (state["time_budget"]["seconds"], state["epoch"], state["iteration"]) == (12, 4, 12)
    before, after = (
        [group["lr"] for key in saved if key.endswith("optimizer") for group in saved[key]["param_groups"]]
        for saved in (killed, state)
    )
    assert min(before) > 0 and set(after) == {0.0}
    weights = sorted(path.name for path in output.glob("*.pt"))
    if "best" in state:  # it validated after its last epoch, too
        assert weights == ["checkpoint.pt", "model.pt", "model_last.pt"]
        last = load_network(output / "model_last.pt").state_dict()
        assert all(torch.equal(value, state["ema"][key]) for key, value in last.items())
    else:
        assert weights == ["checkpoint.pt", "prior.pt"]
