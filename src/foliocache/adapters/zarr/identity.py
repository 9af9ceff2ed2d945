"""The place of a store in a pool: the beginning of the keys of all its values there.

It is the same in every process for the same data, and different for different data. Where keys are paths below a root, it is an
identity of the file system alone, and then the root: so stores with other roots find the same values by the same keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from typing import Any

from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, LoggingStore, WrapperStore, ZipStore

from foliocache.sizes import quoted

# Stores with the keys and values of the store inside them. Other classes may change those, also classes derived from these.
_TRANSPARENT = (WrapperStore, LoggingStore)
_TRANSPARENT_BY_NAME = {("zarr.testing.store", "LatencyStore")}  # that module needs pytest
_OURS = ("foliocache.adapters.zarr.store", "FolioStore")
_S3 = {"s3", "s3a"}  # whose "/bucket" is "bucket"
UNSHARED = "zarr:closed:"  # of the place of a file that is not open
_VALUE = "v"  # the key of a value

_zips: weakref.WeakValueDictionary[int, ZipStore] = weakref.WeakValueDictionary()  # stores that are open, by id


def place(store: Store, name: str | None) -> str:
    """Return the place of a store.

    Raises
    ------
    TypeError
        ``name`` is no string.
    ValueError
        The store does not say where its data are, and ``name`` is None.
    """
    if not isinstance(name, str | None):
        raise TypeError(f"name must be a string, the same in every process, not {quoted(name)}")
    found = f"zarr:{_digest(f'name {name}')}:" if name is not None else _place(store)
    if found is None:
        raise ValueError(
            f"{type(store).__name__} does not say where its data are; give name=, the same in all processes that mean the same "
            "data (and another one for other data)"
        )
    return found


def _place(store: Any) -> str | None:
    kind = type(store)
    if _is_ours(store):
        return str(store._find_place())
    if _is_transparent(store):
        return _place(store._store)
    if kind is ZipStore:
        return _zip(store)
    folder = _folder(store)
    if folder is not None:
        return _local(folder[1])
    if kind is FsspecStore:
        return _fsspec(*_below(store))
    return None


def _folder(store: Any) -> tuple[str, str] | None:
    """Return the path of the local folder that a store is of, as it was given, and absolute; None if it is not of one."""
    if type(store) is LocalStore:
        return str(store.root), os.path.abspath(store.root)
    if type(store) is not FsspecStore:
        return None
    fs, path = _below(store)
    return (path, os.path.dirname(fs._strip_protocol(path))) if type(fs) is LocalFileSystem else None


def _below(store: Any) -> tuple[Any, str]:
    """Return the file system below those that only change a store's paths, and there the path of one of its values."""
    fs, root = store.fs, store.path.rstrip("/")
    path = f"{root}/{_VALUE}" if root else _VALUE  # as the store makes paths of keys
    while True:
        if isinstance(fs, AsyncFileSystemWrapper):
            fs = fs.sync_fs
        elif type(fs) is DirFileSystem:
            fs, path = fs.fs, fs._join(path)
        else:
            return fs, path


def is_file(store: Any) -> bool:
    """Return True if the place of a store is that of a file, which it opens."""
    return type(_innermost(store)) is ZipStore


def may_move(store: Any) -> bool:
    """Return True if the path of a store's folder is relative, or goes through a symbolic link: later it may be of another
    folder."""
    found = _folder(_innermost(store))
    return found is not None and not (os.path.isabs(found[0]) and _local(found[1]) == f"zarr:file:{found[1].rstrip('/')}/")


def is_folder(store: Any, key: str) -> bool:
    """Return True if a key is the path of a folder now, which the store deletes with all that is in it, like a value."""
    while isinstance(store, WrapperStore):
        store = store._store
    return isinstance(store, LocalStore) and (store.root / key).is_dir()


def _innermost(store: Any) -> Any:
    while _is_ours(store) or _is_transparent(store):
        store = store._store
    return store


def _is_ours(store: Store) -> bool:
    return (type(store).__module__, type(store).__qualname__) == _OURS


def _is_transparent(store: Store) -> bool:
    kind = type(store)
    return kind in _TRANSPARENT or (kind.__module__, kind.__qualname__) in _TRANSPARENT_BY_NAME


def _local(root: str) -> str:
    return f"zarr:file:{os.path.realpath(root).rstrip('/')}/"


def _fsspec(fs: Any, path: str) -> str | None:
    """Return the place of the folder that has the file with this path."""
    path = fs._strip_protocol(path)
    try:
        said = json.loads(fs.to_json())
    except (TypeError, ValueError):  # an option has no JSON
        return None
    if not path.endswith(_VALUE) or _is_private(said):
        return None
    said.pop("asynchronous", None)
    if said.get("protocol") in _S3:
        path = path.lstrip("/")
    return f"zarr:{_digest(f'fsspec {json.dumps(said, sort_keys=True)}')}:{path.removesuffix(_VALUE)}"


def _is_private(said: Any) -> bool:
    """Return True if what a file system says of itself has one whose files only this process has."""
    if isinstance(said, dict):
        return any(_is_memory(name, each) or _is_private(each) for name, each in said.items())
    return isinstance(said, list) and any(map(_is_private, said))


def _is_memory(name: str, said: object) -> bool:
    return name.endswith("protocol") and (said == "memory" or (isinstance(said, list) and "memory" in said))


def _zip(store: Any) -> str | None:
    """Return the place of the file that is open: another one may have its path already. Of a file that may be written, None."""
    if store._zmode != "r":
        return None
    if not store._is_open:
        store._sync_open()
    _zips[id(store)] = store
    found = os.fstat(store._zf.fp.fileno())
    text = f"zip {os.path.realpath(store.path)} {found.st_size} {found.st_mtime_ns} {found.st_ino}"
    return f"zarr:{_digest(text)}:"


def _open_zips_again() -> None:
    """Give a forked child descriptors of its own for the same files: otherwise it has one position with its parent, and each
    moves the other's while it reads."""
    store: Any
    for store in list(_zips.values()):
        if store._is_open and store._zf.fp is not None:
            inner, old = store._zf, store._zf.fp
            inner.fp = open(f"/proc/self/fd/{old.fileno()}", "rb")  # noqa: SIM115
            inner._lock = store._lock = threading.RLock()  # a thread of the parent may hold the others
            old.close()


os.register_at_fork(after_in_child=_open_zips_again)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
