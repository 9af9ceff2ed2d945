"""Locks that are refused: the owner lives, but has stopped in the critical section for longer than a client waits.

Simulated time does not advance, so LOCK_PATIENCE_NS is 0 and a client does not wait for a lock. Client 2 is the one that stops:
it takes one of the locks, any one at any time, and continues later. Client 1 works meanwhile. If a lock is refused, client 1
gives up its operation as if it had died there, leaves intents in its slot and broken locks, and lives on. At the end it settles
its own intents, as ``Attachment.settle`` does when the owner has continued, and nothing may be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import steps
from ..mutation import Edit
from ..scenario import ALL, Bug
from . import scenario
from .crash_fixtures import OTHER, PARTS, REAPER, SMALL, VICTIM, Pool
from .death_path import Queued, Two

if TYPE_CHECKING:
    from ..loader import Core
    from ..machine import Machine
    from ..memory import Direct, Mem
    from ..program import Program, Thread

REFUSED = {**SMALL, "LOCK_PATIENCE_NS": 0, "OPS": 6}
WORKER, STOPPED = VICTIM, OTHER


class Refusing(Pool):
    """The worker settles what it has left before the audit."""

    def left(self, mem: Direct) -> None:
        core = self.core
        core.reap.locks(mem, REAPER, WORKER)  # no client is dead: the broken ones
        assert core.reap.resolve_intents(mem, WORKER, WORKER) == 0, (
            "the worker cannot settle what it has left, though no client is in an operation"
        )
        core.reap.sweep(mem, REAPER)
        super().left(mem)

    def stopped(self, mem: Machine) -> None:
        """Hold one of the locks for a while."""
        words = [*self.locks()]
        word = words[steps.choose(mem, len(words))]
        got = self.core.robust_lock.lock(mem, word, STOPPED)
        if got != self.core.layout.LOCK_BUSY:
            self.core.robust_lock.unlock(mem, word)

    def beside(self, work: Thread) -> Program:
        return self.program((WORKER, work), (STOPPED, self.stopped), mortal=())


class Cached(Refusing, Queued):
    """A pool with queues."""


class Held(Refusing, Two):
    """Two folios that have left their mapping; each client holds one, and the stopped client drops its own when it goes on."""

    def stopped(self, mem: Machine) -> None:
        super().stopped(mem)
        self.dropper(STOPPED)(mem)

    def left(self, mem: Direct) -> None:
        assert self.core.reap.resolve_intents(mem, STOPPED, STOPPED) == 0
        super().left(mem)


NAME_DROPPED = Edit("folio", "put", " and not destroy(mem, me, pfn):\n        return False", ":\n        destroy(mem, me, pfn)")
RELEASE_DROPPED = Edit("folio", "release", "        client.keep_intent(mem, me, n, pfn)", "        client.finish(mem, me, pfn)")
EVICTED_DROPPED = Edit(
    "vmscan", "_evict", "        return layout.NIL\n    client.retract(", "        pass\n    client.retract("
)
UNMARKED = Edit("mapping", "remove", "        robust_lock.mark_broken(mem, _tree_lock(ino))", "        pass")
UNLOCK_FORGETS = Edit("robust_lock", "unlock", "layout.LOCK_BROKEN) &", "0) &")
RECORD_UNMARKED = Edit("mapping", "_free_record", "        robust_lock.mark_broken(mem, layout.TABLE_LOCK)", "        pass")
UNQUEUED = Edit("filemap", "complete", "        client.announce(mem, me, pfn)", "        pass")
REFUSED_TAKEN = Edit("page_alloc", "_lock", "return got != layout.LOCK_BUSY", "return True")


@scenario("refused/drop", REFUSED, PARTS, {
    "release-dropped": Bug((RELEASE_DROPPED,), ALL, "the page has no owner"),
    "refused-taken": Bug((REFUSED_TAKEN,), ALL, "two clients are in the critical section"),
})  # fmt: skip
def refused_drop(core: Core) -> Program:
    """The worker drops the last reference."""
    p = Held(core, 5, more=(2,), height=1)
    return p.beside(p.dropper(WORKER))


@scenario("refused/truncate", REFUSED, PARTS, {
    "name-dropped": Bug((NAME_DROPPED,), ALL, "the page has no owner"),
    "node-unmarked": Bug((UNMARKED,), ALL, "a node that no tree links stays in use"),
    "record-unmarked": Bug((RECORD_UNMARKED,), ALL, "a record without an ino stays in use"),
    "unlock-forgets": Bug((UNLOCK_FORGETS,), ALL, "no client repairs"),
})  # fmt: skip
def refused_truncate(core: Core) -> Program:
    """The worker truncates, which takes the locks of the tree, the slabs, the queues, the allocator and the table."""
    p = Cached(core, 4, height=1)
    return p.beside(p.truncater(WORKER))


@scenario("refused/evict", REFUSED, PARTS, {"evicted-dropped": Bug((EVICTED_DROPPED,), ALL, "the page has no owner")})
def refused_evict(core: Core) -> Program:
    """The worker needs a page for another mapping, and evicts one."""
    p = Cached(core, 3, height=1)
    return p.beside(p.evicter(WORKER))


@scenario("refused/insert", REFUSED, PARTS, {"unqueued": Bug((UNQUEUED,), ALL, "reclaim never finds the page")})
def refused_insert(core: Core) -> Program:
    """The worker inserts a page."""
    p = Cached(core, 5, height=1)
    return p.beside(p.inserter(WORKER))


class Tidy(Cached):
    def tidy(self, me: int, work: Thread) -> Thread:
        """Return a thread that moves what ``work`` had to leave to its ledger, uses its slot, and tries to settle the rest, as
        ``Attachment.tidy`` does after each operation."""

        def run(mem: Mem) -> None:
            core, layout = self.core, self.core.layout
            work(mem)
            pins = core.client.intents(mem, me)
            for n in range(pins):
                assert core.client.defer(mem, me, n)
            for n in range(layout.OPS):
                assert not core.atomics.read_once(mem, core.client.word_at(mem, me, n)), "the next operation meets an intent"
            self.getter(me)(mem)
            if pins and not core.client.is_refused(mem):
                core.reap.resolve_intents(mem, me, me)

        return run


DEFER_LOST = Edit("client", "defer", "            atomics.write_once(mem, pin(mem, me, n), name)\n", "")
DEFER_KEPT = Edit("client", "defer", "            atomics.write_once(mem, word_at(mem, me, op), 0)\n", "")


@scenario("refused/tidy", {**REFUSED, "PINS": 4}, PARTS, {
    "defer-lost": Bug((DEFER_LOST,), ALL, "the page has no owner"),
    "defer-kept": Bug((DEFER_KEPT,), ALL, "the next operation meets the intent"),
})  # fmt: skip
def refused_tidy(core: Core) -> Program:
    """The worker removes a folio, moves the names of what it has to leave to its ledger, and works on."""
    p = Tidy(core, 5, more=(2,), height=1)
    return p.beside(p.tidy(WORKER, p.remover(WORKER)))


class Windowed(Tidy):
    """The worker has a window, whose table is its pin 0."""

    table: int

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        self.table = core.pagetable.make(mem, WORKER, 0, 1)
        core.page_ref.get(mem, core.atomics.folio_at(mem, self.pfn))
        core.pagetable.map(mem, self.table, 0, self.pfn)
        self.truncater(REAPER)(mem)

    def closer(self, me: int) -> Thread:
        """Return a thread that releases the window, and tries again as long as the ledger has its table."""

        def close(mem: Mem) -> None:
            core = self.core
            for _ in range(2):
                word = core.atomics.read_once(mem, core.client.pin(mem, me, 0))
                if word & core.layout.PIN_OWNED and not core.pagetable.release(mem, me, 0, word & core.layout.PIN_PFN):
                    assert core.atomics.read_once(mem, core.client.pin(mem, me, 0)), "the table is in no word to try again with"

        return close

    def left(self, mem: Direct) -> None:
        self.closer(WORKER)(mem)
        super().left(mem)


@scenario("refused/window", {**REFUSED, "PINS": 4}, PARTS, {
    "table-forgotten": Bug((Edit("pagetable", "release", "            client.defer(mem, me, n)", "            pass"),), ALL,
        "the intent stays where the next operation meets it"),
})  # fmt: skip
def refused_window(core: Core) -> Program:
    """The worker releases a window over a folio that has left its mapping, twice if it has to."""
    p = Windowed(core, 5, height=1)
    return p.beside(p.closer(WORKER))
