"""Folios of different spans in one mapping: each of the 2^span slots names the folio, and one reference stands for all of them.

The whole path as in ``tree``, without the queues except where a scenario says so. Nodes have 2 slots here, so a folio of span 1
fills a leaf. The record of the mapping stays when its last folio goes: the next folio has the same ino, and only its place and
its span tell it from the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..mutation import Edit, Replace
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import crash_fixtures, fixtures, lookup, scenario, tree
from .crash_fixtures import OTHER, REAPER, VICTIM

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Final, Program, Thread

POISON = Edit("page_alloc", "free", "    if not _lock(",
    "    for each in range(pfn, pfn + (1 << order)):\n        atomics.poison(mem, each)\n    if not _lock(")  # fmt: skip
TWICE = crash_fixtures.PARTS[3]
NO_QUEUES = crash_fixtures.FEW_PARTS[len(crash_fixtures.PARTS) : -1]
RECORD_STAYS = fixtures.TREE[2]
LEAF = {**crash_fixtures.SMALL, "NODE_SHIFT": 1}
QUEUED = (*fixtures.SPIN_LOCK, POISON, TWICE, RECORD_STAYS, fixtures.ALL_BACKED)
PARTS = (*QUEUED, *NO_QUEUES)
PAGE = 256

SPAN_EARLY = (
    Edit("filemap", "find_get", "        client.announce(mem, me, pfn)\n",
        "        span = page_type.span(mem, pfn)\n        client.announce(mem, me, pfn)\n"),
    Edit("filemap", "find_get", "folio.is_identity(mem, pfn, ino, index)", "folio.is_identity(mem, pfn, ino, index, span)"),
    Replace("folio", "is_identity", """
        def is_identity(mem, pfn, ino, index, span):
            folio = atomics.folio_at(mem, pfn)
            if atomics.read64(mem, folio + layout.F_INO) != ino:
                return False
            return index >> span << span == atomics.read64(mem, folio + layout.F_INDEX)
    """),
)  # fmt: skip
TAILS_LEFT = Edit("mapping", "remove", "index, span, pfn)", "index, 0, pfn)")
CLEARED_FIRST = Edit("vmscan", "_evict",
    "    if not attached or not page_ref.freeze(mem, at, 2):\n        mapping.unlock(mem, ino)\n"
    "        return _keep(mem, me, pfn)\n    left = mapping.remove(mem, me, ino, pfn)\n",
    "    left = mapping.remove(mem, me, ino, pfn) if attached else 1\n"
    "    if not attached or not page_ref.freeze(mem, at, 2):\n        mapping.unlock(mem, ino)\n"
    "        return _keep(mem, me, pfn)\n")  # fmt: skip
SAME_AGAIN = Edit("filemap", "_grab",
    "mapping.room(mem, ino, index, span, (size - 1) >> (atomics.page_shift(mem) + order))", "span")  # fmt: skip
PARTIAL_KEPT = Edit("xarray", "_recount_folio",
    "load(mem, slot - behind * 4) == pfn if behind else _is_whole(mem, slot, pfn)", "True")  # fmt: skip
ORDER_BEFORE = Replace("folio", "put", """
    def put(mem, me, pfn):
        order = page_type.order(mem, pfn)
        if page_ref.put(mem, atomics.folio_at(mem, pfn)):
            page_type.set(mem, pfn, layout.TYPE_NONE, order, 0)
            page_alloc.free(mem, me, pfn, order)
        return True
""")  # fmt: skip


class Folios(tree.Cached):
    """A mapping with units of 2^``unit`` pages, in which a folio of ``span`` is cached at index 0 (none, if span is None).

    The content of a page is its number within the object. ``size`` is the object's, in bytes.
    """

    span: int | None
    unit: int
    size: int

    def __init__(
        self, core: Core, pages: int, span: int | None = 1, unit: int = 0, height: int = 1, size: int = tree.BYTES
    ) -> None:
        super().__init__(core, pages, (), height)
        self.span, self.unit, self.size = span, unit, size

    def setup(self, mem: Direct) -> None:
        core = self.core
        for part in (core.slab, core.lru, core.mapping):
            part.setup(mem)
        fixtures.pages(core, mem)
        self.ino: int = tree.opened(core, mem, 1, self.height, order=self.unit)
        self.head: int = core.mapping.head(mem, self.ino)
        if self.span is not None:
            self.pfn: int = self.add(mem, 0, 0, self.span)
            assert core.page_type.span(mem, self.pfn) == self.span, "there is no room for the folio"

    def grab(self, mem: Mem, me: int, index: int, span: int) -> Any:
        """Grab a folio, and fill all of its pages if it is new; return its pfn, pinned, or None."""
        core = self.core
        grabbed = core.filemap.grab(mem, me, self.ino, index, self.unit, span, self.size)
        if grabbed >= core.layout.GRAB_NOMEM:
            return None
        pfn = grabbed & 0xFFFFFFFF
        if grabbed & core.layout.GRAB_ADDED:
            first = core.filemap.first_of(mem, pfn)
            for page in range(1 << core.page_type.order(mem, pfn)):
                fixtures.fill(mem, pfn + page, (self.ino, (first << self.unit) + page))
            core.filemap.complete(mem, me, pfn)
        return pfn

    def add(self, mem: Mem, me: int, index: int, span: int) -> Any:
        pfn = self.grab(mem, me, index, span)
        if pfn is not None:
            self.core.folio.put(mem, me, pfn)
        return pfn

    def look(self, mem: Mem, pfn: int, index: int) -> None:
        """Look at one unit of a held folio, and at how many bytes the folio says it has."""
        core = self.core
        first, units, unit = core.filemap.first_of(mem, pfn), 1 << core.page_type.span(mem, pfn), PAGE << self.unit
        length = core.atomics.read32(mem, core.atomics.folio_at(mem, pfn) + core.layout.F_LENGTH)
        assert first <= index < first + units, f"looked for unit {index}, found units {first} to {first + units - 1}"
        assert length == min(unit * units, self.size - first * unit), (
            f"units {first} to {first + units - 1} have {length} bytes"
        )
        for page in range(-(-min(unit, self.size - index * unit) // PAGE)):
            content = fixtures.look(mem, pfn + (index - first << self.unit) + page)
            right = self.ino, (index << self.unit) + page
            assert content == right, f"looked for {right}, found {content}"

    def getter(self, me: int, index: int = 1) -> Thread:
        def get(mem: Mem) -> str:
            core = self.core
            pfn = core.filemap.find_get(mem, me, self.ino, self.head, self.height, index)
            if pfn == core.layout.NIL:
                return "miss"
            seen = core.flags.load(mem, core.atomics.folio_at(mem, pfn)) & core.layout.PG_UPTODATE
            if seen:
                self.look(mem, pfn, index)
            core.folio.put(mem, me, pfn)
            return "hit" if seen else "locked"

        return get

    def remove(self, mem: Mem, me: int, index: int) -> Any:
        core = self.core
        pfn = core.filemap.find_get(mem, me, self.ino, self.head, self.height, index)
        if pfn != core.layout.NIL:
            core.filemap.remove(mem, me, self.ino, pfn)
            core.folio.put(mem, me, pfn)

    def remover(self, me: int, index: int = 0) -> Thread:
        return lambda mem: self.remove(mem, me, index)

    def evicter(self, me: int) -> Thread:
        """Return a thread that does what ``vmscan.shrink`` does with a folio that it has isolated."""

        def evict(mem: Mem) -> Any:
            core = self.core
            core.client.announce(mem, me, self.pfn)
            if core.page_ref.try_get(mem, core.atomics.folio_at(mem, self.pfn)) == core.layout.GOT:
                return core.vmscan.evict(mem, me, self.pfn)
            core.client.retract(mem, me, self.pfn)
            return 0

        return evict

    def truncater(self, me: int) -> Thread:
        return lambda mem: self.core.filemap.truncate(mem, me, self.ino, self.core.layout.XA_INDEX_MAX)

    def adder(self, me: int, *steps: tuple[int, int | None]) -> Thread:
        """Return a thread that does steps: (index, span) adds a folio, (index, None) removes the one there."""

        def run(mem: Mem) -> list[Any]:
            return [self.remove(mem, me, index) if span is None else self.add(mem, me, index, span) for index, span in steps]

        return run

    def program(  # type: ignore[override]
        self, *threads: Thread, final: Final | None = None, queues: bool = False
    ) -> Program:
        def judge(mem: Direct, results: list[Any]) -> None:
            for finding in self.core.audit.Audit(mem).run():
                if finding["check"] == "queue" and not queues:
                    continue
                if finding["check"] == "mapping" and "0 folios counted, 0 in the tree" in finding["message"]:
                    continue  # the record stays
                raise AssertionError("{check}: {where} {message}".format(**finding))
            if final:
                final(mem, results)

        return Program(list(threads), self.setup, judge, tree.geometry(self.pages), names=fixtures.names)


ORDERS = {f"{name}-relaxed": Bug((lookup.BARRIERS[f"{name}-relaxed"],), WEAK) for name in ("sub", "freeze", "add", "init")}
NO_RECHECK = {"no-recheck": Bug((lookup.NO_RECHECK,), ALL)}
TAILS = {"tails-left": Bug((TAILS_LEFT,), ALL, "the other slots still name a folio that is gone")}
EARLY = {"span-early": Bug((*SPAN_EARLY, lookup.IDENTITY_ONLY), ALL, "the span of the former life reaches too far")}
# An ino and a place are given again here, but not while the slot names the folio; and what the slot names has been looked at.
FINE = {"identity-only": Bug((lookup.IDENTITY_ONLY,)), "kernel-orders": Bug(lookup.KERNEL_ORDERS)}
SLOT_ONLY = {"slot-only": Bug((lookup.SLOT_ONLY,))}


@scenario("folio/remove", LEAF, PARTS, TAILS, {**FINE, **SLOT_ONLY})
def folio_remove(core: Core) -> Program:
    """Two getters, one of each unit of a folio, and a client that removes it."""
    f = Folios(core, 4)
    return f.program(f.getter(1, 1), f.getter(2, 0), f.remover(3))


@scenario("folio/units", {**LEAF, "MAX_ORDER": 3}, PARTS, TAILS, FINE)
def folio_units(core: Core) -> Program:
    """As folio/remove, with units of two pages."""
    f = Folios(core, 8, unit=1)
    return f.program(f.getter(1, 1), f.getter(2, 0), f.remover(3))


@scenario("folio/evict", LEAF, PARTS, TAILS, {**FINE, **SLOT_ONLY})
def folio_evict(core: Core) -> Program:
    """As folio/remove, against reclaim, which freezes first."""
    f = Folios(core, 4)
    return f.program(f.getter(1, 1), f.getter(2, 0), f.evicter(3))


@scenario("folio/smaller", LEAF, PARTS, {**NO_RECHECK, **TAILS, **EARLY, **ORDERS},
    {**FINE, "span-early-reload": Bug(SPAN_EARLY)})  # fmt: skip
def folio_smaller(core: Core) -> Program:
    """A folio is removed, and its two pages become two folios at the same two units; a getter looks for the second unit."""
    f = Folios(core, 4)
    return f.program(f.getter(1, 1), f.adder(2, (1, None), (0, 0), (1, 0)))


@scenario("folio/same-slot", LEAF, PARTS, {**TAILS, **ORDERS}, {**FINE, **SLOT_ONLY})
def folio_same_slot(core: Core) -> Program:
    """As folio/smaller, and the first page becomes the folio of the second unit: the same slot names the same page."""
    f = Folios(core, 4)
    return f.program(f.getter(1, 1), f.adder(2, (1, None), (1, 0), (0, 0)))


@scenario("folio/units-smaller", {**LEAF, "MAX_ORDER": 3}, PARTS, {**TAILS, **ORDERS}, FINE)
def folio_units_smaller(core: Core) -> Program:
    """As folio/same-slot, with units of two pages."""
    f = Folios(core, 8, unit=1)
    return f.program(f.getter(1, 1), f.adder(2, (1, None), (1, 0), (0, 0)))


@scenario("folio/back", LEAF, PARTS, {**TAILS, **ORDERS}, {**FINE, **SLOT_ONLY})
def folio_back(core: Core) -> Program:
    """A large folio, two small ones in the other order, and a large one again: the same units, the same pages."""
    f = Folios(core, 4)
    return f.program(f.getter(1, 1), f.adder(2, (1, None), (1, 0), (0, 0), (0, None), (1, None), (0, 1)))


@scenario("folio/three", LEAF, PARTS, slow=True)
def folio_three(core: Core) -> Program:
    """A getter, a remover, and a client that adds two small folios as soon as there is room."""
    f = Folios(core, 4)
    return f.program(f.getter(1, 1), f.remover(2), f.adder(3, (1, 0), (0, 0)))


@scenario("folio/evict-smaller", LEAF, PARTS, {
    "freeze-relaxed": Bug((Edit("page_ref", "freeze", "cmpxchg_acquire", "cmpxchg_relaxed"),), WEAK),
    "cleared-before-freeze": Bug((CLEARED_FIRST,), ALL, "the folio is kept, and has lost its slots"),
})  # fmt: skip
def folio_evict_smaller(core: Core) -> Program:
    """A getter, reclaim, and a client that adds a small folio."""
    f = Folios(core, 4)
    return f.program(f.getter(1, 1), f.evicter(2), f.adder(3, (1, 0)))


@scenario("folio/truncate-smaller", LEAF, PARTS, {"sub-relaxed": ORDERS["sub-relaxed"]})
def folio_truncate_smaller(core: Core) -> Program:
    """A getter, truncation, after which the slots' reference may be the last, and a client that adds a small folio."""
    f = Folios(core, 4)
    return f.program(f.getter(1, 1), f.truncater(2), f.adder(3, (1, 0)))


@scenario("folio/leaf-freed", LEAF, PARTS, TAILS, FINE)
def folio_leaf_freed(core: Core) -> Program:
    """A tree of two levels: the leaf goes with the folio that fills it, while a getter is in it."""
    f = Folios(core, 4, height=2)
    return f.program(f.getter(1, 1), f.remover(2))


# The end of the object.


@scenario("folio/end", {**LEAF, "NODE_SHIFT": 2, "MAX_ORDER": 3, "SHRINK_TRIES": 2}, PARTS, slow=True)
def folio_end(core: Core) -> Program:
    """An object of two units and a bit, with units of two pages: two clients add a folio of four units, and get what fits."""
    f = Folios(core, 16, None, unit=1, size=2 * 2 * PAGE + 5)

    def final(mem: Direct, results: list[Any]) -> None:
        found = [core.mapping.find(mem, f.ino, index) for index in range(4)]
        assert found[0] == found[1] != found[2] and found[3] == core.layout.NIL, f"the slots name {found}"
        orders = [core.page_type.order(mem, pfn) for pfn in found[:3]]
        assert orders == [2, 2, 0], f"the folios have orders {orders}"

    def get(mem: Mem) -> list[Any]:
        return [f.getter(3, index)(mem) for index in (1, 2)]

    return f.program(f.adder(1, (1, 2)), f.adder(2, (2, 2)), get, final=final)


# Inserters whose ranges overlap.

RACE_BUGS = {
    "same-again": Bug((SAME_AGAIN,), ALL, "the loser looks at its own unit, finds nothing, and tries the same span in vain"),
    "unlooked": Bug((tree.UNLOOKED,), ALL, "two folios over one another"),
}


def race(core: Core, *what: tuple[int, int], getter: int | None = None, **options: Any) -> Program:
    f = Folios(core, 8, None, **options)

    def final(mem: Direct, results: list[Any]) -> None:
        for (index, _), done in zip(what, results, strict=False):
            assert done != [None], f"the inserters say {results}"
            assert core.mapping.find(mem, f.ino, index) != core.layout.NIL, f"unit {index} is not cached"

    threads = [f.adder(me, each) for me, each in enumerate(what, 1)]
    return f.program(*threads, *([f.getter(3, getter)] if getter is not None else []), final=final)


@scenario("folio/insert-overlap", {**LEAF, "SHRINK_TRIES": 2}, PARTS, RACE_BUGS)
def folio_insert_overlap(core: Core) -> Program:
    """One client adds a folio of units 0 and 1, another one of unit 1: in the end both are cached."""
    return race(core, (0, 1), (1, 0))


@scenario("folio/insert-same", {**LEAF, "SHRINK_TRIES": 2}, PARTS, {"unlooked": RACE_BUGS["unlooked"]})
def folio_insert_same(core: Core) -> Program:
    """Both want unit 1, one of them as a folio of two."""
    return race(core, (1, 1), (1, 0))


@scenario("folio/insert-get", {**LEAF, "SHRINK_TRIES": 2}, PARTS, slow=True)
def folio_insert_get(core: Core) -> Program:
    """As folio/insert-overlap, and a getter looks for unit 1."""
    return race(core, (0, 1), (1, 0), getter=1)


# Memory, queues, windows.


@scenario("folio/short", {**LEAF, "SHRINK_TRIES": 2}, PARTS, slow=True)
def folio_short(core: Core) -> Program:
    """There is memory for two folios of one unit, but not for one of two: two clients want both units."""
    f = Folios(core, 8, None)

    def setup(mem: Direct) -> None:
        Folios.setup(f, mem)
        pages: list[int] = []
        while (pfn := core.page_alloc.alloc(mem, 0, 0)) != core.layout.NIL:
            pages.append(pfn)
            core.client.retract(mem, 0, pfn)
        for pfn in pages[:6:2]:  # no two of them are buddies; one becomes a node
            core.page_alloc.free(mem, 0, pfn, 0)

    def final(mem: Direct, results: list[Any]) -> None:
        found = [core.mapping.find(mem, f.ino, index) for index in (0, 1)]
        assert results == [found[:1], found[1:]] and core.layout.NIL not in found, f"they have {results}, cached are {found}"

    return Program([f.adder(1, (0, 1)), f.adder(2, (1, 1))], setup, final, tree.geometry(f.pages), names=fixtures.names)


@scenario("folio/queues", LEAF, QUEUED, TAILS)
def folio_queues(core: Core) -> Program:
    """A getter, and a client whose insert into another mapping needs a page: the folio is evicted, from the queues on."""
    f = Folios(core, 4)
    return f.program(f.getter(1, 1), f.inserter(2, 2), queues=True)


class Windowed(Folios):
    """Client 0 has a page table whose only entry holds the folio."""

    table: int

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        core.client.set_state(mem, 0, core.layout.SLOT_ATTACHED)
        self.table = core.pagetable.make(mem, 0, 0, 1)
        core.page_ref.get(mem, core.atomics.folio_at(mem, self.pfn))
        core.pagetable.map(mem, self.table, 0, self.pfn)

    def gup(self, me: int) -> Thread:
        def get(mem: Mem) -> str:
            core = self.core
            pfn = core.pagetable.gup_fast(mem, me, self.table, 0)
            if pfn == core.layout.NIL:
                return "unmapped"
            for index in (0, 1):
                self.look(mem, pfn, index)
            core.folio.put(mem, me, pfn)
            return "hit"

        return get

    def unmapper(self, me: int) -> Thread:
        return lambda mem: self.core.pagetable.unmap(mem, me, self.table, 0)


@scenario("folio/window", LEAF, PARTS, {
    "sub-relaxed": ORDERS["sub-relaxed"],
    "no-recheck": Bug((Edit("pagetable", "gup_fast", " and xarray.reload(mem, slot) == pfn", ""),), ALL),
})  # fmt: skip
def folio_window(core: Core) -> Program:
    """A client gets a folio through a window, which is unmapped after the folio was truncated; its pages are used again."""
    f = Windowed(core, 5)

    def reuse(mem: Mem) -> Any:
        f.truncater(2)(mem)
        f.unmapper(2)(mem)
        return f.adder(2, (1, 0), (0, 0))(mem)

    return f.program(f.gup(1), reuse)


# A second zero, when the page has another order in its next life.

PAIR = {"MAX_ORDER": 1}
BUDDIES = (*fixtures.SPIN_LOCK, POISON, TWICE, fixtures.ONE_PAGE[2], fixtures.ALL_BACKED)
ABA_BUGS = {"order-before-freeze": Bug((ORDER_BEFORE,), ALL, "the destructor frees as many pages as the former life had")}


def aba(core: Core, first: int, second: int) -> Program:
    """Return a program: page 0 heads a folio of order ``first``. T1 drops it, T2 may revive it, T3 uses the page again."""

    def begin(mem: Mem, me: int, order: int) -> Any:
        pfn = core.page_alloc.alloc(mem, me, order)
        if pfn != core.layout.NIL:
            core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, order, 0, 0, pfn, 0)
            for each in range(pfn, pfn + (1 << order)):
                fixtures.fill(mem, each, order)
            core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
        return pfn

    def setup(mem: Direct) -> None:
        fixtures.pages(core, mem)
        begin(mem, 0, first)
        if first == 0:
            begin(mem, 0, 0)

    def late(mem: Mem) -> None:
        if core.page_ref.try_get(mem, core.atomics.folio_at(mem, 0)) == core.layout.GOT:
            assert fixtures.look(mem, 0) == core.page_type.order(mem, 0)
            core.folio.put(mem, 2, 0)

    def reuse(mem: Mem) -> None:
        if first == 0:
            core.folio.put(mem, 3, 1)
        for pfn in [begin(mem, 3, second) for _ in range(1 << first >> second or 1)]:
            if pfn != core.layout.NIL:
                core.folio.put(mem, 3, pfn)

    def final(mem: Direct, results: list[Any]) -> None:
        assert core.page_alloc.free_pages(mem) == 2, f"{core.page_alloc.free_pages(mem)} pages are free, not 2"
        for pfn in range(2):
            assert core.page_ref.count(mem, core.atomics.folio_at(mem, pfn)) & core.layout.FROZEN

    threads: list[Thread] = [lambda mem: core.folio.put(mem, 1, 0), late, reuse]
    return Program(threads, setup, final, fixtures.geometry(), names=fixtures.names)


@scenario("folio/aba-smaller", PAIR, BUDDIES, ABA_BUGS)
def aba_smaller(core: Core) -> Program:
    """As put/aba: a folio of two pages, then one of one page."""
    return aba(core, 1, 0)


@scenario("folio/aba-larger", PAIR, BUDDIES, ABA_BUGS)
def aba_larger(core: Core) -> Program:
    """As put/aba: a folio of one page, then one of two pages."""
    return aba(core, 0, 1)


# Death.

DEAD = {**crash_fixtures.SMALL, "NODE_SHIFT": 1, "MAX_ORDER": 1, "SHRINK_TRIES": 2}
DEAD_PARTS = (*crash_fixtures.PARTS[:2], POISON, TWICE, *NO_QUEUES, RECORD_STAYS, fixtures.ALL_BACKED)
PARTIAL = {"partial-kept": Bug((PARTIAL_KEPT,), ALL, "a folio with some of its slots is taken for one that has all of them")}


class Mortal(crash_fixtures.Pool):
    """As ``Folios``, with clients that may die."""

    folios: Folios

    def __init__(self, core: Core, pages: int, span: int | None = 1, unit: int = 0, height: int = 1) -> None:
        super().__init__(core, pages, (), height)
        self.folios = Folios(core, pages, span, unit, height)

    def setup(self, mem: Direct) -> None:
        self.folios.setup(mem)
        self.ino: int = self.folios.ino
        for client in range(self.clients):
            self.core.client.set_state(mem, client, self.core.layout.SLOT_ATTACHED)

    def does(self, me: int, what: str, *args: Any) -> Thread:
        """Return a thread of ``Folios`` as one operation."""
        return self.operation(me, getattr(self.folios, what)(me, *args))


def beside(
    core: Core,
    victim: tuple[Any, ...],
    other: tuple[Any, ...],
    pages: int = 4,
    mortal: Sequence[int] = (VICTIM,),
    **options: Any,
) -> Program:
    """Return a program of two clients; ``victim`` and ``other`` are methods of ``Folios`` with their arguments."""
    p = Mortal(core, pages, **options)
    return p.program((VICTIM, p.does(VICTIM, *victim)), (OTHER, p.does(OTHER, *other)), mortal=mortal)


def again(core: Core, victim: tuple[Any, ...], pages: int = 4, **options: Any) -> Program:
    """Return a program of the victim, a reaper that may die, and one that does not."""
    p = Mortal(core, pages, **options)
    both = (VICTIM, OTHER)
    reapers = (OTHER, p.reaper(OTHER, whole=True)), (REAPER, p.reaper(REAPER, both, whole=True))
    return p.program((VICTIM, p.does(VICTIM, *victim)), *reapers, mortal=both)


@scenario("death/folio-insert", DEAD, DEAD_PARTS)
def death_insert(core: Core) -> Program:
    """The victim adds a folio of two units; a getter looks for the second."""
    return beside(core, ("adder", (0, 1)), ("getter", 1), span=None)


@scenario("death/folio-remove", DEAD, DEAD_PARTS)
def death_remove(core: Core) -> Program:
    """The victim removes a folio of two units; a getter looks for the second."""
    return beside(core, ("remover", 1), ("getter", 1))


@scenario("death/folio-units", {**DEAD, "MAX_ORDER": 2}, DEAD_PARTS)
def death_units(core: Core) -> Program:
    """As death/folio-remove, with units of two pages."""
    return beside(core, ("remover", 1), ("getter", 1), 8, unit=1)


@scenario("death/folio-remove-insert", DEAD, DEAD_PARTS, PARTIAL, slow=True)
def death_remove_insert(core: Core) -> Program:
    """The victim removes a folio; another client wants a small one at its second unit."""
    return beside(core, ("remover", 0), ("adder", (1, 0)), 8)


@scenario("death/folio-truncate-get", DEAD, DEAD_PARTS)
def death_truncate_get(core: Core) -> Program:
    """The victim truncates, after which the slots' reference is the last; a getter looks for the second unit."""
    return beside(core, ("truncater",), ("getter", 1))


@scenario("death/folio-truncate-truncate", DEAD, DEAD_PARTS, PARTIAL)
def death_truncate_truncate(core: Core) -> Program:
    """Two clients truncate: the second takes over the tree lock, and may find one of the two slots."""
    return beside(core, ("truncater",), ("truncater",))


@scenario("death/folio-evict", DEAD, DEAD_PARTS)
def death_evict(core: Core) -> Program:
    """The victim evicts a folio; a getter looks for its second unit."""
    return beside(core, ("evicter",), ("getter", 1))


@scenario("death/folio-evict-insert", DEAD, DEAD_PARTS, slow=True)
def death_evict_insert(core: Core) -> Program:
    """The victim evicts a folio; another client wants a small one at its second unit."""
    return beside(core, ("evicter",), ("adder", (1, 0)), 8)


@scenario("death/folio-remove-both", DEAD, DEAD_PARTS, slow=True)
def death_remove_both(core: Core) -> Program:
    """Two clients remove a folio, and both may die."""
    return beside(core, ("remover", 0), ("remover", 1), mortal=(VICTIM, OTHER))


@scenario("death/folio-truncate-again", DEAD, DEAD_PARTS, slow=True)
def death_truncate_again(core: Core) -> Program:
    """The victim truncates. The reaper may die, too."""
    return again(core, ("truncater",))


@scenario("death/folio-insert-again", DEAD, DEAD_PARTS, slow=True)
def death_insert_again(core: Core) -> Program:
    """The victim inserts. The reaper may die, too."""
    return again(core, ("adder", (0, 1)), span=None)


class Inserting(Mortal):
    """Two clients have a folio each, set up to be inserted: of units 0 and 1, and of unit 1."""

    page: dict[int, int]

    def __init__(self, core: Core) -> None:
        super().__init__(core, 5, span=None)

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        self.page = {}
        for me, index, span in ((VICTIM, 0, 1), (OTHER, 1, 0)):
            pfn = self.page[me] = core.page_alloc.alloc(mem, me, span)
            core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, span, span, self.ino, index, PAGE << span)
            core.fill.begin(mem, me, pfn)
            core.client.announce(mem, me, pfn)
            core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 2)

    def inserter(self, me: int) -> Thread:  # type: ignore[override]
        """Return a thread that is in ``filemap._grab``, behind ``_prepare``, and then fills the folio and drops it."""

        def insert(mem: Mem) -> None:
            core, pfn = self.core, self.page[me]
            status = core.filemap._insert(mem, me, self.ino, core.filemap.first_of(mem, pfn), pfn)
            if status == core.layout.XA_OK:
                core.client.retract(mem, me, pfn)
                core.filemap.complete(mem, me, pfn)
            else:
                core.folio.put(mem, me, pfn)
            core.folio.put(mem, me, pfn)

        return self.operation(me, insert)


@scenario("death/folio-insert-insert", DEAD, DEAD_PARTS)
def death_insert_insert(core: Core) -> Program:
    """The victim inserts a folio of two units, another client one of the second: it may take over the tree lock halfway."""
    p = Inserting(core)
    return p.program((VICTIM, p.inserter(VICTIM)), (OTHER, p.inserter(OTHER)))
