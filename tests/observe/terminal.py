"""A terminal for tests: a command in a session of its own, and the screen that it has drawn, by pyte."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import pyte

LIMIT = 60  # seconds


class Terminal:
    """``columns`` x ``lines``; ``process`` runs in it, as the leader of its session."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], columns: int = 80, lines: int = 24) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.ours, self.theirs = os.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            command,
            env=environment | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            preexec_fn=self._control,
        )

    def _control(self) -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(LIMIT)
        os.close(self.ours)
        os.close(self.theirs)

    def resize(self, columns: int, lines: int) -> None:
        """Change its size; its foreground processes get SIGWINCH."""
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    @property
    def is_restored(self) -> bool:
        """Whether its modes are as before."""
        return termios.tcgetattr(self.theirs) == self.before

    def read(self, seconds: float) -> None:
        """Show what has been written, after waiting at most so long for the first of it."""
        if select.select([self.ours], [], [], seconds)[0]:
            data = os.read(self.ours, 65536)
            self.raw += data
            self.stream.feed(data)

    def until(self, condition: Callable[[], object]) -> None:
        """Read until a condition holds."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, self.text
            self.read(0.05)

    def end(self) -> int:
        """Read until the process has ended. Return its exit code."""
        self.until(lambda: self.process.poll() is not None)
        while select.select([self.ours], [], [], 0)[0]:
            self.read(0)
        return self.process.returncode
