"""folio: setting up, dropping, and the destructor by type."""

import pytest
from world import ME

NIL, FROZEN = 0xFFFFFFFF, 0x80000000
FILE, NODE, INODE = 1, 2, 3


def test_prepare_sets_every_word_of_the_new_life(segment):
    pfn = segment.page_alloc.alloc(ME, 2)
    others = (
        "F_OWNER",
        "F_ATTACHED",
        "F_PREV",
        "F_NEXT",
        "F_BUDDY",
        "F_QUEUE",
    )  # 0, or without a meaning, in a frozen block that is on no list
    for offset in range(4, 64, 4):
        if offset not in [getattr(segment.layout, name) for name in others]:
            segment.set_field(pfn, offset, 0xDEADBEEF)
    segment.folio.prepare(pfn, FILE, 2, 1, 1 << 40 | 5, 1 << 33, 16384)
    words = {
        "F_REF": FROZEN, "F_FLAGS": 0, "F_TYPE": FILE | 2 << 8 | 1 << 16, "F_ATTACHED": 0, "F_LENGTH": 16384,
        "F_BUDDY": 0, "F_QUEUE": 0, "F_USED": 0, "F_FREE": 0,
    }  # fmt: skip
    assert {name: segment.field(pfn, getattr(segment.layout, name)) for name in words} == words
    assert segment.read64(segment.at(pfn) + segment.layout.F_INO) == 1 << 40 | 5
    assert segment.read64(segment.at(pfn) + segment.layout.F_INDEX) == 1 << 33


def test_identity(segment):
    pfn = segment.new_file(3, ino=1 << 40, index=1 << 35)
    assert segment.folio.is_identity(pfn, 1 << 40, 1 << 35)
    assert not segment.folio.is_identity(pfn, 1 << 40, (1 << 35) + 1)
    assert not segment.folio.is_identity(pfn, 0, 1 << 35)
    assert not segment.folio.is_identity(pfn, (1 << 40) + (1 << 32), 1 << 35)


@pytest.mark.parametrize("first", [0, 1, 3, 4, 5, 6, 7, 8, 1 << 35])
@pytest.mark.parametrize("span", [0, 1, 2])
def test_whose_first_unit_is_damaged_has_no_units_of_others(segment, span, first):
    """A folio of four units from 4 on: one that is found by its slots has them in their places, or is not the right one."""
    pfn = segment.new_file(2, ino=7, index=4)
    segment.page_type.set(pfn, FILE, 2, span)
    segment.write64(segment.at(pfn) + segment.layout.F_INDEX, first)
    found = [index for index in range(4, 8) if segment.folio.is_identity(pfn, 7, index)]
    aligned = first & (1 << span) - 1 == 0
    assert found == [index for index in range(first, first + (1 << span)) if 4 <= index < 8 and aligned]


def test_put_of_one_of_several(segment):
    pfn = segment.new_file()
    segment.page_ref.get(segment.at(pfn))
    segment.folio.put(ME, pfn)
    assert segment.count(pfn) == 1
    assert segment.free() == 63


@pytest.mark.parametrize("order", range(5))
def test_put_of_the_last_gives_every_page_back(segment, order):
    pfn = segment.new_file(order)
    assert segment.free() == 64 - (1 << order)
    segment.folio.put(ME, pfn)
    assert segment.free() == 64
    assert segment.page_type.type(pfn) == segment.layout.TYPE_NONE
    assert segment.findings() == []


@pytest.mark.parametrize("number", [1, 2])
def test_the_destructor_of_a_file_takes_it_off_its_queue(segment, number):
    pfn = segment.new_file(1)
    segment.set_field(pfn, segment.layout.F_ATTACHED, 1)
    segment.lru.add(ME, pfn, number)
    segment.folio.put(ME, pfn)
    assert segment.lru.pages(number) == 0
    assert segment.findings() == []


@pytest.mark.parametrize("order", range(1, 5))
def test_the_order_of_a_block_survives_its_destruction(segments, order):
    """A free page that a reaper looks at, or that is parked, still has its order."""
    segment = segments()
    pfn = segment.new_file(order)
    assert segment.page_alloc.quarantine(ME, pfn)
    segment.folio.put(ME, pfn)
    assert segment.field(pfn, segment.layout.F_TYPE) == segment.layout.TYPE_NONE | order << segment.layout.ORDER_SHIFT
    assert segment.free() == 64 - (1 << order)
    segment.page_alloc.end_quarantine(ME, pfn)
    assert segment.free_lists() == {6: [0]}


@pytest.mark.parametrize("type", [NODE, INODE])
def test_the_destructor_of_a_page_of_objects_leaves_the_queues_alone(segment, type):
    """F_QUEUE means nothing in its descriptor and is ignored."""
    pfn = segment.page_alloc.alloc(ME, 0)
    segment.folio.prepare(pfn, type, 0, 0, 0, 0, 0)
    segment.set_field(pfn, segment.layout.F_QUEUE, 1)
    segment.page_ref.init(segment.at(pfn), 1)
    before = segment.buffer[segment.layout.LRU_LOCK : segment.layout.TABLE_LOCK]
    segment.folio.put(ME, pfn)
    assert segment.buffer[segment.layout.LRU_LOCK : segment.layout.TABLE_LOCK] == before
    assert segment.free() == 64


def test_tails_are_frozen_for_the_whole_life(segment):
    pfn = segment.new_file(3)
    for tail in range(pfn + 1, pfn + 8):
        assert segment.page_ref.try_get(segment.at(tail)) == segment.layout.DEAD
        assert segment.count(tail) == FROZEN
    segment.folio.put(ME, pfn)
    assert {segment.count(page) for page in range(pfn, pfn + 8)} == {FROZEN}


def test_the_pages_are_frozen_when_they_come_back(segment):
    """From the winning cmpxchg to the next init, without a gap: also a getter in between fails."""
    pfn = segment.new_file(1)
    assert segment.page_ref.put(segment.at(pfn))
    assert segment.page_ref.try_get(segment.at(pfn)) == segment.layout.DEAD
    segment.folio.destroy(ME, pfn)
    assert segment.page_ref.try_get(segment.at(pfn)) == segment.layout.DEAD
    assert segment.findings() == []


def another_zero(segment, type, order):
    """A freeze that succeeds on another zero than the one it follows; the pfn of what it froze.

    T1 drops a small FILE folio to 0 and sleeps before its cmpxchg. T2 gets it, drops it and frees it; T3 allocates the page for
    another type and order, and drops that to 0 as well. Then T1 wakes.
    """
    pfn = segment.new_file(0)
    segment.set_field(pfn, segment.layout.F_ATTACHED, 1)
    segment.lru.add(ME, pfn, segment.layout.QUEUE_SMALL)
    at = segment.at(pfn)
    segment.write(at, 0)  # T1: the sub
    assert segment.page_ref.try_get(at) == segment.layout.GOT  # T2
    segment.folio.put(ME, pfn)
    assert segment.free() == 64
    assert segment.page_alloc.alloc(ME, order) == pfn  # T3
    segment.folio.prepare(pfn, type, order, 0, 0, 0, 0)
    segment.page_ref.init(at, 1)
    segment.write(at, 0)
    assert segment.page_ref.freeze(at, 0)  # T1: the cmpxchg
    return pfn


@pytest.mark.parametrize(("type", "order"), [(FILE, 0), (FILE, 4), (NODE, 0), (INODE, 0)])
def test_the_destructor_is_the_folios_own_not_the_callers(segment, type, order):
    pfn = another_zero(segment, type, order)
    segment.folio.destroy(ME, pfn)
    assert segment.free() == 64
    assert segment.findings() == []


def test_the_destructor_is_chosen_after_the_freeze(segments, between):
    """The same, but with the real put: the page changes its order between its sub and its cmpxchg."""
    segment = segments()
    if segment.world.compiled:
        segment.folio.destroy(ME, another_zero(segment, FILE, 2))
        assert segment.free_lists() == {6: [0]}
        return
    pfn = segment.new_file(0)
    at = segment.at(pfn)

    def new_life():
        assert segment.page_ref.try_get(at) == segment.layout.GOT
        segment.folio.put(ME, pfn)
        assert segment.page_alloc.alloc(ME, 2) == pfn
        segment.folio.prepare(pfn, FILE, 2, 0, 0, 0, 0)
        segment.page_ref.init(at, 1)
        segment.lru.add(ME, pfn, segment.layout.QUEUE_MAIN)
        segment.write(at, 0)  # its last holder is at the same point as we are

    with between(segment, "cmpxchg_acquire", new_life):
        segment.folio.put(ME, pfn)
    assert segment.free_lists() == {6: [0]}
    assert segment.lru.pages(segment.layout.QUEUE_MAIN) == 0
    assert segment.findings() == []
