"""No single damaged word makes the core write metadata over user data, or allocate a page that is in use."""

import pytest

import foliocache
from foliocache.mm import layout
from foliocache.mm import reap as core

PAGE = 4096
OBJECTS = 120
FULL = b"\xff" * PAGE  # in place of an object's link: a free one


def content(number):
    return FULL if number % 2 else bytes([number]) * PAGE


@pytest.fixture
def pool(pool_name):
    pool = foliocache.open(pool_name, size="1MiB", max_size="1MiB", page_size=PAGE, clients=4)
    read_all(pool)
    return pool


def mapping(pool, number):
    return pool.mapping(f"{number}", PAGE, "1", lambda offset, length: content(number)[offset : offset + length])


def read_all(pool):
    for number in range(OBJECTS):
        assert mapping(pool, number).read_bytes(0, PAGE) == content(number)


def churn(pool):
    """Fill and evict other folios, of one page and of several."""
    for number in range(200):
        pool.mapping(f"other {number}", PAGE, "1", lambda offset, length: b"o" * length).read_bytes(0, PAGE)
    large = pool.mapping("large", 200 * PAGE, "1", lambda offset, length: b"l" * length)
    assert set(large.read_bytes(0, large.size)) == {ord("l")}


def pfn_of(lease):
    return int(repr(lease).split("pfn ")[1].rstrip(">"))


def descriptor(pool, pfn):
    segment = pool._attachment.segment
    return segment.memory, segment.geometry["memmap"] + pfn * layout.FOLIO_SIZE


def field(pool, pfn, offset):
    memory, at = descriptor(pool, pfn)
    return memory.peek32(at + offset)


def damage(pool, pfn, field, value):
    memory, at = descriptor(pool, pfn)
    memory.poke32(at + field, value)


def pages_of(pool, kind):
    memory, at = descriptor(pool, 0)
    pages = pool._attachment.segment.geometry["npages"]
    return [
        pfn for pfn in range(pages) if memory.peek32(at + pfn * layout.FOLIO_SIZE + layout.F_TYPE) & layout.TYPE_MASK == kind
    ]


WORDS = {
    "a page of nodes": (layout.F_TYPE, layout.TYPE_NODE),
    "a page of records": (layout.F_TYPE, layout.TYPE_INODE),
    "a window's table": (layout.F_TYPE, layout.TYPE_TABLE),
    "nothing": (layout.F_TYPE, layout.TYPE_NONE),
    "a folio over others": (layout.F_TYPE, layout.TYPE_FILE | 3 << layout.ORDER_SHIFT),
    "free": (layout.F_BUDDY, 1),
    "the head of a free block over others": (layout.F_BUDDY, 4),
    "freed in quarantine": (layout.F_BUDDY, layout.BUDDY_PARKED),
    "longer than it is": (layout.F_LENGTH, 8 * PAGE),
}


@pytest.mark.parametrize("first", ["used", "repaired"])
@pytest.mark.parametrize("what", WORDS)
def test_a_page_in_use_that_claims_to_be_something_else(pool, what, first):
    numbers = range(40, 60)
    held = [mapping(pool, number).lease(0) for number in numbers]
    damage(pool, pfn_of(held[5]), *WORDS[what])
    if first == "used":
        pool.mapping(f"{39}", PAGE, "1").invalidate()
        churn(pool)
    assert pool.repair() == []
    churn(pool)
    assert [bytes(lease) for lease in held] == [content(number) for number in numbers]
    read_all(pool)
    held.clear()
    assert pool.repair() == []
    read_all(pool)
    assert pool.audit() == []


@pytest.mark.parametrize("kind", [layout.TYPE_NODE, layout.TYPE_INODE])
@pytest.mark.parametrize("claim", [layout.TYPE_FILE, layout.TYPE_NONE, layout.TYPE_TABLE])
def test_a_page_of_objects_that_claims_to_be_something_else(pool, kind, claim):
    """It is freed and reused while trees and chains still lead to it: nothing is written through them."""
    churn(pool)
    for pfn in pages_of(pool, kind):
        damage(pool, pfn, layout.F_TYPE, claim)
    assert pool.repair() == []
    for _ in range(3):
        read_all(pool)
        churn(pool)
    assert pool.audit() == []


@pytest.mark.parametrize("kind", [layout.TYPE_NODE, layout.TYPE_INODE])
def test_a_full_page_that_claims_a_free_object(pool, kind):
    """Nothing trips over it until one of its objects is freed, which takes the page off a list that it is not on."""
    high = [pool.mapping(f"high {n}", 1000 * PAGE, "1", lambda offset, length: bytes(length)) for n in range(12)]
    for found in high:
        found.read_bytes(0, PAGE)
    full = [page for page in pages_of(pool, kind) if field(pool, page, layout.F_FREE) == 0]
    assert full
    for page in full:
        damage(pool, page, layout.F_FREE, 1 << 25)
    assert {(found.check, found.where) for found in pool.audit()} >= {("slab", f"pfn {page}") for page in full}
    assert pool.repair() == []
    for cached in (*high, *(mapping(pool, number) for number in range(OBJECTS))):
        cached.invalidate()
    assert pool.audit() == []


def test_a_link_that_leads_nowhere_from_the_back_is_found(pool):
    damage(pool, pfn_of(mapping(pool, 3).lease(0)), layout.F_PREV, layout.NIL)
    assert {found.check for found in pool.audit()} == {"list"}
    assert pool.repair() == []


def test_a_queue_that_there_is_not(pool):
    lease = mapping(pool, 3).lease(0)
    damage(pool, pfn_of(lease), layout.F_QUEUE, 9)
    assert pool.repair() == []
    read_all(pool)
    assert pool.audit() == []


def test_records_whose_page_was_taken_from_them_are_made_anew(pool):
    (page, *_) = pages_of(pool, layout.TYPE_INODE)
    damage(pool, page, layout.F_TYPE, layout.TYPE_FILE)
    read_all(pool)
    assert pool.repair() == []
    read_all(pool)
    assert all(mapping(pool, number).is_cached(0) for number in range(OBJECTS))


def records(pool):
    """Return the offsets of the records in use."""
    segment = pool._attachment.segment
    for page in pages_of(pool, layout.TYPE_INODE):
        for place in range(PAGE // layout.MAPPING_SIZE):
            at = segment.geometry["data"] + page * PAGE + place * layout.MAPPING_SIZE
            if not segment.memory.peek32(at + layout.OBJECT_NEXT) & layout.OBJECT_FREE:
                yield at


@pytest.mark.parametrize("first", ["used", "repaired"])
def test_records_that_have_changed_names(pool, first):
    """An object's record is found for another object: the folios' identity shows the difference."""
    memory = pool._attachment.segment.memory
    one, other = list(records(pool))[30:32]
    for field in (layout.MAPPING_DIGEST_LO, layout.MAPPING_DIGEST_HI):
        a, b = memory.peek64(one + field), memory.peek64(other + field)
        memory.poke64(one + field, b)
        memory.poke64(other + field, a)
    if first == "repaired":
        pool._attachment.repair()
        core.repair(pool._attachment.segment.mem, pool._attachment.number, layout.REPAIR_TABLE)
    read_all(pool)
    assert pool.repair() == []
    read_all(pool)
    assert pool.audit() == []


@pytest.mark.parametrize("length", [1, PAGE + 1, 2 * PAGE - 1, 2 * PAGE + 1, 0xFFFFFFFF])
def test_a_length_that_its_span_contradicts(pool_name, length):
    """Whatever a folio of two units says of its length, a read of both has all bytes of both."""
    wanted = bytes([1]) * PAGE + bytes([2]) * PAGE
    pool = foliocache.open(pool_name, size="1MiB", max_size="1MiB", page_size=PAGE, clients=4)
    two = pool.mapping("two", 2 * PAGE, "1", lambda offset, length: wanted[offset : offset + length])
    assert two.read_bytes(0, 2 * PAGE) == wanted
    with two.lease(0) as lease:
        pfn = pfn_of(lease)
    memory, at = descriptor(pool, pfn)
    assert memory.peek32(at + layout.F_LENGTH) == 2 * PAGE, "it is one folio"
    damage(pool, pfn, layout.F_LENGTH, length)
    buffer = bytearray(2 * PAGE)
    assert two.readinto(0, buffer) == 2 * PAGE and buffer == wanted
    assert two.read(10, 2 * PAGE - 20) == wanted[10:-10] and two.read_bytes(PAGE - 5, 10) == wanted[PAGE - 5 : PAGE + 5]


def test_a_limit_of_nothing_has_statistics(pool):
    pool._attachment.segment.memory.poke32(layout.PAGES_LIMIT, 0)
    assert pool.stat().pool_bytes == 0 < pool.stat().metadata_ratio
