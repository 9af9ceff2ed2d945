"""Locks in shared memory: one word, 0 or the owner's client number + 1, with LOCK_WAITERS while somebody sleeps.

The critical sections behind these locks are short, never call Python and never wait for anything but a lock further down (the
order is in docs/layout.md), so a waiter spins a little before it sleeps.

A lock is *robust*: its owner may be killed. Its word names the owner, and a waiter that finds the owner dead takes the lock over
by a cmpxchg, which one waiter wins. ``lock`` says so, and the caller must then repair what the lock protects before it uses
it. A client that dies in the repair leaves a lock with a dead owner again, so every repair starts from ground truth and may be
started any number of times. A wake-up that died with its sender is made up for within LOCK_SLICE_NS: sleepers look again.

An owner may also be *stopped* (SIGSTOP, a debugger, a frozen cgroup) and live on. Nobody may take the lock from it, so a client that has
waited LOCK_PATIENCE_NS is refused (LOCK_BUSY). It gives its operation up as if it had died there: folios that it cannot put where
they belong stay named in its slot, for ``reap.resolve_intents`` to settle when the lock is free again; and an outer lock whose part it leaves
half changed gets LOCK_BROKEN, which its next owner treats like the word of a dead one. As long as that owner does not go on, the
client is refused at once (``atomics.is_stalled``).
"""

import cython

if not cython.compiled:
    from . import atomics, client, layout


def lock(mem, word, me):
    """Take the lock at offset word for client me: LOCK_TAKEN; LOCK_REPAIR: taken, but what it protects must be repaired first; or
    LOCK_BUSY: not taken.

    Acquire pairs with the release of ``unlock``.
    """
    if atomics.cmpxchg_acquire(mem, word, 0, me + 1) == 0:
        return layout.LOCK_TAKEN
    return _lock_slow(mem, word, me)


def unlock(mem, word):
    """Release it and wake one sleeper."""
    if atomics.fetch_and_release(mem, word, layout.LOCK_BROKEN) & layout.LOCK_WAITERS:
        atomics.futex_wake(mem, word, 1)


def mark_broken(mem, word):
    """Let the next owner of a lock that the caller holds repair what it protects. Relaxed: ``unlock`` releases it."""
    atomics.fetch_or_relaxed(mem, word, layout.LOCK_BROKEN)


def owner(mem, word):
    """The client that holds the lock now, or NIL."""
    held = atomics.load_relaxed(mem, word) & layout.LOCK_OWNER
    return held - 1 if held else layout.NIL


def take_over(mem, word, dead, me):
    """Take the lock from a client that is known to be dead, or one that is broken and that nobody holds. False if it is neither."""
    held = atomics.load_relaxed(mem, word)
    if held & layout.LOCK_OWNER != dead + 1 and held & ~layout.LOCK_WAITERS != layout.LOCK_BROKEN:
        return False
    return _take(mem, word, held, me)


def _lock_slow(mem, word, me):
    for _ in range(layout.LOCK_SPINS):
        if atomics.load_relaxed(mem, word) == 0 and atomics.cmpxchg_acquire(mem, word, 0, me + 1) == 0:
            return layout.LOCK_TAKEN
        atomics.cpu_relax()
    deadline = 0
    # A client that has slept takes the lock with LOCK_WAITERS set: it cannot know whether others still sleep, and a needless wake is
    # cheaper than a lost one.
    while True:
        held = atomics.cmpxchg_acquire(mem, word, 0, (me + 1) | layout.LOCK_WAITERS)
        if held == 0:
            return layout.LOCK_TAKEN
        found = held & layout.LOCK_OWNER
        # Nobody waits for a lock that it holds. So the caller's own number is a damaged word, or that of the slot's former client.
        if found != 0 and found != me + 1 and client.is_alive(mem, found - 1):
            now = atomics.now_ns()
            deadline = deadline if deadline else now + layout.LOCK_PATIENCE_NS
            if now >= deadline or client.is_stalled(mem, found - 1):
                client.refused(mem, me, found - 1)
                return layout.LOCK_BUSY
            _sleep(mem, word, held)
        elif _take(mem, word, held, me):
            return layout.LOCK_REPAIR


def _take(mem, word, held, me):
    return atomics.cmpxchg_acquire(mem, word, held, (me + 1) | layout.LOCK_WAITERS) == held


def _sleep(mem, word, held):
    asleep = held | layout.LOCK_WAITERS
    if held != asleep and atomics.cmpxchg_relaxed(mem, word, held, asleep) != held:
        return
    atomics.futex_wait(mem, word, asleep, layout.LOCK_SLICE_NS)
