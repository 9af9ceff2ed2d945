"""Pools in huge pages: memory comes and goes in whole ones. The file system gives them, or the kernel is asked to make them
(``huge=never``, as in /dev/shm)."""

import json
import os
import random
import re
import subprocess
import sys

import numpy
import pytest

import foliocache
from foliocache.cli.hugepages import huge_bytes
from foliocache.mm import layout
from foliocache.pool import geometry, headroom, machine, mapped, pressure

MIB = 1 << 20
HUGE = 1 << layout.HUGE_SHIFT
CONTENT = random.Random(0).randbytes(MIB) * 10


def source(offset, length):
    at = offset % MIB
    return CONTENT[at : at + length]


def mounted(place, options):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True).returncode:
        pytest.skip("a file system with huge pages cannot be mounted here")


@pytest.fixture(params=["within_size", "advise", "always", "never"])
def folder(request, tmp_path, monkeypatch):
    """A file system for the pools of this test, which get huge pages in it from 64 MiB on."""
    before = machine.huge_pages(str(tmp_path))
    mounted(tmp_path, f"size=256m,huge={request.param}")
    monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
    monkeypatch.setattr(geometry, "COLLAPSE_MIN", geometry.HUGE_MIN)
    if not machine.huge_pages(str(tmp_path)):
        pytest.skip("this kernel makes no huge pages when asked")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)
    assert machine.huge_pages(str(tmp_path)) == before


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


def test_how_much_is_in_huge_pages_is_told(folder, tmp_path_factory):
    pool = foliocache.open("pool", size="128MiB", max_size="128MiB", pressure=False)
    tables = huge_bytes(pool.stat())
    assert tables <= 4 * HUGE
    assert huge_bytes(pool.stat(), str(tmp_path_factory.mktemp("proc"))) is None  # nobody may be looked at
    read_all(pool.mapping("k", 96 * MIB, "1", source), 96 * MIB)
    if mapped_huge(pool) < 48 * MIB:
        pytest.skip("the kernel has no huge pages now")
    told = huge_bytes(pool.stat())
    assert 24 * MIB <= told <= mapped_huge(pool) and told % HUGE == 0 and told <= taken(pool)
    command = [sys.executable, "-m", "foliocache", "stat", "pool", "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert json.loads(shown)["huge_bytes"] == told
    pool.forget("k")
    pool.trim()
    assert huge_bytes(pool.stat()) <= tables + 2 * HUGE


def test_idle_folios_are_given_back_in_whole_huge_pages(folder):
    pool = foliocache.open("pool", size="64MiB", max_size="64MiB", pressure=False)
    read_all(pool.mapping("k", 32 * MIB, "1", source), 32 * MIB)
    for seconds in (60, 1e-3):
        pool.trim(idle=seconds)
    assert pool.trim("16MiB") >= 16 * MIB and pool.audit() == []


def test_a_full_file_system_is_no_memory(tmp_path, monkeypatch):
    """However the kernel is asked for huge pages."""
    monkeypatch.setattr(geometry, "COLLAPSE_MIN", geometry.HUGE_MIN)
    for kind in ("within_size", "advise", "never"):
        mounted(tmp_path, f"size=20m,huge={kind}")
        try:
            monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
            pool = foliocache.open("pool", size="64MiB", clients=4, pressure=False)
            read_all(pool.mapping("k", 32 * MIB, "1", source), 32 * MIB)
            found = pool.stat()
            assert found.counters.evictions > 0 and 2 * HUGE <= found.backed_bytes <= 20 * MIB and pool.audit() == []
            assert pool._attachment.segment.chunk == HUGE
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


def test_the_watcher_gives_back_what_came_with_other_memory(folder):
    """A small pool: of 2 MiB that the file system has given at once, the pool has used a part."""
    pool = foliocache.open("pool", size="16MiB", max_size="16MiB", pressure=False)
    tables = taken(pool)
    for part in range(4):
        key = str(part)
        mapping = pool.mapping(key, 3 * MIB, "1", source)
        assert mapping.read_bytes(0, MIB) == source(0, MIB) and mapping.read_bytes(2 * MIB, 100) == source(2 * MIB, 100)
    while pressure.give_back(pool._attachment, MIB):
        pass
    assert pool.stat().cached_bytes == 0 and pool.stat().backed_bytes <= MIB
    assert taken(pool) <= tables + MIB and pool.audit() == []
    assert pool.stat().counters.given_back_pressure <= pool.stat().counters.given_back


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
    """A pool that was made before keeps its pieces; one that is too small for huge pages that the kernel has to make, too."""
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
    usual, deny, force = "always [never] deny force\n", "always never [deny] force\n", "always never deny [force]\n"
    on, off = "always [madvise] never\n", "always madvise [never]\n"
    assert machine._huge_pages(place, usual, "0", on) == ""
    assert machine._huge_pages(place, deny, size, on) == ""
    assert machine._huge_pages(place, force, size, off) == "given"
    assert machine._huge_pages("999:999", usual, size, on) == ""
    monkeypatch.setattr(mapped, "can_collapse", lambda: True)
    with open("/proc/self/mountinfo") as file:
        shared = next(line for line in file if f" {place} " in line)
    if "huge=" not in shared and " - tmpfs " in shared:
        assert machine._huge_pages(place, usual, size, on) == "collapsed"
        assert machine._huge_pages(place, usual, size, off) == machine._huge_pages(place, usual, size, "") == ""
        monkeypatch.setattr(mapped, "can_collapse", lambda: False)
        assert machine._huge_pages(place, usual, size, on) == ""
    assert machine.huge_pages("/nowhere/at/all") == ""


PLAIN = """
import ctypes, os, sys, foliocache
if sys.argv[1] == "without":  # PR_SET_THP_DISABLE: the kernel refuses every huge page to this process
    assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
pool = foliocache.open("pool", size="64MiB", max_size="64MiB", pressure=False, huge=True)
assert pool._attachment.segment.chunk == 2 << 20
content = b"".join(bytes([n]) * (1 << 20) for n in range(40))
mapping = pool.mapping("k", 40 << 20, "1", lambda offset, length: content[offset : offset + length])
assert all(mapping.read_bytes(n << 20, 1 << 20) == bytes([n]) * (1 << 20) for n in range(40))
assert pool.audit() == []
"""


def test_where_the_kernel_refuses_huge_pages_small_ones_do(folder):
    for how in ("with", "without"):
        subprocess.run([sys.executable, "-c", PLAIN, how], check=True, timeout=60)
        pool = foliocache.open("pool", pressure=False)
        assert pool.audit() == [] and pool.stat().cached_bytes >= 40 * MIB
        pool.forget("k")
        free = pool.stat().pages_by_state.free * pool.page_size
        assert pool.trim() >= 0.95 * free >= 36 * MIB and pool.audit() == []
        pool.close()
        foliocache.remove("pool")


def test_a_pool_in_plain_shared_memory(pool_name):
    """What little is used takes little, and what is used is in huge pages."""
    if machine.huge_pages("/dev/shm") != "collapsed":
        pytest.skip("huge pages are not made when asked here")
    for size, huge, chunk in (
        (geometry.COLLAPSE_MIN - MIB, None, 1 << layout.CHUNK_SHIFT),
        (geometry.COLLAPSE_MIN - MIB, True, HUGE),
        (geometry.HUGE_MIN - MIB, True, 1 << layout.CHUNK_SHIFT),
        (geometry.COLLAPSE_MIN, False, 1 << layout.CHUNK_SHIFT),
    ):
        pool = foliocache.open(pool_name, size=size, pressure=False, huge=huge)
        assert pool._attachment.segment.chunk == chunk
        assert foliocache.open(pool_name, size=size, exact=True, huge=not huge) is pool, "it stays as it is"
        pool.close()
        foliocache.remove(pool_name)
    with pytest.raises(ValueError, match="huge must be True or False"):
        foliocache.open(pool_name, huge=1)
    pool = foliocache.open(pool_name, size=geometry.COLLAPSE_MIN, pressure=False)
    assert pool._attachment.segment.chunk == HUGE and taken(pool) <= 0.02 * geometry.COLLAPSE_MIN
    mapping = pool.mapping("k", 10 * MIB, "1", source)
    assert pool.stat().backed_bytes <= HUGE
    read_all(mapping, 10 * MIB)
    assert pool.stat().backed_bytes <= 12 * MIB and pool.audit() == []
    if mapped_huge(pool) == 0:
        pytest.skip("the kernel has no huge pages now")


def test_mappings_are_aligned_as_huge_pages_are(tmp_path):
    for size in (1, 4096, HUGE, 3 * HUGE + 5000):
        with open(tmp_path / "file", "wb+") as file:
            file.truncate(size)
            for writable in (True, False):
                made = mapped.Mapped(file.fileno(), size, writable)
                view = memoryview(made)
                assert len(made) == view.nbytes == size and view.readonly is not writable
                assert numpy.frombuffer(view, "u1").ctypes.data % HUGE == 0
                if writable:
                    view[size - 1] = 7
                assert view[size - 1] == 7
                del made
                assert view[0] in (0, 7), "a buffer keeps it"
            with pytest.raises(ValueError, match=f"a file of {size} bytes has no {size + 1}"):
                mapped.Mapped(file.fileno(), size + 1, True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        mapped.Mapped(-1, 1, False)
    with open(tmp_path / "file", "rb") as file, pytest.raises(OSError, match="Permission denied"):
        mapped.Mapped(file.fileno(), 1, True)
