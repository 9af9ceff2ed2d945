"""Random small programs: the explorer finds the same outcomes as enumeration, and explores no execution twice."""

import random

import brute
import pytest

from foliocache.check.program import Program, explore

PLAIN = {"W": ("relaxed", "release"), "R": ("relaxed", "acquire"), "A": ("relaxed", "acquire", "release", "acq_rel")}


def program(rng, fences):
    threads = []
    for _ in range(rng.choice((2, 3, 3))):
        code = []
        for _ in range(rng.choice((1, 2, 2, 3))):
            kind = rng.choice("WWRRA")
            loc = rng.choice("xy")
            order = rng.choice(PLAIN[kind])
            code.append({"W": ("W", loc, rng.randint(1, 2), order), "R": ("R", loc, order), "A": ("A", loc, 1, order)}[kind])
            if rng.random() < 0.2:
                code.append(("F", rng.choice(fences)))
        threads.append(code)
    return threads


def final(mem, results):
    return tuple(results), tuple((name, mem.values.get(loc, 0)) for name, loc in brute.LOCS.items())


def run(threads, model):
    return explore(Program([brute.body(code) for code in threads], final=final), model, stop=False)


@pytest.mark.parametrize("seed", range(150))
@pytest.mark.parametrize("model", ["sc", "tso"])
def test_interleavings(model, seed):
    threads = program(random.Random(seed), ["seq_cst", "acquire", "release"])
    result = run(threads, model)
    assert result.outcomes == brute.machine(threads, model == "tso")
    assert result.executions == result.graphs


@pytest.mark.parametrize("seed", range(150))
def test_axioms(seed):
    threads = program(random.Random(seed), ["acquire", "release", "acq_rel"])
    result = run(threads, "rc11")
    outcomes, count = brute.rc11(threads)
    assert result.outcomes == outcomes
    assert result.executions == result.graphs == count


@pytest.mark.parametrize("seed", range(60))
def test_a_stronger_model_allows_a_part_of_the_executions(seed):
    threads = program(random.Random(seed), ["seq_cst", "acquire", "release"])
    sc, tso, rc11 = (run(threads, model).keys for model in ("sc", "tso", "rc11"))
    assert sc <= tso <= rc11
