"""``folio::``: any fsspec filesystem, read through the machine's shared page cache.

The filesystem is a thin layer: names, listings and writes are the target's; reads of objects with a known size are views or
copies of pages that some process of this machine has fetched, once. It is synchronous over sync and async targets alike.
That is not a lack: a page that another process is fetching is waited for on a futex, which no event loop can do, so async
callers (zarr) wrap it in fsspec's ``AsyncFileSystemWrapper``, whose threads wait instead of the loop.

State and forks: an instance holds its options, its target and the pool. A forked child gets a fresh target on first use (the
parent's sessions belong to the parent's loop thread, which does not exist in the child; see ``fork``); the pool survives by
itself.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, TypeVar

import fsspec
from fsspec.implementations.chained import ChainedFileSystem

import foliocache

from .file import FolioFile, WriteThrough
from .filecache import POOL_OPTIONS
from .identities import Identities, trust_seconds
from .passthrough import FolioTransaction, PassThrough, unprefixed
from .source import Source
from .target import ChangedError, Identity, Target, renewed, target_for

_OPTIONS = (*POOL_OPTIONS, "check_files", "expiry", "trust_info", "fs", "fo", "target_protocol", "target_options")
_FSSPEC_OPTIONS = frozenset({"asynchronous", "loop", "batch_size", "use_listings_cache", "listings_expiry_time", "max_paths"})
_OPEN_HINTS = ("cache_type", "cache_options", "block_size", "fill_cache", "size")  # there is no second cache to advise
_ATTEMPTS = 3  # at an object that changes while it is read
_PARALLEL = 8  # source calls of one cat() or cat_ranges()

T = TypeVar("T")


class FolioFileSystem(PassThrough, ChainedFileSystem):
    """Reads any target filesystem through a pool of pages that all processes of this machine share.

    Parameters
    ----------
    fs, target_protocol, target_options, fo
        The target: an instance, or how to make one. ``fsspec.open("folio::s3://…", s3={…})`` fills these in.
    name, size, page_size, mode
        The pool, as in ``foliocache.open``; what is not given is not compared with the pool that exists.
    check_files, expiry
        When a path's identity is asked for again: by default at each open, cat or lease; with ``expiry=N`` at most every N
        seconds; with ``check_files=False`` and no expiry, once per process.
    trust_info
        The user's word that the target's ``info()`` reaches the origin and tells versions apart. It is needed for
        filesystems of which that is not known: without it they pass through uncached.
    """

    protocol: ClassVar[str] = "folio"
    local_file = False  # or open_local() would hand out names instead of files
    transaction_type = FolioTransaction
    _strip_tokenize_options = ("fo",)  # the first path that was opened, not a part of what the filesystem is

    def __init__(
        self,
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        fs: fsspec.AbstractFileSystem | None = None,
        fo: str | None = None,
        *,
        check_files: bool | None = None,
        expiry: float | None = None,
        trust_info: bool = False,
        **options: Any,
    ) -> None:
        pool = {name: options.pop(name) for name in POOL_OPTIONS if options.get(name) is not None}
        _refuse_unknown(options)
        super().__init__(**options)
        self._trust = trust_seconds(check_files, expiry)
        self._pool_options = pool
        self._pool: Any = None
        self._target = target_for(_make_target(fs, target_protocol, target_options), _flag("trust_info", trust_info))
        self._identities = Identities.of(self._target.who())
        self._uncommitted: set[str] = set()
        self._last = threading.local()
        self._adopt(self._target.fs)

    def _adopt(self, fs: fsspec.AbstractFileSystem) -> None:
        """Paths are the target's. Set per instance: fsspec asks the class about URLs before there is a target."""
        self.sep = fs.sep
        self.root_marker = fs.root_marker
        self._parent = fs._parent
        self._strip_protocol = partial(_stripped, fs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.fs, name)

    @property
    def fsid(self) -> str:
        return f"folio_{self.fs.fsid}"

    @property
    def target(self) -> Target:
        """The target's adapter; another one after a fork."""
        if self._target.pid != os.getpid():
            self._target = renewed(self._target)
        return self._target

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The target filesystem."""
        return self.target.fs

    @property
    def cache(self) -> Any:
        """The pool; made or attached when it is first needed, so that listing needs none, and again if someone closed it."""
        if self._pool is None or self._pool.closed:
            self._pool = foliocache.open(**self._pool_options)
        return self._pool

    # Identity

    def _identify(self, path: str) -> Identity:
        identity = self._identities.recall(path, self._trust)
        if identity is None:
            identity = self.target.identify(path)
            self._identities.remember(path, identity)
        return identity

    def _while_unchanged(self, path: str, use: Callable[[Identity], T]) -> T:
        """A read by path has promised no version yet: if the object changes under it, it begins again with the new one."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return use(self._identify(path))
            except ChangedError:
                self._identities.forget(path)
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _map(self, path: str, identity: Identity) -> Any:
        """The object's mapping: the one that this thread used last, or a new one."""
        last = getattr(self._last, "used", None)
        if last is not None and last[:3] == (path, identity, self.target) and not last[3].cache.closed:
            return last[3]
        mapping = self.cache.mapping(
            self.target.key(path), identity.size, identity.version, **Source(self, path, identity).arguments()
        )
        self._last.used = path, identity, self.target, mapping
        return mapping

    def ukey(self, path: str) -> str:
        """A hash of the path's identity: unlike some targets' own, it changes whenever we can tell that the object did."""
        path = self._strip_protocol(path)
        return hashlib.sha256(self.target.ukey(path, self._identify(path)).encode()).hexdigest()

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget listings and remembered identities: the next open asks the origin. Pages stay, for they name their version."""
        super().invalidate_cache(path)
        for seen in self._identities.below("" if path is None else self._strip_protocol(path)):
            self._identities.forget(seen)
        self.fs.invalidate_cache(path if path is None else self._strip_protocol(path))

    # Reading

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if mode != "rb":
            return self._open_to_write(path, mode, block_size, autocommit, **kwargs)
        special = {name: value for name, value in kwargs.items() if name not in _OPEN_HINTS}
        identity = None if special else self._identify(path)
        if identity is None or not identity.cacheable:
            return self.target.open(path, identity, mode, block_size=block_size, cache_options=cache_options, **kwargs)
        return FolioFile(self, path, identity)

    def _open_to_write(self, path: str, mode: str, block_size: int | None, autocommit: bool, **kwargs: Any) -> WriteThrough:
        if not autocommit:
            kwargs["autocommit"] = False
        with self._changing(path):
            return WriteThrough(self, path, self.fs.open(path, mode, block_size=block_size, **kwargs))

    def lease(self, path: str, offset: int = 0, length: int | None = None) -> memoryview:
        """A read-only view of a part of an object: of the shared page itself where one page has it all, else of a copy.

        The page stays pinned until the view and all that was made from it (arrays, slices) are gone.
        """
        if offset < 0 or (length or 0) < 0:
            raise ValueError(f"folio: offset and length must not be negative: {offset}, {length}")
        path = self._strip_protocol(path)
        end = None if length is None else offset + length
        return self._while_unchanged(path, lambda identity: memoryview(self._range(path, identity, offset, end)))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        path = self._strip_protocol(path)
        if kwargs:  # they may choose other bytes (version_id=), so they name no object of ours
            return self.fs.cat_file(path, start=start, end=end, **kwargs)
        return self._while_unchanged(path, lambda identity: bytes(self._range(path, identity, start, end, copy=True)))

    def _range(self, path: str, identity: Identity, start: int | None, end: int | None, copy: bool = False) -> Any:
        if not identity.cacheable:
            return self.target.uncached(path, identity, start, end)
        mapping = self._map(path, identity)
        return (mapping.read_bytes if copy else mapping.read)(*_extent(start, end, identity.size or 0))

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        paths = self.expand_path(path, recursive=recursive)
        results = _gather(lambda one: self.cat_file(one, **kwargs), [(one,) for one in paths], on_error)
        if len(paths) == 1 and not isinstance(path, list) and paths[0] == self._strip_protocol(path):
            return results[0]
        return {one: result for one, result in zip(paths, results, strict=True) if on_error != "omit" or not _failed(result)}

    def cat_ranges(
        self, paths: list[str], starts: Any, ends: Any, max_gap: int | None = None, on_error: str = "return", **kwargs: Any
    ) -> list[Any]:
        """Many ranges at once: several are fetched at a time, and each path's identity is asked for once."""
        if max_gap is not None:
            raise NotImplementedError("folio: cat_ranges has no max_gap; neighbours share their pages anyhow")
        jobs = _ranges(paths, starts, ends)
        if kwargs:
            return _gather(lambda *job: self.cat_file(*job, **kwargs), jobs, on_error)
        return self._cat_ranges_of([(self._strip_protocol(path), start, end) for path, start, end in jobs], on_error)

    def _cat_ranges_of(self, jobs: list[tuple[str, Any, Any]], on_error: str) -> list[Any]:
        paths = list(dict.fromkeys(path for path, _, _ in jobs))
        known = dict(zip(paths, _gather(self._identify, [(path,) for path in paths], on_error), strict=True))
        maps = {path: self._map(path, known[path]) for path in paths if not _failed(known[path]) and known[path].cacheable}

        def read(path: str, start: int | None, end: int | None) -> bytes:
            if path not in maps:
                return self._read_unmapped(path, known[path], start, end)
            try:
                return maps[path].read_bytes(*_extent(start, end, maps[path].size))
            except ChangedError:
                self._identities.forget(path)
                return self.cat_file(path, start, end)

        return _gather(read, jobs, on_error, lambda path, start, end: path in maps and _is_cached(maps[path], start, end))

    def _read_unmapped(self, path: str, known: Any, start: int | None, end: int | None) -> bytes:
        if _failed(known):
            raise known
        return self.target.uncached(path, known, start, end)


def _refuse_unknown(options: dict[str, Any]) -> None:
    for name in options:
        if name not in _FSSPEC_OPTIONS and name not in POOL_OPTIONS:
            raise TypeError(
                f"folio: no option {name!r}; there are {', '.join(_OPTIONS[:7])}. Options of the target go under "
                "the target's name, as in fsspec.open('folio::s3://…', s3={…}, folio={…})"
            )


def _make_target(
    fs: fsspec.AbstractFileSystem | None, protocol: str | None, options: dict[str, Any] | None
) -> fsspec.AbstractFileSystem:
    if (fs is None) == (protocol is None):
        raise ValueError("folio: needs one target; chain it, as in 'folio::https://…', or give fs= or target_protocol=")
    target = fs if fs is not None else fsspec.filesystem(protocol, **(options or {}))
    if getattr(target, "asynchronous", False):
        raise ValueError(
            "folio: the target must not be asynchronous=True; folio waits in threads, and so can its callers "
            "(fsspec's AsyncFileSystemWrapper)"
        )
    return target


def _stripped(fs: fsspec.AbstractFileSystem, path: Any) -> Any:
    path = unprefixed(path)
    return [fs._strip_protocol(one) for one in path] if isinstance(path, list) else fs._strip_protocol(path)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"folio: {name} is True or False; not {value!r}")
    return value


def _ranges(paths: list[str], starts: Any, ends: Any) -> list[tuple[str, Any, Any]]:
    if not isinstance(paths, list):
        raise TypeError("cat_ranges: paths is a list")
    columns = [list(column) if isinstance(column, Iterable) else [column] * len(paths) for column in (starts, ends)]
    if any(len(column) != len(paths) for column in columns):
        raise ValueError(f"cat_ranges: {len(paths)} paths, {len(columns[0])} starts, {len(columns[1])} ends")
    return list(zip(paths, *columns, strict=True))


def _failed(result: Any) -> bool:
    return isinstance(result, BaseException)


def _extent(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """A Python slice as (offset, length)."""
    first, last, _ = slice(start, end).indices(size)
    return first, max(last - first, 0)


def _is_cached(mapping: Any, start: int | None, end: int | None) -> bool:
    offset, length = _extent(start, end, mapping.size)
    first, stop = offset // mapping.folio_size, -(-(offset + length) // mapping.folio_size)
    return all(mapping.is_cached(index) for index in range(first, stop))


def _gather(
    function: Callable[..., Any], jobs: list[tuple[Any, ...]], on_error: str, is_quick: Callable[..., bool] = lambda *job: False
) -> list[Any]:
    """The results in order. Jobs that wait for an origin do so several at a time, the quick ones run here meanwhile."""

    def attempt(job: tuple[Any, ...]) -> Any:
        try:
            return function(*job)
        except Exception as error:
            if on_error == "raise":
                raise
            return error

    slow = [number for number, job in enumerate(jobs) if not is_quick(*job)]
    if len(slow) <= 1:
        return [attempt(job) for job in jobs]
    with ThreadPoolExecutor(min(len(slow), _PARALLEL), "folio-cat") as pool:
        waiting = {number: pool.submit(attempt, jobs[number]) for number in slow}
        try:
            return [waiting[number].result() if number in waiting else attempt(job) for number, job in enumerate(jobs)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # nobody wants the rest any more
            raise
