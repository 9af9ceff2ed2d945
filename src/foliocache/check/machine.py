"""Runs one thread of a program against a graph, and gives the explorer the alternatives.

The thread's operations come in as calls (``load``, ``store``, ``rmw`` ...). As long as the graph has events of this thread
left, they are the answers. The first operation without one becomes a new event: the machine works out every message that it
may read or every place that it may take in ``mo``, goes on with one and gives the rest to the explorer as alternatives.

Waiting. A retry loop of the core calls ``cpu_relax`` once per round. A round that changed nothing need not be repeated:
everything that a second round could read the first one could have read, so the thread is *blocked*, and later writes revisit
its reads. A round that changed the thread's own state, such as a count of tries, is repeated (``rounds`` says how that is
known). A round that did change memory is repeated unless an earlier round read exactly the same values (then it is a
*stutter*).
"""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from . import facade_model, memory
from .graph import CHOICE, FENCE, READ, WRITE, Event, initial_write, join
from .memory import Abandon, Blocked, Died, Failure, Geometry
from .model import ACQUIRE, RELEASE
from .rounds import LONGEST, Departs, Echo, changed, local_state
from .steps import Steps
from .symmetry import causes, lowest, twin

if TYPE_CHECKING:
    from .explore import Explorer
    from .graph import Clock, Graph, Loc, Value
    from .model import Model
    from .program import Program

Choices: TypeAlias = "list[tuple[Event, int]] | list[tuple[Event, None]]"  # an event, and its place in ``mo`` if it is a write
Token: TypeAlias = "tuple[int, int]"  # one sleep: the thread, and how often it has slept before
Sleepers: TypeAlias = "tuple[Token, ...]"
MAX_EVENTS = 2000
MAX_STATES = 16  # rounds that read and change the same, and in which only the thread's own state differs
DOES = {READ: "loads", WRITE: "stores to", FENCE: "fences", CHOICE: "chooses"}
ENDLESS = "{} events in one thread and no end; a loop that waits for another thread must call cpu_relax in each round"


@dataclasses.dataclass(frozen=True)
class Held:
    """What the queue of a futex holds while a thread has its lock."""

    sleepers: Sleepers

    def __str__(self) -> str:
        return "locked"


def is_free(sleepers: Sleepers | Held | None) -> bool:
    return not isinstance(sleepers, Held)


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
    steps: bool

    def __init__(self, explorer: Explorer, geometry: Mapping[str, int], initial: Mapping[Loc, Value], nthreads: int) -> None:
        super().__init__(geometry)
        self.explorer, self.model = explorer, explorer.model
        self.initial = initial
        self.none = (0,) * nthreads + (1,)
        self.first: dict[Loc, Event] = {}  # location -> its initial write
        self.operations = 0
        self.verdicts: dict[
            object, int | str
        ] = {}  # of echoes: by the thread and all that it has read; a number is where to begin next
        self.wides: set[Loc] = set()  # locations where some thread stores more than 32 bits
        self.lower = explorer.lower  # of each thread: the one that it is compared with, see ``symmetry``

    # -- running a thread ----------------------------------------------------------------------------------------------------

    def run(self, graph: Graph, thread: int, program: Program) -> None:
        """Run that thread to its end or until it blocks; its outcome goes to ``graph.done``. Raises Failure."""
        while not self.attempt(graph, thread, program):
            pass

    def attempt(self, graph: Graph, thread: int, program: Program) -> bool:
        """As ``run``; return False if the thread must be run again, because an echo has come to an end."""
        self.graph, self.thread, self.log = graph, thread, graph.threads[thread]
        self.i, self.n = 0, len(self.log)
        self.mark, self.sleeps = 0, 0
        self.rounds: list[tuple[list[tuple[Loc, Value]], object]] = []
        self.prepare_steps(program)
        self.own: dict[Loc, Value] = {}
        self.own_before: dict[Loc, Value] = self.own
        self.echo: Echo | None = None
        memory.begin_run()
        facade_model.current = self
        try:
            value = program.threads[thread](self)
            if self.echo is not None:
                raise Departs
            if memory.unwinding is not None:
                raise Failure("thread", memory.SWALLOWED)
            self.leave()
            graph.done[thread] = ("finished", value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            memory.end_run()
            if self.echo is not None:
                self.departed(self.echo)
                return False
            self.ended(graph, thread, error)
        finally:
            facade_model.current = None
        return True

    def ended(self, graph: Graph, thread: int, error: BaseException) -> None:
        """The thread has ended by an exception: record how in the graph, or raise."""
        if isinstance(error, Blocked):
            graph.done[thread] = ("blocked", error)
        elif isinstance(error, Died):
            self.leave(died=True)
            graph.done[thread] = ("died", None)
        elif isinstance(error, AssertionError):
            raise Failure("assertion", str(error) or "assertion failed", thread) from error
        else:
            if isinstance(error, Failure):
                error.thread = thread
            raise error

    # -- operations ----------------------------------------------------------------------------------------------------------

    def load(self, loc: Loc, order: str) -> Value:
        if self.steps:
            self.step()
        self.operations += 1
        i = self.i
        if i < self.n:
            e = self.log[i]
            if e.loc == loc and e.kind is READ:  # ``logged``, without a call
                self.i = i + 1
                return e.value
            return self.logged(READ, loc).value
        return self.new_read(loc, order, False).value

    def logged(self, kind: str, loc: Loc) -> Event:
        """Return the next event of this thread that the graph has already: the operation that the thread asks for."""
        e = self.log[self.i]
        if e.loc != loc or e.kind is not kind:
            e = self.other(kind, loc)
        self.i += 1
        return e

    def other(self, kind: str, loc: Loc) -> Event:
        """The thread does something else than before. Return where an echo begins instead; Failure where there is none."""
        if memory.unwinding is not None:
            memory.swallowed(Machine.attempt)
        if self.echo is None:
            now, before = (f"{what} {self.explorer.name(where)}" for what, where in self.two(kind, loc))
            raise Failure("nondeterminism", f"{now}, where it did {before} before: {memory.NOT_THE_SAME}", self.thread)
        if self.echo.rounds or self.i != self.echo.start:
            raise Departs
        for n in range(self.i - 1, -1, -1):
            if self.log[n].loc == loc and self.log[n].kind is kind:
                self.echo.start = self.i = n
                return self.log[n]
        self.echo.start = 0
        raise Departs

    def two(self, kind: str, loc: Loc) -> list[tuple[str, Loc]]:
        e = self.log[self.i]
        return [(DOES[kind], loc), (DOES[e.kind], e.loc)]

    def logged_write(self, loc: Loc, value: Value) -> None:
        e = self.log[self.i]
        if e.loc == loc and e.kind is WRITE and e.value == value:
            self.i += 1
        elif self.logged(WRITE, loc).value != value:
            what = f"stores another value to {self.explorer.name(loc)}"
            raise Failure("nondeterminism", f"{what} than before: {memory.NOT_THE_SAME}", self.thread)

    def store(self, loc: Loc, value: Value, order: str) -> None:
        if self.steps:
            self.step(writes=True)
        if self.shared:
            self.own.pop(loc, None)
        self.operations += 1
        if self.i < self.n:
            self.logged_write(loc, value)
        else:
            self.new_write(loc, value, order, None)

    def rmw(self, loc: Loc, order: str, compute: Callable[[Value], Value]) -> Value:
        if self.steps:
            self.step(writes=True)
        self.operations += 1
        i = self.i
        if i < self.n:
            r = self.log[i]
            if r.loc == loc and r.kind is READ:
                self.i = i + 1
            else:
                r = self.logged(READ, loc)
        else:
            r = self.new_read(loc, order, True)
        new = compute(r.value)
        if new is not None:
            if self.i < self.n:
                self.logged_write(loc, new)
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
            self.logged(FENCE, None)
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
            return self.logged(READ, loc).value
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
            self.logged_write(loc, value)
            return
        e = self.event(WRITE, loc, "plain")
        e.plain, e.value, e.rel = True, value, None
        writes = self.messages(loc)
        self.ordered(e, writes)
        self.ordered(e, self.graph.reads[loc])
        self.graph.insert(e, len(writes))
        self.append(e)

    def choose(self, n: int, what: str = "relaxed") -> int:
        """Return one of ``range(n)``; the explorer tries all."""
        if self.i < self.n:
            return self.logged(CHOICE, None).value
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
        if memory.unwinding is not None:
            memory.swallowed(Machine.attempt)
        if self.echo is not None:
            return self.echoed(self.echo)
        done = self.log[self.mark : self.i]
        reads = [e for e in done if e.kind is READ]
        if not any(map(changed, done)):
            if not self.decided() and not self.goes_on(done):
                raise Blocked("spin", reads)
        else:
            self.repeat(done)
        if self.echo is None:
            self.mark = self.i
            self.own_before = dict(self.own)

    def decided(self) -> bool:
        """Return True if the graph has events of a next round already."""
        return self.i < self.n

    def repeat(self, done: list[Event]) -> None:
        """The round has changed memory. Raises Blocked if an earlier one was the same."""
        trace = [(e.loc, e.value) for e in done if e.kind is READ]
        states = [state for earlier, state in self.rounds if earlier == trace]
        state, _ = local_state(sys._getframe(2), _ATTEMPT)
        if state in states or len(states) == MAX_STATES:
            raise Blocked("stutter", done)
        self.rounds.append((trace, state))
        if self.i > MAX_EVENTS:
            raise Failure("livelock", ENDLESS.format(self.i))

    def goes_on(self, done: list[Event]) -> bool:
        """Return True if the next round is another one, although this one has changed nothing; or if an echo begins."""
        key = self.thread, *(e.value for e in self.log)
        verdict = self.verdicts.get(key, len(done) - 1)
        if verdict == "stutter":
            raise Blocked("stutter", [e for e in done if e.kind is READ])
        if isinstance(verdict, int):
            state, _ = local_state(sys._getframe(2), _ATTEMPT)
            self.echo = Echo(key, done, max(verdict, 0), state)
            self.log, self.i, self.n = done, self.echo.start, len(done)
            self.own = dict(self.own_before)
        return verdict != "spin"

    def echoed(self, echo: Echo) -> None:
        """The echo has come to a ``cpu_relax``."""
        if self.i != self.n:
            raise Departs
        echo.rounds += 1
        state, hidden = local_state(sys._getframe(2), _ATTEMPT)
        same = state == echo.state
        if (same and not hidden) or echo.rounds == LONGEST:
            self.verdicts[echo.key] = why = "spin" if same else "stutter"
            self.echo = None
            raise Blocked(why, [e for e in echo.events if e.kind is READ])
        echo.state, self.i = state, echo.start
        self.own = dict(self.own_before)

    def departed(self, echo: Echo) -> None:
        """The thread did not do in an echo what it did in the round: either that began later, or the next one is another."""
        self.verdicts[echo.key] = echo.start - 1 if echo.start and not echo.rounds else "goes on"

    def wait(self, loc: Loc, expected: int) -> int:
        """futex_wait: sleep if the word has that value, as one step for every wake on it. Return 0 or an errno.

        As in the kernel, the queue has a lock, which is held while the word is compared. A thread that finds another value
        needs no place among those steps: it returns after its first load, and has learnt nothing from who had the lock before.
        """
        if self.load(loc, "relaxed") != expected:
            return errno.EAGAIN
        queue = ("futex", loc)
        token = (self.thread, self.sleeps)
        self.sleeps += 1
        steps = self.steps
        self.steps = False
        self.queued(queue, "acquire", Held)
        self.assume(self.reread(loc, expected) == expected)
        self.rmw(queue, "acq_rel", lambda held: (*held.sleepers, token))
        self.steps = steps
        ended = errno.EINTR if self.is_interrupted() else errno.ETIMEDOUT if self.explorer.timeouts and self.times_out() else 0
        if ended:
            slept = self.queued(queue, "acq_rel", lambda sleepers: tuple(other for other in sleepers if other != token))
            return ended if token in slept else 0
        try:
            self.until(("woken", *token), bool, (loc, expected))
        except Blocked as block:
            if self.may_time_out():
                block.why = "assume"
            raise
        return 0

    def wake(self, loc: Loc, n: int) -> int:
        """futex_wake, first come, first served. It writes even if no thread sleeps: its lock orders it with later sleepers."""
        woken = self.queued(("futex", loc), "acq_rel", lambda sleepers: sleepers[n:])[:n]
        steps = self.steps
        self.steps = False
        for token in woken:
            self.store(("woken", *token), 1, "relaxed")
        self.steps = steps
        return len(woken)

    def reread(self, loc: Loc, expected: Value) -> Value:
        """Load a word of which only the value ``expected`` is of use; of the others only the last is tried."""
        self.operations += 1
        if self.i < self.n:
            return self.logged(READ, loc).value
        return self.new_read(loc, "relaxed", False, lambda value: value == expected).value

    def queued(self, queue: Loc, order: str, compute: Callable[[Sleepers], Sleepers | Held]) -> Sleepers:
        """Change the queue of a futex when no other thread holds its lock; return the sleepers before."""
        if self.steps:
            self.step(writes=True)
        self.operations += 1
        r = self.logged(READ, queue) if self.i < self.n else self.new_read(queue, order, True, is_free)
        if not is_free(r.value):
            raise Blocked("await", [r])
        new = compute(r.value or ())
        if self.i < self.n:
            self.logged(WRITE, queue)
        else:
            self.new_write(queue, new, order, r)
        return r.value or ()

    def until(
        self, loc: Loc, satisfied: Callable[[Value], object], detail: tuple[Loc, Value] | None = None, order: str = "relaxed"
    ) -> Value:
        """Wait for a message of ``loc`` that satisfies, and return its value; of the others only the last is tried, which a
        later write can revisit."""
        e = self.logged(READ, loc) if self.i < self.n else self.new_read(loc, order, False, satisfied)
        if not satisfied(e.value):
            raise Blocked("futex" if detail else "await", [e], detail)
        return e.value

    # -- new events ----------------------------------------------------------------------------------------------------------

    def event(self, kind: str, loc: Loc, order: str) -> Event:
        if memory.unwinding is not None:
            memory.swallowed(Machine.attempt)
        if self.echo is not None:
            raise Departs
        if self.n > MAX_EVENTS:
            raise Failure("livelock", ENDLESS.format(self.n))
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
            if isinstance(loc, int) and loc - 4 in self.wides and loc not in self.initial:
                self.whole(loc)
            writes = graph.begin(loc, first)
        return writes

    def wide(self, loc: Loc) -> None:
        self.wides.add(loc)
        half = loc + 4 if isinstance(loc, int) else None
        if half not in self.initial and len(self.graph.mo.get(half, ())) == 1 and self.graph.reads[half]:
            self.mixed(half)

    def whole(self, half: int) -> None:
        """Raise Failure if the word before ``half``, which was never stored to, has 64 bits."""
        if any(isinstance(w.value, int) and w.value > facade_model.M32 for w in self.graph.mo.get(half - 4, ())):
            self.mixed(half)

    def mixed(self, half: Loc) -> NoReturn:
        name = self.explorer.name(half)
        raise Failure(
            "mixed sizes", f"{name} is the upper half of 64 bits that are stored, and accessed by itself: a word has one width"
        )

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
        before, self.graph = self.graph, graph
        graph.insert(e, position)
        good = self.consistent(e)
        del graph.mo[e.loc][position]
        self.graph = before
        return good

    def take(self, choices: Choices) -> Event:
        if len(choices) > 1:
            self.explorer.push(self.graph.copy(), choices[1:])
        e, position = choices[0]
        if position is not None:
            self.graph.insert(e, position)
        return self.append(e)


_ATTEMPT = Machine.attempt.__code__
