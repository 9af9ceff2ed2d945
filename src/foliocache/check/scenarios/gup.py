"""gup_fast and gup of a range against unmap and reuse.

As in ``lookup``, with the entry of a page table in place of the slot: page 1 is a table, and its first entries are where
``lookup`` has the heads of mappings. The code is the shipped one, but for the allocator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..mutation import Edit, Replace
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import fixtures, lookup, refcount, scenario

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Final, Program, Thread

NO_RECHECK = Edit("pagetable", "gup_fast", " and xarray.reload(mem, slot) == pfn", "")
UNMAP_DROP_FIRST = Replace(
    "pagetable",
    "unmap",
    """
    def unmap(mem, me, table, entry):
        pfn = xarray.pfn_of(mem, atomics.load_relaxed(mem, _entry(mem, table, entry)))
        folio.put(mem, me, pfn)
        atomics.exchange_relaxed(mem, _entry(mem, table, entry), 0)
        return True
""",
)


def mapped(core: Core) -> Thread:
    def setup(mem: Direct) -> None:
        core.folio.prepare(mem, 0, core.layout.TYPE_FILE, 0, 0, fixtures.INO, lookup.INDEX, 1)
        fixtures.fill(mem, 0, "mapped")
        core.page_ref.init(mem, fixtures.MEMMAP, 1)
        core.pagetable.map(mem, 1, 0, 0)

    return setup


def fast_getter(core: Core, me: int) -> Thread:
    def gup(mem: Mem) -> Any:
        pfn = core.pagetable.gup_fast(mem, me, 1, 0)
        if pfn == core.layout.NIL:
            return "miss"
        content = fixtures.look(mem, pfn)
        assert content == "mapped", f"the entry never named {content}"
        core.folio.put(mem, me, pfn)
        return "hit"

    return gup


def unmapper(core: Core, me: int) -> Thread:
    return lambda mem: core.pagetable.unmap(mem, me, 1, 0)


@scenario(
    "gup/unmap-reuse",
    lookup.ONE_TRY,
    lookup.PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the getter returns the page, whatever it holds by now"),
        "drop-before-clear": Bug((UNMAP_DROP_FIRST,), ALL, "the page is free while its entry still names it"),
        "sub-relaxed": Bug((lookup.BARRIERS["sub-relaxed"],), WEAK),
        "freeze-relaxed": Bug((lookup.BARRIERS["freeze-relaxed"],), WEAK),
        "init-relaxed": Bug((lookup.BARRIERS["init-relaxed"],), WEAK),
        "add-relaxed": Bug((lookup.BARRIERS["add-relaxed"],), WEAK),
    },
    variants={
        **refcount.SCHEMES,
        "kernel-orders": Bug(lookup.KERNEL_ORDERS),
    },
)
def gup_unmap_reuse(core: Core) -> Program:
    """gup_fast against unmap, while the page is used again elsewhere."""
    return lookup.program(core, [fast_getter(core, 1), unmapper(core, 2), lookup.reuser(core, 3, fixtures.OTHER)], mapped)


@scenario(
    "gup/aba",
    lookup.ONE_TRY,
    lookup.PARTS,
    bugs={
        "type-before-freeze": Bug(
            (refcount.TYPE_BEFORE,), ALL, "the race of the mailing list, with a getter whose re-check fails"
        )
    },
    variants=refcount.SCHEMES,
)
def gup_aba(core: Core) -> Program:
    """T1, T2, T3 of the mailing list, and the re-check fails: T1 clears the entry and drops 1 -> 0; T2 has loaded the entry
    before, gets 0 -> 1, finds it cleared and puts; T3 uses the page again and drops it. A getter whose re-check succeeds keeps
    the page here."""

    def get(mem: Mem) -> Any:
        return "miss" if core.pagetable.gup_fast(mem, 1, 1, 0) == core.layout.NIL else "hit"

    def final(mem: Direct, results: list[Any]) -> None:
        if results[1] == "hit":
            word = core.page_ref.count(mem, fixtures.MEMMAP)
            assert word == 1, f"the word is {word:#x}, not 1"
        else:
            refcount.all_free(core)(mem, results)

    threads = [unmapper(core, 2), get, refcount.reuser(core, 3, core.layout.TYPE_NODE)]
    return Program(threads, mapped(core), final, fixtures.geometry(), names=fixtures.names)


@scenario(
    "gup/two-unmaps",
    lookup.ONE_TRY,
    lookup.PARTS,
    bugs={"drop-before-clear": Bug((UNMAP_DROP_FIRST,), ALL)},
    variants=refcount.SCHEMES,
)
def gup_two_unmaps(core: Core) -> Program:
    """Two threads unmap the same entry at once, against gup_fast: one of them drops its reference."""
    return lookup.program(core, [fast_getter(core, 1), unmapper(core, 2), unmapper(core, 3)], mapped, equal=[(1, 2)])


@scenario(
    "gup/new-table",
    lookup.ONE_TRY,
    lookup.PARTS,
    bugs={
        "old-entries": Bug(
            (Edit("pagetable", "create", "atomics.store_relaxed(mem, _entry(mem, pfn, entry), 0)", "pass"),), ALL
        )
    },
)
def gup_new_table(core: Core) -> Program:
    """A table made of a used page is empty, whatever the page held before."""
    shape = {**fixtures.geometry(), "page_shift": 4}

    def setup(mem: Direct) -> None:
        core.atomics.store_relaxed(mem, fixtures.FREE, 1)
        core.atomics.store_relaxed(mem, fixtures.DATA + 4, 2)
        core.page_ref.init(mem, fixtures.MEMMAP, core.layout.FROZEN)

    def create(mem: Mem) -> None:
        table = core.pagetable.create(mem, 1, 2)
        assert core.pagetable.gup_fast(mem, 1, table, 1) == core.layout.NIL, "a new table is not empty"

    return Program([create], setup, None, shape, names=fixtures.names)


# A range: page 1 is the table, page 2 behind its first entry, page 0 (which can be used again) behind the second, page 3 takes
# the pins, and page 4 is mapped in place of page 0.
PINS = fixtures.DATA + 0x3000
IN_RANGE = {2: "first", 0: "mapped", 4: "other"}
PINS_KEPT = Edit("pagetable", "gup", "            unpin(mem, me, pins, i)\n", "")
GUP_RANGE = Replace("pagetable", "gup", """
    def gup(mem, me, table, first, count, pins):
        for i in range(count):
            pfn = xarray.load(mem, _entry(mem, table, first + i))
            if pfn == layout.NIL:
                unpin(mem, me, pins, i)
                return False
            page_ref.get(mem, atomics.folio_at(mem, pfn))
            map(mem, pins, i, pfn)
        return True
""")  # fmt: skip


RANGE_NAMES = {fixtures.HEAD: "entry 0", fixtures.HEAD + 4: "entry 1", PINS: "pin 0", PINS + 4: "pin 1"}


def range_names(loc: Any) -> str | None:
    return RANGE_NAMES.get(loc) or fixtures.names(loc)


def range_mapped(core: Core) -> Thread:
    def setup(mem: Direct) -> None:
        for pfn, content in IN_RANGE.items():
            core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, 0, 0, fixtures.INO, pfn, 1)
            fixtures.fill(mem, pfn, content)
            core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
        core.pagetable.map(mem, 1, 0, 2)
        core.pagetable.map(mem, 1, 1, 0)

    return setup


def range_getter(core: Core, me: int) -> Thread:
    def gup(mem: Mem) -> Any:
        if not core.pagetable.gup(mem, me, 1, 0, 2, 3):
            return "none"
        seen = []
        for entry in (0, 1):
            pfn = core.xarray.load(mem, PINS + 4 * entry)
            content = fixtures.look(mem, pfn)
            assert content == IN_RANGE[pfn], f"the entry never named {content}"
            seen.append(content)
        core.pagetable.unpin(mem, me, 3, 2)
        return "+".join(seen)

    return gup


def all_or_none(core: Core, second: str) -> Final:
    """Return a judgement: no pin is left, and each page that an entry names has the reference of that entry."""

    def final(mem: Direct, results: list[Any]) -> None:
        assert results[0] in ("none", "first+mapped", f"first+{second}"), f"gup got {results[0]}"
        assert not mem.values.get(PINS) and not mem.values.get(PINS + 4), "a pin is left"
        words = {pfn: core.page_ref.count(mem, core.atomics.folio_at(mem, pfn)) for pfn in (0, 2, 4)}
        assert words[2] == words[4] == 1, f"the words are {words[2]:#x} and {words[4]:#x}, not 1"
        if mem.values.get(fixtures.FREE, 0):
            assert core.page_ref.try_get(mem, fixtures.MEMMAP) == core.layout.DEAD, "the free page can be got"
        else:
            assert words[0] == 1 and "reused" in results, "the page is lost: no thread destroyed it"

    return final


def range_program(core: Core, threads: Sequence[Thread], second: str) -> Program:
    return Program(threads, range_mapped(core), all_or_none(core, second), fixtures.geometry(5), names=range_names)


@scenario(
    "gup/range",
    lookup.ONE_TRY,
    lookup.PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the range has a page that is used elsewhere"),
        "pins-kept": Bug((PINS_KEPT,), ALL, "the getter gets none, but the first page stays pinned"),
        "plain-get": Bug((GUP_RANGE,), ALL, "an entry alone does not hold its page for the getter"),
        "drop-before-clear": Bug((UNMAP_DROP_FIRST,), ALL, "the page is free while its entry still names it"),
    },
    variants=refcount.SCHEMES,
)  # fmt: skip
def gup_range(core: Core) -> Program:
    """gup of two entries, all or none, against unmap of the second one, whose page is used again elsewhere."""
    threads = [range_getter(core, 1), lambda mem: core.pagetable.unmap(mem, 2, 1, 1), lookup.reuser(core, 3, fixtures.OTHER)]
    return range_program(core, threads, "mapped")


@scenario(
    "gup/range-remap",
    lookup.ONE_TRY,
    lookup.PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the range has a page that is used elsewhere"),
        "pins-kept": Bug((PINS_KEPT,), ALL, "the getter gets none, but the first page stays pinned"),
    },
    variants=refcount.SCHEMES,
)
def gup_range_remap(core: Core) -> Program:
    """As gup/range, and another folio is mapped in its place: the getter gets the one, the other, or none."""

    def remap(mem: Mem) -> None:
        core.pagetable.unmap(mem, 2, 1, 1)
        core.page_ref.get(mem, core.atomics.folio_at(mem, 4))
        core.pagetable.map(mem, 1, 1, 4)

    def final(mem: Direct, results: list[Any]) -> None:
        word = core.page_ref.count(mem, core.atomics.folio_at(mem, 4))
        assert word == 2, f"the word is {word:#x}, not the entry's and the owner's references"
        core.folio.put(mem, 0, 4)
        all_or_none(core, "other")(mem, results)

    threads = [range_getter(core, 1), remap, lookup.reuser(core, 3, fixtures.OTHER)]
    return Program(threads, range_mapped(core), final, fixtures.geometry(5), names=range_names)
