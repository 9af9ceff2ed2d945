"""The buddy allocator: blocks of 2^order pages, order 0 .. MAX_ORDER, frozen in and frozen out.

Every free page, and every tail page of a block, has FROZEN in its reference word, and keeps it until the client that allocated
it calls ``page_ref.init``. So a late getter, with a pfn from a former life, fails on all of them. The allocator never stores a
zero, which such a getter could take for a folio that has no owner yet.

A block's first page has F_BUDDY = order + 1 while the block is free, else 0. F_BUDDY and the lists are accessed only under
ALLOC_LOCK, even if the neighbour that is looked at is in use: so "is my buddy free" is a word of its own, and not a word that
the owner of a page may be writing.

**Ground truth.** The first pages of blocks, one after the other, describe the whole pool at every instruction, wherever a
client was killed: F_BUDDY says that a block is free and how large it is, or else the order in F_TYPE says how far the block in
use extends (it is set here, and kept until the block is free again). So a block is split from the top: the upper half is marked
while the mark of the whole still covers it, then the mark of the whole is reduced; merging is the reverse. No block is lost in
between: a block that is taken is announced (``client.announce``) before its mark is cleared, and one that is freed stays
announced until its mark is set. ``rebuild`` makes the lists, which are only an index, from this.

**Damage.** A page passes from one owner to another only if two words agree: F_BUDDY says that it is free, and F_TYPE that no
folio begins there. A free block has no type, because the type is cleared before the mark is set; only the first page of a block
has one. A block whose words contradict each other is not handed out, and the lists are rebuilt.

**Quarantine.** A page that a dead client may have been working on must not begin a new life while the reaper examines it (see
``reap``): a block marked BUDDY_QUARANTINED becomes BUDDY_PARKED when it is freed, and stays so until the reaper has finished.

**Holes.** A free block has memory, or it is a hole (BUDDY_HOLE): the kernel has not been asked for its memory yet. Holes have
free lists of their own, and merge among themselves. They are whole chunks (``backing``), or the rest of one at the segment's
end. ``alloc`` hands out blocks with memory alone. When there are none, ``back`` takes a hole, like any block, asks for its
memory without the lock, and frees it; which of the two lists it then goes to is read from the marks. So a client that is killed
on the way leaves a block in use that it has announced, and the reaper that frees it does right by it.

**Descriptors** of pages that no client has needed yet are holes of the file, too. ``_describe`` gives the next ones memory.

Against fragmentation, as in the kernel's ``mm/page_alloc.c``: a freed block goes to the end of its list if the block that it
would merge into is already half free (buddy_merge_likely), so that it is handed out last and the merge becomes more likely.
"""

import cython

if not cython.compiled:
    from . import atomics, backing, client, layout, page_ref, page_type, pagelist, robust_lock


def alloc(mem, me, order):
    """Take a block of 2^order pages off the free lists, split from a larger one if necessary. Return its first pfn, or NIL if
    there is none or the lock is refused.

    The block is announced in the caller's slot (``client.announce``) until the caller calls ``client.retract``.
    """
    if not _lock(mem, me):
        return layout.NIL
    pfn = _take(mem, me, order, 0)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return pfn


def back(mem, me, order):
    """Give at least 2^order free pages memory, in one block. Return how many; 0 if the pool may have no more, or the kernel has
    none, or a lock is refused."""
    if backed_pages(mem) >= backing.limit(mem):  # a look without the lock: it need not be exact
        return 0
    pfn = _take_hole(mem, me, order)
    while pfn == layout.NIL and _may_have(mem, order) and _describe(mem, me):
        pfn = _take_hole(mem, me, order)
    if pfn == layout.NIL:
        return 0
    order = page_type.order(mem, pfn)
    backed = backing.back(mem, pfn, order)
    if not backed and atomics.populate(mem):
        backing.empty(mem, pfn, order)  # what a mapping has brought stays, where fallocate gives all or nothing
    if not free(mem, me, pfn, order):
        return 0
    client.retract(mem, me, pfn)
    return 1 << order if backed else 0


def alloc_chunks(mem, me, most):
    """Take the largest free block that has memory, of whole chunks and of at most ``most`` pages. Return its first pfn, or NIL
    if there is none or the lock is refused. It is announced as by ``alloc``."""
    pfn = layout.NIL
    if not _lock(mem, me):
        return pfn
    for smaller in range(layout.MAX_ORDER + 1):
        order = layout.MAX_ORDER - smaller
        if pfn == layout.NIL and order >= backing.chunk_order(mem) and most >> order > 0:
            pfn = _take(mem, me, order, 0)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return pfn


def alloc_hole(mem, me, pfn):
    """Take the hole that contains pfn, of whole chunks. Return its first pfn, or NIL if pfn is in none or the lock is refused.
    It is announced as by ``alloc``."""
    if pfn >= atomics.npages(mem) or not _lock(mem, me):
        return layout.NIL
    head = _head_of(mem, pfn)
    order = _order_at(mem, head)
    pfn = layout.NIL
    if order >= backing.chunk_order(mem) and _is_free(mem, head, order, layout.BUDDY_HOLE):
        pagelist.remove(mem, _list(order, layout.BUDDY_HOLE), head)
        pagelist.push_first(mem, _list(order, layout.BUDDY_HOLE), head)
        pfn = _take(mem, me, order, layout.BUDDY_HOLE)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return pfn


def is_hole(mem, pfn):
    """True if pfn, which is below ``atomics.npages``, is in a hole; a hint, without the lock."""
    head = _head_of(mem, pfn)
    return _is_free(mem, head, _order_at(mem, head), layout.BUDDY_HOLE)


def set_limit(mem, me, pages):
    """Let as many pages have memory at once. Those that have some already keep it. False if the lock is refused."""
    if not _lock(mem, me):
        return False
    atomics.store_relaxed(mem, layout.PAGES_LIMIT, pages)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return True


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
    _reset(mem)
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
            hole = _hole_of(mem, pfn, order)
            _set_mark(mem, pfn, order + 1 | hole)
            _add_free(mem, 1 << order, hole)
            _merge_down(mem, pfn, order, hole)
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
    """Return how many pages are free and have memory; exact while no client allocates."""
    return atomics.load_relaxed(mem, layout.ALLOC_FREE)


def backed_pages(mem):
    """Return how many pages have memory, or are about to."""
    described = _described(mem)
    return described - min(atomics.load_relaxed(mem, layout.ALLOC_HOLES), described)


def setup(mem, limit):
    """Empty lists, for a new segment: no page has a descriptor or memory. At most ``limit`` pages may have memory at once."""
    _reset(mem)
    atomics.store_relaxed(mem, layout.PAGES_DESCRIBED, 0)
    atomics.store_relaxed(mem, layout.PAGES_LIMIT, limit)


def _reset(mem):
    for order in range(layout.MAX_ORDER + 1):
        pagelist.reset(mem, _list(order, 0))
        pagelist.reset(mem, _list(order, layout.BUDDY_HOLE))
    atomics.store_relaxed(mem, layout.ALLOC_FREE, 0)
    atomics.store_relaxed(mem, layout.ALLOC_HOLES, 0)


def _lock(mem, me):
    """Take ALLOC_LOCK, and rebuild if that is necessary. False if the lock is refused."""
    got = robust_lock.lock(mem, layout.ALLOC_LOCK, me)
    if got == layout.LOCK_REPAIR:
        rebuild(mem)
    return got != layout.LOCK_BUSY


def _take(mem, me, order, hole):
    """Take a block off the lists of those with memory (hole: 0) or of the holes (BUDDY_HOLE)."""
    for larger in range(order, layout.MAX_ORDER + 1):
        pfn = pagelist.first(mem, _list(larger, hole))
        if pfn == layout.NIL:
            continue
        if _is_free(mem, pfn, larger, hole) and _has_no_folio(mem, pfn + 1, pfn + (1 << order)):
            pagelist.remove(mem, _list(larger, hole), pfn)
            _split(mem, pfn, larger, order, hole)
            client.announce(mem, me, pfn)
            page_type.set(mem, pfn, layout.TYPE_NONE, order, 0)
            _set_mark(mem, pfn, 0)
            _add_free(mem, -(1 << order), hole)
            return pfn
        robust_lock.mark_broken(mem, layout.ALLOC_LOCK)  # damaged: the next owner rebuilds the lists
    return layout.NIL


def _take_hole(mem, me, order):
    """Take a hole of 2^order pages, or of a chunk if that is more; at the end, of what is left of one. NIL if there is none, or
    the pool may have no more memory, or the lock is refused."""
    if not _lock(mem, me):
        return layout.NIL
    pfn = layout.NIL
    want = max(order, backing.chunk_order(mem))
    while pfn == layout.NIL and want >= order:
        if _may_have(mem, want):
            pfn = _take(mem, me, want, layout.BUDDY_HOLE)
        if want == 0:
            break
        want -= 1
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return pfn


def _may_have(mem, order):
    """True if the pool may have memory for 2^order pages more."""
    return backed_pages(mem) + (1 << order) <= backing.limit(mem)


def _describe(mem, me):
    """Give the next pages of the segment descriptors, and make them holes. False if all have some, or there is no memory for
    them, or the lock is refused.

    A getter with a damaged pfn must find no zero there, so the number of pages grows when all of the new ones are frozen; the
    release pairs with the acquire in ``atomics.npages``. A client that dies before has changed nothing; after that, its lock is
    taken over and the lists are rebuilt from the marks.
    """
    first = _described(mem)
    end = min(first + (1 << layout.MAX_ORDER), atomics.npages_max(mem))
    begin = atomics.memmap(mem) + first * layout.FOLIO_SIZE
    if first == end or not backing.reserve(mem, begin, (end - first) * layout.FOLIO_SIZE) or not _lock(mem, me):
        return False
    if atomics.load_relaxed(mem, layout.PAGES_DESCRIBED) == first:
        for pfn in range(first, end):
            page_ref.init(mem, atomics.folio_at(mem, pfn), layout.FROZEN)
        pfn = first
        while pfn < end:
            _set_mark(mem, pfn, _largest(mem, pfn) + 1 | layout.BUDDY_HOLE)
            pfn += 1 << _largest(mem, pfn)
        atomics.store_release(mem, layout.PAGES_DESCRIBED, end)
        pfn = first
        while pfn < end:
            _add_free(mem, 1 << _largest(mem, pfn), layout.BUDDY_HOLE)
            pagelist.push_last(mem, _list(_largest(mem, pfn), layout.BUDDY_HOLE), pfn)
            pfn += 1 << _largest(mem, pfn)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return True


def _described(mem):
    """As ``atomics.npages``, where it does not matter whether the descriptors can be seen."""
    return min(atomics.load_relaxed(mem, layout.PAGES_DESCRIBED), atomics.npages_max(mem))


def _largest(mem, pfn):
    """Return the order of the largest block that may begin at pfn."""
    order = layout.MAX_ORDER
    while pfn & ((1 << order) - 1) or pfn + (1 << order) > atomics.npages_max(mem):
        order -= 1
    return order


def _split(mem, pfn, have, want, hole):
    """Free the upper halves until the block at pfn has the order that is wanted."""
    while have > want:
        have -= 1
        _set_mark(mem, pfn + (1 << have), have + 1 | hole)
        _set_mark(mem, pfn, have + 1 | hole)
        pagelist.push_first(mem, _list(have, hole), pfn + (1 << have))


def _give(mem, pfn, order):
    """Mark the block as free, then merge it with its buddies."""
    hole = _hole_of(mem, pfn, order)
    _set_mark(mem, pfn, order + 1 | hole)
    _add_free(mem, 1 << order, hole)
    _merge(mem, pfn, order, hole)


def _hole_of(mem, pfn, order):
    """Return 0 if all of a block has memory, else BUDDY_HOLE."""
    return 0 if backing.is_backed(mem, pfn, order) else layout.BUDDY_HOLE


def _merge(mem, pfn, order, hole):
    while order < layout.MAX_ORDER and _is_free(mem, pfn ^ (1 << order), order, hole):
        pagelist.remove(mem, _list(order, hole), pfn ^ (1 << order))
        pfn &= ~(1 << order)
        order += 1
        _set_mark(mem, pfn, order + 1 | hole)
        _set_mark(mem, pfn + (1 << (order - 1)), 0)
    if order < layout.MAX_ORDER and _is_free(mem, (pfn & ~(1 << order)) ^ (2 << order), order + 1, hole):
        pagelist.push_last(mem, _list(order, hole), pfn)
    else:
        pagelist.push_first(mem, _list(order, hole), pfn)


def _merge_down(mem, pfn, order, hole):
    """Merge a block with those before it, which are on the lists already; those after it follow later."""
    while order < layout.MAX_ORDER and pfn & (1 << order) and _is_free(mem, pfn ^ (1 << order), order, hole):
        pagelist.remove(mem, _list(order, hole), pfn ^ (1 << order))
        pfn ^= 1 << order
        order += 1
        _set_mark(mem, pfn, order + 1 | hole)
        _set_mark(mem, pfn + (1 << (order - 1)), 0)
    pagelist.push_last(mem, _list(order, hole), pfn)


def _is_free(mem, pfn, order, hole):
    return (
        pfn + (1 << order) <= atomics.npages(mem)
        and mark(mem, pfn) == order + 1 | hole
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
    return 0 < mark & ~layout.BUDDY_HOLE <= layout.MAX_ORDER + 1


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
    order = (mark(mem, pfn) & ~layout.BUDDY_HOLE) - 1 if free else page_type.order(mem, pfn)
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
    if page_type.type(mem, pfn) != layout.TYPE_NONE:
        _back(mem, pfn, order)


def _back(mem, pfn, order):
    """Mark a folio's pages, whose marks were damaged; the kernel is asked again, which takes no more."""
    if not backing.is_backed(mem, pfn, order):
        backing.back(mem, pfn, order)


def _may_begin(mem, pfn, order):
    return pfn & ((1 << order) - 1) == 0 and pfn + (1 << order) <= atomics.npages(mem)


def _head_of(mem, pfn):
    """Return the first pfn of the block that contains pfn. No block crosses a multiple of the largest size."""
    head = pfn & ~((1 << layout.MAX_ORDER) - 1)
    while head + (1 << _order_at(mem, head)) <= pfn:
        head += 1 << _order_at(mem, head)
    return head


def _list(order, hole):
    return (layout.ALLOC_HOLE_LISTS if hole else layout.ALLOC_LISTS) + order * layout.LIST_SIZE


def _add_free(mem, pages, hole):
    # Written only under the lock; atomic because statistics read it without the lock.
    word = layout.ALLOC_HOLES if hole else layout.ALLOC_FREE
    atomics.store_relaxed(mem, word, atomics.load_relaxed(mem, word) + pages)
