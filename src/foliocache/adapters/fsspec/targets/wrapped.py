"""Filesystems that only give other names to another filesystem's objects, or other methods to call it by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fsspec import AbstractFileSystem

from . import place
from .base import AsyncStream, First, Identity, Target


class WrappedTarget(Target):
    """The objects of the inner filesystem, with the keys that they have there, so that pages are shared with it."""

    def __init__(self, fs: AbstractFileSystem, inner: Target, rename: Callable[[str], str], trusted: bool = False) -> None:
        super().__init__(fs, trusted)
        self.inner = inner
        self.into: bool = inner.into
        self.aliases: bool = inner.aliases
        self.awaits: bool = inner.awaits
        self.tells_with_bytes: bool = inner.tells_with_bytes
        self._rename = rename

    def key(self, path: str) -> str:
        return self.inner.key(self._rename(path))

    def where(self) -> str:
        return f"?{place.digest(self.inner.place, self._rename(''))}"

    def identify(self, path: str) -> Identity:
        return self.inner.identify(self._rename(path))

    def first(self, path: str, start: int, end: int) -> First | None:
        return self.inner.first(self._rename(path), start, end)

    @property
    def loop(self) -> Any:
        return self.inner.loop

    async def identify_async(self, path: str) -> Identity:
        return await self.inner.identify_async(self._rename(path))

    async def first_async(self, path: str, start: int, end: int) -> First | None:
        return await self.inner.first_async(self._rename(path), start, end)

    def stream_async(self, path: str, identity: Identity) -> AsyncStream:
        return self.inner.stream_async(self._rename(path), identity)

    async def uncached_async(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        return await self.inner.uncached_async(self._rename(path), identity, start, end)

    def ukey(self, path: str, identity: Identity) -> str:
        return self.inner.ukey(self._rename(path), identity)

    def local_name(self, path: str) -> str | None:
        return self.inner.local_name(self._rename(path))

    def exists(self, path: str, **kwargs: Any) -> bool:
        return self.inner.exists(self._rename(path), **kwargs)

    def isfile(self, path: str) -> bool:
        return self.inner.isfile(self._rename(path))

    def isdir(self, path: str) -> bool:
        return self.inner.isdir(self._rename(path))

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        return self.inner.reader(self._rename(path), identity)

    def uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        return self.inner.uncached(self._rename(path), identity, start, end)

    def open(self, path: str, identity: Identity | None, mode: str, **kwargs: Any) -> Any:
        return (
            super().open(path, identity, mode, **kwargs)
            if identity is None
            else self.inner.open(self._rename(path), identity, mode, **kwargs)
        )

    def get_file(self, path: str, identity: Identity, lpath: str, **kwargs: Any) -> None:
        self.inner.get_file(self._rename(path), identity, lpath, **kwargs)

    def confirm(self, path: str, identity: Identity) -> None:
        self.inner.confirm(self._rename(path), identity)
