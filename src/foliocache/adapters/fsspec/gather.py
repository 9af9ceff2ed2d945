"""Several reads at a time, for ``cat()`` and ``cat_ranges()``, in threads that end with the call.

An executor cannot be used: it refuses work once the interpreter is exiting, when ``atexit`` functions and finalizers may still
read; and it holds plain locks where a signal handler or a finalizer may run, which would wait for them for ever if it read
through ``folio::``, too.

Here the caller works as well, so the jobs are done with however many threads there are, or none. The caller waits for jobs that
its helpers have taken, never for a helper: a helper that has not begun may wait for a lock of the ``threading`` module that the
caller holds in an outer frame, where it was interrupted. (Helpers are daemons for the same reason: a thread for which Python
waits at exit takes another such lock.)
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

AT_ONCE = 32  # threads, including the caller's: the same as engine.CONCURRENCY

Job = tuple[Any, ...]


def gather(
    function: Callable[..., Any],
    jobs: list[Job],
    on_error: str = "raise",
    is_quick: Callable[..., bool] = lambda *job: False,
    at_once: int = AT_ONCE,
) -> list[Any]:
    """Return ``function(*job)`` for all jobs, in order. Jobs that are not quick run several at a time: up to ``at_once``.

    With ``on_error="raise"`` a failure ends the call: jobs that have begun are finished, and the error of the first failed job
    is raised. Otherwise an exception is returned in place of its result. If the caller is interrupted (Ctrl-C), it does not
    wait for jobs that have begun.
    """
    quick: list[int] = []
    slow: deque[int] = deque()
    for number, job in enumerate(jobs):
        (quick if is_quick(*job) else slow).append(number)
    work = _Work(function, jobs, on_error == "raise", slow)
    try:
        _start_helpers(work, min(len(slow), at_once) - 1)
        for number in quick:
            work.attempt(number)
        return work.finish()
    except BaseException:
        slow.clear()
        raise


class _Work:
    """The jobs, by number, and their results."""

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
        """Do one job, unless another has failed."""
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
        """A helper's main function: do jobs as long as there are any."""
        while (number := self._take()) is not None:
            try:
                self.attempt(number)
            except BaseException as error:  # this thread has no caller that would see it
                self._failures[number] = error
            self._helped.put(number)

    def finish(self) -> list[Any]:
        """Do the remaining jobs here, wait for the jobs that helpers have taken, and return all results."""
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
    """Start up to ``count`` threads. While modules are torn down, starting one would wait for ever."""
    for _ in range(count):
        if sys.is_finalizing():
            return
        try:
            Thread(target=work.help, name="folio-cat", daemon=True).start()
        except RuntimeError:
            return
