"""Mappings: one cached object at one version, the kernel's ``address_space``.

A mapping's record exists only while at least one folio is cached (or one is about to be inserted): it is made by the first
insert and freed with the last folio. Handles in processes hold no reference to it. What they hold is its *ino*: a number that
is never given twice and has the record's place in its low bits. A client that uses a record takes the tree lock that the ino
selects, then checks that the record still has this ino (``lock``); if not, the client opens the object again.

Two locks: TABLE_LOCK guards the hash chains, and is taken first; the tree locks are an array in the header, so that taking one
never writes to a record's memory, which may be used for something else by then. A record is made under the first and freed
under both.

**Ground truth**, for repairs after an owner of a lock was killed: a record is an object that is in use in its slab and has its
own number in MAPPING_INO, which is written last when a record is made and first when it is dropped. The chains are rebuilt from
the records. A tree is recounted from its slots. Nodes that are in use but linked nowhere in the tree of their owner are freed,
because a dead client was working on them.

A reader's walk starts at the record's head word without any of this: see ``xarray`` and ``filemap``.
"""

import cython

if not cython.compiled:
    from . import atomics, backing, layout, page_type, robust_lock, slab, xarray


def setup(mem):
    """Make the mapping table of a new segment, empty."""
    _reset(mem)
    atomics.write64(mem, layout.TABLE_NEXT_INO, 0)


def lookup(mem, me, digest_lo, digest_hi):
    """Return the ino of the object with this 128-bit digest of key, version and size; 0 if nothing of it is cached, INO_BUSY if
    the lock is refused."""
    if not _lock_table(mem, me):
        return layout.INO_BUSY
    number = _search(mem, digest_lo, digest_hi)
    ino = _ino(mem, number) if number != layout.NIL else 0
    robust_lock.unlock(mem, layout.TABLE_LOCK)
    return ino


def open(mem, me, digest_lo, digest_hi, key, size, order, height, text, key_length, version_length):
    """Like ``lookup``, but make the record if there is none. Returns 0 only if there is no memory for it, or a lock is refused.

    key is a 64-bit digest of the key alone; text is key and version for people, cut to MAPPING_TEXT_MAX bytes.
    """
    if not _lock_table(mem, me):
        return 0
    number = _search(mem, digest_lo, digest_hi)
    if number == layout.NIL:
        number = _make(mem, me, digest_lo, digest_hi, key, size, order, height, text, key_length, version_length)
    ino = _ino(mem, number) if number != layout.NIL else 0
    robust_lock.unlock(mem, layout.TABLE_LOCK)
    return ino


def lock(mem, me, ino):
    """Take the tree lock of ino's mapping. Return TREE_LOCKED; or, without the lock, TREE_GONE if the mapping is gone, or
    LOCK_BUSY if the lock is refused."""
    got = robust_lock.lock(mem, _tree_lock(ino), me)
    if got == layout.LOCK_BUSY:
        return got
    if got == layout.LOCK_REPAIR:
        _repair_trees(mem, me, _tree_lock(ino))
    if _is_alive(mem, ino):
        return layout.TREE_LOCKED
    robust_lock.unlock(mem, _tree_lock(ino))
    return layout.TREE_GONE


def unlock(mem, ino):
    """Release the tree lock of ino's mapping."""
    robust_lock.unlock(mem, _tree_lock(ino))


def find_key(mem, me, key):
    """Return the ino of some version of the object whose key has this digest; 0 if there is none; INO_BUSY if the lock is
    refused.

    Looks at every record, and releases the lock after each BUCKETS_BATCH chains. A record that is made meanwhile may be missed.
    """
    ino = 0
    bucket = 0
    while ino == 0 and bucket < atomics.nbuckets(mem):
        end = min(bucket + layout.BUCKETS_BATCH, atomics.nbuckets(mem))
        if not _lock_table(mem, me):
            return layout.INO_BUSY
        while ino == 0 and bucket < end:
            ino = _find_key_in(mem, bucket, key)
            bucket += 1
        robust_lock.unlock(mem, layout.TABLE_LOCK)
    return ino


def release(mem, me, ino):
    """Free the record if its mapping has no folio any more. For the client that took the last one out. If a lock is refused,
    the record stays for ``sweep``."""
    _drop_empty(mem, me, ino)


def sweep(mem, me, number):
    """Drop the next record after number (the first, for NIL) if it has no folio. Return the record's number; NIL if there is
    none.

    A dead client may have made the record, or have taken out its last folio. A client that is about to insert into it finds its
    mapping gone, and opens it again.
    """
    number = slab.next_of(mem, layout.SLAB_MAPPINGS, number)
    if number != layout.NIL:
        ino = _ino(mem, number)
        if ino & layout.OBJECT_MASK == number and folios(mem, ino) == 0:
            _drop_empty(mem, me, ino)
    return number


def repair_table(mem, me):
    """Rebuild the table's chains, while other clients work."""
    if _lock_table(mem, me):
        _repair_table(mem, me)
        robust_lock.unlock(mem, layout.TABLE_LOCK)


def repair_tree(mem, me, number):
    """Recount the tree of the next record after number (the first, for NIL). Return the record's number; NIL if there is
    none."""
    number = slab.next_of(mem, layout.SLAB_MAPPINGS, number)
    if number != layout.NIL:
        ino = _ino(mem, number)
        if lock(mem, me, ino) == layout.TREE_LOCKED:
            _recount(mem, me, ino)
            unlock(mem, ino)
    return number


def repair_node(mem, me, number):
    """Free the next node after number (the first, for NIL) if it is linked nowhere. Return its number; NIL if there is none.

    A node names its owner before it is linked, and is linked and freed under its owner's lock. So under that lock, a node that
    still names the owner and has no place in the owner's tree is not in use.
    """
    number = slab.next_of(mem, layout.SLAB_NODES, number)
    if number != layout.NIL:
        ino = _owner(mem, number)
        if lock(mem, me, ino) != layout.TREE_LOCKED and robust_lock.lock(mem, _tree_lock(ino), me) == layout.LOCK_BUSY:
            return number
        if slab.is_used(mem, layout.SLAB_NODES, number) and _owner(mem, number) == ino:
            _free_unlinked(mem, me, ino, number)
        robust_lock.unlock(mem, _tree_lock(ino))
    return number


def reap(mem, me, dead):
    """Take over the tree locks and the table's lock from a dead client, repair, and unlock."""
    for n in range(layout.TREE_LOCKS):
        if robust_lock.take_over(mem, layout.TREE_LOCK + n * layout.LINE, dead, me):
            _repair_trees(mem, me, layout.TREE_LOCK + n * layout.LINE)
            robust_lock.unlock(mem, layout.TREE_LOCK + n * layout.LINE)
    if robust_lock.take_over(mem, layout.TABLE_LOCK, dead, me):
        _repair_table(mem, me)
        robust_lock.unlock(mem, layout.TABLE_LOCK)


def head(mem, ino):
    """Return the offset of the XArray's head. May be called without a lock, for a walk that checks everything."""
    return record(mem, ino) + layout.MAPPING_HEAD


def mark(mem, ino):
    """Return the place of the mark of the head's page (``backing.mark_of``); 0 if there is no such record."""
    return backing.mark_of(mem, slab.pfn_of(mem, ino & layout.OBJECT_MASK)) if ino and record(mem, ino) else 0


def record(mem, ino):
    """Return the offset of the record that ino's mapping has, or had."""
    return slab.at(mem, layout.SLAB_MAPPINGS, ino & layout.OBJECT_MASK)


def height(mem, ino):
    """Return the levels of nodes in the tree; without the lock it is a hint."""
    return min(atomics.read32(mem, record(mem, ino) + layout.MAPPING_HEIGHT), layout.XA_HEIGHT_MAX)


def last_index(mem, ino):
    """Return the last index that the tree has a slot for. A walk for an index beyond it would end at the slot of another
    index."""
    bits = height(mem, ino) * layout.NODE_SHIFT
    return layout.HASH_MASK >> (64 - bits) if bits else 0


def last_unit(mem, ino):
    """Return the index of the object's last unit, if the tree has a slot for it; else that of the tree's last slot. Under the
    tree lock."""
    size = atomics.read64(mem, record(mem, ino) + layout.MAPPING_OBJECT_SIZE)
    order = min(atomics.read32(mem, record(mem, ino) + layout.MAPPING_UNIT_ORDER), layout.MAX_ORDER)
    last = size - 1 if size > 0 else 0
    return min(last >> (atomics.page_shift(mem) + order), last_index(mem, ino))


def find(mem, ino, index):
    """Return the pfn at index, or NIL; under the tree lock, which keeps it there."""
    slot = xarray.find(mem, head(mem, ino), height(mem, ino), index)
    return xarray.load(mem, slot) if slot else layout.NIL


def next_index(mem, ino, index, last):
    """Return the first index in index .. last that is cached, or last + 1; under the tree lock."""
    return xarray.next_index(mem, head(mem, ino), height(mem, ino), index, last)


def room(mem, ino, index, span, last):
    """As ``xarray.room``, within the tree; under the tree lock."""
    return xarray.room(mem, head(mem, ino), height(mem, ino), index, span, min(last, last_index(mem, ino)))


def insert(mem, me, ino, index, pfn):
    """Give a folio its slots, from index on, which take over one of its references; under the tree lock. Returns as
    ``xarray.store``."""
    if index > last_index(mem, ino):  # the record's height is damaged
        return layout.XA_EXISTS
    digest = atomics.read64(mem, record(mem, ino) + layout.MAPPING_DIGEST_LO)
    atomics.write64(mem, atomics.folio_at(mem, pfn) + layout.F_DIGEST, digest)
    status = xarray.store(mem, me, head(mem, ino), height(mem, ino), index, page_type.span(mem, pfn), pfn, ino)
    if status == layout.XA_BROKEN:
        robust_lock.mark_broken(mem, _tree_lock(ino))
    if status == layout.XA_OK:
        atomics.record32(mem, atomics.folio_at(mem, pfn) + layout.F_ATTACHED, 1)
        _add_folios(mem, ino, 1)
    return status


def remove(mem, me, ino, pfn):
    """Take a folio out of all of its slots; under the tree lock. Returns the number of folios that are left. The caller, which
    has announced the folio, drops the slots' reference.

    A client that dies before the last slot is cleared leaves slots that name a folio, never a folio that wrongly claims slots.
    """
    index = atomics.read64(mem, atomics.folio_at(mem, pfn) + layout.F_INDEX)
    span = min(page_type.span(mem, pfn), layout.SPAN_MAX)
    atomics.record32(mem, atomics.folio_at(mem, pfn) + layout.F_ATTACHED, 0)
    if index & ((1 << span) - 1) or index + (1 << span) - 1 > last_index(mem, ino):  # its words are damaged
        return folios(mem, ino)
    erased = xarray.erase(mem, me, head(mem, ino), height(mem, ino), index, span, pfn)
    if erased & layout.XA_LEAKED:
        robust_lock.mark_broken(mem, _tree_lock(ino))
    return _add_folios(mem, ino, -1) if erased & layout.XA_CLEARED else folios(mem, ino)


def folios(mem, ino):
    """Return how many folios the mapping has; exact under its tree lock."""
    return atomics.load_relaxed(mem, record(mem, ino) + layout.MAPPING_FOLIOS)


def _lock_table(mem, me):
    """Take TABLE_LOCK, and repair if that is necessary. False if the lock is refused."""
    got = robust_lock.lock(mem, layout.TABLE_LOCK, me)
    if got == layout.LOCK_REPAIR:
        _repair_table(mem, me)
    return got != layout.LOCK_BUSY


def _reset(mem):
    """Make all chains empty."""
    for bucket in range(atomics.nbuckets(mem)):
        atomics.write32(mem, atomics.buckets(mem) + bucket * 4, layout.NIL)
    atomics.store_relaxed(mem, layout.TABLE_COUNT, 0)


def _repair_table(mem, me):
    """Rebuild the chains from the records, under TABLE_LOCK. Records are made and dropped only under it."""
    _reset(mem)
    number = slab.next_of(mem, layout.SLAB_MAPPINGS, layout.NIL)
    while number != layout.NIL:
        if _is_record(mem, number):
            _link(mem, number)
        else:
            _free_record(mem, me, number)
        number = slab.next_of(mem, layout.SLAB_MAPPINGS, number)


def _repair_trees(mem, me, word):
    """Recount all trees of one tree lock, and free the nodes that a dead client was working on, under that lock.

    All mappings of the lock are repaired, so it does not matter how many clients have died here one after the other.
    """
    number = slab.next_of(mem, layout.SLAB_MAPPINGS, layout.NIL)
    while number != layout.NIL:
        ino = _ino(mem, number)
        if _tree_lock(ino) == word and _is_alive(mem, ino):
            _recount(mem, me, ino)
        number = slab.next_of(mem, layout.SLAB_MAPPINGS, number)
    number = slab.next_of(mem, layout.SLAB_NODES, layout.NIL)
    while number != layout.NIL:
        ino = _owner(mem, number)
        if _tree_lock(ino) == word:
            _free_unlinked(mem, me, ino, number)
        number = slab.next_of(mem, layout.SLAB_NODES, number)


def _recount(mem, me, ino):
    """Recount one tree, under its lock."""
    count = xarray.recount(mem, me, head(mem, ino), height(mem, ino), ino)
    atomics.store_relaxed(mem, record(mem, ino) + layout.MAPPING_FOLIOS, count)


def _owner(mem, number):
    """Return the ino of the mapping that a node in use belongs to."""
    return atomics.load_relaxed64(mem, slab.at(mem, layout.SLAB_NODES, number) + layout.OBJECT_OWNER)


def _free_unlinked(mem, me, ino, number):
    """Free a node of ino's tree that has no place in it, under the tree lock."""
    linked = _is_alive(mem, ino) and xarray.is_linked(mem, head(mem, ino), height(mem, ino), number)
    if not linked and not slab.free(mem, me, layout.SLAB_NODES, number):
        robust_lock.mark_broken(mem, _tree_lock(ino))


def _find_key_in(mem, bucket, key):
    """Return the ino of a record of one chain whose key has this digest, or 0. The caller has TABLE_LOCK."""
    number = atomics.read32(mem, atomics.buckets(mem) + bucket * 4)
    for _ in range(layout.CHAIN_MAX):
        found = _linked_at(mem, number)
        if found == 0:
            break
        if atomics.read64(mem, found + layout.MAPPING_KEY) == key:
            return _ino(mem, number)
        number = atomics.read32(mem, found + layout.MAPPING_CHAIN)
    return 0


def _add_folios(mem, ino, n):
    word = record(mem, ino) + layout.MAPPING_FOLIOS
    left = atomics.load_relaxed(mem, word) + n
    atomics.store_relaxed(mem, word, left)
    return left


def _is_record(mem, number):
    """True if there is a record in use whose MAPPING_INO has this number. The caller has TABLE_LOCK."""
    return (
        slab.holds(mem, layout.SLAB_MAPPINGS, number)
        and _ino(mem, number) & layout.OBJECT_MASK == number
        and _ino(mem, number) != 0
    )


def _linked_at(mem, number):
    """Return the offset of the record that a chain leads to; 0 at its end. 0 also if there is no such record: then the chain is
    damaged, and the lock is marked so that its next owner repairs it. Under TABLE_LOCK."""
    if number == layout.NIL:
        return 0
    if not _is_record(mem, number):
        robust_lock.mark_broken(mem, layout.TABLE_LOCK)
        return 0
    return slab.at(mem, layout.SLAB_MAPPINGS, number)


def _search(mem, digest_lo, digest_hi):
    """Return the number of the record with this digest, or NIL; under TABLE_LOCK."""
    number = atomics.read32(mem, _bucket(mem, digest_lo))
    for _ in range(layout.CHAIN_MAX):
        found = _linked_at(mem, number)
        if found == 0:
            break
        if atomics.read64(mem, found + layout.MAPPING_DIGEST_LO) == digest_lo and (
            atomics.read64(mem, found + layout.MAPPING_DIGEST_HI) == digest_hi
        ):
            return number
        number = atomics.read32(mem, found + layout.MAPPING_CHAIN)
    return layout.NIL


def _make(mem, me, digest_lo, digest_hi, key, size, order, height, text, key_length, version_length):
    """Make a record, under TABLE_LOCK. Return its number, or NIL if there is no memory for it."""
    number = slab.alloc(mem, me, layout.SLAB_MAPPINGS, 0)
    if number == layout.NIL:
        return layout.NIL
    new = slab.at(mem, layout.SLAB_MAPPINGS, number)
    atomics.write64(mem, new + layout.MAPPING_DIGEST_LO, digest_lo)
    atomics.write64(mem, new + layout.MAPPING_DIGEST_HI, digest_hi)
    atomics.write64(mem, new + layout.MAPPING_KEY, key)
    atomics.write64(mem, new + layout.MAPPING_OBJECT_SIZE, size)
    atomics.write32(mem, new + layout.MAPPING_UNIT_ORDER, order)
    atomics.write32(mem, new + layout.MAPPING_HEIGHT, height)
    atomics.write32(mem, new + layout.MAPPING_KEY_LENGTH, key_length)
    atomics.write32(mem, new + layout.MAPPING_VERSION_LENGTH, version_length)
    atomics.write_bytes(mem, new + layout.MAPPING_TEXT, text, key_length + version_length)
    serial = atomics.read64(mem, layout.TABLE_NEXT_INO) + 1
    atomics.write64(mem, layout.TABLE_NEXT_INO, serial)
    # The ino makes the record valid, so it is written last; a stale walker may read the record at any time.
    atomics.store_release64(mem, new + layout.MAPPING_INO, serial << layout.OBJECT_BITS | number)
    _link(mem, number)
    return number


def _link(mem, number):
    """Insert a record at the head of its chain."""
    at = slab.at(mem, layout.SLAB_MAPPINGS, number)
    bucket = _bucket(mem, atomics.read64(mem, at + layout.MAPPING_DIGEST_LO))
    atomics.write32(mem, at + layout.MAPPING_CHAIN, atomics.read32(mem, bucket))
    atomics.write32(mem, bucket, number)
    _count(mem, 1)


def _drop(mem, me, ino):
    """Unlink a record and free it, under both locks."""
    number = ino & layout.OBJECT_MASK
    link = _bucket(mem, atomics.read64(mem, record(mem, ino) + layout.MAPPING_DIGEST_LO))
    for _ in range(layout.CHAIN_MAX):
        if atomics.read32(mem, link) == number:
            atomics.write32(mem, link, atomics.read32(mem, record(mem, ino) + layout.MAPPING_CHAIN))
            break
        found = _linked_at(mem, atomics.read32(mem, link))
        if found == 0:
            break
        link = found + layout.MAPPING_CHAIN
    atomics.store_relaxed64(mem, record(mem, ino) + layout.MAPPING_INO, 0)
    _count(mem, -1)
    _free_record(mem, me, number)


def _free_record(mem, me, number):
    """Free a record whose MAPPING_INO is 0, under TABLE_LOCK. If the slab's lock is refused, the next repair of the table frees
    it."""
    if not slab.free(mem, me, layout.SLAB_MAPPINGS, number):
        robust_lock.mark_broken(mem, layout.TABLE_LOCK)


def _drop_empty(mem, me, ino):
    """Drop a record if its mapping has no folio. If a lock is refused, the record stays."""
    if not _lock_table(mem, me):
        return
    if lock(mem, me, ino) == layout.TREE_LOCKED:
        if folios(mem, ino) == 0:
            _drop(mem, me, ino)
        unlock(mem, ino)
    robust_lock.unlock(mem, layout.TABLE_LOCK)


def _is_alive(mem, ino):
    """True if the record has this ino. The caller has the ino's tree lock, which keeps the answer true.

    The record's page may have been freed and contain file data now, so its type is checked first: within an operation, a page
    that still has the type keeps it (see ``slab``).
    """
    where = record(mem, ino)
    if ino == 0 or where == 0 or page_type.type(mem, slab.pfn_of(mem, ino & layout.OBJECT_MASK)) != layout.TYPE_INODE:
        return False
    return atomics.load_acquire64(mem, where + layout.MAPPING_INO) == ino


def _ino(mem, number):
    return atomics.load_relaxed64(mem, slab.at(mem, layout.SLAB_MAPPINGS, number) + layout.MAPPING_INO)


def _tree_lock(ino):
    # The low bits of an ino are places in a page and leave gaps, so it is mixed first.
    mixed = (ino * layout.HASH_MULTIPLIER & layout.HASH_MASK) >> 56
    return layout.TREE_LOCK + (mixed & (layout.TREE_LOCKS - 1)) * layout.LINE


def _bucket(mem, digest_lo):
    return atomics.buckets(mem) + (digest_lo & (atomics.nbuckets(mem) - 1)) * 4


def _count(mem, n):
    atomics.store_relaxed(mem, layout.TABLE_COUNT, atomics.load_relaxed(mem, layout.TABLE_COUNT) + n)
