"""``folio::``: any fsspec filesystem, read through the machine's shared page cache.

The filesystem is a thin layer: names, listings and writes are the target's. Reads of objects with a known size are views or
copies of pages, each of which some process of this machine has fetched once. The synchronous methods are here, for synchronous
and asynchronous targets alike; the coroutines are in ``asynchronous``.

State and forks: an instance has its options, its target and the pool. A forked child makes a new target at the first use (the
parent's sessions belong to the parent's loop thread, which does not exist in the child; see ``fork``); the pool itself survives
a fork.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

import fsspec
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.implementations.chained import ChainedFileSystem
from fsspec.utils import isfilelike

import foliocache
from foliocache import ChangedError
from foliocache.errors import FoliocacheError
from foliocache.pool.results import Results
from foliocache.sizes import integer, quoted

from . import fork
from .answers import Answers
from .asynchronous import Asynchronous
from .download import copy_out, is_same_file, make_folder_for, pairs
from .file import FolioFile, WriteThrough
from .filecache import POOL_OPTIONS
from .gather import AT_ONCE, gather
from .identifying import ATTEMPTS, Identifying, refuse_at_the_end
from .identities import Identities, trust_seconds
from .passthrough import FolioTransaction, refuse_misspelled, unprefixed
from .plan import Plan
from .ranges import OPENING, Merged, Range, Want, bounds, extent, firsts_of, no_path, ranges_of
from .source import Source
from .target import Identity, Target, renewed, target_for
from .targets.obstore import check

if TYPE_CHECKING:
    from foliocache.pool.names import Names

_MAPPING_OPTIONS = ("folio_size", "readahead")
_OPTIONS = (
    *POOL_OPTIONS,
    *_MAPPING_OPTIONS,
    "check_files",
    "expiry",
    "trust_info",
    "client",
    "fs",
    "fo",
    "target_protocol",
    "target_options",
)
_FSSPEC_OPTIONS = frozenset({"asynchronous", "loop", "batch_size", "use_listings_cache", "listings_expiry_time", "max_paths"})
_OPEN_HINTS = ("cache_type", "cache_options", "fill_cache", "size")  # ignored: they are about fsspec's own cache

T = TypeVar("T")


class FolioFileSystem(Answers, Identifying, Asynchronous, ChainedFileSystem):
    """Reads any target filesystem through a pool of pages that all processes of this machine share.

    Parameters
    ----------
    fs, target_protocol, target_options, fo
        The target: an instance, or how to make one. ``fsspec.open("folio::s3://…", s3={…})`` sets these.
    name, size, page_size, mode, min_free, pressure, tiers
        The pool, as in ``foliocache.open``. Parameters that are not given are not compared with those of an existing pool.
    folio_size, readahead
        As in ``Pool.mapping``, for every object.
    check_files, expiry
        When the origin is asked for a path's identity: by default at each open, cat or lease; with ``expiry=N`` at most every N
        seconds; with ``check_files=False`` and no expiry, once per machine, account and path.
    trust_info
        True if the user vouches that the target's ``info()`` reaches the origin and distinguishes versions. It is needed for
        filesystems of which that is not known: without it they pass through uncached.
    client
        What reads the bytes of https:// and s3:// URLs: by default the target; ``"obstore"``, which is an error if obstore
        cannot be configured like the target; or ``"auto"``: obstore if that is possible, else the target.
    """

    protocol: str | tuple[str, ...] = "folio"
    local_file = False  # otherwise open_local() would return names instead of files
    transaction_type = FolioTransaction
    _strip_tokenize_options = ("fo",)  # the first path that was opened; it does not identify the filesystem

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
        client: str | None = None,
        **options: Any,
    ) -> None:
        pool = {name: options.pop(name) for name in POOL_OPTIONS if options.get(name) is not None}
        self._mapping_options = {name: options.pop(name) for name in _MAPPING_OPTIONS if name in options}
        _refuse_unknown(options)
        super().__init__(**options)
        self._trust = trust_seconds(check_files, expiry)
        self._pool_options = pool
        self._pool: foliocache.Pool | None = None
        self._names_of_pool: tuple[Any, Names] | None = None
        self._target = target_for(_make_target(fs, target_protocol, target_options), _flag("trust_info", trust_info))
        check(client, self._target)
        self._target.client = client
        self._identities = Identities.of(_where(self._target))
        self._who = self._target.who()
        self._last = threading.local()
        self._turn = threading.RLock()
        self._adopt(self._target.fs, target_protocol)

    def _adopt(self, fs: fsspec.AbstractFileSystem, protocol: str | None) -> None:
        """Take over the target's syntax of paths. It is set per instance: fsspec asks the class before there is a target.

        With its protocols, those who look for a filesystem by the beginning of a URL find this one by all its names.
        """
        names = [fs.protocol] if isinstance(fs.protocol, str) else fs.protocol
        self.protocol = ("folio", *(f"folio::{name}" for name in names))
        self.sep: str = fs.sep
        self.root_marker: str = fs.root_marker
        self._parent = fs._parent
        scheme = f"{protocol or names[0]}://"
        self._scheme = scheme if fs._strip_protocol(f"{scheme}host/x") == f"{scheme}host/x" else ""
        self._strip_protocol = partial(_stripped, fs, self._scheme)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        refuse_misspelled(path)
        return {}

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that only the target has."""
        if name.startswith("_") or hasattr(type(self), name):  # a property of this class raised AttributeError
            raise AttributeError(f"{quoted(type(self).__name__)} object has no attribute {quoted(name)}")
        value = getattr(self.fs, name)
        return self._forgetting(value) if inspect.isroutine(value) else value

    def _forgetting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a method that only the target has. It may write to any path, so all remembered identities are forgotten after
        each call."""

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            finally:
                self._forget_all()

        @wraps(method)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            try:
                return await method(*args, **kwargs)
            finally:
                self._forget_all()

        return call_async if inspect.iscoroutinefunction(method) else call

    @property
    def fsid(self) -> str:
        return f"folio_{self.fs.fsid}"

    @property
    def target(self) -> Target:
        """The target's adapter; a new one after a fork."""
        if self._target.pid != fork.pid:
            self._target = renewed(self._target)
        return self._target

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The target filesystem."""
        refuse_at_the_end(self.target.fs)
        return self.target.fs

    @property
    def pool(self) -> foliocache.Pool:
        """The pool. It is opened at its first use, so that listings need no pool, and opened again if it has been closed."""
        if self._pool is None or self._pool.closed:
            self._pool = foliocache.open(**self._pool_options)
        return self._pool

    def _existing_pool(self) -> Any:
        """Return the pool. Raises PoolNotFoundError if there is none, instead of creating it."""
        if self._pool is None or self._pool.closed:
            foliocache.attach(self._pool_options.get("name", "default"))
        return self.pool

    def fetch(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[int]:
        """Fetch a part of an object into the pool, without a copy for this process.

        Parameters
        ----------
        path : str
            The object.
        offset : int
            The first byte.
        length : int, optional
            How many bytes, cut off at the end of the object. By default all up to the end.

        Returns
        -------
        iterator of int
            How many further bytes are cached now, again and again until all are.

        Raises
        ------
        FileNotFoundError
            From ``next``: there is no such object.
        ChangedError
            From ``next``: the object has changed since the first bytes were fetched.
        TypeError
            The offset or length is no integer.
        ValueError
            The offset or length is negative.
        """
        offset, length = _place(offset, length)
        return self._fetch(self._strip_protocol(path), offset, None if length is None else offset + length)

    def _fetch(self, path: str, start: int, end: int | None) -> Iterator[int]:
        identity = self._identify(path, (start, end))
        if not identity.cacheable:
            return
        start, wanted = extent(start, end, identity.size or 0)
        for piece in self._map(path, identity).pieces(start, wanted):
            with piece:
                count = len(piece)
            yield count

    def _while_unchanged(self, path: str, use: Callable[[Identity], T], want: Want | None = None) -> T:
        """Return ``use(identity)``. A read by path is not bound to a version: if the object changes, start again with the new
        identity, up to ATTEMPTS times."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return use(self._identify(path, want))
            except ChangedError:
                self._forget(path)
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _mapped(self, path: str, identity: Identity, use: Callable[[Any], T]) -> T:
        """Return ``use(mapping)``. If the pool, which the whole process shares, is closed meanwhile, start again."""
        for attempt in range(1, ATTEMPTS + 1):
            pool = self.pool
            try:
                return use(self._map(path, identity))
            except FoliocacheError:
                if attempt == ATTEMPTS or not pool.closed:
                    raise
        raise AssertionError("unreachable")

    def _map(self, path: str, identity: Identity) -> Any:
        """Return the object's mapping: the one that this thread used last, or a new one."""
        last = getattr(self._last, "used", None)
        if last is not None and last[:3] == (path, identity, self.target) and not last[3].pool.closed:
            return last[3]
        mapping = self._new_map(path, identity)
        self._last.used = path, identity, self.target, mapping
        return mapping

    def _new_map(self, path: str, identity: Identity) -> Any:
        options = Source.of(self, path, identity).arguments() | self._mapping_options
        return self.pool.mapping(self.target.key(path), identity.size or 0, identity.version, **options)

    def ukey(self, path: str) -> str:
        """Return a hash of the path's identity. Unlike that of some targets, it changes with every change that can be seen."""
        path = self._strip_protocol(path)
        return hashlib.sha256(self.target.ukey(path, self._identify(path)).encode()).hexdigest()

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget listings and remembered identities: the next open asks the origin. Pages stay: they belong to a version."""
        super().invalidate_cache(path)
        if path is None:
            self._forget_all()
        else:
            self._forget_below(self._strip_protocol(path))
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
        identity = None if special else self._identify(path, (0, OPENING))
        if identity is None or not identity.cacheable:
            return self.target.open(path, identity, mode, block_size=block_size, cache_options=cache_options, **kwargs)
        return FolioFile(self, path, identity, block_size=block_size)

    def _open_to_write(self, path: str, mode: str, block_size: int | None, autocommit: bool, **kwargs: Any) -> WriteThrough:
        if not autocommit:
            kwargs["autocommit"] = False
        return WriteThrough(self, path, partial(self.fs.open, path, mode, block_size=block_size, **kwargs))

    def lease(self, path: str, offset: int = 0, length: int | None = None) -> memoryview:
        """Return a part of an object as a view: of the shared pages themselves if one folio has all of it, else of a copy.

        Parameters
        ----------
        path : str
            The object.
        offset : int
            The first byte.
        length : int, optional
            How many bytes, cut off at the end of the object. By default all up to the end.

        Returns
        -------
        memoryview
            Read-only. The folio stays pinned while the view, or an array or slice made from it, exists.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        ChangedError
            The object changes faster than it can be read.
        TypeError
            The offset or length is no integer.
        ValueError
            The offset or length is negative.
        """
        offset, length = _place(offset, length)
        path = self._strip_protocol(path)
        end = None if length is None else offset + length
        return self._while_unchanged(path, lambda identity: memoryview(self._range(path, identity, offset, end)), (offset, end))

    def pieces(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[memoryview]:
        """Return a part of an object as views of the folios that have it, one after the other, without a copy.

        Parameters
        ----------
        path : str
            The object.
        offset : int
            The first byte.
        length : int, optional
            How many bytes, cut off at the end of the object. By default all up to the end.

        Returns
        -------
        iterator of memoryview
            As of ``FolioFile.pieces``: all of one version. An object that is not cached is one piece, read into memory.

        Raises
        ------
        FileNotFoundError
            From ``next``: there is no such object.
        ChangedError
            From ``next``: the object has changed since the first piece was read.
        TypeError
            The offset or length is no integer.
        ValueError
            The offset or length is negative.
        """
        offset, length = _place(offset, length)
        return self._pieces(self._strip_protocol(path), offset, length)

    def _pieces(self, path: str, offset: int, length: int | None) -> Iterator[memoryview]:
        want = offset, None if length is None else offset + length
        first, others = self._while_unchanged(path, partial(self._first_piece, path, *want), want)
        while first:
            yield first.pop()
            first = list(islice(others, 1))

    def _first_piece(
        self, path: str, start: int, end: int | None, identity: Identity
    ) -> tuple[list[memoryview], Iterator[memoryview]]:
        """Return the first piece, in a list, and an iterator of the others."""
        if not identity.cacheable:
            data = self.target.uncached(path, identity, start, end)
            return [memoryview(data)] if data else [], iter(())
        others = FolioFile(self, path, identity).pieces(*extent(start, end, identity.size or 0))
        return list(islice(others, 1)), others

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        path, (start, end) = self._strip_protocol(path), bounds(start, end)
        if kwargs:  # they may select other bytes (version_id=), which are not cached
            return self.fs.cat_file(path, start=start, end=end, **kwargs)
        return self._while_unchanged(
            path, lambda identity: bytes(self._range(path, identity, start, end, copy=True)), (start, end)
        )

    def _range(self, path: str, identity: Identity, start: int | None, end: int | None, copy: bool = False) -> Any:
        if not identity.cacheable:
            return self.target.uncached(path, identity, start, end)
        offset, length = extent(start, end, identity.size or 0)
        return self._mapped(path, identity, lambda at: at.read_bytes(offset, length) if copy else at.read(offset, length))

    def get_file(
        self, rpath: Any, lpath: Any = None, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **kwargs: Any
    ) -> None:
        """Copy one file to a local file, or into a file object. The target's info() says which paths are files."""
        path, sink = self._strip_protocol(rpath), lpath if outfile is None else outfile
        if isfilelike(sink):
            with self.open(path, "rb", **kwargs) as opened:  # that of fsspec 2025.10 takes no file object
                callback.set_size(getattr(opened, "size", None))
                while data := opened.read(self.blocksize):
                    callback.relative_update(sink.write(data) or len(data))
            return
        sink = os.fspath(sink)
        make_folder_for(sink)
        try:
            return self._while_unchanged(
                path, partial(self._download, path, sink, callback, kwargs), None if kwargs else (0, None)
            )
        except IsADirectoryError as error:
            if error.filename != path:
                raise
            os.makedirs(sink, exist_ok=True)

    def _download(self, path: str, lpath: str, callback: Any, options: dict[str, Any], identity: Identity) -> None:
        """Copy a file from the pool. The target copies it if there are options, if the object is not cached, or if the names
        are wrong, so that it raises its own error."""
        if options or not identity.cacheable or os.path.isdir(lpath) or is_same_file(self.target.local_name(path), lpath):
            self.target.get_file(path, identity, lpath, callback=callback, **options)
            return
        self._mapped(path, identity, lambda mapping: copy_out(mapping, lpath, callback))

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("batch_size", None)  # an argument of asynchronous targets
        files = pairs(self, rpath, lpath, recursive=recursive, maxdepth=maxdepth)
        for _, local in files:
            make_folder_for(local)
        callback.set_size(len(files))
        for path, local in callback.wrap(files):
            with callback.branched(path, local) as child:
                if not (os.path.isdir(local) and self.isdir(path)):  # a folder that exists is done
                    self.get_file(path, local, callback=child, **kwargs)

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        kwargs.pop("batch_size", None)  # an argument of asynchronous targets; gather() has a limit of its own
        paths = self.expand_path(path, recursive=recursive)
        results = gather(lambda one: self.cat_file(one, **kwargs), [(one,) for one in paths], on_error)
        if len(paths) == 1 and not isinstance(path, list) and paths[0] == self._strip_protocol(path):
            return results[0]
        return {one: result for one, result in zip(paths, results, strict=True) if on_error != "omit" or not _failed(result)}

    def cat_ranges(
        self, paths: list[str], starts: Any, ends: Any, max_gap: int | None = None, on_error: str = "return", **kwargs: Any
    ) -> list[Any]:
        """Read many ranges: several are fetched at a time, and each path's identity is asked for once.

        Ranges of one path with no more than `max_gap` bytes between them are read as one.
        """
        kwargs.pop("batch_size", None)
        jobs = ranges_of(paths, starts, ends, max_gap)
        if kwargs:
            return gather(lambda *job: self.cat_file(*job, **kwargs), jobs, on_error)
        names = {path: self._strip_protocol(path) for path in dict.fromkeys(paths)}
        return self._cat_ranges_of([(names[path], start, end) for path, start, end in jobs], max_gap, on_error)

    def _cat_ranges_of(self, jobs: list[Range], max_gap: int | None, on_error: str) -> list[Any]:
        wanted = firsts_of(jobs)
        paths = list(wanted)
        answers = gather(self._identify, [(path, wanted[path]) for path in paths], on_error, self._is_remembered)
        known = dict(zip(paths, answers, strict=True))
        maps = {path: self._map(path, known[path]) for path in paths if not _failed(known[path]) and known[path].cacheable}
        merged = None if max_gap is None else Merged(jobs, {path: maps[path].size for path in maps}, max_gap)
        results = self._read_all(jobs if merged is None else merged.reads, known, maps, on_error)
        return results if merged is None else merged.split(results)

    def _read_all(
        self, reads: list[Range], known: dict[str, Any], maps: dict[str, Any], on_error: str, ended: Event | None = None
    ) -> list[Any]:
        """Return ranges of objects whose identities are known. maps: of those that are cached. ended: an event that is set when
        no one waits for them any longer."""
        made = Results([_extent_in(maps.get(path), start, end) for path, start, end in reads], ended)
        plan = Plan(reads, maps, made)
        made.make_huge()

        def read(number: int, path: str, start: int | None, end: int | None) -> bytes:
            if path not in maps:
                return self._read_unmapped(path, known[path], start, end)
            plan.reach((path, start, end))
            try:
                return made.read(number, maps[path], *extent(start, end, maps[path].size))
            except ChangedError:
                return self.cat_file(path, start, end)
            except FoliocacheError:
                if not maps[path].pool.closed:
                    raise
                return self._range(path, known[path], start, end, copy=True)

        at_once = plan.readers if plan.readers and len(maps) == len(known) else AT_ONCE
        numbered = [(number, *one) for number, one in enumerate(reads)]
        return gather(read, numbered, on_error, lambda number, *job: job in plan.cached, at_once)

    def _read_unmapped(self, path: str, known: Any, start: int | None, end: int | None) -> bytes:
        if _failed(known):
            raise known
        return self.target.uncached(path, known, start, end)


def _extent_in(mapping: Any, start: int | None, end: int | None) -> tuple[Any, int, int]:
    """Return (mapping, offset, length) of a slice; nothing of it without a mapping."""
    return (mapping, 0, 0) if mapping is None else (mapping, *extent(start, end, mapping.size))


def _refuse_unknown(options: dict[str, Any]) -> None:
    for name in options:
        if name not in _FSSPEC_OPTIONS and name not in POOL_OPTIONS:
            raise TypeError(
                f"folio: no option {quoted(name)}; there are {', '.join(_OPTIONS[:-4])}. Options of the target go under "
                "the target's name, as in fsspec.open('folio::s3://…', s3={…}, folio={…})"
            )


def _make_target(
    fs: fsspec.AbstractFileSystem | None, protocol: str | None, options: dict[str, Any] | None
) -> fsspec.AbstractFileSystem:
    if (fs is None) == (protocol is None):
        raise ValueError("folio: needs one target; chain it, as in 'folio::https://…', or give fs= or target_protocol=")
    if fs is None:
        plain = {name: value for name, value in (options or {}).items() if name not in ("asynchronous", "loop")}
        return fsspec.filesystem(protocol, **plain)
    if not getattr(fs, "asynchronous", False):
        return fs
    plain = {name: value for name, value in fs.storage_options.items() if name not in ("asynchronous", "loop")}
    return type(fs)(*fs.storage_args, **plain)  # it runs in fsspec's own loop, whatever loops await us


def _stripped(fs: fsspec.AbstractFileSystem, scheme: str, path: Any) -> Any:
    if type(path) is str and scheme and path.startswith(scheme):  # as most of them are, of targets whose names are URLs
        return fs._strip_protocol(path)
    path = unprefixed(path, scheme)
    for one in path if isinstance(path, list) else (path,):
        if not isinstance(one, str):
            raise no_path(one)
    return [fs._strip_protocol(one) for one in path] if isinstance(path, list) else fs._strip_protocol(path)


def _place(offset: SupportsIndex, length: SupportsIndex | None) -> tuple[int, int | None]:
    """Return an offset and a length as numbers. Raises TypeError, ValueError."""
    start, count = integer(offset, "offset"), None if length is None else integer(length, "length")
    if start < 0 or (count or 0) < 0:
        raise ValueError(f"folio: offset and length must not be negative: {quoted(start)}, {quoted(count)}")
    return start, count


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"folio: {name} is True or False; not {quoted(value)}")
    return value


def _where(target: Target) -> str:
    """Return what identifies the target's place: its protocol and what target.key() adds to a path."""
    protocol = target.fs.protocol
    return f"{protocol if isinstance(protocol, str) else protocol[0]}{target.place}"


def _failed(result: Any) -> bool:
    return isinstance(result, BaseException)
