"""Random executions of a program that is too large to be explored: some of all executions, and never a proof.

A sample is one execution. Events are added to a graph as in ``explore``, but one thread at a time and by chance: which thread
goes on, which message a read takes, where in ``mo`` a write goes. Every execution is a graph that can be built in this order,
so each has a chance. A thread is a plain call that cannot be suspended: to let another go on, it is unwound and run again
later, as in the search.

``random``  Any thread may go on after each event. How often another one does, and how often a read takes an old message, is
            drawn for each sample, because no one rate is good for all bugs.
``pct``     Probabilistic concurrency testing (Burckhardt, Kothari, Musuvathi, Nagarakatte, "A randomized scheduler with
            probabilistic guarantees of finding bugs", ASPLOS 2010). The threads have random priorities, the highest that can go
            on does, and at ``depth - 1`` random events the one that is on falls below all others. A bug that needs ``depth``
            ordered pairs of events is found by one sample with a chance of at least 1 / (n * k ** (depth - 1)), for n threads
            and k events. That is proved for interleavings. What weak memory adds is drawn besides: a third of the samples takes
            the newest messages only.

Waiting. At ``cpu_relax`` another thread should go on. When every thread that has not ended waits, and nothing has changed, they
are run once more with the newest messages: if still nothing changes, that execution is judged as in the search.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import memory
from .explore import Explorer, Found, Result
from .graph import CHOICE, READ, WRITE, Graph
from .machine import MAX_EVENTS, Machine
from .memory import Blocked, Failure
from .rounds import changed

if TYPE_CHECKING:
    from .graph import Event, Loc, Value
    from .machine import Choices
    from .model import Model
    from .program import Program

SEARCHES = ("pct", "random")
STALE = (0.0, 0.125, 0.5)  # of a sample: how often a read takes an old message, where the model has any
SWITCHES = (1.0, 0.3, 0.1)  # of a sample of ``random``: how often another thread goes on
DEATHS = (0.5, 0.1, 0.02)  # of a sample: how often a mortal thread dies before a write
YIELDS, RELAXES, AWAITS = "yield", "relax", "await"


class Random:
    """Which thread goes on."""

    rng: random.Random
    threads: int
    rate: float

    def __init__(self, rng: random.Random, threads: int) -> None:
        self.rng, self.threads = rng, threads
        self.rate = rng.choice(SWITCHES)

    def begins(self, ready: list[int]) -> int:
        """Return the one of ``ready`` that goes on."""
        return self.rng.choice(ready)

    def stays(self, thread: int) -> bool:
        """Return True if the thread that is on goes on with another event."""
        return self.rng.random() >= self.rate

    def relaxes(self, thread: int) -> None:
        """The thread waits in a loop."""


class Pct(Random):
    """The thread of the highest priority goes on."""

    priority: list[int]
    lowest: int
    falls: set[int]
    event: int

    def __init__(self, rng: random.Random, threads: int, events: int, depth: int) -> None:
        super().__init__(rng, threads)
        self.priority = [*range(threads)]
        rng.shuffle(self.priority)
        self.lowest = 0
        self.falls = set(rng.sample(range(max(events, depth)), depth - 1))
        self.event = -1

    def begins(self, ready: list[int]) -> int:
        return max(ready, key=self.priority.__getitem__)

    def stays(self, thread: int) -> bool:
        self.event += 1
        if self.event in self.falls:
            self.fall(thread)
            return False
        return True

    def relaxes(self, thread: int) -> None:
        self.fall(thread)

    def fall(self, thread: int) -> None:
        self.lowest -= 1
        self.priority[thread] = self.lowest


class Sampler(Machine):
    """A machine that takes one of the alternatives and forgets the others."""

    rng: random.Random
    schedule: Random
    stale: float
    death: float
    past: list[int]
    changes: int
    relaxed: int
    on: bool
    settling: bool
    last: bool
    mark: int
    own_before: dict[Loc, Value]
    lower: list[int | None]
    compute: Callable[[Value], Value] | None
    satisfied: Callable[[Value], object] | None

    def __init__(self, explorer: Explorer, geometry: Mapping[str, int], initial: Mapping[Loc, Value], nthreads: int) -> None:
        super().__init__(explorer, geometry, initial, nthreads)
        self.lower = [None] * nthreads  # equal threads are not told apart by their order

    def begin(self, rng: random.Random, schedule: Random) -> None:
        """Begin a new sample."""
        self.rng, self.schedule = rng, schedule
        self.stale = 0.0 if self.model.name == "sc" else rng.choice(STALE)
        self.death = rng.choice(DEATHS)
        self.past = [0] * len(self.lower)  # of each thread: how many of its calls of ``cpu_relax`` are behind it
        self.changes = 0  # writes that changed something
        self.settling = self.last = False

    def attempt(self, graph: Graph, thread: int, program: Program) -> bool:
        self.relaxed = 0
        self.on = True  # the thread has just been chosen, and adds at least one event
        self.compute = None
        return super().attempt(graph, thread, program)

    def event(self, kind: str, loc: Loc, order: str) -> Event:
        half = kind is WRITE and self.n and self.log[-1].ex and self.log[-1].kind is READ and self.log[-1].loc == loc
        if memory.unwinding is None and self.echo is None and not self.settling and kind is not CHOICE and not half:
            if not self.on and not self.schedule.stays(self.thread):
                raise Blocked(YIELDS)
            self.on = False
        return super().event(kind, loc, order)

    def append(self, e: Event) -> Event:
        self.changes += changed(e)
        return super().append(e)

    def rmw(self, loc: Loc, order: str, compute: Callable[[Value], Value]) -> Value:
        self.compute = compute
        try:
            return super().rmw(loc, order, compute)
        finally:
            self.compute = None

    def new_read(self, loc: Loc, order: str, ex: bool, satisfied: Callable[[Value], object] | None = None) -> Event:
        self.satisfied = satisfied
        return super().new_read(loc, order, ex, satisfied)

    def reread(self, loc: Loc, expected: Value) -> Value:
        try:
            return super().reread(loc, expected)
        except Blocked as block:
            if block.why == AWAITS:  # the word has changed: another sample sees that before it has the lock
                block.why = "assume"
            raise

    def until(
        self, loc: Loc, satisfied: Callable[[Value], object], detail: tuple[Loc, Value] | None = None, order: str = "relaxed"
    ) -> Value:
        try:
            return super().until(loc, satisfied, detail, order)
        except Blocked as block:
            if detail and block.why == AWAITS:
                block.why, block.detail = "futex", detail
            raise

    def take(self, choices: Choices) -> Event:
        e, position = self.chosen(choices)
        if position is not None:
            self.graph.insert(e, position)
        return self.append(e)

    def chosen(self, choices: Any) -> tuple[Event, int | None]:
        first = choices[0][0]
        if first.kind is CHOICE:
            if first.order == "life":
                return choices[self.rng.random() < self.death]
            return self.rng.choice(choices)
        if first.kind is READ:
            choices = [(e, None) for e, _ in choices if self.possible(e)]
            if not choices:
                raise Blocked(AWAITS, [first])
        old = len(choices) > 1 and not self.settling and self.rng.random() < self.stale
        return self.rng.choice(choices[1:]) if old else choices[0]

    def possible(self, e: Event) -> bool:
        """Return True if a read of that message leads on: the thread waits for such a value, and no other read-modify-write has
        taken the message."""
        if self.satisfied and not self.satisfied(e.value) and not self.last:
            return False
        if not e.ex or (self.compute is not None and self.compute(e.value) is None):
            return True
        return not self.graph.split(e.loc, self.graph.mo[e.loc].index(e.rf) + 1)

    def decided(self) -> bool:
        return self.i < self.n or self.relaxed <= self.past[self.thread]

    def relax(self) -> None:
        if memory.unwinding is not None or self.echo is not None:
            return super().relax()
        self.relaxed += 1
        if not self.decided() and not self.settling:
            if self.n > MAX_EVENTS // 2:
                raise Blocked("assume")  # too many rounds by chance
            raise Blocked(RELAXES)
        if not self.decided():
            super().relax()
            self.past[self.thread] = max(self.past[self.thread], self.relaxed)
        self.mark, self.own_before = self.i, dict(self.own)
        return None

    def repeat(self, done: list[Event]) -> None:
        """The round has changed memory, so there is another one."""


class Sampling(Explorer):
    """Explores by chance."""

    machine: Sampler
    events: int

    def __init__(self, program: Program, model: Model, initial: Mapping[Loc, Value], names: list[str], **options: Any) -> None:
        super().__init__(program, model, initial, names, **options)
        self.machine = Sampler(self, program.geometry, initial, len(program.threads))
        self.events = 0  # the most in any sample so far

    def revisit(self, machine: Machine, graph: Graph, write: Event) -> None:
        """There is nothing to come back to."""

    def walk(self, graph: Graph) -> None:
        """Add events until every thread has ended or waits for ever."""
        machine, threads = self.machine, range(len(graph.done))
        waits: dict[int, int] = {}  # of the threads that wait: ``changes`` at that time
        while None in graph.done:
            ready = [t for t in threads if graph.done[t] is None and waits.get(t) != machine.changes]
            if not ready:
                self.settle(graph, waits)
                continue
            t = machine.schedule.begins(ready)
            why = self.go(graph, t)
            if why is None or why == YIELDS:
                waits.pop(t, None)
            else:
                waits[t] = machine.changes
            if why == RELAXES:
                machine.past[t] += 1
                if machine.rng.random() < 0.5:
                    del waits[t]  # it is not fair: a loop may give up before any other thread goes on
                else:
                    machine.schedule.relaxes(t)

    def go(self, graph: Graph, t: int) -> str | None:
        """Run a thread. Return None if it has ended, or why not; ``done`` then says that it can go on. Raises Abandon."""
        self.machine.run(graph, t, self.program)
        end = graph.done[t]
        if end is None or end[0] != "blocked":
            return None
        graph.done[t] = None
        why: str = end[1].why
        if why == "assume":
            raise memory.Abandon
        return why

    def settle(self, graph: Graph, waits: dict[int, int]) -> None:
        """All threads wait: run each with the newest messages. If that changes nothing, ``done`` says that each is blocked."""
        machine = self.machine
        waiting = [t for t, end in enumerate(graph.done) if end is None]
        before = machine.changes
        machine.settling = True
        for t in waiting:
            self.go(graph, t)
        if machine.changes == before and all(graph.done[t] is None for t in waiting):
            machine.last = True
            for t in waiting:
                machine.run(graph, t, self.program)
        machine.settling = machine.last = False
        waits.clear()


def sample(
    program: Program,
    model: str = "rc11",
    samples: int = 1000,
    search: str = "pct",
    depth: int = 3,
    seed: int = 0,
    budget: float | None = None,
    stop: bool = True,
) -> Result:
    """Return the result of ``samples`` random executions of ``program``, which says nothing about all the others.

    ``search`` is one of ``SEARCHES``; ``depth`` is that of ``pct``. The same ``seed`` gives the same executions. ``budget`` is
    in seconds; ``stop`` at the first failure. ``executions`` counts the complete ones, ``blocked`` those that led nowhere, and
    ``graphs`` is how many distinct ones there were. Raises ValueError if there is no such search or depth.
    """
    if search not in SEARCHES or depth < 1:
        raise ValueError(f"a search is one of {', '.join(SEARCHES)}, and its depth at least 1, not {search!r} and {depth}")
    explorer = program.sampling(model)
    deadline = time.perf_counter() + budget if budget else None
    result, machine, n = explorer.result, explorer.machine, len(program.threads)
    result.finished = False
    for number in range(samples):
        if (stop and result.failure) or (deadline and time.perf_counter() > deadline):
            break
        rng = random.Random(f"{seed}/{number}")
        schedule = Pct(rng, n, explorer.events, depth) if search == "pct" else Random(rng, n)
        machine.begin(rng, schedule)
        graph = Graph(n)
        try:
            explorer.walk(graph)
            explorer.complete(graph)
        except memory.Abandon:
            result.blocked += 1
        except Failure as failure:
            result.executions += 1
            result.failure = result.failure or Found(failure, graph)
        explorer.events = max(explorer.events, graph.stamp)
    result.operations = machine.operations
    return result
