"""Pools for measuring: created for one purpose, filled, removed."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foliocache
from benchmarks.common import inside
from benchmarks.common.measure import Unavailable, available_memory
from benchmarks.common.plan import GIB, KIB, MIB
from foliocache.cli.signals import CleanupStack, blocked

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "VALUE",
    "Pattern",
    "attach_ms",
    "metadata_per_page",
    "new_pool",
    "one_per_folio",
    "require_memory",
    "values",
]

VALUE = 64 * KIB
SPARE = 1 * GIB


@contextlib.contextmanager
def new_pool(
    size: int, page_size: int = 16 * KIB, clients: int = 64, folder: Path | None = None, huge: bool | None = None
) -> Iterator[Any]:
    """A new pool, gone afterwards; in another tmpfs than the usual one if a folder is given. Raises Unavailable when the
    machine has no memory for it."""
    size = max(size, inside.PAGES_MIN * page_size)
    name = f"bench-{os.getpid()}-{secrets.token_hex(4)}"
    with CleanupStack() as stack:
        stack.callback(_remove, name, folder)
        with blocked(), _placed(folder):
            require_memory(size)
            pool = foliocache.open(name, size=size, page_size=page_size, clients=clients, huge=huge)
        stack.callback(pool.close)
        yield pool


def _remove(name: str, folder: Path | None) -> None:
    """Unlink a pool, if it was created."""
    with _placed(folder), contextlib.suppress(foliocache.PoolNotFoundError):
        foliocache.remove(name)


@contextlib.contextmanager
def _placed(folder: Path | None) -> Iterator[None]:
    usual = os.environ.get("FOLIOCACHE_DIR")
    if folder is not None:
        os.environ["FOLIOCACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("FOLIOCACHE_DIR", None)
        if usual is not None:
            os.environ["FOLIOCACHE_DIR"] = usual


def require_memory(size: int) -> None:
    """Raises Unavailable unless ``size`` bytes and some to spare are there, in memory and on shared memory."""
    shm = os.statvfs(os.environ.get("FOLIOCACHE_DIR", "/dev/shm"))
    room = min(available_memory() - SPARE, shm.f_bavail * shm.f_frsize)
    if room < size:
        raise Unavailable(f"needs {size / GIB:.1f} GiB of memory, {max(room, 0) / GIB:.1f} GiB are free")


def values(pool: Any, count: int, size: int, key: str = "values") -> Any:
    """A mapping of ``count`` values of ``size`` bytes, one folio each, all cached."""
    mapping = one_per_folio(pool, count, size, key, readahead=False)
    for index in range(count):
        mapping.lease(index * size).release()
    return mapping


def one_per_folio(pool: Any, count: int, size: int, key: str = "values", readinto: Any = None, readahead: bool = True) -> Any:
    """A mapping of ``count`` values of ``size`` bytes, one folio each, with nothing cached yet.

    ``size`` must be the pool's page size times a power of two. Without ``readahead`` a miss fetches one value.
    """
    ahead = None if readahead else 0
    try:
        return pool.mapping(key, count * size, "1", readinto=readinto or Pattern(size), folio_size=size, readahead=ahead)
    except ValueError as error:
        raise Unavailable(str(error)) from None


class Pattern:
    """A source in memory, in which every value begins with its number."""

    def __init__(self, size: int):
        self.size = size
        self.body = bytes(range(256)) * (size // 256)

    def __call__(self, offset: int, buffer: Any) -> int:
        buffer[:] = self.body[: len(buffer)]
        buffer[:8] = (offset // self.size).to_bytes(8, "little")
        return len(buffer)


def metadata_per_page(pool: Any) -> float:
    """Bytes of tables and of index nodes per cached page; the fixed header and the client table are left out."""
    stat = pool.stat()
    pages = stat.pages_by_state
    nodes = (pages.node + pages.inode + pages.table + pages.frozen) * stat.page_size
    cached = pages.file
    return inside.table_bytes_per_page(pool) + nodes / max(cached, 1)


def attach_ms(name: str) -> float:
    """Return the milliseconds that it takes to attach to an existing pool, until it can be used."""
    known = foliocache.attach(name)
    known.close()
    begin = time.perf_counter_ns()
    again = foliocache.attach(name)
    took = (time.perf_counter_ns() - begin) / 1e6
    if again is known:
        raise RuntimeError("the same attachment again: nothing was measured")
    again.close()
    return took
