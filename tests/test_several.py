"""Several requests at a time in one thread: sources with ``read_ranges``, and what they leave to ``read_into``."""

import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import pytest

import foliocache
from foliocache.filler import engine

KIB = 1 << 10
PATIENCE = 60
SIZE = 200 * 16 * KIB - 5
DATA = bytes(range(251)) * (SIZE // 251 + 1)
RUNS = [(n, n + 2) for n in range(0, 200, 4)]


class Several:
    """A source that does with each range what ``do`` says: fill all of it, or else what that returns as the source's words."""

    def __init__(self, do=lambda number, offset, buffers: None, takes=lambda: True):
        self.do, self.takes = do, takes
        self.ranges, self.singles, self.asked = [], [], 0

    def read_into(self, offset, buffers):
        self.singles.append((offset, sum(map(len, buffers))))
        for buffer in buffers:
            buffer[:] = DATA[offset : offset + len(buffer)]
            offset += len(buffer)
            yield

    def read_ranges(self, ranges, at_once):
        assert at_once > 1
        self.asked += 1
        if not self.takes():
            return
        for number, (offset, buffers) in enumerate(ranges):
            self.ranges.append((offset, sum(map(len, buffers))))
            said = self.do(number, offset, buffers)
            if said is None:
                self.fill(offset, buffers)
                said = [len(buffers)]
            yield from ((number, full) for full in said)

    def fill(self, offset, buffers):
        for buffer in buffers:
            buffer[:] = DATA[offset : offset + len(buffer)]
            offset += len(buffer)


def mapped(pool, source):
    return pool.mapping("it", SIZE, "1", source=source, concurrent=True, readahead=0, folio_size="16KiB")


def read_all(mapping, runs=RUNS):
    """Request runs, wait for their groups, and return whether all bytes are right."""
    groups = mapping.filler.read_runs(mapping, runs)
    assert len(groups) == len(runs)
    for group in groups:
        group.wait()
    begins = [(first * mapping.unit_size, end * mapping.unit_size) for first, end in runs]
    return all(mapping.read_bytes(begin, end - begin) == DATA[begin : min(end, SIZE)] for begin, end in begins)


@pytest.fixture
def roomy(pool_name):
    """A pool of 16 MiB. After the test its audit must be empty."""
    pool = foliocache.open(pool_name, size="16MiB")
    yield pool
    assert (foliocache.open(pool_name) if pool.closed else pool).audit() == []


def test_all_ranges_are_read_by_few_calls(roomy):
    source = Several()
    mapping = mapped(roomy, source)
    before = roomy.stat().counters
    assert read_all(mapping)
    counted = roomy.stat().counters
    assert source.singles == [] and source.asked <= 8
    assert sorted(source.ranges) == [(first * 16 * KIB, 32 * KIB) for first, _ in RUNS]
    assert counted.fill_bytes - before.fill_bytes == sum(length for _, length in source.ranges)
    assert counted.misses == before.misses and counted.errors == before.errors


def test_waiting_is_for_what_has_been_requested_and_its_readers_find_it(roomy):
    source = Several()
    mapping = mapped(roomy, source)
    groups = mapping.filler.read_runs(mapping, RUNS)
    assert groups[0] is not groups[-1] or len(set(map(id, groups))) == 1
    for (first, end), group in zip(RUNS, groups, strict=True):
        group.wait()
        assert mapping.is_cached(first * mapping.unit_size, (end - first) * mapping.unit_size)
        group.wait()  # a second reader


def test_what_is_cached_is_not_read_again(roomy):
    source = Several()
    mapping = mapped(roomy, source)
    for unit in (0, 5, 6, 9):
        assert mapping.read_bytes(unit * mapping.unit_size, 10)
    source.singles.clear()
    assert read_all(mapping, [(0, 12), (199, 200)])
    units = sorted(unit for offset, length in source.ranges for unit in range(offset >> 14, (offset + length + 16383) >> 14))
    assert units == [1, 2, 3, 4, 7, 8, 10, 11, 199] and source.singles == []


@pytest.mark.parametrize("full", [0, 1])
def test_what_the_source_leaves_is_read_singly(roomy, full):
    """Of each third range, some buffers are full, and the others are read by ``read_into``."""

    def do(number, offset, buffers):
        if number % 3:
            return None
        source.fill(offset, buffers[:full])
        return [full, -1]

    source = Several(do)
    mapping = mapped(roomy, source)
    assert read_all(mapping)
    left = [(offset + full * 16 * KIB, length - full * 16 * KIB) for offset, length in source.ranges]
    assert source.singles and set(source.singles) <= set(left)
    assert roomy.stat().counters.errors == 0


@pytest.mark.parametrize("bad", [[3], [-1, 2], ["two"], [1, 0, 2]])
def test_a_source_that_says_nonsense(roomy, bad):
    """Nothing that it says is believed beyond the folios of the range; ``read_into`` reads them."""
    source = Several(lambda number, offset, buffers: bad if number == 2 else None)
    mapping = mapped(roomy, source)
    if bad == [1, 0, 2]:
        source.do = lambda number, offset, buffers: source.fill(offset, buffers) or (bad if number == 2 else [2])
    assert read_all(mapping)


def test_a_source_that_raises_in_the_middle(roomy):
    def do(number, offset, buffers):
        if number == 3:
            raise OSError("the line is dead")

    source = Several(do)
    assert read_all(mapped(roomy, source))
    assert source.asked > 1, "it is asked again"
    assert source.singles, "by read_into"


def test_a_failure_is_told_to_the_reader_and_to_no_other(roomy):
    class Failing(Several):
        def read_into(self, offset, buffers):
            if offset == 8 * 16 * KIB:
                raise OSError(5, "the disk is dead")
            yield from super().read_into(offset, buffers)

    source = Failing(lambda number, offset, buffers: [-1] if offset == 8 * 16 * KIB else None)
    mapping = mapped(roomy, source)
    for group in mapping.filler.read_runs(mapping, RUNS):
        group.wait()
    with pytest.raises(OSError, match="the disk is dead"):
        mapping.read_bytes(8 * 16 * KIB, 100)
    assert mapping.read_bytes(12 * 16 * KIB, 100) == DATA[12 * 16 * KIB :][:100]


def test_a_source_that_keeps_a_page_does_not_fill_it(roomy):
    kept = []

    def do(number, offset, buffers):
        if offset == 4 * 16 * KIB and not kept:
            kept.append(memoryview(buffers[0]))

    source = Several(do)
    mapping = mapped(roomy, source)
    for group in mapping.filler.read_runs(mapping, RUNS):
        group.wait()
    assert mapping.read_bytes(4 * 16 * KIB, 32 * KIB) == DATA[4 * 16 * KIB :][: 32 * KIB]
    assert (4 * 16 * KIB, 32 * KIB) in source.singles, "its reader reads it again"
    kept[0].release()
    kept.clear()


def test_a_source_that_takes_none_before_one_answer(roomy):
    """Of HTTP, for example: then there is something to compare the others with."""
    source = Several(takes=lambda: bool(source.singles))
    assert read_all(mapped(roomy, source))
    assert len(source.singles) <= 4 * 8 and source.ranges


def test_each_call_counts_its_ranges_from_0(roomy):
    class Few(Several):
        def read_ranges(self, ranges, at_once):
            return super().read_ranges(itertools.islice(ranges, 3), at_once)

    source = Few()
    assert read_all(mapped(roomy, source))
    assert source.asked >= len(RUNS) / 3
    assert source.singles == [] and sorted(source.ranges) == [(first * 16 * KIB, 32 * KIB) for first, _ in RUNS]


def test_a_source_that_never_takes_any(roomy):
    source = Several(takes=lambda: False)
    assert read_all(mapped(roomy, source))
    assert source.ranges == [] and len(source.singles) == len(RUNS)


def test_a_source_that_asks_how_many_there_should_be_is_called_once_for_all(roomy):
    """Others are called again when they have too many, since other threads have begun to serve."""

    class Looking(Several):
        def read_ranges(self, ranges, at_once):
            self.asked += 1
            taken = []
            for number, (offset, buffers) in enumerate(ranges):
                assert ranges.at_once == (self.most or at_once)
                taken.append((number, offset, buffers))
                roomy.engine.serving.append(None)
            for number, offset, buffers in taken:
                roomy.engine.serving.pop()
                self.fill(offset, buffers)
                yield number, len(buffers)

    source = Looking()
    source.most = None
    mapping = mapped(roomy, source)
    assert read_all(mapping, RUNS[:10]) and source.asked == 1
    roomy.engine.under_way.extend([None] * engine.CONCURRENCY)
    source.most = engine.CONCURRENCY_FIRST
    assert read_all(mapping, RUNS[10:14]) and source.asked == 2


@pytest.mark.parametrize("do", [lambda *range: None, lambda *range: [-1], lambda *range: [3], lambda *range: 1 // 0])
def test_nothing_is_under_way_when_all_has_been_read(roomy, do):
    mapping = mapped(roomy, Several(do))
    for _ in range(3):
        assert read_all(mapping)
        roomy.forget("it")
        mapping = mapped(roomy, Several(do))
    roomy.close()
    assert not roomy.engine.under_way and not roomy.engine.serving


def test_a_folio_is_there_before_its_range_is(roomy):
    first, rest = queue.SimpleQueue(), queue.SimpleQueue()

    class Slow(Several):
        def read_ranges(self, ranges, at_once):
            offset, buffers = next(ranges)
            self.fill(offset, buffers[:1])
            yield 0, 1
            first.put(None)
            rest.get(timeout=PATIENCE)
            self.fill(offset + len(buffers[1]), buffers[1:])
            yield 0, 2

    mapping = mapped(roomy, Slow())
    mapping.filler.read_runs(mapping, [(0, 2)])
    first.get(timeout=PATIENCE)
    assert mapping.read_bytes(0, 100) == DATA[:100] and not mapping.is_cached(16 * KIB, 1)
    rest.put(None)
    assert mapping.read_bytes(0, 32 * KIB) == DATA[: 32 * KIB]


class Stuck(Several):
    """Its first range waits until ``open`` is set; ``begun`` is set then."""

    def __init__(self):
        super().__init__(self.wait)
        self.begun, self.open = threading.Event(), threading.Event()

    def wait(self, number, offset, buffers):
        self.begun.set()
        assert self.open.wait(PATIENCE)


def test_a_reader_that_is_interrupted_while_it_waits(roomy):
    class Enough(Exception):
        pass

    def enough(number, frame):
        raise Enough

    source = Stuck()
    mapping = mapped(roomy, source)
    (group,) = mapping.filler.read_runs(mapping, [(0, 2)])
    assert source.begun.wait(PATIENCE)
    before = signal.signal(signal.SIGALRM, enough)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Enough):
            group.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    source.open.set()
    group.wait()
    assert mapping.is_cached(0, 100), "the fill belongs to the engine"


def test_a_pool_that_is_closed_while_requests_are_queued(roomy):
    source = Stuck()
    mapping = mapped(roomy, source)
    groups = mapping.filler.read_runs(mapping, RUNS)
    assert source.begun.wait(PATIENCE)
    closing = threading.Thread(target=roomy.close)
    closing.start()
    while not roomy.closed:
        pass
    source.open.set()
    closing.join()
    for group in groups:
        group.wait()
    assert len(source.ranges) < len(RUNS), "what was queued is dropped"


def test_no_one_waits_for_an_engine_that_is_closed(pool_name):
    """As at the interpreter's exit, when finalizers may still read. Nothing but the drop of the requests ends the wait soon."""
    pool = foliocache.open(pool_name, size="16MiB", fill_timeout=3600)
    source = Stuck()
    mapping = mapped(pool, source)
    before = mapping.filler.read_runs(mapping, RUNS)
    assert source.begun.wait(PATIENCE)
    closing = threading.Thread(target=pool.engine.close, args=(PATIENCE,))
    closing.start()
    while not pool.engine.closed:
        pass
    after = mapping.filler.read_runs(mapping, [(100, 102)])
    source.open.set()
    closing.join()
    for group in (*before, *after):
        group.wait()
    assert mapping.read_bytes(100 << 14, 100) == DATA[100 << 14 :][:100]
    pool.close()
    assert foliocache.open(pool_name).audit() == []


def test_a_child_that_is_forked_while_its_parent_reads(roomy):
    """It has no thread of the engine, and reads for itself; what was queued is the parent's."""
    source = Stuck()
    mapping = mapped(roomy, source)
    groups = mapping.filler.read_runs(mapping, RUNS)
    assert source.begun.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            source.do = lambda number, offset, buffers: None
            groups[-1].wait()
            code = 0 if read_all(mapping, RUNS[20:]) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    source.open.set()
    assert read_all(mapping)


def refuse(*args):
    raise RuntimeError("can't start new thread")


def test_a_request_that_hangs_is_waited_for_once(pool_name):
    """And not once by each reader of its group, of whom all but one find what they want."""
    source = Stuck()
    mapping = mapped(foliocache.open(pool_name, size="16MiB", fill_timeout=0.3), source)
    groups = mapping.filler.read_runs(mapping, RUNS)
    assert source.begun.wait(PATIENCE)
    begin = time.monotonic()
    for group in groups:
        group.wait()
    took = time.monotonic() - begin
    source.open.set()
    assert len(set(map(id, groups))) < 6 and took < 6 * 0.3 + 2 < len(RUNS) * 0.3


def test_a_request_that_hangs_does_not_keep_others_from_being_served(roomy):
    """A server that takes no more may wait for long: it is not counted, and what is wanted then gets another one."""

    class Draining(Stuck):
        def read_ranges(self, ranges, at_once):
            taken = list(enumerate(ranges))
            if not self.begun.is_set():
                self.wait(None, None, None)
            for number, (offset, buffers) in taken:
                self.fill(offset, buffers)
                yield number, len(buffers)

    source = Draining()
    mapping = mapped(roomy, source)
    (hanging,) = mapping.filler.read_runs(mapping, [(0, 2)])
    assert source.begun.wait(PATIENCE)
    for runs in ([(8, 10)], RUNS[10:]):
        for (first, _), group in zip(runs, mapping.filler.read_runs(mapping, runs), strict=True):
            group.wait()
            assert mapping.is_cached(first * mapping.unit_size, 32 * KIB)
    assert source.singles == [] and not mapping.is_cached(0, 1)
    source.open.set()
    hanging.wait()
    assert mapping.is_cached(0, 32 * KIB)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError, OSError])
@pytest.mark.parametrize("where", ["call", "answer", "close"])
def test_whatever_a_source_raises_it_is_called_again_and_the_operator_is_told(roomy, caplog, error, where):
    class Raising(Several):
        def read_ranges(self, ranges, at_once):
            self.asked += 1
            if where == "call":
                raise error("it is broken")
            return self

        def __iter__(self):
            return self

        def __next__(self):
            raise error("it is broken") if where == "answer" else StopIteration

        def close(self):
            if where == "close":
                raise error("it is broken")

    source = Raising()
    mapping = mapped(roomy, source)
    for at in range(0, len(RUNS), 5):  # more than there are servers
        before = source.asked
        groups = mapping.filler.read_runs(mapping, RUNS[at : at + 5])
        for (first, _), group in zip(RUNS[at:], groups, strict=False):
            group.wait()
            assert mapping.is_cached(first * mapping.unit_size, 32 * KIB)
        assert source.asked > before
    assert read_all(mapping) and source.ranges == []
    (told,) = [record.getMessage() for record in caplog.records if record.name == "foliocache"]
    assert f"read one by one, since reading several at a time has failed: {error.__name__}: it is broken" in told


def test_a_caller_that_is_interrupted_while_it_requests(roomy, monkeypatch):
    def interrupted(request):
        raise KeyboardInterrupt

    source = Several()
    mapping = mapped(roomy, source)
    with monkeypatch.context() as patch:
        patch.setattr(roomy.engine, "later", interrupted)
        for _ in range(3):  # more often than there are servers
            with pytest.raises(KeyboardInterrupt):
                mapping.filler.read_runs(mapping, RUNS[:2])
    for group in mapping.filler.read_runs(mapping, RUNS):
        group.wait()
    assert len(set(source.ranges)) == len(RUNS)


def test_no_one_waits_for_threads_that_cannot_be_started(pool_name, monkeypatch):
    pool = foliocache.open(pool_name, size="16MiB", fill_timeout=3600)
    source = Several()
    mapping = pool.mapping("it", SIZE, "1", source=source, concurrent=True, folio_size="16KiB")
    with monkeypatch.context() as patch:
        patch.setattr(engine._thread, "start_new_thread", refuse)
        assert read_all(mapping, RUNS[:10]) and source.asked == 0
    source.singles.clear()
    assert mapping.read_bytes(60 * mapping.unit_size, 10) == DATA[60 * mapping.unit_size :][:10]
    assert read_all(mapping, RUNS[20:]) and source.ranges
    assert pool.audit() == []


def test_requests_need_no_descriptor(pool_name):
    """Not even the first ones of a process."""
    code = f"""
import resource, foliocache
class Source:
    def read_into(self, offset, buffers):
        yield from map(self.fill, buffers)
    def read_ranges(self, ranges, at_once):
        for number, (offset, buffers) in enumerate(ranges):
            yield number, sum(map(self.fill, buffers))
    def fill(self, buffer):
        buffer[:] = bytes(len(buffer))
        return 1
pool = foliocache.open({pool_name!r}, size="16MiB")
mapping = pool.mapping("it", {SIZE}, "1", source=Source(), concurrent=True)
before = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
for group in mapping.filler.read_runs(mapping, {RUNS}):
    group.wait()
assert mapping.is_cached(0, 100)
resource.setrlimit(resource.RLIMIT_NOFILE, before)  # Python itself needs one at its exit
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_what_is_dropped_is_not_queued(pool_name, monkeypatch):
    """While requests are queued for the units around it, a miss reads what is wanted and no more."""
    mapping = foliocache.open(pool_name, size="16MiB").mapping(
        "it", SIZE, "1", source=(source := Several()), concurrent=True, folio_size="16KiB"
    )
    with monkeypatch.context() as patch:
        patch.setattr(engine._thread, "start_new_thread", refuse)
        mapping.filler.read_runs(mapping, [(0, 200)])
    assert mapping.read_bytes(0, 10) == DATA[:10]
    assert sum(length for _, length in source.singles) > 16 * KIB


def test_several_readers_of_one_object_read_it_once(roomy):
    source = Several()
    threads = [threading.Thread(target=read_all, args=(mapped(roomy, source),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(length for _, length in source.ranges + source.singles) == len(RUNS) * 32 * KIB


def test_requests_and_groups_are_made_by_a_filler():
    from foliocache.filler.miss import Group
    from foliocache.filler.several import Run, Server

    for kind in (Group, Run, Server):
        with pytest.raises(TypeError):
            kind()
