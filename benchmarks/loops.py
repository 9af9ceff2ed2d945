"""Reads in event loops: what an awaited hit costs, how soon waits for another process end, and how late a loop becomes.

"How late" is how long after its time a task wakes, at most, that sleeps a millisecond again and again beside what is
measured. (A task that only gives way would keep the GIL: it gives it up for a microsecond in each turn, and no other thread is
awake so soon.)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.common.measure import Case, cpus, interleave, per_op, pinned, record
from benchmarks.common.plan import KIB, MIB, Plan
from benchmarks.common.pools import new_pool
from benchmarks.common.report import Section, Table

LENGTH = 64 * KIB
WAITS = 100
TURN = 0.001  # seconds

FILLER = """
import sys, time, foliocache
pool, size = foliocache.attach(sys.argv[1]), int(sys.argv[2])

def read(offset, length):
    print("reading", flush=True)
    sys.stdin.readline()
    print(time.monotonic_ns(), flush=True)
    return bytes(length)

for line in sys.stdin:
    pool.mapping(line, size, "1", read).read_bytes(0, size)
"""


def run(plan: Plan) -> Section:
    section = Section("loops")
    _hits(plan, section)
    _waits(plan, section)
    _lateness(plan, section)
    return section


def _hits(plan: Plan, section: Section) -> None:
    """ns per read of cached 64 KiB, awaited and not."""
    times = max(plan.hits // 20, 10)
    with new_pool(16 * MIB) as pool, pinned(cpus()[:1]), asyncio.Runner() as runner:
        mapping = pool.mapping("hits", MIB, "1", lambda offset, length: bytes(length))
        mapping.read_bytes(0, MIB)
        cases: dict[str, Case] = {}
        for name in ("read", "read_bytes"):
            cases[name] = per_op(partial(_call, getattr(mapping, name), times), times)
            cases[f"{name}_async"] = partial(_run, runner, getattr(mapping, f"{name}_async"), times)
        found = interleave(cases, plan.rounds)
    for name, budget in (("read", "<= 1.8"), ("read_bytes", None)):
        value, baseline = found[f"{name}_async"], found[name]
        metric = f"await {name}_async, 64 KiB cached"
        section.found.append(record(metric, value, "ns", against=name, baseline=baseline, budget=budget))


def _call(read: Callable[[int, int], Any], times: int) -> None:
    for _ in itertools.repeat(None, times):
        read(LENGTH, LENGTH)


def _run(runner: asyncio.Runner, read: Callable[[int, int], Awaitable[Any]], times: int) -> float:
    async def loop() -> float:
        begin = time.perf_counter_ns()
        for _ in itertools.repeat(None, times):
            await read(LENGTH, LENGTH)
        return (time.perf_counter_ns() - begin) / times

    return runner.run(loop())


def _waits(plan: Plan, section: Section) -> None:
    """A hundred tasks wait for what another process fills: from the end of its source's call until the last has the bytes."""
    ways = {"read_bytes_async": _by_waiter, "a thread for each": _by_threads}
    with new_pool(64 * MIB) as pool, _filler(pool, LENGTH) as filler, ThreadPoolExecutor(WAITS) as threads:
        numbers = itertools.count()
        late: dict[str, float] = {}

        def case(name: str) -> float:
            key = f"k{next(numbers)}\n"
            took, late[name] = asyncio.run(_wait(pool.mapping(key, LENGTH, "1"), key, filler, ways[name], threads))
            return took

        found = interleave({name: partial(case, name) for name in ways}, plan.rounds)
    table = Table(f"{WAITS} waits for another process's fill", ("by", "until the last has it, us", "loop late by, ms"))
    for name in ways:
        table.add(name, found[name] / 1e3, late[name] / 1e6)
    section.tables.append(table)
    ours, theirs = found.values()
    metric = f"{WAITS} waits for another process's fill"
    section.found.append(record(metric, ours / 1e3, "us", against="a thread for each", baseline=theirs / 1e3))


async def _wait(mapping: Any, key: str, filler: Any, way: Any, threads: ThreadPoolExecutor) -> tuple[float, float]:
    """Returns how many ns it took, and how late the loop was at most."""
    filler.stdin.write(key)
    filler.stdin.flush()
    assert filler.stdout.readline() == "reading\n"
    waits = mapping.pool.stat().counters.waits
    tasks = [asyncio.ensure_future(way(mapping, threads)) for _ in range(WAITS)]
    while mapping.pool.stat().counters.waits < waits + WAITS:
        await asyncio.sleep(TURN)
    async with _watched() as late:
        filler.stdin.write("\n")
        filler.stdin.flush()
        await asyncio.gather(*tasks)
        end = time.monotonic_ns()
    return end - int(filler.stdout.readline()), late[0]


async def _by_waiter(mapping: Any, threads: ThreadPoolExecutor) -> bytes:
    content: bytes = await mapping.read_bytes_async(0, 8)
    return content


async def _by_threads(mapping: Any, threads: ThreadPoolExecutor) -> bytes:
    return await asyncio.get_running_loop().run_in_executor(threads, mapping.read_bytes, 0, 8)


@contextlib.contextmanager
def _filler(pool: Any, size: int) -> Iterator[Any]:
    command = [sys.executable, "-c", FILLER, pool.name, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def _watched() -> Any:
    """A list whose number grows to the longest time in ns by which a task wakes too late."""
    late = [0.0]
    clock = asyncio.get_running_loop().time
    due = clock() + TURN

    def look() -> None:
        late[0] = max(late[0], (clock() - due) * 1e9)

    async def watch() -> None:
        nonlocal due
        while True:
            due = clock() + TURN
            await asyncio.sleep(TURN)
            look()

    task = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    try:
        yield late
    finally:
        look()
        task.cancel()


def _lateness(plan: Plan, section: Section) -> None:
    """How late a loop is at most while its tasks miss in a pool that is too small, and another process fills."""
    late: list[float] = []
    idle: list[float] = []
    size = 32 * MIB
    with new_pool(8 * MIB) as pool, _filler(pool, LENGTH) as filler:
        mapping = pool.mapping("misses", size, "1", lambda offset, length: bytes(length), concurrent=True)
        for turn in range(plan.rounds):
            late.append(asyncio.run(_miss(pool, mapping, filler, f"late{turn}\n", max(plan.hits // 500, 20))) / 1e6)
            idle.append(asyncio.run(_rest()) / 1e6)
    section.found.append(record("loop late by at most: nothing but sleep", statistics.median(idle), "ms"))
    metric = "loop late by at most: misses, evictions, another's fill"
    section.found.append(record(metric, statistics.median(late), "ms", budget="<= 5"))


async def _rest() -> float:
    async with _watched() as late:
        await asyncio.sleep(0.1)
    return late[0]


async def _miss(pool: Any, mapping: Any, filler: Any, key: str, times: int) -> float:
    filler.stdin.write(key)
    filler.stdin.flush()
    assert filler.stdout.readline() == "reading\n"
    turn = random.Random(key)
    async with _watched() as late:
        waits = [asyncio.ensure_future(pool.mapping(key, LENGTH, "1").read_bytes_async(0, 8)) for _ in range(WAITS)]
        for _ in range(times):
            offsets = [turn.randrange(mapping.size - LENGTH) for _ in range(8)]
            await asyncio.gather(*[mapping.read_bytes_async(offset, LENGTH) for offset in offsets])
        filler.stdin.write("\n")
        filler.stdin.flush()
        await asyncio.gather(*waits)
    filler.stdout.readline()
    return late[0]
