"""Reading an object of an HTTP server, all of it or some, by everyone. Each function returns how many bytes it got."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.common import inside
from benchmarks.common.measure import Unavailable
from benchmarks.common.pools import KIB, MIB

PIECE = 64 * KIB
TASKS = 64
Read = Callable[[str], int]


def random_offsets(size: int, count: int) -> list[int]:
    """Return offsets of different pieces, in no order."""
    return [PIECE * n for n in random.Random(7).sample(range(size // PIECE), min(count, size // PIECE))]


# fsspec: with and without us, the same calls.


def sequential(fs: Any, url: str, **options: Any) -> int:
    """Reads of 1 MiB from the beginning to the end."""
    got = 0
    with fs.open(url, **options) as file:
        while piece := file.read(MIB):
            got += len(piece)
    return got


def whole(fs: Any, url: str) -> int:
    return len(fs.cat_file(url))


def ranges(fs: Any, url: str, size: int) -> int:
    """All of it, asked for as ranges of 1 MiB at once."""
    return sum(map(len, fs.cat_ranges(*_ranges(url, size), on_error="raise")))


def whole_awaited(fs: Any, url: str) -> int:
    return asyncio.run(_length_of(inside.coroutine_of_cat_file(fs)(url)))


def ranges_awaited(fs: Any, url: str, size: int) -> int:
    return sum(asyncio.run(_lengths_of(inside.coroutine_of_cat_ranges(fs)(*_ranges(url, size), on_error="raise"))))


async def _length_of(reading: Awaitable[bytes]) -> int:
    """``asyncio.run`` would format the bytes themselves, twice (CPython 3.11, in ``signal.getsignal``)."""
    return len(await reading)


async def _lengths_of(reading: Awaitable[Sequence[bytes]]) -> list[int]:
    return list(map(len, await reading))


def _ranges(url: str, size: int) -> tuple[list[str], list[int], list[int]]:
    starts = range(0, size, MIB)
    return [url] * len(starts), list(starts), [min(start + MIB, size) for start in starts]


def pieces(fs: Any, url: str, offsets: Sequence[int], **options: Any) -> int:
    """Random reads, one after the other."""
    got = 0
    with fs.open(url, **options) as file:
        for offset in offsets:
            file.seek(offset)
            got += len(file.read(PIECE))
    return got


def pieces_at_once(fs: Any, url: str, offsets: Sequence[int]) -> int:
    found = fs.cat_ranges([url] * len(offsets), list(offsets), [start + PIECE for start in offsets], on_error="raise")
    return sum(map(len, found))


def small_objects(fs: Any, urls: Sequence[str]) -> int:
    """Each of them whole, in as many threads as others have tasks."""
    with ThreadPoolExecutor(TASKS) as threads:
        return sum(map(len, threads.map(fs.cat_file, urls)))


def small_objects_in_a_loop(fs: Any, urls: Sequence[str]) -> int:
    """The same in tasks of an event loop."""
    return asyncio.run(_each_by(inside.coroutine_of_cat_file(fs), urls))


async def _each_by(read: Callable[[str], Awaitable[Any]], names: Sequence[str]) -> int:
    """Await ``read(name)`` of all names, TASKS at a time."""
    left = iter(names)

    async def task() -> int:
        got = 0
        for name in left:
            got += len(await read(name))
        return got

    return sum(await asyncio.gather(*(task() for _ in range(TASKS))))


# obstore: into memory of its own, which is then thrown away.


def store_of(url: str) -> tuple[Any, str]:
    """Return the store of a server, and the path in it."""
    try:
        from obstore.store import HTTPStore
    except ImportError:
        raise Unavailable("obstore is not installed") from None
    server, _, path = url.removeprefix("http://").partition("/")
    return HTTPStore(f"http://{server}", client_options={"allow_http": True, "timeout": "300s"}), path


class Obstore:
    """One object by ranges, so many at once, in threads; they were faster than coroutines in each measurement."""

    def __init__(self, size: int, at_once: int, length: int):
        self.size, self.length, self.at_once = size, length, at_once
        self.threads = ThreadPoolExecutor(at_once)
        self.name = f"obstore, {at_once} x {length // MIB} MiB"
        self._stores: dict[str, tuple[Any, str]] = {}

    def store(self, url: str) -> tuple[Any, str]:
        if url not in self._stores:
            self._stores[url] = store_of(url)
        return self._stores[url]

    def whole(self, url: str) -> int:
        store, path = self.store(url)

        def read(start: int) -> int:
            return len(store.get_range(path, start=start, end=min(start + self.length, self.size)))

        return sum(self.threads.map(read, range(0, self.size, self.length)))

    def whole_awaited(self, url: str) -> int:
        """The same by tasks of an event loop."""
        store, path = self.store(url)
        left = iter(range(0, self.size, self.length))

        async def task() -> int:
            got = 0
            for start in left:
                got += len(await store.get_range_async(path, start=start, end=min(start + self.length, self.size)))
            return got

        async def run() -> int:
            return sum(await asyncio.gather(*(task() for _ in range(self.at_once))))

        return asyncio.run(run())

    def pieces(self, url: str, offsets: Sequence[int]) -> int:
        store, path = self.store(url)
        return sum(len(store.get_range(path, start=start, length=PIECE)) for start in offsets)

    def pieces_at_once(self, url: str, offsets: Sequence[int]) -> int:
        store, path = self.store(url)
        return sum(self.threads.map(lambda start: len(store.get_range(path, start=start, length=PIECE)), offsets))

    def get_ranges(self, url: str, offsets: Sequence[int]) -> int:
        store, path = self.store(url)
        found = store.get_ranges(path, starts=list(offsets), lengths=[PIECE] * len(offsets), coalesce=0)
        return sum(map(len, found))

    def small_objects(self, urls: Sequence[str]) -> int:
        store, _ = self.store(urls[0])

        async def read(path: str) -> Any:
            return await (await store.get_async(path)).bytes_async()

        return asyncio.run(_each_by(read, [url.split("/", 3)[3] for url in urls]))
