"""Where others need memory, a pool gives some back: by itself, one process at a time, and as much as is missing."""

import os
import random
import signal
import subprocess
import sys

import pytest
from test_headroom import MIB, SHAPE, Group, cached, second, source, wait_for

import foliocache
from foliocache.mm.atomics import Memory
from foliocache.pool import headroom, machine, pressure

LIMIT = 200 * MIB
FLOOR = LIMIT // 10
OBJECTS = 32  # of 1 MiB


class Charged(Group):
    """A cgroup, as it looks, that a pool's memory is charged to; ``others`` is what else is."""

    others = 20 * MIB

    def charge(self, pool):
        """Write what is charged now. Return the bytes that are left."""
        usage = self.others + os.stat(pool.path).st_blocks * 512
        self.write(current=usage)
        return LIMIT - usage


@pytest.fixture
def group(tmp_path, monkeypatch):
    made = Charged(tmp_path / "group", max=LIMIT, high="max", current=Charged.others, stat="anon 5")
    monkeypatch.setattr(machine, "groups", lambda: (str(made.folder),))
    return made


@pytest.fixture
def filled(pool_name, group, monkeypatch):
    """A pool that is full of objects. What it gives back, the group is not charged for any more."""
    give_back = pressure.give_back

    def given(*args):
        try:
            return give_back(*args)
        finally:
            group.charge(pool)

    monkeypatch.setattr(pressure, "give_back", given)
    pool = foliocache.open(pool_name, size="64MiB", min_free="10%", max_size="64MiB")
    for n in range(OBJECTS):
        assert cached(pool, f"{n}")
    group.charge(pool)
    yield pool
    quieten(pool)
    pool.close()


def quieten(pool):
    """End this process's thread."""
    watch = pool._pressure._watch
    pool._pressure.stop()
    assert watch is None or watch.ended.acquire(timeout=60)


def threads():
    """Return the numbers of this process's threads. One that has said that it ends may still be among them."""
    return set(os.listdir("/proc/self/task"))


def grow(pool, group):
    """Let others grow until half of the floor is missing, and wait until it is free again. Return the bytes that are left."""
    group.others = LIMIT - FLOOR // 2 - os.stat(pool.path).st_blocks * 512
    assert group.charge(pool) == FLOOR // 2
    wait_for(lambda: LIMIT - group.others - os.stat(pool.path).st_blocks * 512 >= FLOOR - FLOOR // 8)
    return group.charge(pool)


def test_what_others_need_is_given_back_and_no_more(filled, group):
    kept = filled.mapping("31", MIB, "1", source).lease(0)
    left = grow(filled, group)
    found = filled.stat()
    assert left <= 2 * FLOOR and found.backed_bytes > OBJECTS * MIB // 2, "more was given back than was missing"
    assert found.counters.given_back_pressure <= found.counters.given_back and found.counters.evictions
    assert bytes(kept) == source(0, len(bytes(kept))), "what is in use stays"
    group.others = 20 * MIB
    group.charge(filled)
    wait_for(lambda: cached(filled, f"{random.random()}") and filled.stat().backed_bytes > found.backed_bytes)


def test_free_pages_go_first(filled, group):
    for n in range(OBJECTS - 2):
        filled.forget(f"{n}")
    assert filled.stat().free_bytes >= (OBJECTS - 3) * MIB
    grow(filled, group)
    found = filled.stat()
    assert found.counters.evictions == 0 and filled.mapping("31", MIB, "1").is_cached(0, MIB) and filled.audit() == []


def test_it_ends_when_there_is_nothing_left(filled, group):
    """A limit that others have reached alone: the pool gives all it has, and reads are private."""
    group.others = LIMIT
    group.charge(filled)
    wait_for(lambda: filled.stat().cached_bytes == 0)
    keys = iter(range(1 << 30))
    wait_for(lambda: not cached(filled, f"x {next(keys)}"))
    assert filled.audit() == []


def test_what_is_not_charged_to_a_group_is_kept(filled, group):
    """Its limit is near, but the pool's memory was taken by others: giving it back would not help."""
    quieten(filled)
    group.write(max=LIMIT, current=LIMIT - MIB, stat="anon 5\nshmem 0\n")
    assert headroom.short(filled._memory) == (0, 0)
    group.write(stat="anon 5\nshmem 65536\n")
    assert headroom.short(filled._memory) == (65536, 0)


def test_nobody_watches_before_there_is_memory(pool_name, group):
    before = threads()
    pool = foliocache.open(pool_name, size="64MiB")
    assert not pool.mapping("a", MIB, "1").is_cached(0, MIB) and pool.stat().counters.hits == 0
    assert threads() <= before and not pool._attachment.watching
    assert cached(pool, "a")
    assert pool._attachment.watching and pool._pressure._watch is not None


def test_off(pool_name, group):
    before = threads()
    pool = foliocache.open(pool_name, size="64MiB", pressure=False)
    assert cached(pool, "a") and threads() <= before
    assert foliocache.open(pool_name, pressure=True) is pool and pool._pressure._watch is not None
    watch = pool._pressure._watch
    foliocache.open(pool_name, pressure=False)
    assert pool._pressure._watch is None and watch.ended.acquire(timeout=60)


def test_a_closed_pool_is_not_watched(pool_name, group):
    pool = foliocache.open(pool_name, size="64MiB")
    assert cached(pool, "a")
    watch = pool._pressure._watch
    pool.close()
    assert watch.ended.acquire(timeout=60)


def test_a_pool_that_is_forgotten_is_not_watched(pool_name, group):
    pool = foliocache.open(pool_name, size="64MiB")
    assert cached(pool, "a")
    watch = pool._pressure._watch
    del pool
    assert watch.ended.acquire(timeout=60)


@pytest.mark.parametrize("value", ["yes", 1, 0])
def test_no_choice(pool_name, value):
    with pytest.raises(ValueError, match="pressure must be True or False"):
        foliocache.open(pool_name, size="1MiB", pressure=value)
    assert not os.path.exists(f"/dev/shm/foliocache.{pool_name}")


def test_it_stays_off_in_a_pool_that_is_pickled(pool_name):
    pool = foliocache.open(pool_name, size="64MiB", pressure=False)
    assert pool.__reduce__()[1][-1] is False
    foliocache.open(pool_name, pressure=True)
    assert pool.__reduce__()[1][-1] is None


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_another_process_takes_over(filled, group, how):
    """The process that has the turn stops, or dies."""
    told, tell = os.pipe()
    quieten(filled)  # so the child has the turn
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(120)
            assert cached(filled, "child")
            wait_for(lambda: filled._pressure._watch.turn)
            os.write(tell, b"1")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(told, 1)
        filled._pressure.start()
        os.kill(pid, how)
        os.waitpid(pid, os.WUNTRACED)
        grow(filled, group)
        if how == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    finally:
        if how == signal.SIGSTOP:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(told)
        os.close(tell)
    filled._attachment.reap()
    assert filled.audit() == []


def test_a_forked_child_watches_when_it_takes_memory(filled):
    pid = os.fork()
    if pid == 0:
        try:
            before = threads()  # some libraries start theirs right after a fork
            assert filled.mapping("1", MIB, "1").is_cached(0, MIB) and threads() <= before and not filled._attachment.watching
            assert cached(filled, "child")
            assert filled._attachment.watching and threads() - before
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_interpreter_that_ends_while_it_watches(pool_name):
    code = f"""
import foliocache, os, sys
pool = foliocache.open({pool_name!r}, size="64MiB")
assert pool.mapping("a", 100, "1", lambda offset, length: bytes(length)).read_bytes(0, 100) == bytes(100)
assert pool._pressure._watch is not None
if os.fork() == 0:
    sys.exit(0)
assert os.wait()[1] == 0
"""
    done = subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], capture_output=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_exception_while_the_watch_begins_is_the_readers(pool_name, group, monkeypatch):
    """What a signal handler raises then. The next read begins it again."""
    pool = foliocache.open(pool_name, size="4MiB")
    mapping = pool.mapping("k", 100, "v", lambda offset, length: bytes(length))

    class Stop(Exception):
        pass

    def interrupted(*args):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(pressure._thread, "start_new_thread", interrupted)
        with pytest.raises(Stop):
            mapping.lease(0)
    assert not pool._attachment.watching
    assert mapping.read(0, 100) == bytes(100)
    assert pool._attachment.watching
    quieten(pool)


def test_short():
    def short(group, floor):
        memory = Memory(bytearray(SHAPE["size"]), bytearray(SHAPE["size"]), SHAPE)
        headroom.watch(memory, [str(group.folder)])
        headroom.set_floor(memory, 0, floor)
        return headroom.short(memory)

    class Somewhere:
        folder = "/nowhere"

    missing, slack = short(Somewhere, MIB)
    assert missing == 0 and slack > 0, "the machine has a limit"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [(0, (0, 930)), (900, (0, 30)), (930, (0, 0)), (931, (31, 0)), (1000, (100, 0)), (1100, (100, 0))],
)
def test_what_is_missing(usage, expected, tmp_path):
    group = second(tmp_path / "own", 1000 * MIB, usage * MIB)
    memory = Memory(bytearray(SHAPE["size"]), bytearray(SHAPE["size"]), SHAPE)
    headroom.watch(memory, [str(group.folder)])
    headroom.set_floor(memory, 0, 80 * MIB)  # 70 MiB are enough, 100 MiB are wanted
    assert headroom.short(memory) == tuple(n * MIB for n in expected)


def test_the_time_between_looks_follows_what_is_left(filled, group):
    watch = pressure._Watch(filled._pressure._attachment)
    quieten(filled)
    wait_for(lambda: watch.look() and watch.turn)
    group.write(current=LIMIT // 4)
    assert watch.look() == pressure.LOOK_MAX
    group.write(current=LIMIT - FLOOR)
    assert watch.look() == pressure.LOOK_MIN
    filled.close()
    assert watch.look() is None
