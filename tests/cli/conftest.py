"""The real command line in processes of its own, and pools that no test leaves behind."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import foliocache

LIMIT = 120  # seconds after which a command hangs
SOURCE = str(Path(foliocache.__file__).parents[1])


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the foliocache under test in it and nothing that colours output."""
    plain = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE")}
    path = os.pathsep.join(part for part in (SOURCE, plain.get("PYTHONPATH")) if part)
    return plain | {"PYTHONPATH": path} | more


def run(*arguments: object, **more: str) -> SimpleNamespace:
    """Run ``foliocache ARGUMENTS``: its code, stdout and stderr."""
    command = [sys.executable, "-m", "foliocache", *map(str, arguments)]
    done = subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=LIMIT, check=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for pools that this test alone uses; what it leaves there is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as folder:
        monkeypatch.setenv("FOLIOCACHE_DIR", folder)
        yield Path(folder)


@pytest.fixture
def cli() -> Callable[..., SimpleNamespace]:
    """The command line."""
    return run


@pytest.fixture
def cli_json() -> Callable[..., Any]:
    """The command line with ``--json``: its document, when the exit code is as expected."""

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
    """A folder of files that differ in every byte's place: empty, tiny, aligned, odd and larger than a piece."""
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    sizes = {"empty": 0, "tiny": 1, "page": 16384, "odd": 50_001, "deep/large": 1_500_000, "deep/other": 70_000}
    for seed, (name, size) in enumerate(sizes.items()):
        (folder / name).write_bytes(pattern(seed, size))
    return folder


def pattern(seed: int, size: int) -> bytes:
    """Bytes that repeat nowhere within a file and between no two files."""
    words = (seed << 40 | number for number in range(size // 8 + 1))
    return b"".join(word.to_bytes(8, "big") for word in words)[:size]
