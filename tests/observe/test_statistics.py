"""Pool.statistics and Pool.picture: what is counted, by whom, and what is left of it when a process is killed."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

import foliocache
from foliocache.mm import flags, layout
from foliocache.observe import history, scan
from foliocache.observe.history import Sample
from foliocache.pool import segment as segments
from foliocache.pool import view

SECOND = 10**9
READ = """
import os, signal, sys
import foliocache
mapping = foliocache.attach(sys.argv[1]).mapping("k", 50_000, "1", lambda offset, length: bytes(length))
mapping.read_bytes(0, 50_000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def source_of(pool, name):
    return next(source for source in pool.statistics().sources if source.source == name)


def until(condition):
    """Wait until a condition holds: a reader goes on as soon as it has its bytes, and the request is counted after that."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_requests_are_counted_by_their_source(pool, make_source):
    read = make_source(100_000)
    pool.mapping("k", 100_000, "1", read.read, readahead=0).read_bytes(0, 100_000)
    found = source_of(pool, "function")
    assert (found.requests, found.bytes, found.errors) == (len(read.calls), 100_000, 0)
    assert found.latency.total == found.requests and found.latency.seconds > 0
    assert sum(source.requests for source in pool.statistics().sources) == found.requests


def test_a_source_says_of_which_kind_it_is(pool):
    class Read:
        def __init__(self, kind):
            self.kind = kind

        def read_into(self, offset, buffers):
            for buffer in buffers:
                buffer[:] = bytes(len(buffer))
                yield

    for n, kind in enumerate(("http", "disk", "a tape")):
        pool.mapping(f"k{n}", 1000, "1", source=Read(kind), concurrent=True).read_bytes(0, 1000)

    def told():
        return {source.source: source.bytes for source in pool.statistics().sources if source.bytes}

    until(lambda: told() == {"http": 1000, "disk": 1000, "other": 1000})


def test_python_objects_have_a_kind(pool):
    pool.put("array", bytearray(100_000))
    until(lambda: source_of(pool, "objects").bytes >= 100_000)


def test_a_failure_is_a_request_without_bytes(pool):
    def read(offset, length):
        raise OSError("no such host")

    with pytest.raises(OSError, match="no such host"):
        pool.mapping("k", 1000, "1", read).read_bytes(0, 1000)
    found = source_of(pool, "function")
    assert (found.requests, found.bytes, found.errors) == (1, 0, 1)


def test_coroutines_are_counted_too(pool):
    async def read(offset, length):
        return bytes(length)

    async def main():
        await pool.mapping("k", 1000, "1", read, concurrent=True).read_bytes_async(0, 1000)

    asyncio.run(main())
    until(lambda: source_of(pool, "function").requests == 1)
    assert source_of(pool, "function").bytes == 1000


def test_a_private_read_is_a_request(pool):
    held = pool.mapping("held", pool.pool_bytes, "1", lambda offset, length: bytes(length), readahead=0)
    leases = []
    while not leases or leases[-1].cached:
        leases.append(held.lease(sum(map(len, leases))))
    counters = pool.stat().counters
    assert counters.bypasses == 1
    assert source_of(pool, "function").bytes == sum(map(len, leases)) == counters.fill_bytes + len(leases[-1])
    for lease in leases:
        lease.release()


def test_a_wait_for_another_thread_is_counted(pool):
    reached, go = threading.Event(), threading.Event()

    def read(offset, length):
        reached.set()
        assert go.wait(60)
        return bytes(length)

    mapping = pool.mapping("k", 1000, "1", read, concurrent=True)
    threads = [threading.Thread(target=mapping.read_bytes, args=(0, 1000)) for _ in range(2)]
    threads[0].start()
    assert reached.wait(60)
    threads[1].start()
    until(lambda: pool.stat().counters.waits)
    go.set()
    for thread in threads:
        thread.join(60)
    until(lambda: pool.statistics().waits.total == 1)


def test_what_a_killed_process_has_counted_stays(pool):
    done = subprocess.run([sys.executable, "-c", READ, pool.name], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert source_of(pool, "function").bytes == 50_000
    assert pool.statistics().dead_clients == 1
    pool.stat()  # reaps it
    assert source_of(pool, "function").bytes == 50_000
    found = pool.statistics()
    assert (found.clients, found.dead_clients, found.counters.fill_bytes) == (1, 0, 50_000)


def test_sizes_are_those_of_stat(pool, source):
    mapping = pool.mapping("k", len(source.content), "1", source.read)
    mapping.read_bytes(0, len(source.content))
    stat, found = pool.stat(), pool.statistics()
    for name in ("name", "pool_bytes", "max_bytes", "page_size", "backed_bytes", "cached_bytes", "counters"):
        assert getattr(found, name) == getattr(stat, name), name
    pages = stat.pages_by_state
    assert found.index_bytes == (pages.node + pages.inode + pages.name) * stat.page_size
    assert found.objects == stat.mappings == 1
    assert found.free_bytes == pages.free * stat.page_size
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_who_looks_need_not_be_a_client(pool):
    found = view.statistics(segments.attach(pool.name))
    assert found.clients == 1 and found.counters == pool.stat().counters


def test_evictions_have_their_causes(pool):
    for n in range(8):
        pool.mapping(f"k{n}", 1 << 20, "1", lambda offset, length: bytes(length)).read_bytes(0, 1 << 20)
    found = pool.statistics()
    assert found.counters.evictions > 0
    assert sum(found.evictions) == found.counters.evictions
    pool.trim(pool.pool_bytes)
    assert sum(pool.statistics().evictions) == pool.statistics().counters.evictions


def test_the_working_set_tells_a_loop_that_almost_fits(pool):
    """Five objects in turns in a pool for four: what is read again would be there in a larger pool."""
    for _ in range(6):
        for n in range(5):
            pool.mapping(f"k{n}", 1 << 20, "1", lambda offset, length: bytes(length)).read_bytes(0, 1 << 20)
    found = pool.statistics().working_set
    assert 0 < found.with_25 <= found.with_50 <= found.with_100 <= found.with_200 <= found.filled
    assert found.with_200 > found.filled // 2


# Samples of the last minutes.


def sample(second, hits, misses=0):
    return Sample(second * SECOND, hits, misses, 0, 0)


@pytest.fixture
def memory(pool):
    return pool._attachment.segment.memory


def test_an_interval_has_one_sample(memory):
    history.note(memory, sample(3000, 1))
    history.note(memory, sample(3029, 2))
    history.note(memory, sample(3030, 3))
    assert history.samples(memory, 10_000 * SECOND) == [sample(3000, 1), sample(3030, 3)]
    assert history.samples(memory, 3010 * SECOND) == [sample(3000, 1)]


def test_old_samples_make_room(memory):
    for n in range(layout.HISTORY_SAMPLES + 5):
        history.note(memory, sample(30 * n, n))
    found = history.samples(memory, 1 << 62)
    assert [each.hits for each in found] == list(range(5, layout.HISTORY_SAMPLES + 5))


def test_a_sample_that_was_not_finished_is_none(memory):
    history.note(memory, sample(3000, 1))
    at = layout.HISTORY + 3000 // 30 % layout.HISTORY_SAMPLES * layout.HISTORY_SIZE
    for offset in range(0, 48, 8):
        before = memory.peek64(at + offset)
        memory.poke64(at + offset, before ^ 1 << 33)
        assert history.samples(memory, 1 << 62) == []
        memory.poke64(at + offset, before)
    assert history.samples(memory, 1 << 62) == [sample(3000, 1)]


def test_the_hit_ratio_of_a_time(memory):
    before = [sample(1000, 0, 0), sample(1030, 100, 0), sample(1060, 150, 50)]
    now = sample(1095, 150, 150)
    assert history.hit_ratio(now, before, 60, -9000 * SECOND) == 50 / 200  # since 1030
    assert history.hit_ratio(now, before, 300, -9000 * SECOND) is None  # nobody looked
    assert history.hit_ratio(now, before, 300, 900 * SECOND) == 0.5  # the pool is younger
    assert history.hit_ratio(sample(1095, 150, 50), [sample(1030, 150, 50)], 60, 0) is None  # no lookups


def test_looking_leaves_a_sample(pool, memory):
    mapping = pool.mapping("k", 1000, "1", lambda offset, length: bytes(length))
    for _ in range(4):
        mapping.read_bytes(0, 10)
    ratios = pool.statistics().hit_ratios
    assert ratios == (0.75, 0.75, 0.75)
    assert len(history.samples(memory, 1 << 62)) == 1


def test_histograms_have_quantiles():
    from foliocache.observe.statistics import Histogram

    counts = [0] * layout.BUCKETS
    assert Histogram(tuple(counts), 0.0).quantile(0.5) is None
    counts[0], counts[3], counts[-1] = 5, 4, 1
    found = Histogram(tuple(counts), 1.0)
    assert (found.quantile(0.5), found.quantile(0.9), found.quantile(1)) == (1024 / 1e9, 8192 / 1e9, float("inf"))


# The picture.


def states(picture):
    return [dot & 7 for dot in picture.dots[::2]]


def test_the_picture_of_an_empty_pool(pool):
    found = pool.picture(dots=1000)
    assert set(states(found)) <= {scan.UNBACKED, scan.FREE} and len(states(found)) == 256
    assert (found.pages_per_dot, found.objects, found.object_count) == (1, (), 0)


def test_the_picture_shows_what_is_cached_pinned_and_filled(pool):
    seen = []

    def read(offset, length):
        seen.append(pool.picture(dots=1000))
        return bytes(length)

    mapping = pool.mapping("k", 40_000, "7", read, folio_size="16KiB", readahead=0)
    with mapping.lease(0):
        found = pool.picture(dots=1000)
    (filling,) = seen
    assert states(filling).count(scan.FILLING) == 1 and states(found).count(scan.CACHED) == 1
    (one,) = filling.objects
    assert (one.key, one.version, one.cached_bytes, one.filling_bytes) == ("k", "7", 0, 16384)
    assert one.filler == pool._attachment.number
    (one,) = found.objects
    assert (one.size, one.cached_bytes, one.filling_bytes, one.filler, one.pins, one.folios) == (40_000, 16384, 0, None, 1, 1)
    assert [bool(dot & scan.PINNED) for dot in found.dots[::2] if dot & 7 == scan.CACHED] == [True]
    assert states(found).count(scan.INDEX) == pool.stat().pages_by_state.inode + pool.stat().pages_by_state.node


def test_used_bytes_are_those_of_folios_that_were_used_again(pool, memory):
    mapping = pool.mapping("k", 40_000, "1", lambda offset, length: bytes(length), folio_size="16KiB", readahead=0)
    mapping.read_bytes(0, 40_000)
    for pfn in range(256):  # as reclaim does
        flags.clear(memory.handle, pool._attachment.segment.geometry["memmap"] + 64 * pfn, layout.PG_REFERENCED)
    assert pool.picture().objects[0].used_bytes == 0
    mapping.read_bytes(0, 10)
    assert pool.picture().objects[0].used_bytes == 16384


def test_a_dot_may_stand_for_several_pages(pool, source):
    pool.mapping("k", len(source.content), "1", source.read).read_bytes(0, len(source.content))
    found = pool.picture(dots=60)
    assert (found.pages_per_dot, len(found.dots) // 2) == (5, 52)
    assert scan.CACHED in states(found)


def test_the_largest_objects_come_first(pool):
    for n in (1, 5, 3, 2, 4):
        pool.mapping(f"k{n}", n * 20_000, "1", lambda offset, length: bytes(length)).read_bytes(0, n * 20_000)
    found = pool.picture(objects=3)
    assert [each.key for each in found.objects] == ["k5", "k4", "k3"] and found.object_count == 5
    assert found.dots == b"" and pool.picture(objects=0).objects == ()
    every = pool.picture(dots=2**200, objects=2**200)
    assert (every.pages_per_dot, len(every.dots) // 2) == (1, pool.stat().pages) and len(every.objects) == found.object_count
    for wrong in (-1, 1.0, "1", None, True):
        with pytest.raises(ValueError, match="dots must"):
            pool.picture(wrong)
        with pytest.raises(ValueError, match="objects must"):
            pool.picture(objects=wrong)
    assert json.loads(json.dumps(found.to_dict()))["object_count"] == 5


def test_many_objects_are_all_counted(pool_name):
    pool = foliocache.open(pool_name, size="64MiB", page_size=4096)
    for n in range(3000):
        pool.mapping(f"k{n}", 100, "1", lambda offset, length: bytes(length)).read_bytes(0, 100)
    found = pool.picture(objects=4000)
    assert found.object_count == len(found.objects) == 3000
    assert {each.cached_bytes for each in found.objects} == {100}


def test_damaged_descriptors_do_no_harm(pool, source, memory):
    import random

    rng = random.Random(5)
    pool.mapping("k", len(source.content), "1", source.read).read_bytes(0, len(source.content))
    start = pool._attachment.segment.geometry["memmap"]
    before = memory.peek_bytes(start, 64 * 256)
    for _ in range(2000):
        memory.poke32(start + 4 * rng.randrange(16 * 256), rng.choice((0, 1, 0xFFFFFFFF, rng.getrandbits(32))))
        pool.picture(dots=rng.choice((0, 7, 300)), objects=5)
    for at in range(0, len(before), 4):
        memory.poke32(start + at, int.from_bytes(before[at : at + 4], "little"))


def test_a_closed_pool_is_not_looked_at(pool):
    pool.close()
    for look in (pool.statistics, pool.picture):
        with pytest.raises(foliocache.FoliocacheError, match="closed"):
            look()
