"""The reference word alone: which thread destroys the page, what it destroys, and what late getters do to the word.

The rules are 1 to 3 and 6 of docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..mutation import Edit, Replace
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import fixtures, scenario

if TYPE_CHECKING:
    from ..graph import Value
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Final, Program, Thread

RELAXED_SUB = Edit("page_ref", "put", "fetch_sub_release", "fetch_sub_relaxed")
RELAXED_FREEZE = Edit("page_ref", "put", "cmpxchg_acquire", "cmpxchg_relaxed")
RELAXED_INIT = Edit("page_ref", "init", "store_release", "store_relaxed")

# The kernel before the series: zero is dead, and a getter must not change it, so it loops.
MAINLINE = (
    Replace("page_ref", "try_get", """
        def try_get(mem, folio):
            old = atomics.load_relaxed(mem, folio + layout.F_REF)
            while old != 0 and not old & layout.FROZEN:
                found = atomics.cmpxchg_acquire(mem, folio + layout.F_REF, old, old + 1)
                if found == old:
                    return layout.GOT
                old = found
            return layout.DEAD
    """),
    Replace("page_ref", "put", """
        def put(mem, folio):
            if atomics.fetch_sub_release(mem, folio + layout.F_REF, 1) != 1:
                return False
            atomics.fence_acquire()
            return True
    """),
)  # fmt: skip
CMPXCHG_LOOP = MAINLINE[:1]
# The series' v4: as ours, but a getter that fails leaves its count behind, and the allocator's store overwrites it.
V4 = (Replace("page_ref", "_refuse", """
    def _refuse(mem, folio, old):
        return layout.DEAD if old & layout.FROZEN else layout.SATURATED
"""),)  # fmt: skip

SCHEMES = {"mainline": Bug(MAINLINE), "cmpxchg-loop": Bug(CMPXCHG_LOOP), "v4": Bug(V4)}

TYPE_BEFORE = Replace("folio", "put", """
    def put(mem, me, pfn):
        found = atomics.read32(mem, atomics.folio_at(mem, pfn) + layout.F_TYPE)
        if page_ref.put(mem, atomics.folio_at(mem, pfn)):
            now = atomics.read32(mem, atomics.folio_at(mem, pfn) + layout.F_TYPE)
            assert found == now, f"the destructor of type {found} runs on a folio of type {now}"
            destroy(mem, me, pfn)
""")  # fmt: skip
# Frozen at once, so there is no zero in between: each drop has to be a loop. The type may be read before.
FROZEN_FIRST = (Replace("page_ref", "put", """
    def put(mem, folio):
        old = atomics.load_relaxed(mem, folio + layout.F_REF)
        while True:
            found = atomics.cmpxchg_release(mem, folio + layout.F_REF, old, layout.FROZEN if old == 1 else old - 1)
            if found == old:
                break
            old = found
        atomics.fence_acquire()
        return old == 1
"""), TYPE_BEFORE)  # fmt: skip
FREE_STORES_ZERO = Replace("page_alloc", "free", f"""
    def free(mem, me, pfn, order):
        atomics.poison(mem, pfn)
        assert atomics.exchange_release(mem, {fixtures.FREE}, 1) == 0, "the page is freed twice"
        page_ref.init(mem, atomics.folio_at(mem, pfn), 0)
        return True
""")  # fmt: skip


def live(core: Core, references: int, type: int) -> Thread:
    """Return a setup: page 0 is a folio with that many references."""

    def setup(mem: Direct) -> None:
        core.folio.prepare(mem, 0, type, 0, 0, 0, 0, 0)
        core.page_ref.init(mem, core.atomics.folio_at(mem, 0), references)
        fixtures.fill(mem, 0, type)

    return setup


def all_free(core: Core) -> Final:
    """Return a judgement: in the end the page is free, and a getter is refused."""

    def final(mem: Direct, results: list[Any]) -> None:
        assert mem.values.get(fixtures.FREE) == 1, "the page is lost: no thread destroyed it"
        got = core.page_ref.try_get(mem, core.atomics.folio_at(mem, 0))
        assert got == core.layout.DEAD, "the free page can be got"

    return final


def dropper(core: Core, me: int) -> Thread:
    def put(mem: Mem) -> None:
        fixtures.look(mem, 0)
        core.folio.put(mem, me, 0)

    return put


def optimist(core: Core, me: int) -> Thread:
    def get_use_put(mem: Mem) -> str:
        if core.page_ref.try_get(mem, core.atomics.folio_at(mem, 0)) == core.layout.GOT:
            fixtures.look(mem, 0)
            core.folio.put(mem, me, 0)
            return "got"
        return "refused"

    return get_use_put


def reuser(core: Core, me: int, type: int) -> Thread:
    def reuse(mem: Mem) -> Any:
        pfn = core.page_alloc.alloc(mem, me, 0)
        if pfn == core.layout.NIL:
            return "nothing free"
        core.folio.prepare(mem, pfn, type, 0, 0, 0, 0, 0)
        fixtures.fill(mem, pfn, type)
        core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
        core.folio.put(mem, me, pfn)
        return "reused"

    return reuse


def program(
    core: Core,
    setup: Thread,
    threads: Sequence[Thread],
    final: Final | None = None,
    equal: Sequence[tuple[int, ...]] = (),
) -> Program:
    return Program(threads, setup, final, fixtures.geometry(), names=fixtures.names, equal=equal)


@scenario(
    "put/parallel",
    stand_ins=fixtures.ONE_PAGE,
    bugs={
        "sub-relaxed": Bug((RELAXED_SUB,), WEAK, "a holder's last read of the page is not ordered before the destructor"),
        "freeze-relaxed": Bug((RELAXED_FREEZE,), WEAK, "the destructor is not ordered after the other holders' last reads"),
    },
    variants=SCHEMES,
)  # fmt: skip
def put_parallel(core: Core) -> Program:
    """Two holders drop their references at once: one destructor runs, after both have finished with the page."""
    threads = [dropper(core, 1), dropper(core, 2)]
    return program(core, live(core, 2, core.layout.TYPE_FILE), threads, all_free(core), equal=[(0, 1)])


TYPE_AFTER_SUB = Replace("page_ref", "put", """
    def put(mem, folio):
        old = atomics.fetch_sub_release(mem, folio + layout.F_REF, 1)
        atomics.read32(mem, folio + layout.F_TYPE)
        return old == 1 and atomics.cmpxchg_acquire(mem, folio + layout.F_REF, 0, layout.FROZEN) == 0
""")  # fmt: skip


@scenario(
    "put/parallel-reuse",
    stand_ins=fixtures.ONE_PAGE,
    bugs={
        "type-after-sub": Bug((TYPE_AFTER_SUB,), ALL, "after the sub the folio may have been used again already"),
        "sub-relaxed": Bug((RELAXED_SUB,), WEAK),
        "freeze-relaxed": Bug((RELAXED_FREEZE,), WEAK),
    },
    variants={**SCHEMES, "type-before-freeze": Bug((TYPE_BEFORE,))},
)
def put_parallel_reuse(core: Core) -> Program:
    """Two holders drop at once, and the page is used again, without any speculative getter: only one put makes the count zero,
    so the type may even be read before the sub, but not between the sub and the freeze."""
    threads = [dropper(core, 1), dropper(core, 2), reuser(core, 3, core.layout.TYPE_NODE)]
    return program(core, live(core, 2, core.layout.TYPE_FILE), threads, all_free(core), equal=[(0, 1)])


@scenario(
    "put/revive",
    stand_ins=fixtures.ONE_PAGE,
    bugs={
        "no-freeze": Bug((Replace("page_ref", "put", """
            def put(mem, folio):
                return atomics.fetch_sub_acq_rel(mem, folio + layout.F_REF, 1) == 1
        """),), ALL, "every thread that makes the count zero destroys: a revived zero is destroyed twice"),
        "sub-relaxed": Bug((RELAXED_SUB,), WEAK, "the getter's read is not ordered before another thread's destructor"),
        "freeze-relaxed": Bug((RELAXED_FREEZE,), WEAK),
        "freeze-unheeded": Bug((Edit("page_ref", "put", "FROZEN) == 0", "FROZEN) >= 0"),), ALL,
            "the thread that loses the freeze destroys, too"),
    },
    variants=SCHEMES,
)  # fmt: skip
def put_revive(core: Core) -> Program:
    """The last holder drops; two getters may revive the zero, and each drops it again. Exactly one of the three destroys."""
    threads = [dropper(core, 1), optimist(core, 2), optimist(core, 3)]
    return program(core, live(core, 1, core.layout.TYPE_FILE), threads, all_free(core), equal=[(1, 2)])


@scenario(
    "put/aba",
    stand_ins=fixtures.ONE_PAGE,
    bugs={
        "type-before-freeze": Bug((TYPE_BEFORE,), ALL, "the race of the mailing list: a second zero is taken for the first"),
        "sub-relaxed": Bug((RELAXED_SUB,), WEAK),
        "freeze-relaxed": Bug((RELAXED_FREEZE,), WEAK),
        "init-relaxed": Bug((RELAXED_INIT,), WEAK, "a late getter is not ordered after the set-up of the new life"),
        "free-stores-zero": Bug((FREE_STORES_ZERO,), ALL, "a late getter revives a free page"),
        "add-relaxed": Bug((Edit("page_ref", "try_get", "fetch_add_acquire", "fetch_add_relaxed"),), WEAK),
    },
    variants={**SCHEMES, "frozen-first": Bug(FROZEN_FIRST)},
)  # fmt: skip
def put_aba(core: Core) -> Program:
    """T1, T2, T3 of the mailing list. T1 drops 1 -> 0 and sleeps before its cmpxchg. T2 gets 0 -> 1, uses the page, drops it
    and frees it. T3 allocates it as another type and drops it to 0. T1 wakes, and its cmpxchg succeeds on the other zero."""
    threads = [dropper(core, 1), optimist(core, 2), reuser(core, 3, core.layout.TYPE_NODE)]
    return program(core, live(core, 1, core.layout.TYPE_FILE), threads, all_free(core))


@scenario(
    "freeze/gets",
    stand_ins=fixtures.ONE_PAGE,
    bugs={
        "freeze-relaxed": Bug((Edit("page_ref", "freeze", "cmpxchg_acquire", "cmpxchg_relaxed"),), WEAK),
        "freeze-by-store": Bug((Replace("page_ref", "freeze", """
            def freeze(mem, folio, n):
                if atomics.load_acquire(mem, folio + layout.F_REF) != n:
                    return False
                atomics.store_relaxed(mem, folio + layout.F_REF, layout.FROZEN)
                return True
        """),), ALL, "a get between the load and the store is lost"),
        "unfreeze-relaxed": Bug((Edit("page_ref", "unfreeze", "store_release", "store_relaxed"),), WEAK),
        "add-relaxed": Bug((Edit("page_ref", "try_get", "fetch_add_acquire", "fetch_add_relaxed"),), WEAK),
        "reset-by-store": Bug((Edit("page_ref", "_refuse",
            "atomics.cmpxchg_relaxed(mem, folio + layout.F_REF, old + 1, layout.FROZEN)",
            "atomics.store_relaxed(mem, folio + layout.F_REF, layout.FROZEN)"),), ALL, "the reset hits the next life's count"),
        "reset-by-sub": Bug((Edit("page_ref", "_refuse",
            "atomics.cmpxchg_relaxed(mem, folio + layout.F_REF, old + 1, layout.FROZEN)",
            "atomics.fetch_sub_relaxed(mem, folio + layout.F_REF, 1)"),), ALL, "the reset takes a reference of the next life"),
    },
    variants=SCHEMES,
)  # fmt: skip
def freeze_gets(core: Core) -> Program:
    """Reclaim freezes a folio with one reference and changes it, then gives it back; two getters come at any time."""
    at = fixtures.MEMMAP

    def reclaim(mem: Mem) -> Any:
        if not core.page_ref.freeze(mem, at, 1):
            return False
        fixtures.fill(mem, 0, "changed")
        core.page_ref.unfreeze(mem, at, 1)
        return True

    def final(mem: Direct, results: list[Any]) -> None:
        assert core.page_ref.count(mem, at) == 1, f"the word is {core.page_ref.count(mem, at):#x}, not 1"

    threads = [reclaim, optimist(core, 2), optimist(core, 3)]
    return program(core, live(core, 1, core.layout.TYPE_FILE), threads, final, equal=[(1, 2)])


@scenario(
    "get/overflow",
    bugs={"v4": Bug(V4, ALL, "no thread resets the word: it grows until it overflows")},
    variants={name: SCHEMES[name] for name in ("mainline", "cmpxchg-loop")},
)
def get_overflow(core: Core) -> Program:
    """Getters that fail leave the frozen word as it was, however they overlap: its excess is at most their number."""
    at = fixtures.MEMMAP

    def getter(mem: Mem) -> None:
        assert core.page_ref.try_get(mem, at) == core.layout.DEAD
        assert core.page_ref.try_get(mem, at) == core.layout.DEAD

    def final(mem: Direct, results: list[Any]) -> None:
        assert core.page_ref.count(mem, at) == core.layout.FROZEN, f"the word is {core.page_ref.count(mem, at):#x}"

    return program(core, lambda mem: core.page_ref.init(mem, at, core.layout.FROZEN), [getter, getter], final, equal=[(0, 1)])


# Large folios, on the shipped buddy allocator: two pages, one block of order 1 or two of order 0.
PAIR = {"MAX_ORDER": 1}
BUDDIES = (
    *fixtures.SPIN_LOCK,
    Edit("page_alloc", "free", "    if not _lock(",
        "    for each in range(pfn, pfn + (1 << order)):\n        atomics.poison(mem, each)\n    if not _lock("),
    fixtures.ONE_PAGE[2],
)  # fmt: skip
THAWED = "page_ref.init(mem, atomics.folio_at(mem, {}), 0)"
LARGE_BUGS = {
    "destroy-stores-zero": Bug((Edit("folio", "destroy", "    return page_alloc.free(mem, me, pfn, order)", f"""\
    for tail in range(1, 1 << order):
        {THAWED.format("pfn + tail")}
    return page_alloc.free(mem, me, pfn, order)"""),), ALL, "the tails of a large folio are free and not frozen"),
    "split-stores-zero": Bug((Edit("page_alloc", "_split", "        have -= 1\n",
        f"        have -= 1\n        {THAWED.format('pfn + (1 << have)')}\n"),), ALL, "the upper half is free and not frozen"),
}  # fmt: skip
TAIL_THAWED = Edit("folio", "prepare", "    page_type.set(mem, pfn, type, order, span)\n", f"""\
    page_type.set(mem, pfn, type, order, span)
    for tail in range(1, 1 << order):
        {THAWED.format("pfn + tail")}
""")  # fmt: skip


def begin(core: Core, mem: Mem, me: int, order: int, content: Value) -> Any:
    """Allocate and set up a folio; return its pfn, or NIL."""
    pfn = core.page_alloc.alloc(mem, me, order)
    if pfn != core.layout.NIL:
        core.folio.prepare(mem, pfn, core.layout.TYPE_FILE, order, 0, 0, pfn, 0)
        for each in range(pfn, pfn + (1 << order)):
            fixtures.fill(mem, each, content)
        core.page_ref.init(mem, core.atomics.folio_at(mem, pfn), 1)
    return pfn


def late(core: Core, me: int, pfn: int) -> Thread:
    """Return a getter that has a pfn from a former life."""

    def get_use_put(mem: Mem) -> str:
        if core.page_ref.try_get(mem, core.atomics.folio_at(mem, pfn)) != core.layout.GOT:
            return "refused"
        content = fixtures.look(mem, pfn)
        assert content == "small", f"page {pfn} was got as a folio of its own, and is {content}"
        assert core.page_type.order(mem, pfn) == 0
        core.folio.put(mem, me, pfn)
        return "got"

    return get_use_put


def pair_left(core: Core) -> Final:
    """Return a judgement: the pages that the second thread does not have are free. (The getter sees whether they refuse.)"""

    def final(mem: Direct, results: list[Any]) -> None:
        free = core.page_alloc.free_pages(mem)
        assert free == 2 - results[1], f"{free} pages are free, and {results[1]} used"

    return final


@scenario("large/free-reuse", PAIR, BUDDIES, bugs={
    **LARGE_BUGS,
    "init-relaxed": Bug((RELAXED_INIT,), WEAK, "a late getter is not ordered after the set-up of the new life"),
    "add-relaxed": Bug((Edit("page_ref", "try_get", "fetch_add_acquire", "fetch_add_relaxed"),), WEAK),
}, variants=SCHEMES)  # fmt: skip
def large_free_reuse(core: Core) -> Program:
    """A large folio is freed, its block split, its tail page used as a folio of its own; a getter comes late, with its pfn."""

    def setup(mem: Direct) -> None:
        fixtures.pages(core, mem)
        assert begin(core, mem, 0, 1, "large") == 0

    def reuse(mem: Mem) -> Any:
        if begin(core, mem, 2, 0, "small") == core.layout.NIL:
            return 0
        pfn = begin(core, mem, 2, 0, "small")
        assert pfn == 1, "the tail is not handed out"
        core.folio.put(mem, 2, pfn)
        return 1

    threads = [late(core, 1, 1), reuse, lambda mem: core.folio.put(mem, 3, 0)]
    return program(core, setup, threads, pair_left(core))


@scenario("large/merge", PAIR, BUDDIES, bugs={
    "tail-thawed": Bug((TAIL_THAWED,), ALL, "the tail of a new large folio can be got"),
    "sub-relaxed": Bug((RELAXED_SUB,), WEAK, "the getter's look is not ordered before the next life"),
}, variants=SCHEMES)  # fmt: skip
def large_merge(core: Core) -> Program:
    """Two small folios are freed, merge, and become a large one; a getter comes late, with the pfn of what is a tail now."""

    def setup(mem: Direct) -> None:
        fixtures.pages(core, mem)
        assert [begin(core, mem, 0, 0, "small") for _ in range(2)] == [0, 1]

    def merge(mem: Mem) -> Any:
        core.folio.put(mem, 2, 0)
        core.folio.put(mem, 2, 1)
        return 0 if begin(core, mem, 2, 1, "large") == core.layout.NIL else 2

    return program(core, setup, [late(core, 1, 1), merge], pair_left(core))
