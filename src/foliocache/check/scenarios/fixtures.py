"""Shared by the scenarios: a tiny segment, page contents, and stand-ins for parts that a scenario does not concern.

The content of a page is a cell of its own, not bytes at offsets. A late walker of the XArray may load a word that has become
file data; the protocol allows that (the walker verifies what it found by other means), but it would otherwise count as a race.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import facade_threads, loader
from ..mutation import Replace

if TYPE_CHECKING:
    from ..graph import Value
    from ..loader import Core
    from ..memory import Direct, Mem

CORE = Path(__file__).resolve().parents[2] / "mm"

MEMMAP, DATA, CLIENTS, BUCKETS, GHOSTS, NAMES, BACKED = 0x10000, 0x20000, 0x30000, 0x40000, 0x50000, 0x60000, 0x68000
# Two mappings, of height 0: their records are the first two objects of page 1, and each one's head is its only slot.
INO, OTHER_INO = 7 << 31 | 16, 8 << 31 | 17
HEAD, OTHER = DATA + 0x1000, DATA + 0x1200
FREE = 0x70000  # the stand-in allocator's word: 1 while page 0 is free
LAYOUT = loader.load(CORE, facade_threads).layout


def geometry(pages: int = 2) -> dict[str, int]:
    return {
        "npages": pages, "page_shift": 12, "chunk_shift": LAYOUT.CHUNK_SHIFT,
        "nclients": 4, "nbuckets": 1, "nghosts": 4, "nnames": 0,
        "memmap": MEMMAP, "data": DATA, "clients": CLIENTS, "buckets": BUCKETS, "ghosts": GHOSTS, "names": NAMES,
        "backed": BACKED,
    }  # fmt: skip


def pages(core: Core, mem: Direct) -> None:
    """In the setup: the allocator, with memory for all pages."""
    core.page_alloc.setup(mem, mem.npages)
    while core.page_alloc.back(mem, 0, 0):
        pass


# For scenarios that have memory for all pages from the beginning, and in which no page loses it.
ALL_BACKED = Replace(
    "backing",
    "is_marked",
    """
        def is_marked(mem, pfn):
            return True
""",
)
HEAD_BACKED = Replace(
    "backing",
    "is_set",
    """
        def is_set(mem, mark):
            return True
""",
)
# A lock that spins: its sleep is checked in ``waiting``.
SPIN_LOCK = (
    Replace(
        "robust_lock",
        "lock",
        """
        def lock(mem, word, me):
            while atomics.cmpxchg_acquire(mem, word, 0, me + 1) != 0:
                atomics.cpu_relax()
            return layout.LOCK_TAKEN
    """,
    ),
    Replace(
        "robust_lock",
        "unlock",
        """
        def unlock(mem, word):
            atomics.store_release(mem, word, 0)
    """,
    ),
)
# The mapping exists and no other thread changes it: only the order of the steps inside matters.
TREE = (
    Replace("mapping", "lock", """
        def lock(mem, me, ino):
            return layout.TREE_LOCKED
    """),
    Replace("mapping", "unlock", """
        def unlock(mem, ino):
            pass
    """),
    Replace("mapping", "release", """
        def release(mem, me, ino):
            pass
    """),
)  # fmt: skip

FIELDS = {
    0: "ref",
    4: "flags",
    8: "type",
    12: "owner",
    16: "ino",
    24: "index",
    32: "attached",
    36: "length",
    40: "prev",
    44: "next",
    48: "buddy",
    52: "queue",
    56: "used",
    60: "first",
}
TUPLES = {"memory": "memory at {:#x}", "page": "content of page {}", "futex": "sleepers on [{}]"}
HEADER = {
    LAYOUT.ALLOC_LOCK: "alloc lock",
    LAYOUT.ALLOC_FREE: "free pages",
    LAYOUT.LRU_LOCK: "lru lock",
    LAYOUT.TABLE_LOCK: "table lock",
    LAYOUT.TABLE_COUNT: "mappings",
    LAYOUT.TABLE_NEXT_INO: "last ino",
    LAYOUT.NAMES_LOCK: "names lock",
    LAYOUT.NAMES_SERIAL: "last serial",
}
for _cache, _what in enumerate(("nodes", "records", "names")):
    for _word in ("LOCK", "PARTIAL", "PAGES", "OBJECTS"):
        HEADER[getattr(LAYOUT, f"SLAB_{_word}") + _cache * LAYOUT.SLAB_STRIDE] = f"{_what}' {_word.lower()}"


def names(loc: Any) -> str | None:
    """Return the name of the location in a counterexample, or None."""
    if isinstance(loc, tuple):
        return TUPLES[loc[0]].format(loc[1])
    known = {HEAD: "slot", OTHER: "slot'", FREE: "free"}.get(loc) or HEADER.get(loc)
    if LAYOUT.TREE_LOCK <= loc < LAYOUT.HEADER_SIZE:
        known = f"tree lock {(loc - LAYOUT.TREE_LOCK) // LAYOUT.LINE}"
    if known is None and MEMMAP <= loc < DATA:
        pfn, field = divmod(loc - MEMMAP, 64)
        known = f"{FIELDS.get(field, f'word {field}')}{pfn or ''}"
    return known


def show(value: Value, name: str) -> str:
    """Return a value as text: bit 31 of a reference count is FROZEN, of a lock LOCK_WAITERS."""
    if not isinstance(value, int) or value < 0x80000000:
        return str(value)
    rest = value - 0x80000000
    if name.startswith("ref") and rest < 0x100:
        return f"FROZEN+{rest}" if rest else "FROZEN"
    return f"{rest}+waiters" if name.endswith("lock") and rest < 0x100 else f"{value:#x}"


def look(mem: Mem, pfn: int) -> Value:
    """Return a page's content."""
    return mem.read(("page", pfn))


def fill(mem: Mem, pfn: int, content: Value) -> None:
    """Write a page's content."""
    mem.write(("page", pfn), content)


def poison(mem: Mem, pfn: int) -> None:
    """For stand-ins, as ``atomics.poison``: write a page's content, so that a thread that still uses the page races with it."""
    mem.write(("page", pfn), "freed")


def touch(mem: Mem, at: int) -> None:
    """Read the memory of the page at an offset of the segment, as the kernel's calls have left it: in scenarios in which a page
    may have none."""
    page = at - (at - DATA) % (1 << mem.page_shift)
    assert mem.read(("memory", page)) == 1, "a page without memory is touched"


# The allocator as one word, and no queues: for scenarios about references. The real ones have scenarios of their own.
ONE_PAGE = (
    Replace("page_alloc", "alloc", f"""
        def alloc(mem, me, order):
            return 0 if atomics.cmpxchg_acquire(mem, {FREE}, 1, 0) == 1 else layout.NIL
    """),
    Replace("page_alloc", "free", f"""
        def free(mem, me, pfn, order):
            atomics.poison(mem, pfn)
            assert atomics.exchange_release(mem, {FREE}, 1) == 0, "the page is freed twice"
            return True
    """),
    Replace("lru", "remove", """
        def remove(mem, me, pfn):
            return True
    """),
)  # fmt: skip
