"""Many ranges at once: what is missing of them is requested from the engines of the pools, in the order of the ranges.

The engine knows how many requests at a time help. Reading each range in a thread of its own, which misses and fetches there,
would be up to 32 threads that compete with each other for the interpreter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import itemgetter
from typing import Any

from foliocache.pool.results import Results

from .ranges import Range, extent, is_cached

READERS = 4  # threads that copy long ranges which the engine fetches, including the caller's; one copies short ones as fast
LONG = 256 << 10  # bytes of a range; copies of that length, and their page faults, are made without the GIL
_SHARE = 4  # at most this part of a pool is requested before its readers come to it
_PIECES = 8  # so many are requested at a time, and a further one when a reader comes to the next
_PIECE_MIN = 1 << 20  # bytes, unless that is more than half of what is requested

Run = tuple[int, int]  # units of a mapping: the first, and the one after the last


class Plan:
    """Requests for the missing ranges of ``jobs``, as far ahead of their readers as the pool allows.

    Parameters
    ----------
    jobs
        Ranges, in the order in which they will be read.
    maps
        The mappings of those paths that have one.
    results
        Where the bytes that are requested are delivered, too.
    """

    def __init__(self, jobs: list[Range], maps: dict[str, Any], results: Results) -> None:
        self._results = results
        self.cached: set[Range] = set()
        self._left: deque[tuple[int, Any, Run]] = deque()  # with the bytes that all before have
        self._before: dict[Range, int] = {}  # bytes that the ranges before this one have
        self._most = min((mapping.pool.pool_bytes for mapping in maps.values()), default=0) // _SHARE
        runs: list[tuple[Any, Run]] = []
        place, before, cached = 0, self._before, self.cached
        for job in jobs:
            path, start, end = job
            mapping = maps.get(path)
            if mapping is None or job in before or job in cached:
                continue
            offset, length = extent(start, end, mapping.size)
            if is_cached(mapping, offset, offset + length):
                cached.add(job)
                continue
            before[job] = place
            place += length
            unit = mapping.unit_size
            _append(runs, mapping, (offset // unit, -(-(offset + length) // unit)))
        self._length = place
        self._groups: list[tuple[int, Any]] = []  # of what has been requested, with the bytes that all before have
        if len(self._before) > 1:  # a single range requests all of itself at once
            self._divide(runs)
            self._ask(0)

    @property
    def readers(self) -> int:
        """How many threads should read the ranges; 0 if there is at most one to fetch, and nothing is requested."""
        ranges = len(self._before)
        if ranges <= 1:
            return 0
        if any(group is not None for _, group in self._groups):
            return 1
        return READERS if self._length >= ranges * LONG else 1

    def reach(self, job: Range) -> None:
        """A reader begins with this range: request those that follow. If it is served in a group, wait for that."""
        place = self._before.get(job, 0)
        if self._left:
            self._ask(place)
        if job in self._before and self._groups:
            group = self._groups[bisect_right(self._groups, place, key=itemgetter(0)) - 1][1]
            if group is not None:
                group.wait()

    def _divide(self, runs: list[tuple[Any, Run]]) -> None:
        """Cut the runs to pieces that are requested one after the other."""
        place, left = 0, self._left
        piece = max(self._most // _PIECES, min(self._most // 2, _PIECE_MIN))
        for mapping, run in runs:
            unit = mapping.unit_size
            most = max(piece // unit, 1)
            begin, end = run
            while begin < end:
                stop = min(begin + most, end)
                left.append((place, mapping, (begin, stop)))
                place += (stop - begin) * unit
                begin = stop

    def _ask(self, place: int) -> None:
        """Request the runs that begin at most ``_most`` bytes after ``place``. Several threads may do so at once."""
        wanted: dict[int, tuple[Any, list[Run], list[int]]] = {}
        left, behind = self._left, place + self._most
        try:
            while left[0][0] < behind:
                begin, mapping, run = left.popleft()
                found = wanted.get(id(mapping))
                if found is None:
                    wanted[id(mapping)] = found = mapping, [], []
                found[1].append(run)
                found[2].append(begin)
        except IndexError:
            pass
        for mapping, runs, places in wanted.values():
            of = min(self._most, self._length) // mapping.unit_size
            groups = mapping.filler.read_runs(mapping, runs, of, self._results.of(mapping))
            self._groups += zip(places, groups, strict=True)
        if len(wanted) > 1:
            self._groups.sort(key=itemgetter(0))


def _append(runs: list[tuple[Any, Run]], mapping: Any, run: Run) -> None:
    """Append a run, or extend the last one if it continues there."""
    if runs and runs[-1][0] is mapping and runs[-1][1][0] <= run[0] <= runs[-1][1][1]:
        runs[-1] = mapping, (runs[-1][1][0], max(runs[-1][1][1], run[1]))
    else:
        runs.append((mapping, run))
