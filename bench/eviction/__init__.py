"""Hit ratios: the shipped core on a real pool, against libCacheSim's policies and the offline optimum, on the same traces.

Every page is 4 KiB, every access a lease that is let go at once. The budget: not worse than the best of LRU, SIEVE and S3-FIFO by
more than 1 %, and on epochs over more data than fits at least 0.9 x pool/data.
"""

from __future__ import annotations

import importlib.util

from bench.eviction import rivals, traces
from bench.harness import Plan, Section, Skipped, Table, record
from foliocache.cli.bench import policy

BEST_OF = ("LRU", "SIEVE", "S3-FIFO")
OURS, OPTIMUM = "foliocache", "optimum"


def run(plan: Plan) -> Section:
    section = Section("eviction")
    pool = plan.of(2000, 100)
    there = importlib.util.find_spec("libcachesim") is not None
    others = list(rivals.NAMES) if there else []
    if not there:
        section.found.append(Skipped("other policies", "libcachesim is not installed"))
    table = Table(f"Hit ratio, pool of {pool:,} pages", ("trace", OURS, *others, OPTIMUM))
    for trace in traces.suite(pool, plan.tiny):
        _compare(section, table, trace, pool, others)
    section.tables.append(table)
    if plan.trace:
        _recorded(section, plan.trace, others)
    return section


def _compare(
    section: Section, table: Table, trace: traces.Trace, pool: int, others: list[str], label: str | None = None
) -> None:
    name = label or trace.name
    ratios = {OURS: policy.hit_ratio(trace.pages, pool, trace.skip)}
    ratios |= {each: rivals.hit_ratio(each, trace.pages, pool, trace.skip) for each in others}
    ratios[OPTIMUM] = rivals.optimum(trace.pages, pool, trace.skip)
    table.add(name, *[ratios[each] for each in (OURS, *others, OPTIMUM)])
    if others:
        best = max(BEST_OF, key=ratios.__getitem__)
        if ratios[best]:
            section.found.append(
                record(
                    f"hit ratio: {name}",
                    ratios[OURS],
                    "",
                    against=f"best of three: {best}",
                    baseline=ratios[best],
                    budget=">= 0.99",
                )
            )
    if trace.floor:
        section.found.append(
            record(
                f"hit ratio over pool/data: {name}",
                ratios[OURS],
                "",
                against="pool/data",
                baseline=trace.floor,
                budget=">= 0.9",
            )
        )


def _recorded(section: Section, path: str, others: list[str]) -> None:
    """A recorded trace, in pools of 1 % to 40 % of its pages."""
    trace = traces.load(path)
    pages = max(trace.pages) + 1
    table = Table(f"Hit ratio, {trace.name} ({len(trace.pages):,} accesses, {pages:,} pages)", ("pool", OURS, *others, OPTIMUM))
    for share in (0.01, 0.04, 0.1, 0.2, 0.4):
        pool = max(int(pages * share), 100)
        _compare(section, table, trace, pool, others, f"{trace.name}, pool {share:.0%}")
    section.tables.append(table)
