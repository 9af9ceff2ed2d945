"""A process that lives, and has stopped in a critical section: others read privately, and nothing is lost when it goes on."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

import foliocache
from foliocache.mm import client, layout, wait

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
def stopped(cache, words):
    """While a child has stopped with these locks in its hands; it goes on at the end."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        me, mem = cache._attachment.number, cache._attachment.segment.mem
        client.enter(mem, me)
        for word in words:
            assert wait.lock(mem, word, me) == layout.LOCK_TAKEN
        os.kill(os.getpid(), signal.SIGSTOP)
        for word in words:
            wait.unlock(mem, word)
        client.leave(mem, me)
        os._exit(0)
    try:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)
        status = os.waitpid(pid, 0)[1]
    assert status == 0


@pytest.fixture
def cache(pool_name):
    cache = foliocache.open(pool_name, size="1MiB", page_size=4096, clients=8)
    cache.mapping("cached", len(CONTENT), read=source).read_bytes(0, len(CONTENT))
    return cache


def read_new(cache):
    for n in range(20):
        assert cache.mapping(f"new {n}", 9000, read=source).read_bytes(0, 9000) == CONTENT[:9000]


@pytest.mark.parametrize("locks", LOCKS.values(), ids=LOCKS)
def test_reads_go_on_and_nothing_is_lost(cache, locks):
    before = cache.stat()["counters"]
    with stopped(cache, locks) as pid:
        cached = cache.mapping("cached", len(CONTENT), read=source)
        assert cached.read_bytes(0, len(CONTENT)) == CONTENT
        read_new(cache)
        found = cache.stat()
        assert found["counters"]["stalls"] > before["stalls"]
        if locks != LOCKS["queues"]:  # those are needed when the page is there already
            assert found["counters"]["bypasses"] > before["bypasses"]
        assert {held["pid"] for held in found["locks"]} == {pid}
    read_new(cache)
    cache._attachment.reap()
    assert cache.audit() == []
    assert cache.stat()["pins"] == 0
    assert cache.stat()["locks"] == []


@pytest.mark.parametrize("locks", LOCKS.values(), ids=LOCKS)
def test_last_references_come_free_later(cache, locks):
    """More of them than an operation can name, while no page can be freed."""
    mapping = cache.mapping("cached", len(CONTENT), read=source)
    leases = [mapping.lease(n) for n in range(mapping.folios)]
    window = mapping.window()
    assert len(leases) > layout.OPS
    mapping.invalidate()
    free = cache.stat()["free_bytes"]
    with stopped(cache, locks):
        leases.clear()
        window.close()
        read_new(cache)
    cache._attachment.reap()
    assert cache.audit() == []
    assert cache.stat()["pins"] == 0
    cache.repair()
    read_new(cache)
    for n in range(20):
        cache.forget(f"new {n}")
    kept = layout.SLABS * layout.SLAB_KEEP * 4096
    assert cache.stat()["free_bytes"] >= free + len(CONTENT) - kept
    assert cache.audit() == []


def refusal(method):
    """What the error says that method() raises; nothing if it raises none."""
    try:
        method()
    except foliocache.FoliocacheError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("locks", LOCKS.values(), ids=LOCKS)
def test_what_has_to_be_certain_is_refused_in_words(cache, locks):
    mapping = cache.mapping("cached", len(CONTENT), read=source)
    with stopped(cache, locks):
        for method in (mapping.invalidate, lambda: cache.forget("cached")):
            said = refusal(method)
            assert "foliocache stat" in said if said else not any(mapping.is_cached(n) for n in range(mapping.folios))
    mapping.invalidate()
    assert not any(mapping.is_cached(n) for n in range(mapping.folios))
    cache._attachment.reap()
    assert cache.audit() == []


def test_a_fill_that_cannot_be_withdrawn_is_taken_over(cache):
    """Its source fails while the folio cannot leave its mapping: the next reader fills it."""

    def failing(offset, length):
        entered.append(contexts.enter_context(stopped(cache, LOCKS["trees"])))
        raise OSError("the origin is down")

    entered = []
    with contextlib.ExitStack() as contexts:
        with pytest.raises(OSError, match="origin is down"):
            cache.mapping("failing", 4096, read=failing).read(0, 10)
        assert entered
    assert cache.mapping("failing", 4096, read=source).read_bytes(0, 10) == CONTENT[:10]
    assert cache.audit() == []


def test_the_command_line_says_who_holds_a_lock(cache):
    command = [sys.executable, "-m", "foliocache", "stat", cache.name]
    with stopped(cache, LOCKS["allocator"]) as pid:
        said = " ".join(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())
        assert "locks held: allocator by slot" in said
        assert f"(pid {pid})" in said
    assert "locks held" not in subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
