"""Locks, sleeping and waking, and filling a page: no lost wake-up, no double fill, no reader of half a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import steps
from ..mutation import Edit, Replace
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import fixtures, scenario

if TYPE_CHECKING:
    from ..graph import Loc
    from ..loader import Core
    from ..machine import Machine
    from ..memory import Direct, Mem
    from ..program import Final, Program, Thread

WORD = 0x900
NO_SPIN = {"LOCK_SPINS": 0}
ONE_SPIN = {"LOCK_SPINS": 1}


def names(loc: Loc) -> Any:
    return "lock" if loc == WORD else fixtures.names(loc)


def locker(core: Core, me: int) -> Thread:
    def critical(mem: Mem) -> None:
        core.robust_lock.lock(mem, WORD, me)
        seen = fixtures.look(mem, 0)
        fixtures.fill(mem, 0, seen + 1)
        core.robust_lock.unlock(mem, WORD)

    return critical


LOCK_BUGS = {
    "lock-relaxed": Bug((Edit("robust_lock", "lock", "cmpxchg_acquire", "cmpxchg_relaxed"),), WEAK, "as with no lock at all"),
    "slow-lock-relaxed": Bug((
        Edit("robust_lock", "_lock_slow", "held = atomics.cmpxchg_acquire", "held = atomics.cmpxchg_relaxed"),), WEAK),
    "unlock-relaxed": Bug((Edit("robust_lock", "unlock", "fetch_and_release", "fetch_and_relaxed"),), WEAK),
    "no-waiters-bit": Bug((Edit("robust_lock", "_lock_slow", "(me + 1) | layout.LOCK_WAITERS", "me + 1"),), ALL,
        "with a third waiter: the one that slept forgets the others"),
    "no-wake": Bug((Edit("robust_lock", "unlock", "atomics.futex_wake(mem, word, 1)", "pass"),), ALL,
        "no thread wakes the sleeper"),
    "sleep-without-bit": Bug((Replace("robust_lock", "_sleep", """
        def _sleep(mem, word, held):
            if held:
                atomics.futex_wait(mem, word, held, layout.LOCK_SLICE_NS)
    """),), ALL, "the owner does not know that a thread sleeps"),
}  # fmt: skip


def counted(threads: int) -> Final:
    def final(mem: Direct, results: list[Any]) -> None:
        total = mem.values[("page", 0)]
        assert total == threads, f"{threads} sections, {total} increments"
        assert mem.values.get(WORD, 0) == 0, "the lock is left held"

    return final


@scenario("lock/two", NO_SPIN, bugs={k: v for k, v in LOCK_BUGS.items() if k != "no-waiters-bit"})
def lock_two(core: Core) -> Program:
    """Two clients, one lock: one at a time is inside, and none sleeps for ever."""
    setup = lambda mem: fixtures.fill(mem, 0, 0)  # noqa: E731
    return Program([locker(core, 1), locker(core, 2)], setup, counted(2), fixtures.geometry(), names=names, equal=[(0, 1)])


@scenario("lock/three", NO_SPIN, bugs={"no-waiters-bit": LOCK_BUGS["no-waiters-bit"], "no-wake": LOCK_BUGS["no-wake"]})
def lock_three(core: Core) -> Program:
    """As lock/two, with three clients."""
    setup = lambda mem: fixtures.fill(mem, 0, 0)  # noqa: E731
    threads = [locker(core, me) for me in (1, 2, 3)]
    return Program(threads, setup, counted(3), fixtures.geometry(), names=names, equal=[(0, 1, 2)])


@scenario("lock/spin", ONE_SPIN, bugs={
    "spin-lock-relaxed": Bug((Edit("robust_lock", "_lock_slow", "and atomics.cmpxchg_acquire", "and atomics.cmpxchg_relaxed"),),
        WEAK, "who gets the lock while it spins is not ordered after the last owner"),
    "slow-lock-relaxed": LOCK_BUGS["slow-lock-relaxed"],
})  # fmt: skip
def lock_spin(core: Core) -> Program:
    """As lock/two, and a client looks once more before it sleeps."""
    return lock_two(core)


@scenario("lock/three-spin", ONE_SPIN, slow=True)
def lock_three_spin(core: Core) -> Program:
    """As lock/three, and a client looks once more before it sleeps."""
    return lock_three(core)


@scenario("lock/broken", NO_SPIN, bugs={
    "take-relaxed": Bug((Edit("robust_lock", "_take", "cmpxchg_acquire", "cmpxchg_relaxed"),), WEAK,
        "who repairs is not ordered after the one who has left it to be repaired"),
    "unlock-relaxed": LOCK_BUGS["unlock-relaxed"],
})  # fmt: skip
def lock_broken(core: Core) -> Program:
    """A client leaves what the lock protects half changed, and marks it; a reaper takes the lock over, and repairs."""

    def leave(mem: Mem) -> None:
        core.robust_lock.lock(mem, WORD, 1)
        fixtures.fill(mem, 0, "half")
        core.robust_lock.mark_broken(mem, WORD)
        core.robust_lock.unlock(mem, WORD)

    def repair(mem: Mem) -> Any:
        if core.robust_lock.take_over(mem, WORD, 3, 2):
            fixtures.fill(mem, 0, "whole")
            core.robust_lock.unlock(mem, WORD)

    def final(mem: Direct, results: list[Any]) -> None:
        owed = core.robust_lock.lock(mem, WORD, 0) == core.layout.LOCK_REPAIR
        assert owed or fixtures.look(mem, 0) == "whole", "what is half changed is taken for whole"

    setup = lambda mem: fixtures.fill(mem, 0, "whole")  # noqa: E731
    return Program([leave, repair], setup, final, fixtures.geometry(), names=names)


def filling(core: Core) -> Thread:
    def setup(mem: Direct) -> None:
        core.lru.setup(mem)
        core.folio.prepare(mem, 0, core.layout.TYPE_FILE, 0, 0, fixtures.INO, 0, 1)
        core.fill.begin(mem, 1, 0)
        core.page_ref.init(mem, fixtures.MEMMAP, 3)

    return setup


def filler(core: Core) -> Thread:
    def fill(mem: Mem) -> None:
        fixtures.fill(mem, 0, "content")
        core.fill.complete(mem, 0)

    return fill


def waiter(core: Core) -> Thread:
    def wait(mem: Mem) -> Any:
        seen = core.fill.wait(mem, 0, 1)
        assert seen & core.layout.PG_UPTODATE, f"woke to flags {seen:#x}"
        return fixtures.look(mem, 0)

    return wait


def all_have_seen_it(mem: Mem, results: list[Any]) -> None:
    assert results[1:] == ["content"] * (len(results) - 1), f"the waiters saw {results[1:]}"


RESULT_RELAXED = Edit("flags", "unlock", "fetch_or_release", "fetch_or_relaxed")
FILL_BUGS = {
    "no-wake": Bug((Edit("flags", "unlock", "atomics.futex_wake(mem, folio + layout.F_FLAGS, layout.NIL)", "pass"),), ALL),
    "wait-relaxed": Bug((Edit("flags", "begin_wait", "seen = atomics.load_acquire", "seen = atomics.load_relaxed"),), WEAK,
        "the content may be read before it is there"),
    "look-relaxed": Bug((Edit("flags", "wait", "seen = atomics.load_acquire", "seen = atomics.load_relaxed"),), WEAK),
    "sleep-without-bit": Bug((Edit("flags", "begin_wait", "asleep = seen | layout.PG_WAITERS", "asleep = seen"),), ALL),
    "unlock-first": Bug((Replace("flags", "unlock", """
        def unlock(mem, folio, result):
            keep = ~(layout.PG_LOCKED | layout.PG_WAITERS)
            if atomics.fetch_and_release(mem, folio + layout.F_FLAGS, keep) & layout.PG_WAITERS:
                atomics.futex_wake(mem, folio + layout.F_FLAGS, layout.NIL)
            atomics.fetch_or_release(mem, folio + layout.F_FLAGS, result)
    """),), ALL, "a waiter finds the lock gone and no result"),
    "result-relaxed": Bug((RESULT_RELAXED,), WEAK, "nothing orders the content before the result"),
}  # fmt: skip
# Which of unlock's two steps releases makes no difference to a thread that waits until both are done. To one that does not
# wait it does: fill/early-reader.
RELEASE_LAST = (RESULT_RELAXED, Edit("flags", "unlock", "fetch_and_relaxed", "fetch_and_release"))


@scenario("fill/one-waiter", bugs=FILL_BUGS, variants={"release-last": Bug(RELEASE_LAST)})
def fill_one(core: Core) -> Program:
    """The filler writes and unlocks, and a waiter sleeps on the folio: it is woken, and sees the content."""
    threads = [filler(core), waiter(core)]
    return Program(threads, filling(core), all_have_seen_it, fixtures.geometry(), names=fixtures.names)


@scenario("fill/two-waiters", bugs={"wake-one": Bug((Edit("flags", "unlock", "F_FLAGS, layout.NIL", "F_FLAGS, 1"),), ALL)})
def fill_two(core: Core) -> Program:
    """Two waiters: both are woken."""
    threads = [filler(core), waiter(core), waiter(core)]
    return Program(threads, filling(core), all_have_seen_it, fixtures.geometry(), names=fixtures.names, equal=[(1, 2)])


@scenario("fill/early-reader", bugs={
    "load-relaxed": Bug((Edit("flags", "load", "load_acquire", "load_relaxed"),), WEAK, "the content may not be there yet"),
    "release-last": Bug(RELEASE_LAST, WEAK, "a reader that sees the result before the unlock is not ordered after the content"),
})  # fmt: skip
def fill_early(core: Core) -> Program:
    """A reader that does not wait, and finds PG_UPTODATE, perhaps with PG_LOCKED still beside it."""

    def read(mem: Mem) -> Any:
        if core.flags.load(mem, fixtures.MEMMAP) & core.layout.PG_UPTODATE:
            return fixtures.look(mem, 0)
        return "content"

    return Program([filler(core), read], filling(core), all_have_seen_it, fixtures.geometry(), names=fixtures.names)


@scenario("fill/interrupted", bugs={
    "interrupted-relaxed": Bug((Edit("flags", "wait", "return atomics.load_acquire", "return atomics.load_relaxed"),), WEAK,
        "the content may not be there yet"),
})  # fmt: skip
def fill_interrupted(core: Core) -> Program:
    """A signal may end a waiter's sleep: it sees the content, or that the fill goes on."""

    def wait(mem: Mem) -> Any:
        seen = core.fill.wait(mem, 0, 1)
        return fixtures.look(mem, 0) if seen & core.layout.PG_UPTODATE else "content"

    threads = [filler(core), wait]
    return Program(threads, filling(core), all_have_seen_it, fixtures.geometry(), names=fixtures.names, interrupts=True)


ABANDON = "cmpxchg_release(mem, folio + layout.F_OWNER, dead, layout.NIL)"


@scenario("fill/abandoned", bugs={
    "abandon-by-store": Bug((
        Edit("fill", "abandon", ABANDON, "store_release(mem, folio + layout.F_OWNER, layout.NIL)"),), ALL,
        "who has taken the filler's place is no longer there, and another does so, too"),
    "abandon-relaxed": Bug((Edit("fill", "abandon", "cmpxchg_release", "cmpxchg_relaxed"),), WEAK,
        "the next filler is not ordered after the dead one"),
    "take-over-relaxed": Bug((Edit("fill", "take_over", "cmpxchg_acquire", "cmpxchg_relaxed"),), WEAK, "the same"),
    "dead-unasked": Bug((Edit("fill", "take_over", "not client.is_alive(mem, owner) and ", ""),), ALL,
        "the place of a living filler is taken"),
})  # fmt: skip
def fill_abandoned(core: Core) -> Program:
    """The filler may die. A reaper abandons its fill, while two readers each try to take its place: one writes the content."""

    def reap(mem: Machine) -> None:
        if steps.has_died(mem, 1):
            core.fill.abandon(mem, 1, 0)

    def reader(me: int) -> Thread:
        def read(mem: Mem) -> Any:
            if not core.fill.take_over(mem, me, 0):
                return None
            if not core.flags.load(mem, fixtures.MEMMAP) & core.layout.PG_UPTODATE:
                fixtures.fill(mem, 0, "content")
            core.fill.complete(mem, 0)
            return fixtures.look(mem, 0)

        return read

    def final(mem: Direct, results: list[Any]) -> None:
        assert set(results[2:]) <= {None, "content"}, f"the readers saw {results[2:]}"
        assert results[2:] != ["content", "content"], "two clients take the place of one"

    return Program(
        [filler(core), reap, reader(2), reader(3)],
        filling(core),
        final,
        fixtures.geometry(),
        names=fixtures.names,
        mortal=frozenset({0}),
        clients={1: 0},
    )
