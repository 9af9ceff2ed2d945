"""memoize: which calls are the same."""

import enum
import functools
import multiprocessing
import os
import pathlib
import subprocess
import sys

import numpy
import pytest

import foliocache
from foliocache.objects import keys


@pytest.fixture
def calls():
    return []


@pytest.fixture
def memo(shared, calls, request):
    """A function of two arguments, whose results are this test's own."""

    def function(a, b=2):
        calls.append((a, b))
        return [a, b]

    function.__qualname__ = request.node.name
    return function


def test_calls_are_known_by_their_arguments(shared, key):
    count = []

    def function(a, *rest, b=2, **more):
        return [a, rest, b, more]

    function.__qualname__ = key
    kept = shared.memoize()(function)
    assert kept(1) == kept(a=1) == kept(1, b=2) == [1, (), 2, {}]
    assert kept.key(1) == kept.key(a=1) == kept.key(1, b=2)
    different = [kept.key(*args) for args in [(1,), (1.0,), (True,), ("1",), (b"1",), ([1],), ((1,),), ({1},), (1, 2), (None,)]]
    assert len(set(different)) == len(different)
    assert kept.key(1, x=1, y=2) != kept.key(1, x=1, y=3)
    assert count == []


def test_a_result_is_made_once_and_can_be_forgotten(shared, memo, calls):
    kept = shared.memoize(key=lambda a, b=2: f"{a} {b}")(memo)
    assert [kept(1), kept(1), kept(1, 3), kept(b=2, a=1)] == [[1, 2], [1, 2], [1, 3], [1, 2]]
    assert calls == [(1, 2), (1, 3)]
    kept.delete(1)
    assert kept(1) == [1, 2]
    assert calls == [(1, 2), (1, 3), (1, 2)]
    assert kept.__wrapped__ is memo


def test_ignored_parameters(shared, key):
    calls = []

    def function(a, log):
        log.append(a)
        return a

    function.__qualname__ = key
    kept = shared.memoize(ignore=["log"])(function)
    assert [kept(1, calls), kept(1, None), kept(2, calls)] == [1, 1, 2]
    assert calls == [1, 2]
    with pytest.raises(ValueError, match=r"ignore names \['lok'\]"):
        shared.memoize(ignore="lok")(function)
    one = shared.memoize(ignore="log")(function)  # a string is one name, and not its letters
    assert one.key(1, calls) == one.key(1, None) != one.key(2, calls)
    with pytest.raises(ValueError, match=r"ignore names \['ab'\]"):
        shared.memoize(ignore="ab")(lambda a, b: None)
    for wrong in (7, None, [7, "log"], [["log"]]):
        with pytest.raises(ValueError, match="ignore must be names of parameters, not "):
            shared.memoize(ignore=wrong)(function)


def test_what_is_closed_over_counts(shared, key):
    def times(factor):
        def function(a):
            return a * factor

        function.__qualname__ = key
        return shared.memoize()(function)

    assert [times(2)(10), times(3)(10), times(2)(10)] == [20, 30, 20]


def test_another_body_is_another_version(shared, key):
    results = []
    for body in ("x + 1", "x + 2", "x + 1"):
        space = {}
        exec(f"def function(x): return {body}", space)
        space["function"].__qualname__ = key
        results.append(shared.memoize()(space["function"])(1))
    assert results == [2, 3, 2]


def test_the_digest_is_the_same_in_every_process():
    program = "import sys; sys.path[:0] = ['tests/objects', 'tests', '.']; import test_memo; print(test_memo.digests())"
    for seed in "12":
        environment = {"PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": seed}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=environment, check=True
        )
        assert done.stdout.strip() == str(digests())


class Colour(enum.Enum):
    RED = 1


def digests():
    return [keys.digest(each) for each in VALUES] + [keys.of_code(digests)]


VALUES = [
    None, ..., True, -(10**30), 1.5, 1j, "é\udcff", b"1", bytearray(b"1"), (1, [2, {"a": {"x", "y", 1}}]), frozenset("abcd"),
    numpy.arange(5), numpy.arange(5).astype(">i4"), pathlib.Path("/tmp"), Colour.RED, numpy.float32(1), len, digests,
]  # fmt: skip


def test_different_values_have_different_digests():
    assert len(set(digests())) == len(VALUES) + 1
    assert keys.digest(numpy.arange(4)) != keys.digest(numpy.arange(4).reshape(2, 2))
    assert keys.digest(["ab", "c"]) != keys.digest(["a", "bc"])


def test_arguments_without_content_are_refused_in_words(shared):
    kept = shared.memoize()(lambda a: a)
    itself = []
    itself.append(itself)
    for wrong in (sys.stdout, (n for n in ()), itself):
        with pytest.raises(TypeError, match=r"a of .* cannot be part of a key.*ignore="):
            kept(wrong)
    with pytest.raises(TypeError, match="must be a string, not 1"):
        shared.memoize(key=lambda a: a)(lambda a: a)(1)


def test_functions_without_a_signature_need_a_key(shared, key):
    with pytest.raises(TypeError, match="are not known"):
        shared.memoize()(functools.partial(max, 3))
    assert shared.memoize(key=lambda n: f"{key} {n}", version="1")(functools.partial(max, 3))(5) == 5


def test_decorated_without_parentheses(shared, key):
    @shared.memoize
    def some(length):
        return key, os.urandom(length)

    assert some(8) == some(length=8) != some(9)


def test_what_is_no_function_is_refused(shared):
    for wrong in (5, "squares", classmethod(len)):
        with pytest.raises(TypeError, match="memoize decorates functions"):
            shared.memoize()(wrong)
    with pytest.raises(TypeError, match="memoize decorates functions, not 'squares'"):
        shared.memoize("squares")
    with pytest.raises(TypeError, match="key must be a function"):
        shared.memoize(key="squares")(len)


def test_the_functions_own_errors_are_its_callers(shared, key):
    with pytest.raises(ZeroDivisionError):
        shared.memoize()(lambda a: a / 0)(1)


def slow_square(number):
    return numpy.full(1000, number * number)


def squares(name):
    kept = foliocache.attach(name).memoize()(slow_square)
    return [int(kept(n)[0]) for n in range(5)]


def test_processes_share_results(shared):
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        found = workers.map_async(squares, [shared.name] * 4).get(timeout=100)
    assert found == [[0, 1, 4, 9, 16]] * 4
    assert shared.memoize()(slow_square)(4)[0] == 16
    assert len([each for each in shared.mappings() if "slow_square" in each.key]) == 5
