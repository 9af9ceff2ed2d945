"""How commands print: JSON for scripts, tables for people.

A table is as wide as what it holds. In a terminal, columns fold to fit it; in a pipe nothing folds, so that ``grep`` finds
whole lines. Rich leaves the colours out of a pipe by itself. Units are binary and say so, because sizes are given that way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 400
UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def emit_json(value: Any) -> None:
    """The one JSON document of a command, on stdout."""
    print(json.dumps(value, indent=2))


def console(stderr: bool = False) -> Console:
    """A console that never folds a pipe's lines and colours no numbers."""
    from rich.console import Console

    class Plain(Console):
        """Leaves a broken pipe to ``app``: rich's own answer to it is exit code 1, which means something else here."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    made = Plain(stderr=stderr, highlight=False)
    return made if made.is_terminal else Plain(stderr=stderr, highlight=False, width=PIPE_WIDTH)


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
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, 1))
    made.title_justify, made.title_style = "left", "bold"
    for name in columns:
        right = name.startswith(">")
        made.add_column(name.lstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    return made


def pairs(title: str | None, rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values, one under the other."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value)
    return made


def complain(message: str) -> None:
    """The one line on stderr."""
    print(f"foliocache: {message}", file=sys.stderr)
