"""What looking costs: a scrape, the statistics, a picture and `top`, of a pool with many objects; and hits with spans enabled.

Times of looks are processor time: that is what they take from the programs that are looked at.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import inside
from benchmarks.common.measure import Case, Skipped, cpus, per_op, pinned, record, samples
from benchmarks.common.plan import GIB, KIB, MIB, Plan
from benchmarks.common.pools import new_pool
from benchmarks.common.report import Section, Table
from foliocache import Pool

SCRAPE, TOP, HITS = "<= 50", "<= 2", "<= 1.01"
LOOKS = 30  # of `top`, one a second
SIZES = ((80, 24), (200, 50))


def run(plan: Plan) -> Section:
    section = Section("observe")
    count, size = plan.of(100_000, 500), plan.of(4 * GIB, 32 * MIB)
    with new_pool(size, page_size=4 * KIB) as pool:
        for n in range(count):
            pool.mapping(f"https://example.org/{n:07}", 1000, "1", _read).read_bytes(0, 1)
        _looks(plan, section, pool, f"{count:,} objects in {size >> 20:,} MiB")
    _hits(plan, section)
    return section


def _read(offset: int, length: int) -> bytes:
    return bytes(length)


def _looks(plan: Plan, section: Section, pool: Pool, what: str) -> None:
    looks: dict[str, Callable[[], Any]] = {
        "Pool.statistics()": pool.statistics,
        "Pool.picture(), without dots": pool.picture,
        "Pool.picture(32768), as the page asks": lambda: pool.picture(32_768, 100),
    }
    try:
        looks["a scrape"] = inside.scraping(pool.name)
    except ImportError as missing:
        section.found.append(Skipped("a scrape", str(missing)))
    took = {name: _milliseconds(look, plan.rounds) for name, look in looks.items()}
    table = Table(f"ms of a processor for a look at {what}", ("look", "ms"))
    for name, each in took.items():
        table.add(name, each)
    section.tables.append(table)
    if "a scrape" in took:
        section.found.append(record(f"a scrape of {what}", took["a scrape"], "ms", budget=SCRAPE))
    for columns, lines in SIZES:
        share = _top(pool.name, columns, lines)
        section.found.append(record(f"top at {columns} x {lines}, of {what}", share, "% of a processor", budget=TOP))


def _milliseconds(look: Callable[[], Any], rounds: int) -> float:
    """Return the median of the processor time."""
    look()
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        look()
        times.append(1e3 * (time.process_time() - begin))
    return statistics.median(times)


def _top(name: str, columns: int, lines: int) -> float:
    """Return the share of a processor, in percent, of ``top`` with its interval of 1 s: looks and pages, without the waits."""
    with inside.top_pages(name, columns, lines) as page:
        begin = time.process_time()
        for _ in range(LOOKS):
            page()
        return 100 * (time.process_time() - begin) / LOOKS


def _hits(plan: Plan, section: Section) -> None:
    """Compare hits with spans and without them: the best of many rounds."""
    from foliocache.observe import spans

    try:
        spans.enable()
    except ImportError as missing:
        section.found.append(Skipped("a hit, spans enabled", str(missing)))
        return
    enabled = spans.emit
    spans.disable()
    hits = plan.hits
    with new_pool(16 * MIB) as pool:
        mapping = pool.mapping("k", 64 * KIB, "1", _read)
        mapping.read_bytes(0, 1)

        def loop() -> None:
            for _ in range(hits):
                mapping.lease(0).release()

        def with_spans() -> None:
            spans.emit = enabled
            try:
                loop()
            finally:
                spans.disable()

        cases: dict[str, Case] = {"off": per_op(loop, hits), "on": per_op(with_spans, hits)}
        with pinned(cpus()[:1]):
            found = {name: min(times) for name, times in samples(cases, 9 * plan.rounds).items()}
    section.found.append(
        record("a hit, spans enabled", found["on"], "ns", against="not enabled", baseline=found["off"], budget=HITS)
    )
