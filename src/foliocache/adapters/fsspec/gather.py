"""Several reads at a time, for ``cat()`` and ``cat_ranges()``, in threads that live as long as the call.

No executor does this: it takes no work once the interpreter has begun to end, when ``atexit`` functions and finalizers may
still read; and it holds plain locks where a signal handler or a finalizer may run, which would wait for them for ever if it
read through ``folio::`` as well.

Here the caller works along, so it gets done with as many threads as there are, or with none. It waits for the jobs that its
helpers have taken, never for a helper: one that has not begun may be waiting for a lock of the ``threading`` module that the
caller holds, a few frames further up, where it was interrupted. (They are daemons for the same reason: a thread that Python
would wait for at its end takes another such lock.)
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

_AT_ONCE = 32  # threads, the caller's among them: as many requests as are read ahead

Job = tuple[Any, ...]


def gather(
    function: Callable[..., Any],
    jobs: list[Job],
    on_error: str = "raise",
    is_quick: Callable[..., bool] = lambda *job: False,
) -> list[Any]:
    """``function(*job)`` of all jobs, in order; those that are not quick, several at a time.

    With ``on_error="raise"`` a failure ends it: what has begun is finished, and the first of the jobs that failed says why.
    Else an exception takes the place of its result. What interrupts the caller (Ctrl-C) waits for nothing that has begun.
    """
    quick: list[int] = []
    slow: deque[int] = deque()
    for number, job in enumerate(jobs):
        (quick if is_quick(*job) else slow).append(number)
    work = _Work(function, jobs, on_error == "raise", slow)
    try:
        _start_helpers(work, min(len(slow), _AT_ONCE) - 1)
        for number in quick:
            work.attempt(number)
        return work.finish()
    except BaseException:
        slow.clear()
        raise


class _Work:
    """Jobs, by number."""

    def __init__(self, function: Callable[..., Any], jobs: list[Job], stop: bool, todo: deque[int]) -> None:
        self._function = function
        self._jobs = jobs
        self._stop = stop
        self._todo = todo
        self._count = len(todo)
        self._helped: SimpleQueue[int] = SimpleQueue()
        self._results: list[Any] = [None] * len(jobs)
        self._failures: dict[int, BaseException] = {}

    def attempt(self, number: int) -> None:
        """Do one, unless one has failed."""
        if self._failures:
            return
        try:
            self._results[number] = self._function(*self._jobs[number])
        except Exception as error:
            if self._stop:
                self._failures[number] = error
            else:
                self._results[number] = error

    def help(self) -> None:
        """What a helper does, as long as there is something to do."""
        while (number := self._take()) is not None:
            try:
                self.attempt(number)
            except BaseException as error:  # nobody further up in this thread could see it
                self._failures[number] = error
            self._helped.put(number)

    def finish(self) -> list[Any]:
        """What is left is done here; then helpers are waited for as far as they are doing something."""
        mine = 0
        while (number := self._take()) is not None:
            self.attempt(number)
            mine += 1
        for _ in range(self._count - mine):
            self._helped.get()
        if self._failures:
            raise self._failures[min(self._failures)]
        return self._results

    def _take(self) -> int | None:
        try:
            return self._todo.popleft()
        except IndexError:
            return None


def _start_helpers(work: _Work, count: int) -> None:
    """Start as many threads as can be had. While modules are torn down, Python starts none and waits for it for ever."""
    for _ in range(count):
        if sys.is_finalizing():
            return
        try:
            Thread(target=work.help, name="folio-cat", daemon=True).start()
        except RuntimeError:
            return
