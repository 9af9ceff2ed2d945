"""Give memory back to the kernel: take it away from free blocks, and evict cold folios until there are some.

The steps, each of which a client may be killed before (``trim`` is the client that gives back):

A. take a free block of whole chunks that have memory, as any block is taken: it is announced, and frozen;
B. clear the marks of its chunks;
C. wait for a grace period;
D. take its memory away (``FALLOC_FL_PUNCH_HOLE``);
E. free it: it is a hole then, because it has no marks.

**Who may still touch the block.** No client holds a reference to it, or the block would not have been free. A getter with a
pfn from a former life touches the descriptor, which is not given back, and finds FROZEN. A walker of the index may have the
number of an object that was in one of these pages; it loads words of the page only if it finds the mark (``slab.at``), and in
the same operation. So a walker that finds the mark is in an operation that C waits for, and one that begins later finds no
mark. What scans pages outside operations, audits, holds a lock of the kernel's that excludes a client between A and E.

**Death.** Before B the block is like any that a dead client has taken. After B it has no marks, so the reaper that frees it
makes it a hole; what memory it has left then, the reaper takes away (``backing.empty``).
"""

import cython

if not cython.compiled:
    from . import atomics, backing, client, layout, lru, page_alloc, page_type, slab, vmscan


def give_back(mem, me, most):
    """Give the memory of one free block back, of at most ``most`` pages, as operations of its own.

    Returns how many pages it had; 0 if there is no such block, or a lock is refused; NIL if a client has stopped in an
    operation, or the kernel refuses.
    """
    client.op_begin(mem, me)
    pfn = page_alloc.alloc_chunks(mem, me, most)
    if pfn == layout.NIL:
        client.op_end(mem, me)
        return 0
    order = page_type.order(mem, pfn)
    pages = 1 << order
    backing.unmark(mem, pfn, order)
    client.op_end(mem, me)
    left = client.wait_grace_period(mem, me)
    client.op_begin(mem, me)
    gone = left and backing.punch(mem, pfn, order)
    if not left:
        backing.mark_again(mem, pfn, order)  # there may be no room to ask for what it has
    elif not gone:
        backing.back(mem, pfn, order)  # what is left of it has memory still
    if page_alloc.free(mem, me, pfn, order):
        client.retract(mem, me, pfn)
    client.op_end(mem, me)
    if not gone:
        return layout.NIL
    client.count(mem, me, layout.COUNT_GIVEN_BACK, pages << atomics.page_shift(mem))
    return pages


def empty_hole(mem, me, pfn):
    """Take the memory away that is in a hole without a mark, as operations of its own: in that which contains pfn. False if pfn
    is in no hole, a lock is refused, or a client has stopped in an operation."""
    client.op_begin(mem, me)
    pfn = page_alloc.alloc_hole(mem, me, pfn)
    client.op_end(mem, me)
    if pfn == layout.NIL:
        return False
    left = client.wait_grace_period(mem, me)
    client.op_begin(mem, me)
    order = page_type.order(mem, pfn)
    if left:
        backing.empty(mem, pfn, order)
    if page_alloc.free(mem, me, pfn, order):
        client.retract(mem, me, pfn)
    client.op_end(mem, me)
    return left


def take_turn(mem, group, last, now):
    """Take the turn to watch for a group of processes, or renew it. Return the word that says so, which is ``last`` of the next
    call; 0 if another client has the turn.

    ``last`` is 0 for a client that has not had it. ``now``: nanoseconds. It is no lock: what two watchers do is right, and only
    done twice. So a client that is stopped, or has died, loses the turn when it has not renewed it for WATCH_PATIENCE, and
    learns that here. A time a little ahead is that of one that has renewed it meanwhile. Groups that share a word take it from
    each other: all of them are watched.
    """
    at = layout.WATCH_TURNS + group % layout.WATCH_WORDS * 4
    mine = group << layout.WATCH_GROUP_SHIFT | now >> layout.WATCH_TICK_SHIFT & layout.WATCH_TICK_MASK
    found = atomics.load_relaxed(mem, at)
    if found >> layout.WATCH_GROUP_SHIFT == group and found != last:
        if mine - found + layout.WATCH_PATIENCE & layout.WATCH_TICK_MASK < 2 * layout.WATCH_PATIENCE:
            return 0
    return mine if atomics.cmpxchg_relaxed(mem, at, found, mine) == found else 0


def evict(mem, me, want):
    """Free empty pages of objects, and evict folios by age until ``want`` pages have come free, as an operation of its own.
    Return how many have."""
    client.op_begin(mem, me)
    freed = 0
    while freed < want and slab.shrink(mem, me):
        freed += 1
    if freed < want:
        freed += vmscan.shrink(mem, me, want - freed)
    client.op_end(mem, me)
    return freed


def evict_idle(mem, me, pfn, want, least):
    """Evict the folios that were not used for ``least`` ticks, of a batch of pages from pfn on, until ``want`` pages have come
    free, as an operation of its own. Return how many have << 32 | the page to go on with."""
    client.op_begin(mem, me)
    end = pfn + layout.IDLE_BATCH
    freed = 0
    while pfn < end and freed < want:
        found = lru.isolate_idle(mem, me, pfn, end, least)
        pfn = end
        if found != layout.NIL:
            pfn = found + 1
            got = vmscan.evict(mem, me, found)
            if got == layout.NIL:
                break
            freed += got
    client.op_end(mem, me)
    return freed << 32 | pfn


def evict_chunk(mem, me):
    """Evict the oldest folio that can be, and all others of its chunk, as an operation of its own. False if none can be.

    Where folios are smaller than a chunk, those that are evicted by age leave hardly a chunk free.
    """
    client.op_begin(mem, me)
    done = False
    refused = 0
    most = min(layout.PINNED_MAX, lru.cached(mem) + 1)
    rounds = 2 + layout.LOOKS_MAX * lru.cached(mem) // layout.SCAN_BATCH  # as in vmscan.shrink
    while not done and refused < most and rounds > 0:
        pfn = lru.isolate(mem, me, refused & 1)
        if pfn == layout.NIL:
            rounds -= 1
            continue
        got = vmscan.evict(mem, me, pfn)
        if got == layout.NIL:
            break
        if got > 0:
            chunk = backing.chunk_order(mem)
            vmscan.evict_range(mem, me, pfn >> chunk << chunk, (pfn >> chunk) + 1 << chunk)
            done = True
        refused += 1
    client.op_end(mem, me)
    return done
