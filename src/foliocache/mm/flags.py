"""The flags of a folio: one word of bits, and the only module that touches it.

============  ===================================================================================================
PG_LOCKED     its content is being read from the source; F_OWNER is the client that does it
PG_WAITERS    somebody sleeps on this word until PG_LOCKED goes
PG_UPTODATE   the content is there, and never changes again in this life
PG_ERROR      the source failed: the folio has been withdrawn from its mapping
PG_REFERENCED used since reclaim last looked
PG_READAHEAD  whoever uses it should read the next folios ahead
PG_REASON     with PG_ERROR: the page itself says why
============  ===================================================================================================

The kernel's counterparts are in ``include/linux/page-flags.h`` and ``mm/filemap.c``.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def init(mem, folio, bits):
    """First flags of a new life. Relaxed: ``page_ref.init`` publishes them."""
    atomics.store_relaxed(mem, folio + layout.F_FLAGS, bits)


def load(mem, folio):
    """The flags now. Acquire pairs with ``unlock``: who sees PG_UPTODATE sees the content."""
    return atomics.load_acquire(mem, folio + layout.F_FLAGS)


def mark_referenced(mem, folio, seen):
    """Note a use; seen are the flags just loaded. Most hits write nothing: the bit stays until reclaim comes round."""
    if not seen & layout.PG_REFERENCED:
        atomics.fetch_or_relaxed(mem, folio + layout.F_FLAGS, layout.PG_REFERENCED)


def set_readahead(mem, folio):
    """Make it the marker at which the next window is read ahead."""
    atomics.fetch_or_relaxed(mem, folio + layout.F_FLAGS, layout.PG_READAHEAD)


def clear(mem, folio, bits):
    """Clear bits that carry no ordering (PG_REFERENCED, PG_READAHEAD); returns which of them were set."""
    return atomics.fetch_and_relaxed(mem, folio + layout.F_FLAGS, ~bits) & bits


def unlock(mem, folio, result):
    """End a fill: set result (PG_UPTODATE, or PG_ERROR with or without PG_REASON), drop PG_LOCKED, wake everybody who sleeps on it.

    The result goes in first: a waiter that finds PG_LOCKED gone finds the result in the same word. Release, for the content: a
    reader may see PG_UPTODATE before PG_LOCKED goes. The second step continues the release sequence of the first, being a
    read-modify-write, so it may be relaxed.
    """
    atomics.fetch_or_release(mem, folio + layout.F_FLAGS, result)
    keep = ~(layout.PG_LOCKED | layout.PG_WAITERS)
    if atomics.fetch_and_relaxed(mem, folio + layout.F_FLAGS, keep) & layout.PG_WAITERS:
        atomics.futex_wake(mem, folio + layout.F_FLAGS, layout.NIL)


def wait(mem, folio, timeout_ns):
    """Sleep until the folio is unlocked. The flags then; or with PG_LOCKED still in them, after timeout_ns or at a signal.

    No wake-up is lost: PG_WAITERS is set by a cmpxchg on the very value that the futex compares, so an unlock in between changes
    the word and the futex refuses to sleep.
    """
    deadline = atomics.now_ns() + timeout_ns
    while True:
        seen = atomics.load_acquire(mem, folio + layout.F_FLAGS)
        if not seen & layout.PG_LOCKED:
            return seen
        now = atomics.now_ns()
        if now >= deadline:
            return seen
        asleep = seen | layout.PG_WAITERS
        if seen != asleep and atomics.cmpxchg_relaxed(mem, folio + layout.F_FLAGS, seen, asleep) != seen:
            continue
        if atomics.futex_wait(mem, folio + layout.F_FLAGS, asleep, deadline - now) == layout.INTERRUPTED:
            return atomics.load_acquire(mem, folio + layout.F_FLAGS)
