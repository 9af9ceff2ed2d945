"""The queues that reclaim works on: two lists of FILE folios, and a memory of what was evicted lately.

The policy is S3-FIFO's (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): a folio starts in the small
queue; one that is used there moves to the main queue, one that is not is evicted soon and leaves a fingerprint among the ghosts;
one that comes back while its ghost is there starts in the main queue. The main queue gives a folio that was used another round.
So a scan passes through the small queue and leaves the main one alone. A hit changes nothing but PG_REFERENCED, and that
only when reclaim has cleared it since; the lock here is taken for a miss, never for a hit.

LRU_LOCK guards the lists, F_QUEUE and LRU_PAGES. A folio on a list is not freed: its destructor takes it off first, under the
lock. That is what makes the try_get in ``isolate`` safe although isolate holds no reference.
"""

import cython

if not cython.compiled:
    from . import atomics, client, flags, kind, layout, page_ref, pagelist, wait


def setup(mem):
    """Empty queues, for a new segment."""
    for queue in range(layout.QUEUES):
        pagelist.reset(mem, _list(queue))
        atomics.store_relaxed(mem, _pages(queue), 0)


def add(mem, me, pfn, queue):
    """Put a folio that the caller holds at the young end of a queue, unless it is on one already."""
    _lock(mem, me)
    if _queue_of(mem, pfn) == layout.QUEUE_NONE:
        _add(mem, pfn, queue)
    wait.unlock(mem, layout.LRU_LOCK)


def remove(mem, me, pfn):
    """Take a folio off whatever queue it is on, if it is on one; for its destructor."""
    _lock(mem, me)
    if _queue_of(mem, pfn) != layout.QUEUE_NONE:
        _remove(mem, pfn)
    wait.unlock(mem, layout.LRU_LOCK)


def isolate(mem, me):
    """Choose the next folio to evict: take it off its queue and pin it. Its pfn, or NIL when there is none now.

    Looks at SCAN_BATCH folios at most, so that the lock is held for a bounded time.
    """
    _lock(mem, me)
    pfn = layout.NIL
    for _ in range(layout.SCAN_BATCH):
        queue = _choose(mem)
        if queue == layout.QUEUE_NONE:
            break
        pfn = _take_oldest(mem, me, queue)
        if pfn != layout.NIL:
            break
    wait.unlock(mem, layout.LRU_LOCK)
    return pfn


def pages(mem, queue):
    """Pages on a queue now; never more than there are."""
    return min(atomics.load_relaxed(mem, _pages(queue)), atomics.npages(mem))


def remember(mem, ino, index):
    """Leave a ghost of an evicted folio."""
    atomics.store_relaxed(mem, _ghost(mem, ino, index), _fingerprint(ino, index))


def recall(mem, ino, index):
    """The queue where a folio starts: main if its ghost is still there. Takes the ghost away."""
    ghost = _ghost(mem, ino, index)
    if atomics.load_relaxed(mem, ghost) != _fingerprint(ino, index):
        return layout.QUEUE_SMALL
    atomics.store_relaxed(mem, ghost, 0)
    return layout.QUEUE_MAIN


def rebuild(mem):
    """Make the queues from what each folio says of itself; under LRU_LOCK, and may be broken off and started again."""
    setup(mem)
    for pfn in range(atomics.npages(mem)):
        queue = _queue_of(mem, pfn)
        if queue != layout.QUEUE_NONE and kind.type(mem, pfn) == layout.TYPE_FILE:
            _add(mem, pfn, queue)
        else:  # nothing but a FILE folio is ever on a queue
            atomics.record32(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE, layout.QUEUE_NONE)


def repair(mem, me):
    """Rebuild while others work."""
    wait.lock(mem, layout.LRU_LOCK, me)
    rebuild(mem)
    wait.unlock(mem, layout.LRU_LOCK)


def reap(mem, me, dead):
    """If a dead client holds LRU_LOCK, take it over, repair, and unlock."""
    if wait.take_over(mem, layout.LRU_LOCK, dead, me):
        rebuild(mem)
        wait.unlock(mem, layout.LRU_LOCK)


def is_queued(mem, pfn):
    """Whether reclaim can find the folio now."""
    return _queue_of(mem, pfn) != layout.QUEUE_NONE


def _lock(mem, me):
    if wait.lock(mem, layout.LRU_LOCK, me):
        rebuild(mem)


def _choose(mem):
    small = pages(mem, layout.QUEUE_SMALL)
    main = pages(mem, layout.QUEUE_MAIN)
    if pagelist.first(mem, _list(layout.QUEUE_SMALL)) != layout.NIL and small * layout.SMALL_SHARE >= small + main:
        return layout.QUEUE_SMALL
    if pagelist.first(mem, _list(layout.QUEUE_MAIN)) != layout.NIL:
        return layout.QUEUE_MAIN
    return layout.QUEUE_NONE


def _take_oldest(mem, me, queue):
    """Pin a queue's oldest folio and take it off. NIL when it was used since: it has another round in the main queue then; and
    when it could not be pinned, because somebody is destroying it."""
    pfn = pagelist.last(mem, _list(queue))
    if pfn == layout.NIL:  # a list whose first word was damaged
        return layout.NIL
    client.note(mem, me, pfn)  # before it leaves the queue: no list would name it if this client died here
    _remove(mem, pfn)
    if flags.clear(mem, atomics.folio_at(mem, pfn), layout.PG_REFERENCED):
        _add(mem, pfn, layout.QUEUE_MAIN)
    elif page_ref.try_get(mem, atomics.folio_at(mem, pfn)) != layout.DEAD:
        return pfn
    client.done(mem, me, pfn)
    return layout.NIL


def _add(mem, pfn, queue):
    atomics.record32(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE, queue)
    pagelist.push_first(mem, _list(queue), pfn)
    _account(mem, pfn, queue, 1)


def _remove(mem, pfn):
    queue = _queue_of(mem, pfn)
    pagelist.remove(mem, _list(queue), pfn)
    atomics.record32(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE, layout.QUEUE_NONE)
    _account(mem, pfn, queue, -1)


def _account(mem, pfn, queue, sign):
    now = atomics.load_relaxed(mem, _pages(queue))
    atomics.store_relaxed(mem, _pages(queue), now + sign * (1 << kind.order(mem, pfn)))


def _queue_of(mem, pfn):
    queue = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE)
    return queue if queue < layout.QUEUES else layout.QUEUE_NONE


def _list(queue):
    return layout.LRU_LISTS + queue * layout.LIST_SIZE


def _pages(queue):
    return layout.LRU_PAGES + queue * 4


def _ghost(mem, ino, index):
    return atomics.ghosts(mem) + (_hash(ino, index) & (atomics.nghosts(mem) - 1)) * 4


def _fingerprint(ino, index):
    return (_hash(ino, index) >> 32) | 1


def _hash(ino, index):
    """64 bits, mixed (the multiplier is 2^64 / golden ratio; the shifts fold the high half down)."""
    mixed = ((ino * layout.HASH_MULTIPLIER & layout.HASH_MASK) ^ index) * layout.HASH_MULTIPLIER & layout.HASH_MASK
    return mixed ^ (mixed >> 29)
