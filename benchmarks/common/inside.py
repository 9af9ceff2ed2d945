"""Everything that the benchmarks use of foliocache's private names. No other file here does so, except
for ``native``, which calls the compiled core by its pointers.

It is the core itself, which is timed without the library around it, tiers, and fsspec's name for a coroutine.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import native
from benchmarks.common.measure import Unavailable
from foliocache.mm import layout, page_alloc, page_ref, xarray
from foliocache.mm import mapping as mappings
from foliocache.pool.geometry import PAGES_MIN
from foliocache.pool.mapping import pool_digest
from foliocache.pool.watch import Watch

__all__ = [
    "PAGES_MIN",
    "coroutine_of_cat_file",
    "coroutine_of_cat_ranges",
    "counted_page",
    "disk_tier",
    "memory_of",
    "number_of",
    "place_of_first_folio",
    "scraping",
    "table_bytes_per_page",
    "tier_bytes",
    "top_pages",
    "valkey_tier",
]


def coroutine_of_cat_file(fs: Any) -> Any:
    """Return what fsspec calls ``cat_file`` by in an event loop."""
    return fs._cat_file


def coroutine_of_cat_ranges(fs: Any) -> Any:
    """Return what fsspec calls ``cat_ranges`` by in an event loop."""
    return fs._cat_ranges


def memory_of(pool: Any) -> int:
    """Return the handle of a pool's memory, the first argument of every function of the core."""
    return pool._attachment.segment.memory.handle


def number_of(pool: Any) -> int:
    """Return the number of this process's client slot."""
    return pool._attachment.number


def table_bytes_per_page(pool: Any) -> float:
    """Return the bytes of those tables of a pool that grow with its pages, for each page that it may ever have."""
    geometry = pool._attachment.segment.geometry
    return float((geometry["data"] - geometry["buckets"]) / geometry["npages"])


@contextlib.contextmanager
def counted_page(pool: Any) -> Iterator[tuple[int, int]]:
    """A page with one reference, for measuring: (memory, the offset of its descriptor)."""
    mem, me = memory_of(pool), number_of(pool)
    page_alloc.back(mem, me, 0)  # a new pool has no page with memory
    pfn = page_alloc.alloc(mem, me, 0)
    if pfn == layout.NIL:
        raise Unavailable("the pool has no free page")
    folio = pool._attachment.segment.geometry["memmap"] + pfn * layout.FOLIO_SIZE
    page_ref.init(mem, folio, 1)
    try:
        yield mem, folio
    finally:
        page_ref.freeze(mem, folio, 1)
        page_alloc.free(mem, me, pfn, 0)


def place_of_first_folio(pool: Any, mapping: Any) -> tuple[Any, ...]:
    """Return the arguments that ``read_core`` of pairs.c needs to look up the mapping's first folio."""
    mem, me = memory_of(pool), number_of(pool)
    geometry = pool._attachment.segment.geometry
    digest = pool_digest(mapping.key, mapping.size, mapping.version)
    ino = mappings.lookup(mem, me, int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little"))
    if ino == 0:
        raise Unavailable("the mapping's record was not found; has its digest changed?")
    return (
        native.core_function("filemap", "find_get"),
        native.core_function("folio", "put"),
        mem,
        me,
        ino,
        mappings.head(mem, ino),
        xarray.height_for(-(-mapping.size // mapping.unit_size)),
        ctypes.c_uint64.from_address(mem).value + geometry["data"],
        geometry["page_shift"],
    )


def disk_tier(path: Path, size: int | None = None, slot: int | None = None) -> Any:
    """Return a tier on a disk, as one process has it."""
    from foliocache.tiers.disk import DiskTier

    return DiskTier(str(path), size, slot=slot)


def valkey_tier(url: str, timeout: float) -> Any:
    """Return a tier on a server."""
    from foliocache.tiers.valkey import ValkeyTier

    return ValkeyTier(url, timeout)


def tier_bytes(slots: int, slot: int) -> int:
    """Return a size of a disk tier that has room for so many slots."""
    from foliocache.tiers import layout

    size = slots * slot
    while layout.slots_for(size, slot) < slots:
        size += slot * max(1, slots // 100)
    return size


def scraping(name: str) -> Callable[[], bytes]:
    """Return a function that returns what a scrape of this pool does. Raises ImportError without prometheus_client."""
    from prometheus_client.openmetrics.exposition import generate_latest

    from foliocache.cli import metrics

    registry = metrics._registry(Watch((name,)))
    return lambda: generate_latest(registry)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def top_pages(name: str, columns: int, lines: int) -> Iterator[Callable[[], object]]:
    """Yield a function that does what ``foliocache top`` does each second, without the terminal."""
    from foliocache.cli import top

    view, console = top.View(Watch((name,))), top._console()

    def page() -> object:
        view.look(1.0)
        return top.render(view, console, columns, lines)

    with contextlib.closing(view):
        yield page
