"""A sequential reader and the window that is read ahead for it: bytes over time, from an origin that takes 20 ms to answer."""

from __future__ import annotations

import itertools
import time
from typing import Any

from benchmarks.common import plot
from benchmarks.common.pools import MIB

STEP = 256 << 10  # bytes of a read
FILE = "cold-window.svg"


def chart(fs: Any, url: str, size: int) -> str:
    """Return the chart of one cold read of an object: what the reader has had, and what has been fetched by then."""
    had, fetched = [(0.0, 0.0)], [(0.0, 0.0)]
    begin = time.perf_counter()
    with fs.open(url) as file:
        while True:
            piece = file.read(STEP)
            counters = fs.pool.stat().counters
            at = (time.perf_counter() - begin) * 1e3
            fetched.append((at, counters.fill_bytes / MIB))
            if not piece:
                break
            had.append((at, had[-1][1] + len(piece) / MIB))
    if round(had[-1][1] * MIB) != size:
        raise RuntimeError(f"{had[-1][1]} MiB were read instead of {size / MIB}")
    return plot.lines(
        "A sequential reader, 20 ms before each answer",
        "ms since open()",
        "MiB",
        {"in the pool": _steps(fetched), "read": _steps(had)},
    )


def _steps(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out points between which nothing can be seen: at most about 100 stay."""
    apart = points[-1][1] / 100
    kept = [points[0]]
    for before, point in itertools.pairwise(points):
        if point[1] - kept[-1][1] >= apart or point[0] - kept[-1][0] >= 5:
            if before[0] - kept[-1][0] >= 5 and before != kept[-1]:
                kept.append(before)  # the end of a wait
            kept.append(point)
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]
