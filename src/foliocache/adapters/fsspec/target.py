"""Which target filesystem is cached, and by which proof. The kinds are in ``targets``; docs/fsspec.md has the table.

The list is of what is known to prove its bytes. A filesystem that is not on it passes through uncached, and so does a
subclass of one that changes how it asks or reads; ``trust_info=True`` is the user's word that its ``info()`` may be believed.
"""

from __future__ import annotations

from collections.abc import Callable

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from .targets.archive import ArchiveTarget
from .targets.asked import KNOWN, AskedTarget, TrustedTarget
from .targets.base import Identity, Target, bytes_reader
from .targets.ftp import FTPTarget
from .targets.http import HTTPTarget
from .targets.local import LocalTarget
from .targets.reference import ReferenceTarget
from .targets.s3 import S3Target
from .targets.wrapped import WrappedTarget

__all__ = ["Identity", "Target", "bytes_reader", "renewed", "target_for"]

Make = Callable[[AbstractFileSystem, bool], Target | None]


def target_for(fs: AbstractFileSystem, trusted: bool = False) -> Target:
    """The adapter of the filesystem; one that caches nothing if nothing is known of it and the user does not answer for it."""
    make = _MAKERS.get(_listed_class(type(fs)))
    return (make and make(fs, trusted)) or (TrustedTarget if trusted else Target)(fs, trusted)


def renewed(target: Target) -> Target:
    """The target for a process that was forked since: over a filesystem like its own, with a loop and connections of ours."""
    fs = target.given
    if not isinstance(fs, (LocalFileSystem, MemoryFileSystem)):
        fs = type(fs)(*fs.storage_args, **fs.storage_options)
    new = target_for(fs, target.trusted)
    new.client = target.client
    return new


def _archive(fs: AbstractFileSystem, trusted: bool) -> Target | None:
    return ArchiveTarget.of(fs, trusted, lambda inner: target_for(inner, trusted))


def _reference(fs: AbstractFileSystem, trusted: bool) -> Target | None:
    return ReferenceTarget.of(fs, trusted, lambda inner: target_for(inner, trusted))


def _directory(fs: AbstractFileSystem, trusted: bool) -> Target:
    return WrappedTarget(fs, target_for(fs.fs, trusted), fs._join, trusted)


def _asynchronous(fs: AbstractFileSystem, trusted: bool) -> Target:
    return WrappedTarget(fs, target_for(fs.sync_fs, trusted), str, trusted)


def _known(name: str) -> Make:
    return lambda fs, trusted: AskedTarget(fs, trusted, KNOWN[name])


_MAKERS: dict[str, Make] = {
    "fsspec.implementations.local.LocalFileSystem": LocalTarget,
    "fsspec.implementations.http.HTTPFileSystem": HTTPTarget,
    "s3fs.core.S3FileSystem": S3Target,
    "fsspec.implementations.ftp.FTPFileSystem": FTPTarget,
    "fsspec.implementations.tar.TarFileSystem": _archive,
    "fsspec.implementations.zip.ZipFileSystem": _archive,
    "fsspec.implementations.libarchive.LibArchiveFileSystem": _archive,
    "fsspec.implementations.reference.ReferenceFileSystem": _reference,
    "fsspec.implementations.dirfs.DirFileSystem": _directory,
    "fsspec.implementations.asyn_wrapper.AsyncFileSystemWrapper": _asynchronous,
    **{name: _known(name) for name in KNOWN},
    # Never cached, even if the user trusts them. What is in this process's memory needs no cache, and no other process may see
    # it; and these caches give the bytes of one time with the info of another.
    "fsspec.implementations.memory.MemoryFileSystem": Target,
    "fsspec.implementations.data.DataFileSystem": Target,
    "fsspec.implementations.cached.CachingFileSystem": Target,
    "fsspec.implementations.cached.WholeFileCacheFileSystem": Target,
    "fsspec.implementations.cached.SimpleCacheFileSystem": Target,
}

# What a subclass may not change if it is to be believed as much as the class that is known.
_DECIDES = frozenset(
    {"info", "_info", "ls", "_ls", "cat_file", "_cat_file", "open", "_open", "_strip_protocol", "unstrip_protocol"}
    | {"_call_s3", "set_session", "encode_url", "_join", "_get_dirs", "_cat_common"}
)


def _listed_class(kind: type) -> str:
    """The nearest class on the list, unless a class in between overrides what it is listed for; else an empty string."""
    for one in kind.__mro__:
        name = f"{one.__module__}.{one.__qualname__}"
        if name in _MAKERS:
            return name
        if _DECIDES & vars(one).keys():
            return ""
    return ""
