"""Locks in shared memory: one word, 0 or the owner's client number + 1, with LOCK_WAITERS while somebody sleeps.

The critical sections behind these locks are short, never call Python and never wait for anything but a lock further down (the
order is in docs/layout.md), so a waiter spins a little before it sleeps. The word names its owner, so that one who waits too
long can find out whether the owner still lives.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def lock(mem, word, me):
    """Take the lock at offset word for client me. Acquire pairs with the release of ``unlock``."""
    if atomics.cmpxchg_acquire(mem, word, 0, me + 1) != 0:
        _lock_slow(mem, word, me)


def unlock(mem, word):
    """Release it and wake one sleeper."""
    if atomics.exchange_release(mem, word, 0) & layout.LOCK_WAITERS:
        atomics.futex_wake(mem, word, 1)


def owner(mem, word):
    """The client that holds the lock now, or NIL."""
    held = atomics.load_relaxed(mem, word) & ~layout.LOCK_WAITERS
    return held - 1 if held else layout.NIL


def _lock_slow(mem, word, me):
    for _ in range(layout.LOCK_SPINS):
        if atomics.load_relaxed(mem, word) == 0 and atomics.cmpxchg_acquire(mem, word, 0, me + 1) == 0:
            return
        atomics.cpu_relax()
    # One who has slept takes the lock with LOCK_WAITERS set: it cannot know whether others still sleep, and a needless wake is
    # cheaper than a lost one.
    while atomics.cmpxchg_acquire(mem, word, 0, (me + 1) | layout.LOCK_WAITERS) != 0:
        _sleep(mem, word)


def _sleep(mem, word):
    held = atomics.load_relaxed(mem, word)
    if held == 0:
        return
    asleep = held | layout.LOCK_WAITERS
    if held != asleep and atomics.cmpxchg_relaxed(mem, word, held, asleep) != held:
        return
    atomics.futex_wait(mem, word, asleep, layout.LOCK_SLICE_NS)
