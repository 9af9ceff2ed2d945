"""Statistics of pools as metrics, for what reads OpenMetrics. Needs prometheus_client (the extra ``metrics``).

``cache_requests``, ``cache_evictions``, ``cache_entries`` and ``cache_estimated_size`` are the instruments that .NET's caches
have, with its attributes, and the tier in addition. What only a pool of this library has is called ``foliocache_``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .statistics import Histogram, Statistics

Pools: TypeAlias = Iterable[tuple[str, Statistics | None]]  # a pool's name, and None if it cannot be read
Row: TypeAlias = tuple[tuple[str, ...], float]

TIERS = ("disk", "valkey")  # kinds of source that are tiers; of the others, the tier is the origin
TIER_COUNTERS = {  # fields of ``TierStatistics`` that are metrics of their own
    "skipped": "Folios that a tier was not asked for, because it was left alone after failures",
    "stores": "Folios that were stored in a tier",
    "store_bytes": "Bytes of those folios",
    "dropped": "Folios that were not stored, because the queue was full or the tier was left alone",
    "declined": "Folios that a tier did not want",
}
COUNTERS = {  # fields of ``Counters`` that are metrics of their own -> what they count
    "fills": "Folios that were read from a source and cached",
    "fill_bytes": "Bytes of those folios",
    "bypasses": "Folios that were read privately and not cached",
    "waits": "Waits for another process or thread that was filling a folio",
    "readahead": "Folios that were read before they were asked for",
    "errors": "Fills that failed",
    "stalls": "Locks that were refused, because their owner was stopped",
    "given_back": "Bytes of memory that were given back to the kernel",
    "given_back_pressure": "Bytes of them that were given back because others needed memory",
}


class PoolCollector(Collector):
    """The metrics of what ``look()`` returns at each scrape."""

    def __init__(self, look: Callable[[], Pools]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all pools as they are now."""
        found = list(self._look())
        yield _gauge(
            "foliocache_pool_up",
            "1 if the pool can be read",
            (),
            [((name,), float(there is not None)) for name, there in found],
        )
        pools = [there for _, there in found if there is not None]
        yield from _instruments(pools)
        yield from _memory(pools)
        yield from _clients(pools)
        for field, text in COUNTERS.items():
            unit = "_bytes" if field.startswith("given_back") else ""
            yield _counter(f"foliocache_{field}{unit}", text, (), [((p.name,), getattr(p.counters, field)) for p in pools])
        yield from _durations(pools)
        yield from _tiers(pools)
        yield from _working_set(pools)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: a registry need not read the pools when the collector is registered."""
        return ()


def _instruments(pools: list[Statistics]) -> Iterator[Metric]:
    """Yield those that other caches have, too."""
    requests = [
        (p.name, kind, "memory", n) for p in pools for kind, n in (("hit", p.counters.hits), ("miss", p.counters.misses))
    ]
    requests += [
        (p.name, kind, tier.tier, n)
        for p in pools
        for tier in p.tiers
        if any(tier[1:])
        for kind, n in (("hit", tier.hits), ("miss", tier.misses))
    ]
    labels = ("cache_request_type", "cache_tier")
    yield _counter("cache_requests", "Lookups", labels, [((name, kind, tier), n) for name, kind, tier, n in requests])
    causes = [(p.name, cause, n) for p in pools for cause, n in p.evictions.to_dict().items()]
    text = "Folios that were evicted, by cause"
    yield _counter("cache_evictions", text, ("cache_eviction_cause",), [((name, cause), n) for name, cause, n in causes])
    tier = ("cache_tier",)
    yield _gauge("cache_entries", "Cached objects", tier, [((p.name, "memory"), p.objects) for p in pools])
    text = "Bytes of the pages with the content of objects"
    yield _gauge("cache_estimated_size_bytes", text, tier, [((p.name, "memory"), p.cached_bytes) for p in pools])
    windows = [
        (p.name, window, ratio)
        for p in pools
        for window, ratio in zip(("1m", "5m", "15m"), p.hit_ratios, strict=True)
        if ratio is not None
    ]
    text = "Hits in all lookups of the last minutes"
    yield _gauge("foliocache_hit_ratio", text, ("window",), [((name, window), ratio) for name, window, ratio in windows])


def _tiers(pools: list[Statistics]) -> Iterator[Metric]:
    """Yield what tiers do, of those that a pool uses."""
    used = [((p.name, tier.tier), tier) for p in pools for tier in p.tiers if any(tier[1:])]
    for field, text in TIER_COUNTERS.items():
        rows = [(place, getattr(tier, field)) for place, tier in used]
        yield _counter(f"foliocache_tier_{field}", text, ("cache_tier",), rows)


def _memory(pools: list[Statistics]) -> Iterator[Metric]:
    yield _gauge("foliocache_size_bytes", "The pool's size", (), [((p.name,), p.pool_bytes) for p in pools])
    yield _gauge("foliocache_max_size_bytes", "What it can be resized to", (), [((p.name,), p.max_bytes) for p in pools])
    rows: list[Row] = []
    for p in pools:
        told = {"cached": p.cached_bytes, "index": p.index_bytes, "free": p.free_bytes}
        told["other"] = max(0, p.backed_bytes - sum(told.values()))
        rows += [((p.name, state), n) for state, n in told.items()]
    yield _gauge("foliocache_memory_bytes", "Memory of the pages, by what is in them", ("state",), rows)


def _clients(pools: list[Statistics]) -> Iterator[Metric]:
    states = [((p.name, state), n) for p in pools for state, n in (("attached", p.clients), ("dead", p.dead_clients))]
    yield _gauge("foliocache_clients", "Processes that are attached, and dead ones that are not settled", ("state",), states)
    yield _gauge("foliocache_locks_held", "Locks that are held at this moment", (), [((p.name,), p.locks_held) for p in pools])


def _durations(pools: list[Statistics]) -> Iterator[Metric]:
    used = [(p.name, source) for p in pools for source in p.sources if source.requests]
    tiers = {source.source: source.source if source.source in TIERS else "origin" for _, source in used}
    labels = ("source", "cache_tier")
    where = [((name, source.source, tiers[source.source]), source) for name, source in used]
    yield _histogram("foliocache_source_request", "Requests to sources", labels, [(place, s.latency) for place, s in where])
    yield _counter(
        "foliocache_source_bytes", "Bytes that sources have brought", labels, [(place, s.bytes) for place, s in where]
    )
    yield _counter("foliocache_source_errors", "Requests that failed", labels, [(place, s.errors) for place, s in where])
    text = "Waits for another process or thread that fills"
    yield _histogram("foliocache_wait", text, (), [((p.name,), p.waits) for p in pools])
    yield _histogram(
        "foliocache_lock_wait", "Waits for locks that were not free", (), [((p.name,), p.lock_waits) for p in pools]
    )


def _working_set(pools: list[Statistics]) -> Iterator[Metric]:
    text = "Units that were filled"
    yield _counter("foliocache_filled_units", text, (), [((p.name,), p.working_set.filled) for p in pools])
    rows: list[Row] = []
    for p in pools:
        told = p.working_set
        gains = (("25%", told.with_25), ("50%", told.with_50), ("100%", told.with_100), ("200%", told.with_200))
        rows += [((p.name, more), n) for more, n in gains]
    text = "Units that were filled again, and would still have been there in a pool that much larger"
    yield _counter("foliocache_refilled_units", text, ("larger_by",), rows)


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> GaugeMetricFamily:
    made = GaugeMetricFamily(name, text, labels=("cache_name", *labels))
    for place, value in rows:
        made.add_metric(place, value)
    return made


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> CounterMetricFamily:
    made = CounterMetricFamily(name, text, labels=("cache_name", *labels))
    for place, value in rows:
        made.add_metric(place, value)
    return made


def _histogram(
    name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], Histogram]]
) -> HistogramMetricFamily:
    made = HistogramMetricFamily(f"{name}_duration_seconds", text, labels=("cache_name", *labels), unit="seconds")
    for place, told in rows:
        bounds = [*(f"{bound!r}" for bound in told.bounds), "+Inf"]
        made.add_metric(place, list(zip(bounds, map(float, accumulate(told.counts)), strict=True)), told.seconds)
    return made
