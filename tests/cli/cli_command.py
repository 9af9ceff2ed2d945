"""What the tests of the command line share besides fixtures."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import foliocache

LIMIT = 120  # seconds after which a command hangs
SOURCE = str(Path(foliocache.__file__).parents[1])


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the foliocache under test on its path and nothing in it that colours output."""
    plain = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE")}
    path = os.pathsep.join(part for part in (SOURCE, plain.get("PYTHONPATH")) if part)
    return plain | {"PYTHONPATH": path} | more


def run(*arguments: object, **more: str) -> SimpleNamespace:
    """Run ``foliocache ARGUMENTS``: its code, stdout and stderr."""
    command = [sys.executable, "-m", "foliocache", *map(str, arguments)]
    done = subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=LIMIT, check=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def in_terminal(*arguments: object, **more: str) -> tuple[int, bytes]:
    """Run ``foliocache ARGUMENTS`` in a terminal of its own: its code, and the bytes that the terminal got."""
    ours, theirs = os.openpty()
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen([sys.executable, "-m", "foliocache", *map(str, arguments)], env=environment(**more), **streams)
    os.close(theirs)
    try:
        got = b"".join(pieces(ours))
        return process.wait(LIMIT), got
    finally:
        process.kill()
        process.wait(LIMIT)
        os.close(ours)


def pieces(terminal: int) -> Iterator[bytes]:
    """Yield what is written to a terminal until its last writer has closed it."""
    deadline = time.monotonic() + LIMIT
    while select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
        try:
            yield os.read(terminal, 65536)
        except OSError:  # EIO: the other side is closed
            return
    raise TimeoutError(f"a command in a terminal has not ended within {LIMIT} seconds")


def pattern(seed: int, size: int) -> bytes:
    """Bytes that do not repeat within a file, nor in the file of another seed."""
    words = (seed << 40 | number for number in range(size // 8 + 1))
    return b"".join(word.to_bytes(8, "big") for word in words)[:size]
