"""The client table, whose slots get memory when they are first needed.

The memory of a slot is a cell: 1 if it has some. Where a program has ``grows``, those below SLOTS_BACKED have; elsewhere, all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mutation import Edit
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import fixtures, scenario
from .crash_fixtures import OTHER, REAPER, VICTIM
from .death import NO_LIGHT
from .death_parts import PAIR, PART_BACKED, Blocks
from .sparse import CHUNKS, TOUCH, Late
from .waiting import NO_SPIN, counted, locker, names

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Thread

SHOW = "    atomics.cmpxchg_release(mem, layout.SLOTS_BACKED, n, n + 1)\n"
GIVE = "    if not reserve(mem, atomics.clients(mem) + n * layout.CLIENT_SIZE, layout.CLIENT_SIZE):\n        return False\n"
FENCE = "    atomics.asymmetric_fence_heavy(mem)\n    for client in range(atomics.nclients(mem)):"


def backed(core: Core, mem: Direct, slots: int) -> None:
    """In the setup: so many slots have memory."""
    core.atomics.store_relaxed(mem, core.layout.SLOTS_BACKED, slots)
    for n in range(slots):
        mem.values["memory", core.client.slot(mem, n)] = 1


def come(core: Core, mem: Mem, me: int) -> None:
    """Make sure that slot me has memory, as ``slot.ClientSlot.claim``."""
    while core.atomics.nclients(mem) <= me:
        assert core.backing.back_slot(mem)


class Table(Blocks):
    """Only the first slot has memory."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        backed(self.core, mem, 1)

    def giver(self) -> Thread:
        return lambda mem: self.core.backing.back_slot(mem)

    def reader(self) -> Thread:
        """Return a thread that looks at the last slot, as one that goes through the table."""

        def read(mem: Mem) -> int:
            last: int = self.core.atomics.nclients(mem) - 1
            assert mem.load(("memory", self.core.client.slot(mem, last)), "relaxed") == 1, f"slot {last} has no memory"
            return last

        return read

    def left(self, mem: Direct) -> None:
        come(self.core, mem, self.clients - 1)
        super().left(mem)

    def program(self, *threads: Any, **options: Any) -> Program:
        program = super().program(*threads, **options)
        program.geometry["grows"] = 1
        return program


TABLE_BUGS = {
    "slot-shown-first": Bug((Edit("backing", "back_slot", SHOW, ""), Edit("backing", "back_slot", GIVE, SHOW + GIVE)), ALL,
        "who goes through the table, or comes after a death, finds a slot without memory"),
    "slot-shown-relaxed": Bug((Edit("backing", "back_slot", SHOW, SHOW.replace("release", "relaxed")),), WEAK,
        "who sees the number does not see the memory"),
    "slot-by-store": Bug((Edit("backing", "back_slot", SHOW,
        "    atomics.store_release(mem, layout.SLOTS_BACKED, n + 1)\n"),), ALL, "a late one makes the number smaller again"),
}  # fmt: skip


@scenario("death/table", PAIR, PART_BACKED, {k: v for k, v in TABLE_BUGS.items() if k != "slot-by-store"})
def death_table(core: Core) -> Program:
    """The victim gives the next slot memory, and so does another client; a third one goes through the table."""
    p = Table(core)
    return p.program((VICTIM, p.giver()), (OTHER, p.giver()), (REAPER, p.reader()))


@scenario("table/grow", PAIR, PART_BACKED, {"slot-by-store": TABLE_BUGS["slot-by-store"]})
def table_grow(core: Core) -> Program:
    """A client gives two slots memory, another one; what each has seen stays true."""
    p = Table(core)

    def coming(me: int) -> Thread:
        def run(mem: Mem) -> None:
            for _ in range(me):
                core.backing.back_slot(mem)
            seen = core.atomics.nclients(mem)
            assert seen > 1, "the slot that got memory is not one"
            assert core.atomics.nclients(mem) >= seen, "a slot that had memory is not one any more"

        return run

    return p.program((VICTIM, coming(VICTIM)), (OTHER, coming(OTHER)), mortal=())


class Newcomer(Late):
    """As ``Late``, and the walker has the last slot, which has no memory yet."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        backed(self.core, mem, OTHER)

    def walker(self, me: int) -> Thread:
        walk = super().walker(me)

        def run(mem: Mem) -> Any:
            come(self.core, mem, me)
            return walk(mem)

        return run

    def program(self, *threads: Any, **options: Any) -> Program:
        program = super().program(*threads, **options)
        program.geometry["grows"] = 1
        return program


COUNTED_BUGS = {
    "counted-first": Bug((Edit("client", "wait_grace_period", FENCE,
        "    slots = atomics.nclients(mem)\n" + FENCE.replace("atomics.nclients(mem)", "slots")),), WEAK,
        "the grace period misses a client that came before the fence"),
    "no-light-barrier": Bug((NO_LIGHT,), ("tso", "rc11"),
        "the same, from the other side"),
}  # fmt: skip


@scenario("table/walk", {**CHUNKS, "STAT_WORDS": 0}, (*PART_BACKED, TOUCH), COUNTED_BUGS)
def table_walk(core: Core) -> Program:
    """As trim/walk, and the walker's slot gets its memory meanwhile."""
    p = Newcomer(core)
    return p.program((OTHER, p.walker(OTHER)), (VICTIM, p.trimmer(VICTIM)), mortal=())


UNSEEN = "    if client < atomics.nclients(mem) and state(mem, client) == layout.SLOT_DEAD:\n"
LOCK_BUGS = {
    "unseen-is-dead": Bug((Edit("client", "is_alive", UNSEEN,
        UNSEEN.replace("if client < atomics.nclients(mem) and", "if client >= atomics.nclients(mem) or")),), WEAK,
        "who does not see yet that a slot has memory takes the lock from its client"),
}  # fmt: skip


@scenario("table/lock", NO_SPIN, bugs=LOCK_BUGS)
def table_lock(core: Core) -> Program:
    """As lock/two, and the slot of one of the clients gets its memory first."""

    def setup(mem: Direct) -> None:
        fixtures.fill(mem, 0, 0)
        backed(core, mem, 2)

    def late(mem: Mem) -> None:
        come(core, mem, 2)
        locker(core, 2)(mem)

    shape = fixtures.geometry() | {"nclients": 3, "grows": 1}
    return Program([locker(core, 1), late], setup, counted(2), shape, names=names)
