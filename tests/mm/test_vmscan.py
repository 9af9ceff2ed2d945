"""vmscan: which folios are evicted, and which never are."""

import pytest
from world import BYTES, ME

NIL, FROZEN = 0xFFFFFFFF, 0x80000000


def cached(segment, ino, indices, folios=64):
    """Return those of the indices that are cached."""
    found = set()
    for index in indices:
        pfn = segment.find(ino, index, folios)
        if pfn != NIL:
            found.add(index)
            segment.folio.put(ME, pfn)
    return found


def queue_of(segment, pfn):
    return segment.field(pfn, segment.layout.F_QUEUE) & segment.layout.QUEUE_MASK


def evictions(segment):
    return segment.read64(segment.client.slot(ME) + segment.layout.CLIENT_COUNTERS + 8 * segment.layout.COUNT_EVICTIONS)


def test_evict_takes_a_folio_that_nobody_uses(segment):
    ino = segment.open()
    segment.cache(ino, range(3))
    pfn = segment.lru.isolate(ME, False)
    assert segment.vmscan.evict(ME, pfn) == 1
    assert cached(segment, ino, range(3)) == {1, 2}
    assert segment.count(pfn) == FROZEN
    assert segment.ghost.take(1, 0, 0, 0)  # by its object's digest
    assert evictions(segment) == 1
    assert segment.findings() == []


def test_evict_counts_the_pages_of_a_large_folio(segment):
    ino = segment.open(order=3)
    segment.cache(ino, range(2), order=3)
    assert segment.vmscan.evict(ME, segment.lru.isolate(ME, False)) == 8


def test_evict_of_the_last_folio_takes_the_record(segment):
    ino = segment.open()
    segment.cache(ino, [0])
    assert segment.vmscan.evict(ME, segment.lru.isolate(ME, False)) == 1
    assert segment.mapping.lookup(ME, 1, 2) == 0
    assert segment.available() == 64


def test_evict_leaves_a_pinned_folio_and_takes_only_its_own_pin(segment):
    """It counts as used."""
    ino = segment.open()
    pfn = segment.add(ino, 0)
    assert segment.lru.isolate(ME, False) == pfn
    assert segment.vmscan.evict(ME, pfn) == 0
    assert segment.count(pfn) == 2
    assert queue_of(segment, pfn) == segment.layout.QUEUE_MAIN
    assert evictions(segment) == 0
    assert segment.findings() == []


def test_a_saturated_folio_stays_and_keeps_its_count(segment):
    """try_get took a reference although it said SATURATED; reclaim gives it back."""
    ino = segment.open()
    pfn = segment.add(ino, 0)
    segment.set_field(pfn, segment.layout.F_REF, segment.layout.REF_MAX)
    assert segment.vmscan.shrink(ME, 1) == 0
    assert segment.vmscan.alloc_folio(ME, 6) == NIL
    assert segment.count(pfn) == segment.layout.REF_MAX
    assert queue_of(segment, pfn) != segment.layout.QUEUE_NONE


def test_evict_of_a_folio_that_was_withdrawn_meanwhile(segment):
    ino = segment.open()
    segment.cache(ino, range(2))
    pfn = segment.lru.isolate(ME, False)
    segment.filemap.truncate(ME, ino, 0)
    assert segment.vmscan.evict(ME, pfn) == 0
    assert segment.count(pfn) == FROZEN  # the pin was the last reference
    assert segment.findings() == []


def test_evict_leaves_a_withdrawn_folio_to_its_user(segment):
    """It has two references, but neither is a slot's: the user's and the caller's."""
    ino = segment.open()
    pfns = segment.cache(ino, range(2))
    assert segment.find(ino, 0) == segment.lru.isolate(ME, False) == pfns[0]
    segment.filemap.truncate(ME, ino, 0)
    assert segment.count(pfns[0]) == 2
    assert segment.vmscan.evict(ME, pfns[0]) == 0
    assert segment.count(pfns[0]) == 1
    assert segment.mapping.folios(ino) == 1
    assert segment.findings() == []


def test_evict_when_the_mapping_is_gone(segment):
    ino = segment.open()
    segment.cache(ino, [0])
    pfn = segment.lru.isolate(ME, False)
    segment.filemap.truncate(ME, ino, 63)
    assert segment.vmscan.evict(ME, pfn) == 0
    assert segment.available() == 64


def test_a_getter_that_comes_between_keeps_its_folio(segments, between):
    """After the pin of isolate, before the freeze: the freeze fails."""
    segment = segments()
    ino = segment.open()
    segment.cache(ino, [0])
    pfn = segment.lru.isolate(ME, False)
    if segment.world.compiled:
        assert segment.find(ino, 0) == pfn
        assert segment.vmscan.evict(ME, pfn) == 0
    else:
        # The second cmpxchg_acquire is the freeze, the first one the tree lock's.
        with between(segment, "load_acquire64", lambda: segment.find(ino, 0)):
            assert segment.vmscan.evict(ME, pfn) == 0
    assert segment.count(pfn) == 2
    assert cached(segment, ino, [0]) == {0}


WHOLE = 1 << 31 | 1  # the digest of an object that is gone without any part of it


def test_a_whole_object_is_evicted_together(segment):
    ino, other = segment.open(WHOLE), segment.open(2)
    pfns = segment.cache(ino, (0, 3, 63))
    segment.cache(other, range(3))
    assert segment.vmscan.evict(ME, segment.lru.isolate(ME, False)) == 3
    assert [segment.count(pfn) for pfn in pfns.values()] == [FROZEN] * 3
    assert segment.mapping.lookup(ME, WHOLE, WHOLE + 1) == 0
    assert cached(segment, other, range(3)) == {0, 1, 2}
    assert evictions(segment) == 3
    assert segment.findings() == []


def test_the_rest_is_evicted_for_the_same_reason(segment):
    """Its pages count as evicted, and its heat goes into the object's ghost."""
    layout = segment.layout
    ino = segment.open(WHOLE)
    pfns = segment.cache(ino, range(2))
    segment.lru.remove(ME, pfns[0])
    segment.lru.add(ME, pfns[0], layout.QUEUE_MAIN)
    segment.set_field(pfns[0], layout.F_QUEUE, layout.QUEUE_MAIN | 5 << layout.HEAT_SHIFT)
    before = segment.read(layout.LRU_CLOCK)
    pfn = segment.lru.isolate(ME, True)
    assert pfn == pfns[1]
    assert segment.lru.verdict_of(pfn) == layout.VERDICT_LEFT
    assert segment.vmscan.evict(ME, pfn) == 2
    assert segment.read(layout.LRU_CLOCK) - before == 2
    assert segment.ghost.take(WHOLE, 0, 0, 0) == layout.VERDICT_LEFT | 5 << layout.GHOST_HEAT_SHIFT


@pytest.mark.parametrize("span", [0, 2])
def test_a_part_that_is_held_stays(segment, span):
    ino = segment.open(WHOLE)
    found = segment.filemap.grab(ME, ino, 4, 0, span, BYTES)
    held = found & NIL
    segment.filemap.complete(ME, held)
    pfns = segment.cache(ino, (0, 1, 50))
    segment.lru.take(ME, pfns[0], 0)
    segment.page_ref.get(segment.at(pfns[0]))
    assert segment.vmscan.evict(ME, pfns[0]) == 3
    assert segment.mapping.folios(ino) == 1
    assert segment.count(held) == 2
    assert queue_of(segment, held) == segment.layout.QUEUE_MAIN
    segment.hold(held)
    assert segment.findings() == []


def test_a_part_that_is_being_filled_stays(segment):
    """It is on no queue, and is put on none before it is complete."""
    ino = segment.open(WHOLE)
    filling = segment.filemap.grab(ME, ino, 1, 0, 0, BYTES) & NIL
    segment.cache(ino, (0, 2))
    assert segment.vmscan.evict(ME, segment.lru.isolate(ME, False)) == 2
    assert queue_of(segment, filling) == segment.layout.QUEUE_NONE
    assert segment.count(filling) == 2
    segment.hold(filling)
    assert segment.findings() == []


def test_what_does_not_belong_to_the_object_stays(segment):
    """A damaged slot names a folio of another one, whose reference must not be dropped."""
    ino, other = segment.open(WHOLE), segment.open(2)
    pfns, others = segment.cache(ino, range(3)), segment.cache(other, [0])
    slot = segment.world.xarray.find(segment.mem, segment.mapping.head(ino), segment.mapping.height(ino), 1)
    segment.write(slot, others[0] + 1 << 1)
    assert segment.vmscan.evict(ME, segment.lru.isolate(ME, False)) == 2
    assert segment.count(others[0]) == 1
    assert segment.count(pfns[1]) == 1


def test_shrink_frees_what_is_wanted_and_no_more(segment):
    ino = segment.open()
    segment.cache(ino, range(20))
    assert segment.vmscan.shrink(ME, 5) == 5
    assert len(cached(segment, ino, range(20))) == 15


def test_shrink_in_whole_folios(segment):
    ino = segment.open(order=2)
    segment.cache(ino, range(5), order=2)
    assert segment.vmscan.shrink(ME, 5) == 8


def test_shrink_of_an_empty_cache(segment):
    assert segment.vmscan.shrink(ME, 1) == 0


def test_shrink_when_everything_is_pinned(segment):
    ino = segment.open()
    for index in range(40):
        segment.hold(segment.add(ino, index))
    assert segment.vmscan.shrink(ME, 1) == 0
    assert cached(segment, ino, range(40)) == set(range(40))
    assert segment.findings() == []


def test_shrink_when_everything_was_used(segments):
    """Each gets another round, then some are evicted nevertheless."""
    segment = segments(400)
    ino = segment.open(folios=4096)
    for pfn in segment.cache(ino, range(300)).values():
        segment.flags.mark_referenced(segment.at(pfn), 0)
    assert segment.vmscan.shrink(ME, 3) == 3


def test_shrink_finds_the_few_that_are_not_pinned(segment):
    ino = segment.open()
    pfns = {index: segment.add(ino, index) for index in range(50)}
    for index in (17, 42):
        segment.folio.put(ME, pfns[index])
    assert segment.vmscan.shrink(ME, 10) == 2
    assert cached(segment, ino, range(50)) == set(range(50)) - {17, 42}


def test_a_fill_in_flight_does_not_keep_reclaim_from_the_main_queue(segment):
    """The small queue holds nothing but a folio that is being filled, and has more than its share of the pages."""
    cold, ino = segment.open(1), segment.open(2, order=3)
    for pfn in segment.cache(cold, range(30)).values():
        segment.lru.remove(ME, pfn)
        segment.lru.add(ME, pfn, segment.layout.QUEUE_MAIN)
    filling = segment.filemap.grab(ME, ino, 0, 3, 0, BYTES) & NIL
    assert segment.vmscan.shrink(ME, 5) == 5
    assert segment.count(filling) == 2


def test_alloc_folio_evicts_nothing_while_there_is_room(segment):
    ino = segment.open()
    segment.cache(ino, range(10))
    assert segment.vmscan.alloc_folio(ME, 3) != NIL
    assert evictions(segment) == 0


def test_alloc_folio_evicts_the_cold(segment):
    ino = segment.open()
    pinned = segment.add(ino, 0)
    segment.cache(ino, range(1, 62))
    assert segment.free() == 0
    pfn = segment.vmscan.alloc_folio(ME, 0)
    assert pfn != NIL
    assert segment.count(pfn) == FROZEN
    assert len(cached(segment, ino, range(62))) == 61
    assert segment.count(pinned) == 2


@pytest.mark.parametrize("order", [0, 1, 5])
def test_alloc_folio_when_everything_is_pinned(segment, order):
    ino = segment.open()
    pfns = [segment.hold(segment.add(ino, index)) for index in range(62)]
    assert segment.vmscan.alloc_folio(ME, order) == NIL
    assert {segment.count(pfn) for pfn in pfns} == {2}
    assert segment.findings() == []


def test_alloc_folio_of_an_order_larger_than_the_pool(segment):
    ino = segment.open()
    segment.cache(ino, range(30))
    assert segment.vmscan.alloc_folio(ME, 7) == NIL
    assert segment.findings() == []


def fragmented(segment, spare):
    """Fill a pool with single pages, one pinned in each block of 8 except ``spare``, whose pages were used last."""
    ino = segment.open(folios=4096)
    pfns = {index: segment.hold(segment.add(ino, index)) for index in range(segment.pages - 8)}
    while (found := segment.filemap.grab(ME, ino, len(pfns), 0, 0, BYTES)) & segment.layout.GRAB_ADDED:
        pfns[len(pfns)] = segment.hold(found & NIL)
        segment.filemap.complete(ME, found & NIL)
    keep = {}
    for pfn in pfns.values():
        keep[pfn // 8] = pfn
    spare_block = [pfn for pfn in pfns.values() if pfn // 8 == spare]
    assert len(spare_block) == 8, "the block that is to come free holds a node"
    for pfn in pfns.values():
        if keep[pfn // 8] != pfn or pfn in spare_block:
            segment.let_go(pfn)
    for pfn in spare_block:
        segment.flags.mark_referenced(segment.at(pfn), 0)
        segment.lru.remove(ME, pfn)
        segment.lru.add(ME, pfn, segment.layout.QUEUE_MAIN)
    return [pfn for block, pfn in keep.items() if block != spare]


def test_a_large_block_out_of_fragmented_memory(segments):
    """Evicting by age frees pages all over the pool; the one block without a pin has to be cleared as a whole."""
    segment = segments(128)
    pinned = fragmented(segment, spare=9)
    assert segment.free() == 0
    assert segment.vmscan.alloc_folio(ME, 3) == 72
    assert {segment.count(pfn) for pfn in pinned} == {2}


def test_no_large_block_when_each_has_a_pin(segments):
    segment = segments(128)
    pinned = fragmented(segment, spare=9)
    extra = 75
    assert segment.page_ref.try_get(segment.at(extra)) == segment.layout.GOT
    segment.hold(extra)
    assert segment.vmscan.alloc_folio(ME, 3) == NIL
    assert {segment.count(pfn) for pfn in pinned} == {2}
    assert segment.count(extra) == 2
    assert segment.findings() == []


def test_main_in_use_does_not_keep_reclaim_from_the_rest(segment):
    """All folios of main are pinned, and small has no more than its share."""
    ino = segment.open()
    pinned = [segment.add(ino, index) for index in range(40)]
    for pfn in pinned:
        segment.lru.remove(ME, pfn)
        segment.lru.add(ME, pfn, segment.layout.QUEUE_MAIN)
    segment.cache(ino, [40])
    assert segment.vmscan.shrink(ME, 1) == 1
    assert cached(segment, ino, range(41)) == set(range(40))
