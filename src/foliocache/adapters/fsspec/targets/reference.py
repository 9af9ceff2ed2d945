"""``reference://``: parts of other objects under names of their own.

The filesystem keeps the set of references in memory. So the origin is asked whether the file of references is still the same;
if it is not, it is read again. A part is then proven like the object of which it is a part.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import split_protocol, url_to_fs

from . import place
from .base import UNCACHED, Identity, Target, bytes_reader, refuse_directory

_HOW_TO_OPEN = ("fo", "target_protocol", "target_options", "ref_storage_args")


class ReferenceTarget(Target):
    """Parts of cacheable objects. Bytes that are in the references themselves are in memory already, and pass through."""

    def __init__(self, fs: AbstractFileSystem, choose: Callable[[AbstractFileSystem], Target], trusted: bool = False) -> None:
        super().__init__(fs, trusted)
        self._choose = choose
        self._targets: dict[Any, tuple[AbstractFileSystem, Target]] = {}
        self._loaded: Identity | None = None
        self._file: tuple[Target, str] | None = None
        options = fs.storage_options
        fo = fs.storage_args[0] if fs.storage_args else options.get("fo")
        if isinstance(fo, str):
            how = options.get("ref_storage_args") or options.get("target_options") or {}
            file_fs, path = url_to_fs(fo, **how, protocol=options.get("target_protocol"))
            self._file = choose(file_fs), path

    @classmethod
    def of(cls, fs: AbstractFileSystem, trusted: bool, choose: Callable[[AbstractFileSystem], Target]) -> Target | None:
        """Return the target; None for references in Parquet, which are read in parts: many files without a common version."""
        if not isinstance(fs.references, dict) or len(fs.storage_args) > 1:
            return None
        return cls(fs, choose, trusted)

    def where(self) -> str:
        """Return the suffix of keys. Which part of which object it is, is in the version, not in the key."""
        return f"?{place.digest(self._file[0].key(self._file[1]))}" if self._file else ""

    def identify(self, path: str) -> Identity:
        if not self._turn.call(self._refresh):
            return UNCACHED
        found = self._part(path)
        if found is None:
            if path not in self.fs.references:
                refuse_directory(path, self.fs.info(path))
            return UNCACHED
        target, whole_path, _, _ = found
        whole = target.identify(whole_path)
        return self._identity(found, whole) if whole.cacheable else UNCACHED

    def _refresh(self) -> bool:
        """Read the references again if their file has changed. Return False if that file cannot be proven."""
        if self._file is None:
            return True
        target, path = self._file
        identity = target.identify(path)
        if not identity.cacheable:
            return False
        if self._loaded != identity:
            text = bytes_reader(target, path, identity)(0, identity.size or 0)
            options = {name: value for name, value in self.given.storage_options.items() if name not in _HOW_TO_OPEN}
            self.fs: AbstractFileSystem = type(self.given)(fo=json.loads(text), **{**options, "skip_instance_cache": True})
            self._loaded = identity
        return True

    def _part(self, path: str) -> tuple[Target, str, int, int | None] | None:
        """Return (target, path, offset, length) of the object of which the path is a part; None if the bytes are in memory."""
        part = self.fs.references.get(path)
        if not isinstance(part, (list, tuple)) or len(part) not in (1, 3):
            return None
        url = part[0] if part[0] is not None else self.fs.target
        offset, length = (part[1], part[2]) if len(part) == 3 else (0, None)
        fs = self.fs.fss[split_protocol(url)[0]]
        known = self._targets.get(split_protocol(url)[0])
        if known is None or known[0] is not fs:
            self._targets[split_protocol(url)[0]] = known = fs, self._choose(fs)
        return known[1], fs._strip_protocol(url), offset, length

    def _identity(self, part: tuple[Target, str, int, int | None], whole: Identity) -> Identity:
        target, path, offset, length = part
        size = (whole.size or 0) - offset if length is None else length
        if offset < 0 or size < 0 or offset + size > (whole.size or 0):
            return UNCACHED  # the filesystem handles that
        stamp = f"{offset}+{size} of {place.digest(target.key(path))}:{whole.stamp}"
        return Identity(size, place.short(stamp, place.VERSION_MAX), nonce=whole.nonce, within=whole)

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        part = self._part(path)
        if part is None or identity.within is None or not self._identity(part, identity.within).same(identity):
            raise FileNotFoundError(path)  # a change: it existed when it was opened
        target, whole_path, start, _ = part
        read = bytes_reader(target, whole_path, identity.within)
        return lambda offset, length: read(start + offset, length)
