"""page_alloc: the buddy allocator."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from world import ME, Segment, compiled, interpreted, state_machine

NIL, FROZEN, ORDERS = 0xFFFFFFFF, 0x80000000, range(11)


def initial_blocks(pages):
    """The largest aligned blocks that cover so many pages, in order: {order: pfns}."""
    blocks, pfn = {}, 0
    while pfn < pages:
        order = max(o for o in ORDERS if pfn % (1 << o) == 0 and pfn + (1 << o) <= pages)
        blocks.setdefault(order, []).append(pfn)
        pfn += 1 << order
    return blocks


def sets(lists):
    return {order: set(pfns) for order, pfns in lists.items()}


def alloc(segment, order):
    return segment.page_alloc.alloc(ME, order)


def free(segment, pfn, order):
    segment.page_alloc.free(ME, pfn, order)


@pytest.mark.parametrize("pages", [1, 2, 3, 64, 100, 1023, 1024, 2048, 2500])
def test_setup_makes_the_largest_blocks(segments, pages):
    segment = segments(pages)
    assert sets(segment.free_lists()) == sets(initial_blocks(pages))
    assert segment.free() == pages


@pytest.mark.parametrize("order", ORDERS)
def test_every_order(segments, order):
    segment = segments(2048)
    before = segment.free_lists()
    pfn = alloc(segment, order)
    assert pfn % (1 << order) == 0
    assert segment.free() == 2048 - (1 << order)
    left = dict.fromkeys(range(order, 10), 1) | {10: 1}  # of two blocks of order 10, one has been split or taken
    assert {larger: len(pfns) for larger, pfns in segment.free_lists().items()} == left
    free(segment, pfn, order)
    assert sets(segment.free_lists()) == sets(before)
    assert segment.free() == 2048


def test_an_exact_block_is_taken_before_a_larger_one_is_split(segments):
    segment = segments(64 + 4)
    assert alloc(segment, 2) == 64
    assert segment.free_lists() == {6: [0]}


def test_split_halves_lie_behind_the_block(segment):
    assert alloc(segment, 0) == 0
    assert segment.free_lists() == {0: [1], 1: [2], 2: [4], 3: [8], 4: [16], 5: [32]}


def test_free_pages_are_frozen_wherever_they_have_been(segment):
    pfns = [alloc(segment, order) for order in (0, 3, 1, 0)]
    assert {segment.count(pfn) for pfn in range(64)} == {FROZEN}
    for pfn, order in zip(pfns, (0, 3, 1, 0), strict=True):
        free(segment, pfn, order)
    assert {segment.count(pfn) for pfn in range(64)} == {FROZEN}


def test_a_late_getter_of_a_free_page_is_refused(segment):
    pfn = alloc(segment, 0)
    free(segment, pfn, 0)
    assert segment.page_ref.try_get(segment.at(pfn)) == segment.layout.DEAD
    assert segment.findings() == []


def test_out_of_memory_is_nil_and_changes_nothing(segment):
    assert [alloc(segment, 5), alloc(segment, 5)] == [0, 32]
    before = bytes(segment.buffer)
    assert [alloc(segment, order) for order in ORDERS] == [NIL] * 11
    assert bytes(segment.buffer) == before


def test_no_block_large_enough_is_nil_although_pages_are_free(segment):
    blocks = [alloc(segment, 0) for _ in range(64)]
    for pfn in blocks[::2]:
        free(segment, pfn, 0)
    assert segment.free() == 32
    assert alloc(segment, 1) == NIL
    assert alloc(segment, 0) in blocks[::2]


@pytest.mark.parametrize("order", [11, 12, 31])
def test_an_order_beyond_the_largest_is_nil(segments, order):
    segment = segments(4096)
    assert alloc(segment, order) == NIL
    assert segment.free() == 4096


def test_everything_merges_back(segments):
    segment = segments(1000)
    blocks = [(alloc(segment, order), order) for order in (0, 1, 0, 4, 2, 0, 7, 3, 0, 5) for _ in range(3)]
    assert NIL not in dict(blocks)
    for pfn, order in blocks[::2] + blocks[1::2]:
        free(segment, pfn, order)
    assert sets(segment.free_lists()) == sets(initial_blocks(1000))


def test_a_buddy_beyond_the_end_is_never_merged(segments):
    segment = segments(65)
    blocks = [alloc(segment, 0) for _ in range(65)]
    for pfn in blocks:
        free(segment, pfn, 0)
    assert segment.free_lists() == {0: [64], 6: [0]}


def test_the_largest_order_is_not_merged_further(segments):
    segment = segments(2048)
    first, second = alloc(segment, 10), alloc(segment, 10)
    free(segment, first, 10)
    free(segment, second, 10)
    assert set(segment.free_lists()[10]) == {0, 1024}


def test_a_buddy_of_another_order_is_left_alone(segment):
    """Page 0 is freed while page 1 is in use and 2..3 is free as a whole: no merge."""
    pages = [alloc(segment, 0) for _ in range(4)]
    free(segment, 2, 0)
    free(segment, 3, 0)
    free(segment, 0, 0)
    assert pages == [0, 1, 2, 3]
    assert segment.free_lists()[0] == [0]
    assert segment.free_lists()[1] == [2]


def test_a_block_that_will_soon_merge_is_handed_out_last(segment):
    """buddy_merge_likely: 0 goes behind 8, because once 1 is free too, 0..3 could merge with 2..3, which is free."""
    for pfn in range(16):
        assert alloc(segment, 0) == pfn
    for pfn in (2, 3, 8, 0):
        free(segment, pfn, 0)
    assert segment.free_lists()[0] == [8, 0]
    assert alloc(segment, 0) == 8


def test_a_block_that_will_not_merge_soon_is_handed_out_first(segment):
    for _ in range(16):
        alloc(segment, 0)
    for pfn in (8, 0):
        free(segment, pfn, 0)
    assert segment.free_lists()[0] == [0, 8]


def test_a_damaged_block_is_never_handed_out(segments):
    """Page 64 of 65 pretends to head a block of 2, and list 1 leads there; list 2 leads to a page that is no block at all."""
    segment = segments(65)
    segment.set_field(64, segment.layout.F_BUDDY, 2)
    for order, pfn in ((1, 64), (2, 9)):
        segment.write(segment.layout.ALLOC_LISTS + order * segment.layout.LIST_SIZE, pfn)
    assert alloc(segment, 1) == 0
    assert alloc(segment, 2) == 4


def test_the_lock_is_released(segment):
    alloc(segment, 0)
    alloc(segment, 20)
    free(segment, 0, 0)
    assert segment.robust_lock.owner(segment.layout.ALLOC_LOCK) == NIL


class Allocator(RuleBasedStateMachine):
    """Against a model: {pfn: order} of what is handed out."""

    make = None
    blocks = Bundle("blocks")
    pages = 150

    def __init__(self):
        super().__init__()
        self.segment = Segment(self.make(), self.pages)
        self.used = {}

    def taken(self):
        return {page for pfn, order in self.used.items() for page in range(pfn, pfn + (1 << order))}

    @rule(target=blocks, order=st.integers(0, 8))
    def alloc(self, order):
        taken = self.taken()
        pfn = alloc(self.segment, order)
        size = 1 << order
        room = [start for start in range(0, self.pages - size + 1, size) if taken.isdisjoint(range(start, start + size))]
        if pfn == NIL:
            assert not room
        else:
            assert pfn in room
            self.used[pfn] = order
            self.segment.client.retract(ME, pfn)
        return pfn

    @rule(pfn=consumes(blocks))
    def free(self, pfn):
        if pfn != NIL:
            free(self.segment, pfn, self.used.pop(pfn))

    @rule(pfn=blocks)
    def late_getter(self, pfn):
        if pfn != NIL:
            assert self.segment.page_ref.try_get(self.segment.at(pfn)) == self.segment.layout.DEAD

    @invariant()
    def nothing_is_lost(self):
        taken = self.taken()
        assert self.segment.free() == self.pages - len(taken)
        # What is handed out belongs to nobody the audit knows; that is all it may complain about.
        findings = self.segment.findings()
        assert {finding["check"] for finding in findings} <= {"frozen"}
        assert {finding["where"] for finding in findings} == {f"pfn {pfn}" for pfn in self.used}

    def teardown(self):
        for pfn, order in self.used.items():
            free(self.segment, pfn, order)
        assert sets(self.segment.free_lists()) == sets(initial_blocks(self.pages))


TestAllocatorCompiled = state_machine(Allocator, compiled, 40)
TestAllocatorInterpreted = state_machine(Allocator, interpreted, 40)


@pytest.mark.parametrize("make", [compiled, interpreted])
@given(orders=st.lists(st.integers(0, 10), max_size=30), pages=st.integers(1, 1100))
@settings(max_examples=25)
def test_any_number_of_pages(make, orders, pages):
    segment = Segment(make(), pages)
    blocks = [(alloc(segment, order), order) for order in orders]
    got = [(pfn, order) for pfn, order in blocks if pfn != NIL]
    assert segment.free() == pages - sum(1 << order for _, order in got)
    for pfn, order in got:
        assert pfn + (1 << order) <= pages
        free(segment, pfn, order)
    assert sets(segment.free_lists()) == sets(initial_blocks(pages))


def test_a_repair_merges_what_its_victim_had_no_time_to(segment):
    """Killed between the mark of a freed block and its merge: the two halves must become one again."""
    pfn = alloc(segment, 0)
    assert pfn == 0
    segment.set_field(0, segment.layout.F_BUDDY, 1)  # the first step of ``_give``
    segment.page_alloc.repair(ME)
    assert segment.free() == 64
    assert segment.free_lists() == {6: [0]}
    assert alloc(segment, 6) == 0
