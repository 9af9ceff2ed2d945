"""A worker of the demo: a process that reads all members, in an order of its own, and checks every byte.

The three runs of the demo differ only in the arguments for fsspec, so differences in the table are those of the caches. A
worker imports only what it needs to read, because the table shows its memory.

Over a pipe, it sends the demo ``ready``, ``progress``, and ``done`` or ``failed``. After ``done`` it waits for a message, while
its memory is measured. If the pipe breaks, the demo has ended, and the worker ends, too.
"""

from __future__ import annotations

import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from foliocache.cli.demo.dataset import DIGEST_SIZE, Dataset, Member

if TYPE_CHECKING:
    from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

PIECE = 2**20  # bytes that are read at a time: a whole member could be most of the worker's memory
REPORT_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Job:
    """What a worker has to read, from where, and with which options of fsspec."""

    number: int
    index: str
    url: str
    epochs: int
    sample: float
    filesystem: dict[str, Any] = field(default_factory=dict)
    opening: dict[str, Any] = field(default_factory=dict)

    def members(self, dataset: Dataset) -> int:
        """Return how many members of the dataset the worker reads in an epoch."""
        return max(1, round(len(dataset.members) * self.sample))


@dataclass
class Tally:
    """How much a worker has read, how much of that was wrong, and the hits and misses that its files' caches have counted."""

    members: int = 0
    read_bytes: int = 0
    wrong_bytes: int = 0
    wrong: list[str] = field(default_factory=list)
    hits: int = 0
    misses: int = 0


class Reader:
    """Reads members from the shards, which it keeps open."""

    def __init__(self, job: Job):
        from fsspec.core import url_to_fs

        if job.url.startswith("folio::"):
            import foliocache.adapters.fsspec  # noqa: F401 - registers the protocol where foliocache is on the path but not installed
        self.job = job
        self.dataset: Dataset = Dataset.load(job.index)
        self.fs: AbstractFileSystem
        self.root: str
        self.fs, self.root = url_to_fs(job.url, **job.filesystem)
        self.files: dict[int, AbstractBufferedFile] = {}
        self.tally: Tally = Tally()

    def orders(self) -> list[list[Member]]:
        """Return the members that this worker reads, in its order, for each epoch."""
        shuffle = random.Random(self.job.number).sample
        wanted = self.job.members(self.dataset)
        return [shuffle(self.dataset.members, wanted) for _ in range(self.job.epochs)]

    def open(self, shard: int) -> AbstractBufferedFile:
        """Return a shard's file. It is opened once, since a block cache lives as long as its file."""
        if shard not in self.files:
            path = f"{self.root.rstrip('/')}/{self.dataset.shards[shard]}"
            self.files[shard] = self.fs.open(path, "rb", **self.job.opening)
        return self.files[shard]

    def check(self, member: Member) -> None:
        """Read one member, and check its hash."""
        file = self.open(member.shard)
        file.seek(member.offset)
        state, left = blake2b(digest_size=DIGEST_SIZE), member.size
        while left:
            piece = file.read(min(PIECE, left))
            if not piece:
                break
            state.update(piece)
            left -= len(piece)
        self.count(member, left == 0 and state.hexdigest() == member.digest)

    def count(self, member: Member, right: bool) -> None:
        """Add a member to the tally. All bytes of a wrong one count as wrong, since a hash does not tell which are."""
        self.tally.members += 1
        self.tally.read_bytes += member.size
        if not right:
            self.tally.wrong_bytes += member.size
            self.tally.wrong.append(member.name)

    def finish(self) -> Tally:
        """Return the tally, with the hits and misses of the files' caches, if they count them."""
        for file in self.files.values():
            info = getattr(getattr(file, "cache", None), "cache_info", None)
            if info is not None:
                self.tally.hits += info().hits
                self.tally.misses += info().misses
        return self.tally


def read_all(reader: Reader, pipe: Connection) -> Tally:
    """Read all epochs, and send the progress from time to time. Return the tally."""
    told = time.monotonic()
    for order in reader.orders():
        for member in order:
            reader.check(member)
            now = time.monotonic()
            if now - told >= REPORT_EVERY:
                pipe.send(("progress", (reader.tally.members, reader.tally.read_bytes)))
                told = now
    return reader.finish()


def work(pipe: Connection, job: Job) -> None:
    """The main function of a worker."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    try:
        reader = Reader(job)
        pipe.send(("ready", None))
        pipe.recv()
        pipe.send(("done", read_all(reader, pipe)))
        pipe.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the demo has gone away
    except Exception as error:
        import traceback

        with suppress(OSError):  # another worker has failed first, and the demo has gone away
            pipe.send(("failed", (f"{type(error).__name__}: {error}", traceback.format_exc())))
