"""What a store is called in a pool: the same in every process that means the same data, and never the same for other data."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore, WrapperStore, ZipStore


def identity(store: Store, name: str | None) -> str:
    """Return 16 letters for a store.

    Raises
    ------
    ValueError
        It is not known where the store's data are, and it was given no name.
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
