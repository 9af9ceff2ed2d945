"""Leases, windows and arrays that may be written to: private, isolated across a fork, and leaving nothing."""

import contextlib
import functools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import fresh
import numpy
import pytest

import foliocache


@pytest.fixture
def mapping(pool, source):
    return pool.mapping("k", len(source.content), "1", source.read)


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


@pytest.mark.parametrize(("offset", "length"), [(0, None), (17_000, 200_000), (499_990, 13), (5, 0)])
def test_what_is_written_is_seen_by_nobody_else(mapping, source, offset, length):
    end = len(source.content) if length is None else offset + length
    with mapping.window(offset, length, writable="copy") as window, mapping.window(offset, length, writable="copy") as other:
        view = memoryview(window)
        assert view == source.content[offset:end] and not view.readonly
        view[:] = bytes(len(view))
        assert view == bytes(len(view))
        assert memoryview(other) == mapping.read_bytes(offset, len(view)) == source.content[offset:end]
        assert memoryview(mapping.window(offset, length)).readonly
    assert mapping.read_bytes(0, len(source.content)) == source.content


@pytest.mark.parametrize(("offset", "length"), [(0, None), (17_001, 3000), (499_990, 13), (5, 1)])
def test_what_is_written_to_a_lease_is_seen_by_nobody_else(mapping, source, offset, length):
    with mapping.lease(offset, length, writable="copy") as lease, mapping.lease(offset, length, writable="copy") as other:
        end = offset + len(lease)
        view = memoryview(lease)
        assert lease.cached and view == source.content[offset:end] and not view.readonly
        view[:] = bytes(len(view))
        assert lease[0] == 0 and bytes(lease[:]) == bytes(len(view))
        assert memoryview(other) == mapping.read_bytes(offset, len(view)) == source.content[offset:end]
        assert memoryview(mapping.lease(offset, length)).readonly
    assert mapping.read_bytes(0, len(source.content)) == source.content


def test_a_lease_is_writable_also_when_the_pool_has_no_room(pool, mapping, source, make_source):
    rest = pool.mapping("rest", 8 << 20, "1", make_source(8 << 20).read, folio_size=1 << 14)
    pinned = [rest.lease(offset) for offset in range(0, 8 << 20, 1 << 14)]
    assert not pinned[-1].cached
    with mapping.lease(5, 100, writable="copy") as lease:
        assert not lease.cached and memoryview(lease) == source.content[5:105]
        memoryview(lease)[:] = bytes(100)
        assert mapping.read_bytes(5, 100) == source.content[5:105]


@fresh.process
def test_pages_that_cannot_be_mapped_change_nothing(pool_name):
    pool = foliocache.open(pool_name, size="8MiB")
    mapping = pool.mapping("k", 1 << 20, "1", lambda offset, length: b"x" * length)
    mapping.lease(0, writable="copy").release()  # what is needed once is there
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    failed = 0
    resource.setrlimit(resource.RLIMIT_AS, (used, before[1]))
    try:
        for _ in range(100):
            with contextlib.suppress(foliocache.FoliocacheError, MemoryError):
                mapping.lease(0, writable="copy")
                continue
            failed += 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert failed
    assert pool.audit() == []
    leases = [mapping.lease(n) for n in range(1500)]
    assert {bytes(lease[:1]) for lease in leases} == {b"x"}


VIEWS = {"lease": lambda mapping: mapping.lease(0, writable="copy"), "window": lambda mapping: mapping.window(writable="copy")}


@pytest.fixture(params=VIEWS)
def private(request, mapping):
    """Something that may be written to, with all of the object if it is a window."""
    return VIEWS[request.param]


def test_it_leaves_nothing_behind(pool, source, private):
    size = 200_000
    mapping = pool.mapping("k", len(source.content), "1", source.read, folio_size=1 << 18)
    before = private_bytes(pool)
    for _ in range(3):
        view = memoryview(private(mapping))
        view[:size] = bytes(size)
        assert private_bytes(pool) >= before + size
        del view
    assert private_bytes(pool) == before
    assert pool.stat().pins == 0


def test_it_pins_what_has_not_been_written(pool, mapping, source, private):
    view = memoryview(private(mapping))
    rest = pool.mapping("rest", 4 << 20, "1", read=lambda offset, length: bytes(length))
    for offset in range(0, rest.size, 1 << 16):
        rest.read_bytes(offset, 1)
    pool.forget("k")
    assert view == source.content[: len(view)]


def test_parent_and_forked_child_do_not_see_each_others_writes(pool, mapping, source, private):
    """Neither what was written nor what was not, also when the parent's pages have other content by then."""
    window = private(mapping)
    view = memoryview(window)
    view[0] = 1
    to_child, from_child = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.read(to_child[0], 1)
            right = view[0] == 1 and view[1:] == source.content[1 : len(view)]
            view[2] = 77
            with pytest.raises(foliocache.LeaseError):
                memoryview(window)
            os.write(from_child[1], b"x")
            status = 0 if right else 2
        finally:
            os._exit(status)
    view[1:] = bytes(len(view) - 1)
    parents = bytes(view)
    del view, window
    pool.forget("k")
    other = pool.mapping("other", 4 << 20, "1", read=lambda offset, length: b"z" * length)
    for offset in range(0, other.size, 1 << 16):
        other.read_bytes(offset, 1)
    os.write(to_child[1], b"x")
    os.read(from_child[0], 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert parents[2] == 0


INTERRUPTED = """
import ctypes, functools, os, signal, sys
import foliocache

def interrupt(number, frame):
    raise KeyboardInterrupt

pool = foliocache.open(sys.argv[1])
mapping = pool.mapping("k", 300_000, "1", lambda offset, length: b"a" * length)
window, lease = mapping.window(writable="copy"), mapping.lease(0, 10, writable="copy")
signal.signal(signal.SIGUSR1, interrupt)
# The hook that was registered last comes first: it leaves a signal whose handler runs at the next instruction of Python.
os.register_at_fork(before=functools.partial(ctypes.CDLL(None)["raise"], int(signal.SIGUSR1)))
sys.unraisablehook = lambda unraisable: None
try:
    child = os.fork()
except KeyboardInterrupt:  # in the parent, behind the fork
    child = -1
if child == 0:
    inode, found, total = str(os.stat(pool.path).st_ino), False, 0
    with open("/proc/self/smaps") as file:
        for line in file:
            words = line.split()
            if "-" in words[0]:
                found = inode in words
            elif found and words[0] == "Anonymous:":
                total += int(words[1]) * 1024
    os._exit(0 if total >= 303_104 + 4096 else 7)  # all pages of the window, and that of the lease
sys.exit(os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]))
"""


def test_pages_are_copied_before_a_fork_also_if_a_signal_handler_raises_then(pool, pool_name):
    """Python forks although a hook has raised."""
    found = subprocess.run([sys.executable, "-c", INTERRUPTED, pool_name], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr


def test_a_killed_writer_leaves_nothing(pool, mapping, source):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        view = memoryview(mapping.window(writable="copy"))
        view[:] = bytes(len(view))
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert mapping.read_bytes(0, len(source.content)) == source.content
    assert pool.stat().pins == 0


@pytest.mark.parametrize("value", [numpy.arange(5.0), numpy.arange(200_000.0), {"a": numpy.arange(5000), "b": [1]}])
def test_arrays(pool, value):
    """The one that is made, the one that is found, a small one beside its name, and those within others."""
    first = (lambda found: found["a"]) if isinstance(value, dict) else (lambda found: found)
    made = first(pool.get_or_create("array", lambda: value, writable="copy"))
    found = first(pool.get("array", writable="copy"))
    made += 1
    found *= 2
    found[0] = 9
    same = first(value)
    assert (made == same + 1).all() and found[0] == 9 and (found[1:] == same[1:] * 2).all()
    assert (first(pool.get("array")) == same).all() and not first(pool.get("array")).flags.writeable
    large = pool.get_or_create("large", lambda: numpy.zeros(5 << 20, "u1"), writable="copy")  # more than the pool has
    large += 1


@pytest.mark.parametrize("wrong", ["yes", True, "shared"])
def test_other_ways_are_refused(pool, mapping, wrong):
    for use in (
        mapping.window,
        functools.partial(mapping.lease, 0),
        lambda writable: pool.get_or_create("n", int, writable=writable),
    ):
        with pytest.raises(ValueError, match='writable must be "copy"'):
            use(writable=wrong)


def test_a_tensor_may_be_written_to(pool_name):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    program = """
import sys, torch, foliocache
pool = foliocache.open(sys.argv[1], size="4MiB")
t = pool.get_or_create("t", lambda: torch.arange(100_000), writable="copy")
t.sub_(1)
assert int(t[0]) == -1 and int(pool.get("t")[0]) == 0
mapping = pool.mapping("leased", 8000, "1", lambda offset, length: bytes(length))
leased = torch.frombuffer(mapping.lease(0, writable="copy"), dtype=torch.int64)
leased.sub_(1)
assert leased.tolist() == [-1] * 1000 and mapping.read_bytes(0, 8000) == bytes(8000)
"""
    done = subprocess.run([sys.executable, "-c", program, pool_name], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
