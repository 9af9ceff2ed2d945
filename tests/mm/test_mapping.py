"""mapping: records of cached objects, their table, and inos that are never given twice."""

import pytest
from world import ME, PAGE

NIL, OBJECT_MASK = 0xFFFFFFFF, (1 << 31) - 1


def insert(segment, ino, index, pfn):
    """Under the tree lock, as filemap does it."""
    assert segment.mapping.lock(ME, ino)
    status = segment.mapping.insert(ME, ino, index, pfn)
    segment.mapping.unlock(ino)
    return status


def remove(segment, ino, pfn):
    assert segment.mapping.lock(ME, ino)
    left = segment.mapping.remove(ME, ino, pfn)
    segment.mapping.unlock(ino)
    return left


def records(segment):
    return segment.read(segment.layout.TABLE_COUNT)


def bucket(segment, low):
    """The record numbers in a bucket's chain."""
    found, at = [], segment.shape["buckets"] + low % segment.shape["nbuckets"] * 4
    while (number := segment.read(at)) != NIL:
        found.append(number)
        at = segment.mapping.record(number) + segment.layout.MAPPING_CHAIN
    return found


def test_setup(segment):
    assert records(segment) == 0
    assert segment.mapping.lookup(ME, 1, 2) == 0
    assert segment.findings() == []


def test_open_makes_a_record_and_finds_it_again(segment):
    ino = segment.open(5)
    assert ino != 0
    assert segment.open(5) == ino == segment.mapping.lookup(ME, 5, 6)
    assert records(segment) == 1


def test_lookup_makes_nothing(segment):
    assert segment.mapping.lookup(ME, 5, 6) == 0
    assert records(segment) == 0
    assert segment.free() == 64


def test_both_halves_of_the_digest_count(segment):
    inos = {segment.mapping.open(ME, low, high, 0, 1, 0, 0, b"", 0, 0) for low in (1, 65) for high in (1, 1 << 63)}
    assert len(inos) == 4
    assert len(bucket(segment, 1)) == 4


def test_the_record_says_what_was_opened(segment):
    ino = segment.mapping.open(ME, 1 << 63, 7, 3 << 62, (1 << 52) + 1, 4, 6, b"the/keyv1", 7, 2)
    record, layout = segment.mapping.record(ino), segment.layout
    assert segment.read64(record + layout.MAPPING_DIGEST_LO) == 1 << 63
    assert segment.read64(record + layout.MAPPING_DIGEST_HI) == 7
    assert segment.read64(record + layout.MAPPING_KEY) == 3 << 62
    assert segment.read64(record + layout.MAPPING_OBJECT_SIZE) == (1 << 52) + 1
    assert segment.read64(record + layout.MAPPING_INO) == ino
    numbers = {"MAPPING_HEAD": 0, "MAPPING_FOLIOS": 0, "MAPPING_HEIGHT": 6, "MAPPING_UNIT_ORDER": 4, "MAPPING_KEY_LENGTH": 7,
               "MAPPING_VERSION_LENGTH": 2, "MAPPING_CHAIN": NIL}  # fmt: skip
    assert {name: segment.read(record + getattr(layout, name)) for name in numbers} == numbers
    assert bytes(segment.buffer[record + layout.MAPPING_TEXT :][:10]) == b"the/keyv1\0"
    assert segment.mapping.head(ino) == record + layout.MAPPING_HEAD


@pytest.mark.parametrize("gone", range(3))
def test_a_chain_without_one_of_its_records(segment, gone):
    size = segment.shape["nbuckets"]
    keys = [9, 9 + size, 9 + 5 * size]
    inos = [segment.open(key) for key in keys]
    segment.mapping.release(ME, inos[gone])
    assert len(bucket(segment, 9)) == 2
    for key, ino in zip(keys, inos, strict=True):
        assert segment.mapping.lookup(ME, key, key + 1) == (0 if ino == inos[gone] else ino)
    for ino in inos:
        segment.mapping.release(ME, ino)
    assert (records(segment), segment.available()) == (0, 64)


def test_an_ino_is_never_given_twice(segment):
    seen = set()
    for _ in range(50):
        ino = segment.open(1)
        assert ino not in seen
        seen.add(ino)
        segment.mapping.release(ME, ino)
    assert len({ino & OBJECT_MASK for ino in seen}) == 1  # although the record's place is the same


def test_lock_and_unlock(segment):
    ino = segment.open()
    assert segment.mapping.lock(ME, ino)
    words = range(segment.layout.TREE_LOCK, segment.layout.HEADER_SIZE, segment.layout.LINE)
    assert [segment.robust_lock.owner(word) for word in words if segment.read(word)] == [ME]
    segment.mapping.unlock(ino)
    assert all_unlocked(segment)


def test_tree_locks_are_spread(segment):
    """Objects in a row do not all share a few of the locks."""
    taken = set()
    for key in range(64):
        ino = segment.open(key)
        segment.mapping.lock(ME, ino)
        taken |= {word for word in range(segment.layout.TREE_LOCK, segment.layout.HEADER_SIZE, 64) if segment.read(word)}
        segment.mapping.unlock(ino)
    assert len(taken) > 20


def test_find_key_in_a_table_of_many_batches(segments):
    segment = segments(4096)
    assert segment.shape["nbuckets"] > 2 * segment.layout.BUCKETS_BATCH
    inos = {key: segment.mapping.open(ME, key * 37, key, key, 8, 0, 0, b"key", 3, 0) for key in range(1, 40)}
    for key, ino in inos.items():
        assert segment.mapping.find_key(ME, key) == ino
    assert segment.mapping.find_key(ME, 40) == 0


def test_find_key_finds_every_version(segment):
    inos = {segment.open(key) for key in (3, 13, 23)}
    other = segment.open(4)
    assert segment.mapping.find_key(ME, 5) == 0
    assert segment.mapping.find_key(ME, 4) == other
    while ino := segment.mapping.find_key(ME, 3):
        inos.remove(ino)
        segment.mapping.release(ME, ino)
    assert inos == set()
    assert segment.mapping.lookup(ME, 4, 5) == other
    assert all_unlocked(segment)


def all_unlocked(segment):
    layout = segment.layout
    locks = [layout.ALLOC_LOCK, layout.LRU_LOCK, layout.TABLE_LOCK, layout.SLAB_LOCK, layout.SLAB_LOCK + layout.SLAB_STRIDE]
    locks += range(layout.TREE_LOCK, layout.HEADER_SIZE, layout.LINE)
    return not any(segment.read(word) for word in locks)


def test_a_dead_ino_cannot_be_locked(segment):
    """Its page has other records; then none; then it is free; then a file's; then a record is in the same place again."""
    keepers = [segment.open(key) for key in range(100, 124)]  # three pages, emptied before this one
    dead = segment.open(1)
    other = segment.open(2)
    for keeper in keepers:
        segment.mapping.release(ME, keeper)
    segment.mapping.release(ME, dead)
    assert not segment.mapping.lock(ME, dead)  # the page has other records
    segment.mapping.release(ME, other)
    assert not segment.mapping.lock(ME, dead)  # the page is empty
    pfn = segment.slab.pfn_of(dead & OBJECT_MASK)
    segment.give_back_empty_pages()
    assert not segment.mapping.lock(ME, dead)  # the page is free
    while segment.new_file() != pfn:
        pass
    segment.write64(segment.mapping.record(dead) + segment.layout.MAPPING_INO, dead)
    assert not segment.mapping.lock(ME, dead)  # the page is a file's, with the very bytes
    assert segment.count(pfn) == 1
    segment.folio.put(ME, pfn)
    others = [segment.open(key) for key in range(2, 80)]
    again = next(ino for ino in others if ino & OBJECT_MASK == dead & OBJECT_MASK)
    assert not segment.mapping.lock(ME, dead)
    assert segment.mapping.lock(ME, again)
    segment.mapping.unlock(again)
    assert all_unlocked(segment)


@pytest.mark.parametrize("ino", [0, OBJECT_MASK, 2 << 31, (1 << 63) | OBJECT_MASK, 64 << 4, 15])
def test_numbers_that_are_no_inos(segment, ino):
    segment.open()
    assert not segment.mapping.lock(ME, ino)
    segment.mapping.release(ME, ino)
    assert all_unlocked(segment)
    assert records(segment) == 1


def test_lock_leaves_no_reference_on_the_records_page(segment):
    ino = segment.open()
    pfn = segment.slab.pfn_of(ino & OBJECT_MASK)
    for wanted in (ino, ino + (1 << 31)):
        if segment.mapping.lock(ME, wanted):
            segment.mapping.unlock(wanted)
        assert segment.count(pfn) == 1


def test_lock_takes_no_reference_on_the_records_page(segment):
    """The page is type-stable within an operation: its count is not touched, however large it is."""
    ino = segment.open()
    pfn = segment.slab.pfn_of(ino & OBJECT_MASK)
    segment.set_field(pfn, segment.layout.F_REF, segment.layout.REF_MAX)
    assert segment.mapping.lock(ME, ino)
    assert segment.count(pfn) == segment.layout.REF_MAX
    segment.mapping.unlock(ino)
    assert all_unlocked(segment)


def test_insert_find_remove(segment):
    ino = segment.open()
    pfn = segment.new_file(ino=ino, index=40)
    assert segment.mapping.find(ino, 40) == NIL
    assert insert(segment, ino, 40, pfn) == segment.layout.XA_OK
    assert segment.mapping.find(ino, 40) == pfn
    assert segment.mapping.folios(ino) == 1
    assert segment.field(pfn, segment.layout.F_ATTACHED) == 1
    assert segment.count(pfn) == 1
    assert remove(segment, ino, pfn) == 0
    assert segment.mapping.find(ino, 40) == NIL
    assert segment.field(pfn, segment.layout.F_ATTACHED) == 0


def test_insert_where_one_is(segment):
    ino = segment.open()
    first, second = (segment.new_file(ino=ino, index=3) for _ in range(2))
    insert(segment, ino, 3, first)
    assert insert(segment, ino, 3, second) == segment.layout.XA_EXISTS
    assert (segment.mapping.folios(ino), segment.field(second, segment.layout.F_ATTACHED)) == (1, 0)


def test_insert_without_memory_for_a_node(segment):
    ino = segment.open()
    pfn = segment.new_file(ino=ino)
    while segment.page_alloc.alloc(ME, 0) != NIL:
        pass
    assert insert(segment, ino, 0, pfn) == segment.layout.XA_NOMEM
    assert (segment.mapping.folios(ino), segment.field(pfn, segment.layout.F_ATTACHED)) == (0, 0)


def test_next_index(segment):
    ino = segment.open()
    for index in (5, 6, 63):
        insert(segment, ino, index, segment.new_file(ino=ino, index=index))
    assert [segment.mapping.next_index(ino, index, 63) for index in (0, 5, 6, 7)] == [5, 5, 6, 63]
    assert segment.mapping.next_index(ino, 7, 62) == 63


def test_release_keeps_a_record_that_has_folios(segment):
    ino = segment.open()
    pfn = segment.new_file(ino=ino)
    insert(segment, ino, 0, pfn)
    segment.mapping.release(ME, ino)
    assert segment.mapping.lookup(ME, 1, 2) == ino
    remove(segment, ino, pfn)
    segment.mapping.release(ME, ino)
    assert segment.mapping.lookup(ME, 1, 2) == 0
    segment.mapping.release(ME, ino)  # a second time: nothing
    assert records(segment) == 0


def test_the_record_goes_with_the_last_folio(segment):
    ino = segment.open()
    segment.cache(ino, range(5))
    segment.filemap.truncate(ME, ino, 63)
    assert (records(segment), segment.available()) == (0, 64)


def test_open_without_memory(segment):
    while segment.page_alloc.alloc(ME, 0) != NIL:
        pass
    assert segment.open() == 0
    assert records(segment) == 0
    assert all_unlocked(segment)


def test_more_records_than_buckets(segment):
    inos = [segment.open(key) for key in range(200)]
    assert len(set(inos)) == 200
    assert [segment.mapping.lookup(ME, key, key + 1) for key in range(200)] == inos
    for ino in inos[::2] + inos[1::2]:
        segment.mapping.release(ME, ino)
    assert segment.available() == 64
    assert segment.findings() == []


def test_damaged_chains_end(segment):
    """A circle, or a link to nowhere: looking ends, and finds nothing."""
    ino = segment.open(1)
    for link in (ino & OBJECT_MASK, 0x7FFFFFF0):
        segment.write(segment.mapping.record(ino) + segment.layout.MAPPING_CHAIN, link)
        assert segment.mapping.lookup(ME, 1 + segment.shape["nbuckets"], 0) == 0
        assert segment.mapping.find_key(ME, 9) == 0
        assert segment.mapping.lookup(ME, 1, 2) == ino
    assert all_unlocked(segment)


def test_a_damaged_height_is_cut(segment):
    ino = segment.open(1)
    segment.write(segment.mapping.record(ino) + segment.layout.MAPPING_HEIGHT, NIL)
    assert segment.mapping.find(ino, 5) == NIL
    assert segment.mapping.next_index(ino, 0, 63) == 64


@pytest.mark.parametrize(
    ("size", "order", "height", "last"),
    [(0, 0, 1, 0), (1, 0, 1, 0), (PAGE, 0, 1, 0), (PAGE + 1, 0, 1, 1), (64 * PAGE, 0, 1, 63), (64 * PAGE, 2, 1, 15),
     (9 << 40, 0, 1, 63), (65 * PAGE, 0, 2, 64), (PAGE, 0, 0, 0), (1 << 60, 77, 1, 63)],
)  # fmt: skip
def test_the_last_unit_of_an_object_is_one_that_has_a_slot(segment, size, order, height, last):
    """Whatever its damaged words say."""
    ino = segment.mapping.open(ME, 1, 2, 3, size, order, height, b"", 0, 0)
    assert segment.mapping.last_unit(ino) == last
