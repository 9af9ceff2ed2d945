"""A folio: 2^order pages with one descriptor, that of its first page; and what happens when its last reference is dropped.

A life of a folio::

    page_alloc.alloc            frozen: every try_get fails
    prepare                     type, order, identity, flags: plain stores by the owner
    page_ref.init               published: the identity does not change until the folio is frozen again
    try_get, get, put           ...
    put that freezes it         one client wins
    destroy                     type and order are read here, after the freeze
    page_alloc.free             still frozen

``destroy`` takes from its caller only the pfn. The client that won ``0 -> FROZEN`` may have dropped its reference in an earlier
life of the page, as a folio of another type (see ``page_ref``); the destructor that runs is that of the life that has ended.
The descriptors of the tail pages are frozen throughout, so a getter with a stale pfn in the middle of a folio fails.
"""

import cython

if not cython.compiled:
    from . import atomics, client, flags, layout, lru, page_alloc, page_ref, page_type


def prepare(mem, pfn, type, order, span, ino, index, length):
    """Set up a frozen folio for a new life; ``page_ref.init`` comes next. span, index (of the first unit), and length in valid
    bytes, are for FILE.

    No word of the former life is reused: its owner may have been killed anywhere at the end of that life. F_QUEUE is the
    exception: ``destroy`` clears it before the block is free.
    """
    folio = atomics.folio_at(mem, pfn)
    page_type.set(mem, pfn, type, order, span)
    atomics.write64(mem, folio + layout.F_INO, ino)
    atomics.write64(mem, folio + layout.F_INDEX, index)
    atomics.store_relaxed(mem, folio + layout.F_ATTACHED, 0)
    atomics.write32(mem, folio + layout.F_LENGTH, length)
    atomics.write32(mem, folio + layout.F_USED, 0)
    atomics.write32(mem, folio + layout.F_FREE, 0)
    flags.init(mem, folio, 0)


def put(mem, me, pfn):
    """Drop a reference on a folio that the current operation has announced; the last one destroys the folio. False if a lock is
    refused: the folio is as ``destroy`` has left it, and the intent stays."""
    if page_ref.put(mem, atomics.folio_at(mem, pfn)) and not destroy(mem, me, pfn):
        return False
    client.retract(mem, me, pfn)
    return True


def release(mem, me, n, pfn):
    """Drop the pin that is word n of the ledger, in an operation of its own. False if a lock is refused: the word is then an
    intent."""
    client.let_go(mem, me, n, pfn)
    if page_ref.put(mem, atomics.folio_at(mem, pfn)) and not destroy(mem, me, pfn):
        client.keep_intent(mem, me, n, pfn)
        return False
    client.finish(mem, me, pfn)
    return True


def destroy(mem, me, pfn):
    """Give the pages of a frozen folio back, as its type requires. The caller owns the folio: it has announced it, then frozen
    it.

    A reaper may start this again wherever the caller died. False if a lock is refused: the caller leaves the rest to a reaper.
    """
    order = page_type.order(mem, pfn)
    if page_type.type(mem, pfn) == layout.TYPE_FILE and not lru.remove(mem, me, pfn):
        return False
    page_type.set(mem, pfn, layout.TYPE_NONE, order, 0)
    return page_alloc.free(mem, me, pfn, order)


def is_identity(mem, pfn, ino, index):
    """True if a folio that the caller holds has the unit that it looked for: the second half of the re-check.

    Plain loads: these words are written while the folio is frozen, and the caller's get was ordered after the ``init`` that
    ended that. Only FILE folios have an ino other than 0. If one of F_INDEX and the span is damaged, the folio may still have
    units of its own, never others: its first unit is the aligned one.
    """
    folio = atomics.folio_at(mem, pfn)
    if atomics.read64(mem, folio + layout.F_INO) != ino:
        return False
    first = atomics.read64(mem, folio + layout.F_INDEX)
    span = page_type.span(mem, pfn)
    return index >> span << span == first


def is_attached(mem, pfn, ino, index):
    """True if a folio that the slot for index names has a reference of this mapping's slots; under the tree lock.

    If a word is damaged it may have none, or one of another mapping's, and what would be dropped in its place is a lease's.
    """
    attached = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_ATTACHED)
    return attached != 0 and is_identity(mem, pfn, ino, index)
