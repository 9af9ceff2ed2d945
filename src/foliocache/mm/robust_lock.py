"""Locks in shared memory: one word, 0 or the owner's client number + 1, with LOCK_WAITERS while a client sleeps on it.

The critical sections of these locks are short, never call Python, and wait for nothing but a lock that is later in the lock
order (docs/layout.md), so a waiter spins for a short time before it sleeps.

A lock is *robust*: its owner may be killed. The word names the owner, and a waiter that finds the owner dead takes the lock
over by a cmpxchg, which one waiter wins. ``lock`` then returns LOCK_REPAIR, and the caller must repair what the lock protects
before it uses it. A client that dies in the repair leaves a lock with a dead owner again, so every repair starts from ground
truth and may be started any number of times. A wake-up that is lost because its sender died costs at most LOCK_SLICE_NS:
sleepers look again.

An owner may also be *stopped* (SIGSTOP, a debugger, a frozen cgroup) and live on. The lock must not be taken from it, so a
client that has waited LOCK_PATIENCE_NS is refused (LOCK_BUSY). It gives up its operation as if it had died there: its slot
keeps the intents for folios that it could not finish with, and ``reap.resolve_intents`` settles them when the lock is free
again; and an outer lock whose data it leaves inconsistent gets LOCK_BROKEN, which the next owner treats like the word of a dead
owner. As long as the stopped owner makes no progress, the client is refused at once (``atomics.is_stalled``).
"""

import cython

if not cython.compiled:
    from . import atomics, client, layout


def lock(mem, word, me):
    """Take the lock at offset word for client me. Return LOCK_TAKEN; LOCK_REPAIR: taken, and the caller must first repair what
    it protects; or LOCK_BUSY: not taken, after LOCK_PATIENCE_NS, or at once if its owner is known to be stopped.

    Acquire pairs with the release of ``unlock``.
    """
    if atomics.cmpxchg_acquire(mem, word, 0, me + 1) == 0:
        return layout.LOCK_TAKEN
    begin = atomics.now_ns()
    got = _lock_slow(mem, word, me)
    client.record(mem, me, layout.STAT_LOCK_WAITS, atomics.now_ns() - begin)
    return got


def unlock(mem, word):
    """Release the lock and wake one sleeper."""
    if atomics.fetch_and_release(mem, word, layout.LOCK_BROKEN) & layout.LOCK_WAITERS:
        atomics.futex_wake(mem, word, 1)


def mark_broken(mem, word):
    """Make the next owner of a lock that the caller holds repair what it protects. Relaxed: ``unlock`` publishes it."""
    atomics.fetch_or_relaxed(mem, word, layout.LOCK_BROKEN)


def owner(mem, word):
    """Return the client that holds the lock, or NIL."""
    held = atomics.load_relaxed(mem, word) & layout.LOCK_OWNER
    return held - 1 if held else layout.NIL


def take_over(mem, word, dead, me):
    """Take a lock whose owner is the dead client, or one that is marked broken and has no owner. False if it is neither."""
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
    # A client that has slept takes the lock with LOCK_WAITERS set: it cannot know whether others still sleep, and a needless
    # wake is cheaper than a lost one.
    while True:
        held = atomics.cmpxchg_acquire(mem, word, 0, (me + 1) | layout.LOCK_WAITERS)
        if held == 0:
            return layout.LOCK_TAKEN
        found = held & layout.LOCK_OWNER
        # No client waits for a lock that it holds. So if this is the caller's own number, the word is damaged, or the owner was
        # the former client of its slot.
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
