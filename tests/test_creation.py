"""A pool is created completely or not at all, if its creator is interrupted, killed, stopped, or short of a resource."""

import errno
import fcntl
import functools
import gc
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time

import fresh
import pytest
from lines import SOAK, STRIDE, answer_of, at_line, count_lines, in_child

import foliocache
from foliocache.mm import layout
from foliocache.pool import creation, files

SMALL = {"size": "1MiB", "clients": 4}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for the pools of this test."""
    monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(params=["nameless", "hidden", "unlinkable"])
def way(request, monkeypatch):
    """Every way to make a pool's file: with nameless files, without them, and where they cannot be linked."""
    go(request.param, monkeypatch.setattr)
    return request.param


def go(way, patch=setattr):
    """Have this process make files in that way."""
    if way == "hidden":

        def without_nameless(path, flags, *args, **options):
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, *args, **options)

        real = creation.open_file
        patch(creation, "open_file", without_nameless)
    if way == "unlinkable":
        patch(creation, "_link_nameless", lambda file, path: False)


def make_pool(**options):
    return foliocache.open("pool", **(SMALL | options))


def works(pool):
    mapping = pool.mapping("k", 100, "1", lambda offset, length: b"x" * length)
    return mapping.read_bytes(0, 5) == b"xxxxx" and pool.audit() == []


def deleted_memory(pid="self"):
    """Return the bytes of the files without a name that a process has open or mapped."""
    gc.collect()
    bytes_of = {}
    for folder in (f"/proc/{pid}/fd", f"/proc/{pid}/map_files"):
        for name in os.listdir(folder):
            try:
                found = os.stat(os.path.join(folder, name))
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                bytes_of[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(bytes_of.values())


class Handler(Exception):
    """The exception that a signal handler raises."""


def interrupt():
    raise Handler


@fresh.process
def test_interrupted_at_any_line_nothing_stays(folder, way):
    """Neither a file, nor memory, nor a descriptor remains, although the exception is kept."""
    go(way)
    lines = count_lines(make_pool)
    foliocache.remove("pool")
    gc.collect()
    memory, descriptors = deleted_memory(), len(os.listdir("/proc/self/fd"))
    kept, whole = [], 0
    for line in range(1, lines + 10, STRIDE):
        try:
            with at_line(line, interrupt):
                pool = make_pool()
        except Handler as error:
            if "foliocache.pool" not in os.listdir(folder):
                kept.append(error)
        else:
            del pool
        names = os.listdir(folder)
        if "foliocache.pool" in names:
            whole += 1
            assert works(foliocache.attach("pool"))
            foliocache.remove("pool")
            names.remove("foliocache.pool")
        assert [name for name in names if not name.endswith("~lock")] == [], line
    assert len(kept) > 150 // STRIDE and whole > 10 // STRIDE, "it was interrupted before and after the pool was there"
    assert deleted_memory() == memory
    kept.clear()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert works(make_pool())
    assert os.listdir(folder) == ["foliocache.pool"]


def test_memory_comes_back_although_the_exception_is_kept(folder, way, monkeypatch):
    before = deleted_memory()
    monkeypatch.setattr(creation, "_setup_tables", lambda mem: interrupt())
    with pytest.raises(Handler) as kept:
        make_pool()
    assert kept.value is not None and deleted_memory() == before
    assert os.listdir(folder) == []


def die_at(line):
    with at_line(line, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        make_pool()


@fresh.process
def test_killed_at_any_line_a_whole_pool_or_none_is_there(folder, way):
    go(way)
    status, line, step = -signal.SIGKILL, 0, 4 if not SOAK else 1 if way == "nameless" else 3
    while status == -signal.SIGKILL:
        line += step

        status = in_child(functools.partial(die_at, line))
        if "foliocache.pool" in os.listdir(folder):
            assert works(foliocache.attach("pool"))
            foliocache.remove("pool")
        else:
            with pytest.raises(foliocache.PoolNotFoundError):
                foliocache.attach("pool")
        if line % (9 if SOAK else 12) == 0 or status == 0:
            assert works(make_pool())
            assert os.listdir(folder) == ["foliocache.pool"], "what the killed ones have left is gone"
            foliocache.remove("pool")
        gc.collect()
    assert status == 0
    assert line > 100


def test_rm_removes_what_killed_creators_have_left(folder, monkeypatch):
    make_pool()
    leftover = folder / ".foliocache.pool~0123456789abcdef"
    others = [folder / ".foliocache.pool.x~0123456789abcdef", folder / ".foliocache.pool~0123"]
    for path in (leftover, *others):
        path.write_bytes(b"x")
    foliocache.remove("pool")
    assert sorted(folder.iterdir()) == sorted(others)


def held_in_creation(monkeypatch):
    """Start a thread that stops in the middle of creating the pool. Return a function that lets it finish."""
    begun, go, setup = threading.Event(), threading.Event(), creation._setup_tables

    def slowly(mem):
        begun.set()
        assert go.wait(60)
        setup(mem)

    monkeypatch.setattr(creation, "_setup_tables", slowly)
    made = []
    thread = threading.Thread(target=lambda: made.append(make_pool()))
    thread.start()
    assert begun.wait(60)

    def finish():
        go.set()
        thread.join(60)
        return made[0]

    return finish


def test_a_pool_that_is_being_made_is_not_there_yet(folder, way, monkeypatch):
    finish = held_in_creation(monkeypatch)
    with pytest.raises(foliocache.PoolNotFoundError):
        foliocache.attach("pool")
    assert foliocache.pools() == []
    assert works(finish()) and foliocache.pools() == ["pool"]


_OPENS = """
import time, foliocache
sleep = time.sleep
time.sleep = lambda seconds: (print("waits", flush=True), sleep(seconds))
foliocache.open("pool", size="1MiB", clients=4)
print("has it")
"""


@pytest.mark.parametrize("way", ["nameless", "hidden"], indirect=True)
def test_creators_take_turns(folder, way, monkeypatch):
    """Otherwise a folder with room for one pool would be full for both."""
    finish = held_in_creation(monkeypatch)
    with subprocess.Popen([sys.executable, "-c", _OPENS], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "waits\n"
        files = [name for name in os.listdir(folder) if not name.endswith("~lock")]
        assert len(files) == (way != "nameless"), "no second one is being made"
        pool = finish()
        assert other.stdout.read().split("\n")[-2] == "has it"
    assert works(pool) and os.listdir(folder) == ["foliocache.pool"]


def test_threads_take_turns_and_get_one_pool(folder, monkeypatch):
    finish = held_in_creation(monkeypatch)
    caches = []
    threads = [threading.Thread(target=lambda: caches.append(make_pool())) for _ in range(3)]
    for thread in threads:
        thread.start()
    pool = finish()
    for thread in threads:
        thread.join(60)
    assert {id(other) for other in caches} == {id(pool)}
    assert len(pool.stat().clients) == 1


def lock_holder(folder):
    """Return the pid of a child that holds the creators' lock, and is stopped."""
    pid = os.fork()
    if pid == 0:
        fd = os.open(folder / ".foliocache.pool~lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_creator_that_is_stopped_is_not_waited_for_for_ever(folder, monkeypatch):
    monkeypatch.setattr(creation, "_CREATION_WAIT", 0.2)
    monkeypatch.setattr(creation, "_CREATION_RATE", 1 << 40)
    pid = lock_holder(folder)
    try:
        with pytest.raises(foliocache.PoolError, match=f"by process {pid}; is it stopped"):
            make_pool()
    finally:
        end(pid)
    assert works(make_pool()) and os.listdir(folder) == ["foliocache.pool"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_strangers_lock_is_not_waited_for(folder):
    pid = lock_holder(folder)
    os.chown(folder / ".foliocache.pool~lock", 12345, 12345)
    try:
        start = time.monotonic()
        assert works(make_pool())
        assert time.monotonic() - start < 30
    finally:
        end(pid)


@pytest.mark.parametrize("when", ["reserving", "setting up"])
def test_a_killed_creators_children_hold_nobody_up(folder, way, when):
    """They inherit its open files and live on. What it had reserved is freed, unless it was setting up the tables."""
    reader, writer = os.pipe()

    def creator():
        def fork():
            if os.fork() == 0:
                os.close(reader)
                os.write(writer, str(os.getpid()).encode().ljust(10))
                signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)

        if when == "reserving":
            reserve = os.posix_fallocate
            os.posix_fallocate = lambda *arguments: (reserve(*arguments), fork())
        else:
            creation._setup_tables = lambda mem: fork()
        make_pool()

    inherited = deleted_memory()  # of other tests, whose pools are removed while something of them lives
    assert in_child(creator) == -signal.SIGKILL
    orphan = int(os.read(reader, 10))
    try:
        assert when == "setting up" or deleted_memory(orphan) <= inherited
        assert answer_of(lambda: works(make_pool()), 10) == "True"
    finally:
        os.kill(orphan, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


# Missing resources.


def limited(what, limit, work):
    """Return the answer of work() in a child under a resource limit: a number, or a function that the child calls for it."""

    def body():
        value = limit() if callable(limit) else limit
        resource.setrlimit(what, (value, resource.getrlimit(what)[1]))
        return work()

    return answer_of(body)


def address_space(more):
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize() + more


@pytest.mark.parametrize("more", [8 << 20, 96 << 20], ids=["for neither mapping", "for one mapping"])
def test_no_address_space(folder, way, more):
    said = limited(resource.RLIMIT_AS, lambda: address_space(more), lambda: make_pool(size="64MiB"))
    assert said.startswith("PoolError") and "ulimit -v" in said
    assert os.listdir(folder) == []
    pool = make_pool(size="64MiB")
    said = limited(resource.RLIMIT_AS, lambda: address_space(more), lambda: works(foliocache.attach("pool")))
    assert said == "True", "a process that has the pool open needs no more"
    assert works(pool)
    del pool
    gc.collect()
    said = limited(resource.RLIMIT_AS, lambda: address_space(more), lambda: foliocache.attach("pool"))
    assert said.startswith("PoolError") and "ulimit -v" in said


def test_files_may_not_become_large_enough(folder, way):
    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # as where Python is embedded
        return make_pool(size="8MiB")

    said = limited(resource.RLIMIT_FSIZE, 1 << 20, work)
    assert said.startswith("PoolFullError") and "ulimit -f" in said
    assert os.listdir(folder) == []


def test_any_number_of_descriptors_is_enough_or_too_few_in_words(folder, way):
    def with_descriptors(n):
        fds = []
        with pytest.raises(OSError):
            while True:
                fds.append(os.open("/dev/null", os.O_RDONLY))
        for fd in fds[:n]:
            os.close(fd)
        return works(make_pool())

    answers = set()
    for n in range(12):
        said = limited(resource.RLIMIT_NOFILE, 100, functools.partial(with_descriptors, n))
        answers.add(said.split(":")[0])
        assert said == "True" or (said.startswith("PoolError") and "Too many open files" in said), said
        names = os.listdir(folder)
        assert names == (["foliocache.pool"] if said == "True" else []), n
        if said == "True":
            foliocache.remove("pool")
    assert answers == {"True", "PoolError"}


def test_a_reservation_outlives_frequent_signals(folder, monkeypatch):
    """The kernel aborts a reservation at a signal. It is made piece by piece, so that a profiler's timer cannot keep it from
    ending."""
    pieces = []
    reserve = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, offset, length: (pieces.append(length), reserve(fd, offset, length)))
    pool = make_pool(size="64GiB", clients=256)
    segment = pool._attachment.segment
    slots = segment.memory.peek32(layout.SLOTS_BACKED)
    tables = segment.geometry["memmap"] - (256 - slots) * layout.CLIENT_SIZE
    assert max(pieces) <= 4 << 20 < sum(pieces) == tables


def test_no_such_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path / "nowhere"))
    for work in (make_pool, lambda: foliocache.attach("pool"), foliocache.pools):
        with pytest.raises(foliocache.PoolError, match="FOLIOCACHE_DIR"):
            work()


def test_an_empty_folder_name_is_the_usual_one_and_a_relative_one_is_fixed(monkeypatch, tmp_path):
    monkeypatch.setenv("FOLIOCACHE_DIR", "")
    assert files.directory() == "/dev/shm"
    monkeypatch.setenv("FOLIOCACHE_DIR", "here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert make_pool().path == str(tmp_path / "here" / "foliocache.pool")


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_the_mode_is_exact_from_the_first_moment(folder, way, monkeypatch, mask):
    modes, link = [], os.link
    monkeypatch.setattr(os, "link", lambda one, other: (modes.append(stat.S_IMODE(os.stat(one).st_mode)), link(one, other)))
    before = os.umask(mask)
    try:
        path = make_pool(mode=0o640).path
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640 and set(modes) <= {0o640}
