"""slab: objects of one size, many to a page."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import ME, Segment, compiled, interpreted

NIL, FROZEN = 0xFFFFFFFF, 0x80000000
NEXT, FREE = 4, 0x80000000
CACHES = {"nodes": 0, "mappings": 1, "names": 2}


@pytest.fixture(params=CACHES)
def cache(request, segment):
    return Cache(segment, CACHES[request.param])


class Cache:
    """One of a segment's slab caches."""

    def __init__(self, segment, number):
        self.segment = segment
        self.number = number
        self.type = (segment.layout.TYPE_NODE, segment.layout.TYPE_INODE, segment.layout.TYPE_NAME)[number]
        self.size = (segment.layout.NODE_SIZE, segment.layout.MAPPING_SIZE, segment.layout.NAME_SIZE)[number]
        self.per_page = (1 << segment.shape["page_shift"]) // self.size

    def alloc(self, owner=0):
        return self.segment.slab.alloc(ME, self.number, owner)

    def free(self, number):
        self.segment.slab.free(ME, self.number, number)

    def at(self, number):
        return self.segment.slab.at(self.number, number)

    def objects(self):
        return self.segment.slab.objects(self.number)

    def pages(self):
        return self.segment.read(self.segment.layout.SLAB_PAGES + self.number * self.segment.layout.SLAB_STRIDE)

    def next_of(self, number):
        return self.segment.slab.next_of(self.number, number)

    def walk(self):
        found = []
        while (number := self.next_of(found[-1] if found else NIL)) != NIL:
            found.append(number)
        return found

    def word(self, number, offset):
        return self.segment.read(self.at(number) + offset)

    def partial(self):
        return self.segment.words_on(self.segment.layout.SLAB_PARTIAL + self.number * self.segment.layout.SLAB_STRIDE)


def test_a_new_cache_is_empty(cache):
    assert (cache.objects(), cache.pages(), cache.partial()) == (0, 0, [])


def test_the_first_object_takes_a_page(cache):
    number = cache.alloc()
    pfn = cache.segment.slab.pfn_of(number)
    assert cache.segment.free() == 63
    assert (cache.objects(), cache.pages(), cache.partial()) == (1, 1, [pfn])
    assert cache.segment.field(pfn, cache.segment.layout.F_TYPE) == cache.type
    assert cache.segment.count(pfn) == 1


def test_objects_lie_apart_within_their_pages(cache):
    numbers = [cache.alloc() for _ in range(3 * cache.per_page)]
    assert cache.pages() == 3
    assert cache.partial() == []  # all full
    data = cache.segment.shape["data"]
    places = sorted(cache.at(number) for number in numbers)
    assert all(second - first >= cache.size for first, second in itertools.pairwise(places))
    for number in numbers:
        start = cache.at(number) - data
        assert start // 4096 == (start + cache.size - 1) // 4096 == cache.segment.slab.pfn_of(number)


def test_an_object_is_cleared_whoever_had_it_before(cache):
    number = cache.alloc()
    other = cache.alloc()
    start = cache.at(number)
    cache.segment.buffer[start : start + cache.size] = b"\xff" * cache.size
    cache.free(number)
    assert cache.alloc() == number
    assert not any(cache.segment.buffer[start : start + cache.size])
    cache.free(number)
    assert cache.alloc(1 << 40 | 7) == number
    assert cache.segment.read64(start + cache.segment.layout.OBJECT_OWNER) == 1 << 40 | 7
    assert other != number


def test_clearing_touches_no_neighbour(cache):
    first, second, third = cache.alloc(), cache.alloc(), cache.alloc()
    for number in (first, third):
        cache.segment.buffer[cache.at(number) : cache.at(number) + cache.size] = b"\xee" * cache.size
    cache.free(second)
    assert cache.alloc() == second
    for number in (first, third):
        assert cache.segment.buffer[cache.at(number) : cache.at(number) + cache.size] == b"\xee" * cache.size


def test_an_object_says_whether_it_is_in_use(cache):
    first, second = cache.alloc(), cache.alloc()
    assert [cache.word(number, NEXT) for number in (first, second)] == [0, 0]
    cache.free(first)
    assert cache.word(first, NEXT) & FREE
    assert cache.word(second, NEXT) == 0


def test_the_page_stays_when_its_last_object_goes(cache):
    numbers = [cache.alloc() for _ in range(cache.per_page)]
    assert cache.segment.empty() == 0
    for number in numbers:
        cache.free(number)
    pfn = cache.segment.slab.pfn_of(numbers[0])
    assert (cache.objects(), cache.pages(), cache.partial(), cache.segment.empty()) == (0, 1, [pfn], 1)
    assert cache.segment.count(pfn) == 1
    assert cache.segment.free() == 63
    assert cache.segment.findings() == []


def fill_pages(cache, pages):
    """Allocate objects that fill this many pages. Return a list for each page."""
    return [[cache.alloc() for _ in range(cache.per_page)] for _ in range(pages)]


def test_shrink_gives_empty_pages_back_one_by_one_and_keeps_some(cache):
    keep = cache.segment.layout.SLAB_KEEP
    for numbers in fill_pages(cache, keep + 3):
        for number in numbers:
            cache.free(number)
    for left in (keep + 2, keep + 1, keep):
        assert cache.segment.slab.shrink(ME)
        assert (cache.pages(), cache.segment.empty(), cache.segment.free()) == (left, left, 64 - left)
    assert not cache.segment.slab.shrink(ME)
    assert cache.segment.client.is_idle(ME)
    assert cache.segment.findings() == []


def test_shrink_takes_no_page_that_is_in_use(cache):
    pages = fill_pages(cache, 6)
    for numbers in pages:
        cache.free(numbers[0])
    assert not cache.segment.slab.shrink(ME)
    assert cache.pages() == 6


def test_shrink_leaves_a_pinned_page(cache):
    """A stale getter, or a reaper, may have a reference for a short time."""
    pages = fill_pages(cache, 4)
    for numbers in pages:
        for number in numbers:
            cache.free(number)
    pinned = cache.partial()[-1]
    cache.segment.page_ref.get(cache.segment.at(pinned))
    assert not cache.segment.slab.shrink(ME)
    cache.segment.client.announce(ME, pinned)
    cache.segment.folio.put(ME, pinned)
    assert cache.segment.slab.shrink(ME)
    assert cache.segment.count(pinned) == FROZEN
    assert cache.segment.client.is_idle(ME)


def test_shrink_waits_for_those_who_may_stand_in_the_page(cache):
    """While a client stays in its operation, the page stays in its slab cache."""
    segment = cache.segment
    for numbers in fill_pages(cache, 4):
        for number in numbers:
            cache.free(number)
    segment.client.attach(3)
    segment.client.op_begin(3)
    segment.client.op_begin(ME)
    assert not segment.slab.shrink(ME)
    assert (cache.pages(), segment.empty(), segment.findings()) == (4, 4, [])
    segment.client.op_end(3)
    assert segment.slab.shrink(ME)
    segment.client.op_end(ME)
    assert segment.client.is_idle(ME)


def test_next_of_finds_what_is_in_use(cache):
    numbers = [cache.alloc() for _ in range(2 * cache.per_page + 1)]
    for number in numbers[::3]:
        cache.free(number)
    assert cache.walk() == sorted(set(numbers) - set(numbers[::3]))


def test_rebuild_makes_everything_from_the_objects(cache):
    layout, segment = cache.segment.layout, cache.segment
    pages = fill_pages(cache, 4)
    for number in (*pages[0], pages[1][2], pages[3][0]):
        cache.free(number)
    counts = cache.objects(), cache.pages(), sorted(cache.partial()), segment.empty()
    base = cache.number * layout.SLAB_STRIDE
    for offset in (layout.SLAB_PARTIAL, layout.SLAB_PARTIAL + 4, layout.SLAB_PAGES, layout.SLAB_OBJECTS, layout.SLAB_EMPTY):
        segment.write(base + offset, 12345)
    for page in pages:
        for field in (layout.F_USED, layout.F_FREE, layout.F_PREV, layout.F_NEXT):
            segment.set_field(segment.slab.pfn_of(page[0]), field, 77)
    segment.slab.repair(ME, cache.number)
    assert (cache.objects(), cache.pages(), sorted(cache.partial()), segment.empty()) == counts
    got = {cache.alloc() for _ in range(cache.per_page + 2)}
    assert got == {*pages[0], pages[1][2], pages[3][0]}


def test_a_full_page_is_used_again_after_a_free(cache):
    numbers = [cache.alloc() for _ in range(2 * cache.per_page)]
    cache.free(numbers[1])
    assert cache.partial() == [cache.segment.slab.pfn_of(numbers[1])]
    assert cache.alloc() == numbers[1]
    assert cache.partial() == []


def test_out_of_memory_is_nil(cache):
    numbers = []
    while (number := cache.alloc()) != NIL:
        numbers.append(number)
    assert len(set(numbers)) == len(numbers) == 64 * cache.per_page
    assert cache.segment.free() == 0
    layout = cache.segment.layout
    assert cache.segment.robust_lock.owner(layout.SLAB_LOCK + cache.number * layout.SLAB_STRIDE) == NIL
    for number in numbers:
        cache.free(number)
    assert cache.segment.available() == 64
    cache.segment.give_back_empty_pages()
    assert cache.segment.free() == 64 - cache.segment.layout.SLAB_KEEP
    assert cache.segment.findings() == []


def test_the_two_caches_share_no_page(segment):
    nodes, mappings = Cache(segment, 0), Cache(segment, 1)
    pfns = [{segment.slab.pfn_of(cache.alloc()) for _ in range(5)} for cache in (nodes, mappings)]
    assert pfns[0].isdisjoint(pfns[1])
    assert (nodes.objects(), mappings.objects()) == (5, 5)


@pytest.mark.parametrize("garbage", [1000, 0xFFFFFFFF])
def test_a_damaged_chain_is_no_object(cache, garbage):
    number = cache.alloc()
    cache.segment.set_field(cache.segment.slab.pfn_of(number), cache.segment.layout.F_FREE, garbage)
    assert cache.alloc() == NIL
    assert cache.objects() == 1


def test_at_knows_what_cannot_be_a_number(cache):
    shift = cache.segment.shape["page_shift"] - cache.segment.layout.OBJECT_SHIFT
    assert cache.at(0) == cache.segment.shape["data"]
    assert cache.at(63 << shift) == cache.segment.shape["data"] + 63 * 4096
    assert cache.at((63 << shift) + cache.per_page - 1) != 0
    assert cache.at((63 << shift) + cache.per_page) == 0
    assert cache.at(64 << shift) == 0
    assert cache.at(NIL) == 0
    assert cache.at(0x7FFFFFFF) == 0


@pytest.mark.parametrize("make", [compiled, interpreted])
@pytest.mark.parametrize("cache", CACHES.values())
@given(number=st.integers(0, NIL))
def test_no_number_leads_out_of_the_data(make, cache, number):
    segment = _segments.setdefault(make, Segment(make(), 100))
    at = segment.slab.at(cache, number)
    size = (segment.layout.NODE_SIZE, segment.layout.MAPPING_SIZE, segment.layout.NAME_SIZE)[cache]
    assert at == 0 or segment.shape["data"] <= at <= segment.shape["size"] - size


_segments = {}


@pytest.mark.parametrize("make", [compiled, interpreted])
@given(steps=st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 30), st.booleans()), max_size=80))
def test_any_sequence_conserves_pages(make, steps):
    segment = Segment(make(), 16)
    caches, live = [Cache(segment, 0), Cache(segment, 1)], [[], []]
    for which, place, freeing in steps:
        cache, numbers = caches[which], live[which]
        if freeing and numbers:
            cache.free(numbers.pop(place % len(numbers)))
        elif not freeing and (number := cache.alloc()) != NIL:
            assert number not in numbers
            numbers.append(number)
        assert cache.objects() == len(numbers)
        assert cache.pages() - segment.read(segment.layout.SLAB_EMPTY + which * segment.layout.SLAB_STRIDE) == len(
            {segment.slab.pfn_of(number) for number in numbers}
        )
        assert cache.walk() == sorted(numbers)
        assert segment.free() == 16 - caches[0].pages() - caches[1].pages()
    for cache, numbers in zip(caches, live, strict=True):
        for number in numbers:
            cache.free(number)
    assert segment.available() == 16
    assert segment.findings() == []
