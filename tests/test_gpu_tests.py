"""The tests for a GPU are tested themselves: a few of them run on the CPU, against the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FEW = "forward and (Symmetric or BrainPrior) or implicit_on or frames and SymmetricMoStDSA or adversarial or fields"


@pytest.mark.slow
def test_they_run():
    environment = {**os.environ, "GPU_TESTS_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-p", "no:cacheprovider", "-k", FEW]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "FAILED" not in done.stdout and "s" not in done.stdout.splitlines()[0]  # none was skipped
