"""The windows of the large chunks that were read last.

A chunk whose folios do not lie one after the other is mapped when it is read, piece by piece, which costs more than to copy a
small part of it. So some windows stay open, and the next read of their chunks finds them mapped. Each read still asks the pool
what the chunk is: an old window is replaced, and never used.

What is held cannot be evicted. So a process has one set of windows for all its stores of a pool, and all processes that use the
pool have equal shares of one part of it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from typing import Any

from ...pool.client import attached
from ...pool.pool import Pool
from ...pool.window import Window

SHARE = 8
COUNT_SECONDS = 1.0  # the processes are counted again after this time


class Held:
    """Windows of at most this process's share of a pool, by chunk; the oldest are closed first. Threads may use it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._windows: OrderedDict[tuple[str, str], Window] = OrderedDict()
        self._bytes = 0
        self._limit = 0
        self._counted = -COUNT_SECONDS
        self._lock = threading.Lock()

    def keep(self, key: tuple[str, str], chunk: Any) -> None:
        """Keep the window of a chunk, an array, open. Nothing is done if the array has no window, or a large one, or if another
        thread is here."""
        window = getattr(chunk.base, "obj", chunk.base)  # a view of the window, or itself
        if not isinstance(window, Window) or not self._lock.acquire(blocking=False):
            return
        closed: list[Window | None] = []  # when the lock is released
        try:
            if self._windows.get(key) is not window and len(window) <= self._share():
                closed.append(self._windows.pop(key, None))
                self._windows[key] = window
                self._bytes += len(window) - _size(closed[-1])
            while self._windows and self._bytes > self._share():
                closed.append(self._windows.popitem(last=False)[1])
                self._bytes -= _size(closed[-1])
        finally:
            self._lock.release()

    def _share(self) -> int:
        """Return how many bytes of the pool this process may hold."""
        now = time.monotonic()
        if now - self._counted >= COUNT_SECONDS:
            processes = max(attached(self._pool._attachment.segment), 1)
            self._limit, self._counted = self._pool.pool_bytes // SHARE // processes, now
        return self._limit

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may have the other
        self._counted = -COUNT_SECONDS


def _size(window: Window | None) -> int:
    return 0 if window is None else len(window)


_all: weakref.WeakValueDictionary[int, Held] = weakref.WeakValueDictionary()  # by the id of the pool, which they keep


def held_in(pool: Pool) -> Held:
    """Return the windows that this process holds in a pool, for all its stores; they are closed with the last of those."""
    found = _all.get(id(pool))
    return _all.setdefault(id(pool), Held(pool)) if found is None else found


def _after_fork_in_child() -> None:
    for each in list(_all.values()):
        each._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
