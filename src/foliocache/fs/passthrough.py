"""What ``folio`` does not do itself: names and listings are the target's, and so are writes, which invalidate.

A write through us makes two things void: the identity that this process remembers, and the pages of every version in the
pool. The second is thrift, not correctness: the new object has a new identity, so nobody can be led to the old pages. That is
why it may be inexact where exactness would cost a listing (the files below a copied or uploaded folder): there, the paths
that this process has read are dropped, and pages that only others have read age out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import has_magic
from typing import TYPE_CHECKING, Any

from fsspec import AbstractFileSystem
from fsspec.transaction import Transaction
from fsspec.utils import stringify_path

if TYPE_CHECKING:
    from .identities import Identities
    from .target import Target


def _delegated(name: str) -> Callable[..., Any]:
    """A method that asks the target, by the same name and with the same words."""

    def method(self: PassThrough, path: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.fs, name)(unprefixed(path), *args, **kwargs)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = getattr(AbstractFileSystem, name).__doc__
    return method


class FolioTransaction(Transaction):
    """The target's own transaction, so that it defers what it would defer without us; what it wrote is void at the end."""

    def start(self) -> None:
        self.fs.fs.start_transaction()

    def complete(self, commit: bool = True) -> None:
        fs = self.fs
        try:
            fs.fs.transaction.complete(commit)
        finally:
            super().complete(commit)
            fs._committed()


class PassThrough(AbstractFileSystem):
    """The half of FolioFileSystem that is the target's."""

    if TYPE_CHECKING:
        cache: Any
        _identities: Identities
        _uncommitted: set[str]

        @property
        def fs(self) -> AbstractFileSystem: ...
        @property
        def target(self) -> Target: ...

    ls = _delegated("ls")
    info = _delegated("info")
    glob = _delegated("glob")
    find = _delegated("find")
    walk = _delegated("walk")
    du = _delegated("du")
    size = _delegated("size")
    sizes = _delegated("sizes")
    created = _delegated("created")
    modified = _delegated("modified")
    lexists = _delegated("lexists")
    sign = _delegated("sign")
    expand_path = _delegated("expand_path")

    def unstrip_protocol(self, name: str) -> str:
        """A URL that fsspec.open() takes, if the target's options are given again."""
        return f"folio::{self.fs.unstrip_protocol(unprefixed(name))}"

    def exists(self, path: str, **kwargs: Any) -> bool:
        return self.target.exists(unprefixed(path), **kwargs)

    def isfile(self, path: str) -> bool:
        return self.target.isfile(unprefixed(path))

    def isdir(self, path: str) -> bool:
        return self.target.isdir(unprefixed(path))

    # Writes

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> Any:
        path = unprefixed(path)
        with self._changing(path):
            return self.fs.pipe_file(path, value, mode=mode, **kwargs)

    def pipe(self, path: Any, value: bytes | None = None, **kwargs: Any) -> Any:
        path = unprefixed(path)
        with self._changing(*(path if isinstance(path, dict) else [path])):
            return self.fs.pipe(path, value, **kwargs)

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> Any:
        rpath = unprefixed(rpath)
        with self._changing(rpath):
            return self.fs.put_file(lpath, rpath, *args, **kwargs)

    def put(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> Any:
        rpath = unprefixed(rpath)
        with self._changing(*_listed(rpath), tree=True):
            return self.fs.put(lpath, rpath, *args, **kwargs)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> Any:
        path2 = unprefixed(path2)
        with self._changing(path2):
            return self.fs.cp_file(unprefixed(path1), path2, **kwargs)

    def copy(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
        path2 = unprefixed(path2)
        with self._changing(*_listed(path2), tree=True):
            return self.fs.copy(unprefixed(path1), path2, *args, **kwargs)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> Any:
        path1, path2 = unprefixed(path1), unprefixed(path2)
        doomed = self._doomed(path1, recursive, maxdepth)
        with self._changing(*doomed, *_listed(path2), tree=True):
            return self.fs.mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)

    def rm_file(self, path: str) -> Any:
        path = unprefixed(path)
        with self._changing(path):
            return self.fs.rm_file(path)

    def _rm(self, path: str) -> Any:
        return self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> Any:
        path = unprefixed(path)
        with self._changing(*self._doomed(path, recursive, maxdepth), tree=True):
            return self.fs.rm(path, recursive=recursive, maxdepth=maxdepth)

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> Any:
        path = unprefixed(path)
        with self._changing(path):
            return self.fs.touch(path, truncate=truncate, **kwargs)

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> Any:
        return self.fs.mkdir(unprefixed(path), create_parents=create_parents, **kwargs)

    def makedirs(self, path: str, exist_ok: bool = False) -> Any:
        return self.fs.makedirs(unprefixed(path), exist_ok=exist_ok)

    def rmdir(self, path: str) -> Any:
        return self.fs.rmdir(unprefixed(path))

    def start_transaction(self) -> Transaction:
        """Begin a transaction, non-context version. Our own `_intrans` stays off: it is the target that defers."""
        self._transaction = self.transaction_type(self)
        self._transaction.start()
        return self._transaction

    # Invalidation

    @contextmanager
    def _changing(self, *paths: str, tree: bool = False) -> Iterator[None]:
        """The block may change what is at the paths (and below them: tree), even if it fails half-way."""
        try:
            yield
        finally:
            stripped = [self._strip_protocol(path) for path in paths]
            below = [seen for path in stripped if tree for seen in self._identities.below(path)]
            for path in {*stripped, *below}:
                self._void(path)

    def _void(self, path: str) -> None:
        self._identities.forget(path)
        self.cache.forget(self.target.key(path))
        if self.fs._intrans:
            self._uncommitted.add(path)

    def _committed(self) -> None:
        while self._uncommitted:
            self._void(self._uncommitted.pop())

    def _doomed(self, path: Any, recursive: bool, maxdepth: int | None) -> list[str]:
        """What a removal takes away. The listing that this may need, the target will do again: pages are worth it."""
        if not recursive and not any(has_magic(one) for one in _listed(path)):
            return _listed(path)
        try:
            return self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        except FileNotFoundError:
            return []  # for the target to say


def unprefixed(path: Any) -> Any:
    """A path, or some, without our prefix; all other forms of paths are the target's business."""
    if isinstance(path, dict):
        return {unprefixed(one): value for one, value in path.items()}
    if isinstance(path, (list, tuple, set)):
        return [unprefixed(one) for one in path]
    path = stringify_path(path)
    for prefix in ("folio::", "folio://"):
        if isinstance(path, str) and path.startswith(prefix):
            return path[len(prefix) :]
    return path


def _listed(path: Any) -> list[Any]:
    return path if isinstance(path, list) else [path]
