"""Shared by the scenarios of death: a pool whose clients keep a ledger, a reaper, and an audit of the final state.

The whole path as in ``tree``, down to the shipped lock with its take-over; only the lock's sleep is omitted (``death/lock``
has it). Client 0 sets the pool up, reaps, and audits it at the end; client 1 is the victim, which may die before each of its
writes; client 2 lives on, unless it is a second victim.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from .. import steps
from ..mutation import Edit, Replace
from ..program import Program
from . import fixtures, tree
from .tree import INDEX

if TYPE_CHECKING:
    from ..graph import Loc
    from ..loader import Core
    from ..machine import Machine
    from ..memory import Direct, Mem
    from ..program import Program, Thread

OPS, PINS = 4, 2
SMALL = {**tree.SMALL, "OPS": OPS, "PINS": PINS, "TREE_LOCKS": 1, "LOCK_SPINS": 0}
PARTS = (
    Replace("robust_lock", "_sleep", """
        def _sleep(mem, word, held):
            atomics.cpu_relax()
    """),
    Edit("client", "announce", "    if op < end:",
        "    assert op < end, 'there is no room for one more name'\n    if op < end:"),
    Edit("page_alloc", "free", "    if not _lock(", "    atomics.poison(mem, pfn)\n    if not _lock("),
    Edit("page_alloc", "_give", "    hole = ",
        "    assert not _is_free_mark(mark(mem, pfn)), 'the page is freed twice'\n    hole = "),
    fixtures.ALL_BACKED,
    fixtures.HEAD_BACKED,
)  # fmt: skip
# Without queues and without the end of a mapping: for scenarios about references. The smallest pool: a page of records, the
# folio.
FEW = {**SMALL, "MAX_ORDER": 0}
FEW_PARTS = (
    *PARTS,
    fixtures.ONE_PAGE[2],
    Replace("lru", "add", """
        def add(mem, me, pfn, queue):
            return True
    """),
    Replace("lru", "insert", """
        def insert(mem, me, pfn):
            return True
    """),
    Replace("lru", "is_queued", """
        def is_queued(mem, pfn):
            return False
    """),
    fixtures.TREE[2],
)  # fmt: skip
REAPER, VICTIM, OTHER = 0, 1, 2


class Pool(tree.Cached):
    """As ``tree.Cached``: a pool with one page cached, at ``place`` of mapping ``ino``."""

    client_of: dict[Hashable, Hashable]

    clients = 3
    queues = False  # in FEW_PARTS there are none

    def __init__(self, core: Core, pages: int = 2, more: Sequence[int] = (), height: int = 0) -> None:
        super().__init__(core, pages, more, height)
        self.place = INDEX if height else 0

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        for client in range(self.clients):
            self.core.client.set_state(mem, client, self.core.layout.SLOT_ATTACHED)

    def pinned(self, mem: Mem, client: int, pfn: int, n: int = 0) -> None:
        """In the setup: take one more reference, as a pin of that client."""
        core = self.core
        core.page_ref.get(mem, core.atomics.folio_at(mem, pfn))
        core.atomics.store_relaxed(mem, core.client.pin(mem, client, n), pfn | core.layout.PIN_OWNED)

    def operation(self, me: int, body: Thread) -> Thread:
        """Return ``body`` as one operation of client me."""

        def run(mem: Mem) -> Any:
            self.core.client.op_begin(mem, me)
            value = body(mem)
            self.core.client.op_end(mem, me)
            return value

        return run

    # Threads of clients.

    def holder(self, me: int, n: int = 0) -> Thread:
        """Return a thread that looks the page up, uses it under a pin and releases it: two operations."""

        def hold(mem: Mem) -> str:
            core = self.core
            pfn = core.filemap.lookup(mem, me, n, self.ino, self.head, 0, self.height, self.place)
            if pfn == core.layout.NIL:
                return "miss"
            self.check(mem, pfn)
            core.folio.release(mem, me, n, pfn)
            return "hit"

        return hold

    def remover(self, me: int) -> Thread:
        """Return a thread that looks the page up and withdraws it, as one operation."""

        def remove(mem: Mem) -> None:
            core = self.core
            pfn = core.filemap.find_get(mem, me, self.ino, self.head, self.height, self.place)
            if pfn != core.layout.NIL:
                core.filemap.remove(mem, me, self.ino, pfn)
                core.folio.put(mem, me, pfn)

        return self.operation(me, remove)

    def truncater(self, me: int) -> Thread:
        return self.operation(me, super().truncater(me))

    def getter(self, me: int) -> Thread:
        return self.operation(me, super().getter(me))

    def inserter(self, me: int, digest: int = 1, index: int = 2) -> Thread:
        return self.operation(me, super().inserter(me, digest, index))

    # The reaper.

    def reaper(self, me: int = REAPER, victims: Sequence[int] = (VICTIM,), whole: bool = False) -> Thread:
        """Return a thread that waits for the end of all victims, then settles those that have died (``whole`` as in
        ``settle``)."""

        def reap(mem: Machine) -> Any:
            dead = [victim for victim in victims if steps.has_died(mem, victim)]
            return self.settle(mem, me, dead, whole) if dead else None

        return reap

    def settle(self, mem: Mem, me: int, dead: Sequence[int], whole: bool = True) -> int:
        """Do what ``foliocache.pool.client.reap`` does; return how many dead clients have to wait.

        Not ``whole``: without the locks that a dead client holds (a client that needs one takes it over) and without empty
        mappings, because each look at a word that others change is one more choice to explore. The slot is not clean then, and
        in the end another call settles the rest.
        """
        core = self.core
        for client in dead:
            core.client.set_state(mem, client, core.layout.SLOT_DEAD)
        for client in dead if whole else ():
            core.reap.locks(mem, me, client)
        for client in dead:
            core.reap.pins(mem, me, client)
        keepers: list[int] = []
        for client in dead:
            if core.reap.resolve_intents(mem, me, client) and not any(
                core.reap.hand_over_unresolved(mem, client, keeper) for keeper in keepers
            ):
                keepers.append(client)
            elif whole:
                core.client.set_state(mem, client, core.layout.SLOT_CLEAN)
        if whole:
            core.reap.sweep(mem, me)
        return len(keepers)

    # The judgement.

    def left(self, mem: Direct) -> None:
        """Settle what remains, then assert that no page is lost, pinned or named."""
        core, layout = self.core, self.core.layout
        clean = layout.SLOT_CLEAN
        dead = [c for c in range(self.clients) if not core.atomics.client_alive(mem, c) and core.client.state(mem, c) != clean]
        assert self.settle(mem, REAPER, dead) == 0, "a dead client still has to wait, though no page is in use"
        for client in range(self.clients):
            assert core.client.is_idle(mem, client), f"client {client} still names a folio"
        for word, name in self.locks().items():
            assert core.atomics.load_relaxed(mem, word) == 0, f"the {name} is left held"
        found = core.audit.Audit(mem)
        for finding in found.run():
            if finding["check"] == "queue" and not self.queues:
                continue
            raise AssertionError("{check}: {where} {message}".format(**finding))
        assert found.pins == 0, f"{found.pins} references have no owner"
        marks = [core.page_alloc.mark(mem, pfn) & ~layout.BUDDY_HOLE for pfn in range(self.pages)]
        assert max(marks) <= layout.MAX_ORDER + 1, f"a quarantine was not ended: {marks}"

    def locks(self) -> dict[int, str]:
        """Return the name of each lock, by the offset of its word."""
        layout = self.core.layout
        words = {layout.ALLOC_LOCK: "allocator's lock", layout.LRU_LOCK: "queues' lock", layout.TABLE_LOCK: "table's lock"}
        words |= {
            layout.TREE_LOCK: "tree lock",
            layout.SLAB_LOCK: "nodes' lock",
            layout.SLAB_LOCK + layout.SLAB_STRIDE: "records' lock",
            layout.SLAB_LOCK + 2 * layout.SLAB_STRIDE: "names' lock",
            layout.NAMES_LOCK: "name table's lock",
        }
        return words

    def program(  # type: ignore[override]
        self,
        *threads: tuple[Hashable, Thread],
        mortal: Sequence[int] = (VICTIM,),
        dead: Sequence[int] = (),
        timeouts: bool = False,
    ) -> Program:
        """``threads`` are ``(client, function)``. The clients in ``dead`` died before the program begins."""
        numbers: dict[Any, Hashable] = {client: thread for thread, (client, _) in enumerate(threads)}
        numbers |= {client: f"client {client}" for client in dead}
        self.client_of = {thread: client for client, thread in numbers.items()}

        def setup(mem: Direct) -> None:
            self.setup(mem)
            for client in dead:
                mem.values["dead", numbers[client]] = steps.DEAD

        shape = tree.geometry(self.pages)
        shape["nclients"] = self.clients
        return Program(
            [run for _, run in threads],
            setup,
            lambda mem, results: self.left(mem),
            shape,
            [f"client {client}" for client, _ in threads],
            self.name,
            mortal=frozenset(numbers[client] for client in (*mortal, *dead) if client in numbers),
            timeouts=timeouts,
            shared_slots=True,
            clients=numbers,
        )

    def name(self, loc: Loc) -> str | None:
        if isinstance(loc, int) and fixtures.CLIENTS <= loc < fixtures.BUCKETS:
            client, off = divmod(loc - fixtures.CLIENTS, self.core.layout.CLIENT_SIZE)
            what = {8: "state", 64: "busy"}.get(off) or (f"name {(off - 68) // 4}" if off < 256 else f"pin {(off - 256) // 4}")
            return f"{what} of client {client}"
        if isinstance(loc, tuple) and loc[0] == "dead":
            return f"end of client {self.client_of[loc[1]]}"
        return fixtures.names(loc)
