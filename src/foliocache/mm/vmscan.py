"""Reclaim: take cold folios out of the cache until there is room.

A part of a whole object (WHOLE_SHIFT: a Python object) is of no use when another one is gone, so all that nobody holds are
evicted together. Then what is left does not take room, and each eviction costs one object, and not one for each of its parts.

A cached folio that is not in use has one reference, which stands for all of its slots. To evict it (numbered as in
``filemap``'s lookup):

A. pin it (``lru.isolate`` does): from now on its identity cannot change;
B. take its mapping's tree lock: now its slots cannot change either, and with them their reference;
C. ``freeze(2)``: the slots' reference and ours. It fails if another client holds the folio, which then stays;
D. clear the slots; E. destroy it.

C is one atomic step, so of the interleavings with a getter there are two: a getter whose add comes before C makes it fail; one
whose add comes after C finds FROZEN and takes it for a miss, which it confirms under the tree lock. With D before C, a folio
that cannot be frozen would have lost its slots.

After the kernel's ``mm/vmscan.c`` (``__remove_mapping``).
"""

import cython

if not cython.compiled:
    from . import atomics, client, folio, ghost, layout, lru, mapping, page_alloc, page_ref, page_type, slab


def alloc_folio(mem, me, order):
    """Return a frozen block of 2^order pages, after backing or evicting as much as that takes; NIL if everything is in use. No
    lock may be held. The block stays named in the slot of me, as by ``page_alloc.alloc``."""
    pfn = page_alloc.alloc(mem, me, order)
    for _ in range(layout.SHRINK_TRIES):
        if pfn != layout.NIL or not make_room(mem, me, order):
            break
        pfn = page_alloc.alloc(mem, me, order)
    if pfn == layout.NIL and order > 0:
        return _clear_block(mem, me, order)
    return pfn


def try_alloc(mem, me, order):
    """As ``alloc_folio``, for a caller that can do with less: evicts so many pages once, by age, and clears no block for it."""
    pfn = page_alloc.alloc(mem, me, order)
    if pfn == layout.NIL and make_room(mem, me, order):
        pfn = page_alloc.alloc(mem, me, order)
    return pfn


def make_room(mem, me, order):
    """Give free pages memory if the pool may have more, else free an empty page of objects, else evict 2^order pages by age.
    False if none of that is possible. No lock may be held."""
    return page_alloc.back(mem, me, order) > 0 or slab.shrink(mem, me) or shrink(mem, me, 1 << order) > 0


def shrink(mem, me, want):
    """Evict cold folios until ``want`` pages have come free. Returns how many have.

    Ends early after PINNED_MAX folios in a row, or as many as there are, that were in use; or with the first folio that has to
    stay named because a lock is refused.
    """
    freed = 0
    refused = 0
    most = min(layout.PINNED_MAX, lru.cached(mem) + 1)
    rounds = 2 + layout.LOOKS_MAX * lru.cached(mem) // layout.SCAN_BATCH  # enough for the last heat of every folio
    while freed < want and refused < most and rounds > 0:
        pfn = lru.isolate(mem, me, refused & 1)
        if pfn == layout.NIL:
            rounds -= 1
            continue
        got = evict(mem, me, pfn)
        if got == layout.NIL:
            break
        freed += got
        refused = refused + 1 if got == 0 else 0
    return freed


def evict(mem, me, pfn):
    """Evict a FILE folio that the caller has named and pinned, if no other client holds it, and the rest of its object if that
    is a whole one. Takes the pin.

    Returns the pages freed; 0 if the folio stays; NIL if a lock is refused and a folio is left named.
    """
    return _evict(mem, me, pfn, True)


def _evict(mem, me, pfn, rest):
    """As ``evict``; the rest only if ``rest``."""
    at = atomics.folio_at(mem, pfn)
    ino = atomics.read64(mem, at + layout.F_INO)
    order = page_type.order(mem, pfn)
    got = mapping.lock(mem, me, ino)
    if got == layout.TREE_GONE:
        return 0 if folio.put(mem, me, pfn) else layout.NIL
    if got == layout.LOCK_BUSY:
        return _keep(mem, me, pfn)
    attached = atomics.load_relaxed(mem, at + layout.F_ATTACHED)
    if not attached or not page_ref.freeze(mem, at, 2):
        mapping.unlock(mem, ino)
        return _keep(mem, me, pfn)
    left = mapping.remove(mem, me, ino, pfn)
    mapping.unlock(mem, ino)
    rest = rest and left > 0 and ghost.is_whole(atomics.read64(mem, at + layout.F_DIGEST))
    verdict = lru.verdict_of(mem, pfn)
    client.count(mem, me, layout.COUNT_EVICTIONS, 1)
    freed = 1 << order
    index = atomics.read64(mem, at + layout.F_INDEX)
    if rest:
        freed = _sum(freed, _evict_rest(mem, me, ino, index + 1, layout.XA_INDEX_MAX, verdict))
    if not folio.destroy(mem, me, pfn):
        return layout.NIL
    client.retract(mem, me, pfn)
    if rest:
        freed = _sum(freed, _evict_rest(mem, me, ino, 0, index, verdict))
    if left == 0:
        mapping.release(mem, me, ino)
    return freed


def _sum(freed, more):
    """Return the pages freed by two evictions; NIL if one of them has left a folio named."""
    return freed + more if freed != layout.NIL and more != layout.NIL else layout.NIL


def _evict_rest(mem, me, ino, first, end, verdict):
    """Evict the folios of a mapping that have one of the units first .. end - 1, are on a queue, and are held by no other
    client; with this verdict. Returns as ``evict``.

    The last comes first: a free block is taken before those that were freed earlier, so the folios of the next object of this
    size lie side by side as these did. A client that dies in here leaves the others on their queues, to be evicted in their
    turn.
    """
    freed = 0
    while end > first and freed != layout.NIL and mapping.lock(mem, me, ino) == layout.TREE_LOCKED:
        end = min(end, mapping.last_unit(mem, ino) + 1)
        pfn = layout.NIL
        while end > first and pfn == layout.NIL:
            end -= 1
            pfn = mapping.find(mem, ino, end)
        if pfn != layout.NIL and not folio.is_attached(mem, pfn, ino, end):
            pfn = layout.NIL
        if pfn != layout.NIL:
            client.announce(mem, me, pfn)  # under the lock, while the slots' reference keeps the folio
            page_ref.get(mem, atomics.folio_at(mem, pfn))
        mapping.unlock(mem, ino)
        if pfn == layout.NIL:
            continue
        if lru.take(mem, me, pfn, verdict):
            freed = _sum(freed, _evict(mem, me, pfn, False))
        elif not folio.put(mem, me, pfn):
            freed = layout.NIL
    return freed


def _keep(mem, me, pfn):
    """Drop the pin on a folio that stays, and put it on the queue of the hot ones, for it is in use. Returns 0; or NIL if it is
    left named, because a lock is refused and reclaim would not find it again."""
    if lru.add(mem, me, pfn, layout.QUEUE_MAIN):
        return 0 if folio.put(mem, me, pfn) else layout.NIL
    client.announce(mem, me, pfn)
    folio.put(mem, me, pfn)
    return layout.NIL


def _clear_block(mem, me, order):
    """Evict the folios of one aligned block after the other until a block of that order is free. Returns it, or NIL.

    Evicting by age scatters the freed pages; where folios of several orders are mixed, only this frees large blocks.
    """
    for _ in range(layout.BLOCKS_MAX):
        block = atomics.fetch_add_relaxed(mem, layout.BLOCK_HAND, 1) % ((atomics.npages(mem) >> order) + 1)
        if not evict_range(mem, me, block << order, (block + 1) << order):
            break
        pfn = page_alloc.alloc(mem, me, order)
        if pfn != layout.NIL:
            return pfn
    return layout.NIL


def evict_range(mem, me, pfn, end):
    """Evict the FILE folios that begin in pfn .. end - 1, up to the first that stays. Returns False if one is left named
    because a lock is refused."""
    while pfn < end and pfn < atomics.npages(mem):
        if page_alloc.mark(mem, pfn):  # free, or in quarantine
            pfn += 1
            continue
        client.announce(mem, me, pfn)
        got = page_ref.try_get(mem, atomics.folio_at(mem, pfn))
        if got == layout.DEAD:  # free by now, a tail page, or about to be freed
            client.retract(mem, me, pfn)
            pfn += 1
            continue
        if got != layout.GOT or page_type.type(mem, pfn) != layout.TYPE_FILE:
            return folio.put(mem, me, pfn)
        size = 1 << page_type.order(mem, pfn)
        freed = evict(mem, me, pfn)
        if freed == 0 or freed == layout.NIL:
            return freed == 0
        pfn += size
    return True
