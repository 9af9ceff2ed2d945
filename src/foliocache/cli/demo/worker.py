"""One reader of the demo, spawned: it reads every member in an order of its own and checks every byte.

The three runs differ in the arguments that fsspec gets and in nothing else, so a difference in the table is a difference of
the caches. A worker imports what it needs to read, and no more: the memory that the table shows has a copy of it per worker.

It talks to the demo over one pipe: ``ready`` when it could start, ``progress``, ``done`` or ``failed``; then it stays until it
is told to go, because its memory is measured when it holds most of it. When the pipe breaks, the demo is gone, and it ends.
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

PIECE = 2**20  # bytes; a member is read in such pieces, so that a large one does not show up as the worker's memory
REPORT_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Job:
    """What a worker is to read, from where, and with which options of fsspec."""

    number: int
    index: str
    url: str
    epochs: int
    sample: float
    filesystem: dict[str, Any] = field(default_factory=dict)
    opening: dict[str, Any] = field(default_factory=dict)

    def members(self, dataset: Dataset) -> int:
        """How many members of the dataset it reads in an epoch."""
        return max(1, round(len(dataset.members) * self.sample))


@dataclass
class Tally:
    """What a worker has read, how much of it was wrong, and what its files' own caches have counted."""

    members: int = 0
    read_bytes: int = 0
    wrong_bytes: int = 0
    wrong: list[str] = field(default_factory=list)
    hits: int = 0
    misses: int = 0


class Reader:
    """The shards as open files, and the members in them."""

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
        """The members of each epoch in this worker's order, or the first of them when only a sample is wanted."""
        shuffle = random.Random(self.job.number).sample
        wanted = self.job.members(self.dataset)
        return [shuffle(self.dataset.members, wanted) for _ in range(self.job.epochs)]

    def open(self, shard: int) -> AbstractBufferedFile:
        """A shard, opened once: a block cache lives as long as its file object."""
        if shard not in self.files:
            path = f"{self.root.rstrip('/')}/{self.dataset.shards[shard]}"
            self.files[shard] = self.fs.open(path, "rb", **self.job.opening)
        return self.files[shard]

    def check(self, member: Member) -> None:
        """Read one member and judge it by its hash."""
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
        """Add a member to the tally; a wrong one is wrong as a whole, for a hash does not say where."""
        self.tally.members += 1
        self.tally.read_bytes += member.size
        if not right:
            self.tally.wrong_bytes += member.size
            self.tally.wrong.append(member.name)

    def finish(self) -> Tally:
        """The tally, with the hits of the files' own caches where they count them."""
        for file in self.files.values():
            info = getattr(getattr(file, "cache", None), "cache_info", None)
            if info is not None:
                self.tally.hits += info().hits
                self.tally.misses += info().misses
        return self.tally


def read_all(reader: Reader, pipe: Connection) -> Tally:
    """Read every epoch, sending the progress every now and then; the tally."""
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
    """A worker from beginning to end."""
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
