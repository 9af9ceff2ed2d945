"""Execution graphs: what the explorer builds, copies, cuts back and compares.

A graph holds the events that each thread has performed so far, and for each location the *modification order* ``mo`` of its
writes. A read refers to the write that it reads from. Nothing else describes an execution: the interleaving that led here is
not kept, and two interleavings with the same graph are one execution.

What a thread knows is a vector clock over the events of all threads (the last entry, always 1, stands for the initial values):

``hb``    the events that happen before the end of this event, itself included
``pf``    its causes: everything reachable backwards over program order and reads-from, synchronizing or not
``rel``   of a write: what a thread that acquires it comes to know (the message's view)
``relf``  ``hb`` at the last release fence: the view that relaxed writes carry
``acqp``  what relaxed reads brought in, for the next acquire fence to take up

A read-modify-write is two events, both ``ex``: a read, and a write that comes at once after the message read (its ``rf``, too).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias, overload

Loc: TypeAlias = Hashable  # an offset, or a tuple or string for what is not memory; None for a fence
Value: TypeAlias = Any  # what a program keeps there: numbers, and the content of pages
Clock: TypeAlias = tuple[int, ...]
End: TypeAlias = tuple[str, Any]  # how a thread ended: "finished" and its value, "blocked" and the Blocked, "died" and None

READ, WRITE, FENCE, CHOICE = "R", "W", "F", "C"


class Event:
    __slots__ = (
        "acqp",
        "ex",
        "hb",
        "index",
        "kind",
        "loc",
        "op",
        "order",
        "pf",
        "plain",
        "rel",
        "relf",
        "rf",
        "stamp",
        "thread",
        "twin",
        "value",
    )  # fmt: skip
    thread: int
    index: int
    stamp: int
    kind: str
    loc: Loc
    value: Value
    order: str
    rf: Event  # unset (None) for what reads nothing
    ex: bool
    plain: bool
    op: Any  # of a replay: where in the source; see ``replay.Site``
    hb: Clock
    pf: Clock
    rel: Clock | None
    relf: Clock | None
    acqp: Clock | None
    twin: Event | None

    def clone(self) -> Event:
        new = Event.__new__(Event)
        for name in Event.__slots__:
            setattr(new, name, getattr(self, name))
        return new

    def __repr__(self) -> str:
        return f"{self.op or self.kind}@{self.thread}.{self.index}"


def initial_write(loc: Loc, value: Value, none: Clock) -> Event:
    """Return the message that the location starts with; it happens before everything."""
    e = Event.__new__(Event)
    e.thread, e.index, e.stamp, e.kind, e.loc, e.value = -1, 0, 0, WRITE, loc, value
    e.rf = None  # type: ignore[assignment]
    e.order, e.ex, e.plain, e.op = "relaxed", False, False, "init"
    e.hb = e.pf = none
    e.rel = e.relf = e.acqp = None
    return e


@overload
def join(a: Clock, b: Clock | None) -> Clock: ...
@overload
def join(a: Clock | None, b: Clock | None) -> Clock | None: ...
def join(a: Clock | None, b: Clock | None) -> Clock | None:
    """Return the clock that knows what ``a`` or ``b`` knows; None is an empty one."""
    if a is b or b is None:
        return a
    if a is None:
        return b
    return tuple(map(max, a, b))


class Graph:
    """One (partial) execution. ``done[t]``: None while thread t can go on, else how it ended (see ``machine``)."""

    __slots__ = ("done", "light", "mo", "plain", "reads", "seq_cst", "stamp", "threads")
    threads: list[list[Event]]
    mo: dict[Loc, list[Event]]
    reads: dict[Loc, list[Event]]
    plain: dict[Loc, list[Event]]
    done: list[End | None]
    stamp: int
    seq_cst: int
    light: int

    def __init__(self, nthreads: int) -> None:
        self.threads = [[] for _ in range(nthreads)]
        self.mo = {}
        self.reads = {}
        self.plain = {}
        self.done = [None] * nthreads
        self.stamp = 0
        self.seq_cst = self.light = 0

    def copy(self) -> Graph:
        new = Graph.__new__(Graph)
        new.threads = [list(events) for events in self.threads]
        new.mo = {loc: list(writes) for loc, writes in self.mo.items()}
        new.reads = {loc: list(reads) for loc, reads in self.reads.items()}
        new.plain = {loc: list(events) for loc, events in self.plain.items()} if self.plain else {}
        new.done = list(self.done)
        new.stamp = self.stamp
        new.seq_cst = self.seq_cst
        new.light = self.light
        return new

    def add(self, e: Event) -> None:
        """Append ``e`` to its thread. The caller puts a write into ``mo``."""
        self.stamp += 1
        e.stamp = self.stamp
        self.threads[e.thread].append(e)
        if e.kind is READ:
            self.reads[e.loc].append(e)
        if e.plain:
            self.plain.setdefault(e.loc, []).append(e)
        if e.order == "seq_cst":
            self.seq_cst += 1
        elif e.order == "light":
            self.light += 1

    def restrict(self, keep: Sequence[int], last: Event) -> Graph:
        """Return a copy with ``keep[t]`` events of each thread, and ``last`` in place of the last one of its own thread."""
        new = Graph.__new__(Graph)
        new.threads = [events[:n] for events, n in zip(self.threads, keep, strict=True)]
        new.threads[last.thread][-1] = last
        new.done = [
            end if len(events) == n and t != last.thread else None
            for t, (events, n, end) in enumerate(zip(self.threads, keep, self.done, strict=True))
        ]
        new.mo = {loc: [w for w in ws if w.thread < 0 or w.index < keep[w.thread]] for loc, ws in self.mo.items()}
        new.reads = {loc: [r for r in rs if r.index < keep[r.thread]] for loc, rs in self.reads.items()}
        new.reads[last.loc] = [last if r.thread == last.thread and r.index == last.index else r for r in new.reads[last.loc]]
        new.plain = {loc: [e for e in es if e.index < keep[e.thread]] for loc, es in self.plain.items()}
        new.stamp = self.stamp
        new.seq_cst = sum(e.order == "seq_cst" for events in new.threads for e in events) if self.seq_cst else 0
        new.light = sum(e.order == "light" for events in new.threads for e in events) if self.light else 0
        return new

    def view(self, loc: Loc, hb: Clock) -> int:
        """Return the position in ``mo`` of the oldest message of ``loc`` that an observer with clock ``hb`` may still read."""
        writes = self.mo[loc]
        seen = {r.rf for r in self.reads[loc] if r.index < hb[r.thread]}
        for position in range(len(writes) - 1, 0, -1):
            w = writes[position]
            if w.index < hb[w.thread] or w in seen:
                return position
        return 0

    def split(self, loc: Loc, position: int) -> bool:
        """Return True if a write at ``position`` would come between a read-modify-write and the message that it read."""
        writes = self.mo[loc]
        return position < len(writes) and writes[position].ex and writes[position].rf is writes[position - 1]

    def events(self) -> list[Event]:
        return [e for events in self.threads for e in events]

    def key(self) -> Hashable:
        """Return a value that is equal for equal executions: every choice, every reads-from, every modification order."""
        reads = tuple(
            tuple(
                (e.rf.thread, e.rf.index) if e.rf is not None else e.value for e in events if e.kind is READ or e.kind is CHOICE
            )
            for events in self.threads
        )
        orders = tuple((loc, tuple((w.thread, w.index) for w in ws[1:])) for loc, ws in self.mo.items() if len(ws) > 2)
        return reads, frozenset(orders)
