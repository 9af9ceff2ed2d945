"""Two threads of one process that are in operations at the same time, which needs an interpreter without the GIL.

The core was written for processes that run one operation at a time. Here each thread has a client's slot of its own: that is
what the shipped source allows, and it holds. The bug ``one-slot`` gives both threads the same slot, as a process has today, and
shows what that would break. A process dies as a whole: the threads stop at places that no other thread can tell from a moment
at which both were killed.

So the threads of a process take turns (``mm.turn``). In the last scenarios, which are about that, the interpreter's lock is one
of ``robust_lock``.

A thread's loads of a shared slot are not its own alone, so they are events here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import steps
from ..mutation import Edit
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import fixtures, scenario
from .crash_fixtures import FEW, FEW_PARTS, REAPER, Pool

if TYPE_CHECKING:
    from ..loader import Core
    from ..machine import Machine
    from ..memory import Direct, Mem
    from ..program import Thread

FIRST, SECOND, DEAD = 1, 2, 3  # clients: the two threads, and one that has died before
ONE_SLOT = Edit("client", "slot", "me * layout.CLIENT_SIZE", f"({FIRST} if me == {SECOND} else me) * layout.CLIENT_SIZE")
CLAIMED = (
    Edit(
        "client",
        "announce",
        "atomics.read_once(mem, op) != 0:",
        "atomics.cmpxchg_relaxed(mem, op, 0, pfn | layout.PIN_INTENT) != 0:",
    ),
    Edit("client", "announce", "        atomics.write_once(mem, op, pfn | layout.PIN_INTENT)", "        pass"),
    Edit(
        "client",
        "retract",
        "atomics.read_once(mem, op) != pfn",
        "atomics.cmpxchg_relaxed(mem, op, pfn | layout.PIN_INTENT, 0) != pfn",
    ),
    Edit("client", "retract", "    if op < end:\n        atomics.write_once(mem, op, 0)\n", ""),
)


class Threads(Pool):
    """Clients FIRST and SECOND are threads of one process."""

    clients = 4

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        atomics: Any = core.atomics
        atomics.read_once, atomics.write_once = atomics.load_relaxed, atomics.store_relaxed


class Killed(Threads):
    """Both threads are killed at once."""

    def reaper_of_process(self, me: int) -> Thread:
        def reap(mem: Machine) -> None:
            died = [steps.has_died(mem, thread) for thread in (FIRST, SECOND)]  # both have ended
            if any(died):
                self.settle(mem, me, [FIRST, SECOND])

        return reap

    def left(self, mem: Direct) -> None:
        self.settle(mem, REAPER, [FIRST, SECOND])
        super().left(mem)


@scenario("threads/get", FEW, FEW_PARTS, {
    "one-slot": Bug((ONE_SLOT,), ALL, "both threads choose the same word for their intents, and one of them is lost"),
}, {
    "one-slot-claimed": Bug((ONE_SLOT, *CLAIMED)),
})  # fmt: skip
def get(core: Core) -> Program:
    """Two threads of one process get a page and put it; the process is killed."""
    p = Killed(core)
    threads = [(FIRST, p.getter(FIRST)), (SECOND, p.getter(SECOND)), (REAPER, p.reaper_of_process(REAPER))]
    return p.program(*threads, mortal=(FIRST, SECOND))


class Reaped(Threads):
    """Client DEAD has left an intent for the page, and perhaps a reference."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        core.client.announce(mem, DEAD, self.pfn)
        core.client.op_begin(mem, DEAD)
        core.client.set_state(mem, DEAD, core.layout.SLOT_DEAD)


@scenario("threads/grace", FEW, FEW_PARTS, {
    "one-slot": Bug((ONE_SLOT,), ALL, "two operations under way make their number even: the reaper waits for neither"),
})  # fmt: skip
def grace(core: Core) -> Program:
    """Two threads of one process get a page, while a reaper settles what a dead client has left there."""
    p = Reaped(core)
    threads = [(FIRST, p.getter(FIRST)), (SECOND, p.getter(SECOND)), (REAPER, lambda mem: p.settle(mem, REAPER, [DEAD], False))]
    return p.program(*threads, mortal=(), dead=(DEAD,))


TURN, INTERPRETER = 0x900, 0x940  # the turn of a process; the interpreter's lock of a pool
SPINS = {"LOCK_SPINS": 0}
BUGS = {
    "excluded-unasked": Bug((Edit("turn", "try_begin", "atomics.load_seq_cst(mem, turn + layout.TURN_EXCLUDED) == 0", "True"),),
        ALL, "a turn begins while another thread has the interpreter's lock"),
    "inside-unasked": Bug((Edit("turn", "is_taken", "atomics.load_seq_cst(mem, turn + layout.TURN_INSIDE) != 0", "False"),),
        ALL, "nobody waits for the turn that has begun"),
    "exclude-relaxed": Bug((Edit("turn", "exclude", "atomics.store_seq_cst", "atomics.store_release"),), ("tso", "rc11"),
        "each thread writes its word and reads the other's from before"),
    "begin-acquire": Bug((Edit("turn", "try_begin", "exchange_seq_cst", "exchange_acquire"),), WEAK, "as exclude-relaxed"),
    "look-acquire": Bug((Edit("turn", "try_begin", "load_seq_cst", "load_acquire"),), WEAK, "as exclude-relaxed"),
    "wait-acquire": Bug((Edit("turn", "is_taken", "load_seq_cst", "load_acquire"),), WEAK, "as exclude-relaxed"),
    "end-relaxed": Bug((Edit("turn", "end", "store_release", "store_relaxed"),), WEAK,
        "the next thread does not see what was done in the turn"),
    "readmit-relaxed": Bug((Edit("turn", "readmit", "store_release", "store_relaxed"),), WEAK,
        "the next turn does not see what was done while it was excluded"),
    "readmit-all": Bug((Edit("turn", "readmit", "atomics.load_relaxed(mem, excluded) - 1", "0"),), ALL,
        "with two that exclude turns, of which one waits for the interpreter: the first to end lets turns begin"),
}  # fmt: skip


def add_one(mem: Mem) -> None:
    """Change what is the process's own, in two steps."""
    fixtures.fill(mem, 0, fixtures.look(mem, 0) + 1)


def section(core: Core, me: int, waits: bool = False) -> Thread:
    """Return a thread in a critical section. If it waits in it, the interpreter releases its lock meanwhile."""

    def run(mem: Mem) -> None:
        core.robust_lock.lock(mem, INTERPRETER, me)
        core.turn.exclude(mem, TURN)
        while core.turn.is_taken(mem, TURN):
            core.atomics.cpu_relax()
        if waits:
            core.robust_lock.unlock(mem, INTERPRETER)
            core.robust_lock.lock(mem, INTERPRETER, me)
        add_one(mem)
        core.turn.readmit(mem, TURN)
        core.robust_lock.unlock(mem, INTERPRETER)

    return run


def step(core: Core, me: int) -> Thread:
    """Return a thread in a step: a turn, or else a section."""

    def run(mem: Mem) -> None:
        if core.turn.try_begin(mem, TURN):
            add_one(mem)
            core.turn.end(mem, TURN)
        else:
            section(core, me)(mem)

    return run


def turns(*threads: Thread, total: int = 2, equal: list[tuple[int, ...]] | None = None) -> Program:
    def final(mem: Direct, results: list[Any]) -> None:
        seen = mem.values[("page", 0)]
        assert seen == total, f"{total} turns and sections, {seen} increments"
        left = [mem.values.get(at, 0) for at in (TURN, TURN + 4, INTERPRETER)]
        assert left == [0, 0, 0], "a turn or a lock is left"

    setup = lambda mem: fixtures.fill(mem, 0, 0)  # noqa: E731
    named = {TURN: "inside", TURN + 4: "excluded", INTERPRETER: "lock"}
    names = lambda loc: named.get(loc) or fixtures.names(loc)  # noqa: E731
    return Program(list(threads), setup, final, fixtures.geometry(), names=names, equal=equal or [])


@scenario("threads/turn", SPINS, bugs={name: BUGS[name] for name in BUGS if name != "readmit-all"})
def turn(core: Core) -> Program:
    """A thread in a turn or a section, and one in a section: one at a time, and none waits for ever."""
    return turns(step(core, FIRST), section(core, SECOND))


@scenario("threads/turns", SPINS, bugs={"end-relaxed": BUGS["end-relaxed"]})
def two_turns(core: Core) -> Program:
    """Two threads, each in a turn or a section."""
    return turns(step(core, FIRST), step(core, SECOND), equal=[(0, 1)])


@scenario("threads/turn-waits", SPINS, bugs={"readmit-all": BUGS["readmit-all"]}, slow=True)
def turn_waits(core: Core) -> Program:
    """A thread in a section, and then in a turn or a section; and one that waits in its section for the interpreter."""

    def both(mem: Mem) -> None:
        section(core, FIRST)(mem)
        step(core, FIRST)(mem)

    return turns(both, section(core, SECOND, waits=True), total=3)
