"""Downloads: which files ``get()`` copies where, by fsspec's rules, and copying them from the pool."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from fsspec import AbstractFileSystem

_PIECE = 4 << 20


def pairs(fs: AbstractFileSystem, rpath: Any, lpath: Any, **options: Any) -> list[tuple[str, str]]:
    """Return (remote, local) for each file that ``AbstractFileSystem.get()`` would copy, in its order."""
    collector = _Collector(fs)
    AbstractFileSystem.get(collector, rpath, lpath, **options)
    return collector.found


class _Collector:
    """A filesystem with just the methods that ``AbstractFileSystem.get()`` calls. It records what would be copied."""

    def __init__(self, fs: AbstractFileSystem) -> None:
        self.expand_path = fs.expand_path
        self.isdir = fs.isdir
        self.found: list[tuple[str, str]] = []

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        self.found.append((rpath, lpath))


def make_folder_for(lpath: str) -> None:
    """Make the folder of a local file that will be written."""
    if folder := os.path.dirname(lpath):
        os.makedirs(folder, exist_ok=True)


def is_same_file(path: str | None, lpath: str) -> bool:
    """Return True if both names are the same file of this machine: copying it onto itself would truncate it. None names no
    file."""
    with suppress(OSError):
        return path is not None and os.path.samefile(path, lpath)
    return False


def copy_out(mapping: Any, lpath: str, callback: Any) -> None:
    """Copy an object from the pool to a local file."""
    callback.set_size(mapping.size)
    callback.absolute_update(0)  # it may be the second attempt
    with open(lpath, "wb") as sink:
        for offset in range(0, mapping.size, _PIECE):
            callback.relative_update(sink.write(mapping.read_bytes(offset, _PIECE)))
