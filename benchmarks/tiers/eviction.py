"""What a disk tier evicts, beside other policies: hit ratios and writes on the made traces of ``benchmarks.eviction``.

The shipped tier, with slots of a page, in shared memory. It is asked for what a pool of an eighth of its size misses (an LRU
list, which needs no assumption). The other policies see the same. ``python -m benchmarks.tiers.eviction`` prints the table of
docs/tiers.md.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import inside
from benchmarks.common.plan import KIB
from benchmarks.common.report import Table
from benchmarks.eviction import rivals, traces

PAGE = 4 * KIB
DIGEST = bytes(16)
POOL_SHARE = 8
RIVALS = ("LRU", "SIEVE", "S3-FIFO")
SEED = 1
NAMES = (
    "Zipf 0.7, pool 10 %",
    "Zipf 0.9, pool 10 %",
    "Zipf 1.1, pool 10 %",
    "Zipf 0.9 and 12 scans of two pools",
    "Zipf 0.9 and 70 % read once",
    "Zipf 0.9, changed 9 times",
    "recency",
    "Zipf, epochs, Zipf, loop",
    "shuffled epochs, pool 50 %",
    "sequential loop, pool 50 %",
)


def filtered(pages: Sequence[int], room: int) -> list[int]:
    """Return the accesses that an LRU list of so many pages misses."""
    cached: OrderedDict[int, None] = OrderedDict()
    missed = []
    for page in pages:
        if page in cached:
            cached.move_to_end(page)
            continue
        missed.append(page)
        cached[page] = None
        if len(cached) > room:
            cached.popitem(last=False)
    return missed


def tier_on(pages: Sequence[int], slots: int, skip: int, wants: Callable[[Any, int], bool]) -> tuple[float, float]:
    """Return the shares of the accesses after the first ``skip`` that the shipped tier has, and that it writes."""
    hits = writes = 0
    with tempfile.TemporaryDirectory(prefix="foliocache-bench-", dir="/dev/shm") as folder, memoryview(bytearray(PAGE)) as page:
        tier = inside.disk_tier(Path(folder), inside.tier_bytes(slots, PAGE), PAGE)
        for at, number in enumerate(pages):
            if tier.load(DIGEST, [(number * PAGE, page)]) == [True]:
                hits += at >= skip
            elif wants(tier, number * PAGE):
                tier.store(DIGEST, [(number * PAGE, page)])
                writes += at >= skip
        tier.close()
    return hits / (len(pages) - skip), writes / (len(pages) - skip)


def fifo(pages: Sequence[int], slots: int, skip: int) -> float:
    """Return the hit ratio of plain FIFO."""
    order: deque[int] = deque()
    cached: set[int] = set()
    hits = 0
    for at, page in enumerate(pages):
        if page in cached:
            hits += at >= skip
            continue
        cached.add(page)
        order.append(page)
        if len(order) > slots:
            cached.discard(order.popleft())
    return hits / (len(pages) - skip)


def rows(slots: int, tiny: bool = False) -> Iterator[tuple[str, list[float]]]:
    """Yield for each trace its name, and the figures of the table."""
    there = importlib.util.find_spec("libcachesim") is not None
    for trace in traces.suite(slots, SEED, tiny):
        if trace.name not in NAMES:
            continue
        missed = filtered(trace.pages, slots // POOL_SHARE)
        skip = len(missed) * trace.skip // len(trace.pages)
        ours, written = tier_on(missed, slots, skip, lambda tier, offset: bool(tier.wants(DIGEST, offset, PAGE)))
        open_to_all, _ = tier_on(missed, slots, skip, lambda tier, offset: True)
        plain = fifo(missed, slots, skip)
        others = [rivals.hit_ratio(name, missed, slots, skip) for name in RIVALS] if there else [float("nan")] * len(RIVALS)
        yield trace.name, [ours, open_to_all, plain, *others, rivals.optimum(missed, slots, skip), written, 1 - plain]


def table(slots: int = 400, tiny: bool = False) -> Table:
    """Return the table."""
    columns = ("tier", "it, storing all", "FIFO", *RIVALS, "optimum", "tier writes", "FIFO writes")
    made = Table(
        f"A tier of {slots} slots behind a pool of {slots // POOL_SHARE} pages: shares of what the pool misses",
        ("trace", *columns),
    )
    for name, figures in rows(slots, tiny):
        made.add(name, *(f"{figure:.3f}" for figure in figures))
    return made


if __name__ == "__main__":
    print(table().markdown())
