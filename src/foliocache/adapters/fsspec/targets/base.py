"""What the cache needs from a target filesystem: an object's current identity, and its bytes while it still has that identity.

If one response proves both (:class:`First`), an object that is not known yet costs one request.

A shared cache must not mix two versions of an object: a page that is read after the origin changed, but cached as the version
that was seen at open, would be wrong for every process of the machine until it is evicted. So each read proves that its bytes
belong to the :class:`Identity` as which they are cached: by the response that carried them, or else by a question to the origin
after the read. A listing, an index in memory and the process's own listings cache prove nothing. Bytes that cannot be proven
are not cached: :class:`Target` itself passes everything through, and its subclasses cache what they can prove.

A failed proof raises :class:`ChangedError`, an ESTALE, as on NFS.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from time import monotonic
from typing import Any, TypeVar

import fsspec.asyn
from fsspec import AbstractFileSystem
from fsspec.asyn import sync

from foliocache import ChangedError
from foliocache.filler.homes import Home, home_of

from .. import fork
from . import place

T = TypeVar("T")
Stream = Callable[[int, Sequence[memoryview]], Iterator[object]]
Several = Callable[[Iterator[tuple[int, list[memoryview]]], int], Iterator[tuple[int, int]]]
AsyncStream = Callable[[int, Sequence[memoryview]], AsyncGenerator[object, None]]

_UNSTEADY_SECONDS = 60.0
_UNSTEADY_MAX = 4096  # paths
_SOME_MAX = 2048


@dataclass(frozen=True, slots=True)
class Identity:
    """One object at one version, as its origin distinguishes versions."""

    size: int | None  # None: the object can't be cached
    stamp: str  # text that identifies the version
    etag: str | None = None  # the ETag that a response must have, if the target has ETags
    modified: str | None = None
    nonce: str = ""  # of a version that its stamp cannot distinguish from the next one: valid for one open only
    within: Identity | None = None  # the identity of the object of which this one is a part

    @property
    def version(self) -> str:
        """The version of the object in the pool."""
        return f"{self.stamp}!{self.nonce}" if self.nonce else self.stamp

    @property
    def cacheable(self) -> bool:
        """True if the object can be cached: its size is known and not 0. The target reads others each time."""
        return bool(self.size)

    def same(self, other: Identity) -> bool:
        """Return True if the origin gave the same answer for both."""
        return _bare(self) == _bare(other)


def _bare(identity: Identity) -> Identity:
    return replace(identity, nonce="", within=identity.within and _bare(identity.within))


UNCACHED = Identity(None, "")


@dataclass(frozen=True, slots=True)
class First:
    """The first response about an object: its identity, and bytes from ``start`` on, which it proves to be of that version."""

    identity: Identity
    start: int
    data: bytes

    def read(self, offset: int, length: int) -> memoryview:
        """Return bytes, as a mapping's ``read``; the mapping must ask for no more than ``data`` has."""
        return memoryview(self.data)[offset - self.start : offset - self.start + length]

    def cut(self, offset: int, length: int) -> bytes | None:
        """Return a range of the object, None if ``data`` has not all of it."""
        begin = offset - self.start
        return self.data[begin : begin + length] if begin >= 0 and begin + length <= len(self.data) else None

    def whole(self, folio_size: int) -> tuple[int, int]:
        """Return (offset, length) of the whole folios that ``data`` has."""
        end = self.start + len(self.data)
        stop = end if end == self.identity.size else end - end % folio_size
        offset = -(-self.start // folio_size) * folio_size
        return offset, max(stop - offset, 0)


class Held(io.BytesIO):
    """A file whose bytes are all in memory."""

    @property
    def size(self) -> int:
        return len(self.getbuffer())


class Some:
    """A bounded set of paths: the last _SOME_MAX that were added, and up to as many older ones. Any thread may use it."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._older: set[str] = set()

    def __contains__(self, path: str) -> bool:
        return path in self._paths or path in self._older

    def add(self, path: str) -> None:
        if len(self._paths) >= _SOME_MAX:
            self._older, self._paths = self._paths, set()
        self._paths.add(path)


class Unsteady:
    """Paths whose origin contradicts itself, so that nothing can be proven: they are not cached for a minute."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[float, str]] = {}

    def __contains__(self, path: str) -> bool:
        return bool(self._since) and self.get(path) is not None

    def __bool__(self) -> bool:
        return bool(self._since)

    def get(self, path: str, default: str | None = None) -> str | None:
        """Return the stamp with which the path was added during the last minute, else default."""
        since, stamp = self._since.get(path, (-_UNSTEADY_SECONDS, ""))
        return stamp if monotonic() - since < _UNSTEADY_SECONDS else default

    def add(self, path: str, stamp: str = "") -> None:
        while len(self._since) >= _UNSTEADY_MAX:
            drop_oldest(self._since)
        self._since[path] = monotonic(), stamp

    def discard(self, path: str) -> None:
        self._since.pop(path, None)


def drop_oldest(paths: dict[str, Any]) -> None:
    with suppress(RuntimeError, StopIteration):  # another thread has changed the dict
        paths.pop(next(iter(paths)), None)


class Turn:
    """One call at a time, for things that can serve only one: a connection, an open archive.

    A call from within a call of the same thread (by a signal handler or a finalizer) is refused: waiting would last for ever,
    and going ahead would mix two answers.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._busy = False

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self._lock:
            if self._busy:
                raise OSError(
                    errno.EDEADLK,
                    "folio: this thread is in the middle of a read of the same filesystem, which answers one question "
                    "at a time; don't read it in signal handlers and finalizers",
                )
            self._busy = True
            try:
                return function(*args, **kwargs)
            finally:
                self._busy = False


class Target:
    """Any fsspec filesystem, passed through: nothing of it is cached. Subclasses cache what their filesystem can prove."""

    into = False  # True if the function that reader() returns takes (offset, buffer), and not (offset, length)
    tells_with_bytes = False  # True if first() is implemented
    awaits = False  # True if the coroutines are implemented
    tells_info = False  # True if told() is implemented
    aliases = False  # True if one object may have several names (links, "..")
    manners: frozenset[str] = frozenset()  # see place.suffix()
    attributes: tuple[str, ...] = ()
    kind = "fsspec"  # of its requests, in the pool's statistics

    def __init__(self, fs: AbstractFileSystem, trusted: bool = False) -> None:
        self.fs = fs
        self.given = fs  # `fs` may be renewed
        self.trusted = trusted
        self.client: str | None = None  # what reads the bytes, see ``obstore``
        self.stores: dict[str, Any] = {}
        self.obstore_failed = False
        self.pid: int = fork.pid  # sessions and event loops do not survive a fork
        self.unsteady: Unsteady = Unsteady()
        self._turn = Turn()

    def key(self, path: str) -> str:
        """Return the object's key in the pool: the same in every process, and different for different objects."""
        return place.short(f"{self.fs.unstrip_protocol(path)}{self.place}", place.KEY_MAX)

    @cached_property
    def place(self) -> str:
        """The suffix of keys, which identifies the place that this filesystem's paths are in; "" for its kind's usual place."""
        return self.where()

    def where(self) -> str:
        return place.suffix(self.given, self.manners, self.attributes)

    def who(self) -> str:
        """Return a digest of the account and the other options: identities are not shared between accounts."""
        return place.digest(self.place, place.who(self.given))

    def identify(self, path: str) -> Identity:
        """Ask the origin, and return the path's current identity; one without a size if it must not be cached.

        Raises what the target raises, or IsADirectoryError.
        """
        return UNCACHED

    def told(self, path: str) -> dict[str, Any]:
        """Return the filesystem's ``info()`` of a path, by a question that reaches the origin. Raises what that raises."""
        raise NotImplementedError(f"{type(self).__name__} does not know whether info() reaches the origin")

    def first(self, path: str, start: int, end: int) -> First | None:
        """Return the path's current identity and its bytes start .. end - 1, up to the object's end, from one response.

        None if there is no response that proves both; the caller then calls identify(). Raises FileNotFoundError.
        """
        return None

    def ukey(self, path: str, identity: Identity) -> str:
        """Return a text that changes with every change of the object that can be seen."""
        return f"{self.key(path)}\n{identity.version}" if identity.stamp else str(self.fs.ukey(path))

    def local_name(self, path: str) -> str | None:
        """Return the name of this machine's file that the path is; None for other objects."""
        return None

    def exists(self, path: str, **kwargs: Any) -> bool:
        return self.fs.exists(path, **kwargs)

    def isfile(self, path: str) -> bool:
        return self.fs.isfile(path)

    def isdir(self, path: str) -> bool:
        return self.fs.isdir(path)

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        """Return a function of (offset, length) that returns bytes, or raises ChangedError if they are not the identity's."""
        raise NotImplementedError(f"{type(self).__name__} caches nothing")

    def stream(self, path: str, identity: Identity) -> Stream | None:
        """Return a function of (offset, buffers) that fills the buffers in order, yields after each, and raises ChangedError if
        the bytes are not the identity's; None if the target cannot read into pages. It may have an attribute ``read_ranges``,
        see ``foliocache.sources.Source``."""
        return None

    # The same as coroutines, in the filesystem's loop.

    def latency(self, path: str) -> float | None:
        """Return how many seconds it takes until the object's server begins to answer, if that is known."""
        return None

    @cached_property
    def loop(self) -> Any:
        return self.fs.loop

    @cached_property
    def home(self) -> Home:
        """Where the filesystem's coroutines run."""
        home = home_of(self.loop)
        home.is_lasting = self.loop is fsspec.asyn.loop[0]
        return home

    async def identify_async(self, path: str) -> Identity:
        raise NotImplementedError

    async def first_async(self, path: str, start: int, end: int) -> First | None:
        return None

    def stream_async(self, path: str, identity: Identity) -> AsyncStream:
        raise NotImplementedError

    async def uncached_async(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        raise NotImplementedError

    def uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        """Return the bytes of a Python slice of an object that is not cacheable."""
        return self.call(self.fs.cat_file, path, start=start, end=end)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function of the filesystem; one call at a time, unless the filesystem is asynchronous: others may mix up the
        answers for several threads."""
        return function(*args, **kwargs) if self.fs.async_impl else self._turn.call(function, *args, **kwargs)

    def open(self, path: str, identity: Identity | None, mode: str, **kwargs: Any) -> Any:
        """Return the target's own file: of an object that is not cacheable, or opened with the target's options (identity
        None)."""
        return self.fs.open(path, mode, **kwargs)

    def get_file(self, path: str, identity: Identity, lpath: str, **kwargs: Any) -> None:
        """Copy an object that is not cacheable to a local file."""
        self.fs.get_file(path, lpath, **kwargs)

    def confirm(self, path: str, identity: Identity) -> None:
        """Ask the origin again after a read. Raises ChangedError if the object no longer has this identity."""
        now = self.identify(path)
        if now.same(identity):
            return
        if now.cacheable and not now.same(self.identify(path)):
            self.unsteady.add(path)
        raise ChangedError(path)


class AsyncTarget(Target):
    """A filesystem of coroutines. They run in its loop, where its sessions belong: for calls from threads and for those from
    event loops. Subclasses write each question once, as a coroutine."""

    awaits = True

    async def _identify(self, path: str) -> Identity:
        raise NotImplementedError

    async def _first(self, path: str, start: int, end: int) -> First | None:
        return None

    def _reader(self, path: str, identity: Identity) -> Callable[[int, int], Awaitable[bytes]]:
        """Return a coroutine function of (offset, length). It raises ChangedError if the bytes are not the identity's."""
        raise NotImplementedError

    async def _uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        found: bytes = await self.fs._cat_file(path, start=start, end=end)
        return found

    async def _confirm(self, path: str, identity: Identity) -> None:
        """Ask the origin again after a read. Raises ChangedError if the object no longer has this identity."""
        now = await self._identify(path)
        if now.same(identity):
            return
        if now.cacheable and not now.same(await self._identify(path)):
            self.unsteady.add(path)
        raise ChangedError(path)

    def identify(self, path: str) -> Identity:
        found: Identity = sync(self.fs.loop, self._identify, path)
        return found

    def first(self, path: str, start: int, end: int) -> First | None:
        found: First | None = sync(self.fs.loop, self._first, path, start, end)
        return found

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        read = self._reader(path, identity)
        return lambda offset, length: sync(self.fs.loop, read, offset, length)

    def uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        found: bytes = sync(self.fs.loop, self._uncached, path, identity, start, end)
        return found

    def identify_async(self, path: str) -> Coroutine[Any, Any, Identity]:
        return self._identify(path)

    def first_async(self, path: str, start: int, end: int) -> Coroutine[Any, Any, First | None]:
        return self._first(path, start, end)

    def stream_async(self, path: str, identity: Identity) -> AsyncStream:
        read = self._reader(path, identity)

        async def read_into(offset: int, buffers: Sequence[memoryview]) -> AsyncGenerator[object, None]:
            data = memoryview(await read(offset, sum(map(len, buffers))))
            for buffer in buffers:
                buffer[:], data = data[: len(buffer)], data[len(buffer) :]
                yield buffer

        return read_into

    async def uncached_async(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        return await self._uncached(path, identity, start, end)


def bytes_reader(target: Target, path: str, identity: Identity) -> Callable[[int, int], bytes]:
    """Return the target's reader, of whichever kind, as a function of (offset, length) that returns bytes."""
    read = target.reader(path, identity)
    if not target.into:
        return read

    def filled(offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        return bytes(memoryview(buffer)[: read(offset, buffer)])

    return filled


def refuse_directory(path: str, info: dict[str, Any]) -> None:
    if info["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
