"""page_alloc: locks that are refused, the steps of taking and giving a block, and what a rebuild corrects; interpreted."""

import pytest
from calls import Calls
from world import ME, Segment, World, interpreted

NIL, FROZEN, OTHER = 0xFFFFFFFF, 0x80000000, 2


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


@pytest.fixture(scope="module")
def impatient():
    return World("impatient allocator", {"LOCK_PATIENCE_NS": 0, "LOCK_SPINS": 0})


def owner(segment):
    return segment.robust_lock.owner(segment.layout.ALLOC_LOCK)


def is_broken(segment):
    return bool(segment.read(segment.layout.ALLOC_LOCK) & segment.layout.LOCK_BROKEN)


def marked(segment, pfn):
    return segment.field(pfn, segment.layout.F_BUDDY)


def state(segment):
    """All but the lock's word: the lists, the counts and the marks."""
    layout = segment.layout
    marks = [(marked(segment, pfn), segment.field(pfn, layout.F_TYPE), segment.count(pfn)) for pfn in range(segment.pages)]
    return bytes(segment.buffer[layout.ALLOC_LOCK + 4 : layout.LRU_LOCK]), marks, segment.read(layout.PAGES_LIMIT)


# The lock.


def test_without_the_lock_nothing_changes(impatient, monkeypatch):
    segment = Segment(impatient)
    alloc, layout = segment.page_alloc, segment.layout
    pfn = alloc.alloc(ME, 4)
    segment.trim.give_back(ME, 16)
    parked = alloc.alloc(ME, 0)
    segment.set_field(parked, layout.F_BUDDY, layout.BUDDY_PARKED)
    segment.client.attach(OTHER)
    segment.robust_lock.lock(layout.ALLOC_LOCK, OTHER)
    monkeypatch.setattr(impatient.page_alloc, "rebuild", lambda *args: pytest.fail("it is rebuilt"))
    before, named = state(segment), segment.client.intents(ME)
    assert (alloc.alloc(ME, 0), alloc.alloc_chunks(ME, 64), alloc._take_hole(ME, 0)) == (NIL, NIL, NIL)
    assert [alloc.alloc_hole(ME, each) for each in range(0, 64, 8)] == [NIL] * 8
    assert (alloc.set_limit(ME, 3), alloc.free(ME, pfn, 4), alloc.end_quarantine(ME, parked)) == (False,) * 3
    assert alloc.quarantine(ME, pfn) == layout.LOCK_BUSY
    assert alloc.back(ME, 0) == 0
    alloc.repair(ME)
    alloc.reap(ME, ME)
    assert state(segment) == before and segment.client.intents(ME) == named and owner(segment) == OTHER


def test_all_is_done_under_the_lock(segment, calls):
    calls.replace("page_alloc._take", [5, 6, 7], lambda: owner(segment))
    assert segment.page_alloc.alloc(ME, 0) == 5
    assert segment.page_alloc.alloc_chunks(ME, 64) == 6
    calls.replace("robust_lock.unlock", (), lambda: segment.read(segment.layout.PAGES_LIMIT))
    segment.page_alloc.set_limit(ME, 33)
    assert [seen for *_, seen in calls.made] == [ME, ME, 33]


def test_repair_under_the_lock(segment, calls):
    calls.replace("page_alloc.rebuild", (), lambda: owner(segment))
    segment.page_alloc.repair(ME)
    segment.client.attach(OTHER)
    segment.robust_lock.lock(segment.layout.ALLOC_LOCK, OTHER)
    segment.page_alloc.reap(ME, ME)
    assert owner(segment) == OTHER
    segment.page_alloc.reap(ME, OTHER)
    assert [seen for *_, seen in calls.made] == [ME, ME] and owner(segment) == NIL


def test_a_broken_lock_is_repaired_by_who_takes_it(segment, calls):
    segment.robust_lock.lock(segment.layout.ALLOC_LOCK, ME)
    segment.robust_lock.mark_broken(segment.layout.ALLOC_LOCK)
    segment.robust_lock.unlock(segment.layout.ALLOC_LOCK)
    calls.replace("page_alloc.rebuild")
    segment.page_alloc.alloc(ME, 0)
    segment.page_alloc.alloc(ME, 0)
    assert calls.names == ["page_alloc.rebuild"]


# Taking and giving.


def test_setup_begins_with_no_page():
    segment = Segment(interpreted())
    for word in (
        segment.layout.PAGES_DESCRIBED,
        segment.layout.PAGES_LIMIT,
        segment.layout.ALLOC_FREE,
        segment.layout.ALLOC_HOLES,
    ):
        segment.write(word, 77)
    segment.page_alloc.setup(9)
    words = (segment.layout.PAGES_DESCRIBED, segment.layout.PAGES_LIMIT, segment.layout.ALLOC_FREE, segment.layout.ALLOC_HOLES)
    assert [segment.read(word) for word in words] == [0, 9, 0, 0]
    assert segment.free_lists() == {}


def test_a_block_is_named_before_it_loses_its_mark(segment, calls):
    """And the upper halves have theirs, and the type is cleared and the order noted, before."""
    layout, seen = segment.layout, []
    set_mark = segment.world.page_alloc._set_mark

    def marking(mem, pfn, mark):
        if mark == 0:
            order = segment.field(pfn, layout.F_TYPE) >> layout.ORDER_SHIFT & layout.ORDER_MASK
            halves = [marked(segment, 1 << order) for order in range(6)]
            seen.append((pfn, segment.client.intents(ME), order, halves))
        set_mark(mem, pfn, mark)

    calls.monkeypatch.setattr(segment.world.page_alloc, "_set_mark", marking)
    before = segment.client.intents(ME)
    assert segment.page_alloc.alloc(ME, 2) == 0
    assert seen == [(0, before + 1, 2, [0, 0, 3, 4, 5, 6])]


@pytest.mark.parametrize("inside", [0, 1, 2, 3])
def test_a_block_with_a_folio_in_it_is_not_handed_out(segment, inside):
    segment.page_type.set(inside, segment.layout.TYPE_FILE, 0, 0)
    assert segment.page_alloc.alloc(ME, 2) == NIL and is_broken(segment)
    segment.page_type.set(inside, segment.layout.TYPE_NONE, 0, 0)


def test_a_page_behind_the_block_may_be_a_folio(segment):
    segment.page_type.set(4, segment.layout.TYPE_FILE, 0, 0)
    assert segment.page_alloc.alloc(ME, 2) == 0


@pytest.mark.parametrize(
    ("most", "pfn", "order"), [(15, NIL, 0), (16, 0, 4), (31, 0, 4), (32, 0, 5), (63, 0, 5), (64, 0, 6), (1 << 20, 0, 6)]
)
def test_the_largest_block_of_whole_chunks(segment, most, pfn, order):
    assert segment.page_alloc.alloc_chunks(ME, most) == pfn
    if pfn != NIL:
        assert segment.page_type.order(pfn) == order and segment.free() == 64 - (1 << order)


def test_a_chunk_may_be_a_page():
    segment = Segment(interpreted(), 4, 1 << 16)
    assert NIL not in [segment.page_alloc.alloc_chunks(ME, 1) for _ in range(4)]
    assert segment.free() == 0 and segment.page_alloc.alloc_chunks(ME, 1) == NIL


def test_a_block_in_quarantine_is_parked(segment):
    layout, alloc = segment.layout, segment.page_alloc
    pfn = alloc.alloc(ME, 2)
    assert alloc.quarantine(ME, pfn + 1) == layout.QUARANTINE_NONE == alloc.quarantine(ME, 32)
    assert alloc.quarantine(ME, pfn) == layout.QUARANTINE_ON and marked(segment, pfn) == layout.BUDDY_QUARANTINED
    assert alloc.free(ME, pfn, 2) and marked(segment, pfn) == layout.BUDDY_PARKED and segment.free() == 60
    assert alloc.quarantine(ME, pfn) == layout.QUARANTINE_NONE and segment.free() == 64, "it was parked"
    pfn = alloc.alloc(ME, 2)
    alloc.quarantine(ME, pfn)
    assert alloc.end_quarantine(ME, pfn) and marked(segment, pfn) == 0 and segment.free() == 60
    segment.page_type.set(pfn, layout.TYPE_FILE, 2, 0)
    segment.set_field(pfn, layout.F_BUDDY, layout.BUDDY_PARKED)
    assert alloc.end_quarantine(ME, pfn) and marked(segment, pfn) == 0 and segment.free() == 60, "a folio is not parked"
    assert alloc.end_quarantine(ME, 32) and marked(segment, 32) == 6


def test_a_free_page_whose_number_says_parked_is_not_freed_again(segment):
    """No block begins there."""
    layout = segment.layout
    segment.page_alloc.alloc(ME, 2)
    segment.set_field(1, layout.F_BUDDY, layout.BUDDY_PARKED)
    assert segment.page_alloc.quarantine(ME, 1) == layout.QUARANTINE_NONE and segment.free() == 60
    segment.set_field(1, layout.F_BUDDY, 0)


# Rebuilding.


def test_a_rebuild_corrects_free_pages_and_tails(segment):
    layout = segment.layout
    pfn = segment.page_alloc.alloc(ME, 2)
    for page in (1, 2, 3, 40, 63):
        segment.set_field(page, layout.F_REF, 5)
    segment.set_field(3, layout.F_BUDDY, 1)
    segment.set_field(32, layout.F_REF, 0)
    segment.page_alloc.rebuild()
    assert {segment.count(page) for page in range(1, 64)} == {FROZEN}
    assert [marked(segment, page) for page in (1, 2, 3)] == [0] * 3
    assert segment.free() == 60 and segment.field(32, layout.F_TYPE) == layout.TYPE_NONE | 5 << layout.ORDER_SHIFT
    assert pfn == 0


def test_a_rebuild_looks_at_no_page_beyond_the_pool(segment, monkeypatch):
    order_at, seen = segment.world.page_alloc._order_at, []
    monkeypatch.setattr(segment.world.page_alloc, "_order_at", lambda mem, pfn: (seen.append(pfn), order_at(mem, pfn))[1])
    segment.page_alloc.rebuild()
    assert max(seen) < segment.pages


# Holes.


def emptied(segment, pages=64):
    while segment.trim.give_back(ME, pages):
        pass
    assert segment.free() == 0 and segment.read(segment.layout.ALLOC_HOLES) == 64
    return segment


def test_a_hole_is_taken_by_any_of_its_pages(segment):
    emptied(segment)
    assert segment.page_alloc.back(ME, 5) == 32
    used = segment.page_alloc.alloc(ME, 0)
    assert used == 0 and not any(segment.page_alloc.is_hole(pfn) for pfn in range(32))
    assert all(segment.page_alloc.is_hole(pfn) for pfn in range(32, 64))
    assert [segment.page_alloc.alloc_hole(ME, pfn) for pfn in (0, 1, 31, 64, NIL)] == [NIL] * 5
    before = segment.client.intents(ME)
    assert segment.page_alloc.alloc_hole(ME, 45) == 32 and segment.client.intents(ME) == before + 1
    assert segment.page_type.order(32) == 5 and segment.read(segment.layout.ALLOC_HOLES) == 0
    assert owner(segment) == NIL and not segment.page_alloc.is_hole(45)


def test_the_hole_that_is_meant_is_taken(segment):
    """Not the first of its list."""
    emptied(segment)
    for order in (4, 4, 4, 4):
        segment.page_alloc.back(ME, order)
    pfns = [segment.page_alloc.alloc(ME, 4) for _ in range(4)]
    for pfn in (pfns[0], pfns[2]):
        segment.backing.unmark(pfn, 4)
        segment.page_alloc.free(ME, pfn, 4)
    for pfn in (pfns[2], pfns[0]):
        assert segment.page_alloc.alloc_hole(ME, pfn + 3) == pfn
        assert segment.page_alloc.alloc_hole(ME, pfn + 3) == NIL


@pytest.mark.parametrize(
    ("limit", "order", "backed"),
    [(64, 0, True), (64, 6, True), (20, 0, True), (15, 0, True), (3, 0, True), (1, 0, True), (0, 0, False), (20, 5, False)],
)
def test_no_more_pages_than_the_limit_get_memory(segment, limit, order, backed):
    emptied(segment)
    segment.page_alloc.set_limit(ME, limit)
    found = segment.page_alloc.back(ME, order)
    assert found == segment.free() and found <= limit
    assert bool(found) is backed
