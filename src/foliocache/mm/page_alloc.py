"""The buddy allocator: blocks of 2^order pages, order 0 .. MAX_ORDER, frozen in and frozen out.

Every page that is free, and every tail page of a block, has FROZEN in its reference word, and keeps it until the allocator's
caller calls ``page_ref.init``. So a getter that comes late, with a pfn from a former life, fails on all of them; the allocator
never stores a zero, which such a getter could take for a folio that nobody owns yet.

A block's first page has F_BUDDY = order + 1 while it is free, else 0. F_BUDDY and the lists are touched only under ALLOC_LOCK,
also when the neighbour that is looked at belongs to somebody: that is why "is my buddy free" is a word of its own and not read
from what the owner of a page may be writing.

**Ground truth.** From the first pages of blocks alone, one after the other, the whole pool can be read at any moment, whoever was
killed in the middle of what: F_BUDDY says that a block is free and how large, or else the order in F_KIND says how far the block in
use reaches (it is set here, and keeps its order until the block is free again). So a block is split from the top: the upper half
is marked while the mark of the whole still covers it, then the whole's mark shrinks; and merged the other way round. Nothing is
lost in between, because a block that is taken is named in its taker's slot before its mark goes (``client.announce``), and one that
is given back is named until its mark is there. ``rebuild`` makes the lists, which are no truth but an index, from this.

**Damage.** A page goes from one owner to another only if two words agree: F_BUDDY says that it is free, and F_KIND that no folio begins there. A
free block has no type, for that goes before the mark comes; no page behind the first of a block has one. What contradicts itself is not
handed out, and the lists are made again.

**Quarantine.** A page that a dead client may have had in hand must not begin a new life while the reaper looks into it
(see ``reap``): a block marked BUDDY_QUARANTINED becomes BUDDY_PARKED when it is freed, and goes nowhere until the reaper is done.

Against fragmentation, as in the kernel's ``mm/page_alloc.c``: a freed block goes to the end of its list when the block that it
would merge into is half free already (buddy_merge_likely), so that it is handed out last and the merge gets its chance.
"""

import cython

if not cython.compiled:
    from . import atomics, client, layout, page_ref, page_type, pagelist, robust_lock


def alloc(mem, me, order):
    """Take a block of 2^order pages off the free lists, split from a larger one if need be: its first pfn, or NIL, also if the lock is
    refused.

    The block stays named in the caller's slot (``client.announce``) until he says ``client.retract``.
    """
    if not _lock(mem, me):
        return layout.NIL
    pfn = _take(mem, me, order)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return pfn


def free(mem, me, pfn, order):
    """Give a frozen block back, which the caller has named; merges it with its buddies. False if the lock is refused: it stays as it is."""
    if not _lock(mem, me):
        return False
    if mark(mem, pfn) == layout.BUDDY_QUARANTINED:
        _set_mark(mem, pfn, layout.BUDDY_PARKED)
    else:
        _give(mem, pfn, order)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return True


def mark(mem, pfn):
    """A page's F_BUDDY now. 0 in an operation that names pfn or began after a quarantine: not quarantined."""
    return atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_BUDDY)


def quarantine(mem, me, pfn):
    """Keep the block that begins at pfn from a new life: QUARANTINE_ON; QUARANTINE_NONE, and nothing done, when none begins there or it is
    free; LOCK_BUSY if the lock is refused."""
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
    """Free it if it has been parked, else let it live on. False if the lock is refused."""
    if not _lock(mem, me):
        return False
    if _is_parked(mem, pfn):
        _give(mem, pfn, page_type.order(mem, pfn))
    elif mark(mem, pfn) == layout.BUDDY_QUARANTINED or mark(mem, pfn) == layout.BUDDY_PARKED:
        _set_mark(mem, pfn, 0)
    robust_lock.unlock(mem, layout.ALLOC_LOCK)
    return True


def rebuild(mem):
    """Make the lists and the count from the marks; under ALLOC_LOCK, and may be broken off and started again."""
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
    """Rebuild while others work."""
    if robust_lock.lock(mem, layout.ALLOC_LOCK, me) != layout.LOCK_BUSY:
        rebuild(mem)
        robust_lock.unlock(mem, layout.ALLOC_LOCK)


def reap(mem, me, dead):
    """If a dead client holds ALLOC_LOCK, take it over, repair, and unlock."""
    if robust_lock.take_over(mem, layout.ALLOC_LOCK, dead, me):
        rebuild(mem)
        robust_lock.unlock(mem, layout.ALLOC_LOCK)


def free_pages(mem):
    """Free pages now; exact when nobody allocates."""
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
    """False if it is refused."""
    got = robust_lock.lock(mem, layout.ALLOC_LOCK, me)
    if got == layout.LOCK_REPAIR:
        rebuild(mem)
    return got != layout.LOCK_BUSY


def _take(mem, me, order):
    for larger in range(order, layout.MAX_ORDER + 1):
        pfn = pagelist.first(mem, _list(larger))
        if pfn == layout.NIL:
            continue
        if _is_free(mem, pfn, larger) and _is_nobodys(mem, pfn + 1, pfn + (1 << order)):
            pagelist.remove(mem, _list(larger), pfn)
            _split(mem, pfn, larger, order)
            client.announce(mem, me, pfn)
            page_type.set(mem, pfn, layout.TYPE_NONE, order, 0)
            _set_mark(mem, pfn, 0)
            _add_free(mem, -(1 << order))
            return pfn
        robust_lock.mark_broken(mem, layout.ALLOC_LOCK)  # damaged: whose pages these are, the next owner finds out
    return layout.NIL


def _split(mem, pfn, have, want):
    """Give the upper halves back until the block at pfn has the order that is wanted."""
    while have > want:
        have -= 1
        _set_mark(mem, pfn + (1 << have), have + 1)
        _set_mark(mem, pfn, have + 1)
        pagelist.push_first(mem, _list(have), pfn + (1 << have))


def _give(mem, pfn, order):
    """The block is free from here on; then merge it."""
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
    """Merge a block with those before it, which are on the lists already; those behind it follow."""
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
    """Whether a block was freed in quarantine."""
    return mark(mem, pfn) == layout.BUDDY_PARKED and page_type.type(mem, pfn) == layout.TYPE_NONE


def _is_nobodys(mem, pfn, end):
    """Whether no folio begins in pfn .. end - 1: so it must be in a free block, or one in use, behind its first page."""
    while pfn < end:
        if page_type.type(mem, pfn) != layout.TYPE_NONE:
            return False
        pfn += 1
    return True


def _is_free_mark(mark):
    return 0 < mark <= layout.MAX_ORDER + 1


def _set_mark(mem, pfn, mark):
    # In program order with what is around it: see "ground truth".
    atomics.record32(mem, atomics.folio_at(mem, pfn) + layout.F_BUDDY, mark)


def _freeze(mem, pfn):
    """For a page whose words were damaged; death leaves every tail and every free page frozen."""
    if not page_ref.is_frozen(mem, atomics.folio_at(mem, pfn)):
        page_ref.init(mem, atomics.folio_at(mem, pfn), layout.FROZEN)


def _order_at(mem, pfn):
    """The order of the block that begins at pfn; a smaller one if what is written there cannot be."""
    free = _is_free_mark(mark(mem, pfn)) and page_type.type(mem, pfn) == layout.TYPE_NONE
    order = mark(mem, pfn) - 1 if free else page_type.order(mem, pfn)
    if not _may_begin(mem, pfn, order):
        return 0
    while order and not _is_nobodys(mem, pfn + 1, pfn + (1 << order)):
        order -= 1
    return order


def _correct(mem, pfn, order):
    """Let the words of a block in use say that it is one, of this order."""
    found = mark(mem, pfn)
    if found != 0 and found != layout.BUDDY_QUARANTINED and found != layout.BUDDY_PARKED:
        _set_mark(mem, pfn, 0)
    if page_type.order(mem, pfn) != order:
        page_type.set(mem, pfn, page_type.type(mem, pfn), order, page_type.span(mem, pfn))


def _may_begin(mem, pfn, order):
    return pfn & ((1 << order) - 1) == 0 and pfn + (1 << order) <= atomics.npages(mem)


def _head_of(mem, pfn):
    """Where the block begins that holds pfn. No block reaches across a multiple of the largest size."""
    head = pfn & ~((1 << layout.MAX_ORDER) - 1)
    while head + (1 << _order_at(mem, head)) <= pfn:
        head += 1 << _order_at(mem, head)
    return head


def _list(order):
    return layout.ALLOC_LISTS + order * layout.LIST_SIZE


def _add_free(mem, pages):
    # Written under the lock alone; atomic because statistics read it without.
    now = atomics.load_relaxed(mem, layout.ALLOC_FREE)
    atomics.store_relaxed(mem, layout.ALLOC_FREE, now + pages)
