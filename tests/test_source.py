"""Sources that misbehave: in what they return, what they raise, and what they wait for."""

import array
import asyncio
import concurrent.futures
import contextlib
import errno
import multiprocessing
import os
import signal
import struct
import threading
import time
import zlib

import numpy as np
import pytest

import foliocache
from foliocache.filler import failure

FORK = multiprocessing.get_context("fork")
SIZE = 10_000
CONTENT = bytes(n * 7 % 251 for n in range(SIZE))
PATIENCE = 60


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waits(pool):
    return pool.stat().counters.waits


class Gate:
    """A source that waits until the test lets it go on; ``then`` says what it does after that."""

    def __init__(self, then, context=threading):
        self.started, self.go, self.then = context.Event(), context.Event(), then

    def __call__(self, offset, length):
        self.started.set()
        assert self.go.wait(PATIENCE)
        return self.then(offset, length)


def fail(error):
    def source(offset, length):
        raise error

    return source


# What a source returns.

PLANE = np.frombuffer(CONTENT, np.uint8).reshape(100, 100)


@pytest.mark.parametrize(
    "answer",
    [
        bytearray(CONTENT),
        memoryview(CONTENT),
        np.frombuffer(CONTENT, "<f4"),
        np.frombuffer(CONTENT, "<i4,<i4"),
        np.frombuffer(CONTENT, "<M8[ns]"),
        array.array("d", CONTENT),
        PLANE,
        np.asfortranarray(PLANE),
        np.repeat(PLANE, 2, axis=1)[:, ::2],
        memoryview(CONTENT[::-1])[::-1],
    ],
    ids=["bytearray", "memoryview", "floats", "records", "dates", "doubles", "plane", "fortran", "strided", "reversed"],
)
def test_any_buffer_is_an_answer_in_the_order_of_its_bytes(pool, answer):
    assert pool.mapping("k", SIZE, "v", lambda offset, length: answer).read(0, SIZE) == CONTENT


def released():
    view = memoryview(CONTENT)
    view.release()
    return view


class Refuses:
    def __getattr__(self, name):
        raise AttributeError(name)


@pytest.mark.parametrize("make", [released, lambda: np.array([None] * (SIZE // 8)), Refuses, lambda: np.array(5.0)])
def test_what_has_no_bytes_to_give_is_a_source_error(pool, make):
    with pytest.raises(foliocache.SourceError, match="the source of 'k'"):
        pool.mapping("k", SIZE, "v", lambda offset, length: make()).lease(0)
    assert pool.mappings() == [] and pool.stat().pins == 0


@pytest.mark.parametrize("count", [None, float(SIZE), str(SIZE), [SIZE]])
def test_a_readinto_without_a_count_is_an_error(pool, count):
    with pytest.raises(foliocache.SourceError, match="must return how many bytes"):
        pool.mapping("k", SIZE, "v", readinto=lambda offset, buffer: count).lease(0)
    assert pool.mappings() == []


class Streams:
    """A source of the one method that is given."""

    def __init__(self, **method):
        vars(self).update(method)


def fills(offset, buffers):
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))


async def awaits(offset, buffers):
    fills(offset, buffers)


async def yields(offset, buffers):
    fills(offset, buffers)
    yield


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("how", ["lease", "read_bytes_async"])
@pytest.mark.parametrize(
    ("method", "function"),
    [("read_into", f) for f in (fills, awaits, yields)] + [("read_into_async", f) for f in (fills, awaits)],
)
def test_a_stream_that_is_no_iterator_is_an_error_that_says_so(pool, method, function, how, concurrent):
    mapping = pool.mapping("k", SIZE, "v", source=Streams(**{method: function}), concurrent=concurrent)
    with pytest.raises(foliocache.SourceError, match=f"; {method} must .*yield"):
        mapping.lease(0) if how == "lease" else asyncio.run(mapping.read_bytes_async(0, SIZE))
    assert pool.mappings() == [] and pool.stat().pins == 0


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("way", ["read", "readinto", "source"])
@pytest.mark.parametrize("private", [False, True])
def test_a_source_that_stops_an_iteration_does_not_end_the_pieces(pool, way, concurrent, private):
    def fail(offset, length):
        return next(iter([]))

    given = {way: Streams(read_into=fail) if way == "source" else fail}
    size = pool.stat().pool_bytes
    with contextlib.ExitStack() as held:
        if private:  # every page is in use
            for lease in pool.mapping("full", size, "v", lambda offset, length: bytes(length)).pieces(0, size // 16 * 15):
                held.enter_context(lease)
        with pytest.raises(foliocache.SourceError, match="raised StopIteration"):
            list(pool.mapping("k", SIZE, "v", concurrent=concurrent, **given).pieces(0, SIZE))


def test_a_count_is_whatever_counts(pool):
    def fill(offset, buffer):
        buffer[:] = CONTENT[offset : offset + len(buffer)]
        return np.uint32(len(buffer))

    assert pool.mapping("k", SIZE, "v", readinto=fill).read(0, SIZE) == CONTENT


def test_a_readinto_finds_and_leaves_no_bytes_of_former_objects(pool_name):
    """Every page has held a secret; the source writes nothing and claims to have written all."""
    pool = foliocache.open(pool_name, size="256KiB", page_size=4096)
    secret = pool.mapping("secret", 60 * 4096, "v", lambda offset, length: b"S" * length)
    secret.read(0, secret.size)
    secret.invalidate()
    seen = []

    def readinto(offset, buffer):
        seen.append(bytes(buffer))
        return len(buffer)

    for n in range(20):
        assert not any(pool.mapping(f"k{n}", 4000, "v", readinto=readinto).read(0, 4000))
    assert not any(map(any, seen)) and len(seen) == 20


@pytest.mark.parametrize("exact", [False, True])
def test_a_source_finds_pages_as_they_were_only_if_it_is_exact(pool_name, exact):
    """Every page has held a secret; a source that promises to write all of it may see that, and no reader does."""
    pool = foliocache.open(pool_name, size="256KiB", page_size=4096)
    secret = pool.mapping("secret", 60 * 4096, "v", lambda offset, length: b"S" * length)
    secret.read(0, secret.size)
    secret.invalidate()
    seen = []

    class Origin:
        is_exact = exact

        def read_into(self, offset, buffers):
            for buffer in buffers:
                seen.append(bytes(buffer))
                buffer[:] = CONTENT[offset : offset + len(buffer)]
                offset += len(buffer)
                yield len(buffer)

    for n in range(20):
        assert pool.mapping(f"k{n}", 4000, "v", source=Origin()).read(0, 4000) == CONTENT[:4000]
    assert len(seen) == 20 and any(map(any, seen)) == exact


@pytest.mark.parametrize("how", ["read", "readinto"])
def test_the_tail_of_a_page_holds_nothing_of_former_objects(pool_name, source, how):
    """A window maps whole pages, so its memory continues after the last byte."""
    pool = foliocache.open(pool_name, size="256KiB", page_size=4096)
    secret = pool.mapping("secret", 60 * 4096, "v", lambda offset, length: b"S" * length)
    secret.read(0, secret.size)
    secret.invalidate()
    segment = pool._attachment.segment
    for n in range(10):
        mapping = pool.mapping(f"k{n}", 4096 + 100, "v", **{how: getattr(source, how)})
        lease = mapping.lease(4096)
        pfn = int(repr(lease).split("pfn ")[1].rstrip(">"))
        page = segment.memory.peek_bytes(segment.geometry["data"] + pfn * 4096, 4096)
        assert page[:100] == bytes(lease) and page[100:] == bytes(3996)


def test_a_buffer_is_no_way_back_to_a_page_that_is_filled(pool):
    """The object of a view gives no access any more once the fill has ended."""
    kept = []

    def readinto(offset, buffer):
        kept.append(buffer.obj)
        buffer[:] = CONTENT[offset : offset + len(buffer)]
        return len(buffer)

    lease = pool.mapping("k", SIZE, "v", readinto=readinto).lease(0)
    with pytest.raises(foliocache.LeaseError, match="not being filled"):
        memoryview(kept[0])
    assert bytes(lease) == CONTENT


# Clients that wait for a fill that fails.


def test_one_failure_answers_all_who_wait_and_the_next_asks_again(pool):
    calls = []
    gate = Gate(fail(TimeoutError(errno.ETIMEDOUT, "the origin is down")))

    def read(offset, length):
        calls.append(offset)
        return gate(offset, length)

    errors = []

    def reader():
        try:
            pool.mapping("k", SIZE, "v", read).lease(0)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=reader) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert gate.started.wait(PATIENCE)
    until(lambda: waits(pool) == 5)
    gate.go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(calls) == 1 and len(errors) == 6
    assert [error.errno for error in errors] == [errno.ETIMEDOUT] * 6
    told = [error for error in errors if isinstance(error, foliocache.SourceError)]
    assert len(told) == 5 and all("the origin is down" in str(error) and "TimeoutError" in str(error) for error in told)
    assert pool.mappings() == [] and pool.stat().pins == 0
    with pytest.raises(TimeoutError):
        pool.mapping("k", SIZE, "v", read).lease(0)
    assert len(calls) == 2


def _failing_process(name, gate, out):
    mapping = foliocache.attach(name).mapping("k", SIZE, "v", gate)
    try:
        mapping.lease(0)
    except OSError as error:
        out.put((type(error).__name__, error.errno))


def test_a_failure_reaches_those_who_wait_in_other_processes(pool):
    gate, out = Gate(fail(OSError(errno.EHOSTDOWN, "no route")), FORK), FORK.Queue()
    process = FORK.Process(target=_failing_process, args=(pool.name, gate, out))
    process.start()
    assert gate.started.wait(PATIENCE)
    errors = []

    def reader():
        with pytest.raises(foliocache.SourceError, match="no route") as caught:
            pool.mapping("k", SIZE, "v", lambda offset, length: CONTENT[offset : offset + length]).lease(0)
        errors.append(caught.value.errno)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: waits(pool) == 3)
    gate.go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == [errno.EHOSTDOWN] * 3
    assert out.get(timeout=PATIENCE) == ("OSError", errno.EHOSTDOWN)
    process.join(PATIENCE)


def test_every_folio_of_a_run_carries_the_failure(pool):
    """A client that waits for a later folio of a run that is read in one call gets the failure as well."""
    gate = Gate(fail(OSError(errno.EIO, "broken")))
    mapping = pool.mapping("k", 5 * pool.page_size, "v", gate)
    first = threading.Thread(target=_swallow, args=(mapping.read, 0, mapping.size))
    first.start()
    assert gate.started.wait(PATIENCE)
    caught = []
    other = threading.Thread(
        target=lambda: caught.append(_swallow(pool.mapping("k", 5 * pool.page_size, "v", fail(AssertionError())).lease, 3))
    )
    other.start()
    until(lambda: waits(pool) == 1)
    gate.go.set()
    first.join(PATIENCE)
    other.join(PATIENCE)
    assert isinstance(caught[0], foliocache.SourceError) and caught[0].errno == errno.EIO


def _swallow(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        MemoryError(),
        RecursionError(),
        GeneratorExit(),
        concurrent.futures.CancelledError(),
        PermissionError(errno.EACCES, "not for you"),
        OSError(errno.EMFILE, "no descriptors"),
        foliocache.LeaseError("forked"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_filler_whose_error_says_nothing_about_the_origin_is_replaced(pool, make_source, error):
    gate, good = Gate(fail(error)), make_source(SIZE)
    assert read_beside(pool, gate, pool.mapping("k", SIZE, "v", gate), good) == [good.content]
    assert len(good.calls) == 1


def read_beside(pool, gate, failing, good):
    """Fill a folio through a mapping whose source waits at the gate; when another thread waits for the folio, let the source
    fail. Return what that thread, whose own source is good, has read."""
    filler = threading.Thread(target=lambda: _swallow(failing.lease, 0))
    filler.start()
    assert gate.started.wait(PATIENCE)
    results = []
    waiter = threading.Thread(target=lambda: results.append(bytes(pool.mapping("k", SIZE, "v", good.read).lease(0))))
    waiter.start()
    until(lambda: waits(pool) == 1)
    gate.go.set()
    filler.join(PATIENCE)
    waiter.join(PATIENCE)
    return results


def test_a_mapping_without_a_source_knows_nothing_about_the_origin(pool):
    assert pool.mapping("k", SIZE).filler.reason(foliocache.SourceError("no source")) is None


def test_a_former_content_is_never_taken_for_a_reason(pool, make_source):
    """A filler that is interrupted leaves the page's former content: here, what looks like a record."""
    forged = failure.record(OSError(errno.EIO, "forged")).ljust(pool.page_size, b"\0")

    def readinto(offset, buffer):
        buffer[:] = forged[: len(buffer)]
        gate.started.set()
        assert gate.go.wait(PATIENCE)
        raise KeyboardInterrupt

    gate, good = Gate(None), make_source(SIZE)
    assert read_beside(pool, gate, pool.mapping("k", SIZE, "v", readinto=readinto), good) == [good.content]


# The record.


@pytest.mark.parametrize(
    "text", ["", "plain", "ünïcode \U0001f600", "\udcff lone", "\x00\x1b[31m", "long " * 5000, "\U0001f600" * 5000]
)
def test_a_record_is_bounded_and_comes_back(text):
    page = failure.record(OSError(5, text))
    assert len(page) <= failure.RECORD_MAX
    kind, number, said = failure.read(page.ljust(failure.RECORD_MAX, b"\xff"))
    assert (kind, number) == ("OSError", 5) and str(OSError(5, text)).startswith(said)
    assert said or not text


@pytest.mark.parametrize(
    "damage",
    [lambda page: bytes(len(page)), lambda page: page[:-1] + b"x", lambda page: b"\xff" * 8 + page[8:], lambda page: page[:8]],
)
def test_what_is_no_record_is_none(damage):
    page = failure.record(ValueError("x"))
    assert failure.read(page) == ("ValueError", None, "x")
    assert failure.read(damage(page)) is None


@pytest.mark.parametrize("body", [b"{}", b"[1, 2, 3]", b'["a", "b", "c"]', b'["a", true, "c"]', b"[" * 100_000, b'["a", null]'])
def test_a_record_of_something_else_is_none(body):
    assert failure.read(struct.pack("<II", len(body), zlib.crc32(body)) + body) is None


@pytest.mark.parametrize("name", ["N" * 5000, "\U0001f600" * 5000])
def test_a_record_of_an_exception_with_a_long_name(name):
    kind, _, said = failure.read(failure.record(type(name, (Exception,), {})("why")))
    assert name.startswith(kind) and kind and said == "why"


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no")


def test_an_exception_that_has_no_text_has_a_record():
    assert failure.read(failure.record(Unprintable())) == ("Unprintable", None, "")


class Nameless(type):
    __name__ = property(lambda kind: 1 / 0)


class Untold(Exception):
    errno = property(lambda error: 1 / 0)


class Unnamed(Untold, metaclass=Nameless):
    pass


def test_an_error_that_tells_nothing_of_itself_is_raised(pool):
    def read(offset, length):
        raise Untold

    assert failure.read(failure.record(Unnamed("why"))) == ("Unnamed", None, "why")
    with pytest.raises(Untold):
        pool.mapping("key", 10, read=read).read(0, 10)
    with pytest.raises(Untold):
        pool.get_or_create("object", lambda: read(0, 0))


# Sources that read mappings.


@pytest.mark.parametrize("how", ["read", "readinto"])
def test_a_source_that_reads_its_own_mapping_is_told_so(pool, how):
    calls, mappings = [], []

    def own(offset, what):
        calls.append(offset)
        data = mappings[0].read(offset, SIZE)
        if how == "read":
            return bytes(data)
        what[:] = data
        return len(what)

    mappings.append(pool.mapping("k", SIZE, "v", **{how: own}))
    start = time.monotonic()
    with pytest.raises(foliocache.SourceError, match="reads the same bytes of its own mapping"):
        mappings[0].lease(0)
    assert time.monotonic() - start < 30 and len(calls) <= 4
    assert pool.mappings() == [] and pool.stat().pins == 0


def test_through_another_mapping_of_the_same_object_it_is_the_same(pool):
    def own(offset, length):
        return bytes(pool.mapping("k", SIZE, "v", own).read(offset, length))

    with pytest.raises(foliocache.SourceError, match="its own mapping"):
        pool.mapping("k", SIZE, "v", own).lease(0)


def test_two_sources_that_read_each_other_are_told_so(pool):
    def of(key, other):
        return pool.mapping(key, SIZE, "v", lambda offset, length: bytes(of(other, key).read(offset, length)))

    with pytest.raises(foliocache.SourceError, match="its own mapping"):
        of("a", "b").lease(0)
    assert pool.mappings() == []


def test_a_source_may_read_other_folios_of_its_own_mapping(pool):
    """Each folio is computed from the one after it."""
    page = pool.page_size

    def read(offset, length):
        if offset + length >= mapping.size:
            return b"x" * length
        return bytes(mapping.read(offset + length, page))[:length]

    mapping = pool.mapping("k", 4 * page, "v", read, folio_size=page, readahead=0)
    assert mapping.lease(0)[0] == ord("x")


@pytest.mark.parametrize("concurrent", [False, True])
def test_a_source_that_reads_its_own_mapping_in_another_thread_ends(pool_name, concurrent):
    pool = foliocache.open(pool_name, size="4MiB", fill_timeout=1)
    errors = []

    def own(offset, length):
        def read():
            errors.append(_swallow(mapping.read, offset, length))

        thread = threading.Thread(target=read)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        return CONTENT[offset : offset + length]

    mapping = pool.mapping("k", SIZE, "v", own, concurrent=concurrent)
    assert bytes(mapping.lease(0)) == CONTENT
    assert isinstance(errors[0], foliocache.SourceError) and len(errors) <= 3


def test_a_signal_handler_may_read_what_its_thread_is_reading(pool, make_source):
    """In the middle of the source, the same bytes."""
    source, results = make_source(SIZE), []

    def read(offset, length):
        if not results:
            signal.raise_signal(signal.SIGUSR1)
        return source.read(offset, length)

    def handler(number, frame):
        results.append(None)
        results.append(bytes(mapping.lease(0)))

    mapping = pool.mapping("k", SIZE, "v", read)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        assert bytes(mapping.lease(0)) == source.content
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert results == [None, source.content]


def test_a_child_that_is_forked_during_a_call_of_the_source_may_call_it(pool):
    """The parent's thread in the source has the lock of the mapping; the child has no such thread."""
    gate = Gate(lambda offset, length: bytes(length))
    mapping = pool.mapping(
        "k", 2 * pool.page_size, "v", lambda offset, length: gate(offset, length) if offset == 0 else bytes(length), readahead=0
    )
    filler = threading.Thread(target=lambda: mapping.lease(0))
    filler.start()
    assert gate.started.wait(PATIENCE)
    child = FORK.Process(target=lambda: os._exit(7 if bytes(mapping.lease(pool.page_size)) == bytes(pool.page_size) else 8))
    child.start()
    child.join(PATIENCE)
    gate.go.set()
    filler.join(PATIENCE)
    assert child.exitcode == 7


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 2e10, 5.0])
def test_any_patience_is_heeded(pool_name, timeout):
    pool = foliocache.open(pool_name, size="4MiB", fill_timeout=timeout)
    gate = Gate(lambda offset, length: CONTENT[offset : offset + length])
    filler = threading.Thread(target=lambda: pool.mapping("k", SIZE, "v", gate).lease(0))
    filler.start()
    assert gate.started.wait(PATIENCE)
    results = []
    waiter = threading.Thread(target=lambda: results.append(_swallow(pool.mapping("k", SIZE, "v").lease, 0)))
    waiter.start()
    until(lambda: waits(pool) == 1)
    gate.go.set()
    filler.join(PATIENCE)
    waiter.join(PATIENCE)
    assert results == [None]
