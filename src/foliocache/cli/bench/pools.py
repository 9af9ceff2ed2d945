"""Pools for measuring: made for one purpose, filled, removed."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foliocache
from foliocache import cache as cache_module
from foliocache.cli.bench.harness import available_memory
from foliocache.cli.bench.native import Unavailable
from foliocache.cli.shield import CleanupStack, shielded
from foliocache.segment import PAGES_MIN

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SPARE = 1 * GIB


@contextlib.contextmanager
def pool(size: int, page_size: int = 16 * KIB, clients: int = 64, folder: Path | None = None) -> Iterator[Any]:
    """A new pool, gone afterwards; in another tmpfs than the usual one if a folder is given. Raises Unavailable when the machine has no
    memory for it."""
    size = max(size, PAGES_MIN * page_size)
    name = f"bench-{os.getpid()}-{secrets.token_hex(4)}"
    with CleanupStack() as stack:
        stack.callback(_remove, name, folder)
        with shielded(), _placed(folder):
            require_memory(size)
            cache = foliocache.open(name, size=size, page_size=page_size, clients=clients)
        stack.callback(cache.close)
        yield cache


def _remove(name: str, folder: Path | None) -> None:
    """Unlink a pool, if it came to be."""
    with _placed(folder), contextlib.suppress(foliocache.SegmentNotFound):
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


def values(cache: Any, count: int, size: int, key: str = "values") -> Any:
    """A mapping of ``count`` values of ``size`` bytes, one folio each, all cached.

    The library chooses larger folios for larger objects; that is switched off here, so that a value is a folio. ``size`` must be the
    pool's page size times a power of two.
    """
    mapping = one_per_folio(cache, count, size, key)
    with contextlib.suppress(AttributeError):
        mapping._readahead.most = 1
    for index in range(count):
        mapping.lease(index).release()
    return mapping


def one_per_folio(cache: Any, count: int, size: int, key: str = "values") -> Any:
    """As values, with nothing cached yet."""
    with _folios_of(size, cache):
        mapping = cache.mapping(key, count * size, "1", readinto=Pattern(size))
    if mapping.folio_size != size:
        raise Unavailable(f"the library cuts this object into folios of {mapping.folio_size} bytes, not {size}")
    return mapping


class Pattern:
    """A source in memory: every value begins with its number."""

    def __init__(self, size: int):
        self.size = size
        self.body = bytes(range(256)) * (size // 256)

    def __call__(self, offset: int, buffer: Any) -> int:
        buffer[:] = self.body[: len(buffer)]
        buffer[:8] = (offset // self.size).to_bytes(8, "little")
        return len(buffer)


@contextlib.contextmanager
def _folios_of(size: int, cache: Any) -> Iterator[None]:
    """Mappings made meanwhile have folios of ``size`` bytes: in place of the library's own choice, which has no option."""
    owner: Any = sys.modules[cache_module.Mapping.__module__]
    if not hasattr(owner, "_order_for"):
        raise Unavailable("the library chooses its folios' size in another way now; see foliocache/cli/bench/pools.py")
    chosen = owner._order_for
    owner._order_for = lambda *_: (size // cache.page_size).bit_length() - 1
    try:
        yield
    finally:
        owner._order_for = chosen
