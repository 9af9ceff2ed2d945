"""A client's slot: what one attached process writes down for those who may have to clean up after it.

========================  =========================================================================================
CLIENT_OP_SEQ               odd from before an operation loads anything that names a folio until it is over
CLIENT_OPS                the folios that it is getting, dropping, building or destroying just now
CLIENT_LEDGER             the pins that outlive an operation, one word each: those of leases and of windows' tables
CLIENT_UNNAMED            how often CLIENT_OPS was too short: never
CLIENT_COUNTERS           statistics
========================  =========================================================================================

**The rule.** Before an operation does the first thing to a folio that another would have to undo (an add, a sub, taking a block
off the free lists, clearing a slot), the folio's name is in CLIENT_OPS; it leaves again after the last such thing. A name there
says only that something may have been done. A name in the ledger says that exactly one reference is held. So a lookup goes:
*announce*, add, look again, *hold*; and a drop: *announce* and take it out of the ledger, sub, perhaps destroy, *retract*. At no point is a
reference unnamed, and at most a few names are intents.

All these are plain stores to lines of the client's own. No fence orders them, because of who reads them:

- one who knows that the client is dead. The kernel dropped its lock after its last instruction, so everything up to some point
  of its program has been done and can be seen, and nothing behind it. ``write_once`` keeps the compiler from reordering.
- the reaper, about living clients, after ``wait_grace_period``: a process-wide barrier first (membarrier(2)), so that whoever is not seen in an
  operation (CLIENT_OP_SEQ even) will see in its next one what the reaper had done before; then it waits for those who were.

A process runs one operation at a time: its threads hold the GIL throughout, and each operation is one call of a function of the
core, which begins and ends it. While it sleeps for a filler it is in none.
"""

import cython

if not cython.compiled:
    from . import atomics, layout


def slot(mem, me):
    """The offset of client me's slot."""
    return atomics.clients(mem) + me * layout.CLIENT_SIZE


def count(mem, me, counter, n):
    """Add n to one of a client's counters. Each client writes only its own, so this is no read-modify-write."""
    atomics.count64(mem, slot(mem, me) + layout.CLIENT_COUNTERS + counter * 8, n)


def is_alive(mem, client):
    """Whether that client's process still is."""
    if client >= atomics.nclients(mem):
        return False
    return state(mem, client) != layout.SLOT_DEAD and atomics.client_alive(mem, client)


# Operations.


def op_begin(mem, me):
    """Begin an operation. The barrier pairs with the one in ``wait_grace_period``."""
    busy = slot(mem, me) + layout.CLIENT_OP_SEQ
    atomics.write_once(mem, busy, atomics.read_once(mem, busy) + 1)
    atomics.asymmetric_fence_light(mem)


def op_end(mem, me):
    """End it. Release: who waits for this sees all that the operation did."""
    busy = slot(mem, me) + layout.CLIENT_OP_SEQ
    atomics.store_release(mem, busy, atomics.read_once(mem, busy) + 1)


def announce(mem, me, pfn):
    """Name a folio before the first thing is done to it.

    An operation has four in hand at most, and OPS words. Were there ever one too many, CLIENT_UNNAMED says so, and the audit with it.
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
    """Take the name away after the last thing has been done."""
    op = slot(mem, me) + layout.CLIENT_OPS
    end = op + layout.OPS * 4
    while op < end and atomics.read_once(mem, op) != pfn | layout.PIN_INTENT:
        op += 4
    if op < end:
        atomics.write_once(mem, op, 0)


# Pins.


def in_hand(mem, me):
    """How many names are in CLIENT_OPS now. Between two operations: those of folios that could not be put where they belong, because a
    lock was held by a client that does not go on."""
    count = 0
    for n in range(layout.OPS):
        if atomics.read_once(mem, word_at(mem, me, n)):
            count += 1
    return count


def defer(mem, me, n):
    """Move a name from CLIENT_OPS to word n of the ledger, as an intent: it is none of the next operation's. False if there is none.

    The copy comes first; duplicates are harmless.
    """
    for op in range(layout.OPS):
        name = atomics.read_once(mem, word_at(mem, me, op))
        if name:
            atomics.write_once(mem, pin(mem, me, n), name)
            atomics.write_once(mem, word_at(mem, me, op), 0)
            return True
    return False


def is_stalled(mem, client):
    """Whether this process was refused a lock that client held, and client has not gone on since."""
    return atomics.is_stalled(mem, client, slot(mem, client) + layout.CLIENT_OP_SEQ)


def is_refused(mem):
    """Whether the client that held a lock when this process was refused it has not gone on since."""
    by = atomics.stalled_by(mem)
    return by != layout.NIL and is_stalled(mem, by)


def refused(mem, me, client):
    """Remember that client holds a lock and does not go on."""
    atomics.set_stalled(mem, client, slot(mem, client) + layout.CLIENT_OP_SEQ)
    count(mem, me, layout.COUNT_STALLS, 1)


def pin(mem, me, n):
    """The offset of word n of the ledger, n < PINS."""
    return slot(mem, me) + layout.CLIENT_LEDGER + n * 4


def hold(mem, me, n, pfn):
    """One reference on a folio that the operation has named is a pin from now on."""
    atomics.write_once(mem, pin(mem, me, n), pfn | layout.PIN_OWNED)
    retract(mem, me, pfn)


def drop(mem, me, n, pfn):
    """A pin is none any more: its reference is the operation's, which drops it or gives it away."""
    announce(mem, me, pfn)
    atomics.write_once(mem, pin(mem, me, n), 0)


# The same at the ends of an operation, in one call for the hit path.


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
    """The name goes from the operation to word n of the ledger, as an intent, and the operation ends."""
    atomics.write_once(mem, pin(mem, me, n), pfn | layout.PIN_INTENT)
    finish(mem, me, pfn)


def words(mem):
    """How many words of a slot can name a folio: those of the operation first, then the ledger."""
    return layout.OPS + layout.PINS


def word_at(mem, client, n):
    """The offset of the n-th of them."""
    if n < layout.OPS:
        return slot(mem, client) + layout.CLIENT_OPS + n * 4
    return pin(mem, client, n - layout.OPS)


def is_idle(mem, client):
    """Whether no folio is named in a client's slot; for its owner or its reaper."""
    for n in range(words(mem)):
        if atomics.read_once(mem, word_at(mem, client, n)):
            return False
    return True


def wipe(mem, client):
    """Clear what is named in a clean slot, by whoever has the lock on it: there is nothing, unless the slot was damaged."""
    for n in range(words(mem)):
        if atomics.read_once(mem, word_at(mem, client, n)):
            atomics.write_once(mem, word_at(mem, client, n), 0)


def pins(mem, client):
    """How many pins are in a client's ledger."""
    count = 0
    for n in range(layout.PINS):
        if atomics.load_relaxed(mem, pin(mem, client, n)) & layout.PIN_OWNED:
            count += 1
    return count


def move_intents(mem, me):
    """Free CLIENT_OPS of the names that a dead client has left there, for its successor in the slot: they go to the ledger, as
    intents. The copy comes first, and duplicates are harmless."""
    n = 0
    for op in range(layout.OPS):
        name = atomics.read_once(mem, word_at(mem, me, op))
        while name and n < layout.PINS and atomics.read_once(mem, pin(mem, me, n)):
            n += 1
        if name and n < layout.PINS:
            atomics.write_once(mem, pin(mem, me, n), name)
            atomics.write_once(mem, word_at(mem, me, op), 0)


def state(mem, client):
    """SLOT_CLEAN, SLOT_ATTACHED or SLOT_DEAD."""
    return atomics.load_acquire(mem, slot(mem, client) + layout.CLIENT_STATE)


def set_state(mem, client, state):
    """By whoever holds the lock on the slot."""
    atomics.store_release(mem, slot(mem, client) + layout.CLIENT_STATE, state)


def attach(mem, me):
    """Begin to use a slot."""
    _end_operation(mem, me)
    atomics.write_once(mem, slot(mem, me) + layout.CLIENT_UNNAMED, 0)
    set_state(mem, me, layout.SLOT_ATTACHED)


def detach(mem, client):
    """Leave a slot in which no folio is named, or clean it up after a dead client."""
    _end_operation(mem, client)
    set_state(mem, client, layout.SLOT_CLEAN)


def _end_operation(mem, client):
    """The operation in which a client died is over, and no grace period waits for it."""
    busy = slot(mem, client) + layout.CLIENT_OP_SEQ
    atomics.store_release(mem, busy, (atomics.load_relaxed(mem, busy) + 1) & ~1)


# What a reaper asks about the others.


def wait_grace_period(mem, me):
    """Wait until every living client has left the operation it was in. False when one does not (it is stopped, for example).

    Afterwards no operation is under way that began before the call. Not within an operation of one's own: two who waited for each
    other would wait long.
    """
    atomics.asymmetric_fence_heavy(mem)
    for client in range(atomics.nclients(mem)):
        if client != me and not _has_left(mem, client):
            return False
    return True


def op_seq(mem, client):
    """A number that changes when a client begins or ends an operation; odd while it is in one.

    Names move within a slot, from the operation to the ledger and back, so what is read there word by word counts only if this
    is the same before and, with a membarrier in between, behind. If a word that was read was written by an operation, then the
    barrier has made that operation's odd number visible.
    """
    return atomics.load_acquire(mem, slot(mem, client) + layout.CLIENT_OP_SEQ)


def _has_left(mem, client):
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
