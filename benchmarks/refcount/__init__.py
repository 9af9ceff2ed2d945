"""The pair get+put: the kernel's ways and ours, in C and through the compiled core; threads, processes, one line or one each.

==========  =========================================================================================================
mainline    load, then a cmpxchg loop that refuses zero: ``page_ref_add_unless_zero``
optimistic  the cmpxchg loop without the load: the first try assumes one reference
fetch_add   one unconditional ``lock xadd``; FROZEN says no
core        fetch_add as shipped: ``page_ref.try_get`` and ``put``, called through their pointers
xadd        ``lock xadd`` twice and nothing else: the floor
==========  =========================================================================================================
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import foliocache
from benchmarks.common import inside, native
from benchmarks.common.measure import Unavailable, counts, cpus, interleave
from benchmarks.common.plan import Plan
from benchmarks.common.pools import MIB, new_pool
from benchmarks.common.report import Section, Table
from benchmarks.common.worker_pool import WorkerPool
from benchmarks.core.pairs import refcount
from benchmarks.refcount import scale

KINDS = tuple(native.KINDS)


def run(plan: Plan) -> Section:
    section = Section("refcount", refcount(plan))
    table = Table("ns of wall time per get+put, all runners together", ("who", *KINDS))
    with new_pool(16 * MIB) as pool, inside.counted_page(pool) as (mem, folio):
        for count in counts():
            found = threads(plan, count, mem, folio, shared=True)
            table.add(f"{count} thread{'s' * (count > 1)}, one line", *[found[kind] for kind in KINDS])
            if count > 1:
                apart = threads(plan, count, mem, folio, shared=False)
                table.add(f"{count} threads, a line each", *[apart.get(kind) for kind in KINDS])
        for count in counts()[1:]:
            found = processes(plan, count, pool.name, folio)
            table.add(f"{count} processes, one line", *[found[kind] for kind in KINDS])
    section.tables.append(table)
    scale.add(section, plan)
    return section


def share(plan: Plan, count: int) -> int:
    """Return the pairs of each of ``count`` runners. All together always do the same number: on one line, more runners take
    longer for a pair."""
    return max(plan.pairs // count, 1)


def threads(plan: Plan, count: int, mem: int, folio: int, shared: bool) -> dict[str, float]:
    """ns of wall time per pair for each kind; the core's pool has one page to count on, so it has no line each."""
    lines = [native.Line() for _ in range(1 if shared else count)]
    pairs = share(plan, count)

    def case(kind: str) -> Callable[[], float]:
        def together() -> float:
            begin = time.perf_counter_ns() + 2_000_000
            words = [lines[n % len(lines)].address for n in range(count)]
            jobs = [
                native.pair_job(kind, word, pairs, mem, folio, cpu, begin) for word, cpu in zip(words, cpus(), strict=False)
            ]
            batch = (native.Job * count)(*jobs)
            if native.library().run_threads(batch, count) != count:
                raise Unavailable(f"{count} threads could not be started")
            return max(job.took_ns for job in batch) / (count * pairs)

        return together

    kinds = KINDS if shared else [kind for kind in KINDS if kind != "core"]
    return interleave({kind: case(kind) for kind in kinds}, plan.rounds)


def processes(plan: Plan, count: int, name: str, folio: int) -> dict[str, float]:
    """As threads on one line, by processes."""
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(create=True, size=4096)
    view: Any = memory.buf
    try:
        view[:4] = (1).to_bytes(4, "little")
        with WorkerPool(counters, [(name, folio, memory.name, share(plan, count))] * count, cpus()) as workers:

            def wall(kind: str) -> float:
                return max(workers.per_op(kind)) / count

            return interleave({kind: partial(wall, kind) for kind in KINDS}, plan.rounds)
    finally:
        memory.close()
        memory.unlink()


def counters(name: str, folio: int, memory_name: str, pairs: int) -> dict[str, Callable[[], int]]:
    """WorkerPool: pairs of each kind on words that all processes share."""
    from multiprocessing import shared_memory

    untracked: dict[str, Any] = {"track": False} if sys.version_info >= (3, 13) else {}
    memory = shared_memory.SharedMemory(memory_name, **untracked)
    view: Any = memory.buf
    held = (ctypes.c_char * memory.size).from_buffer(view)
    pool = foliocache.attach(name)
    mem = inside.memory_of(pool)
    keep: list[Any] = [pool, memory, held]

    def case(kind: str) -> Callable[[], int]:
        def run_pairs() -> int:
            job = native.pair_job(kind, ctypes.addressof(keep[2]), pairs, mem, folio)
            native.library().run(job)
            return pairs

        return run_pairs

    return {kind: case(kind) for kind in KINDS}
