"""An fsspec filesystem over bytes in memory, with fsspec's own buffered files: what is measured on it is the cache alone."""

from __future__ import annotations

from typing import Any, ClassVar

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

PATH = "object"


class StubFile(AbstractBufferedFile):
    """Fetches by slicing."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.content[start:end]


class StubFileSystem(AbstractFileSystem):
    """One object, called ``object``."""

    protocol: ClassVar[str] = "foliostub"
    cachable = False

    def __init__(self, content: bytes = b"", **options: Any) -> None:
        super().__init__(**options)
        self.content = content

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {"name": PATH, "size": len(self.content), "type": "file", "etag": "1"}

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        return [self.info(path)] if detail else [PATH]

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, cache_options: Any = None, **kwargs: Any) -> StubFile:
        return StubFile(
            self, path, mode, block_size or "default", cache_options=cache_options, size=len(self.content), **kwargs
        )
