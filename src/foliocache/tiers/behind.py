"""What is stored behind the caller's back: copies in a bounded queue, which one thread in each process gives to the tiers.

A copy is taken because the page may be evicted, or its object removed, before a slow tier has it. When all staging buffers are
in use, what comes waits for one, but never longer than its fetch has taken; then it is dropped. No locks are used here, for
the reasons of ``filler.engine``: an offer may come from a signal handler or a finalizer.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import mmap
import os
import queue
import sys
import time
from collections import deque
from typing import NamedTuple, TypeAlias

from .guard import Account, Guard
from .tier import Part

SMALL, LARGE = 64 << 10, 1 << 20  # bytes of a staging buffer
SMALL_COUNT, LARGE_COUNT = 128, 24  # how many there are: 8 MiB and 24 MiB
BATCH = 4 << 20  # bytes that a tier is given at a time
EXIT_PATIENCE = 2.0  # seconds that the interpreter waits at its exit until the queue is empty

_behinds: dict[int, Behind] = {}  # this process's, by its pid


def behind() -> Behind:
    """Return this process's queue."""
    pid = os.getpid()
    return _behinds.get(pid) or _behinds.setdefault(pid, Behind())


def flush(timeout: float = EXIT_PATIENCE) -> bool:
    """Wait until the tiers have what this process has given them so far.

    Parameters
    ----------
    timeout : float
        Seconds to wait at most.

    Returns
    -------
    bool
        False if the time was not enough.
    """
    found = _behinds.get(os.getpid())
    return found is None or found.flush(timeout)


class _Item(NamedTuple):
    guard: Guard
    digest: bytes
    account: Account | None
    offset: int
    length: int
    staged: mmap.mmap
    home: Free


Free: TypeAlias = "queue.SimpleQueue[mmap.mmap | None]"  # None: a buffer that has not been made yet


class Behind:
    """The queue, its staging buffers and its thread."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[_Item | queue.SimpleQueue[None]] = queue.SimpleQueue()
        self._free: tuple[tuple[int, Free], ...] = ((SMALL, _buffers(SMALL_COUNT)), (LARGE, _buffers(LARGE_COUNT)))
        self._unstarted: deque[None] = deque([None])
        self._closed = False

    def offer(
        self, guard: Guard, digest: bytes, offset: int, data: memoryview, patience: float = 0.0, account: Account | None = None
    ) -> float:
        """Queue a copy of the bytes of an object from offset on, if the tier wants them and there is a buffer.

        Wait for a buffer for at most ``patience`` seconds, and return how many it were.
        """
        waited = 0.0
        if self._closed or not guard.wants(digest, offset, len(data), account):
            return waited
        for begin in range(0, len(data), LARGE):
            with data[begin : begin + LARGE] as piece:
                home, staged, seconds = self._take(len(piece), patience - waited)
                waited += seconds
                if home is None or not self._queue(guard, digest, account, offset + begin, piece, staged, home):
                    guard.drop(1, account)
                    break
        guard.wait_seconds += waited
        return waited

    @property
    def is_full(self) -> bool:
        """True if an offer might have to wait."""
        return any(free.empty() for _, free in self._free)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was queued has been given to its tier. False if ``timeout`` seconds were not enough."""
        if self._unstarted:
            return True
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._work.put(done)
        try:
            done.get(timeout=max(timeout, 0))
        except queue.Empty:
            return False
        return True

    def close(self) -> None:
        """At the exit of the interpreter: take no more, and wait for what is queued, for EXIT_PATIENCE at most."""
        self._closed = True
        self.flush(EXIT_PATIENCE)

    def _take(self, length: int, patience: float) -> tuple[Free | None, mmap.mmap | None, float]:
        """Take a buffer for so many bytes. Return where it belongs (None if there is none), the buffer, and seconds waited."""
        fitting = [free for size, free in self._free if length <= size]
        for free in fitting:
            with contextlib.suppress(queue.Empty):
                return free, free.get_nowait(), 0.0
        if patience <= 0 or self._unstarted:
            return None, None, 0.0
        begin = time.monotonic()
        try:
            return fitting[0], fitting[0].get(timeout=patience), time.monotonic() - begin
        except queue.Empty:
            return None, None, time.monotonic() - begin

    def _queue(
        self,
        guard: Guard,
        digest: bytes,
        account: Account | None,
        offset: int,
        piece: memoryview,
        staged: mmap.mmap | None,
        home: Free,
    ) -> bool:
        if staged is None:
            staged = mmap.mmap(-1, next(size for size, free in self._free if free is home))
        staged[: len(piece)] = piece
        self._work.put(_Item(guard, digest, account, offset, len(piece), staged, home))
        return self._start()

    def _start(self) -> bool:
        with contextlib.suppress(IndexError):
            self._unstarted.pop()
            try:
                if sys.is_finalizing():
                    raise RuntimeError
                _thread.start_new_thread(self._serve, ())
            except RuntimeError:  # no more threads
                self._unstarted.append(None)
                return False
            atexit.register(self.close)
        return True

    def _serve(self) -> None:
        batch: list[_Item] = []
        while True:
            if not batch:
                following = self._work.get()
            else:
                try:
                    following = self._work.get_nowait()
                except queue.Empty:
                    self._store(batch)
                    batch = []
                    continue
            full = sum(item.length for item in batch) >= BATCH
            if batch and (full or not isinstance(following, _Item) or following[:3] != batch[0][:3]):
                self._store(batch)
                batch = []
            if isinstance(following, _Item):
                batch.append(following)
            else:
                following.put(None)
            del following

    def _store(self, items: list[_Item]) -> None:
        guard, digest, account = items[0][:3]
        parts: list[Part] = [(item.offset, memoryview(item.staged)[: item.length]) for item in items]
        try:
            guard.store(digest, parts, account)
        except BaseException as error:  # not of the tier's; the thread must go on
            guard.errors += 1
            if isinstance(error, MemoryError):
                time.sleep(0.1)
        for item, (_, view) in zip(items, parts, strict=True):
            with contextlib.suppress(BufferError):  # a tier that keeps a reference costs a buffer
                view.release()
                item.home.put(item.staged)


class Credit:
    """How long what a fetch brings may wait until it is stored: as long as the fetch has taken so far."""

    def __init__(self) -> None:
        self.seconds: float = 0.0
        self._since = time.monotonic()

    def fetched(self) -> None:
        """Count the time until now as the fetch's."""
        self.seconds += time.monotonic() - self._since

    def spent(self, seconds: float) -> None:
        """Note what was waited."""
        self.seconds -= seconds

    def go_on(self) -> None:
        """The fetch goes on: what the reader has done meanwhile does not count."""
        self._since = time.monotonic()


def _buffers(count: int) -> Free:
    made: Free = queue.SimpleQueue()
    for _ in range(count):
        made.put(None)
    return made


os.register_at_fork(after_in_child=_behinds.clear)
