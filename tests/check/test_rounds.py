"""Retry loops: a round that changed only the thread itself is another round; a loop without an end is not unrolled."""

import contextlib
import itertools

import pytest

from foliocache.check import facade_model as a
from foliocache.check import replay, scenario
from foliocache.check.program import Program, explore, litmus

X, Y, Z = 0, 64, 128
models = pytest.mark.parametrize("model", scenario.ALL)


def found(*threads, model="rc11", **options):
    result = explore(Program(list(threads), **options), model, stop=False)
    return result, result.failure and result.failure.kind


def by_range(mem):
    for _ in range(3):
        if a.load_acquire(mem, X):
            return "got"
        a.cpu_relax()
    return "gave up"


def by_countdown(mem):
    left = [3]
    while left[0] and not a.load_acquire(mem, X):
        left[0] -= 1
        a.cpu_relax()
    return "got" if left[0] else "gave up"


def by_hidden_iterator(mem):
    for _ in itertools.repeat(None, 3):
        if a.load_acquire(mem, X):
            return "got"
        a.cpu_relax()
    return "gave up"


class Tries:
    def __init__(self):
        self.left = 3


def by_attribute(mem):
    tries = Tries()
    while tries.left and not a.load_acquire(mem, X):
        tries.left -= 1
        a.cpu_relax()
    return "got" if tries.left else "gave up"


def behind_a_first_load(mem):
    """The loop is not all of the first round."""
    for _ in range(a.load_relaxed(mem, Z) + 2):
        if a.load_acquire(mem, X):
            return "got"
        helper()
    return "gave up"


def helper():
    a.cpu_relax()


def by_exchange(mem):
    for _ in range(3):
        if a.exchange_acquire(mem, X, 1) == 1:
            return "got"
        a.store_relaxed(mem, X, 0)
        a.cpu_relax()
    return "gave up"


BOUNDED = [by_range, by_countdown, by_hidden_iterator, by_attribute, behind_a_first_load, by_exchange]
bounded = pytest.mark.parametrize("loop", BOUNDED)


def store(mem):
    a.store_release(mem, X, 1)


@models
@bounded
def test_both_ends_of_a_bounded_loop_are_explored(model, loop):
    result, kind = found(loop, store, model=model)
    assert kind is None and result.finished
    assert {outcome[0] for outcome in result.outcomes} == {"got", "gave up"}
    assert result.executions == result.graphs


@models
@bounded
def test_what_follows_when_it_gives_up_is_explored(model, loop):
    def thread(mem):
        if loop(mem) == "gave up":
            a.write32(mem, Y, 1)

    def other(mem):
        a.write32(mem, Y, 2)
        store(mem)

    assert found(thread, other, model=model)[1] == "race"


@models
@bounded
def test_alone_it_gives_up_and_is_no_livelock(model, loop):
    assert litmus(loop, model=model) == {("gave up",)}


@models
def test_a_replay_gives_up_too(model):
    def thread(mem):
        assert by_range(mem) == "got"

    program = Program([thread, store])
    text = explore(program, model).failure.replay_string
    assert replay.replay(program, model, text)[1].kind == "assertion"


def endless(mem):
    while not a.load_acquire(mem, X):
        a.cpu_relax()
    return "got"


def endless_and_counted(mem):
    rounds = 0
    while not a.load_acquire(mem, X):
        rounds += 1
        a.cpu_relax()
    return "got"


def endless_behind_loads(mem):
    seen = [a.load_relaxed(mem, where) for where in (Z, X, Z)]
    return endless(mem) if len(seen) == 3 else None


@models
@pytest.mark.parametrize(("loop", "exact"), [(endless, True), (endless_behind_loads, True), (endless_and_counted, False)])
def test_an_endless_loop_is_not_unrolled(model, loop, exact):
    result, kind = found(loop, store, model=model)
    assert kind is None
    assert {outcome[0] for outcome in result.outcomes} == {"got"}
    assert result.executions <= 2
    assert (result.stutters == 0) == exact
    assert found(loop, model=model)[1] == "livelock"


def exchange_lock(mem):
    while a.exchange_acquire(mem, X, 1):
        a.cpu_relax()
    a.write32(mem, Y, a.read32(mem, Y) + 1)
    a.store_release(mem, X, 0)


@models
@pytest.mark.parametrize("threads", [2, 3])
def test_a_lock_by_exchange_is_explored_exactly(model, threads):
    result = explore(Program([exchange_lock] * threads, final=lambda mem, _: mem.values[Y]), model, stop=False)
    assert (result.failure, result.stutters, result.outcomes) == (None, 0, {threads})
    assert result.executions == result.graphs == [2, 6][threads - 2]


def test_a_lock_by_exchange_that_does_not_acquire_is_found():
    def weak(mem):
        while a.exchange_relaxed(mem, X, 1):
            a.cpu_relax()
        a.write32(mem, Y, a.read32(mem, Y) + 1)
        a.store_release(mem, X, 0)

    assert [found(weak, weak, model=model)[1] for model in scenario.ALL] == [None, None, "race"]


def by_or(mem):
    while a.fetch_or_acquire(mem, X, 1) & 1:
        a.cpu_relax()
    critical(mem)
    a.fetch_and_release(mem, X, ~1)


def by_test_and_exchange(mem):
    while a.exchange_acquire(mem, X, 1):
        while a.load_relaxed(mem, X):
            a.cpu_relax()
    critical(mem)
    a.store_release(mem, X, 0)


def by_exchange_and_fence(mem):
    while a.exchange_relaxed(mem, X, 1):
        a.cpu_relax()
    a.fence_acquire()
    critical(mem)
    a.store_release(mem, X, 0)


def with_a_mark_of_waiters(mem):
    if a.cmpxchg_acquire(mem, X, 0, 1):
        while a.exchange_acquire(mem, X, 2):
            a.cpu_relax()
    critical(mem)
    a.store_release(mem, X, 0)


def critical(mem):
    a.write32(mem, Y, a.read32(mem, Y) + 1)


@models
@pytest.mark.parametrize(
    ("lock", "two", "three"),
    [(by_or, 2, 6), (by_test_and_exchange, 4, 78), (by_exchange_and_fence, 2, 6), (with_a_mark_of_waiters, 6, 96)],
)
def test_other_forms_of_that_lock_are_explored_exactly(model, lock, two, three):
    for threads, count in [(2, two), (3, three)]:
        result = explore(Program([lock] * threads, final=lambda mem, _: mem.values[Y]), model, stop=False)
        assert (result.failure, result.stutters, result.outcomes) == (None, 0, {threads})
        assert result.executions == result.graphs == count


def by_two_bits(mem):
    """A round may set a bit, find the lock taken, and find the same again in the next one."""
    while a.fetch_or_acquire(mem, X, 2) & 1 or a.fetch_or_acquire(mem, X, 1) & 1:
        a.cpu_relax()
    critical(mem)
    a.store_release(mem, X, 0)


@models
def test_a_round_that_would_go_another_way_alone_is_no_livelock(model):
    result = explore(Program([by_two_bits] * 3, final=lambda mem, _: mem.values[Y]), model, stop=False)
    assert (result.failure, result.outcomes) == (None, {3})
    assert result.stutters > 0  # and so bounded


@models
def test_a_spin_without_relax_is_told_what_it_lacks(model):
    def spin(mem):
        while not a.load_acquire(mem, X):
            pass

    result, kind = found(spin, model=model)
    assert kind == "livelock" and "cpu_relax" in result.failure.message


# What a thread must not do.


def test_a_thread_that_is_not_the_same_each_time_is_refused():
    def by_place():
        turn = itertools.count()

        def thread(mem):
            a.store_relaxed(mem, X if next(turn) == 0 else Y, 1)
            return a.load_relaxed(mem, Z)

        return thread

    def by_value():
        turn = itertools.count()

        def thread(mem):
            a.store_relaxed(mem, X, next(turn))
            return a.load_relaxed(mem, Z)

        return thread

    def by_kind():
        turn = itertools.count()

        def thread(mem):
            (a.load_relaxed if next(turn) else a.fetch_add_relaxed)(mem, X, *([] if next(turn) > 1 else [1]))
            return a.load_relaxed(mem, Z)

        return thread

    for make in (by_place, by_value, by_kind):
        result, kind = found(make(), lambda mem: a.store_relaxed(mem, Z, 1))
        assert kind == "nondeterminism" and "run again" in result.failure.message


def catches_all(mem):
    while True:
        try:
            while not a.load_acquire(mem, X):
                a.cpu_relax()
            return
        except:  # noqa: E722
            pass


def catches_failures(mem):
    with contextlib.suppress(Exception):
        a.write32(mem, X, 1)
    a.load_relaxed(mem, Y)


def test_a_thread_that_catches_what_ends_it_is_refused():
    assert found(catches_all, lambda mem: a.store_relaxed(mem, Y, 1))[1] == "thread"
    assert found(lambda mem: a.write32(mem, X, 1), catches_failures)[1] == "race"


def test_half_of_a_word_is_refused():
    def store64(mem):
        a.store_relaxed64(mem, X, 7 << 32)

    def lower(mem):
        return a.load_relaxed(mem, X)

    def upper(mem):
        return a.load_relaxed(mem, X + 4)

    for threads in [(store64, lower), (lower, store64), (store64, upper), (upper, store64)]:
        result, kind = found(*threads)
        assert kind == "mixed sizes" and "width" in result.failure.message
