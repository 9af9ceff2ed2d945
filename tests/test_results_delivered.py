"""Long results of ``read_bytes``: the threads that fill the folios write them, too."""

import os
import pickle
import random
import signal
import threading

import pytest

import foliocache
from foliocache.pool.result import Result
from foliocache.pool.results import Results

KIB, MIB = 1 << 10, 1 << 20
PATIENCE = 60
SIZE = 12 * MIB + 12_345
DATA = random.Random(12).randbytes(SIZE)


def read(offset, length):
    return DATA[offset : offset + length]


@pytest.fixture
def roomy(pool_name):
    """A pool of 64 MiB. After the test its audit must be empty."""
    pool = foliocache.open(pool_name, size="64MiB")
    yield pool
    assert pool.audit() == []


class Gate:
    """A source whose call for the first byte waits; its other calls do what ``others`` does."""

    def __init__(self, others=read):
        self.others = others
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, offset, length):
        if offset == 0:
            self.begun.set()
            assert self.open.wait(PATIENCE)
            return read(offset, length)
        return self.others(offset, length)


def wait_until_cached(mapping, offset, length):
    """Return when a range is cached; nothing wakes those who only look."""
    waits = threading.Event()
    for _ in range(PATIENCE * 100):
        if mapping.is_cached(offset, length):
            return
        waits.wait(0.01)
    raise TimeoutError


def overwrite(path, wanted):
    """Write zeros over some bytes, wherever they are in a sparse file."""
    with open(path, "r+b") as file:
        end = os.fstat(file.fileno()).st_size
        hole = 0
        while hole < end:
            data = os.lseek(file.fileno(), hole, os.SEEK_DATA)
            hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            if (at := os.pread(file.fileno(), hole - data, data).find(wanted)) >= 0:
                os.pwrite(file.fileno(), bytes(len(wanted)), data + at)
                return
    raise AssertionError("they are not there")


def test_a_result_is_written_before_its_reader_comes_to_it(roomy):
    """The pages are changed behind everyone's back while the reader waits for the first: it must not look at them again."""
    gate, found = Gate(), []
    mapping = roomy.mapping("k", SIZE, "1", gate, concurrent=True)
    reader = threading.Thread(target=lambda: found.append(mapping.read_bytes(100, SIZE - 200)))
    reader.start()
    assert gate.begun.wait(PATIENCE)
    last = 9 * MIB
    wait_until_cached(mapping, last, MIB)
    with mapping.lease(last, 1000) as lease, memoryview(lease) as view:
        wanted = bytes(view)
        overwrite(roomy.path, wanted)
        assert bytes(view) == bytes(1000)
    gate.open.set()
    reader.join(PATIENCE)
    assert found == [DATA[100 : SIZE - 100]]


def test_results_of_ranges_are_written_before_their_readers_come_to_them(roomy):
    """As above, for ranges in no order: they overlap, lie in each other, and begin and end within units."""
    gate = Gate()
    mapping = roomy.mapping("k", SIZE, "1", gate, concurrent=True)
    ranges = [
        (9 * MIB + 7, MIB),
        (8 * MIB, 3 * MIB),
        (0, 2 * MIB),
        (9 * MIB + 7, MIB),
        (10 * MIB, 5),
        (8 * MIB - 1, 2),
        (11 * MIB, 9),
    ]
    made = Results([(mapping, *one) for one in ranges])
    mapping.filler.read_runs(mapping, [(0, -(-SIZE // mapping.unit_size))], 0, made.of(mapping))
    made.make_huge()
    assert gate.begun.wait(PATIENCE)
    last = 9 * MIB
    wait_until_cached(mapping, 8 * MIB - 1, 3 * MIB + 10)
    with mapping.lease(last, 1000) as lease, memoryview(lease) as view:
        overwrite(roomy.path, bytes(view))
        assert bytes(view) == bytes(1000)
    assert [made.read(n, mapping, *ranges[n]) == read(*ranges[n]) for n in (0, 1, 3, 4, 5, 6)] == [True] * 6
    gate.open.set()
    assert made.read(2, mapping, *ranges[2]) == read(*ranges[2])
    assert made.read(0, mapping, *ranges[0]) != read(*ranges[0]), "a second time, it is read from the pages"


@pytest.mark.parametrize("seed", range(8))
def test_ranges_of_any_kind(roomy, seed):
    rng = random.Random(seed)
    starts = [rng.randrange(SIZE) for _ in range(rng.choice((3, 40, 700)))]
    ranges = [(at, min(rng.choice((1, 1000, 70_000, 3 * MIB)), SIZE - at)) for at in starts] + [(0, 4 * MIB), (5, 0)]
    for number, (concurrent, pool) in enumerate(((True, roomy), (False, roomy))):
        mapping = pool.mapping(f"k{number}", SIZE, "1", read, concurrent=concurrent)
        mapping.read(rng.randrange(SIZE - 300_000), 300_000)
        made = Results([(mapping, *one) for one in ranges])
        runs = [(at // mapping.unit_size, -(-(at + length) // mapping.unit_size)) for at, length in ranges if length]
        mapping.filler.read_runs(mapping, runs, 0, made.of(mapping))
        for n in rng.sample(range(len(ranges)), len(ranges)):
            assert made.read(n, mapping, *ranges[n]) == read(*ranges[n])


def test_what_is_no_result_is_refused(roomy):
    mapping = roomy.mapping("k", SIZE, "1", read, concurrent=True)
    for wrong in (Result.__new__(Result), object()):
        mapping.filler.read_runs(mapping, [(0, 1)], 0, wrong)  # in a thread of the engine, whose errors nobody sees
    assert mapping.read_bytes(0, 100) == DATA[:100]
    for kind in (Result, *Result.__bases__):
        with pytest.raises(TypeError, match="belongs to a read"):
            kind()
    with pytest.raises(TypeError, match="cannot be copied"):
        pickle.dumps(Result.__new__(Result))


@pytest.mark.parametrize(("start", "end"), [(0, SIZE), (1, SIZE - 1), (MIB + 5, 9 * MIB - 7), (SIZE - 5 * MIB, SIZE)])
@pytest.mark.parametrize("options", [{}, {"folio_size": 256 * KIB}, {"readahead": 0}], ids=str)
def test_any_range(roomy, start, end, options):
    for number, concurrent in enumerate((True, False)):
        mapping = roomy.mapping(f"k{number}", SIZE, "1", read, concurrent=concurrent, **options)
        for offset in (start + 3, start + MIB, end - 10, (start + end) // 2):  # cached before, in folios of all sizes
            mapping.read_bytes(offset, random.Random(offset).randrange(1, 300_000))
        for _ in range(2):
            assert mapping.read_bytes(start, end - start) == DATA[start:end]


def test_a_pool_that_is_smaller_than_the_object(pool_name):
    """Folios go while the object is read, by several threads that share one mapping, and come again."""
    pool = foliocache.open(pool_name, size="4MiB")
    mapping = pool.mapping("k", SIZE, "1", read, concurrent=True)
    found = []
    threads = [threading.Thread(target=lambda: found.extend(mapping.read_bytes(7, SIZE) for _ in range(3))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [DATA[7:]] * 9
    assert pool.audit() == []


def fails(offset, length):
    raise OSError(5, "in the middle")


def gives_less(offset, length):
    return read(offset, length - 1)


@pytest.mark.parametrize(("wrong", "error"), [(fails, OSError), (gives_less, foliocache.SourceError)])
def test_a_source_that_fails_in_the_middle(roomy, wrong, error):
    broken = threading.Event()
    broken.set()

    def sometimes(offset, length):
        return (wrong if offset <= 8 * MIB < offset + length and broken.is_set() else read)(offset, length)

    mapping = roomy.mapping("k", SIZE, "1", sometimes, concurrent=True)
    with pytest.raises(error, match=r"in the middle|instead of"):
        mapping.read_bytes(0, SIZE)
    broken.clear()
    assert mapping.read_bytes(0, SIZE) == DATA


def test_a_reader_that_is_interrupted(roomy):
    """The requests go on, write to a result that nobody will have, and fill the pool."""
    go = threading.Event()

    def waits(offset, length):
        assert go.wait(PATIENCE)
        return read(offset, length)

    gate, main = Gate(waits), threading.get_ident()
    mapping = roomy.mapping("k", SIZE, "1", gate, concurrent=True)
    thread = threading.Thread(target=lambda: gate.begun.wait(PATIENCE) and signal.pthread_kill(main, signal.SIGINT))
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        mapping.read_bytes(0, SIZE)
    thread.join(PATIENCE)
    go.set()
    gate.open.set()
    wait_until_cached(mapping, 0, SIZE)
    assert mapping.read_bytes(0, SIZE) == DATA


def test_a_child_that_is_forked_while_a_result_is_being_written(roomy):
    gate, found = Gate(), []
    mapping = roomy.mapping("k", SIZE, "1", gate, concurrent=True)
    reader = threading.Thread(target=lambda: found.append(mapping.read_bytes(0, SIZE)))
    reader.start()
    assert gate.begun.wait(PATIENCE)
    wait_until_cached(mapping, 4 * MIB, MIB)
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE)
        child = roomy.mapping("of the child", SIZE, "1", read, concurrent=True)
        os._exit(0 if child.read_bytes(0, SIZE) == DATA else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    gate.open.set()
    reader.join(PATIENCE)
    assert found == [DATA]
