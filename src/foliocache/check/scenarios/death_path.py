"""The whole path again, with a client that dies at any of its writes.

The scenarios of ``tree`` and ``nodes``, their clients with names and a ledger. The reaper comes when all have ended. So these
explore the death beside living clients, which find locks with a dead owner and take them over, and then that everything can be
repaired. In ``death/...-again`` the reaper may die, too, and a second one settles both.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from ..mutation import Edit
from ..scenario import ALL, Bug
from . import fixtures, nodes, scenario, tree
from .crash_fixtures import FEW, FEW_PARTS, OTHER, PARTS, REAPER, SMALL, VICTIM, Pool
from .tree import INDEX

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Program, Thread

BOTH = (VICTIM, OTHER)
ROUNDS = {**SMALL, "SHRINK_TRIES": 2}
OWNER_UNASKED = Edit("robust_lock", "_lock_slow", "client.is_alive(mem, found - 1):", "found >= layout.LOCK_BROKEN:")
UNREPAIRED = {
    "allocator": Edit("page_alloc", "_lock", "        rebuild(mem)", "        pass"),
    "trees": Edit("mapping", "lock", "        _repair_trees(mem, me, _tree_lock(ino))", "        pass"),
    "slab": Edit("slab", "_lock", "        rebuild(mem, cache)", "        pass"),
    "queues": Edit("lru", "_lock", "        rebuild(mem)", "        pass"),
    "table": Edit("mapping", "_lock_table", "        _repair_table(mem, me)", "        pass"),
}
TAKEN_OVER = {
    "owner-unasked": Bug((OWNER_UNASKED,), ALL, "the lock is taken from a living owner"),
    **{
        f"{part}-unrepaired": Bug((edit,), ALL, "half a critical section is taken for a whole one")
        for part, edit in UNREPAIRED.items()
    },
}


class Queued(Pool):
    """As ``Pool``, with queues."""

    queues = True

    def evicter(self, me: int) -> Thread:
        """Return a thread that inserts into another mapping, for which a page has to be evicted."""
        return self.inserter(me, 2, INDEX)

    def idler(self, me: int) -> Thread:
        """Return a thread that evicts what is idle: all that nobody holds."""
        return lambda mem: self.core.trim.evict_idle(mem, me, 0, 1, 0)


def beside(
    core: Core,
    victim: str,
    other: str,
    pages: int = 4,
    height: int = 1,
    more: Sequence[int] = (),
    mortal: Sequence[int] = (VICTIM,),
) -> Program:
    """Return a program of two clients; ``victim`` and ``other`` are names of methods of ``Pool``."""
    p = Queued(core, pages, more, height)
    return p.program((VICTIM, getattr(p, victim)(VICTIM)), (OTHER, getattr(p, other)(OTHER)), mortal=mortal)


def again(core: Core, victim: str, pages: int = 4) -> Program:
    """Return a program of the victim, a reaper that may die, and one that does not."""
    p = Queued(core, pages, height=1)
    threads = [
        (VICTIM, getattr(p, victim)(VICTIM)),
        (OTHER, p.reaper(OTHER, whole=True)),
        (REAPER, p.reaper(REAPER, BOTH, whole=True)),
    ]
    return p.program(*threads, mortal=BOTH)


@scenario("death/path-get-truncate", SMALL, PARTS)
def path_get_truncate(core: Core) -> Program:
    """The victim walks the tree while it is truncated."""
    return beside(core, "getter", "truncater")


@scenario("death/path-truncate-get", SMALL, PARTS)
def path_truncate_get(core: Core) -> Program:
    """The victim truncates, which frees folio, node and record, while another client walks the tree."""
    return beside(core, "truncater", "getter")


@scenario("death/path-get-truncate-both", SMALL, PARTS, slow=True)
def path_get_truncate_both(core: Core) -> Program:
    """As death/path-get-truncate and death/path-truncate-get, and both may die."""
    return beside(core, "getter", "truncater", mortal=BOTH)


@scenario("death/path-truncate-truncate", SMALL, PARTS, slow=True)
def path_truncate_truncate(core: Core) -> Program:
    """Two clients truncate: the next owner of each lock finds a dead owner, and repairs what the lock protects."""
    return beside(core, "truncater", "truncater")


@scenario("death/path-remove-remove", SMALL, PARTS, {k: TAKEN_OVER[k] for k in ("owner-unasked", "trees-unrepaired")})
def path_remove_remove(core: Core) -> Program:
    """Two clients remove the same folio; its neighbour stays."""
    return beside(core, "remover", "remover", 5, more=(2,))


@scenario("death/path-remove-both", SMALL, PARTS, slow=True)
def path_remove_both(core: Core) -> Program:
    """As death/path-remove-remove, and both may die."""
    return beside(core, "remover", "remover", 5, more=(2,), mortal=BOTH)


@scenario("death/path-truncate-open", SMALL, PARTS, {k: TAKEN_OVER[k] for k in ("slab-unrepaired", "table-unrepaired")})
def path_truncate_open(core: Core) -> Program:
    """The victim's truncation frees the mapping's record, while another mapping's record is made."""
    p = Queued(core, 4, height=1)
    other = p.operation(OTHER, lambda mem: tree.opened(core, mem, 2, me=OTHER))
    return p.program((VICTIM, p.truncater(VICTIM)), (OTHER, other))


class Two(Queued):
    """Two folios that have left their mapping, still on a queue; clients 1 and 2 hold one each."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        core = self.core
        self.held: dict[int, int] = {}
        for client, index in ((VICTIM, INDEX), (OTHER, 2)):
            pfn = self.held[client] = core.mapping.find(mem, self.ino, index)
            self.pinned(mem, client, pfn)
        self.truncater(REAPER)(mem)

    def dropper(self, me: int) -> Thread:
        return lambda mem: self.core.folio.release(mem, me, 0, self.held[me])


@scenario("death/path-drop-drop", SMALL, PARTS, {k: TAKEN_OVER[k] for k in ("queues-unrepaired", "allocator-unrepaired")})
def path_drop_drop(core: Core) -> Program:
    """Two clients drop the last references to two folios: they share only the queues and the allocator."""
    p = Two(core, 5, more=(2,), height=1)
    return p.program((VICTIM, p.dropper(VICTIM)), (OTHER, p.dropper(OTHER)))


@scenario("death/path-node-freed", SMALL, PARTS)
def path_node_freed(core: Core) -> Program:
    """The victim frees the lower node of a tree with its last folio, while another client is in that node."""
    return beside(core, "remover", "getter", 5, more=(5,), height=2)


@scenario("death/path-node-freed-both", SMALL, PARTS)
def path_node_freed_both(core: Core) -> Program:
    """As death/path-node-freed, and both may die."""
    return beside(core, "remover", "getter", 5, more=(5,), height=2, mortal=BOTH)


class Reuse(Pool):
    """As ``nodes.Other``: client 1 removes a page, which frees the leaf above it; client 2 puts a page into another mapping,
    and may get that leaf for it; client 0 looks for the page that is removed."""

    b: int
    page: int

    def __init__(self, core: Core) -> None:
        super().__init__(core, 5, (nodes.NEIGHBOUR,), 2)

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        self.b = tree.opened(self.core, mem, nodes.B)
        self.page = self.core.page_alloc.alloc(mem, OTHER, 0)

    def storer(self, me: int) -> Thread:
        def store(mem: Mem) -> None:
            core, pfn = self.core, self.page
            core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, 0, 0, self.b, self.place, 1)
            fixtures.fill(mem, pfn, (self.b, self.place))
            core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
            assert core.mapping.lock(mem, me, self.b)
            assert core.mapping.insert(mem, me, self.b, self.place, pfn) == core.layout.XA_OK
            core.mapping.unlock(mem, self.b)
            core.client.retract(mem, me, pfn)

        return self.operation(me, store)

    def program(self, *threads: tuple[Hashable, Thread], **options: Any) -> Program:  # type: ignore[override]
        program = super().program(*threads, **options)
        program.geometry["page_shift"] = nodes.PAGE_SHIFT
        return program


@scenario("death/path-node-reuse", FEW, FEW_PARTS, slow=True)
def path_node_reuse(core: Core) -> Program:
    """The leaf that the victim has freed, or was about to free, becomes another mapping's while a client is in it."""
    p = Reuse(core)
    return p.program((VICTIM, p.remover(VICTIM)), (OTHER, p.storer(OTHER)), (REAPER, p.getter(REAPER)))


@scenario("death/path-idle-get", SMALL, PARTS, {
    "unpinned": Bug((Edit("lru", "isolate_idle", "found = _leave(mem, me, pfn, 0)", "found = pfn"),), ALL,
        "a reference is dropped that was not taken"),
})  # fmt: skip
def path_idle_get(core: Core) -> Program:
    """The victim evicts what was not used for some time; another client looks the folio up."""
    return beside(core, "idler", "getter", 3)


@scenario("death/path-get-evict", SMALL, PARTS)
def path_get_evict(core: Core) -> Program:
    """The victim gets a page that another client needs."""
    return beside(core, "getter", "evicter", 3)


@scenario("death/path-evict-get", SMALL, PARTS, slow=True)
def path_evict_get(core: Core) -> Program:
    """The victim needs a page: it evicts one, frees it, takes it, fills it and inserts it into a new mapping, while another
    client gets it."""
    return beside(core, "evicter", "getter", 3)


@scenario("death/path-evict-get-both", SMALL, PARTS, slow=True)
def path_evict_get_both(core: Core) -> Program:
    """As death/path-get-evict and death/path-evict-get, and both may die."""
    return beside(core, "evicter", "getter", 3, mortal=BOTH)


@scenario("death/path-insert-get", ROUNDS, PARTS)
def path_insert_get(core: Core) -> Program:
    """The victim adds a page to a tree that another client walks."""
    return beside(core, "inserter", "getter")


@scenario("death/path-insert-get-both", ROUNDS, PARTS)
def path_insert_get_both(core: Core) -> Program:
    """As death/path-insert-get, and both may die."""
    return beside(core, "inserter", "getter", mortal=BOTH)


@scenario("death/path-hold-again", SMALL, PARTS)
def path_hold_again(core: Core) -> Program:
    """The victim holds a page. The reaper may die, too."""
    return again(core, "holder")


@scenario("death/path-insert-again", SMALL, PARTS, slow=True)
def path_insert_again(core: Core) -> Program:
    """The victim inserts a page, which changes allocator, slab and tree. The reaper may die, too."""
    return again(core, "inserter")


@scenario("death/path-truncate-again", SMALL, PARTS, slow=True)
def path_truncate_again(core: Core) -> Program:
    """The victim truncates, which changes tree, slab, queues, allocator and table. The reaper may die, too."""
    return again(core, "truncater")
