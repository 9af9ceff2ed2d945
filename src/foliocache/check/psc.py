"""The ``psc`` condition of RC11, on whole graphs, with rows of bits for relations.

    scb      = po ∪ po|≠loc ; hb ; po|≠loc ∪ hb|=loc ∪ mo ∪ rb
    psc_base = ([SC] ∪ [Fsc] ; hb?) ; scb ; ([SC] ∪ hb? ; [Fsc])
    psc_F    = [Fsc] ; (hb ∪ hb ; eco ; hb) ; [Fsc]

acyclic(psc_base ∪ psc_F): Lahav, Vafeiadis, Kang, Hur, Dreyer, "Repairing Sequential Consistency in C/C++11", PLDI 2017.
Only graphs with at least two seq_cst events come here; the protocol's own have none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from .graph import FENCE, READ, WRITE

if TYPE_CHECKING:
    from .graph import Event, Graph


Bits: TypeAlias = list[int]  # a relation: for each event a row, in which bit n stands for event number n


def _compose(a: Bits, b: Bits) -> Bits:
    rows = []
    for row in a:
        out = 0
        while row:
            low = row & -row
            out |= b[low.bit_length() - 1]
            row ^= low
        rows.append(out)
    return rows


def _union(*relations: Bits) -> Bits:
    rows = []
    for parts in zip(*relations, strict=True):
        row = 0
        for part in parts:
            row |= part
        rows.append(row)
    return rows


def _closure(a: Bits) -> Bits:
    rows = list(a)
    for k in range(len(rows)):
        bit = 1 << k
        through = rows[k]
        for i, row in enumerate(rows):
            if row & bit:
                rows[i] = row | through
                if i == k:
                    through = rows[k]
    return rows


def _relation(events: list[Event], related: Callable[[Event, Event], bool]) -> Bits:
    return [sum(1 << j for j, b in enumerate(events) if i != j and related(a, b)) for i, a in enumerate(events)]


def _happens_before(a: Event, b: Event) -> bool:
    return a.index < b.hb[a.thread] and b.thread >= 0


def _base(events: list[Event], seq_cst: int, fences: int, hb: Bits, po: Bits, communication: Bits) -> Bits:
    n = len(events)
    one = [1 << i for i in range(n)]
    differ = [0 if e.loc is None else sum(1 << j for j, o in enumerate(events) if o.loc == e.loc) for e in events]
    po_ne = [row & ~same for row, same in zip(po, differ, strict=True)]
    hb_eq = [row & same for row, same in zip(hb, differ, strict=True)]
    scb = _union(po, _compose(_compose(po_ne, hb), po_ne), hb_eq, communication)
    hb_maybe = _union(hb, one)
    left = [(one[i] if seq_cst >> i & 1 else 0) | (hb_maybe[i] if fences >> i & 1 else 0) for i in range(n)]
    right = [(one[i] & seq_cst) | (hb_maybe[i] & fences) for i in range(n)]
    return _compose(_compose(left, scb), right)


def acyclic(graph: Graph) -> bool:
    """Return True if the condition holds."""
    events = [ws[0] for ws in graph.mo.values()] + graph.events()
    number = {e: i for i, e in enumerate(events)}
    hb = _relation(events, _happens_before)
    po = _relation(events, lambda a, b: b.thread >= 0 and (a.thread < 0 or (a.thread == b.thread and a.index < b.index)))
    rf, mo, rb = _communication(graph, events, number)
    eco = _closure(_union(rf, mo, rb))
    seq_cst = sum(1 << i for i, e in enumerate(events) if e.order == "seq_cst")
    fences = sum(1 << i for i, e in enumerate(events) if e.order == "seq_cst" and e.kind is FENCE)
    base = _base(events, seq_cst, fences, hb, po, _union(mo, rb))
    strong = _union(hb, _compose(_compose(hb, eco), hb))
    between = [row & fences if fences >> i & 1 else 0 for i, row in enumerate(strong)]
    order = _closure(_union(base, between))
    return not any(row >> i & 1 for i, row in enumerate(order))


def _communication(graph: Graph, events: list[Event], number: dict[Event, int]) -> tuple[Bits, Bits, Bits]:
    rf, mo, rb = ([0] * len(events) for _ in range(3))
    for writes in graph.mo.values():
        later = 0
        for w in reversed(writes):
            mo[number[w]] = later
            later |= 1 << number[w]
    for e in events:
        if e.kind is READ:
            rf[number[e.rf]] |= 1 << number[e]
            rb[number[e]] = mo[number[e.rf]] & ~(1 << number[e])
    assert all(e.kind is WRITE for ws in graph.mo.values() for e in ws)
    return rf, mo, rb
