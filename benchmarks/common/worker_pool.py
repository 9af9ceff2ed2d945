"""Several processes that do the same thing at the same time.

Each is spawned, makes its cases once, and then runs the one it is told to, from a moment that all of them are given: the
monotonic clock is the same for all processes of a machine.

They are started with SIGINT blocked: the terminal sends it to all, and the process that measures is the one that ends the
others. One that is killed closes its pipe, and the process that waits for it learns so.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from typing import Any, Self

from benchmarks.common.measure import Unavailable, collected
from foliocache.cli.exits import CommandError
from foliocache.cli.signals import blocked

HEAD_START_NS = 5_000_000
GRACE = 10  # seconds a process has to leave by itself
Setup = Callable[..., dict[str, Callable[[], int]]]


class WorkerPool:
    """Processes with cases: ``setup(*arguments)`` of a module's top level returns them by name, in each process.

    A case returns how many operations it did. ``cpus[n]`` pins process n.
    """

    def __init__(self, setup: Setup, arguments: Sequence[tuple[Any, ...]], cpus: Sequence[int] | None = None):
        self._members: list[tuple[Any, Any]] = []
        resource_tracker.ensure_running()  # before signals are blocked: when it starts, it opens the signal mask
        try:
            with blocked():
                self._start(setup, arguments, cpus)
            for process, pipe in self._members:
                self._answer(process, pipe)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _start(self, setup: Setup, arguments: Sequence[tuple[Any, ...]], cpus: Sequence[int] | None) -> None:
        context = multiprocessing.get_context("spawn")
        for number, each in enumerate(arguments):
            ours, theirs = context.Pipe()
            cpu = cpus[number % len(cpus)] if cpus else None
            process = context.Process(target=_work, args=(theirs, cpu, setup, each), daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        with blocked():
            for _, pipe in self._members:
                pipe.close()
            for process, _ in self._members:
                if kind is None:
                    process.join(GRACE)
                process.kill()
                process.join()

    @property
    def pids(self) -> list[int]:
        return [process.pid or 0 for process, _ in self._members]

    def rate(self, case: str, members: int | None = None) -> float:
        """Operations per second of the first ``members`` processes together, all of them at the same time."""
        return sum(1e9 / each for each in self.per_op(case, members))

    def per_op(self, case: str, members: int | None = None) -> list[float]:
        """Nanoseconds per operation in each of the first ``members`` processes, all of them at the same time."""
        chosen = self._members[:members]
        begin = time.perf_counter_ns() + HEAD_START_NS
        for _, pipe in chosen:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died: its answer will say so
                pipe.send((case, begin))
        return [self._answer(process, pipe) for process, pipe in chosen]

    def _answer(self, process: Any, pipe: Any) -> Any:
        try:
            kind, answer = pipe.recv()
        except (EOFError, OSError):  # OSError: in the middle of an answer
            process.join(GRACE)
            raise CommandError(f"a benchmark's process died with exit code {process.exitcode}") from None
        if kind == "unavailable":
            raise Unavailable(answer)
        if kind == "error":
            raise RuntimeError(f"a benchmark's process failed:\n{answer}")
        return answer


def _work(pipe: Any, cpu: int | None, setup: Setup, arguments: tuple[Any, ...]) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        cases = setup(*arguments)
        pipe.send(("ready", None))
        with collected():
            while True:
                name, begin = pipe.recv()
                pipe.send(("took", _timed(cases[name], begin)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Unavailable as missing:
        pipe.send(("unavailable", str(missing)))
    except Exception:
        pipe.send(("error", traceback.format_exc()))


def _timed(case: Callable[[], int], begin: int) -> float:
    while time.perf_counter_ns() < begin:
        pass
    began = time.perf_counter_ns()
    done = case()
    return (time.perf_counter_ns() - began) / done
