"""``Pool.trim(idle=)``: what was not used for some time is given back."""

import random

import pytest

import foliocache
from foliocache.mm import layout

MIB = 1 << 20
CONTENT = random.Random(0).randbytes(MIB)
TICK = (1 << layout.SEEN_TICK_SHIFT) / 1e9  # seconds


def source(offset, length):
    return CONTENT[offset : offset + length]


@pytest.fixture
def pool(pool_name):
    pool = foliocache.open(pool_name, size="64MiB", max_size="64MiB", pressure=False)
    yield pool
    assert foliocache.open(pool_name, pressure=False).audit() == []


def cached(pool, key):
    """Cache an object of 1 MiB. Return its mapping."""
    mapping = pool.mapping(key, MIB, "1", source)
    assert mapping.read_bytes(0, MIB) == CONTENT
    return mapping


def wait(pool, seconds):
    """Let all that is cached become so much older."""
    memory, shape = pool._memory, pool._attachment.segment.geometry
    for pfn in range(memory.peek32(layout.PAGES_DESCRIBED)):
        at = shape["memmap"] + pfn * layout.FOLIO_SIZE + layout.F_QUEUE
        word = memory.peek32(at)
        if word & layout.QUEUE_MASK:
            seen = (word >> layout.SEEN_SHIFT) - int(seconds / TICK) & layout.SEEN_MASK
            memory.poke32(at, word & (1 << layout.SEEN_SHIFT) - 1 | seen << layout.SEEN_SHIFT)


def test_who_calls_once_a_minute_gives_back_what_was_not_used_for_a_minute(pool):
    """As from cron: some seconds early, some late."""
    used, unused = cached(pool, "used"), cached(pool, "unused")
    pool.trim(idle=60)
    assert unused.is_cached(0, MIB) and used.is_cached(0, MIB)
    for seconds in (60, 58, 61, 60):
        assert used.read_bytes(0, MIB) == CONTENT
        wait(pool, seconds)
        pool.trim(idle=60)
        assert used.is_cached(0, MIB) and not unused.is_cached(0, MIB)
    wait(pool, 60)
    given = pool.trim(idle=60)
    assert not used.is_cached(0, MIB) and given >= 0.95 * MIB and pool.stat().cached_bytes == 0


def test_first_call_looks(pool):
    """What was used counts as used now, because nobody has looked before; what was read ahead alone was never used."""
    mapping = pool.mapping("ahead", 8 * MIB, "1", lambda offset, length: bytes(length), readahead=MIB)
    step = 64 << 10
    for offset in range(0, MIB, step):
        mapping.read_bytes(offset, step)
    pool.close()  # waits for what is read ahead
    pool = foliocache.open(pool.name, pressure=False)
    before = pool.stat().cached_bytes
    wait(pool, 3600)
    pool.trim(idle=600)
    assert mapping_is_cached(pool, MIB) and MIB <= pool.stat().cached_bytes < before
    wait(pool, 3600)
    pool.trim(idle=600)
    assert pool.stat().cached_bytes == 0


def mapping_is_cached(pool, length):
    return pool.mapping("ahead", 8 * MIB, "1").is_cached(0, length)


def test_what_is_held_is_in_use(pool):
    mapping = cached(pool, "held")
    pool.trim(idle=60)
    with mapping.window(0, MIB) as window:
        wait(pool, 3600)
        pool.trim(idle=60)
        assert mapping.is_cached(0, MIB) and bytes(window) == CONTENT
    pool.trim(idle=60)
    assert mapping.is_cached(0, MIB), "it was held a moment ago"
    wait(pool, 3600)
    pool.trim(idle=60)
    assert not mapping.is_cached(0, MIB)


def test_no_more_than_asked_for_and_nothing_that_is_in_use(pool):
    mappings = [cached(pool, f"{n}") for n in range(8)]
    pool.trim(idle=60)
    wait(pool, 60)
    for mapping in mappings[:4]:
        mapping.read_bytes(0, MIB)
    assert 2 * MIB <= pool.trim("2MiB", idle=60) <= 3 * MIB
    assert all(mapping.is_cached(0, MIB) for mapping in mappings[:4])
    assert 1.9 * MIB <= pool.trim("32MiB", idle=60) <= 3 * MIB
    assert [mapping.is_cached(0, MIB) for mapping in mappings] == 4 * [True] + 4 * [False]


def test_a_time_ahead_is_now(pool):
    """Of a process with another clock (in a time namespace)."""
    mapping = cached(pool, "ahead")
    pool.trim(idle=60)
    wait(pool, -3600)
    pool.trim(idle=1)
    assert mapping.is_cached(0, MIB)


def test_reclaim_knows_of_the_use_that_was_seen(pool):
    """A look at what is idle does not change what is evicted next."""
    mapping = cached(pool, "used")
    mapping.read_bytes(0, MIB)
    pool.trim(idle=60)
    words = [word for word in queue_words(pool) if word]
    assert words and all(word >> layout.USED_SHIFT & 1 for word in words)


def queue_words(pool):
    memory, shape = pool._memory, pool._attachment.segment.geometry
    return [
        memory.peek32(shape["memmap"] + pfn * layout.FOLIO_SIZE + layout.F_QUEUE)
        for pfn in range(memory.peek32(layout.PAGES_DESCRIBED))
    ]


@pytest.mark.parametrize("value", [0, -1, float("nan"), 72 * 3600 + 1, float("inf"), "60", True, "lots"])
def test_impossible_time(pool, value):
    with pytest.raises(ValueError, match="idle"):
        pool.trim(idle=value)
