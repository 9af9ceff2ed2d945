"""What the benches found: sections of records, tables and plots; as JSON, as markdown and on a terminal; the machine in
words."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common.measure import Found, Record, Skipped, cpus
from foliocache.cli.output import console, table


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
    """The results of one bench: figures with budgets, tables, plots by file name."""

    name: str
    found: list[Found] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, **as_document(self.found), "tables": [each.as_dict() for each in self.tables]}

    def markdown(self) -> str:
        parts = [each.markdown() for each in self.tables]
        if any(isinstance(each, Record) for each in self.found):
            parts.append(budget_table(self.found).markdown())
        skipped = [f"- skipped: {each.metric}: {each.why}" for each in self.found if isinstance(each, Skipped)]
        return "\n\n".join([*parts, *(["\n".join(skipped)] if skipped else [])])


BUDGET_COLUMNS = ("metric", "value", "unit", "baseline", "against", "ratio", "budget", "met")


def budget_table(found: Iterable[Found]) -> Table:
    """Return the table of the records, without what was skipped."""
    made = Table("Figures and budgets", BUDGET_COLUMNS)
    for each in found:
        if isinstance(each, Record):
            met = "" if each.budget is None else "yes" if each.met else "**no**"
            made.add(each.metric, each.value, each.unit, each.baseline, each.against, each.ratio, each.budget, met)
    return made


def as_document(found: Iterable[Found]) -> dict[str, Any]:
    """For JSON: records under ``results``, what could not be measured under ``skipped``."""
    found = list(found)
    return {
        "results": [each.as_dict() for each in found if isinstance(each, Record)],
        "skipped": [{"metric": each.metric, "why": each.why} for each in found if isinstance(each, Skipped)],
    }


def show(section: Section) -> None:
    """Print the section on stdout."""
    for each in section.tables:
        shown = table(each.title, each.columns[0], *[f">{column}" for column in each.columns[1:]])
        for row in each.rows:
            shown.add_row(*[figure(cell) for cell in row])
        console().print(shown)
    if section.found:
        _show_budgets(section.found)


def _show_budgets(found: Iterable[Found]) -> None:
    from rich.text import Text

    shown = table(None, "metric", ">value", "unit", ">baseline", "against", ">ratio", "budget", "met")
    for each in found:
        if isinstance(each, Skipped):
            shown.add_row(each.metric, "-", "", "", each.why, "", "", "")
            continue
        met = "" if each.budget is None else "yes" if each.met else Text("NO", style="bold red")
        figures = (each.value, each.unit, each.baseline, each.against, each.ratio, each.budget)
        shown.add_row(each.metric, *map(figure, figures), met)
    console().print(shown)


def figure(value: Any) -> str:
    """Return a value with three significant digits; an empty string for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> str:
    """Return a description of the machine."""
    with open("/proc/cpuinfo") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    model = {key.strip(): value.strip() for key, value in fields.items()}
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) / (1 << 20)
    return (
        f"{model.get('model name', platform.machine())} "
        f"(family {model.get('cpu family', '?')}, model {model.get('model', '?')}), "
        f"{len(cpus())} processors for us of {os.cpu_count()}{', virtual' if 'hypervisor' in model.get('flags', '') else ''}, "
        f"{total:.0f} GiB of memory, Linux {platform.release()}, CPython {platform.python_version()}"
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join('' if cell is None else cell.replace('|', '/') for cell in cells)} |"
