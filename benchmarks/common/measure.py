"""Measuring: interleaved rounds and their medians.

Cases that are compared run in turns within one process, in an order that rotates from round to round, so that whatever disturbs
the machine disturbs all of them alike. A figure is the median of its rounds; the claim is the ratio of two medians of one run.
"""

from __future__ import annotations

import contextlib
import gc
import operator
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Case = Callable[[], float]
_HOLDS = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Record:
    """One figure: its baseline in the same unit, the ratio that the budget speaks of, and whether it is met.

    ``met`` is True where there is no budget. ``against`` says what the baseline is.
    """

    metric: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    budget: str | None = None
    met: bool = True
    against: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Skipped:
    """What could not be measured here, and why."""

    metric: str
    why: str


Found = Record | Skipped


class Unavailable(Exception):
    """Something that a benchmark needs is missing; the message says what."""


def record(
    metric: str,
    value: float,
    unit: str,
    *,
    against: str | None = None,
    baseline: float | None = None,
    budget: str | None = None,
    ratio: float | None = None,
) -> Record:
    """A Record; the ratio is value / baseline, for a budget of ``>=`` on times the other way round (how many times faster)."""
    if ratio is None and baseline:
        faster = budget is not None and budget.startswith(">=") and unit in ("ns", "us", "ms", "s")
        ratio = baseline / value if faster else value / baseline
    return Record(metric, value, unit, baseline, ratio, budget, holds(value if ratio is None else ratio, budget), against)


def holds(value: float, budget: str | None) -> bool:
    """True if a value is within a budget such as ``<= 1.5``."""
    if budget is None:
        return True
    relation, bound = budget.split()
    return bool(_HOLDS[relation](value, float(bound)))


def interleave(cases: Mapping[str, Case], rounds: int, warmup: int = 1) -> dict[str, float]:
    """Return the median of each case's results over the rounds."""
    taken = samples(cases, rounds, warmup)
    return {name: statistics.median(values) for name, values in taken.items()}


def samples(cases: Mapping[str, Case], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Return all results of each case, after ``warmup`` rounds that do not count."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    with collected():
        for number in range(-warmup, rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                value = cases[name]()
                if number >= 0:
                    taken[name].append(value)
    return taken


def per_op(function: Callable[[], Any], operations: int) -> Case:
    """Return a case: nanoseconds per operation of a function that does that many operations."""

    def case() -> float:
        begin = time.perf_counter_ns()
        function()
        return (time.perf_counter_ns() - begin) / operations

    return case


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """Collect garbage before, and not during, the time of a ``with``."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def pinned(cpus: Iterable[int] | None) -> Iterator[None]:
    """Run on these processors alone; None changes nothing."""
    before = os.sched_getaffinity(0)
    if cpus is not None:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpus() -> list[int]:
    """Return the processors that this process may use."""
    return sorted(os.sched_getaffinity(0))


def counts() -> list[int]:
    """Return how many runners there are side by side in a bench: 1, 2, 4 ... and all processors."""
    most = len(cpus())
    return sorted({min(1 << n, most) for n in range(most.bit_length() + 1)})


def available_memory() -> int:
    """Return how many bytes could be allocated without swapping."""
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["MemAvailable"].split()[0]) * 1024
