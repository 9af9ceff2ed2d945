"""The buddy allocator: blocks of 2^order pages, order 0 .. MAX_ORDER, frozen in and frozen out.

Every free page, and every tail page of a block, has FROZEN in its reference word, and keeps it until the client that allocated
it calls ``page_ref.init``. So a late getter, with a pfn from a former life, fails on all of them. The allocator never stores a
zero, which such a getter could take for a folio that has no owner yet.

A block's first page has F_BUDDY = order + 1 while the block is free, else 0. F_BUDDY and the lists are accessed only under
ALLOC_LOCK, even if the neighbour that is looked at is in use: so "is my buddy free" is a word of its own, and not a word that
the owner of a page may be writing.

**Ground truth.** The first pages of blocks, one after the other, describe the whole pool at every instruction, wherever a
client was killed: F_BUDDY says that a block is free and how large it is, or else the order in F_KIND says how far the block in
use extends (it is set here, and kept until the block is free again). So a block is split from the top: the upper half is marked
while the mark of the whole still covers it, then the mark of the whole is reduced; merging is the reverse. No block is lost in
between: a block that is taken is announced (``client.announce``) before its mark is cleared, and one that is freed stays
announced until its mark is set. ``rebuild`` makes the lists, which are only an index, from this.

**Damage.** A page passes from one owner to another only if two words agree: F_BUDDY says that it is free, and F_KIND that no
folio begins there. A free block has no type, because the type is cleared before the mark is set; only the first page of a block
has one. A block whose words contradict each other is not handed out, and the lists are rebuilt.

**Quarantine.** A page that a dead client may have been working on must not begin a new life while the reaper examines it (see
``reap``): a block marked BUDDY_QUARANTINED becomes BUDDY_PARKED when it is freed, and stays so until the reaper has finished.

Against fragmentation, as in the kernel's ``mm/page_alloc.c``: a freed block goes to the end of its list if the block that it
would merge into is already half free (buddy_merge_likely), so that it is handed out last and the merge becomes more likely.
"""

import cython

if not cython.compiled:
    from . import atomics, client, layout, page_ref, page_type, pagelist, robust_lock


def alloc(mem, me, order):
    """Take a block of 2^order pages off the free lists, split from a larger one if necessary. Return its first pfn, or NIL if
    there is none or the lock is refused.

    The block is announced in the caller's slot (``client.announce``) until the caller calls ``client.retract``.
    """
    if not _lock(mem, me):
        return layout.NIL
    pfn = _take(mem, me, order)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return pfn


def free(mem, me, pfn, order):
    """Free a frozen block that the caller has announced, and merge it with its buddies. False if the lock is refused: the block
    stays as it is."""
    if not _lock(mem, me):
        return False
    if mark(mem, pfn) == layout.BUDDY_QUARANTINED:
        _set_mark(mem, pfn, layout.BUDDY_PARKED)
    else:
        _give(mem, pfn, order)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return True


def mark(mem, pfn):
    """Return a page's F_BUDDY. If it is 0 in an operation that has announced pfn, or that began after a quarantine, the block
    is not in quarantine."""
    return atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_BUDDY)


def quarantine(mem, me, pfn):
    """Keep the block that begins at pfn from a new life. Return QUARANTINE_ON; QUARANTINE_NONE, with nothing done, if no block
    begins there or it is free; or LOCK_BUSY if the lock is refused."""
    if not _lock(mem, me):
        return layout.LOCK_BUSY
    found = _head_of(mem, pfn) == pfn and not _is_free_mark(mark(mem, pfn))
    if found and _is_parked(mem, pfn):
        _give(mem, pfn, page_type.order(mem, pfn))
        found = False
    elif found:
        _set_mark(mem, pfn, layout.BUDDY_QUARANTINED)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return layout.QUARANTINE_ON if found else layout.QUARANTINE_NONE


def end_quarantine(mem, me, pfn):
    """Free the block if it is parked; else only clear its mark. False if the lock is refused."""
    if not _lock(mem, me):
        return False
    if _is_parked(mem, pfn):
        _give(mem, pfn, page_type.order(mem, pfn))
    elif mark(mem, pfn) == layout.BUDDY_QUARANTINED or mark(mem, pfn) == layout.BUDDY_PARKED:
        _set_mark(mem, pfn, 0)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return True


def rebuild(mem):
    """Make the lists and the count from the marks, under ALLOC_LOCK. May be started again if the client that ran it died."""
    for order in range(layout.MAX_ORDER + 1):
        pagelist.reset(mem, _list(order))
    atomics.store_relaxed(mem, layout.ALLOC_FREE, 0)
    pfn = 0
    while pfn < atomics.npages(mem):
        order = _order_at(mem, pfn)
        for tail in range(pfn + 1, pfn + (1 << order)):
            _set_mark(mem, tail, 0)
            _freeze(mem, tail)
            page_type.set(mem, tail, layout.TYPE_NONE, 0, 0)
        if page_type.type(mem, pfn) != layout.TYPE_NONE or not _is_free_mark(mark(mem, pfn)):
            _correct(mem, pfn, order)
        else:
            _freeze(mem, pfn)
            page_type.set(mem, pfn, layout.TYPE_NONE, order, 0)
            _set_mark(mem, pfn, order + 1)
            _add_free(mem, 1 << order)
            _merge_down(mem, pfn, order)
        pfn += 1 << order


def repair(mem, me):
    """Take the lock and rebuild, while other clients are attached."""
    if robust_lock.lock(mem, layout.ALLOC_LOCK, me) != layout.LOCK_BUSY:
        rebuild(mem)
        robust_lock.unlock(mem, layout.ALLOC_LOCK)


def reap(mem, me, dead):
    """If a dead client holds ALLOC_LOCK, take it over, rebuild, and unlock."""
    if robust_lock.take_over(mem, layout.ALLOC_LOCK, dead, me):
        rebuild(mem)
        robust_lock.unlock(mem, layout.ALLOC_LOCK)


def free_pages(mem):
    """Return how many pages are free; exact while no client allocates."""
    return atomics.load_relaxed(mem, layout.ALLOC_FREE)


def setup(mem, me):
    """Freeze all pages of a new segment and put them on the free lists, in the largest blocks that fit."""
    for order in range(layout.MAX_ORDER + 1):
        pagelist.reset(mem, _list(order))
    atomics.store_relaxed(mem, layout.ALLOC_FREE, 0)
    for pfn in range(atomics.npages(mem)):
        page_ref.init(mem, atomics.folio_at(mem, pfn), layout.FROZEN)
    pfn = 0
    while pfn < atomics.npages(mem):
        order = layout.MAX_ORDER
        while not _may_begin(mem, pfn, order):
            order -= 1
        _lock(mem, me)
        _set_mark(mem, pfn, order + 1)
        _add_free(mem, 1 << order)
        pagelist.push_last(mem, _list(order), pfn)
        robust_lock.unlock(mem, layout.ALLOC_LOCK)
        pfn += 1 << order


def _lock(mem, me):
    """Take ALLOC_LOCK, and rebuild if that is necessary. False if the lock is refused."""
    got = robust_lock.lock(mem, layout.ALLOC_LOCK, me)
    if got == layout.LOCK_REPAIR:
        rebuild(mem)
    return got != layout.LOCK_BUSY


def _take(mem, me, order):
    for larger in range(order, layout.MAX_ORDER + 1):
        pfn = pagelist.first(mem, _list(larger))
        if pfn == layout.NIL:
            continue
        if _is_free(mem, pfn, larger) and _has_no_folio(mem, pfn + 1, pfn + (1 << order)):
            pagelist.remove(mem, _list(larger), pfn)
            _split(mem, pfn, larger, order)
            client.announce(mem, me, pfn)
            page_type.set(mem, pfn, layout.TYPE_NONE, order, 0)
            _set_mark(mem, pfn, 0)
            _add_free(mem, -(1 << order))
            return pfn
        robust_lock.mark_broken(mem, layout.ALLOC_LOCK)  # damaged: the next owner rebuilds the lists
    return layout.NIL


def _split(mem, pfn, have, want):
    """Free the upper halves until the block at pfn has the order that is wanted."""
    while have > want:
        have -= 1
        _set_mark(mem, pfn + (1 << have), have + 1)
        _set_mark(mem, pfn, have + 1)
        pagelist.push_first(mem, _list(have), pfn + (1 << have))


def _give(mem, pfn, order):
    """Mark the block as free, then merge it with its buddies."""
    _set_mark(mem, pfn, order + 1)
    _add_free(mem, 1 << order)
    _merge(mem, pfn, order)


def _merge(mem, pfn, order):
    while order < layout.MAX_ORDER and _is_free(mem, pfn ^ (1 << order), order):
        pagelist.remove(mem, _list(order), pfn ^ (1 << order))
        pfn &= ~(1 << order)
        order += 1
        _set_mark(mem, pfn, order + 1)
        _set_mark(mem, pfn + (1 << (order - 1)), 0)
    if order < layout.MAX_ORDER and _is_free(mem, (pfn & ~(1 << order)) ^ (2 << order), order + 1):
        pagelist.push_last(mem, _list(order), pfn)
    else:
        pagelist.push_first(mem, _list(order), pfn)


def _merge_down(mem, pfn, order):
    """Merge a block with those before it, which are on the lists already; those after it follow later."""
    while order < layout.MAX_ORDER and pfn & (1 << order) and _is_free(mem, pfn ^ (1 << order), order):
        pagelist.remove(mem, _list(order), pfn ^ (1 << order))
        pfn ^= 1 << order
        order += 1
        _set_mark(mem, pfn, order + 1)
        _set_mark(mem, pfn + (1 << (order - 1)), 0)
    pagelist.push_last(mem, _list(order), pfn)


def _is_free(mem, pfn, order):
    return (
        pfn + (1 << order) <= atomics.npages(mem)
        and mark(mem, pfn) == order + 1
        and page_type.type(mem, pfn) == layout.TYPE_NONE
    )


def _is_parked(mem, pfn):
    """True if a block was freed in quarantine."""
    return mark(mem, pfn) == layout.BUDDY_PARKED and page_type.type(mem, pfn) == layout.TYPE_NONE


def _has_no_folio(mem, pfn, end):
    """True if no folio begins in pfn .. end - 1, as in a free block, or in a block in use after its first page."""
    while pfn < end:
        if page_type.type(mem, pfn) != layout.TYPE_NONE:
            return False
        pfn += 1
    return True


def _is_free_mark(mark):
    return 0 < mark <= layout.MAX_ORDER + 1


def _set_mark(mem, pfn, mark):
    # In program order with the accesses around it: see "ground truth".
    atomics.record32(mem, atomics.folio_at(mem, pfn) + layout.F_BUDDY, mark)


def _freeze(mem, pfn):
    """Freeze a page whose words were damaged; the death of a client leaves every tail and every free page frozen."""
    if not page_ref.is_frozen(mem, atomics.folio_at(mem, pfn)):
        page_ref.init(mem, atomics.folio_at(mem, pfn), layout.FROZEN)


def _order_at(mem, pfn):
    """Return the order of the block that begins at pfn; a smaller one if the words there are impossible."""
    free = _is_free_mark(mark(mem, pfn)) and page_type.type(mem, pfn) == layout.TYPE_NONE
    order = mark(mem, pfn) - 1 if free else page_type.order(mem, pfn)
    if not _may_begin(mem, pfn, order):
        return 0
    while order and not _has_no_folio(mem, pfn + 1, pfn + (1 << order)):
        order -= 1
    return order


def _correct(mem, pfn, order):
    """Make the words of a block in use consistent: in use, and of this order."""
    found = mark(mem, pfn)
    if found != 0 and found != layout.BUDDY_QUARANTINED and found != layout.BUDDY_PARKED:
        _set_mark(mem, pfn, 0)
    if page_type.order(mem, pfn) != order:
        page_type.set(mem, pfn, page_type.type(mem, pfn), order, page_type.span(mem, pfn))


def _may_begin(mem, pfn, order):
    return pfn & ((1 << order) - 1) == 0 and pfn + (1 << order) <= atomics.npages(mem)


def _head_of(mem, pfn):
    """Return the first pfn of the block that contains pfn. No block crosses a multiple of the largest size."""
    head = pfn & ~((1 << layout.MAX_ORDER) - 1)
    while head + (1 << _order_at(mem, head)) <= pfn:
        head += 1 << _order_at(mem, head)
    return head


def _list(order):
    return layout.ALLOC_LISTS + order * layout.LIST_SIZE


def _add_free(mem, pages):
    # Written only under the lock; atomic because statistics read it without the lock.
    now = atomics.load_relaxed(mem, layout.ALLOC_FREE)
    atomics.store_relaxed(mem, layout.ALLOC_FREE, now + pages)
