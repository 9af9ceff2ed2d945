"""The client table gets memory slot by slot: for as many processes as attach at once."""

import contextlib
import os
import signal
import subprocess

import pytest
from lines import in_child

import foliocache
from foliocache.mm import client as core
from foliocache.mm import layout
from foliocache.pool import client, geometry

CONTENT = bytes(range(256)) * 1000
MORE = 4


def source(offset, length):
    return CONTENT[offset : offset + length]


def read(pool):
    assert pool.mapping("k", len(CONTENT), "1", source).read_bytes(0, len(CONTENT)) == CONTENT


def taken(pool):
    return os.stat(pool.path).st_blocks * 512


def is_refused(pool, error, why):
    """True if a process that attaches is told this."""

    def attach():
        with pytest.raises(error, match=why):
            read(pool)

    return in_child(attach) == 0


def segment_of(pool):
    return pool._attachment.segment


@contextlib.contextmanager
def attached(pool, count):
    """So many processes, each with a slot of its own."""
    pids, ready, told = [], *os.pipe()
    try:
        for _ in range(count):
            pids.append(os.fork())
            if pids[-1] == 0:
                signal.alarm(60)
                read(pool)
                os.write(told, b".")
                signal.pause()
                os._exit(0)
        for _ in pids:
            assert os.read(ready, 1) == b"."
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(ready)
        os.close(told)


@pytest.mark.parametrize("size", ["16MiB", "64MiB", "1GiB"])
def test_a_new_pool_takes_two_percent_at_most(pool_name, size):
    pool = foliocache.open(pool_name, size=size)
    assert taken(pool) <= pool.pool_bytes / 50
    read(pool)
    assert pool.audit() == []


def test_each_process_beyond_the_first_takes_a_slot(pool_name):
    pool = foliocache.open(pool_name, size="16MiB", clients=64)
    segment = segment_of(pool)
    read(pool)
    first, before = segment.slots, taken(pool)
    assert first == geometry.first_slots(segment.geometry) < 64
    with attached(pool, first + MORE):
        assert segment.slots == first + MORE + 1
        assert taken(pool) - before == (MORE + 1) * layout.CLIENT_SIZE
        assert pool.audit() == [] and len(pool.stat().clients) == first + MORE + 1
    pool.stat()
    assert pool.audit() == [] and pool.repair() == [] and len(pool.stat().clients) == 1
    with attached(pool, first + MORE):  # the slots are used again
        assert segment.slots == first + MORE + 1
    assert pool.stat().counters.hits > 0


def test_no_slot_without_memory_is_looked_at(pool_name):
    pool = foliocache.open(pool_name, size="16MiB", clients=4096)
    read(pool)
    before = taken(pool)
    assert pool.audit() == [] and pool.repair() == [] and pool.statistics().clients == 1 and len(pool.stat().clients) == 1
    assert client.used_slots(segment_of(pool)) == [0]
    assert taken(pool) == before


def test_all_slots_can_be_used(pool_name):
    pool = foliocache.open(pool_name, size="1MiB", max_size="1MiB", clients=10)
    with attached(pool, 9):
        assert is_refused(pool, foliocache.PoolError, "room for 10 client processes")
        assert segment_of(pool).slots == 10


@pytest.fixture
def small_folder(tmp_path, monkeypatch):
    """A file system of 4 MiB for the pools of this test."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_full_file_system_has_no_slot_for_another_process(small_folder, pool_name):
    pool = foliocache.open(pool_name, size="1MiB", max_size="1MiB", clients=64)
    read(pool)
    with attached(pool, segment_of(pool).slots - 1):
        full = small_folder / "full"
        with pytest.raises(OSError, match="No space"), full.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert is_refused(pool, foliocache.PoolFullError, "no memory for another one")
        full.unlink()
        assert in_child(lambda: read(pool)) == 0
    assert pool.audit() == []
    foliocache.remove(pool_name)


@pytest.mark.parametrize("said", [0, 1])
def test_a_number_of_slots_that_is_too_small_is_found_and_repaired(pool_name, said):
    pool = foliocache.open(pool_name, size="1MiB", max_size="1MiB", clients=32)
    read(pool)
    segment = segment_of(pool)
    with attached(pool, 11):
        segment.memory.poke32(layout.SLOTS_BACKED, said)
        held = [found for found in pool.audit() if "is held, but only" in found.message]
        assert len(held) == 12 - said
        assert pool.repair() == [] and segment.slots == 12
    segment.memory.poke32(layout.SLOTS_BACKED, said)  # who has died is found again, too
    assert pool.repair() == [] and segment.slots == 12
    assert all(core.state(segment.mem, n) == layout.SLOT_CLEAN for n in range(1, 12))


def test_a_number_of_slots_that_is_too_large_is_cut(pool_name):
    pool = foliocache.open(pool_name, size="1MiB", max_size="1MiB", clients=12)
    read(pool)
    segment_of(pool).memory.poke32(layout.SLOTS_BACKED, 1 << 31)
    assert segment_of(pool).slots == 12
    assert in_child(lambda: read(pool)) == 0
    assert pool.stat().max_clients == 12
