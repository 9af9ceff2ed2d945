"""A client dies at any of its writes, while it takes or drops a reference, and a reaper settles it beside a client that lives
on.

Nothing is left out of the path of a reference (names, counts, slot, allocator, quarantine, grace period); queues and nodes are
in ``death_path``. The reaper learns of the death at any time, in every state that the living client can be in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mutation import Edit, Replace
from ..scenario import ALL, WEAK, Bug
from . import fixtures, lookup, scenario
from .crash_fixtures import FEW, FEW_PARTS, OTHER, PARTS, REAPER, VICTIM, Pool

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Program, Thread

NOTE = "        client.announce(mem, me, pfn)\n"
GET = "        got = page_ref.try_get(mem, atomics.folio_at(mem, pfn))\n"
RELEASE = Replace(
    "folio",
    "release",
    """
    def release(mem, me, n, pfn):
        client.let_go(mem, me, n, pfn)
        put(mem, me, pfn)
        client.op_end(mem, me)
""",
)
NAMES = {
    "note-after-get": Bug((Edit("filemap", "find_get", NOTE + GET, GET + NOTE),), ALL,
        "a reference that no client has written down"),
    "done-before-sub": Bug((Replace("folio", "put", """
        def put(mem, me, pfn):
            client.retract(mem, me, pfn)
            if page_ref.put(mem, atomics.folio_at(mem, pfn)):
                destroy(mem, me, pfn)
    """), RELEASE), ALL, "the same"),
    "done-before-destroy": Bug((Replace("folio", "put", """
        def put(mem, me, pfn):
            last = page_ref.put(mem, atomics.folio_at(mem, pfn))
            client.retract(mem, me, pfn)
            if last:
                destroy(mem, me, pfn)
    """), RELEASE), ALL, "a frozen page that no client has written down"),
    "hold-done-first": Bug((Replace("client", "hold", """
        def hold(mem, me, n, pfn):
            retract(mem, me, pfn)
            atomics.write_once(mem, pin(mem, me, n), pfn | layout.PIN_OWNED)
    """),), ALL, "on its way from the operation to the ledger the reference is in neither"),
    "drop-unnamed": Bug((Replace("client", "drop", """
        def drop(mem, me, n, pfn):
            atomics.write_once(mem, pin(mem, me, n), 0)
            announce(mem, me, pfn)
    """),), ALL, "and on its way back"),
}  # fmt: skip
UNPUBLISH = "    client.op_begin(mem, me)\n    unpublished = _unpublish(mem, me, pfn)\n    client.op_end(mem, me)\n"
GRACE = "    if not client.wait_grace_period(mem, me):\n        return False\n"
BUSY = Edit("reap", "_names", "    if alive and before & 1:\n        return True\n", "")
QUIET = Edit("reap", "_names", "    return client.op_seq(mem, other) != before", "    return False")
NO_QUARANTINE = Edit("page_alloc", "quarantine", "_set_mark(mem, pfn, layout.BUDDY_QUARANTINED)", "pass")
LET_GO = Edit("page_alloc", "free", "mark(mem, pfn) == layout.BUDDY_QUARANTINED", "False")
UNASKED = Edit("reap", "_is_named", " and _names(mem", " and not client.is_alive(mem, other) and _names(mem")
NO_LIGHT = Edit("client", "op_begin", "    atomics.asymmetric_fence_light(mem)\n", "")
LEAVE = Edit("client", "op_end", "store_release", "store_relaxed")
QUARANTINE = {
    "no-quarantine": Bug(
        (NO_QUARANTINE,), ALL, "a client that uses the page frees it meanwhile, and the reaper frees it again"
    ),
    "quarantine-unheeded": Bug((LET_GO,), ALL, "the allocator takes back, and hands out, a page that the reaper inspects"),
}
ASKED = {
    "living-unasked": Bug((UNASKED,), ALL, "a living client's reference is taken for the dead client's"),
    "busy-unseen": Bug((BUSY,), ALL, "a client in an operation may be about to name it"),
    "living-not-quiet": Bug((QUIET,), ALL, "and so may one that began an operation while it was asked"),
}


@scenario("death/hold", FEW, FEW_PARTS, {k: NAMES[k] for k in ("done-before-sub", "hold-done-first", "drop-unnamed")})
def death_hold(core: Core) -> Program:
    """A client gets a page, holds it, releases it, and dies at some point; the reaper comes."""
    p = Pool(core)
    return p.program((VICTIM, p.holder(VICTIM)), (REAPER, p.reaper()))


@scenario("death/hold-again", FEW, FEW_PARTS)
def death_hold_again(core: Core) -> Program:
    """As death/hold, and the reaper may die, too; another one settles both."""
    p = Pool(core)
    first, second = p.reaper(OTHER, whole=True), p.reaper(REAPER, (VICTIM, OTHER), whole=True)
    return p.program((VICTIM, p.holder(VICTIM)), (OTHER, first), (REAPER, second), mortal=(VICTIM, OTHER))


@scenario("death/hold-both", FEW, FEW_PARTS)
def death_hold_both(core: Core) -> Program:
    """Two clients hold the same page, and both may die: two names of one page, settled one after the other."""
    p = Pool(core)
    threads = [(VICTIM, p.holder(VICTIM)), (OTHER, p.holder(OTHER)), (REAPER, p.reaper(REAPER, (VICTIM, OTHER)))]
    return p.program(*threads, mortal=(VICTIM, OTHER))


@scenario("death/hold-hold", FEW, FEW_PARTS, ASKED)
def death_hold_hold(core: Core) -> Program:
    """The victim and a living client hold the same page: the reaper has to wait for the living one, which keeps it."""
    p = Pool(core)
    return p.program((VICTIM, p.holder(VICTIM)), (REAPER, p.reaper()), (OTHER, p.holder(OTHER)))


@scenario("death/get-get", FEW, FEW_PARTS, {
    **{k: NAMES[k] for k in ("note-after-get", "done-before-sub")}, **QUARANTINE,
    "no-light-barrier": Bug((NO_LIGHT,), WEAK, "the reaper does not see the getter, nor the getter the cleared slot"),
    "leave-relaxed": Bug((LEAVE,), WEAK, "the getter's last read is not ordered before the reaper's destructor"),
})  # fmt: skip
def death_get_get(core: Core) -> Program:
    """The victim gets a page and puts it, and so does a living client."""
    p = Pool(core)
    return p.program((VICTIM, p.getter(VICTIM)), (REAPER, p.reaper()), (OTHER, p.getter(OTHER)))


@scenario("death/get-remove", FEW, FEW_PARTS, {"done-before-destroy": NAMES["done-before-destroy"]})
def death_get_remove(core: Core) -> Program:
    """The victim gets a page that a living client removes."""
    p = Pool(core)
    return p.program((VICTIM, p.getter(VICTIM)), (REAPER, p.reaper()), (OTHER, p.remover(OTHER)))


@scenario("death/remove-get", FEW, FEW_PARTS)
def death_remove_get(core: Core) -> Program:
    """The victim removes a page that a living client gets."""
    p = Pool(core)
    return p.program((VICTIM, p.remover(VICTIM)), (REAPER, p.reaper()), (OTHER, p.getter(OTHER)))


@scenario("death/truncate-get", FEW, FEW_PARTS)
def death_truncate_get(core: Core) -> Program:
    """The victim truncates, and the slot's reference may be the last one; a living client gets the page."""
    p = Pool(core)
    return p.program((VICTIM, p.truncater(VICTIM)), (REAPER, p.reaper()), (OTHER, p.getter(OTHER)))


class Pinned(Pool):
    """A page that has left its mapping, and is pinned by clients 1 and 2."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        for client in (VICTIM, OTHER):
            self.pinned(mem, client, self.pfn)
        super().truncater(REAPER)(mem)

    def dropper(self, me: int) -> Thread:
        def drop(mem: Mem) -> None:
            self.check(mem, self.pfn)
            self.core.folio.release(mem, me, 0, self.pfn)

        return drop


@scenario("death/put-put", FEW, FEW_PARTS, {
    "done-before-destroy": NAMES["done-before-destroy"],
    "sub-relaxed": Bug((lookup.BARRIERS["sub-relaxed"],), WEAK),
    "freeze-relaxed": Bug((lookup.BARRIERS["freeze-relaxed"],), WEAK),
})  # fmt: skip
def death_put_put(core: Core) -> Program:
    """Two clients drop the last two references; one of them may die on the way, in the destructor, too."""
    p = Pinned(core)
    return p.program((VICTIM, p.dropper(VICTIM)), (REAPER, p.reaper()), (OTHER, p.dropper(OTHER)))


@scenario("death/put-both", FEW, FEW_PARTS)
def death_put_both(core: Core) -> Program:
    """As death/put-put, and both may die."""
    p = Pinned(core)
    threads = [(VICTIM, p.dropper(VICTIM)), (OTHER, p.dropper(OTHER)), (REAPER, p.reaper(REAPER, (VICTIM, OTHER)))]
    return p.program(*threads, mortal=(VICTIM, OTHER))


DEAD_UNASKED = Edit("reap", "_is_named", " and _names(mem", " and client.is_alive(mem, other) and _names(mem")


@scenario("death/put-late", FEW, FEW_PARTS, {
    "dead-unasked": Bug((DEAD_UNASKED,), ALL, "another dead client's pin is taken for this one's"),
})  # fmt: skip
def death_put_late(core: Core) -> Program:
    """As death/put-both, but the reaper begins as soon as the first client has died; another reaper settles the second."""
    p = Pinned(core)
    return p.program((VICTIM, p.dropper(VICTIM)), (OTHER, p.dropper(OTHER)), (REAPER, p.reaper()), mortal=(VICTIM, OTHER))


class Reborn(Pool):
    """Client 1 has died with the name of a page in its slot, from a former life of that page. Client 2 makes it a new folio."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        super().truncater(REAPER)(mem)
        core.client.op_begin(mem, OTHER)
        assert core.page_alloc.alloc(mem, OTHER, 0) == self.pfn
        core.client.op_begin(mem, VICTIM)
        core.client.announce(mem, VICTIM, self.pfn)

    def builder(self, me: int) -> Thread:
        def build(mem: Mem) -> None:
            core, pfn = self.core, self.pfn
            core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, 0, 0, self.ino, self.place, 1)
            fixtures.fill(mem, pfn, (self.ino, self.place))
            core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
            assert core.mapping.lock(mem, me, self.ino)
            assert core.mapping.insert(mem, me, self.ino, self.place, pfn) == core.layout.XA_OK
            core.mapping.unlock(mem, self.ino)
            core.client.retract(mem, me, pfn)
            core.client.op_end(mem, me)
            self.truncater(me)(mem)

        return build


GRACE_BUGS = {
    "no-grace": Bug((Edit("reap", "settle", GRACE, ""),), ALL, "as below"),
    "grace-after-unpublish": Bug((Edit("reap", "settle", GRACE, ""), Edit("reap", "settle", UNPUBLISH, UNPUBLISH + GRACE)), ALL,
        "published after the reaper has looked, and withdrawn again: the slot's reference is taken for the dead client's"),
}  # fmt: skip


@scenario("death/reborn", FEW, FEW_PARTS, GRACE_BUGS)
def death_reborn(core: Core) -> Program:
    """A living client builds a folio in a page that a dead client has named, publishes it, and withdraws it again."""
    p = Reborn(core)
    return p.program((REAPER, p.reaper()), (OTHER, p.builder(OTHER)), dead=(VICTIM,))


class Requeued(Pool):
    """Client 1 has died with a reference to a page that client 2 is filling. Client 0 reclaims, client 3 reaps."""

    clients = 4
    queues = True

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core, at = self.core, self.core.atomics.folio_at(mem, self.pfn)
        core.lru.remove(mem, REAPER, self.pfn)
        core.fill.begin(mem, OTHER, self.pfn)
        self.pinned(mem, OTHER, self.pfn)
        core.client.op_begin(mem, VICTIM)
        core.client.announce(mem, VICTIM, self.pfn)
        core.page_ref.get(mem, at)

    def fill_and_reclaim(self, filler: int, reclaimer: int) -> Thread:
        """Return two clients, one after the other: the second finds on a queue the folio that the first has put there. (The
        first does what ``filemap.complete`` ends with, and drops its pin.)"""

        def complete(mem: Mem) -> None:
            core = self.core
            core.lru.add(mem, filler, self.pfn, core.layout.QUEUE_SMALL)
            core.client.drop(mem, filler, 0, self.pfn)
            core.folio.put(mem, filler, self.pfn)

        def reclaim(mem: Mem) -> None:
            pfn = self.core.lru.isolate(mem, reclaimer, False)
            if pfn != self.core.layout.NIL:
                self.core.folio.put(mem, reclaimer, pfn)

        def run(mem: Mem) -> None:
            self.operation(filler, complete)(mem)
            self.operation(reclaimer, reclaim)(mem)

        return run


UNATTACHED = Edit("lru", "_may_join", "attached != 0 and ", "")


@scenario("death/requeued", {**FEW, "SCAN_BATCH": 1}, (*PARTS, fixtures.TREE[2]), {
    "queued-unattached": Bug((UNATTACHED,), ALL, "reclaim gets the name from a queue, after it has been asked for names"),
})  # fmt: skip
def death_requeued(core: Core) -> Program:
    """The reaper takes a folio out while it is being filled; the filler completes it, and reclaim looks for a folio to evict
    and leaves this one."""
    p = Requeued(core)
    return p.program((3, p.reaper(3)), (OTHER, p.fill_and_reclaim(OTHER, 0)), dead=(VICTIM,))
