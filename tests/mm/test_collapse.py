"""When the kernel is asked to make huge pages (``fc_collapse`` in atomics.h), and how often after a refusal."""

import ctypes
import os
import shutil
from pathlib import Path

import pytest

import foliocache.mm

MM = Path(foliocache.mm.__file__).parent
CHUNK = 2 << 20
CHUNKS = 400
SOURCE = """
#define madvise fake_madvise
#define clock_gettime fake_clock_gettime
#include "atomics.h"
static int answer;               /* the kernel's: 0, or an errno */
static uint64_t cpu, wall;       /* ns of processor time and of time that it takes for it */
static uint64_t clocks[16];
static uint64_t asked[1024];     /* where it was asked */
static int times;
int fake_madvise(void *at, size_t n, int advice)
{
    clocks[CLOCK_THREAD_CPUTIME_ID] += cpu;
    clocks[CLOCK_MONOTONIC] += wall;
    asked[times++] = n == 2 << 20 && advice == 25 ? (uintptr_t)at : 1;
    errno = answer;
    return answer ? -1 : 0;
}
int fake_clock_gettime(clockid_t clock, struct timespec *ts)
{
    ts->tv_sec = clocks[clock] / 1000000000u;
    ts->tv_nsec = clocks[clock] % 1000000000u;
    return 0;
}
static int no_room(void *asked, uint64_t n) { return 0; }
static fc_mem mem = { .base = 0, .chunk_shift = 21, .populate = FC_COLLAPSE };
int fill(int fd, uint64_t data, uint64_t size, uint64_t at, uint64_t n, int how, uint64_t busy, uint64_t lasts, int room,
         uint64_t *where)
{
    mem.fd = fd, mem.data = data, mem.size = size, mem.room = room ? 0 : no_room;
    answer = how, cpu = busy, wall = lasts, times = 0;
    int status = fc_fallocate((mem_t)&mem, at, n);
    memcpy(where, asked, sizeof asked);
    return status ? -status : times;
}
"""


@pytest.fixture(scope="module")
def built(library):
    return library("#define _GNU_SOURCE\n" + SOURCE, "-Wno-unused-function", f"-I{MM}")


@pytest.fixture
def fill(built, tmp_path):
    """``fill(first, n)`` gives n chunks memory, and returns at which of them the kernel was asked for a huge page."""
    called = ctypes.CDLL(shutil.copy(built, tmp_path)).fill  # a copy of its own remembers nothing
    called.argtypes = [
        ctypes.c_int,
        *[ctypes.c_uint64] * 4,
        ctypes.c_int,
        *[ctypes.c_uint64] * 2,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    fd = os.memfd_create("pool")
    os.ftruncate(fd, size := (CHUNKS + 1) * CHUNK + 4096)

    def fill(first, n, answer=0, cpu=1_000_000, wall=20_000_000, room=True):
        where = (ctypes.c_uint64 * 1024)()
        at = CHUNK + first * CHUNK
        times = called(fd, CHUNK, size, at, int(n * CHUNK), answer, cpu, wall, room, where)
        return times if times < 0 else [(each - CHUNK) / CHUNK for each in where[:times]]

    fill.fd = fd
    yield fill
    os.close(fd)


def test_every_chunk_is_asked_for(fill):
    assert fill(0, 1) == [0] and fill(1, 3) == [1, 2, 3]
    assert os.fstat(fill.fd).st_blocks * 512 == 4 * CHUNK, "and gets memory, whatever the kernel says"


def test_only_whole_chunks_of_the_data_are_asked_for(fill):
    assert fill(0, 0.5) == [] and fill(CHUNKS, 1) == [] and fill(-1, 1) == []


def test_no_memory_is_asked_for_where_there_is_no_room(fill):
    assert fill(0, 1, room=False) == -12 and os.fstat(fill.fd).st_blocks == 0


@pytest.mark.parametrize("reason", [{"answer": 12}, {"answer": 11}, {"answer": 22}, {"cpu": 4_000_001}, {"wall": 50_000_001}])
def test_refusals_are_remembered(fill, reason):
    """A kernel without huge pages, or one that takes long to make them, is asked ever less often."""
    asked = [n for n in range(300) if fill(n, 1, **reason)]
    assert asked == [0, 2, 6, 14, 30, 62, 126, 190, 254]
    assert os.fstat(fill.fd).st_blocks * 512 == 300 * CHUNK
    asked = [n for n in range(300, 330) if fill(n, 1)]
    assert asked == list(range(318, 330)), "and always again, once it has one"
