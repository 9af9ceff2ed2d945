"""The identity of a store in a pool: the same in every process for the same data, and different for different data."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore, WrapperStore, ZipStore


def identity(store: Store, name: str | None) -> str:
    """Return the identity of a store: 16 hexadecimal digits.

    Raises
    ------
    ValueError
        The store does not say where its data are, and ``name`` is None.
    """
    text = f"name {name}" if name is not None else _text(store)
    if text is None:
        raise ValueError(
            f"{type(store).__name__} does not say where its data are; give name=, the same in all processes that mean the same "
            "data (and another one for other data)"
        )
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _text(store: Any) -> str | None:
    if isinstance(store, WrapperStore):
        return _text(store._store)
    if isinstance(store, LocalStore):
        return f"file {os.path.realpath(store.root)}"
    if isinstance(store, ZipStore):
        found = os.stat(store.path)
        return f"zip {os.path.realpath(store.path)} {found.st_size} {found.st_mtime_ns} {found.st_ino}"
    if type(store).__name__ == "FsspecStore":
        protocol = type(store.fs).protocol
        return None if "memory" in protocol else f"fsspec {store.fs.to_json()} {store.path}"
    return None
