"""What a pool does, for those who look at it: statistics from counters, and a picture of its pages.

Statistics need only the segment, and no client slot, so a process that exports the metrics of all pools is a client of none.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..mm import audit, layout, lru, page_alloc, slab
from ..observe import history, scan
from ..observe.records import Counters
from ..observe.statistics import (
    Evictions,
    Histogram,
    HitRatios,
    Picture,
    Residency,
    SourceStatistics,
    Statistics,
    TierStatistics,
    WorkingSet,
)
from . import client
from .attachment import Scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..mm.atomics import Memory
    from .attachment import Attachment
    from .segment import Segment

WINDOWS = (60, 300, 900)  # seconds, of hit ratios
VERDICTS = (layout.VERDICT_LEFT, layout.VERDICT_LOST, layout.VERDICT_BEATEN)


def statistics(segment: Segment) -> Statistics:
    """Return a pool's statistics, and leave a sample of its counters for those who look later."""
    mem, memory, page = segment.mem, segment.memory, segment.page_size
    slots = client.used_slots(segment)
    counted, told = scan.totals(memory, slots, len(layout.COUNTERS))
    counters = Counters(*counted)
    states = [client.describe(segment, slot).state for slot in slots]
    return Statistics(
        name=segment.name,
        age=max(0.0, (time.time_ns() - memory.peek64(layout.HDR_CREATED)) / 1e9),
        pool_bytes=segment.pool_bytes,
        max_bytes=segment.max_bytes,
        page_size=page,
        backed_bytes=page_alloc.backed_pages(mem) * page,
        free_bytes=memory.peek32(layout.ALLOC_FREE) * page,
        cached_bytes=lru.cached(mem) * page,
        index_bytes=sum(memory.peek32(layout.SLAB_PAGES + n * layout.SLAB_STRIDE) for n in range(layout.SLABS)) * page,
        objects=memory.peek32(layout.TABLE_COUNT),
        clients=states.count("attached"),
        dead_clients=states.count("dead"),
        locks_held=len(audit.held_locks(memory)),
        counters=counters,
        hit_ratios=_ratios(memory, counters),
        sources=tuple(_source(told, n, name) for n, name in enumerate(layout.SOURCES)),
        tiers=tuple(_tier(told, n, name) for n, name in enumerate(layout.TIERS)),
        waits=_histogram(told, layout.STAT_WAITS),
        lock_waits=_histogram(told, layout.STAT_LOCK_WAITS),
        evictions=_evictions(told, counters.evictions),
        working_set=WorkingSet(*told[layout.STAT_REFAULTS : layout.STAT_REFAULTS + 1 + layout.REFAULT_AGES]),
    )


def picture(attachment: Attachment, dots: int, objects: int) -> Picture:
    """Return a picture of the pool's pages and of its largest objects.

    Raises FoliocacheError if another process has stopped while it gives memory back.
    """
    segment = attachment.segment
    with Scan(attachment):
        wanted = (min(number, segment.pages) for number in (dots, objects))
        found, stride, largest, count = scan.table(segment.memory, segment.pages, *wanted)
        described = [_residency(segment.memory, segment.mem, *each) for each in largest]
    clients = (client.describe(segment, slot) for slot in client.used_slots(segment))
    return Picture(
        dots=found,
        pages_per_dot=stride,
        page_size=segment.page_size,
        objects=tuple(each for each in described if each is not None),
        object_count=count,
        clients=tuple(each for each in clients if each.state != "clean"),
    )


def _ratios(memory: Memory, counters: Counters) -> HitRatios:
    """Return the hit ratios of the last minutes, and note these counters."""
    sample = history.Sample(history.now(), counters.hits, counters.misses, counters.fill_bytes, counters.evictions)
    before = history.samples(memory, sample.time)
    history.note(memory, sample)
    born = sample.time - (time.time_ns() - memory.peek64(layout.HDR_CREATED))
    return HitRatios(*(history.hit_ratio(sample, before, seconds, born) for seconds in WINDOWS))


def _histogram(told: Sequence[int], first: int) -> Histogram:
    return Histogram(tuple(told[first : first + layout.BUCKETS]), told[first + layout.STAT_SUM] / 1e9)


def _source(told: Sequence[int], number: int, name: str) -> SourceStatistics:
    first = layout.STAT_SOURCES + number * layout.SOURCE_WORDS
    latency = _histogram(told, first)
    errors = told[first + layout.SOURCE_ERRORS]
    return SourceStatistics(name, latency.total, told[first + layout.SOURCE_BYTES], errors, latency)


def _tier(told: Sequence[int], number: int, name: str) -> TierStatistics:
    first = layout.STAT_TIERS + number * layout.TIER_WORDS
    return TierStatistics(name, *told[first : first + layout.TIER_DECLINED + 1])


def _evictions(told: Sequence[int], all_of_them: int) -> Evictions:
    unused, lost, beaten = (told[layout.STAT_EVICTED + verdict] for verdict in VERDICTS)
    return Evictions(unused, lost, beaten, max(0, all_of_them - unused - lost - beaten))


def _residency(
    memory: Memory, mem: int, ino: int, cached: int, used: int, folios: int, pins: int, filling: int, filler: int | None
) -> Residency | None:
    """Return an object with what the folio table says of it; None if its record has been dropped meanwhile."""
    number = ino & layout.OBJECT_MASK
    at = slab.at(mem, layout.SLAB_MAPPINGS, number)
    if not at or not slab.holds(mem, layout.SLAB_MAPPINGS, number) or memory.peek64(at + layout.MAPPING_INO) != ino:
        return None
    text = memory.peek_bytes(at + layout.MAPPING_TEXT, layout.MAPPING_TEXT_MAX)
    key = min(memory.peek32(at + layout.MAPPING_KEY_LENGTH), layout.MAPPING_TEXT_MAX)
    version = min(memory.peek32(at + layout.MAPPING_VERSION_LENGTH), layout.MAPPING_TEXT_MAX)
    size = memory.peek64(at + layout.MAPPING_OBJECT_SIZE)
    if memory.peek64(at + layout.MAPPING_INO) != ino:
        return None
    return Residency(
        key=audit.readable(text[:key]),
        version=audit.readable(text[key : key + version]),
        size=size,
        cached_bytes=cached,
        used_bytes=used,
        folios=folios,
        pins=pins,
        filling_bytes=filling,
        filler=filler,
    )
