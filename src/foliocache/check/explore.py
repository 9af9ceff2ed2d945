"""Visits every consistent execution graph of a program once, without storing those that were visited.

The algorithm is TruSt (Kokologiannakis, Marmanis, Gladstein, Vafeiadis, "Truly stateless, optimal dynamic partial order
reduction", POPL 2022), which GenMC uses. Threads run one after the other, so a read cannot take a write of a thread that has
not run yet. The write makes up for that when it comes: it *revisits* each earlier read of its location that is not among its
causes. The read then takes the new write, and the events added after the read, except the causes of the write, are cut off and
added again. One graph could be reached from several in this way; :func:`maximal` picks the one in which every event cut off
had been added in the plainest way. No graph is reached twice, and none is missed.

The work left is a stack of (graph, alternatives). Any entry can be explored without the others, so one scenario can be spread
over processes (``parallel``).
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from .graph import CHOICE, READ, WRITE, Graph, join
from .machine import Choices, Machine
from .memory import Abandon, Failure
from .replay_string import encode
from .symmetry import causes, lowest, predecessors
from .trace import preemptions

if TYPE_CHECKING:
    from .graph import Event, Loc, Value
    from .model import Model
    from .program import Program


Entry: TypeAlias = "tuple[Graph, Choices]"


class Result:
    """The result of an exploration; results of parts add up (:meth:`add`)."""

    executions: int
    blocked: int
    operations: int
    stutters: int
    finished: bool

    def __init__(self) -> None:
        self.executions = self.blocked = self.operations = self.stutters = 0
        self.keys: set[int] = set()
        self.outcomes: set[Hashable] = set()
        self.failure: Found | None = None
        self.finished = True

    @property
    def graphs(self) -> int:
        return len(self.keys)

    def add(self, other: Result) -> None:
        self.executions += other.executions
        self.blocked += other.blocked
        self.operations += other.operations
        self.stutters += other.stutters
        self.keys |= other.keys
        self.outcomes |= other.outcomes
        self.failure = self.failure or other.failure
        self.finished = self.finished and other.finished


class Found:
    """A failure, and the replay string of the execution that ends in it."""

    kind: str
    message: str
    thread: int | None
    replay_string: str

    def __init__(self, failure: Failure, graph: Graph) -> None:
        self.kind, self.message, self.thread = failure.kind, failure.message, failure.thread
        self.replay_string = encode(graph, failure.thread)


class Explorer:
    program: Program
    model: Model
    names: list[str]
    timeouts: bool
    lower: list[int | None]
    machine: Machine
    result: Result
    deadline: float | None
    stop: bool
    bound: int | None

    def __init__(
        self,
        program: Program,
        model: Model,
        initial: Mapping[Loc, Value],
        names: list[str],
        deadline: float | None = None,
        stop: bool = True,
        bound: int | None = None,
    ) -> None:
        self.program, self.model, self.names = program, model, names
        self.timeouts = program.timeouts
        self.lower = predecessors(program)
        self.machine = Machine(self, program.geometry, initial, len(program.threads))
        self.result = Result()
        self.stack: list[Entry] = []
        self.deadline, self.stop, self.bound = deadline, stop, bound
        self.result.finished = bound is None

    def name(self, loc: Loc) -> str:
        return self.program.name(loc)

    def push(self, graph: Graph, choices: Choices) -> None:
        self.stack.append((graph, choices))

    def start(self) -> None:
        self.visit(Graph(len(self.program.threads)))

    def run(self, enough: int | None = None) -> Result:
        """Explore until the stack is empty, or has ``enough`` entries; return the result so far."""
        while self.stack and not (self.stop and self.result.failure):
            if enough and len(self.stack) >= enough:
                break
            if self.late():
                self.result.finished = False
                break
            self.visit(self.pop())
        self.result.operations = self.machine.operations
        return self.result

    def late(self) -> bool:
        return self.deadline is not None and time.perf_counter() > self.deadline

    def pop(self) -> Graph:
        graph, choices = self.stack[-1]
        e, position = choices.pop()
        if choices:
            graph = graph.copy()
        else:
            self.stack.pop()
        if position is not None:
            graph.insert(e, position)
        graph.add(e)
        return graph

    def visit(self, graph: Graph) -> None:
        """Run the threads that can run, lowest first, until all have ended."""
        try:
            while None in graph.done:
                t = graph.done.index(None)
                self.machine.run(graph, t, self.program)
            self.complete(graph)
        except Abandon:
            self.result.blocked += 1
        except Failure as failure:
            if self.result.failure is None and (self.bound is None or preemptions(graph) <= self.bound):
                self.result.failure = Found(failure, graph)
            self.result.executions += 1

    def complete(self, graph: Graph) -> None:
        """Judge a graph in which no thread can go on. Raises Failure."""
        blocked = [end[1] for end in graph.done if end is not None and end[0] == "blocked"]
        if not blocked:
            self.result.executions += 1
            self.result.keys.add(hash(graph.key()))
            outcome = self.program.judge(graph)
            if outcome is not None:
                self.result.outcomes.add(outcome)
            return
        self.result.blocked += 1
        self.result.stutters += any(b.why == "stutter" for b in blocked)
        self.program.liveness(graph, blocked)

    # -- revisits ------------------------------------------------------------------------------------------------------------

    def revisit(self, machine: Machine, graph: Graph, write: Event) -> None:
        for r in graph.reads[write.loc]:
            if r.index < write.pf[r.thread] or r.plain:
                continue
            keep = kept(graph, r, write)
            cut = [e for events, n in zip(graph.threads, keep, strict=True) for e in events[n:]]
            if maximal(graph, r, write) and all(maximal(graph, e, write) for e in cut):
                self.offer(machine, graph.restrict(keep, self.redirected(machine, graph, r, write)), write)

    def redirected(self, machine: Machine, graph: Graph, r: Event, write: Event) -> Event:
        new = r.clone()
        t, i = r.thread, r.index
        if i:
            p = graph.threads[t][i - 1]
            hb, pf, new.acqp = p.hb, p.pf, p.acqp
        else:
            hb = pf = machine.none
            new.acqp = None
        new.hb = (*hb[:t], i + 1, *hb[t + 1 :])
        new.pf = (*pf[:t], i + 1, *pf[t + 1 :])
        if new.twin is not None:
            new.pf = join(new.pf, causes(graph, new))
        return machine.reading(new, write)

    def offer(self, machine: Machine, graph: Graph, write: Event) -> None:
        """Queue ``graph``, whose revisited read takes ``write``, with each place in ``mo`` that is consistent with both."""
        r = next(r for r in graph.reads[write.loc] if r.rf is write)
        before = graph.threads[r.thread][r.index - 1].hb if r.index else machine.none
        # The read itself does not restrict what it may read: hb of its predecessor, not its own.
        low = max(graph.view(write.loc, before), lowest(graph, r))
        choices = [(write, p) for p in machine.places(graph, write) if p > low and self.suits(machine, graph, write, p, r)]
        if choices:
            self.push(graph, choices)

    def suits(self, machine: Machine, graph: Graph, write: Event, position: int, r: Event) -> bool:
        writes = graph.mo[write.loc]
        if position == len(writes):
            return True
        if not self.model.strong and not graph.seq_cst and write.order != "seq_cst":
            return True
        trial = graph.copy()
        trial.insert(write, position)
        trial.add(write)
        return self.model.allows(trial, r) and self.model.allows(trial, write)


def kept(graph: Graph, r: Event, write: Event) -> list[int]:
    """Return how many events of each thread stay when ``write`` revisits ``r``: those not after r, and causes of the write."""
    keep = []
    for t, events in enumerate(graph.threads):
        n = len(events)
        while n > write.pf[t] and events[n - 1].stamp > r.stamp:
            n -= 1
        keep.append(n)
    keep[write.thread] = min(keep[write.thread], write.index)
    return keep


def maximal(graph: Graph, e: Event, write: Event) -> bool:
    """Return True if ``e`` was added in the plainest way, given the events before it and the causes of ``write``."""

    def previous(x: Event) -> bool:
        return x.stamp <= e.stamp or x.index < write.pf[x.thread]

    if e.kind is CHOICE:
        return e.value == 0
    if e.kind is READ:
        target = e.rf
    elif e.kind is WRITE:
        if any(r.rf is e and previous(r) for r in graph.reads[e.loc]):
            return False
        target = e
    else:
        return True
    writes = graph.mo[e.loc]
    return not any(w is not e and previous(w) for w in writes[writes.index(target) + 1 :])
