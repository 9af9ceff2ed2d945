"""The turn of a process: which of its threads uses what the process keeps for itself of one pool, where there is no GIL. Two
words of the process's own memory, not of the segment.

A thread that runs no Python meanwhile takes its turn by one exchange, and ends it by a store. Others have the interpreter's
lock of the pool (``pool/section.h``), which is released while they wait; they exclude such turns for as long. The two look at
each other as in Dekker's algorithm: each writes its own word and then reads the other's, so one of them sees the other. A
thread that finds a turn taken, or excluded, does not wait here: it takes the interpreter's lock.

The kernel's counterpart is ``percpu_rw_semaphore``, whose readers are these turns.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def try_begin(mem, turn):
    """Take the turn. False if another thread has it, or excludes it.

    The exchange and the load are seq_cst, with their counterparts in ``exclude`` and ``is_taken``. They acquire what ``end``
    and ``readmit`` release.
    """
    if atomics.exchange_seq_cst(mem, turn + layout.TURN_INSIDE, 1) != 0:
        return False
    if atomics.load_seq_cst(mem, turn + layout.TURN_EXCLUDED) == 0:
        return True
    end(mem, turn)
    return False


def end(mem, turn):
    """End the turn. Release: the next one, and who excludes it, see what was done in it."""
    atomics.store_release(mem, turn + layout.TURN_INSIDE, 0)


def exclude(mem, turn):
    """Keep turns from beginning, until ``readmit``. The caller has the interpreter's lock, so the word is its own to count in,
    and has no turn. It then waits until the one that has begun ends (``is_taken``), which takes tens of nanoseconds."""
    excluded = turn + layout.TURN_EXCLUDED
    atomics.store_seq_cst(mem, excluded, atomics.load_relaxed(mem, excluded) + 1)


def is_taken(mem, turn):
    """True if a thread has the turn, or has just tried to take it."""
    return atomics.load_seq_cst(mem, turn + layout.TURN_INSIDE) != 0


def readmit(mem, turn):
    """Let turns begin, unless another thread still excludes them. Release: the next turn sees what was done meanwhile."""
    excluded = turn + layout.TURN_EXCLUDED
    atomics.store_release(mem, excluded, atomics.load_relaxed(mem, excluded) - 1)
