"""What is seen while the demo works: a bar per worker in a terminal, a line per step in a pipe, nothing under ``--json``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foliocache.cli.output import console, number, size, tell

if TYPE_CHECKING:
    from foliocache.cli.crew import Progress


def ignore(worker: int, members: int, read: int) -> None:
    """Progress that nobody watches."""


class Silent:
    """For ``--json``."""

    def say(self, text: str) -> None:
        """Not a word."""

    @contextmanager
    def bars(self, name: str, workers: int, total: int) -> Iterator[Progress]:
        """No bars."""
        yield ignore


class Lines(Silent):
    """For pipes and logs: what begins, as plain lines on stderr."""

    def say(self, text: str) -> None:
        tell(text)


class Bars(Silent):
    """For a terminal: one bar per worker, gone when the run is over."""

    def __init__(self) -> None:
        self.console = console(stderr=True)

    def say(self, text: str) -> None:
        self.console.print(text)

    @contextmanager
    def bars(self, name: str, workers: int, total: int) -> Iterator[Progress]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        count, read = MofNCompleteColumn(), TextColumn("files  {task.fields[read]}")
        columns = TextColumn("  {task.description}"), BarColumn(24), count, read, TimeElapsedColumn()
        with Progress(*columns, console=self.console, transient=True) as progress:
            tasks = [progress.add_task(f"worker {n + 1}", total=total, read=size(0)) for n in range(workers)]
            yield lambda worker, members, read: progress.update(tasks[worker], completed=members, read=size(read))


def watcher(quiet: bool) -> Silent:
    """The one that fits where stderr goes."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()


def counted(count: int, noun: str) -> str:
    """``1 worker``, ``4 workers``."""
    return f"{number(count)} {noun}{'s' * (count != 1)}"
