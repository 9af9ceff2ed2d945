"""A terminal that a command has for itself: the other screen, keys without Return, and the signals that concern it.

Whatever ends the command but SIGKILL, the terminal is as it was. Ctrl-Z gives the terminal back while the command is stopped.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, Self

from foliocache.cli.exits import CommandError
from foliocache.cli.signals import blocked

ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen; no cursor
LEAVE = "\x1b[H\x1b[2J\x1b[?25h\x1b[?1049l"
KEYS = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\t": "down", b" ": "space"}
TYPED_MAX = 64  # bytes
SIGNALS = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


class Screen:
    """The terminal of stdin and stdout, during a ``with``. For the main thread."""

    def __init__(self) -> None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise CommandError("this needs a terminal; `foliocache stat NAME --json` is for scripts")
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._before: list[Any] = termios.tcgetattr(self._in)
        self._handlers: dict[int, Any] = {}
        self._is_inside = False
        self._wakeup = -1
        self._pipe: tuple[int, int] = (-1, -1)

    def __enter__(self) -> Self:
        with blocked():
            self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            for number, handler in zip(SIGNALS, (self._stop, self._enter, self._resized), strict=True):
                self._handlers[number] = signal.signal(number, handler)
            self._enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        with blocked():
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            for end in self._pipe:
                os.close(end)
            with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
                self._leave()

    @property
    def size(self) -> tuple[int, int]:
        """Its columns and lines."""
        return os.get_terminal_size(self._out)

    def draw(self, lines: Iterable[str]) -> None:
        """Show these lines, from the top. They fit, and may have escape sequences for colours."""
        self._write("\x1b[H" + "\x1b[K\r\n".join(lines) + "\x1b[K\x1b[J")

    def wait(self, seconds: float) -> list[str] | None:
        """Wait for keys, or until a signal comes or the time is over. Return the keys; None if there will be no more."""
        ready = select.select([self._in, self._pipe[0]], [], [], max(0.0, seconds))[0]
        if self._pipe[0] in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._pipe[0], 4096)
        if self._in not in ready:
            return []
        try:
            typed = os.read(self._in, TYPED_MAX)
        except OSError:
            return None
        return keys(typed) if typed else None

    def _enter(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Take the terminal. A second time, as when SIGSTOP and SIGCONT have come, only its modes are set."""
        tty.setcbreak(self._in, termios.TCSADRAIN)
        if not self._is_inside:
            self._is_inside = True
            self._write(ENTER)

    def _leave(self) -> None:
        if self._is_inside:
            self._is_inside = False
            self._write(LEAVE)
        termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # it stops here; SIGCONT's handler enters again
        signal.signal(signal.SIGTSTP, self._stop)
        self._enter()  # there was no stop if no shell would continue it

    def _resized(self, signum: int, frame: FrameType | None) -> None:
        """Do nothing: the signal ends a wait."""

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "ascii", "replace")
        while data:
            data = data[os.write(self._out, data) :]


def keys(typed: bytes) -> list[str]:
    """Return the keys of what a terminal has sent: characters, and names of other keys; unknown sequences are dropped."""
    found = []
    while typed:
        name = next((each for each in KEYS if typed.startswith(each)), None)
        if name is not None:
            found.append(KEYS[name])
            typed = typed[len(name) :]
        elif typed[:1] == b"\x1b":
            typed = typed[1:].lstrip(b"[O0123456789;?")[1:]
        else:
            found.append(typed[:1].decode("latin-1"))
            typed = typed[1:]
    return found
