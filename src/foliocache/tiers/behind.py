"""What is stored behind the caller's back: a bounded queue for each tier, which one thread in each process gives to the tier.

A place in the queue is taken before the reader is told of the bytes. As a rule they stay where they are: once the folio is
complete, it is pinned until the tier has it. Bytes of small pools are copied, since the queue would pin too much of them, and
pieces that other machines wait for, since their folio is complete only later. When all places are in use, what comes waits for
one, if all waits together are a small share of the time that fetches take; else it is dropped. After that nothing waits until
the tier has caught up: it is so much slower than the fetches that waiting would keep little more. No locks are used here, for
the reasons of ``filler.engine``: an offer may come from a signal handler or a finalizer.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import itertools
import mmap
import os
import queue
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..filler.buffers import copy
from .guard import Account, Guard
from .tier import Part

if TYPE_CHECKING:
    from typing import Protocol

    class Pin(Protocol):
        """A lease on a folio of a pool."""

        def __buffer__(self, flags: int, /) -> memoryview: ...
        def release(self) -> None:
            """Unpin it."""


SMALL, LARGE = 64 << 10, 1 << 20  # bytes for which a place is
SMALL_COUNT, LARGE_COUNT = 128, 24  # how many there are: 8 MiB and 24 MiB
PINNED_SHARE = 32  # what all places of a queue may pin is 1/PINNED_SHARE of a pool or less; bytes of smaller pools are copied
BATCH = 4 << 20  # bytes that a tier is given at a time
EXIT_PATIENCE = 2.0  # seconds that the interpreter waits at its exit until the queues are empty
WAIT_SHARE = 0.1  # of the time of all fetches: so the first epoch is not much slower than without a tier
ALLOWANCE, ALLOWANCE_MAX = 0.1, 10.0  # seconds that fetches may wait in the beginning, and after long without a wait
LOOK_AGAIN = 0.001  # seconds
SLICE = 0.1  # seconds of a pause after which it is looked whether it is still needed

_behinds: dict[tuple[int, Guard], Behind] = {}  # by process and tier


def behind(guard: Guard) -> Behind:
    """Return this process's queue of a tier."""
    key = os.getpid(), guard
    return _behinds.get(key) or _behinds.setdefault(key, Behind())


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
    deadline = time.monotonic() + timeout
    ours = [found for (pid, _), found in list(_behinds.items()) if pid == os.getpid()]
    return all(found.flush(deadline - time.monotonic()) for found in ours)


def may_pin(pool_bytes: int) -> bool:
    """Return True if a pool is so large that what is to be stored may stay in its pages."""
    return pool_bytes >= PINNED_SHARE * (SMALL * SMALL_COUNT + LARGE * LARGE_COUNT)


class Item(NamedTuple):
    """Bytes to store, or (``data`` is None) claims to give back. ``held``: what they lie in, besides the place's buffer."""

    guard: Guard
    digest: bytes
    account: Account | None
    offset: int
    data: memoryview | None
    place: Place | None
    held: Pin | None
    length: int


class Place(NamedTuple):
    """The right to queue something. ``at``: where a copy of it belongs in the queue's memory for copies."""

    home: _Places
    at: int

    def give_back(self) -> None:
        self.home.put(self.at)


_Places: TypeAlias = "queue.SimpleQueue[int]"


class Promise:
    """A place for bytes that will be complete in the pool in a moment. Deleting it gives the place back."""

    __slots__ = ("_account", "_digest", "_guard", "_number", "_place", "_queue", "length", "offset")

    def __init__(
        self, queue: Behind, guard: Guard, digest: bytes, offset: int, length: int, account: Account | None, place: Place
    ) -> None:
        self._queue, self._guard, self._digest, self._account = queue, guard, digest, account
        self._place: Place | None = place
        self._number = queue.promised()
        self.offset: int = offset
        self.length: int = length

    def keep(self, held: Pin) -> None:
        """Queue the bytes where they are."""
        item = Item(self._guard, self._digest, self._account, self.offset, memoryview(held), self._place, held, self.length)
        if self._queue.put(item):
            self._place = None
            self._queue.promised_ends(self._number)

    def copy(self, data: memoryview) -> None:
        """Queue a copy of the bytes: they are not in the pool. Raises ValueError if they are nowhere any more."""
        with data[:LARGE] as piece:
            if self._place is not None and len(piece) == self.length:
                place, self._place = self._place, None
                if not self._queue.put_copy(self._guard, self._digest, self._account, self.offset, piece, place):
                    self._guard.drop(1, self._account)
                self._queue.promised_ends(self._number)

    def __del__(self) -> None:
        if self._place is not None:
            self._guard.drop(1, self._account)
            self._place.give_back()
        self._queue.promised_ends(self._number)


class Behind:
    """The queue, its places and its thread."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Item | queue.SimpleQueue[None]] = queue.SimpleQueue()
        large_at = SMALL * SMALL_COUNT
        self._free: tuple[tuple[int, _Places], ...] = (
            (SMALL, _places(range(0, large_at, SMALL))),
            (LARGE, _places(range(large_at, large_at + LARGE * LARGE_COUNT, LARGE))),
        )
        self._copies: mmap.mmap | None = None
        self._unstarted: deque[None] = deque([None])
        self._closed = False
        self._until = 0.0
        self.allowance: float = ALLOWANCE  # seconds that fetches may wait
        self.is_behind: bool = False  # something had no place, and the queue has not been empty since
        self._numbers = itertools.count()
        self._promised: set[int] = set()  # the numbers of those under way

    def offer(
        self, guard: Guard, digest: bytes, offset: int, data: memoryview, patience: float = 0.0, account: Account | None = None
    ) -> float:
        """Queue a copy of the bytes of an object from offset on, if the tier wants them and there is a place.

        Wait for a place for at most ``patience`` seconds, and return how many it were. Claims to what is not queued end.
        """
        waited = 0.0
        if self._closed or not guard.wants(digest, offset, len(data), account):
            self.unclaim(guard, digest, offset, len(data))
            return waited
        for begin in range(0, len(data), LARGE):
            with data[begin : begin + LARGE] as piece:
                place, seconds = self._take(len(piece), patience - waited)
                waited += seconds
                if place is None or not self.put_copy(guard, digest, account, offset + begin, piece, place):
                    self.is_behind = place is None
                    guard.drop(1, account)
                    self.unclaim(guard, digest, offset + begin, len(data) - begin)
                    break
        guard.wait_seconds += waited
        return waited

    def promise(
        self, guard: Guard, digest: bytes, offset: int, length: int, patience: float, account: Account | None
    ) -> tuple[Promise | None, float]:
        """Return a place for bytes that are not to be copied, as `offer` takes one, and the seconds that this has waited."""
        if self._closed or not guard.wants(digest, offset, length, account):
            return None, 0.0
        place, waited = self._take(min(length, LARGE), patience)
        guard.wait_seconds += waited
        if place is None:
            self.is_behind = True
            guard.drop(1, account)
            return None, waited
        return Promise(self, guard, digest, offset, length, account, place), waited

    def promised(self) -> int:
        """Return the number of a new promise."""
        number = next(self._numbers)
        self._promised.add(number)
        return number

    def promised_ends(self, number: int) -> None:
        """A promise has been kept, or never will be."""
        self._promised.discard(number)

    def unclaim(self, guard: Guard, digest: bytes, offset: int, length: int) -> None:
        """Give claims of a range back, which is not going to be stored. Others need not wait for it."""
        if guard.lease and not self._closed:
            self.put(Item(guard, digest, None, offset, None, None, None, length))

    @property
    def is_full(self) -> bool:
        """True if an offer might have to wait."""
        return any(free.empty() for _, free in self._free)

    def flush(self, timeout: float) -> bool:
        """Wait until its tier has all that was promised or queued. False if ``timeout`` seconds were not enough."""
        deadline = time.monotonic() + timeout
        promised = self._promised.copy()
        while not promised.isdisjoint(self._promised) and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN)
        if self._unstarted:
            return promised.isdisjoint(self._promised)
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._work.put(done)
        try:
            done.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            return False
        return promised.isdisjoint(self._promised)

    def close(self) -> None:
        """At the exit of the interpreter: take no more, and wait for what is queued, for EXIT_PATIENCE at most."""
        self._closed = True
        self.flush(EXIT_PATIENCE)

    def put(self, item: Item) -> bool:
        """Queue an item. Return False if there is no thread for it."""
        if not self._start():
            return False
        self._work.put(item)
        return True

    def _take(self, length: int, patience: float) -> tuple[Place | None, float]:
        """Take a place for so many bytes. Return it, and the seconds that were waited; None if there is none."""
        fitting = [free for size, free in self._free if length <= size]
        for free in fitting:
            with contextlib.suppress(queue.Empty):
                return Place(free, free.get_nowait()), 0.0
        if patience <= 0 or self._unstarted:
            return None, 0.0
        begin = time.monotonic()
        try:
            return Place(fitting[0], fitting[0].get(timeout=patience)), time.monotonic() - begin
        except queue.Empty:
            return None, time.monotonic() - begin

    def put_copy(
        self, guard: Guard, digest: bytes, account: Account | None, offset: int, piece: memoryview, place: Place
    ) -> bool:
        """Queue a copy. Return False, and give the place back, if there is no thread or no memory for it."""
        length = len(piece)
        is_queued = False
        with contextlib.suppress(OSError):
            self._copies = copies = self._copies or _memory(SMALL * SMALL_COUNT + LARGE * LARGE_COUNT)
            data = memoryview(copies)[place.at : place.at + length]
            copy(data, piece)
            is_queued = self.put(Item(guard, digest, account, offset, data, place, None, length))
        if not is_queued:
            place.give_back()
        return is_queued

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
        batch: list[Item] = []
        while True:
            if self._work.empty():
                self.is_behind = False
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
            if batch and (full or not isinstance(following, Item) or not _is_alike(following, batch[0])):
                self._store(batch)
                batch = []
            if isinstance(following, Item):
                batch.append(following)
            else:
                following.put(None)
            del following

    def _store(self, items: list[Item]) -> None:
        guard, digest, account = items[0][:3]
        parts: list[Part] = [(item.offset, item.data) for item in items if item.data is not None]
        try:
            if parts:
                self._pause()
            if not parts:
                guard.release(digest, [(item.offset, item.length) for item in items])
            elif not guard.store(digest, parts, account):
                guard.release(digest, [(offset, len(data)) for offset, data in parts])
        except BaseException as error:  # not of the tier's; the thread must go on
            guard.errors += 1
            if isinstance(error, MemoryError):
                time.sleep(0.1)
        length = sum(len(data) for _, data in parts)
        for item in items:
            if item.data is not None and item.place is not None:
                with contextlib.suppress(BufferError):  # a tier that keeps a reference costs a place
                    item.data.release()
                    if item.held is not None:
                        item.held.release()
                    item.place.give_back()
        items.clear()  # the thread's frame would keep what was pinned
        if length and guard.rate:
            self._until = time.monotonic() + guard.pace(length)

    def _pause(self) -> None:
        """Keep to the tier's rate. At the exit of the interpreter there is no time for that."""
        while not self._closed and (left := self._until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE))


class Credit:
    """How long what a fetch brings may wait for a place in the queue of a tier: as long as the fetch has taken so far. All
    fetches of a process together wait for WAIT_SHARE of their time, except for bytes that other machines wait for, since those
    would be fetched again."""

    def __init__(self, guard: Guard) -> None:
        self._queue = None if guard.lease else behind(guard)
        self._left = self._lent = 0.0
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """What is left."""
        if self._queue is None:
            return self._left
        return 0.0 if self._queue.is_behind else max(min(self._left, self._queue.allowance), 0.0)

    def lend(self) -> float:
        """Return what is left. Until it is known what was spent, the other fetches have as much less."""
        self._lent = self.seconds
        if self._queue is not None:
            self._queue.allowance -= self._lent
        return self._lent

    def fetched(self) -> None:
        """Count the time until now as the fetch's."""
        took = time.monotonic() - self._since
        self._left += took
        if self._queue is not None:
            self._queue.allowance = min(self._queue.allowance + WAIT_SHARE * took, ALLOWANCE_MAX)

    def spent(self, seconds: float) -> None:
        """Note what was waited, of what was lent."""
        self._left -= seconds
        if self._queue is not None:
            self._queue.allowance += self._lent - seconds
        self._lent = 0.0

    def go_on(self) -> None:
        """The fetch goes on: what the reader has done meanwhile does not count."""
        self._since = time.monotonic()


def _is_alike(one: Item, other: Item) -> bool:
    """Return True if two items may be given to a tier at once."""
    return one[:3] == other[:3] and (one.data is None) == (other.data is None)


def _places(offsets: Iterable[int]) -> _Places:
    made: _Places = queue.SimpleQueue()
    for at in offsets:
        made.put(at)
    return made


def _memory(length: int) -> mmap.mmap:
    """Return memory that the kernel gives when it is used: sooner than shared memory, and a forked child has no use for it. No
    huge pages: several threads that are first in one make it each. Raises OSError."""
    made = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that has none
        made.madvise(mmap.MADV_NOHUGEPAGE)
    made.madvise(mmap.MADV_DONTFORK)
    return made


os.register_at_fork(after_in_child=_behinds.clear)
