"""Repairs while others work: ``reap.repair`` rebuilds one part, and ``reap.drop`` takes a damaged folio out of the cache.

Nothing is damaged here, and no client dies: what is asked is whether a repair disturbs a client that is in the middle of its
work, and whether the repair is disturbed by it. After the program the pool is audited as in the scenarios of death.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mutation import Edit
from ..scenario import ALL, WEAK, Bug
from . import scenario, tree
from .crash_fixtures import FEW, FEW_PARTS, OTHER, PARTS, REAPER, SMALL, VICTIM, Pool
from .death import UNASKED
from .death_path import Queued

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct
    from ..program import Program, Thread

WORKER, REPAIRER = VICTIM, OTHER


class Repaired(Queued):
    def repairer(self, part: str, me: int = REPAIRER) -> Thread:
        return lambda mem: self.core.reap.repair(mem, me, getattr(self.core.layout, f"REPAIR_{part}"))

    def opener(self, me: int) -> Thread:
        """Return a thread that makes another mapping's record."""
        return self.operation(me, lambda mem: tree.opened(self.core, mem, 2, me=me))

    def beside(self, part: str, work: Thread) -> Program:
        return self.program((WORKER, work), (REPAIRER, self.repairer(part)), mortal=())


def unlocked(module: str, lock: str) -> Bug:
    """Return the bug that a repair does not take its lock."""
    old, new = f"robust_lock.lock(mem, {lock}, me) != layout.LOCK_BUSY:", f"robust_lock.owner(mem, {lock}) != me:"
    return Bug((Edit(module, "repair", old, new),), ALL, "two clients work on them")


@scenario("repair/lists", SMALL, PARTS, {"unlocked": unlocked("page_alloc", "layout.ALLOC_LOCK")})
def repair_lists(core: Core) -> Program:
    """The allocator's lists are rebuilt while a client takes a block and gives blocks back."""
    p = Repaired(core, 4, height=1)
    return p.beside("LISTS", p.truncater(WORKER))


@scenario("repair/queues", SMALL, PARTS, {"unlocked": unlocked("lru", "layout.LRU_LOCK")})
def repair_queues(core: Core) -> Program:
    """The queues are rebuilt while a client takes a folio off one."""
    p = Repaired(core, 5, more=(2,), height=1)
    return p.beside("QUEUES", p.remover(WORKER))


@scenario("repair/slabs", SMALL, PARTS, {
    "unlocked": unlocked("slab", "_word(cache, layout.SLAB_LOCK)"),
    "chain-cut": Bug((Edit("slab", "_give", "layout.OBJECT_FREE | chain", "layout.OBJECT_FREE"),), ALL,
        "the other free objects of the page are never used again"),
})  # fmt: skip
def repair_slabs(core: Core) -> Program:
    """The slabs' lists are rebuilt while a client frees a node and a record."""
    p = Repaired(core, 4, height=1)
    return p.beside("SLABS", p.truncater(WORKER))


@scenario("repair/table", SMALL, PARTS, {
    "unlocked": Bug((Edit("mapping", "repair_table", "    if _lock_table(mem, me):", "    if True:"),), ALL,
        "two clients work on the chains"),
})  # fmt: skip
def repair_table(core: Core) -> Program:
    """The mapping table's chains are rebuilt while a client drops a record and makes one."""
    p = Repaired(core, 4, height=1)
    return p.beside("TABLE", p.opener(WORKER))


OPEN_BUGS = {
    "made-relaxed": Bug((Edit("mapping", "_make", "store_release64", "store_relaxed64"),), WEAK,
        "who finds the ino does not find the rest of the record"),
    "alive-relaxed": Bug((Edit("mapping", "_is_alive", "load_acquire64", "load_relaxed64"),), WEAK, "the same"),
}  # fmt: skip


@scenario("repair/trees-open", SMALL, PARTS, OPEN_BUGS)
def repair_trees_open(core: Core) -> Program:
    """All trees are recounted while a client makes a record, under another lock: the record is found, or not yet."""
    p = Repaired(core, 4, height=1)
    return p.beside("TREES", p.opener(WORKER))


@scenario("repair/trees-insert", SMALL, PARTS, {
    "unlocked": Bug((Edit("mapping", "repair_tree", "if lock(mem, me, ino) == layout.TREE_LOCKED:", "if _is_alive(mem, ino):"),
        Edit("mapping", "repair_tree", "            unlock(mem, ino)\n", "")), ALL, "two clients count the tree's folios"),
})  # fmt: skip
def repair_trees_insert(core: Core) -> Program:
    """All trees are recounted, and nodes without a place freed, while a client adds a folio."""
    p = Repaired(core, 4, height=1)
    return p.beside("TREES", p.inserter(WORKER))


@scenario("repair/trees-truncate", SMALL, PARTS, {
    "node-unlocked": Bug((Edit("mapping", "repair_node",
        "        if slab.is_used(mem, layout.SLAB_NODES, number) and _owner(mem, number) == ino:\n",
        "        if True:\n"),), ALL, "a node that is free already is freed again"),
})  # fmt: skip
def repair_trees_truncate(core: Core) -> Program:
    """All trees are recounted, and nodes without a place freed, while a client truncates."""
    p = Repaired(core, 4, height=1)
    return p.beside("TREES", p.truncater(WORKER))


class Dropped(Pool):
    """Client 0 takes the folio out of the cache, as one whose words are damaged; in the end it settles what had to wait."""

    def dropper(self, me: int = REAPER) -> Thread:
        return lambda mem: self.core.reap.drop(mem, me, 0, self.pfn)

    def left(self, mem: Direct) -> None:
        assert self.core.reap.resolve_intents(mem, REAPER, REAPER) == 0, "a dropped folio still has to wait"
        super().left(mem)
        assert self.entry(mem, self.place) == self.core.layout.NIL, "a dropped folio is still cached"


DROP_BUGS = {
    "drop-unnamed": Bug((Edit("reap", "drop", "    atomics.write_once(mem, at, pfn | layout.PIN_INTENT)\n", ""),), ALL,
        "a folio that has to wait is found by no reaper"),
    "living-unasked": Bug((UNASKED,), ALL, "a folio is destroyed under a client that holds it"),
}  # fmt: skip


@scenario("repair/drop-hold", FEW, FEW_PARTS, DROP_BUGS)
def drop_hold(core: Core) -> Program:
    """A folio is dropped while a client holds and releases it: it waits for that client."""
    p = Dropped(core)
    return p.program((REAPER, p.dropper()), (OTHER, p.holder(OTHER)), mortal=())


@scenario("repair/drop-remove", FEW, FEW_PARTS)
def drop_remove(core: Core) -> Program:
    """A folio is dropped while a client removes it."""
    p = Dropped(core)
    return p.program((REAPER, p.dropper()), (OTHER, p.remover(OTHER)), mortal=())
