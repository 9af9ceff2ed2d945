"""One-line bugs that the rest of the tests and scenarios did not notice: each makes a small program of its own fail.

A case is a program on the core: explored, it holds on the shipped source and fails with the bug.
"""

import pytest

from foliocache.check import scenario
from foliocache.check.mutation import Edit
from foliocache.check.program import Program, explore
from foliocache.check.scenarios import SUITE, crash_fixtures, fixtures, load_all, tree, waiting

SCENARIOS = load_all()
FOLIO = fixtures.MEMMAP
SMALL = {**crash_fixtures.SMALL, "PINS": 2}


def entry_in_vain(core):
    """Two clients unmap one entry: the one that comes second names the folio no longer."""
    clients = (1, 2)

    def setup(mem):
        fixtures.pages(core, mem)
        core.pagetable.create(mem, 0, 1)
        core.page_ref.init(mem, core.atomics.folio_at(mem, 1), 2)
        core.pagetable.map(mem, 0, 0, 1)

    def unmap(me):
        return lambda mem: core.pagetable.unmap(mem, me, 0, 0)

    def final(mem, results):
        assert [me for me in clients if not core.client.is_idle(mem, me)] == [], "the folio stays named"

    threads = [unmap(me) for me in clients]
    return Program(threads, setup, final, tree.geometry(2), shared_slots=True)


def filled_by_the_living(core):
    """A reaper has unpublished a folio that a living client fills: the fill ends as the filler says."""
    threads = [waiting.filler(core), waiting.waiter(core), lambda mem: core.reap._fail(mem, 0)]

    def final(mem, results):
        waiting.all_have_seen_it(mem, results[:2])
        assert not core.flags.load(mem, FOLIO) & core.layout.PG_ERROR, "a fill that succeeds has failed"

    return Program(threads, waiting.filling(core), final, fixtures.geometry(), names=fixtures.names)


def parked_by_the_dead(core):
    """A reaper dies after a page in quarantine was freed: the next one frees the page."""

    def thread(mem):
        pages = core.page_alloc.free_pages(mem)
        pfn = core.page_alloc.alloc(mem, 1, 0)
        core.client.retract(mem, 1, pfn)
        core.page_type.set(mem, pfn, core.layout.TYPE_FILE, 0, 0)
        assert core.page_alloc.quarantine(mem, 2, pfn) == core.layout.QUARANTINE_ON
        core.page_type.set(mem, pfn, core.layout.TYPE_NONE, 0, 0)
        core.page_alloc.free(mem, 1, pfn, 0)
        assert core.page_alloc.quarantine(mem, 2, pfn) == core.layout.QUARANTINE_NONE, "a parked page is not given back"
        assert core.page_alloc.free_pages(mem) == pages, "a page is lost"

    return Program([thread], lambda mem: fixtures.pages(core, mem), None, tree.geometry(2))


def left_in_quarantine(core):
    """Reclaim clears a block: it leaves a folio that is in quarantine, whose page would not come free."""
    c = tree.Cached(core, 4)

    def thread(mem):
        assert core.page_alloc.quarantine(mem, 2, c.pfn) == core.layout.QUARANTINE_ON
        core.vmscan.evict_range(mem, 1, c.pfn, c.pfn + 1)
        assert c.getter(1)(mem) == "hit", "a folio was evicted in vain"

    return c.program(thread, final=lambda mem, results: None)


def no_node(core):
    """An empty tree has no nodes: a walk of it ends at once, and does not go on in the first node that there is."""
    c = tree.Cached(core, 4)

    def thread(mem):
        other = core.mapping.head(mem, tree.opened(core, mem, 2, me=1))
        assert core.xarray.find(mem, other, 1, c.place) == 0, "a walk of an empty tree has an end"
        assert core.xarray.next_index(mem, other, 1, 0, 3) == 4, "an empty tree has a folio"

    return c.program(thread, final=lambda mem, results: None)


def node_unlinked_first(core):
    """A repairer dies while it frees an empty node: no slot may name a node that is free."""
    c = tree.Cached(core, 4)

    def setup(mem):
        c.setup(mem)
        core.atomics.store_relaxed(mem, core.xarray.find(mem, c.head, 1, c.place), 0)

    def repair(mem):
        core.xarray.recount(mem, 1, c.head, 1, c.ino)

    def final(mem, results):
        entry = core.atomics.load_relaxed(mem, c.head)
        assert not entry or core.slab.is_used(mem, core.layout.SLAB_NODES, entry >> 1), "a free node is linked"

    return Program([repair], setup, final, tree.geometry(4), mortal=frozenset({0}))


UNLINK = "        atomics.store_relaxed(mem, slot, 0)\n"
FREE = "        slab.free(mem, me, layout.SLAB_NODES, entry >> 1)\n"
CASES = {
    "loser-still-names": (
        entry_in_vain, SMALL, (),
        Edit("pagetable", "unmap", "        client.retract(mem, me, pfn)\n        return True", "        return True"),
    ),
    "living-filler-failed": (
        filled_by_the_living, {}, (),
        Edit("reap", "_fail", " and not client.is_alive(mem, atomics.load_relaxed(mem, at + layout.F_OWNER))", ""),
    ),
    "parked-kept": (
        parked_by_the_dead, tree.SMALL, tree.SPIN[:2],
        Edit("page_alloc", "quarantine", "if found and _is_parked(mem, pfn):", "if False:"),
    ),
    "quarantined-evicted": (
        left_in_quarantine, tree.SMALL, tree.SPIN[:2],
        Edit("vmscan", "evict_range", "page_alloc.mark(mem, pfn)",
            "page_alloc._is_free_mark(page_alloc.mark(mem, pfn))"),
    ),
    "tag-unasked": (
        no_node, tree.SMALL, tree.SPIN[:2],
        Edit("xarray", "node_at", "    if not entry & layout.XA_NODE:\n        return 0\n", ""),
    ),
    "freed-before-unlinked": (
        node_unlinked_first, tree.SMALL, tree.SPIN[:2],
        Edit("xarray", "_recount", UNLINK + FREE + "    return count", FREE + UNLINK + "    return count"),
    ),
}  # fmt: skip


# Found by what has become a bug of a scenario since: by the name of that.
ELSEWHERE = {
    "a fill is abandoned by a plain store": ("fill/abandoned", "abandon-by-store"),
    "the order of the cmpxchg that spins": ("lock/spin", "spin-lock-relaxed"),
    "the order of the cmpxchg before a sleep": ("lock/two", "slow-lock-relaxed"),
    "the order of a load after an interrupted sleep": ("fill/interrupted", "interrupted-relaxed"),
    "the order in which a slot is given up": ("death/get-leave", "end-relaxed"),
    "the order in which a mapping is published": ("repair/trees-open", "made-relaxed"),
    "the order of the load that finds a mapping": ("repair/trees-open", "alive-relaxed"),
    "the order of the end of an operation": ("death/get-get", "leave-relaxed"),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_is_a_bug_of_a_scenario(what):
    name, bug = ELSEWHERE[what]
    assert scenario.run(SCENARIOS[name], "rc11", bug).verdict == "fails"


@pytest.mark.parametrize("case", CASES)
def test_is_caught(case):
    build, layout, stand_ins, bug = CASES[case]
    shipped, damaged = (explore(build(SUITE.load(layout, (*stand_ins, *edits)))) for edits in ((), (bug,)))
    assert shipped.failure is None and shipped.executions, shipped.failure and shipped.failure.message
    assert shipped.finished and not shipped.stutters
    assert damaged.failure is not None
