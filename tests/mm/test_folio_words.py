"""folio, page_type and ghost: each word of a descriptor, orders and types at their bounds, folios that cannot be destroyed."""

import pytest
from calls import Calls
from world import ME, Segment, interpreted


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


def test_no_word_of_the_former_life_is_left(segment):
    layout, pfn = segment.layout, segment.page_alloc.alloc(ME, 2)
    at = segment.at(pfn)
    kept = dict.fromkeys((layout.F_REF, layout.F_QUEUE), 2122219134)
    for offset in range(0, layout.FOLIO_SIZE, 4):
        segment.write(at + offset, 0x7E7E7E7E)
    segment.folio.prepare(pfn, layout.TYPE_FILE, 2, 1, 5 << 40, 6 << 40, 7)
    expected = {layout.F_LENGTH: 7, layout.F_USED: 0, layout.F_FREE: 0, layout.F_ATTACHED: 0, layout.F_FLAGS: 0} | kept
    assert {offset: segment.read(at + offset) for offset in expected} == expected
    assert (segment.read64(at + layout.F_INO), segment.read64(at + layout.F_INDEX)) == (5 << 40, 6 << 40)
    assert (segment.page_type.type(pfn), segment.page_type.order(pfn), segment.page_type.span(pfn)) == (layout.TYPE_FILE, 2, 1)


# Folios that cannot be destroyed.


@pytest.mark.parametrize("done", [True, False])
def test_a_folio_that_is_not_destroyed_stays_named(segment, calls, done):
    pfn, before = segment.new_file(), segment.client.intents(ME)
    calls.replace("folio.destroy", [done])
    segment.client.announce(ME, pfn)
    assert segment.folio.put(ME, pfn) is done
    assert segment.client.intents(ME) == before + (not done)


@pytest.mark.parametrize("done", [True, False])
def test_a_pin_that_is_not_dropped_becomes_an_intent(segment, calls, done):
    pfn = segment.page_alloc.alloc(ME, 0)
    segment.page_ref.init(segment.at(pfn), 1)
    segment.client.announce(ME, pfn)
    segment.client.hold(ME, 3, pfn)
    before, word = segment.client.intents(ME), segment.client.pin(ME, 3)
    calls.replace("folio.destroy", [done])
    assert segment.folio.release(ME, 3, pfn) is done
    assert segment.read(word) == (0 if done else pfn | segment.layout.PIN_INTENT)
    assert segment.client.intents(ME) <= before and segment.client.op_seq(ME) % 2 == 0


@pytest.mark.parametrize("removed", [True, False])
def test_a_folio_stays_as_it_is_while_it_is_on_its_queue(segment, calls, removed):
    pfn = segment.new_file()
    calls.replace("lru.remove", [removed])
    calls.replace("page_alloc.free", [True])
    assert segment.folio.destroy(ME, pfn) is removed
    assert calls.names == ["lru.remove", "page_alloc.free"][: 1 + removed]
    assert segment.page_type.type(pfn) == (segment.layout.TYPE_NONE if removed else segment.layout.TYPE_FILE)


# Types.


@pytest.mark.parametrize(("order", "read"), [(9, 9), (10, 10), (11, 0), (12, 0), (63, 0)])
def test_the_largest_order(order, read):
    segment = Segment(interpreted(), 4096)
    for kind in ("TYPE_FILE", "TYPE_TABLE", "TYPE_NODE", "TYPE_INODE", "TYPE_NAME"):
        segment.set_field(0, segment.layout.F_TYPE, getattr(segment.layout, kind) | order << segment.layout.ORDER_SHIFT)
        single = kind in ("TYPE_NODE", "TYPE_INODE", "TYPE_NAME")
        assert segment.page_type.order(0) == (0 if single else read)


def test_a_page_with_an_ino_is_not_private(segment):
    segment.page_type.set(5, segment.layout.TYPE_NODE, 0, 0)
    assert segment.page_type.is_private(5, segment.layout.TYPE_NODE)
    assert not segment.page_type.is_private(5, segment.layout.TYPE_INODE)
    segment.write64(segment.at(5) + segment.layout.F_INO, 1 << 40)
    assert not segment.page_type.is_private(5, segment.layout.TYPE_NODE)


@pytest.mark.parametrize(
    ("length", "order"),
    [
        (0, 10), (1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (3 << 12, 2), (1 << 21, 9), (1 + (1 << 21), 10),
        (1 << 22, 10), (0xFFFFFFFF, 10),
    ],
)  # fmt: skip
def test_the_order_that_a_length_needs(segment, length, order):
    segment.set_field(3, segment.layout.F_LENGTH, length)
    assert segment.page_type.limit(3) == order


# Ghosts.


def test_an_empty_word_is_no_ghost(segment, monkeypatch):
    """Not even for one whose fingerprint is 0."""
    monkeypatch.setattr(segment.world.ghost, "_print", lambda mixed: 0)
    assert segment.ghost.take(1, 2, 0, 5) == 0


@pytest.mark.parametrize("ages", [[0, 1, 0], [0, 0, 1], [1, 0, 0], [3, 5, 4]])
def test_the_oldest_ghost_makes_room(segment, ages):
    start, now = segment.shape["ghosts"], 100
    ages = ages + [0] * (segment.layout.GHOST_WAYS - len(ages))
    for n, age in enumerate(ages):
        segment.write(start + 4 * n, 1 << segment.layout.GHOST_PRINT_SHIFT | (now - age) << segment.layout.GHOST_TICK_SHIFT | 1)
    assert segment.world.ghost._oldest(segment.mem, start, now) == start + 4 * ages.index(max(ages))
