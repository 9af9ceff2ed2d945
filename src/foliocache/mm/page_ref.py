"""The reference count of a folio, one 32-bit word. No other module accesses that word.

==============  =============================================================  ==================================
word            state                                                          which clients may access the folio
==============  =============================================================  ==================================
1 .. 2^30       live, that many references                                     those that hold one of them
0               transitional: the last reference is gone, no owner yet         none; the next step decides
FROZEN          one owner: destructor, allocator, reclaim, a folio being set   the owner
                up
FROZEN + n      as FROZEN; n failed getters have not cleaned up yet            the owner
==============  =============================================================  ==================================

Why this is correct, in five sentences. A getter adds one without looking, so it may revive a zero: a zero has no owner, and a
getter that comes first has a reference like any other. Every client that makes the count *become* zero tries ``0 -> FROZEN``;
one cmpxchg wins per life, and only the winner destroys the folio. The winner may have found another zero than the one it made
(ABA); that is harmless, because what is destroyed is decided after the freeze, from the folio. FROZEN stays set from there,
through the free lists, to ``init``, so a late getter of a former life fails, whatever the folio is by then. The count never
proves that a folio is the right one: every getter looks again at where it found the folio, see ``filemap``.

Source: the scheme of "[PATCH v4 0/2] mm: improve folio refcount scalability" (linux-mm, June 2026); names as in the kernel's
``include/linux/page_ref.h``.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def try_get(mem, folio):
    """Take a reference on a folio that may be in any state: one fetch_add, no loop.

    Return GOT; DEAD if the folio is frozen (no reference was taken); or SATURATED if it has too many references (one *was*
    taken, and the caller must put it and give up).

    Acquire pairs with the release of ``init``, ``unfreeze`` and ``put``, so that a client that gets a folio sees what its owner
    wrote.
    """
    old = atomics.fetch_add_acquire(mem, folio + layout.F_REF, 1)
    if old < layout.REF_MAX:
        return layout.GOT
    return _refuse(mem, folio, old)


def _refuse(mem, folio, old):
    if not old & layout.FROZEN:
        return layout.SATURATED
    # A plain store of FROZEN, or a fetch_sub, could change a new life's count; the cmpxchg changes only the value that this add
    # made. If another getter came in between, this fails and that getter's succeeds for both, so the word cannot creep towards
    # overflow.
    atomics.cmpxchg_relaxed(mem, folio + layout.F_REF, old + 1, layout.FROZEN)
    return layout.DEAD


def get(mem, folio):
    """Take another reference for a caller that already holds one. Return GOT, or SATURATED as in try_get.

    Relaxed: the caller's own reference is what makes the folio visible and keeps it.
    """
    old = atomics.fetch_add_relaxed(mem, folio + layout.F_REF, 1)
    return layout.GOT if old < layout.REF_MAX else layout.SATURATED


def put(mem, folio):
    """Drop a reference. True if this call froze the folio: the caller must then destroy it.

    Release on the subtraction: what this holder read and wrote comes before the drop. Acquire on the cmpxchg: it reads the end
    of a chain of subtractions, each a read-modify-write, so it is ordered after the releases of all holders.
    """
    if atomics.fetch_sub_release(mem, folio + layout.F_REF, 1) != 1:
        return False
    return atomics.cmpxchg_acquire(mem, folio + layout.F_REF, 0, layout.FROZEN) == 0


def freeze(mem, folio, n):
    """Turn exactly n references into ownership: n -> FROZEN. False if the count is not n: another client holds a reference."""
    return atomics.cmpxchg_acquire(mem, folio + layout.F_REF, n, layout.FROZEN) == n


def unfreeze(mem, folio, n):
    """Give up ownership, leaving n references. What failed getters added is overwritten; their cmpxchg then fails."""
    atomics.store_release(mem, folio + layout.F_REF, n)


def init(mem, folio, n):
    """Set the first references of a new life. Only for the client that allocated the frozen folio, after setting it up
    completely.

    A release store, because it starts the release sequence that late getters of this word synchronize with. Relaxed, it would
    cut the sequence of the former life and start none: a getter could then read the descriptor before it was written.
    """
    atomics.store_release(mem, folio + layout.F_REF, n)


def correct(mem, folio, wrong, right):
    """Correct a live count, for a reaper that knows how many references there are. False if the count has changed meanwhile."""
    return atomics.cmpxchg_relaxed(mem, folio + layout.F_REF, wrong, right) == wrong


def is_frozen(mem, folio):
    """True if the folio is frozen now."""
    return bool(atomics.load_relaxed(mem, folio + layout.F_REF) & layout.FROZEN)


def count(mem, folio):
    """Return the word. For audits and statistics; it proves nothing."""
    return atomics.load_relaxed(mem, folio + layout.F_REF)
