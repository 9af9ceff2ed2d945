"""Equal threads: of executions that differ only by an exchange of such threads, one is explored."""

import random

import brute
import documented
import pytest
from sampled import WHOLE

from foliocache.check import facade_model as a
from foliocache.check import steps
from foliocache.check.graph import Graph
from foliocache.check.program import Program, explore
from foliocache.check.scenarios import load_all

SCENARIOS = load_all()
# With the sum over all namings, not by themselves.
SLOW = {"lookup/three-getters", "lock/three", "tree/insert-race"} | (set() if WHOLE else {"lock/three-spin"})
DOCUMENTED = {(name, None, "rc11"): counts for name, counts in documented.equal_threads().items()}
X, Y = 0, 64
MODELS = ["sc", "tso", "rc11"]
models = pytest.mark.parametrize("model", MODELS)


def compare(program, model, monkeypatch):
    """Explore with and without the declaration. Return (executions with, classes, executions without)."""
    equal, program.equal = program.equal, ()
    with monkeypatch.context() as patch:
        patch.setattr(Graph, "key", lambda graph: brute.orbit(graph, equal))
        whole = explore(program, model, stop=False)
    program.equal = equal
    part = explore(program, model, stop=False)
    assert (part.failure is None) == (whole.failure is None)
    assert part.executions == part.graphs
    return part, whole


def renamed(outcomes, equal):
    """Return the outcomes (results of the threads, memory), without those that differ only by the threads' order."""
    found = set()
    for results, memory in outcomes:
        results = list(results)
        for group in equal:
            ordered = sorted((results[t] for t in group), key=repr)
            for t, result in zip(group, ordered, strict=True):
                results[t] = result
        found.add((tuple(results), memory))
    return found


def final(mem, results):
    return tuple(results), tuple((name, mem.values.get(loc, 0)) for name, loc in brute.LOCS.items())


@models
@pytest.mark.parametrize("k", [2, 3, 4])
def test_equal_increments_are_one_execution(model, k):
    increment = lambda mem: a.fetch_add_relaxed(mem, X, 1)  # noqa: E731
    assert explore(Program([increment] * k), model, stop=False).executions == [2, 6, 24][k - 2]
    assert explore(Program([increment] * k, equal=[tuple(range(k))]), model, stop=False).executions == 1


def code(rng, fences, most):
    kinds = {"W": ("relaxed", "release"), "R": ("relaxed", "acquire"), "A": ("relaxed", "acquire", "release", "acq_rel")}
    instructions = []
    for _ in range(rng.randint(1, most)):
        kind, loc = rng.choice("WRRAA"), rng.choice("xy")
        order = rng.choice(kinds[kind])
        instructions.append({"W": ("W", loc, 1, order), "R": ("R", loc, order), "A": ("A", loc, 1, order)}[kind])
        if rng.random() < 0.15:
            instructions.append(("F", rng.choice(fences)))
    return instructions


def mixed(rng, fences):
    """Return threads of which some are equal, in any position."""
    shape = rng.choice(["aa", "aaa", "aab", "aba", "baa", "abab", "aabb"])
    codes = {which: code(rng, fences, 3 if len(shape) < 4 else 2) for which in "ab"}
    groups = [tuple(t for t, which in enumerate(shape) if which == one) for one in "ab"]
    return [codes[which] for which in shape], [group for group in groups if len(group) > 1]


@models
@pytest.mark.parametrize("seed", range(100))
def test_random_programs(model, seed, monkeypatch):
    fences = ["acquire", "release", "acq_rel"] + ["seq_cst"] * (seed % 2)
    threads, equal = mixed(random.Random(seed), fences)
    part, whole = compare(Program([brute.body(code) for code in threads], final=final, equal=equal), model, monkeypatch)
    assert part.executions == whole.graphs
    assert part.outcomes <= whole.outcomes
    assert renamed(part.outcomes, equal) == renamed(whole.outcomes, equal)
    if model != "rc11":
        outcomes = brute.machine(threads, model == "tso")
    elif seed % 2 == 0 and sum(map(len, threads)) < 6:
        outcomes, _ = brute.rc11(threads)
    else:
        return
    assert renamed(part.outcomes, equal) == renamed(outcomes, equal)


def locker(mem):
    while a.cmpxchg_acquire(mem, X, 0, 1):
        a.cpu_relax()
    a.write32(mem, Y, a.read32(mem, Y) + 1)
    a.store_release(mem, X, 0)


def sleeper(mem):
    while a.load_acquire(mem, X) == 0:
        a.futex_wait(mem, X, 0, 1)
    return a.fetch_add_relaxed(mem, Y, 1)


def waker(mem):
    a.store_release(mem, X, 1)
    a.futex_wake(mem, X, 2)


def chooser(mem):
    return [a.load_relaxed, a.load_acquire, lambda mem, loc: a.fetch_add_relaxed(mem, loc, 1)][steps.choose(mem, 3)](mem, X)


def trier(mem):
    first = a.cmpxchg_acq_rel(mem, X, 0, 1)
    return first, a.cmpxchg_acq_rel(mem, X, 1, 2), a.exchange_relaxed(mem, Y, 7)


def writer(mem):
    a.store_relaxed(mem, X, 1)
    a.store_relaxed(mem, Y, 1)


@models
@pytest.mark.parametrize(
    ("threads", "equal"),
    [
        ([locker] * 3, [(0, 1, 2)]),
        ([locker, lambda mem: a.load_acquire(mem, X), locker], [(0, 2)]),
        ([sleeper, sleeper, waker], [(0, 1)]),
        ([waker, sleeper, sleeper], [(1, 2)]),
        ([chooser] * 3, [(0, 1, 2)]),
        ([trier] * 3, [(0, 1, 2)]),
        ([trier, writer, trier], [(0, 2)]),
        ([writer, trier, writer, trier], [(0, 2), (1, 3)]),
    ],
)
def test_small_programs(model, threads, equal, monkeypatch):
    part, whole = compare(Program(threads, equal=equal), model, monkeypatch)
    assert part.executions == whole.graphs


def equal_ones():
    return [
        (name, mutation)
        for name, s in SCENARIOS.items()
        if name not in SLOW and s.program().equal
        for mutation in (None, *s.variants)
    ]


@models
@pytest.mark.parametrize(("name", "mutation"), equal_ones())
def test_scenarios(model, name, mutation, monkeypatch):
    part, whole = compare(SCENARIOS[name].program(mutation), model, monkeypatch)
    assert part.executions == whole.graphs < whole.executions or whole.executions == 1
    if (name, mutation, model) in DOCUMENTED:
        assert (whole.executions, part.executions) == DOCUMENTED[name, mutation, model], "docs/checker.md says other numbers"


@pytest.mark.parametrize("options", [{"mortal": frozenset({1})}, {"barriers": 1}])
def test_threads_that_are_known_by_number_are_not_equal(options):
    with pytest.raises(ValueError, match="equal"):
        explore(Program([writer, writer], equal=[(0, 1)], **options))
    with pytest.raises(ValueError, match="equal"):
        explore(Program([writer, trier], equal=[(0, 1)]))


def test_threads_that_differ_in_length_are_not_equal():
    def reader(times):
        return lambda mem: [a.load_relaxed(mem, X) for _ in range(times)]

    with pytest.raises(ValueError, match="not equal"):
        explore(Program([reader(1), reader(2)], equal=[(0, 1)]))


def test_closures_over_different_values_are_not_equal():
    def adder(n):
        return lambda mem: a.fetch_add_relaxed(mem, X, n)

    def outer(n):
        inner = adder(n)
        return lambda mem: inner(mem)

    def known(me, n=1):
        return lambda mem, times=n: a.fetch_add_relaxed(mem, X, me * times)

    def two(make, *values, **options):
        return explore(Program([make(*value) for value in values], equal=[(0, 1)], **options), stop=False).executions

    for make, values in ((adder, [(1,), (2,)]), (outer, [(1,), (2,)]), (known, [(1, 1), (1, 2)])):
        with pytest.raises(ValueError, match="not equal"):
            two(make, *values)
        assert two(make, values[0], values[0]) == 1
    with pytest.raises(ValueError, match="me is 1 in one and 2"):
        two(known, (1,), (2,), own=())
    assert two(known, (1,), (2,)) == 1
