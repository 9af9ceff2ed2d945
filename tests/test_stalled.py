"""A living process has stopped in a critical section: others read uncached, and nothing is lost when it goes on."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from units import offsets, units

import foliocache
from foliocache.mm import client, layout, robust_lock

LOCKS = {
    "allocator": [layout.ALLOC_LOCK],
    "queues": [layout.LRU_LOCK],
    "table": [layout.TABLE_LOCK],
    "nodes": [layout.SLAB_LOCK],
    "records": [layout.SLAB_LOCK + layout.SLAB_STRIDE],
    "trees": [layout.TREE_LOCK + n * layout.LINE for n in range(layout.TREE_LOCKS)],
}
CONTENT = bytes(range(256)) * 400


def source(offset, length):
    return CONTENT[offset : offset + length]


@contextlib.contextmanager
def stopped(pool, words):
    """Run the body of a ``with`` while a child has stopped with these locks held; it goes on at the end."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        me, mem = pool._attachment.number, pool._attachment.segment.mem
        client.op_begin(mem, me)
        for word in words:
            assert robust_lock.lock(mem, word, me) == layout.LOCK_TAKEN
        os.kill(os.getpid(), signal.SIGSTOP)
        for word in words:
            robust_lock.unlock(mem, word)
        client.op_end(mem, me)
        os._exit(0)
    try:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)
        status = os.waitpid(pid, 0)[1]
    assert status == 0


@pytest.fixture
def pool(pool_name):
    pool = foliocache.open(pool_name, size="1MiB", page_size=4096, clients=8)
    pool.mapping("cached", len(CONTENT), read=source).read_bytes(0, len(CONTENT))
    return pool


def read_new(pool):
    for n in range(20):
        assert pool.mapping(f"new {n}", 9000, read=source).read_bytes(0, 9000) == CONTENT[:9000]


@pytest.mark.parametrize("locks", LOCKS.values(), ids=LOCKS)
def test_reads_go_on_and_nothing_is_lost(pool, locks):
    before = pool.stat().counters
    with stopped(pool, locks) as pid:
        cached = pool.mapping("cached", len(CONTENT), read=source)
        assert cached.read_bytes(0, len(CONTENT)) == CONTENT
        read_new(pool)
        found = pool.stat()
        assert found.counters.stalls > before.stalls
        if locks != LOCKS["queues"]:  # those are needed when the page is there already
            assert found.counters.bypasses > before.bypasses
        assert {held.pid for held in found.locks} == {pid}
    read_new(pool)
    pool._attachment.reap()
    assert pool.audit() == []
    assert pool.stat().pins == 0
    assert pool.stat().locks == ()


@pytest.mark.parametrize("locks", LOCKS.values(), ids=LOCKS)
def test_last_references_come_free_later(pool, locks):
    """More of them than an operation has words, while no page can be freed."""
    mapping = pool.mapping("cached", len(CONTENT), read=source)
    leases = units(mapping)
    window = mapping.window()
    assert len(leases) > layout.OPS
    mapping.invalidate()
    free = pool.stat().free_bytes
    with stopped(pool, locks):
        leases.clear()
        window.close()
        read_new(pool)
    pool._attachment.reap()
    assert pool.audit() == []
    assert pool.stat().pins == 0
    pool.repair()
    read_new(pool)
    for n in range(20):
        pool.forget(f"new {n}")
    kept = layout.SLABS * layout.SLAB_KEEP * 4096
    assert pool.stat().free_bytes >= free + len(CONTENT) - kept
    assert pool.audit() == []


def refusal(method):
    """Return the text of the error that method() raises, or an empty string."""
    try:
        method()
    except foliocache.FoliocacheError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("locks", LOCKS.values(), ids=LOCKS)
def test_what_has_to_be_certain_is_refused_in_words(pool, locks):
    mapping = pool.mapping("cached", len(CONTENT), read=source)
    with stopped(pool, locks):
        for method in (mapping.invalidate, lambda: pool.forget("cached")):
            said = refusal(method)
            assert "foliocache stat" in said if said else not any(mapping.is_cached(offset, 1) for offset in offsets(mapping))
    mapping.invalidate()
    assert not any(mapping.is_cached(offset, 1) for offset in offsets(mapping))
    pool._attachment.reap()
    assert pool.audit() == []


def test_a_fill_that_cannot_be_withdrawn_is_taken_over(pool):
    """The source fails while the folio cannot leave its mapping: the next reader fills it."""

    def failing(offset, length):
        entered.append(contexts.enter_context(stopped(pool, LOCKS["trees"])))
        raise OSError("the origin is down")

    entered = []
    with contextlib.ExitStack() as contexts:
        with pytest.raises(OSError, match="origin is down"):
            pool.mapping("failing", 4096, read=failing).read(0, 10)
        assert entered
    assert pool.mapping("failing", 4096, read=source).read_bytes(0, 10) == CONTENT[:10]
    assert pool.audit() == []


def test_the_command_line_says_who_holds_a_lock(pool):
    command = [sys.executable, "-m", "foliocache", "stat", pool.name]
    with stopped(pool, LOCKS["allocator"]) as pid:
        said = " ".join(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())
        assert "locks held: allocator by slot" in said
        assert f"(pid {pid})" in said
    assert "locks held" not in subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
