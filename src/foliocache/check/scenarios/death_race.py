"""The race of the mailing list in its crash form: SIGKILL between the sub and the cmpxchg, and the page is used again.

Client 1 drops the last reference and dies before the sub, or between it and the cmpxchg. Client 2 has the page's number from
before: it may get the page at zero, and then it destroys it, takes the page for a table and keeps it. Client 0 reaps. All that
it knows of client 1 is an intent, and the word does not say whether the reference has been dropped: 1 may be the dead client's,
or another life's. Three of the bugs are answers that a reaper could guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import steps
from ..mutation import Replace
from ..scenario import ALL, Bug
from . import fixtures, scenario
from .crash_fixtures import FEW, FEW_PARTS, OTHER, REAPER, VICTIM, Pool
from .death import QUARANTINE
from .death_parts import PAIR, Blocks

if TYPE_CHECKING:
    from ..loader import Core
    from ..machine import Machine
    from ..memory import Direct, Mem
    from ..program import Program, Thread

GUESSES = {
    "dropped-again": Bug((Replace("reap", "settle", """
        def settle(mem, me, dead, pfn):
            client.op_begin(mem, me)
            client.announce(mem, me, pfn)
            folio.put(mem, me, pfn)
            client.op_end(mem, me)
            return True
    """),), ALL, "the reaper drops the reference; if the dead client had dropped it, that is one of the next life"),
    "frozen-again": Bug((Replace("reap", "settle", """
        def settle(mem, me, dead, pfn):
            client.op_begin(mem, me)
            client.announce(mem, me, pfn)
            if page_ref.freeze(mem, atomics.folio_at(mem, pfn), 0):
                folio.destroy(mem, me, pfn)
            client.retract(mem, me, pfn)
            client.op_end(mem, me)
            return True
    """),), ALL, "the reaper does the cmpxchg; if the dead client had not dropped its reference, the page is lost"),
    "word-believed": Bug((Replace("reap", "settle", """
        def settle(mem, me, dead, pfn):
            client.op_begin(mem, me)
            client.announce(mem, me, pfn)
            word = page_ref.count(mem, atomics.folio_at(mem, pfn))
            if word == 0 and page_ref.freeze(mem, atomics.folio_at(mem, pfn), 0):
                folio.destroy(mem, me, pfn)
            if word == 0 or word & layout.FROZEN:
                client.retract(mem, me, pfn)
            else:
                folio.put(mem, me, pfn)
            client.op_end(mem, me)
            return True
    """),), ALL, "the reaper does the cmpxchg on 0, and else drops a reference: it may be one of the next life"),
}  # fmt: skip


class Raced(Pool):
    """The page has left its mapping, and client 1 has the last reference. Client 2 is in an operation and knows the page."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        self.held(mem)
        super().truncater(REAPER)(mem)
        self.core.client.op_begin(mem, OTHER)

    def held(self, mem: Direct) -> None:
        self.pinned(mem, VICTIM, self.pfn)
        self.core.client.let_go(mem, VICTIM, 0, self.pfn)

    def dropper(self, me: int) -> Thread:
        """Return a put that does not come to its end: the client dies before the sub, or between it and the cmpxchg. (Other
        deaths, and none, are in death/put-put.)"""

        def drop(mem: Machine) -> None:
            self.core.page_ref.put(mem, self.core.atomics.folio_at(mem, self.pfn))
            steps.assume(mem, False)

        return drop

    def racer(self, me: int) -> Thread:
        """Return T2 and T3 of the mailing list, as one client: a late getter, which then uses the page again."""

        def race(mem: Mem) -> str:
            core = self.core
            core.client.announce(mem, me, self.pfn)
            if core.page_ref.try_get(mem, core.atomics.folio_at(mem, self.pfn)) == core.layout.GOT:
                fixtures.look(mem, self.pfn)
                core.folio.put(mem, me, self.pfn)
            else:
                core.client.retract(mem, me, self.pfn)
            used = self.reuse(mem, me)
            core.client.op_end(mem, me)
            return used

        return race

    def reuse(self, mem: Mem, me: int) -> str:
        core = self.core
        pfn = core.page_alloc.alloc(mem, me, 0)
        if pfn == core.layout.NIL:
            return "nothing free"
        core.folio.prepare(mem, pfn, core.layout.TYPE_TABLE, 0, 0, 0, 0, 4)
        fixtures.fill(mem, pfn, "table")
        core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
        core.client.hold(mem, me, 0, pfn)
        return "used again"

    def left(self, mem: Direct) -> None:
        """What client 2 has made of the page is whole, and is given back."""
        core = self.core
        held = core.atomics.load_relaxed(mem, core.client.pin(mem, OTHER, 0))
        if held & core.layout.PIN_OWNED:
            pfn = held & core.layout.PIN_PFN
            content, word = fixtures.look(mem, pfn), core.page_ref.count(mem, core.atomics.folio_at(mem, pfn))
            assert content == "table" and word == 1, f"the table is {content}, its count {word:#x}"
            core.folio.release(mem, OTHER, 0, pfn)
        super().left(mem)

    def crash(self) -> Program:
        return self.program((VICTIM, self.dropper(VICTIM)), (OTHER, self.racer(OTHER)), (REAPER, self.reaper()))


class Tailed(Raced, Blocks):
    """The page is the head of a large folio, and it is used again as a small one."""

    pfn: int

    def setup(self, mem: Direct) -> None:
        Blocks.setup(self, mem)
        core = self.core
        core.client.op_begin(mem, VICTIM)
        self.pfn = core.page_alloc.alloc(mem, VICTIM, 1)
        core.folio.prepare(mem, self.pfn, core.layout.TYPE_FILE, 1, 0, 0, 0, 0)
        core.page_ref.init(mem, core.atomics.folio_at(mem, self.pfn), 1)
        core.client.hold(mem, VICTIM, 0, self.pfn)
        core.client.op_end(mem, VICTIM)
        core.client.let_go(mem, VICTIM, 0, self.pfn)
        core.client.op_begin(mem, OTHER)


class Windowed(Raced):
    """The last reference is that of an entry in a window of client 1, which it has just cleared (``pagetable.unmap``)."""

    def held(self, mem: Direct) -> None:
        pagetable, client = self.core.pagetable, self.core.client
        table = pagetable.make(mem, VICTIM, 0, 1)
        self.pinned(mem, VICTIM, self.pfn, 1)
        pagetable.move(mem, VICTIM, 1, table, 0, self.pfn)
        client.op_begin(mem, VICTIM)
        client.announce(mem, VICTIM, self.pfn)
        self.core.atomics.store_relaxed(mem, self.core.atomics.page_at(mem, table), 0)


@scenario("death/race", FEW, FEW_PARTS, {**GUESSES, **QUARANTINE})
def death_race(core: Core) -> Program:
    """Killed between 1 -> 0 and the cmpxchg, with reuse by another type."""
    return Raced(core).crash()


@scenario("death/race-tails", PAIR, FEW_PARTS, GUESSES)
def death_race_tails(core: Core) -> Program:
    """As death/race, with a large folio: its pages are used again as small folios."""
    return Tailed(core).crash()


@scenario("death/race-window", FEW, FEW_PARTS, GUESSES)
def death_race_window(core: Core) -> Program:
    """As death/race, and what drops the last reference is a window that is unmapped."""
    return Windowed(core, 3).crash()
