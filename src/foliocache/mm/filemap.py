"""Lookup, insert and removal of a mapping's folios.

A folio has 2^span aligned units of its mapping, a slot of the index for each, and one reference for all of its slots.

Lookup of a unit is optimistic and takes no lock:

1. load the unit's slot (``xarray.find``, ``load``);
2. get the folio that it names: one atomic add;
3. load the slot again, and ask the folio for its identity: the mapping is right, and the unit is one of its own. On any
   difference put it and start over.

The folio's first unit and its span are loaded after the get (``first_of``, ``page_type.span``); what they were before may be of
another life of its pages.

Removal, under the mapping's tree lock (reclaim freezes first, see ``vmscan``):

A. clear all slots; B. unlock; C. drop the slots' reference.

There are two interleavings that matter. If 2 comes before C, the count never reaches zero in between, so the pages stay this
folio while the getter looks again. The getter either sees the slot still filled (then its look comes before A, and it is right
to return the folio) or puts the folio. If 2 comes after C, the folio may be frozen (2 fails), or its pages may be anything else
by now. But then A is visible to the getter, because C is a release and 2 an acquire of the same count, so 3 finds a difference.
The node may have been used again as well, so that the same slot holds the same pfn for another index or another mapping; that
is why 3 compares the folio's identity too.

A miss proves nothing: ``grab`` looks again under the lock before it inserts. After the kernel's ``mm/filemap.c``.

The functions from ``lookup`` to ``resolve`` are *operations*: what a process calls from outside the core. Each function begins
and ends its operation itself, so no Python runs, no exception is raised and no signal handler is called within one.
"""

import cython

if not cython.compiled:
    from . import atomics, backing, client, fill, folio, layout, lru, mapping, page_ref, page_type, vmscan, xarray


def find_get(mem, me, ino, head, height, index):
    """Pin the folio that has unit index of ino's mapping. Returns its pfn, or NIL for a miss, which may be false.

    head is ``mapping.head`` of ino; index is within the tree. The pinned folio is named in the slot of me: see ``client``.
    """
    for _ in range(layout.FIND_RETRIES):
        slot = xarray.find(mem, head, height, index)
        if slot == 0:
            break
        pfn = xarray.load(mem, slot)
        if pfn == layout.NIL:
            break
        client.announce(mem, me, pfn)
        got = page_ref.try_get(mem, atomics.folio_at(mem, pfn))
        if got == layout.GOT and xarray.reload(mem, slot) == pfn and folio.is_identity(mem, pfn, ino, index):
            return pfn
        if got == layout.DEAD:
            client.retract(mem, me, pfn)
        elif not folio.put(mem, me, pfn):
            break
    return layout.NIL


def first_of(mem, pfn):
    """Return the first unit of a FILE folio that the caller holds. It has 2^span units (``page_type.span``), and F_LENGTH valid
    bytes."""
    return atomics.read64(mem, atomics.folio_at(mem, pfn) + layout.F_INDEX)


def grab(mem, me, ino, index, order, span, size):
    """Pin the folio that has unit index, adding it if there is none.

    A unit has 2^order pages, and the object ``size`` bytes. A folio that is added has as many units as fit, aligned, around
    index: 2^span at most, within the object, none of them cached yet, and no more than memory is found for. Only one at the
    object's end may have fewer pages, the fewest that hold its bytes.

    Returns its pfn, with GRAB_ADDED if it is new: then it is locked, and the caller must fill it and call ``complete``, or
    withdraw it (``remove``, then ``fill.fail``). The pin is named in the slot of me. GRAB_NOMEM: everything is in use.
    GRAB_GONE: the mapping is gone, and has to be opened again.
    """
    found = _grab(mem, me, ino, index, order, span, size)
    if found == layout.GRAB_NOMEM:
        mapping.release(mem, me, ino)
    return found


def complete(mem, me, pfn):
    """End a fill: the content is there.

    Reclaim considers the folio from now on. While it was being filled it could not be evicted, and on a queue reclaim would
    only have met it in vain. If the queues' lock is refused, the folio stays named in this client's slot, and the reaper takes
    it out of the cache.
    """
    fill.complete(mem, pfn)
    if not lru.insert(mem, me, pfn):
        client.announce(mem, me, pfn)


def remove(mem, me, ino, pfn):
    """Withdraw one folio that the caller holds from its mapping, if it is still in it. Returns False if the lock is refused;
    the folio stays then."""
    got = mapping.lock(mem, me, ino)
    if got != layout.TREE_LOCKED:
        return got == layout.TREE_GONE
    attached = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_ATTACHED)
    left = 1
    if attached:
        client.announce(mem, me, pfn)
        left = mapping.remove(mem, me, ino, pfn)
    mapping.unlock(mem, ino)
    if attached:
        folio.put(mem, me, pfn)
    if left == 0:
        mapping.release(mem, me, ino)
    return True


def truncate(mem, me, ino, last):
    """Withdraw every folio that has one of the units 0 .. last. Holders keep theirs; a folio inserted meanwhile may stay.

    The lock is taken again for each folio. Indices beyond the tree are not looked at. Returns False if a lock is refused; some
    of the folios may stay then.
    """
    index = 0
    while index <= last:
        got = mapping.lock(mem, me, ino)
        if got != layout.TREE_LOCKED:
            return got == layout.TREE_GONE
        last = min(last, mapping.last_index(mem, ino))
        index = mapping.next_index(mem, ino, index, last)
        pfn = mapping.find(mem, ino, index) if index <= last else layout.NIL
        if pfn != layout.NIL and not folio.is_attached(mem, pfn, ino, index):
            pfn = layout.NIL
        index += 1
        left = mapping.folios(mem, ino)
        if pfn != layout.NIL:
            client.announce(mem, me, pfn)
            left = mapping.remove(mem, me, ino, pfn)
        mapping.unlock(mem, ino)
        if pfn != layout.NIL and not folio.put(mem, me, pfn):
            return False
        if left == 0:
            mapping.release(mem, me, ino)
    return True


def lookup(mem, me, n, ino, head, mark, height, index):
    """As ``find_get``, as an operation of its own; the pin is word n of the ledger.

    The caller has kept head, and the ``mapping.mark`` of its page, for longer than an operation. So that page may have been
    given back (``trim``), unless the mark is set here: then it stays until the operation ends. What a walk loads below the head
    is checked by ``slab.at``.
    """
    client.op_begin(mem, me)
    pfn = find_get(mem, me, ino, head, height, index) if backing.is_set(mem, mark) else layout.NIL
    if pfn == layout.NIL:
        client.op_end(mem, me)
    else:
        client.keep(mem, me, n, pfn)
    return pfn


def add(mem, me, n, ino, index, order, span, size):
    """As ``grab``, as an operation of its own; the pin is word n of the ledger."""
    client.op_begin(mem, me)
    found = grab(mem, me, ino, index, order, span, size)
    if found != layout.GRAB_NOMEM and found != layout.GRAB_GONE:
        client.hold(mem, me, n, found & layout.NIL)
    client.op_end(mem, me)
    return found


def finish_fill(mem, me, pfn):
    """As ``complete``, as an operation of its own: a folio that this client pins and fills has its content."""
    client.op_begin(mem, me)
    complete(mem, me, pfn)
    client.op_end(mem, me)


def withdraw(mem, me, pfn, explained):
    """Give up the fill of a folio that this client pins, as an operation of its own: it leaves its mapping, and its waiters are
    woken.

    The pin stays. explained: its first bytes say why (``fill.explain``). If a lock is refused, the folio stays in its mapping,
    and one of its waiters becomes the filler.
    """
    client.op_begin(mem, me)
    if not remove(mem, me, atomics.read64(mem, atomics.folio_at(mem, pfn) + layout.F_INO), pfn):
        fill.abandon(mem, me, pfn)
    elif explained:
        fill.explain(mem, pfn)
    else:
        fill.fail(mem, pfn)
    client.op_end(mem, me)


def invalidate(mem, me, digest_lo, digest_hi, last):
    """As ``truncate``, as an operation of its own, of the object with this digest, if anything of it is cached. Returns False
    if a lock is refused."""
    client.op_begin(mem, me)
    ino = mapping.lookup(mem, me, digest_lo, digest_hi)
    done = ino != layout.INO_BUSY and (ino == 0 or truncate(mem, me, ino, last))
    client.op_end(mem, me)
    return done


def forget(mem, me, key, before):
    """Withdraw one version of the object whose key has this digest, as an operation of its own. Returns its ino; 0 if there is
    none; INO_BUSY if a lock is refused.

    The caller repeats this for the other versions, and passes the ino that the last call returned as ``before`` (0 at first).
    If the version that is found is that one again, it is left alone: it is being filled again.
    """
    client.op_begin(mem, me)
    ino = mapping.find_key(mem, me, key)
    if ino and ino != before and ino != layout.INO_BUSY and not truncate(mem, me, ino, layout.XA_INDEX_MAX):
        ino = layout.INO_BUSY
    client.op_end(mem, me)
    return ino


def open(mem, me, digest_lo, digest_hi, key, size, order, height, text, key_length, version_length):
    """As ``mapping.open``, as an operation of its own, which evicts if there is no memory for the record. order is that of a
    unit."""
    client.op_begin(mem, me)
    for _ in range(layout.SHRINK_TRIES):
        ino = mapping.open(mem, me, digest_lo, digest_hi, key, size, order, height, text, key_length, version_length)
        if ino or not vmscan.make_room(mem, me, 0):
            break
    client.op_end(mem, me)
    return ino


def resolve(mem, me, digest_lo, digest_hi):
    """As ``mapping.lookup``, as an operation of its own; 0 also if the lock is refused."""
    client.op_begin(mem, me)
    ino = mapping.lookup(mem, me, digest_lo, digest_hi)
    client.op_end(mem, me)
    return ino if ino != layout.INO_BUSY else 0


def _grab(mem, me, ino, index, order, span, size):
    for _ in range(layout.SHRINK_TRIES + span):
        got = mapping.lock(mem, me, ino)
        if got != layout.TREE_LOCKED:
            return layout.GRAB_GONE if got == layout.TREE_GONE else layout.GRAB_NOMEM
        pfn = _find_locked(mem, me, ino, index)
        # Worked out in every round: if another client's folio is in the way but not at index, the same span would fail again.
        room = mapping.room(mem, ino, index, span, (size - 1) >> (atomics.page_shift(mem) + order)) if pfn == layout.NIL else 0
        mapping.unlock(mem, ino)
        if pfn != layout.NIL:
            return pfn
        pfn = _alloc(mem, me, index, order, room, size)
        if pfn == layout.NIL:
            return layout.GRAB_NOMEM
        first = _prepare(mem, me, pfn, ino, index, order, size)
        status = _insert(mem, me, ino, first, pfn)
        if status == layout.XA_OK:
            client.retract(mem, me, pfn)
            return layout.GRAB_ADDED | pfn
        # Another inserter was faster, or there is no page for a node. Stale getters may hold the folio for a moment, so both
        # references are dropped in the ordinary way.
        folio.put(mem, me, pfn)
        if not folio.put(mem, me, pfn) or (status >= layout.XA_NOMEM and not vmscan.make_room(mem, me, 0)):
            return layout.GRAB_NOMEM
    return layout.GRAB_NOMEM


def _alloc(mem, me, index, order, span, size):
    """Return a frozen block for 2^span units around index, or for fewer if there is no room for as many; NIL if there is none
    for one."""
    while span > 0:
        pfn = vmscan.try_alloc(mem, me, order + span)
        if pfn != layout.NIL:
            return pfn
        span -= 1
    length = _length(mem, index, order, 0, size)
    smallest = 0
    block = 1 << atomics.page_shift(mem)
    while block < length:
        block <<= 1
        smallest += 1
    return vmscan.alloc_folio(mem, me, smallest)


def _prepare(mem, me, pfn, ino, index, order, size):
    """Make a folio of a block: locked for its filler, live, with a reference for its slots and one for the caller. Returns its
    first unit.

    More than one unit fill the block, so its order says how many they are.
    """
    pages = page_type.order(mem, pfn)
    span = pages - min(pages, order)
    first = index >> span << span
    folio.prepare(mem, pfn, layout.TYPE_FILE, pages, span, ino, first, _length(mem, first, order, span, size))
    fill.begin(mem, me, pfn)
    client.announce(mem, me, pfn)  # a second time, for a second reference
    page_ref.init(mem, atomics.folio_at(mem, pfn), 2)
    return first


def _length(mem, first, order, span, size):
    """Return the bytes of 2^span units from first on, up to the end of the object."""
    unit = atomics.page_shift(mem) + order
    whole = 1 << (unit + span)
    return min(whole, size - (first << unit))


def _find_locked(mem, me, ino, index):
    """As ``find_get``, under the tree lock, where no miss is false.

    The slots' own reference cannot go, so the first round finds what is there. Its identity is compared all the same, because
    the slot may be damaged. A folio that is not the right one, or whose count is saturated, counts as none: the insert will
    fail, and the caller reads privately.
    """
    return find_get(mem, me, ino, mapping.head(mem, ino), mapping.height(mem, ino), index)


def _insert(mem, me, ino, index, pfn):
    """As ``mapping.insert``. Returns XA_EXISTS also if the mapping is gone or the lock is refused; the next round finds that
    out."""
    if mapping.lock(mem, me, ino) != layout.TREE_LOCKED:
        return layout.XA_EXISTS
    status = mapping.insert(mem, me, ino, index, pfn)
    mapping.unlock(mem, ino)
    return status
