"""Hit ratios: the shipped core on a real pool, against libCacheSim's policies and the offline optimum, on the same traces.

Every page is 4 KiB, every access a lease that is let go at once. Made traces run with several seeds: the tables have the means,
and the budgets are judged by the seed that is worst for us. The budgets: not worse than the best of LRU, SIEVE and S3-FIFO by
more than 1 % of its hit ratio, and on epochs over more data than fits at least 0.9 x pool/data.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from statistics import fmean

from benchmarks.common import policy
from benchmarks.common.measure import Skipped, record
from benchmarks.common.plan import Plan
from benchmarks.common.report import Section, Table
from benchmarks.eviction import rivals, traces

BEST_OF = ("LRU", "SIEVE", "S3-FIFO")
OURS, OPTIMUM = "foliocache", "optimum"
SHARES = (0.01, 0.04, 0.1, 0.2, 0.4)

Ratios = dict[str, float]


def run(plan: Plan) -> Section:
    section = Section("eviction")
    there = importlib.util.find_spec("libcachesim") is not None
    others = list(rivals.NAMES) if there else []
    if not there:
        section.found.append(Skipped("other policies", "libcachesim is not installed"))
    pool = plan.of(2000, 100)
    seeds = plan.of(plan.seeds, plan.seeds[:1])
    title = f"Hit ratio, pool of {pool:,} pages, mean of seeds {', '.join(map(str, seeds))}"
    _table(section, title, others, _made(pool, seeds, plan.is_tiny, others))
    for path in plan.traces:
        _table(section, f"Hit ratio, {path.name}", others, _recorded(traces.load(str(path)), others))
    return section


def _made(pool: int, seeds: tuple[int, ...], tiny: bool, others: list[str]) -> Iterator[tuple[str, float, list[Ratios]]]:
    """Each made trace's name, floor, and the ratios with each seed."""
    for same in zip(*(traces.suite(pool, seed, tiny) for seed in seeds), strict=True):
        yield same[0].name, same[0].floor, [_ratios(trace, pool, others) for trace in same]


def _recorded(trace: traces.Trace, others: list[str]) -> Iterator[tuple[str, float, list[Ratios]]]:
    """A recorded trace, in pools of 1 % to 40 % of its pages."""
    pages = max(trace.pages) + 1
    for share in SHARES:
        pool = max(int(pages * share), 100)
        yield f"{trace.name}, pool {share:.0%}", 0.0, [_ratios(trace, pool, others)]


def _ratios(trace: traces.Trace, pool: int, others: list[str]) -> Ratios:
    found = {OURS: policy.hit_ratio(trace.pages, pool, trace.skip)}
    found |= {each: rivals.hit_ratio(each, trace.pages, pool, trace.skip) for each in others}
    return found | {OPTIMUM: rivals.optimum(trace.pages, pool, trace.skip)}


def _table(section: Section, title: str, others: list[str], rows: Iterator[tuple[str, float, list[Ratios]]]) -> None:
    """A table of the ratios, one of the distance to the best of three, and the budgets."""
    columns = (OURS, *others, OPTIMUM)
    table = Table(title, ("trace", *columns))
    distance = Table(f"{title}: us and the best of three, worst seed", ("trace", "best", "ours / best", "points"))
    for name, floor, found in rows:
        table.add(name, *[fmean(each[column] for each in found) for column in columns])
        if others:
            _judge(section, distance, name, found)
        if floor:
            worst = min(each[OURS] for each in found)
            metric = f"hit ratio over pool/data: {name}"
            section.found.append(record(metric, worst, "", against="pool/data", baseline=floor, budget=">= 0.9"))
    section.tables += [table, distance] if others else [table]


def _judge(section: Section, distance: Table, name: str, found: list[Ratios]) -> None:
    pairs = [(each[OURS], max((each[other], other) for other in BEST_OF)) for each in found]
    ours, (baseline, best) = min(pairs, key=lambda pair: pair[0] / max(pair[1][0], 1e-9))
    if baseline:
        distance.add(name, best, ours / baseline, round(100 * (ours - baseline), 2))
        against = f"best of three: {best}"
        section.found.append(record(f"hit ratio: {name}", ours, "", against=against, baseline=baseline, budget=">= 0.99"))
