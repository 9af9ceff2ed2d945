"""What it costs to make a pool, to take memory for it, to give it back, and to watch."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

import foliocache
from benchmarks.common import loops
from benchmarks.common.measure import interleave, per_op, record, samples
from benchmarks.common.plan import Plan
from benchmarks.common.pools import KIB, MIB, new_pool, one_per_folio, values
from benchmarks.common.report import Section

PIECE = 4 * MIB
FOLIO = 256 * KIB
AGAIN = 20  # fills of the same pages in a round
KEEP_SIZE, PUNCH_HOLE = 1, 2


def opening(section: Section, plan: Plan) -> None:
    """Make a pool with the default size, and remove it."""
    name = f"bench-{os.getpid()}-open"
    resident = ceiling = 0

    def opened(clock: Callable[[], float]) -> float:
        nonlocal resident, ceiling
        try:
            begin = clock()
            pool = foliocache.open(name)
            took = clock() - begin
            resident, ceiling = os.stat(pool.path).st_blocks * 512, pool.pool_bytes
            pool.close()
        finally:
            foliocache.remove(name)
        return 1000 * took

    took = interleave({"wall": lambda: opened(time.perf_counter), "CPU": lambda: opened(time.process_time)}, plan.rounds)
    section.found += [
        record("open a new pool of the default size", took["wall"], "ms", budget="<= 20"),
        record("the same, processor time", took["CPU"], "ms"),
        record("memory of a new pool", resident / MIB, "MiB", against="2 % of its ceiling, MiB", baseline=0.02 * ceiling / MIB,
               budget="<= 1"),
    ]  # fmt: skip


def first_use(section: Section, plan: Plan) -> None:
    """Make a pool and fill it, beside one whose file gets all its memory at once, as pools did before.

    The other one's fills ask for memory that they have, which they did not do before. What that takes is measured, and not
    counted.
    """
    size = plan.fill_bytes
    asked: list[float] = []

    def sparse() -> float:
        begin = time.process_time()
        with new_pool(2 * size) as pool:
            _fill(pool, size)
            return time.process_time() - begin

    def reserved() -> float:
        begin = time.process_time()
        with new_pool(2 * size) as pool:
            _reserve(pool)
            made = time.process_time()
            _reserve(pool)
            done = time.process_time()
            asked.append(done - made)
            _fill(pool, size)
            took = made - begin + time.process_time() - done
        return took - asked[-1] / 2

    cases = {"sparse": sparse, "reserved": reserved}
    best = {name: min(found) for name, found in samples(cases, plan.rounds).items()}
    section.found.append(
        record("make a pool and fill half of it, CPU", 1000 * best["sparse"], "ms", against="all memory at once",
               baseline=1000 * best["reserved"], budget="<= 1")
    )  # fmt: skip


def further_use(section: Section, plan: Plan) -> None:
    """Fill two such pools again and again, in turns: one fill is over in a few milliseconds."""
    size = plan.fill_bytes
    with new_pool(2 * size) as sparse, new_pool(2 * size) as reserved:
        _reserve(reserved)
        for pool in (sparse, reserved):
            _fill(pool, size)
        cases = {"sparse": lambda: _refilled(sparse, size), "reserved": lambda: _refilled(reserved, size)}
        best = {name: min(found) for name, found in samples(cases, plan.of(AGAIN * plan.rounds, plan.rounds)).items()}
    section.found.append(
        record("fill the same pages again, CPU", 1000 * best["sparse"], "ms", against="all memory at once",
               baseline=1000 * best["reserved"], budget="<= 1.02")
    )  # fmt: skip


def trimming(section: Section, plan: Plan) -> None:
    """Give all free memory back, beside bare calls that punch the same ranges of a pool that was used in the same way."""
    size = plan.fill_bytes
    share = []

    def trimmed() -> float:
        with new_pool(2 * size) as pool:
            _fill(pool, size)
            pool.forget("filled")
            free = pool.stat().free_bytes - (pool.pool_bytes - pool.stat().backed_bytes)
            begin = time.process_time()
            given = pool.trim()
            took = time.process_time() - begin
            share.append(given / free)
        return took * size / given

    def punched() -> float:
        with new_pool(2 * size) as pool:
            _fill(pool, size)
            pool.forget("filled")
            data = os.stat(pool.path).st_size - pool.max_bytes
            begin = time.process_time()
            for offset in range(0, size, PIECE):
                _fallocate(pool, PUNCH_HOLE | KEEP_SIZE, data + offset, min(PIECE, size - offset))
            took = time.process_time() - begin
            pool.close()  # it has lost its memory: not used any more
        return took

    best = {name: min(found) for name, found in samples({"trim": trimmed, "punch": punched}, plan.rounds).items()}
    section.found += [
        record("give free memory back, CPU", 1000 * best["trim"], "ms", against="bare punching", baseline=1000 * best["punch"],
               budget="<= 1.2"),
        record("of the free memory, trim gives back", min(share), "", budget=">= 0.95"),
    ]  # fmt: skip


def hits(section: Section, plan: Plan) -> None:
    """A hit while a thread of this process watches the memory, and while none does."""
    numbers = loops.order(64, plan.hits)
    with new_pool(2 * 64 * 64 * KIB) as pool:
        mapping = values(pool, 64, 64 * KIB)
        loop = per_op(loops.leases(mapping, numbers), len(numbers))

        def watched(pressure: bool) -> Callable[[], float]:
            def case() -> float:
                foliocache.open(pool.name, pressure=pressure)
                return loop()

            return case

        found = samples({"watched": watched(True), "unwatched": watched(False)}, plan.rounds)
        took = {name: min(each) for name, each in found.items()}
        del mapping
    section.found.append(
        record("hit while a thread watches", took["watched"], "ns", against="no thread", baseline=took["unwatched"],
               budget="<= 1.02")
    )  # fmt: skip


def _fill(pool: Any, size: int) -> None:
    mapping = one_per_folio(pool, size // FOLIO, FOLIO, "filled")
    for offset in range(0, size, FOLIO):
        mapping.lease(offset).release()


def _refilled(pool: Any, size: int) -> float:
    """Forget what was filled, and fill it again: return the processor time."""
    pool.forget("filled")
    begin = time.process_time()
    _fill(pool, size)
    return time.process_time() - begin


def _reserve(pool: Any) -> None:
    """Give all of a pool's pages memory."""
    data = os.stat(pool.path).st_size - pool.max_bytes
    for offset in range(0, pool.pool_bytes, PIECE):
        _fallocate(pool, 0, data + offset, min(PIECE, pool.pool_bytes - offset))


def _fallocate(pool: Any, mode: int, offset: int, length: int) -> None:
    fd = os.open(pool.path, os.O_RDWR)
    try:
        if ctypes.CDLL(None, use_errno=True).fallocate(
            ctypes.c_int(fd), ctypes.c_int(mode), ctypes.c_long(offset), ctypes.c_long(length)
        ):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)
