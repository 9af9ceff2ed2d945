"""The demo's workers: started together, measured together, gone together.

Workers are *spawned*, as PyTorch's DataLoader and every server with threads must do: nothing is inherited, so what they share
they share through the pool alone. One loop serves all pipes and takes a sample of their memory between two messages; there is
no thread that a crash could leave behind. A worker that dies closes its pipe, which the loop sees at once.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from foliocache.cli.demo.worker import Job, Tally, work
from foliocache.cli.exits import CommandError
from foliocache.cli.memory import together
from foliocache.cli.progress import WorkerProgress, ignore

SAMPLE_EVERY = 0.1  # seconds between two samples of the memory
GRACE = 10  # seconds a worker has to leave by itself when its work is done


class WorkerDied(CommandError):
    """A worker ended without its result."""


@dataclass(frozen=True)
class Measured:
    """What the workers did: seconds from the first read to the last, bytes of memory, and the tally of each."""

    seconds: float
    peak_bytes: int
    idle_bytes: int
    tallies: list[Tally]


class WorkerPool:
    """A worker for each job, while it is entered.

    Parameters
    ----------
    jobs
        What each worker is to do.
    pool
        The path of the pool that they share, whose memory is counted once; None if they share none.
    progress
        Called with a worker's number, and the files and bytes that it has read, every now and then.
    """

    def __init__(self, jobs: list[Job], pool: str | None = None, progress: WorkerProgress = ignore):
        self.jobs = jobs
        self.pool = pool
        self.progress = progress
        self.workers: list[BaseProcess] = []
        self.pipes: list[connection.Connection] = []
        self.peak: int = 0
        self.sampled: float = 0.0
        resource_tracker.ensure_running()  # here, before signals are blocked: when it starts, it opens the signal mask

    def __enter__(self) -> Self:
        context = get_context("spawn")
        try:
            for job in self.jobs:
                ours, theirs = context.Pipe()
                self.pipes.append(ours)
                worker = context.Process(target=work, args=(theirs, job), name=f"foliocache-demo-{job.number}", daemon=True)
                worker.start()
                theirs.close()
                self.workers.append(worker)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for pipe in self.pipes:
            pipe.close()  # a worker that waits ends by itself
        for worker in self.workers:
            if kind is None:
                worker.join(GRACE)
            worker.kill()
            worker.join()

    def run(self) -> Measured:
        """Have all of them read at once.

        Raises
        ------
        WorkerDied
            One has died or failed.
        """
        self.gather("ready")
        idle = self.sample()
        begin = time.monotonic()
        for pipe in self.pipes:
            with suppress(BrokenPipeError, ConnectionResetError):  # it has died since; gather() finds out and says so
                pipe.send("go")
        tallies = self.gather("done")
        seconds = time.monotonic() - begin
        self.sample()
        return Measured(seconds, self.peak, idle, tallies)

    def gather(self, wanted: str) -> list[Any]:
        """Wait until every worker has said ``wanted``; what came with it, in the order of the workers. Raises WorkerDied."""
        answers: dict[int, Any] = {}
        waiting = {pipe: number for number, pipe in enumerate(self.pipes)}
        while waiting:
            for pipe in connection.wait(list(waiting), timeout=SAMPLE_EVERY):
                assert isinstance(pipe, connection.Connection)
                number = waiting[pipe]
                word, value = self.receive(number)
                if word == wanted:
                    answers[number] = value
                    del waiting[pipe]
                else:
                    self.progress(number, *value)
            if time.monotonic() - self.sampled >= SAMPLE_EVERY:
                self.sample()
        return [answers[number] for number in range(len(self.pipes))]

    def receive(self, number: int) -> tuple[str, Any]:
        """One message of a worker: a word, and what comes with it. Raises WorkerDied."""
        try:
            word, value = self.pipes[number].recv()
        except (EOFError, OSError):  # OSError: in the middle of a message
            self.workers[number].join(GRACE)
            raise WorkerDied(f"worker {number + 1} died with exit code {self.workers[number].exitcode}") from None
        if word == "failed":
            raise WorkerDied(f"worker {number + 1} failed: {value[0]}") from RuntimeError(value[1])
        return word, value

    def sample(self) -> int:
        """The bytes of memory that workers and pool hold now; the peak follows."""
        held = together((worker.pid for worker in self.workers if worker.pid), self.pool)
        self.peak = max(self.peak, held)
        self.sampled = time.monotonic()
        return held
