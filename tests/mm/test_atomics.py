"""The facade: every function of atomics.pxd does what its name says, in the C header and in facade_threads.

That the bodies have the same names is for tests/check/test_facade.py.
"""

import ctypes
import errno
import re
from pathlib import Path

import pytest
from world import MODULES, Segment, compiled, interpreted, together

import foliocache.mm
from foliocache.check import facade_threads

MM = Path(foliocache.mm.__file__).parent
ORDERS = ("relaxed", "acquire", "release", "acq_rel", "seq_cst")
TYPES = {"u32": ctypes.c_uint32, "u64": ctypes.c_uint64, "int": ctypes.c_int, "bint": ctypes.c_int, "void": None,
         "mem_t": ctypes.c_size_t, "const char *": ctypes.c_char_p, "char *": ctypes.c_char_p}  # fmt: skip
M32 = 0xFFFFFFFF


def declared():
    """{name: (result type, C name, [argument types])} of atomics.pxd."""
    found = re.findall(r'^    (\w+) (\w+) "(fc_\w+)" \((.*)\)$', (MM / "atomics.pxd").read_text(), re.MULTILINE)
    return {name: (result, c_name, [_type(a) for a in arguments.split(", ") if a]) for result, name, c_name, arguments in found}


def _type(argument):
    """Return the ctypes type of an argument declared with its name."""
    return re.sub(r"\w+$", "", argument).strip()


@pytest.fixture(scope="session")
def header(library):
    """Compile the inline functions of atomics.h as a library."""
    lines = ["typedef uint32_t u32; typedef uint64_t u64; typedef int bint;"]
    for name, (result, c_name, arguments) in declared().items():
        parameters = ", ".join(f"{type} a{i}" for i, type in enumerate(arguments)) or "void"
        call = f"{c_name}({', '.join(f'a{i}' for i in range(len(arguments)))})"
        lines.append(f"{result} call_{name}({parameters}) {{ {'' if result == 'void' else 'return '}{call}; }}")
    functions = ctypes.CDLL(str(library(f'#include "{MM / "atomics.h"}"\n' + "\n".join(lines) + "\n")))
    for name, (result, _, arguments) in declared().items():
        function = getattr(functions, f"call_{name}")
        function.restype, function.argtypes = TYPES[result], [TYPES[type] for type in arguments]
    return functions


@pytest.fixture(params=["compiled", "interpreted"])
def facade(request):
    """One implementation of the facade on a segment's memory: ``facade.load_relaxed(at)``."""
    if request.param == "compiled":
        return Facade(Segment(compiled()), request.getfixturevalue("header"), "call_")
    return Facade(Segment(interpreted()), facade_threads, "")


class Facade:
    """Checks every call: only the word that it was given may change, and the next one for a 64-bit function."""

    def __init__(self, segment, body, prefix):
        self.segment = segment
        self.body = body
        self.prefix = prefix
        self.at = segment.at(30)

    def __getattr__(self, name):
        function = getattr(self.body, self.prefix + name)
        return function if not declared()[name][2] else lambda *args: function(self.segment.mem, *args)

    def value(self, wide=False):
        return (self.segment.read64 if wide else self.segment.read)(self.at)

    def change(self, name, before, *args, wide=False):
        """Store a value in the word and call. Return the call's result and the word."""
        (self.segment.write64 if wide else self.segment.write)(self.at, before)
        others = bytes(self.segment.buffer)
        result = getattr(self, name)(self.at, *args)
        end = self.at + (8 if wide else 4)
        assert self.segment.buffer[: self.at] == others[: self.at], "it wrote before its word"
        assert self.segment.buffer[end:] == others[end:], "it wrote behind its word"
        return result, self.value(wide)


def test_the_declaration_is_read():
    assert declared()["cmpxchg_acquire"] == ("u32", "fc_cmpxchg_acquire", ["mem_t", "u64", "u32", "u32"])
    assert declared()["write_bytes"][2][2] == "const char *"
    assert len(declared()) > 60


def test_the_core_has_no_seq_cst():
    """But for the turn of a process, whose words are not of a segment."""
    for module in MODULES:
        if module not in ("atomics", "turn"):
            assert "seq_cst" not in (MM / f"{module}.py").read_text(), module


def test_every_read_modify_write_of_the_core_names_its_order():
    """Every call names an order, and is declared in the facade."""
    for module in MODULES:
        used = set(re.findall(r"atomics\.(\w+)\(", (MM / f"{module}.py").read_text()))
        assert used <= declared().keys(), module


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("operation", "before", "operand", "after"),
    [
        ("fetch_add", 5, 3, 8), ("fetch_add", M32, 1, 0), ("fetch_add", 0x7FFFFFFF, 1, 0x80000000), ("fetch_add", 5, M32, 4),
        ("fetch_sub", 5, 3, 2), ("fetch_sub", 0, 1, M32), ("fetch_sub", 0x80000000, 1, 0x7FFFFFFF),
        ("fetch_or", 0b1010, 0b0110, 0b1110), ("fetch_or", 0, 0x80000000, 0x80000000),
        ("fetch_and", 0b1010, 0b0110, 0b0010), ("fetch_and", M32, 0x80000001, 0x80000001),
        ("exchange", 7, M32, M32), ("exchange", M32, 0, 0),
    ],
)  # fmt: skip
def test_read_modify_writes(facade, order, operation, before, operand, after):
    assert facade.change(f"{operation}_{order}", before, operand) == (before, after)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("before", "old", "new", "after"), [(5, 5, 9, 9), (5, 6, 9, 5), (M32, M32, 0, 0), (0, 0, M32, M32)])
def test_cmpxchg(facade, order, before, old, new, after):
    assert facade.change(f"cmpxchg_{order}", before, old, new) == (before, after)


@pytest.mark.parametrize("value", [0, 1, 0x80000000, M32])
def test_loads_and_stores(facade, value):
    for name in ("load_relaxed", "load_acquire", "load_seq_cst", "read32"):
        assert facade.change(name, value) == (value, value)
    for name in ("store_relaxed", "store_release", "store_seq_cst", "write32"):
        assert facade.change(name, 0x12345678, value) == (None, value)


@pytest.mark.parametrize("value", [0, 1 << 32, 0xFFFFFFFFFFFFFFFF, 0x8000000000000001])
def test_wide_loads_and_stores(facade, value):
    for name in ("load_relaxed64", "load_acquire64", "read64"):
        assert facade.change(name, value, wide=True) == (value, value)
    for name in ("store_relaxed64", "store_release64", "write64"):
        assert facade.change(name, 0x123456789ABCDEF, value, wide=True) == (None, value)
    assert facade.change("count64", 5, value, wide=True) == (None, (5 + value) & 0xFFFFFFFFFFFFFFFF)


def test_write_bytes(facade):
    facade.segment.write64(facade.at, 0)
    facade.write_bytes(facade.at + 1, b"abcdef", 4)
    assert bytes(facade.segment.buffer[facade.at : facade.at + 8]) == b"\0abcd\0\0\0"


def test_copies(facade):
    """Whole words in, and out again; nothing beside them."""
    segment, text = facade.segment, b"abcdefgh12345678"
    others = bytes(segment.buffer)
    facade.copy_in_relaxed(facade.at, text + b"x", 16)
    assert bytes(segment.buffer) == others[: facade.at] + text + others[facade.at + 16 :]
    out = bytearray(b"." * 20)
    held = (ctypes.c_char * 20).from_buffer(out) if facade.prefix else out
    facade.copy_out_relaxed(facade.at, held, 16)
    assert bytes(out) == text + b"...."


def test_geometry(facade):
    for name in facade_threads.GEOMETRY:
        assert getattr(facade, name)() == facade.segment.shape.get(name, 0)  # populate: of real files
    for pfn in (0, 1, 63):
        assert facade.folio_at(pfn) == facade.segment.at(pfn)
        assert facade.page_at(pfn) == facade.segment.shape["data"] + pfn * 4096


def test_what_needs_no_memory(facade):
    for order in ("acquire", "release", "acq_rel", "seq_cst"):
        getattr(facade, f"fence_{order}")()
    facade.cpu_relax()
    first = facade.now_ns()
    assert 0 < first <= facade.now_ns()


def test_futex_of_another_value_does_not_sleep(facade):
    facade.segment.write(facade.at, 5)
    assert facade.futex_wait(facade.at, 6, 3600 * 10**9) == errno.EAGAIN


def test_futex_times_out(facade):
    facade.segment.write(facade.at, 5)
    assert facade.futex_wait(facade.at, 5, 1_000_000) == errno.ETIMEDOUT


def test_futex_wakes_as_many_as_asked(facade):
    facade.segment.write(facade.at, 5)
    assert facade.futex_wake(facade.at, 1) == 0

    def sleep():
        return facade.futex_wait(facade.at, 5, 20 * 10**9)

    def wake():
        woken = []
        while sum(woken) < 3:
            woken.append(facade.futex_wake(facade.at, 1 if sum(woken) < 1 else M32))
        return max(woken)

    results = together(sleep, sleep, sleep, wake)
    assert results[:3] == [0, 0, 0]
    assert results[3] <= 2
    assert facade.value() == 5


def test_peek_and_poke(segment):
    """The compiled core's Memory, from Python."""
    if not segment.world.compiled:
        assert segment.memory.handle is segment.memory
        return
    at, memory = segment.at(9), segment.memory
    memory.poke32(at, M32)
    memory.poke64(at + 8, 1 << 63)
    assert (segment.read(at), segment.read64(at + 8)) == (M32, 1 << 63)
    assert (memory.peek32(at), memory.peek64(at + 8)) == (M32, 1 << 63)
    assert memory.peek_bytes(at, 16) == bytes(segment.buffer[at : at + 16])
