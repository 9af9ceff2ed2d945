"""Steps of a thread that are not its own memory operations: death, and process-wide barriers.

**Death.** A mortal thread may die before each of its writes: a choice, explored like any other. (A load leaves nothing behind,
so to die before it is to die before the next write.) ``is_dead`` asks; a thread that sees the death sees all that the dead
thread did, because the kernel reports it after the last instruction. The core asks by client: ``Program(clients={client:
thread})``.

**membarrier(2).** The caller makes every other thread execute a full fence at some point between call and return. Two models:

- ``steps.membarrier`` is an interrupt, as in the kernel: once it has been sent, another thread may take it before each of its
  operations, which is a seq_cst fence there, and acknowledges it; the caller fences, sends, waits for all, fences. A thread
  that has ended has passed a fence on its way out. This model is exact and expensive: every place is a choice.
- The core's ``atomics.asymmetric_fence_heavy`` has a partner, ``atomics.asymmetric_fence_light``, and only its effect on that
  partner counts here: see ``barriers``. That is weaker than the interrupt, so a program that is right with it is right with the
  interrupt.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

from .memory import Blocked, Died

if TYPE_CHECKING:
    from .explore import Explorer
    from .graph import Clock, Loc, Value
    from .machine import Machine
    from .program import Program

DEAD, GONE = 1, 2  # a mortal thread that has died, or has come to its end


class Steps:
    """Part of the machine: ``steps`` is true when a step may happen before the next operation."""

    thread: int
    explorer: Explorer
    none: Clock
    steps: bool
    mortal: bool
    processes: Mapping[int, Hashable]
    mortals: frozenset[Hashable]
    shared: bool
    interrupts: int
    taken: int
    sent: int
    timed_out: bool
    interruptible: bool
    interrupted: bool

    if TYPE_CHECKING:  # the machine's

        def load(self, loc: Loc, order: str) -> Value: ...
        def store(self, loc: Loc, value: Value, order: str) -> None: ...
        def fence(self, order: str) -> None: ...
        def choose(self, n: int, what: str = ...) -> int: ...
        def assume(self, condition: object) -> None: ...
        def until(
            self,
            loc: Loc,
            satisfied: Callable[[Value], object],
            detail: tuple[Loc, Value] | None = ...,
            order: str = ...,
        ) -> Value: ...

    def prepare_steps(self, program: Program) -> None:
        self.mortal = self.thread in program.mortal
        self.processes, self.mortals, self.shared = program.clients, program.mortal, program.shared_slots
        self.interrupts = program.barriers
        self.taken = self.sent = 0
        self.timed_out = self.interrupted = False
        self.interruptible = program.interrupts
        self.steps = self.mortal or self.interrupts > 0

    def step(self, writes: bool = False) -> None:
        self.steps = False
        if writes and self.mortal and self.choose(2, "life"):
            self.store(("dead", self.thread), DEAD, "release")
            raise Died
        while self.taken < self.interrupts and self.choose(2):
            if self.load("interrupt", "relaxed") <= self.taken:
                raise Blocked("assume")
            self.take_interrupt()
        self.steps = self.mortal or self.taken < self.interrupts

    def take_interrupt(self) -> None:
        self.taken += 1
        self.fence("seq_cst")
        self.store(("acknowledged", self.thread), self.taken, "relaxed")

    def leave(self, died: bool = False) -> None:
        self.steps = False
        if self.mortal and self.processes and not died:
            self.store(("dead", self.thread), GONE, "release")
        if self.interrupts and self.sent == 0:
            self.taken = self.interrupts - 1
            self.take_interrupt()

    def send_interrupt(self) -> None:
        self.steps = False
        self.interrupts = 0  # the sender is never interrupted
        self.sent += 1
        self.fence("seq_cst")
        self.store("interrupt", self.sent, "relaxed")
        sent = self.sent
        for other in range(len(self.none) - 1):
            if other != self.thread:
                self.until(("acknowledged", other), lambda count: count >= sent)
        self.fence("seq_cst")
        self.steps = self.mortal

    # With ``clients``, a sleep times out at most once, and only after a death: any other time-out would only look again at a
    # word that has not changed. An execution in which the thread sleeps on instead is not judged, because in reality it would
    # time out.

    def may_time_out(self) -> bool:
        return bool(self.explorer.timeouts and self.processes and not self.mortal and not self.timed_out)

    def times_out(self) -> bool:
        if not self.processes:
            return self.choose(2) == 1
        if self.mortal or self.timed_out or self.choose(2) == 0:
            return False
        self.timed_out = True
        ends = [self.load(("dead", thread), "acquire") for thread in self.mortals]
        self.assume(DEAD in ends)
        return True

    def is_interrupted(self) -> bool:
        """Return True if a signal ends a sleep of this thread: once, with ``Program(interrupts=True)``."""
        if not self.interruptible or self.interrupted:
            return False
        self.interrupted = self.choose(2) == 1
        return self.interrupted

    def membarrier(self) -> None:
        self.fence("seq_cst")

    def asymmetric_fence_light(self) -> None:
        if self.shared:
            self.fence("light")

    def client_alive(self, client: int) -> bool:
        thread = self.processes.get(client)
        return thread not in self.mortals or self.load(("dead", thread), "acquire") != DEAD


def membarrier(mem: Machine) -> None:
    """One thread of a program may call this, n times with ``Program(barriers=n)``."""
    mem.send_interrupt()


def is_dead(mem: Machine, thread: int) -> bool:
    """Return True if that thread has died, as far as the caller can know by now."""
    return mem.load(("dead", thread), "acquire") == 1


def has_died(mem: Machine, client: int) -> bool:
    """Wait until a mortal client has died or come to its end; return True if it has died."""
    return mem.until(("dead", mem.processes[client]), bool, order="acquire") == DEAD


def set_alive(mem: Machine, client: int, alive: bool) -> None:
    """Put a new client into the slot of one that has died (``alive``), or remove it again."""
    mem.store(("dead", mem.processes[client]), GONE if alive else DEAD, "release")


def choose(mem: Machine, n: int) -> int:
    """Return any of ``range(n)``; all are explored."""
    return mem.choose(n)


def assume(mem: Machine, condition: object) -> None:
    """Go on only where ``condition`` holds; an execution in which it does not is not judged."""
    mem.assume(condition)


def await_value(mem: Machine, loc: Loc, satisfied: Callable[[Value], object], order: str = "acquire") -> Value:
    """Wait for a value of ``loc`` for which ``satisfied`` returns true; return the value."""
    return mem.until(loc, satisfied, order=order)
