"""audit: what it finds in one step of a walk over folios, trees, objects and lists, and not in sound ones; interpreted."""

import struct

import pytest
from calls import Calls
from world import ME, Segment, interpreted

NIL, FROZEN = 0xFFFFFFFF, 0x80000000
OTHER = 2


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def steps(segment):
    """An audit that has walked nothing yet."""
    return segment.world.audit.Audit(segment.mem)


def said(segment):
    return [(finding["check"], finding["where"], finding["message"]) for finding in segment.findings()]


def a_cached(segment, order=0, folios=64):
    ino = segment.open(1, folios, order)
    return segment.cache(ino, [0], order)[0], ino


def a_leaf(segment, ino):
    """The word of the tree's head, and the offset of its root node."""
    head = segment.mapping.head(ino)
    return head, segment.xarray.node_at(segment.read(head))


# Clients.


def test_a_client_that_attaches_during_the_barrier_counts(segment, monkeypatch):
    def attach():
        segment.client.attach(OTHER)
        segment.client.op_begin(OTHER)

    Calls(segment, monkeypatch).replace("atomics.asymmetric_fence_heavy", [], attach)
    assert segment.world.audit._activities(segment.mem) is None


def test_a_slot_that_gets_memory_meanwhile(segment, monkeypatch):
    segment.write(segment.layout.SLOTS_BACKED, 2)
    calls = Calls(segment, monkeypatch)
    calls.replace("atomics.client_alive", [True] * 9, lambda: segment.write(segment.layout.SLOTS_BACKED, 4))
    assert said(segment) == [] and calls.made


def test_content_names_no_folio(segment):
    pfn, ino = a_cached(segment)
    other = segment.cache(ino, [1])[1]
    segment.hold(segment.find(ino, 0))
    segment.set_content(pfn, struct.pack("<I", other + 1 << 1))
    assert said(segment) == []


# Folios.


def test_the_type_of_a_folio_that_is_being_set_up(segment):
    pfn = segment.new_file(2, 0, 1)
    segment.page_type.set(pfn, segment.layout.TYPE_FILE, 2, 1)
    assert said(segment) == []
    segment.client.retract(ME, pfn)
    assert ("type", f"pfn {pfn}", "has 2^1 units, but begins at index 1") in said(segment)


def test_a_table_is_as_large_as_its_order_says(segment):
    layout, pfn = segment.layout, segment.hold(segment.pagetable.create(ME, 4096))
    assert said(segment) == [] and segment.census()["pages_by_state"]["table"] == 4
    segment.page_type.set(pfn, layout.TYPE_TABLE, 2, 1)
    word = layout.TYPE_TABLE | 2 << layout.ORDER_SHIFT | 1 << layout.SPAN_SHIFT
    assert said(segment) == [("type", f"pfn {pfn}", f"has page type {word:#x}, which cannot be")]
    segment.page_type.set(pfn, layout.TYPE_TABLE, 0, 0)
    assert segment.census()["pages_by_state"]["table"] == 1
    assert {(check, where) for check, where, _ in said(segment)} == {("frozen", f"pfn {pfn + n}") for n in (1, 2, 3)}


def test_a_folio_of_no_length_is_as_large_as_its_order_says(segment):
    pfn = segment.page_alloc.alloc(ME, 6)
    segment.folio.prepare(pfn, segment.layout.TYPE_FILE, 0, 0, 0, 0, 0)
    segment.page_ref.init(segment.at(pfn), 1)
    assert segment.census()["pages_by_state"]["file"] == 1


def test_a_folio_may_have_more_pages_than_its_length_needs(segment):
    pfn, _ = a_cached(segment, 2)
    segment.set_field(pfn, segment.layout.F_LENGTH, 4096)
    assert said(segment) == [] and segment.census()["pages_by_state"]["file"] == 4


def test_an_order_that_cannot_be(segment):
    pfn, _ = a_cached(segment)
    word = segment.layout.TYPE_FILE | segment.layout.MAX_ORDER + 1 << segment.layout.ORDER_SHIFT
    segment.set_field(pfn, segment.layout.F_TYPE, word)
    assert said(segment) == [("type", f"pfn {pfn}", f"has page type {word:#x}, which cannot be")]


def test_a_free_block_that_extends_beyond_the_pool(segment):
    segment.set_field(0, segment.layout.F_BUDDY, segment.layout.MAX_ORDER + 1)
    assert ("buddy", "pfn 0", "free block of order 10 is misplaced") in said(segment)
    assert segment.census()["pages_by_state"]["free"] == 1


def test_which_folios_have_to_be_on_a_queue(segment):
    layout, (pfn, _) = segment.layout, a_cached(segment)
    segment.lru.remove(ME, pfn)
    lost = ("queue", f"pfn {pfn}", "is cached and unused, but on no queue")
    assert said(segment) == [lost]
    segment.client.announce(ME, pfn)
    assert said(segment) == []
    segment.client.retract(ME, pfn)
    segment.set_field(pfn, layout.F_FLAGS, 0)
    assert said(segment) == []
    segment.set_field(pfn, layout.F_FLAGS, layout.PG_UPTODATE)
    segment.page_ref.get(segment.at(pfn))
    segment.hold(pfn)
    assert said(segment) == []
    segment.let_go(pfn)
    assert said(segment) == [lost]


def test_a_folio_in_no_mapping_is_on_no_queue(segment):
    pfn = segment.new_file()
    segment.client.retract(ME, pfn)
    segment.set_field(pfn, segment.layout.F_FLAGS, segment.layout.PG_UPTODATE)
    assert said(segment) == [("count", f"pfn {pfn}", "has 1 references, but 0 of the cache itself and 0 pins are known")]


def test_a_locked_folio_has_a_filler_or_none(segment):
    layout, (pfn, _) = segment.layout, a_cached(segment)
    segment.set_field(pfn, layout.F_FLAGS, layout.PG_LOCKED)
    segment.set_field(pfn, layout.F_OWNER, NIL)
    assert said(segment) == []
    segment.set_field(pfn, layout.F_OWNER, ME)
    assert said(segment) == [("fill", f"pfn {pfn}", f"is being filled by client {ME}, which does not hold it")]


def test_a_folio_of_another_object_is_damaged(segment):
    pfn, _ = a_cached(segment)
    assert not segment.world.audit.is_damaged(segment.memory, pfn)
    segment.write64(segment.at(pfn) + segment.layout.F_DIGEST, 99)
    assert segment.world.audit.is_damaged(segment.memory, pfn)


def test_a_folio_whose_slot_is_not_there_is_damaged(segment):
    pfn, ino = a_cached(segment)
    segment.write(segment.mapping.head(ino), 0)
    segment.write(0, pfn + 1 << 1)  # no slot, whatever the segment begins with
    assert segment.world.audit.is_damaged(segment.memory, pfn)


# Trees and objects.


def test_the_slot_of_an_index(segment, steps):
    layout, (_, ino) = segment.layout, a_cached(segment)
    head, node = a_leaf(segment, ino)
    entry = segment.read(head)
    assert steps.slot_of(ino, 3) == node + layout.NODE_SLOTS + 12
    for wrong in (0, entry & ~layout.XA_NODE, 1 << 20 | 1, entry + 2):
        segment.write(head, wrong)
        assert steps.slot_of(ino, 3) == 0, hex(wrong)
    segment.write(head, entry)
    assert steps.slot_of(ino + (1 << layout.OBJECT_BITS), 3) == 0, "a later record of that number"
    number = ino & layout.OBJECT_MASK
    segment.write(segment.slab.at(layout.SLAB_MAPPINGS, number) + layout.OBJECT_NEXT, layout.OBJECT_FREE)
    assert steps.slot_of(ino, 3) == 0


def test_what_is_an_object_in_use(segment, steps):
    layout, (pfn, ino) = segment.layout, a_cached(segment)
    cache, number = layout.SLAB_MAPPINGS, ino & layout.OBJECT_MASK
    page = segment.slab.pfn_of(number)
    assert steps.is_object(cache, number)
    assert not steps.is_object(cache, number + 1), "it is free"
    assert not steps.is_object(cache, number | 15), "the page ends before it"
    assert not steps.is_object(cache, pfn << 4) and not steps.is_object(layout.SLAB_NODES, number)
    segment.write64(segment.at(page) + layout.F_INO, ino)
    assert not steps.is_object(cache, number), "its page may be a folio's"


def test_an_entry_of_a_node_without_its_mark(segment):
    _, ino = a_cached(segment)
    head, _ = a_leaf(segment, ino)
    entry = segment.read(head) & ~segment.layout.XA_NODE
    segment.write(head, entry)
    found = ("node", f"ino {ino:#x} index 0", f"slot holds {entry:#x}, which is no node, or has a place already")
    assert [each for each in said(segment) if each[0] == "node"] == [found]


def test_a_node_in_two_places(segment):
    _, ino = a_cached(segment, folios=4096)
    _, root = a_leaf(segment, ino)
    slots = root + segment.layout.NODE_SLOTS
    entry = segment.read(slots)
    segment.write(slots + 4, entry)
    segment.write(root + segment.layout.NODE_COUNT, 2)
    assert said(segment) == [
        ("node", f"ino {ino:#x} index 64", f"slot holds {entry:#x}, which is no node, or has a place already")
    ]


def test_a_node_without_a_folio(segment):
    _, ino = a_cached(segment)
    head, node = a_leaf(segment, ino)
    for word in (node + segment.layout.NODE_SLOTS, node + segment.layout.NODE_COUNT):
        segment.write(word, 0)
    assert ("node", f"ino {ino:#x} node {segment.read(head) >> 1:#x}", "0 slots counted, 0 filled") in said(segment)


def test_slots_of_a_folio_that_is_in_no_mapping(segment):
    _, ino = a_cached(segment)
    _, node = a_leaf(segment, ino)
    for n in (5, 6):
        segment.write(node + segment.layout.NODE_SLOTS + 4 * n, 63 + 1 << 1)
    found = said(segment)
    assert ("slot", f"ino {ino:#x} index 0", "has 2 slots that name pfn 63, which has 2^0 units") in found
    assert ("slot", f"ino {ino:#x} index 5", "names pfn 63, which is not that folio") in found


def test_a_record_in_a_frozen_page(segment):
    layout, (_, ino) = segment.layout, a_cached(segment)
    number = ino & layout.OBJECT_MASK
    page = segment.slab.pfn_of(number)
    segment.set_field(page, layout.F_REF, FROZEN)
    found = said(segment)
    assert ("slab", f"mapping {number:#x}", f"lies in pfn {page}, which is not a page of objects") in found
    assert ("slab", f"pfn {page}", "is on the partial list, but has no free object") in found


@pytest.mark.parametrize(("size", "units"), [(0, 0), (1, 1), (4096, 1), (4097, 2), (8192, 2)])
def test_the_units_of_an_object(segment, size, units):
    segment.mapping.open(ME, 1, 2, 3, size, 0, 1, b"key", 3, 0)
    (found,) = segment.world.audit.mappings(segment.memory)
    assert (found["size"], found["units"]) == (size, units)


# Lists and tables.


def test_a_list_of_all_pages_that_goes_in_a_circle(segment):
    layout, pages = segment.layout, segment.pages
    place = layout.LRU_LISTS + layout.QUEUE_NEW * layout.LIST_SIZE
    for pfn in range(pages):
        segment.set_field(pfn, layout.F_NEXT, (pfn + 1) % pages)
        segment.set_field(pfn, layout.F_PREV, (pfn - 1) % pages if pfn else NIL)
    segment.write(place + layout.LIST_FIRST, 0)
    segment.write(place + layout.LIST_LAST, pages - 1)
    assert ("list", f"queue {layout.QUEUE_NEW}", "goes in a circle") in said(segment)


def test_the_lists_of_largest_blocks_and_of_holes(segment):
    layout = segment.layout
    segment.write(layout.ALLOC_LISTS + layout.MAX_ORDER * layout.LIST_SIZE, 1)
    segment.write(layout.ALLOC_HOLES, 1)
    found = said(segment)
    assert ("list", f"free list {layout.MAX_ORDER}", "does not end where its head says") in found
    assert ("free", "page_alloc", "0 hole pages listed, 1 counted, 0 marked") in found


def test_the_last_words_of_both_tables_are_read(segment):
    bucket, n = segment.shape["nbuckets"] - 1, segment.shape["nnames"] - 1
    segment.write(segment.shape["buckets"] + 4 * bucket, 5)
    segment.write(segment.shape["names"] + 4 * n, 7)
    assert said(segment) == [
        ("table", f"bucket {bucket}", "chain leads to 0x5, which is no record or is in a chain already"),
        ("name", "name 0x6", f"is in word {n} of the index, but is no object in use"),
    ]


def test_a_name_that_is_half_written_is_not_looked_at_further(segment):
    layout = segment.layout
    name = segment.names.begin(ME, 7, 7, 7, 10, 10, b"", 0)
    segment.names.answer(ME, name, 10, layout.NAME_PRESENT, 100, b"", 0)
    assert said(segment) == []
    number, words = name & layout.OBJECT_MASK, range(segment.shape["nnames"])
    segment.write(segment.slab.at(layout.SLAB_NAMES, number) + layout.NAME_SEQ, 1)
    for n in words:
        segment.write(segment.shape["names"] + 4 * n, number + 1)
    found = [each for each in said(segment) if each[0] == "name"]
    assert found == [("name", f"name {number:#x}", "contradicts itself, or is half written")] * len(words)


def test_a_full_page_on_the_partial_list(segment):
    layout = segment.layout
    page = segment.slab.pfn_of(segment.slab.alloc(ME, layout.SLAB_MAPPINGS, 0))
    while segment.field(page, layout.F_FREE):
        segment.slab.alloc(ME, layout.SLAB_MAPPINGS, 0)
    segment.pagelist.push_first(layout.SLAB_PARTIAL + layout.SLAB_MAPPINGS * layout.SLAB_STRIDE, page)
    assert ("slab", f"pfn {page}", "is on the partial list, but has no free object") in said(segment)


def test_names_of_one_digest_in_two_sets_are_two():
    """No lookup of one meets the other. A repair keeps both, so it is no finding."""
    segment = Segment(interpreted(), 256)
    first = segment.names.first_of(7)
    other = next(key for key in range(8, 99) if segment.names.first_of(key) != first)
    for key in (7, other):
        assert segment.names.begin(ME, key, 7, 7, 10, 10, b"", 0) > segment.layout.NAME_BUSY
    assert said(segment) == []
    segment.names.repair(ME)
    assert said(segment) == []
