"""Cost by number of cached folios, number of clients, size of values and size of the pool; memory per cached folio.

"Hot" is a thousand folios with neighbouring numbers: what grows is the index above them. "Spread" is a thousand folios anywhere
among all that are cached: each then has an index node and a descriptor in memory pages of its own, which the processor must
translate. "Random" is every folio as likely as any other: there each hit misses the processor's caches, and the plain slice
beside it shows how much of that anyone would pay.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.common import inside, loops, plot
from benchmarks.common.baselines import lmdb_cases, shared_slices
from benchmarks.common.measure import Skipped, Unavailable, cpus, interleave, per_op, pinned, record
from benchmarks.common.plan import Plan
from benchmarks.common.pools import GIB, KIB, MIB, attach_ms, metadata_per_page, new_pool, values
from benchmarks.common.report import Section, Table

PAGE = 4 * KIB
HOT = 1000
SECONDS = 60  # for a process to attach, or to end
KINDS = ("hot", "spread", "random")


def run(plan: Plan) -> Section:
    section = Section("growth")
    for part in (folios, clients, sizes, attaching):
        try:
            part(section, plan)
        except Unavailable as missing:
            section.found.append(Skipped(f"growth: {part.__name__}", str(missing)))
    return section


def folios(section: Section, plan: Plan) -> None:
    """Hit time from 10^3 to 10^6 cached folios, and memory per folio."""
    counts = plan.of([10**3, 10**4, 10**5, 10**6], [1000, 1200])
    table = Table(
        "ns per hit, by folios cached (4 KiB each)",
        (
            "cached folios",
            "hot lease",
            "spread lease",
            "random lease",
            "hot slice",
            "spread slice",
            "random slice",
            "overhead, bytes per folio",
        ),
    )
    huge = Table("the same in huge pages (`--huge`)", ("cached folios", "hot lease", "spread lease", "random lease"))
    points = []
    with contextlib.ExitStack() as stack:
        cases, overhead = {}, {}
        for count in counts:
            start = (count - HOT) // 2
            numbers = {
                "hot": loops.order(range(start, start + HOT), plan.hits),
                "spread": loops.order(loops.anywhere(HOT, count), plan.hits),
                "random": loops.order(count, max(count, plan.hits))[: plan.hits],
            }
            for where, folder in (("", None), ("huge ", plan.huge)):
                if where and folder is None:
                    continue
                pool = stack.enter_context(new_pool(count * PAGE * 9 // 8 + 4 * MIB, PAGE, 64, folder))
                mapping = values(pool, count, PAGE)
                overhead[count] = metadata_per_page(pool)
                for kind, chosen in numbers.items():
                    cases[f"{where}{kind} {count}"] = per_op(loops.leases(mapping, chosen), len(chosen))
            slices = stack.enter_context(shared_slices(count, PAGE))
            for kind, chosen in numbers.items():
                cases[f"slice {kind} {count}"] = per_op(loops.slices(slices, PAGE, chosen), len(chosen))
        with pinned(cpus()[:1]):
            took = interleave(cases, plan.rounds)
    for count in counts:
        leases = [took[f"{kind} {count}"] for kind in KINDS]
        slices_took = [took[f"slice {kind} {count}"] for kind in KINDS]
        table.add(count, *leases, *slices_took, overhead[count])
        points.append((count, *leases, slices_took[-1]))
        if plan.huge:
            huge.add(count, *(took[f"huge {kind} {count}"] for kind in KINDS))
    section.tables += [table, huge] if plan.huge else [table]
    grown = ["hot", "spread", *(("huge hot", "huge spread") if plan.huge else ()), "slice spread"]
    for kind in grown:
        value, baseline = took[f"{kind} {counts[-1]}"], took[f"{kind} {counts[0]}"]
        name, against = f"hit among {counts[-1]:,} folios, 1000 {kind}", f"{counts[0]:,} folios"
        budget = None if kind.startswith("slice") else "<= 1.3"
        section.found.append(record(name, value, "ns", against=against, baseline=baseline, budget=budget))
    section.plots["growth-folios.svg"] = plot.lines(
        "Hit time and cached folios",
        "cached folios of 4 KiB",
        "ns per hit",
        {
            name: [(point[0], point[place]) for point in points]
            for place, name in enumerate(("lease, 1000 hot", "lease, 1000 spread", "lease, random", "slice, random"), start=1)
        },
        log_x=True,
    )


def clients(section: Section, plan: Plan) -> None:
    """Hit time with 1 to 64 processes attached."""
    counts = plan.of([1, 8, 32, 64], [1, 3])
    table = Table("ns per hit, by clients attached", ("clients", "lease"))
    took: dict[int, float] = {}
    with new_pool(2 * HOT * 16 * KIB, 16 * KIB, clients=80) as pool:
        mapping = values(pool, HOT, 16 * KIB)
        loop = per_op(loops.leases(mapping, loops.order(HOT, plan.hits)), plan.hits)
        for count in counts:
            with attached(pool, count - 1), pinned(cpus()[:1]):
                took[count] = interleave({"lease": loop}, plan.rounds)["lease"]
            table.add(count, took[count])
    section.tables.append(table)
    section.found.append(
        record(f"hit with {counts[-1]} clients", took[counts[-1]], "ns", against="1 client", baseline=took[1], budget="<= 1.3")
    )


@contextlib.contextmanager
def attached(pool: Any, count: int) -> Iterator[None]:
    """Fork ``count`` processes that are clients of the pool and do nothing, for the time of a ``with``."""
    context = multiprocessing.get_context("fork")
    clients: list[tuple[Any, Any]] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            client = context.Process(target=_client, args=(pool, theirs, [ours, *(pipe for _, pipe in clients)]), daemon=True)
            client.start()
            theirs.close()
            clients.append((client, ours))
        for _, pipe in clients:
            _await(pipe)
        yield
    finally:
        for _, pipe in clients:
            pipe.close()
        for client, _ in clients:
            client.join(SECONDS)
            client.kill()


def _await(pipe: Any) -> None:
    """Raise RuntimeError unless the client has attached in time; one that died has closed its end."""
    try:
        if pipe.poll(SECONDS) and pipe.recv():
            return
    except EOFError:
        pass
    raise RuntimeError("a client could not attach")


def _client(pool: Any, pipe: Any, inherited: list[Any]) -> None:
    for each in inherited:  # while any process has one of them open, its other end does not end with the parent
        each.close()
    pipe.send(inside.number_of(pool) >= 0)
    with contextlib.suppress(EOFError):
        pipe.recv()


def sizes(section: Section, plan: Plan) -> None:
    """Hit time by the value's size, beside LMDB's."""
    chosen = plan.of([4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB], [4 * KIB, 64 * KIB])
    count = plan.of(128, 8)
    table = Table(
        "ns per hit, by the value's size (128 values)",
        ("bytes", "lease", "memoryview(lease)", "slice", "LMDB, open transaction", "LMDB, transaction per get"),
    )
    numbers = loops.order(count, plan.hits)
    rows = {}
    for size in chosen:
        with (
            new_pool(2 * count * size, min(size, 64 * KIB)) as pool,
            shared_slices(count, size) as buffer,
            lmdb_cases(numbers, size) as lmdb,
            pinned(cpus()[:1]),
        ):
            mapping = values(pool, count, size)
            cases: dict[str, Callable[[], int]] = {
                "lease": loops.leases(mapping, numbers),
                "memoryview(lease)": loops.views(mapping, numbers),
                "slice": loops.slices(buffer, size, numbers),
                **lmdb,
            }
            rows[size] = interleave({name: per_op(loop, len(numbers)) for name, loop in cases.items()}, plan.rounds)
            del mapping, cases
    for size, took in rows.items():
        table.add(size, *[took.get(name) for name in table.columns[1:]])
    section.tables.append(table)
    section.found.append(
        record(
            f"hit of a value of {chosen[-1]:,} bytes",
            rows[chosen[-1]]["lease"],
            "ns",
            against=f"{chosen[0]:,} bytes",
            baseline=rows[chosen[0]]["lease"],
            budget="<= 1.3",
        )
    )
    section.plots["growth-sizes.svg"] = plot.lines(
        "Hit time and the value's size",
        "bytes per value",
        "ns per hit",
        {name: [(size, took[name]) for size, took in rows.items()] for name in table.columns[1:] if name in rows[chosen[0]]},
        log_x=True,
    )


def attaching(section: Section, plan: Plan) -> None:
    """Attach time by the segment's size."""
    table = Table("ms to attach, by the pool's size", ("GiB", "ms"))
    for size in plan.of([1 * GIB, 4 * GIB, 16 * GIB], [4 * MIB]):
        try:
            with new_pool(size) as pool:
                took = interleave({"attach": partial(attach_ms, pool.name)}, plan.rounds)["attach"]
        except Unavailable as missing:
            section.found.append(Skipped(f"attach, {size / GIB:g} GiB", str(missing)))
            continue
        table.add(size / GIB, took)
        section.found.append(record(f"attach, {size / GIB:g} GiB", took, "ms", budget="<= 100"))
    section.tables.append(table)
