"""The operations that a process calls from outside the core, each from its begin to its end, beside those that undo them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mutation import Edit
from ..program import Program
from ..scenario import ALL, WEAK, Bug
from . import fixtures, scenario, tree
from .crash_fixtures import OTHER, PARTS, REAPER, SMALL, VICTIM
from .death_path import Queued

if TYPE_CHECKING:
    from ..loader import Core
    from ..memory import Direct, Mem
    from ..program import Thread

KEY = 1


class Used(Queued):
    """A pool in which nothing is cached. A mapping's digest is its key."""

    def setup(self, mem: Direct) -> None:
        super().setup(mem)
        self.truncater(REAPER)(mem)

    def filler(self, me: int, fails: bool = False) -> Thread:
        """Return a thread that opens the mapping, adds a folio, fills it (or ``fails`` to) and releases it."""

        def fill(mem: Mem) -> str:
            core, layout = self.core, self.core.layout
            ino = core.filemap.open(mem, me, KEY, KEY, KEY, 1024, 0, self.height, b"", 0, 0)
            if not ino:
                return "no memory"
            found = core.filemap.add(mem, me, 0, ino, self.place, 0, 0, tree.BYTES)
            if found in (layout.GRAB_NOMEM, layout.GRAB_GONE):
                return "gone"
            pfn = found & layout.NIL
            if found & layout.GRAB_ADDED and fails:
                core.filemap.withdraw(mem, me, pfn, 1)
            elif found & layout.GRAB_ADDED:
                fixtures.fill(mem, pfn, (ino, self.place))
                core.filemap.finish_fill(mem, me, pfn)
            core.folio.release(mem, me, 0, pfn)
            return "filled"

        return fill

    def reader(self, me: int) -> Thread:
        """Return a thread that looks the mapping up, and the folio, and waits for the end of its fill."""

        def read(mem: Mem) -> Any:
            core, layout = self.core, self.core.layout
            ino = core.filemap.resolve(mem, me, KEY, KEY)
            if ino == 0:
                return "none"
            head, mark = core.mapping.head(mem, ino), core.mapping.mark(mem, ino)
            pfn = core.filemap.lookup(mem, me, 0, ino, head, mark, self.height, self.place)
            if pfn == layout.NIL:
                return "miss"
            seen = core.fill.begin_wait(mem, pfn)
            while seen & layout.PG_LOCKED:
                core.atomics.cpu_relax()
                seen = core.flags.load(mem, core.atomics.folio_at(mem, pfn))
            if seen & layout.PG_UPTODATE:
                content = fixtures.look(mem, pfn)
                assert content == (ino, self.place), f"looked for {(ino, self.place)}, found {content}"
            else:
                assert seen & layout.PG_ERROR and seen & layout.PG_REASON, f"the fill ended with {seen:#x}"
            core.folio.release(mem, me, 0, pfn)
            return seen

        return read

    def forgetter(self, me: int) -> Thread:
        return lambda mem: self.core.filemap.forget(mem, me, KEY, 0)

    def invalidator(self, me: int) -> Thread:
        return lambda mem: self.core.filemap.invalidate(mem, me, KEY, KEY, 3)

    def left(self, mem: Direct) -> None:
        """As ``Pool.left``, after everything is forgotten: then nothing is cached."""
        super().left(mem)
        self.forgetter(REAPER)(mem)
        assert self.core.mapping.find_key(mem, REAPER, KEY) == 0, "a version is still cached"
        super().left(mem)


FORGET_BUGS = {
    "unlocked": Bug((
        Edit("mapping", "find_key", "        if not _lock_table(mem, me):\n            return layout.INO_BUSY\n", ""),
        Edit("mapping", "find_key", "        robust_lock.unlock(mem, layout.TABLE_LOCK)\n", ""),
    ), ALL, "a chain is read while it changes"),
}  # fmt: skip


@scenario("operations/fill-forget", SMALL, PARTS, FORGET_BUGS)
def fill_forget(core: Core) -> Program:
    """A client opens an object and fills a folio, while another forgets all versions of it."""
    p = Used(core, 4)
    return p.program((VICTIM, p.filler(VICTIM)), (OTHER, p.forgetter(OTHER)), mortal=())


@scenario("operations/fill-invalidate", SMALL, PARTS)
def fill_invalidate(core: Core) -> Program:
    """A client opens an object and fills a folio, while another withdraws what is cached of this version."""
    p = Used(core, 4)
    return p.program((VICTIM, p.filler(VICTIM)), (OTHER, p.invalidator(OTHER)), mortal=())


WITHDRAW_BUGS = {
    "unexplained": Bug((Edit("fill", "explain", "layout.PG_ERROR | layout.PG_REASON", "layout.PG_ERROR"),), ALL,
        "who waits is not told why"),
}  # fmt: skip


@scenario("operations/withdraw-read", SMALL, PARTS, WITHDRAW_BUGS)
def withdraw_read(core: Core) -> Program:
    """A client gives up a fill, with the reason, while another waits for its end."""
    p = Used(core, 4)
    return p.program((VICTIM, p.filler(VICTIM, fails=True)), (OTHER, p.reader(OTHER)), mortal=())


@scenario("death/withdraw-read", SMALL, PARTS)
def death_withdraw(core: Core) -> Program:
    """A client gives up a fill, and may die on the way."""
    p = Used(core, 4)
    return p.program((VICTIM, p.filler(VICTIM, fails=True)))


@scenario("operations/describe", {"MAX_ORDER": 1}, bugs={
    "described-relaxed": Bug((Edit("page_alloc", "_describe", "store_release", "store_relaxed"),), WEAK,
        "a getter with a damaged pfn finds a zero, and takes it for a folio"),
})  # fmt: skip
def describe(core: Core) -> Program:
    """A client gives pages their descriptors; another comes with a damaged pfn: if that is in bounds, the page is frozen."""

    def get(mem: Mem) -> bool:
        in_bounds: bool = core.atomics.load_acquire(mem, core.layout.PAGES_DESCRIBED) > 1  # as ``atomics.npages``
        assert not in_bounds or core.page_ref.try_get(mem, core.atomics.folio_at(mem, 1)) == core.layout.DEAD
        return in_bounds

    def final(mem: Direct, results: list[Any]) -> None:
        assert core.page_alloc._described(mem) == 2, "the pages have no descriptors"

    threads = [lambda mem: core.page_alloc._describe(mem, 1), get]
    return Program(threads, lambda mem: core.page_alloc.setup(mem, 2), final, tree.geometry(2), names=fixtures.names)
