"""pagetable: entries that own references, and getting pages through them."""

import pytest
from calls import Calls
from world import ME, PAGE, Segment, interpreted

NIL, FROZEN, WORDS = 0xFFFFFFFF, 0x80000000, PAGE // 4


@pytest.fixture
def table(segment):
    return segment.pagetable.create(ME, 8)


def entry(segment, table, number):
    return segment.read(segment.shape["data"] + table * PAGE + number * 4)


def mapped(segment, table, *numbers):
    """Map a new folio, with one reference for each of the entries. Return its pfn."""
    pfn = segment.new_file()
    for _ in numbers[1:]:
        segment.page_ref.get(segment.at(pfn))
    assert all(segment.pagetable.map(table, number, pfn) for number in numbers)
    return pfn


def gup_fast(segment, table, number):
    return segment.pagetable.gup_fast(ME, table, number)


@pytest.mark.parametrize(("entries", "order"), [(0, 0), (1, 0), (WORDS, 0), (WORDS + 1, 1), (16 * WORDS, 4)])
def test_create(segment, entries, order):
    segment.buffer[segment.shape["data"] :] = b"\xff" * (64 * PAGE)
    table = segment.pagetable.create(ME, entries)
    assert segment.page_type.order(table) == order
    assert segment.count(table) == 1
    assert {entry(segment, table, number) for number in range(WORDS << order)} == {0}
    assert segment.findings() == []
    segment.pagetable.clear(ME, table)
    segment.folio.put(ME, table)
    assert segment.free() == 64


def test_create_beyond_the_largest_folio_or_the_pool(segment):
    assert segment.pagetable.create(ME, (WORDS << segment.layout.MAX_ORDER) + 1) == NIL
    assert segment.pagetable.create(ME, 64 * WORDS + 1) == NIL
    assert segment.free() == 64


def test_create_of_the_largest_folio(segments, monkeypatch):
    """It asks for that, and not for more."""
    segment = segments()
    largest = WORDS << segment.layout.MAX_ORDER
    if segment.world.compiled:
        assert segment.pagetable.create(ME, largest) == NIL
        return
    asked = []
    monkeypatch.setattr(segment.world.vmscan, "alloc_folio", lambda mem, me, order: asked.append(order) or NIL)
    assert segment.pagetable.create(ME, largest) == segment.pagetable.create(ME, largest + 1) == NIL
    assert asked == [segment.layout.MAX_ORDER]


def test_create_fills_in_the_folio(segment):
    table = segment.pagetable.create(ME, WORDS + 1)
    assert segment.field(table, segment.layout.F_LENGTH) == 2 * PAGE
    assert segment.page_type.is_private(table, segment.layout.TYPE_TABLE) and segment.page_type.span(table) == 0
    assert segment.read64(segment.at(table) + segment.layout.F_INDEX) == 0


def test_maps_looks_at_all_entries(segment, table):
    pfn = mapped(segment, table, WORDS - 1)
    assert segment.pagetable.maps(table, pfn) and not segment.pagetable.maps(table, table)


def test_entries_are_all_that_a_table_names(segment, table):
    pfns = [mapped(segment, table, number) for number in (0, 7, WORDS - 1)]
    assert segment.pagetable.entries(table) == pfns
    assert all(segment.pagetable.maps(table, pfn) for pfn in pfns)


def test_a_table_without_memory_names_nothing(segment, table):
    pfn = mapped(segment, table, 0)
    segment.backing.unmark(table & ~15, 4)  # a chunk
    assert segment.pagetable.entries(table) == [] and not segment.pagetable.maps(table, pfn)


def test_what_is_no_table_is_not_cleared(segment):
    """Its type is damaged."""
    pfn = segment.new_file()
    segment.set_content(pfn, b"\x04\0\0\0" * 8)
    assert segment.pagetable.clear(ME, pfn)
    assert segment.content(pfn) == b"\x04\0\0\0" * 2


def test_create_evicts_the_cold_and_is_not_evicted(segment):
    ino = segment.open()
    segment.cache(ino, range(62))
    table = segment.pagetable.create(ME, 1)
    assert table != NIL
    segment.vmscan.shrink(ME, 100)
    assert segment.vmscan.alloc_folio(ME, 6) == NIL
    assert segment.count(table) == 1


def test_map_takes_the_reference_over(segment, table):
    pfn = mapped(segment, table, 3)
    assert segment.count(pfn) == 1
    assert gup_fast(segment, table, 3) == pfn
    assert segment.count(pfn) == 2


def test_an_entry_in_use_is_not_overwritten(segment, table):
    pfn, other = mapped(segment, table, 3), segment.new_file()
    assert not segment.pagetable.map(table, 3, other)
    assert gup_fast(segment, table, 3) == pfn
    assert segment.count(other) == 1


def test_unmap_drops_the_reference(segment, table):
    pfn = mapped(segment, table, 3, 4)
    assert segment.pagetable.unmap(ME, table, 3)
    assert (segment.count(pfn), entry(segment, table, 3)) == (1, 0)
    assert segment.pagetable.unmap(ME, table, 3)
    assert segment.count(pfn) == 1
    assert segment.pagetable.unmap(ME, table, 4)
    assert segment.count(pfn) == FROZEN
    assert segment.free() == 63


def test_gup_fast_of_an_empty_entry(segment, table):
    assert gup_fast(segment, table, 0) == NIL


@pytest.mark.parametrize("garbage", [1, 3, (64 + 1) << 1, NIL, 0xFFFFFFFE])
def test_a_damaged_entry_is_empty(segment, table, garbage):
    segment.write(segment.shape["data"] + table * PAGE, garbage)
    assert gup_fast(segment, table, 0) == NIL
    assert segment.pagetable.unmap(ME, table, 0)
    assert segment.findings() == []


def test_gup_fast_of_a_frozen_folio(segment, table):
    pfn = mapped(segment, table, 0)
    assert segment.page_ref.freeze(segment.at(pfn), 1)
    assert gup_fast(segment, table, 0) == NIL
    assert segment.count(pfn) == FROZEN


def test_gup_fast_of_a_saturated_folio(segment, table):
    pfn = mapped(segment, table, 0)
    segment.set_field(pfn, segment.layout.F_REF, segment.layout.REF_MAX)
    assert gup_fast(segment, table, 0) == NIL
    assert segment.count(pfn) == segment.layout.REF_MAX


def test_gup_fast_looks_again(segments, between):
    """The entry is changed to another folio between the first load and the get: gup_fast returns the other folio."""
    segment = segments()
    table = segment.pagetable.create(ME, 8)
    old, new = mapped(segment, table, 0), segment.new_file()

    def remap():
        segment.pagetable.unmap(ME, table, 0)
        segment.pagetable.map(table, 0, new)

    if segment.world.compiled:
        remap()
        assert gup_fast(segment, table, 0) == new
    else:
        with between(segment, "fetch_add_acquire", remap):
            assert gup_fast(segment, table, 0) == new
    assert (segment.count(old), segment.count(new)) == (FROZEN, 2)
    assert segment.findings() == []


def test_gup_fast_puts_a_folio_that_it_found_by_the_old_entry(segments, between):
    """The old folio lives on elsewhere, so the get succeeds; but the entry names another folio by then."""
    segment = segments()
    table = segment.pagetable.create(ME, 8)
    old = mapped(segment, table, 0, 1)

    if segment.world.compiled:
        segment.pagetable.unmap(ME, table, 0)
        assert gup_fast(segment, table, 0) == NIL
    else:
        with between(segment, "fetch_add_acquire", lambda: segment.pagetable.unmap(ME, table, 0)):
            assert gup_fast(segment, table, 0) == NIL
    assert segment.count(old) == 1


def test_a_mapped_folio_is_never_evicted(segment, table):
    ino = segment.open()
    pfn = segment.add(ino, 0)
    segment.pagetable.map(table, 0, pfn)
    segment.cache(ino, range(1, 200 // 4))
    assert segment.vmscan.shrink(ME, 64) == 49
    assert segment.find(ino, 0) == pfn


def test_gup_writes_its_references_down(segment, table):
    pfns = [mapped(segment, table, number) for number in range(4)]
    pins = segment.pagetable.create(ME, 4)
    intents = segment.client.intents(ME)
    assert segment.pagetable.gup(ME, table, 1, 3, pins)
    assert segment.client.intents(ME) == intents
    assert [segment.count(pfn) for pfn in pfns] == [1, 2, 2, 2]
    assert [entry(segment, pins, number) for number in range(4)] == [(pfn + 1) << 1 for pfn in pfns[1:]] + [0]
    segment.pagetable.unpin(ME, pins, 3)
    assert [segment.count(pfn) for pfn in pfns] == [1] * 4


def test_gup_is_all_or_none(segment, table):
    pfns = [mapped(segment, table, number) for number in (0, 1)]
    pins = segment.pagetable.create(ME, 4)
    assert not segment.pagetable.gup(ME, table, 0, 3, pins)
    assert [segment.count(pfn) for pfn in pfns] == [1, 1]
    assert [entry(segment, pins, number) for number in range(4)] == [0] * 4


def test_clear_unmaps_everything(segment):
    table = segment.pagetable.create(ME, WORDS + 1)
    first, last = mapped(segment, table, 0, 7), mapped(segment, table, 2 * WORDS - 1)
    segment.page_ref.get(segment.at(last))
    segment.pagetable.clear(ME, table)
    segment.folio.put(ME, table)
    assert (segment.count(first), segment.count(last)) == (FROZEN, 1)
    assert segment.free() == 63
    assert segment.findings() == []


# In steps: what is called is replaced, so in the interpreted world only.


@pytest.fixture
def steps(monkeypatch):
    segment = Segment(interpreted())
    return segment, Calls(segment, monkeypatch)


def test_a_table_is_published_when_it_is_ready(steps):
    segment, calls = steps
    calls.replace("folio.prepare")
    calls.replace("page_ref.init")
    segment.pagetable.create(ME, 8)
    assert calls.names == ["folio.prepare", "page_ref.init"]


@pytest.mark.parametrize("cleared", [True, False])
@pytest.mark.parametrize("put", [True, False])
def test_release_in_steps(steps, cleared, put):
    """A table that cannot be dropped is named by its word again."""
    segment, calls = steps
    for name, answer in (("pagetable.clear", cleared), ("client.drop", None), ("folio.put", put), ("client.defer", True)):
        calls.replace(name, (answer,))
    assert segment.pagetable.release(ME, 3, 7) is (cleared and put)
    made = [("pagetable.clear", (ME, 7))]
    if cleared:
        made += [("client.drop", (ME, 3, 7)), ("folio.put", (ME, 7))]
        made += [] if put else [("client.defer", (ME, 3))]
    assert [(name, args) for name, _, args, _ in calls.made] == made and all(calls.in_operation)


def test_clear_ends_where_a_lock_is_refused(steps):
    segment, calls = steps
    table = segment.pagetable.create(ME, 8)
    calls.replace("pagetable.unmap", (True, False))
    assert segment.pagetable.clear(ME, table) is False
    assert [args for *_, args, _ in calls.made] == [(ME, table, 0), (ME, table, 1)]


def test_a_pin_is_written_down_before_its_intent_goes(steps):
    segment, calls = steps
    table = segment.pagetable.create(ME, 8)
    pfn = mapped(segment, table, 0)
    calls.replace("pagetable.map")
    calls.replace("client.retract")
    assert segment.pagetable.gup(ME, table, 0, 1, 9)
    assert [(name, args) for name, _, args, _ in calls.made] == [("pagetable.map", (9, 0, pfn)), ("client.retract", (ME, pfn))]


def test_who_unmaps_an_entry_second_drops_nothing(steps, between):
    segment, _ = steps
    table = segment.pagetable.create(ME, 8)
    pfn = mapped(segment, table, 0, 1)
    intents = segment.client.intents(ME)
    with between(segment, "cmpxchg_relaxed", lambda: segment.pagetable.unmap(ME, table, 0)):
        assert segment.pagetable.unmap(ME, table, 0) is True
    assert segment.count(pfn) == 1 and segment.client.intents(ME) == intents
