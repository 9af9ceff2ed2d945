"""The reference count of a folio: one 32-bit word, and the only module that touches it.

==============  =============================================================  ==================================
word            state                                                          who may touch the folio
==============  =============================================================  ==================================
1 .. 2^30       live, that many references                                     whoever holds one of them
0               transitional: the last reference is gone, no owner yet         nobody; the next step decides
FROZEN          one owner: destructor, allocator, reclaim, a folio being set   that owner alone
                up
FROZEN + n      as FROZEN; n failed getters have not cleaned up yet            that owner alone
==============  =============================================================  ==================================

Why this is right, in five sentences. A getter adds one without looking, so it may revive a zero: zero is nobody's, and a getter
that got there first has a reference like any other. Everybody who sees the count *become* zero tries ``0 -> FROZEN``; one
cmpxchg wins per life, and the winner alone destroys the folio. That the winner may have seen another zero than the one it
made (ABA) does no harm, because what is destroyed is decided after the freeze, from the folio. FROZEN stays on from there
through the free lists to ``init``, so a late getter of a former life fails, whatever the folio is by then. The count is never
the proof that a folio is the right one: every getter looks again at where it found the folio, see ``filemap``.

Source: the scheme of "[PATCH v4 0/2] mm: improve folio refcount scalability" (linux-mm, June 2026); names as in the kernel's
``include/linux/page_ref.h``.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def try_get(mem, folio):
    """Take a reference on a folio that may be anybody's by now: one fetch_add, no loop.

    Returns GOT; DEAD when the folio is frozen (nothing was taken); SATURATED when it has too many references (one *was*
    taken, and the caller must put it and give up).

    Acquire: pairs with the release of ``init``, ``unfreeze`` and ``put``, so that who gets a folio sees what its owner wrote.
    """
    old = atomics.fetch_add_acquire(mem, folio + layout.F_REF, 1)
    if old < layout.REF_MAX:
        return layout.GOT
    return _refuse(mem, folio, old)


def _refuse(mem, folio, old):
    if not old & layout.FROZEN:
        return layout.SATURATED
    # Undo only what is still there: a plain store of FROZEN, or a fetch_sub, could hit a new life's count. When another getter came
    # between, this fails and the later one's succeeds for both, so the word cannot creep towards overflow.
    atomics.cmpxchg_relaxed(mem, folio + layout.F_REF, old + 1, layout.FROZEN)
    return layout.DEAD


def get(mem, folio):
    """One more reference for somebody who holds one already: GOT, or SATURATED as in try_get.

    Relaxed: the caller's own reference is what makes the folio visible and keeps it.
    """
    old = atomics.fetch_add_relaxed(mem, folio + layout.F_REF, 1)
    return layout.GOT if old < layout.REF_MAX else layout.SATURATED


def put(mem, folio):
    """Drop a reference. True: this call froze the folio, and the caller must destroy it.

    Release on the sub: what this holder read and wrote comes before the drop. Acquire on the cmpxchg: it reads the end of a chain
    of subs, each a read-modify-write, hence it is ordered after all of the holders' releases.
    """
    if atomics.fetch_sub_release(mem, folio + layout.F_REF, 1) != 1:
        return False
    return atomics.cmpxchg_acquire(mem, folio + layout.F_REF, 0, layout.FROZEN) == 0


def freeze(mem, folio, n):
    """Turn exactly n references into ownership: n -> FROZEN. False: somebody else holds one."""
    return atomics.cmpxchg_acquire(mem, folio + layout.F_REF, n, layout.FROZEN) == n


def unfreeze(mem, folio, n):
    """Give up ownership, leaving n references. Failed getters' leftovers are overwritten; their cmpxchg then fails."""
    atomics.store_release(mem, folio + layout.F_REF, n)


def init(mem, folio, n):
    """First references of a new life; only the allocator's caller, on a frozen folio that is set up completely.

    A release store, because it starts the release sequence that late getters of this word synchronize with. Relaxed, it would
    cut the sequence of the former life and start none: a getter could then read the descriptor before it was written.
    """
    atomics.store_release(mem, folio + layout.F_REF, n)


def correct(mem, folio, wrong, right):
    """Set a live count right, by a reaper that knows how many references there are. False: it has changed meanwhile."""
    return atomics.cmpxchg_relaxed(mem, folio + layout.F_REF, wrong, right) == wrong


def is_frozen(mem, folio):
    """Whether somebody owns the folio now."""
    return bool(atomics.load_relaxed(mem, folio + layout.F_REF) & layout.FROZEN)


def count(mem, folio):
    """The word as it is now: for audits and statistics, proves nothing."""
    return atomics.load_relaxed(mem, folio + layout.F_REF)
