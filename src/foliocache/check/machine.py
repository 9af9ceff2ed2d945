"""Runs one thread of a program against a graph, and gives the explorer the alternatives.

The thread's operations come in as calls (``load``, ``store``, ``rmw`` ...). As long as the graph has events of this thread
left, they are the answers. The first operation without one becomes a new event: the machine works out every message that it
may read or every place that it may take in ``mo``, goes on with one and gives the rest to the explorer as alternatives.

Waiting. A retry loop of the core calls ``cpu_relax`` once per round. A round that changed nothing need not be repeated:
everything that a second round could read the first one could have read, so the thread is *blocked*, and later writes revisit
its reads. A round that did change something is repeated unless an earlier round read exactly the same values (then it is a
*stutter*).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from . import facade_model
from .graph import CHOICE, FENCE, READ, WRITE, Event, initial_write, join
from .memory import Abandon, Blocked, Died, Failure, Geometry
from .model import ACQUIRE, RELEASE
from .steps import Steps
from .symmetry import causes, lowest, twin

if TYPE_CHECKING:
    from .explore import Explorer
    from .graph import Clock, Graph, Loc, Value
    from .model import Model
    from .program import Program

Choices: TypeAlias = "list[tuple[Event, int]] | list[tuple[Event, None]]"  # an event, and its place in ``mo`` if it is a write
MAX_EVENTS = 2000


class Machine(Steps, Geometry):
    explorer: Explorer
    model: Model
    none: Clock
    lower: list[int | None]
    operations: int
    graph: Graph
    thread: int
    log: list[Event]
    i: int
    n: int
    mark: int
    sleeps: int

    def __init__(self, explorer: Explorer, geometry: Mapping[str, int], initial: Mapping[Loc, Value], nthreads: int) -> None:
        super().__init__(geometry)
        self.explorer, self.model = explorer, explorer.model
        self.initial = initial
        self.none = (0,) * nthreads + (1,)
        self.first: dict[Loc, Event] = {}  # location -> its initial write
        self.operations = 0
        self.lower = explorer.lower  # of each thread: the one that it is compared with, see ``symmetry``

    # -- running a thread ----------------------------------------------------------------------------------------------------

    def run(self, graph: Graph, thread: int, program: Program) -> None:
        """Run that thread to its end or until it blocks; its outcome goes to ``graph.done``. Raises Failure."""
        self.graph, self.thread, self.log = graph, thread, graph.threads[thread]
        self.i, self.n = 0, len(self.log)
        self.mark, self.sleeps = 0, 0
        self.rounds: list[list[tuple[Loc, Value]]] = []
        self.prepare_steps(program)
        self.own: dict[Loc, Value] = {}
        facade_model.current = self
        try:
            value = program.threads[thread](self)
            self.leave()
            graph.done[thread] = ("finished", value)
        except Blocked as block:
            graph.done[thread] = ("blocked", block)
        except Died:
            self.leave(died=True)
            graph.done[thread] = ("died", None)
        except Failure as failure:
            failure.thread = thread
            raise
        except AssertionError as error:
            raise Failure("assertion", str(error) or "assertion failed", thread) from error
        finally:
            facade_model.current = None

    # -- operations ----------------------------------------------------------------------------------------------------------

    def load(self, loc: Loc, order: str) -> Value:
        if self.steps:
            self.step()
        self.operations += 1
        i = self.i
        if i < self.n:
            self.i = i + 1
            return self.log[i].value
        return self.new_read(loc, order, False).value

    def store(self, loc: Loc, value: Value, order: str) -> None:
        if self.steps:
            self.step(writes=True)
        if self.shared:
            self.own.pop(loc, None)
        self.operations += 1
        if self.i < self.n:
            self.i += 1
        else:
            self.new_write(loc, value, order, None)

    def rmw(self, loc: Loc, order: str, compute: Callable[[Value], Value]) -> Value:
        if self.steps:
            self.step(writes=True)
        self.operations += 1
        i = self.i
        if i < self.n:
            self.i = i + 1
            r = self.log[i]
        else:
            r = self.new_read(loc, order, True)
        new = compute(r.value)
        if new is not None:
            if self.i < self.n:
                self.i += 1
            else:
                self.new_write(loc, new, order, r)
        return r.value

    def write_once(self, loc: Loc, value: Value) -> None:
        """Store a word of the client's own slot: no event, unless other threads read it (``Program.shared_slots``)."""
        if self.shared:
            self.store(loc, value, "relaxed")
        self.own[loc] = value

    def read_once(self, loc: Loc) -> Value:
        if self.shared and loc not in self.own:
            self.own[loc] = self.load(loc, "relaxed")
        return self.own.get(loc, self.initial.get(loc, 0))

    def fence(self, order: str) -> None:
        self.operations += 1
        if self.i < self.n:
            self.i += 1
            return
        e = self.event(FENCE, None, order)
        if order in ACQUIRE:
            e.hb = join(e.hb, e.acqp)
        if order in RELEASE:
            e.relf = e.hb
        self.append(e)

    def read(self, loc: Loc) -> Value:
        """A plain load: every write to ``loc`` must be ordered before it, so it reads the last one."""
        if self.i < self.n:
            self.i += 1
            return self.log[self.i - 1].value
        e = self.event(READ, loc, "plain")
        e.plain = True
        writes = self.messages(loc)
        self.ordered(e, writes)
        e.rf = writes[-1]
        e.value = e.rf.value
        self.append(e)
        return e.value

    def write(self, loc: Loc, value: Value) -> None:
        if self.steps:
            self.step(writes=True)
        if self.i < self.n:
            self.i += 1
            return
        e = self.event(WRITE, loc, "plain")
        e.plain, e.value, e.rel = True, value, None
        writes = self.messages(loc)
        self.ordered(e, writes)
        self.ordered(e, self.graph.reads[loc])
        writes.append(e)
        self.append(e)

    def choose(self, n: int, what: str = "relaxed") -> int:
        """Return one of ``range(n)``; the explorer tries all."""
        if self.i < self.n:
            self.i += 1
            return self.log[self.i - 1].value
        choices = []
        for value in range(n):
            e = self.event(CHOICE, None, what)
            e.value = value
            if e.twin is not None and e.twin.kind is CHOICE and value > e.twin.value:
                break
            choices.append((e, None))
        return self.take(choices).value

    def assume(self, condition: object) -> None:
        """Abandon this execution unless ``condition`` holds."""
        if not condition:
            raise Blocked("assume")

    # -- waiting -------------------------------------------------------------------------------------------------------------

    def relax(self) -> None:
        done = self.log[self.mark : self.i]
        reads = [e for e in done if e.kind is READ]
        if all(e.kind is not WRITE for e in done):
            raise Blocked("spin", reads)
        trace = [(e.loc, e.value) for e in reads]
        if trace in self.rounds:
            # What follows the first read of a location depends on what the round itself did to it.
            raise Blocked("stutter", list({e.loc: e for e in reversed(reads)}.values()))
        self.rounds.append(trace)
        self.mark = self.i
        if self.i > MAX_EVENTS:
            raise Failure("livelock", f"{self.i} events in one thread and no end")

    def wait(self, loc: Loc, expected: int) -> int:
        """futex_wait: compare the word and sleep, as one step for every wake on the same word. Return 0 or an errno."""
        queue = ("futex", loc)
        token = (self.thread, self.sleeps)
        self.sleeps += 1
        r = self.new_or_old_read(queue, "acquire")
        if self.load(loc, "relaxed") != expected:
            return errno.EAGAIN
        if self.i < self.n:
            self.i += 1
        else:
            self.new_write(queue, (r.value or ()) + (token,), "acq_rel", r)
        if self.explorer.timeouts and self.times_out():
            self.rmw(queue, "acq_rel", lambda sleepers: tuple(other for other in sleepers if other != token))
            return errno.ETIMEDOUT
        try:
            self.until(queue, lambda sleepers: token not in sleepers, (loc, expected))
        except Blocked as block:
            if self.may_time_out():
                block.why = "assume"
            raise
        return 0

    def wake(self, loc: Loc, n: int) -> int:
        """futex_wake, first come, first served. It writes even if no thread sleeps: its lock orders it with later sleepers."""
        before = self.rmw(("futex", loc), "acq_rel", lambda sleepers: (sleepers or ())[n:])
        return min(n, len(before or ()))

    def new_or_old_read(self, loc: Loc, order: str) -> Event:
        if self.i < self.n:
            self.i += 1
            return self.log[self.i - 1]
        return self.new_read(loc, order, True)

    def until(
        self, loc: Loc, satisfied: Callable[[Value], object], detail: tuple[Loc, Value] | None = None, order: str = "relaxed"
    ) -> Value:
        """Wait for a message of ``loc`` that satisfies, and return its value; of the others only the last is tried, which a
        later write can revisit."""
        if self.i < self.n:
            e = self.log[self.i]
            self.i += 1
        else:
            e = self.new_read(loc, order, False, satisfied)
        if not satisfied(e.value):
            raise Blocked("futex" if detail else "await", [e], detail)
        return e.value

    # -- new events ----------------------------------------------------------------------------------------------------------

    def event(self, kind: str, loc: Loc, order: str) -> Event:
        if self.n > MAX_EVENTS:
            raise Failure("livelock", f"{self.n} events in one thread and no end")
        t, index = self.thread, self.n
        e = Event.__new__(Event)
        e.thread, e.index, e.kind, e.loc, e.order = t, index, kind, loc, order
        e.rf = e.stamp = None  # type: ignore[assignment]
        e.ex = e.plain = False
        e.value = e.rel = e.op = None
        if index:
            p = self.log[index - 1]
            hb, pf, e.relf, e.acqp = p.hb, p.pf, p.relf, p.acqp
        else:
            hb = pf = self.none
            e.relf = e.acqp = None
        e.hb = (*hb[:t], index + 1, *hb[t + 1 :])
        e.pf = e.hb if pf is hb else (*pf[:t], index + 1, *pf[t + 1 :])
        lower = self.lower[t]
        e.twin = None if lower is None else twin(self.graph, t, index, lower)
        if e.twin is not None:
            e.pf = join(e.pf, causes(self.graph, e))
        return e

    def append(self, e: Event) -> Event:
        self.graph.add(e)
        self.i += 1
        self.n += 1
        return e

    def messages(self, loc: Loc) -> list[Event]:
        graph = self.graph
        writes = graph.mo.get(loc)
        if writes is None:
            first = self.first.get(loc)
            if first is None:
                first = self.first[loc] = initial_write(loc, self.initial.get(loc, 0), self.none)
            writes = graph.mo[loc] = [first]
            graph.reads[loc] = []
        return writes

    def ordered(self, e: Event, others: Iterable[Event]) -> None:
        hb = e.hb
        racing = [o for o in others if o.index >= hb[o.thread]]
        if racing:
            writes = self.graph.mo[e.loc]
            # The last write, or the first read of the first thread, which does not depend on the order in which they came.
            worst = max(racing, key=lambda o: (writes.index(o), 0) if o.kind is WRITE else (-1 - o.thread, -o.index))
            raise Failure("race", self.race(e, worst), self.thread)

    def race(self, e: Event, o: Event) -> str:
        what = {READ: "read", WRITE: "write"}
        return (
            f"data race on {self.explorer.name(e.loc)}: this {e.order} {what[e.kind]} is not ordered with the "
            f"{o.order} {what[o.kind]} by {self.explorer.names[o.thread]}"
        )

    def new_read(self, loc: Loc, order: str, ex: bool, satisfied: Callable[[Value], object] | None = None) -> Event:
        graph = self.graph
        writes = self.messages(loc)
        base = self.event(READ, loc, order)
        base.ex = ex
        plain = graph.plain.get(loc)
        if plain:
            self.ordered(base, [o for o in plain if o.kind is WRITE])
        low = max(graph.view(loc, base.hb), lowest(graph, base)) if len(writes) > 1 else 0
        top = len(writes) - 1
        choices = [(self.reading(base.clone() if low < top else base, writes[top]), None)]
        for position in range(top - 1, low - 1, -1):
            if satisfied and not satisfied(writes[position].value):
                continue
            e = self.reading(base.clone(), writes[position])
            if self.consistent(e):
                choices.append((e, None))
        return self.take(choices)

    def reading(self, e: Event, write: Event) -> Event:
        """Make ``e``, a read that has the clocks of its predecessor, a read of ``write``; return it."""
        e.rf, e.value = write, write.value
        rel = write.rel
        if rel is not None:
            if self.model.strong or e.order in ACQUIRE:
                e.hb = join(e.hb, rel)
            else:
                e.acqp = join(e.acqp, rel)
        e.pf = join(e.pf, write.pf) if write.thread >= 0 else e.pf
        return e

    def consistent(self, e: Event) -> bool:
        graph = self.graph
        if not self.model.strong and e.order != "seq_cst" and not graph.seq_cst:
            return True
        stamp = graph.stamp
        graph.add(e)
        good = self.model.allows(graph, e)
        graph.threads[e.thread].pop()
        graph.stamp = stamp
        if e.kind is READ:
            graph.reads[e.loc].pop()
        graph.seq_cst -= e.order == "seq_cst"
        return good

    def new_write(self, loc: Loc, value: Value, order: str, r: Event | None) -> Event:
        graph = self.graph
        self.messages(loc)
        e = self.event(WRITE, loc, order)
        e.value = value
        e.rel = e.hb if self.model.strong or order in RELEASE else e.relf
        if r is not None:
            e.ex, e.rf = True, r.rf
            e.rel = join(e.rel, r.rf.rel)
        plain = graph.plain.get(loc)
        if plain:
            self.ordered(e, plain)
        if graph.reads[loc]:
            self.explorer.revisit(self, graph, e)
        choices = [(e, position) for position in self.places(graph, e)]
        if not choices:
            raise Abandon
        return self.take(choices)

    def places(self, graph: Graph, e: Event) -> list[int]:
        """Return the places in ``mo`` that the write ``e``, not in the graph yet, may take; the last one first."""
        writes = graph.mo[e.loc]
        if e.ex:
            position = writes.index(e.rf) + 1
            candidates = [] if graph.split(e.loc, position) or position <= lowest(graph, e) else [position]
        else:
            low = max(graph.view(e.loc, e.hb), lowest(graph, e)) if len(writes) > 1 else 0
            candidates = [p for p in range(len(writes), low, -1) if not graph.split(e.loc, p)]
        return [p for p in candidates if p == len(writes) or self.fits(graph, e, p)]

    def fits(self, graph: Graph, e: Event, position: int) -> bool:
        if not self.model.strong and e.order != "seq_cst" and not graph.seq_cst:
            return True
        writes = graph.mo[e.loc]
        before, self.graph = self.graph, graph
        writes.insert(position, e)
        good = self.consistent(e)
        del writes[position]
        self.graph = before
        return good

    def take(self, choices: Choices) -> Event:
        if len(choices) > 1:
            self.explorer.push(self.graph.copy(), choices[1:])
        e, position = choices[0]
        if position is not None:
            self.graph.mo[e.loc].insert(position, e)
        return self.append(e)
