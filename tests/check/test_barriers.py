"""The asymmetric fences: never stronger than membarrier(2) modelled as an interrupt."""

import random

import pytest

from foliocache.check import facade_model as a
from foliocache.check import steps
from foliocache.check.program import Program, explore

X, Y, Z = 0, 64, 128
OPS = {
    "read": lambda mem, loc: a.load_relaxed(mem, loc),
    "acquire": lambda mem, loc: a.load_acquire(mem, loc),
    "write": lambda mem, loc: a.store_relaxed(mem, loc, 1),
    "release": lambda mem, loc: a.store_release(mem, loc, 1),
    "add": lambda mem, loc: a.fetch_add_relaxed(mem, loc, 1),
    "light": lambda mem, loc: a.asymmetric_fence_light(mem),
    "heavy": lambda mem, loc: a.asymmetric_fence_heavy(mem),
}
INTERRUPT = {**OPS, "light": lambda mem, loc: None, "heavy": lambda mem, loc: steps.membarrier(mem)}
models = pytest.mark.parametrize("model", ["sc", "tso", "rc11"])


def outcomes(program, model, ops=OPS):
    def thread(steps):
        return lambda mem: tuple(ops[op](mem, loc) for op, loc in steps)

    barriers = sum(op == "heavy" for steps in program for op, _ in steps) if ops is INTERRUPT else 0
    result = explore(Program([thread(steps) for steps in program], barriers=barriers, shared_slots=True), model, stop=False)
    assert not result.failure
    assert result.executions == result.graphs
    return result.outcomes


def buffering(left, right):
    return [[("write", X), (left, 0), ("read", Y)], [("write", Y), (right, 0), ("read", X)]]


MISSED = ((None, None, 0), (None, None, 0))


@models
def test_a_light_one_and_a_heavy_one_forbid_store_buffering(model):
    assert MISSED not in outcomes(buffering("heavy", "light"), model)
    assert MISSED not in outcomes(buffering("heavy", "heavy"), model)


@pytest.mark.parametrize("model", ["tso", "rc11"])
def test_two_light_ones_do_not(model):
    assert MISSED in outcomes(buffering("light", "light"), model)


@models
def test_a_read_of_what_came_behind_a_light_one_sees_what_came_before(model):
    """As the reaper reads: a word of a slot, a heavy fence, then whether its owner is in an operation."""
    program = [[("write", X), ("light", 0), ("write", Y)], [("read", Y), ("heavy", 0), ("read", X)]]
    assert {(found[1][0], found[1][2]) for found in outcomes(program, model)} == {(0, 0), (0, 1), (1, 1)}


def some_program(seed):
    chance = random.Random(seed)
    program = []
    for barrier in ("heavy", "light"):
        steps = [
            (chance.choice(("read", "read", "write", "write", "acquire", "release", "add")), chance.choice((X, Y)))
            for _ in range(3)
        ]
        steps.insert(chance.randrange(4), (barrier, 0))
        program.append(steps)
    return program


@models
@pytest.mark.parametrize("seed", range(40))
def test_never_stronger_than_the_interrupt(seed, model):
    program = some_program(seed)
    assert outcomes(program, model, INTERRUPT) <= outcomes(program, model)
