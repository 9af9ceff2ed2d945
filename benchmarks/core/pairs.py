"""get+put of the reference count, in C."""

from __future__ import annotations

import time
from functools import partial

from benchmarks.common import inside, native
from benchmarks.common.measure import Found, Unavailable, cpus, interleave, record
from benchmarks.common.plan import Plan
from benchmarks.common.pools import MIB, new_pool


def refcount(plan: Plan) -> list[Found]:
    """get+put without the GIL: the compiled core against the same pair in plain C."""
    library, line = native.library(), native.Line()
    with new_pool(16 * MIB) as pool, inside.counted_page(pool) as (mem, folio):

        def alone(kind: str) -> float:
            job = native.pair_job(kind, line.address, plan.pairs, mem, folio)
            library.run(job)
            return job.took_ns / job.count

        def together(kind: str) -> float:
            chosen = cpus()[:2]
            begin = time.perf_counter_ns() + 1_000_000
            jobs = (native.Job * 2)(
                *[native.pair_job(kind, line.address, plan.pairs, mem, folio, cpu, begin) for cpu in chosen]
            )
            if library.run_threads(jobs, 2) != 2:
                raise Unavailable("no threads")
            return max(job.took_ns for job in jobs) / (2 * plan.pairs)

        one = interleave({kind: partial(alone, kind) for kind in ("core", "fetch_add")}, plan.rounds)
        found: list[Found] = [
            record("refcount pair", one["core"], "ns", against="plain C", baseline=one["fetch_add"], budget="<= 1.2")
        ]
        if len(cpus()) > 1:
            two = interleave({kind: partial(together, kind) for kind in ("core", "xadd")}, plan.rounds)
            found.append(
                record(
                    "refcount pair, two threads on one line",
                    two["core"],
                    "ns",
                    against="lock xadd in plain C",
                    baseline=two["xadd"],
                    budget="<= 1.3",
                )
            )
    return found
