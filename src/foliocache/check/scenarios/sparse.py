"""Memory that comes and goes: descriptors that are made, blocks that are given back, and walkers that are late.

The memory of a page is a cell, which the kernel's calls write: 1 if the page has some. Here a chunk is a page. A client that
touches a page reads the cell: so one that touches a hole finds 0, and one that is not kept from doing so has a race.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mutation import Edit
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import fixtures, scenario
from .crash_fixtures import OTHER, REAPER, VICTIM, Pool
from .death import LEAVE, NO_LIGHT
from .death_parts import PAIR, PART_BACKED, Blocks

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Thread

CHUNKS = {**PAIR, "PIECE_SHIFT": 8}  # a page of 256 bytes
GRACE = "    left = client.wait_grace_period(mem, me)\n"
UNMARK = "    backing.unmark(mem, pfn, order)\n"
PUNCH = "    gone = left and backing.punch(mem, pfn, order)\n"
EMPTY = "        backing.empty(mem, pfn, page_type.order(mem, pfn))\n"
TOUCH = Edit("xarray", "load", '    """Return the pfn in a slot, or NIL."""\n', "    atomics.touch(mem, slot)\n")


class Trimmed(Blocks):
    """Two pages with memory, as one free block."""

    def program(self, *threads: Any, **options: Any) -> Program:
        program = super().program(*threads, **options)
        program.geometry["chunk_shift"] = 8
        return program

    def trimmer(self, me: int) -> Thread:
        return lambda mem: self.core.trim.give_back(mem, me, 2)

    def user(self, me: int, order: int) -> Thread:
        """Return a thread that asks for a page's memory if no page has some, and uses the page."""
        use = super().user(me, order)

        def run(mem: Mem) -> Any:
            self.operation(me, lambda mem: self.core.page_alloc.back(mem, me, order))(mem)
            return use(mem)

        return run

    def memory(self, mem: Direct, pfn: int) -> Any:
        return mem.values.get(("memory", self.core.atomics.page_at(mem, pfn)), 0)

    def left(self, mem: Direct) -> None:
        core = self.core
        Pool.left(self, mem)
        free, holes = core.page_alloc.free_pages(mem), core.atomics.load_relaxed(mem, core.layout.ALLOC_HOLES)
        assert free + holes == self.pages, "a page is lost"
        for pfn in range(self.pages):
            marked, memory = core.backing.is_marked(mem, pfn), self.memory(mem, pfn)
            assert memory or not marked, f"page {pfn} may be used, and has no memory"
            assert marked or not memory, f"page {pfn} has memory that no client can use or give back"


DEATH_BUGS = {
    "punched-first": Bug((Edit("trim", "give_back", UNMARK, ""), Edit("trim", "give_back", PUNCH, PUNCH + UNMARK)), ALL,
        "a client that dies in between leaves a mark without memory"),
    "memory-left": Bug((Edit("reap", "_settle_word", EMPTY, "        pass\n"),), ALL,
        "a client that dies before it punches leaves memory that is no page's"),
}  # fmt: skip


@scenario("death/trim", CHUNKS, PART_BACKED, DEATH_BUGS)
def death_trim(core: Core) -> Program:
    """The victim gives a block of two pages back; another client wants a page with memory."""
    p = Trimmed(core)
    return p.program((VICTIM, p.trimmer(VICTIM)), (OTHER, p.user(OTHER, 0)))


@scenario("death/trim-again", CHUNKS, PART_BACKED)
def death_trim_again(core: Core) -> Program:
    """The victim gives a block of two pages back. The reaper may die, too."""
    p = Trimmed(core)
    threads = [
        (VICTIM, p.trimmer(VICTIM)),
        (OTHER, p.reaper(OTHER, whole=True)),
        (REAPER, p.reaper(REAPER, (VICTIM, OTHER), whole=True)),
    ]
    return p.program(*threads, mortal=(VICTIM, OTHER))


class Stray(Trimmed):
    """Two pages, as a hole. The first has memory without a mark: its mark was damaged."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        assert self.core.trim.give_back(mem, REAPER, 2) == 2
        mem.values["memory", self.core.atomics.page_at(mem, 0)] = 1

    def emptier(self, me: int) -> Thread:
        return lambda mem: self.core.trim.empty_hole(mem, me, 0)


FREE = "    if page_alloc.free(mem, me, pfn, order):\n        client.retract(mem, me, pfn)\n"
LEFT = "    if left:\n        backing.empty(mem, pfn, order)\n"
HOLE = "        pfn = _take(mem, me, order, layout.BUDDY_HOLE)\n"
STRAY_BUGS = {
    "emptied-free": Bug((Edit("trim", "empty_hole", LEFT + FREE, FREE + LEFT),), ALL,
        "another client has given the page memory meanwhile, and uses it"),
    "emptied-untaken": Bug((Edit("page_alloc", "alloc_hole", HOLE, "        pfn = head\n"),), ALL,
        "another client gives the page memory at the same time"),
}  # fmt: skip


@scenario("death/stray", CHUNKS, PART_BACKED, STRAY_BUGS)
def death_stray(core: Core) -> Program:
    """The victim takes the memory away that is in a hole without a mark; another client wants a page with memory."""
    p = Stray(core)
    return p.program((VICTIM, p.emptier(VICTIM)), (OTHER, p.user(OTHER, 0)))


class Late(Trimmed):
    """A client knows a mapping whose record was in a page that has been freed. That page is given back meanwhile."""

    def walker(self, me: int) -> Thread:
        def walk(mem: Mem) -> None:
            head = self.core.atomics.page_at(mem, 0) + self.core.layout.MAPPING_HEAD
            mark = self.core.backing.mark_of(mem, 0)
            assert self.core.filemap.lookup(mem, me, 0, fixtures.INO, head, mark, 0, 0) == self.core.layout.NIL

        return walk


WALK_BUGS = {
    "mark-unasked": Bug((Edit("filemap", "lookup", " if backing.is_set(mem, mark) else layout.NIL", ""),), ALL,
        "who is late touches a hole"),
    "no-grace-punch": Bug((Edit("trim", "give_back", GRACE, "    left = True\n"),), ALL,
        "who has found the mark touches a hole"),
    "unmarked-late": Bug((Edit("trim", "give_back", UNMARK, ""), Edit("trim", "give_back", GRACE, GRACE + UNMARK)), ALL,
        "who begins after the grace period finds the mark"),
    "no-light-barrier": Bug((NO_LIGHT,), ("tso", "rc11"), "neither sees what the other has stored"),
    "leave-relaxed": Bug((LEAVE,), WEAK, "the walker's last load is not ordered before the memory goes"),
}  # fmt: skip


@scenario("trim/walk", CHUNKS, (*PART_BACKED, TOUCH), WALK_BUGS)
def trim_walk(core: Core) -> Program:
    """A walker with the place of a record that is long gone, while its page is given back."""
    p = Late(core)
    return p.program((VICTIM, p.walker(VICTIM)), (OTHER, p.trimmer(OTHER)), mortal=())


PATIENT = "        if mine - found + layout.WATCH_PATIENCE & layout.WATCH_TICK_MASK < 2 * layout.WATCH_PATIENCE:\n"
TURN_BUGS = {
    "turn-by-store": Bug((Edit("trim", "take_turn",
        "    return mine if atomics.cmpxchg_relaxed(mem, at, found, mine) == found else 0\n",
        "    atomics.store_relaxed(mem, at, mine)\n    return mine\n"),), ALL, "both have the turn"),
    "turn-unrenewed": Bug((Edit("trim", "take_turn", " and found != last", ""),), ALL, "nobody has the turn"),
    "turn-kept": Bug((
        Edit("trim", "take_turn", PATIENT, ""), Edit("trim", "take_turn", "            return 0", "        return 0")), ALL,
        "who has died keeps it"),
    "turn-ahead": Bug((Edit("trim", "take_turn", " + layout.WATCH_PATIENCE & ", " & "),), ALL,
        "a turn that is renewed while another client looks counts as an old one"),
}  # fmt: skip
GROUP = 1


@scenario("trim/turn", {}, bugs=TURN_BUGS)
def trim_turn(core: Core) -> Program:
    """A client that had the turn was stopped, or has died; two others want it, and one that has just taken it renews it."""
    tick = 1 << core.layout.WATCH_TICK_SHIFT
    late = core.layout.WATCH_PATIENCE * tick

    def setup(mem: Direct) -> None:
        assert core.trim.take_turn(mem, GROUP, 0, tick)

    def watcher(me: int) -> Thread:
        def watch(mem: Mem) -> bool:
            turn = core.trim.take_turn(mem, GROUP, 0, tick + late)
            return bool(turn) and core.trim.take_turn(mem, GROUP, turn, 2 * tick + late) != 0

        return watch

    def final(mem: Direct, results: list[Any]) -> None:
        assert results.count(True) == 1, f"{results.count(True)} have the turn"

    return Program([watcher(1), watcher(2)], setup, final, fixtures.geometry(), equal=[(0, 1)])


class Described(Pool):
    """No page has a descriptor yet; all words are 0. A client has a damaged entry, which names page 1."""

    def setup(self, mem: Direct) -> None:
        core = self.core
        for part in (core.slab, core.lru, core.mapping):
            part.setup(mem)
        core.page_alloc.setup(mem, self.pages)
        for client in range(self.clients):
            core.client.set_state(mem, client, core.layout.SLOT_ATTACHED)
        core.atomics.store_relaxed(mem, fixtures.HEAD, 2 << 1)

    def getter(self, me: int) -> Thread:
        def get(mem: Mem) -> str:
            pfn = self.core.xarray.load(mem, fixtures.HEAD)
            if pfn == self.core.layout.NIL:
                return "there is no such page"
            assert self.core.page_ref.try_get(mem, self.core.atomics.folio_at(mem, pfn)) == self.core.layout.DEAD
            return "it is free"

        return get

    def left(self, mem: Direct) -> None:
        core = self.core
        core.atomics.store_relaxed(mem, fixtures.HEAD, 0)
        Pool.left(self, mem)
        assert core.atomics.load_relaxed(mem, core.layout.ALLOC_HOLES) == core.atomics.npages(mem), "a page is lost"

    def describer(self, me: int) -> Thread:
        return self.operation(me, lambda mem: self.core.page_alloc._describe(mem, me))

    def program(self, *threads: Any, **options: Any) -> Program:
        program = super().program(*threads, **options)
        program.geometry["describes"] = 1
        return program


SHOWN = "        atomics.store_release(mem, layout.PAGES_DESCRIBED, end)\n"
FREEZE = "        for pfn in range(first, end):\n            page_ref.init(mem, atomics.folio_at(mem, pfn), layout.FROZEN)\n"
DESCRIBE_BUGS = {
    "shown-relaxed": Bug((Edit("page_alloc", "_describe", SHOWN, SHOWN.replace("release", "relaxed")),), WEAK,
        "the getter sees the page before it is frozen"),
    "shown-first": Bug((Edit("page_alloc", "_describe", SHOWN, ""), Edit("page_alloc", "_describe", FREEZE, SHOWN + FREEZE)),
        ALL, "the same"),
}  # fmt: skip


@scenario("death/describe", PAIR, PART_BACKED, DESCRIBE_BUGS)
def death_describe(core: Core) -> Program:
    """The victim makes the descriptors of two pages; a getter with a damaged entry looks for one of them; another client makes
    them, too."""
    p = Described(core)
    return p.program((VICTIM, p.describer(VICTIM)), (OTHER, p.describer(OTHER)), (REAPER, p.getter(REAPER)))
