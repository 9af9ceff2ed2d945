"""``open(url, cache_type="folio")``: the pool under one file of any fsspec filesystem, without ``folio::`` in the URL.

fsspec builds a file's cache from a block size, a fetch function and a size; none of them says which object it is. But the
function is a method of the file, and the file knows its filesystem and its path, so the identity is asked for as ``folio::``
asks, and both share the same pages. Where the function is not a file's method, ``cache_options`` must say ``key`` and
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

from .target import ChangedError, target_for

POOL_OPTIONS = ("name", "size", "page_size", "mode")

Fetcher = Callable[[int, int], bytes]


class FolioCache(BaseCache):
    """A file's cache that keeps no block of its own.

    Parameters
    ----------
    blocksize, fetcher, size
        As fsspec gives them.
    pool
        Options of ``foliocache.open``: ``{"name": …, "size": …, "page_size": …, "mode": …}``.
    key, version
        The object's identity, where it can't be asked for or is known better. Whoever gives them answers for them: bytes
        are then filed as that version without a further question.
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
    ) -> None:
        super().__init__(blocksize, fetcher, size)
        options = {"pool": pool, "key": key, "version": version}
        _check(options)
        self.name = CacheName.of({name: value for name, value in options.items() if value is not None})  # type: ignore[misc]
        self._mapping = _mapping(fetcher, size, pool or {}, key, version)

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        if self._mapping is None:
            return super()._fetch(start, stop)
        first, last, _ = slice(start or 0, stop).indices(self.size)
        return self._mapping.read_bytes(first, last - first) if first < last else b""

    def close(self) -> None:
        self._mapping = None


class CacheName(str):
    """A cache's name, which is all that a pickled file carries of it: loading it registers us there, with our options."""

    options: dict[str, Any]

    @classmethod
    def of(cls, options: dict[str, Any]) -> CacheName:
        name = cls(f"folio-{tokenize(options)}" if options else "folio")
        name.options = options
        caches[name] = partial(FolioCache, **options) if options else FolioCache  # type: ignore[assignment]
        return name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.options,)


def _check(options: dict[str, Any]) -> None:
    if (options["key"] is None) != (options["version"] is None):
        raise ValueError("folio: key and version name an object together; give both or neither")
    unknown = set(options["pool"] or {}) - set(POOL_OPTIONS)
    if unknown:
        raise TypeError(f"folio: no pool option {min(unknown)!r}; there are {', '.join(POOL_OPTIONS)}")


def _mapping(fetcher: Fetcher, size: int, pool: dict[str, Any], key: str | None, version: str | None) -> Any:
    """The object's mapping; None for what has no pages: objects that are empty or of unknown size."""
    if not size:
        return None
    if key is not None:
        return foliocache.open(**pool).mapping(key, size, version, read=_reader(fetcher, lambda: None))
    file: Any = getattr(fetcher, "__self__", None)
    if not hasattr(file, "fs") or not hasattr(file, "path"):
        raise ValueError(
            "folio: which object this is can't be told from its fetcher; give cache_options={'key': …, 'version': …}"
        )
    target, path = target_for(file.fs), file.path
    identity = target.identify(path)
    if not identity.cacheable:
        return None
    if identity.size != size:
        raise ChangedError(path)
    confirm = partial(target.confirm, path, identity)
    return foliocache.open(**pool).mapping(target.key(path), size, identity.version, read=_reader(fetcher, confirm))


def _reader(fetcher: Fetcher, confirm: Callable[[], None]) -> Callable[[int, int], bytes]:
    """The fetcher is the file's own and knows its options, but not what it read; hence a question after each fetch."""
    made_in = os.getpid()

    def read(offset: int, length: int) -> bytes:
        if os.getpid() != made_in:
            raise RuntimeError(
                "folio: this file was opened before the fork, and its connection stayed with the parent; "
                "open it again in the child"
            )
        data = fetcher(offset, offset + length)
        confirm()
        return data

    return read
