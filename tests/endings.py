"""Commands that are interrupted or killed in the middle of their work: nothing waits for ever, and no process remains."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 120  # seconds after which a command counts as hung
SOON = 30  # seconds; much more than an end takes, much less than the work that it cuts short


@contextmanager
def started(command: list[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a session of its own, for the time of a ``with``; no process of the session remains."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        yield process
        deadline = time.monotonic() + SOON
        while left := members(process.pid):  # multiprocessing's own helper ends when it sees that the others have
            assert time.monotonic() < deadline, left
            time.sleep(0.01)
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)


def members(session: int) -> dict[int, str]:
    """Return the processes of a session that are running, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def children(process: subprocess.Popen[str], wanted: int, kind: str = "") -> list[int]:
    """Wait until the command has that many children whose command line contains this word, and return them."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        found = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        chosen = [pid for pid in found if kind in members(process.pid).get(pid, "")]
        if len(chosen) >= wanted:
            return chosen
        time.sleep(0.01)
    raise AssertionError(f"there never were {wanted} children: {process.communicate(timeout=LIMIT)}")


def ends(process: subprocess.Popen[str], code: int, last: str) -> None:
    """Assert that the command ends soon, and with it all processes that have its pipes, which are read until they are
    closed."""
    out, err = process.communicate(timeout=SOON)
    assert process.returncode == code, err
    assert out == ""
    assert re.fullmatch(last, err.splitlines()[-1]), err
    assert "Traceback" not in err, err
