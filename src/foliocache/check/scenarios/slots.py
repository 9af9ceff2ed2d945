"""A client's slot: given up, taken by the next client, kept for what has to wait; and what others conclude from its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import steps
from ..mutation import Edit
from ..scenario import ALL, WEAK, Bug
from . import scenario
from .crash_fixtures import FEW, FEW_PARTS, OTHER, PARTS, REAPER, VICTIM, Pool
from .death_parts import Locked

if TYPE_CHECKING:
    from ..loader import Core
    from ..machine import Machine
    from ..memory import Direct, Mem
    from ..program import Program, Thread

STATE_RELAXED = Edit("client", "set_state", "store_release", "store_relaxed")
ASKED_RELAXED = Edit("client", "state", "load_acquire", "load_relaxed")
END_RELAXED = Edit("client", "_end_operation", "store_release", "store_relaxed")


class Leaving(Pool):
    def leaver(self, me: int) -> Thread:
        """Return a thread that gets the page, puts it, and then gives up its slot."""

        def leave(mem: Mem) -> Any:
            found = self.getter(me)(mem)
            self.core.client.detach(mem, me)
            return found

        return leave

    def comer(self, me: int) -> Thread:
        """Return a thread that takes a slot once it is clean, and gets the page."""

        def come(mem: Machine) -> Any:
            core = self.core
            while core.client.state(mem, me) != core.layout.SLOT_CLEAN:
                core.atomics.cpu_relax()
            assert core.client.is_idle(mem, me), "a clean slot names a folio"
            core.client.wipe(mem, me)
            core.client.attach(mem, me)
            return self.getter(me)(mem)

        return come


@scenario("death/get-leave", FEW, FEW_PARTS, {
    "end-relaxed": Bug((END_RELAXED,), WEAK, "who reads the number of operations from here is not ordered after them"),
})  # fmt: skip
def get_leave(core: Core) -> Program:
    """As death/get-get, and the living client gives up its slot."""
    p = Leaving(core)
    return p.program((VICTIM, p.getter(VICTIM)), (REAPER, p.reaper()), (OTHER, p.leaver(OTHER)))


class Told(Locked):
    """A client that waits for the victim's lock may hear of the victim's death from the reaper, and not from the kernel."""

    def teller(self, mem: Machine) -> None:
        if steps.has_died(mem, VICTIM):
            self.core.client.set_state(mem, VICTIM, self.core.layout.SLOT_DEAD)


@scenario("death/lock-told", FEW, PARTS[1:], {
    "state-relaxed": Bug((STATE_RELAXED,), WEAK, "who takes the lock over is not ordered after the dead client"),
    "asked-relaxed": Bug((ASKED_RELAXED,), WEAK, "the same"),
})  # fmt: skip
def lock_told(core: Core) -> Program:
    """As death/lock, and a reaper marks the victim's slot."""
    p = Told(core)
    return p.program((VICTIM, p.locker(VICTIM)), (OTHER, p.locker(OTHER)), (REAPER, p.teller), timeouts=True)


LAST = 3


class Waiting(Leaving):
    """Clients 1 and 3 have died. Each has left a reference without an owner, and an intent for its folio: client 1 on the
    cached page, client 3 on another. Client 2 holds both folios, so they have to wait, and one of the two slots is kept for
    that. The other is free for the next client."""

    clients = 4
    second: int

    def __init__(self, core: Core) -> None:
        super().__init__(core, 3)

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        self.second = core.page_alloc.alloc(mem, LAST, 0)
        core.folio.prepare(mem, self.second, core.layout.TYPE_FILE, 0, 0, 0, 0, 1)
        core.page_ref.init(mem, core.atomics.folio_at(mem, self.second), 1)
        core.client.announce(mem, VICTIM, self.pfn)
        core.page_ref.get(mem, core.atomics.folio_at(mem, self.pfn))
        for client in (VICTIM, LAST):
            core.client.op_begin(mem, client)
            core.client.set_state(mem, client, core.layout.SLOT_DEAD)
        self.pinned(mem, OTHER, self.pfn, 0)
        self.pinned(mem, OTHER, self.second, 1)

    def user(self, me: int) -> Thread:
        def use(mem: Mem) -> None:
            self.core.folio.release(mem, me, 0, self.pfn)
            self.core.folio.release(mem, me, 1, self.second)

        return use

    def reaper_of_both(self, me: int) -> Thread:
        return lambda mem: self.settle(mem, me, [VICTIM, LAST])


COPY = "            atomics.record32(mem, client.pin(mem, keeper, free), word)\n"
CLEAR = "            atomics.record32(mem, at, 0)\n"
HAND_OVER = {
    "copy-last": Bug((Edit("reap", "hand_over_unresolved", COPY + CLEAR, CLEAR + COPY),), ALL,
        "a reaper that dies in between leaves a folio that nobody names"),
    "not-copied": Bug((Edit("reap", "hand_over_unresolved", COPY, ""),), ALL, "a folio that has to wait is forgotten"),
}  # fmt: skip


class Succeeded(Waiting):
    """Client 2 goes on when the others have ended."""

    def left(self, mem: Direct) -> None:
        self.user(OTHER)(mem)
        super().left(mem)


@scenario("death/hand-over", FEW, FEW_PARTS, HAND_OVER)
def hand_over(core: Core) -> Program:
    """Two dead clients name folios that a third one holds. The reaper may die, too."""
    p = Succeeded(core)
    return p.program((REAPER, p.reaper_of_both(REAPER)), mortal=(REAPER,), dead=(VICTIM, LAST))


@scenario("death/hand-over-release", FEW, FEW_PARTS, {"not-copied": HAND_OVER["not-copied"]}, slow=True)
def hand_over_release(core: Core) -> Program:
    """As death/hand-over, while the third client releases the folios."""
    p = Waiting(core)
    return p.program((REAPER, p.reaper_of_both(REAPER)), (OTHER, p.user(OTHER)), mortal=(), dead=(VICTIM, LAST))


@scenario("death/hand-over-next", FEW, FEW_PARTS, {
    "clean-relaxed": Bug((STATE_RELAXED,), WEAK, "the next client of the slot still finds the last one's names"),
    "taken-relaxed": Bug((ASKED_RELAXED,), WEAK, "the same"),
    "not-cleared": Bug((Edit("reap", "hand_over_unresolved", CLEAR, ""),), ALL, "the same"),
})  # fmt: skip
def hand_over_next(core: Core) -> Program:
    """As death/hand-over, and another client takes the slot that has become free."""
    p = Succeeded(core)
    return p.program((REAPER, p.reaper_of_both(REAPER)), (LAST, p.comer(LAST)), mortal=(), dead=(VICTIM,))
