"""Lookup against removal and reuse, and the question whether there are enough barriers.

One slot (an XArray of height 0), one page. A remover takes the folio out and drops it; a reuser sets the page up as another
folio in another slot, or in the same one; getters come at any time. The code is the shipped one: ``filemap.find_get``,
``xarray.erase`` and ``store``, ``folio.prepare`` and ``put``, ``page_ref``. Only the allocator is a stand-in (one word).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..mutation import Edit, Replace
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import fixtures, refcount, scenario

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Final, Program, Thread

INDEX = 0
ONE_TRY = {"FIND_RETRIES": 1}
PARTS = (*fixtures.ONE_PAGE, *fixtures.TREE, fixtures.ALL_BACKED)

NO_RECHECK = Edit("filemap", "find_get", " and xarray.reload(mem, slot) == pfn and folio.is_identity(mem, pfn, ino, index)", "")
SLOT_ONLY = Edit("filemap", "find_get", " and folio.is_identity(mem, pfn, ino, index)", "")
IDENTITY_ONLY = Edit("filemap", "find_get", " and xarray.reload(mem, slot) == pfn", "")
DROP_FIRST = Replace(
    "filemap",
    "remove",
    """
    def remove(mem, me, ino, pfn):
        folio.put(mem, me, pfn)
        mapping.remove(mem, me, ino, pfn)
""",
)
TRUNCATE_DROP_FIRST = (
    Edit("filemap", "truncate",
        "            left = mapping.remove",
        "            folio.put(mem, me, pfn)\n            left = mapping.remove"),
    Edit("filemap", "truncate",
        "        if pfn != layout.NIL and not folio.put(mem, me, pfn):\n            return False\n",
        ""),
)  # fmt: skip
DESTROY_FIRST = (
    Edit("vmscan", "_evict", "    left = mapping.remove", "    folio.destroy(mem, me, pfn)\n    left = mapping.remove"),
    Edit("vmscan", "_evict", "    if not folio.destroy(mem, me, pfn):\n        return layout.NIL\n", ""),
)
CLEAR = "            atomics.store_relaxed(mem, slot + n * 4, 0)\n"

# One order at a time, on the whole path of a reference from publication to destruction. All others are relaxed as shipped.
BARRIERS = {
    "add-relaxed": Edit("page_ref", "try_get", "fetch_add_acquire", "fetch_add_relaxed"),
    "sub-relaxed": refcount.RELAXED_SUB,
    "freeze-relaxed": refcount.RELAXED_FREEZE,
    "init-relaxed": refcount.RELAXED_INIT,
}
NEEDED = {name: Bug((edit,), WEAK) for name, edit in BARRIERS.items()}
# The kernel's orders: rcu_assign_pointer to publish and to clear, rcu_dereference to load. As right as ours, and not needed.
KERNEL_ORDERS = (
    Edit("xarray", "_publish", "store_relaxed(mem, slot, entry)", "store_release(mem, slot, entry)"),
    Edit("xarray", "find", "load_relaxed", "load_acquire"),
    Edit("xarray", "load", "load_relaxed", "load_acquire"),
    Edit("xarray", "reload", "load_relaxed", "load_acquire"),
    Edit("xarray", "_clear", CLEAR, CLEAR.replace("relaxed", "release")),
    Edit("pagetable", "map", "cmpxchg_relaxed", "cmpxchg_release"),
    Edit("pagetable", "unmap", "cmpxchg_relaxed", "cmpxchg_release"),
)


def published(core: Core) -> Thread:
    """Return a setup: page 0 is a FILE folio in the slot; the slot has a reference, and so has the remover."""

    def setup(mem: Direct) -> None:
        core.page_ref.init(mem, core.atomics.folio_at(mem, 1), 1)
        core.folio.prepare(mem, 0, core.layout.TYPE_FILE, 0, 0, fixtures.INO, INDEX, 1)
        fixtures.fill(mem, 0, fixtures.INO)
        core.page_ref.init(mem, fixtures.MEMMAP, 2)
        core.mapping.insert(mem, 0, fixtures.INO, INDEX, 0)

    return setup


def getter(core: Core, me: int) -> Thread:
    def get(mem: Mem) -> str:
        pfn = core.filemap.find_get(mem, me, fixtures.INO, fixtures.HEAD, 0, INDEX)
        if pfn == core.layout.NIL:
            return "miss"
        content = fixtures.look(mem, pfn)
        assert content == fixtures.INO, "the getter was given another mapping's page"
        core.folio.put(mem, me, pfn)
        return "hit"

    return get


def remover(core: Core, me: int) -> Thread:
    def remove(mem: Mem) -> None:
        core.filemap.remove(mem, me, fixtures.INO, 0)
        core.folio.put(mem, me, 0)

    return remove


def reuser(core: Core, me: int, head: int) -> Thread:
    def reuse(mem: Mem) -> str:
        pfn = core.page_alloc.alloc(mem, me, 0)
        if pfn == core.layout.NIL:
            return "nothing free"
        core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, 0, 0, fixtures.OTHER_INO, INDEX, 1)
        fixtures.fill(mem, pfn, fixtures.OTHER_INO)
        core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
        core.xarray.store(mem, me, head, 0, INDEX, 0, pfn, fixtures.OTHER_INO)
        return "reused"

    return reuse


def one_owner(core: Core) -> Final:
    """Return a judgement: either the page is free, or it was reused and has the one reference of its new slot."""

    def final(mem: Direct, results: list[Any]) -> None:
        if mem.values.get(fixtures.FREE, 0):
            got = core.page_ref.try_get(mem, fixtures.MEMMAP)
            assert got == core.layout.DEAD, "the free page can be got"
        else:
            assert "reused" in results, "the page is lost: no thread destroyed it"
            word = core.page_ref.count(mem, fixtures.MEMMAP)
            assert word == 1, f"the word is {word:#x}, not 1"

    return final


def program(
    core: Core, threads: Sequence[Thread], setup: Callable[[Core], Thread] = published, equal: Sequence[tuple[int, ...]] = ()
) -> Program:
    return Program(threads, setup(core), one_owner(core), fixtures.geometry(), names=fixtures.names, equal=equal)


NOT_NEEDED = {
    "kernel-orders": Bug(KERNEL_ORDERS),
    # An ino is never given twice, so the identity alone is enough; the second look at the slot only notices sooner.
    "identity-only": Bug((IDENTITY_ONLY,)),
}


@scenario(
    "lookup/reuse",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the getter returns the page, whatever it holds by now"),
        **NEEDED,
    },
    # The remover holds a pin of its own here, so the order of clear and drop does not matter; in lookup/truncate it does.
    variants={**refcount.SCHEMES, **NOT_NEEDED, "slot-only": Bug((SLOT_ONLY,)), "drop-before-unpublish": Bug((DROP_FIRST,))},
)
def lookup_reuse(core: Core) -> Program:
    """A getter, the remover, and a reuser that puts the page into another slot as another folio."""
    return program(core, [getter(core, 1), remover(core, 2), reuser(core, 3, fixtures.OTHER)])


@scenario(
    "lookup/same-slot",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the getter returns the page, whatever it holds by now"),
        "slot-only": Bug((SLOT_ONLY,), ALL, "the same slot names the same page, as another mapping's"),
        **NEEDED,
    },
    variants={**refcount.SCHEMES, **NOT_NEEDED},
)
def lookup_same_slot(core: Core) -> Program:
    """As lookup/reuse, but the slot's memory is used again, too: it names the same page, which is another mapping's now."""
    return program(core, [getter(core, 1), remover(core, 2), reuser(core, 3, fixtures.HEAD)])


@scenario("lookup/two-getters", ONE_TRY, PARTS)
def lookup_two(core: Core) -> Program:
    """Two getters, a remover and a reuser."""
    return program(core, [remover(core, 3), reuser(core, 4, fixtures.OTHER), getter(core, 1), getter(core, 2)], equal=[(2, 3)])


@scenario("lookup/three-getters", ONE_TRY, PARTS)
def lookup_three(core: Core) -> Program:
    """Three getters, a remover and a reuser."""
    return program(
        core, [remover(core, 4), reuser(core, 5, fixtures.OTHER), *(getter(core, me) for me in (1, 2, 3))], equal=[(2, 3, 4)]
    )


def reclaimer(core: Core, me: int) -> Thread:
    """Return a thread that does what ``vmscan.shrink`` does with a folio that it has isolated."""

    def reclaim(mem: Mem) -> None:
        if core.page_ref.try_get(mem, fixtures.MEMMAP) == core.layout.GOT:
            core.vmscan.evict(mem, me, 0)

    return reclaim


def cached(core: Core) -> Thread:
    """Return a setup: as published, with the slot's reference only."""

    def setup(mem: Direct) -> None:
        published(core)(mem)
        core.page_ref.init(mem, fixtures.MEMMAP, 1)

    return setup


def evicted_or_kept(core: Core) -> Final:
    def final(mem: Direct, results: list[Any]) -> None:
        word = core.page_ref.count(mem, fixtures.MEMMAP)
        if mem.values.get(fixtures.FREE, 0):
            assert core.page_ref.try_get(mem, fixtures.MEMMAP) == core.layout.DEAD, "the free page can be got"
        else:
            assert word == 1, f"the word is {word:#x}, not 1"

    return final


@scenario(
    "lookup/evict",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the getter returns the page, whatever it holds by now"),
        "destroy-before-unpublish": Bug(DESTROY_FIRST, ALL, "the page is used again while its slot still names it"),
        "freeze-relaxed": Bug((Edit("page_ref", "freeze", "cmpxchg_acquire", "cmpxchg_relaxed"),), WEAK),
        "init-relaxed": Bug((BARRIERS["init-relaxed"],), WEAK),
        "add-relaxed": Bug((BARRIERS["add-relaxed"],), WEAK),
        "sub-relaxed": Bug((BARRIERS["sub-relaxed"],), WEAK),
    },
    variants=refcount.SCHEMES,
)
def lookup_evict(core: Core) -> Program:
    """A getter against reclaim, which freezes the folio and takes it out, and against a reuser."""
    threads = [getter(core, 1), reclaimer(core, 2), reuser(core, 3, fixtures.OTHER)]
    return Program(threads, cached(core), evicted_or_kept(core), fixtures.geometry(), names=fixtures.names)


@scenario(
    "lookup/truncate",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the getter returns the page, whatever it holds by now"),
        "drop-before-unpublish": Bug(TRUNCATE_DROP_FIRST, ALL, "the page is used again while its slot still names it"),
        **NEEDED,
    },
    variants={**refcount.SCHEMES, **NOT_NEEDED},
)
def lookup_truncate(core: Core) -> Program:
    """A getter against truncation, which holds no pin, so the slot's reference may be the last, and against a reuser."""

    def truncate(mem: Mem) -> None:
        core.filemap.truncate(mem, 2, fixtures.INO, INDEX)

    def final(mem: Direct, results: list[Any]) -> None:
        one_owner(core)(mem, results)
        assert core.mapping.folios(mem, fixtures.INO) == 0, "the mapping counts a folio that is gone"
        assert core.xarray.load(mem, fixtures.HEAD) == core.layout.NIL, "the slot still names the page"

    threads = [getter(core, 1), truncate, reuser(core, 3, fixtures.OTHER)]
    return Program(threads, cached(core), final, fixtures.geometry(), names=fixtures.names)
