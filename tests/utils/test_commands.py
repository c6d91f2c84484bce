"""Commands refuse empty arguments: an empty path would be the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from custom_nets.apps import check
from custom_nets.bundle import pack
from custom_nets.tracking import registry

PACKAGE = Path(check.__file__).parents[1]


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        (check.main, [""], "an argument"),
        (pack.main, ["arssr", "--output", " "], "--output"),
        (registry.main, ["fetch", "--name=", "--output_dir", "x"], "--name"),
    ],
)
def test_an_empty_argument_is_refused_by_name(command, arguments: list[str], named: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(arguments)
    assert f"error: {named} is empty: give a value" in capsys.readouterr().err


def test_every_command_reads_its_arguments_so() -> None:
    assert not [path.name for path in PACKAGE.rglob("*.py") if "argparse.ArgumentParser(" in path.read_text("utf-8")]
