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
        new.thread, new.index, new.stamp, new.kind, new.loc, new.value = (
            self.thread, self.index, self.stamp, self.kind, self.loc, self.value,
        )  # fmt: skip
        new.order, new.rf, new.ex, new.plain, new.op, new.twin = self.order, self.rf, self.ex, self.plain, self.op, self.twin
        new.hb, new.pf, new.rel, new.relf, new.acqp = self.hb, self.pf, self.rel, self.relf, self.acqp
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
    """One (partial) execution. ``done[t]``: None while thread t can go on, else how it ended (see ``machine``).

    A copy shares its lists of events by location with the original; each makes those of a location its own (:meth:`own`)
    before it changes them.
    """

    __slots__ = ("done", "light", "mo", "owned", "plain", "reads", "seq_cst", "stamp", "threads")
    threads: list[list[Event]]
    mo: dict[Loc, list[Event]]
    reads: dict[Loc, list[Event]]
    plain: dict[Loc, list[Event]]
    owned: set[Loc]
    done: list[End | None]
    stamp: int
    seq_cst: int
    light: int

    def __init__(self, nthreads: int) -> None:
        self.threads = [[] for _ in range(nthreads)]
        self.mo = {}
        self.reads = {}
        self.plain = {}
        self.owned = set()
        self.done = [None] * nthreads
        self.stamp = 0
        self.seq_cst = self.light = 0

    def begin(self, loc: Loc, first: Event) -> list[Event]:
        """Begin a location with its initial write; return the list of its writes."""
        writes = self.mo[loc] = [first]
        self.reads[loc] = []
        self.owned.add(loc)
        return writes

    def own(self, loc: Loc) -> None:
        """Make the lists of a location this graph's own, so that they may be changed."""
        if loc not in self.owned:
            self.owned.add(loc)
            self.mo[loc] = self.mo[loc].copy()
            self.reads[loc] = self.reads[loc].copy()
            if loc in self.plain:
                self.plain[loc] = self.plain[loc].copy()

    def insert(self, write: Event, position: int) -> None:
        """Put a write into ``mo``."""
        self.own(write.loc)
        self.mo[write.loc].insert(position, write)

    def copy(self) -> Graph:
        new = Graph.__new__(Graph)
        new.threads = [events.copy() for events in self.threads]
        new.mo = self.mo.copy()
        new.reads = self.reads.copy()
        new.plain = self.plain.copy()
        self.owned = set()
        new.owned = set()
        new.done = self.done.copy()
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
            self.own(e.loc)
            self.reads[e.loc].append(e)
        if e.plain:
            self.own(e.loc)
            self.plain.setdefault(e.loc, []).append(e)
        if e.order == "seq_cst":
            self.seq_cst += 1
        elif e.order == "light":
            self.light += 1

    def restrict(self, keep: Sequence[int], last: Event) -> Graph:
        """Return a copy with ``keep[t]`` events of each thread, and ``last`` in place of the last one of its own thread."""
        new = self.copy()
        touched = {last.loc}
        for t, n in enumerate(keep):
            events = new.threads[t]
            if len(events) > n:
                touched.update(e.loc for e in events[n:])
                del events[n:]
                new.done[t] = None
        touched.discard(None)  # fences and choices
        new.threads[last.thread][-1] = last
        new.done[last.thread] = None
        new.owned = touched
        for loc in touched:
            new.mo[loc] = [w for w in self.mo[loc] if w.thread < 0 or w.index < keep[w.thread]]
            new.reads[loc] = [r for r in self.reads[loc] if r.index < keep[r.thread]]
            if loc in self.plain:
                new.plain[loc] = [e for e in self.plain[loc] if e.index < keep[e.thread]]
        new.reads[last.loc] = [last if r.thread == last.thread and r.index == last.index else r for r in new.reads[last.loc]]
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
