"""The command line in processes of its own, and pools that no test leaves behind."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_command import pattern, run


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the pools of this test alone; it is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as folder:
        monkeypatch.setenv("FOLIOCACHE_DIR", folder)
        yield Path(folder)


@pytest.fixture
def cli() -> Callable[..., SimpleNamespace]:
    """The command line."""
    return run


@pytest.fixture
def cli_json() -> Callable[..., Any]:
    """The command line with ``--json``: returns its document, and asserts the exit code."""

    def call(*arguments: object, code: int = 0) -> Any:
        done = run(*arguments, "--json")
        assert done.code == code, done.err
        return json.loads(done.out)

    return call


@pytest.fixture
def pool_name() -> str:
    """A pool's name."""
    return "test-cli"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of files with different bytes at every place: empty, tiny, aligned, odd and larger than a piece."""
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    sizes = {"empty": 0, "tiny": 1, "page": 16384, "odd": 50_001, "deep/large": 1_500_000, "deep/other": 70_000}
    for seed, (name, size) in enumerate(sizes.items()):
        (folder / name).write_bytes(pattern(seed, size))
    return folder
