"""As in will-it-scale: N processes read 64 bytes at offset 0 of one cached file, over and over; operations per second summed.

Through the core (find, get, look again, copy, put) against ``pread`` of a file on tmpfs, both from C; and both from Python.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import partial

import foliocache
from benchmarks.common import inside, native, plot
from benchmarks.common.measure import Skipped, Unavailable, counts, cpus, interleave
from benchmarks.common.plan import Plan
from benchmarks.common.pools import MIB, new_pool, one_per_folio, values
from benchmarks.common.report import Section, Table
from benchmarks.common.worker_pool import WorkerPool

SIZE = 64 * 1024
NAMES = ("core, C loop", "pread, C loop", "core, Python loop", "os.pread, Python loop")


def add(section: Section, plan: Plan) -> None:
    try:
        rates = measure(plan)
    except Unavailable as missing:
        section.found.append(Skipped("64 bytes of one file", str(missing)))
        return
    table = Table(
        "Reads of 64 bytes at offset 0 of one file, million per second, all processes together", ("processes", *NAMES)
    )
    for count, found in rates.items():
        table.add(str(count), *[found[name] / 1e6 for name in NAMES])
    section.tables.append(table)
    if len(rates) > 1:
        section.plots["scale.svg"] = plot.lines(
            "64 bytes at offset 0 of one cached file",
            "processes",
            "million reads per second, summed",
            {name: [(count, found[name] / 1e6) for count, found in rates.items()] for name in NAMES},
        )


def measure(plan: Plan) -> dict[int, dict[str, float]]:
    native.library()
    path = f"/dev/shm/bench-pread-{os.getpid()}"
    with new_pool(16 * MIB, SIZE) as pool, open(path, "wb") as file:
        try:
            file.write(bytes(SIZE))
            file.flush()
            values(pool, 1, SIZE)
            return _rates(plan, pool.name, path)
        finally:
            os.unlink(path)


def _rates(plan: Plan, name: str, path: str) -> dict[int, dict[str, float]]:
    most = len(cpus())
    with WorkerPool(readers, [(name, path, max(plan.pairs // most, 10))] * most, cpus()) as workers:
        return {n: interleave({case: partial(workers.rate, case, n) for case in NAMES}, plan.rounds) for n in counts()}


def readers(name: str, path: str, count: int) -> dict[str, Callable[[], int]]:
    """WorkerPool: the four loops."""
    pool = foliocache.attach(name)
    mapping = one_per_folio(pool, 1, SIZE)
    fd = os.open(path, os.O_RDONLY)
    library, total = native.library(), ctypes.c_uint64()
    arguments = inside.place_of_first_folio(pool, mapping)
    few = count // 10

    def core_c() -> int:
        if not library.read_core(*arguments, count, 0, total):
            raise RuntimeError("the folio is not cached")
        return count

    def pread_c() -> int:
        library.read_file(fd, count, 0, total)
        return count

    def core_python() -> int:
        lease = mapping.lease
        for _ in range(few):
            bytes(memoryview(lease(0))[:64])
        return few

    def pread_python() -> int:
        pread = os.pread
        for _ in range(few):
            pread(fd, 64, 0)
        return few

    return dict(zip(NAMES, (core_c, pread_c, core_python, pread_python), strict=True))
