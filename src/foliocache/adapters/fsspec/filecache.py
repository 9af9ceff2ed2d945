"""``open(url, cache_type="folio")``: the pool under one file of any fsspec filesystem, without ``folio::`` in the URL.

fsspec makes a file's cache from a block size, a fetch function and a size; none of them identifies the object. But the function
is a method of the file, which has its filesystem and its path. So the object is identified and read as ``folio::`` does it, and
both share the same pages. Objects that ``folio::`` would pass through, and files that were opened with options of their own,
are read by their own function, uncached. If the function is not a file's method, ``cache_options`` must have ``key`` and
``version``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from fsspec.caching import BaseCache, caches
from fsspec.utils import tokenize

import foliocache
from foliocache import ChangedError
from foliocache.sizes import quoted

from .target import Identity, bytes_reader, target_for

POOL_OPTIONS = ("name", "size", "page_size", "mode", "min_free", "pressure", "tiers")

Fetcher = Callable[[int, int], bytes]

_HARMLESS = frozenset({"tempdir"})  # options of files that do not decide which bytes are read
_VERSIONS = {"version_id": "VersionId", "generation": "generation"}  # attributes of files, and their names in an identity


class FolioCache(BaseCache):
    """A file's cache that keeps no block of its own.

    Parameters
    ----------
    blocksize, fetcher, size
        As fsspec gives them.
    pool
        Options of ``foliocache.open``: ``{"name": …, "size": …, "page_size": …, "mode": …}``.
    key, version
        The object's identity, if it cannot be asked for or is known better. The caller vouches for it: bytes are then cached as
        that version without asking the origin.
    """

    name: ClassVar[str] = "folio"

    def __init__(
        self,
        blocksize: int,
        fetcher: Fetcher,
        size: int,
        *,
        pool: dict[str, Any] | None = None,
        key: str | None = None,
        version: str | None = None,
        trust_info: bool = False,
    ) -> None:
        super().__init__(blocksize, fetcher, size)
        options = {"pool": pool, "key": key, "version": version, "trust_info": trust_info or None}
        _check(options)
        self.name = CacheName.of({name: value for name, value in options.items() if value is not None})  # type: ignore[misc]
        self._mapping = _mapping(fetcher, size, pool or {}, key, version, trust_info)

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        if self._mapping is None:
            return super()._fetch(start, stop)
        first, last, _ = slice(start or 0, stop).indices(self.size)
        return self._mapping.read_bytes(first, last - first) if first < last else b""

    def close(self) -> None:
        self._mapping = None


class CacheName(str):
    """A cache's name, the only part of the cache that a pickled file has. Unpickling it registers the cache type, with its
    options, in that process."""

    options: dict[str, Any]

    @classmethod
    def of(cls, options: dict[str, Any]) -> CacheName:
        name = cls(f"folio-{tokenize(options)}" if options else "folio")
        name.options = options
        caches[name] = partial(FolioCache, **options) if options else FolioCache
        return name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.options,)


def _check(options: dict[str, Any]) -> None:
    if (options["key"] is None) != (options["version"] is None):
        raise ValueError("folio: key and version name an object together; give both or neither")
    unknown = set(options["pool"] or {}) - set(POOL_OPTIONS)
    if unknown:
        raise TypeError(f"folio: no pool option {quoted(min(unknown))}; there are {', '.join(POOL_OPTIONS)}")


def _mapping(fetcher: Fetcher, size: int, pool: dict[str, Any], key: str | None, version: str | None, trust: bool) -> Any:
    """Return the object's mapping; None if it is not cached, and the file reads by itself, each time."""
    if not size:
        return None
    if key is not None and version is not None:
        return foliocache.open(**pool).mapping(key, size, version, read=_reader(lambda: _fetched(fetcher)))
    file: Any = getattr(fetcher, "__self__", None)
    if not hasattr(file, "fs") or not hasattr(file, "path"):
        raise ValueError(
            "folio: which object this is can't be told from its fetcher; give cache_options={'key': …, 'version': …}"
        )
    target, path = target_for(file.fs, trust), file.path
    identity = target.identify(path)
    if not identity.cacheable or not _is_plain(file, identity):
        return None
    if identity.size != size:
        raise ChangedError(path)
    reader = _reader(lambda: bytes_reader(target, path, identity))
    return foliocache.open(**pool).mapping(target.key(path), size, identity.version, read=reader)


def _is_plain(file: Any, identity: Identity) -> bool:
    """Return True if the file was opened without options of its own, which may select other bytes than those of the path."""
    usual = getattr(file.fs, "kwargs", None) or {}
    options = {name: value for name, value in (getattr(file, "kwargs", None) or {}).items() if name not in _HARMLESS}
    if any(name not in usual or usual[name] != value for name, value in options.items()):
        return False
    said = identity.stamp.split(";")
    chosen = [f"{word}={value}" for name, word in _VERSIONS.items() if (value := getattr(file, name, None))]
    return all(one in said for one in chosen)


def _fetched(fetcher: Fetcher) -> Callable[[int, int], bytes]:
    return lambda offset, length: fetcher(offset, offset + length)


def _reader(make: Callable[[], Callable[[int, int], bytes]]) -> Callable[[int, int], bytes]:
    """Return a read function that calls `make` at the first read, and raises in forked children."""
    made_in = os.getpid()
    made: list[Callable[[int, int], bytes]] = []

    def read(offset: int, length: int) -> bytes:
        if os.getpid() != made_in:
            raise RuntimeError(
                "folio: this file was opened before the fork, and its connection stayed with the parent; "
                "open it again in the child"
            )
        if not made:
            made.append(make())
        return made[0](offset, length)

    return read
