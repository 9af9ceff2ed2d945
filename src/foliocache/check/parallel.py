"""Work on several cores: forked workers that get one task at a time and end with their parent.

``multiprocessing.Pool`` cannot be used: it waits for ever for the answer of a worker that was killed. Neither can
``concurrent.futures``: it cannot end a worker within a task, so after Ctrl-C it waits for all tasks under way, and after a
SIGKILL its workers wait for ever for the next one.

A worker starts with default signal handlers: one written in Python runs between two instructions of the interpreter, so it
cannot end a process that has just begun to wait in the kernel. From before the fork until then these signals are blocked. The
kernel kills a worker with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from .explore import Result

if TYPE_CHECKING:
    from .explore import Entry, Explorer

_Signals: TypeAlias = "set[int | signal.Signals]"
T = TypeVar("T")
R = TypeVar("R")

ENTRIES_PER_JOB = 32
PATIENCE = 10  # seconds that a process that has closed its pipe may take to end
_PR_SET_PDEATHSIG = 1


class WorkerDied(RuntimeError):
    """A worker ended without an answer."""


def spread(explorer: Explorer, jobs: int) -> Result:
    """Run one exploration on several cores; return its result.

    The entries of the explorer's stack are independent of each other, so after a start in one process workers explore one each.
    The set of executions is the same; only which failure comes first may differ, so the one of the lowest entry is reported.
    """
    total = explorer.run(enough=ENTRIES_PER_JOB * jobs)
    entries = explorer.stack
    if not entries or (total.failure and explorer.stop) or explorer.late():
        return total
    parts, failed = {}, False
    wanted = itertools.takewhile(lambda _: not failed and not explorer.late(), range(len(entries)))
    for number, part in each(lambda number: _explored(explorer, entries[number]), wanted, jobs):
        parts[number] = part
        failed = failed or bool(part.failure and explorer.stop)
    for number in sorted(parts):
        total.add(parts[number])
    total.finished = total.finished and (failed or len(parts) == len(entries))
    return total


def _explored(explorer: Explorer, entry: Entry) -> Result:
    explorer.result = Result()
    explorer.result.finished = explorer.bound is None
    explorer.machine.operations = 0
    explorer.stack = [entry]
    return explorer.run()


def each(work: Callable[[T], R], things: Iterable[T], jobs: int) -> Iterator[tuple[T, R]]:
    """Yield ``(thing, work(thing))`` as they are done, by ``jobs`` workers forked from this process.

    A thing is taken when a worker is free. Raises what ``work`` raises, and WorkerDied if a worker ends without an answer.
    However this ends, by an exception in the loop that uses it, too, no worker is left.
    """
    things = iter(things)
    with _forked(work, jobs) as workers:
        busy: dict[Connection, T] = {}
        for pipe in workers:
            _ask(pipe, things, busy)
        while busy:
            for pipe in [pipe for pipe in connection.wait(list(busy)) if isinstance(pipe, Connection)]:
                yield busy.pop(pipe), _answer(pipe, workers[pipe])
                _ask(pipe, things, busy)


def _ask(pipe: Connection, things: Iterator[Any], busy: dict[Connection, Any]) -> None:
    for thing in itertools.islice(things, 1):
        busy[pipe] = thing
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died: its answer will say so
            pipe.send(thing)


def _answer(pipe: Connection, process: ForkProcess) -> Any:
    try:
        raised, answer = pipe.recv()
    except (EOFError, OSError):  # OSError: in the middle of an answer
        process.join(PATIENCE)
        raise WorkerDied(f"a worker process ended without an answer (exit code {process.exitcode})") from None
    if raised:
        raise answer
    return answer


@contextlib.contextmanager
def _forked(work: Callable[[Any], Any], jobs: int) -> Iterator[dict[Connection, ForkProcess]]:
    """Fork workers for the time of a ``with``. Gives a dictionary of them by the pipes to them."""
    context = multiprocessing.get_context("fork")
    workers = {}
    try:
        with _held_back() as mask:
            for _ in range(jobs):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(work, theirs, os.getpid(), mask), daemon=True)
                process.start()
                theirs.close()
                workers[ours] = process
        yield workers
    finally:
        with _held_back():
            for process in workers.values():
                process.kill()
            for pipe, process in workers.items():
                process.join()
                pipe.close()


@contextlib.contextmanager
def _held_back() -> Iterator[_Signals]:
    """Block the signals that have a handler in Python, for the time of a ``with``."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _handled())
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _handled() -> _Signals:
    return {number for number in signal.valid_signals() if callable(signal.getsignal(number))}


def _work(work: Callable[[Any], Any], pipe: Connection, parent: int, mask: _Signals) -> None:
    for number in _handled():
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return  # it has died since the fork
    while True:
        thing = pipe.recv()
        try:
            answer = False, work(thing)
        except Exception as error:
            answer = True, _told(error)
        pipe.send(answer)


def _told(error: Exception) -> Exception:
    """Return the exception with its traceback as a note, or a RuntimeError of that text if it cannot be pickled."""
    text = "".join(traceback.format_exception(error))
    error.add_note(f"in a worker process:\n{text}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(text)
    return error
