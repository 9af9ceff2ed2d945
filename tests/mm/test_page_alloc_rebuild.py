"""page_alloc: which marks a split and a merge set, and what a rebuild makes of damaged words; in the interpreted world."""

import pytest
from calls import Calls
from test_page_alloc_steps import FROZEN, marked
from world import ME, Segment, interpreted


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


def marks(segment, calls):
    """The list to which each mark is added that is set."""
    made, set_mark = [], segment.world.page_alloc._set_mark

    def marking(mem, pfn, mark):
        made.append((pfn, mark))
        set_mark(mem, pfn, mark)

    calls.monkeypatch.setattr(segment.world.page_alloc, "_set_mark", marking)
    return made


def a_file(segment, pfn, order, span=0):
    """Let a folio begin there, whatever there is."""
    segment.page_type.set(pfn, segment.layout.TYPE_FILE, order, span)
    segment.set_field(pfn, segment.layout.F_BUDDY, 0)
    segment.set_field(pfn, segment.layout.F_REF, 1)
    return pfn


def orders(segment, *pfns):
    return [segment.field(pfn, segment.layout.F_TYPE) >> segment.layout.ORDER_SHIFT & segment.layout.ORDER_MASK for pfn in pfns]


# Marks: at each step, those of first pages cover the pool.


def test_a_split_marks_the_upper_half_first(segment, calls):
    made = marks(segment, calls)
    assert segment.page_alloc.alloc(ME, 2) == 0
    assert made == [(32, 6), (0, 6), (16, 5), (0, 5), (8, 4), (0, 4), (4, 3), (0, 3), (0, 0)]


def test_a_merge_marks_the_whole_first(segment, calls):
    segment.page_alloc.alloc(ME, 4)
    made = marks(segment, calls)
    segment.page_alloc.free(ME, 0, 4)
    assert made == [(0, 5), (0, 6), (16, 0), (0, 7), (32, 0)]


def test_a_rebuild_merges_in_that_order(segment, calls):
    for pfn in range(64):
        segment.set_field(pfn, segment.layout.F_BUDDY, 1)
    made = marks(segment, calls)
    segment.page_alloc.rebuild()
    assert segment.free_lists() == {6: [0]} and [pfn for pfn in range(64) if marked(segment, pfn)] == [0]
    assert made[:7] == [(0, 1), (1, 1), (0, 2), (1, 0), (2, 1), (3, 1), (2, 2)]


def test_the_upper_of_two_halves_may_be_merged_soon(segment):
    for _ in range(16):
        segment.page_alloc.alloc(ME, 0)
    for pfn in (2, 3, 8, 1):
        segment.page_alloc.free(ME, pfn, 0)
    assert segment.free_lists()[0] == [8, 1]


def test_the_largest_blocks_are_not_merged():
    segment = Segment(interpreted(), 4096)
    segment.page_alloc.rebuild()
    assert segment.free_lists() == {10: [0, 1024, 2048, 3072]} and segment.free() == 4096
    segment.set_field(0, segment.layout.F_BUDDY, 12)
    segment.page_alloc.rebuild()
    assert [pfn for pfn in range(4096) if marked(segment, pfn)] == [1024, 2048, 3072]


def test_the_head_of_each_page():
    segment = Segment(interpreted(), 2100)
    assert segment.page_alloc._head_of(1) == segment.page_alloc._head_of(1023) == 0
    blocks = [(segment.page_alloc.alloc(ME, order), order) for order in (0, 2, 5, 10, 1)]
    for pfn, order in blocks:
        assert {segment.page_alloc._head_of(page) for page in range(pfn, pfn + (1 << order))} == {pfn}
    assert segment.page_alloc._head_of(2050) == 2048 and segment.page_alloc._head_of(2099) == 2098


# Damage.


def test_a_late_getter_of_a_frozen_page_is_not_forgotten(segment):
    segment.set_field(0, segment.layout.F_REF, FROZEN + 1)
    segment.set_field(9, segment.layout.F_REF, FROZEN + 2)
    segment.page_alloc.rebuild()
    assert (segment.count(0), segment.count(9)) == (FROZEN + 1, FROZEN + 2)


@pytest.mark.parametrize(
    ("folios", "found"),
    [
        ([(0, 2)], [2]), ([(4, 2)], [2]), ([(1, 1)], [0]), ([(2, 2)], [0]), ([(6, 1), (8, 3)], [1, 3]),
        ([(0, 2), (1, 0)], [0, 0]), ([(0, 2), (4, 0)], [2, 0]), ([(0, 3), (4, 0)], [2, 0]), ([(0, 3), (7, 0)], [2, 0]),
        ([(0, 3), (2, 1)], [1, 1]), ([(0, 3), (8, 3)], [3, 3]),
    ],
)  # fmt: skip
def test_an_order_is_as_large_as_it_can_be(segment, folios, found):
    pfns = [a_file(segment, pfn, order) for pfn, order in folios]
    segment.page_alloc.rebuild()
    assert orders(segment, *pfns) == found
    assert [marked(segment, pfn) for pfn in pfns] == [0] * len(pfns)


def test_an_order_that_leads_out_of_the_pool():
    segment = Segment(interpreted(), 100)
    segment.set_field(96, segment.layout.F_BUDDY, 4)
    segment.page_alloc.rebuild()
    assert segment.free() == 97 and marked(segment, 96) == 1


@pytest.mark.parametrize(
    ("mark", "left"), [(0, 0), (1, 0), (3, 0), (0x21, 0), (77, 0), ("BUDDY_QUARANTINED", None), ("BUDDY_PARKED", None)]
)
def test_the_mark_of_a_folio(segment, mark, left):
    """It is in use, whatever its mark says; a quarantine stays."""
    mark = getattr(segment.layout, mark) if isinstance(mark, str) else mark
    pfn = a_file(segment, 4, 2, 1)
    segment.set_field(pfn, segment.layout.F_BUDDY, mark)
    segment.page_alloc.rebuild()
    assert marked(segment, pfn) == (mark if left is None else left)
    assert orders(segment, pfn) == [2] and segment.page_type.span(pfn) == 1 and segment.count(pfn) == 1
    assert segment.free() == 4


def test_a_folio_has_memory(segment, calls):
    """A block in use that is no folio yet may have none."""
    pfns = [segment.page_alloc.alloc(ME, 4) for _ in range(3)]
    a_file(segment, pfns[0], 4)
    a_file(segment, pfns[1], 4)
    for pfn in pfns[:1] + pfns[2:]:
        segment.backing.unmark(pfn, 4)
    back = segment.world.backing.back
    asked = []
    calls.monkeypatch.setattr(
        segment.world.backing, "back", lambda mem, pfn, order: (asked.append((pfn, order)), back(mem, pfn, order))[1]
    )
    segment.page_alloc.rebuild()
    assert asked == [(pfns[0], 4)]
    assert [bool(segment.backing.is_marked(pfn)) for pfn in pfns] == [True, True, False]
