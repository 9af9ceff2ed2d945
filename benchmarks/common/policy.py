"""The shipped policy on a trace: a pool of small pages, a source without cost, a lease for every access."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.common.pools import KIB, new_pool, one_per_folio

PAGE = 4 * KIB


def hit_ratio(trace: Sequence[int], pages: int, skip: int = 0) -> float:
    """Return hits / accesses after the first ``skip`` accesses, in a pool with room for ``pages`` folios beside its index."""
    objects = max(trace) + 1
    source = Misses()
    with new_pool(max(pages + _nodes(objects, pages), 64) * PAGE, PAGE) as cache:
        mapping = one_per_folio(cache, objects, PAGE, readinto=source, readahead=False)
        _touch(mapping, trace[:skip])
        before = source.count
        _touch(mapping, trace[skip:])
    return 1 - (source.count - before) / (len(trace) - skip)


class Misses:
    """A source that counts and writes nothing."""

    count = 0

    def __call__(self, offset: int, buffer: Any) -> int:
        self.count += 1
        return len(buffer)


def _touch(mapping: Any, trace: Sequence[int]) -> None:
    lease = mapping.lease
    for index in trace:
        lease(index * PAGE)


def _nodes(objects: int, pages: int) -> int:
    """Pages of index nodes that an object of so many folios needs while ``pages`` of them are cached: 12 nodes of 64 slots a
    page."""
    return min(-(-objects // 64), pages) // 12 + -(-objects // 4096) // 12 + 3
