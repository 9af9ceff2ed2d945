"""memoize: which calls are the same."""

import collections
import enum
import functools
import inspect
import itertools
import multiprocessing
import os
import pathlib
import pickle
import subprocess
import sys
import threading
import types

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


def made(source, name="function"):
    """Return what a program defines by a name."""
    space = {"__name__": "space"}
    exec(source, space)
    return space[name]


INSIDE_TRY = """
def function(text):
    try:
        number = int(text)
        inverse = 1 / number
    except ArithmeticError:
        return "caught"
    return inverse
"""
BEHIND_TRY = """
def function(text):
    try:
        number = int(text)
    except ArithmeticError:
        return "caught"
    else:
        inverse = 1 / number
    return inverse
"""


def test_what_a_try_protects_is_part_of_the_version(shared, key):
    inside, behind = made(INSIDE_TRY), made(BEHIND_TRY)
    inside.__qualname__ = behind.__qualname__ = key
    assert shared.memoize()(inside)("0") == "caught"
    with pytest.raises(ZeroDivisionError):
        shared.memoize()(behind)("0")
    assert keys.digest(inside) != keys.digest(behind)


@pytest.mark.parametrize("parameters", ["a, *, b", "a, b, /"])
def test_how_a_function_takes_its_arguments_is_part_of_the_version(parameters):
    source = "def function(x):\n    def inner({}): return a\n    return inner"
    assert keys.of_code(made(source.format("a, b"))) != keys.of_code(made(source.format(parameters)))


def test_functions_that_call_each_other_are_told_apart(shared, key):
    def of_two(goes_back):
        def first(n):
            return "1" + second(n)

        def second(n):
            return "" if n <= 0 else "2" + other(n - 1)

        def function(n):
            return first(n)

        other = first if goes_back else second
        function.__qualname__ = key
        return function

    assert [shared.memoize()(of_two(goes_back))(3) for goes_back in (True, False, True)] == ["1212121", "1222", "1212121"]


def test_which_variable_has_no_value_counts(shared, key):
    def of_two(is_first):
        def function():
            try:
                return "first", first
            except NameError:
                return "second", second

        if is_first:
            first = 1
        else:
            second = 1
        function.__qualname__ = key
        return function

    assert [shared.memoize()(of_two(n))() for n in (True, False, True)] == [("first", 1), ("second", 1), ("first", 1)]


def test_the_order_of_the_keywords_of_a_partial_does_not_count(shared):
    kept = [shared.memoize(functools.partial(first, **each)) for each in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1})]
    assert kept[0].key() == kept[1].key() != kept[2].key()
    held = [Adder(1, functools.partial(first, **each)) for each in ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
    assert keys.of_held(held[:1]) == keys.of_held(held[1:])


def test_a_parameter_is_no_tensor():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (CONTRIBUTING.md, PyTorch)", exc_type=ImportError)
    parameter = torch.nn.Parameter(torch.ones(2))
    assert (
        keys.digest(parameter)
        != keys.digest(torch.ones(2, requires_grad=True))
        == keys.digest(parameter.detach().requires_grad_())
    )


TENSORS = """if True:
    import sys, warnings, torch, foliocache.objects.keys as keys
    warnings.simplefilter("ignore")
    class Image(torch.Tensor):
        pass
    padding = [bytearray(n) for n in range(int(sys.argv[1]))]
    for n in (1, 1, 2):
        plain = torch.tensor([1 + 1j * n, 2])
        print(*map(keys.digest, (
            plain.as_subclass(Image), plain.conj(), plain.conj().imag, [plain.conj()], plain.untyped_storage(),
            torch.nn.Parameter(plain.as_subclass(Image)), torch.quantize_per_tensor(torch.ones(3), n, 0, torch.qint8),
            torch.full((3,), n).to_sparse(), torch.ones(3, dtype=torch.bfloat16).mul(n).as_subclass(Image),
        )))
"""


def test_tensors_of_all_kinds_are_known_by_their_content():
    """In each of two processes; PyTorch's own pickles of most of these have addresses."""
    pytest.importorskip("torch", reason="PyTorch is not installed (CONTRIBUTING.md, PyTorch)", exc_type=ImportError)
    lines = []
    for padding in ("0", "2000"):
        program = [sys.executable, "-c", TENSORS, padding]
        lines += subprocess.run(program, capture_output=True, text=True, timeout=100, check=True).stdout.splitlines()
    first, again, other, *elsewhere = [line.split() for line in lines]
    assert first == again == elsewhere[0] == elsewhere[1] and other == elsewhere[2]
    assert len(first) == len(set(first)) and not set(first) & set(other)


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
    types.SimpleNamespace(a={"x", "y", "z"}, b=frozenset({("v", 1), frozenset("uw"), Colour.RED, None})),
]  # fmt: skip


OF_MAIN = """
import dataclasses, enum, multiprocessing
import foliocache.objects.keys as keys

class Colour(enum.Enum):
    RED = 1

def times(number):
    return number

@dataclasses.dataclass
class Settings:
    value: object

def digests(_):
    return [keys.digest(each) for each in (Settings(1), Settings(Colour.RED), Settings([Settings, times]), Colour.RED)]

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        print(digests(0) == workers.map_async(digests, [0]).get(timeout=60)[0], len(set(digests(0))))
"""


def test_what_the_main_module_defines_is_known_by_its_file(tmp_path):
    (tmp_path / "program.py").write_text(OF_MAIN)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "True 4"


def test_a_class_of_another_main_module_is_known_by_its_name():
    """As cloudpickle brings it to workers of Dask. What is defined in a function has no such name."""
    brought = [type("Brought", (Adder,), {"__module__": "__main__"}) for _ in range(2)]
    assert keys.digest(brought[0](1)) == keys.digest(brought[1](1)) != keys.digest(brought[1](2))
    brought[0].__qualname__ = "function.<locals>.Brought"
    with pytest.raises(TypeError, match="has no digest"):
        keys.digest(brought[0](1))


LOCK = threading.Lock()


def take_lock(lock=LOCK, number=0, key=""):
    return [number, key]


@pytest.mark.parametrize("bound", [functools.partial(take_lock, lock=None), functools.partial(take_lock, None)])
def test_a_default_that_a_partial_replaces_does_not_count(shared, key, bound):
    """It need not be picklable."""
    memoized = shared.memoize(functools.partial(bound, key=key))
    assert memoized(number=1) == memoized(number=1) == [1, key] != memoized(number=2)


def test_what_has_the_name_of_another_one_in_the_main_module_is_known_by_its_content():
    """Two of one name are made by a function, or the first one has been replaced."""

    def model(number, /, **body):
        return type("Model", (), {"__module__": "__main__", "__call__": lambda self, x: x * number, **body})

    def function(number):
        made = eval(f"lambda: {number}")
        made.__module__, made.__qualname__ = "__main__", "function"
        return made

    points = [collections.namedtuple("Point", names, module="__main__")(1, 2) for names in ("x y", "y x", "x y")]
    colours = [enum.Enum("Colour", names, module="__main__")(1) for names in ("RED GREEN", "GREEN RED", "RED GREEN")]
    models = [model(number)() for number in (1, 2, 1)]
    getters = [model(1, number=property(eval(f"lambda self: {number}")))() for number in (1, 2, 1)]
    makers = [model(1, make=classmethod(eval(f"lambda kind: {number}")))() for number in (1, 2, 1)]
    lazy = [model(1, late=functools.cached_property(eval(f"lambda self: {number}")))() for number in (1, 2, 1)]
    held = [Adder(function(number)) for number in (1, 2, 1)]
    classes = [model(number) for number in (1, 2, 1)]
    for each in (points, colours, models, getters, makers, lazy, held, classes):
        first, other, again = [keys.digest(value) for value in each]
        assert first == again != other


class Noting:
    """An object that counts its pickles."""

    def __init__(self, pickled):
        self.pickled = pickled

    def __reduce__(self):
        self.pickled.append(self)
        return str, ("x" * 1000,)


def pair_of(value):
    return [value, value]


def function_of(value):
    return lambda a=value: (a, value)


def holder_of(value):
    return functools.partial(function_of(value), value)


def class_of(value):
    return type("Pair", (), {"__module__": "__main__", "a": value, "b": value})


@pytest.mark.parametrize("make", [pair_of, function_of, holder_of, class_of])
def test_what_several_values_share_is_looked_at_once(make):
    pickled = []
    nested = Noting(pickled)
    for _ in range(12):
        nested = make(nested)
    keys.digest(nested)
    assert len(pickled) == 1
    twice, once = make(make(Noting([]))), make(make(Noting([])))
    assert keys.digest([twice, twice]) == keys.digest([twice, once])


def test_what_is_around_a_function_that_calls_itself_is_looked_at_once(monkeypatch):
    def nested():
        def function(n):
            return n and function(n - 1)

        value = [function]
        for _ in range(10):
            value = [value, value]
        return value

    looked, where = [], keys.where
    monkeypatch.setattr(keys, "where", lambda value: looked.append(value) or where(value))
    value, same = nested(), nested()
    assert keys.digest(value) == keys.digest(same)
    assert len(looked) == 2
    assert keys.digest([value, value]) == keys.digest([value, same])


def test_functions_that_close_over_each_other_have_one_digest_wherever_they_are_met():
    def pair():
        def one(depth=(1,) * 100):
            return depth and other()

        def other(depth=(2,) * 100):
            return depth and one()

        return one, other

    (one, other), (again, again_other) = pair(), pair()
    assert keys.digest([one, other]) == keys.digest([one, again_other]) == keys.digest([again, other])
    assert keys.digest([other, one]) == keys.digest([again_other, one]) != keys.digest([one, other])


def test_functions_that_all_call_each_other_are_looked_at_once(monkeypatch):
    """So are classes that know each other."""

    def parser(*names):
        calls = "+".join(f"{name}(at - 1)" for name in names)
        parts = "".join(f" def {name}(at): return at and {calls}\n" for name in names)
        return made(f"def parser():\n{parts} return {names[0]}", "parser")()

    def rules(*names):
        kinds = {name: type(name, (), {"__module__": "__main__"}) for name in names}
        for kind, (name, other) in itertools.product(kinds.values(), kinds.items()):
            setattr(kind, name, other)
        return kinds[names[0]]()

    for make in (parser, rules):
        looked, where = [], keys.where
        monkeypatch.setattr(keys, "where", lambda value, looked=looked, where=where: looked.append(value) or where(value))
        first, *others = (keys.digest(make(*names)) for names in ("abcdefg", "abcdefg", "abcdefh"))
        assert len(looked) == 3 * 7
        assert first == others[0] != others[1]


def test_what_has_no_order_has_one_digest_whatever_it_calls():
    def part(name, around):
        return lambda: (name, around)

    def ring(*names):
        sets = [set() for _ in names]
        parts = [part(*each) for each in zip(names, sets, strict=True)]
        for each in sets:
            each.update(parts)
        return parts[0]

    assert len({keys.digest(ring("a", "b", "c")) for _ in range(20)}) == 1
    assert keys.digest(ring("a", "b", "c")) != keys.digest(ring("a", "b", "d"))


def test_what_an_object_with_sets_holds_counts_wherever_it_leads():
    def digest(number):
        def function():
            return holder

        inner = eval(f"lambda function: lambda: (function, {number})")(function)
        holder = types.SimpleNamespace(names={"a", "b"}, inner=inner)
        return keys.of_held([function])

    assert digest(1) == digest(1) != digest(2)


def test_a_class_and_a_function_that_are_met_again_are_told_apart():
    def digest(last):
        def function():
            return known

        kind = type("Kind", (), {"__module__": "__main__", "method": lambda self: None})
        kind.same = kind
        other = eval("lambda function: lambda: function")(function)
        known = kind, other, {"kind": kind, "other": other}[last]
        return keys.digest(function)

    assert digest("kind") == digest("kind") != digest("other")


def test_what_is_met_again_is_told_apart_whatever_else_was_met_again():
    """How much of a value was looked at already does not show in its digest."""

    def digest(is_shared, last):
        def function():
            return known

        heavy = list(range(20))
        one, other = [function, *range(20)], [function, *range(1, 21)]
        known = heavy, [heavy if is_shared else [*heavy], function], one, other, (one, other)[last]
        return keys.digest(function)

    assert not {digest(is_shared, 0) for is_shared in (False, True)} & {digest(is_shared, 1) for is_shared in (False, True)}


def test_objects_with_sets_within_functions_are_looked_at_once(monkeypatch):
    def chain(levels):
        def function():
            return last

        last = function
        for _ in range(levels):
            last = eval("lambda holder: lambda: holder")(types.SimpleNamespace(names={"a", "b"}, inner=last))
        return function

    looked, where = [], keys.where
    monkeypatch.setattr(keys, "where", lambda value: looked.append(value) or where(value))
    keys.of_held([chain(10)])
    assert len(looked) == 11


def test_what_sets_within_an_object_share_is_looked_at_once(monkeypatch):
    looked, is_a = [], keys._is_a
    monkeypatch.setattr(keys, "_is_a", lambda value, kinds: looked.append(value) or is_a(value, kinds))
    shared = frozenset([inspect.Parameter.POSITIONAL_ONLY])
    for _ in range(10):
        shared = frozenset([(shared, 1), (shared, 2)])
    keys.digest(types.SimpleNamespace(shared=shared))
    assert len(looked) < 50


def test_an_array_whose_type_has_no_digest_is_refused():
    described = numpy.dtype([("a", numpy.dtype("i4", metadata={"unit": lambda: None}))])
    with pytest.raises(TypeError, match="no digest"):
        keys.digest(numpy.zeros(2, described))


def test_different_values_have_different_digests():
    assert len(set(digests())) == len(VALUES) + 1
    assert keys.digest(numpy.arange(4)) != keys.digest(numpy.arange(4).reshape(2, 2))
    assert keys.digest(["ab", "c"]) != keys.digest(["a", "bc"])


ARRAYS = {
    "numbers": numpy.arange(12.0).reshape(3, 4),
    "dates": numpy.arange(6).astype("M8[s]").reshape(2, 3),
    "texts": numpy.array([["a", "bc"], ["d", ""]]),
    "structured": numpy.ones((2, 3), numpy.dtype([("a", "i1"), ("b", "f8", (2,))])),
    "structured with gaps": numpy.ones((2, 3), numpy.dtype([("a", "i1"), ("b", [("\udcff", "i1"), ("d", "f8")])], align=True)),
}


@pytest.mark.parametrize("within", [lambda array: array, lambda array: Adder([array])], ids=["itself", "in an object"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_known_by_their_content(name, within):
    """Those that came from another process have other objects for their types, and views of a pool are read-only."""
    array = ARRAYS[name]
    read_only = array.view()
    read_only.flags.writeable = False
    same = [pickle.loads(pickle.dumps(array)), read_only, numpy.asfortranarray(array), array[::-1][::-1]]
    other = array[::-1].copy() if array.dtype.names is None else array.astype([("a", "i1"), ("c", array.dtype["b"])])
    assert {keys.digest(within(each)) for each in same} == {keys.digest(within(array))} != {keys.digest(within(other))}
    assert keys.digest(within(array)) != keys.digest(within(array.T))


@pytest.mark.parametrize("aligned", [True, False])
def test_what_lies_between_the_fields_of_an_array_does_not_count(aligned):
    dtype = numpy.dtype({"names": ["a", "b"], "formats": ["i1", [("c", "i8")]], "offsets": [0, 8]}, align=aligned)
    one, other = (numpy.full(3 * dtype.itemsize, byte, "u1").view(dtype) for byte in (0, 255))
    one["a"] = other["a"] = 1
    one["b"]["c"] = other["b"]["c"] = 2
    assert keys.digest(one) == keys.digest(other) == keys.digest(other[::-1])
    other["b"]["c"][1] = 3
    assert keys.digest(one) != keys.digest(other)


def test_sets_within_an_object_may_be_of_what_refers_to_it():
    holder = Adder(set())
    holder.amount.add(holder)
    assert keys.digest(holder) == keys.digest(holder) != keys.digest(Adder(set()))


def test_arguments_without_content_are_refused_in_words(shared):
    kept = shared.memoize()(lambda a: a)
    itself = []
    itself.append(itself)
    for wrong in (sys.stdout, (n for n in ()), itself):
        with pytest.raises(TypeError, match=r"a of .* cannot be part of a key.*ignore="):
            kept(wrong)
    with pytest.raises(TypeError, match="must be a string, not 1"):
        shared.memoize(key=lambda a: a)(lambda a: a)(1)


def test_an_argument_without_memory_for_its_pickle_is_not_said_to_have_no_digest(shared):
    class Large:
        def __reduce__(self):
            raise MemoryError

    with pytest.raises(MemoryError):
        shared.memoize()(first)(Large(), 1)


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


def first(a, b=0):
    return ["first", a, b]


def second(a, b=0):
    return ["second", a, b]


class Adder:
    def __init__(self, amount, function=first):
        self.amount, self.function = amount, function

    def add(self, number):
        return self.amount + number

    def __call__(self, number):
        return self.function(self.amount, number)


def applied(function, number):
    return function(number)


HOLDERS = {
    "partial": lambda value: functools.partial(first, value),
    "keyword of partial": lambda value: functools.partial(first, b=value),
    "partial of partial": lambda value: functools.partial(functools.partial(first, value)),
    "bound method": lambda value: Adder(value).add,
    "object": Adder,
    "object with a function": lambda value: Adder(1, (first, second)[value]),
    "object with a lambda": lambda value: Adder(1, (lambda a, b: value)),
    "built-in method": lambda value: [value].count,
    "cached bound method": lambda value: functools.lru_cache(Adder(value).add),
    "partial of a function": lambda value: functools.partial(applied, (Adder(0).add, Adder(1).add)[value]),
    "function of partial": lambda value: functools.partial((first, second)[value], 1),
    "static method": lambda value: staticmethod((first, second)[value]),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_what_a_callable_holds_counts(shared, key, name):
    """Two callables of one type that hold different things share no results; equal ones do."""
    kept = [shared.memoize(HOLDERS[name](value)) for value in (0, 1, 0)]
    assert kept[0].key(1) == kept[2].key(1) != kept[1].key(1)
    assert [each(1) for each in kept] == [each.__wrapped__(1) for each in kept]


def test_a_module_is_known_by_its_weights_in_every_process(shared):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (CONTRIBUTING.md, PyTorch)", exc_type=ImportError)
    linear = torch.nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.fill_(1), linear.bias.fill_(0)
        kept = shared.memoize(linear)
        at_first = kept.key(torch.ones(2)), float(kept(torch.ones(2)))
        linear.weight.fill_(2)
        assert (kept.key(torch.ones(2)) != at_first[0], at_first[1], float(kept(torch.ones(2)))) == (True, 2, 4)
    program = """if True:
        import torch, foliocache.objects.keys as keys
        linear = torch.nn.Linear(2, 1)
        with torch.no_grad():
            linear.weight.fill_(2), linear.bias.fill_(0)
        print(keys.of_held([linear]))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == keys.of_held([linear])


def logged(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


class Logged:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args):
        return self.function(*args)


def aside(function):
    """A decorator whose wrapper has not closed over the function."""

    def call(*args):
        return call.__wrapped__(*args)

    return functools.wraps(function)(call)


def bound(function):
    return types.MethodType(lambda self, x: function(x), 5)


AROUND = [functools.cache, logged, Logged, aside, functools.partial, staticmethod]


@pytest.mark.parametrize(
    ("around", "chosen"), [(each, chosen) for each in AROUND for chosen in (False, True)] + [(bound, False)]
)
def test_a_change_of_the_function_inside_is_another_version(shared, key, around, chosen):
    results = []
    for body in ("x + 1", "x + 2", "x + 1"):
        space = {"__name__": "space"}
        exec(f"def function(x): return {body}", space)
        space["function"].__qualname__ = key
        options = {"key": lambda x: str(x)} if chosen else {}
        results.append(shared.memoize(**options)(around(space["function"]))(1))
    assert results == [2, 3, 2]


METHODS = {"plain": "{}", "wraps": "logged({})", "cache": "functools.lru_cache({})", "aside": "aside({})"}


@pytest.mark.parametrize("is_chosen", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_a_change_of_what_an_object_or_class_runs_is_another_version(shared, key, monkeypatch, name, is_chosen):
    options = {"key": lambda x: str(x)} if is_chosen else {}
    for method, of in ("__call__", lambda kind: kind(0)), ("__new__", lambda kind: kind):
        results = []
        for body in ("x + 1", "x + 2", "x + 1"):
            space = {"__name__": __name__, **globals()}
            function = METHODS[name].format(f"lambda self, x: {body}")
            exec(f"class Kind(Adder): {method} = {function}\nKind.__qualname__ = {key + method!r}", space)
            monkeypatch.setitem(globals(), key + method, space["Kind"])
            results.append(shared.memoize(**options)(of(space["Kind"]))(1))
        assert results == [2, 3, 2], method


def with_default(default):
    """Return a decorator that gives a default of its own."""

    def decorate(function):
        @functools.wraps(function)
        def call(a, b=default):
            return function(a, b)

        return call

    return decorate


def injected(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **{"b": 5, **kwargs})

    return call


def told_otherwise(default):
    def decorate(function):
        def call(a, b=default):
            return function(a, b)

        call.__signature__ = inspect.signature(lambda a: None)
        call.__module__, call.__qualname__ = function.__module__, function.__qualname__
        return call

    return decorate


def test_defaults_of_a_decorator_are_its_own(shared, key):
    def function(a, b=2):
        return [a, b]

    function.__qualname__ = key
    kept = shared.memoize(with_default(7)(function))
    assert [kept(1), kept(1, 2), kept(1, b=2), kept(1)] == [[1, 7], [1, 2], [1, 2], [1, 7]]
    kept = shared.memoize(injected(function))
    assert [kept(1), kept(1, b=2), kept(1)] == [[1, 5], [1, 2], [1, 5]]
    for decorator in with_default, told_otherwise:
        results = [shared.memoize(decorator(default)(function))(1) for default in (3, 4, 3)]
        assert results == [[1, 3], [1, 4], [1, 3]]
    assert shared.memoize(ignore="b")(with_default(sys.stdout)(function))(1, 2) == [1, 2]


def test_a_decorator_may_take_arguments_of_its_own(shared, key):
    def more(function):
        @functools.wraps(function)
        def call(*args, times=1, **kwargs):
            return [function(*args, **kwargs)] * times

        return call

    def function(a, b=2):
        return a + b

    function.__qualname__ = key
    kept = shared.memoize(more(function))
    assert [kept(1), kept(1, times=2), kept(1, b=3, times=2), kept(1, times=3)] == [[3], [3, 3], [4, 4], [3, 3, 3]]
    with pytest.raises(TypeError, match="missing 1 required"):
        kept(times=1)
    kept = shared.memoize(ignore="times")(more(function))
    assert kept.key(5, times=2) == kept.key(5, times=3) != kept.key(6, times=3)
    kept = shared.memoize(ignore="b")(more(function))
    assert kept.key(5) == kept.key(5, b=3) != kept.key(6, b=3)


def test_what_a_module_fills_in_counts(shared, key, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (CONTRIBUTING.md, PyTorch)", exc_type=ImportError)

    def module(default):
        class Module(torch.nn.Module):
            def forward(self, x, factor=default):
                return x * factor

        Module.__qualname__ = key
        monkeypatch.setitem(globals(), key, Module)
        return Module()

    assert [shared.memoize(module(factor))(torch.ones(())).item() for factor in (2, 3, 2)] == [2, 3, 2]


class Proxy:
    """It says that it is what it stands for, as objects of wrapt do, and does something else."""

    def __init__(self, function, amount):
        self.function, self.amount = function, amount

    def __call__(self, *args):
        return self.function(*args) + self.amount

    def __getattr__(self, name):
        if name in ("function", "amount"):
            raise AttributeError(name)
        return getattr(self.function, name)

    def __reduce_ex__(self, protocol):
        return Proxy, (self.function, self.amount)

    __class__ = property(lambda self: type(self.function))


@pytest.mark.parametrize("function", [slow_square, Adder(5).add], ids=["function", "method"])
def test_a_proxy_is_not_taken_for_what_it_stands_for(shared, key, function):
    kept = [shared.memoize(Proxy(function, amount)) for amount in (1, 2, 1)]
    assert kept[0].key(1) == kept[2].key(1) != kept[1].key(1) and kept[0].key(1) != shared.memoize(function).key(1)
    assert all(numpy.all(each(1) == each.__wrapped__(1)) for each in kept)


def test_what_a_wrapper_stands_for_counts_where_it_is_an_argument(shared):
    one, two = (aside(made(f"def function(x): return x + {n}")) for n in (1, 2))
    assert keys.digest(one) == keys.digest(aside(made("def function(x): return x + 1"))) != keys.digest(two)


def test_a_class_is_known_by_its_constructor(shared, key):
    def counted(amount):
        return type("Counted", (Adder,), {"__init__": lambda self: setattr(self, "amount", amount), "__qualname__": key})

    assert shared.memoize(counted(1)).key() != shared.memoize(counted(2)).key()


def test_a_callable_without_a_digest_is_refused_in_words(shared, key):
    with pytest.raises(TypeError, match=r"what is bound to it of .* cannot be part of a key: .*Give key="):
        shared.memoize(functools.partial(first, sys.stdout))(1)
    kept = shared.memoize(key=lambda b: f"{key} {b}")(functools.partial(first, (n for n in ())))
    assert kept.key(1).startswith(f"{__name__}.first:")


def test_a_memoized_function_is_known_by_what_it_memoizes(shared, key):
    def function(x):
        return os.urandom(x)

    function.__qualname__ = key
    kept = shared.memoize(function)
    twice = shared.memoize(kept)
    assert twice.key(1).startswith(f"{__name__}.{key}:") and twice.key(1) != kept.key(1)
    assert twice(8) == twice(8) == kept(8)
    assert keys.digest([kept]) != keys.digest([shared.memoize(first)])

    @shared.memoize
    def factorial(n):
        return n * factorial(n - 1) if n else 1  # it has closed over itself, memoized

    assert factorial(5) == 120

    @functools.wraps(kept)
    def more(x):
        return kept(x) + b"more"

    assert shared.memoize(more)(8) == kept(8) + b"more"


def test_a_memoized_function_is_no_bound_method(shared):
    def function(x, y=None):
        return x, y

    assert keys.digest(shared.memoize(function)) != keys.digest(types.MethodType(function, "memoized"))


def test_keywords_have_any_name_and_order(shared, key):
    def function(*, self, args=1, **more):
        return [self, args, more]

    function.__qualname__ = key
    kept = shared.memoize(function)
    assert kept(self=3, key=4, function=5) == kept(function=5, key=4, self=3) == [3, 1, {"key": 4, "function": 5}]
    assert kept.key(self=1, a=1, b=2) == kept.key(self=1, b=2, a=1) != kept.key(self=1, a=2, b=1)
    kept.delete(self=3, key=4, function=5)
    assert keys.digest({"a": 1, "b": 2}) != keys.digest({"b": 2, "a": 1})  # a result may depend on the order of a dict


def test_keys_of_plain_functions_stay_as_they_are(shared):
    """Pools outlive versions of this library."""

    def plain(a, b=2, *rest, c=3.0, **more):
        return a

    plain.__module__, plain.__qualname__ = "somewhere", "plain"
    kept = shared.memoize(version="1")(plain)
    assert kept.key(1) == "somewhere.plain:e36a0b8f627c4d6b49b7047c2c06fea3"
    assert kept.key("a", [1, {2: b"x"}], 1j, c=None, x={3}) == "somewhere.plain:1153e710f2e8476108cef032b71ee2b2"
    assert keys.digest(Adder(1)) == "ac3a21e36a233ab8f29a408a4fe12263"

    def times(factor):
        def inner(a):
            return a * factor

        inner.__module__, inner.__qualname__ = "somewhere", "inner"
        return shared.memoize(version="1")(inner)

    assert times(3).key(1) == "somewhere.inner:782dc0c22523a002a3acf64b7ca8b590"
