"""Random executions: all of them are executions, all can come, none is a proof."""

import random

import brute
import pytest
from test_brute import final, program

from foliocache.check import facade_model as a
from foliocache.check import replay, scenario, steps
from foliocache.check.program import Program, explore
from foliocache.check.sample import SEARCHES, sample
from foliocache.check.scenarios import load_all

X, Y, Z = 0, 64, 128
SCENARIOS = load_all()
models = pytest.mark.parametrize("model", scenario.ALL)
searches = pytest.mark.parametrize("search", SEARCHES)


@models
@searches
@pytest.mark.parametrize("seed", range(12))
def test_each_sample_is_an_execution(model, search, seed):
    threads = [brute.body(code) for code in program(random.Random(seed), ["seq_cst", "acquire", "release"])]
    result = sample(Program(threads, final=final), model, 200, search, stop=False)
    whole = explore(Program(threads, final=final), model, stop=False)
    assert result.keys <= whole.keys and result.outcomes <= whole.outcomes
    assert result.executions + result.blocked == 200
    assert not result.finished


@models
def test_each_execution_can_come(model):
    threads = [brute.body(code) for code in program(random.Random(3), ["seq_cst", "acquire", "release"])]
    assert sample(Program(threads), model, 2000, "random").keys == explore(Program(threads), model).keys


def left(mem):
    a.store_relaxed(mem, X, 1)
    return a.load_relaxed(mem, Y)


def right(mem):
    a.store_relaxed(mem, Y, 1)
    return a.load_relaxed(mem, X)


@models
@searches
def test_store_buffering(model, search):
    found = sample(Program([left, right]), model, 300, search).outcomes
    assert found == explore(Program([left, right]), model).outcomes


def test_the_seed_decides():
    def run(seed):
        result = sample(SCENARIOS["freeze/gets"].program(), seed=seed, samples=100)
        return result.keys, result.operations

    assert run(1) == run(1) != run(2)


@searches
@pytest.mark.parametrize(
    ("name", "bug"),
    [("freeze/gets", "reset-by-sub"), ("lock/three", "no-wake"), ("fill/two-waiters", "wake-one"), ("put/aba", "sub-relaxed")],
)
def test_a_bug_is_found_and_replayed(search, name, bug):
    which = SCENARIOS[name]
    row = scenario.run(which, "rc11", bug, samples=1000, search=search)
    assert (row.verdict, row.exact) == ("fails", False)
    _, failure = replay.replay(which.program(bug), "rc11", row.found.replay_string)
    assert (failure.kind, failure.message.split("\n")[0]) == (row.found.kind, row.found.message)


@searches
@pytest.mark.parametrize("name", ["lock/three", "fill/two-waiters", "death/get-get", "lookup/two-getters"])
def test_the_shipped_core_is_sampled_and_not_proved(search, name):
    row = scenario.run(SCENARIOS[name], samples=100, search=search)
    assert (row.verdict, row.exact, row.surprise) == ("sampled", False, False)
    assert row.executions > 50


def test_a_bug_that_no_sample_finds_is_a_surprise():
    row = scenario.run(SCENARIOS["put/aba"], "rc11", "type-before-freeze", samples=1)
    assert (row.verdict, row.surprise) == ("sampled", True)


# Waiting.


def endless(mem):
    while not a.load_acquire(mem, X):
        a.cpu_relax()
    return "got"


def bounded(mem):
    for _ in range(3):
        if a.load_acquire(mem, X):
            return "got"
        a.cpu_relax()
    return "gave up"


def store(mem):
    a.store_release(mem, X, 1)


@models
@searches
def test_a_loop_ends_when_it_can(model, search):
    assert sample(Program([endless, store]), model, 50, search).outcomes == {("got", None)}
    assert sample(Program([bounded, store]), model, 200, search).outcomes == {("got", None), ("gave up", None)}
    assert sample(Program([bounded]), model, 5, search).outcomes == {("gave up",)}


@models
@searches
def test_a_loop_without_end_is_a_livelock(model, search):
    program = Program([endless, endless])
    failure = sample(program, model, 5, search).failure
    assert failure.kind == "livelock"
    assert replay.replay(program, model, failure.replay_string)[1].kind == "livelock"


@searches
def test_a_sleep_without_a_wake_is_a_deadlock(search):
    def sleeper(mem):
        a.futex_wait(mem, X, 0, 0)

    assert sample(Program([sleeper]), "sc", 5, search).failure.kind == "deadlock"
    assert sample(Program([sleeper, store]), "sc", 50, search).failure.kind == "lost wake-up"


@searches
def test_choices_are_made_by_chance(search):
    assert sample(Program([lambda mem: steps.choose(mem, 4)]), "sc", 100, search).outcomes == {(n,) for n in range(4)}


# What is too large to be explored.


def counters(threads, rounds, wrong):
    def count(mem):
        for at in range(rounds):
            if wrong and at == rounds - 1:
                a.store_relaxed(mem, X, a.load_relaxed(mem, X) + 1)
            else:
                a.fetch_add_relaxed(mem, X, 1)

    def total(mem, results):
        assert mem.values[X] == threads * rounds, "an increment is lost"

    return Program([count] * threads, final=total)


@models
@searches
def test_a_program_of_eight_threads(model, search):
    assert sample(counters(8, 12, True), model, 300, search).failure.kind == "final state"
    good = sample(counters(8, 12, False), model, 20, search)
    assert (good.failure, good.executions) == (None, 20)


def test_a_budget_ends_it():
    result = sample(counters(8, 12, False), samples=10**9, budget=0.2)
    assert 0 < result.executions < 10**9


def test_wrong_usage_is_refused():
    for wrong in ({"search": "best"}, {"depth": 0}):
        with pytest.raises(ValueError, match="a search is one of pct, random"):
            sample(counters(1, 1, False), **wrong)
