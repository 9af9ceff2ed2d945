"""Pages that change their use: an empty page of objects is given back, and a folio of main makes room for a newcomer.

Page contents are cells of their own in a simulation, so a walker that is late by a whole life of a page would not be noticed.
Therefore a page that a slab gives back is overwritten here where a walker would look, by plain stores, as its next owner may do
it: they race with a walker that is still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mutation import Edit
from ..scenario import ALL, WEAK, Bug
from . import fixtures, scenario, tree
from .crash_fixtures import OTHER, PARTS, SMALL, VICTIM
from .death import NO_LIGHT
from .death_path import Queued

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Program, Thread

RETIRING = {**SMALL, "SLAB_KEEP": 0}
GIVEN = "        if not page_alloc.free(mem, me, pfn, 0):\n            return False\n    else:\n"
OVERWRITTEN = Edit("slab", "_give_back", GIVEN, f"""\
        slot = layout.NODE_SLOTS + 4 * {tree.INDEX} if cache == layout.SLAB_NODES else layout.MAPPING_HEAD
        atomics.write32(mem, atomics.page_at(mem, pfn) + slot, layout.NIL)
{GIVEN}""")  # fmt: skip
RETIRED = (*PARTS, OVERWRITTEN)


class Retiring(Queued):
    """A pool with one page cached, below a node: if it is removed, the pages of nodes and of records are empty."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, 4, height=1)

    def retirer(self, me: int, pages: int = 1) -> Thread:
        """Return a thread that truncates, and then gives so many empty pages back."""

        def retire(mem: Mem) -> Any:
            core = self.core
            core.client.op_begin(mem, me)
            core.filemap.truncate(mem, me, self.ino, 3)
            given = [core.slab.shrink(mem, me) for _ in range(pages)]
            core.client.op_end(mem, me)
            return given

        return retire


GRACE = Edit("slab", "_give_back", "    left = client.wait_grace_period(mem, me)\n", "    left = True\n")
LEFT_RELAXED = Edit("client", "_has_left", "before & 1 and atomics.load_acquire", "before & 1 and atomics.load_relaxed")
LINKED = Edit("slab", "_retire", "            pagelist.remove(mem, _word(cache, layout.SLAB_PARTIAL), pfn)\n", "")
RETIRE_BUGS = {
    "no-grace": Bug((GRACE,), ALL, "a walker finds the bytes of the page's next use"),
    "no-light-barrier": Bug((NO_LIGHT,), ("tso", "rc11"), "the same"),
    "leave-relaxed": Bug((Edit("client", "op_end", "store_release", "store_relaxed"),), WEAK, "the same"),
    "left-relaxed": Bug((LEFT_RELAXED,), WEAK, "the same"),
    "still-linked": Bug((LINKED,), ALL, "the slab takes objects from a page that it has given back"),
}  # fmt: skip


@scenario("retire/walk", RETIRING, RETIRED, RETIRE_BUGS)
def retire_walk(core: Core) -> Program:
    """A page of nodes is given back while a walker may be in it."""
    p = Retiring(core)
    return p.program((VICTIM, p.getter(VICTIM)), (OTHER, p.retirer(OTHER)), mortal=())


@scenario("retire/die", RETIRING, RETIRED, {
    "unnamed": Bug((Edit("slab", "_retire", "        client.announce(mem, me, pfn)\n", ""),), ALL, "no client names the page"),
})  # fmt: skip
def retire_die(core: Core) -> Program:
    """The client that gives pages back may die."""
    p = Retiring(core)
    return p.program((VICTIM, p.retirer(VICTIM, 2)))


@scenario("retire/alloc", RETIRING, PARTS)
def retire_alloc(core: Core) -> Program:
    """A page of nodes is given back while another client takes a node and frees it."""
    p = Retiring(core)

    def use(mem: Mem) -> None:
        number = core.slab.alloc(mem, VICTIM, core.layout.SLAB_NODES, p.ino)
        if number != core.layout.NIL:
            core.slab.free(mem, VICTIM, core.layout.SLAB_NODES, number)

    return p.program((VICTIM, p.operation(VICTIM, use)), (OTHER, p.retirer(OTHER)), mortal=())


@scenario("retire/in-vain", {**RETIRING, "GRACE_NS": 0}, RETIRED, {
    "not-back": Bug((Edit("slab", "_give_back", "        page_ref.unfreeze(mem, atomics.folio_at(mem, pfn), 1)\n", ""),), ALL,
        "a page of the slab stays frozen"),
    "untyped": Bug((Edit("slab", "_give_back", "        page_type.set(mem, pfn, _type(cache), 0, 0)\n", ""),), ALL,
        "the slab takes objects from a page that is not its own"),
})  # fmt: skip
def retire_in_vain(core: Core) -> Program:
    """As retire/walk, but the walker's operation takes too long: the slab takes the page back."""
    return retire_walk(core)


class Contested(Queued):
    """Two folios: the one at INDEX is in main, without heat; the one at 2 is the oldest of small, and hot."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core, layout = self.core, self.core.layout
        for index, queue, heat in ((tree.INDEX, layout.QUEUE_MAIN, 0), (2, layout.QUEUE_SMALL, 1)):
            core.lru._move(mem, core.mapping.find(mem, self.ino, index), queue, heat)

    def evicter_of_small(self, me: int) -> Thread:
        """Return a thread that evicts one folio, which it looks for in small."""

        def evict(mem: Mem) -> Any:
            core = self.core
            pfn = core.lru.isolate(mem, me, True)
            return core.vmscan.evict(mem, me, pfn) if pfn != core.layout.NIL else 0

        return self.operation(me, evict)

    def user(self, me: int) -> Thread:
        """Return a thread that gets the folio of main, marks it as used and puts it."""

        def use(mem: Mem) -> str:
            core = self.core
            pfn = core.filemap.find_get(mem, me, self.ino, self.head, self.height, self.place)
            if pfn == core.layout.NIL:
                return "miss"
            at = core.atomics.folio_at(mem, pfn)
            core.flags.mark_referenced(mem, at, core.flags.load(mem, at))
            self.check(mem, pfn)
            core.folio.put(mem, me, pfn)
            return "hit"

        return self.operation(me, use)


CONTEST_BUGS = {
    "unpinned": Bug((Edit("lru", "_leave", "page_ref.try_get(mem, atomics.folio_at(mem, pfn)) == layout.DEAD", "False"),), ALL,
        "what is evicted has a reference less than is dropped"),
    "still-queued": Bug((Edit("lru", "_leave", "    _unlink(mem, pfn)\n", ""),), ALL, "a queue names a free page"),
}  # fmt: skip


@scenario("retire/contest", SMALL, PARTS, CONTEST_BUGS)
def contest(core: Core) -> Program:
    """A newcomer contends with a folio of main, which another client uses: one of the two is evicted, or none."""
    p = Contested(core, 5, more=(2,), height=1)
    return p.program((VICTIM, p.evicter_of_small(VICTIM)), (OTHER, p.user(OTHER)), mortal=())


@scenario("retire/contest-remove", SMALL, PARTS)
def contest_remove(core: Core) -> Program:
    """A newcomer contends with a folio of main, which another client removes."""
    p = Contested(core, 5, more=(2,), height=1)
    return p.program((VICTIM, p.evicter_of_small(VICTIM)), (OTHER, p.remover(OTHER)), mortal=())


class Whole(Queued):
    """The two folios of a whole object. The one at 2 is the older one, and is evicted first."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, 5, more=(2,), height=1)
        self.digest: int = 1 | 1 << core.layout.WHOLE_SHIFT

    def evicter_of_all(self, me: int) -> Thread:
        """Return a thread that evicts the oldest folio, and with it the other one."""

        def evict(mem: Mem) -> Any:
            core = self.core
            pfn = core.lru.isolate(mem, me, True)
            return core.vmscan.evict(mem, me, pfn) if pfn != core.layout.NIL else 0

        return self.operation(me, evict)


class Rest(Queued):
    """A folio of an object of which another part has been evicted."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, 2)

    def evicter_of_the_rest(self, me: int) -> Thread:
        return self.operation(me, lambda mem: self.core.vmscan._evict_rest(mem, me, self.ino, 0, 1, 0))

    def replacer(self, me: int) -> Thread:
        """Return a thread that removes the folio, and uses its page for something else."""
        remove = self.remover(me)

        def use(mem: Mem) -> None:
            core = self.core
            pfn = core.page_alloc.alloc(mem, me, 0)
            if pfn == core.layout.NIL:
                return
            core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, 0, 0, 0, 0, 1)
            fixtures.fill(mem, pfn, "another")
            core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
            assert fixtures.look(mem, pfn) == "another"
            core.folio.put(mem, me, pfn)

        def replace(mem: Mem) -> None:
            remove(mem)
            self.operation(me, use)(mem)

        return replace


REST = """\
            client.announce(mem, me, pfn)  # under the lock, while the slots' reference keeps the folio
            page_ref.get(mem, atomics.folio_at(mem, pfn))
        mapping.unlock(mem, ino)
"""
REST_LATE = """\
            pass
        mapping.unlock(mem, ino)
        if pfn != layout.NIL:
            client.announce(mem, me, pfn)
            page_ref.get(mem, atomics.folio_at(mem, pfn))
"""
UNPINNED = Edit("vmscan", "_evict_rest", "            page_ref.get(mem, atomics.folio_at(mem, pfn))\n", "")
UNNAMED = Edit("vmscan", "_evict_rest", "            client.announce(mem, me, pfn)  #", "            pass  #")
REST_BUGS = {
    "rest-unpinned": Bug((UNPINNED,), ALL, "a reference is dropped that was not taken"),
    "rest-still-queued": Bug((Edit("lru", "take", "        _unlink(mem, pfn)\n", ""),), ALL, "a queue names a free page"),
}  # fmt: skip


@scenario("retire/whole-get", SMALL, PARTS, REST_BUGS)
def whole_get(core: Core) -> Program:
    """A part of a whole object is evicted, and then the rest, which another client uses: that stays, or goes too."""
    p = Whole(core)
    return p.program((VICTIM, p.evicter_of_all(VICTIM)), (OTHER, p.getter(OTHER)), mortal=())


@scenario("retire/rest-replaced", SMALL, PARTS, {
    "rest-pinned-late": Bug((Edit("vmscan", "_evict_rest", REST, REST_LATE),), ALL, "the page's next user loses its reference"),
})  # fmt: skip
def rest_replaced(core: Core) -> Program:
    """The rest of a whole object is evicted while another client removes it, and uses its page for something else."""
    p = Rest(core)
    return p.program((VICTIM, p.evicter_of_the_rest(VICTIM)), (OTHER, p.replacer(OTHER)), mortal=())


@scenario("retire/whole-evict", SMALL, PARTS, slow=True)
def whole_evict(core: Core) -> Program:
    """Two clients evict a whole object, each beginning with another part."""
    p = Whole(core)
    return p.program((VICTIM, p.evicter_of_all(VICTIM)), (OTHER, p.evicter_of_all(OTHER)), mortal=())


@scenario("death/path-whole-get", SMALL, PARTS, {
    "rest-unnamed": Bug((UNNAMED,), ALL, "no client names the reference of a dead one"),
})  # fmt: skip
def path_whole_get(core: Core) -> Program:
    """As retire/whole-get, and the client that evicts may die."""
    p = Whole(core)
    return p.program((VICTIM, p.evicter_of_all(VICTIM)), (OTHER, p.getter(OTHER)))
