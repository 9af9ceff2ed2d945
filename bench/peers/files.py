"""An fsspec filesystem over one local file, buffered as a remote one would be: fsspec bypasses its caches for ``file://``."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile


class StubFile(AbstractBufferedFile):
    """Fetches by ``pread``."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return os.pread(self.fs.fd, end - start, start)


class FileStub(AbstractFileSystem):
    """One object, called by its local path."""

    protocol: ClassVar[str] = "benchstub"
    cachable = False

    def __init__(self, path: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {"name": self.path, "size": os.fstat(self.fd).st_size, "type": "file", "etag": "1"}

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        return [self.info(path)] if detail else [self.path]

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, cache_options: Any = None, **kwargs: Any) -> StubFile:
        return StubFile(
            self, path, mode, block_size or "default", cache_options=cache_options, size=self.info(path)["size"], **kwargs
        )

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        with open(lpath, "wb") as file:
            file.write(os.pread(self.fd, self.info(rpath)["size"], 0))
