"""A process that has attached can go on reading without descriptors, rights and /proc; so can its forked children."""

import ctypes
import os
import resource
import tempfile

import fresh
import pytest
from lines import answer_of
from units import unit, units

import foliocache

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give something up")
PAGE = 4096
CONTENT = bytes(range(256)) * 16 * 600


def read(offset, length):
    return CONTENT[offset : offset + length]


@pytest.fixture(params=[0o600, 0o666], ids=oct)
def pool(pool_name, request):
    pool = foliocache.open(pool_name, size="1MiB", page_size=PAGE, clients=8, mode=request.param)
    pool.mapping("k", len(CONTENT), "1", read).read(0, 1)
    yield pool
    pool._attachment.reap()
    assert pool.audit() == []


def drop_uid():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def change_root():
    os.chroot(tempfile.mkdtemp())
    os.chdir("/")


def use_up_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with pytest.raises(OSError):
        while True:
            os.open("/dev/null", os.O_RDONLY)


LOSSES = [
    pytest.param(drop_uid, marks=needs_root, id="rights"),
    pytest.param(change_root, marks=needs_root, id="root and /proc"),
    pytest.param(use_up_descriptors, id="descriptors"),
]


def reads(pool):
    """Assert every byte of hits, misses and evictions, with a dead client to settle. Return how many folios were cached."""
    mapping = pool.mapping("k", len(CONTENT), "1", read)
    assert mapping.read_bytes(0, 10) == CONTENT[:10]
    leases = units(mapping)
    size = mapping.unit_size
    assert all(memoryview(lease) == CONTENT[index * size : index * size + size] for index, lease in enumerate(leases))
    cached = sum(lease.cached for lease in leases)
    assert 0 < cached < len(leases), "there is not room for all of it"
    assert pool.stat().counters.bypasses > 0
    return cached


@pytest.mark.parametrize("lose", LOSSES)
def test_who_has_read_before_goes_on(pool, lose):
    def work():
        pool.mapping("k", len(CONTENT), "1", read).read(0, 1)
        lose()
        return reads(pool) > 0

    assert answer_of(work) == "True"


@pytest.mark.parametrize("lose", LOSSES)
def test_a_forked_worker_reads_for_the_first_time_afterwards(pool, lose):
    """Its descriptor was opened when it was forked."""
    assert answer_of(lambda: (lose(), reads(pool) > 0)[1]) == "True"


@pytest.mark.parametrize("lose", LOSSES)
def test_the_dead_are_reaped_afterwards(pool, lose):
    def work():
        pool.mapping("k", len(CONTENT), "1", read).read(0, 1)
        pid = os.fork()
        if pid == 0:
            lease = unit(pool.mapping("k", len(CONTENT), "1", read), 1)
            os._exit(0 if lease else 1)
        os.waitpid(pid, 0)
        lose()
        return pool._attachment.reap()

    assert answer_of(work) == "(1, 0)"


@pytest.mark.parametrize("lose", [LOSSES[2]])
def test_opening_again_needs_nothing(pool, lose):
    def work():
        pool._attachment.join()
        lose()
        return foliocache.open(pool.name) is pool and foliocache.attach(pool.name) is pool

    assert answer_of(work) == "True"


@needs_root
def test_a_child_of_one_that_has_dropped_its_rights_is_told_what_to_do(pool_name):
    """It can attach if the mode allows it."""
    for mode, expected in ((0o666, "True"), (0o600, "PoolError")):
        pool = foliocache.open(pool_name, size="1MiB", page_size=PAGE, mode=mode)

        def work(pool=pool):
            pool.mapping("k", len(CONTENT), "1", read).read(0, 1)
            drop_uid()
            return answer_of(lambda: reads(pool) > 0)

        said = answer_of(work)
        assert said.startswith(expected)
        if mode == 0o600:
            assert "Permission denied" in said and "forked by one that may" in said
        foliocache.remove(pool_name)


@needs_root
def test_a_child_without_proc_finds_the_file_by_its_path(pool):
    """If the path leads to the same file."""

    def work(there):
        root = tempfile.mkdtemp()
        folder = os.path.dirname(pool.path)
        os.makedirs(root + folder)
        if there == "another":
            with open(root + pool.path, "wb") as file:
                file.write(b"something else")
        elif there == "same":
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
            assert libc.mount(None, b"/", None, 0x44000, None) == 0  # MS_PRIVATE | MS_REC
            assert libc.mount(folder.encode(), (root + folder).encode(), None, 0x1000, None) == 0  # MS_BIND
        pool._attachment.join()
        os.chroot(root)
        return answer_of(lambda: reads(pool) > 0)

    assert answer_of(lambda: work("same")) == "True"
    for there in ("nothing", "another"):
        assert answer_of(lambda there=there: work(there)).startswith("PoolError")


@fresh.process  # other libraries may end a child that is forked without descriptors
def test_no_slot_object_is_left_half_made(pool_name):
    """If its file cannot be opened, it raises FoliocacheError, and its finalizer prints nothing."""
    pool = foliocache.open(pool_name, size="1MiB")
    pool._attachment.join()
    errors = os.memfd_create("stderr")
    os.dup2(errors, 2)

    def work():
        use_up_descriptors()
        second = os.fork()  # has closed the parent's, and may open one instead
        if second == 0:
            pool._attachment.join()
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(second, 0)[1])

    assert answer_of(work) == "0"
    assert os.pread(errors, 10_000, 0) == b""
