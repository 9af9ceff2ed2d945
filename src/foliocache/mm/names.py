"""Names: what a key means now. The kernel's dentries, for keys that only a far origin can look up.

A name is a record that says which object its key means (NAME_PRESENT: size, version, and some bytes of the asker's own), or
that there is no such thing (NAME_ABSENT), and when the question was asked whose answer that is; or that a client is asking the
origin now. All processes share it, so one of them asks and the others use the answer (``begin``), or sleep until it is there
(``join``, ``sleep``).

A name has an *id* that is never given twice. The asker has been given the id, and an answer is written only while the record
is still that id's. ``forget`` drops the record, so an answer that was asked for before is nobody's afterwards: the next
``begin`` makes another record, with another id. Nothing else has to be kept of a key that was forgotten.

**Readers take no lock.** The index is an array of words in sets of NAME_WAYS; a key's digest chooses the set, all words of
which are looked at. ``lookup`` copies a record between two looks at its sequence word, which is odd while a client writes, and
has an even value once only, in whatever life of the record: so what was copied between two equal even values is one answer, and
that of the digest that was copied with it. What a writer is at counts as unknown; ``begin`` finds out under the lock. Within an
operation a record's page stays one of names (see ``slab``).

**Writers** hold NAMES_LOCK. Where a set is full, a name that nobody has looked up since the last time makes room, or else the
one whose answer is the oldest; never one that is being asked for. There are nnames words, so names take a bounded share of the
pool.

**Ground truth**, for repairs after an owner of the lock was killed: a name is a record that is in use in its slab, says its own
number in NAME_ID and has an even sequence word that is not 0. The index is made from those. One that was being written is
dropped with its id: the question is asked once more.

**A dead asker** is found by who wants the answer: NAME_ASKER names a client, and NAME_ASKER_LIFE says which of those that have
had its slot. It takes its place (``begin``). Sleepers look again after WAIT_SLICE_NS, so no wake-up that died with its sender
is waited for.
"""

import cython

if not cython.compiled:
    from . import atomics, client, layout, robust_lock, slab, vmscan


def setup(mem):
    """An empty table, for a new segment."""
    _reset(mem)
    atomics.write64(mem, layout.NAMES_SERIAL, 0)


# Operations.


def lookup(mem, me, key, digest_lo, digest_hi, out):
    """Copy what is known of the name with this digest to out, from NAME_KEY on: NAME_PRESENT, NAME_ABSENT; or NAME_UNKNOWN,
    which may be wrong, and then out is to be left alone. key is a 64-bit digest of the key without who asks."""
    client.op_begin(mem, me)
    state = _lookup(mem, key, digest_lo, digest_hi, out)
    client.op_end(mem, me)
    return state


def begin(mem, me, key, digest_lo, digest_hi, now, oldest, text, text_length):
    """Become the asker of a name: its id. Or NAME_FRESH: what is known of it was asked for at oldest or later. Or NAME_TAKEN:
    another client has been asking since then. Or NAME_NOMEM, NAME_BUSY: nothing can be remembered.

    now is the time at which the caller begins to ask; text is the key for people, of a multiple of 8 bytes, NAME_TEXT_MAX at
    most, of which text_length count. An asker that began before oldest is replaced, for its answer would be of no use.
    """
    client.op_begin(mem, me)
    for _ in range(layout.SHRINK_TRIES):
        found = _begin(mem, me, key, digest_lo, digest_hi, now, oldest, text, text_length)
        if found != layout.NAME_NOMEM or not vmscan.make_room(mem, me, 0):
            break
    client.op_end(mem, me)
    return found


def answer(mem, me, id, asked, state, size, data, length):
    """What the origin has answered to a question of that time; False if it is not remembered: the name was forgotten meanwhile,
    a later question has been answered, or the lock is refused.

    state is NAME_PRESENT or NAME_ABSENT | the lengths of version and extra at their shifts; data is the two of them, of a
    multiple of 8 bytes, NAME_DATA_MAX at most.
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
    """Give up a question: a client that waits for its answer is woken, and asks."""
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
    """Drop all names of a key, of all accounts. An answer that was asked for before is not remembered. False if the lock is
    refused."""
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
    """Be woken when the asker of a name ends: what ``sleep`` takes; 0 if nobody who lives is asking."""
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
    """Sleep until the asker has ended, or for that long, or WAIT_SLICE_NS; INTERRUPTED at a signal. Not an operation.

    No wake-up is lost: the asker ends under the lock under which the ticket was written, so the word has changed, or it finds
    NAME_WAITERS. By now the record may be another name's, or its page have another use: then the kernel compares some word, and
    what is left is the time.
    """
    at = slab.at(mem, layout.SLAB_NAMES, ticket & layout.OBJECT_MASK)
    return atomics.futex_wait(mem, at + layout.NAME_ASKER, ticket >> 32, min(timeout_ns, layout.WAIT_SLICE_NS))


def next_used(mem, me, n, out):
    """Copy the first name at word n of the index or behind it to out, from NAME_KEY on, also one that is not answered: the
    number of its word, or NIL behind the last."""
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
    """Take the lock over from a dead client, repair, and unlock."""
    if robust_lock.take_over(mem, layout.NAMES_LOCK, dead, me):
        _repair(mem, me)
        robust_lock.unlock(mem, layout.NAMES_LOCK)


def repair(mem, me):
    """Make the index again, while others work."""
    if _lock(mem, me):
        _repair(mem, me)
        robust_lock.unlock(mem, layout.NAMES_LOCK)


def is_sound(mem, number):
    """Whether a record in use is a name that is not being written. Under the lock, or as a hint."""
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
    """The number of the first word of a key's set."""
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
    """A record's sequence word; 0 if it is being written. Acquire pairs with the release of ``_end_change``: what is read from
    here on is that change's, or a later one's."""
    sequence = atomics.load_acquire(mem, at + layout.NAME_SEQ)
    return 0 if sequence & 1 else sequence


def _copy(mem, at, sequence, out):
    """Copy a record; whether all that was read of it since ``_begin_copy`` belongs together.

    The fence pairs with the one in ``_begin_change``: if a word is a later change's, then the second look at the sequence word
    finds that change's odd value, or what came after it. And with the release of ``_index``: the second look finds no value
    that the record had before it was indexed. So nothing is taken that its page held before, when it was not one of names.
    """
    atomics.copy_out_relaxed(mem, at + layout.NAME_KEY, out, layout.NAME_SIZE - layout.NAME_KEY)
    atomics.fence_acquire()
    return atomics.load_relaxed(mem, at + layout.NAME_SEQ) == sequence


def _is(mem, at, digest_lo, digest_hi):
    """Whether a record is the name with this digest; under the lock, or before ``_copy`` has found that it all belongs
    together."""
    return (
        atomics.load_relaxed64(mem, at + layout.NAME_DIGEST_LO) == digest_lo
        and atomics.load_relaxed64(mem, at + layout.NAME_DIGEST_HI) == digest_hi
    )


def _mark_used(mem, number, at):
    """Note a use, for ``_victim``. Most lookups write nothing. If the index is damaged, the record may lie in user data."""
    if atomics.load_relaxed(mem, at + layout.NAME_USED) == 0 and slab.holds(mem, layout.SLAB_NAMES, number):
        atomics.store_relaxed(mem, at + layout.NAME_USED, 1)


# Changing, under the lock.


def _lock(mem, me):
    """False if it is refused."""
    got = robust_lock.lock(mem, layout.NAMES_LOCK, me)
    if got == layout.LOCK_REPAIR:
        _repair(mem, me)
    return got != layout.LOCK_BUSY


def _reset(mem):
    for n in range(atomics.nnames(mem)):
        atomics.store_relaxed(mem, atomics.names(mem) + n * 4, 0)


def _repair(mem, me):
    """Make the index from the names, and free the records that are none."""
    _reset(mem)
    number = slab.next_of(mem, layout.SLAB_NAMES, layout.NIL)
    while number != layout.NIL:
        if not is_sound(mem, number) or not _index_again(mem, number):
            _discard(mem, me, number)
        number = slab.next_of(mem, layout.SLAB_NAMES, number)


def _index_again(mem, number):
    """False if its set is full, or has the name already: something was damaged."""
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
    """Whether a time is oldest or later, and one of this clock. Another process may have looked at it a little later than the
    caller."""
    return oldest <= time <= now + layout.NAME_AHEAD_NS


def _set_asker(mem, me, at, now):
    """Ask, in place of nobody, of a dead one, or of one that began too early. Its sleepers are woken when this one ends.

    One word after the other: who dies in between leaves a name that nobody asks for, or that a dead client does.
    """
    waiters = atomics.load_relaxed(mem, at + layout.NAME_ASKER) & layout.NAME_WAITERS
    atomics.record32(mem, at + layout.NAME_ASKER, waiters)
    atomics.record32(mem, at + layout.NAME_ASKER_LIFE, _life(mem, me))
    atomics.store_relaxed64(mem, at + layout.NAME_ASKED, now)
    atomics.record32(mem, at + layout.NAME_ASKER, me + 1 | waiters)


def _is_asked(mem, at):
    """Whether a client that lives is asking for a name."""
    asker = _asker(mem, at)
    return (
        asker != 0
        and client.is_alive(mem, asker - 1)
        and atomics.load_relaxed(mem, at + layout.NAME_ASKER_LIFE) == _life(mem, asker - 1)
    )


def _is_mine(mem, me, at, asked):
    """Whether the question that a name waits for is the one that the caller has asked at that time."""
    return _asker(mem, at) == me + 1 and atomics.load_relaxed64(mem, at + layout.NAME_ASKED) == asked


def _end_asking(mem, me, at, asked):
    if _is_mine(mem, me, at, asked):
        _wake(mem, at)


def _wake(mem, at):
    """Nobody asks for the name any more; sleepers look again."""
    asker = atomics.load_relaxed(mem, at + layout.NAME_ASKER)
    atomics.store_relaxed(mem, at + layout.NAME_ASKER, 0)
    if asker & layout.NAME_WAITERS:
        atomics.futex_wake(mem, at + layout.NAME_ASKER, layout.NIL)


def _asker(mem, at):
    return atomics.load_relaxed(mem, at + layout.NAME_ASKER) & ~layout.NAME_WAITERS


def _life(mem, number):
    """Which of the clients that have had a slot has it now."""
    return atomics.load_relaxed(mem, client.slot(mem, number) + layout.CLIENT_GENERATION)


def _state(mem, at):
    return atomics.load_relaxed64(mem, at + layout.NAME_STATE) & layout.NAME_STATE_MASK


def _write(mem, at, asked, state, size, data, length):
    """Put an answer in the place of the last one."""
    text = atomics.load_relaxed64(mem, at + layout.NAME_STATE) >> layout.NAME_TEXT_SHIFT << layout.NAME_TEXT_SHIFT
    _begin_change(mem, at)
    atomics.store_relaxed64(mem, at + layout.NAME_STATE, text | state)
    atomics.store_relaxed64(mem, at + layout.NAME_SINCE, asked)
    atomics.store_relaxed64(mem, at + layout.NAME_OBJECT_SIZE, size)
    atomics.copy_in_relaxed(mem, at + layout.NAME_DATA, data, min(length, layout.NAME_DATA_MAX))
    _end_change(mem, at, _serial(mem))


def _begin_change(mem, at):
    """From here on no reader believes what it copies. The fence pairs with the one in ``_copy``: a reader that sees a store
    behind it sees the odd value."""
    atomics.store_relaxed(mem, at + layout.NAME_SEQ, atomics.load_relaxed(mem, at + layout.NAME_SEQ) | 1)
    atomics.fence_release()


def _end_change(mem, at, serial):
    """Release: a reader that sees the value sees the change. No other change has this value, so the record's former lives have
    not."""
    atomics.store_release(mem, at + layout.NAME_SEQ, (serial & layout.OBJECT_MASK) << 1)


def _serial(mem):
    """A number that is never given twice, whose OBJECT_BITS low bits are not 0."""
    serial = atomics.read64(mem, layout.NAMES_SERIAL) + 1
    if serial & layout.OBJECT_MASK == 0:
        serial += 1
    atomics.write64(mem, layout.NAMES_SERIAL, serial)
    return serial


def _make(mem, me, key, digest_lo, digest_hi, text, text_length):
    """A new name: its place in the index; 0 if there is no page, or all names of its set are being asked for."""
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
    """Release: see ``_copy``."""
    atomics.store_release(mem, place, number + 1)


def _drop(mem, me, place, number):
    """Take a name out of the index, if it has a place there, and free it."""
    if place:
        atomics.store_relaxed(mem, place, 0)
    _discard(mem, me, number)


def _discard(mem, me, number):
    """Free a record. If the slab's lock is refused, the next repair does."""
    if not slab.holds(mem, layout.SLAB_NAMES, number):  # damaged: it is another's page
        return
    at = slab.at(mem, layout.SLAB_NAMES, number)
    _begin_change(mem, at)
    atomics.store_relaxed64(mem, at + layout.NAME_ID, 0)
    _wake(mem, at)
    if not slab.free(mem, me, layout.SLAB_NAMES, number):
        robust_lock.mark_broken(mem, layout.NAMES_LOCK)


def _room(mem, me, key):
    """An empty place in a key's set, made if need be; 0 if there is none."""
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
    """The place of a set's name with the oldest answer, of those that were not used since the last time if there are any; 0 if
    all are being asked for. All count as not used from now on."""
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
    """The place of a name in the index, or 0."""
    place = _set(mem, key)
    for _ in range(layout.NAME_WAYS):
        at = _indexed(mem, place)
        if at and _is(mem, at, digest_lo, digest_hi):
            return place
        place += 4
    return 0


def _indexed(mem, place):
    """The offset of the record that a word of the index names; 0 for an empty one, and where there is no name, which breaks the
    index."""
    number = atomics.load_relaxed(mem, place)
    if number == 0:
        return 0
    if not is_sound(mem, number - 1):
        robust_lock.mark_broken(mem, layout.NAMES_LOCK)
        return 0
    return slab.at(mem, layout.SLAB_NAMES, number - 1)


def _record(mem, id):
    """The offset of the record that still has this id, or 0."""
    number = id & layout.OBJECT_MASK
    at = slab.at(mem, layout.SLAB_NAMES, number)
    if at == 0 or not is_sound(mem, number) or atomics.load_relaxed64(mem, at + layout.NAME_ID) != id:
        return 0
    return at


def _place_of(mem, at, number):
    """Where the index names a record, or 0."""
    place = _set(mem, atomics.load_relaxed64(mem, at + layout.NAME_KEY))
    for _ in range(layout.NAME_WAYS):
        if atomics.load_relaxed(mem, place) == number + 1:
            return place
        place += 4
    return 0


def _set(mem, key):
    """The offset of the first word of a key's set."""
    mixed = (key * layout.HASH_MULTIPLIER & layout.HASH_MASK) >> 32
    return atomics.names(mem) + (mixed * (atomics.nnames(mem) // layout.NAME_WAYS) >> 32) * layout.NAME_WAYS * 4
