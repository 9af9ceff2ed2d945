"""Where a mapping's missing folios come from: one object of a target, at one version, in whatever process needs it.

The core keeps a Source as long as the mapping lives, calls it from any thread (readahead has its own) and carries it over a
fork; so it holds the filesystem and not a connection, and asks for a new reader whenever the filesystem has a new target.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from foliocache import ChangedError

from .target import Identity, Target
from .targets.obstore import stream

if TYPE_CHECKING:
    from .filesystem import FolioFileSystem


class Source:
    """The `read`, `readinto` or `source` of one mapping."""

    def __init__(self, fs: FolioFileSystem, path: str, identity: Identity) -> None:
        self.fs = fs
        self.path = path
        self.identity = identity
        self._made: tuple[Target, Callable[[int, Any], Any]] | None = None
        self._streams = stream(fs.target, path, identity) is not None

    def arguments(self) -> dict[str, Any]:
        """The keywords that ``pool.mapping`` wants. A target that reads in another thread must not be given the page:
        an interrupted caller would leave that thread writing to a page that is another folio's by then."""
        return {"source" if self._streams else "readinto" if self.fs.target.into else "read": self, "concurrent": True}

    def __call__(self, offset: int, what: Any) -> Any:
        """(offset, length) -> bytes, or (offset, buffer) -> count, as the target has it."""
        with self._noticing():
            return self._function()(offset, what)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
        """As ``foliocache.sources.Source``."""
        with self._noticing():
            yield from self._function()(offset, buffers)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """ChangedError if the object is gone or another one. Its identity is forgotten, or another open would come here."""
        try:
            yield
        except (ChangedError, FileNotFoundError):
            self.fs._forget(self.path, self.identity)
            raise ChangedError(self.path) from None

    def failure(self, error: OSError) -> OSError:
        """What to raise when another process was reading for us, and its source failed with this errno."""
        return ChangedError(self.path) if error.errno == errno.ESTALE else error

    def _function(self) -> Callable[[int, Any], Any]:
        target = self.fs.target
        made = self._made
        if made is None or made[0] is not target:
            by_stream = stream(target, self.path, self.identity) if self._streams else None
            self._made = made = target, by_stream or target.reader(self.path, self.identity)
        return made[1]
