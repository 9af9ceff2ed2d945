"""Progress on stderr: bars in a terminal, a line per step in a pipe, nothing under ``--json``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foliocache.cli.output import console, tell
from foliocache.sizes import format_size

if TYPE_CHECKING:
    from rich.console import Console

WorkerProgress = Callable[[int, int, int], object]  # called with the number of a worker, and the files and bytes it has read


def ignore(worker: int, members: int, read: int) -> None:
    """Show nothing: for callers that want no progress."""


class Silent:
    """Progress for ``--json``: it shows nothing."""

    def say(self, text: str) -> None:
        """Show that a step begins."""

    @contextmanager
    def workers(self, workers: int, total: int) -> Iterator[WorkerProgress]:
        """Show a bar for each worker while this is entered; ``total`` files fill a bar."""
        yield ignore

    @contextmanager
    def transfer(self, total: int) -> Iterator[Callable[[int], object]]:
        """Show a bar of ``total`` bytes while this is entered. Call what it yields with the number of bytes that have come."""
        yield lambda count: None


class Lines(Silent):
    """Progress for pipes and logs: a line when a step begins."""

    def say(self, text: str) -> None:
        tell(text)


class Bars(Silent):
    """Progress for a terminal: bars, which are erased at the end."""

    def __init__(self) -> None:
        self.console: Console = console(stderr=True)

    def say(self, text: str) -> None:
        self.console.print(text)

    @contextmanager
    def workers(self, workers: int, total: int) -> Iterator[WorkerProgress]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        count, read = MofNCompleteColumn(), TextColumn("files  {task.fields[read]}")
        columns = TextColumn("  {task.description}"), BarColumn(24), count, read, TimeElapsedColumn()
        with Progress(*columns, console=self.console, transient=True) as progress:
            tasks = [progress.add_task(f"worker {n + 1}", total=total, read=format_size(0)) for n in range(workers)]
            yield lambda worker, members, read: progress.update(tasks[worker], completed=members, read=format_size(read))

    @contextmanager
    def transfer(self, total: int) -> Iterator[Callable[[int], object]]:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = BarColumn(24), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task("", total=total)
            yield lambda count: progress.advance(task, count)


def watcher(quiet: bool) -> Silent:
    """Return the progress that suits stderr."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()
