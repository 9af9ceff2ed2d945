"""Reads in event loops: hits in the calling thread, misses in others, and nothing that blocks a loop, leaks or hangs."""

import asyncio
import atexit
import contextlib
import errno
import gc
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref

import pytest
from documents import page
from lines import at_line, count_lines

import foliocache
from foliocache.filler import awaiting, engine, homes, waiter

UNIT = 64 << 10
SIZE = 64 * UNIT
PATIENCE = 60
SECONDS = float(os.environ.get("FOLIOCACHE_STRESS_SECONDS", "3"))
CONTENT = bytes(range(251)) * (SIZE // 251 + 1)


@pytest.fixture
def roomy(pool_name):
    """A pool of 64 MiB. After the test its audit must be empty."""
    pool = foliocache.open(pool_name, size="64MiB")
    yield pool
    gc.collect()
    pool = foliocache.open(pool_name)
    assert pool.audit() == [] and pool.stat().pins == 0


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """``asyncio.run`` on a loop of either kind, in debug mode; whatever it logs or warns of fails the test."""
    kind = pytest.importorskip(request.param, reason=f"{request.param} is not installed")

    def run(main):
        told = []

        async def guarded():
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
            return await asyncio.wait_for(main, PATIENCE)

        with asyncio.Runner(debug=True, loop_factory=kind.new_event_loop) as runner:
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


@pytest.mark.parametrize("close", ["close", "aexit"])
def test_closing_is_awaited(roomy, run, close):
    """What is read ahead is waited for, and the loop goes on meanwhile."""
    origin = Origin(held=True)
    mapping = roomy.mapping("k", SIZE, "1", origin.read, concurrent=True)

    async def main():
        mapping.filler.read_runs(mapping, [(0, 4)])
        while not origin.called.is_set():
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, origin.go.set)
        if close == "close":
            await roomy.close_async()
        else:
            async with roomy:
                pass
        assert origin.go.is_set() and roomy.closed

    run(main())


def test_a_reading_is_a_coroutine(roomy, run):
    mapping = roomy.mapping("k", SIZE, "1", slice_of, concurrent=True)

    async def main():
        for _ in range(2):  # missing, then cached
            assert await asyncio.create_task(mapping.read_async(0, 5)) == slice_of(0, 5)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(mapping.read_async(n, 5)) for n in range(5)]
            assert [bytes(task.result()) for task in tasks] == [slice_of(n, 5) for n in range(5)]
            assert await asyncio.wait_for(mapping.read_async(7, 5), PATIENCE) == slice_of(7, 5)
            mapping.invalidate()
        reading = mapping.read_async(0, 5)
        await reading
        with pytest.raises(RuntimeError, match="already"):
            await reading
        with pytest.raises(ValueError):
            await mapping.read_async(-1, 5)
        closed = mapping.read_async(0, 5)
        closed.close()
        with pytest.raises(RuntimeError):
            await closed
        thrown = mapping.read_async(0, 5)
        with pytest.raises(KeyError):
            thrown.throw(KeyError("k"))
        with pytest.raises(StopIteration) as end:
            mapping.read_async(0, 5).send(None)
        assert end.value.value == slice_of(0, 5)

    run(main())


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
    """Tasks that wait for the first bytes, all of them for another process."""
    before = mapping.pool.stat().counters.waits
    tasks = [asyncio.ensure_future(mapping.read_bytes_async(0, 2)) for _ in range(count)]
    while mapping.pool.stat().counters.waits < before + count or waiting_words() == 0:
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


GUARDED = """
import asyncio, contextlib, ctypes, os, platform, random, struct, sys, threading, time
import faulthandler
import foliocache
from foliocache.filler import engine, waiter

SIZE, UNIT = int(sys.argv[2]), 65536
FUTEX, FCNTL, MEMBARRIER = {"x86_64": (202, 72, 324), "aarch64": (98, 25, 283)}[platform.machine()]
LD_NR, LD_ARG1 = (0x20, 0, 0, 0), (0x20, 0, 0, 24)
TRAP, ALLOW = (0x06, 0, 0, 0x00030000), (0x06, 0, 0, 0x7FFF0000)


def unless(value, skip):
    return (0x15, 0, skip, value)


def forbid_blocking():
    "From here on, this thread dies of a wait on a shared futex (a lock, a fill), of a file's lock, and of membarrier."
    program = [
        LD_NR, unless(MEMBARRIER, 1), TRAP, unless(FUTEX, 4), LD_ARG1, unless(0, 1), TRAP, ALLOW, unless(FCNTL, 5),
        LD_ARG1, (0x35, 0, 2, 36), (0x25, 1, 0, 38), TRAP, ALLOW, ALLOW,
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    if libc.prctl(22, 2, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)), 0, 0):
        print("no seccomp", flush=True)
        os._exit(0)


pool = foliocache.open(sys.argv[1], size="4MiB")
meet = threading.Barrier(engine.THREADS_MAX + 1)
for _ in range(engine.THREADS_MAX):  # those that start later would be bound, too
    assert pool.engine.submit(meet.wait)
meet.wait()
loop_thread = threading.get_ident()


def read(offset, length):
    assert threading.get_ident() != loop_thread
    return bytes(length)


async def read_there(offset, length):
    assert threading.get_ident() != loop_thread
    await asyncio.sleep(0)
    return bytes(length)


async def main():
    there = pool.mapping("m", SIZE, "1", read_there, concurrent=True)
    await there.read_bytes_async(0, 5)  # its loop has a thread from here on
    held = pool.mapping("k", SIZE, "1", read, concurrent=True)
    first = asyncio.ensure_future(held.read_bytes_async(0, 5))  # another process fills it, and is killed in the end
    while waiter.threads()[1] == 0:
        await asyncio.sleep(0)
    forbid_blocking()
    mapping = pool.mapping("j", SIZE, "1", read, concurrent=True)
    other = pool.mapping("l", SIZE, "1", read)
    turn = random.Random(1)
    for n in range(150):
        offset = turn.randrange(SIZE)
        tasks = [asyncio.ensure_future(which.read_bytes_async(offset, UNIT)) for which in (mapping, other, there)]
        tasks.append(asyncio.ensure_future(mapping.read_async(offset // 2, 9)))
        tasks.append(asyncio.ensure_future(there.lease_async(offset, 9, writable="copy")))
        if n % 7 == 0:
            tasks[0].cancel()
            tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with await pool.names.ask_async(f"k{n % 9}", 60) as ask:
            if ask.known is None:
                await ask.answer_async(n)
    print("kill", flush=True)
    assert await first == bytes(5)


asyncio.run(main())
print("done", flush=True)
os._exit(0)
"""


def test_nothing_blocks_in_the_thread_of_the_loop(pool):
    """The kernel kills it at the first system call that waits. Misses, evictions, names, another's fill, its death."""
    with another_that_fills(pool) as filler:
        command = [sys.executable, "-X", "faulthandler", "-c", GUARDED, pool.name, str(SIZE)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as guarded:
            try:
                told = guarded.stdout.readline()
                if told == "no seccomp\n":
                    pytest.skip("this kernel lets no process forbid itself system calls")
                assert told == "kill\n"
                filler.kill()
                assert guarded.stdout.readline() == "done\n"
                assert guarded.wait(PATIENCE) == 0
                assert pool.stat().counters.evictions > 50
            finally:
                guarded.kill()


def test_the_guard_of_that_test_bites(pool):
    """A read of the loop's own, without await, is such a call."""
    script = GUARDED.replace('print("kill"', 'held.read_bytes(0, 5)\n    print("kill"')
    with another_that_fills(pool):
        command = [sys.executable, "-c", script, pool.name, str(SIZE)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert ended.returncode == -signal.SIGSYS or ended.stdout == "no seccomp\n"


READER = """
import asyncio, random, sys, foliocache
pool, size, kind = foliocache.attach(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
turn = random.Random(sys.argv[4])


def patterned(offset, length):
    return b"".join(bytes([at % 251]) * 4096 for at in range(offset // 4096, (offset + length) // 4096 + 1))[:length]


mappings = [pool.mapping(key, size, "1", patterned, concurrent=key != "b") for key in "abc"]


def wish():
    return turn.choice(mappings), turn.randrange(0, size // 4096) * 4096, turn.choice([4096, 65536, 300000])


def check(got, offset, length):
    length = min(length, size - offset)
    assert len(got) == length and got[::4096] == patterned(offset, length)[::4096], offset


async def task():
    while True:
        mapping, offset, length = wish()
        try:
            check(await asyncio.wait_for(mapping.read_async(offset, length), turn.choice([0.001, 30])), offset, length)
        except TimeoutError:
            pass
        if turn.random() < 0.1:
            async with await pool.names.ask_async(f"n{turn.randrange(5)}", 0.05) as ask:
                if ask.known is None and turn.random() < 0.5:
                    await ask.answer_async(offset)


async def main():
    await asyncio.gather(*[task() for _ in range(20)])


print("ready", flush=True)
if kind == "async":
    asyncio.run(main())
while True:
    mapping, offset, length = wish()
    check(mapping.read_bytes(offset, length), offset, length)
"""


@pytest.mark.timeout(300 + SECONDS)
def test_readers_of_both_kinds_are_killed(pool):
    """Event loops and threads, which read and ask the same, in a pool that is too small. None ends by itself, and what is left
    is whole."""
    turn = random.Random(7)

    def start(n):
        command = [sys.executable, "-c", READER, pool.name, str(32 * UNIT), ("async", "sync")[n % 2], str(n)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    readers = [start(n) for n in range(4)]
    try:
        end, n = time.monotonic() + SECONDS, 4
        while time.monotonic() < end:
            victim = readers[n % 4]
            assert victim.stdout.readline() == "ready\n"
            time.sleep(turn.random() * 0.3)
            assert victim.poll() is None, victim.stderr.read()
            victim.kill()
            victim.communicate()
            readers[n % 4] = start(n)
            n += 1
        for reader in readers:
            assert reader.stdout.readline() == "ready\n"
            assert reader.poll() is None, reader.stderr.read()
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()
    pool.repair()
    assert pool.stat().pins == 0


class Awaited:
    """A source that is a coroutine; each of its calls waits until ``meet`` are under way."""

    def __init__(self, meet):
        self.meet, self.waiting, self.threads = meet, [], set()

    async def read(self, offset, length):
        self.threads.add(threading.get_ident())
        self.waiting.append(asyncio.Event())
        if len(self.waiting) >= self.meet:
            for event in self.waiting:
                event.set()
        await asyncio.wait_for(self.waiting[-1].wait(), PATIENCE)
        return slice_of(offset, length)

    async def readinto(self, offset, buffer):
        buffer[:] = await self.read(offset, len(buffer))
        return len(buffer)

    async def read_into_async(self, offset, buffers):
        for buffer in buffers:
            buffer[:] = slice_of(offset, len(buffer))
            offset += len(buffer)
            yield


def test_a_source_may_be_a_coroutine(roomy, run):
    """Several calls at once, all on a loop that is neither reader's; readers are threads, too."""
    source = Awaited(4)
    mapping = roomy.mapping("k", 4 << 20, "1", source.read, concurrent=True)
    assert mapping.read_bytes(0, 4 << 20) == slice_of(0, 4 << 20)

    async def main():
        into = roomy.mapping("j", SIZE, "1", readinto=Awaited(1).readinto)
        pages = roomy.mapping("l", SIZE, "1", source=Awaited(1), concurrent=True)
        for each in (into, pages):
            assert await each.read_bytes_async(0, SIZE) == slice_of(0, SIZE)

    run(main())
    assert len(source.threads) == 1 and threading.get_ident() not in source.threads
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE)
        os._exit(roomy.mapping("c", SIZE, "1", Awaited(1).read).read_bytes(0, SIZE) != slice_of(0, SIZE))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


class Stream(Awaited):
    """The same as an AsyncSource, whose buffers are filled one after the other."""

    async def read_into_async(self, offset, buffers):
        await self.read(offset, 0)
        for buffer in buffers:
            buffer[:] = slice_of(offset, len(buffer))
            offset += len(buffer)
            yield


KINDS = {
    "read": lambda awaited: {"read": awaited.read},
    "readinto": lambda awaited: {"readinto": awaited.readinto},
    "source": lambda awaited: {"source": awaited},
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_thread_waits_for_a_coroutine(pool_name, run, kind):
    """More misses at once than an engine has threads, all under way in the source."""
    count, folio = 2 * engine.THREADS_MAX, 16 << 10
    pool = foliocache.open(pool_name, size="64MiB")
    source = Stream(count)
    mapping = pool.mapping("k", count * folio, "1", **KINDS[kind](source), concurrent=True, readahead=0, folio_size=folio)

    async def main():
        offsets = [n * folio for n in reversed(range(count))]
        parts = await asyncio.gather(*[mapping.read_bytes_async(at, 5) for at in offsets])
        assert parts == [slice_of(at, 5) for at in offsets]

    run(main())
    assert len(source.waiting) == count and len(source.threads) == 1
    assert len(pool.engine._state.spare) == engine.THREADS_MAX, "none has been started"
    gc.collect()
    assert pool.audit() == [] and pool.stat().pins == 0


def test_more_fills_than_run_at_a_time(roomy, run, monkeypatch):
    monkeypatch.setattr(homes, "FILLS_MAX", 3)
    inside = most = 0
    three = asyncio.Event()

    async def read(offset, length):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 3:
            three.set()
        await asyncio.wait_for(three.wait(), 60)
        for _ in range(50):  # in which a fourth one would begin
            await asyncio.sleep(0)
        inside -= 1
        return slice_of(offset, length)

    mapping = roomy.mapping("k", SIZE, "1", read, concurrent=True, readahead=0)

    async def main():
        parts = await asyncio.gather(*[mapping.read_bytes_async(n * UNIT, 5) for n in range(0, 60, 2)])
        assert parts == [slice_of(n * UNIT, 5) for n in range(0, 60, 2)]

    run(main())
    assert most == 3


FAULTS = {
    "raises": (OSError, "dead"),
    "short": (foliocache.SourceError, "instead of"),
    "long": (foliocache.SourceError, "instead of"),
    "no bytes": (foliocache.SourceError, "NoneType"),
    "kept": (foliocache.SourceError, "kept the buffer"),
    "stops": (foliocache.SourceError, "gave 0 bytes"),
    "no number": (foliocache.SourceError, "must return how many"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_coroutine_answers_all_who_await_it(roomy, run, fault):
    kept, calls = [], []

    async def all_wait():
        while roomy.stat().counters.waits < 8:
            await asyncio.sleep(0)

    async def read(offset, length):
        calls.append(offset)
        await all_wait()
        if fault == "raises":
            raise OSError(5, "the line is dead")
        return None if fault == "no bytes" else bytes(length + (1 if fault == "long" else -1))

    async def readinto(offset, buffer):
        calls.append(offset)
        await all_wait()

    class Keeps:
        async def read_into_async(self, offset, buffers):
            calls.append(offset)
            kept.extend(map(memoryview, buffers) if fault == "kept" else ())
            await all_wait()
            for buffer in buffers if fault == "kept" else ():
                yield buffer

    source = {"kept": {"source": Keeps()}, "stops": {"source": Keeps()}, "no number": {"readinto": readinto}}
    mapping = roomy.mapping("k", SIZE, "1", **source.get(fault, {"read": read}), concurrent=True, readahead=0)
    kind, text = FAULTS[fault]

    async def main():
        errors = await asyncio.gather(*[mapping.read_bytes_async(n, 5) for n in range(9)], return_exceptions=True)
        assert {type(error) for error in errors} == {kind} and text in str(errors[0])

    run(main())
    assert len(calls) == 1
    for view in kept:
        view.release()
    assert not mapping.is_cached(0, 5)


def test_a_coroutines_fill_outlives_its_task_and_its_loop(roomy):
    source = Awaited(2)
    mapping = roomy.mapping("k", SIZE, "1", source.read, concurrent=True, readahead=0)

    async def begin():
        task = asyncio.ensure_future(mapping.read_bytes_async(0, 5))
        while not source.waiting:
            await asyncio.sleep(0)
        task.cancel()

    async def end():
        both = mapping.read_bytes_async(0, 5), mapping.read_bytes_async(SIZE - UNIT, 5)
        assert await asyncio.wait_for(asyncio.gather(*both), PATIENCE) == [slice_of(0, 5), slice_of(SIZE - UNIT, 5)]

    asyncio.run(begin())
    asyncio.run(end())
    assert len(source.waiting) == 2


def test_a_child_is_forked_while_a_coroutine_fills(roomy):
    """It leaves the parent's fill alone, and waits for it like any other process."""
    source = Awaited(2)
    mapping = roomy.mapping("k", SIZE, "1", source.read, concurrent=True, readahead=0)

    async def main():
        first = asyncio.ensure_future(mapping.read_bytes_async(0, 5))
        while not source.waiting:
            await asyncio.sleep(0)
        pid = os.fork()
        if pid == 0:
            signal.alarm(PATIENCE)
            asyncio._set_running_loop(None)  # the loop is the parent's
            os._exit(asyncio.run(mapping.read_bytes_async(0, 5)) != slice_of(0, 5))
        assert await mapping.read_bytes_async(SIZE - UNIT, 5) == slice_of(SIZE - UNIT, 5)
        assert await first == slice_of(0, 5)
        status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status[1]) == 0

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_coroutine_awaits_what_another_fetches(roomy, run, monkeypatch):
    """However many fills run, since those that it waits for do not count."""
    monkeypatch.setattr(homes, "FILLS_MAX", 1)

    async def inner(offset, length):
        await asyncio.sleep(0)
        return slice_of(offset, length)

    async def outer(offset, length):
        return await origin.read_bytes_async(offset, length)

    origin = roomy.mapping("j", SIZE, "1", inner, concurrent=True, readahead=0)
    mapping = roomy.mapping("k", SIZE, "1", outer, concurrent=True, readahead=0)

    async def main():
        parts = await asyncio.gather(*[mapping.read_bytes_async(n * UNIT, 5) for n in range(9)])
        assert parts == [slice_of(n * UNIT, 5) for n in range(9)]

    run(main())


def test_what_a_coroutine_raises(roomy):
    async def fails(offset, length):
        raise OSError(5, "the line is dead")

    async def recurses(offset, length):
        return outer.read_bytes(offset, length)  # without await, from the loop that would have to fetch it

    with pytest.raises(OSError, match="dead"):
        roomy.mapping("k", SIZE, "1", fails).read_bytes(0, 1)
    outer = roomy.mapping("j", SIZE, "1", fails)
    with pytest.raises(foliocache.FoliocacheError, match="without await"):
        roomy.mapping("l", SIZE, "1", recurses).read_bytes(0, 1)


ENDING = """
import asyncio, os, signal, sys, threading, time
import foliocache
pool = foliocache.open(sys.argv[1], size="4MiB")
begun = threading.Event()

async def hangs(offset, length):
    begun.set()
    await asyncio.sleep(3600)

def sleeps(offset, length):
    begun.set()
    time.sleep(3600)

async def main(read):
    tasks = [asyncio.ensure_future(pool.mapping("k", 65536, "1", read, concurrent=True).read_async(0, 1)) for _ in range(9)]
    while not begun.is_set():
        await asyncio.sleep(0)
    if sys.argv[2] == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.gather(*tasks)

try:
    asyncio.run(main(hangs if sys.argv[3] == "coroutine" else sleeps))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("end", ["interrupt", "return"])
@pytest.mark.parametrize("source", ["coroutine", "function"])
def test_the_interpreter_ends_with_reads_under_way(pool_name, end, source):
    command = [sys.executable, "-W", "always", "-c", ENDING, pool_name, end, source]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, "") and ended.stdout == ("interrupted\n" if end == "interrupt" else "")


def test_the_example_of_the_page_does_what_it_says(tmp_path):
    text = page("asyncio.md")
    script = tmp_path / "example.py"
    script.write_text(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[0])
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as folder:
        environment = os.environ | {"FOLIOCACHE_DIR": folder}
        command = [sys.executable, "-W", "error", str(script)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    said = re.search(r"# prints: (.*)", text)[1]
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{said}\n", "")


def test_more_waits_than_one_thread_takes(roomy, run):
    """One folio each, all being filled by one call of another process's source."""
    folio, size = 16 << 10, 4 << 20
    script = FILLER.replace('"1", read)', f'"1", read, folio_size={folio})').replace("int(sys.argv[3]), 1", f"0, {size}")
    command = [sys.executable, "-c", script, roomy.name, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "reading\n"

            async def main():
                mapping = roomy.mapping("k", size, "1", folio_size=folio)
                tasks = [asyncio.ensure_future(mapping.read_bytes_async(at, 1)) for at in range(0, size, folio)]
                while waiting_words() < len(tasks):
                    await asyncio.sleep(0)
                assert waiter.threads()[0] == -(-len(tasks) // waiter.WORDS) == 3
                process.stdin.write("go\n")
                process.stdin.flush()
                assert await asyncio.gather(*tasks) == [b"f"] * len(tasks)

            run(main())
        finally:
            process.kill()


WITHOUT_THE_CALL = """
import asyncio, ctypes, os, struct, sys
import foliocache
pool, size = foliocache.attach(sys.argv[1]), int(sys.argv[2])
program = [(0x20, 0, 0, 0), (0x15, 0, 1, 449), (0x06, 0, 0, 0x00050000 | int(sys.argv[3])), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
if libc.prctl(22, 2, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)), 0, 0):
    os._exit(3)
assert libc.syscall(449, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == int(sys.argv[3])


async def main():
    mapping = pool.mapping("k", size, "1")
    tasks = [asyncio.ensure_future(mapping.read_bytes_async(0, 2)) for _ in range(10)]
    await asyncio.sleep(0.01)
    print("waiting", flush=True)
    assert set(await asyncio.gather(*tasks)) == {b"ff"}


asyncio.run(main())
"""


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=["old kernel", "sandbox"])
def test_a_kernel_without_futex_waitv(roomy, error):
    with another_that_fills(roomy) as filler:
        command = [sys.executable, "-c", WITHOUT_THE_CALL, roomy.name, str(SIZE), str(error)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            if process.stdout.readline() != "waiting\n":
                assert process.wait(PATIENCE) == 3
                pytest.skip("this kernel lets no process forbid itself system calls")
            filler.stdin.write("go\n")
            filler.stdin.flush()
            assert process.wait(PATIENCE) == 0


def test_a_pool_goes_while_the_waiter_stays(pool_name):
    pool = foliocache.open(pool_name, size="64MiB")
    with another_that_fills(pool) as filler:

        async def main(mapping):
            tasks = await waits(mapping, 3)
            filler.stdin.write("go\n")
            filler.stdin.flush()
            await asyncio.gather(*tasks)

        asyncio.run(main(pool.mapping("k", SIZE, "1")))
    assert waiter.threads()[1] == 0
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None


def test_a_gather_that_becomes_garbage_releases_its_buffer(pool):
    out = bytearray(100)
    cycle = [pool.mapping("k", 1000, "v", lambda offset, length: bytes(length))._gather_into(0, out)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    out.append(1)  # BufferError, while it has an export


def test_mail_wakes_a_loop_once_for_all_that_is_on_the_way():
    loop, called, woken = asyncio.new_event_loop(), [], []
    wake = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *args, **more: (woken.append(1), wake(*args, **more))
    mail = homes.mail_to(loop)
    assert homes.mail_to(loop) is mail

    def interrupted():
        called.append("interrupted")
        raise KeyboardInterrupt

    for function in (lambda: called.append(1), interrupted, lambda: mail.send(loop.stop), lambda: called.append(2)):
        mail.send(function)
    assert woken == [1]
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert called == [1, "interrupted"]
    loop.run_forever()  # what was behind it is still delivered
    assert called == [1, "interrupted", 2] and len(woken) == 3
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        mail.send(called.clear)


@pytest.fixture
def elsewhere():
    """A home in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    home = homes.home_of(loop)
    home.is_lasting = True  # so that answers are kept back
    yield home
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE)
    homes._homes.pop(id(loop))
    loop.close()


def test_answers_of_one_turn_wake_the_callers_loop_once(elsewhere, monkeypatch):
    monkeypatch.setattr(homes, "ANSWERS_MAX", 20)
    woken, begun = [], threading.Semaphore(0)

    async def both(count):
        loop = asyncio.get_running_loop()
        go = asyncio.run_coroutine_threadsafe(asyncio.sleep(0, asyncio.Event()), elsewhere.loop).result(PATIENCE)

        async def answer(number):
            begun.release()
            await go.wait()
            return number

        calls = asyncio.gather(*(elsewhere.call(answer, number) for number in range(count)))
        await asyncio.sleep(0)
        for _ in range(count):
            assert begun.acquire(timeout=PATIENCE)
        wake = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args, **more: (woken.append(count), wake(*args, **more))
        elsewhere.loop.call_soon_threadsafe(go.set)
        return await calls

    for count in (1, 20, 50):
        assert asyncio.run(asyncio.wait_for(both(count), PATIENCE)) == list(range(count))
    assert woken.count(1) == 1 and woken.count(20) == 1 and 1 <= woken.count(50) <= 3


def test_a_loop_that_stops_with_its_last_answers():
    """It may not be known how long a loop runs; then no answer waits for its next turn."""
    loop, begun = asyncio.new_event_loop(), threading.Semaphore(0)
    home, ready, go = homes.home_of(loop), threading.Event(), None

    async def until_then():
        nonlocal go
        go = asyncio.Event()
        ready.set()
        await go.wait()

    async def work(number):
        begun.release()
        await go.wait()
        await asyncio.sleep(0)  # until the turn after which the loop stops
        return number

    async def callers():
        await asyncio.to_thread(ready.wait, PATIENCE)
        calls = [asyncio.ensure_future(home.call(work, number)) for number in range(3)]
        await asyncio.sleep(0)
        for _ in calls:
            assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
        loop.call_soon_threadsafe(go.set)
        return await asyncio.gather(*calls)

    thread = threading.Thread(target=loop.run_until_complete, args=(until_then(),))
    thread.start()
    assert asyncio.run(asyncio.wait_for(callers(), PATIENCE)) == [0, 1, 2]
    thread.join(PATIENCE)
    homes._homes.pop(id(loop))
    loop.close()


def test_calls_in_a_home_whose_loop_is_closed_are_answered(monkeypatch):
    """Their coroutines are closed by the garbage collector, after their loop."""
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    begun = threading.Semaphore(0)

    async def forever():
        begun.release()
        await asyncio.Event().wait()

    async def main():
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        home = homes.home_of(loop)
        calls = [asyncio.ensure_future(home.call(forever)) for _ in range(3)]
        await asyncio.sleep(0)
        for _ in calls:
            assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join, PATIENCE)
        homes._homes.pop(id(loop))
        loop.close()
        home._tasks.clear()
        atexit.unregister(home.close)
        del home, loop
        gc.collect()
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert [str(each) for each in found] == ["the event loop of the source has been closed"] * 3
    assert all(type(each) is RuntimeError for each in found) and not unraisable


def test_an_answer_to_a_loop_that_has_been_closed_does_not_hold_up_others(elsewhere):
    async def forever():
        await asyncio.Event().wait()

    async def left():
        asyncio.ensure_future(elsewhere.call(ended)).add_done_callback(lambda task: task.cancelled())
        await asyncio.to_thread(begun.wait, PATIENCE)

    async def ended():
        begun.set()
        await asyncio.to_thread(gone.wait, PATIENCE)

    async def one(number):
        return number

    async def others():
        hanging = asyncio.ensure_future(elsewhere.call(forever))  # so that answers are kept back, since it is not the last
        await asyncio.sleep(0)
        gone.set()
        try:
            while len(elsewhere._tasks) != 1:
                await asyncio.sleep(0.001)
            return await asyncio.gather(*(elsewhere.call(one, number) for number in range(3)))
        finally:
            hanging.cancel()
            elsewhere.loop.call_soon_threadsafe(lambda: [task.cancel() for task in elsewhere._tasks])

    begun, gone, reported = threading.Event(), threading.Event(), []
    elsewhere.loop.set_exception_handler(lambda _, context: reported.append(context))
    asyncio.run(asyncio.wait_for(left(), PATIENCE))
    assert asyncio.run(asyncio.wait_for(others(), PATIENCE)) == [0, 1, 2] and not reported and not elsewhere._answers


def test_the_next_window_is_read_also_if_the_reader_always_waits(roomy, run):
    """It never hits a folio with the readahead mark: each read waits for a request that is under way."""
    folio, calls = 16 << 10, []

    def read(offset, length):
        go = threading.Event()
        calls.append((offset, offset + length, go))
        assert go.wait(PATIENCE)
        return bytes(length)

    mapping = roomy.mapping("k", 4 << 20, "1", read=read, concurrent=True, folio_size=folio, readahead=4 * folio)

    async def main():
        for offset in range(0, 32 * folio, folio):
            while offset >= 2 * folio and not any(begin <= offset < end for begin, end, _ in calls):
                await asyncio.sleep(0.001)  # until it is asked for, though nobody reads
            task = asyncio.ensure_future(mapping.read_bytes_async(offset, folio))
            await asyncio.sleep(0)
            while not task.done():
                for begin, end, go in list(calls):
                    if begin <= offset < end:
                        go.set()
                await asyncio.sleep(0.001)

    try:
        run(main())
    finally:
        for _, _, go in calls:
            go.set()


@pytest.mark.parametrize(("offset", "length"), [(0, None), (17_001, 3000), (SIZE - 13, 100)])
def test_an_awaited_lease_may_be_written_to(roomy, run, offset, length):
    """Missing, and cached."""
    mapping = roomy.mapping("k", SIZE, "1", read=slice_of)

    async def main():
        for _ in range(2):
            with await mapping.lease_async(offset, length, writable="copy") as lease:
                view = memoryview(lease)
                assert not view.readonly and view == slice_of(offset, len(view))
                view[:] = bytes(len(view))
                assert lease[0] == 0 and mapping.read_bytes(offset, len(view)) == slice_of(offset, len(view))
                del view
        assert memoryview(await mapping.lease_async(offset, length)).readonly
        with pytest.raises(ValueError, match='writable must be "copy"'):
            await mapping.lease_async(offset, length, writable="yes")

    run(main())


def test_nothing_stays_among_the_waits_when_a_signal_handler_raises(pool):
    """What waits may hold a question for which other processes wait."""

    async def ask():
        await awaiting.in_engine(pool.engine, lambda: None)

    def interrupt():
        raise KeyboardInterrupt

    lines = count_lines(lambda: asyncio.run(ask()))
    assert lines > 10
    for line in range(1, lines + 1):
        with contextlib.suppress(KeyboardInterrupt), at_line(line, interrupt):
            asyncio.run(ask())
        assert not pool.engine.waiting
