"""Reading all of a value."""

from __future__ import annotations

from benchmarks.common import loops
from benchmarks.common.baselines import SLICE, shared_slices
from benchmarks.common.measure import Found, Unavailable, interleave, per_op, record
from benchmarks.common.plan import Plan
from benchmarks.common.pools import KIB, MIB, new_pool, values


def consume(plan: Plan) -> list[Found]:
    """numpy's sum over values of 1 MiB."""
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise Unavailable("needs numpy") from None
    count = max(plan.values // 16, 4)
    numbers = loops.order(count, max(plan.hits // 64, count))
    with new_pool(2 * count * MIB, 64 * KIB) as pool, shared_slices(count, MIB) as buffer:
        mapping = values(pool, count, MIB)
        took = interleave(
            {
                "lease": per_op(loops.sums(lambda n: mapping.lease(n * MIB), numbers), len(numbers)),
                "slice": per_op(loops.sums(lambda n: buffer[n * MIB : n * MIB + MIB], numbers), len(numbers)),
            },
            plan.rounds,
        )
    speed = {name: MIB / each for name, each in took.items()}
    return [
        record("consume 1 MiB (numpy sum)", speed["lease"], "GB/s", against=SLICE, baseline=speed["slice"], budget=">= 0.95")
    ]
