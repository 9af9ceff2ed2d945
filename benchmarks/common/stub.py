"""fsspec filesystems over bytes at hand, with fsspec's own buffered files: what is measured on them is the cache alone.

fsspec bypasses its caches for ``file://``; these are buffered as a remote file would be.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

PATH = "object"


class StubFile(AbstractBufferedFile):
    """Fetches what its filesystem has."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.fetch(start, end)


class Stub(AbstractFileSystem):
    """One object."""

    cachable = False
    path = PATH

    def fetch(self, start: int, end: int) -> bytes:
        """Bytes start .. end - 1."""
        raise NotImplementedError

    def length(self) -> int:
        """How many bytes there are."""
        raise NotImplementedError

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {"name": self.path, "size": self.length(), "type": "file", "etag": "1"}

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        return [self.info(path)] if detail else [self.path]

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, cache_options: Any = None, **kwargs: Any) -> StubFile:
        return StubFile(self, path, mode, block_size or "default", cache_options=cache_options, size=self.length(), **kwargs)


class MemoryStub(Stub):
    """Bytes in memory, called ``object``."""

    protocol: ClassVar[str] = "foliostub"

    def __init__(self, content: bytes = b"", **options: Any) -> None:
        super().__init__(**options)
        self.content = content

    def fetch(self, start: int, end: int) -> bytes:
        return self.content[start:end]

    def length(self) -> int:
        return len(self.content)


class FileStub(Stub):
    """A local file, called by its path and read by ``pread``."""

    protocol: ClassVar[str] = "benchstub"

    def __init__(self, path: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)

    def fetch(self, start: int, end: int) -> bytes:
        return os.pread(self.fd, end - start, start)

    def length(self) -> int:
        return os.fstat(self.fd).st_size

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        with open(lpath, "wb") as file:
            file.write(self.fetch(0, self.length()))
