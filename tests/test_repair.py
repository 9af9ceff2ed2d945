"""``Pool.repair`` on a pool in use changes nothing in a pool without damage, and only what is damaged otherwise."""

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest
from units import is_cached, units

import foliocache
from foliocache.mm import audit, layout
from foliocache.pool import repair

PAGE = 4096
OBJECTS = 60
CONTENT = bytes(range(256)) * 64


def source(offset, length):
    return CONTENT[offset : offset + length]


@pytest.fixture
def pool(pool_name):
    pool = foliocache.open(pool_name, size="4MiB", max_size="4MiB", page_size=PAGE, clients=8)
    for mapping in mappings(pool):
        mapping.read_bytes(0, len(CONTENT))
    return pool


def mappings(pool):
    return [pool.mapping(f"object {n}", len(CONTENT), read=source) for n in range(OBJECTS)]


def hammer(pool):
    """Take leases of a few objects repeatedly, so that their counts change all the time."""
    hot = mappings(pool)[:3]
    while True:
        for mapping in hot:
            leases = units(mapping)
            del leases


@contextlib.contextmanager
def at_work(pool, work, count=3):
    """Run children that use the pool, for the time of a ``with``."""
    children = []
    try:
        for _ in range(count):
            ready, go = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.alarm(120)
                os.write(go, b".")
                work(pool)
            children.append(pid)
            assert os.read(ready, 1)
            os.close(ready)
            os.close(go)
        yield
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_sound_pool_in_use_stays_as_it_is(pool):
    before = pool.stat()
    with at_work(pool, hammer):
        for _ in range(30):
            pool.repair()
    pool._attachment.reap()
    assert pool.audit() == []
    after = pool.stat()
    assert after.cached_bytes >= before.cached_bytes - 3 * 3 * PAGE  # the price of the children's deaths, not of the repairs
    assert after.counters.misses == before.counters.misses
    assert all(is_cached(mapping, 0) for mapping in mappings(pool)[3:])


def test_what_looks_damaged_in_passing_is_not_dropped(pool, monkeypatch):
    """An audit that reports every page proves nothing."""
    pages = pool.stat().pages
    real = audit.audit
    accused = [{"check": "count", "where": f"pfn {pfn}", "message": "seen in passing"} for pfn in range(pages)]
    calls = []

    def accusing(memory):
        calls.append(memory)
        return accused if len(calls) < 20 else real(memory)

    monkeypatch.setattr(repair.audit, "audit", accusing)
    cached = pool.stat().cached_bytes
    pool.repair()
    assert len(calls) > 5
    assert pool.stat().cached_bytes == cached
    assert real(pool._attachment.memory) == []


def test_damage_is_repaired_beside_others(pool):
    """Pages not in use are damaged while children work on other pages, with pauses."""

    def work(pool):
        hot = mappings(pool)[:3]
        while True:
            for mapping in hot:
                mapping.read_bytes(0, len(CONTENT))
            signal.sigtimedwait([], 0.002)

    victim = mappings(pool)[20]
    pfn = int(repr(victim.lease(0)).split("pfn ")[1].rstrip(">"))
    segment = pool._attachment.segment
    at = segment.geometry["memmap"] + pfn * layout.FOLIO_SIZE
    with at_work(pool, work):
        segment.memory.poke32(at + layout.F_REF, 9)
        for _ in range(20):
            if not any(found.where == f"pfn {pfn}" for found in pool.repair()):
                break
        assert segment.memory.peek32(at + layout.F_REF) != 9
    pool._attachment.reap()
    assert pool.repair() == []
    assert victim.read_bytes(0, len(CONTENT)) == CONTENT


def test_names_that_wait_are_never_lost(pool):
    """More damaged pages are held than an operation has words: all are freed when they are released."""
    held = [mapping.lease(0) for mapping in mappings(pool)[: layout.OPS + 10]]
    segment = pool._attachment.segment
    for lease in held:
        pfn = int(repr(lease).split("pfn ")[1].rstrip(">"))
        segment.memory.poke32(segment.geometry["memmap"] + pfn * layout.FOLIO_SIZE + layout.F_REF, 7)
    assert pool.repair() == []
    del held, lease
    assert pool.repair() == []
    found = audit.Audit(segment.mem)
    assert found.run() == []
    assert not found.intents
    assert pool.stat().pages_by_state.frozen == 0


def test_every_check_is_repaired():
    """Either a part is rebuilt, or the rest of a repair settles what the check has found."""
    with open(Path(audit.__file__).with_name("audit.py")) as file:
        checks = set(re.findall(r'self\.find\(\s*"(\w+)"', file.read()))
    settled = {"client", "count", "fill", "frozen", "lock", "object", "quarantine"}
    assert repair.PARTS.keys() | settled == checks and not repair.PARTS.keys() & settled


def test_a_page_of_objects_of_an_order_is_a_single_page(pool):
    """It is found under the name of its type, and the slabs' repair sets the word."""
    segment = pool._attachment.segment
    words = [segment.geometry["memmap"] + n * layout.FOLIO_SIZE + layout.F_TYPE for n in range(segment.geometry["npages"])]
    word = next(word for word in words if segment.memory.peek32(word) == layout.TYPE_INODE)
    segment.memory.poke32(word, layout.TYPE_INODE | 10 << layout.ORDER_SHIFT)
    assert "type" in {found.check for found in pool.audit()}
    assert pool.repair() == []
    assert segment.memory.peek32(word) == layout.TYPE_INODE
