"""The flags of a folio, one word of bits. No other module accesses that word.

============  ===================================================================================================
PG_LOCKED     the content is being read from the source; F_OWNER is the client that does it
PG_WAITERS    at least one client sleeps on this word until PG_LOCKED is cleared
PG_UPTODATE   the content is complete, and does not change again in this life
PG_ERROR      the source failed: the folio has been removed from its mapping
PG_REFERENCED used since reclaim last looked
PG_READAHEAD  the client that uses this folio should read ahead
PG_REASON     with PG_ERROR: the page contains the reason
============  ===================================================================================================

The kernel's counterparts are in ``include/linux/page-flags.h`` and ``mm/filemap.c``.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def init(mem, folio, bits):
    """Set the first flags of a new life. Relaxed: ``page_ref.init`` publishes them."""
    atomics.store_relaxed(mem, folio + layout.F_FLAGS, bits)


def load(mem, folio):
    """Return the flags. Acquire pairs with the release in ``unlock``: a client that sees PG_UPTODATE sees the content."""
    return atomics.load_acquire(mem, folio + layout.F_FLAGS)


def mark_referenced(mem, folio, seen):
    """Set PG_REFERENCED; seen are the flags just loaded. Most hits write nothing: the bit stays set until reclaim clears it."""
    if not seen & layout.PG_REFERENCED:
        atomics.fetch_or_relaxed(mem, folio + layout.F_FLAGS, layout.PG_REFERENCED)


def set_readahead(mem, folio):
    """Mark the folio as the one at which the next readahead window starts."""
    atomics.fetch_or_relaxed(mem, folio + layout.F_FLAGS, layout.PG_READAHEAD)


def clear(mem, folio, bits):
    """Clear bits that order nothing (PG_REFERENCED, PG_READAHEAD). Return those of them that were set."""
    return atomics.fetch_and_relaxed(mem, folio + layout.F_FLAGS, ~bits) & bits


def unlock(mem, folio, result):
    """End a fill: set result (PG_UPTODATE, or PG_ERROR with or without PG_REASON), clear PG_LOCKED, wake all waiters.

    The result is set first: a waiter that finds PG_LOCKED cleared finds the result in the same word. The first step is a
    release, for the content: a reader may see PG_UPTODATE while PG_LOCKED is still set. The second step is a read-modify-write
    and so continues the release sequence of the first; it may be relaxed.
    """
    atomics.fetch_or_release(mem, folio + layout.F_FLAGS, result)
    keep = ~(layout.PG_LOCKED | layout.PG_WAITERS)
    if atomics.fetch_and_relaxed(mem, folio + layout.F_FLAGS, keep) & layout.PG_WAITERS:
        atomics.futex_wake(mem, folio + layout.F_FLAGS, layout.NIL)


def begin_wait(mem, folio):
    """Announce a sleeper, unless the folio is unlocked. Return the flags; with PG_LOCKED, they are what the futex compares.

    No wake-up is lost: PG_WAITERS is set by a cmpxchg on the value that the futex compares, so an unlock in between changes the
    word and the futex does not sleep.
    """
    while True:
        seen = atomics.load_acquire(mem, folio + layout.F_FLAGS)
        if not seen & layout.PG_LOCKED:
            return seen
        asleep = seen | layout.PG_WAITERS
        if seen == asleep or atomics.cmpxchg_relaxed(mem, folio + layout.F_FLAGS, seen, asleep) == seen:
            return asleep


def wait(mem, folio, timeout_ns):
    """Sleep until the folio is unlocked. Return the flags; PG_LOCKED is still set after timeout_ns nanoseconds or at a
    signal."""
    deadline = atomics.now_ns() + timeout_ns
    while True:
        seen = atomics.load_acquire(mem, folio + layout.F_FLAGS)
        now = atomics.now_ns()
        if not seen & layout.PG_LOCKED or now >= deadline:
            return seen
        seen = begin_wait(mem, folio)
        if not seen & layout.PG_LOCKED:
            return seen
        if atomics.futex_wait(mem, folio + layout.F_FLAGS, seen, deadline - now) == layout.INTERRUPTED:
            return atomics.load_acquire(mem, folio + layout.F_FLAGS)
