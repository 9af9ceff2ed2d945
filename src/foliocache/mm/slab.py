"""Small objects, many to a page: XArray nodes, mapping records and names.

A slab cache holds objects of one size. It takes single pages of its type from ``page_alloc``; a page has one reference, the
cache's. Each cache keeps up to SLAB_KEEP empty pages, and returns more of them when memory is short (``shrink``).

An object's *number* says where it is: the pfn, and its place within the page in the low bits. Numbers are read from shared
memory, so ``at`` checks them against the geometry before they become an offset. Everything here is done under the cache's lock.

**Ground truth** is in the objects: OBJECT_NEXT of a free object has OBJECT_FREE and the next free place; OBJECT_OWNER, set
before an object is taken into use, says to which tree or mapping it belongs, so a repair of a tree or of the mapping table
finds the objects that a dead client was working on (``next_of``). ``rebuild`` makes chains, lists and counts from that.

**Pages are type-stable.** An object's memory may be read by stale lock-free walkers at any time. They load words atomically,
check what they load, and prove what they found elsewhere (see ``xarray``); hence objects are cleared by atomic stores. But a
page returns to the allocator only after a grace period (``shrink``), so a walker always finds in a slot the name of a folio
that is or was in a tree, never other bytes. The reaper relies on that: a folio that has been taken out of its tree has no new
getters after a grace period (see ``reap``). So does ``mapping`` when it checks whether a record still exists.
"""

import cython

if not cython.compiled:
    from . import atomics, backing, client, folio, layout, page_alloc, page_ref, page_type, pagelist, robust_lock


def setup(mem):
    """Empty caches, for a new segment."""
    for cache in range(layout.SLABS):
        _reset(mem, cache)


def alloc(mem, me, cache, owner):
    """Take a cleared object and set its OBJECT_OWNER to owner. Return its number, or NIL if no page is free (nothing is
    reclaimed here) or a lock is refused."""
    if not _lock(mem, me, cache):
        return layout.NIL
    pfn = pagelist.first(mem, _word(cache, layout.SLAB_PARTIAL))
    if pfn == layout.NIL:
        pfn = _grow(mem, me, cache)
    number = _take(mem, cache, pfn, owner) if pfn != layout.NIL else layout.NIL
    if pfn != layout.NIL and number == layout.NIL:  # the list or the page's chain is damaged
        robust_lock.mark_broken(mem, _word(cache, layout.SLAB_LOCK))
    robust_lock.unlock(mem, _word(cache, layout.SLAB_LOCK))
    return number


def free(mem, me, cache, number):
    """Free an object. False if the lock is refused: the object stays in use, and the caller must mark the lock of the structure
    that it belonged to as broken."""
    if not _lock(mem, me, cache):
        return False
    _give(mem, cache, pfn_of(mem, number), number)
    robust_lock.unlock(mem, _word(cache, layout.SLAB_LOCK))
    return True


def shrink(mem, me):
    """Return an empty page to the allocator after a grace period. True if there was one.

    The caller must hold no lock and must not use a pfn that it loaded before: the current operation ends here and another
    begins.
    """
    for cache in range(layout.SLABS):
        if atomics.load_relaxed(mem, _word(cache, layout.SLAB_EMPTY)) > layout.SLAB_KEEP:
            pfn = _retire(mem, me, cache)
            if pfn != layout.NIL:
                return _give_back(mem, me, cache, pfn)
    return False


def next_of(mem, cache, number):
    """Return the next object in use after number (the first, for NIL), in the order of their places; NIL after the last.

    Takes no lock. For repairs, which hold a lock that keeps the objects that concern them in use.
    """
    pfn = pfn_of(mem, number) if number != layout.NIL else 0
    place = _place(mem, number) + 1 if number != layout.NIL else 0
    while pfn < atomics.npages(mem):
        if page_type.type(mem, pfn) == _type(cache):
            while place < _per_page(mem, cache):
                found = _number(mem, pfn, place)
                if is_used(mem, cache, found):
                    return found
                place += 1
        pfn += 1
        place = 0
    return layout.NIL


def is_used(mem, cache, number):
    """True if an object is in a page of this cache and not marked free."""
    if page_type.type(mem, pfn_of(mem, number)) != _type(cache):
        return False
    return not atomics.load_relaxed(mem, at(mem, cache, number) + layout.OBJECT_NEXT) & layout.OBJECT_FREE


def holds(mem, cache, number):
    """True if an object's page belongs to this cache, so that the object may be written to. The caller knows that the page
    stays."""
    pfn = pfn_of(mem, number)
    return pfn < atomics.npages(mem) and _is_mine(mem, cache, pfn)


def is_page(mem, pfn):
    """True if a page belongs to one of the slab caches."""
    type = page_type.type(mem, pfn)
    is_objects = type == layout.TYPE_NODE or type == layout.TYPE_INODE or type == layout.TYPE_NAME
    return is_objects and page_type.is_private(mem, pfn, type)


def is_chained(mem, cache, pfn):
    """True if the chain of a page of this cache has as many objects as F_USED leaves free, all of them marked free. Under the
    lock; without it, a hint."""
    page = atomics.folio_at(mem, pfn)
    used = atomics.read32(mem, page + layout.F_USED)
    if not _is_mine(mem, cache, pfn) or used > _per_page(mem, cache):
        return False
    left = _per_page(mem, cache) - used
    chain = atomics.read32(mem, page + layout.F_FREE)
    while chain != 0 and left != 0 and chain <= _per_page(mem, cache):
        link = atomics.load_relaxed(mem, at(mem, cache, _number(mem, pfn, chain - 1)) + layout.OBJECT_NEXT)
        if not link & layout.OBJECT_FREE:
            return False
        chain = link & ~layout.OBJECT_FREE
        left -= 1
    return chain == 0 and left == 0


def rebuild(mem, cache):
    """Make chains, list and counts from the objects, under the lock. May be started again if the client that ran it died.

    A frozen page does not belong to the cache (yet, or any more): the client that was setting it up or giving it back is dead,
    and has an intent for it.
    """
    _reset(mem, cache)
    for pfn in range(atomics.npages(mem)):
        if _is_mine(mem, cache, pfn) and not page_ref.is_frozen(mem, atomics.folio_at(mem, pfn)):
            page_type.set(mem, pfn, _type(cache), 0, 0)
            _rebuild_page(mem, cache, pfn)


def repair(mem, me, cache):
    """Take the lock and rebuild, while other clients are attached."""
    if robust_lock.lock(mem, _word(cache, layout.SLAB_LOCK), me) != layout.LOCK_BUSY:
        rebuild(mem, cache)
        robust_lock.unlock(mem, _word(cache, layout.SLAB_LOCK))


def reap(mem, me, dead):
    """Take over each cache's lock if a dead client holds it, rebuild, and unlock."""
    for cache in range(layout.SLABS):
        if robust_lock.take_over(mem, _word(cache, layout.SLAB_LOCK), dead, me):
            rebuild(mem, cache)
            robust_lock.unlock(mem, _word(cache, layout.SLAB_LOCK))


def at(mem, cache, number):
    """Return the offset of an object, or 0 if the number is out of bounds, or of a page without memory."""
    pfn = pfn_of(mem, number)
    place = _place(mem, number)
    page = 1 << atomics.page_shift(mem)
    if pfn >= atomics.npages(mem) or (place + 1) * _size(cache) > page or not backing.is_marked(mem, pfn):
        return 0
    return atomics.page_at(mem, pfn) + place * _size(cache)


def pfn_of(mem, number):
    """Return the pfn of the page that contains an object."""
    return number >> (atomics.page_shift(mem) - layout.OBJECT_SHIFT)


def objects(mem, cache):
    """Return how many objects are in use."""
    return atomics.load_relaxed(mem, _word(cache, layout.SLAB_OBJECTS))


def _lock(mem, me, cache):
    """Take the cache's lock, and rebuild if that is necessary. False if the lock is refused."""
    got = robust_lock.lock(mem, _word(cache, layout.SLAB_LOCK), me)
    if got == layout.LOCK_REPAIR:
        rebuild(mem, cache)
    return got != layout.LOCK_BUSY


def _reset(mem, cache):
    pagelist.reset(mem, _word(cache, layout.SLAB_PARTIAL))
    atomics.store_relaxed(mem, _word(cache, layout.SLAB_PAGES), 0)
    atomics.store_relaxed(mem, _word(cache, layout.SLAB_OBJECTS), 0)
    atomics.store_relaxed(mem, _word(cache, layout.SLAB_EMPTY), 0)


def _grow(mem, me, cache):
    """Add a page in which all objects are free, at the beginning of the partial list. Return its pfn, or NIL."""
    pfn = page_alloc.alloc(mem, me, 0)
    if pfn == layout.NIL:
        return layout.NIL
    folio.prepare(mem, pfn, layout.TYPE_NONE, 0, 0, 0, 0, 0)
    for place in range(_per_page(mem, cache)):
        object = at(mem, cache, _number(mem, pfn, place))
        atomics.store_relaxed64(mem, object + layout.OBJECT_OWNER, 0)
        atomics.record32(mem, object + layout.OBJECT_NEXT, layout.OBJECT_FREE)
    # The type is set only now that every object is marked free: a repair that looks for objects in use finds none in this page.
    page_type.set(mem, pfn, _type(cache), 0, 0)
    _rebuild_page(mem, cache, pfn)
    page_ref.init(mem, atomics.folio_at(mem, pfn), 1)
    client.retract(mem, me, pfn)
    return pfn


def _rebuild_page(mem, cache, pfn):
    """Chain a page's free objects, count the others, and put the page on the partial list if it has free objects."""
    page = atomics.folio_at(mem, pfn)
    chain = 0
    used = 0
    for back in range(_per_page(mem, cache)):
        place = _per_page(mem, cache) - 1 - back
        link = at(mem, cache, _number(mem, pfn, place)) + layout.OBJECT_NEXT
        if atomics.load_relaxed(mem, link) & layout.OBJECT_FREE:
            atomics.store_relaxed(mem, link, layout.OBJECT_FREE | chain)
            chain = place + 1
        else:
            used += 1
    atomics.write32(mem, page + layout.F_FREE, chain)
    atomics.write32(mem, page + layout.F_USED, used)
    if chain:
        pagelist.push_first(mem, _word(cache, layout.SLAB_PARTIAL), pfn)
    _add(mem, _word(cache, layout.SLAB_PAGES), 1)
    _add(mem, _word(cache, layout.SLAB_OBJECTS), used)
    if used == 0:
        _add(mem, _word(cache, layout.SLAB_EMPTY), 1)


def _take(mem, cache, pfn, owner):
    """Take the first free object of a page on the partial list; NIL if there is none, because the page or the list is
    damaged."""
    page = atomics.folio_at(mem, pfn)
    first = atomics.read32(mem, page + layout.F_FREE)
    if first == 0 or first > _per_page(mem, cache) or not _is_mine(mem, cache, pfn):
        return layout.NIL
    number = _number(mem, pfn, first - 1)
    object = at(mem, cache, number)
    link = atomics.load_relaxed(mem, object + layout.OBJECT_NEXT)
    if not link & layout.OBJECT_FREE:
        return layout.NIL
    chain = link & ~layout.OBJECT_FREE
    used = atomics.read32(mem, page + layout.F_USED)
    # A late reader of a name that sees one of these stores sees, after its acquire fence, that the name had been dropped.
    atomics.fence_release()
    _clear(mem, cache, object)
    atomics.store_relaxed64(mem, object + layout.OBJECT_OWNER, owner)
    atomics.record32(mem, object + layout.OBJECT_NEXT, 0)
    atomics.write32(mem, page + layout.F_FREE, chain)
    atomics.write32(mem, page + layout.F_USED, used + 1)
    _add(mem, _word(cache, layout.SLAB_OBJECTS), 1)
    if used == 0:
        _add(mem, _word(cache, layout.SLAB_EMPTY), -1)
    if chain == 0:
        pagelist.remove(mem, _word(cache, layout.SLAB_PARTIAL), pfn)
    return number


def _give(mem, cache, pfn, number):
    """Put an object back on its page's chain. An empty page is moved to the end of the list, to be used last."""
    if not holds(mem, cache, number):  # damaged: the page is not this cache's
        return
    page = atomics.folio_at(mem, pfn)
    partial = _word(cache, layout.SLAB_PARTIAL)
    chain = atomics.read32(mem, page + layout.F_FREE)
    used = atomics.read32(mem, page + layout.F_USED) - 1
    atomics.record32(mem, at(mem, cache, number) + layout.OBJECT_NEXT, layout.OBJECT_FREE | chain)
    atomics.write32(mem, page + layout.F_FREE, _place(mem, number) + 1)
    atomics.write32(mem, page + layout.F_USED, used)
    _add(mem, _word(cache, layout.SLAB_OBJECTS), -1)
    if chain:
        pagelist.remove(mem, partial, pfn)
    if used:
        pagelist.push_first(mem, partial, pfn)
    else:
        pagelist.push_last(mem, partial, pfn)
        _add(mem, _word(cache, layout.SLAB_EMPTY), 1)


def _retire(mem, me, cache):
    """Take an empty page from the cache, frozen and of no type: its pfn, or NIL if there is none that nobody has pinned."""
    if not _lock(mem, me, cache):
        return layout.NIL
    pfn = pagelist.last(mem, _word(cache, layout.SLAB_PARTIAL))
    if pfn != layout.NIL:
        client.announce(mem, me, pfn)
        page = atomics.folio_at(mem, pfn)
        if _is_mine(mem, cache, pfn) and atomics.read32(mem, page + layout.F_USED) == 0 and page_ref.freeze(mem, page, 1):
            page_type.set(mem, pfn, layout.TYPE_NONE, 0, 0)
            pagelist.remove(mem, _word(cache, layout.SLAB_PARTIAL), pfn)
            _add(mem, _word(cache, layout.SLAB_PAGES), -1)
            _add(mem, _word(cache, layout.SLAB_EMPTY), -1)
        else:
            client.retract(mem, me, pfn)
            pfn = layout.NIL
    robust_lock.unlock(mem, _word(cache, layout.SLAB_LOCK))
    return pfn


def _give_back(mem, me, cache, pfn):
    """Return a retired page to the allocator after a grace period or, if there is none, to the cache. If a lock is refused, the
    page stays as it is, and so does the intent."""
    client.op_end(mem, me)
    left = client.wait_grace_period(mem, me)
    client.op_begin(mem, me)
    if left:
        if not page_alloc.free(mem, me, pfn, 0):
            return False
    else:
        if not _lock(mem, me, cache):
            return False
        page_type.set(mem, pfn, _type(cache), 0, 0)
        _rebuild_page(mem, cache, pfn)
        page_ref.unfreeze(mem, atomics.folio_at(mem, pfn), 1)
        robust_lock.unlock(mem, _word(cache, layout.SLAB_LOCK))
    client.retract(mem, me, pfn)
    return left


def _clear(mem, cache, object):
    """Clear an object, except the word that says whether it is free."""
    atomics.store_relaxed(mem, object, 0)
    for off in range(layout.OBJECT_OWNER, _size(cache), 4):
        atomics.store_relaxed(mem, object + off, 0)


def _is_mine(mem, cache, pfn):
    """True if a page belongs to the cache. The caller has the cache's lock, or knows that the page stays."""
    return page_type.is_private(mem, pfn, _type(cache)) and backing.is_marked(mem, pfn)


def _number(mem, pfn, place):
    return pfn << (atomics.page_shift(mem) - layout.OBJECT_SHIFT) | place


def _place(mem, number):
    return number & ((1 << (atomics.page_shift(mem) - layout.OBJECT_SHIFT)) - 1)


def _type(cache):
    if cache == layout.SLAB_NODES:
        return layout.TYPE_NODE
    return layout.TYPE_INODE if cache == layout.SLAB_MAPPINGS else layout.TYPE_NAME


def _size(cache):
    if cache == layout.SLAB_NODES:
        return layout.NODE_SIZE
    return layout.MAPPING_SIZE if cache == layout.SLAB_MAPPINGS else layout.NAME_SIZE


def _per_page(mem, cache):
    return (1 << atomics.page_shift(mem)) // _size(cache)


def _word(cache, field):
    return field + cache * layout.SLAB_STRIDE


def _add(mem, word, n):
    atomics.store_relaxed(mem, word, atomics.load_relaxed(mem, word) + n)
