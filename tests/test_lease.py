"""Objects that own something cannot be copied, half made or initialized twice; and no way out of a call leaks what it has
taken."""

import copy
import ctypes
import dis
import gc
import os
import pickle
import signal
import sys
import traceback

import fresh
import numpy as np
import pytest

import foliocache
from foliocache.mm import layout
from foliocache.pool import client as clients
from foliocache.pool import lease as leases
from foliocache.pool.lease import Target
from foliocache.pool.mapping import Mapping
from foliocache.pool.window import Window


@pytest.fixture
def mapping(pool, source):
    return pool.mapping("k", len(source.content), "v", source.read)


@pytest.fixture
def target(pool):
    """Return the buffer that a source is given to fill."""
    given = []

    def readinto(offset, buffer):
        given.append(buffer.obj)
        return len(buffer)

    pool.mapping("target", 100, readinto=readinto).lease(0).release()
    return given[0]


# Copies.

COPIES = [copy.copy, copy.deepcopy, pickle.dumps, lambda owner: pickle.dumps(owner, 0), lambda owner: owner.__reduce_ex__(4)]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", ["lease", "window", "target"])
def test_what_owns_something_is_not_copied(mapping, target, kind, how):
    owner = {"lease": lambda: mapping.lease(0), "window": mapping.window, "target": lambda: target}[kind]()
    with pytest.raises(TypeError, match="copied or pickled"):
        how(owner)


def test_a_copied_mapping_is_another_handle_of_the_same_object(mapping, source):
    for other in (copy.copy(mapping), pickle.loads(pickle.dumps(mapping.pool.mapping("p", 100, "v")))):
        assert type(other) is Mapping and other.pool is mapping.pool
    assert copy.copy(mapping).read(0, 1000) == source.content[:1000]


# Half made, or initialized twice.


@pytest.mark.parametrize("kind", [foliocache.Lease, Target, Window])
@pytest.mark.parametrize("make", [lambda kind: kind(), lambda kind: kind.__new__(kind), lambda kind: object.__new__(kind)])
def test_an_empty_owner_cannot_be_made(kind, make):
    with pytest.raises(TypeError):
        make(kind)


def test_nothing_is_initialized_again(pool, mapping, target, source):
    for owner, arguments in ((mapping.lease(0), ()), (mapping.window(), (mapping, 0, 10)), (target, ())):
        with pytest.raises(TypeError):
            owner.__init__(*arguments)
    with pytest.raises(TypeError, match="make another one"):
        mapping.__init__(pool, "other", 10, "v")
    assert mapping.key == "k" and mapping.read(0, 10) == source.content[:10]
    with mapping.window() as window:
        assert bytes(window) == source.content
    assert pool.stat().folios_by_type.table == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda half: half.lease(0), lambda half: half.read(0, 1), lambda half: half.read_bytes(0, 1),
        lambda half: half.read(0, 0), lambda half: half.readinto(0, bytearray(1)), lambda half: half.window(),
        lambda half: half.is_cached(0), lambda half: half.pieces(), lambda half: half.invalidate(), len, lambda half: half[:0],
    ],
)  # fmt: skip
def test_a_mapping_that_was_never_initialized_says_so(use):
    half = Mapping.__new__(Mapping)
    with pytest.raises(foliocache.FoliocacheError, match="never been initialized"):
        use(half)


def test_the_private_parts_of_a_fill_are_out_of_reach(mapping):
    for name in ("complete", "grab", "target", "private", "write", "wait", "withdraw", "explain", "_sleep"):
        assert not hasattr(mapping, name)


def test_a_module_of_pickles_cannot_make_one():
    """Cython's generated unpickling would."""
    assert not [name for name in dir(leases) if "unpickle" in name]


# Numbers.


@pytest.mark.parametrize("number", [np.int64(2), np.uint8(2), np.int32(2)])
def test_whatever_has_an_index_is_a_number(pool, mapping, source, number):
    lease = mapping.lease(number)
    assert bytes(lease[:5]) == source.content[2:7] and lease[number] == source.content[4] == mapping[number + number]
    assert bytes(mapping.lease(number, number)) == mapping[number : number + number] == source.content[2:4]
    assert mapping.read(number, number) == mapping.read_bytes(number, number) == source.content[2:4]
    assert mapping.is_cached(number, number) and bytes(next(mapping.pieces(number, number))) == source.content[2:4]
    buffer = bytearray(4)
    assert mapping.readinto(number, buffer) == 4 and buffer == source.content[2:6]
    with mapping.window(number, number) as window:
        assert bytes(window) == source.content[2:4]
    with mapping.window() as window:
        assert bytes(window.lease(number, number)) == bytes(lease[:number])
    assert pool.mapping("n", number).size == 2 and type(pool.mapping("n", number).size) is int


@pytest.mark.parametrize("number", [1.5, 1.0, "1", None, np.float64(1), [1]])
def test_what_has_none_is_refused(mapping, number):
    buffer = bytearray(4)
    for use in (
        lambda: mapping.lease(number), lambda: mapping.is_cached(number), lambda: mapping.pieces(number),
        lambda: mapping.read(number, 1), lambda: mapping.read(1, number), lambda: mapping.read_bytes(number, 1),
        lambda: mapping.readinto(number, buffer), lambda: mapping.window(number, 1), lambda: mapping.window().lease(number),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="must be an integer, not"):
            use()


@pytest.mark.parametrize("offset", [-1, -(2**63), -(2**64), 500_003, 2**31, 2**63, 2**64, 2**70])
def test_a_byte_that_no_object_has_is_named(mapping, offset):
    with pytest.raises(IndexError, match=f"^byte {offset} of an object of 500003$"):
        mapping.lease(offset)
    for length in (0, -1, -(2**70)):
        with pytest.raises(ValueError, match=r"at least 1 byte|must not be negative"):
            mapping.lease(0, length)


@pytest.mark.parametrize("place", [-500_004, -(2**63), 500_003, 2**63 - 1])
def test_a_place_that_no_object_has_is_named(mapping, place):
    with pytest.raises(IndexError, match=f"^byte {place} of an object of 500003$"):
        mapping[place]


def test_a_mapping_is_a_sequence_of_bytes(mapping, source):
    content = source.content
    assert len(mapping) == len(content) and mapping[-1] == content[-1] and mapping[7] == content[7]
    for key in (slice(None), slice(5, 20), slice(-3, None), slice(20, 5), slice(10, 2**70), slice(100_000, -1)):
        assert mapping[key] == content[key]
    with pytest.raises(ValueError, match="step of 2"):
        mapping[::2]
    for key in (len(content), -len(content) - 1, 2**70):
        with pytest.raises(IndexError):
            mapping[key]
    for iterated in (iter, reversed, lambda mapping: 5 in mapping):
        with pytest.raises(TypeError, match=r"not iterable.*mapping\.pieces\(\)"):
            iterated(mapping)
    assert b"".join(mapping.pieces()) == content


def test_offsets_beyond_any_number(mapping, source):
    size = mapping.size
    assert mapping.read(2**70, 5) == mapping.read(size, 2**64) == b"" and mapping.readinto(2**65, bytearray(5)) == 0
    assert mapping.read(5, 2**70) == mapping.read_bytes(5, 2**63) == source.content[5:]
    assert bytes(mapping.window(size - 5, 2**64)) == source.content[-5:]
    for offset, length in ((-1, 5), (0, -1), (-(2**70), 1), (0, -(2**64))):
        for read in (mapping.read, mapping.read_bytes, mapping.window):
            with pytest.raises(ValueError, match=f"must not be negative: {min(offset, length)}"):
                read(offset, length)


@pytest.mark.parametrize("key", [2**70, -(2**70), 65536, -65537])
def test_a_byte_that_there_is_not(mapping, key):
    with pytest.raises(IndexError):
        mapping.lease(0)[key]


# Buffers to read into.


@pytest.mark.parametrize("make", [lambda: bytearray(), lambda: np.zeros(0), lambda: np.zeros((0, 5)), lambda: memoryview(b"")])
def test_an_empty_buffer_is_filled_at_once(mapping, make):
    if isinstance(make(), memoryview):
        with pytest.raises(TypeError, match="writable buffer"):
            mapping.readinto(0, make())
    else:
        assert mapping.readinto(0, make()) == 0


@pytest.mark.parametrize(
    "buffer", [b"read-only", "text", 5, None, np.zeros((8, 2), np.uint8)[:, 0], memoryview(bytearray(8))[::2]]
)
def test_what_cannot_be_filled_is_refused_in_words(mapping, buffer):
    with pytest.raises(TypeError, match="readinto needs a writable buffer whose bytes lie side by side"):
        mapping.readinto(0, buffer)


OBJECTS = {
    "array": lambda: np.full(3, None),
    "record": lambda: np.zeros(3, [("n", "i8"), ("o", object)]),
    "dated": lambda: np.zeros(3, [("when", "M8[s]"), ("o", object)]),  # says nothing of its format
    "view": lambda: memoryview(np.full(3, None)),
    "ctypes": lambda: (ctypes.py_object * 3)(*"abc"),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_bytes_are_not_read_over_pointers_to_objects_nor_pointers_taken_for_bytes(pool, mapping, kind):
    """NumPy and ctypes allow any write there, and the process would crash."""
    buffer = OBJECTS[kind]()
    with pytest.raises(TypeError, match="of Python objects"):
        mapping.readinto(0, buffer)
    with pytest.raises(foliocache.SourceError, match="of Python objects"):
        pool.mapping("objects", 24, "", lambda offset, length: buffer).read(0, 8)


@pytest.mark.parametrize("dtype", ["u1", "<f8", "<i4,<i4", "S5", "M8[s]", [("OO", "i4"), ("O", "u1")]])
def test_buffers_of_any_format_are_filled(mapping, source, dtype):
    array = np.zeros((7, 4), dtype)
    assert mapping.readinto(3, array) == array.nbytes
    assert array.tobytes() == source.content[3 : 3 + array.nbytes]


# However a call ends, it leaks nothing.


class Ledger:
    """A pool's client slot, with assertions that nothing is left in it."""

    def __init__(self, pool):
        self.pool = pool
        self.segment = pool._attachment.segment
        self.at = clients.offset(self.segment, pool._attachment.number)

    def word(self, offset):
        return self.segment.memory.peek32(self.at + offset)

    def check(self):
        """Assert that there is no operation under way, no intent, no pin, no finding."""
        assert self.word(layout.CLIENT_OP_SEQ) % 2 == 0
        assert [self.word(layout.CLIENT_OPS + 4 * n) for n in range(layout.OPS)] == [0] * layout.OPS
        assert [n for n in range(layout.PINS) if self.word(layout.CLIENT_LEDGER + 4 * n)] == []

    def check_all_words(self, mapping):
        """Assert that every word of the ledger can still be used."""
        held = [mapping.lease(0) for _ in range(layout.PINS + 5)]
        assert [lease.cached for lease in held] == [True] * (layout.PINS - 1) + [False] * 6


SOAK = "FOLIOCACHE_STRESS_SECONDS" in os.environ


class Stop(Exception):
    """The exception that a handler raises."""


class Moments:
    """The moments at which Python calls signal handlers, and a handler that raises at one: after a call, at a function's
    beginning and when a loop goes on. ``first``: how many there were before each place was reached for the first time."""

    install = sys.settrace
    _after = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")

    def __init__(self, last=None):
        self.count, self.last, self.first, self._previous = 0, last, {}, {}

    def __call__(self, frame, event, argument):
        """The trace function: called before the frame's next bytecode is executed."""
        frame.f_trace_opcodes = True
        if event == "opcode":
            name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            before = self._previous.get(frame, "")
            if before.startswith(self._after) and not before.startswith("CALL_INTRINSIC"):
                self.reach(frame)
            self._previous[frame] = name
        return self

    def reach(self, frame):
        self.count += 1
        self.first.setdefault((frame.f_code, frame.f_lasti), self.count)
        if self.count == self.last:
            self.install(None)
            raise Stop

    def run(self, operation):
        sys._getframe().f_trace_opcodes = True  # CPython 3.12 looks whether a frame wants opcodes when a function is installed
        self.install(self)
        try:
            operation()
        finally:
            self.install(None)
            self._previous.clear()


class EndsOfCalls(Moments):
    """Raises when a C function has returned, as a profile function: its result is lost with the exception."""

    install = sys.setprofile

    def __call__(self, frame, event, argument):
        if event == "c_return" and argument not in (sys.setprofile, sys.settrace):
            self.reach(frame)


def interrupted_everywhere(moments, operation, prepare, most):
    """Run operation repeatedly, each time with an exception at another place, at ``most`` of them, evenly spread. Yield the
    exceptions."""
    prepare()
    way = moments()
    way.run(operation)
    counts = sorted(way.first.values())
    for last in counts[:: len(counts) // most + 1]:
        prepare()
        try:
            way = moments(last)
            way.run(operation)
        except Stop as error:
            yield error  # whose traceback keeps every frame's variables, as an interactive session does
        else:
            assert way.count < last, "it was raised, and was not propagated"


OPERATIONS = {
    "hit": lambda mapping, pool: mapping.lease(0).release(),
    "miss": lambda mapping, pool: (mapping.invalidate(), mapping.lease(0).release()),
    "miss into": lambda mapping, pool: (pool.into.invalidate(), pool.into.lease(0).release()),
    "read": lambda mapping, pool: (mapping.invalidate(), mapping.read(100, 60_000), mapping.read_bytes(5, 40_000)),
    "readinto": lambda mapping, pool: (mapping.invalidate(), mapping.readinto(100, bytearray(60_000))),
    "window": lambda mapping, pool: (mapping.invalidate(), mapping.window(0, 50_000).close()),
    "window's lease": lambda mapping, pool: mapping.window(0, 50_000).lease(20_000).release(),
    "pieces": lambda mapping, pool: (mapping.invalidate(), [len(lease) for lease in mapping.pieces(100, 60_000)]),
    "forget": lambda mapping, pool: (mapping.lease(0), pool.forget("k")),
    "a new mapping": lambda mapping, pool: pool.mapping("new", 100_000, "v", bytes_of).read(0, 100),
    "reap": lambda mapping, pool: pool._attachment.reap(),
    "repair": lambda mapping, pool: pool.repair(),
}


def die_with_a_lease(mapping):
    """Leave a dead client with a pin to be settled."""
    pid = os.fork()
    if pid == 0:
        mapping.lease(0)
        os._exit(0)
    os.waitpid(pid, 0)


PREPARE = {"reap": die_with_a_lease, "repair": die_with_a_lease}


def bytes_of(offset, length):
    return bytes(length)


def fill_with_zeros(offset, buffer):
    return len(buffer)


@pytest.mark.parametrize("moments", [Moments, EndsOfCalls])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_exception_at_any_moment_leaves_nothing(pool_name, name, moments):
    """As raised by a signal handler. Nothing is left even while the exception, and with it each frame's variables, is kept."""
    pool = foliocache.open(pool_name, size="4MiB", clients=4, fill_timeout=1)
    mapping = pool.mapping("k", 100_000, "v", bytes_of)
    pool.into = pool.mapping("into", 20_000, "v", readinto=fill_with_zeros)
    ledger, count = Ledger(pool), 0
    mapping.read(0, mapping.size)
    prepare = PREPARE.get(name, lambda mapping: None)
    most = 10_000 if SOAK or name not in PREPARE else 40  # each of those takes a process that dies
    for error in interrupted_everywhere(moments, lambda: OPERATIONS[name](mapping, pool), lambda: prepare(mapping), most):
        count += 1
        assert ledger.word(layout.CLIENT_OP_SEQ) % 2 == 0
        assert [ledger.word(layout.CLIENT_OPS + 4 * n) for n in range(layout.OPS)] == [0] * layout.OPS
        locked = [n for n in range(layout.PINS) if ledger.word(layout.CLIENT_LEDGER + 4 * n) and _is_locked(pool, ledger, n)]
        assert locked == [], f"a folio without a filler stays locked after {traceback.format_tb(error.__traceback__)}"
        del error
    assert count > 1 or moments is EndsOfCalls  # a hit has none but its own
    gc.collect()
    pool._attachment.reap()
    ledger.check()
    assert pool.stat().pins == 0
    assert mapping.read(0, 100) == bytes(100)
    pool.forget("k"), pool.forget("into"), pool.forget("new")
    assert pool.audit() == [] and pool.stat().pages_by_state.file == 0
    ledger.check_all_words(mapping)


def _is_locked(pool, ledger, n):
    pfn = ledger.word(layout.CLIENT_LEDGER + 4 * n) & layout.PIN_PFN
    flags = ledger.segment.geometry["memmap"] + pfn * layout.FOLIO_SIZE + layout.F_FLAGS
    return ledger.segment.memory.peek32(flags) & layout.PG_LOCKED != 0


def test_a_signal_at_any_moment_leaves_nothing(pool_name):
    """Real signals, as fast as possible, whose handler sometimes raises, during reads, misses and windows."""
    pool = foliocache.open(pool_name, size="4MiB")
    mapping = pool.mapping("k", 100_000, "v", bytes_of)
    ledger, armed, stops = Ledger(pool), [False], 0

    def handler(number, frame):
        if armed[0]:
            armed[0] = False
            raise Stop

    def read_until_stopped():  # in a function: CPython 3.13 leaves a loop's last jump out of a try block around it
        armed[0] = True
        while armed[0]:
            mapping.invalidate()
            mapping.read(0, 60_000)
            mapping.window(0, 20_000).close()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
        for turn in range(1500):
            try:
                read_until_stopped()
            except Stop:
                stops += 1
            finally:
                armed[0] = False
            if turn % 100 == 0:
                assert ledger.word(layout.CLIENT_OP_SEQ) % 2 == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stops == 1500
    gc.collect()
    ledger.check()
    assert pool.audit() == []
    ledger.check_all_words(mapping)


try:
    import _testcapi
except ImportError:
    _testcapi = None


@pytest.mark.skipif(not hasattr(_testcapi, "set_nomemory"), reason="this Python has no allocator that fails on demand")
@pytest.mark.parametrize("name", ["hit", "miss", "miss into", "read", "readinto", "window", "window's lease"])
@fresh.process
def test_no_memory_at_any_allocation_leaves_nothing(pool_name, name):
    """No other thread allocates meanwhile."""
    pool = foliocache.open(pool_name, size="4MiB", pressure=False)
    mapping = pool.mapping("k", 100_000, "v", bytes_of)
    pool.into = pool.mapping("into", 20_000, "v", readinto=fill_with_zeros)
    ledger = Ledger(pool)
    mapping.read(0, mapping.size)
    kept = [mapping.lease(0) for _ in range(300)]  # the free list of leases is empty then
    failures = 0
    for nth in range(60):
        try:
            _testcapi.set_nomemory(nth, nth + 1)
            OPERATIONS[name](mapping, pool)
        except MemoryError:
            failures += 1
        finally:
            _testcapi.remove_mem_hooks()
        assert ledger.word(layout.CLIENT_OP_SEQ) % 2 == 0
    assert failures > 0
    kept.clear()
    gc.collect()
    ledger.check()
    assert pool.audit() == []
    ledger.check_all_words(mapping)


def test_a_buffer_that_is_asked_for_wrongly_leaves_no_view(pool, mapping):
    lease = mapping.lease(0)
    for _ in range(3):
        with pytest.raises(BufferError):
            ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(lease), ctypes.create_string_buffer(200), 1)  # PyBUF_WRITABLE
    lease.release()
    assert pool.stat().pins == 0
