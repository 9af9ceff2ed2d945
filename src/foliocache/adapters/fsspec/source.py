"""The source of a mapping's missing folios: one object of a target, at one version, in any process.

A mapping keeps its Source, calls it from any thread (readahead has threads of its own), and a fork copies it. So a Source has
the filesystem and not a connection, and makes a new reader whenever the filesystem has a new target.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from foliocache import ChangedError

from .target import Identity, Target
from .targets.base import AsyncStream, Several
from .targets.obstore import stream

if TYPE_CHECKING:
    from .filesystem import FolioFileSystem


class Source:
    """The `read`, `readinto` or `source` of one mapping."""

    is_exact = True

    def __init__(self, fs: FolioFileSystem, path: str, identity: Identity) -> None:
        self.fs = fs
        self.path = path
        self.identity = identity
        self._made: tuple[Target, Callable[[int, Any], Any]] | None = None
        made = stream(fs.target, path, identity)
        self._streams = made is not None
        self.read_ranges: Several | None = self._several if hasattr(made, "read_ranges") else None
        self.kind: str = "obstore" if fs.target.client else fs.target.kind  # for statistics

    @classmethod
    def of(cls, fs: FolioFileSystem, path: str, identity: Identity) -> Source:
        """Return a Source; one with coroutines for event loops, if the target's own read the bytes."""
        return (AwaitedSource if fs.target.awaits and not fs.target.client else Source)(fs, path, identity)

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for ``pool.mapping``. A target that reads in another thread must not get the page
        itself: after the caller was interrupted, that thread would write to a page that may belong to another folio."""
        return {"source" if self._streams else "readinto" if self.fs.target.into else "read": self, "concurrent": True}

    @property
    def latency(self) -> float | None:
        """How many seconds it takes until the origin begins to answer, if that is known."""
        return None if self.fs.target.client else self.fs.target.latency(self.path)

    def __call__(self, offset: int, what: Any) -> Any:
        """(offset, length) -> bytes, or (offset, buffer) -> count, whichever the target's reader is."""
        with self._noticing():
            return self._function()(offset, what)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
        """See ``foliocache.sources.Source``."""
        try:
            answer: Iterator[object] = self._function()(offset, buffers)
        except (ChangedError, FileNotFoundError):
            with self._noticing():
                raise
        return self._noticed(answer) if isinstance(answer, GeneratorType) else answer  # others have done everything

    def _several(self, ranges: Iterator[tuple[int, list[memoryview]]], at_once: int) -> Iterator[tuple[int, int]]:
        """What has changed, or is gone, is noticed by ``read_into``."""
        read_ranges: Several | None = getattr(self._function(), "read_ranges", None)
        return iter(()) if read_ranges is None else read_ranges(ranges, at_once)

    def _noticed(self, answer: Iterator[object]) -> Iterator[object]:
        with self._noticing():
            yield from answer

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Raise ChangedError if the object is gone or has changed. Its identity is forgotten, so that the next open asks."""
        try:
            yield
        except (ChangedError, FileNotFoundError):
            self.fs._forget(self.path, self.identity)
            raise ChangedError(self.path) from None

    def failure(self, error: OSError) -> OSError:
        """Return the error to raise when this process waited for another one, whose source failed with this errno."""
        return ChangedError(self.path) if error.errno == errno.ESTALE else error

    def _function(self) -> Callable[[int, Any], Any]:
        target = self.fs.target
        made = self._made
        if made is None or made[0] is not target:
            by_stream = stream(target, self.path, self.identity) if self._streams else None
            self._made = made = target, by_stream or target.reader(self.path, self.identity)
        return made[1]


class AwaitedSource(Source):
    """A Source whose target has coroutines of its own: reads in event loops use these, in its loop."""

    def __init__(self, fs: FolioFileSystem, path: str, identity: Identity) -> None:
        super().__init__(fs, path, identity)
        self._awaited: tuple[Target, AsyncStream] | None = None

    @property
    def home_loop(self) -> asyncio.AbstractEventLoop:
        """The loop in which ``read_into_async`` is called."""
        loop: asyncio.AbstractEventLoop = self.fs.target.loop
        return loop

    async def read_into_async(self, offset: int, buffers: Sequence[memoryview]) -> AsyncIterator[object]:
        """See ``foliocache.sources.AsyncSource``."""
        target = self.fs.target
        made = self._awaited
        if made is None or made[0] is not target:
            self._awaited = made = target, target.stream_async(self.path, self.identity)
        with self._noticing():
            async with aclosing(made[1](offset, buffers)) as answer:
                async for full in answer:
                    yield full
