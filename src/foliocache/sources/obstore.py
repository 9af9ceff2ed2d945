"""Objects of an obstore store (S3, GCS, Azure, HTTP, local files, memory) as sources.

Bytes are streamed into the pages as they arrive, by ``get``, whose answer carries the ETag, the size and the range that it is
of; ``get_range`` and ``get_ranges`` carry none of them. obstore runs on threads of its own, which a fork does not copy: what it
does in a child then waits for ever, and disturbs the parent. So a child of a process in which they ran is refused.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import hashlib
import json
import os
import queue
import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Protocol, TypeVar

import obstore.exceptions
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store

from ..errors import ChangedError, FoliocacheError, SourceError
from ..filler.source import Source

__all__ = ["Object", "Store", "Version", "key_of", "read_version", "strong", "usable"]

T = TypeVar("T")
M = TypeVar("M", covariant=True)

CHUNK = 64 << 10  # bytes that obstore hands over at once, at least
CHUNK_IN_MAIN = 1 << 20  # where each is waited for in another thread
TICK = 2.0  # seconds within which an object may change again under the same date
TEXT_MAX = 500  # characters of an error of obstore's, which may contain the whole answer

_DENIED = (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)
_MANNERS = re.compile(
    r"key|secret|token|credential|password|signature|sas|timeout|pool|keep_alive|allow_http$|proxy|imds|region"
)
_PLACES = re.compile(r"(AWS|AZURE|GOOGLE)_.*(ENDPOINT|BUCKET|ACCOUNT_NAME|CONTAINER_NAME|BASE_URL|EMULATOR)")
_KINDS: tuple[tuple[type, str, str], ...] = (
    (S3Store, "s3", "bucket"),
    (GCSStore, "gs", "bucket"),
    (AzureStore, "az", "container_name"),
)


class Store(Protocol):
    """What is used of a store: obstore's own have it, and so has what follows the protocols of ``obspec``."""

    def head(self, path: str) -> Any:
        """What is known of an object: ``size``, ``e_tag``, ``version``, ``last_modified``."""
        ...

    def get(self, path: str, *, options: Any) -> Any:
        """The answer to a GET, its ``meta``, ``range`` and ``stream``."""
        ...


class Pool(Protocol[M]):
    """A pool, as far as it is needed here."""

    def mapping(self, key: str, size: int, version: str = "", *, source: Source | None = None, concurrent: bool = False) -> M:
        """An object at one version."""
        ...


# What a fork leaves of obstore.

_is_in_use = False  # at the last fork of this process
_was_inherited = False


def _look() -> None:
    """Before a fork: note whether obstore's threads run here, started by this module or not."""
    global _is_in_use
    _is_in_use = _is_in_use or any(name.startswith("tokio-") for name in _threads())


def _threads() -> Iterator[str]:
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm") as file:
                yield file.read()


def _mark() -> None:
    global _was_inherited
    _was_inherited = _was_inherited or _is_in_use


os.register_at_fork(before=_look, after_in_child=_mark)


def usable() -> bool:
    """Return whether obstore works in this process: not in a child of one in which it was used.

    Returns
    -------
    bool
        False in a process that was forked from one in which obstore's threads ran.
    """
    return not _was_inherited


def _refuse_after_fork() -> None:
    if _was_inherited:
        raise FoliocacheError(
            "obstore was used in a process that this one was forked from, and would hang here; start processes by 'spawn' or "
            "'forkserver' (multiprocessing.get_context), or read through folio:: without client=\"obstore\", which survives "
            "a fork"
        )


# Versions.


@dataclass(frozen=True, slots=True)
class Version:
    """What an answer must say to be of one version of an object.

    ``etag`` is a strong one, or None. It and ``modified``, as far as they are given, must be what the answer says. ``is_file``
    is for what may be written while it is read, and is asked for again after each read. ``is_told`` is the user's word: only
    the size is compared.
    """

    size: int
    etag: str | None = None
    modified: datetime | None = None
    is_file: bool = False
    is_told: bool = False

    def fits(self, meta: Any) -> bool:
        """Whether an answer is of this version."""
        if meta["size"] != self.size or self.is_told:
            return meta["size"] == self.size  # type: ignore[no-any-return]
        if self.etag is None and self.modified is None:
            return False
        return self.etag in (None, meta["e_tag"]) and self.modified in (None, meta["last_modified"])


class Object:
    """One object of a store, at the version that it has when it is first asked for.

    ``Object(store, path).mapping(pool)`` is all that a program needs. It pickles if its store does, for spawned processes; in a
    forked one it can be used unless obstore was used before the fork, which is refused.

    Parameters
    ----------
    store : obstore.store.ObjectStore
        Where it lies. Nothing is asked of it yet.
    path : str
        The object in it.
    key : str, optional
        What the pool calls it. By default the URL that store and path make; for a store that is none of obstore's own it must
        be given.
    version : str, optional
        Your word that the object does not change under this name of a version. Answers are then checked for size and range
        alone, and an origin that knows no versions can be cached, too.

    Raises
    ------
    ValueError
        There is no key.
    """

    def __init__(self, store: Store, path: str, *, key: str | None = None, version: str | None = None) -> None:
        self.store = store
        self.path = path
        self.key: str = key_of(store, path) if key is None else key
        self._told = version
        self._known: tuple[Version, str] | None = None

    def __repr__(self) -> str:
        return f"<foliocache.sources.obstore.Object {self.key!r}>"

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self._identity()[0].size

    @property
    def version(self) -> str:
        """What its pages are filed under: ETag and version, or the date, and the size."""
        return self._identity()[1]

    def mapping(self, pool: Pool[M]) -> M:
        """The object in a pool.

        Parameters
        ----------
        pool : foliocache.Pool
            The pool.

        Returns
        -------
        foliocache.Mapping
            Its missing bytes are read by this object, several requests at a time.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        PermissionError
            The store refuses it.
        SourceError
            Nothing tells its versions apart, so that it could not be cached; or the store failed.
        FoliocacheError
            obstore was used in a process that this one was forked from; or the pool has been closed.
        """
        return pool.mapping(self.key, self.size, self.version, source=self, concurrent=True)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
        """As `foliocache.sources.Source` has it.

        Parameters
        ----------
        offset : int
            Of the first byte.
        buffers : sequence of memoryview
            What is filled.

        Returns
        -------
        iterator
            Yields once for each buffer, when that is full.

        Raises
        ------
        ChangedError
            The object is another one now, or gone.
        PermissionError
            The store refuses it.
        SourceError
            The store failed, or gave other bytes than those that were asked for.
        """
        return read_version(self.store, self.path, self._identity()[0], offset, buffers)

    def failure(self, error: OSError) -> OSError:
        """What is raised where another process asked the store for the same bytes, and that failed.

        Parameters
        ----------
        error : OSError
            With the errno of the other process's error.

        Returns
        -------
        OSError
            The error to raise.
        """
        return ChangedError(self.path) if error.errno == errno.ESTALE else error

    def _identity(self) -> tuple[Version, str]:
        if self._known is None:
            self._known = self._named(_asked(self.store, self.path))
        return self._known

    def _named(self, meta: Any) -> tuple[Version, str]:
        """The version, and its text for the pool."""
        size, etag, modified = meta["size"], meta["e_tag"], meta["last_modified"]
        if self._told is not None:
            return Version(size, is_told=True), self._told
        is_file = isinstance(self.store, LocalStore)
        parts = [("ETag", etag), ("VersionId", meta["version"]), ("size", size)]
        text = ";".join(f"{name}={value}" for name, value in parts if value is not None)
        if is_file or not strong(etag):
            if modified is None or modified.timestamp() <= 0:
                raise SourceError(
                    f"{self.key!r} has neither a strong ETag nor a date, so nothing tells its versions apart; if it does not "
                    "change, say so by version="
                )
            text = f"Last-Modified={format_datetime(modified)};{text}"
            if abs(time.time() - modified.timestamp()) < TICK:
                text = f"{text}!{secrets.token_hex(8)}"  # it may change again under this date
            return Version(size, etag if is_file else None, modified, is_file), text
        return Version(size, etag), text


def strong(etag: str | None) -> str | None:
    """Return an ETag if it names bytes, else None.

    Parameters
    ----------
    etag : str or None
        As a server says it.

    Returns
    -------
    str or None
        None for a weak one, which promises the same meaning and not the same bytes, and for an empty one.
    """
    return None if not etag or etag.startswith("W/") or etag == '""' else etag


# Reading.


def read_version(store: Store, path: str, version: Version, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
    """Fill the buffers, in order, with bytes of one version, see `Object.read_into`.

    Parameters
    ----------
    store : obstore.store.ObjectStore
        Where the object lies.
    path : str
        The object in it.
    version : Version
        What the answer must be of.
    offset : int
        Of the first byte.
    buffers : sequence of memoryview
        What is filled.

    Yields
    ------
    object
        Once for each buffer, when that is full.
    """
    end = offset + sum(map(len, buffers))
    try:
        answer = _call(lambda: store.get(path, options={"range": (offset, end), **_condition(version)}))
        _check(answer, path, version, offset, end)
        full = _pour(answer, path, buffers)
        if version.is_file:
            full = iter(list(full))
            if not version.fits(_call(lambda: store.head(path))):
                raise ChangedError(path)
        yield from full
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        raise _translated(error, path, is_open=True) from None


def _condition(version: Version) -> dict[str, str]:
    """With this a store need not send what would be thrown away; few heed it."""
    return {} if version.etag is None else {"if_match": version.etag}


def _check(answer: Any, path: str, version: Version, offset: int, end: int) -> None:
    if not version.fits(answer.meta):
        raise ChangedError(path)
    if tuple(answer.range) != (offset, end):
        raise SourceError(f"{path!r}: bytes {offset} to {end} were asked for, and the store gave {answer.range}")


def _pour(answer: Any, path: str, buffers: Sequence[memoryview]) -> Iterator[int]:
    """Fill the buffers from an answer's stream; yield the length of each when it is full."""
    chunks = answer.stream(min_chunk_size=CHUNK_IN_MAIN if _is_main() else CHUNK)
    chunk, at = b"", 0
    for buffer in buffers:
        filled = 0
        while filled < len(buffer):
            if at == len(chunk):
                chunk, at = _call(lambda: next(chunks, b"")), 0
                if not chunk:
                    raise SourceError(f"{path!r}: the answer ended {len(buffer) - filled} bytes early")
            count = min(len(buffer) - filled, len(chunk) - at)
            buffer[filled : filled + count] = memoryview(chunk)[at : at + count]
            filled, at = filled + count, at + count
        yield filled


def _asked(store: Store, path: str) -> Any:
    try:
        return _call(lambda: store.head(path))
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        raise _translated(error, path, is_open=False) from None


def _is_main() -> bool:
    return _thread.get_ident() == threading.main_thread().ident


def _call(function: Callable[[], T]) -> T:
    """Call obstore. It hears signals only when a call of it is done; so the main thread waits for another one that calls."""
    _refuse_after_fork()
    if not _is_main():
        return function()
    told: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            told.put((function(), None))
        except BaseException as error:
            told.put((None, error))

    _thread.start_new_thread(call, ())
    result, error = told.get()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _translated(error: Exception, path: str, is_open: bool) -> Exception:
    """One of our errors, or of Python's, for one of obstore's."""
    if isinstance(error, FoliocacheError):
        return error
    text = str(error).partition("\n\nDebug source")[0][:TEXT_MAX]
    if isinstance(error, FileNotFoundError):
        return ChangedError(path) if is_open else FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if isinstance(error, obstore.exceptions.PreconditionError):
        return ChangedError(path)
    if isinstance(error, (*_DENIED, PermissionError)):
        return PermissionError(errno.EACCES, text, path)
    return SourceError(getattr(error, "errno", None) or errno.EIO, text, path)


# Keys.


def key_of(store: Store, path: str) -> str:
    """Return what a pool calls an object: the same for all that mean the same place, and for no other.

    Parameters
    ----------
    store : obstore.store.ObjectStore
        Where it lies.
    path : str
        The object in it.

    Returns
    -------
    str
        A URL, with a digest behind it where options lead elsewhere than the URL says.

    Raises
    ------
    ValueError
        The store is none of obstore's own.
    """
    path = path.strip("/")
    if isinstance(store, HTTPStore):
        return f"{store.url.rstrip('/')}/{path}{_elsewhere(store, {})}"
    if isinstance(store, LocalStore):
        return f"file://{os.path.realpath(os.path.join(str(store.prefix or '/'), path))}"
    if isinstance(store, MemoryStore):
        return f"memory://{_nonce_of(store)}/{path}"
    for kind, scheme, container in _KINDS:
        if isinstance(store, kind):
            config = dict(store.config)  # type: ignore[attr-defined]
            parts = [config.pop(container, ""), str(store.prefix or ""), path]  # type: ignore[attr-defined]
            environment = {name: value for name, value in os.environ.items() if _PLACES.match(name)}
            return f"{scheme}://{'/'.join(filter(None, parts))}{_elsewhere(store, config, environment)}"
    raise ValueError(f"what a pool should call objects of a {type(store).__name__} is not known; say it by key=")


def _elsewhere(store: Any, *options: dict[str, Any]) -> str:
    """A digest of the options that may lead elsewhere. Secrets, and how a client behaves, are left out."""
    found = [
        {name: str(value) for name, value in each.items() if not _MANNERS.search(name.lower())}
        for each in (*options, store.client_options or {})
    ]
    if not any(found):
        return ""
    return f"?{hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]}"


_nonces: dict[int, tuple[weakref.ref[Any], int, str]] = {}


def _nonce_of(store: Any) -> str:
    """A word for a store in this process's memory, as long as both live."""
    known = _nonces.get(id(store))
    if known is not None and known[0]() is store and known[1] == os.getpid():
        return known[2]
    nonce, at = secrets.token_hex(8), id(store)
    _nonces[at] = weakref.ref(store, lambda _: _nonces.pop(at, None)), os.getpid(), nonce
    return nonce
