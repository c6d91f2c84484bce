"""Errors of other libraries for what a person can mend become one line with the remedy."""

from __future__ import annotations

import errno
import re
import sqlite3

import pytest
import torch

from custom_nets.data.cases import existing_path
from custom_nets.utils.errors import explain, one_line_errors


def wrapped(cause: BaseException) -> BaseException:
    """As MONAI's parser raises it: in other errors."""
    try:
        try:
            raise cause
        except BaseException as error:
            raise RuntimeError("Failed to evaluate") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "no space is left .*another --output_dir .*/x/y"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "no permission.*/x"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "port is in use"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "no answer from a server"),
        (sqlite3.OperationalError("unable to open database file"), "data base cannot be used .*unable to open"),
        (ValueError("Cannot set a deleted experiment 'x' as the active experiment"), "restore it .*--experiment_name"),
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos"), "checkpoint .* disk full"),
        (MemoryError(), "not enough memory .*--memory_gb"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
    ],
)
def test_one_line_with_the_remedy(error: BaseException, words: str) -> None:
    for each in (error, wrapped(error)):
        text = explain(each)
        assert text is not None and "\n" not in text
        assert re.search(words, text), text


def test_what_mlflow_refuses() -> None:
    exceptions = pytest.importorskip("mlflow.exceptions")
    text = explain(wrapped(exceptions.MlflowException("Invalid experiment name: 'a'.\nmore")))
    assert text is not None and text.startswith("MLflow refuses: Invalid experiment name: 'a'. Give another")


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    assert explain(wrapped(KeyError("x"))) is None and explain(ZeroDivisionError()) is None


def test_a_command_ends_with_one_line_and_shows_all_when_asked(monkeypatch) -> None:
    for work, words in (
        (lambda: existing_path("/nowhere"), "^error: /nowhere does not exist"),  # raised here: its own words
        (lambda: (_ for _ in ()).throw(sqlite3.OperationalError("locked")), "^error: MLflow's data base .*locked"),
        (lambda: int("x"), "^error: invalid literal"),
    ):
        with pytest.raises(SystemExit, match=words), one_line_errors():
            work()
    with pytest.raises(ZeroDivisionError), one_line_errors():
        1 / 0  # noqa: B018
    monkeypatch.setenv("CUSTOM_NETS_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError), one_line_errors():
        existing_path("/nowhere")
