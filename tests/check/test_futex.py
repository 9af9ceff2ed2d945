"""Sleeping and waking: no execution is lost, whichever thread runs first. (What is lost is lost under some numbers alone.)"""

import itertools
import random

import brute
import pytest

from foliocache.check import facade_model as a
from foliocache.check import scenario
from foliocache.check.graph import Graph
from foliocache.check.program import Program, explore

X, Y = 0, 64
models = pytest.mark.parametrize("model", scenario.ALL)


def locker(mem):
    """A lock whose waiters sleep, and look again when they are woken."""
    while a.cmpxchg_relaxed(mem, X, 0, 1):
        a.futex_wait(mem, X, 1, 1)
    a.store_relaxed(mem, X, 0)
    a.futex_wake(mem, X, 1)


@models
def test_three_lockers_are_the_same_in_any_order(model):
    alike = explore(Program([locker] * 3, equal=[(0, 1, 2)]), model, stop=False)
    result = explore(Program([locker] * 3), model, stop=False)
    assert result.failure is alike.failure is None
    assert result.executions == result.graphs == 6 * alike.executions


def sleeper(chance):
    """A thread that sleeps until a word differs from a value; it may store and add before."""
    first = chance.choice((None, (a.store_release, 1), (a.fetch_add_relaxed, 1)))
    loc, value, where = chance.choice((X, Y)), chance.choice((0, 0, 1)), chance.choice((X, Y))

    def sleep(mem):
        if first:
            first[0](mem, where, first[1])
        woken = a.futex_wait(mem, loc, value, 1)
        return woken, a.fetch_add_relaxed(mem, where, 1)

    return sleep


def waker(chance):
    """A thread that stores to both words and wakes those who sleep on them, in some order."""
    steps = [(op, loc) for loc in (X, Y) for op in (lambda mem, loc: a.store_relaxed(mem, loc, 2), wake)]
    chance.shuffle(steps)
    steps += [(wake, X), (wake, Y)]

    def run(mem):
        for op, loc in steps:
            op(mem, loc)

    return run


def wake(mem, loc):
    return a.futex_wake(mem, loc, 1)


def executions(threads, model, order, monkeypatch):
    """Return the executions of ``threads``, which are given to the explorer in that order, under their own numbers."""
    names = {-1: -1, **dict(enumerate(order))}
    with monkeypatch.context() as patch:
        patch.setattr(Graph, "key", lambda graph: repr(brute.renamed(graph, names)))
        result = explore(Program([threads[t] for t in order], final=lambda mem, results: None), model, stop=False, budget=30)
    assert result.finished
    return result.keys


@pytest.mark.parametrize("model", ["sc", "rc11"])
@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_threads_makes_no_difference(model, seed, monkeypatch):
    chance = random.Random(seed)
    threads = [sleeper(chance), sleeper(chance), waker(chance)]
    first, *others = (executions(threads, model, order, monkeypatch) for order in itertools.permutations(range(3)))
    assert all(found == first for found in others)
