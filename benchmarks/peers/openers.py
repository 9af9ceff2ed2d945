"""How each peer is opened in a process, and read there: a table of functions that workers can import.

An opener takes what its store yields (``stores``) and returns a :class:`Reader`: a loop over value numbers that
touches the first byte of each value, and ``get`` for those who want all of it. Imports are local: a peer that is not installed
is skipped by who asks for it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import foliocache
from benchmarks.common import loops
from benchmarks.common.loops import Loop
from benchmarks.common.pools import Pattern, one_per_folio


@dataclass
class Reader:
    """``loop(numbers)`` makes the timed loop; ``get(n)`` returns one value; ``keep`` lives as long as they do."""

    loop: Callable[[list[int]], Loop]
    get: Callable[[int], Any]
    keep: Any = None


Opener = Callable[[Any, int, int], Reader]


def content(n: int, size: int) -> bytes:
    """Value n."""
    value = bytearray(size)
    Pattern(size)(n * size, memoryview(value))
    return bytes(value)


def lease(name: str, count: int, size: int) -> Reader:
    mapping = one_per_folio(foliocache.attach(name), count, size)
    return Reader(lambda numbers: loops.leases(mapping, numbers), lambda n: mapping.lease(n * size))


def lease_view(name: str, count: int, size: int) -> Reader:
    mapping = one_per_folio(foliocache.attach(name), count, size)
    return Reader(lambda numbers: loops.views(mapping, numbers), lambda n: mapping.lease(n * size))


def lease_with(name: str, count: int, size: int) -> Reader:
    mapping = one_per_folio(foliocache.attach(name), count, size)
    return Reader(lambda numbers: loops.with_leases(mapping, numbers), lambda n: mapping.lease(n * size))


def mapping_read(name: str, count: int, size: int) -> Reader:
    mapping = one_per_folio(foliocache.attach(name), count, size)
    return Reader(lambda numbers: loops.reads(mapping, size, numbers), lambda n: mapping.read(n * size, size))


def shared_slice(path: str, count: int, size: int) -> Reader:
    """``path`` is the file of a ``multiprocessing.shared_memory``, opened without its resource tracker."""
    reader = mapped_file(path, count, size)
    view = memoryview(reader.keep)
    return Reader(lambda numbers: loops.slices(view, size, numbers), lambda n: view[n * size : n * size + size], reader.keep)


def shared_table(path: str, count: int, size: int) -> Reader:
    """What people write by hand: a dict from (key, index) to an offset, and a memoryview of shared memory."""
    view = memoryview(mapped_file(path, count, size).keep)
    places = {("object", n): (n * size, n * size + size) for n in range(count)}

    def get(n: int) -> memoryview:
        begin, end = places["object", n]
        return view[begin:end]

    def loop(numbers: list[int]) -> Loop:
        def run() -> int:
            for n in numbers:
                begin, end = places["object", n]
                view[begin:end][0]
            return len(numbers)

        return run

    return Reader(loop, get)


def mapped_file(path: str, count: int, size: int) -> Reader:
    fd = os.open(path, os.O_RDONLY)
    held = mmap.mmap(fd, count * size, prot=mmap.PROT_READ)
    os.close(fd)
    view = memoryview(held)
    return Reader(lambda numbers: loops.slices(view, size, numbers), lambda n: view[n * size : n * size + size], held)


def dictionary(_: None, count: int, size: int) -> Reader:
    held = {n: content(n, size) for n in range(count)}
    return Reader(lambda numbers: loops.dictionary(held, numbers), held.__getitem__)


def tuple_dictionary(_: None, count: int, size: int) -> Reader:
    """A block cache's usual form: dict[(path, block)] -> bytes, handed out as a memoryview slice."""
    held = {("object", n): content(n, size) for n in range(count)}

    def get(n: int) -> memoryview:
        return memoryview(held["object", n])[0:size]

    def loop(numbers: list[int]) -> Loop:
        def run() -> int:
            for n in numbers:
                memoryview(held["object", n])[0:size][0]
            return len(numbers)

        return run

    return Reader(loop, get)


def cachetools_lru(_: None, count: int, size: int) -> Reader:
    from cachetools import LRUCache

    return _subscripted(LRUCache(count), count, size)


def cachebox_lru(_: None, count: int, size: int) -> Reader:
    from cachebox import LRUCache

    return _subscripted(LRUCache(count), count, size)


def _subscripted(cache: Any, count: int, size: int) -> Reader:
    for n in range(count):
        cache[n] = content(n, size)
    return Reader(lambda numbers: loops.dictionary(cache, numbers), cache.__getitem__)


def lmdb_open(folder: str, count: int, size: int) -> Reader:
    import lmdb

    environment = lmdb.open(folder, readonly=True, lock=True)
    transaction = environment.begin(buffers=True)
    get = transaction.get
    return Reader(
        lambda numbers: loops.method(get, _keys(numbers)), lambda n: get(b"value%06d" % n), (environment, transaction)
    )


def lmdb_each(folder: str, count: int, size: int) -> Reader:
    import lmdb

    environment = lmdb.open(folder, readonly=True, lock=True)

    def get(n: int) -> Any:
        with environment.begin(buffers=True) as transaction:
            return transaction.get(b"value%06d" % n)

    return Reader(lambda numbers: loops.transactions(environment, _keys(numbers)), get, environment)


def _keys(numbers: list[int]) -> list[bytes]:
    keys = {n: b"value%06d" % n for n in numbers}
    return [keys[n] for n in numbers]


def diskcache(folder: str, count: int, size: int) -> Reader:
    from diskcache import Cache

    cache = Cache(folder)
    return Reader(lambda numbers: loops.dictionary(cache, numbers), cache.__getitem__)


def redis(address: str, count: int, size: int) -> Reader:
    from redis import Redis

    client: Any = Redis(unix_socket_path=address)
    return Reader(lambda numbers: loops.method(client.get, numbers), client.get)


def memcached(address: str, count: int, size: int) -> Reader:
    from pymemcache.client.base import Client

    client = Client(f"unix:{address}")
    return Reader(lambda numbers: loops.method(client.get, [str(n) for n in numbers]), lambda n: client.get(str(n)))


def stocaching(_: None, count: int, size: int) -> Reader:
    import torch
    from stocaching import SharedCache

    cache = SharedCache(size_limit_gib=2 * count * size / (1 << 30), dataset_len=count, data_dims=(size,), dtype=torch.uint8)
    for n in range(count):
        cache.set_slot(n, torch.frombuffer(bytearray(content(n, size)), dtype=torch.uint8))
    return Reader(lambda numbers: loops.method(cache.get_slot, numbers), cache.get_slot, cache)


def blockcache(path: str, count: int, size: int) -> Reader:
    """fsspec's in-memory block cache over a file object that reads ``path``: a process's own copy."""
    from benchmarks.common.stub import FileStub

    file = FileStub(path).open(path, cache_type="blockcache", cache_options={"maxblocks": 1024})
    return _file(file, size)


def filecache(path: str, count: int, size: int) -> Reader:
    """fsspec's local copy of the file on disk, read by ``pread`` and copied."""
    from fsspec.implementations.cached import WholeFileCacheFileSystem

    from benchmarks.common.stub import FileStub

    fs = WholeFileCacheFileSystem(fs=FileStub(path), cache_storage=os.path.dirname(path) + "/filecache", check_files=False)
    return _file(fs.open(path), size)


def folio_file(spec: tuple[str, str], count: int, size: int) -> Reader:
    return _file(_folio(spec), size)


def folio_lease(spec: tuple[str, str], count: int, size: int) -> Reader:
    file = _folio(spec)
    return Reader(lambda numbers: loops.file_leases(file, size, numbers), lambda n: file.lease(n * size, size), file)


def _folio(spec: tuple[str, str]) -> Any:
    from benchmarks.common.stub import FileStub
    from foliocache.adapters.fsspec import FolioFileSystem

    name, path = spec
    return FolioFileSystem(fs=FileStub(path), name=name, check_files=False, trust_info=True).open(path)


def _file(file: Any, size: int) -> Reader:
    def get(n: int) -> bytes:
        file.seek(n * size)
        return file.read(size)

    return Reader(lambda numbers: loops.file_reads(file, size, numbers), get, file)
