"""Cost as things grow: a hit among many cached folios, and attaching to a large pool."""

from __future__ import annotations

from benchmarks.common import loops
from benchmarks.common.measure import Found, interleave, per_op, record
from benchmarks.common.plan import Plan
from benchmarks.common.pools import KIB, MIB, attach_ms, metadata_per_page, new_pool, values


def growth(plan: Plan) -> list[Found]:
    """A thousand hot folios among ever more cached ones; attaching."""
    hot, page = min(1000, plan.grown), 4 * KIB
    with new_pool(2 * hot * page + 4 * MIB, page) as small, new_pool(plan.grown * page * 9 // 8 + 4 * MIB, page) as large:
        few, many = values(small, hot, page), values(large, plan.grown, page)
        took = interleave(
            {
                "few": per_op(loops.leases(few, loops.order(hot, plan.hits)), plan.hits),
                "many": per_op(loops.leases(many, loops.order(loops.anywhere(hot, plan.grown), plan.hits)), plan.hits),
            },
            plan.rounds,
        )
        overhead = metadata_per_page(large)
    return [
        record(
            f"hit, {hot} of {plan.grown} cached folios",
            took["many"],
            "ns",
            against=f"{hot} cached folios",
            baseline=took["few"],
            budget="<= 1.3",
        ),
        record("memory overhead per cached folio of 4 KiB", overhead, "bytes"),
    ]


def attach(plan: Plan) -> list[Found]:
    """Attaching to a pool that exists, until it can be used."""
    with new_pool(plan.attach_bytes) as pool:
        took = interleave({"attach": lambda: attach_ms(pool.name)}, plan.rounds)
    return [record(f"attach, pool of {plan.attach_bytes // MIB} MiB", took["attach"], "ms", budget="<= 100")]
