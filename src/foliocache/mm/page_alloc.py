"""The buddy allocator: blocks of 2^order pages, order 0 .. MAX_ORDER, frozen in and frozen out.

Every page that is free, and every tail page of a block, has FROZEN in its reference word, and keeps it until the allocator's
caller calls ``page_ref.init``. So a getter that comes late, with a pfn from a former life, fails on all of them; the allocator
never stores a zero, which such a getter could take for a folio that nobody owns yet.

A block's first page has F_BUDDY = order + 1 while it is free, else 0. F_BUDDY and the lists are touched only under ALLOC_LOCK,
also when the neighbour that is looked at belongs to somebody: that is why "is my buddy free" is a word of its own and not read
from what the owner of a page may be writing.

Against fragmentation, as in the kernel's ``mm/page_alloc.c``: a freed block goes to the end of its list when the block that it
would merge into is half free already (buddy_merge_likely), so that it is handed out last and the merge gets its chance.
"""

import cython

if not cython.compiled:
    from . import atomics, layout, page_ref, pagelist, wait


def alloc(mem, me, order):
    """Take a block of 2^order pages off the free lists, split from a larger one if need be: its first pfn, or NIL."""
    wait.lock(mem, layout.ALLOC_LOCK, me)
    pfn = _take(mem, order)
    wait.unlock(mem, layout.ALLOC_LOCK)
    return pfn


def free(mem, me, pfn, order):
    """Give a frozen block back; merges it with its buddies."""
    wait.lock(mem, layout.ALLOC_LOCK, me)
    _add_free(mem, 1 << order)
    _merge(mem, pfn, order)
    wait.unlock(mem, layout.ALLOC_LOCK)


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
        while pfn & ((1 << order) - 1) or pfn + (1 << order) > atomics.npages(mem):
            order -= 1
        wait.lock(mem, layout.ALLOC_LOCK, me)
        _add_free(mem, 1 << order)
        _put_last(mem, pfn, order)
        wait.unlock(mem, layout.ALLOC_LOCK)
        pfn += 1 << order


def _take(mem, order):
    for larger in range(order, layout.MAX_ORDER + 1):
        pfn = pagelist.first(mem, _list(larger))
        if pfn != layout.NIL and _is_free(mem, pfn, larger):
            _remove(mem, pfn, larger)
            _split(mem, pfn, larger, order)
            _add_free(mem, -(1 << order))
            return pfn
    return layout.NIL


def _split(mem, pfn, have, want):
    """Give the upper halves back until the block at pfn has the order that is wanted."""
    while have > want:
        have -= 1
        _put_first(mem, pfn + (1 << have), have)


def _merge(mem, pfn, order):
    while order < layout.MAX_ORDER and _is_free(mem, pfn ^ (1 << order), order):
        _remove(mem, pfn ^ (1 << order), order)
        pfn &= ~(1 << order)
        order += 1
    if order < layout.MAX_ORDER and _is_free(mem, (pfn & ~(1 << order)) ^ (2 << order), order + 1):
        _put_last(mem, pfn, order)
    else:
        _put_first(mem, pfn, order)


def _is_free(mem, pfn, order):
    if pfn + (1 << order) > atomics.npages(mem):
        return False
    return atomics.read32(mem, atomics.folio_at(mem, pfn) + layout.F_BUDDY) == order + 1


def _put_first(mem, pfn, order):
    atomics.write32(mem, atomics.folio_at(mem, pfn) + layout.F_BUDDY, order + 1)
    pagelist.push_first(mem, _list(order), pfn)


def _put_last(mem, pfn, order):
    atomics.write32(mem, atomics.folio_at(mem, pfn) + layout.F_BUDDY, order + 1)
    pagelist.push_last(mem, _list(order), pfn)


def _remove(mem, pfn, order):
    pagelist.remove(mem, _list(order), pfn)
    atomics.write32(mem, atomics.folio_at(mem, pfn) + layout.F_BUDDY, 0)


def _list(order):
    return layout.ALLOC_LISTS + order * layout.LIST_SIZE


def _add_free(mem, pages):
    # Written under the lock alone; atomic because statistics read it without.
    now = atomics.load_relaxed(mem, layout.ALLOC_FREE)
    atomics.store_relaxed(mem, layout.ALLOC_FREE, now + pages)
