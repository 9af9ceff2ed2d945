"""What is counted of tiers, in the pool, for all its processes; and requests to the origin are not taken for theirs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli.cli_command import run
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import foliocache
from foliocache.mm import layout
from foliocache.tiers import flush

LIMIT = 60
SIZE = 300_000


def read(offset, length):
    return bytes((offset + n) % 251 for n in range(length))


@pytest.fixture
def disk(pool_name, tmp_path):
    with foliocache.open(pool_name, size="4MiB", tiers=[f"disk:{tmp_path}/tier?size=16MiB&timeout=60"]) as pool:
        yield pool


def tier(pool, name="disk"):
    return next(each for each in pool.statistics().tiers if each.tier == name)


def source(pool, name):
    return next(each for each in pool.statistics().sources if each.source == name)


def filled(pool):
    """Read an object, wait until the tier has it, and drop it from the pool. Return its mapping."""
    mapping = pool.mapping("k", SIZE, "1", read)
    assert mapping.read_bytes(0, SIZE) == read(0, SIZE)
    assert flush(LIMIT)
    mapping.invalidate()
    return mapping


def test_nothing_is_counted_of_a_pool_without_tiers(pool):
    pool.mapping("k", SIZE, "1", read).read_bytes(0, SIZE)
    assert [(each.tier, sum(each[1:])) for each in pool.statistics().tiers] == [("disk", 0), ("valkey", 0)]


def test_stores_and_hits_are_counted(disk):
    mapping = filled(disk)
    found, folios = tier(disk), disk.stat().counters.fills
    assert (found.misses, found.hits, found.skipped, found.dropped, found.declined) == (folios, 0, 0, 0, 0)
    assert found.stores > 0 and found.store_bytes == SIZE
    assert source(disk, "function").bytes == SIZE and source(disk, "disk").bytes == 0
    assert mapping.read_bytes(0, SIZE) == read(0, SIZE)
    assert tier(disk).hits == disk.stat().counters.fills - folios
    assert source(disk, "function").bytes == SIZE == source(disk, "disk").bytes  # the origin was not asked again
    assert source(disk, "disk").requests > 0 and source(disk, "disk").latency.seconds > 0
    assert sum(each.bytes for each in disk.statistics().sources) == 2 * SIZE


def test_what_another_process_has_had_is_counted(disk):
    filled(disk)
    code = "import sys, foliocache; pool = foliocache.attach(sys.argv[1]); mapping = pool.mapping('k', 300_000, '1', bytes)"
    code += "; mapping.read_bytes(0, 300_000)"
    subprocess.run([sys.executable, "-c", code, disk.name], check=True, timeout=LIMIT)
    assert tier(disk).hits > 0 and sum(each.hits for each in disk.tiers) == 0


async def test_in_event_loops_too(disk):
    filled(disk)

    async def read_async(offset, length):
        return read(offset, length)

    before = source(disk, "function").requests
    assert await disk.mapping("k", SIZE, "1", read_async).read_bytes_async(0, SIZE) == read(0, SIZE)
    assert tier(disk).hits > 0 and source(disk, "function").requests == before
    assert await disk.mapping("l", SIZE, "1", read_async).read_bytes_async(0, SIZE) == read(0, SIZE)
    assert source(disk, "function").bytes == 2 * SIZE


def test_a_failure_is_the_origin_s(disk):
    def fails(offset, length):
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        disk.mapping("k", SIZE, "1", fails).read_bytes(0, 10)
    assert (source(disk, "function").errors, source(disk, "function").bytes, source(disk, "disk").errors) == (1, 0, 0)


def test_a_tier_that_is_off_is_skipped_and_said(disk, monkeypatch):
    mapping = filled(disk)
    (guard,) = disk._tiers

    def broken(digest, parts):
        raise OSError("the disk is gone")

    monkeypatch.setattr(guard.tier, "load", broken)
    monkeypatch.setattr("foliocache.tiers.guard.PAUSE", 3600.0)
    monkeypatch.setattr("foliocache.tiers.guard.PAUSE_MAX", 3600.0)
    assert mapping.read_bytes(0, SIZE) == read(0, SIZE)
    mapping.invalidate()
    assert mapping.read_bytes(0, SIZE) == read(0, SIZE)
    assert tier(disk).skipped > 0 and source(disk, "disk").errors == 1


def test_metrics_of_tiers(disk):
    mapping = filled(disk)
    mapping.read_bytes(0, SIZE)
    done = run("metrics", disk.name)
    samples = {
        (sample.name, sample.labels.get("cache_tier"), sample.labels.get("cache_request_type")): sample.value
        for family in text_string_to_metric_families(done.out)
        for sample in family.samples
    }
    found = tier(disk)
    assert samples["cache_requests_total", "disk", "hit"] == found.hits > 0
    assert samples["cache_requests_total", "disk", "miss"] == found.misses
    assert samples["foliocache_tier_store_bytes_total", "disk", None] == SIZE
    assert samples["foliocache_source_bytes_total", "disk", None] == SIZE
    assert ("foliocache_tier_stores_total", "valkey", None) not in samples


def test_what_is_no_statistic_is_refused(pool):
    with pytest.raises(ValueError, match="no number"):
        pool._attachment.tally(layout.STAT_WORDS, 1)
    with pytest.raises(ValueError, match="no number"):
        pool._attachment.request(layout.SOURCE_KINDS, 1, 1, False)
