"""Two threads of one process that are in operations at the same time, which needs an interpreter without the GIL.

The core was written for processes that run one operation at a time. Here each thread has a client's slot of its own: that is
what the shipped source allows, and it holds. The bug ``one-slot`` gives both threads the same slot, as a process has today, and
shows what that would break. A process dies as a whole: the threads stop at places that no other thread can tell from a moment
at which both were killed.

A thread's loads of a shared slot are not its own alone, so they are events here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import steps
from ..mutation import Edit
from ..scenario import ALL, Bug
from . import scenario
from .crash_fixtures import FEW, FEW_PARTS, REAPER, Pool

if TYPE_CHECKING:
    from ..loader import Core
    from ..machine import Machine
    from ..memory import Direct
    from ..program import Program, Thread

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
