"""Memory: what a pool costs as it takes some and gives some back; and a hog that needs it, beside the kernel's page cache."""

from __future__ import annotations

from benchmarks.common.measure import Skipped, Unavailable
from benchmarks.common.plan import Plan
from benchmarks.common.report import Section
from benchmarks.memory import costs, hog, huge


def run(plan: Plan) -> Section:
    section = Section("memory-machine" if plan.machine else "memory")
    every = (costs.opening, costs.first_use, costs.further_use, costs.trimming, costs.hits, huge.pages, hog.scene)
    for part in (hog.whole_machine,) if plan.machine else every:
        try:
            part(section, plan)
        except Unavailable as missing:
            section.found.append(Skipped(f"memory: {part.__name__}", str(missing)))
    return section
