"""Sources that several threads may call: requests in parallel, fills that outlive their callers, pages that are ready early."""

import asyncio
import contextlib
import gc
import os
import queue
import signal
import threading
import weakref

import fresh
import pytest
from units import is_cached, unit

import foliocache

MIB = 1 << 20
PATIENCE = 60


@pytest.fixture
def roomy(pool_name):
    """A pool of 64 MiB. After the test its audit must be empty."""
    pool = foliocache.open(pool_name, size="64MiB")
    yield pool
    assert pool.audit() == []


def test_a_fill_goes_on_when_its_caller_is_interrupted(roomy):
    begun, end, calls = threading.Event(), threading.Event(), []

    def read(offset, length):
        calls.append((offset, length))
        begun.set()
        assert end.wait(PATIENCE)
        return b"x" * length

    mapping = roomy.mapping("k", 100_000, "v", read, concurrent=True)
    thread = threading.Thread(target=lambda: begun.wait(PATIENCE) and signal.pthread_kill(main, signal.SIGINT))
    main = threading.get_ident()
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        mapping.lease(0)
    thread.join()
    assert not mapping.is_cached(0, 1)
    end.set()
    assert mapping.read_bytes(0, 10) == b"x" * 10
    assert [offset for offset, _ in calls].count(0) == 1, "it was not asked again"


def test_requests_of_one_read_are_under_way_at_once(roomy):
    meet = threading.Barrier(8)

    def read(offset, length):
        meet.wait(PATIENCE)
        return offset.to_bytes(8, "little") + bytes(length - 8)

    mapping = roomy.mapping("k", 8 * MIB, "v", read, concurrent=True)
    content = mapping.read_bytes(0, 8 * MIB)
    assert [content[at : at + 8] for at in range(0, 8 * MIB, MIB)] == [
        at.to_bytes(8, "little") for at in range(0, 8 * MIB, MIB)
    ]


def test_a_source_that_takes_one_call_at_a_time_gets_one(roomy):
    meet, met = threading.Barrier(2), []

    def read(offset, length):
        with contextlib.suppress(threading.BrokenBarrierError):
            meet.wait(0.5)  # a second call at once would come here; the first in vain breaks it for the rest
            met.append(offset)
        return bytes(length)

    mapping = roomy.mapping("k", 8 * MIB, "v", read)
    threads = [threading.Thread(target=mapping.read_bytes, args=(at, MIB)) for at in range(0, 8 * MIB, MIB)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert meet.broken and not met


def test_random_reads_fetch_what_they_ask_for_until_they_are_many(roomy):
    size, lengths = 64 << 10, []

    def read(offset, length):
        lengths.append(length // size)
        return bytes(length)

    mapping = roomy.mapping("k", 256 * size, "v", read, concurrent=True)
    places = 77, 99, 125, 71, 88, 110, 65, 119, 82, 121, 67, 94, 73, 85, 79, 91  # all in one region of 64, none next to another
    for index in places:
        unit(mapping, index).release()
    assert lengths == [1] * 16
    unit(mapping, 128 + 20).release()
    assert lengths.pop() == 1, "another region is as sparse as it was"
    reader = threading.Thread(target=mapping.read_bytes, args=(102 * size, 1))  # its request is its own, and ends with it
    reader.start()
    reader.join(PATIENCE)
    assert lengths[16:] == [8, 7], "on both sides of what is cached at 110"
    assert sum(is_cached(mapping, index) for index in range(64, 128)) == 16 + 15


def test_an_error_of_the_source_is_raised_as_it_is(roomy):
    class Strange(Exception):
        pass

    def read(offset, length):
        raise Strange("no")

    mapping = roomy.mapping("k", 100, "v", read, concurrent=True)
    with pytest.raises(Strange, match="no"):
        mapping.lease(0)


def test_a_forked_child_has_an_engine_of_its_own(roomy):
    mapping = roomy.mapping("k", 8 * MIB, "v", lambda offset, length: b"%8d" % os.getpid() * (length // 8), concurrent=True)
    mapping.read_bytes(0, MIB)
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE)
        mine = mapping.read_bytes(4 * MIB, 4 * MIB)
        os._exit(0 if mine[-8:] == b"%8d" % os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_pool_that_nobody_uses_is_freed(pool_name):
    pool = foliocache.open(pool_name, size="8MiB")
    mapping = pool.mapping("k", MIB, "v", lambda offset, length: bytes(length), concurrent=True)
    mapping.read_bytes(0, MIB)
    gone = weakref.ref(pool._attachment)
    del pool, mapping
    while gone() is not None:  # a thread of the engine may be about to drop its last request
        gc.collect()


def test_a_long_read_asks_for_more_before_it_has_copied_what_it_asked_for(pool_name):
    beyond, asked = threading.Event(), []
    with foliocache.open(pool_name, size="16MiB") as pool:
        most = pool.pool_bytes // 4  # of a pool, for one request of the reader

        def read(offset, length):
            asked.append((offset, length))
            if offset >= most:
                beyond.set()
            elif offset + length == most:
                assert beyond.wait(PATIENCE)  # the reader waits for these bytes
            return offset.to_bytes(8, "little") * (length // 8)

        content = pool.mapping("k", 3 * most, "v", read, concurrent=True).read_bytes(0, 3 * most)
        assert len(content) == 3 * most
        for offset, length in asked:
            assert content[offset : offset + length] == offset.to_bytes(8, "little") * (length // 8)
        assert sum(length for _, length in asked) == 3 * most
        assert pool.audit() == []


def test_a_long_read_stays_ahead_when_all_that_it_asked_for_has_begun(pool_name):
    """The last bytes that were asked for at first come only when a quarter more than those has been asked for."""
    ahead, lock, far = threading.Event(), threading.Lock(), [0]
    with foliocache.open(pool_name, size="64MiB") as pool:
        most = pool.pool_bytes // 4

        def read(offset, length):
            with lock:
                far[0] = max(far[0], offset + length)
                if far[0] > most + most // 4:
                    ahead.set()
            if most - MIB <= offset < most:
                assert ahead.wait(PATIENCE)  # the reader has copied what comes before, and waits for these bytes
            return offset.to_bytes(8, "little") * (length // 8)

        content = pool.mapping("k", 2 * most, "v", read, concurrent=True).read_bytes(0, 2 * most)
        assert content[-8:] in {at.to_bytes(8, "little") for at in range(most, 2 * most, 4096)}
        assert pool.audit() == []


class Origin:
    """A source of zeros that answers after so many seconds, and notes how much it is asked for."""

    def __init__(self, latency):
        self.latency, self.asked = latency, []

    def read_into(self, offset, buffers):
        self.asked.append(sum(map(len, buffers)))
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))
            yield


@pytest.mark.parametrize(
    ("latency", "length", "size"),
    [
        (None, 16 * MIB, MIB),
        (0.0001, 16 * MIB, MIB // 2),
        (0.0001, 2 * MIB, MIB // 4),
        (0.0001, MIB, MIB),
        (0.05, 16 * MIB, MIB),
        (0.05, 64 * MIB, 4 * MIB),
        (0.004, 64 * MIB, 2 * MIB),
        (0.0001, 64 * MIB, MIB),
    ],
)
def test_requests_of_a_quick_origin_are_smaller(pool_name, latency, length, size):
    with foliocache.open(pool_name, size=5 * length) as pool:
        source = Origin(latency)
        mapping = pool.mapping("k", length, "v", source=source, concurrent=True, readahead=0)
        assert mapping.read_bytes(0, length) == bytes(length)
        assert sum(source.asked) == length and max(source.asked) == size
        assert pool.audit() == []


class Streaming:
    """A source of zeros that fills buffers when it is told to; ``told`` gets what to do with the next one."""

    def __init__(self):
        self.told = queue.SimpleQueue()

    def read_into(self, offset, buffers):
        for buffer in buffers:
            word = self.told.get(timeout=PATIENCE)
            if word == "fail":
                raise OSError("the line is dead")
            if word == "stop":
                return
            buffer[:] = word * len(buffer)
            yield


def two_folios(pool, source):
    """A mapping of two units that one request reads."""
    mapping = pool.mapping("k", 2 * pool.page_size, "v", source=source, concurrent=True)
    mapping.filler.read_runs(mapping, [(0, 2)])
    return mapping


def test_a_source_fills_pages_in_order(roomy):
    source = Streaming()
    mapping = two_folios(roomy, source)
    for _ in range(2):
        source.told.put(b"x")
    assert mapping.read_bytes(0, mapping.size) == b"x" * mapping.size


@pytest.mark.parametrize(
    ("words", "error"), [((b"x", "fail"), OSError), (("fail",), OSError), (("stop",), foliocache.SourceError)]
)
def test_a_source_that_ends_early(roomy, words, error):
    source = Streaming()
    for word in words:
        source.told.put(word)
    mapping = roomy.mapping("k", 100, "v", source=source, concurrent=True)
    if words[0] == b"x":
        assert mapping.read_bytes(0, 3) == b"xxx"
        mapping = roomy.mapping("l", 100, "v", source=source, concurrent=True)
    with pytest.raises(error):
        mapping.lease(0)
    assert not mapping.is_cached(0, 1)


def test_a_source_that_keeps_a_page_is_refused(roomy):
    kept = []

    class Keeping:
        def read_into(self, offset, buffers):
            for buffer in buffers:
                kept.append(buffer[:])
                yield

    with pytest.raises(foliocache.SourceError, match="kept the buffer"):
        roomy.mapping("k", 100, "v", source=Keeping(), concurrent=True).lease(0)
    kept.clear()


@fresh.process
def test_a_kept_page_that_becomes_garbage_is_let_go(pool_name):
    """A view of the buffer that a source is given, in a cycle: its end needs the lease, whatever was collected before."""

    class Keeping:
        def read_into(self, offset, buffers):
            for buffer in buffers:
                cycle = [buffer[:]]  # younger than the lease, so it is collected later
                cycle.append(cycle)
                del buffer, cycle
                yield

    pool = foliocache.open(pool_name, size="8MiB")
    for _ in range(10):
        with pytest.raises(foliocache.SourceError, match="kept the buffer"):
            pool.mapping("k", 100, "v", source=Keeping(), concurrent=True).lease(0)
        gc.collect()
    assert pool.audit() == []
    pool.close()


def test_a_private_read_of_a_streaming_source(pool):
    source = Streaming()
    for _ in range(400):
        source.told.put(b"y")
    pins = [pool.mapping(str(n), 100, "v", lambda offset, length: bytes(length)).lease(0) for n in range(300)]
    lease = pool.mapping("k", 100, "v", source=source, concurrent=True).lease(0)
    assert not lease.cached and bytes(lease) == b"y" * 100
    for pin in pins:
        pin.release()


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("way", ["threads", "a loop", "another process"])
def test_one_wait_for_all_that_a_request_holds(pool_name, way):
    """A request of 256 folios hangs. Who reads these one after the other waits for the first, and not as long for each."""
    pool = foliocache.open(pool_name, size="8MiB", page_size=4096, fill_timeout=1)
    count, unit_size = 256, 4096
    content = bytes(range(251)) * (count * unit_size // 251 + 1)
    begun, go = threading.Event(), threading.Event()

    def hang(offset, length):
        begun.set()
        assert go.wait(2 * PATIENCE)
        return content[offset : offset + length]

    def read(offset, length):
        return content[offset : offset + length]

    hanging = pool.mapping("k", count * unit_size, "v", hang, concurrent=True, folio_size=unit_size)
    filler = threading.Thread(target=hanging.read_bytes, args=(0, count * unit_size))
    filler.start()
    assert begun.wait(PATIENCE)
    wanted = [content[at : at + unit_size] for at in range(0, count * unit_size, unit_size)]

    def read_all():
        mapping = pool.mapping("k", count * unit_size, "v", read, concurrent=True, folio_size=unit_size)
        if way == "a loop":

            async def awaited():
                return [await mapping.read_bytes_async(at, unit_size) for at in range(0, mapping.size, unit_size)]

            return asyncio.run(awaited()) == wanted
        return [mapping.read_bytes(at, unit_size) for at in range(0, mapping.size, unit_size)] == wanted

    try:
        if way == "another process":
            child = os.fork()
            if not child:
                os._exit(0 if read_all() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        else:
            assert read_all()
    finally:
        go.set()
        filler.join()
    assert hanging.read_bytes(0, hanging.size) == content[: hanging.size]
    assert pool.audit() == []
