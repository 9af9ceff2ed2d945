"""Looking at pools from outside: all of a machine, or some, as they come and go.

A watch is a client of none of them: it takes no client slot, so it also sees a pool that has none free, and nothing has to be
settled if it dies. While it watches a pool, the pool's memory stays mapped, so it lets go of one that was removed as soon as it
looks again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import FoliocacheError
from ..observe.statistics import Statistics
from . import segment as segments
from . import view
from .files import pools


class Seen(NamedTuple):
    """A pool's statistics, or why there are none: exactly one of them is None."""

    name: str
    statistics: Statistics | None
    error: str | None


class Watch:
    """The pools of these names; all pools of this user, without names. Several threads may look."""

    def __init__(self, names: Sequence[str] = (), *, any_owner: bool = False) -> None:
        self._names = tuple(names)
        self._any_owner = any_owner
        self._segments: dict[str, segments.Segment] = {}
        self._lock = threading.Lock()

    def look(self) -> list[Seen]:
        """Return what there is now, in the order of the names. Raises PoolError if the folder of the pools cannot be listed."""
        with self._lock:
            names = self._names or tuple(pools())
            for name in self._segments.keys() - set(names):
                del self._segments[name]
            return [self._look_at(name) for name in names]

    def _look_at(self, name: str) -> Seen:
        try:
            return Seen(name, view.statistics(self._segment(name)), None)
        except FoliocacheError as error:
            self._segments.pop(name, None)
            return Seen(name, None, str(error))

    def _segment(self, name: str) -> segments.Segment:
        """Return the segment of the pool that has this name now."""
        inode = segments.locate(name, self._any_owner)
        known = self._segments.get(name)
        if known is None or known.inode != inode:
            self._segments.pop(name, None)
            known = self._segments[name] = segments.attach(name, self._any_owner)
        return known
