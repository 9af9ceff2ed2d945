"""What a pool does in a second, from two looks at its statistics."""

from __future__ import annotations

from typing import NamedTuple

from foliocache.observe.statistics import Histogram, Statistics


class Rates(NamedTuple):
    """Numbers and bytes of a second; the hit ratio is None without lookups."""

    hit_ratio: float | None = None
    lookups: float = 0.0
    source_bytes: float = 0.0
    requests: float = 0.0
    evictions: float = 0.0
    private: float = 0.0
    errors: float = 0.0
    waits: float = 0.0
    skipped: float = 0.0  # folios that a tier was not asked for


def rates(before: Statistics | None, now: Statistics) -> Rates:
    """Return the rates between two looks; zeros if there is no earlier one of the same pool."""
    seconds = now.age - before.age if before is not None else 0.0
    if before is None or seconds <= 0 or now.counters.hits < before.counters.hits:
        return Rates()
    old, new = before.counters, now.counters
    hits, misses = new.hits - old.hits, new.misses - old.misses
    return Rates(
        hit_ratio=hits / (hits + misses) if hits + misses > 0 else None,
        lookups=(hits + misses) / seconds,
        source_bytes=(_bytes(now) - _bytes(before)) / seconds,
        requests=(_requests(now) - _requests(before)) / seconds,
        evictions=(new.evictions - old.evictions) / seconds,
        private=(new.bypasses - old.bypasses) / seconds,
        errors=(new.errors - old.errors) / seconds,
        waits=(new.waits - old.waits) / seconds,
        skipped=sum(tier.skipped for tier in now.tiers) / seconds - sum(tier.skipped for tier in before.tiers) / seconds,
    )


def latency(found: Statistics) -> Histogram:
    """Return the durations of the requests to all sources."""
    counts = [sum(column) for column in zip(*(source.latency.counts for source in found.sources), strict=True)]
    return Histogram(tuple(counts), sum(source.latency.seconds for source in found.sources))


def _bytes(found: Statistics) -> int:
    return sum(source.bytes for source in found.sources)


def _requests(found: Statistics) -> int:
    return sum(source.requests for source in found.sources)
