"""How many requests an engine runs at a time: as many as help."""

import gc
import queue
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from foliocache.filler import engine

SECONDS = 30


@pytest.fixture
def made():
    made = engine.Engine()
    yield made
    made.close(SECONDS)


def test_requests_that_wait_are_joined_by_more(made):
    all_at_once = threading.Barrier(engine.CONCURRENCY + 1)
    for _ in range(engine.CONCURRENCY):
        made.later(lambda: all_at_once.wait(SECONDS))
    all_at_once.wait(SECONDS)


class Blocked:
    """Requests that count themselves while they run, and end when they are told to."""

    def __init__(self, made, count):
        self.begun, self.go = queue.SimpleQueue(), queue.SimpleQueue()
        for _ in range(count):
            made.later(self)

    def __call__(self):
        self.begun.put(1)
        self.go.get(timeout=SECONDS)

    def wait_for(self, count):
        for _ in range(count):
            self.begun.get(timeout=SECONDS)

    def end(self, count):
        for _ in range(count):
            self.go.put(1)


def test_threads_grow_while_they_wait_and_shrink_when_they_compete(made, monkeypatch):
    first, samples = engine.CONCURRENCY_FIRST, queue.SimpleQueue()
    asked = queue.SimpleQueue()

    def measured(state, seconds):
        asked.put(seconds)
        return samples.get(timeout=SECONDS)

    monkeypatch.setattr(engine._State, "processors_wanted", measured)
    blocked = Blocked(made, 10 * first)
    blocked.wait_for(first)
    assert asked.get(timeout=SECONDS) == engine.SAMPLE
    samples.put(0.1)
    blocked.wait_for(first)
    assert made._state.width == 2 * first
    assert asked.get(timeout=SECONDS) == engine.SAMPLE
    samples.put((engine.BUSY + engine.TOO_BUSY) / 2)
    assert asked.get(timeout=SECONDS) == 2 * engine.SAMPLE, "what changed nothing is measured for longer"
    samples.put(2 * engine.TOO_BUSY)
    assert asked.get(timeout=SECONDS) == engine.SAMPLE
    assert made._state.width == first
    blocked.end(2 * first)
    blocked.wait_for(first)
    with pytest.raises(queue.Empty):
        blocked.begun.get(timeout=0.05)  # half of the threads have ended
    samples.put(2 * engine.TOO_BUSY)
    assert asked.get(timeout=SECONDS) == 2 * engine.SAMPLE
    assert made._state.width == first, "never below the first number"
    blocked.end(10 * first)
    for _ in range(10):
        samples.put(1.0)


def test_what_cannot_get_a_thread_is_refused_or_gets_the_first_that_is_free(made, monkeypatch):
    def refuse(*args):
        raise RuntimeError("can't start new thread")

    called, go, begun = queue.SimpleQueue(), threading.Event(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(engine._thread, "start_new_thread", refuse)
        assert not made.later(lambda: called.put("refused")) and not made.run(lambda: called.put("refused"))
    assert made.run(lambda: begun.set() or go.wait(SECONDS)) and begun.wait(SECONDS)
    monkeypatch.setattr(engine._thread, "start_new_thread", refuse)
    assert made.later(lambda: called.put("it"))
    go.set()
    assert called.get(timeout=SECONDS) == "it" and called.empty()
    made.close(SECONDS)
    assert not made.later(lambda: called.put("closed")) and called.empty()


def test_a_measurement_survives_threads_that_end(made):
    served = queue.SimpleQueue()
    made.later(lambda: served.put(1))
    served.get(timeout=SECONDS)
    assert made._state.processors_wanted(0.001) >= 0
    assert engine._processor_time(0x7FFFFFFE) == 0.0


def test_more_processors_may_be_used_where_there_are_more():
    states = {processors: engine.Engine(processors)._state for processors in (0.5, 1, 2, 6, 16)}
    assert {processors: state.pairs for processors, state in states.items()} == {0.5: 1, 1: 1, 2: 1, 6: 3, 16: engine.PAIRS_MAX}


@pytest.mark.parametrize("processors", [2, 6])
def test_use_of_processors_is_of_every_two(monkeypatch, processors):
    """Threads that use all of two processors, seen by a clock that this test turns."""
    now, used = 100.0, dict.fromkeys((1, 2), 50.0)
    threads = [engine._Serving() for _ in used]
    for thread, clock in zip(threads, used, strict=True):
        thread.clock = clock

    def passes(seconds):
        nonlocal now
        now += seconds
        for clock in used:
            used[clock] += seconds

    state = engine.Engine(processors)._state
    state.busy.extend(threads)
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: now, sleep=passes))
    monkeypatch.setattr(engine, "_processor_time", used.__getitem__)
    assert state.processors_wanted(0.002) == pytest.approx(2 / (processors / 2))


def test_a_measurement_that_ends_late_is_of_a_busy_machine(made, monkeypatch):
    sleep = engine.time.sleep
    monkeypatch.setattr(engine.time, "sleep", lambda seconds: sleep(seconds + 0.05))
    assert made._state.processors_wanted(0.001) > engine.BUSY


def test_an_engine_that_is_dropped_ends_its_measuring_thread(monkeypatch):
    entered, leave = queue.SimpleQueue(), queue.SimpleQueue()

    def measured(state, seconds):
        entered.put(state)
        leave.get(timeout=SECONDS)
        return 0.0

    monkeypatch.setattr(engine._State, "processors_wanted", measured)
    made = engine.Engine()
    blocked = Blocked(made, 2 * engine.CONCURRENCY_FIRST)
    blocked.wait_for(engine.CONCURRENCY_FIRST)
    state = entered.get(timeout=SECONDS)
    made.close(0)
    del made
    gc.collect()
    leave.put(1)
    blocked.end(2 * engine.CONCURRENCY_FIRST)
    deadline = threading.Event()
    for _ in range(600):
        if state.samplers:
            break
        deadline.wait(0.05)
    assert state.samplers and state.width == engine.CONCURRENCY_FIRST


def test_an_engine_may_outlive_its_module():
    """The interpreter clears modules in the reverse of the order in which they were imported."""
    script = "import os; from foliocache.filler import engine; os.kept = engine, engine.Engine()"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=SECONDS)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_threads_that_serve_several_share_what_may_be_under_way():
    """A few for each in any case, since the requests of others may hang."""
    made = engine.Engine(2)
    most = made.at_once_most
    assert made.servers * most == engine.CONCURRENCY and made.may_have(0) == most
    for taken, own, may in (
        (most, 0, most),
        (engine.CONCURRENCY - 6, 0, 6),
        (engine.CONCURRENCY - 1, 5, 6),
        (engine.CONCURRENCY, 5, 5),
        (engine.CONCURRENCY + 2, 10, 8),
        (10 * engine.CONCURRENCY, 0, engine.CONCURRENCY_FIRST),
        (most, most, most),
    ):
        made.under_way.clear()
        made.under_way.extend([None] * taken)
        assert made.may_have(own) == may
