"""The pool is used again while it is being opened, joined or reaped: by a signal handler, a finalizer, a thread, a forked
child.

The second user finds no lock that its own thread holds, and no half-made state: it does its work, or an error says why not.
"""

import contextlib
import functools
import gc
import os
import queue
import signal
import sys
import threading

import fresh
import pytest
from lines import PACKAGE, SOAK, STRIDE, answer_of, at_line, count_lines, in_child
from units import unit, units

import foliocache
from foliocache.filler import engine
from foliocache.mm import client
from foliocache.pool import client as clients
from foliocache.pool import creation

CONTENT = bytes(range(250)) * 400


def read(offset, length):
    return CONTENT[offset : offset + length]


@pytest.fixture
def name(pool_name):
    foliocache.open(pool_name, size="1MiB", page_size="4KiB", clients=8)
    gc.collect()
    return pool_name


def used(pool, key="k"):
    """Use a pool, and assert that this process is one client of it. Return the pool."""
    mapping = pool.mapping(key, len(CONTENT), "1", read)
    assert mapping.read_bytes(0, 5000) == CONTENT[:5000]
    assert pool.audit() == [] or key != "k"
    assert [client.pid for client in pool.stat().clients].count(os.getpid()) == 1
    return pool


def open_of(name):
    return lambda: used(foliocache.open(name))


def create_of(name):
    def create():
        foliocache.remove(name)
        return used(foliocache.open(name, size="1MiB", clients=8))

    return create


@pytest.mark.parametrize("make", [open_of, create_of], ids=["attach", "create"])
@fresh.process
def test_a_handler_opens_what_is_being_opened(name, make):
    """At every line; both get the same Pool, which is one client."""
    work = make(name)

    def again():
        return used(foliocache.open(name, size="1MiB", clients=8), "another key")

    def reenter(some):
        for line in some:
            inner = []
            with at_line(line, lambda inner=inner: inner.append(again())):
                outer = work()
            if inner and make is open_of:
                assert inner[0] is outer, line
            del outer, inner
            gc.collect()

    lines = int(answer_of(lambda: count_lines(work), 60))  # an exit status would have 8 bits
    assert lines > 100
    tried = range(1, lines + 10, 1 if SOAK else lines // 80 + 1)
    for n in range(0, len(tried), 4):
        assert in_child(functools.partial(reenter, tried[n : n + 4]), 60) == 0, tried[n]


@pytest.mark.parametrize("inner", ["read", "open", "stat", "reap"])
@fresh.process
def test_a_handler_uses_what_a_forked_child_is_joining(name, inner):
    pool = foliocache.open(name)
    mapping = pool.mapping("k", len(CONTENT), "1", read)
    mapping.read(0, 10)
    actions = {
        "read": lambda: mapping.read_bytes(4096, 10) == CONTENT[4096:4106] or os._exit(2),
        "open": lambda: foliocache.open(name) is pool or os._exit(3),
        "stat": pool.stat,
        "reap": pool._attachment.reap,
    }
    lines = 40

    def first_use(line):
        with at_line(line, actions[inner]):
            assert mapping.read_bytes(0, 10) == CONTENT[:10]
        used(pool)

    for line in range(1, lines, STRIDE):
        assert in_child(lambda line=line: first_use(line)) == 0, line
    pool._attachment.reap()
    assert pool.audit() == [] and len(pool.stat().clients) == 1


@fresh.process
def test_a_handler_uses_what_its_thread_adopts(name):
    """Every slot is a dead client's, so joining takes long. The handler gets its bytes, or an error that says so."""
    pool = foliocache.open(name)
    mem = pool._attachment.segment.mem

    def adopt(line):
        while not all(client.state(mem, n) for n in range(8)):
            pid = os.fork()
            if pid == 0:
                assert pool._attachment.number < 8
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(pid, 0)

        def again():
            with contextlib.suppress(foliocache.PoolError):
                assert pool.mapping("another key", 100, "1", read).read_bytes(0, 5) == CONTENT[:5]

        with at_line(line, again):
            used(pool)

    for line in range(1, 60, 2):
        assert in_child(lambda line=line: adopt(line)) == 0, line
    pool._attachment.reap()
    assert pool.audit() == [] and len(pool.stat().clients) == 1


@fresh.process
def test_an_exception_at_any_line_of_joining_leaves_no_lock_behind(name):
    """Other processes can reap, and this process can go on."""
    pool = foliocache.open(name)

    class Handler(Exception):
        pass

    def raise_it():
        raise Handler

    def join(line):
        try:
            with at_line(line, raise_it):
                used(pool)
        except Handler:
            pass
        used(pool)
        mine, dead = os.getpid(), os.fork()
        if dead == 0:
            used(pool)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(dead, 0)
        assert in_child(lambda: used(foliocache.open(name)) and None) == 0
        pool._attachment.reap()
        assert {client.pid for client in pool.stat().clients} <= {mine, os.getppid()}

    for line in range(1, 60):
        assert in_child(lambda line=line: join(line)) == 0, line


@fresh.process
def test_a_finalizer_reads_while_a_forked_child_joins(name):
    pool = foliocache.open(name)
    mapping = pool.mapping("k", len(CONTENT), "1", read)
    mapping.read(0, 10)
    reads = []

    class Reader:
        def __init__(self):
            self.me = self

        def __del__(self):
            reads.append(mapping.read_bytes(0, 3))

    def first_use(n):
        gc.disable()
        for _ in range(5):
            Reader()
        gc.set_threshold(gc.get_count()[0] + n)
        gc.enable()
        mapping.read(0, 10)
        used(pool)
        gc.collect()
        assert reads == [CONTENT[:3]] * 5

    for n in range(1, 40):
        assert in_child(lambda n=n: first_use(n)) == 0, n


@fresh.process
def test_a_child_is_forked_at_any_line_of_another_threads_open(name):
    """What the thread was doing in the parent does not block the child."""
    lines = count_lines(lambda: foliocache.open(name)) + 5
    gc.collect()
    for line in range(1, lines, STRIDE):
        reached, go = threading.Event(), threading.Event()

        def wait(reached=reached, go=go):
            reached.set()
            go.wait(60)

        def opener(line=line, wait=wait, reached=reached):
            with at_line(line, wait):
                used(foliocache.open(name))
            reached.set()

        thread = threading.Thread(target=opener)
        thread.start()
        assert reached.wait(60)
        try:
            assert in_child(open_of(name), 10) == 0, line
        finally:
            go.set()
            thread.join(60)
        gc.collect()
    assert foliocache.attach(name).audit() == []


@fresh.process
def test_a_child_is_forked_at_any_line_of_another_threads_creation(pool_name):
    lines = count_lines(lambda: foliocache.open(pool_name, size="1MiB", clients=8))
    for line in range(1, lines, 3 * STRIDE):
        foliocache.remove(pool_name)
        gc.collect()
        reached, go = threading.Event(), threading.Event()

        def wait(reached=reached, go=go):
            reached.set()
            go.wait(60)

        def opener(line=line, wait=wait, reached=reached):
            with at_line(line, wait):
                foliocache.open(pool_name, size="1MiB", clients=8)
            reached.set()

        thread = threading.Thread(target=opener)
        thread.start()
        assert reached.wait(60)
        alive = os.fork()
        if alive == 0:
            os.close(1)
            signal.pause()
        go.set()
        thread.join(60)
        try:
            assert in_child(lambda: used(foliocache.open(pool_name, size="1MiB", clients=8)), 10) == 0, line
        finally:
            os.kill(alive, signal.SIGKILL)
            os.waitpid(alive, 0)


@fresh.process
def test_threads_join_at_once_and_are_one_client(pool_name):
    """Even if there is only one slot to spare."""
    pool = foliocache.open(pool_name, size="1MiB", page_size="4KiB", clients=2)
    mapping = pool.mapping("k", len(CONTENT), "1", read)

    def many():
        sys.setswitchinterval(1e-6)
        barrier, failed = threading.Barrier(8), []

        def join():
            barrier.wait(10)
            try:
                assert mapping.read_bytes(0, 5) == CONTENT[:5]
                foliocache.open(pool_name)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=join) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert failed == []
        used(pool)

    for _ in range(20):
        assert in_child(many) == 0


def test_a_thread_that_is_late_to_adopt_does_not_settle_its_own_process(pool_name):
    """It found no slot; before it may reap, another thread has adopted the only one, and pins a folio with it."""
    pool = foliocache.open(pool_name, size="1MiB", clients=2)
    mapping = pool.mapping("k", len(CONTENT), "1", read)

    def die():
        lease = unit(mapping, 1)
        os.kill(os.getpid(), signal.SIGKILL)
        del lease

    def body():
        answers, looked, go = [], threading.Event(), threading.Event()

        def reaping(slot):
            if threading.current_thread() is late:
                looked.set()
                assert go.wait(60)
            return Reaping(slot)

        clients.Reaping = reaping
        late = threading.Thread(target=lambda: answers.append(mapping.read_bytes(0, 5)))
        late.start()
        assert looked.wait(60)
        lease = mapping.lease(0)
        go.set()
        late.join(60)
        assert (answers, bytes(lease)[:5]) == ([CONTENT[:5]], CONTENT[:5])
        assert pool.stat().pins == 1 and pool.audit() == []

    Reaping = clients.Reaping
    assert in_child(die) == -signal.SIGKILL
    assert in_child(body) == 0


@pytest.mark.parametrize("ask", ["later", "run"])
@fresh.process
def test_a_handler_asks_the_engine_while_its_thread_does(pool_name, ask):
    """The engine is asked without a lock that the interrupted thread could hold."""
    pool = foliocache.open(pool_name, size="16MiB")
    one = pool.mapping("one", 4 << 20, "1", lambda offset, length: bytes(length), concurrent=True)
    file = engine.__file__

    def body(line):
        """Both requests are served, if there is such a line. Returns how many lines there are."""
        seen, served = 0, queue.SimpleQueue()

        def trace(frame, event, _):
            nonlocal seen
            if frame.f_code.co_filename != file:
                return trace if frame.f_code.co_filename.startswith(PACKAGE) else None
            if event == "line":
                seen += 1
                if seen == line:
                    sys.settrace(None)
                    getattr(pool.engine, ask)(lambda: served.put(1))
            return trace

        sys.settrace(trace)
        getattr(pool.engine, ask)(lambda: served.put(2))
        sys.settrace(None)
        assert {served.get(timeout=10) for _ in range(1 + (seen >= line))} == ({1, 2} if seen >= line else {2})
        for lease in units(one):
            lease.release()
        pool.close()
        return seen

    lines = in_child(lambda: os._exit(body(1000)))
    assert 5 < lines < 100
    for line in range(1, lines + 1):
        assert in_child(lambda line=line: body(line) and None) == 0, line


def test_creation_is_free_again_in_a_forked_child(pool_name, monkeypatch):
    begun, go = threading.Event(), threading.Event()
    setup = creation._setup_tables
    monkeypatch.setattr(creation, "_setup_tables", lambda mem: (begun.set(), go.wait(60), setup(mem)))
    thread = threading.Thread(target=lambda: foliocache.open(pool_name, size="1MiB"))
    thread.start()
    assert begun.wait(60)

    def child():
        creation._setup_tables = setup
        foliocache.open(pool_name + "x", size="1MiB")
        foliocache.remove(pool_name + "x")

    try:
        assert in_child(child, 10) == 0
    finally:
        go.set()
        thread.join(60)


def test_a_child_is_forked_while_another_thread_is_in_the_source(name):
    """The source is called by one thread at a time; that one is not in the child."""
    pool = foliocache.open(name)
    inside, go = threading.Event(), threading.Event()
    parent = os.getpid()

    def slow(offset, length):
        if os.getpid() == parent and offset == 0:
            inside.set()
            assert go.wait(60)
        return read(offset, length)

    mapping = pool.mapping("k", len(CONTENT), "1", slow)
    thread = threading.Thread(target=lambda: mapping.lease(0))
    thread.start()
    assert inside.wait(60)

    def child():
        start = mapping.unit_size * 10
        assert mapping.read_bytes(start, 10) == CONTENT[start : start + 10]

    try:
        assert in_child(child, 10) == 0
    finally:
        go.set()
        thread.join(60)
