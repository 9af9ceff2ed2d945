"""What users see when other processes die, fork, or end in any other way."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import pytest
from units import unit

import foliocache
from foliocache.mm import client as core
from foliocache.mm import filemap
from foliocache.pool import client

PAGE = 16384
CONTENT = bytes(range(256)) * 400  # 102,400 bytes: 7 folios


def read(offset, length):
    return CONTENT[offset : offset + length]


def page(index):
    return CONTENT[index * PAGE : (index + 1) * PAGE]


class Child:
    """A forked process that runs ``body(child)``. Parent and child talk through pipes: ``say`` on one side is ``hear`` on the
    other. It is killed at the end, if it is alive."""

    def __init__(self, body):
        down, up = os.pipe(), os.pipe()
        self.pid = os.fork()
        self._reader, self._writer = (down[0], up[1]) if self.pid == 0 else (up[0], down[1])
        os.close(down[1] if self.pid == 0 else down[0])
        os.close(up[0] if self.pid == 0 else up[1])
        if self.pid == 0:
            try:
                body(self)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        self.status = None

    def say(self, word):
        os.write(self._writer, word.encode().ljust(16))

    def hear(self):
        """Return the next word; "" at the end."""
        return os.read(self._reader, 16).decode().strip()

    def stop(self):
        os.kill(self.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(self.pid, os.WUNTRACED)[1])

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self):
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.status is None:
            self.kill()
        os.close(self._reader)
        os.close(self._writer)


def slow_filler(name, index=0):
    """Start a child that reads one folio from a source that waits for a word."""

    def body(child):
        def source(offset, length):
            child.say("reading")
            child.hear()
            return read(offset, length)

        lease = unit(foliocache.attach(name).mapping("k", len(CONTENT), "v", source), index)
        child.say("cached" if lease.cached and memoryview(lease) == page(index) else "wrong")
        child.hear()

    child = Child(body)
    assert child.hear() == "reading"
    return child


def holder(name, *indices):
    """Start a child that holds leases."""

    def body(child):
        mapping = foliocache.open(name).mapping("k", len(CONTENT), "v", read)
        leases = [unit(mapping, index) for index in indices]
        child.say(f"holds {len(leases)}")
        child.hear()

    child = Child(body)
    assert child.hear() == f"holds {len(indices)}"
    return child


def python(code, *args):
    """Start another interpreter that shares nothing with this one."""
    program = "import foliocache, sys\nname = sys.argv[1]\nread = lambda offset, length: bytes(length)\n" + textwrap.dedent(
        code
    )
    return subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=120)


def pins(pool):
    return pool.stat().pins


def settled(pool):
    """True if nothing of dead clients remains."""
    pool._attachment.reap()
    assert pool.audit() == [] and pins(pool) == 0
    assert [c.pid for c in pool.stat().clients] == [os.getpid()]


# Fillers.


def test_who_waits_for_a_filler_that_dies_reads_the_page_himself(pool):
    calls = []

    def counted(offset, length):
        calls.append(offset)
        return read(offset, length)

    mapping = pool.mapping("k", len(CONTENT), "v", counted)
    with slow_filler(pool.name) as filler:
        leases = []
        waiter = threading.Thread(target=lambda: leases.append(unit(mapping, 0)))
        waiter.start()
        while pool.stat().counters.waits < 1:
            threading.Event().wait(0.001)
        start = time.monotonic()
        filler.kill()
        waiter.join(60)
    assert time.monotonic() - start < 10, "long before fill_timeout"
    assert memoryview(leases[0]) == page(0) and leases[0].cached and calls == [0]
    leases.clear()
    settled(pool)


def test_of_several_who_wait_one_reads(pool):
    def body(child):
        def source(offset, length):
            child.say("reads")
            return read(offset, length)

        lease = unit(foliocache.attach(pool.name).mapping("k", len(CONTENT), "v", source), 0)
        child.say("right" if lease.cached and memoryview(lease) == page(0) else "wrong")

    with slow_filler(pool.name) as filler, contextlib.ExitStack() as stack:
        waiters = [stack.enter_context(Child(body)) for _ in range(3)]
        while pool.stat().counters.waits < 3:
            threading.Event().wait(0.001)
        filler.kill()
        words = [word for waiter in waiters for word in iter(waiter.hear, "")]
        assert [waiter.wait() for waiter in waiters] == [0, 0, 0]
    assert sorted(words) == ["reads", "right", "right", "right"]
    settled(pool)


def test_a_dead_fillers_page_that_nobody_waits_for_is_read_by_the_next_one(pool):
    with slow_filler(pool.name, 3) as filler:
        filler.kill()
    assert memoryview(unit(pool.mapping("k", len(CONTENT), "v", read), 3)) == page(3)
    settled(pool)


@pytest.mark.parametrize("how", ["stopped", "its source hangs"])
def test_a_stuck_filler_harms_nobody(pool, how):
    """A process that waits gives up after fill_timeout and reads the bytes itself, uncached."""
    pool = foliocache.open(pool.name, fill_timeout=0.3)
    mapping = pool.mapping("k", len(CONTENT), "v", read)
    with slow_filler(pool.name) as filler:
        if how == "stopped":
            filler.stop()
        start = time.monotonic()
        lease = unit(mapping, 0)
        assert time.monotonic() - start >= 0.3
        assert memoryview(lease) == page(0) and not lease.cached
        assert unit(mapping, 5).cached, "other pages of the object are not touched"
        assert pool.mapping("other", 10, "v", read).lease(0).cached
        if how == "stopped":
            filler.go_on()
        filler.say("go")
        assert filler.hear() == "cached"
        assert mapping.lease(0).cached
        filler.say("end")
        assert filler.wait() == 0
    lease.release()
    settled(pool)


# Pins and slots.


def test_a_dead_clients_leases_are_given_back_when_another_attaches(pool):
    with holder(pool.name, 0, 1, 2) as child:
        assert pins(pool) == 3
        child.kill()
    said = python("print(foliocache.attach(name).stat().pins)", pool.name)
    assert (said.stdout, said.stderr) == ("0\n", "")
    settled(pool)


def test_a_dead_clients_window_is_given_back(pool):
    def body(child):
        mapping = foliocache.attach(pool.name).mapping("k", len(CONTENT), "v", read)
        child.window, child.lease = mapping.window(), unit(mapping, 1)
        child.say("holds")
        child.hear()

    with Child(body) as child:
        assert child.hear() == "holds"
        child.kill()
    settled(pool)
    assert pool.stat().pages_by_state.table == 0


def test_what_was_half_done_is_no_finding(pool):
    """A process dies when it has made an object's record, and nothing of the object is cached yet."""

    def body(child):
        child.pool = foliocache.attach(pool.name)
        mem, me = child.pool._attachment.segment.mem, child.pool._attachment.number
        assert filemap.open(mem, me, 1, 2, 3, PAGE, 0, 0, b"", 0, 0)
        child.say("made")
        child.hear()

    with Child(body) as child:
        assert child.hear() == "made"
        child.kill()
    assert pool.audit() == []


def test_a_folio_that_a_living_client_holds_too_stays(pool):
    lease = unit(pool.mapping("k", len(CONTENT), "v", read), 0)
    with holder(pool.name, 0, 0) as child:
        assert pins(pool) == 3
        child.kill()
    assert pool._attachment.reap() == (1, 0)
    assert pins(pool) == 1 and memoryview(lease) == page(0)
    lease.release()
    settled(pool)


def test_when_every_slot_is_a_dead_clients_the_next_one_takes_over(pool_name):
    assert python("foliocache.open(name, size='4MiB', clients=4)", pool_name).returncode == 0
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(holder(pool_name, n)) for n in range(4)]
        for child in children:
            child.kill()
    settled(foliocache.attach(pool_name))


def test_one_client_too_many_is_told_so_until_one_dies(pool_name):
    assert python("foliocache.open(name, size='4MiB', clients=4)", pool_name).returncode == 0
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(holder(pool_name, n)) for n in range(4)]
        with pytest.raises(foliocache.PoolError, match="room for 4 client processes and all are attached"):
            foliocache.attach(pool_name)
        children[2].kill()
        pool = foliocache.attach(pool_name)
        assert pool.audit() == [] and pins(pool) == 3
        assert len(pool.stat().clients) == 4
    settled(pool)


def test_who_finds_no_clean_slot_waits_for_a_reaper_who_is_at_work(pool_name, monkeypatch):
    """Until the reaper has finished, it has the locks of the dead clients' slots, which look as if they were in use."""
    pool = foliocache.open(pool_name, size="4MiB", clients=3)
    settle, begun, go = client._settle, threading.Event(), threading.Event()

    def slowly(*args):
        begun.set()
        assert go.wait(60)
        return settle(*args)

    with holder(pool_name, 0) as one, holder(pool_name, 1) as other:
        one.kill()
        other.kill()
    monkeypatch.setattr(client, "_settle", slowly)
    reaper = threading.Thread(target=pool._attachment.reap)
    reaper.start()
    assert begun.wait(60)
    code = f"""if True:
        import foliocache.pool.client, time
        sleep = time.sleep
        time.sleep = lambda seconds: (print("waits", flush=True), sleep(seconds))
        foliocache.attach({pool_name!r})
    """
    late = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert late.stdout.readline() == "waits\n"
    go.set()
    assert (late.wait(60), late.stderr.read()) == (0, "")
    reaper.join(60)
    settled(pool)


def test_who_finds_no_clean_slot_does_not_wait_for_a_reaper_who_is_stopped(pool_name, monkeypatch):
    pool = foliocache.open(pool_name, size="4MiB", clients=3)
    settle = client._settle

    def stop(*args):
        os.kill(os.getpid(), signal.SIGSTOP)
        return settle(*args)

    def reap_and_stop(child):
        client._settle = stop
        child.say("reaps")
        pool._attachment.join()

    with holder(pool_name, 0) as one:
        one.kill()
        with Child(reap_and_stop) as stopped:
            assert stopped.hear() == "reaps"
            assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
            code = f"import foliocache.pool.client; foliocache.pool.client.ADOPT_WAIT = 0.1; foliocache.attach({pool_name!r})"
            late = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
            assert "no free client slot" in late.stderr and "stopped?" in late.stderr
            stopped.go_on()
            assert stopped.wait() == 0
    settled(pool)


def test_names_that_wait_take_one_slot_alone(pool_name):
    """The slot of a client that died with a name of a folio that is still held can be used by others."""
    pool = foliocache.open(pool_name, size="4MiB", clients=3)
    mapping = pool.mapping("k", len(CONTENT), "v", read)
    lease = unit(mapping, 0)

    def name_it(child):
        mine = foliocache.attach(pool_name)
        mem, me = mine._attachment.segment.mem, mine._attachment.number
        core.op_begin(mem, me)
        core.announce(mem, me, pfn)
        os.kill(os.getpid(), signal.SIGKILL)

    pfn = int(repr(lease).split()[-1].rstrip(">"))
    for _ in range(5):
        with Child(name_it) as child:
            assert child.wait() == -signal.SIGKILL
    assert pool._attachment.reap()[1] == 1
    assert memoryview(lease) == page(0)
    lease.release()
    settled(pool)


def test_two_who_died_at_once_are_settled_at_once(pool):
    with slow_filler(pool.name, 0) as one, slow_filler(pool.name, 4) as other:
        one.kill()
        other.kill()
    assert pool._attachment.reap() == (2, 0)
    settled(pool)


def test_a_stopped_client_holds_up_nobody(pool):
    with holder(pool.name, 0) as stopped, holder(pool.name, 0, 1) as dead:
        stopped.stop()
        dead.kill()
        pool._attachment.reap()
        assert pins(pool) == 1
        mapping = pool.mapping("k", len(CONTENT), "v", read)
        assert all(memoryview(unit(mapping, index)) == page(index) for index in range(7))
        mapping.invalidate()
        stopped.go_on()
        stopped.say("end")
        assert stopped.wait() == 0
    settled(pool)


# Forks and other ways to start a process.


def test_a_forked_child_is_a_client_of_its_own_and_inherits_nothing(pool):
    mapping = pool.mapping("k", len(CONTENT), "v", read)
    lease, window = unit(mapping, 0), mapping.window()
    before = pins(pool)

    def body(child):
        for inherited in (lease, window):
            with pytest.raises(foliocache.LeaseError, match="inherited by fork"):
                memoryview(inherited)
        lease.release()
        window.close()
        child.own = unit(mapping, 1)
        child.say(f"{memoryview(child.own) == page(1)}")
        child.hear()

    with Child(body) as child:
        assert child.hear() == "True"
        assert pins(pool) == before + 1 and {c.pid for c in pool.stat().clients} == {os.getpid(), child.pid}
        child.say("end")
        assert child.wait() == 0
    assert pins(pool) == before, "it ended by os._exit, with a lease, and stat() has settled that"
    assert pool._attachment.reap() == (0, 0)
    assert memoryview(lease) == page(0) and memoryview(window) == CONTENT
    lease.release()
    window.close()
    settled(pool)


def test_a_child_forked_while_another_thread_reaps_does_not_keep_others_from_it(pool, monkeypatch):
    settle, begun, go = client._settle, threading.Event(), threading.Event()

    def slowly(*args):
        begun.set()
        assert go.wait(60)
        return settle(*args)

    def live(child):  # until it says so, it may not have come to close what it has inherited
        child.say("forked")
        child.hear()

    with holder(pool.name, 0) as dead, holder(pool.name, 1) as dead_later:
        dead.kill()
        monkeypatch.setattr(client, "_settle", slowly)
        reaper = threading.Thread(target=pool._attachment.reap)
        reaper.start()
        assert begun.wait(60)
        with Child(live) as forked:
            assert forked.hear() == "forked"
            go.set()
            reaper.join(60)
            monkeypatch.undo()
            dead_later.kill()
            assert pool._attachment.reap() == (1, 0)
            forked.say("end")
            assert forked.wait() == 0
    settled(pool)


def use(pool, mapping, said):
    with unit(mapping, 2) as lease:
        said.put((os.getpid(), pool.name, memoryview(lease) == page(2), pins(pool)))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_cache_and_its_mappings_can_be_passed_to_a_process(pool, method):
    context = multiprocessing.get_context(method)
    mapping, said = pool.mapping("k", len(CONTENT), "v", read), context.Queue()
    worker = context.Process(target=use, args=(pool, mapping, said))
    worker.start()
    assert said.get(timeout=60) == (worker.pid, pool.name, True, 1)
    worker.join(60)
    assert worker.exitcode == 0 and pins(pool) == 0


def test_a_cache_pickles_by_name_and_keeps_its_fill_timeout(pool):
    pool = foliocache.open(pool.name, fill_timeout=7)
    code = """
        import pickle
        pool = pickle.loads(bytes.fromhex(sys.argv[2]))
        print(pool.name == name, pool.fill_timeout)
    """
    said = python(code, pool.name, pickle.dumps(pool).hex())
    assert (said.stdout, said.stderr) == ("True 7.0\n", "")


def test_leases_may_be_released_by_any_thread(pool):
    mapping = pool.mapping("k", len(CONTENT), "v", read)
    leases = [unit(mapping, n % 7) for n in range(100)]
    windows = [mapping.window() for _ in range(4)]
    threads = [threading.Thread(target=lease.release) for lease in leases]
    threads += [threading.Thread(target=window.close) for window in windows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert pins(pool) == 0


# Ends of an interpreter.

SETUP = """
import multiprocessing, os, threading
pool = foliocache.open(name)
mapping = pool.mapping("k", 500_000, "v", read)
"""

ENDS = {
    "leases and windows alive": ("lease, window = mapping.lease(0), mapping.window()", 0),
    "views alive": ("import numpy; array = numpy.frombuffer(mapping.lease(0), 'u1'); view = memoryview(mapping.window())", 0),
    "a lease in a cycle": ("cycle = [mapping.lease(0)]; cycle.append(cycle); del cycle", 0),
    "a lease in another module": ("os.lease = mapping.lease(0); sys.pool = pool", 0),
    "a lease taken by an atexit handler": ("import atexit; atexit.register(lambda: setattr(os, 'lease', mapping.lease(0)))", 0),
    "a lease with the cache closed": ("lease = mapping.lease(0); pool.close(); del pool, mapping", 0),
    "os._exit": ("lease = mapping.lease(0); os._exit(3)", 3),
    "sys.exit": ("lease = mapping.lease(0); sys.exit(4)", 4),
    "sys.exit in a thread": ("thread = threading.Thread(target=lambda: (mapping.lease(0), sys.exit(5))); thread.start()", 0),
    "SIGTERM": ("lease = mapping.lease(0); os.kill(os.getpid(), 15)", -15),
    "daemon threads at work": (
        """
def work():
    while True:
        mapping.read(0, 500_000)
        mapping.invalidate()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
mapping.lease(0)
""",
        0,
    ),
    "a daemon thread in its source": (
        """
inside = threading.Event()
def hang(offset, length):
    inside.set()
    threading.Event().wait()
threading.Thread(target=pool.mapping("hangs", 10, "v", hang).lease, args=(0,), daemon=True).start()
inside.wait()
""",
        0,
    ),
    "a daemon thread waiting for another's source": (
        """
inside = threading.Event()
def hang(offset, length):
    inside.set()
    threading.Event().wait()
hanging = pool.mapping("hangs", 10, "v", hang)
threading.Thread(target=hanging.lease, args=(0,), daemon=True).start()
inside.wait()
threading.Thread(target=pool.mapping("hangs", 10, "v", hang).lease, args=(0,), daemon=True).start()
while pool.stat().counters.waits < 1: pass
""",
        0,
    ),
    "reading ahead in the background": (
        "concurrent = pool.mapping('c', 500_000, 'v', read, concurrent=True)\nfor n in range(20): concurrent.lease(n * 16384)",
        0,
    ),
    "reading ahead from a source that hangs": (
        """
begun = threading.Event()
def hang(offset, length):
    begun.set()
    threading.Event().wait()
mapping = pool.mapping("ahead", 500_000, "v", hang, concurrent=True)
mapping.filler.read_runs(mapping, [(0, 1)])
begun.wait()
""",
        0,
    ),
    "workers of a pool": (
        """
def work(n):
    os.lease = mapping.lease(n * 16384, 16384)
    return len(os.lease)
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert pool.map(work, range(20)) == [16384] * 20
""",
        0,
    ),
    "sys.exit in a worker": (
        """
def work():
    os.lease = mapping.lease(0)
    sys.exit(6)
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
sys.exit(worker.exitcode)
""",
        6,
    ),
    "an exception in a worker": (
        """
def work():
    os.close(2)
    os.lease = mapping.lease(0)
    raise RuntimeError
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
sys.exit(worker.exitcode)
""",
        1,
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_every_end_of_an_interpreter_is_clean(pool, how):
    code, expected = ENDS[how]
    ended = python(SETUP + code, pool.name)
    assert (ended.returncode, ended.stdout, ended.stderr) == (expected, "", "")
    settled(pool)


def test_an_orderly_end_leaves_a_clean_slot(pool):
    assert python("lease = foliocache.open(name).mapping('k', 10, 'v', read).lease(0)", pool.name).returncode == 0
    assert [c.pid for c in pool.stat().clients] == [os.getpid()], "without any reaper"
    assert pins(pool) == 0


def test_the_pool_stays_for_the_next_one_with_its_content(pool_name):
    first = "pool = foliocache.open(name, size='4MiB'); print(len(pool.mapping('k', 500_000, 'v', read).read(0, 500_000)))"
    said = python(first, pool_name)
    assert (said.stdout, said.stderr) == ("500000\n", "")
    pool = foliocache.attach(pool_name)
    assert pool.mapping("k", 500_000, "v").read(0, 500_000) == bytes(500_000), "without a source"
    settled(pool)
