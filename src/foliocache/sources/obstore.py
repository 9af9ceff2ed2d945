"""Objects of an obstore store (S3, GCS, Azure, HTTP, local files, memory) as sources.

Bytes are streamed into the pages as they arrive, by ``get``, whose response has the ETag, the size and the range of the bytes;
the results of ``get_range`` and ``get_ranges`` have none of them. obstore runs on threads of its own, which a fork does not
copy: a call in the child waits for ever, and disturbs the parent. So reads are refused in a child of a process in which these
threads ran.
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
from ..sizes import quoted

__all__ = ["Object", "Store", "Version", "key_of", "read_version", "strong", "usable"]

T = TypeVar("T")
M = TypeVar("M", covariant=True)

CHUNK = 64 << 10  # the least bytes that obstore returns at once
CHUNK_IN_MAIN = 1 << 20  # the same in the main thread, where another thread waits for each chunk
TICK = 2.0  # seconds within which an object may change again without a new date
TEXT_MAX = 500  # characters of an obstore error's text, which may contain the whole response

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
    """The methods that are used of a store. obstore's own stores have them, and so have stores that follow ``obspec``."""

    def head(self, path: str) -> Any:
        """Return an object's metadata: ``size``, ``e_tag``, ``version``, ``last_modified``."""
        ...

    def get(self, path: str, *, options: Any) -> Any:
        """Return the response to a GET, with ``meta``, ``range`` and ``stream``."""
        ...


class Pool(Protocol[M]):
    """The method of a pool that is needed here."""

    def mapping(self, key: str, size: int, version: str = "", *, source: Source | None = None, concurrent: bool = False) -> M:
        """Return a mapping of an object at one version."""
        ...


# obstore after a fork.

_is_in_use = False  # at the last fork of this process
_was_inherited = False


def _look() -> None:
    """Before a fork: record whether obstore's threads run in this process, whether this module started them or not."""
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
    """Return whether obstore works in this process.

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
    """What a response must have to be of one version of an object.

    ``etag`` is a strong ETag, or None. A response must have the same ETag and date as ``etag`` and ``modified``, if they are
    not None. ``is_file`` is for local files, which may be written while they are read: they are checked again after each read.
    ``is_told`` means that the user has given the version: only the size is compared.
    """

    size: int
    etag: str | None = None
    modified: datetime | None = None
    is_file: bool = False
    is_told: bool = False

    def fits(self, meta: Any) -> bool:
        """Return True if a response with this metadata is of this version."""
        if meta["size"] != self.size or self.is_told:
            return meta["size"] == self.size  # type: ignore[no-any-return]
        if self.etag is None and self.modified is None:
            return False
        return self.etag in (None, meta["e_tag"]) and self.modified in (None, meta["last_modified"])


class Object:
    """One object of a store, at the version that it has when it is first used.

    ``Object(store, path).mapping(pool)`` is all that a program needs. It pickles if its store does, for spawned processes. In a
    forked process it works only if obstore was not used before the fork.

    Parameters
    ----------
    store : obstore.store.ObjectStore
        The store. The constructor sends no request to it.
    path : str
        The object's path in the store.
    key : str, optional
        The object's key in the pool. By default the URL made of store and path. It must be given for a store that is not one of
        obstore's own.
    version : str, optional
        A version, if you vouch that the object does not change while it has this version. Responses are then checked only for
        size and range, so an origin without versions can be cached, too.

    Raises
    ------
    ValueError
        No key was given, and none can be made of the store.
    """

    kind = "obstore"  # of its requests, in the pool's statistics

    def __init__(self, store: Store, path: str, *, key: str | None = None, version: str | None = None) -> None:
        self.store = store
        self.path = path
        self.key: str = key_of(store, path) if key is None else key
        self._told = version
        self._known: tuple[Version, str] | None = None

    def __repr__(self) -> str:
        return f"<foliocache.sources.obstore.Object {quoted(self.key)}>"

    @property
    def size(self) -> int:
        """The object's size in bytes."""
        return self._identity()[0].size

    @property
    def version(self) -> str:
        """The object's version in the pool: ETag and version, or the date, and the size."""
        return self._identity()[1]

    def mapping(self, pool: Pool[M]) -> M:
        """Return a mapping of the object in a pool.

        Parameters
        ----------
        pool : foliocache.Pool
            The pool.

        Returns
        -------
        foliocache.Mapping
            This object reads its missing bytes, several requests at a time.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        PermissionError
            The store denies access.
        SourceError
            Nothing distinguishes the object's versions, so it cannot be cached; or the store failed.
        FoliocacheError
            obstore was used in a process that this one was forked from; or the pool has been closed.
        """
        return pool.mapping(self.key, self.size, self.version, source=self, concurrent=True)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
        """Fill the buffers, in order, as `foliocache.sources.Source` requires.

        Parameters
        ----------
        offset : int
            The offset of the first byte.
        buffers : sequence of memoryview
            The buffers to fill.

        Returns
        -------
        iterator
            Yields once for each buffer, when that is full.

        Raises
        ------
        ChangedError
            The object has changed, or is gone.
        PermissionError
            The store denies access.
        SourceError
            The store failed, or returned other bytes than the requested ones.
        """
        return read_version(self.store, self.path, self._identity()[0], offset, buffers)

    def failure(self, error: OSError) -> OSError:
        """Return the error to raise when this process waited for another one, whose read failed.

        Parameters
        ----------
        error : OSError
            An error with the errno of the other process's error.

        Returns
        -------
        OSError
            ChangedError for ESTALE, else ``error``.
        """
        return ChangedError(self.path) if error.errno == errno.ESTALE else error

    def _identity(self) -> tuple[Version, str]:
        if self._known is None:
            self._known = self._named(_asked(self.store, self.path))
        return self._known

    def _named(self, meta: Any) -> tuple[Version, str]:
        """Return the version in an object's metadata, and its text for the pool. Raises SourceError if there is none."""
        size, etag, modified = meta["size"], meta["e_tag"], meta["last_modified"]
        if self._told is not None:
            return Version(size, is_told=True), self._told
        is_file = isinstance(self.store, LocalStore)
        parts = [("ETag", etag), ("VersionId", meta["version"]), ("size", size)]
        text = ";".join(f"{name}={value}" for name, value in parts if value is not None)
        if is_file or not strong(etag):
            if modified is None or modified.timestamp() <= 0:
                raise SourceError(
                    f"{quoted(self.key)} has neither a strong ETag nor a date, so nothing tells its versions apart; if it does "
                    "not change, say so by version="
                )
            text = f"Last-Modified={format_datetime(modified)};{text}"
            if abs(time.time() - modified.timestamp()) < TICK:
                text = f"{text}!{secrets.token_hex(8)}"  # it may change again without a new date
            return Version(size, etag if is_file else None, modified, is_file), text
        return Version(size, etag), text


def strong(etag: str | None) -> str | None:
    """Return an ETag if it is strong, else None.

    Parameters
    ----------
    etag : str or None
        The ETag as a server sends it.

    Returns
    -------
    str or None
        None for a weak ETag, which promises the same meaning but not the same bytes, and for an empty one.
    """
    return None if not etag or etag.startswith("W/") or etag == '""' else etag


# Reading.


def read_version(store: Store, path: str, version: Version, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
    """Fill the buffers, in order, with bytes of one version. Raises what `Object.read_into` raises.

    Parameters
    ----------
    store : obstore.store.ObjectStore
        The store.
    path : str
        The object's path in the store.
    version : Version
        The version that the response must have.
    offset : int
        The offset of the first byte.
    buffers : sequence of memoryview
        The buffers to fill.

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
    """Return the option If-Match. A store that supports it does not send a body of another version; few do."""
    return {} if version.etag is None else {"if_match": version.etag}


def _check(answer: Any, path: str, version: Version, offset: int, end: int) -> None:
    if not version.fits(answer.meta):
        raise ChangedError(path)
    if tuple(answer.range) != (offset, end):
        raise SourceError(f"{quoted(path)}: bytes {offset} to {end} were asked for, and the store gave {answer.range}")


def _pour(answer: Any, path: str, buffers: Sequence[memoryview]) -> Iterator[int]:
    """Fill the buffers from a response's stream. Yields the length of each buffer when it is full."""
    chunks = answer.stream(min_chunk_size=CHUNK_IN_MAIN if _is_main() else CHUNK)
    chunk, at = b"", 0
    for buffer in buffers:
        filled = 0
        while filled < len(buffer):
            if at == len(chunk):
                chunk, at = _call(lambda: next(chunks, b"")), 0
                if not chunk:
                    raise SourceError(f"{quoted(path)}: the answer ended {len(buffer) - filled} bytes early")
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
    """Call obstore. Signal handlers run only after such a call returns, so the main thread lets another thread make it, and
    waits."""
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
    """Return one of our errors, or of Python's, for an error of obstore."""
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
    """Return an object's key in a pool: the same in every process for the same place, and different for different places.

    Parameters
    ----------
    store : obstore.store.ObjectStore
        The store.
    path : str
        The object's path in the store.

    Returns
    -------
    str
        A URL, followed by a digest if options choose another place than the URL says.

    Raises
    ------
    ValueError
        The store is not one of obstore's own.
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
    """Return a digest of the options that may choose another place, or "" without any. Secrets, and options for the client's
    behaviour, are left out."""
    found = [
        {name: str(value) for name, value in each.items() if not _MANNERS.search(name.lower())}
        for each in (*options, store.client_options or {})
    ]
    if not any(found):
        return ""
    return f"?{hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]}"


_nonces: dict[int, tuple[weakref.ref[Any], int, str]] = {}


def _nonce_of(store: Any) -> str:
    """Return a unique text for a store in this process's memory, valid as long as the process and the store exist."""
    known = _nonces.get(id(store))
    if known is not None and known[0]() is store and known[1] == os.getpid():
        return known[2]
    nonce, at = secrets.token_hex(8), id(store)
    _nonces[at] = weakref.ref(store, lambda _: _nonces.pop(at, None)), os.getpid(), nonce
    return nonce
