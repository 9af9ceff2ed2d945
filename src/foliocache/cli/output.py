"""How commands print: JSON for scripts, tables for people.

Keys, versions, paths and messages of other libraries come from outside, and may hold anything: escape sequences, line breaks,
what rich takes for markup. All that a command prints goes through ``shown``: tables, consoles, ``complain`` and ``trace`` see
to it, so that nobody has to think of it. JSON escapes in its own way, and can be read back.

A table is as wide as what it holds. In a terminal, columns fold to fit it; in a pipe nothing folds, so that ``grep`` finds
whole lines. Rich leaves the colours out of a pipe by itself. Units are binary and say so, because sizes are given that way.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 1 << 16  # more than the longest key, however much of it has to be escaped
UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def shown(text: str) -> str:
    """The text on one line, and harmless: what does not print as itself is an escape of Python's strings (``\\x1b``, ``\\n``).

    That is: control and formatting characters (bidirectional overrides among them), every space but the plain one, surrogates
    (bytes that were no text), and what Unicode has not assigned.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable(streams: Iterable[Any]) -> None:
    """Let what a stream's encoding cannot say be escaped, too, rather than be an error."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def emit_json(value: Any) -> None:
    """The one JSON document of a command, on stdout, in ASCII."""
    print(json.dumps(value, indent=2))


def console(stderr: bool = False) -> Console:
    """A console that never folds a pipe's lines, and takes every string as it is: no markup, no emoji, no colours for numbers."""
    from rich.console import Console

    class Plain(Console):
        """Leaves a broken pipe to ``app``: rich's own answer to it is exit code 1, which means something else here."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*(shown(each) if isinstance(each, str) else each for each in objects), **options)

    def make(width: int | None = None) -> Console:
        return Plain(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    made = make()
    return made if made.is_terminal else make(PIPE_WIDTH)


def size(count: float) -> str:
    """``1234567`` -> ``1.18 MiB``: three digits are enough, and keep columns narrow."""
    if abs(count) < 1024:
        return f"{int(count)} B"
    for unit in UNITS:
        count /= 1024
        if abs(count) < 1024 or unit == UNITS[-1]:
            break
    return f"{count:.0f} {unit}" if abs(count) >= 100 else f"{count:.3g} {unit}"


def number(count: int) -> str:
    """``1234567`` -> ``1,234,567``."""
    return f"{count:,}"


def percent(part: float, whole: float) -> str:
    """A share of a whole; a dash where there is no whole."""
    return f"{100 * part / whole:.1f}%" if whole else "-"


def table(title: str | None, *columns: str) -> Table:
    """An empty table; a column whose name begins with ``>`` is aligned to the right."""
    from rich import box

    made = _plain_table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, 1))
    for name in columns:
        right = name.startswith(">")
        made.add_column(name.lstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    return made


def pairs(title: str | None, rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values, one under the other."""
    made = _plain_table(title=title, box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value)
    return made


def _plain_table(title: str | None, **options: Any) -> Table:
    from rich.table import Table

    class Plain(Table):
        """Takes a string in a cell as it is."""

        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(shown(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    return Plain(title=title and shown(title), title_justify="left", title_style="bold", **options)


def complain(message: str) -> None:
    """The one line on stderr."""
    tell(f"foliocache: {message}")


def trace() -> None:
    """The traceback of the exception that is being handled, on stderr."""
    tell(*traceback.format_exc().split("\n"))


def tell(*lines: str) -> None:
    """Lines on stderr, in one write: Ctrl-C must not cut one in two. Whoever has left need not be told."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: stderr was closed before we began
        sys.stderr.write("".join(f"{shown(line)}\n" for line in lines))
        sys.stderr.flush()


def finish(stream: Any) -> None:
    """Have everything written. Raises OSError if it cannot be; and then the interpreter, at its end, has nothing left to try."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        raise
