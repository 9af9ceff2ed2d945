"""The methods that ``folio`` passes to the target: names, listings, and writes, which also invalidate the cache.

A write through ``folio`` invalidates two things: the remembered identities of the path, and the pages of all its versions in
the pool. Dropping the pages only saves room and is not needed for correctness: the new object has a new identity, so no reader
gets the old pages. So it may be inexact where exactness would cost a listing (the files below a copied or uploaded folder), and
a write does not fail if the pool cannot be opened. Identities must be forgotten exactly; in doubt, too many are forgotten.

Every public method of fsspec's base classes is handled on purpose: here, in ``filesystem``, or by the base class, if it only
calls other methods. tests/fs/test_fs_surface.py has the list, and fails when fsspec has a new method.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import has_magic
from typing import TYPE_CHECKING, Any

from fsspec import AbstractFileSystem
from fsspec.transaction import Transaction
from fsspec.utils import stringify_path

from foliocache.errors import FoliocacheError
from foliocache.sizes import quoted

if TYPE_CHECKING:
    from .identities import Identities
    from .target import Identity, Target

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_MISSPELLED = re.compile(r"folio:(?!:)/*(?=[a-z][a-z0-9+.-]*(?:://|::))")


def _delegated(name: str) -> Callable[..., Any]:
    """Return a method that calls the target's method of the same name with the same arguments."""

    def method(self: PassThrough, path: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.fs, name)(self._unprefixed(path), *args, **kwargs)

    return _named(method, name)


def _writing(name: str, *, tree: bool = False) -> Callable[..., Any]:
    """Return a method that writes to the given path (and below it: tree)."""

    def method(self: PassThrough, path: Any, *args: Any, **kwargs: Any) -> Any:
        path = self._unprefixed(path)
        with self._changing(*_listed(path), tree=tree):
            return getattr(self.fs, name)(path, *args, **kwargs)

    return _named(method, name)


def _named(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    method.__name__ = method.__qualname__ = name
    method.__doc__ = getattr(AbstractFileSystem, name).__doc__
    return method


class FolioTransaction(Transaction):
    """The target's own transaction, which defers the same writes as without us. At the end the written paths are forgotten."""

    def start(self) -> None:
        self.fs.fs.start_transaction()

    def complete(self, commit: bool = True) -> None:
        fs = self.fs
        target = fs.fs
        try:
            target.transaction.complete(commit)
        finally:
            super().complete(commit)
            fs._committed()
            while target._invalidated_caches_in_transaction:  # listings, which fsspec drops only in end_transaction()
                target.invalidate_cache(target._invalidated_caches_in_transaction.pop())


class PassThrough(AbstractFileSystem):
    """The methods of FolioFileSystem that are passed to the target."""

    _scheme = ""  # what the names of a target begin with whose names are URLs: "https://"

    def _unprefixed(self, path: Any) -> Any:
        """Return a path, or several, as the target names it."""
        return unprefixed(path, self._scheme)

    if TYPE_CHECKING:
        _identities: Identities

        @property
        def fs(self) -> AbstractFileSystem: ...
        @property
        def target(self) -> Target: ...
        def _existing_pool(self) -> Any: ...
        def _forget(self, path: str, identity: Identity | None = None) -> None: ...
        def _forget_below(self, path: str) -> None: ...
        def _forget_all(self) -> None: ...

    ls: Callable[..., Any] = _delegated("ls")
    info: Callable[..., Any] = _delegated("info")
    glob: Callable[..., Any] = _delegated("glob")
    find: Callable[..., Any] = _delegated("find")
    walk: Callable[..., Any] = _delegated("walk")
    du: Callable[..., Any] = _delegated("du")
    size: Callable[..., Any] = _delegated("size")
    created: Callable[..., Any] = _delegated("created")
    modified: Callable[..., Any] = _delegated("modified")
    checksum: Callable[..., Any] = _delegated("checksum")
    lexists: Callable[..., Any] = _delegated("lexists")
    sign: Callable[..., Any] = _delegated("sign")
    expand_path: Callable[..., Any] = _delegated("expand_path")
    mkdir: Callable[..., Any] = _delegated("mkdir")
    makedirs: Callable[..., Any] = _delegated("makedirs")
    rmdir: Callable[..., Any] = _delegated("rmdir")

    pipe_file: Callable[..., Any] = _writing("pipe_file")
    pipe: Callable[..., Any] = _writing("pipe")
    touch: Callable[..., Any] = _writing("touch")
    rm_file: Callable[..., Any] = _writing("rm_file")

    def unstrip_protocol(self, name: str) -> str:
        """Return a URL that fsspec.open() accepts, if the target's options are given again."""
        return f"folio::{self.fs.unstrip_protocol(self._unprefixed(name))}"

    def exists(self, path: str, **kwargs: Any) -> bool:
        return self.target.exists(self._unprefixed(path), **kwargs)

    def isfile(self, path: str) -> bool:
        return self.target.isfile(self._unprefixed(path))

    def isdir(self, path: str) -> bool:
        return self.target.isdir(self._unprefixed(path))

    def sizes(self, paths: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fs.sizes(self._unprefixed(paths), *args, **kwargs)

    def put_file(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> Any:
        rpath = self._unprefixed(rpath)
        with self._changing(rpath):
            return self.fs.put_file(lpath, rpath, *args, **kwargs)

    def put(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> Any:
        rpath = self._unprefixed(rpath)
        with self._changing(*_listed(rpath), tree=True):
            return self.fs.put(lpath, rpath, *args, **kwargs)

    def cp_file(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
        path2 = self._unprefixed(path2)
        with self._changing(path2):
            return self.fs.cp_file(self._unprefixed(path1), path2, *args, **kwargs)

    def copy(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
        path2 = self._unprefixed(path2)
        with self._changing(*_listed(path2), tree=True):
            return self.fs.copy(self._unprefixed(path1), path2, *args, **kwargs)

    def mv(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
        path1, path2 = self._unprefixed(path1), self._unprefixed(path2)
        doomed = self._doomed(path1, *args, **kwargs)
        with self._changing(*doomed, *_listed(path2), tree=True, globs=_listed(path1)):
            return self.fs.mv(path1, path2, *args, **kwargs)

    def rm(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        path = self._unprefixed(path)
        with self._changing(*self._doomed(path, *args, **kwargs), tree=True, globs=_listed(path)):
            return self.fs.rm(path, *args, **kwargs)

    def start_transaction(self) -> Transaction:
        """Begin a transaction, non-context version. Our own `_intrans` stays False: the target defers the writes."""
        self._transaction = self.transaction_type(self)
        self._transaction.start()
        return self._transaction

    # Invalidation

    @contextmanager
    def _changing(self, *paths: str, tree: bool = False, globs: Sequence[str] = ()) -> Iterator[None]:
        """Forget the paths (and all below them: tree) after the block, which may have changed them even if it failed.

        globs: the patterns from which the paths were expanded. They may match more paths when the target expands them, so
        everything in the folders where matches can be is forgotten, too.
        """
        try:
            yield
        finally:
            for folder in {_folder(self._strip_protocol(glob)) for glob in globs if has_magic(glob)}:
                self._forget_below(folder)
            self._void([self._strip_protocol(path) for path in paths], tree)

    def _void(self, paths: list[str], tree: bool = False) -> None:
        """Forget the identities of the paths, and drop the pages of all their versions."""
        void = {*paths, *(seen for path in paths if tree for seen in self._identities.below(path))}
        if self.fs._intrans:
            self._identities.uncommitted |= void
        if self.target.aliases:
            self._forget_all()
        for path in paths if tree else ():
            self._forget_below(path)
        for path in void | (self._above(void) if self.target.tells_info else set()):  # what was not there may be a folder now
            self._forget(path)
        self._withdraw(void)

    def _above(self, paths: set[str]) -> set[str]:
        """Return the folders in which the paths are."""
        above: set[str] = set()
        for path in paths:
            while (parent := self._parent(path)) not in (path, "") and parent not in above:
                above.add(parent)
                path = parent
        return above

    def _withdraw(self, paths: set[str]) -> None:
        """Drop the pages of all versions of the paths, if there is a pool. A write succeeds without one."""
        with suppress(FoliocacheError, OSError, ValueError):
            pool = self._existing_pool()
            for path in paths:
                pool.forget(self.target.key(path))

    def _committed(self) -> None:
        paths = list(self._identities.uncommitted)
        self._identities.uncommitted.difference_update(paths)
        self._void(paths)

    def _doomed(self, path: Any, recursive: bool = False, maxdepth: int | None = None, *args: Any, **kwargs: Any) -> list[str]:
        """Return the paths that a removal may remove. A path that looks like a glob is included as a name, too.

        This may need a listing, which the target then repeats: dropping the right pages is worth that."""
        listed = _listed(path)
        if not recursive and not any(has_magic(one) for one in listed):
            return listed
        with suppress(Exception):  # the target then raises its own error
            return [*listed, *self.expand_path(path, recursive=recursive, maxdepth=maxdepth)]
        return listed


def unprefixed(path: Any, scheme: str = "") -> Any:
    """Return a path, or several, without our prefix. All other forms of paths are left to the target.

    Names of a target whose names are URLs get the ``scheme`` if they have none: fsspec makes ``host/x`` of ``folio://host/x``.
    """
    if isinstance(path, dict):
        return {unprefixed(one, scheme): value for one, value in path.items()}
    if isinstance(path, (list, tuple, set)):
        return [unprefixed(one, scheme) for one in path]
    path = stringify_path(path)
    if not isinstance(path, str):
        return path
    if path.startswith("folio:"):
        for prefix in ("folio::", "folio://"):
            if path.startswith(prefix):
                path = path[len(prefix) :]
                break
        else:
            refuse_misspelled(path)
    lacks_scheme = scheme and path and not path.startswith((scheme, "/")) and not _SCHEME.match(path)
    return scheme + path if lacks_scheme else path


def refuse_misspelled(url: str) -> None:
    """Raise ValueError for ``folio:s3://…`` and ``folio://s3://…``, with the right spelling."""
    right = _MISSPELLED.sub("folio::", url, count=1)
    if right != url:
        raise ValueError(f"folio: {quoted(url)} is not how a target is chained; write {quoted(right)}, with two colons")


def _folder(pattern: str) -> str:
    """Return the folder below which all matches of a glob are."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _listed(path: Any) -> list[Any]:
    return list(path) if isinstance(path, (list, dict)) else [path]
