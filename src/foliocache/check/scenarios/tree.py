"""The whole path: mappings, radix trees with nodes, the slab, the buddy allocator, the queues. Only a lock's sleep is left out.

The geometry is as small as it can be: nodes of 4 slots, pages of 256 bytes (3 nodes, 2 records). Locks spin here; the shipped
lock is checked in ``waiting``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..mutation import Edit
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import fixtures, lookup, scenario

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Final, Program, Thread

SMALL = {
    "NODE_SHIFT": 2, "OBJECT_SHIFT": 6, "MAPPING_TEXT_MAX": 0, "MAX_ORDER": 2,
    "FIND_RETRIES": 1, "SHRINK_TRIES": 1, "PINNED_MAX": 1, "SCAN_BATCH": 2, "BLOCKS_MAX": 1,
}  # fmt: skip
SPIN = (
    *fixtures.SPIN_LOCK,
    Edit("page_alloc", "free", "    if not _lock(", "    atomics.poison(mem, pfn)\n    if not _lock("),
    fixtures.ALL_BACKED,
)  # fmt: skip
INDEX = 1
BYTES = 1 << 50  # of an object that no scenario comes to the end of


def geometry(pages: int) -> dict[str, int]:
    shape = fixtures.geometry(pages)
    shape["page_shift"] = 8
    return shape


def opened(core: Core, mem: Mem, digest: int, height: int = 1, me: int = 0, order: int = 0) -> Any:
    return core.mapping.open(mem, me, digest, digest, digest, 1024, order, height, b"", 0, 0)


def audit(core: Core, pages: int) -> Final:
    """Return a judgement: in the end every page is either free or in use."""

    def final(mem: Direct, results: list[Any]) -> None:
        layout = core.layout
        used = 0
        for pfn in range(pages):
            word = core.page_ref.count(mem, core.atomics.folio_at(mem, pfn))
            assert word & layout.FROZEN or word == 1, f"page {pfn} has {word:#x} references"
            used += word == 1
        free = core.page_alloc.free_pages(mem)
        assert free + used == pages, f"{pages} pages, {used} used, {free} free"

    return final


def unused(core: Core, mem: Mem) -> Any:
    """Return the number of pages that are free, or empty in a slab, which gives them back when memory is short."""
    layout, load = core.layout, core.atomics.load_relaxed
    empty = [load(mem, layout.SLAB_EMPTY + cache * layout.SLAB_STRIDE) for cache in range(layout.SLABS)]
    return core.page_alloc.free_pages(mem) + sum(empty)


class Cached:
    """A pool with one page cached, at ``place`` of mapping ``ino``."""

    core: Core
    pages: int
    more: Sequence[int]
    height: int
    ino: int
    pfn: int
    head: int

    place = INDEX
    digest: int = 1

    def __init__(self, core: Core, pages: int, more: Sequence[int] = (), height: int = 1) -> None:
        self.core, self.pages, self.more, self.height = core, pages, more, height

    def setup(self, mem: Direct) -> None:
        core = self.core
        fixtures.pages(core, mem)
        core.slab.setup(mem)
        core.lru.setup(mem)
        core.mapping.setup(mem)
        self.ino = opened(core, mem, self.digest, self.height)
        for index in (*self.more, self.place):
            grabbed = core.filemap.grab(mem, 0, self.ino, index, 0, 0, BYTES)
            assert grabbed & core.layout.GRAB_ADDED
            self.pfn = grabbed & 0xFFFFFFFF
            fixtures.fill(mem, self.pfn, (self.ino, index))
            core.filemap.complete(mem, 0, self.pfn)
            core.folio.put(mem, 0, self.pfn)
        self.head = core.mapping.head(mem, self.ino)

    def getter(self, me: int) -> Thread:
        def get(mem: Mem) -> str:
            pfn = self.core.filemap.find_get(mem, me, self.ino, self.head, self.height, self.place)
            if pfn == self.core.layout.NIL:
                return "miss"
            self.check(mem, pfn)
            self.core.folio.put(mem, me, pfn)
            return "hit"

        return get

    def check(self, mem: Mem, pfn: int) -> None:
        content, right = fixtures.look(mem, pfn), (self.ino, self.place)
        assert content == right, f"looked for {right}, found {content}"

    def truncater(self, me: int) -> Thread:
        return lambda mem: self.core.filemap.truncate(mem, me, self.ino, 3)

    def inserter(self, me: int, digest: int, index: int = INDEX) -> Thread:
        def insert(mem: Mem) -> str:
            core = self.core
            ino = opened(core, mem, digest, me=me)
            if not ino:
                return "no memory"
            grabbed = core.filemap.grab(mem, me, ino, index, 0, 0, BYTES)
            if grabbed >= core.layout.GRAB_NOMEM:
                return "no memory"
            pfn = grabbed & 0xFFFFFFFF
            if grabbed & core.layout.GRAB_ADDED:
                fixtures.fill(mem, pfn, (ino, index))
                core.filemap.complete(mem, me, pfn)
            core.folio.put(mem, me, pfn)
            return "inserted"

        return insert

    def remover(self, me: int) -> Thread:
        def remove(mem: Mem) -> None:
            if self.core.page_ref.try_get(mem, self.core.atomics.folio_at(mem, self.pfn)) == self.core.layout.GOT:
                self.core.filemap.remove(mem, me, self.ino, self.pfn)
                self.core.folio.put(mem, me, self.pfn)

        return remove

    def entry(self, mem: Mem, index: int) -> Any:
        """Return the pfn in the tree, in the end; NIL if there is none."""
        slot = self.core.xarray.find(mem, self.head, self.height, index)
        return self.core.xarray.load(mem, slot) if slot else self.core.layout.NIL

    def program(self, *threads: Thread, final: Final | None = None, equal: Sequence[tuple[int, ...]] = ()) -> Program:
        left = audit(self.core, self.pages)

        def judge(mem: Direct, results: list[Any]) -> None:
            left(mem, results)
            if final:
                final(mem, results)

        return Program(list(threads), self.setup, judge, geometry(self.pages), names=fixtures.names, equal=equal)


BUGS = {
    "clear-dropped": Bug((Edit("xarray", "_clear", lookup.CLEAR, ""),), ALL),
    "sub-relaxed": Bug((lookup.BARRIERS["sub-relaxed"],), WEAK),
    "freeze-relaxed": Bug((lookup.BARRIERS["freeze-relaxed"],), WEAK),
}
UNLOOKED = Edit("xarray", "_put", "                return layout.XA_EXISTS\n", "                pass\n")
INSERT_BUGS = {
    "publish-dropped": Bug((Edit("xarray", "_publish", "    atomics.store_relaxed(mem, slot, entry)", "    pass"),), ALL),
    "insert-unlooked": Bug((UNLOOKED,), ALL, "the second filler overwrites the first one's entry"),
}  # fmt: skip
KERNEL_ORDERS = {"kernel-orders": Bug(lookup.KERNEL_ORDERS)}


@scenario("tree/lookup-truncate", SMALL, SPIN, {k: BUGS[k] for k in ("sub-relaxed", "freeze-relaxed")}, KERNEL_ORDERS)
def tree_lookup_truncate(core: Core) -> Program:
    """A getter walks the tree while it is truncated: folio, node and record are freed."""
    c = Cached(core, 4)
    return c.program(c.getter(1), c.truncater(2))


@scenario("tree/lookup-remove", SMALL, SPIN, BUGS, KERNEL_ORDERS)
def tree_lookup_remove(core: Core) -> Program:
    """A getter and a remover of the same folio; its neighbour stays, and so does the node."""
    c = Cached(core, 5, more=(2,))

    def final(mem: Direct, results: list[Any]) -> None:
        assert c.entry(mem, INDEX) == core.layout.NIL, "the slot of the removed folio still names it"
        assert c.entry(mem, 2) != core.layout.NIL, "the neighbour is gone"

    return c.program(c.getter(1), c.remover(2), final=final)


UNLINK_DROPPED = Edit("xarray", "_erase",
    "    if left == 0:\n        atomics.store_relaxed(mem, slot, 0)\n",
    "    if left == 0:\n")  # fmt: skip


@scenario("tree/node-freed", SMALL, SPIN, {"unlink-dropped": Bug((UNLINK_DROPPED,), ALL, "the parent names a free node")})
def tree_node_freed(core: Core) -> Program:
    """A tree of two levels: the lower node is freed with its last folio, while a getter is in it."""
    c = Cached(core, 5, more=(5,), height=2)

    def final(mem: Direct, results: list[Any]) -> None:
        assert core.xarray.find(mem, c.head, 2, INDEX) == 0, "the freed node is still linked"
        assert c.entry(mem, 5) != core.layout.NIL, "the neighbour is gone"

    return c.program(c.getter(1), c.remover(2), final=final)


@scenario("tree/insert-race", {**SMALL, "SHRINK_TRIES": 2}, SPIN, INSERT_BUGS, KERNEL_ORDERS)
def tree_insert_race(core: Core) -> Program:
    """Two fillers, one page: one of them adds it; the other finds it, or loses and frees its own."""
    c = Cached(core, 5)

    def final(mem: Direct, results: list[Any]) -> None:
        assert results == ["inserted"] * 2, f"the inserters say {results}"
        assert core.page_alloc.free_pages(mem) == 1, "the page that lost is not free"
        pfn = c.entry(mem, 2)
        assert pfn != core.layout.NIL and fixtures.look(mem, pfn) == (c.ino, 2), "the inserted folio is not in the tree"

    return c.program(c.inserter(1, 1, 2), c.inserter(2, 1, 2), final=final, equal=[(0, 1)])


@scenario("tree/lookup-evict", SMALL, SPIN, {}, KERNEL_ORDERS)
def tree_lookup_evict(core: Core) -> Program:
    """A getter, and a client whose insert needs the page: it is evicted and used again, unless the getter holds it."""
    c = Cached(core, 3)
    return c.program(c.getter(1), c.inserter(2, 2))


class Stale(Cached):
    """Client 1 has a page from the allocator. The page's last folio was being evicted by a client that was killed between its
    freeze and the clear of F_ATTACHED, and the reaper has freed the page."""

    page: int

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        self.page = core.page_alloc.alloc(mem, 1, 0)
        core.atomics.store_relaxed(mem, core.atomics.folio_at(mem, self.page) + core.layout.F_ATTACHED, 1)

    def loser(self, me: int) -> Thread:
        """``filemap._grab`` from ``prepare`` on, when another client has added the folio meanwhile."""

        def lose(mem: Mem) -> None:
            core, pfn = self.core, self.page
            core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, 0, 0, self.ino, self.place, 1)
            core.fill.begin(mem, me, pfn)
            core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 2)
            assert core.filemap._insert(mem, me, self.ino, self.place, pfn) == core.layout.XA_EXISTS
            core.folio.put(mem, me, pfn)
            core.folio.put(mem, me, pfn)

        return lose

    def clearer(self, me: int) -> Thread:
        return lambda mem: self.core.vmscan.evict_range(mem, me, self.page, self.page + 1)


ATTACHED_KEPT = Edit("folio", "prepare", "    atomics.store_relaxed(mem, folio + layout.F_ATTACHED, 0)\n", "")


@scenario(
    "tree/insert-stale",
    SMALL,
    SPIN,
    {
        "attached-kept": Bug(
            (ATTACHED_KEPT,), ALL, "a folio that never had a slot is evicted from it, and its references with it"
        )
    },
)
def tree_insert_stale(core: Core) -> Program:
    """A losing insert into a page that a killed evictor has left marked as attached, while a client clears a block."""
    c = Stale(core, 5)
    return c.program(c.loser(1), c.clearer(2))


# A fill under way, a truncation, and a client that waits for the page.

NOT_LOCKED = Edit("filemap", "_prepare", "    fill.begin(mem, me, pfn)\n", "")
KEPT_BY_TRUNCATE = Edit(
    "filemap", "truncate", "if pfn != layout.NIL and not folio.put(mem, me, pfn):", "if pfn >= layout.HASH_MASK:"
)
FAIL_FIRST = Edit("filemap", "remove", "    got = mapping.lock", "    fill.fail(mem, pfn)\n    got = mapping.lock")
REMOVED_TWICE = Edit("filemap", "remove", "atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_ATTACHED)", "1")


class Filling(Cached):
    """There is a mapping without folios; or, ``begun``, client 1 has a locked folio at INDEX, which it fills."""

    def __init__(self, core: Core, pages: int, begun: bool) -> None:
        super().__init__(core, pages)
        self.begun = begun

    def setup(self, mem: Direct) -> None:
        core = self.core
        for part in (core.slab, core.lru, core.mapping):
            part.setup(mem)
        fixtures.pages(core, mem)
        self.ino: int = opened(core, mem, 1)
        self.head: int = core.mapping.head(mem, self.ino)
        if self.begun:
            self.pfn: int = core.filemap.grab(mem, 1, self.ino, INDEX, 0, 0, BYTES) & 0xFFFFFFFF

    def filler(self, me: int, fails: bool = False) -> Thread:
        def fill(mem: Mem) -> str:
            core = self.core
            if self.begun:
                pfn = self.pfn
            else:
                grabbed = core.filemap.grab(mem, me, self.ino, INDEX, 0, 0, BYTES)
                if grabbed >= core.layout.GRAB_NOMEM:
                    return "gone"
                pfn = grabbed & 0xFFFFFFFF
            if fails:  # as lease.Lease does it
                core.filemap.remove(mem, me, self.ino, pfn)
                core.fill.fail(mem, pfn)
            else:
                fixtures.fill(mem, pfn, (self.ino, INDEX))
                core.filemap.complete(mem, me, pfn)
            core.folio.put(mem, me, pfn)
            return "filled"

        return fill

    def waiter(self, me: int) -> Thread:
        def wait(mem: Mem) -> Any:
            core = self.core
            pfn = core.filemap.find_get(mem, me, self.ino, self.head, self.height, INDEX)
            if pfn == core.layout.NIL:
                return "miss"
            seen = core.fill.wait(mem, pfn, 1)
            if seen & core.layout.PG_ERROR:
                again = core.filemap.find_get(mem, me, self.ino, self.head, self.height, INDEX)
                assert again == core.layout.NIL, "a waiter that wakes to PG_ERROR finds the failed folio again"
                content = "miss"
            else:
                assert seen & core.layout.PG_UPTODATE, f"woke to flags {seen:#x}"
                content = fixtures.look(mem, pfn)
                assert content == (self.ino, INDEX), f"waited for {(self.ino, INDEX)}, found {content}"
            core.folio.put(mem, me, pfn)
            return content

        return wait

    def program(self, *threads: Thread) -> Program:  # type: ignore[override]
        def final(mem: Direct, results: list[Any]) -> None:
            if self.core.mapping.lookup(mem, 0, 1, 1):
                self.core.filemap.truncate(mem, 0, self.ino, 3)
            assert unused(self.core, mem) == self.pages, "a page is lost"

        return super().program(*threads, final=final)


@scenario(
    "tree/fill-truncate",
    SMALL,
    SPIN,
    bugs={
        "kept-by-truncate": Bug((KEPT_BY_TRUNCATE,), ALL, "the slot's reference is never dropped"),
        "result-relaxed": Bug((Edit("flags", "unlock", "fetch_or_release", "fetch_or_relaxed"),), WEAK),
        "sub-relaxed": Bug((lookup.BARRIERS["sub-relaxed"],), WEAK),
    },
    variants=KERNEL_ORDERS,
)
def tree_fill_truncate(core: Core) -> Program:
    """A folio is being filled while its mapping is truncated, and a client waits for it: it gets the content, or a miss."""
    c = Filling(core, 4, begun=True)
    return c.program(c.filler(1), c.truncater(2), c.waiter(3))


@scenario("tree/grab-truncate", SMALL, SPIN, {"not-locked": Bug((NOT_LOCKED,), ALL, "a waiter finds neither lock nor content")})
def tree_grab_truncate(core: Core) -> Program:
    """As tree/fill-truncate, from the lookup on: the folio may be added before, after, or to a mapping that is gone."""
    c = Filling(core, 4, begun=False)
    return c.program(c.filler(1), c.truncater(2), c.waiter(3))


@scenario(
    "tree/fail-truncate",
    SMALL,
    SPIN,
    bugs={
        "fail-before-withdrawn": Bug((FAIL_FIRST,), ALL, "a waiter wakes to PG_ERROR and finds the same folio"),
        "removed-twice": Bug((REMOVED_TWICE,), ALL, "the slot's reference is dropped twice"),
    },
)
def tree_fail_truncate(core: Core) -> Program:
    """The fill fails, and the filler or the truncation withdraws its folio; a waiter finds a miss."""
    c = Filling(core, 4, begun=True)
    return c.program(c.filler(1, fails=True), c.truncater(2), c.waiter(3))
