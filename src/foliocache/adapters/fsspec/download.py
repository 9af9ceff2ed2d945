"""Which files ``get()`` copies where, and the copying: fsspec's rules, the pool's bytes."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from fsspec import AbstractFileSystem

_PIECE = 4 << 20


def pairs(fs: AbstractFileSystem, rpath: Any, lpath: Any, **options: Any) -> list[tuple[str, str]]:
    """(remote, local) of all that ``AbstractFileSystem.get()`` would copy, in its order."""
    collector = _Collector(fs)
    AbstractFileSystem.get(collector, rpath, lpath, **options)
    return collector.found


class _Collector:
    """Enough of a filesystem for ``AbstractFileSystem.get()``, which says here what it would copy."""

    def __init__(self, fs: AbstractFileSystem) -> None:
        self.expand_path = fs.expand_path
        self.isdir = fs.isdir
        self.found: list[tuple[str, str]] = []

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        self.found.append((rpath, lpath))


def make_folder_for(lpath: str) -> None:
    """The folder that a local file will lie in."""
    if folder := os.path.dirname(lpath):
        os.makedirs(folder, exist_ok=True)


def is_same_file(path: str | None, lpath: str) -> bool:
    """Whether two names are one file of this machine: to copy it would be to truncate it. None is the name of no file."""
    with suppress(OSError):
        return path is not None and os.path.samefile(path, lpath)
    return False


def copy_out(mapping: Any, lpath: str, callback: Any) -> None:
    """An object of the pool into a local file."""
    callback.set_size(mapping.size)
    callback.absolute_update(0)  # it may be the second attempt
    with open(lpath, "wb") as sink:
        for offset in range(0, mapping.size, _PIECE):
            callback.relative_update(sink.write(mapping.read_bytes(offset, _PIECE)))
