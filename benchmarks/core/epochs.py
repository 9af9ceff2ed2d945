"""Which pages stay: shuffled epochs over more than fits."""

from __future__ import annotations

from benchmarks.common import loops, policy
from benchmarks.common.measure import Found, record
from benchmarks.common.plan import Plan


def eviction(plan: Plan) -> list[Found]:
    """Shuffled epochs over twice the pool keep a stable part cached; the first epoch, which fills the pool, does not count."""
    pages, data = plan.policy_pages, 2 * plan.policy_pages
    trace = [page for epoch in range(plan.epochs) for page in loops.order(data, data, seed=epoch)]
    ratio = policy.hit_ratio(trace, pages, skip=data)
    return [
        record(
            "hit ratio, shuffled epochs over twice the pool",
            ratio,
            "",
            against="pool/data",
            baseline=pages / data,
            budget=">= 0.9",
        )
    ]
