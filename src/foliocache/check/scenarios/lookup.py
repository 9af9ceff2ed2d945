"""Lookup against removal and reuse (design section 2, rules 4 and 5), and the question whether there are enough barriers.

One slot (an XArray of height 0), one page. A remover takes the folio out and drops it; a reuser sets the page up as another
folio in another slot, or in the same one; getters come at any time. All of it is shipped code: ``filemap.find_get``,
``xarray.erase`` and
``store``, ``folio.prepare`` and ``put``, ``page_ref``. The allocator alone is a stand-in (one word).
"""

from ..mutation import Edit, Replace
from ..program import Program
from ..scenario import ALL, WEAK, Bug, scenario
from . import counting, stage

INDEX = 0
ONE_TRY = {"FIND_RETRIES": 1}
PARTS = stage.ONE_PAGE + stage.TREE

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
    Edit("filemap", "truncate", "            left = mapping.remove", "            folio.put(mem, me, pfn)\n            left = mapping.remove"),
    Edit("filemap", "truncate", "            folio.put(mem, me, pfn)\n        if left", "            pass\n        if left"),
)  # fmt: skip
GUP_NO_RECHECK = Edit("pagetable", "gup_fast", " and xarray.reload(mem, slot) == pfn", "")
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
DESTROY_FIRST = (
    Edit("vmscan", "evict", "    left = mapping.remove", "    folio.destroy(mem, me, pfn)\n    left = mapping.remove"),
    Edit("vmscan", "evict", "1)\n    folio.destroy(mem, me, pfn)", "1)"),
)
CLEAR = "    if level == 0:\n        atomics.store_relaxed(mem, slot, 0)"

# One order at a time, the whole path of a reference from publication to destruction. What is not here is relaxed as shipped.
BARRIERS = {
    "add-relaxed": Edit("page_ref", "try_get", "fetch_add_acquire", "fetch_add_relaxed"),
    "sub-relaxed": counting.RELAXED_SUB,
    "freeze-relaxed": counting.RELAXED_FREEZE,
    "init-relaxed": counting.RELAXED_INIT,
}
NEEDED = {name: Bug((edit,), WEAK) for name, edit in BARRIERS.items()}
# What the kernel has: rcu_assign_pointer to publish and to clear, rcu_dereference to load. As right as ours, and not needed.
KERNEL_ORDERS = (
    Edit("xarray", "_publish", "store_relaxed(mem, slot, entry)", "store_release(mem, slot, entry)"),
    Edit("xarray", "find", "load_relaxed", "load_acquire"),
    Edit("xarray", "load", "load_relaxed", "load_acquire"),
    Edit("xarray", "reload", "load_relaxed", "load_acquire"),
    Edit("xarray", "_erase", CLEAR, CLEAR.replace("relaxed", "release")),
    Edit("pagetable", "map", "cmpxchg_relaxed", "cmpxchg_release"),
    Edit("pagetable", "unmap", "cmpxchg_relaxed", "cmpxchg_release"),
)


def published(core):
    """Setup: page 0 is a FILE folio in the slot; the slot has a reference, and so has the remover."""

    def setup(mem):
        core.page_ref.init(mem, core.atomics.folio_at(mem, 1), 1)
        core.folio.prepare(mem, 0, core.layout.TYPE_FILE, 0, stage.INO, INDEX, 1)
        stage.fill(mem, 0, stage.INO)
        core.page_ref.init(mem, stage.MEMMAP, 2)
        core.mapping.insert(mem, 0, stage.INO, INDEX, 0)

    return setup


def getter(core, me):
    def get(mem):
        pfn = core.filemap.find_get(mem, me, stage.INO, stage.HEAD, 0, INDEX)
        if pfn == core.layout.NIL:
            return "miss"
        content = stage.look(mem, pfn)
        assert content == stage.INO, "the getter was given another mapping's page"
        core.folio.put(mem, me, pfn)
        return "hit"

    return get


def remover(core, me):
    def remove(mem):
        core.filemap.remove(mem, me, stage.INO, 0)
        core.folio.put(mem, me, 0)

    return remove


def reuser(core, me, head):
    def reuse(mem):
        pfn = core.page_alloc.alloc(mem, me, 0)
        if pfn == core.layout.NIL:
            return "nothing free"
        core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, 0, stage.OTHER_INO, INDEX, 1)
        stage.fill(mem, pfn, stage.OTHER_INO)
        core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
        core.xarray.store(mem, me, head, 0, INDEX, pfn, stage.OTHER_INO)
        return "reused"

    return reuse


def one_owner(core):
    """In the end either the page is free, or it was reused and has the one reference of its new slot."""

    def final(mem, results):
        if mem.values.get(stage.FREE, 0):
            got = core.page_ref.try_get(mem, stage.MEMMAP)
            assert got == core.layout.DEAD, "the free page can be got"
        else:
            assert "reused" in results, "the page is lost: nobody destroyed it"
            word = core.page_ref.count(mem, stage.MEMMAP)
            assert word == 1, f"the word is {word:#x}, not 1"

    return final


def program(core, threads, setup=published, equal=()):
    return Program(threads, setup(core), one_owner(core), stage.geometry(), names=stage.names, equal=equal)


NOT_NEEDED = {
    "kernel-orders": Bug(KERNEL_ORDERS),
    # An ino is never given twice, so the identity alone tells; the second look at the slot only finds it out sooner.
    "identity-only": Bug((IDENTITY_ONLY,)),
}


@scenario(
    "lookup/reuse",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the getter returns whatever the page has become"),
        **NEEDED,
    },
    # The remover holds a pin of its own here, so the order of clear and drop does not matter; in lookup/truncate it does.
    variants={**counting.SCHEMES, **NOT_NEEDED, "slot-only": Bug((SLOT_ONLY,)), "drop-before-unpublish": Bug((DROP_FIRST,))},
)
def lookup_reuse(core):
    """A getter, the remover, and a reuser who puts the page into another slot as another folio."""
    return program(core, [getter(core, 1), remover(core, 2), reuser(core, 3, stage.OTHER)])


@scenario(
    "lookup/same-slot",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the getter returns whatever the page has become"),
        "slot-only": Bug((SLOT_ONLY,), ALL, "the same slot names the same page, as another mapping's"),
        **NEEDED,
    },
    variants={**counting.SCHEMES, **NOT_NEEDED},
)
def lookup_same_slot(core):
    """As lookup/reuse, but the slot's memory, too, is used again: it names the same page, which is another mapping's now."""
    return program(core, [getter(core, 1), remover(core, 2), reuser(core, 3, stage.HEAD)])


@scenario("lookup/two-getters", ONE_TRY, PARTS)
def lookup_two(core):
    """Two getters, remover, reuser."""
    return program(core, [remover(core, 3), reuser(core, 4, stage.OTHER), getter(core, 1), getter(core, 2)], equal=[(2, 3)])


@scenario("lookup/three-getters", ONE_TRY, PARTS)
def lookup_three(core):
    """Three getters, remover, reuser."""
    return program(
        core, [remover(core, 4), reuser(core, 5, stage.OTHER), *(getter(core, me) for me in (1, 2, 3))], equal=[(2, 3, 4)]
    )


def reclaimer(core, me):
    """What ``vmscan.shrink`` does with the folio that it isolated."""

    def reclaim(mem):
        if core.page_ref.try_get(mem, stage.MEMMAP) == core.layout.GOT:
            core.vmscan.evict(mem, me, 0)

    return reclaim


def cached(core):
    """Setup: as published, with the slot's reference only."""

    def setup(mem):
        published(core)(mem)
        core.page_ref.init(mem, stage.MEMMAP, 1)

    return setup


def evicted_or_kept(core):
    def final(mem, results):
        word = core.page_ref.count(mem, stage.MEMMAP)
        if mem.values.get(stage.FREE, 0):
            assert core.page_ref.try_get(mem, stage.MEMMAP) == core.layout.DEAD, "the free page can be got"
        else:
            assert word == 1, f"the word is {word:#x}, not 1"

    return final


@scenario(
    "lookup/evict",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the getter returns whatever the page has become"),
        "destroy-before-unpublish": Bug(DESTROY_FIRST, ALL, "the page is somebody else's while its slot still names it"),
        "freeze-relaxed": Bug((Edit("page_ref", "freeze", "cmpxchg_acquire", "cmpxchg_relaxed"),), WEAK),
        "init-relaxed": Bug((BARRIERS["init-relaxed"],), WEAK),
        "add-relaxed": Bug((BARRIERS["add-relaxed"],), WEAK),
        "sub-relaxed": Bug((BARRIERS["sub-relaxed"],), WEAK),
    },
    variants=counting.SCHEMES,
)
def lookup_evict(core):
    """A getter against reclaim, which freezes the folio and takes it out, and a reuser."""
    threads = [getter(core, 1), reclaimer(core, 2), reuser(core, 3, stage.OTHER)]
    return Program(threads, cached(core), evicted_or_kept(core), stage.geometry(), names=stage.names)


@scenario(
    "lookup/truncate",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((NO_RECHECK,), ALL, "the getter returns whatever the page has become"),
        "drop-before-unpublish": Bug(TRUNCATE_DROP_FIRST, ALL, "the page is somebody else's while its slot still names it"),
        **NEEDED,
    },
    variants={**counting.SCHEMES, **NOT_NEEDED},
)
def lookup_truncate(core):
    """A getter against truncation, which holds no pin: the slot's reference may be the last. And a reuser."""

    def truncate(mem):
        core.filemap.truncate(mem, 2, stage.INO, INDEX)

    def final(mem, results):
        one_owner(core)(mem, results)
        assert core.mapping.folios(mem, stage.INO) == 0, "the mapping counts a folio that is gone"
        assert core.xarray.load(mem, stage.HEAD) == core.layout.NIL, "the slot still names the page"

    threads = [getter(core, 1), truncate, reuser(core, 3, stage.OTHER)]
    return Program(threads, cached(core), final, stage.geometry(), names=stage.names)


# The page table: page 1 is a table, and its first entry is what mapping heads are above.


def mapped(core):
    def setup(mem):
        core.folio.prepare(mem, 0, core.layout.TYPE_FILE, 0, stage.INO, INDEX, 1)
        stage.fill(mem, 0, "mapped")
        core.page_ref.init(mem, stage.MEMMAP, 1)
        core.pagetable.map(mem, 1, 0, 0)

    return setup


def fast_getter(core, me):
    def gup(mem):
        pfn = core.pagetable.gup_fast(mem, me, 1, 0)
        if pfn == core.layout.NIL:
            return "miss"
        content = stage.look(mem, pfn)
        assert content == "mapped", f"the entry never named {content}"
        core.folio.put(mem, me, pfn)
        return "hit"

    return gup


def unmapper(core, me):
    return lambda mem: core.pagetable.unmap(mem, me, 1, 0)


@scenario(
    "gup/unmap-reuse",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((GUP_NO_RECHECK,), ALL, "the getter returns whatever the page has become"),
        "drop-before-clear": Bug((UNMAP_DROP_FIRST,), ALL, "the page is free while its entry still names it"),
        "sub-relaxed": Bug((BARRIERS["sub-relaxed"],), WEAK),
        "freeze-relaxed": Bug((BARRIERS["freeze-relaxed"],), WEAK),
        "init-relaxed": Bug((BARRIERS["init-relaxed"],), WEAK),
        "add-relaxed": Bug((BARRIERS["add-relaxed"],), WEAK),
    },
    variants={
        **counting.SCHEMES,
        "kernel-orders": Bug(KERNEL_ORDERS),
    },
)
def gup_unmap_reuse(core):
    """gup_fast against unmap, and the page is used again elsewhere."""
    return program(core, [fast_getter(core, 1), unmapper(core, 2), reuser(core, 3, stage.OTHER)], mapped)


@scenario(
    "gup/aba",
    ONE_TRY,
    PARTS,
    bugs={"type-before-freeze": Bug((counting.TYPE_BEFORE,), ALL, "the thread's race, with a getter whose re-check fails")},
    variants=counting.SCHEMES,
)
def gup_aba(core):
    """The thread's T1, T2, T3 with the re-check failing: T1 clears the entry and drops 1 -> 0; T2 has loaded the entry before,
    gets 0 -> 1, finds it cleared and puts; T3 uses the page again and drops it. A getter whose re-check succeeds keeps the page
    here."""

    def get(mem):
        return "miss" if core.pagetable.gup_fast(mem, 1, 1, 0) == core.layout.NIL else "hit"

    def final(mem, results):
        if results[1] == "hit":
            word = core.page_ref.count(mem, stage.MEMMAP)
            assert word == 1, f"the word is {word:#x}, not 1"
        else:
            counting.all_free(core)(mem, results)

    threads = [unmapper(core, 2), get, counting.reuser(core, 3, core.layout.TYPE_NODE)]
    return Program(threads, mapped(core), final, stage.geometry(), names=stage.names)


@scenario(
    "gup/two-unmaps", ONE_TRY, PARTS, bugs={"drop-before-clear": Bug((UNMAP_DROP_FIRST,), ALL)}, variants=counting.SCHEMES
)
def gup_two_unmaps(core):
    """Two unmap the same entry at once, against gup_fast: one of them drops its reference."""
    return program(core, [fast_getter(core, 1), unmapper(core, 2), unmapper(core, 3)], mapped, equal=[(1, 2)])


@scenario(
    "gup/new-table",
    ONE_TRY,
    PARTS,
    bugs={
        "old-entries": Bug(
            (Edit("pagetable", "create", "atomics.store_relaxed(mem, _entry(mem, pfn, entry), 0)", "pass"),), ALL
        )
    },
)
def gup_new_table(core):
    """A table made of a used page is empty, whatever the page held."""
    shape = {**stage.geometry(), "page_shift": 4}

    def setup(mem):
        core.atomics.store_relaxed(mem, stage.FREE, 1)
        core.atomics.store_relaxed(mem, stage.DATA + 4, 2)
        core.page_ref.init(mem, stage.MEMMAP, core.layout.FROZEN)

    def create(mem):
        table = core.pagetable.create(mem, 1, 2)
        assert core.pagetable.gup_fast(mem, 1, table, 1) == core.layout.NIL, "a new table is not empty"

    return Program([create], setup, None, shape, names=stage.names)


# A range: page 1 is the table, page 2 behind its first entry, page 0 (which can be used again) behind the second, page 3 takes
# the pins, and page 4 is mapped in place of page 0.
PINS = stage.DATA + 0x3000
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


def range_names(loc):
    return {stage.HEAD: "entry 0", stage.HEAD + 4: "entry 1", PINS: "pin 0", PINS + 4: "pin 1"}.get(loc) or stage.names(loc)


def range_mapped(core):
    def setup(mem):
        for pfn, content in IN_RANGE.items():
            core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, 0, stage.INO, pfn, 1)
            stage.fill(mem, pfn, content)
            core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
        core.pagetable.map(mem, 1, 0, 2)
        core.pagetable.map(mem, 1, 1, 0)

    return setup


def range_getter(core, me):
    def gup(mem):
        if not core.pagetable.gup(mem, me, 1, 0, 2, 3):
            return "none"
        seen = []
        for entry in (0, 1):
            pfn = core.xarray.load(mem, PINS + 4 * entry)
            content = stage.look(mem, pfn)
            assert content == IN_RANGE[pfn], f"the entry never named {content}"
            seen.append(content)
        core.pagetable.unpin(mem, me, 3, 2)
        return "+".join(seen)

    return gup


def all_or_none(core, second):
    """In the end no pin is left, the first page has its entry's reference, and so has whoever is behind the second entry."""

    def final(mem, results):
        assert results[0] in ("none", "first+mapped", f"first+{second}"), f"gup got {results[0]}"
        assert not mem.values.get(PINS) and not mem.values.get(PINS + 4), "a pin is left"
        words = {pfn: core.page_ref.count(mem, core.atomics.folio_at(mem, pfn)) for pfn in (0, 2, 4)}
        assert words[2] == words[4] == 1, f"the words are {words[2]:#x} and {words[4]:#x}, not 1"
        if mem.values.get(stage.FREE, 0):
            assert core.page_ref.try_get(mem, stage.MEMMAP) == core.layout.DEAD, "the free page can be got"
        else:
            assert words[0] == 1 and "reused" in results, "the page is lost: nobody destroyed it"

    return final


def range_program(core, threads, second):
    return Program(threads, range_mapped(core), all_or_none(core, second), stage.geometry(5), names=range_names)


@scenario(
    "gup/range",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((GUP_NO_RECHECK,), ALL, "the range has a page that is somebody else's"),
        "pins-kept": Bug((PINS_KEPT,), ALL, "none, but the first page stays pinned"),
        "plain-get": Bug((GUP_RANGE,), ALL, "an entry alone does not hold its page for the getter"),
        "drop-before-clear": Bug((UNMAP_DROP_FIRST,), ALL, "the page is free while its entry still names it"),
    },
    variants=counting.SCHEMES,
)  # fmt: skip
def gup_range(core):
    """gup of two entries, all or none, against unmap of the second, whose page is used again elsewhere."""
    threads = [range_getter(core, 1), lambda mem: core.pagetable.unmap(mem, 2, 1, 1), reuser(core, 3, stage.OTHER)]
    return range_program(core, threads, "mapped")


@scenario(
    "gup/range-remap",
    ONE_TRY,
    PARTS,
    bugs={
        "no-recheck": Bug((GUP_NO_RECHECK,), ALL, "the range has a page that is somebody else's"),
        "pins-kept": Bug((PINS_KEPT,), ALL, "none, but the first page stays pinned"),
    },
    variants=counting.SCHEMES,
)
def gup_range_remap(core):
    """As gup/range, and another folio is mapped in the place: the getter has the one, the other, or none."""

    def remap(mem):
        core.pagetable.unmap(mem, 2, 1, 1)
        core.page_ref.get(mem, core.atomics.folio_at(mem, 4))
        core.pagetable.map(mem, 1, 1, 4)

    def final(mem, results):
        word = core.page_ref.count(mem, core.atomics.folio_at(mem, 4))
        assert word == 2, f"the word is {word:#x}, not the entry's and the owner's references"
        core.folio.put(mem, 0, 4)
        all_or_none(core, "other")(mem, results)

    threads = [range_getter(core, 1), remap, reuser(core, 3, stage.OTHER)]
    return Program(threads, range_mapped(core), final, stage.geometry(5), names=range_names)
