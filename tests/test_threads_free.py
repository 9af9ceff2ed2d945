"""Threads of one process that use a pool at once: with the GIL, and on a free-threaded Python without it."""

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import sysconfig
import threading
import time

import numpy
import pytest

import foliocache
from foliocache.check import facade_threads
from foliocache.mm import audit, layout
from foliocache.objects import store

THREADS = 8
OBJECTS = 3
SIZE = 3_000_001  # bytes of an object; together they are twice as large as the pool
WAIT = 120  # seconds

without_gil = pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")


@pytest.fixture(autouse=True)
def often():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def contents():
    return [random.Random(n).randbytes(SIZE) for n in range(OBJECTS)]


def mappings_of(pool, contents):
    return [
        pool.mapping(f"object {n}", size=SIZE, read=lambda start, length, of=of: of[start : start + length], concurrent=n > 0)
        for n, of in enumerate(contents)
    ]


def at_once(*functions):
    """Call the functions in threads that begin together. Raise what one of them raises."""
    begin = threading.Barrier(len(functions))
    errors = []

    def run(function):
        try:
            begin.wait(WAIT)
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def check_whole(pool, mapping):
    """No pin has leaked, and every word of the ledger is there and only once."""
    leases = [mapping.lease(0, 1) for _ in range(layout.PINS - 1)]
    assert all(lease.cached for lease in leases)
    extra = mapping.lease(0, 1)
    assert not extra.cached
    del leases, extra
    assert pool.stat().pins == 0
    assert pool.audit() == []


def work(mappings, contents, seed, rounds=150):
    """Read in every way, at random places, and compare."""
    chance = random.Random(seed)
    kept = []
    for _ in range(rounds):
        n = chance.randrange(OBJECTS)
        mapping, content = mappings[n], contents[n]
        offset = chance.randrange(SIZE)
        length = min(chance.choice((1, 100, 70_000, 300_000)), SIZE - offset)
        want = content[offset : offset + length]
        way = chance.randrange(7)
        if way == 0:
            assert mapping.read_bytes(offset, length) == want
        elif way == 1:
            assert mapping.read(offset, length) == want
        elif way == 2:
            lease = mapping.lease(offset, length)
            assert bytes(lease) == want[: len(lease)]
            kept.append(lease)
        elif way == 3:
            buffer = bytearray(length)
            assert mapping.readinto(offset, buffer) == length
            assert buffer == want
        elif way == 4:
            assert b"".join(bytes(lease) for lease in mapping.pieces(offset, length)) == want
        elif way == 5:
            no_room = contextlib.suppress(foliocache.FoliocacheError)  # if the others have pinned too much
            with no_room, mapping.window(offset, length) as window:
                assert bytes(window) == want
                assert window.lease(0)[0] == want[0]
        else:
            mapping.is_cached(offset, length)
            if chance.randrange(10) == 0:
                mapping.invalidate()
        if len(kept) > 8:
            kept.pop(chance.randrange(len(kept))).release()


def test_an_audit_in_which_garbage_is_collected(pool):
    """The garbage has leases, which end in the middle of the audit: it is made once more."""
    objects = [pool.mapping(f"small {n}", 10, read=lambda offset, length: bytes(length)) for n in range(200)]
    before = gc.get_threshold()
    gc.collect()
    cycle = [mapping.lease(0) for mapping in objects]
    cycle.append(cycle)
    del cycle
    gc.set_threshold(len(objects) // 2)  # the audit makes a tuple for each folio
    try:
        assert pool.audit() == []
    finally:
        gc.set_threshold(*before)


def test_an_audit_beside_an_operation_is_repeated(pool, monkeypatch):
    mapping = pool.mapping("one", 10, read=lambda offset, length: bytes(length))
    held, real, calls = [mapping.lease(0)], audit.audit, []

    def disturbed(memory):
        calls.append(held.clear())
        return real(memory) or [{"check": "count", "where": "pfn 0", "message": "seen in passing"}]

    monkeypatch.setattr(audit, "audit", disturbed)
    assert [found.message for found in pool.audit()] == ["seen in passing"]
    assert len(calls) == 2, "the lease ended in the first one, and nothing in the second"


def said(code):
    """Run a program in a new process, and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@without_gil
def test_import_leaves_the_gil_off():
    modules = "foliocache, foliocache.pool.async_map, foliocache.observe.scan, foliocache.sources.wire"
    assert said(f"import sys, {modules}; print(sys._is_gil_enabled())") == "False\n"


def test_another_interpreter_is_refused_in_words(pool):
    """The core serves the interpreter that has imported it first."""
    inside = f"""
import sys
sys.path[:] = {sys.path}
try:
    import foliocache
    foliocache.attach({pool.name!r})
except ImportError as error:
    print("refused:", error, flush=True)
"""
    code = f"""
import foliocache
foliocache.attach({pool.name!r})
try:
    import _interpreters as interpreters
    run = interpreters.exec
except ImportError:
    import _xxsubinterpreters as interpreters
    run = interpreters.run_string
other = interpreters.create()
failed = run(other, {inside!r})
assert failed is None, failed
interpreters.destroy(other)
"""
    assert said(code).startswith("refused: foliocache's core cannot be imported: ")


def test_hits_misses_and_evictions(pool, contents):
    mappings = mappings_of(pool, contents)
    at_once(*(lambda seed=seed: work(mappings, contents, seed) for seed in range(THREADS)))
    assert pool.stat().counters.evictions > 0
    check_whole(pool, mappings[0])


def test_threads_with_mappings_of_their_own(pool, contents):
    def own(seed):
        work(mappings_of(pool, contents), contents, seed, 60)

    at_once(*(lambda seed=seed: own(seed) for seed in range(THREADS)))
    check_whole(pool, mappings_of(pool, contents)[0])


def test_one_lease_is_released_by_all(pool, contents):
    mapping = mappings_of(pool, contents)[0]
    for _ in range(10):
        leases = [mapping.lease(0, 1) for _ in range(200)]

        def release(leases=leases):
            for lease in leases:
                lease.release()

        at_once(*[release] * THREADS)
    check_whole(pool, mapping)


def test_views_of_one_lease(pool, contents):
    mapping = mappings_of(pool, contents)[0]
    for _ in range(10):
        leases = [mapping.lease(0, 100) for _ in range(50)]

        def view(leases=leases):
            for lease in leases:
                with contextlib.suppress(foliocache.LeaseError):
                    for _ in range(5):
                        with memoryview(lease) as seen:
                            assert seen == contents[0][:100]
                        assert lease[3] == contents[0][3]

        def release(leases=leases):
            for lease in leases:
                lease.release()

        at_once(*[view] * (THREADS - 1), release)
    check_whole(pool, mapping)


def test_one_window_of_all(pool, contents):
    mapping = mappings_of(pool, contents)[0]
    for _ in range(5):
        window = mapping.window(1000, 400_000)

        def use(window=window):
            with contextlib.suppress(foliocache.LeaseError):
                for place in range(0, 400_000, 5_000):
                    assert window.lease(place, 10)[0] == contents[0][1000 + place]
                    with memoryview(window) as seen:
                        assert seen[place] == contents[0][1000 + place]

        at_once(*[use] * (THREADS - 1), window.close)
    check_whole(pool, mapping)


@pytest.mark.parametrize("turn", range(5))
def test_first_use_by_all(pool_name, contents, turn):
    """The threads become a client at once, by whatever they call first."""
    pool = foliocache.open(pool_name, size="4MiB")
    at_once(
        *(lambda: mappings_of(pool, contents)[0].lease(0), lambda: pool.forget("nothing")) * 2,
        *(lambda: pool.get("nothing"), pool.audit) * 2,
    )
    assert len([client for client in pool.stat().clients if client.state == "attached"]) == 1
    check_whole(pool, mappings_of(pool, contents)[0])


def test_names_of_all(pool):
    made = []

    def make(n):
        made.append(n)
        return {"n": n}

    def objects():
        for n in range(40):
            assert pool.get_or_create(f"key {n}", lambda n=n: make(n)) == {"n": n}

    at_once(*[objects] * THREADS)
    assert sorted(made) == list(range(40))


def test_objects_that_all_find(pool):
    """Arrays of one folio and of several, and what its name's record has: in whole, in part, and to write to; and put again."""
    rows = 4, 500, 9_000
    arrays = [numpy.arange(100 * count, dtype="u4").reshape(count, 100) for count in rows]

    def objects(seed):
        chance = random.Random(seed)
        kept = []
        for _ in range(100):
            n = chance.randrange(len(arrays))
            want, key = arrays[n], f"array {n}"
            first = chance.randrange(rows[n])
            end = chance.randint(first + 1, rows[n])
            way = chance.randrange(5)
            if way == 0:
                found = pool.get_or_create(key, lambda want=want: want)
                assert numpy.array_equal(found, want) and not found.flags.writeable
                kept.append(found)
            elif way == 1:
                found = pool.get_or_create(key, lambda want=want: want, writable="copy")
                found += 1
                assert numpy.array_equal(found, want + 1)
            elif way == 2:
                at, found = pool.objects.get_rows(key, "", None, first, end)
                if found is not store.MISSING:
                    assert numpy.array_equal(found[first - at : end - at], want[first:end])
            elif way == 3:
                assert pool.get_or_create("small", lambda: {"n": 7}) == {"n": 7}
            elif chance.randrange(5) == 0:
                pool.put(key, want)
            if len(kept) > 3:
                kept.pop(chance.randrange(len(kept)))

    at_once(*(lambda seed=seed: objects(seed) for seed in range(THREADS)))
    gc.collect()
    assert pool.stat().pins == 0


def test_arrays_put_together_by_all():
    """Of the same chunks, each by a thread into an array of its own, and all into one, each the rows of its own."""
    gather = pytest.importorskip("foliocache.adapters.zarr.gather", reason="zarr is not installed", exc_type=ImportError).gather
    whole = numpy.random.default_rng(0).integers(0, 1 << 30, (800, 600))
    cuts = [slice(a, a + 60) for a in range(0, 600, 60)]
    parts = [((slice(0, 800), cut), whole[:, cut].copy(), None) for cut in cuts]
    shared = numpy.zeros_like(whole)

    def put_together(n):
        own = numpy.zeros_like(whole)
        mine = slice(100 * n, 100 * (n + 1))
        for _ in range(20):
            gather(own, parts, len(parts))
            gather(shared, [((mine, cut), part[mine], None) for (_, cut), part, _ in parts], len(parts))
        assert numpy.array_equal(own, whole)

    at_once(*(lambda n=n: put_together(n) for n in range(THREADS)))
    assert numpy.array_equal(shared, whole)


@without_gil
def test_words_of_the_interpreted_core_are_whole():
    """A load sees one store or another, and never the zeros that struct writes first."""
    memory = facade_threads.Memory(64)
    facade_threads.store_relaxed(memory, 0, 0x01010101)
    over = threading.Event()

    def write():
        for n in range(100_000):
            facade_threads.store_relaxed(memory, 0, 0x01010101 * (1 + n % 2))
        over.set()

    def read():
        while not over.is_set():
            assert facade_threads.load_relaxed(memory, 0) in (0x01010101, 0x02020202)

    at_once(write, read, read)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forks_between(pool, contents):
    """A thread forks while others are in operations. The child reads what is cached, as a client of its own."""
    mappings = mappings_of(pool, contents)
    held = mappings[0].lease(0, 1000)
    ended = threading.Event()

    def others(seed):
        while not ended.is_set():
            work(mappings, contents, seed, 5)

    def fork():
        try:
            for _ in range(10):
                child = os.fork()
                if child == 0:
                    signal.alarm(60)
                    right = mappings[0].read_bytes(0, 1000) == contents[0][:1000]
                    os._exit(0 if right else 1)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            ended.set()

    at_once(fork, *(lambda seed=seed: others(seed) for seed in range(3)))
    assert held.cached
    held.release()
    check_whole(pool, mappings[0])


def test_close_between(pool, contents):
    mappings = mappings_of(pool, contents)
    begun = threading.Event()

    def read(seed):
        with contextlib.suppress(foliocache.FoliocacheError):
            while True:
                work(mappings, contents, seed, 2)
                begun.set()

    def close():
        assert begun.wait(WAIT)
        pool.close()

    at_once(close, *(lambda seed=seed: read(seed) for seed in range(4)))
    again = foliocache.attach(pool.name)
    deadline = time.monotonic() + WAIT
    while again.stat().pins and time.monotonic() < deadline:
        time.sleep(0.01)
    assert again.audit() == []
