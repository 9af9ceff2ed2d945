"""Names: what a key means now. They are the kernel's dentries, for keys that only a remote origin can look up.

A name is a record that says what is known of its key: that it means an object (NAME_PRESENT: its size, its version, and some
bytes that belong to the asker), or that there is no such object (NAME_ABSENT). It also says when the question was asked that
this answers, and whether a client is asking the origin now. All processes share it. So one of them asks, and the others use the
answer (``begin``) or sleep until it is there (``join``, ``sleep``).

A name has an *id* that is never given twice. The asker gets the id with the question, and its answer is written only while the
record still has that id. ``forget`` drops the record, so an answer to a question from before the ``forget`` finds no record and
is not written; the next ``begin`` makes another record, with another id. Nothing else has to be kept of a forgotten key.

**Readers take no lock.** The index is an array of words in sets of NAME_WAYS. A key's digest chooses the set, and every word of
the set is looked at. ``lookup`` copies a record between two loads of its sequence word. The word is odd while a client writes,
and each of its even values is given once, whatever records the memory holds in its lives. So what was copied between two equal
even values is one answer, and belongs to the digest that was copied with it. A record that is being written counts as unknown;
``begin`` finds out under the lock. Within an operation a record's page remains a page of names (see ``slab``).

**Writers** hold NAMES_LOCK. If a set is full, a name that was not looked up since the set was last full makes room, or else the
one with the oldest answer; never one that a client is asking for. There are nnames words, so names take a bounded share of the
pool.

**Ground truth**, for repairs after an owner of the lock was killed: a name is a record that is in use in its slab, has its own
number in NAME_ID, and has an even sequence word that is not 0. The index is rebuilt from those. A record that was being written
is dropped with its id, so its key is asked for once more.

**A dead asker** is found by the client that wants the answer: NAME_ASKER names a client slot, and NAME_ASKER_LIFE says which of
the clients that have had the slot. The client that finds it asks in its place (``begin``). Sleepers look again after
WAIT_SLICE_NS, so they do not depend on a wake-up from a client that may have died before it sent it.
"""

import cython

if not cython.compiled:
    from . import atomics, client, layout, robust_lock, slab, vmscan


def setup(mem):
    """Make the table of a new segment, empty."""
    _reset(mem)
    atomics.write64(mem, layout.NAMES_SERIAL, 0)


# Operations.


def lookup(mem, me, key, digest_lo, digest_hi, out):
    """Copy what is known of the name with this digest to out, from NAME_KEY on. Return NAME_PRESENT or NAME_ABSENT; or
    NAME_UNKNOWN, which may be false, and then out has no meaning. key is a 64-bit digest of the key alone; the 128-bit digest
    is also of the account for which it is looked up."""
    client.op_begin(mem, me)
    state = _lookup(mem, key, digest_lo, digest_hi, out)
    client.op_end(mem, me)
    return state


def begin(mem, me, key, digest_lo, digest_hi, now, oldest, text, text_length):
    """Become the asker of a name. Returns the name's id; or, if the caller is not to ask, one of

    - NAME_FRESH: what is known of the name was asked for at ``oldest`` or later;
    - NAME_TAKEN: another client is asking, and began at ``oldest`` or later;
    - NAME_NOMEM, NAME_BUSY: there is no memory for a record, or the lock is refused; an answer cannot be remembered.

    now is the time at which the caller begins to ask; text is the key, for display, in a buffer of a multiple of 8 bytes, of
    which the first text_length count (NAME_TEXT_MAX at most). An asker that began before ``oldest`` is replaced: its answer
    would be too old.
    """
    client.op_begin(mem, me)
    for _ in range(layout.SHRINK_TRIES):
        found = _begin(mem, me, key, digest_lo, digest_hi, now, oldest, text, text_length)
        if found != layout.NAME_NOMEM or not vmscan.make_room(mem, me, 0):
            break
    client.op_end(mem, me)
    return found


def answer(mem, me, id, asked, state, size, data, length):
    """Remember the origin's answer to a question that was asked at the time ``asked``. False if it is not remembered: the name
    was forgotten meanwhile, a later question has been answered already, or the lock is refused.

    state is NAME_PRESENT or NAME_ABSENT, with the lengths of version and extra bytes at their shifts; data is version and extra
    bytes, one after the other, in a buffer of a multiple of 8 bytes, NAME_DATA_MAX at most.
    """
    client.op_begin(mem, me)
    remembered = False
    if _lock(mem, me):
        at = _record(mem, id)
        if at and asked >= atomics.load_relaxed64(mem, at + layout.NAME_SINCE):
            _write(mem, at, asked, state, size, data, length)
            remembered = True
        if at:
            _end_asking(mem, me, at, asked)
        robust_lock.unlock(mem, layout.NAMES_LOCK)
    client.op_end(mem, me)
    return remembered


def withdraw(mem, me, id, asked):
    """Give up a question. The clients that wait for its answer are woken, and one of them asks."""
    client.op_begin(mem, me)
    if _lock(mem, me):
        at = _record(mem, id)
        if at and _is_mine(mem, me, at, asked) and _state(mem, at) == layout.NAME_UNKNOWN:
            _drop(mem, me, _place_of(mem, at, id & layout.OBJECT_MASK), id & layout.OBJECT_MASK)
        elif at:
            _end_asking(mem, me, at, asked)
        robust_lock.unlock(mem, layout.NAMES_LOCK)
    client.op_end(mem, me)


def forget(mem, me, key):
    """Drop all names of a key, those of all accounts. The answer to a question from before this call is not remembered. False
    if the lock is refused."""
    client.op_begin(mem, me)
    done = _lock(mem, me)
    if done:
        place = _set(mem, key)
        for _ in range(layout.NAME_WAYS):
            at = _indexed(mem, place)
            if at and atomics.load_relaxed64(mem, at + layout.NAME_KEY) == key:
                _drop(mem, me, place, atomics.load_relaxed(mem, place) - 1)
            place += 4
        robust_lock.unlock(mem, layout.NAMES_LOCK)
    client.op_end(mem, me)
    return done


def join(mem, me, key, digest_lo, digest_hi):
    """Ask to be woken when the asker of a name ends. Return a ticket for ``sleep``; 0 if no living client is asking."""
    client.op_begin(mem, me)
    ticket = 0
    if _lock(mem, me):
        place = _search(mem, key, digest_lo, digest_hi)
        at = _indexed(mem, place) if place else 0
        if at and _is_asked(mem, at):
            asleep = atomics.load_relaxed(mem, at + layout.NAME_ASKER) | layout.NAME_WAITERS
            atomics.store_relaxed(mem, at + layout.NAME_ASKER, asleep)
            ticket = asleep << 32 | (atomics.load_relaxed(mem, place) - 1)
        robust_lock.unlock(mem, layout.NAMES_LOCK)
    client.op_end(mem, me)
    return ticket


def sleep(mem, ticket, timeout_ns):
    """Sleep until the asker ends, for timeout_ns or WAIT_SLICE_NS at most. Returns as ``atomics.futex_wait``: INTERRUPTED at a
    signal. Not an operation.

    No wake-up is lost: ``join`` set NAME_WAITERS under the lock, and the asker ends under the same lock. So either the word has
    changed and the kernel does not let the caller sleep, or the asker finds NAME_WAITERS. The record may be another name's by
    now, or its page may have another use; then the kernel compares with an unrelated word, and the timeout ends the sleep.
    """
    return atomics.futex_wait(mem, asker_at(mem, ticket), ticket >> 32, min(timeout_ns, layout.WAIT_SLICE_NS))


def asker_at(mem, ticket):
    """The offset of the word that ``sleep`` waits on, for those who sleep by other means; while it is ``ticket >> 32``."""
    return slab.at(mem, layout.SLAB_NAMES, ticket & layout.OBJECT_MASK) + layout.NAME_ASKER


def next_used(mem, me, n, out):
    """Copy the next name to out, from NAME_KEY on: the first at word n of the index or after it, also one without an answer.
    Return the number of its word, or NIL if there is none."""
    client.op_begin(mem, me)
    found = layout.NIL
    while n < atomics.nnames(mem) and found == layout.NIL:
        number = atomics.load_relaxed(mem, atomics.names(mem) + n * 4)
        at = slab.at(mem, layout.SLAB_NAMES, number - 1) if number else 0
        sequence = _begin_copy(mem, at) if at else 0
        if sequence and _copy(mem, at, sequence, out):
            found = n
        n += 1
    client.op_end(mem, me)
    return found


# For the reaper, repairs and the audit.


def reap(mem, me, dead):
    """If a dead client holds NAMES_LOCK, take it over, repair, and unlock."""
    if robust_lock.take_over(mem, layout.NAMES_LOCK, dead, me):
        _repair(mem, me)
        robust_lock.unlock(mem, layout.NAMES_LOCK)


def repair(mem, me):
    """Take the lock and rebuild the index, while other clients are attached."""
    if _lock(mem, me):
        _repair(mem, me)
        robust_lock.unlock(mem, layout.NAMES_LOCK)


def is_sound(mem, number):
    """True if a record in use is a name that is not being written. Under the lock; without it, a hint."""
    if not slab.holds(mem, layout.SLAB_NAMES, number):
        return False
    at = slab.at(mem, layout.SLAB_NAMES, number)
    id = atomics.load_relaxed64(mem, at + layout.NAME_ID)
    sequence = atomics.load_relaxed(mem, at + layout.NAME_SEQ)
    state = atomics.load_relaxed64(mem, at + layout.NAME_STATE)
    data = (state >> layout.NAME_VERSION_SHIFT & layout.NAME_LENGTH_MASK) + (
        state >> layout.NAME_EXTRA_SHIFT & layout.NAME_LENGTH_MASK
    )
    return (
        id & layout.OBJECT_MASK == number
        and 0 < id >> layout.OBJECT_BITS <= atomics.read64(mem, layout.NAMES_SERIAL)
        and sequence != 0
        and sequence & 1 == 0
        and state & layout.NAME_STATE_MASK <= layout.NAME_ABSENT
        and data <= layout.NAME_DATA_MAX
        and state >> layout.NAME_TEXT_SHIFT <= layout.NAME_TEXT_MAX
    )


def first_of(mem, key):
    """Return the number of the first word of a key's set in the index."""
    return (_set(mem, key) - atomics.names(mem)) // 4


# Reading, without the lock.


def _lookup(mem, key, digest_lo, digest_hi, out):
    place = _set(mem, key)
    for _ in range(layout.NAME_WAYS):
        number = atomics.load_relaxed(mem, place)
        at = slab.at(mem, layout.SLAB_NAMES, number - 1) if number else 0
        sequence = _begin_copy(mem, at) if at else 0
        if sequence and _is(mem, at, digest_lo, digest_hi):
            state = _state(mem, at)
            if state != layout.NAME_UNKNOWN and _copy(mem, at, sequence, out):
                _mark_used(mem, number - 1, at)
                return state
        place += 4
    return layout.NAME_UNKNOWN


def _begin_copy(mem, at):
    """Return a record's sequence word; 0 if the record is being written.

    The acquire pairs with the release of ``_end_change``: what is read from here on was written by that change or a later one.
    """
    sequence = atomics.load_acquire(mem, at + layout.NAME_SEQ)
    return 0 if sequence & 1 else sequence


def _copy(mem, at, sequence, out):
    """Copy a record to out. True if all that was read of it since ``_begin_copy`` belongs to one change.

    The fence pairs with the one in ``_begin_change``: if a word was written by a later change, the second load of the sequence
    word finds that change's odd value or a later value. It also pairs with the release of ``_index``: the second load finds no
    value from before the record was indexed, so nothing is accepted that the page held before it was a page of names.
    """
    atomics.copy_out_relaxed(mem, at + layout.NAME_KEY, out, layout.NAME_SIZE - layout.NAME_KEY)
    atomics.fence_acquire()
    return atomics.load_relaxed(mem, at + layout.NAME_SEQ) == sequence


def _is(mem, at, digest_lo, digest_hi):
    """True if a record is the name with this digest. Without the lock a hint, which ``_copy`` confirms."""
    return (
        atomics.load_relaxed64(mem, at + layout.NAME_DIGEST_LO) == digest_lo
        and atomics.load_relaxed64(mem, at + layout.NAME_DIGEST_HI) == digest_hi
    )


def _mark_used(mem, number, at):
    """Mark a name as looked up, for ``_victim``; most lookups find the mark and write nothing.

    If the index is damaged, the record may lie in user data: so the page's type is checked before the store.
    """
    if atomics.load_relaxed(mem, at + layout.NAME_USED) == 0 and slab.holds(mem, layout.SLAB_NAMES, number):
        atomics.store_relaxed(mem, at + layout.NAME_USED, 1)


# Changing, under the lock.


def _lock(mem, me):
    """Take NAMES_LOCK, and repair if that is necessary. False if the lock is refused."""
    got = robust_lock.lock(mem, layout.NAMES_LOCK, me)
    if got == layout.LOCK_REPAIR:
        _repair(mem, me)
    return got != layout.LOCK_BUSY


def _reset(mem):
    for n in range(atomics.nnames(mem)):
        atomics.store_relaxed(mem, atomics.names(mem) + n * 4, 0)


def _repair(mem, me):
    """Rebuild the index from the names, and free the records that are not sound names."""
    _reset(mem)
    number = slab.next_of(mem, layout.SLAB_NAMES, layout.NIL)
    while number != layout.NIL:
        if not is_sound(mem, number) or not _index_again(mem, number):
            _discard(mem, me, number)
        number = slab.next_of(mem, layout.SLAB_NAMES, number)


def _index_again(mem, number):
    """Give a name a place in the index. False if its set is full, or has the name already, because something was damaged."""
    at = slab.at(mem, layout.SLAB_NAMES, number)
    key = atomics.load_relaxed64(mem, at + layout.NAME_KEY)
    lo = atomics.load_relaxed64(mem, at + layout.NAME_DIGEST_LO)
    hi = atomics.load_relaxed64(mem, at + layout.NAME_DIGEST_HI)
    place = _empty(mem, key)
    if place == 0 or _search(mem, key, lo, hi):
        return False
    _index(mem, place, number)
    return True


def _begin(mem, me, key, digest_lo, digest_hi, now, oldest, text, text_length):
    if not _lock(mem, me):
        return layout.NAME_BUSY
    place = _search(mem, key, digest_lo, digest_hi)
    if place == 0:
        place = _make(mem, me, key, digest_lo, digest_hi, text, text_length)
    found = _ask(mem, me, _indexed(mem, place), now, oldest) if place else layout.NAME_NOMEM
    robust_lock.unlock(mem, layout.NAMES_LOCK)
    return found


def _ask(mem, me, at, now, oldest):
    since = atomics.load_relaxed64(mem, at + layout.NAME_SINCE)
    if _state(mem, at) != layout.NAME_UNKNOWN and _is_within(since, now, oldest):
        return layout.NAME_FRESH
    if _is_within(atomics.load_relaxed64(mem, at + layout.NAME_ASKED), now, oldest) and _is_asked(mem, at):
        return layout.NAME_TAKEN
    _set_asker(mem, me, at, now)
    return atomics.load_relaxed64(mem, at + layout.NAME_ID)


def _is_within(time, now, oldest):
    """True if a time is ``oldest`` or later, and not in the future. Another process may have read the clock a little later than
    the caller, so NAME_AHEAD_NS beyond ``now`` still count."""
    return oldest <= time <= now + layout.NAME_AHEAD_NS


def _set_asker(mem, me, at, now):
    """Make me the asker, where there was none, a dead one, or one that began too early. Its sleepers are woken when me is done.

    The words are written in this order, so that a client that dies in between leaves a name without an asker, or with a dead
    one.
    """
    waiters = atomics.load_relaxed(mem, at + layout.NAME_ASKER) & layout.NAME_WAITERS
    atomics.record32(mem, at + layout.NAME_ASKER, waiters)
    atomics.record32(mem, at + layout.NAME_ASKER_LIFE, _life(mem, me))
    atomics.store_relaxed64(mem, at + layout.NAME_ASKED, now)
    atomics.record32(mem, at + layout.NAME_ASKER, me + 1 | waiters)


def _is_asked(mem, at):
    """True if a living client is asking for a name."""
    asker = _asker(mem, at)
    return (
        asker != 0
        and client.is_alive(mem, asker - 1)
        and atomics.load_relaxed(mem, at + layout.NAME_ASKER_LIFE) == _life(mem, asker - 1)
    )


def _is_mine(mem, me, at, asked):
    """True if the question that a name waits for is the one that me asked at the time ``asked``."""
    return _asker(mem, at) == me + 1 and atomics.load_relaxed64(mem, at + layout.NAME_ASKED) == asked


def _end_asking(mem, me, at, asked):
    if _is_mine(mem, me, at, asked):
        _wake(mem, at)


def _wake(mem, at):
    """Clear the asker, and wake the sleepers, which look again."""
    asker = atomics.load_relaxed(mem, at + layout.NAME_ASKER)
    atomics.store_relaxed(mem, at + layout.NAME_ASKER, 0)
    if asker & layout.NAME_WAITERS:
        atomics.futex_wake(mem, at + layout.NAME_ASKER, layout.NIL)


def _asker(mem, at):
    return atomics.load_relaxed(mem, at + layout.NAME_ASKER) & ~layout.NAME_WAITERS


def _life(mem, number):
    """Return the generation of a client slot, which says which of the clients that have had it has it now."""
    return atomics.load_relaxed(mem, client.slot(mem, number) + layout.CLIENT_GENERATION)


def _state(mem, at):
    return atomics.load_relaxed64(mem, at + layout.NAME_STATE) & layout.NAME_STATE_MASK


def _write(mem, at, asked, state, size, data, length):
    """Replace the last answer by this one."""
    text = atomics.load_relaxed64(mem, at + layout.NAME_STATE) >> layout.NAME_TEXT_SHIFT << layout.NAME_TEXT_SHIFT
    _begin_change(mem, at)
    atomics.store_relaxed64(mem, at + layout.NAME_STATE, text | state)
    atomics.store_relaxed64(mem, at + layout.NAME_SINCE, asked)
    atomics.store_relaxed64(mem, at + layout.NAME_OBJECT_SIZE, size)
    atomics.copy_in_relaxed(mem, at + layout.NAME_DATA, data, min(length, layout.NAME_DATA_MAX))
    _end_change(mem, at, _serial(mem))


def _begin_change(mem, at):
    """Make the sequence word odd: from here on no reader accepts what it copies.

    The fence pairs with the one in ``_copy``: a reader that sees a store after the fence sees the odd value.
    """
    atomics.store_relaxed(mem, at + layout.NAME_SEQ, atomics.load_relaxed(mem, at + layout.NAME_SEQ) | 1)
    atomics.fence_release()


def _end_change(mem, at, serial):
    """Give the sequence word the even value of this change. Release: a reader that sees the value sees the change.

    No other change has this value, in no record that this memory has held.
    """
    atomics.store_release(mem, at + layout.NAME_SEQ, (serial & layout.OBJECT_MASK) << 1)


def _serial(mem):
    """Return a number that is never given twice, whose OBJECT_BITS low bits are not 0."""
    serial = atomics.read64(mem, layout.NAMES_SERIAL) + 1
    if serial & layout.OBJECT_MASK == 0:
        serial += 1
    atomics.write64(mem, layout.NAMES_SERIAL, serial)
    return serial


def _make(mem, me, key, digest_lo, digest_hi, text, text_length):
    """Make a name. Return its place in the index; 0 if there is no memory, or its set is full of names that are being asked
    for."""
    place = _room(mem, me, key)
    number = slab.alloc(mem, me, layout.SLAB_NAMES, 0) if place else layout.NIL
    if number == layout.NIL:
        return 0
    at = slab.at(mem, layout.SLAB_NAMES, number)
    # Its sequence word is 0 (see ``slab``), which no reader takes.
    serial = _serial(mem)
    atomics.store_relaxed64(mem, at + layout.NAME_ID, (serial << layout.OBJECT_BITS | number) & layout.HASH_MASK)
    atomics.store_relaxed64(mem, at + layout.NAME_DIGEST_LO, digest_lo)
    atomics.store_relaxed64(mem, at + layout.NAME_DIGEST_HI, digest_hi)
    atomics.store_relaxed64(mem, at + layout.NAME_KEY, key)
    length = min(text_length, layout.NAME_TEXT_MAX)
    atomics.store_relaxed64(mem, at + layout.NAME_STATE, length << layout.NAME_TEXT_SHIFT)
    atomics.copy_in_relaxed(mem, at + layout.NAME_TEXT, text, (length + 7) // 8 * 8)
    _end_change(mem, at, serial)
    _index(mem, place, number)
    return place


def _index(mem, place, number):
    """Store a record's number in a place of the index. Release: see ``_copy``."""
    atomics.store_release(mem, place, number + 1)


def _drop(mem, me, place, number):
    """Take a name out of the index, and free its record. place is 0 if the index does not have it."""
    if place:
        atomics.store_relaxed(mem, place, 0)
    _discard(mem, me, number)


def _discard(mem, me, number):
    """Free a record. If the slab's lock is refused, the next repair frees it."""
    if not slab.holds(mem, layout.SLAB_NAMES, number):  # damaged: the page has another use
        return
    at = slab.at(mem, layout.SLAB_NAMES, number)
    _begin_change(mem, at)
    atomics.store_relaxed64(mem, at + layout.NAME_ID, 0)
    _wake(mem, at)
    if not slab.free(mem, me, layout.SLAB_NAMES, number):
        robust_lock.mark_broken(mem, layout.NAMES_LOCK)


def _room(mem, me, key):
    """Return an empty place in a key's set, for which a name is dropped if necessary; 0 if there is none."""
    place = _empty(mem, key)
    if place:
        return place
    place = _victim(mem, key)
    if place:
        _drop(mem, me, place, atomics.load_relaxed(mem, place) - 1)
    return place


def _empty(mem, key):
    place = _set(mem, key)
    for _ in range(layout.NAME_WAYS):
        if atomics.load_relaxed(mem, place) == 0:
            return place
        place += 4
    return 0


def _victim(mem, key):
    """Return the place of the name that is to make room in a key's set; 0 if all of them are being asked for.

    It is the one with the oldest answer among those that were not looked up since the last call for this set; if there is none,
    among all. From now on all of them count as not looked up.
    """
    place = _set(mem, key)
    found = 0
    least = 0
    for _ in range(layout.NAME_WAYS):
        at = _indexed(mem, place)
        if at and not _is_asked(mem, at):
            used = atomics.load_relaxed(mem, at + layout.NAME_USED)
            age = atomics.load_relaxed64(mem, at + layout.NAME_SINCE) | used << 63
            if found == 0 or age < least:
                found = place
                least = age
            atomics.store_relaxed(mem, at + layout.NAME_USED, 0)
        place += 4
    return found


def _search(mem, key, digest_lo, digest_hi):
    """Return the place of the name with this digest in the index, or 0."""
    place = _set(mem, key)
    for _ in range(layout.NAME_WAYS):
        at = _indexed(mem, place)
        if at and _is(mem, at, digest_lo, digest_hi):
            return place
        place += 4
    return 0


def _indexed(mem, place):
    """Return the offset of the record that a word of the index names; 0 if the word is empty. 0 also if the record is no sound
    name: then the index is damaged, and the lock is marked so that its next owner repairs it."""
    number = atomics.load_relaxed(mem, place)
    if number == 0:
        return 0
    if not is_sound(mem, number - 1):
        robust_lock.mark_broken(mem, layout.NAMES_LOCK)
        return 0
    return slab.at(mem, layout.SLAB_NAMES, number - 1)


def _record(mem, id):
    """Return the offset of the record if it still has this id, or 0."""
    number = id & layout.OBJECT_MASK
    at = slab.at(mem, layout.SLAB_NAMES, number)
    if at == 0 or not is_sound(mem, number) or atomics.load_relaxed64(mem, at + layout.NAME_ID) != id:
        return 0
    return at


def _place_of(mem, at, number):
    """Return the place in the index that names a record, or 0."""
    place = _set(mem, atomics.load_relaxed64(mem, at + layout.NAME_KEY))
    for _ in range(layout.NAME_WAYS):
        if atomics.load_relaxed(mem, place) == number + 1:
            return place
        place += 4
    return 0


def _set(mem, key):
    """Return the offset of the first word of a key's set."""
    mixed = (key * layout.HASH_MULTIPLIER & layout.HASH_MASK) >> 32
    return atomics.names(mem) + (mixed * (atomics.nnames(mem) // layout.NAME_WAYS) >> 32) * layout.NAME_WAYS * 4
