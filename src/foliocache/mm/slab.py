"""Small objects, many to a page: XArray nodes and mapping records.

A cache of one size of object takes single pages of its type from ``page_alloc`` and gives each back when its last object is
freed. The page holds one reference for the cache; whoever must be sure for a moment that a page stays what it is takes another.

An object's *number* says where it is: the pfn, and its place within the page in the low bits. Numbers come from shared memory, so
``at`` checks them against the geometry before they become an offset. A free object keeps its number in the page's chain of free
objects (OBJECT_NEXT, a place that no user of an object touches); everything here is under the cache's lock.

An object's memory may be read by stale lock-free walkers at any time, also after the page has gone to somebody else. They load
words atomically, check what they load, and prove what they found elsewhere (see ``xarray``), hence objects are cleared by
atomic stores, and nothing here has to wait for a grace period.
"""

import cython

if not cython.compiled:
    from . import atomics, folio, layout, page_alloc, page_ref, pagelist, wait


def setup(mem):
    """Empty caches, for a new segment."""
    for cache in range(2):
        pagelist.reset(mem, _word(cache, layout.SLAB_PARTIAL))
        atomics.store_relaxed(mem, _word(cache, layout.SLAB_PAGES), 0)
        atomics.store_relaxed(mem, _word(cache, layout.SLAB_OBJECTS), 0)


def alloc(mem, me, cache):
    """A cleared object: its number, or NIL when no page is free (nothing is reclaimed here: locks are held)."""
    wait.lock(mem, _word(cache, layout.SLAB_LOCK), me)
    pfn = pagelist.first(mem, _word(cache, layout.SLAB_PARTIAL))
    if pfn == layout.NIL:
        pfn = _grow(mem, me, cache)
    number = _take(mem, cache, pfn) if pfn != layout.NIL else layout.NIL
    wait.unlock(mem, _word(cache, layout.SLAB_LOCK))
    if number != layout.NIL:
        _clear(mem, cache, at(mem, cache, number))
    return number


def free(mem, me, cache, number):
    """Give an object back, and its page with the last one."""
    pfn = pfn_of(mem, number)
    wait.lock(mem, _word(cache, layout.SLAB_LOCK), me)
    empty = _give(mem, cache, pfn, number)
    wait.unlock(mem, _word(cache, layout.SLAB_LOCK))
    if empty:
        folio.put(mem, me, pfn)


def at(mem, cache, number):
    """The offset of an object, or 0 if there cannot be such a number."""
    pfn = pfn_of(mem, number)
    place = number & ((1 << (atomics.page_shift(mem) - layout.OBJECT_SHIFT)) - 1)
    page = 1 << atomics.page_shift(mem)
    if pfn >= atomics.npages(mem) or (place + 1) * _size(cache) > page:
        return 0
    return atomics.page_at(mem, pfn) + place * _size(cache)


def pfn_of(mem, number):
    """The page that a number points into."""
    return number >> (atomics.page_shift(mem) - layout.OBJECT_SHIFT)


def objects(mem, cache):
    """Objects in use now."""
    return atomics.load_relaxed(mem, _word(cache, layout.SLAB_OBJECTS))


def _grow(mem, me, cache):
    """A new page, all of its objects free, first on the partial list; or NIL."""
    pfn = page_alloc.alloc(mem, me, 0)
    if pfn == layout.NIL:
        return layout.NIL
    folio.prepare(mem, pfn, layout.TYPE_NODE if cache == layout.SLAB_NODES else layout.TYPE_INODE, 0, 0, 0, 0)
    count = _per_page(mem, cache)
    for place in range(count):
        link = place + 2 if place + 1 < count else 0
        atomics.store_relaxed(mem, atomics.page_at(mem, pfn) + place * _size(cache) + layout.OBJECT_NEXT, link)
    atomics.write32(mem, atomics.folio_at(mem, pfn) + layout.F_FREE, 1)
    page_ref.init(mem, atomics.folio_at(mem, pfn), 1)
    pagelist.push_first(mem, _word(cache, layout.SLAB_PARTIAL), pfn)
    _add(mem, _word(cache, layout.SLAB_PAGES), 1)
    return pfn


def _take(mem, cache, pfn):
    page = atomics.folio_at(mem, pfn)
    first = atomics.read32(mem, page + layout.F_FREE)
    if first == 0 or first > _per_page(mem, cache):
        return layout.NIL
    number = pfn << (atomics.page_shift(mem) - layout.OBJECT_SHIFT) | (first - 1)
    link = atomics.load_relaxed(mem, at(mem, cache, number) + layout.OBJECT_NEXT)
    atomics.write32(mem, page + layout.F_FREE, link)
    atomics.write32(mem, page + layout.F_USED, atomics.read32(mem, page + layout.F_USED) + 1)
    _add(mem, _word(cache, layout.SLAB_OBJECTS), 1)
    if link == 0:
        pagelist.remove(mem, _word(cache, layout.SLAB_PARTIAL), pfn)
    return number


def _give(mem, cache, pfn, number):
    """Put an object back on its page's chain. True when that was the last: the page is off the list then, the cache's reference
    the caller's to drop."""
    page = atomics.folio_at(mem, pfn)
    partial = _word(cache, layout.SLAB_PARTIAL)
    link = atomics.read32(mem, page + layout.F_FREE)
    used = atomics.read32(mem, page + layout.F_USED) - 1
    atomics.store_relaxed(mem, at(mem, cache, number) + layout.OBJECT_NEXT, link)
    atomics.write32(mem, page + layout.F_FREE, (number & ((1 << (atomics.page_shift(mem) - layout.OBJECT_SHIFT)) - 1)) + 1)
    atomics.write32(mem, page + layout.F_USED, used)
    _add(mem, _word(cache, layout.SLAB_OBJECTS), -1)
    if link == 0:
        pagelist.push_first(mem, partial, pfn)
    if used:
        return False
    pagelist.remove(mem, partial, pfn)
    _add(mem, _word(cache, layout.SLAB_PAGES), -1)
    return True


def _clear(mem, cache, object):
    for off in range(0, _size(cache), 4):
        atomics.store_relaxed(mem, object + off, 0)


def _size(cache):
    return layout.NODE_SIZE if cache == layout.SLAB_NODES else layout.MAPPING_SIZE


def _per_page(mem, cache):
    return (1 << atomics.page_shift(mem)) // _size(cache)


def _word(cache, field):
    return field + cache * layout.SLAB_STRIDE


def _add(mem, word, n):
    atomics.store_relaxed(mem, word, atomics.load_relaxed(mem, word) + n)
