"""Where each peer keeps the values: files, stores and servers, filled once, gone afterwards.

A store is a context manager ``(count, size, folder) -> what its openers need``. Raises Unavailable, with the word to print,
when the peer is not here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.common.measure import Unavailable
from benchmarks.common.pools import KIB, MIB, new_pool, values
from benchmarks.peers.openers import content

START_SECONDS = 10
STOP_SECONDS = 10


def needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise Unavailable(f"{module} is not installed")


@contextlib.contextmanager
def folios(count: int, size: int, folder: str) -> Iterator[str]:
    with new_pool(2 * count * size, min(size, 64 * KIB)) as cache:
        values(cache, count, size)
        yield cache.name


@contextlib.contextmanager
def folio_pool(count: int, size: int, folder: str) -> Iterator[tuple[str, str]]:
    """An empty pool, and the file that is read through it."""
    with new_pool(2 * count * size) as cache, data_file(count, size, folder) as path:
        yield cache.name, path


@contextlib.contextmanager
def data_file(count: int, size: int, folder: str) -> Iterator[str]:
    path = os.path.join(folder, "object")
    if not os.path.exists(path):
        with open(path, "wb") as file:
            for n in range(count):
                file.write(content(n, size))
    yield path


@contextlib.contextmanager
def shared_memory(count: int, size: int, folder: str) -> Iterator[str]:
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=count * size)
    view: Any = memory.buf
    try:
        for n in range(count):
            view[n * size : (n + 1) * size] = content(n, size)
        yield f"/dev/shm/{memory.name}"
    finally:
        memory.close()
        memory.unlink()


def private(module: str | None = None) -> Callable[..., Any]:
    """Nothing to share: every process fills its own."""

    @contextlib.contextmanager
    def store(count: int, size: int, folder: str) -> Iterator[None]:
        if module:
            needs(module)
        yield None

    return store


@contextlib.contextmanager
def stocaching(count: int, size: int, folder: str) -> Iterator[None]:
    needs("stocaching")
    needs("torch")
    yield None


@contextlib.contextmanager
def lmdb(count: int, size: int, folder: str) -> Iterator[str]:
    needs("lmdb")
    import lmdb

    place = os.path.join(folder, "lmdb")
    room = 2 * count * (size + 8 * KIB) + MIB
    with lmdb.open(place, map_size=room, sync=False) as environment, environment.begin(write=True) as transaction:
        for n in range(count):
            transaction.put(b"value%06d" % n, content(n, size))
    yield place


@contextlib.contextmanager
def diskcache(count: int, size: int, folder: str) -> Iterator[str]:
    needs("diskcache")
    from diskcache import Cache

    place = os.path.join(folder, "diskcache")
    with Cache(place, size_limit=4 * count * size) as cache:
        for n in range(count):
            cache[n] = content(n, size)
    yield place


@contextlib.contextmanager
def redis(count: int, size: int, folder: str) -> Iterator[str]:
    needs("redis")
    from redis import Redis

    address = os.path.join(folder, "redis.sock")
    options = ["--port", "0", "--unixsocket", address, "--save", "", "--appendonly", "no", "--dir", folder]
    with server("redis-server", options, address):
        client: Any = Redis(unix_socket_path=address)
        for n in range(count):
            client.set(n, content(n, size))
        yield address


@contextlib.contextmanager
def memcached(count: int, size: int, folder: str) -> Iterator[str]:
    needs("pymemcache")
    from pymemcache.client.base import Client

    address = os.path.join(folder, "memcached.sock")
    megabytes = max(64, 3 * count * size // MIB)
    with server("memcached", ["-s", address, "-m", str(megabytes), "-I", "2m", "-t", "2", "-u", "root"], address):
        client = Client(f"unix:{address}")
        for n in range(count):
            client.set(str(n), content(n, size), noreply=False)
        yield address


pids: dict[str, int] = {}


@contextlib.contextmanager
def server(program: str, options: list[str], address: str) -> Iterator[None]:
    """A server of our own on a unix socket; stopped afterwards."""
    path = shutil.which(program)
    if path is None:
        raise Unavailable(f"{program} is not installed")
    process = subprocess.Popen([path, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(process, address, program)
        pids[address] = process.pid
        yield
    finally:
        pids.pop(address, None)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()


def _await(process: Any, address: str, program: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not os.path.exists(address):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"{program} did not start")
        time.sleep(0.02)
