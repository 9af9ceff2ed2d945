"""Objects of 64 KiB to 1 MiB that may be written to: the pool's own pages, lent to one at a time, and clean for the next."""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import uuid

import fresh
import numpy
import pytest

import foliocache

SIZE = 190_000  # 12 pages, in 3 folios that lie side by side in a new pool
PAUSE = 1000  # of ``pool.overlay``

pytestmark = pytest.mark.skipif(
    tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2]) < (6, 7),
    reason="the kernel does not say which pages of a private mapping are copies",
)


@pytest.fixture
def mine():
    """A pool of 64 MiB, from which this process has lent nothing."""
    name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(foliocache.PoolNotFoundError):
        pool = foliocache.open(name, size="64MiB")
        yield pool
        with foliocache.attach(name) as again:
            assert again.audit() == []
            assert again.stat().pins == 0
        foliocache.remove(name)


def writable(pool, key="k"):
    return pool.objects.get(key, None, "", None, "any", "copy")


def private_bytes(pool):
    """How much memory is this process's alone in mappings of a pool."""
    inode, found, total = str(os.stat(pool.path).st_ino), False, 0
    with open("/proc/self/smaps") as file:
        for line in file:
            words = line.split()
            if "-" in words[0]:
                found = inode in words
            elif found and words[0] == "Anonymous:":
                total += int(words[1]) * 1024
    return total


def content(n=0):
    return numpy.random.default_rng(n).integers(0, 256, SIZE, dtype="u1")


def pages(array):
    """The numbers of the pages that an array is in."""
    return range(array.ctypes.data >> 12, (array.ctypes.data + array.nbytes) >> 12)


def lent_again(pool, key="k"):
    """An object that is lent, after a pause."""
    for _ in range(PAUSE + 1):
        array = writable(pool, key)
        if pool.stat().pins:
            return array
        del array
    raise AssertionError("nothing is lent any more")


def test_what_nobody_writes_to_is_not_copied(mine):
    mine.put("k", content())
    array = writable(mine)
    assert array.flags.writeable and (array == content()).all()
    assert mine.stat().pins > 0 and private_bytes(mine) == 0


def test_what_was_written_is_gone_with_the_object(mine):
    mine.put("k", content())
    array = writable(mine)
    array[5] += 1
    array[SIZE - 5 :] = 7
    assert private_bytes(mine) > 0
    assert (mine.get("k") == content()).all()
    assert array[5] == content()[5] + 1 and (array[SIZE - 5 :] == 7).all()
    del array
    assert private_bytes(mine) == 0 and mine.stat().pins == 0
    assert (lent_again(mine) == content()).all()


def test_two_at_a_time_do_not_see_each_others_writes(mine):
    mine.put("k", content())
    one, other = writable(mine), writable(mine)
    one[:] = 1
    other[:10] = 2
    assert (one == 1).all() and (other[:10] == 2).all() and (other[10:] == content()[10:]).all()
    assert (mine.get("k") == content()).all()


def test_a_page_with_other_content_is_not_what_it_was(mine):
    """Pages that were written to, and then have other objects."""
    written = set()
    for n in range(3):
        mine.put("k", content(n))
        array = lent_again(mine)
        assert (array == content(n)).all()
        array[:] = 9
        written.update(pages(array))
        del array
        mine.delete("k")
    seen = set()
    for n in range(20):
        mine.put(f"k{n}", content(n))
        array = lent_again(mine, f"k{n}")
        assert (array == content(n)).all()
        seen.update(pages(array))
        del array
    assert seen & written


def test_after_writes_there_are_copies_for_a_while(mine):
    mine.put("k", content())
    array = writable(mine)
    assert mine.stat().pins > 0
    array[0] += 1
    del array
    array = writable(mine)
    array[:] = 3
    assert mine.stat().pins == 0 and private_bytes(mine) == 0
    del array
    assert (lent_again(mine) == content()).all()


def test_most_are_copies_if_many_are_kept(mine):
    """What is lent is pinned, and others need the room."""
    for n in range(100):
        mine.put(f"k{n}", content(n))
    kept = [writable(mine, f"k{n}") for n in range(100)]
    assert 0 < mine.stat().pins <= 5 * 3  # 5 of them are 1/64 of the pool
    for n, array in enumerate(kept):
        assert (array == content(n)).all()
        array[:] = n
    for n, array in enumerate(kept):
        assert (array == n).all() and (mine.get(f"k{n}") == content(n)).all()


def test_objects_whose_folios_are_scattered(mine):
    """Every other of small ones makes room for folios of one page, in which an object then lies apart."""
    for n in range(1000):
        mine.put(f"s{n}", numpy.full(60_000, n % 256, "u1"))
    for n in range(0, 1000, 2):
        mine.delete(f"s{n}")
    for n in range(30):
        mine.put(f"k{n}", content(n))
    for n in range(30):
        array = writable(mine, f"k{n}")
        assert array is None or (array == content(n)).all()
        if array is not None:
            array[:] = 1
    assert sum(mine.get(f"k{n}") is not None for n in range(30)) > 10


def test_a_forked_child_keeps_what_it_inherited_and_lends_by_itself(mine):
    mine.put("k", content())
    array = writable(mine)
    array[0] = 77
    to_child, from_child = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(60)
        try:
            os.read(to_child[0], 1)
            right = array[0] == 77 and (array[1:] == content()[1:]).all()
            own = writable(mine, "l0")
            for n in range(1, 20):  # the folios of most lie side by side
                own = own if mine.stat().pins else writable(mine, f"l{n}")
            right = right and mine.stat().pins > 0 and (own == content(1)).all()
            array[1:] = 78
            own[:] = 79
            del array, own
            os.write(from_child[1], b"x")
            status = 0 if right else 2
        finally:
            os._exit(status)
    array[:] = 5
    del array
    mine.delete("k")
    for n in range(400):  # other content for all pages
        mine.put(f"o{n}", content(2))
    for n in range(400):
        mine.delete(f"o{n}")
    for n in range(20):
        mine.put(f"l{n}", content(1))
    os.write(to_child[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for n in range(20):
        assert (mine.get(f"l{n}") == content(1)).all()
    for pipe in (*to_child, *from_child):
        os.close(pipe)


def test_a_process_without_a_free_descriptor_has_copies(mine):
    mine.put("k", content())
    child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(60)
        try:
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
            array = writable(mine)
            right = (array == content()).all()
            array[:] = 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            status = 0 if right and mine.stat().pins == 0 and private_bytes(mine) == 0 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_killed_writer_leaves_nothing(mine):
    mine.put("k", content())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            array = writable(mine)
            array[:] = 1
            os.write(write, b"x" if mine.stat().pins else b"-")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(read, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert (mine.get("k") == content()).all()


@pytest.mark.parametrize("limit", ["RLIMIT_DATA", "RLIMIT_AS"])
@fresh.process
def test_a_process_keeps_what_it_may_have(pool_name, limit):
    """The mapping that lends would count as if all of it were this process's."""
    pool = foliocache.open(pool_name, size="256MiB", max_size="256MiB")
    pool.put("k", content())
    with open("/proc/self/status") as file:
        sizes = {line.split()[0]: int(line.split()[1]) << 10 for line in file if line.startswith(("VmData:", "VmSize:"))}
    most = sizes["VmData:" if limit == "RLIMIT_DATA" else "VmSize:"] + (300 << 20)
    resource.setrlimit(getattr(resource, limit), (most, most))
    array = writable(pool)
    assert (array == content()).all()
    array[:] = 1
    assert len(bytearray(200 << 20)) == 200 << 20


def may_lock_all():
    """Whether this process may lock as much memory as it likes."""
    with open("/proc/self/status") as file:
        capabilities = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return bool(capabilities & 1 << 14) or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY


@pytest.mark.skipif(not may_lock_all(), reason="this process may not lock its memory")
@pytest.mark.parametrize("unlocked", [False, True])
@fresh.process
def test_what_mlockall_has_copied_is_never_seen(pool_name, unlocked):
    """It copies all of the mapping that lends: the pages of objects that are there only later, too."""
    pool = foliocache.open(pool_name, size="16MiB", max_size="16MiB")  # all of it is taken into memory
    for n in range(80):
        pool.put(f"a{n}", content(n))
    kept = next(n for n in range(80) if pool.get(f"a{n}") is not None)
    array = writable(pool, f"a{kept}")
    assert pool.stat().pins > 0
    libc = ctypes.CDLL(None)
    assert libc.mlockall(1) == 0  # MCL_CURRENT
    if unlocked:
        libc.munlockall()
    assert (array == content(kept)).all()
    array[:] = 1
    del array
    for n in range(80):
        pool.delete(f"a{n}")
    for n in range(80):
        pool.put("k", content(100 + n))
        array = writable(pool)
        assert (array == content(100 + n)).all()
        pool.delete("k")
        del array
    assert private_bytes(pool) == 0 and pool.stat().pins == 0


def test_the_ends_of_the_pool_and_of_the_array_come_in_any_order(mine):
    mine.put("k", content())
    array = writable(mine)
    mine.close()
    array[3:] = 4
    assert (array[3:] == 4).all() and (array[:3] == content()[:3]).all()
    del array
    assert private_bytes(mine) == 0
