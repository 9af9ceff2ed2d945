"""The coroutines of ``folio``: cached bytes are read by the calling thread, and whatever would block is called in another one.

The target's synchronous methods are called, in threads of ours: the target may be synchronous, and the sessions of an
asynchronous one belong to fsspec's own loop, which may not be the caller's. So one filesystem object serves any number of
loops. Missing bytes are fetched by the pool's threads, and awaited.

The synchronous methods do not go through a loop: ``mirror_sync_methods`` is off.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from functools import partial
from operator import index, itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.asyn import AbstractAsyncStreamedFile, AsyncFileSystem, get_loop

from foliocache import ChangedError
from foliocache.errors import FoliocacheError
from foliocache.filler.awaiting import in_thread
from foliocache.sizes import quoted

from .identifying import ATTEMPTS
from .ranges import Merged, Range, Want, bounds, extent, firsts_of, is_cached, ranges_of

if TYPE_CHECKING:
    from .target import Identity, Target
    from .targets.base import First

T = TypeVar("T")
Coroutines = list[Callable[[], Coroutine[Any, Any, Any]]]

_LONG = 4 << 20  # bytes; so much that is missing of several ranges is read as by ``cat_ranges``, in a thread
_QUICK_AT_ONCE = 64  # cached ranges that are read before other tasks run


async def together(calls: Coroutines, on_error: str, is_quick: Callable[[int], bool] = lambda number: False) -> list[Any]:
    """Return what each coroutine returns or raises. With ``on_error="raise"``, raise the error of the first that failed.

    Quick ones get no task of their own: they are awaited here, while the others run.
    """
    quick = [number for number in range(len(calls)) if is_quick(number)]
    waiting = set(range(len(calls))).difference(quick)
    tasks = asyncio.gather(*(calls[number]() for number in sorted(waiting)), return_exceptions=True)
    tasks.add_done_callback(_look)
    results: list[Any] = [None] * len(calls)
    try:
        for turn, number in enumerate(quick):
            try:
                results[number] = await calls[number]()
            except Exception as error:
                results[number] = error
            if turn % _QUICK_AT_ONCE == _QUICK_AT_ONCE - 1:
                await asyncio.sleep(0)
        for number, result in zip(sorted(waiting), await tasks, strict=True):
            results[number] = result
    finally:
        tasks.cancel()
    failed = next((result for result in results if isinstance(result, BaseException)), None)
    if failed is not None and (on_error == "raise" or not isinstance(failed, Exception)):
        raise failed
    return results


def _look(tasks: asyncio.Future[Any]) -> None:
    """asyncio reports a cancelled gather that no one has awaited, which is so if the caller is cancelled before that."""
    if not tasks.cancelled():
        tasks.exception()


class _ThisThread:
    """The thread to which an instance belongs. fsspec would share one asynchronous instance among all threads, but not every
    target can be shared."""

    def __get__(self, instance: Any, owner: type) -> int:
        return threading.get_ident()


def _in_thread(name: str) -> Callable[..., Any]:
    """Return a coroutine method that calls the synchronous method of that name in a thread."""

    async def method(self: Asynchronous, *args: Any, **kwargs: Any) -> Any:
        if not self.fs.async_impl:
            kwargs.pop("batch_size", None)  # synchronous targets do not have this argument
        return await in_thread(self._in_turn, getattr(self, name), *args, **kwargs)

    method.__name__ = method.__qualname__ = f"_{name}"
    method.__doc__ = getattr(AsyncFileSystem, f"_{name}", method).__doc__
    return method


class Asynchronous(AsyncFileSystem):
    """The asynchronous methods of FolioFileSystem."""

    mirror_sync_methods = False
    _this_thread = _ThisThread()
    _extra_tokenize_attributes = ("_this_thread",)

    if TYPE_CHECKING:
        _pool: Any
        _turn: threading.RLock

        @property
        def fs(self) -> Any: ...
        @property
        def target(self) -> Target: ...
        async def _identify_async(self, path: str, want: Want | None = None) -> Identity: ...
        async def _asked_async(self, path: str, want: Want | None, firsts: list[First] | None = None) -> Identity: ...
        def _remembered(self, path: str) -> Identity | None: ...
        def _forget(self, path: str, identity: Identity | None = None) -> None: ...
        def _map(self, path: str, identity: Identity) -> Any: ...
        def _read_all(
            self, reads: list[Range], known: dict[str, Any], maps: dict[str, Any], on_error: str, ended: threading.Event
        ) -> list[Any]: ...
        def _read_unmapped(self, path: str, known: Any, start: int | None, end: int | None) -> bytes: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """fsspec's loop in this process; None if the instance is ``asynchronous``. Nothing of this class runs in it."""
        return None if self.asynchronous else get_loop()

    def _in_turn(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function of the target: one call at a time if several threads must not call the target at once."""
        with nullcontext() if self.fs.async_impl or self.target.aliases else self._turn:
            return function(*args, **kwargs)

    _ls: Callable[..., Any] = _in_thread("ls")
    _info: Callable[..., Any] = _in_thread("info")
    _exists: Callable[..., Any] = _in_thread("exists")
    _isfile: Callable[..., Any] = _in_thread("isfile")
    _isdir: Callable[..., Any] = _in_thread("isdir")
    _size: Callable[..., Any] = _in_thread("size")
    _sizes: Callable[..., Any] = _in_thread("sizes")
    _du: Callable[..., Any] = _in_thread("du")
    _find: Callable[..., Any] = _in_thread("find")
    _glob: Callable[..., Any] = _in_thread("glob")
    _expand_path: Callable[..., Any] = _in_thread("expand_path")
    _mkdir: Callable[..., Any] = _in_thread("mkdir")
    _makedirs: Callable[..., Any] = _in_thread("makedirs")
    _pipe_file: Callable[..., Any] = _in_thread("pipe_file")
    _pipe: Callable[..., Any] = _in_thread("pipe")
    _rm_file: Callable[..., Any] = _in_thread("rm_file")
    _rm: Callable[..., Any] = _in_thread("rm")
    _cp_file: Callable[..., Any] = _in_thread("cp_file")
    _copy: Callable[..., Any] = _in_thread("copy")
    _mv_file: Callable[..., Any] = _in_thread("mv")
    _put_file: Callable[..., Any] = _in_thread("put_file")
    _put: Callable[..., Any] = _in_thread("put")
    _get_file: Callable[..., Any] = _in_thread("get_file")
    _get: Callable[..., Any] = _in_thread("get")

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        path, (start, end) = self._strip_protocol(path), bounds(start, end)
        if kwargs:
            return await in_thread(self._in_turn, self.fs.cat_file, path, start=start, end=end, **kwargs)
        for attempt in range(1, ATTEMPTS + 1):
            firsts: list[First] = []
            identity = self._remembered(path) or await self._asked_async(path, (start, end), firsts)
            if not identity.cacheable:
                return await self._uncached(path, identity, start, end)
            wanted = extent(start, end, identity.size or 0)
            if firsts and identity is firsts[0].identity and (found := firsts[0].cut(*wanted)) is not None:
                return found
            mapping = self._map(path, identity)
            try:
                data: bytes = await mapping.read_bytes_async(*wanted)
                return data
            except ChangedError:
                self._forget(path)
                if attempt == ATTEMPTS:
                    raise
            except FoliocacheError:
                if attempt == ATTEMPTS or not mapping.pool.closed:
                    raise
        raise AssertionError("unreachable")

    async def _uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        """Return a range of an object that is not cacheable."""
        if self.target.awaits:
            return await self.target.home.call(self.target.uncached_async, path, identity, start, end)
        return await in_thread(self.target.uncached, path, identity, start, end)

    async def _cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Do what ``cat_ranges`` does: ask for each path's identity once, and fetch missing ranges concurrently."""
        jobs = ranges_of(paths, starts, ends, max_gap)
        if kwargs:
            return await together([partial(self._cat_file, *job, **kwargs) for job in jobs], on_error)
        jobs = [(self._strip_protocol(path), start, end) for path, start, end in jobs]
        wanted = firsts_of(jobs)
        names = list(wanted)
        answers = await together([partial(self._identify_async, path, wanted[path]) for path in names], on_error)
        known = dict(zip(names, answers, strict=True))
        sizes = {path: one.size for path, one in known.items() if not isinstance(one, BaseException) and one.cacheable}
        merged = None if max_gap is None else Merged(jobs, sizes, max_gap)
        reads = jobs if merged is None else merged.reads
        maps = {path: self._map(path, known[path]) for path in sizes}

        quick = {number for number, (path, *bounds) in enumerate(reads) if path in maps and is_cached(maps[path], *bounds)}
        several = _for_one_thread(reads, maps, quick)
        single = sorted(set(range(len(reads))).difference(several))
        calls: Coroutines = [partial(self._cat_known, known[reads[n][0]], maps.get(reads[n][0]), reads[n]) for n in single]
        if several:
            calls.append(partial(self._cat_in_thread, [reads[number] for number in several], known, maps, on_error))
        found = await together(calls, on_error, lambda nth: nth < len(single) and single[nth] in quick)
        if several:
            rest = found.pop()
            found += [rest] * len(several) if isinstance(rest, BaseException) else rest
        results = [result for _, result in sorted(zip([*single, *several], found, strict=True), key=itemgetter(0))]
        return results if merged is None else merged.split(results)

    async def _cat_in_thread(self, reads: list[Range], known: dict[str, Any], maps: dict[str, Any], on_error: str) -> list[Any]:
        """Return ranges of cached objects, which one thread reads. It gives up soon if this is cancelled."""
        ended = threading.Event()
        try:
            return await in_thread(self._read_all, reads, known, maps, on_error, ended)
        finally:
            ended.set()

    async def _cat_known(self, known: Any, mapping: Any, job: Range) -> bytes:
        """Return a range of an object whose identity is known. mapping: None if the object is not cached."""
        path, start, end = job
        if isinstance(known, BaseException):
            raise known
        if mapping is None:
            return await in_thread(self._read_unmapped, path, known, start, end)
        try:
            data: bytes = await mapping.read_bytes_async(*extent(start, end, known.size))
            return data
        except ChangedError:
            pass
        except FoliocacheError:
            if not mapping.pool.closed:
                raise
        return await self._cat_file(path, start, end)

    async def open_async(self, path: str, mode: str = "rb", **kwargs: Any) -> AbstractAsyncStreamedFile:
        """Open a file whose ``read``, ``write`` and ``close`` are coroutines.

        Parameters
        ----------
        path : str
            The object.
        mode : str
            A binary mode: "rb", or one that the target can write with.
        **kwargs
            As of ``open``.

        Returns
        -------
        AsyncFile

        Raises
        ------
        ValueError
            The mode is a text mode, or a compression is given.
        FileNotFoundError
            There is no such object.
        """
        if not isinstance(mode, str) or "b" not in mode or kwargs.get("compression"):
            raise ValueError(f"folio: files in event loops are binary and uncompressed; not {quoted(mode)}")
        return AsyncFile(await in_thread(self._in_turn, self.open, path, mode, **kwargs), self, mode)


def _for_one_thread(reads: list[Range], maps: dict[str, Any], quick: set[int]) -> list[int]:
    """Return the numbers of missing ranges that are so long together that one thread should read them, as ``cat_ranges`` does:
    it requests all of them, and wakes once for many of them. Empty if there are none."""
    found = [
        number
        for number, (path, _, _) in enumerate(reads)
        if number not in quick and path in maps and maps[path].filler.is_threaded
    ]
    length = sum(extent(start, end, maps[path].size)[1] for path, start, end in map(reads.__getitem__, found))
    return found if len(found) > 1 and length >= _LONG else []


class AsyncFile(AbstractAsyncStreamedFile):
    """A file of ``open_async``. Cached bytes are read by the calling thread; everything else is done in another one.

    Attributes
    ----------
    fs : FolioFileSystem
        The filesystem that opened the file.
    path : str
        The object, as the target names it.
    mode : str
        The mode in which it was opened.
    size : int or None
        The object's size in bytes; None if it is not known.
    """

    def __init__(self, file: Any, fs: Asynchronous, mode: str) -> None:
        self.file = file
        self.fs = fs
        self.mode = mode
        self.path: str = file.path if hasattr(file, "path") else ""
        self.size: int | None = getattr(file, "size", None)
        self._closed = False

    @property
    def loc(self) -> int:
        """The position in the file, in bytes."""
        return int(self.file.tell())

    def tell(self) -> int:
        return int(self.file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def readable(self) -> bool:
        return not self._closed and "r" in self.mode

    def writable(self) -> bool:
        return not self._closed and "r" not in self.mode

    def seekable(self) -> bool:
        return self.readable() and bool(self.file.seekable())

    async def read(self, length: int | None = -1) -> bytes:
        length = -1 if length is None else index(length)
        self._check("r")
        read_async = getattr(self.file, "read_async", None)
        data: bytes = await (in_thread(self.file.read, length) if read_async is None else read_async(length))
        return data

    async def write(self, data: Any) -> int:
        self._check("wax")
        written: int = await in_thread(self.file.write, data)
        return written

    async def flush(self, force: bool = False) -> None:
        if self.writable():
            await in_thread(self.file.flush)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            if "r" in self.mode:
                self.file.close()
            else:
                await in_thread(self.file.close)

    def __del__(self) -> None:
        """Do nothing: the wrapped file closes itself."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {quoted(self.file)}>"

    def _check(self, modes: str) -> None:
        if self._closed:
            raise ValueError("I/O operation on closed file.")
        if not set(modes) & set(self.mode):
            raise ValueError(f"File not in {'read' if modes == 'r' else 'write'} mode")
