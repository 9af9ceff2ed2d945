"""Names in Python: asked for once by threads and processes, forgotten by all."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time

import pytest
from units import units

import foliocache
from foliocache.mm import layout
from foliocache.pool import names as names_module

PATIENCE = 60


def forked(function):
    """The pid of a child that runs function."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            function()
            status = 0
        os._exit(status)
    return pid


def ended(pid):
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_what_was_answered_is_known(pool):
    assert pool.names.recall("k", 60) is None
    with pool.names.ask("k", 60) as ask:
        assert ask.known is None
        assert ask.answer(100, "v1", b"more")
    found = pool.names.recall("k", 60)
    assert (found.exists, found.size, found.version, found.extra) == (True, 100, "v1", b"more")
    assert 0 <= found.age < 60
    assert pool.names.ask("k", 60).known == found


def test_that_there_is_no_such_object_is_known(pool):
    assert pool.names.ask("k", 60).answer_absent()
    found = pool.names.recall("k", 60)
    assert (found.exists, found.size, found.version, found.extra) == (False, 0, "", b"")


def test_the_answer_is_for_who_asked(pool):
    pool.names.ask("k", who="one").answer(1, "1")
    assert pool.names.recall("k", 60) is pool.names.recall("k", 60, who="another") is None
    assert pool.names.recall("k", 60, who="one").size == 1
    pool.names.ask("k", who="another").answer(2, "2")
    pool.names.forget("k")
    assert pool.names.recall("k", 60, who="one") is pool.names.recall("k", 60, who="another") is None


def test_an_answer_grows_old(pool, monkeypatch):
    pool.names.ask("k").answer(1)
    later = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 50 * 10**9
    monkeypatch.setattr(names_module, "_now", lambda: later)
    assert pool.names.recall("k", 40) is None
    assert pool.names.recall("k", 100).size == 1
    assert pool.names.recall("k", float("inf")).size == 1
    assert pool.names.ask("k", 40).known is None


def test_an_answer_of_another_clock_is_none(pool, monkeypatch):
    """A time namespace may be behind the others."""
    ours = names_module._now
    with monkeypatch.context() as ahead:
        ahead.setattr(names_module, "_now", lambda: ours() + 3600 * 10**9)
        pool.names.ask("k").answer(1)
    assert pool.names.recall("k", float("inf")) is None
    assert pool.names.ask("k", float("inf")).known is None


def test_a_max_age_of_0_always_asks(pool):
    pool.names.ask("k", 0).answer(1)
    assert pool.names.recall("k", 0) is None
    first, second = pool.names.ask("k", 0, who="a"), pool.names.ask("k", 0, who="b")
    assert first.known is second.known is None


@pytest.mark.parametrize("max_age", [-1, float("nan"), "1", None, True])
def test_a_max_age_is_a_number(pool, max_age):
    with pytest.raises(ValueError, match="max_age must be a number of seconds"):
        pool.names.recall("k", max_age)


@pytest.mark.parametrize(("size", "extra"), [(-1, b""), (1 << 64, b""), (1, bytes(193))])
def test_an_answer_that_cannot_be(pool, size, extra):
    with pytest.raises(ValueError, match=r"must be a number of bytes|192 bytes at most"):
        pool.names.ask("k").answer(size, "v", extra)
    assert pool.names.list() == []


@pytest.mark.parametrize(
    ("version", "is_remembered"), [("v" * 64, True), ("v" * 65, False), ("ü" * 32, True), ("ü" * 33, False)]
)
def test_a_version_that_is_too_long_is_not_remembered(pool, version, is_remembered):
    assert pool.names.ask("k").answer(1, version, bytes(192)) is is_remembered
    assert (pool.names.recall("k", 60) is not None) is is_remembered


def test_strange_texts(pool):
    for key in ("", "\udcff", "ü" * 200, "a\0b"):
        assert pool.names.ask(key).answer(1, key[:50])
        assert pool.names.recall(key, 60).version == key[:50]
    assert len(pool.names.list()) == 4


def test_a_question_that_was_dropped_is_withdrawn(pool):
    pool.names.ask("a")
    with contextlib.suppress(OSError), pool.names.ask("b"):
        raise OSError
    assert pool.names.list() == []


def test_forgetting_makes_the_answer_under_way_void(pool):
    ask = pool.names.ask("k", 60)
    pool.names.forget("k")
    assert not ask.answer(1)
    assert pool.names.recall("k", 60) is None


def test_forgetting_all_below(pool):
    long = "dir/" + "x" * 300
    keys = ["dir/a", "dir/b/c", "dirt", "other", long]
    for key in keys:
        pool.names.ask(key).answer(1)
    pool.names.forget_below("dir/b")
    assert [pool.names.recall(key, 60) is None for key in keys] == [False, True, False, False, False]
    pool.names.forget_below(long + "y")
    assert [pool.names.recall(key, 60) is None for key in keys] == [False, True, False, False, True], "it may be one of those"
    pool.names.forget_below("dir/")
    assert [pool.names.recall(key, 60) is None for key in keys] == [True, True, False, False, True]


def test_another_thread_waits_for_the_answer(pool, waited):
    ask, found = pool.names.ask("k", 60), []
    thread = threading.Thread(target=lambda: found.append(pool.names.ask("k", 60).known))
    thread.start()
    assert waited.wait(PATIENCE)
    ask.answer(7)
    thread.join(PATIENCE)
    assert [name.size for name in found] == [7]


def asking(pool):
    """Start a thread that wants to know what "k" means, and else answers 8. Return it, and a list for what it is told."""
    found = []

    def want():
        with pool.names.ask("k", 60) as mine:
            found.append((mine.known, mine.answer(8)))

    thread = threading.Thread(target=want)
    thread.start()
    return thread, found


@pytest.mark.parametrize("end", ["withdraw", "forget"])
def test_another_thread_asks_when_the_question_fails(pool, waited, end):
    ask = pool.names.ask("k", 60)
    thread, found = asking(pool)
    assert waited.wait(PATIENCE)
    ask.withdraw() if end == "withdraw" else pool.names.forget("k")
    thread.join(PATIENCE)
    assert found == [(None, True)]
    assert not ask.answer(9)
    assert pool.names.recall("k", 60).size == 8


def test_who_has_waited_long_asks_in_place_of_the_other(pool):
    pool.fill_timeout = 0.05
    ask = pool.names.ask("k", 60)
    thread, found = asking(pool)
    thread.join(PATIENCE)
    assert found == [(None, True)]
    assert not ask.answer(9), "it was asked for earlier"
    assert pool.names.recall("k", 60).size == 8


def test_a_thread_does_not_wait_for_itself(pool):
    """As a handler of a signal that comes while the origin is asked, and wants the same."""
    with pool.names.ask("k", 60) as ask:
        with pool.names.ask("k", 60) as nested:
            assert nested.known is None
            assert not nested.answer(1)
        assert ask.answer(2)
    assert pool.names.recall("k", 60).size == 2
    assert pool._asking == set()


def test_a_signal_ends_the_wait(pool, waited):
    asked = threading.Event()

    def ask():
        with pool.names.ask("k", 60):
            asked.set()
            assert waited.wait(PATIENCE)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert done.wait(PATIENCE)

    done = threading.Event()
    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(PATIENCE)
    with pytest.raises(KeyboardInterrupt):
        pool.names.ask("k", 60)
    done.set()
    thread.join(PATIENCE)


def test_processes_share_what_is_known(pool, pool_name):
    pool.names.ask("k").answer(5, "v")

    def child():
        assert pool.names.recall("k", 60).version == "v"
        assert foliocache.attach(pool_name).names.recall("k", 60).size == 5
        pool.names.ask("k").answer(6, "w")

    assert ended(forked(child)) == 0
    assert pool.names.recall("k", 60).version == "w"


def test_another_process_forgets(pool):
    ask = pool.names.ask("k", 60)
    pool.names.ask("other").answer(1)

    def child():
        pool.names.forget("k")
        pool.names.forget("other")

    assert ended(forked(child)) == 0
    assert pool.names.recall("other", 60) is None
    assert not ask.answer(1)


def test_a_question_is_not_the_childs(pool):
    ask = pool.names.ask("k", 60)

    def child():
        assert not ask.answer(1)
        ask.withdraw()

    assert ended(forked(child)) == 0
    assert ask.answer(2)
    assert pool.names.recall("k", 60).size == 2


def test_a_dead_asker_is_replaced(pool):
    reader, writer = os.pipe()

    def asker():
        ask = pool.names.ask("k", 60)
        os.write(writer, b"x")
        signal.pause()
        ask.withdraw()

    pid = forked(asker)
    assert os.read(reader, 1) == b"x"
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    with pool.names.ask("k", 60) as ask:
        assert ask.known is None and ask.answer(3)
    os.close(reader)
    os.close(writer)


def _ask_once(pool_name, barrier, asked):
    pool = foliocache.open(pool_name)
    barrier.wait(PATIENCE)
    for number in range(20):
        with pool.names.ask(f"key {number}", 3600) as ask:
            if ask.known is None:
                with asked.get_lock():
                    asked.value += 1
                assert ask.answer(number)
            else:
                assert ask.known.size == number


def test_many_processes_ask_once(pool, pool_name):
    context = multiprocessing.get_context("spawn")
    barrier, asked = context.Barrier(4), context.Value("i", 0)
    workers = [context.Process(target=_ask_once, args=(pool_name, barrier, asked)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert asked.value == 20


def test_a_pool_full_of_pinned_pages_remembers_nothing(pool, make_source):
    source = make_source(pool.pool_bytes)
    mapping = pool.mapping("big", pool.pool_bytes, "v", source.read)
    held = units(mapping)
    while pool.stat().free_bytes:
        held.append(pool.mapping(f"tiny {len(held)}", 10, "v", lambda offset, length: bytes(length)).lease(0))
    ask = pool.names.ask("k", 60)
    assert ask.known is None
    assert not ask.answer(1)
    del held


def test_a_closed_pool_knows_nothing(pool):
    names, ask = pool.names, pool.names.ask("k", 60)
    pool.close()
    for use in (
        lambda: pool.names,
        lambda: names.recall("k", 60),
        lambda: names.ask("j"),
        lambda: names.forget("k"),
        names.list,
    ):
        with pytest.raises(foliocache.FoliocacheError, match="closed"):
            use()
    ask.withdraw()


def test_names_are_bounded(pool):
    most = pool._attachment.segment.geometry["nnames"]
    for number in range(3 * most):
        pool.names.ask(f"key {number}").answer(number)
    assert most // 2 < len(pool.names.list()) <= most
    assert pool.stat().pages_by_state.name <= -(-most * layout.NAME_SIZE // pool.page_size) + 1
