"""Reads in event loops: hits in the calling thread, misses in others, and nothing that blocks a loop, leaks or hangs."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading

import pytest
import uvloop

import foliocache

UNIT = 64 << 10
SIZE = 64 * UNIT
PATIENCE = 60
CONTENT = bytes(range(251)) * (SIZE // 251 + 1)


@pytest.fixture
def roomy(pool_name):
    """A pool of 64 MiB. After the test its audit must be empty."""
    pool = foliocache.open(pool_name, size="64MiB")
    yield pool
    gc.collect()
    pool = foliocache.open(pool_name)
    assert pool.audit() == [] and pool.stat().pins == 0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """``asyncio.run`` on a loop of either kind, in debug mode; whatever it logs or warns of fails the test."""

    def run(main):
        told = []

        async def guarded():
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
            return await asyncio.wait_for(main, PATIENCE)

        with asyncio.Runner(debug=True, loop_factory=request.param) as runner:
            result = runner.run(guarded())
        gc.collect()
        assert not told
        return result

    return run


def slice_of(offset, length):
    return CONTENT[offset : offset + length]


class Origin:
    """A source that records the threads which call it, and may be held."""

    def __init__(self, held=False):
        self.threads, self.calls, self.called, self.go = set(), [], threading.Event(), threading.Event()
        if not held:
            self.go.set()

    def read(self, offset, length):
        self.threads.add(threading.get_ident())
        self.calls.append((offset, length))
        self.called.set()
        assert self.go.wait(PATIENCE)
        return slice_of(offset, length)


@pytest.mark.parametrize("concurrent", [True, False])
def test_every_read_has_the_bytes(roomy, run, concurrent):
    origin = Origin()

    async def main():
        mapping = roomy.mapping("k", SIZE, "1", origin.read, concurrent=concurrent)
        assert await mapping.read_bytes_async(5, SIZE) == slice_of(5, SIZE - 5)
        assert await mapping.read_async(UNIT + 1, 9) == slice_of(UNIT + 1, 9)
        assert await mapping.read_async(0, SIZE) == slice_of(0, SIZE)
        target = bytearray(3 * UNIT)
        assert await mapping.readinto_async(SIZE - UNIT, target) == UNIT
        assert await mapping.readinto_async(7, target) == len(target) and target == slice_of(7, len(target))
        assert len(target := target + b"!") and await mapping.read_bytes_async(SIZE, 5) == b""
        with await mapping.lease_async(UNIT + 3, 5) as lease:
            assert lease.cached and bytes(lease) == slice_of(UNIT + 3, 5)
        with await mapping.lease_async(SIZE - 5) as lease:
            assert bytes(lease) == slice_of(SIZE - 5, 5)
        with pytest.raises(IndexError):
            await mapping.lease_async(SIZE)

    run(main())
    assert threading.get_ident() not in origin.threads
    assert sum(length for _, length in origin.calls) == SIZE


@pytest.mark.parametrize("concurrent", [True, False])
def test_many_tasks_fetch_once(roomy, run, concurrent):
    origin = Origin()

    async def main():
        mapping = roomy.mapping("k", SIZE, "1", origin.read, concurrent=concurrent)
        for _ in range(2):
            parts = await asyncio.gather(*[mapping.read_bytes_async(n % 64 * UNIT, UNIT) for n in range(256)])
            assert b"".join(parts) == slice_of(0, SIZE) * 4

    run(main())
    assert sum(length for _, length in origin.calls) == SIZE


@pytest.mark.parametrize("concurrent", [True, False])
def test_one_error_answers_all_who_await_it(roomy, run, concurrent):
    calls = []

    class Strange(Exception):
        pass

    async def main():
        go = threading.Event()

        def read(offset, length):
            calls.append(offset)
            assert go.wait(PATIENCE)
            raise Strange("no")

        mapping = roomy.mapping("k", SIZE, "1", read, concurrent=concurrent)
        tasks = [asyncio.ensure_future(mapping.read_bytes_async(UNIT, 5)) for _ in range(50)]
        while not calls or (concurrent and waiting_words() == 0):
            await asyncio.sleep(0)
        go.set()
        assert {type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)} == {Strange}
        assert len(calls) == 1
        with pytest.raises(Strange):
            await mapping.read_bytes_async(UNIT, 5)
        assert len(calls) == 2, "the next reader asks again"

    run(main())


def waiting_words():
    from foliocache.filler import waiter

    return waiter.threads()[1]


def test_a_fill_goes_on_when_its_task_is_cancelled(roomy, run):
    origin = Origin(held=True)
    mapping = roomy.mapping("k", SIZE, "1", origin.read, concurrent=True)

    async def main():
        first, second = (asyncio.ensure_future(mapping.read_bytes_async(UNIT, 5)) for _ in range(2))
        while not (origin.called.is_set() and waiting_words()):
            await asyncio.sleep(0)
        for task in (first, second):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        third = asyncio.ensure_future(mapping.read_bytes_async(UNIT, 5))
        await asyncio.sleep(0)
        origin.go.set()
        assert await third == slice_of(UNIT, 5)

    run(main())
    assert len(origin.calls) == 1 and not roomy.engine.waiting


def test_closing_the_pool_ends_the_waits(roomy, run):
    origin = Origin(held=True)
    mapping = roomy.mapping("k", SIZE, "1", origin.read)

    async def main():
        tasks = [asyncio.ensure_future(mapping.read_bytes_async(offset, 5)) for offset in (0, 5, SIZE - 5)]
        while not origin.called.is_set():
            await asyncio.sleep(0)
        roomy.close()
        for task in tasks:
            with pytest.raises(foliocache.FoliocacheError, match="closed"):
                await task
        origin.go.set()
        with pytest.raises(foliocache.FoliocacheError, match="closed"):
            await mapping.read_async(0, 1)

    run(main())


def test_a_loop_is_closed_while_a_fill_is_under_way(roomy):
    origin = Origin(held=True)
    mapping = roomy.mapping("k", SIZE, "1", origin.read, concurrent=True)

    async def begin():
        task = asyncio.ensure_future(mapping.read_bytes_async(0, 5))
        while not origin.called.is_set():
            await asyncio.sleep(0)
        del task

    asyncio.run(begin())  # cancels it
    origin.go.set()
    assert asyncio.run(mapping.read_bytes_async(0, 5)) == slice_of(0, 5)
    assert [offset for offset, _ in origin.calls].count(0) == 1


def test_two_loops_in_two_threads_at_once(roomy):
    origin = Origin()
    mapping = roomy.mapping("k", SIZE, "1", origin.read, concurrent=True)
    results = []

    async def main():
        return b"".join(await asyncio.gather(*[mapping.read_bytes_async(at, UNIT) for at in range(0, SIZE, UNIT)]))

    threads = [threading.Thread(target=lambda: results.append(asyncio.run(main()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [slice_of(0, SIZE)] * 3
    assert sum(length for _, length in origin.calls) == SIZE


def test_a_child_forked_by_a_running_loop_reads(roomy):
    origin = Origin()
    mapping = roomy.mapping("k", SIZE, "1", origin.read)

    async def main():
        await mapping.read_bytes_async(0, 5)
        pid = os.fork()
        if pid == 0:
            signal.alarm(PATIENCE)
            os._exit(0 if in_child() == slice_of(SIZE - UNIT, UNIT) else 1)
        status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status[1]) == 0

    def in_child():
        asyncio._set_running_loop(None)  # the loop is the parent's
        return asyncio.run(mapping.read_bytes_async(SIZE - UNIT, UNIT))

    asyncio.run(main())


FILLER = """
import sys, time, foliocache
pool = foliocache.attach(sys.argv[1])
def read(offset, length):
    print("reading", flush=True)
    word = sys.stdin.readline()
    if word == "fail\\n":
        raise OSError(5, "the line is dead")
    return b"f" * length
mapping = pool.mapping("k", int(sys.argv[2]), "1", read)
try:
    mapping.read_bytes(int(sys.argv[3]), 1)
except OSError:
    pass
"""


@contextlib.contextmanager
def another_that_fills(pool, offset=0):
    """A process that has begun to fill a folio of "k"; ``stdin`` says when it ends."""
    command = [sys.executable, "-c", FILLER, pool.name, str(SIZE), str(offset)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "reading\n"
            yield process
        finally:
            process.kill()


async def waits(mapping, count):
    """Tasks that wait for the first bytes, all of them in the waiter."""
    tasks = [asyncio.ensure_future(mapping.read_bytes_async(0, 2)) for _ in range(count)]
    while waiting_words() == 0:
        await asyncio.sleep(0)
    return tasks


def test_what_another_process_fills_is_awaited(roomy, run):
    mapping = roomy.mapping("k", SIZE, "1")
    with another_that_fills(roomy) as process:

        async def main():
            tasks = await waits(mapping, 100)
            assert not roomy.engine._state.busy
            process.stdin.write("go\n")
            process.stdin.flush()
            assert set(await asyncio.gather(*tasks)) == {b"ff"}

        run(main())


def test_another_process_fails_or_is_killed(roomy, run):
    origin = Origin()
    mapping = roomy.mapping("k", SIZE, "1", origin.read, concurrent=True)
    with another_that_fills(roomy) as process:

        async def fails():
            tasks = await waits(mapping, 3)
            process.stdin.write("fail\n")
            process.stdin.flush()
            for error in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(error, foliocache.SourceError) and error.errno == 5

        run(fails())
    with another_that_fills(roomy) as process:

        async def dies():
            tasks = await waits(mapping, 3)
            process.kill()
            assert set(await asyncio.gather(*tasks)) == {slice_of(0, 2)}

        run(dies())
    assert len(origin.calls) == 1


def test_another_process_takes_too_long(roomy, run):
    origin = Origin()
    mapping = roomy.mapping("k", SIZE, "1", origin.read)
    roomy.fill_timeout = 0.05
    with another_that_fills(roomy):
        assert run(mapping.read_bytes_async(0, 2)) == slice_of(0, 2)
    assert roomy.stat().counters.bypasses == 1


def test_a_name_is_asked_for_once(roomy, run):
    asked = []

    async def info(key):
        async with await roomy.names.ask_async(key, 60) as ask:
            if ask.known is None:
                asked.append(key)
                await asyncio.sleep(0.01)
                assert (await roomy.names.ask_async(key, 60)).known is None, "who asks does not wait for itself"
                assert await ask.answer_async(7, "v", b"x")
                return 7
            return ask.known.size

    async def main():
        assert await asyncio.gather(*[info(f"k{n % 4}") for n in range(40)]) == [7] * 40

    run(main())
    assert sorted(asked) == ["k0", "k1", "k2", "k3"]
    assert not roomy._asking and not roomy.engine.waiting


def test_a_question_that_ends_without_an_answer(roomy, run):
    """Its task is cancelled, or has an error: another asks, and there is no third."""

    async def hold(begun):
        async with await roomy.names.ask_async("k", 60) as ask:
            assert ask.known is None
            begun.set()
            await asyncio.sleep(PATIENCE)

    async def answer():
        async with await roomy.names.ask_async("k", 60) as ask:
            assert ask.known is None
            await ask.answer_absent_async()
        return (await roomy.names.ask_async("k", 60)).known.exists

    async def main():
        begun = asyncio.Event()
        task = asyncio.ensure_future(hold(begun))
        await begun.wait()
        other = asyncio.ensure_future(answer())
        while waiting_words() == 0:
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await other is False

    run(main())
    assert not roomy._asking and not roomy.engine.waiting


ASKER = """
import sys, foliocache
with foliocache.attach(sys.argv[1]).names.ask("k", 60) as ask:
    assert ask.known is None
    print("asking", flush=True)
    if sys.stdin.readline() == "answer\\n":
        ask.answer(5)
"""


@pytest.mark.parametrize("word", ["answer", None])
def test_another_process_answers_or_is_killed(roomy, run, word):
    command = [sys.executable, "-c", ASKER, roomy.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "asking\n"

        async def main():
            asks = [asyncio.ensure_future(roomy.names.ask_async("k", 60)) for _ in range(3)]
            while waiting_words() == 0:
                await asyncio.sleep(0)
            if word:
                process.stdin.write("answer\n")
                process.stdin.flush()
            else:
                process.kill()
            sizes = []
            for ask in asyncio.as_completed(asks):
                async with await ask as question:
                    if question.known is None:
                        await question.answer_async(6)
                        sizes.append(None)
                    else:
                        sizes.append(question.known.size)
            assert sizes == ([5, 5, 5] if word else [None, 6, 6])

        run(main())
