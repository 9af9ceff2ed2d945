"""What the cache asks of a target filesystem: who is this object now, and give me its bytes while it still is that.

Where one answer says both (:class:`First`), an object that nobody knows yet costs one request.

A shared cache must not mix two versions of one object: a page that is read after the origin changed, but filed under the
version that was seen at open, would be wrong for every process of the machine until it ages out. So each read proves that
its bytes belong to the :class:`Identity` they are filed under: by the answer that carried them, or else by a question after
the read that reaches the origin. A listing, an index in memory and the process's own listings cache answer no such question.
What can't be proven is not cached: :class:`Target` itself passes everything through, and its subclasses cache what they can
prove.

A proof that fails is :class:`ChangedError`, ESTALE, as on NFS.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import monotonic
from typing import Any, TypeVar

from fsspec import AbstractFileSystem

from foliocache import ChangedError

from . import place

T = TypeVar("T")
Stream = Callable[[int, Sequence[memoryview]], Iterator[object]]

_UNSTEADY_SECONDS = 60.0
_UNSTEADY_MAX = 4096  # paths


@dataclass(frozen=True, slots=True)
class Identity:
    """One object at one version, as its origin tells versions apart."""

    size: int | None  # None: the object can't be cached
    stamp: str  # what tells the version
    etag: str | None = None  # what a response must repeat, where the target has such a thing
    modified: str | None = None
    nonce: str = ""  # of a version that its stamp can't tell from the next one: it is this one open's alone
    within: Identity | None = None  # of the object that this one is a part of

    @property
    def version(self) -> str:
        """What its pages are filed under."""
        return f"{self.stamp}!{self.nonce}" if self.nonce else self.stamp

    @property
    def cacheable(self) -> bool:
        """Empty objects have no pages; the target reads them each time, and what it can't prove."""
        return bool(self.size)

    def same(self, other: Identity) -> bool:
        """Whether the origin said the same of both."""
        return _bare(self) == _bare(other)


def _bare(identity: Identity) -> Identity:
    return replace(identity, nonce="", within=identity.within and _bare(identity.within))


UNCACHED = Identity(None, "")


@dataclass(frozen=True, slots=True)
class First:
    """The first answer about an object: who it is, and bytes from ``start`` on, which it proves to be of that version."""

    identity: Identity
    start: int
    data: bytes

    def read(self, offset: int, length: int) -> memoryview:
        """As the ``read`` of a mapping that asks for no more than there is."""
        return memoryview(self.data)[offset - self.start : offset - self.start + length]

    def whole(self, folio_size: int) -> tuple[int, int]:
        """(offset, length) of what is here of whole folios."""
        end = self.start + len(self.data)
        stop = end if end == self.identity.size else end - end % folio_size
        offset = -(-self.start // folio_size) * folio_size
        return offset, max(stop - offset, 0)


class Held(io.BytesIO):
    """A file of bytes that are all here."""

    @property
    def size(self) -> int:
        return len(self.getbuffer())


class Some:
    """A set of paths, bounded: the oldest go first. Its methods are single steps, for any thread."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    def add(self, path: str) -> None:
        while len(self._paths) >= _UNSTEADY_MAX:
            self._paths.pop(next(iter(list(self._paths)), ""), None)
        self._paths[path] = None


class Unsteady:
    """Paths whose origin contradicts itself, so that nothing of them can be proven: they are not cached for a minute."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[float, str]] = {}

    def __contains__(self, path: str) -> bool:
        return self.get(path) is not None

    def get(self, path: str, default: str | None = None) -> str | None:
        """The stamp that the path was added with lately."""
        since, stamp = self._since.get(path, (-_UNSTEADY_SECONDS, ""))
        return stamp if monotonic() - since < _UNSTEADY_SECONDS else default

    def add(self, path: str, stamp: str = "") -> None:
        while len(self._since) >= _UNSTEADY_MAX:
            self._since.pop(next(iter(list(self._since)), ""), None)
        self._since[path] = monotonic(), stamp

    def discard(self, path: str) -> None:
        self._since.pop(path, None)


class Turn:
    """One caller at a time, for what answers to one caller at a time: a connection, an open archive.

    A caller who is called in the middle of its own call (by a signal handler, a finalizer) is refused: to wait would be for
    ever, and not to wait would mix two answers.
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
    """Any fsspec filesystem, passed through: nothing of it is cached. What can be cached of some is in the subclasses."""

    into = False  # what reader() returns takes (offset, length); if True: (offset, buffer)
    tells_with_bytes = False  # whether first() may answer
    aliases = False  # whether one object may have several names (links, "..")
    manners: frozenset[str] = frozenset()  # see place.suffix()
    attributes: tuple[str, ...] = ()

    def __init__(self, fs: AbstractFileSystem, trusted: bool = False) -> None:
        self.fs = fs
        self.given = fs  # `fs` may be renewed
        self.trusted = trusted
        self.client: str | None = None  # who reads the bytes, see ``obstore``
        self.stores: dict[str, Any] = {}
        self.obstore_failed = False
        self.pid: int = os.getpid()  # sessions and event loops do not survive a fork
        self.unsteady: Unsteady = Unsteady()
        self._turn = Turn()

    def key(self, path: str) -> str:
        """The object's name in the pool, the same in every process that means the same object."""
        return place.short(f"{self.fs.unstrip_protocol(path)}{self.place}", place.KEY_MAX)

    @cached_property
    def place(self) -> str:
        """What keys end in: where the paths of this filesystem lead, if not where those of all of its kind do."""
        return self.where()

    def where(self) -> str:
        return place.suffix(self.given, self.manners, self.attributes)

    def who(self) -> str:
        """On whose behalf, and with which other options: identities are not passed on from one account to another."""
        return place.digest(self.place, place.who(self.given))

    def identify(self, path: str) -> Identity:
        """Who is at the path now, by the origin's own word; an identity without a size if it is not to be cached.

        Raises what the target raises, or IsADirectoryError.
        """
        return UNCACHED

    def first(self, path: str, start: int, end: int) -> First | None:
        """Who is at the path now, and the bytes from start to before end, as far as it has them, by one answer of the origin.

        None if that answer does not prove both, or there is none: then identify() is asked. Raises FileNotFoundError.
        """
        return None

    def ukey(self, path: str, identity: Identity) -> str:
        """Text that differs if the object does, as far as anyone can tell."""
        return f"{self.key(path)}\n{identity.version}" if identity.stamp else str(self.fs.ukey(path))

    def local_name(self, path: str) -> str | None:
        """The file of this machine that the path is; None for an object that is somewhere else."""
        return None

    def exists(self, path: str, **kwargs: Any) -> bool:
        return self.fs.exists(path, **kwargs)

    def isfile(self, path: str) -> bool:
        return self.fs.isfile(path)

    def isdir(self, path: str) -> bool:
        return self.fs.isdir(path)

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        """A function of (offset, length) that returns the bytes, or raises ChangedError if they aren't the identity's."""
        raise NotImplementedError(f"{type(self).__name__} caches nothing")

    def stream(self, path: str, identity: Identity) -> Stream | None:
        """The reader of a target that can read into pages: a function of (offset, buffers) that fills them in order and yields
        after each, or raises ChangedError if they aren't the identity's. None if it cannot."""
        return None

    def uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        """What is not cacheable, sliced as Python would."""
        return self.call(self.fs.cat_file, path, start=start, end=end)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """For what reads in several threads at once: not every filesystem sorts out the answers, but async ones do."""
        return function(*args, **kwargs) if self.fs.async_impl else self._turn.call(function, *args, **kwargs)

    def open(self, path: str, identity: Identity | None, mode: str, **kwargs: Any) -> Any:
        """The target's own file: of what is not cacheable, or opened with options of the target's (identity None)."""
        return self.fs.open(path, mode, **kwargs)

    def get_file(self, path: str, identity: Identity, lpath: str, **kwargs: Any) -> None:
        """Copy what is not cacheable to a local file."""
        self.fs.get_file(path, lpath, **kwargs)

    def confirm(self, path: str, identity: Identity) -> None:
        """The second question: ChangedError if the object is not the identity's any more."""
        now = self.identify(path)
        if now.same(identity):
            return
        if now.cacheable and not now.same(self.identify(path)):
            self.unsteady.add(path)
        raise ChangedError(path)


def bytes_reader(target: Target, path: str, identity: Identity) -> Callable[[int, int], bytes]:
    """The target's reader as a function of (offset, length) that returns bytes, whichever kind it is."""
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
