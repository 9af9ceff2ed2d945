"""The figures that the project has budgets for, each against its baseline in the same interleaved run, within two minutes.

A group is a function from a :class:`Plan` to its records. What needs something that is not here (a compiler, LMDB, numpy,
memory) is skipped with a word.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.common.measure import Found, Skipped, Unavailable
from benchmarks.common.plan import Plan
from benchmarks.common.report import Section
from benchmarks.core.epochs import eviction
from benchmarks.core.files import fsspec
from benchmarks.core.fills import fill
from benchmarks.core.hits import hit, processes
from benchmarks.core.pairs import refcount
from benchmarks.core.sizes import attach, growth
from benchmarks.core.sums import consume

Group = Callable[[Plan], list[Found]]
GROUPS: dict[str, Group] = {
    group.__name__: group for group in (refcount, hit, processes, growth, attach, fill, fsspec, consume, eviction)
}


def run(plan: Plan) -> Section:
    """The records of all groups, or of the one that the plan names."""
    chosen = GROUPS if plan.only is None else [plan.only]
    return Section("core", [each for name in chosen for each in measure(name, plan)])


def measure(name: str, plan: Plan) -> list[Found]:
    """The records of one group."""
    try:
        return GROUPS[name](plan)
    except Unavailable as missing:
        return [Skipped(name, str(missing))]
