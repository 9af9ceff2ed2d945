"""A cached array: what getting it costs, by size, beside joblib.Memory, diskcache and a dict.

The array is there for all of them, and its first byte is touched. "In use": something in the process still has a view of the
array, so a large one is mapped already. "Scattered": the pool has been full of small objects, every other of which was then
removed, so the folios of a large array do not lie side by side, and each run of them is mapped. "Once": a single get after 64
MiB were copied, which took the processor's caches; the others are loops. joblib and diskcache keep their files on tmpfs.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.common.measure import Case, Skipped, cpus, interleave, per_op, pinned, record
from benchmarks.common.plan import KIB, MIB, Plan
from benchmarks.common.pools import new_pool
from benchmarks.common.report import Section, Table

OURS, IN_USE, SCATTERED, ONCE = "foliocache", "foliocache, in use", "foliocache, scattered", "foliocache, once"
DICT, JOBLIB, DISKCACHE, RAY = "dict", "joblib.Memory", "diskcache", "Ray"
LEAST = {JOBLIB: 50, DISKCACHE: 50, RAY: 5}  # times that ours has to be faster
Get = Callable[[], Any]


def run(plan: Plan) -> Section:
    section = Section("objects")
    sizes = plan.of([64 * KIB, MIB, 16 * MIB, 256 * MIB], [64 * KIB, 2 * MIB])
    took = {size: _latency(plan, size, section) for size in sizes}
    names = [name for name in PEERS if name in took[sizes[0]]]
    table = Table("us per get of a cached array, first byte touched", ("size", *names))
    for size, row in took.items():
        table.add(f"{size // KIB:,} KiB", *(row[name] for name in names))
    section.tables.append(table)
    one, largest = took[sizes[1]], took[sizes[-1]]
    section.found.append(record("get_or_create of 1 MiB, in use", one[IN_USE], "us", budget="<= 6"))
    section.found.append(record("get_or_create of 1 MiB, not in use", one[OURS], "us", budget="<= 60"))
    section.found.append(record("get_or_create of 256 MiB, not in use", largest[OURS], "us", budget="<= 60"))
    section.found.append(
        record(
            "get_or_create of 256 MiB, in use", largest[IN_USE], "us", against="1 MiB", baseline=one[IN_USE], budget="<= 1.5"
        )
    )
    for name, times in LEAST.items():
        if name in one:
            section.found.append(
                record("get_or_create of 1 MiB", one[OURS], "us", against=name, baseline=one[name], budget=f">= {times}")
            )
    section.found.append(
        record(
            "get_or_create of 256 MiB, scattered, not in use",
            largest[SCATTERED],
            "us",
            against=OURS,
            baseline=largest[OURS],
        )
    )
    return section


def _latency(plan: Plan, size: int, section: Section) -> dict[str, float]:
    """us per get, by who, in one run for all."""
    import numpy

    array = numpy.arange(size // 8, dtype="f8")
    with contextlib.ExitStack() as stack:
        cases: dict[str, Case] = {}
        for name, opener in PEERS.items():
            try:
                get = stack.enter_context(opener(array))
            except ImportError as missing:
                if size == 64 * KIB:
                    section.found.append(Skipped(name, str(missing)))
                continue
            cases[name] = _once(plan, get) if name == ONCE else per_op(*_loop(get, _times(plan, name, size)))
        with pinned(cpus()[:1]):
            return {name: each / 1e3 for name, each in interleave(cases, plan.rounds).items()}


def _times(plan: Plan, name: str, size: int) -> int:
    """How often a loop gets the array."""
    if name in (IN_USE, DICT, RAY):
        return plan.hits // 4
    return max(plan.hits // (max(size // MIB, 4) if name in (OURS, SCATTERED) else 64 * max(size // MIB, 1)), 2)


def _once(plan: Plan, get: Get) -> Case:
    import numpy

    others = numpy.zeros(plan.of(64 * MIB, MIB), "u1")

    def case() -> float:
        others.copy()
        begin = time.perf_counter_ns()
        get()[0]
        return time.perf_counter_ns() - begin

    return case


def _loop(get: Get, times: int) -> tuple[Callable[[], None], int]:
    def loop() -> None:
        for _ in itertools.repeat(None, times):
            get()[0]

    return loop, times


@contextlib.contextmanager
def _ours(array: Any) -> Iterator[Get]:
    with new_pool(2 * array.nbytes + 64 * MIB) as pool:
        pool.put("array", array)
        yield lambda: pool.get_or_create("array", _no_maker)


@contextlib.contextmanager
def _in_use(array: Any) -> Iterator[Get]:
    with _ours(array) as get:
        held = get()
        yield get
        del held


def _no_maker() -> None:
    raise RuntimeError("the array was evicted: nothing was measured")


@contextlib.contextmanager
def _scattered(array: Any) -> Iterator[Get]:
    with new_pool(3 * array.nbytes + 64 * MIB) as pool:
        import numpy

        small = numpy.zeros(pool.page_size * 4, "u1")
        count = (pool.pool_bytes - 32 * MIB) // small.nbytes
        for n in range(count):
            pool.put(f"small {n}", small)
        for n in range(0, count, 2):
            pool.delete(f"small {n}")
        pool.put("array", array)
        yield lambda: pool.get_or_create("array", _no_maker)


@contextlib.contextmanager
def _ray(array: Any) -> Iterator[Get]:
    import ray

    room = 2 * array.nbytes + 128 * MIB
    with contextlib.redirect_stderr(io.StringIO()):
        ray.init(
            num_cpus=1, object_store_memory=room, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    try:
        known = ray.put(array)
        yield lambda: ray.get(known)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _dict(array: Any) -> Iterator[Get]:
    known = {"array": array}
    yield lambda: known["array"]


@contextlib.contextmanager
def _joblib(array: Any) -> Iterator[Get]:
    import joblib

    with _folder() as folder:
        kept = joblib.Memory(folder, verbose=0).cache(_Maker(array).make, ignore=["self"])
        kept()
        yield kept


class _Maker:
    def __init__(self, array: Any) -> None:
        self.array = array

    def make(self) -> Any:
        return self.array


@contextlib.contextmanager
def _diskcache(array: Any) -> Iterator[Get]:
    import diskcache

    with _folder() as folder, diskcache.Cache(os.path.join(folder, "cache"), size_limit=4 * array.nbytes + 64 * MIB) as cache:
        cache.set("array", array)
        yield lambda: cache["array"]


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="foliocache-bench-", dir="/dev/shm") as folder:
        yield folder


PEERS = {
    OURS: _ours,
    IN_USE: _in_use,
    SCATTERED: _scattered,
    ONCE: _ours,
    DICT: _dict,
    JOBLIB: _joblib,
    DISKCACHE: _diskcache,
    RAY: _ray,
}
