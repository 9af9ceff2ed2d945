"""The windows of the large chunks that were read last.

A chunk whose folios do not lie one after the other is mapped when it is read, piece by piece, which costs more than to copy a
small part of it. So some windows stay open, and the next read of their chunks finds them mapped. Each read still asks the pool
what the chunk is: an old window is replaced, and never used.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ...pool.window import Window

SHARE = 8


class Held:
    """Windows of at most ``limit`` bytes, by chunk; the oldest are closed first. Threads may use it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._windows: OrderedDict[tuple[str, str], Window] = OrderedDict()
        self._bytes = 0

    def keep(self, key: tuple[str, str], chunk: Any) -> None:
        """Keep the window of a chunk, an array, open. Nothing is done if the array has no window, or a large one."""
        window = getattr(chunk.base, "obj", chunk.base)  # a view of the window, or itself
        if not isinstance(window, Window) or self._windows.get(key) is window or len(window) > self._limit:
            return
        old = self._windows.pop(key, None)
        self._windows[key] = window
        self._bytes += len(window) - (0 if old is None else len(old))
        while self._bytes > self._limit and self._windows:
            _, oldest = self._windows.popitem(last=False)
            self._bytes -= len(oldest)
