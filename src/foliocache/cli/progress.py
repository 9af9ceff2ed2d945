"""Progress on stderr: bars in a terminal, a line per step in a pipe, nothing under ``--json``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foliocache.cli.output import console, shown, tell
from foliocache.sizes import format_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

WorkerProgress = Callable[[int, int, int], object]  # called with the number of a worker, and the files and bytes it has read

# Called with an object's name and size, how many further bytes of it have come, and its bytes per second.
TransferProgress = Callable[[str, int, int, float], object]
LINE_EVERY = 2.0  # seconds


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
    def transfers(self, total: int) -> Iterator[TransferProgress]:
        """Show how objects of ``total`` bytes together come, while this is entered, and how fast each does."""
        yield lambda name, size, count, rate: None


class Lines(Silent):
    """Progress for pipes and logs: a line when a step begins, and now and then while objects come."""

    def say(self, text: str) -> None:
        tell(text)

    @contextmanager
    def transfers(self, total: int) -> Iterator[TransferProgress]:
        got: dict[str, int] = {}
        told = time.monotonic()

        def advance(name: str, size: int, count: int, rate: float) -> None:
            nonlocal told
            got[name] = got.get(name, 0) + count
            if time.monotonic() - told >= LINE_EVERY:
                told = time.monotonic()
                tell(f"{name}: {format_size(got[name])} of {format_size(size)}, {format_size(rate)}/s")

        yield advance


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
    def transfers(self, total: int) -> Iterator[TransferProgress]:
        from rich.markup import escape
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}")
        columns = (
            BarColumn(24),
            DownloadColumn(binary_units=True),
            rate,
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            whole, begin, got = progress.add_task("", total=total, rate=""), time.monotonic(), 0
            tasks: dict[str, TaskID] = {}

            def advance(name: str, size: int, count: int, rate: float) -> None:
                nonlocal got
                got += count
                overall = got / max(time.monotonic() - begin, 1e-6)
                progress.update(whole, advance=count, rate=f"{format_size(overall)}/s")
                if name not in tasks:
                    tasks[name] = progress.add_task(escape(shown(name)), total=size, rate="")
                progress.update(tasks[name], advance=count, rate=f"{format_size(rate)}/s")
                if progress.tasks[progress.task_ids.index(tasks[name])].finished:
                    progress.remove_task(tasks.pop(name))

            yield advance


def watcher(quiet: bool) -> Silent:
    """Return the progress that suits stderr."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()
