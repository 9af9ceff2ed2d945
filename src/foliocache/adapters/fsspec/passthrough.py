"""What ``folio`` does not do itself: names and listings are the target's, and so are writes, which invalidate.

A write through us makes two things void: the identities that this process remembers, and the pages of every version in the
pool. The second is thrift, not correctness: the new object has a new identity, so nobody can be led to the old pages. That is
why it may be inexact where exactness would cost a listing (the files below a copied or uploaded folder), and why a pool that
can't be had fails no write. The first must be exact, or err on the side of asking again.

Every public method of fsspec's base classes is handled on purpose: here, in ``filesystem``, or by leaving it to the base class
because it only calls others. tests/fs/test_fs_surface.py has the list, and fails when fsspec has a new one.
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

if TYPE_CHECKING:
    from .identities import Identities
    from .target import Identity, Target

_MISSPELLED = re.compile(r"folio:(?!:)/*(?=[a-z][a-z0-9+.-]*(?:://|::))")


def _delegated(name: str) -> Callable[..., Any]:
    """A method that asks the target, by the same name and with the same words."""

    def method(self: PassThrough, path: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.fs, name)(unprefixed(path), *args, **kwargs)

    return _named(method, name)


def _writing(name: str, *, tree: bool = False) -> Callable[..., Any]:
    """A method that writes to the path it is given (and below it: tree)."""

    def method(self: PassThrough, path: Any, *args: Any, **kwargs: Any) -> Any:
        path = unprefixed(path)
        with self._changing(*_listed(path), tree=tree):
            return getattr(self.fs, name)(path, *args, **kwargs)

    return _named(method, name)


def _named(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    method.__name__ = method.__qualname__ = name
    method.__doc__ = getattr(AbstractFileSystem, name).__doc__
    return method


class FolioTransaction(Transaction):
    """The target's own transaction, so that it defers what it would defer without us; what it wrote is void at the end."""

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
            while target._invalidated_caches_in_transaction:  # listings, which fsspec drops at end_transaction() alone
                target.invalidate_cache(target._invalidated_caches_in_transaction.pop())


class PassThrough(AbstractFileSystem):
    """The half of FolioFileSystem that is the target's."""

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
        """A URL that fsspec.open() takes, if the target's options are given again."""
        return f"folio::{self.fs.unstrip_protocol(unprefixed(name))}"

    def exists(self, path: str, **kwargs: Any) -> bool:
        return self.target.exists(unprefixed(path), **kwargs)

    def isfile(self, path: str) -> bool:
        return self.target.isfile(unprefixed(path))

    def isdir(self, path: str) -> bool:
        return self.target.isdir(unprefixed(path))

    def sizes(self, paths: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fs.sizes(unprefixed(paths), *args, **kwargs)

    def put_file(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> Any:
        rpath = unprefixed(rpath)
        with self._changing(rpath):
            return self.fs.put_file(lpath, rpath, *args, **kwargs)

    def put(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> Any:
        rpath = unprefixed(rpath)
        with self._changing(*_listed(rpath), tree=True):
            return self.fs.put(lpath, rpath, *args, **kwargs)

    def cp_file(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
        path2 = unprefixed(path2)
        with self._changing(path2):
            return self.fs.cp_file(unprefixed(path1), path2, *args, **kwargs)

    def copy(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
        path2 = unprefixed(path2)
        with self._changing(*_listed(path2), tree=True):
            return self.fs.copy(unprefixed(path1), path2, *args, **kwargs)

    def mv(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> Any:
        path1, path2 = unprefixed(path1), unprefixed(path2)
        doomed = self._doomed(path1, *args, **kwargs)
        with self._changing(*doomed, *_listed(path2), tree=True, globs=_listed(path1)):
            return self.fs.mv(path1, path2, *args, **kwargs)

    def rm(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        path = unprefixed(path)
        with self._changing(*self._doomed(path, *args, **kwargs), tree=True, globs=_listed(path)):
            return self.fs.rm(path, *args, **kwargs)

    def start_transaction(self) -> Transaction:
        """Begin a transaction, non-context version. Our own `_intrans` stays off: it is the target that defers."""
        self._transaction = self.transaction_type(self)
        self._transaction.start()
        return self._transaction

    # Invalidation

    @contextmanager
    def _changing(self, *paths: str, tree: bool = False, globs: Sequence[str] = ()) -> Iterator[None]:
        """The block may change what is at the paths (and below them: tree), even if it fails half-way.

        What the paths were expanded from (globs) may match more by the time that the target expands it: whatever this process
        remembers in the folders that it could be in is void, too.
        """
        try:
            yield
        finally:
            for folder in {_folder(self._strip_protocol(glob)) for glob in globs if has_magic(glob)}:
                self._forget_below(folder)
            self._void([self._strip_protocol(path) for path in paths], tree)

    def _void(self, paths: list[str], tree: bool = False) -> None:
        """Forget the identities of the paths, and withdraw the pages of all their versions."""
        void = {*paths, *(seen for path in paths if tree for seen in self._identities.below(path))}
        if self.fs._intrans:
            self._identities.uncommitted |= void
        if self.target.aliases:
            self._forget_all()
        for path in paths if tree else ():
            self._forget_below(path)
        for path in void:
            self._forget(path)
        self._withdraw(void)

    def _withdraw(self, paths: set[str]) -> None:
        """Withdraw the pages of all versions of the paths, as far as there is a pool. What was written stays written
        without."""
        with suppress(FoliocacheError, OSError, ValueError):
            pool = self._existing_pool()
            for path in paths:
                pool.forget(self.target.key(path))

    def _committed(self) -> None:
        paths = list(self._identities.uncommitted)
        self._identities.uncommitted.difference_update(paths)
        self._void(paths)

    def _doomed(self, path: Any, recursive: bool = False, maxdepth: int | None = None, *args: Any, **kwargs: Any) -> list[str]:
        """What a removal may take away; a path that could be a glob is meant as a name as well.

        The listing that this may need, the target will do again: pages are worth it."""
        listed = _listed(path)
        if not recursive and not any(has_magic(one) for one in listed):
            return listed
        with suppress(Exception):  # it is for the target to say
            return [*listed, *self.expand_path(path, recursive=recursive, maxdepth=maxdepth)]
        return listed


def unprefixed(path: Any) -> Any:
    """A path, or some, without our prefix; all other forms of paths are the target's business."""
    if isinstance(path, dict):
        return {unprefixed(one): value for one, value in path.items()}
    if isinstance(path, (list, tuple, set)):
        return [unprefixed(one) for one in path]
    path = stringify_path(path)
    if isinstance(path, str) and path.startswith("folio:"):
        for prefix in ("folio::", "folio://"):
            if path.startswith(prefix):
                return path[len(prefix) :]
        refuse_misspelled(path)
    return path


def refuse_misspelled(url: str) -> None:
    """Raises ValueError for ``folio:s3://…`` and ``folio://s3://…``, with the right spelling."""
    right = _MISSPELLED.sub("folio::", url, count=1)
    if right != url:
        raise ValueError(f"folio: {url!r} is not how a target is chained; write {right!r}, with two colons")


def _folder(pattern: str) -> str:
    """The folder that all matches of a glob lie below."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _listed(path: Any) -> list[Any]:
    return list(path) if isinstance(path, (list, dict)) else [path]
