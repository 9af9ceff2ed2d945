"""A pool's file is sparse: pages get memory when they are needed, and a file system without room is no memory and no SIGBUS."""

import contextlib
import ctypes
import errno
import os
import random
import resource
import subprocess
import sys

import numpy
import pytest

import foliocache
from foliocache.mm import layout
from foliocache.pool import geometry, headroom, strays
from foliocache.pool.attachment import Scan

PIECE = 64 << 10
MADV_REMOVE = 9
CONTENT = random.Random(0).randbytes(8 << 20)


def taken(pool):
    """Return the bytes of memory that the pool's file has."""
    return os.stat(pool.path).st_blocks * 512


def source(offset, length):
    return CONTENT[offset : offset + length]


@pytest.fixture
def small_folder(tmp_path, monkeypatch):
    """A file system of 4 MiB for the pools of this test."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_new_pool_has_memory_for_its_tables_alone(pool_name):
    pool = foliocache.open(pool_name, size="8GiB", huge=False)
    assert taken(pool) < 8 << 23 and pool.stat().pages_by_state.hole == pool.stat().pages
    mapping = pool.mapping("k", 1 << 20, "1", source)
    before = taken(pool)
    mapping.read_bytes(512 << 10, 100)
    assert 0 < taken(pool) - before <= 6 * PIECE, "the descriptors of some pages, a record, nodes, and what was asked for"


def test_looking_at_a_pool_takes_no_memory(pool_name):
    pool = foliocache.open(pool_name, size="1GiB")
    pool.mapping("k", 1 << 20, "1", source).read_bytes(0, 1 << 20)
    before = taken(pool)
    assert pool.audit() == [] and pool.repair() == []
    assert len(pool.mappings()) == 1 and pool.stat().cached_bytes == 1 << 20
    pool.forget("nothing")
    assert taken(pool) == before


def test_full_file_system_is_no_memory(small_folder):
    """Evictions go on in what the pool has; when nothing of that can be evicted, reads are private."""
    pool = foliocache.open("pool", size="64MiB", clients=4)
    mapping = pool.mapping("k", 8 << 20, "1", source)
    for offset in range(0, 8 << 20, 256 << 10):
        assert mapping.read_bytes(offset, 256 << 10) == source(offset, 256 << 10)
    assert pool.audit() == [] and pool.stat().counters.evictions > 0
    with contextlib.ExitStack() as held:
        cached, offset = set(), 0
        while offset < 8 << 20:
            lease = held.enter_context(mapping.lease(offset))
            assert bytes(lease) == source(offset, len(lease))
            cached.add(lease.cached)
            offset += len(lease)
        assert cached == {True, False}
    assert pool.audit() == [] and pool.stat().counters.bypasses > 0
    assert os.statvfs(small_folder).f_bavail * os.statvfs(small_folder).f_frsize < PIECE


def test_memory_is_not_taken_away_through_a_users_view(pool_name):
    pool = foliocache.open(pool_name, size="4MiB")
    segment = pool._attachment.segment
    libc = ctypes.CDLL(None, use_errno=True)
    with pool.mapping("k", PIECE, "1", source).window() as window:
        address = numpy.frombuffer(window, "u1").ctypes.data
        assert libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(4096), MADV_REMOVE) == -1
        assert ctypes.get_errno() == errno.EACCES and bytes(window) == source(0, PIECE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(segment.fd_to_read, b"x")


def test_a_chunk_is_backed_as_a_whole(pool_name):
    pool = foliocache.open(pool_name, size="1MiB", page_size="4KiB")
    pool.mapping("k", 4096, "1", source).read_bytes(0, 10)
    pages = pool.stat().pages_by_state
    assert pages.free + pages.file + pages.node + pages.inode + pages.name == 1 << layout.CHUNK_SHIFT >> 12


def test_trim_gives_back_what_is_free(pool_name):
    pool = foliocache.open(pool_name, size="64MiB", max_size="64MiB")
    mapping = pool.mapping("k", 8 << 20, "1", source)
    with pytest.raises(ValueError, match="bytes"):
        pool.trim("lots")
    before = taken(pool)
    mapping.read_bytes(0, 8 << 20)
    kept = pool.mapping("kept", 1 << 20, "1", source).read_bytes(0, 1 << 20)
    used = taken(pool) - before
    pool.forget("k")
    free = pool.stat().pages_by_state.free * pool.page_size
    given = pool.trim()
    assert given >= 0.95 * free > 7 << 20
    assert taken(pool) == before + used - given and pool.stat().counters.given_back == given
    assert pool.audit() == [] and pool.stat().backed_bytes <= used - given
    assert pool.mapping("kept", 1 << 20, "1").read_bytes(0, 1 << 20) == kept, "what is cached stays"
    assert mapping.read_bytes(0, 8 << 20) == source(0, 8 << 20) and pool.audit() == []


def test_trim_evicts_cold_folios_for_the_rest(pool_name):
    pool = foliocache.open(pool_name, size="64MiB", max_size="64MiB")
    small = [pool.mapping(f"small {n}", 16 << 10, "1", source) for n in range(100)]
    for mapping in small:
        mapping.read_bytes(0, 16 << 10)
    mapping = pool.mapping("k", 8 << 20, "1", source)
    mapping.read_bytes(0, 8 << 20)
    held = mapping.lease(0)
    backed = pool.stat().backed_bytes
    assert 2 << 20 <= pool.trim("2MiB") < 4 << 20
    assert pool.stat().cached_bytes > 4 << 20
    assert pool.trim("64MiB") < backed
    assert pool.stat().cached_bytes == len(held) and bytes(held) == source(0, len(held)), "what is held stays"
    assert pool.audit() == []
    held.release()
    for mapping in small:
        assert mapping.read_bytes(0, 16 << 10) == source(0, 16 << 10)


def test_a_lookup_that_is_late_touches_no_hole(pool_name):
    """A mapping whose record is gone, with the page that it was in: a miss, which takes no memory."""
    pool = foliocache.open(pool_name, size="64MiB", max_size="64MiB")
    before = [pool.mapping(f"k {n}", 100_000, "1", source) for n in range(200)]
    for mapping in before:
        mapping.read_bytes(0, 100)
    for n in range(200):
        pool.forget(f"k {n}")
    pool.trim("64MiB")
    pages = pool.stat().pages_by_state
    assert pages.file == 0 and pages.inode <= layout.SLAB_KEEP
    after = taken(pool)
    for mapping in before:
        assert not mapping.is_cached(0, 100)
    assert taken(pool) == after
    assert all(mapping.read_bytes(0, 100) == source(0, 100) for mapping in before) and pool.audit() == []


def test_resize(pool_name):
    pool = foliocache.open(pool_name, size="4MiB", max_size="16MiB")
    mapping = pool.mapping("k", 8 << 20, "1", source)

    def fill():
        for offset in range(0, 8 << 20, 256 << 10):
            assert mapping.read_bytes(offset, 256 << 10) == source(offset, 256 << 10)
        return pool.stat().backed_bytes

    assert fill() == pool.pool_bytes == 4 << 20 and (pool.max_bytes, pool.stat().max_bytes) == (16 << 20, 16 << 20)
    length = os.stat(pool.path).st_size
    assert pool.resize("12MiB") == 0 and pool.pool_bytes == 12 << 20
    assert 8 << 20 < fill() <= 12 << 20
    with mapping.lease(0) as held:
        assert pool.resize("1MiB") == 0 and pool.stat().backed_bytes <= pool.pool_bytes == 1 << 20
        assert bytes(held) == source(0, len(held))
    with mapping.window(0, 512 << 10) as window, mapping.window(4 << 20, 256 << 10):
        assert pool.resize("1MiB") == 0 and bytes(window) == source(0, 512 << 10)
    pool.resize("4MiB")
    with mapping.window(0, 2 << 20) as window:
        above = pool.resize("1MiB")
        assert 1 << 20 <= above == pool.stat().backed_bytes - (1 << 20) and bytes(window) == source(0, 2 << 20)
    assert pool.resize("1MiB") == 0 and fill() <= 1 << 20
    for wrong in ("17MiB", "1KiB", "lots", 0):
        with pytest.raises(ValueError, match="size"):
            pool.resize(wrong)
    assert os.stat(pool.path).st_size == length and pool.audit() == []


def test_the_default_is_a_share_of_the_memory_there_is(pool_name, small_folder):
    pool = foliocache.open(pool_name)
    assert pool.pool_bytes == 1 << 20 and pool.max_bytes >= 4 << 20
    foliocache.remove(pool_name)
    assert foliocache.open(pool_name, size="50%", clients=4).pool_bytes == 2 << 20


@pytest.mark.parametrize("which", ["RLIMIT_FSIZE", "RLIMIT_AS"])
def test_a_process_with_limits_gets_a_pool_that_cannot_grow(which, monkeypatch):
    limit = getattr(resource, which)
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (1 << 40, 1 << 40) if asked == limit else (-1, -1))
    assert geometry.for_new_pool(geometry.parameters("8MiB"))["max_size"] == 8 << 20


def test_nothing_is_given_back_while_it_is_scanned(pool_name, monkeypatch):
    pool = foliocache.open(pool_name, size="4MiB", max_size="4MiB")
    pool.mapping("k", 1 << 20, "1", source).read_bytes(0, 1 << 20)
    pool.forget("k")
    with Scan(pool._attachment):
        assert pool._attachment.give_back(1 << 20) == -1
        assert in_child(lambda: pool._attachment.give_back(1 << 20) == -1) and in_child(lambda: pool.audit() == [])
    assert pool._attachment.give_back(1 << 20) > 0


def in_child(work):
    """Return what work returns in a forked child."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_audit_compares_marks_with_the_memory_of_the_file(pool_name):
    pool = foliocache.open(pool_name, size="64MiB", max_size="64MiB")
    pool.mapping("k", 8 << 20, "1", source).read_bytes(0, 8 << 20)
    pool.mapping("kept", 1 << 20, "1", source).read_bytes(0, 1 << 20)
    pool.forget("k")
    assert pool.audit() == []
    free = pool.stat().pages_by_state.free * pool.page_size
    end = os.stat(pool.path).st_size - (64 << 20) + (8 << 20)
    with open(pool.path, "rb+") as file:  # free pages at the end of what was used
        hole = ctypes.CDLL(None, use_errno=True).fallocate
        assert hole(file.fileno(), 3, ctypes.c_long(end - PIECE * 4), ctypes.c_long(PIECE * 4)) == 0
    found = pool.audit()
    assert [(finding.check, finding.where) for finding in found] == [("backing", "file")] and free > PIECE * 4
    assert "its tables and marks say" in found[0].message


def test_memory_without_a_mark_is_found_and_given_back(pool_name):
    """As after a death between the kernel's call and the mark, if no reaper had settled it."""
    pool = foliocache.open(pool_name, size="64MiB", max_size="64MiB", pressure=False)
    segment = pool._attachment.segment
    kept = pool.mapping("kept", 1 << 20, "1", source).read_bytes(0, 1 << 20)
    if headroom.resident(segment.fd, 0, 4096) is None:
        pytest.skip("this kernel does not say where a file has memory")
    assert pool.audit() == []
    before = taken(pool)
    for place in (8 << 20, (8 << 20) + 3 * PIECE, 15 << 20):
        os.pwrite(segment.fd, b"x", segment.geometry["data"] + place)
    assert taken(pool) == before + 3 * 4096
    found = pool.audit()
    assert [(finding.check, finding.where) for finding in found] == [("backing", "file")]
    assert "has 12288 bytes of memory in holes" in found[0].message
    assert f"page {(8 << 20) // pool.page_size} on" in found[0].message
    assert pool.repair() == [] == pool.audit() and taken(pool) == before
    assert pool.mapping("kept", 1 << 20, "1").read_bytes(0, 1 << 20) == kept


def test_memory_that_is_just_being_taken_is_no_finding(pool_name):
    """Other processes take memory and give it back while this one looks."""
    pool = foliocache.open(pool_name, size="64MiB", max_size="64MiB", pressure=False)
    mapping = pool.mapping("k", 8 << 20, "1", source)
    mapping.read_bytes(0, 100)
    pid = os.fork()
    if pid == 0:
        try:
            while os.getppid() != 1:
                mapping.read_bytes(0, 8 << 20)
                pool.forget("k")
                pool.trim()
        finally:
            os._exit(0)
    try:
        for _ in range(200):
            with Scan(pool._attachment):
                assert strays.findings(pool._attachment.segment) == []
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    pool.stat()
    assert pool.audit() == []


LOCKED = """
import ctypes, os, sys, foliocache
libc = ctypes.CDLL(None, use_errno=True)
before, after = int(sys.argv[2]), int(sys.argv[3])
if before and libc.mlockall(before):
    sys.exit(77)
pool = foliocache.open(sys.argv[1], size="8MiB", max_size="128MiB")
if after and libc.mlockall(after):
    sys.exit(77)
assert pool.mapping("k", 100_000, read=lambda offset, length: b"x" * length).read_bytes(0, 100_000) == b"x" * 100_000
print(os.stat(pool.path).st_blocks * 512, pool.audit())
"""
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4


@pytest.mark.parametrize(("before", "after"), [(MCL_FUTURE, 0), (MCL_CURRENT | MCL_FUTURE, 0), (0, MCL_CURRENT | MCL_ONFAULT)])
def test_locked_memory_is_not_taken_for_all_of_the_file(pool_name, before, after):
    """As docs/limits.md says; ``MCL_CURRENT`` alone in a process that has the pool open takes it."""
    done = subprocess.run(
        [sys.executable, "-c", LOCKED, pool_name, str(before), str(after)], capture_output=True, text=True, timeout=100
    )
    if done.returncode == 77:
        pytest.skip("this process must not lock memory")
    assert done.returncode == 0, done.stderr
    size, findings = done.stdout.split(maxsplit=1)
    assert int(size) < 4 << 20 and findings.strip() == "[]"
