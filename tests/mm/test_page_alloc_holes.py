"""page_alloc: pages get descriptors, and holes memory; in the interpreted world."""

import errno

import pytest
from calls import Calls
from test_page_alloc import initial_blocks, sets
from test_page_alloc_steps import NIL, OTHER, emptied, marked, owner
from world import ME, Segment, World, interpreted


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


def hole_lists(segment):
    start, size = segment.layout.ALLOC_HOLE_LISTS, segment.layout.LIST_SIZE
    lists = {order: segment.words_on(start + order * size) for order in range(segment.layout.MAX_ORDER + 1)}
    return {order: pfns for order, pfns in lists.items() if pfns}


# Memory.


@pytest.mark.parametrize(("limit", "asks"), [(64, False), (63, False), (65, True)])
def test_a_full_pool_is_not_looked_at(segment, calls, limit, asks):
    segment.write(segment.layout.PAGES_LIMIT, limit)
    calls.monkeypatch.setattr(segment.world.backing, "limit", lambda mem: limit)
    calls.replace("page_alloc._take_hole", [NIL])
    calls.replace("page_alloc._describe", [False])
    assert segment.page_alloc.back(ME, 0) == 0
    assert calls.names == ["page_alloc._take_hole", "page_alloc._describe"] * asks


def test_no_page_is_described_that_may_not_have_memory(segment, calls):
    emptied(segment)
    segment.page_alloc.set_limit(ME, 20)
    calls.replace("page_alloc._describe", [False] * 2)
    assert segment.page_alloc.back(ME, 5) == 0 and calls.made == []


@pytest.mark.parametrize("backed", [True, False])
@pytest.mark.parametrize("populates", [True, False])
def test_a_hole_is_asked_for_whole(segment, calls, backed, populates):
    """What a mapping has brought is taken away where there is too little."""
    emptied(segment)
    before = segment.client.intents(ME)
    calls.replace("backing.back", [backed])
    calls.replace("backing.empty")
    calls.monkeypatch.setattr(segment.world.atomics, "populate", lambda mem: populates)
    assert segment.page_alloc.back(ME, 0) == 16 * backed
    block = (0, 4)
    assert [(name, args) for name, _, args, _ in calls.made] == [
        ("backing.back", block), *[("backing.empty", block)] * (populates and not backed),
    ]  # fmt: skip
    assert segment.client.intents(ME) == before


def test_a_block_that_cannot_be_freed_stays_named(segment, calls):
    emptied(segment)
    before = segment.client.intents(ME)
    calls.replace("page_alloc.free", [False])
    assert segment.page_alloc.back(ME, 0) == 0 and segment.client.intents(ME) == before + 1


def test_there_is_no_hole_beyond_the_pool(segment, calls):
    calls.replace("page_alloc._head_of")
    assert [segment.page_alloc.alloc_hole(ME, pfn) for pfn in (64, 65)] == [NIL] * 2 and calls.made == []


def test_a_rest_of_a_chunk_is_not_taken():
    segment = Segment(interpreted(), 20)
    pfn = next(pfn for pfn in (segment.page_alloc.alloc(ME, 2) for _ in range(5)) if pfn == 16)
    segment.backing.unmark(16, 4)
    segment.page_alloc.free(ME, pfn, 2)
    assert hole_lists(segment) == {2: [16]} and segment.page_alloc.is_hole(17)
    assert segment.page_alloc.alloc_hole(ME, 17) == NIL


def test_lists_are_in_order_after_a_hole_was_taken(segment):
    pfns = [segment.page_alloc.alloc(ME, 4) for _ in range(4)]
    for pfn in (0, 32):
        segment.backing.unmark(pfn, 4)
        segment.page_alloc.free(ME, pfn, 4)
    assert pfns == [0, 16, 32, 48] and hole_lists(segment) == {4: [32, 0]}
    assert segment.page_alloc.alloc_hole(ME, 0) == 0
    assert hole_lists(segment) == {4: [32]} and segment.field(32, segment.layout.F_NEXT) == NIL


# Descriptors.


@pytest.mark.parametrize("pages", [1, 100, 1024, 1500, 4096])
def test_pages_are_described_a_block_at_a_time(pages):
    segment = Segment(interpreted(), pages)
    described, alloc = segment.layout.PAGES_DESCRIBED, segment.world.page_alloc
    segment.page_alloc.setup(pages)
    numbers = []
    while alloc._describe(segment.mem, ME):
        numbers.append(segment.read(described))
        assert owner(segment) == NIL
    assert numbers == [*range(1024, pages, 1024), pages]
    assert sets(hole_lists(segment)) == sets(initial_blocks(pages)) and segment.read(segment.layout.ALLOC_HOLES) == pages
    assert {segment.count(pfn) for pfn in range(pages)} == {segment.layout.FROZEN}
    for order, pfns in initial_blocks(pages).items():
        assert {alloc._largest(segment.mem, pfn) for pfn in pfns} == {order}
        assert {marked(segment, pfn) for pfn in pfns} == {order + 1 | segment.layout.BUDDY_HOLE}


def test_the_largest_block_that_may_begin_somewhere():
    segment = Segment(interpreted(), 1500)
    for pfn in range(1500):
        order = max(order for order in range(11) if pfn % (1 << order) == 0 and pfn + (1 << order) <= 1500)
        assert segment.page_alloc._largest(pfn) == order


def test_without_memory_or_the_lock_no_page_is_described():
    segment = Segment(World("impatient holes", {"LOCK_PATIENCE_NS": 0, "LOCK_SPINS": 0}))
    segment.page_alloc.setup(64)
    before = bytes(segment.buffer)
    segment.memory.full = errno.ENOSPC
    assert segment.page_alloc._describe(ME) is False and bytes(segment.buffer) == before
    segment.memory.full = 0
    segment.client.attach(OTHER)
    segment.robust_lock.lock(segment.layout.ALLOC_LOCK, OTHER)
    assert segment.page_alloc._describe(ME) is False
    assert segment.read(segment.layout.PAGES_DESCRIBED) == 0 and owner(segment) == OTHER


def test_another_client_has_described_them_meanwhile(segment, calls):
    segment.page_alloc.setup(64)
    calls.replace("backing.reserve", [True], lambda: segment.write(segment.layout.PAGES_DESCRIBED, 64))
    assert segment.page_alloc._describe(ME) is True
    assert segment.read(segment.layout.ALLOC_HOLES) == 0 and hole_lists(segment) == {}
