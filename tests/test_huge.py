"""Pools on file systems with huge pages: memory comes and goes in whole ones."""

import os
import random
import re
import subprocess
import sys

import pytest

import foliocache
from foliocache.mm import layout
from foliocache.pool import headroom, machine

MIB = 1 << 20
HUGE = 1 << layout.HUGE_SHIFT
CONTENT = random.Random(0).randbytes(MIB) * 10


def source(offset, length):
    at = offset % MIB
    return CONTENT[at : at + length]


def mounted(place, options):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True).returncode:
        pytest.skip("a file system with huge pages cannot be mounted here")


@pytest.fixture(params=["within_size", "advise", "always"])
def folder(request, tmp_path, monkeypatch):
    """A file system with huge pages for the pools of this test."""
    mounted(tmp_path, f"size=256m,huge={request.param}")
    monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)
    assert machine.huge_pages(str(tmp_path)) == ""


def taken(pool):
    return os.stat(pool.path).st_blocks * 512


def mapped_huge(pool):
    """Return the bytes of a pool's file that this process has mapped as huge pages."""
    with open("/proc/self/smaps") as file:
        parts = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", file.read())
    number = str(os.stat(pool.path).st_ino)
    own = [part for part in parts if part.split(maxsplit=5)[4:5] == [number]]
    found = [re.search(r"ShmemPmdMapped:\s*(\d+)", part) for part in own]
    return sum(int(each[1]) << 10 for each in found if each)


def data_of(pool):
    return os.stat(pool.path).st_size - pool.max_bytes


def read_all(mapping, size):
    for offset in range(0, size, MIB):
        assert mapping.read_bytes(offset, MIB) == source(offset, MIB)


def test_memory_comes_and_goes_in_huge_pages(folder):
    pool = foliocache.open("pool", size="128MiB", max_size="128MiB", pressure=False)
    assert pool._attachment.segment.chunk == HUGE
    tables = taken(pool)
    mapping = pool.mapping("k", 96 * MIB, "1", source)
    assert mapping.read_bytes(0, 100) == source(0, 100)
    assert headroom.resident(pool._attachment.segment.fd, data_of(pool), 128 * MIB) in (None, HUGE)
    read_all(mapping, 96 * MIB)
    assert pool.audit() == []
    if mapped_huge(pool) < 48 * MIB:
        pytest.skip("the kernel has no huge pages now")
    pool.forget("k")
    free = pool.stat().pages_by_state.free * pool.page_size
    before = taken(pool)
    given = pool.trim()
    assert given >= 0.95 * free >= 90 * MIB and taken(pool) == before - given
    assert pool.stat().backed_bytes <= 2 * HUGE and taken(pool) <= tables + 4 * HUGE
    read_all(mapping, 96 * MIB)
    assert pool.audit() == []


def test_idle_folios_are_given_back_in_whole_huge_pages(folder):
    pool = foliocache.open("pool", size="64MiB", max_size="64MiB", pressure=False)
    read_all(pool.mapping("k", 32 * MIB, "1", source), 32 * MIB)
    for seconds in (60, 1e-3):
        pool.trim(idle=seconds)
    assert pool.trim("16MiB") >= 16 * MIB and pool.audit() == []


def test_a_full_file_system_is_no_memory(tmp_path, monkeypatch):
    """However the kernel is asked for huge pages."""
    for kind in ("within_size", "advise"):
        mounted(tmp_path, f"size=20m,huge={kind}")
        try:
            monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
            pool = foliocache.open("pool", size="64MiB", clients=4, pressure=False)
            read_all(pool.mapping("k", 32 * MIB, "1", source), 32 * MIB)
            found = pool.stat()
            assert found.counters.evictions > 0 and 2 * HUGE <= found.backed_bytes <= 20 * MIB and pool.audit() == []
            pool.close()
        finally:
            subprocess.run(["umount", "-l", tmp_path], check=True)


def test_room_for_a_huge_page_is_looked_at_before(folder, monkeypatch, tmp_path_factory):
    group = tmp_path_factory.mktemp("group")
    for name, value in (("max", 100 * MIB), ("high", "max"), ("current", 100 * MIB - HUGE + 4096), ("stat", "")):
        (group / f"memory.{name}").write_text(f"{value}\n")
    monkeypatch.setattr(machine, "groups", lambda: (str(group),))
    pool = foliocache.open("pool", size="64MiB", clients=4, min_free=0, pressure=False)
    mapping = pool.mapping("k", 4 * MIB, "1", source)
    assert mapping.read_bytes(0, 1000) == source(0, 1000) and not mapping.is_cached(0, 1000)
    assert pool.stat().backed_bytes == 0 and headroom.resident(pool._attachment.segment.fd, data_of(pool), HUGE) in (None, 0)


def test_a_small_pool_gets_memory_in_small_pieces(folder):
    """Where the file system gives more, that is no finding: it came with what has a mark."""
    pool = foliocache.open("pool", size="8MiB", max_size="8MiB", pressure=False)
    assert pool._attachment.segment.chunk == 1 << layout.CHUNK_SHIFT
    mapping = pool.mapping("k", 4 * MIB, "1", source)
    read_all(mapping, 4 * MIB)
    assert pool.audit() == []
    pool.forget("k")
    assert pool.trim() > 3 * MIB and pool.audit() == []
    read_all(mapping, 4 * MIB)
    assert pool.repair() == []


def test_a_file_system_that_stops_giving_huge_pages(folder):
    """The chunk of a pool stays; its memory comes in small pages then."""
    pool = foliocache.open("pool", size="64MiB", max_size="64MiB", pressure=False)
    subprocess.run(["mount", "-o", "remount,huge=never", folder], check=True)
    mapping = pool.mapping("k", 8 * MIB, "1", source)
    read_all(mapping, 8 * MIB)
    assert pool._attachment.segment.chunk == HUGE and pool.audit() == []
    pool.forget("k")
    assert pool.trim() >= 6 * MIB and pool.audit() == []


def test_a_file_system_that_begins_to_give_huge_pages(tmp_path, monkeypatch):
    """A pool that was made before keeps its pieces."""
    mounted(tmp_path, "size=128m")
    try:
        monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
        pool = foliocache.open("pool", size="64MiB", max_size="64MiB", pressure=False)
        mapping = pool.mapping("k", 16 * MIB, "1", source)
        read_all(mapping, 4 * MIB)
        subprocess.run(["mount", "-o", "remount,huge=within_size", tmp_path], check=True)
        read_all(mapping, 16 * MIB)
        assert pool._attachment.segment.chunk == 1 << layout.CHUNK_SHIFT and pool.audit() == []
        pool.forget("k")
        free = pool.stat().pages_by_state.free * pool.page_size
        assert pool.trim() >= 0.95 * free and pool.audit() == []
        pool.close()
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


WRITER = """
import sys, foliocache
pool = foliocache.open("pool", pressure=False)
mapping = pool.mapping("k", 48 << 20, "1", lambda offset, length: bytes(length))
print("ready", flush=True)
while True:
    for offset in range(0, 48 << 20, 1 << 20):
        mapping.read_bytes(offset, 1 << 20)
    pool.forget("k")
    pool.trim()
"""


def test_death_of_a_client_that_takes_and_gives_huge_pages(folder):
    """It is killed at any instruction, five times."""
    pool = foliocache.open("pool", size="64MiB", max_size="64MiB", pressure=False)
    moments = random.Random(1)
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "ready\n"
            for _ in range(moments.randrange(1, 60)):
                pool.stat()
            writer.kill()
        pool.stat()  # settles what it has left
        assert pool.audit() == []
    pool.forget("k")
    pool.trim()
    assert pool.stat().backed_bytes <= 2 * HUGE and pool.audit() == []


def test_what_a_kernel_says(monkeypatch):
    size = f"{HUGE}\n"
    device = os.stat("/dev/shm").st_dev
    place = f"{os.major(device)}:{os.minor(device)}"
    assert machine._huge_pages(place, "always [never] deny force\n", "0") == ""
    assert machine._huge_pages(place, "always never [deny] force\n", size) == ""
    assert machine._huge_pages(place, "always never deny [force]\n", size) == "given"
    assert machine._huge_pages("999:999", "always [never] deny force\n", size) == ""
    assert machine.huge_pages("/nowhere/at/all") == ""
