"""The examples run, and print what they claim."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_command import LIMIT, environment

EXAMPLES = Path(__file__).parents[2] / "examples"
CLAIMS = {
    "dask_cluster.py": ": 2 processes, 8 MB made\n",
    "memoize.py": "2 results in the pool\n",
    "shared_by_workers.py": "20000000 bytes, read whole by each of 4 processes, 20000000 bytes fetched:",
    "torch_dataset.py": "128 samples loaded, 64 made\n",
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs_and_leaves_no_pool(name, shared_memory):
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert list(shared_memory.iterdir()) == []
    if done.stderr.startswith("this needs "):
        pytest.skip(done.stderr.strip())
    assert (done.returncode, done.stderr) == (0, "")
    if name in CLAIMS:
        assert CLAIMS[name] in done.stdout
