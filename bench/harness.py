"""What the benches here have in common, on top of what ``foliocache bench`` ships: sections, tables, the machine in words."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foliocache.cli.bench.core import Plan as CorePlan
from foliocache.cli.bench.harness import (
    Case,
    Record,
    Skipped,
    available_memory,
    cpus,
    interleave,
    per_op,
    pinned,
    record,
    samples,
)

__all__ = [
    "Case",
    "Plan",
    "Record",
    "Section",
    "Skipped",
    "Table",
    "available_memory",
    "cpus",
    "figure",
    "interleave",
    "machine",
    "per_op",
    "pinned",
    "record",
    "samples",
]


@dataclass(frozen=True)
class Plan:
    """How much of everything; ``core`` is the part that ``foliocache bench`` knows."""

    core: CorePlan = field(default_factory=CorePlan)
    tiny: bool = False
    traces: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = (1,)
    huge: Path | None = None

    def of(self, real: Any, tiny: Any) -> Any:
        """The one or the other size."""
        return tiny if self.tiny else real


@dataclass
class Table:
    """Rows of figures under names; the first column is a name, the others are right-aligned."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)

    def add(self, *cells: Any) -> None:
        self.rows.append(cells)

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["---", *["---:"] * (len(self.columns) - 1)])]
        return "\n".join([*lines, *(_line([figure(cell) for cell in row]) for row in self.rows)])

    def as_dict(self) -> dict[str, Any]:
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows]}


@dataclass
class Section:
    """What one bench found: figures with budgets, tables, plots by file name."""

    name: str
    found: list[Record | Skipped] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        parts = [table.markdown() for table in self.tables]
        if any(isinstance(each, Record) for each in self.found):
            parts.append(budget_table(self.found).markdown())
        skipped = [f"- skipped: {each.metric}: {each.why}" for each in self.found if isinstance(each, Skipped)]
        return "\n\n".join([*parts, *(["\n".join(skipped)] if skipped else [])])


def budget_table(found: Sequence[Record | Skipped]) -> Table:
    table = Table("Figures and budgets", ("metric", "value", "unit", "baseline", "against", "ratio", "budget", "met"))
    for each in found:
        if isinstance(each, Record):
            met = "" if each.budget is None else "yes" if each.met else "**no**"
            table.add(each.metric, each.value, each.unit, each.baseline, each.against, each.ratio, each.budget, met)
    return table


def figure(value: Any) -> str:
    """Three significant digits; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> str:
    """The machine in words."""
    with open("/proc/cpuinfo") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    model = {key.strip(): value.strip() for key, value in fields.items()}
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) / (1 << 20)
    return (
        f"{model.get('model name', platform.machine())} (family {model.get('cpu family', '?')}, model {model.get('model', '?')}), "
        f"{len(cpus())} processors for us of {os.cpu_count()}{', virtual' if 'hypervisor' in model.get('flags', '') else ''}, "
        f"{total:.0f} GiB of memory, Linux {platform.release()}, CPython {platform.python_version()}"
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join('' if cell is None else cell.replace('|', '/') for cell in cells)} |"
