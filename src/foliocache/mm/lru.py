"""The queues that reclaim works on, and the policy: which FILE folio is evicted next.

Three queues. A folio starts in *new*, and moves to *small* when new has more than half of the share of the two. Uses until then
do not count, because uses that follow each other closely are one use. At the end of small it is evicted, or moves to *main*. So
what is read once passes through new and small, and does not change main.

To get into main, a folio (the *newcomer*) needs *heat*: it was used in small, or it was filled again while its ghost was
remembered (``ghost``). And a folio of main must have less heat: the newcomer is compared with the oldest of main (its
*rivals*), 2^LRU_RIVALS of them at most, and as many for each folio of a whole object, which share their fate (``_contest``).
A rival that was used since its last turn gains a degree of heat and goes to main's
young end; one with less heat than the newcomer is *beaten* and evicted in its place; any other loses a degree and goes to
main's young end. If no rival is beaten, the newcomer has *lost* and is evicted. So of folios that are all used equally often,
as in epochs over more data than fits, a stable part stays. If new and small are below their share, main has to shrink: its
oldest is evicted if it was not used and has no heat; otherwise it goes to the young end, with half of its heat if it was not
used.

Two parameters are adapted, each time a LEARN_SHARE-th of the cached pages has been evicted, from what is filled again soon
after:

- LRU_RIVALS: if newcomers that lost are filled again at a higher rate than folios of main that were beaten, main keeps the
  wrong folios, and newcomers are compared with twice as many rivals; otherwise with half as many.
- LRU_SMALL, the share of new and small: if folios that were unused at the end of small are filled again at a higher rate than
  folios that left main, and at a rate that is worth it, uses are further apart than small is long, and the share grows;
  otherwise it shrinks.

Main is *renewed* when its folios are no longer used but evicted ones are filled again: one set of data is finished, and the
next is too large for its folios to meet their ghosts often. This is decided once for every ASK_POOLS pools' worth of evictions,
from a sample of main that a hand going round the folio table takes. Then each folio of main is evicted unless it was used, and
small's oldest takes its place, whatever its heat. Folios of a mere scan are not filled again, so a scan does not change main.

*Seen* is the time when a folio was put on a queue first, or last found used: its last use is no later than the next look, and
what was not found used since is as old at least. It is for ``trim(idle=)``, and no part of the policy. A hit does not write it.

In an empty pool, new and small are filled to their share and then main, so what came first is the stable part.

The parts are known. Queues and ghosts: S3-FIFO (Yang et al., SOSP 2023), without its counter of uses, since a hit writes
nothing here but PG_REFERENCED, and that only if reclaim has cleared it since. Uses in new that do not count: the correlated
references of 2Q (Johnson and Shasha, VLDB 1994) and LRU-K (O'Neil et al., SIGMOD 1993). Heat in degrees, by turns: GCLOCK
(Smith, TODS 1978). The comparison: TinyLFU's admission (Einziger et al., TOS 2017). Adapting by ghosts: ARC (Megiddo and Modha,
FAST 2003). Hit ratios are in docs/performance.md; benchmarks/eviction measures them.

LRU_LOCK guards the lists, F_QUEUE, all words called LRU_ and the ghosts. A folio on a list is not freed: its destructor takes
it off first, under the lock. Therefore the try_get in ``_leave`` is safe although the caller holds no reference.

F_QUEUE names a folio's queue at every instruction, also while the folio moves between queues: the lists and their lengths can
be made from it alone, wherever the owner of the lock died (``rebuild``). The adapted parameters and counts are valid whatever
their values.
"""

import cython

if not cython.compiled:
    from . import atomics, backing, client, flags, ghost, layout, page_ref, page_type, pagelist, robust_lock


def setup(mem):
    """Make the queues of a new segment, empty."""
    _empty(mem)
    for word in range(layout.LRU_FULL, layout.LRU_END, 4):
        atomics.write32(mem, word, 0)
    atomics.write32(mem, layout.LRU_RIVALS, layout.RIVALS_FIRST)
    atomics.write32(mem, layout.LRU_SMALL, layout.SMALL_FIRST)


def insert(mem, me, pfn):
    """Put a new folio that the caller holds on a queue, with the heat that its ghost gives it. False if the lock is refused."""
    if not _lock(mem, me):
        return False
    if _may_join(mem, pfn):
        _add(mem, pfn, layout.QUEUE_MAIN if _is_filling(mem) else layout.QUEUE_NEW, _recall(mem, me, pfn), _now())
    robust_lock.unlock(mem, layout.LRU_LOCK)
    return True


def add(mem, me, pfn, queue):
    """Put a folio that the caller holds at the young end of a queue, unless it is on a queue already or has left its mapping.
    False if the lock is refused."""
    if not _lock(mem, me):
        return False
    if _may_join(mem, pfn):
        _add(mem, pfn, queue, _heat(mem, pfn), _now())
    robust_lock.unlock(mem, layout.LRU_LOCK)
    return True


def remove(mem, me, pfn):
    """Take a folio off its queue, if it is on one; for its destructor. A folio that was chosen for eviction leaves a ghost.
    False if the lock is refused."""
    if not _lock(mem, me):
        return False
    if _queue_of(mem, pfn) != layout.QUEUE_NONE:
        _unlink(mem, pfn)
    elif verdict_of(mem, pfn):
        _remember(mem, me, pfn)
    _mark(mem, pfn, layout.QUEUE_NONE, 0, 0, 0)
    robust_lock.unlock(mem, layout.LRU_LOCK)
    return True


def isolate(mem, me, spare_main):
    """Choose the next folio to evict, take it off its queue and pin it. Return its pfn, or NIL if none was found or the lock is
    refused.

    spare_main: choose from new or small if they have any folio, whatever their share; for a caller that found the folios of
    main pinned. Looks at SCAN_BATCH folios at most, and at 2^RIVALS_MAX rivals of one of them, so that the lock is held for a
    bounded time.
    """
    if not _lock(mem, me):
        return layout.NIL
    pfn = layout.NIL
    atomics.write32(mem, layout.LRU_FULL, cached(mem))
    for _ in range(layout.SCAN_BATCH):
        queue = _choose(mem, spare_main)
        if queue == layout.QUEUE_NONE:
            break
        pfn = _look(mem, me, queue)
        if pfn != layout.NIL:
            break
    robust_lock.unlock(mem, layout.LRU_LOCK)
    return pfn


def take(mem, me, pfn, verdict):
    """Take a folio that the caller holds off its queue, for eviction with this verdict. False if it is on none, or the lock is
    refused."""
    if not _lock(mem, me):
        return False
    queued = _queue_of(mem, pfn) != layout.QUEUE_NONE
    if queued:
        _unlink(mem, pfn)
        _mark(mem, pfn, layout.QUEUE_NONE, _heat(mem, pfn), verdict, 0)
    robust_lock.unlock(mem, layout.LRU_LOCK)
    return queued


def isolate_idle(mem, me, pfn, end, least):
    """Take the first folio in pfn .. end - 1 that was not used for ``least`` ticks off its queue, and pin it. Return its pfn,
    or NIL if there is none or the lock is refused.

    One that was used, or is held, counts as seen now. The policy knows of the use afterwards as it did before.
    """
    if not _lock(mem, me):
        return layout.NIL
    found = layout.NIL
    while pfn < end and pfn < atomics.npages(mem) and found == layout.NIL:
        if _queue_of(mem, pfn) != layout.QUEUE_NONE and _age(mem, pfn) >= least:
            found = _leave(mem, me, pfn, 0)
        pfn += 1
    robust_lock.unlock(mem, layout.LRU_LOCK)
    return found


def rebuild(mem):
    """Rebuild the lists and their lengths from F_QUEUE, under LRU_LOCK. May be started again if the client that ran it died.

    Afterwards each queue is in order of pfn. The ghosts and the adapted parameters stay as they are.
    """
    _empty(mem)
    for pfn in range(atomics.npages(mem)):
        _correct(mem, pfn)
        queue = _queue_of(mem, pfn)
        if page_type.type(mem, pfn) != layout.TYPE_FILE:  # nothing else is ever on a queue
            _mark(mem, pfn, layout.QUEUE_NONE, 0, 0, 0)
        elif queue != layout.QUEUE_NONE:
            pagelist.push_first(mem, _list(queue), pfn)
            _account(mem, pfn, queue, 1)


def repair(mem, me):
    """Take the lock and rebuild, while other clients are attached."""
    if robust_lock.lock(mem, layout.LRU_LOCK, me) != layout.LOCK_BUSY:
        rebuild(mem)
        robust_lock.unlock(mem, layout.LRU_LOCK)


def reap(mem, me, dead):
    """If a dead client holds LRU_LOCK, take it over, rebuild, and unlock."""
    if robust_lock.take_over(mem, layout.LRU_LOCK, dead, me):
        rebuild(mem)
        robust_lock.unlock(mem, layout.LRU_LOCK)


def verdict_of(mem, pfn):
    """Return why a folio that the caller holds was chosen for eviction; 0 if it was not."""
    return atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE) >> layout.VERDICT_SHIFT & layout.VERDICT_MASK


def is_queued(mem, pfn):
    """True if the folio is on a queue, so that reclaim can find it."""
    return _queue_of(mem, pfn) != layout.QUEUE_NONE


def pages(mem, queue):
    """Return how many pages are on a queue; never more than the pool has."""
    return min(atomics.load_relaxed(mem, _pages(queue)), atomics.npages(mem))


def cached(mem):
    """Return how many pages are on all queues."""
    return pages(mem, layout.QUEUE_NEW) + pages(mem, layout.QUEUE_SMALL) + pages(mem, layout.QUEUE_MAIN)


def _lock(mem, me):
    """Take LRU_LOCK, and rebuild if that is necessary. False if the lock is refused."""
    got = robust_lock.lock(mem, layout.LRU_LOCK, me)
    if got == layout.LOCK_REPAIR:
        rebuild(mem)
    return got != layout.LOCK_BUSY


def _may_join(mem, pfn):
    """True if a folio is on no queue and in its mapping.

    So a folio that has left its mapping, and then been taken off its queue, is not queued again: ``reap`` relies on it. The
    client that takes it off saw it leave the mapping before it took the lock.
    """
    attached = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_ATTACHED)
    return attached != 0 and _queue_of(mem, pfn) == layout.QUEUE_NONE


def _choose(mem, spare_main):
    """Return the queue whose oldest folio is to be looked at, or QUEUE_NONE."""
    new = pages(mem, layout.QUEUE_NEW)
    share = _share(mem, cached(mem))
    if new > share >> 1 and _oldest(mem, layout.QUEUE_NEW) != layout.NIL:
        return layout.QUEUE_NEW
    main = layout.QUEUE_MAIN if _oldest(mem, layout.QUEUE_MAIN) != layout.NIL else layout.QUEUE_NONE
    if not spare_main and new + pages(mem, layout.QUEUE_SMALL) <= share and main != layout.QUEUE_NONE:
        return main
    if _oldest(mem, layout.QUEUE_SMALL) != layout.NIL:
        return layout.QUEUE_SMALL
    return layout.QUEUE_NEW if _oldest(mem, layout.QUEUE_NEW) != layout.NIL else main


def _look(mem, me, queue):
    """Look at a queue's oldest folio. Return the folio to evict, pinned; or NIL if there is none this time."""
    pfn = _oldest(mem, queue)
    if queue == layout.QUEUE_NEW:
        if flags.clear(mem, atomics.folio_at(mem, pfn), layout.PG_REFERENCED):
            _see(mem, pfn, 0)
        _move(mem, pfn, layout.QUEUE_SMALL, _heat(mem, pfn))
        return layout.NIL
    used = _harvest_referenced(mem, pfn)
    if queue == layout.QUEUE_SMALL:
        return _promote_or_evict(mem, me, pfn)
    if not used and _heat(mem, pfn) == 0:
        return _leave(mem, me, pfn, layout.VERDICT_BEATEN)
    _move(mem, pfn, layout.QUEUE_MAIN, _heat(mem, pfn) if used else _heat(mem, pfn) >> 1)
    return layout.NIL


def _promote_or_evict(mem, me, pfn):
    """Evict small's oldest, or promote it and evict a folio of main instead, or promote it and evict none because main is below
    its share. Return as ``_look``."""
    beaten = _outdated(mem)
    if beaten != layout.NIL:
        _move(mem, pfn, layout.QUEUE_MAIN, _heat(mem, pfn))
        return _leave(mem, me, beaten, layout.VERDICT_BEATEN)
    if _heat(mem, pfn) == 0:
        return _leave(mem, me, pfn, layout.VERDICT_LEFT)
    left = pages(mem, layout.QUEUE_NEW) + pages(mem, layout.QUEUE_SMALL) - (1 << page_type.order(mem, pfn))
    if left > _share(mem, cached(mem)):
        _move(mem, pfn, layout.QUEUE_MAIN, _heat(mem, pfn))
        return layout.NIL
    beaten = _contest(mem, _heat(mem, pfn), _parts(mem, pfn))
    if beaten == layout.NIL:
        return _leave(mem, me, pfn, layout.VERDICT_LOST)
    _move(mem, pfn, layout.QUEUE_MAIN, _heat(mem, pfn))
    return _leave(mem, me, beaten, layout.VERDICT_BEATEN)


def _parts(mem, pfn):
    """Return how many folios of a whole object lie side by side on a queue, from this one on; 1 if it is of none."""
    digest = atomics.read64(mem, atomics.folio_at(mem, pfn) + layout.F_DIGEST)
    parts = 0
    while parts < 1 << layout.RIVALS_MAX and pfn != layout.NIL:
        if atomics.read64(mem, atomics.folio_at(mem, pfn) + layout.F_DIGEST) != digest:
            break
        parts += 1
        pfn = pagelist.before(mem, pfn) if ghost.is_whole(digest) else layout.NIL
    return parts


def _contest(mem, heat, parts):
    """Return one of main's oldest that has less heat, or NIL. The parts of a whole object share their fate, so one of them is
    compared with as many rivals as all would be."""
    most = parts << min(atomics.read32(mem, layout.LRU_RIVALS), layout.RIVALS_MAX)
    for _ in range(min(most, 1 << layout.RIVALS_MAX)):
        rival = _oldest(mem, layout.QUEUE_MAIN)
        if rival == layout.NIL:
            break
        used = _harvest_referenced(mem, rival)
        if not used and _heat(mem, rival) < heat:
            return rival
        _move(mem, rival, layout.QUEUE_MAIN, _heat(mem, rival) if used else _heat(mem, rival) - 1)
    return layout.NIL


def _outdated(mem):
    """While main is renewed, return its oldest unless that was used; else NIL."""
    left = atomics.read32(mem, layout.LRU_RENEW)
    pfn = _oldest(mem, layout.QUEUE_MAIN)
    if left == 0 or pfn == layout.NIL:
        return layout.NIL
    atomics.write32(mem, layout.LRU_RENEW, left - 1)
    if not _harvest_referenced(mem, pfn):
        return pfn
    _move(mem, pfn, layout.QUEUE_MAIN, _heat(mem, pfn))
    return layout.NIL


def _harvest_referenced(mem, pfn):
    """True if a folio was used since its last turn. If so, clear the mark and raise its heat by a degree."""
    noted = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE) >> layout.USED_SHIFT & 1
    used = flags.clear(mem, atomics.folio_at(mem, pfn), layout.PG_REFERENCED) != 0
    if not used and not noted:
        return False
    seen = _now() if used else _seen(mem, pfn)
    _mark(mem, pfn, _queue_of(mem, pfn), min(_heat(mem, pfn) + 1, layout.HEAT_MAX), 0, seen)
    return True


def _age(mem, pfn):
    """Return how many ticks a folio was not used for, at least. Clear the mark of one that was; F_QUEUE has it then."""
    at = atomics.folio_at(mem, pfn)
    if flags.clear(mem, at, layout.PG_REFERENCED):
        _see(mem, pfn, 1)
        return 0
    if page_ref.count(mem, at) != 1:
        _see(mem, pfn, 0)
        return 0
    age = _now() - _seen(mem, pfn) & layout.SEEN_MASK
    return age if age < layout.SEEN_AHEAD else 0


def _see(mem, pfn, used):
    """Note that a folio is in use now; ``used``: and that the policy has not counted that yet."""
    word = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE) & (1 << layout.SEEN_SHIFT) - 1
    word |= used << layout.USED_SHIFT | _now() << layout.SEEN_SHIFT
    atomics.record32(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE, word)


def _now():
    """Return the tick."""
    return atomics.now_ns() >> layout.SEEN_TICK_SHIFT & layout.SEEN_MASK


def _seen(mem, pfn):
    return atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE) >> layout.SEEN_SHIFT


def _leave(mem, me, pfn, verdict):
    """Pin a folio that is to be evicted, and take it off its queue. Return its pfn, or NIL if another client is destroying
    it."""
    client.announce(mem, me, pfn)  # before it leaves the queue: no other client would find it if this one died here
    dead = page_ref.try_get(mem, atomics.folio_at(mem, pfn)) == layout.DEAD
    if dead:
        client.retract(mem, me, pfn)
    _unlink(mem, pfn)
    _mark(mem, pfn, layout.QUEUE_NONE, _heat(mem, pfn), 0 if dead else verdict, 0)
    return layout.NIL if dead else pfn


# Ghosts, and the parameters that are adapted.


def _remember(mem, me, pfn):
    """Store a ghost of each unit of an evicted folio, and count the eviction."""
    folio = atomics.folio_at(mem, pfn)
    digest, index = atomics.read64(mem, folio + layout.F_DIGEST), atomics.read64(mem, folio + layout.F_INDEX)
    order, span, verdict = page_type.order(mem, pfn), _span(mem, pfn), verdict_of(mem, pfn)
    for unit in range(1 << span):
        ghost.remember(mem, digest, index + unit, _unit_order(mem, pfn, unit), verdict, _heat(mem, pfn), _tick(mem))
    client.tally(mem, me, layout.STAT_EVICTED + verdict, 1)
    _bump(mem, layout.LRU_EVICTED + 4 * verdict, layout.EVENT << span)
    _bump(mem, layout.LRU_GONE, 1 << span if verdict != layout.VERDICT_BEATEN else 0)
    _bump(mem, layout.LRU_CLOCK, 1 << order)
    _pass_hand(mem, 1 << order)
    if _evicted_since(mem, layout.LRU_LEARNT) * layout.LEARN_SHARE >= cached(mem):
        _learn(mem)
    if _evicted_since(mem, layout.LRU_ASKED) >= cached(mem) * layout.ASK_POOLS:
        _ask(mem)


def _recall(mem, me, pfn):
    """Return the heat of a new folio: that of its hottest unit."""
    folio = atomics.folio_at(mem, pfn)
    digest, index = atomics.read64(mem, folio + layout.F_DIGEST), atomics.read64(mem, folio + layout.F_INDEX)
    heat = 0
    client.tally(mem, me, layout.STAT_REFAULTS, 1 << _span(mem, pfn))
    for unit in range(1 << _span(mem, pfn)):
        heat = max(heat, _recall_unit(mem, me, digest, index + unit, _unit_order(mem, pfn, unit)))
    return heat


def _recall_unit(mem, me, digest, index, order):
    """Return the heat of a new unit: a degree more than its ghost's; 0 without a ghost, or if it was beaten in main."""
    left = ghost.take(mem, digest, index, order, _tick(mem))
    if left == 0:
        return 0
    verdict = left & layout.VERDICT_MASK
    _count_refault(mem, me, left >> layout.GHOST_TICK_SHIFT)
    if left >> layout.GHOST_TICK_SHIFT <= layout.TICKS_SOON:
        _bump(mem, layout.LRU_REFAULTED + 4 * verdict, layout.EVENT)
    if verdict == layout.VERDICT_BEATEN:
        return 0
    _bump(mem, layout.LRU_AGAIN, 1)
    return min((left >> layout.GHOST_HEAT_SHIFT & layout.HEAT_MAX) + 1, layout.HEAT_MAX)


def _count_refault(mem, me, ticks):
    """Count a unit that is filled again so many ticks after its eviction: in a pool larger by as many pages as were evicted
    meanwhile, it would still have been there."""
    for age in range(layout.REFAULT_AGES):
        if ticks <= layout.REFAULT_TICKS << age:
            client.tally(mem, me, layout.STAT_REFAULTS + 1 + age, 1)


def _unit_order(mem, pfn, unit):
    """Return the order of the pages that a folio's unit number ``unit`` has where it is a folio by itself: fewer than the
    others for an object's last unit, if it is short."""
    order = page_type.order(mem, pfn) - _span(mem, pfn)
    shift = atomics.page_shift(mem) + order
    before = unit
    before <<= shift
    length = atomics.read32(mem, atomics.folio_at(mem, pfn) + layout.F_LENGTH)
    left = length - min(before, length)
    while order > 0 and (left - 1) >> (shift - 1) == 0:
        shift -= 1
        order -= 1
    return order


def _span(mem, pfn):
    """Return the span of a folio; no more than its order, if its words are damaged."""
    return min(page_type.span(mem, pfn), min(page_type.order(mem, pfn), layout.SPAN_MAX))


def _learn(mem):
    """Adapt LRU_RIVALS and LRU_SMALL, and let the counts decay."""
    if _went(mem, layout.VERDICT_LOST) + _went(mem, layout.VERDICT_BEATEN) > 0:
        rivals = min(atomics.read32(mem, layout.LRU_RIVALS), layout.RIVALS_MAX)
        rivals = min(rivals + 1, layout.RIVALS_MAX) if _returns(mem, layout.VERDICT_LOST) else max(rivals, 1) - 1
        atomics.write32(mem, layout.LRU_RIVALS, rivals)
    small = _small(mem)
    worth = _back(mem, layout.VERDICT_LEFT) * layout.WORTH >= _went(mem, layout.VERDICT_LEFT)
    if worth and _returns(mem, layout.VERDICT_LEFT):
        small = min(small + (small >> layout.SMALL_STEP), layout.SMALL_MAX)
    else:
        small = max(small - (small >> layout.SMALL_STEP), layout.SMALL_MIN)
    atomics.write32(mem, layout.LRU_SMALL, small)
    atomics.write32(mem, layout.LRU_LEARNT, atomics.read32(mem, layout.LRU_CLOCK))
    for word in range(layout.LRU_EVICTED, layout.LRU_ASKED, 4):
        atomics.write32(mem, word, (atomics.read32(mem, word) * ((1 << layout.FADE) - 1)) >> layout.FADE)


def _ask(mem):
    """Renew main if almost none of its folios were used, ASK_TIMES in a row, while evicted folios were filled again and
    LRU_RIVALS is already low. ASK_TIMES in a row, because in the first of many epochs no folio is used either."""
    unused = atomics.read32(mem, layout.LRU_USED) * layout.USED_SHARE < atomics.read32(mem, layout.LRU_MET)
    others = atomics.read32(mem, layout.LRU_AGAIN) * layout.AGAIN_SHARE > atomics.read32(mem, layout.LRU_GONE)
    useless = min(atomics.read32(mem, layout.LRU_USELESS) + 1, layout.ASK_TIMES) if unused else 0
    if useless == layout.ASK_TIMES and others and atomics.read32(mem, layout.LRU_RIVALS) <= layout.ASK_RIVALS:
        atomics.write32(mem, layout.LRU_RENEW, pages(mem, layout.QUEUE_MAIN))
        useless = 0
    atomics.write32(mem, layout.LRU_USELESS, useless)
    for word in range(layout.LRU_MET, layout.LRU_RENEW, 4):
        atomics.write32(mem, word, 0)
    atomics.write32(mem, layout.LRU_ASKED, atomics.read32(mem, layout.LRU_CLOCK))


def _pass_hand(mem, evicted):
    """Move the hand over the folio table, by half as many pages as were evicted. Count the folio of main that it comes to; if
    that was used, count that too, and mark the folio as used in F_QUEUE."""
    hand = atomics.read32(mem, layout.LRU_HAND)
    _bump(mem, layout.LRU_HAND, evicted)
    pfn = ((hand + evicted) >> 1) % max(atomics.npages(mem), 1)
    if pfn == (hand >> 1) % max(atomics.npages(mem), 1) or _queue_of(mem, pfn) != layout.QUEUE_MAIN:
        return
    _bump(mem, layout.LRU_MET, 1)
    if flags.clear(mem, atomics.folio_at(mem, pfn), layout.PG_REFERENCED):
        _bump(mem, layout.LRU_USED, 1)
        _see(mem, pfn, 1)


def _evicted_since(mem, word):
    """Return how many pages were evicted since LRU_CLOCK had the value in ``word``."""
    return (atomics.read32(mem, layout.LRU_CLOCK) - atomics.read32(mem, word)) & layout.NIL


def _returns(mem, verdict):
    """True if folios with this verdict are filled again at a higher rate than those that were beaten."""
    rate = _back(mem, verdict) * (_went(mem, layout.VERDICT_BEATEN) + layout.EVENT)
    return rate > _back(mem, layout.VERDICT_BEATEN) * (_went(mem, verdict) + layout.EVENT)


def _went(mem, verdict):
    """Return how many folios were evicted lately with this verdict, in units of 1 / EVENT."""
    return atomics.read32(mem, layout.LRU_EVICTED + 4 * verdict)


def _back(mem, verdict):
    """Return how many of those were filled again soon, in the same unit."""
    return atomics.read32(mem, layout.LRU_REFAULTED + 4 * verdict)


def _bump(mem, word, n):
    atomics.write32(mem, word, (atomics.read32(mem, word) + n) & layout.NIL)


def _tick(mem):
    """Return the time of ghosts, which advances with the pages evicted."""
    return atomics.read32(mem, layout.LRU_CLOCK) // max(backing.limit(mem) >> layout.TICK_SHIFT, 1)


def _small(mem):
    """Return the share of new and small, in units of 1 / 2^SMALL_SHIFT; within its bounds if its word is damaged."""
    return max(min(atomics.read32(mem, layout.LRU_SMALL), layout.SMALL_MAX), layout.SMALL_MIN)


def _share(mem, of):
    """Return the share of new and small in ``of`` pages."""
    share = of * _small(mem) >> layout.SMALL_SHIFT
    return max(share, 1)


def _is_filling(mem):
    """True if the pool has room (still, or again), while new and small already have their share of what will be cached when it
    is full. Then a new folio goes to main."""
    full = atomics.read32(mem, layout.LRU_FULL)
    if full and cached(mem) + full // layout.FILLED_SHARE + 1 >= full:
        return False
    return pages(mem, layout.QUEUE_NEW) + pages(mem, layout.QUEUE_SMALL) >= _share(mem, full if full else backing.limit(mem))


def _empty(mem):
    """Make all queues empty."""
    for queue in range(layout.QUEUES):
        pagelist.reset(mem, _list(queue))
        atomics.store_relaxed(mem, _pages(queue), 0)


def _oldest(mem, queue):
    return pagelist.last(mem, _list(queue))


def _add(mem, pfn, queue, heat, seen):
    _mark(mem, pfn, queue, heat, 0, seen)
    pagelist.push_first(mem, _list(queue), pfn)
    _account(mem, pfn, queue, 1)


def _move(mem, pfn, queue, heat):
    _unlink(mem, pfn)
    _add(mem, pfn, queue, heat, _seen(mem, pfn))


def _unlink(mem, pfn):
    queue = _queue_of(mem, pfn)
    pagelist.remove(mem, _list(queue), pfn)
    _account(mem, pfn, queue, -1)


def _account(mem, pfn, queue, sign):
    now = atomics.load_relaxed(mem, _pages(queue))
    atomics.store_relaxed(mem, _pages(queue), now + sign * (1 << page_type.order(mem, pfn)))


def _mark(mem, pfn, queue, heat, verdict, seen):
    word = queue | heat << layout.HEAT_SHIFT | verdict << layout.VERDICT_SHIFT | seen << layout.SEEN_SHIFT
    atomics.record32(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE, word)


def _queue_of(mem, pfn):
    queue = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE) & layout.QUEUE_MASK
    return queue if queue < layout.QUEUES else layout.QUEUE_NONE


def _correct(mem, pfn):
    """Put a folio whose F_QUEUE names no existing queue on small."""
    word = atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE)
    if word & layout.QUEUE_MASK >= layout.QUEUES:
        _mark(mem, pfn, layout.QUEUE_SMALL, 0, 0, _now())


def _heat(mem, pfn):
    return atomics.load_relaxed(mem, atomics.folio_at(mem, pfn) + layout.F_QUEUE) >> layout.HEAT_SHIFT & layout.HEAT_MAX


def _list(queue):
    return layout.LRU_LISTS + queue * layout.LIST_SIZE


def _pages(queue):
    return layout.LRU_PAGES + queue * 4
