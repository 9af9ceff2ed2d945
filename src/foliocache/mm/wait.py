"""Locks in shared memory: one word, 0 or the owner's client number + 1, with LOCK_WAITERS while somebody sleeps.

The critical sections behind these locks are short, never call Python and never wait for anything but a lock further down (the
order is in docs/layout.md), so a waiter spins a little before it sleeps.

A lock is *robust*: its owner may be killed. Its word names the owner, and a waiter that finds the owner dead takes the lock over
by a cmpxchg, which one waiter wins. ``lock`` says so, and the caller must then repair what the lock protects before it uses
it. Whoever dies in the repair leaves a lock with a dead owner again, so every repair starts from ground truth and may be
started any number of times. A wake-up that died with its sender is made up for within LOCK_SLICE_NS: sleepers look again.
"""

import cython

if not cython.compiled:
    from . import atomics, client, layout


def lock(mem, word, me):
    """Take the lock at offset word for client me. True: its owner died in the critical section, repair first.

    Acquire pairs with the release of ``unlock``.
    """
    if atomics.cmpxchg_acquire(mem, word, 0, me + 1) == 0:
        return False
    return _lock_slow(mem, word, me)


def unlock(mem, word):
    """Release it and wake one sleeper."""
    if atomics.exchange_release(mem, word, 0) & layout.LOCK_WAITERS:
        atomics.futex_wake(mem, word, 1)


def owner(mem, word):
    """The client that holds the lock now, or NIL."""
    held = atomics.load_relaxed(mem, word) & ~layout.LOCK_WAITERS
    return held - 1 if held else layout.NIL


def take_over(mem, word, dead, me):
    """Take the lock from a client that is known to be dead. False if it is not (or no longer) that one's."""
    held = atomics.load_relaxed(mem, word)
    if held & ~layout.LOCK_WAITERS != dead + 1:
        return False
    return atomics.cmpxchg_acquire(mem, word, held, (me + 1) | layout.LOCK_WAITERS) == held


def _lock_slow(mem, word, me):
    for _ in range(layout.LOCK_SPINS):
        if atomics.load_relaxed(mem, word) == 0 and atomics.cmpxchg_acquire(mem, word, 0, me + 1) == 0:
            return False
        atomics.cpu_relax()
    # One who has slept takes the lock with LOCK_WAITERS set: it cannot know whether others still sleep, and a needless wake is
    # cheaper than a lost one.
    while True:
        held = atomics.cmpxchg_acquire(mem, word, 0, (me + 1) | layout.LOCK_WAITERS)
        if held == 0:
            return False
        dead = (held & ~layout.LOCK_WAITERS) - 1
        # Nobody waits for a lock that he holds. So the caller's own number is a damaged word, or that of the slot's former client.
        if dead != me and client.is_alive(mem, dead):
            _sleep(mem, word, held)
        elif take_over(mem, word, dead, me):
            return True


def _sleep(mem, word, held):
    asleep = held | layout.LOCK_WAITERS
    if held != asleep and atomics.cmpxchg_relaxed(mem, word, held, asleep) != held:
        return
    atomics.futex_wait(mem, word, asleep, layout.LOCK_SLICE_NS)
