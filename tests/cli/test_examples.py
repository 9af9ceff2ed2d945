"""The examples run, and print what they claim."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_command import LIMIT, environment

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs_and_leaves_no_pool(name, shared_memory):
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(shared_memory.iterdir()) == []


def test_workers_fetch_every_byte_once():
    command = [sys.executable, str(EXAMPLES / "shared_by_workers.py")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=True)
    assert "20000000 bytes, read whole by each of 4 processes, 20000000 bytes fetched:" in done.stdout
