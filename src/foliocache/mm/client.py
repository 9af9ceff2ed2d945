"""A client's slot: the record, kept by one attached process, of the folios that it holds and works on. A reaper needs it if it
dies.

========================  =========================================================================================
CLIENT_OP_SEQ             odd from before an operation loads anything that names a folio until the operation ends
CLIENT_OPS                intents: the folios that the operation is getting, dropping, building or destroying
CLIENT_LEDGER             the pins that outlive an operation, one word each: those of leases and of windows' tables
CLIENT_UNNAMED            how many intents found no free word in CLIENT_OPS; 0 unless there is a bug
CLIENT_COUNTERS           statistics that a hit counts, too
CLIENT_STATISTICS         the others: durations, sources, evictions
========================  =========================================================================================

**The rule.** Before an operation takes the first step on a folio that a reaper would have to undo (adding or subtracting a
reference, taking a block off the free lists, clearing a slot of the index), it announces the folio in CLIENT_OPS, and it
retracts it after the last such step. A word there is an *intent*: it says only that some of the steps may have been taken. An
*owned* word in the ledger says that exactly one reference is held. So a lookup is: *announce*, add, look again, *hold*; and a
drop is: *announce* and clear the word of the ledger, subtract, perhaps destroy, *retract*. At no instruction is a reference
without a word, and no operation has more than four intents.

All these are plain stores to cache lines of the client's own. No fence orders them. Two kinds of reader exist:

- A reader that knows that the client is dead. The kernel dropped the client's lock after its last instruction. So everything up
  to some point of the client's program has been done and is visible, and nothing after that point has been done; ``write_once``
  keeps the compiler from reordering.
- A reaper that reads the slots of living clients, after ``wait_grace_period``. That issues a barrier in all processes first
  (membarrier(2)). A client that is not in an operation then (its CLIENT_OP_SEQ is even) sees in its next operation what the
  reaper did before the barrier. For the clients that are in an operation, the reaper waits.

A process runs one operation at a time: its threads hold the GIL throughout, and each operation is one call of a function of the
core, which begins and ends it. A client that sleeps until a folio is filled is in no operation.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def slot(mem, me):
    """Return the offset of client me's slot."""
    return atomics.clients(mem) + me * layout.CLIENT_SIZE


def count(mem, me, counter, n):
    """Add n to one of a client's counters. No other client writes them, so this need not be a read-modify-write."""
    atomics.count64(mem, slot(mem, me) + layout.CLIENT_COUNTERS + counter * 8, n)


def tally(mem, me, word, n):
    """Add n to one of a client's statistics, which are not counted on a hit. As ``count`` in all else."""
    atomics.count64(mem, slot(mem, me) + layout.CLIENT_STATISTICS + word * 8, n)


def record(mem, me, histogram, ns):
    """Count a duration in a histogram of a client's statistics: in the bucket of its length, and in the sum."""
    bucket = 0
    rest = ns >> layout.BUCKET_SHIFT
    while rest != 0 and bucket < layout.BUCKETS - 1:
        rest >>= 1
        bucket += 1
    tally(mem, me, histogram + bucket, 1)
    tally(mem, me, histogram + layout.STAT_SUM, ns)


def is_alive(mem, client):
    """True unless the client's process is known to have ended."""
    if client >= atomics.nclients_max(mem):
        return False
    # A number in a lock's word may come from a slot that this process does not know to have memory yet. Then the kernel knows.
    if client < atomics.nclients(mem) and state(mem, client) == layout.SLOT_DEAD:
        return False
    return atomics.client_alive(mem, client)


# Operations.


def op_begin(mem, me):
    """Begin an operation. The fence pairs with the heavy one in ``wait_grace_period``."""
    busy = slot(mem, me) + layout.CLIENT_OP_SEQ
    atomics.write_once(mem, busy, atomics.read_once(mem, busy) + 1)
    atomics.asymmetric_fence_light(mem)


def op_end(mem, me):
    """End the operation. Release: a client that waits for this in ``wait_grace_period`` sees everything that the operation
    did."""
    busy = slot(mem, me) + layout.CLIENT_OP_SEQ
    atomics.store_release(mem, busy, atomics.read_once(mem, busy) + 1)


def announce(mem, me, pfn):
    """Write an intent for a folio, before the first step on it.

    An operation has at most four intents, and OPS words for them. If a word is missing nevertheless, CLIENT_UNNAMED counts it,
    and the audit reports it.
    """
    op = slot(mem, me) + layout.CLIENT_OPS
    end = op + layout.OPS * 4
    while op < end and atomics.read_once(mem, op) != 0:
        op += 4
    if op < end:
        atomics.write_once(mem, op, pfn | layout.PIN_INTENT)
    else:
        unnamed = slot(mem, me) + layout.CLIENT_UNNAMED
        atomics.write_once(mem, unnamed, atomics.read_once(mem, unnamed) + 1)


def retract(mem, me, pfn):
    """Clear the intent for a folio, after the last step on it."""
    op = slot(mem, me) + layout.CLIENT_OPS
    end = op + layout.OPS * 4
    while op < end and atomics.read_once(mem, op) != pfn | layout.PIN_INTENT:
        op += 4
    if op < end:
        atomics.write_once(mem, op, 0)


# Pins.


def intents(mem, me):
    """Return how many intents are in CLIENT_OPS. Between two operations, these name the folios of operations that could not be
    finished, because a lock was refused."""
    count = 0
    for n in range(layout.OPS):
        if atomics.read_once(mem, word_at(mem, me, n)):
            count += 1
    return count


def defer(mem, me, n):
    """Move an intent from CLIENT_OPS to word n of the ledger, so that the next operation does not meet it. False if there is
    none.

    The copy is written first; duplicates are harmless.
    """
    for op in range(layout.OPS):
        name = atomics.read_once(mem, word_at(mem, me, op))
        if name:
            atomics.write_once(mem, pin(mem, me, n), name)
            atomics.write_once(mem, word_at(mem, me, op), 0)
            return True
    return False


def is_stalled(mem, client):
    """True if this process was refused a lock that client held, and client has made no progress since."""
    return atomics.is_stalled(mem, client, slot(mem, client) + layout.CLIENT_OP_SEQ)


def is_refused(mem):
    """True if the client that last refused this process a lock has made no progress since."""
    by = atomics.stalled_by(mem)
    return by != layout.NIL and is_stalled(mem, by)


def refused(mem, me, client):
    """Record that me was refused a lock because client holds it and makes no progress."""
    atomics.set_stalled(mem, client, slot(mem, client) + layout.CLIENT_OP_SEQ)
    count(mem, me, layout.COUNT_STALLS, 1)


def pin(mem, me, n):
    """Return the offset of word n of the ledger, n < PINS."""
    return slot(mem, me) + layout.CLIENT_LEDGER + n * 4


def hold(mem, me, n, pfn):
    """Turn the operation's reference on a folio that it has announced into pin n: the word is owned, the intent retracted."""
    atomics.write_once(mem, pin(mem, me, n), pfn | layout.PIN_OWNED)
    retract(mem, me, pfn)


def drop(mem, me, n, pfn):
    """Turn pin n back into a reference of the operation, with an intent, to be dropped or handed over."""
    announce(mem, me, pfn)
    atomics.write_once(mem, pin(mem, me, n), 0)


# The same together with the begin or the end of the operation, in one call for the hit path.


def keep(mem, me, n, pfn):
    """``hold`` and ``op_end``."""
    hold(mem, me, n, pfn)
    op_end(mem, me)


def let_go(mem, me, n, pfn):
    """``op_begin`` and ``drop``."""
    op_begin(mem, me)
    drop(mem, me, n, pfn)


def finish(mem, me, pfn):
    """``retract`` and ``op_end``."""
    retract(mem, me, pfn)
    op_end(mem, me)


def keep_intent(mem, me, n, pfn):
    """Move the intent for pfn to word n of the ledger, and end the operation."""
    atomics.write_once(mem, pin(mem, me, n), pfn | layout.PIN_INTENT)
    finish(mem, me, pfn)


def words(mem):
    """Return how many words of a slot can name a folio: those of CLIENT_OPS first, then those of the ledger."""
    return layout.OPS + layout.PINS


def word_at(mem, client, n):
    """Return the offset of the n-th of these words."""
    if n < layout.OPS:
        return slot(mem, client) + layout.CLIENT_OPS + n * 4
    return pin(mem, client, n - layout.OPS)


def is_idle(mem, client):
    """True if no folio is named in a client's slot. For the slot's owner or its reaper."""
    for n in range(words(mem)):
        if atomics.read_once(mem, word_at(mem, client, n)):
            return False
    return True


def wipe(mem, client):
    """Clear all words of a clean slot that can name a folio. The caller has the lock on the slot. They are 0 unless it was
    damaged."""
    for n in range(words(mem)):
        if atomics.read_once(mem, word_at(mem, client, n)):
            atomics.write_once(mem, word_at(mem, client, n), 0)


def pins(mem, client):
    """Return how many pins are in a client's ledger."""
    count = 0
    for n in range(layout.PINS):
        if atomics.load_relaxed(mem, pin(mem, client, n)) & layout.PIN_OWNED:
            count += 1
    return count


def move_intents(mem, me):
    """Move the intents that a dead client left in CLIENT_OPS to the ledger, for the next client of this slot. Each copy is
    written first; duplicates are harmless."""
    n = 0
    for op in range(layout.OPS):
        name = atomics.read_once(mem, word_at(mem, me, op))
        while name and n < layout.PINS and atomics.read_once(mem, pin(mem, me, n)):
            n += 1
        if name and n < layout.PINS:
            atomics.write_once(mem, pin(mem, me, n), name)
            atomics.write_once(mem, word_at(mem, me, op), 0)


def state(mem, client):
    """Return SLOT_CLEAN, SLOT_ATTACHED or SLOT_DEAD."""
    return atomics.load_acquire(mem, slot(mem, client) + layout.CLIENT_STATE)


def set_state(mem, client, state):
    """Set the slot's state. The caller holds the lock on the slot."""
    atomics.store_release(mem, slot(mem, client) + layout.CLIENT_STATE, state)


def attach(mem, me):
    """Start using a slot. The caller holds the lock on it."""
    _end_operation(mem, me)
    atomics.write_once(mem, slot(mem, me) + layout.CLIENT_UNNAMED, 0)
    set_state(mem, me, layout.SLOT_ATTACHED)


def detach(mem, client):
    """Mark a slot in which no folio is named as clean: the caller's own, or a dead client's that has been settled."""
    _end_operation(mem, client)
    set_state(mem, client, layout.SLOT_CLEAN)


def _end_operation(mem, client):
    """Make CLIENT_OP_SEQ even, so that no grace period waits for an operation in which a client died."""
    busy = slot(mem, client) + layout.CLIENT_OP_SEQ
    atomics.store_release(mem, busy, (atomics.load_relaxed(mem, busy) + 1) & ~1)


# What a reaper asks about other clients.


def wait_grace_period(mem, me):
    """Wait until every living client has ended the operation that it is in. False if one does not (it is stopped, for example).

    When this returns True, no operation is under way that began before the call. Must not be called within an operation: two
    clients could wait for each other until GRACE_NS is over.
    """
    atomics.asymmetric_fence_heavy(mem)
    for client in range(atomics.nclients(mem)):  # loaded after the fence: it counts who has begun an operation before
        if client != me and not _has_left(mem, client):
            return False
    return True


def op_seq(mem, client):
    """Return a number that changes when a client begins or ends an operation; it is odd while the client is in one.

    Words move within a slot, from CLIENT_OPS to the ledger and back, so reading them one by one is consistent only if this
    number is the same before and, with a membarrier in between, after. If one of the words read was written by an operation,
    the barrier has made that operation's odd number visible.
    """
    return atomics.load_acquire(mem, slot(mem, client) + layout.CLIENT_OP_SEQ)


def _has_left(mem, client):
    """Wait until a client has ended the operation that it is in. False if it has not after GRACE_NS, though it is alive."""
    at = slot(mem, client) + layout.CLIENT_OP_SEQ
    before = atomics.load_acquire(mem, at)
    deadline = 0
    while before & 1 and atomics.load_acquire(mem, at) == before:
        if not is_alive(mem, client):
            break
        now = atomics.now_ns()
        deadline = deadline if deadline else now + layout.GRACE_NS
        if now >= deadline:
            return False
        atomics.cpu_relax()
    return True
