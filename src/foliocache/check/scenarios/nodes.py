"""A node is freed while a walker is in it, and is used again at once for another mapping.

The whole path as in ``tree``, with the trees of two mappings, A and B. A walker looks for a page of A. A remover takes that
page out, which empties the leaf above it: the leaf is freed, and A's root stays. A third client puts a page into B; if the
leaf is free by then, the slab returns that very node, because it returns the object that was freed last and waits for no
reader. So the walker, which read the pointer to the leaf before, reads a slot of B's.

The slab's page does not go back in these scenarios: its other objects keep it, and it has room for all that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..mutation import Edit
from ..scenario import ALL, Bug
from . import fixtures, lookup, scenario, tree
from .tree import INDEX

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Program, Thread

PAGE_SHIFT = 9  # 6 nodes to a page, and 4 records
NEIGHBOUR = 5  # in another leaf of A
B, C = 2, 3  # digests of other mappings
UNCHECKED = Edit("xarray", "pfn_of", " or entry & layout.XA_NODE or (entry >> 1) > atomics.npages(mem)", "")
UNLINK = "        atomics.store_relaxed(mem, slot, 0)\n"
FREE = "        freed = slab.free(mem, me, layout.SLAB_NODES, entry >> 1)\n"
FREE_FIRST = Edit("xarray", "_erase", UNLINK + FREE, FREE + UNLINK)
BUGS = {
    "no-recheck": Bug((lookup.NO_RECHECK,), ALL, "the walker returns the page that B's slot names"),
    "slot-only": Bug((lookup.SLOT_ONLY,), ALL, "that B's slot still names B's page proves nothing about A"),
}
VARIANTS = {
    **lookup.NOT_NEEDED,
    # A walker that comes through the parent's slot is no worse off than one that came before; writers wait for A's lock.
    "free-before-unlink": Bug((FREE_FIRST,)),
}


class Other(tree.Cached):
    """Client 3 puts a page into B, whose record exists: a page that the client has (``spare``), or one that it allocates."""

    height_of_b: int
    index: int
    spare: bool
    b: int
    page: Any
    words: dict[int, str]

    def __init__(self, core: Core, pages: int, height: int = 1, index: int = INDEX, spare: bool = True) -> None:
        super().__init__(core, pages, more=(NEIGHBOUR,), height=2)
        self.height_of_b, self.index, self.spare = height, index, spare

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        self.b = tree.opened(self.core, mem, B, self.height_of_b)
        self.page = self.core.page_alloc.alloc(mem, 3, 0) if self.spare else None
        self.words = {self.head: "A's head", self.core.mapping.head(mem, self.b): "B's head"}
        slot = self.head
        for node in ("root", "leaf"):
            at = self.core.xarray.node_at(mem, self.core.atomics.load_relaxed(mem, slot))
            slot = at + self.core.layout.NODE_SLOTS
            self.words[at] = f"{node}'s count"
            self.words.update((slot + 4 * i, f"{node}[{i}]") for i in range(4))

    def name(self, loc: Any) -> str | None:
        return self.words.get(loc) or fixtures.names(loc)

    def storer(self, me: int) -> Thread:
        def store(mem: Mem) -> str:
            pfn = self.page if self.spare else self.core.page_alloc.alloc(mem, me, 0)
            if pfn == self.core.layout.NIL:
                return "nothing free"
            self.put_in(mem, me, self.b, pfn)
            return "stored"

        return store

    def put_in(self, mem: Mem, me: int, ino: int, pfn: int) -> None:
        core = self.core
        core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, 0, 0, ino, self.index, 1)
        fixtures.fill(mem, pfn, (ino, self.index))
        core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
        assert core.mapping.lock(mem, me, ino)
        assert core.mapping.insert(mem, me, ino, self.index, pfn) == core.layout.XA_OK
        core.mapping.unlock(mem, ino)

    def left(self, mem: Direct, results: list[Any]) -> None:
        """Judge the end: A has lost this leaf and kept the other one, and B has its page."""
        assert self.core.xarray.find(mem, self.head, 2, INDEX) == 0, "the freed leaf is still linked"
        assert self.entry(mem, NEIGHBOUR) != self.core.layout.NIL, "the neighbour is gone"
        if results[2] == "stored":
            assert self.core.mapping.find(mem, self.b, self.index) != self.core.layout.NIL, "B's page is not in B"

    def program(self) -> Program:  # type: ignore[override]
        program = super().program(self.getter(1), self.remover(2), self.storer(3), final=self.left)
        program.geometry["page_shift"] = PAGE_SHIFT
        program.names = self.name
        return program


@scenario("node/reuse", tree.SMALL, tree.SPIN, BUGS, VARIANTS)
def node_reuse(core: Core) -> Program:
    """The leaf becomes a leaf of B: its slot names B's page."""
    return Other(core, 5).program()


@scenario("node/folio-reuse", tree.SMALL, tree.SPIN, {**BUGS, **lookup.NEEDED}, VARIANTS)
def node_folio_reuse(core: Core) -> Program:
    """The leaf and the page become B's: the same slot names the same page, and only the page's identity differs."""
    return Other(core, 4, spare=False).program()


@scenario(
    "node/leaf-to-root",
    tree.SMALL,
    tree.SPIN,
    bugs={
        "entry-unchecked": Bug((UNCHECKED,), ALL, "a node's number is taken for a page's, and there is no such page"),
        "no-recheck": BUGS["no-recheck"],
    },
)
def node_leaf_to_root(core: Core) -> Program:
    """The leaf becomes the root of B, which has two levels: its slot names a node, where the walker expects a page."""
    return Other(core, 5, height=2, index=NEIGHBOUR).program()


class Record(Other):
    """A has one page, named by the head in its record; B has no record yet. A third mapping keeps the page of records."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, 3, height=0, index=0)
        self.more: Sequence[int] = ()
        self.height: int = 0
        self.place: int = 0

    def setup(self, mem: Direct) -> None:
        tree.Cached.setup(self, mem)
        tree.opened(self.core, mem, C)
        self.page: Any = self.core.page_alloc.alloc(mem, 3, 0)
        self.words: dict[int, str] = {self.head: "the head"}

    def storer(self, me: int) -> Thread:
        return lambda mem: self.put_in(mem, me, tree.opened(self.core, mem, B, 0), self.page)

    def left(self, mem: Direct, results: list[Any]) -> None:
        assert self.core.mapping.lookup(mem, 0, 1, 1) == 0, "A is still known"
        ino = self.core.mapping.lookup(mem, 0, B, B)
        assert self.core.mapping.find(mem, ino, 0) == self.page, "B's page is not in B"


@scenario("node/record-reuse", tree.SMALL, tree.SPIN, BUGS, lookup.NOT_NEEDED)
def node_record_reuse(core: Core) -> Program:
    """A's last page goes, and its record with it. The record becomes B's, so the first slot of the walk is B's."""
    return Record(core).program()
