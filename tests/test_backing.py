"""A pool's file is sparse: pages get memory when they are needed, and a file system without room is no memory and no SIGBUS."""

import contextlib
import ctypes
import errno
import os
import random
import subprocess

import numpy
import pytest

import foliocache
from foliocache.mm import layout

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
    pool = foliocache.open(pool_name, size="8GiB")
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
