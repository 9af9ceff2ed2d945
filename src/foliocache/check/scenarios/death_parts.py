"""Death in single parts: the allocator's blocks, a window's table, a fill, a lock with its sleepers, a reused slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import steps
from ..mutation import Edit, Replace
from ..scenario import ALL, WEAK, Bug
from . import fixtures, scenario, tree
from .crash_fixtures import FEW, FEW_PARTS, OTHER, PARTS, REAPER, VICTIM, Pool
from .death_path import TAKEN_OVER

if TYPE_CHECKING:
    from ..graph import Loc
    from ..loader import Core
    from ..machine import Machine
    from ..memory import Direct, Mem
    from ..program import Program, Thread

PAIR = {**FEW, "MAX_ORDER": 1}
MARKS = "        _set_mark(mem, pfn + (1 << have), have + 1 | hole)\n        _set_mark(mem, pfn, have + 1 | hole)\n"
TAKE = "            client.announce(mem, me, pfn)\n            page_type.set(mem, pfn, layout.TYPE_NONE, order, 0)\n"
UNMARK = "            _set_mark(mem, pfn, 0)\n"
MERGE = "        _set_mark(mem, pfn, order + 1 | hole)\n        _set_mark(mem, pfn + (1 << (order - 1)), 0)\n"
ALLOC_BUGS = {
    "split-from-below": Bug((Edit("page_alloc", "_split", MARKS, "".join(reversed(MARKS.splitlines(keepends=True)))),), ALL,
        "between the two marks the upper half has no owner"),
    "merge-from-above": Bug((Edit("page_alloc", "_merge", MERGE, "".join(reversed(MERGE.splitlines(keepends=True)))),), ALL,
        "the same"),
    "taken-unnamed": Bug((Edit("page_alloc", "_take", TAKE + UNMARK, UNMARK + TAKE),), ALL,
        "a block that no client has written down"),
}  # fmt: skip


class Blocks(Pool):
    """Two pages: one block of order 1, or two of order 0. There is nothing else."""

    def setup(self, mem: Direct) -> None:
        core = self.core
        for part in (core.slab, core.lru, core.mapping):
            part.setup(mem)
        fixtures.pages(core, mem)
        for client in range(self.clients):
            core.client.set_state(mem, client, core.layout.SLOT_ATTACHED)

    def user(self, me: int, order: int) -> Thread:
        """Return a thread that takes a block, uses it and frees it, as one operation."""

        def use(mem: Mem) -> str:
            core = self.core
            pfn = core.page_alloc.alloc(mem, me, order)
            if pfn == core.layout.NIL:
                return "nothing free"
            core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, order, 0, 0, 0, 0)
            for each in range(pfn, pfn + (1 << order)):
                fixtures.fill(mem, each, me)
            core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
            core.folio.put(mem, me, pfn)
            return "used"

        return self.operation(me, use)

    def left(self, mem: Direct) -> None:
        super().left(mem)
        assert self.core.page_alloc.free_pages(mem) == self.pages, "a page is lost"


def blocks(core: Core, victim: int, other: int) -> Program:
    """Return a program of two clients that want blocks of these orders."""
    p = Blocks(core)
    return p.program((VICTIM, p.user(VICTIM, victim)), (OTHER, p.user(OTHER, other)))


@scenario("death/alloc-split", PAIR, FEW_PARTS, {**{k: ALLOC_BUGS[k] for k in ("split-from-below", "taken-unnamed")},
    "allocator-unrepaired": TAKEN_OVER["allocator-unrepaired"]})  # fmt: skip
def alloc_split(core: Core) -> Program:
    """The victim takes a small block out of a large one, and frees it; another client wants a large one."""
    return blocks(core, 0, 1)


@scenario("death/alloc-both", PAIR, FEW_PARTS, {"merge-from-above": ALLOC_BUGS["merge-from-above"]})
def alloc_both(core: Core) -> Program:
    """Two clients want a small block: split and merge, with a lock that is taken over."""
    return blocks(core, 0, 0)


@scenario("death/alloc-large", PAIR, FEW_PARTS)
def alloc_large(core: Core) -> Program:
    """The victim takes all pages; another client wants a small block."""
    return blocks(core, 1, 0)


class Holes(Blocks):
    """Two pages without memory: a hole of order 1."""

    def setup(self, mem: Direct) -> None:
        core = self.core
        for part in (core.slab, core.lru, core.mapping):
            part.setup(mem)
        core.page_alloc.setup(mem, self.pages)
        core.page_alloc._describe(mem, REAPER)
        for client in range(self.clients):
            core.client.set_state(mem, client, core.layout.SLOT_ATTACHED)

    def backer(self, me: int, order: int) -> Thread:
        return self.operation(me, lambda mem: self.core.page_alloc.back(mem, me, order))

    def left(self, mem: Direct) -> None:
        core, layout = self.core, self.core.layout
        Pool.left(self, mem)
        free, holes = core.page_alloc.free_pages(mem), core.atomics.load_relaxed(mem, layout.ALLOC_HOLES)
        assert free + holes == self.pages, "a page is lost"
        if core.backing.is_marked(mem, 0) or free:
            assert mem.values.get(("memory", core.atomics.page_at(mem, 0))) == 1, "a page without memory may be used"


PART_BACKED = tuple(part for part in FEW_PARTS if part not in (fixtures.ALL_BACKED, fixtures.HEAD_BACKED))
GIVEN = (
    "        while not reserve(mem, atomics.page_at(mem, pfn), pages << atomics.page_shift(mem)):\n"
    "            if pages == chunk_pages:\n"
    "                return False\n"
    "            pages = (pages >> 1) // chunk_pages * chunk_pages  # what there is less of is not left without a mark\n"
)
MARKED = (
    "        for chunk in range(pfn >> chunk_order(mem), (pfn + pages) >> chunk_order(mem)):\n"
    "            atomics.fetch_or_relaxed(mem, _word(mem, chunk), 1 << (chunk & 31))\n"
)


@scenario("death/back", PAIR, PART_BACKED, {
    "marked-first": Bug((Edit("backing", "back", GIVEN + MARKED, MARKED + GIVEN),), ALL,
        "a client that dies in between leaves a mark without memory"),
    "hole-unasked": Bug((Edit("page_alloc", "_hole_of", "backing.is_backed(mem, pfn, order)", "True"),), ALL,
        "who frees the dead client's block takes it for one with memory"),
})  # fmt: skip
def back(core: Core) -> Program:
    """The victim gives a block memory; another client wants a page with memory."""
    p = Holes(core)
    return p.program((VICTIM, p.backer(VICTIM, 1)), (OTHER, p.user(OTHER, 0)))


class Records(Blocks):
    """An empty pool, without a page of records."""

    def opener(self, me: int) -> Thread:
        return self.operation(me, lambda mem: tree.opened(self.core, mem, me, me=me))

    def left(self, mem: Direct) -> None:
        Pool.left(self, mem)


@scenario("death/slab-grow", PAIR, FEW_PARTS, {
    "type-first": Bug((Edit("slab", "_grow", "layout.TYPE_NONE, 0, 0, 0, 0, 0)", "_type(cache), 0, 0, 0, 0, 0)"),), ALL,
        "the repair finds objects in a page that has none yet"),
    "grow-unnamed": Bug((Edit("page_alloc", "_take", TAKE + UNMARK, UNMARK + TAKE),), ALL),
})  # fmt: skip
def slab_grow(core: Core) -> Program:
    """Two clients make the first records: the slab takes a page from the allocator."""
    p = Records(core)
    return p.program((VICTIM, p.opener(VICTIM)), (OTHER, p.opener(OTHER)))


@scenario("death/alloc-again", PAIR, FEW_PARTS)
def alloc_again(core: Core) -> Program:
    """The victim splits and merges. The reaper may die, too."""
    p = Blocks(core)
    threads = [
        (VICTIM, p.user(VICTIM, 0)),
        (OTHER, p.reaper(OTHER, whole=True)),
        (REAPER, p.reaper(REAPER, (VICTIM, OTHER), whole=True)),
    ]
    return p.program(*threads, mortal=(VICTIM, OTHER))


class Window(Pool):
    """Client 1 makes a table, moves a lease into it, looks it up there, and releases everything."""

    def user(self, me: int) -> Thread:
        def use(mem: Mem) -> None:
            core = self.core
            table = core.pagetable.make(mem, me, 0, 1)
            pfn = core.filemap.lookup(mem, me, 1, self.ino, self.head, 0, self.height, self.place)
            if pfn != core.layout.NIL:
                core.pagetable.move(mem, me, 1, table, 0, pfn)
                if core.pagetable.lookup(mem, me, 1, table, 0) != core.layout.NIL:
                    self.check(mem, pfn)
                    core.folio.release(mem, me, 1, pfn)
            core.pagetable.release(mem, me, 0, table)

        return use


WINDOW_BUGS = {
    "unmap-unnamed": Bug((Replace("pagetable", "unmap", """
        def unmap(mem, me, table, entry):
            pfn = xarray.pfn_of(mem, atomics.exchange_relaxed(mem, _entry(mem, table, entry), 0))
            if pfn == layout.NIL:
                return False
            client.announce(mem, me, pfn)
            folio.put(mem, me, pfn)
            return True
    """),), ALL, "the reference is neither the entry's nor the operation's"),
    "table-dropped-first": Bug((Edit("pagetable", "release",
        "    released = clear(mem, me, table)\n    if released:\n        client.drop(mem, me, n, table)\n",
        "    client.drop(mem, me, n, table)\n    released = clear(mem, me, table)\n    if released:\n"),),
        ALL, "no word says what the table has mapped"),
    "map-unnamed": Bug((Edit("pagetable", "move", "    client.drop(mem, me, n, pfn)\n    map(mem, table, entry, pfn)\n",
        "    client.drop(mem, me, n, pfn)\n    client.retract(mem, me, pfn)\n    map(mem, table, entry, pfn)\n"),), ALL,
        "on its way into the table the reference has no owner"),
}  # fmt: skip


@scenario("death/window", FEW, FEW_PARTS, WINDOW_BUGS)
def death_window(core: Core) -> Program:
    """A window is made, filled, used and released by a client that dies."""
    p = Window(core, 3)
    return p.program((VICTIM, p.user(VICTIM)), (REAPER, p.reaper()))


@scenario("death/window-again", FEW, FEW_PARTS, slow=True)
def death_window_again(core: Core) -> Program:
    """As death/window, and the reaper may die, too."""
    p = Window(core, 3)
    return p.program(
        (VICTIM, p.user(VICTIM)), (OTHER, p.reaper(OTHER)), (REAPER, p.reaper(REAPER, (VICTIM, OTHER))), mortal=(VICTIM, OTHER)
    )


@scenario("death/window-truncate", FEW, FEW_PARTS, slow=True)
def death_window_truncate(core: Core) -> Program:
    """As death/window, beside a client that truncates the mapping."""
    p = Window(core, 3)
    return p.program((VICTIM, p.user(VICTIM)), (OTHER, p.truncater(OTHER)))


class Mapped(Pool):
    """Client 2 has a window on the page, and no other name of it."""

    table: int

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        pagetable = self.core.pagetable
        self.table = pagetable.make(mem, OTHER, 0, 1)
        self.pinned(mem, OTHER, self.pfn, 1)
        pagetable.move(mem, OTHER, 1, self.table, 0, self.pfn)

    def user(self, me: int) -> Thread:
        def use(mem: Mem) -> None:
            self.check(mem, self.pfn)
            self.core.pagetable.release(mem, me, 0, self.table)

        return use


TABLES_UNASKED = Edit("reap", "_is_name", " or (named < atomics.npages(mem) and _is_mapped(mem, named, pfn))", "")


@scenario("death/window-hold", FEW, FEW_PARTS, {
    "tables-unasked": Bug((TABLES_UNASKED,), ALL, "a window's reference is taken for the dead client's"),
})  # fmt: skip
def death_window_hold(core: Core) -> Program:
    """The victim gets a page that another client has in a window."""
    p = Mapped(core, 3)
    return p.program((VICTIM, p.getter(VICTIM)), (REAPER, p.reaper()), (OTHER, p.user(OTHER)))


class Range(Pool):
    """Client 1 has a window on two pages, and an empty table for pins."""

    table: int
    pins: int

    def __init__(self, core: Core) -> None:
        super().__init__(core, 6, (2,), 1)

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        self.table, self.pins = (core.pagetable.make(mem, VICTIM, n, 2) for n in (0, 1))
        for entry, index in enumerate((self.place, 2)):
            pfn = core.mapping.find(mem, self.ino, index)
            core.page_ref.get(mem, core.atomics.folio_at(mem, pfn))
            core.pagetable.map(mem, self.table, entry, pfn)

    def user(self, me: int) -> Thread:
        """Return a thread that pins both pages through the window, releases the window, uses the pages and unpins them."""

        def use(mem: Mem) -> None:
            core = self.core
            assert self.operation(me, lambda mem: core.pagetable.gup(mem, me, self.table, 0, 2, self.pins))(mem)
            core.pagetable.release(mem, me, 0, self.table)
            self.check(mem, core.xarray.load(mem, core.atomics.page_at(mem, self.pins)))
            self.operation(me, lambda mem: core.pagetable.unpin(mem, me, self.pins, 2))(mem)
            core.pagetable.release(mem, me, 1, self.pins)

        return use


PIN_UNNAMED = Edit("pagetable", "gup",
    "        map(mem, pins, i, pfn)\n        client.retract(mem, me, pfn)\n",
    "        client.retract(mem, me, pfn)\n        map(mem, pins, i, pfn)\n")  # fmt: skip


@scenario("death/gup", FEW, FEW_PARTS, {
    "pin-unnamed": Bug((PIN_UNNAMED,), ALL, "on its way into the table of pins the reference has no owner"),
})  # fmt: skip
def death_gup(core: Core) -> Program:
    """The victim pins a range through its window, uses it, and unpins it."""
    p = Range(core)
    return p.program((VICTIM, p.user(VICTIM)), (REAPER, p.reaper()))


@scenario("death/gup-remove", FEW, FEW_PARTS, slow=True)
def death_gup_remove(core: Core) -> Program:
    """As death/gup, beside a client that removes one of the pages."""
    p = Range(core)
    return p.program((VICTIM, p.user(VICTIM)), (OTHER, p.remover(OTHER)))


class Filling(Pool):
    """Nothing is cached; or, ``begun``, client 1 has a folio locked and pinned, which it fills."""

    def __init__(self, core: Core, begun: bool = False) -> None:
        super().__init__(core)
        self.begun = begun

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        self.truncater(REAPER)(mem)
        if self.begun:
            grab = self.operation(VICTIM, lambda mem: core.filemap.grab(mem, VICTIM, self.ino, self.place, 0, 0, tree.BYTES))
            self.pfn: int = grab(mem) & 0xFFFFFFFF
            core.client.hold(mem, VICTIM, 0, self.pfn)

    def complete(self, mem: Mem, me: int, pfn: int) -> None:
        fixtures.fill(mem, pfn, (self.ino, self.place))
        self.operation(me, lambda mem: self.core.filemap.complete(mem, me, pfn))(mem)

    def filler(self, me: int) -> Thread:
        """Return a thread that adds or finds the folio, as one operation, fills it if it is new, and drops it."""

        def grab(mem: Mem) -> Any:
            core = self.core
            grabbed = core.filemap.grab(mem, me, self.ino, self.place, 0, 0, tree.BYTES)
            if grabbed < core.layout.GRAB_NOMEM:
                core.client.hold(mem, me, 0, grabbed & 0xFFFFFFFF)
            return grabbed

        def fill(mem: Mem) -> str:
            layout = self.core.layout
            grabbed = self.pfn | layout.GRAB_ADDED if self.begun else self.operation(me, grab)(mem)
            if grabbed >= layout.GRAB_NOMEM:
                return "no memory"
            if grabbed & layout.GRAB_ADDED:
                self.complete(mem, me, grabbed & 0xFFFFFFFF)
            self.core.folio.release(mem, me, 0, grabbed & 0xFFFFFFFF)
            return "filled"

        return fill

    def failer(self, me: int) -> Thread:
        """Return a thread that withdraws the folio because its source fails."""

        def failing(mem: Mem) -> None:
            self.core.filemap.remove(mem, me, self.ino, self.pfn)
            self.core.fill.fail(mem, self.pfn)

        def fail(mem: Mem) -> None:
            self.operation(me, failing)(mem)
            self.core.folio.release(mem, me, 0, self.pfn)

        return fail

    def reader(self, me: int) -> Thread:
        """Return a thread that looks the folio up and waits until it is filled, or fills it if its filler is dead.

        As ``lease`` does it, but for the sleep.
        """

        def read(mem: Mem) -> Any:
            core, layout = self.core, self.core.layout
            pfn = core.filemap.lookup(mem, me, 0, self.ino, self.head, 0, self.height, self.place)
            if pfn == layout.NIL:
                return "miss"
            at = core.atomics.folio_at(mem, pfn)
            seen = core.flags.load(mem, at)
            while not seen & layout.PG_UPTODATE and seen & layout.PG_LOCKED:
                if core.fill.take_over(mem, me, pfn):
                    if not core.flags.load(mem, at) & layout.PG_UPTODATE:
                        self.complete(mem, me, pfn)
                    seen = layout.PG_UPTODATE
                else:
                    core.atomics.cpu_relax()
                    seen = core.flags.load(mem, at)
            if seen & layout.PG_UPTODATE:
                self.check(mem, pfn)
            core.folio.release(mem, me, 0, pfn)
            return seen

        return read

    def successor(self, mem: Machine) -> None:
        """The next client in the victim's slot settles the victim, as ``foliocache.pool.client`` does if no slot is clean."""
        core = self.core
        if not steps.has_died(mem, VICTIM):
            return
        steps.set_alive(mem, VICTIM, True)
        core.client.move_intents(mem, VICTIM)
        core.client.attach(mem, VICTIM)
        core.reap.locks(mem, VICTIM, VICTIM)
        core.reap.pins(mem, VICTIM, VICTIM)
        if core.reap.resolve_intents(mem, VICTIM, VICTIM):  # the slot cannot be taken yet
            steps.set_alive(mem, VICTIM, False)


FILL_BUGS = {
    "owner-unasked": Bug((Edit("fill", "take_over", "not client.is_alive(mem, owner) and ", ""),), ALL,
        "two clients fill the same folio"),
    "no-take-over": Bug((Edit("fill", "take_over", "    owner = atomics", "    return False\n    owner = atomics"),), ALL,
        "a client that waits for a dead filler waits for ever"),
}  # fmt: skip
ABANDON = {
    "abandon-relaxed": Bug((Edit("fill", "abandon", "cmpxchg_release", "cmpxchg_relaxed"),), WEAK,
        "the client that takes the folio over does not see that the content is there"),
    "take-over-relaxed": Bug((Edit("fill", "take_over", "cmpxchg_acquire", "cmpxchg_relaxed"),), WEAK, "the same"),
}  # fmt: skip


@scenario("death/fill-read", FEW, FEW_PARTS, FILL_BUGS)
def death_fill_read(core: Core) -> Program:
    """The victim adds a folio and fills it; a client that waits for it takes over."""
    p = Filling(core)
    return p.program((VICTIM, p.filler(VICTIM)), (OTHER, p.reader(OTHER)))


@scenario("death/fill-reap-read", FEW, FEW_PARTS, ABANDON, slow=True)
def death_fill_reap_read(core: Core) -> Program:
    """The victim fills a folio; the reaper finds its pin while another client waits for the content."""
    p = Filling(core, begun=True)
    return p.program((VICTIM, p.filler(VICTIM)), (OTHER, p.reader(OTHER)), (REAPER, p.reaper()))


@scenario("death/fill-read-both", FEW, FEW_PARTS)
def death_fill_read_both(core: Core) -> Program:
    """As death/fill-read, and the client that takes over may die, too."""
    p = Filling(core)
    threads = [(VICTIM, p.filler(VICTIM)), (OTHER, p.reader(OTHER)), (REAPER, p.reaper(REAPER, (VICTIM, OTHER)))]
    return p.program(*threads, mortal=(VICTIM, OTHER))


@scenario("death/fill-fill", FEW, FEW_PARTS, slow=True)
def death_fill_fill(core: Core) -> Program:
    """Two clients add the same folio; one of them may die."""
    p = Filling(core)
    return p.program((VICTIM, p.filler(VICTIM)), (OTHER, p.filler(OTHER)))


@scenario("death/slot-again", FEW, FEW_PARTS, slow=True)
def death_slot_again(core: Core) -> Program:
    """Another client takes the victim's slot and settles it, alive; a third may wait for the folio."""
    p = Filling(core, begun=True)
    return p.program((VICTIM, p.filler(VICTIM)), (OTHER, p.reader(OTHER)), ("successor", p.successor))


@scenario("death/fill-truncate", FEW, FEW_PARTS)
def death_fill_truncate(core: Core) -> Program:
    """The victim fills a folio that is truncated meanwhile; the reaper comes at any time."""
    p = Filling(core, begun=True)
    return p.program((VICTIM, p.filler(VICTIM)), (OTHER, p.truncater(OTHER)), (REAPER, p.reaper()))


@scenario("death/fill-read-truncate", FEW, FEW_PARTS)
def death_fill_read_truncate(core: Core) -> Program:
    """The victim fills a folio, a second client waits for the content, and a third truncates."""
    p = Filling(core, begun=True)
    return p.program((VICTIM, p.filler(VICTIM)), (OTHER, p.reader(OTHER)), (REAPER, p.truncater(REAPER)))


@scenario("death/fail-read", FEW, FEW_PARTS)
def death_fail_read(core: Core) -> Program:
    """The victim's source fails while another client waits for the content."""
    p = Filling(core, begun=True)
    return p.program((VICTIM, p.failer(VICTIM)), (OTHER, p.reader(OTHER)))


@scenario("death/fail-truncate", FEW, FEW_PARTS)
def death_fail_truncate(core: Core) -> Program:
    """The victim's source fails while the folio is truncated."""
    p = Filling(core, begun=True)
    return p.program((VICTIM, p.failer(VICTIM)), (OTHER, p.truncater(OTHER)))


@scenario("death/grab-truncate", FEW, FEW_PARTS)
def death_grab_truncate(core: Core) -> Program:
    """The victim adds a folio and fills it while it is truncated."""
    p = Filling(core)
    return p.program((VICTIM, p.filler(VICTIM)), (OTHER, p.truncater(OTHER)))


@scenario("death/truncate-grab", FEW, FEW_PARTS)
def death_truncate_grab(core: Core) -> Program:
    """The victim truncates while a folio is added and filled."""
    p = Filling(core)
    return p.program((VICTIM, p.truncater(VICTIM)), (OTHER, p.filler(OTHER)))


WORD = 0x900


class Locked(Pool):
    """A lock that sleeps. Its critical section makes a content "half" and then "whole"."""

    def setup(self, mem: Direct) -> None:
        fixtures.fill(mem, 0, "whole")
        for client in range(self.clients):
            self.core.client.set_state(mem, client, self.core.layout.SLOT_ATTACHED)

    def locker(self, me: int) -> Thread:
        def critical(mem: Mem) -> None:
            repair = self.core.robust_lock.lock(mem, WORD, me)
            if repair:
                fixtures.fill(mem, 0, "whole")
            assert fixtures.look(mem, 0) == "whole", "half a critical section is taken for a whole one"
            fixtures.fill(mem, 0, "half")
            fixtures.fill(mem, 0, "whole")
            self.core.robust_lock.unlock(mem, WORD)

        return critical

    def left(self, mem: Direct) -> None:
        owner = self.core.robust_lock.owner(mem, WORD)
        assert owner in (self.core.layout.NIL, VICTIM), "the lock is left held"
        assert owner != VICTIM or not self.core.atomics.client_alive(mem, VICTIM), "the lock is left held"

    def name(self, loc: Loc) -> Any:
        return "lock" if loc == WORD else super().name(loc)


@scenario("death/lock", FEW, PARTS[1:], {
    "no-repair": Bug((Edit("robust_lock", "_lock_slow", "return layout.LOCK_REPAIR", "return layout.LOCK_TAKEN"),), ALL,
        "no client is told to repair"),
    "owner-unasked": TAKEN_OVER["owner-unasked"],
    "owner-trusted": Bug((
        Edit("robust_lock", "_lock_slow", "client.is_alive(mem, found - 1):", "found < layout.LOCK_BROKEN:"),
        ), ALL, "a client waits for ever for the dead owner's lock"),
})  # fmt: skip
def death_lock(core: Core) -> Program:
    """The victim dies before, in or after its critical section, or between unlock and wake; another client sleeps."""
    p = Locked(core)
    return p.program((VICTIM, p.locker(VICTIM)), (OTHER, p.locker(OTHER)), timeouts=True)


@scenario("death/lock-spin", {**FEW, "LOCK_SPINS": 1}, PARTS[1:])
def death_lock_spin(core: Core) -> Program:
    """As death/lock, and a client looks once more before it sleeps."""
    return death_lock(core)
