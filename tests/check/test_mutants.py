"""The rules by which one-line bugs are made."""

import ast
import random

import pytest

from foliocache.check import loader, mutants
from foliocache.check.mutation import Mismatch
from foliocache.check.scenarios import CORE

SOURCE = '''
from . import atomics, layout

def nothing(mem):
    """Has no statement that may be left out."""
    return mem

def {name}(mem, at, n):
    """Does this."""
    {body}
'''


def made(*body, name="do"):
    """The mutants of a function with this body, as (how, old => new)."""
    source = SOURCE.format(name=name, body="\n    ".join(body))
    found = [m for m in mutants.mutants_of(source, "some") if m.function == name]
    for mutant in found:
        changed = mutant.spliced(source)
        ast.parse(changed)
        assert changed != source and changed.startswith(source[: source.index("Does this")])
        assert mutant.apply(source) == changed
    return [mutant.text for mutant in found]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (["put(mem, at)", "return n"], ["drop: put(mem, at)"]),
        (["put(mem)", "take(mem)"], ["drop: put(mem)", "swap: put(mem) => take(mem)", "drop: take(mem)"]),
        (["x = put(mem)", "take(x)"], ["drop: take(x)"]),  # x would be used before it is bound
        (["x = atomics.load_relaxed(mem, at)", "put(mem)", "return x"], ["drop: put(mem)"]),
        (["if n:", "    put(mem)"], ["always: if n", "never: if n", "drop: put(mem)"]),
        (["while n:", "    n -= 1"], ["negate: n => not (n)", "drop: n -= 1", "one: n -= 1 => without 1", "one: 1 => 2"]),
        (["while True:", "    break"], ["drop: break"]),
        (["for i in range(n):", "    put(i)"], ["one: range(n) => one less", "drop: put(i)"]),
        (["return n < at"], ["negate: n < at => not (n < at)", "bound: n < at => n <= at"]),
        (["return not n"], ["negate: not n => n"]),
        (["return True"], ["negate: return True"]),
        (["return n and at"], ["negate: n and at => not (n and at)", "operand: n and", "operand: and at"]),
        (["return at if n else mem"], ["negate: n => not (n)"]),
        (["return n + 1"], ["one: n + 1 => without 1", "one: 1 => 2"]),
        (["return atomics.load_acquire(mem, at)"], ["weaken: atomics.load_acquire(mem, at) => load_relaxed"]),
        (["return atomics.load_acquire64(mem, at)"], ["weaken: atomics.load_acquire64(mem, at) => load_relaxed64"]),
        (["return atomics.exchange_release(mem, at)"],
            ["weaken: atomics.exchange_release(mem, at) => exchange_relaxed", "forget: atomics.exchange_release(mem, at)"]),
        (["atomics.fence_seq_cst()"], ["drop: atomics.fence_seq_cst()"]),
        (["assert n", "pass"], []),
    ],
)  # fmt: skip
def test_rules(body, expected):
    assert sorted(made(*body)) == sorted(expected)


def test_the_same_text_twice_is_two_mutants():
    assert made("put(mem)", "n = put(n)", "put(mem)", "return n").count("drop: put(mem) #2") == 1


def test_a_mutant_is_found_again_in_a_source_that_has_changed_elsewhere():
    source = SOURCE.format(name="do", body="put(mem)")
    (mutant,) = mutants.mutants_of(source, "some", "do")
    assert mutant.line == 10
    longer = source.replace("return mem", "mem += 1\n    return mem")
    assert mutant.apply(longer) == longer.replace("put(mem)", "pass")
    with pytest.raises(Mismatch, match=r"some.do has no 'drop: put\(mem\)'"):
        mutant.apply(source.replace("put(mem)", "take(mem)"))


def test_methods_are_functions_of_their_class():
    source = "class Box:\n    def put(self, at):\n        self.do(at)\n"
    assert [(m.function, m.text) for m in mutants.mutants_of(source, "some")] == [("Box.put", "drop: self.do(at)")]


def test_mutants_of_the_core_are_distinct_and_compile():
    rng = random.Random(0)
    for module in loader.modules(CORE):
        source = (CORE / f"{module}.py").read_text()
        found = mutants.mutants(CORE, module)
        assert len({(m.function, m.text) for m in found}) == len(found)
        for mutant in rng.sample(found, min(4, len(found))):
            compile(mutant.spliced(source), module, "exec")
