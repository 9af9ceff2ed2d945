"""Long awaited reads: one thread waits for those that fill, and gives up when the task is cancelled."""

import asyncio
import gc
import os
import random
import threading
import time

import pytest
from test_results_delivered import wait_until_cached

import foliocache
from foliocache.errors import FoliocacheError
from foliocache.filler import awaiting
from foliocache.pool import asynchronous
from foliocache.pool.results import Results

MIB = 1 << 20
PATIENCE = 60
SIZE = 12 * MIB + 12_345
DATA = random.Random(21).randbytes(SIZE)


@pytest.fixture
def pool(pool_name):
    """A pool of 16 MiB, a quarter of which is requested at a time. After the test its audit must be empty."""
    pool = foliocache.open(pool_name, size="16MiB")
    yield pool
    gc.collect()
    pool = foliocache.open(pool_name)
    end = time.monotonic() + PATIENCE
    while pool.stat().pins and time.monotonic() < end:  # of requests that nobody waits for any more, which end by themselves
        time.sleep(0.001)
    assert pool.audit() == [] and pool.stat().pins == 0


class Origin:
    """A source that keeps what it was asked for. Its call for the first byte waits if it is held."""

    def __init__(self, held=False, fails=None):
        self.calls, self.fails = [], fails
        self.begun, self.go = threading.Event(), threading.Event()
        if not held:
            self.go.set()

    def __call__(self, offset, length):
        self.calls.append((offset, length))
        if self.fails is not None and offset >= self.fails:
            raise OSError("the line is dead")
        if offset == 0:
            self.begun.set()
            assert self.go.wait(PATIENCE)
        return DATA[offset : offset + length]


@pytest.fixture
def ends(monkeypatch):
    """What the threads that wait for long reads end with, as they end."""
    found, more = [], threading.Semaphore(0)
    read_long = asynchronous._read_long

    def noted(engine, read, *arguments):
        def called(*arguments):
            try:
                result = read(*arguments)
            except BaseException as error:
                found.append(error)
                raise
            else:
                found.append(result)
                return result
            finally:
                more.release()

        return read_long(engine, called, *arguments)

    monkeypatch.setattr(asynchronous, "_read_long", noted)

    def next_end():
        assert more.acquire(timeout=PATIENCE)
        return found.pop(0)

    return next_end


def run(main):
    with asyncio.Runner(debug=True) as runner:
        return runner.run(asyncio.wait_for(main, PATIENCE))


def test_each_byte_is_fetched_once(pool, ends):
    origin = Origin()
    mapping = pool.mapping("k", SIZE, "1", origin, concurrent=True)

    async def main():
        reads = [(0, SIZE), (5, SIZE), (3 * MIB + 1, 5 * MIB), (SIZE - 5 * MIB, 99 * MIB), (0, 4 * MIB)]
        found = await asyncio.gather(*[mapping.read_bytes_async(*each) for each in reads], mapping.read_async(1, SIZE))
        assert found == [DATA[at : at + length] for at, length in reads] + [DATA[1:]]
        assert await mapping.read_bytes_async(7, SIZE) == DATA[7:], "this time it is cached"

    run(main())
    assert sum(length for _, length in origin.calls) == SIZE
    assert len(ends()) >= 4 * MIB


@pytest.mark.parametrize("given", ["coroutine", "one at a time"])
def test_no_thread_waits_for_a_source_that_others_call(pool, given, monkeypatch):
    """A coroutine's reads are awaited, and so are those of a source that one thread at a time may call."""

    async def read(offset, length):
        return DATA[offset : offset + length]

    async def refused(*arguments):
        raise AssertionError("this is not needed")

    monkeypatch.setattr(awaiting, "beside_engine", refused)
    source = read if given == "coroutine" else Origin()
    mapping = pool.mapping("k", SIZE, "1", source, concurrent=given == "coroutine")
    assert run(mapping.read_bytes_async(0, SIZE)) == DATA


def test_who_is_cancelled_fetches_no_more(pool, ends):
    """What it had requested comes, and the rest does not."""
    origin = Origin(held=True)
    mapping = pool.mapping("k", SIZE, "1", origin, concurrent=True)

    async def main():
        task = asyncio.ensure_future(mapping.read_bytes_async(0, SIZE))
        await asyncio.to_thread(origin.begun.wait, PATIENCE)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        origin.go.set()

    run(main())
    end = ends()
    assert isinstance(end, FoliocacheError) and "cancelled" in str(end)
    wait_until_cached(mapping, 0, MIB)
    assert max(offset + length for offset, length in origin.calls) < SIZE - 4 * MIB
    assert mapping.read_bytes(0, SIZE) == DATA


def test_results_that_no_one_awaits(pool):
    ended = threading.Event()
    mapping = pool.mapping("k", SIZE, "1", Origin(), concurrent=True)
    made = Results([(mapping, 0, 5 * MIB), (mapping, 6 * MIB, 5 * MIB)], ended)
    assert made.read(0, mapping, 0, 5 * MIB) == DATA[: 5 * MIB]
    ended.set()
    with pytest.raises(FoliocacheError, match="cancelled"):
        made.read(1, mapping, 6 * MIB, 5 * MIB)


def test_the_source_fails(pool):
    mapping = pool.mapping("k", SIZE, "1", Origin(fails=7 * MIB), concurrent=True)

    async def main():
        reads = [mapping.read_bytes_async(0, SIZE), mapping.read_bytes_async(0, 6 * MIB), mapping.read_async(3, SIZE)]
        whole, part, view = await asyncio.gather(*reads, return_exceptions=True)
        assert isinstance(whole, OSError) and isinstance(view, OSError) and part == DATA[: 6 * MIB]
        assert "the line is dead" in str(whole)

    run(main())


def test_the_pool_is_closed(pool, ends):
    origin = Origin(held=True)
    mapping = pool.mapping("k", SIZE, "1", origin, concurrent=True)

    async def main():
        task = asyncio.ensure_future(mapping.read_bytes_async(0, SIZE))
        await asyncio.to_thread(origin.begun.wait, PATIENCE)
        closing = asyncio.create_task(pool.close_async())
        with pytest.raises(FoliocacheError, match="closed"):
            await task
        assert pool.closed and not origin.go.is_set()
        origin.go.set()
        await closing
        with pytest.raises(FoliocacheError, match="closed"):
            await mapping.read_bytes_async(0, SIZE)

    run(main())
    assert isinstance(ends(), FoliocacheError)


def test_the_loop_is_closed(pool, ends):
    origin = Origin(held=True)
    mapping = pool.mapping("k", SIZE, "1", origin, concurrent=True)
    loop = asyncio.new_event_loop()
    task = loop.create_task(mapping.read_bytes_async(0, SIZE))
    loop.run_until_complete(asyncio.wait_for(asyncio.to_thread(origin.begun.wait), PATIENCE))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    origin.go.set()
    assert ends() == DATA, "it has not been cancelled"
    task._log_destroy_pending = False
    del task
    assert mapping.is_cached()


def test_a_forked_child_has_threads_of_its_own(pool):
    def read():
        mapping = pool.mapping("k", SIZE, "1", Origin(), concurrent=True)
        return run(mapping.read_bytes_async(0, SIZE)) == DATA

    assert read()
    pool.forget("k")
    child = os.fork()
    if not child:
        os._exit(0 if read() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
