"""Death, the process-wide barrier, choice, waiting and its failures: on programs whose outcomes are known."""

import errno

import pytest

from foliocache.check import facade_model as a
from foliocache.check import steps
from foliocache.check.program import Program, explore, litmus

X, Y, Z = 0, 64, 128
MODELS = ["sc", "tso", "rc11"]
models = pytest.mark.parametrize("model", MODELS)


def failure(*threads, model="rc11", **options):
    found = explore(Program(list(threads), **options), model).failure
    return found and found.kind


def store(loc, value=1):
    return lambda mem: a.store_relaxed(mem, loc, value)


def spinner(mem):
    while not a.load_acquire(mem, Y):
        a.cpu_relax()
    return a.load_relaxed(mem, X)


def buffering_with_barrier(mem):
    a.store_relaxed(mem, X, 1)
    steps.membarrier(mem)
    return a.load_relaxed(mem, Y)


def buffering(mem):
    a.store_relaxed(mem, Y, 1)
    return a.load_relaxed(mem, X)


@models
def test_one_side_needs_no_fence_when_the_other_has_a_membarrier(model):
    """The point of membarrier(2): store buffering is forbidden, though one side is plain code."""
    assert litmus(buffering_with_barrier, buffering, model=model, barriers=1) == {(0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("model", ["tso", "rc11"])
def test_without_the_barrier_it_is_allowed(model):
    assert (0, 0) in litmus(buffering, lambda mem: (a.store_relaxed(mem, X, 1), a.load_relaxed(mem, Y))[1], model=model)


@models
def test_death_comes_before_every_operation(model):
    def victim(mem):
        a.store_relaxed(mem, X, 1)
        a.store_relaxed(mem, X, 2)
        return "lived"

    outcomes = litmus(victim, model=model, mortal={0}, final=lambda mem, results: (results[0], mem.values.get(X, 0)))
    assert outcomes == {(None, 0), (None, 1), ("lived", 2)}


@models
def test_a_thread_that_sees_the_death_sees_all_that_was_done(model):
    def victim(mem):
        a.store_relaxed(mem, X, 1)
        a.store_relaxed(mem, X, 2)

    def reaper(mem):
        return steps.is_dead(mem, 0) and a.load_relaxed(mem, X)

    assert litmus(victim, reaper, model=model, mortal={0}) == {(None, False), (None, 0), (None, 1)}


@models
def test_clients_are_asked_for_by_number(model):
    def victim(mem):
        a.store_relaxed(mem, X, 1)
        a.store_relaxed(mem, X, 2)

    def reaper(mem):
        return steps.has_died(mem, 7), a.client_alive(mem, 7), a.client_alive(mem, 8), a.load_relaxed(mem, X)

    outcomes = litmus(victim, reaper, model=model, mortal={0}, clients={7: 0, 8: 1})
    assert {found[1] for found in outcomes} == {(True, False, True, 0), (True, False, True, 1), (False, True, True, 2)}


@models
def test_write_once_is_an_event_only_where_other_threads_read_it(model):
    def writer(mem):
        a.write_once(mem, X, 1)
        assert a.read_once(mem, X) == 1
        a.store_relaxed(mem, X, 2)
        return a.read_once(mem, X)

    def reader(mem):
        return a.load_relaxed(mem, X)

    assert litmus(writer, reader, model=model, shared_slots=True) == {(2, 0), (2, 1), (2, 2)}


@models
def test_a_sleeper_looks_again_after_a_death(model):
    def mortal_waker(mem):
        a.store_release(mem, Y, 1)
        a.futex_wake(mem, Y, 1)

    def sleeper(mem):
        while a.load_acquire(mem, Y) == 0 and a.client_alive(mem, 0):
            a.futex_wait(mem, Y, 0, 1)

    assert failure(mortal_waker, sleeper, model=model, mortal={0}, clients={0: 0}, timeouts=True) is None
    assert failure(mortal_waker, sleeper, model=model, mortal={0}, clients={0: 0}) in ("deadlock", "lost wake-up")


def test_choice_is_explored_whole():
    assert litmus(lambda mem: steps.choose(mem, 3), lambda mem: steps.choose(mem, 2)) == {
        (i, j) for i in range(3) for j in range(2)
    }


@models
def test_a_spin_loop_is_not_unrolled(model):
    def writer(mem):
        a.store_relaxed(mem, X, 1)
        a.store_release(mem, Y, 1)

    result = explore(Program([spinner, writer]), model, stop=False)
    assert (result.outcomes, result.executions, result.failure) == ({(1, None)}, 1, None)


@models
def test_a_spin_that_no_thread_ends_is_a_livelock(model):
    assert failure(spinner, store(X), model=model) == "livelock"


@models
def test_two_threads_that_undo_each_other_are_a_livelock(model):
    def undoing(mem):
        while True:
            if a.fetch_add_acquire(mem, X, 1) == 7:
                return
            a.fetch_sub_relaxed(mem, X, 1)
            a.cpu_relax()

    assert failure(undoing, undoing, model=model) == "livelock"


def sleeper(mem):
    while a.load_acquire(mem, Y) == 0:
        a.futex_wait(mem, Y, 0, 1)


def waker(mem):
    a.store_release(mem, Y, 1)
    a.futex_wake(mem, Y, 1)


@models
def test_a_wake_is_not_lost(model):
    assert failure(sleeper, waker, model=model) is None


@models
def test_a_store_without_a_wake_loses_it(model):
    assert failure(sleeper, store(Y), model=model) == "lost wake-up"


@models
def test_a_wake_before_the_store_loses_it(model):
    def early(mem):
        a.futex_wake(mem, Y, 1)
        a.store_release(mem, Y, 1)

    assert failure(sleeper, early, model=model) == "lost wake-up"


@models
def test_one_wake_is_too_few_for_two(model):
    assert failure(sleeper, sleeper, waker, model=model) == "lost wake-up"


@models
def test_sleeping_on_a_word_that_no_thread_changes_is_a_deadlock(model):
    assert failure(sleeper, store(X), model=model) == "deadlock"


def test_timeouts_are_a_choice():
    def once(mem):
        return a.futex_wait(mem, Y, 0, 1)

    assert litmus(once, waker, timeouts=True, final=lambda mem, results: results[0]) == {0, errno.EAGAIN, errno.ETIMEDOUT}


@models
def test_plain_accesses_race(model):
    assert failure(lambda mem: a.write32(mem, X, 1), lambda mem: a.read32(mem, X), model=model) == "race"
    assert failure(store(X), lambda mem: a.write32(mem, X, 1), model=model) == "race"
    assert failure(lambda mem: a.read32(mem, X), lambda mem: a.read32(mem, X), model=model) is None


def test_an_endless_loop_without_relax_is_reported():
    def endless(mem):
        while True:
            a.fetch_add_relaxed(mem, X, 0)

    assert failure(endless) == "livelock"
