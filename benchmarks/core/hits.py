"""A hit from a Python loop, in one process and in two."""

from __future__ import annotations

import foliocache
from benchmarks.common import loops
from benchmarks.common.baselines import SLICE, lmdb_cases, shared_slices
from benchmarks.common.measure import Found, Skipped, Unavailable, cpus, interleave, per_op, pinned, record
from benchmarks.common.plan import Plan
from benchmarks.common.pools import VALUE, new_pool, one_per_folio, values
from benchmarks.common.worker_pool import WorkerPool


def hit(plan: Plan) -> list[Found]:
    """One hit of a 64 KiB value from a Python loop, first byte touched."""
    numbers = loops.order(plan.values, plan.hits)
    with (
        new_pool(2 * plan.values * VALUE, VALUE) as pool,
        shared_slices(plan.values, VALUE) as buffer,
        lmdb_cases(numbers) as lmdb,
    ):
        mapping = values(pool, plan.values, VALUE)
        held = {n: bytes(buffer[n * VALUE : (n + 1) * VALUE]) for n in range(plan.values)}
        cases = {
            "dict": loops.dictionary(held, numbers),
            SLICE: loops.slices(buffer, VALUE, numbers),
            "lease": loops.leases(mapping, numbers),
            "memoryview(lease)": loops.views(mapping, numbers),
            "with lease": loops.with_leases(mapping, numbers),
            "mapping.read": loops.reads(mapping, VALUE, numbers),
            **lmdb,
        }
        with pinned(cpus()[:1]):
            took = interleave({name: per_op(loop, plan.hits) for name, loop in cases.items()}, plan.rounds)
    return _hit_records(took)


def _hit_records(took: dict[str, float]) -> list[Found]:
    slice_ = took[SLICE]
    found: list[Found] = [
        record("hit: lease", took["lease"], "ns", against=SLICE, baseline=slice_, budget="<= 1.5"),
        record("hit: memoryview(lease)", took["memoryview(lease)"], "ns", against=SLICE, baseline=slice_, budget="<= 2"),
        record("hit: with lease, memoryview", took["with lease"], "ns", against=SLICE, baseline=slice_),
        record("hit: mapping.read", took["mapping.read"], "ns", against=SLICE, baseline=slice_),
        record("hit: lease against a dict", took["lease"], "ns", against="dict", baseline=took["dict"]),
    ]
    for name, budget in (("LMDB, open transaction", ">= 4"), ("LMDB, transaction per get", ">= 8")):
        if name in took:
            found.append(
                record(f"hit: lease against {name}", took["lease"], "ns", against=name, baseline=took[name], budget=budget)
            )
        else:
            found.append(Skipped(f"hit: lease against {name}", "lmdb is not installed"))
    return found


def hitters(name: str, count: int, number: int, length: int) -> dict[str, loops.Loop]:
    """WorkerPool: hits on values of its own, and on one value that all share."""
    mapping = one_per_folio(foliocache.attach(name), count, VALUE)
    return {
        "different": loops.leases(mapping, loops.order(range(number % 4, count, 4), length)),
        "same": loops.leases(mapping, [0] * length),
    }


def processes(plan: Plan) -> list[Found]:
    """Two processes at once, pinned to a processor each."""
    if len(cpus()) < 2:
        raise Unavailable("needs two processors")
    length = plan.hits * 4
    with new_pool(2 * plan.values * VALUE, VALUE) as pool:
        values(pool, plan.values, VALUE)
        with WorkerPool(hitters, [(pool.name, plan.values, n, length) for n in range(2)], cpus()) as workers:
            rates = interleave(
                {
                    "one": lambda: workers.rate("different", 1),
                    "different": lambda: workers.rate("different"),
                    "same": lambda: workers.rate("same"),
                },
                plan.rounds,
            )
    return [
        record(
            "two processes, different folios",
            rates["different"],
            "hits/s",
            against="one process",
            baseline=rates["one"],
            budget=">= 1.8",
        ),
        record("two processes, the same folio", rates["same"], "hits/s", against="one process", baseline=rates["one"]),
    ]
