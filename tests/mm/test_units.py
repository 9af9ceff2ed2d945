"""Folios of several units: what fits is added, each of its slots names it, and it leaves them together."""

import pytest
from world import BYTES, ME, PAGE

NIL = 0xFFFFFFFF


def grab(segment, ino, index, span, order=0, size=BYTES):
    return segment.filemap.grab(ME, ino, index, order, span, size)


def add(segment, ino, index, span, order=0, size=BYTES):
    """Add a folio and fill it: its pfn, pinned."""
    found = grab(segment, ino, index, span, order, size)
    assert found & segment.layout.GRAB_ADDED, hex(found)
    segment.filemap.complete(ME, found & NIL)
    return found & NIL


def put(segment, pfn):
    segment.folio.put(ME, pfn)


def units(segment, pfn):
    first = segment.filemap.first_of(pfn)
    return range(first, first + (1 << segment.page_type.span(pfn)))


def slots(segment, ino, indices):
    return [segment.mapping.find(ino, index) for index in indices]


@pytest.mark.parametrize("order", range(2))
@pytest.mark.parametrize("span", range(5))
def test_each_slot_names_the_folio(segment, order, span):
    ino = segment.open(order=order)
    pfn = add(segment, ino, 21, span, order)
    assert units(segment, pfn) == range(21 >> span << span, (21 >> span << span) + (1 << span))
    assert segment.page_type.order(pfn) == order + span
    assert segment.field(pfn, segment.layout.F_LENGTH) == PAGE << order + span
    for index in units(segment, pfn):
        assert segment.find(ino, index) == pfn == grab(segment, ino, index, 0, order)
        put(segment, pfn)
        put(segment, pfn)
    around = [21 >> span << span, (21 >> span << span) + (1 << span)]
    assert slots(segment, ino, (around[0] - 1, around[1])) == [NIL, NIL]
    assert segment.mapping.folios(ino) == 1 and segment.count(pfn) == 2
    put(segment, pfn)
    assert segment.findings() == []


@pytest.mark.parametrize(("index", "added"), [(0, [0, 1, 2, 3]), (4, [4, 5]), (5, [4, 5]), (6, [6])])
def test_a_folio_ends_with_the_object(segment, index, added):
    """An object of six units and three bytes, in units of two pages."""
    ino = segment.open(folios=7, order=1)
    size = 6 * (PAGE << 1) + 3
    pfn = add(segment, ino, index, 2, 1, size)
    assert [*units(segment, pfn)] == added
    length = len(added) * PAGE << 1 if index < 6 else 3
    assert segment.field(pfn, segment.layout.F_LENGTH) == length
    assert segment.page_type.order(pfn) == (1 + segment.page_type.span(pfn) if index < 6 else 0)
    put(segment, pfn)
    assert segment.findings() == []


@pytest.mark.parametrize(("evicted", "added"), [((0, 2), (3, 0)), ((3, 0), (0, 2)), ((3, 0), (3, 0)), ((0, 2), (0, 2))])
def test_a_last_unit_that_is_not_full_is_remembered_however_it_comes_back(segment, evicted, added):
    """As a folio of its own it has fewer pages than the other units."""
    layout, size = segment.layout, 3 * (PAGE << 2) + 1
    for number, (index, span) in enumerate((evicted, added)):
        ino = segment.open(folios=4, order=2)
        pfn = add(segment, ino, index, span, 2, size)
        segment.filemap.complete(ME, pfn)
        put(segment, pfn)
        assert segment.field(pfn, layout.F_QUEUE) >> layout.HEAT_SHIFT & layout.HEAT_MAX == number
        if number == 0:
            assert segment.vmscan.shrink(ME, 1) and segment.mapping.lookup(ME, 1, 2) == 0


def test_a_last_unit_that_is_not_full_is_part_of_a_larger_folio(segment):
    ino = segment.open(folios=4, order=1)
    pfn = add(segment, ino, 0, 2, 1, 3 * (PAGE << 1) + 1)
    assert units(segment, pfn) == range(4) and segment.page_type.order(pfn) == 3
    assert segment.field(pfn, segment.layout.F_LENGTH) == 3 * (PAGE << 1) + 1
    put(segment, pfn)
    assert segment.findings() == []


@pytest.mark.parametrize(
    ("there", "index", "span", "added"),
    [(8, 0, 4, range(8)), (7, 0, 4, range(4)), (3, 0, 4, range(2)), (1, 0, 4, range(1)), (12, 15, 4, range(14, 16))],
)
def test_what_is_there_already_bounds_it(segment, there, index, span, added):
    ino = segment.open()
    other = add(segment, ino, there, 0)
    pfn = add(segment, ino, index, span)
    assert units(segment, pfn) == added
    assert segment.mapping.find(ino, there) == other and segment.mapping.folios(ino) == 2
    for each in (pfn, other):
        put(segment, each)
    assert segment.findings() == []


def test_a_single_slot_has_room_for_one(segment):
    ino = segment.open(folios=1)
    assert units(segment, add(segment, ino, 0, 4, 0, PAGE)) == range(1)


def test_less_memory_makes_it_smaller(segment):
    """Every other block of two pages is in use."""
    ino = segment.open()
    add(segment, ino, 63, 0)
    blocks = []
    while (pfn := segment.page_alloc.alloc(ME, 1)) != NIL:
        blocks.append(pfn)
    for pfn in blocks[::2]:
        segment.page_alloc.free(ME, pfn, 1)
    assert units(segment, add(segment, ino, 0, 4)) == range(2)
    assert units(segment, add(segment, ino, 3, 4)) == range(2, 4)


@pytest.mark.parametrize("withdraw", ["remove", "truncate", "evict"])
def test_it_leaves_all_slots_at_once(segment, withdraw):
    ino = segment.open()
    neighbour = add(segment, ino, 16, 0)
    pfn = add(segment, ino, 8, 3)
    if withdraw == "remove":
        segment.filemap.remove(ME, ino, pfn)
        put(segment, pfn)
    elif withdraw == "truncate":
        put(segment, pfn)
        segment.filemap.truncate(ME, ino, 9)
    else:
        assert segment.vmscan.evict(ME, pfn) == 8
    assert slots(segment, ino, range(8, 16)) == [NIL] * 8
    assert segment.mapping.find(ino, 16) == neighbour and segment.mapping.folios(ino) == 1
    put(segment, neighbour)
    assert segment.findings() == []
    segment.filemap.truncate(ME, ino, 63)
    assert segment.available() == 64


def test_one_that_is_in_use_keeps_its_slots(segment):
    ino = segment.open()
    pfn = add(segment, ino, 0, 2)
    segment.page_ref.get(segment.at(pfn))
    assert segment.vmscan.evict(ME, pfn) == 0
    assert slots(segment, ino, range(4)) == [pfn] * 4


def test_the_queues_count_its_pages(segment):
    ino = segment.open(order=1)
    put(segment, add(segment, ino, 0, 2, 1))
    assert segment.lru.cached() == 8
    assert segment.findings() == []


@pytest.mark.parametrize(("span", "again"), [(2, 0), (0, 2), (2, 2), (3, 1)])
def test_what_comes_back_in_other_pieces_is_known(segment, span, again):
    layout = segment.layout
    ino = segment.open()
    put(segment, add(segment, ino, 63, 0))
    put(segment, add(segment, ino, 5, span))
    pfn = segment.find(ino, 5)
    segment.lru.remove(ME, pfn)
    segment.set_field(pfn, layout.F_QUEUE, layout.VERDICT_LEFT << layout.VERDICT_SHIFT)  # as ``lru.isolate`` leaves it
    assert segment.vmscan.evict(ME, pfn) == 1 << span
    before = segment.read(layout.LRU_AGAIN)
    put(segment, add(segment, ino, 5, again))
    assert segment.read(layout.LRU_AGAIN) - before == 1 << min(span, again)


@pytest.mark.parametrize("damaged", range(4))
def test_a_repair_takes_one_out_that_has_lost_a_slot(segment, damaged):
    """Its reference is left, for those who find that its words contradict each other."""
    ino = segment.open()
    neighbour, pfn = add(segment, ino, 8, 0), add(segment, ino, 0, 2)
    put(segment, neighbour)
    put(segment, pfn)
    head, height = segment.mapping.head(ino), segment.world.xarray.height_for(64)
    segment.write(segment.xarray.find(head, height, damaged), 0)
    assert {found["check"] for found in segment.findings()} == {"slot", "node"}
    segment.reap.repair(ME, segment.layout.REPAIR_TREES)
    assert slots(segment, ino, range(4)) == [NIL] * 4 and segment.mapping.find(ino, 8) == neighbour
    assert segment.field(pfn, segment.layout.F_ATTACHED) == 0 and segment.count(pfn) == 1
    assert {found["where"] for found in segment.findings()} == {f"pfn {pfn}"}
    segment.lru.remove(ME, pfn)
    segment.client.announce(ME, pfn)
    put(segment, pfn)
    assert segment.findings() == []


@pytest.mark.parametrize("span", [0, 1, 3])
def test_a_span_that_is_damaged_is_found(segment, span):
    """By the slots, if they are too many or too few; by the pages and the mapping's unit in any case."""
    layout = segment.layout
    ino = segment.open()
    pfn = add(segment, ino, 8, 2)
    put(segment, pfn)
    segment.set_field(pfn, layout.F_TYPE, layout.TYPE_FILE | 2 << layout.ORDER_SHIFT | span << layout.SPAN_SHIFT)
    assert "type" in {found["check"] for found in segment.findings()}
    assert segment.world.audit.is_damaged(segment.memory, pfn)


def test_a_damaged_place_clears_nobodys_slots(segment):
    layout = segment.layout
    ino = segment.open()
    pfn, other = add(segment, ino, 0, 2), add(segment, ino, 4, 2)
    for index in (4, 1, 1 << 20):
        segment.write64(segment.at(pfn) + layout.F_INDEX, index)
        assert segment.mapping.lock(ME, ino) == layout.TREE_LOCKED
        segment.mapping.remove(ME, ino, pfn)
        segment.mapping.unlock(ino)
        assert slots(segment, ino, range(8)) == [pfn] * 4 + [other] * 4
