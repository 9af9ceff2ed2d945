"""audit: single words of folios, free blocks, trees and queues that are wrong, and exactly what it says; interpreted."""

import pytest
from world import ME, Segment, interpreted

NIL, FROZEN = 0xFFFFFFFF, 0x80000000


@pytest.fixture
def segment():
    return Segment(interpreted())


def said(segment):
    return [(finding["check"], finding["where"], finding["message"]) for finding in segment.findings()]


def a_cached(segment, order=0, index=0):
    ino = segment.open(1, order=order)
    return segment.cache(ino, [index], order)[index], ino


# Pages.


@pytest.mark.parametrize("order", [0, 2])
def test_a_frozen_block_that_is_named_is_an_operations(segment, order):
    pfn = segment.page_alloc.alloc(ME, order)
    assert segment.client.intents(ME) > 0 and said(segment) == []
    assert segment.census()["pages_by_state"]["frozen"] == 1 << order
    segment.client.retract(ME, pfn)
    message = f"belongs to nobody: neither free nor a live folio (word {FROZEN:#x}, type 0)"
    while segment.client.intents(ME):
        segment.client.defer(ME, 0)
        segment.write(segment.client.pin(ME, 0), 0)
    assert said(segment) == [("frozen", f"pfn {pfn}", message)]


@pytest.mark.parametrize("mark", ["BUDDY_QUARANTINED", "BUDDY_PARKED"])
def test_a_quarantine_that_nobody_has_named(segment, mark):
    pfn, _ = a_cached(segment)
    mark = getattr(segment.layout, mark)
    segment.set_field(pfn, segment.layout.F_BUDDY, mark)
    found = ("quarantine", f"pfn {pfn}", f"is marked {mark:#x} for a reaper, but no client names it")
    assert found in said(segment)
    segment.client.announce(ME, pfn)
    assert found not in said(segment)


@pytest.mark.parametrize(("length", "short"), [(1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2)])
def test_a_folio_whose_order_is_too_small_reaches_as_far_as_its_length(segment, length, short):
    layout, (pfn, _) = segment.layout, a_cached(segment, 2)
    segment.set_field(pfn, layout.F_LENGTH, length)
    segment.page_type.set(pfn, layout.TYPE_FILE, 0, 0)
    pages = segment.census()["pages_by_state"]
    assert pages["file"] == 1 << short and pages["frozen"] == 3 + 1 - (1 << short)
    if short:
        assert ("type", f"pfn {pfn}", f"has order 0, but {length} bytes") in said(segment)
        segment.page_type.set(pfn + (1 << short) - 1, layout.TYPE_TABLE, 0, 0)
        assert segment.census()["pages_by_state"]["file"] == 1


def test_what_contradicts_a_type(segment):
    layout, (pfn, ino) = segment.layout, a_cached(segment, 2)
    where = f"pfn {pfn}"
    segment.page_type.set(pfn, layout.TYPE_FILE, 2, 3)
    assert ("type", where, f"has page type {1 | 2 << 8 | 3 << layout.SPAN_SHIFT:#x}, which cannot be") in said(segment)
    segment.page_type.set(pfn, layout.TYPE_FILE, 2, 1)
    segment.write64(segment.at(pfn) + layout.F_INDEX, 1)
    assert ("type", where, "has 2^1 units, but begins at index 1") in said(segment)
    segment.write64(segment.at(pfn) + layout.F_INDEX, 0)
    assert ("type", where, "has 2^2 pages, but 2^1 units of 2^2") in said(segment)
    segment.page_type.set(pfn, layout.TYPE_TABLE, 2, 0)
    assert ("type", where, f"has page type {layout.TYPE_TABLE | 2 << 8:#x}, but belongs to ino {ino:#x}") in said(segment)
    assert segment.census()["folios_by_type"]["file"] == 1, "it counts as one all the same"


@pytest.mark.parametrize(
    ("pfn", "mark", "order"), [(0, 12, 11), (1, 2, 1), (2, 3, 2), (48, 6, 5), (0, 0x20, -1), (0, 0x2C, 11)]
)
def test_a_misplaced_free_block(segment, pfn, mark, order):
    segment.set_field(pfn, segment.layout.F_BUDDY, mark)
    if pfn:
        segment.set_field(0, segment.layout.F_BUDDY, 0)
        segment.set_field(0, segment.layout.F_TYPE, 0)
    found = said(segment)
    assert ("buddy", f"pfn {pfn}", f"free block of order {order} is misplaced") in found
    assert segment.census()["pages_by_state"]["free"] == 1


def test_a_free_block_without_memory_or_on_a_queue(segment):
    segment.backing.unmark(16, 4)
    message = "is in use or free for use, but not all of its 2^6 pages are marked as backed"
    assert said(segment) == [("backing", "pfn 0", message)]
    segment.backing.back(16, 4)
    segment.set_field(0, segment.layout.F_QUEUE, 2)
    assert said(segment) == [("free", "pfn 0", "is free, but marked as on queue 2")]
    segment.set_field(0, segment.layout.F_QUEUE, 0)
    segment.set_field(63, segment.layout.F_QUEUE, 2)
    segment.page_type.set(62, segment.layout.TYPE_TABLE, 0, 0)
    assert said(segment) == [
        ("tail", "pfn 62", "lies within the block at 0, but has type 4"),
        ("tail", "pfn 63", "lies within the block at 0, but is marked as on queue 2"),
    ]


def test_a_folio_without_memory(segment):
    pfn, _ = a_cached(segment)
    segment.backing.unmark(pfn & ~15, 4)
    assert ("backing", f"pfn {pfn}", "is in use or free for use, but not all of its 2^0 pages are marked as backed") in said(
        segment
    )


# Lists and trees.


def test_a_folio_that_is_marked_as_on_a_queue(segment):
    pfn, _ = a_cached(segment)
    number = segment.field(pfn, segment.layout.F_QUEUE) & segment.layout.QUEUE_MASK
    other = 5 - number
    segment.set_field(pfn, segment.layout.F_QUEUE, other)
    assert said(segment) == [("queue", f"pfn {pfn}", f"is on queue {number}, but marked {other}")]
    segment.set_field(pfn, segment.layout.F_QUEUE, number)
    place = segment.layout.LRU_LISTS + number * segment.layout.LIST_SIZE
    for word in (place, place + 4):
        segment.write(word, NIL)
    segment.write(segment.layout.LRU_PAGES + 4 * number, 0)
    assert said(segment) == [("queue", f"pfn {pfn}", f"is marked as on queue {number}, but not on it")]


def test_lists_that_do_not_lead_back(segment):
    ino = segment.open(1)
    a, b, c = segment.cache(ino, range(3)).values()
    number = segment.field(a, segment.layout.F_QUEUE) & segment.layout.QUEUE_MASK
    name = f"queue {number}"
    segment.set_field(b, segment.layout.F_PREV, a)
    assert said(segment) == [("list", name, f"leads from {c:#x} to pfn {b}, which says that it follows {a:#x}")]
    segment.set_field(b, segment.layout.F_PREV, c)
    segment.set_field(a, segment.layout.F_NEXT, segment.pages)
    assert said(segment) == []
    segment.set_field(a, segment.layout.F_NEXT, c)
    assert ("list", name, "goes in a circle") in said(segment)


def test_a_slot_that_names_no_folio_or_no_node(segment):
    ino = segment.open(1, 64)
    segment.cache(ino, [0, 63])
    head = segment.mapping.head(ino)
    node = segment.xarray.node_at(segment.read(head))
    last = segment.world.xarray.slot_at(node, 0, 63)
    kept = segment.read(last)
    for entry in (1, segment.pages + 5 << 1):
        segment.write(last, entry)
        assert any(
            check == "slot" and where == f"ino {ino:#x} index 63" and f"{entry:#x}, which is no folio" in message
            for check, where, message in said(segment)
        )
    segment.write(last, kept)
    entry = segment.read(head)
    segment.write(head, 1 << 20 | 1)
    assert ("node", f"ino {ino:#x} index 0", f"slot holds {1 << 20 | 1:#x}, which is no node, or has a place already") in said(
        segment
    )
    segment.write(head, entry)
    assert said(segment) == []
