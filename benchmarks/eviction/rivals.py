"""The other policies: libCacheSim's, and the offline optimum."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

NAMES = {"LRU": "LRU", "SIEVE": "Sieve", "S3-FIFO": "S3FIFO", "W-TinyLFU": "WTinyLFU", "ARC": "ARC"}


def hit_ratio(name: str, trace: Sequence[int], pages: int, skip: int) -> float:
    """One of NAMES on a trace, every object of size 1."""
    import libcachesim

    cache = getattr(libcachesim, NAMES[name])(pages)
    request = libcachesim.Request()
    request.obj_size = 1
    get, hits = cache.get, 0
    for at, page in enumerate(trace):
        request.obj_id = page
        if get(request) and at >= skip:
            hits += 1
    return hits / (len(trace) - skip)


def optimum(trace: Sequence[int], pages: int, skip: int) -> float:
    """Belady: evict what is used again last."""
    end = len(trace)
    following = [end] * end
    last: dict[int, int] = {}
    for at in range(end - 1, -1, -1):
        following[at] = last.get(trace[at], end + at)
        last[trace[at]] = at
    cached: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    hits = 0
    for at, page in enumerate(trace):
        if page in cached:
            hits += at >= skip
        elif len(cached) >= pages:
            _evict(cached, heap)
        cached[page] = following[at]
        heapq.heappush(heap, (-following[at], page))
    return hits / (end - skip)


def _evict(cached: dict[int, int], heap: list[tuple[int, int]]) -> None:
    while True:
        negative, page = heapq.heappop(heap)
        if cached.get(page) == -negative:
            del cached[page]
            return
