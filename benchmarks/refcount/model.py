"""A MODEL, not a measurement: what a shared line costs with more processors than were at hand.

One atomic instruction on a line that another processor has costs a transfer ``t`` on top of its local cost ``l``. With N
processors at it at random, the line is elsewhere with probability (N - 1) / N, and a pair of two instructions takes, in wall
time of the whole machine (the line is in one place at a time, so processors do not add up)::

    xadd, fetch_add, core    2 l + 2 t (N - 1) / N
    cmpxchg loops            the same, and for the get a further round l + t for each time that another came between

Both parameters of a kind are solved from its measured one- and two-processor times: ``2 l`` is the time alone, ``t`` what two
processors add. For cmpxchg loops the rounds are part of that; a round fails when one of the other N - 1 has changed the word
between load and exchange, so the expected number of failures grows with N - 1, and that factor is the whole difference between
the curves. Sockets, fairness and backoff are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.common import plot
from benchmarks.common.report import Section, Table

PROCESSORS = (1, 2, 4, 8, 16, 32, 64)
LOOPS = ("mainline", "optimistic")


def wall(kind: str, n: int, alone: float, both: float, floor: float) -> float:
    """ns per pair with n processors. ``floor`` is what two processors add to a pair of xadds: transfers without failures."""
    share = 2 * (n - 1) / n
    if kind not in LOOPS:
        return alone + (both - alone) * share
    transfers = min(floor, both - alone)
    return alone + transfers * share + (both - alone - transfers) * (n - 1)


def add(section: Section, measured: Mapping[int, Mapping[str, float]]) -> None:
    """The model's table and plot, for the kinds that two processors, if there are two, took longer for than one."""
    if 1 not in measured or 2 not in measured:
        return
    alone, both = measured[1], measured[2]
    floor = max(both["xadd"] - alone["xadd"], 0.0)
    kinds = [kind for kind in alone if both[kind] > alone[kind]]
    if not kinds:
        return
    table = Table("MODEL (not measured): ns of wall time per get+put on one line", ("processors", *kinds))
    curves = {kind: [(n, wall(kind, n, alone[kind], both[kind], floor)) for n in PROCESSORS] for kind in kinds}
    for place, n in enumerate(PROCESSORS):
        table.add(str(n), *[curves[kind][place][1] for kind in kinds])
    section.tables.append(table)
    series = {f"{kind}, model": points for kind, points in curves.items()}
    dots = {kind: [(n, found[kind]) for n, found in measured.items()] for kind in kinds}
    section.plots["refcount.svg"] = plot.lines(
        "get+put on one shared line: measured (dots), and a model for more processors (broken)",
        "processors",
        "ns of wall time per pair",
        {**dots, **series},
        log_x=True,
        dashed=list(series),
    )
