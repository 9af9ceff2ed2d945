"""How commands print: JSON for scripts, tables for people.

Keys, versions, paths and messages of other libraries come from outside and may contain anything: escape sequences, line breaks,
markup of rich. So all that a command prints goes through ``shown``; tables, consoles, ``complain`` and ``trace`` call it. JSON
has escapes of its own, which can be read back.

A table is as wide as its content. In a terminal, columns fold to fit it. In a pipe nothing folds, so that ``grep`` finds whole
lines, and rich leaves out colours. rich is imported when something is printed with it; ``--json`` does not need it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

T = TypeVar("T")
PIPE_WIDTH = 1 << 16  # more than the longest key, however much of it has to be escaped


def shown(text: str) -> str:
    """Return the text on one line, with what does not print as itself escaped as in Python's strings (``\\x1b``, ``\\n``).

    Escaped are control and formatting characters (bidirectional overrides among them), every space but the plain one,
    surrogates (bytes that were no text), and code points that Unicode has not assigned.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def one_line(error: BaseException) -> str:
    """Return an error's message, through ``shown``; the name of its type if it has no message."""
    return shown(str(error).strip()) or type(error).__name__


def number(count: int) -> str:
    """Return a number with separators: ``1234567`` -> ``1,234,567``."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """Return a number and a noun: ``1 worker``, ``4 workers``."""
    return f"{number(count)} {noun}{'s' * (count != 1)}"


def percent(part: float, whole: float) -> str:
    """Return a share of a whole as text; a dash if the whole is 0."""
    return f"{100 * part / whole:.1f}%" if whole else "-"


def emit_json(value: object) -> None:
    """Print the one JSON document of a command, in ASCII."""
    print(json.dumps(value, indent=2))


def console(stderr: bool = False) -> Console:
    """Return a console that folds no line in a pipe, and prints every string as it is: no markup, emoji or colours for
    numbers."""
    from rich.console import Console

    class Plain(Console):
        """A console that leaves a broken pipe to ``app``. rich would exit with code 1, which means something else here."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*(_harmless(each) for each in objects), **options)

    def make(width: int | None = None) -> Console:
        return Plain(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    made = make()
    return made if made.is_terminal else make(PIPE_WIDTH)


def table(title: str | None, *columns: str) -> Table:
    """Return an empty table. A column whose name begins with ``>`` is aligned to the right."""
    from rich import box

    made = _plain_table(title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, 1))
    for name in columns:
        right = name.startswith(">")
        made.add_column(name.lstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    return made


def pairs(title: str | None, rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values, without a head."""
    made = _plain_table(title, box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value)
    return made


def _plain_table(title: str | None, **options: Any) -> Table:
    from rich.table import Table

    class Plain(Table):
        """A table that prints the string in a cell as it is."""

        def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
            super().add_row(*(_harmless(cell) for cell in cells), **options)

    return Plain(title=title and shown(title), title_justify="left", title_style="bold", **options)


def _harmless(thing: T) -> T | str:
    """Return a string through ``shown``; anything else, such as a table, as it is."""
    return shown(thing) if isinstance(thing, str) else thing


def printable(streams: Iterable[object]) -> None:
    """Make streams escape what their encoding does not have, instead of raising an error."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def complain(message: str) -> None:
    """Print the one line of an error on stderr."""
    tell(f"foliocache: {message}")


def trace() -> None:
    """Print the traceback of the exception that is being handled on stderr."""
    tell(*traceback.format_exc().split("\n"))


def tell(*lines: str) -> None:
    """Print lines on stderr, in one write, so that Ctrl-C does not cut one in two. It is no error if they cannot be written."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: stderr was closed before the interpreter began
        sys.stderr.write("".join(f"{shown(line)}\n" for line in lines))
        sys.stderr.flush()


def finish(stream: IO[str] | None) -> None:
    """Flush a stream (None: it is closed).

    Raises
    ------
    OSError
        The output cannot be written. It is dropped then, so that the interpreter does not try again at its end.
    """
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        raise
