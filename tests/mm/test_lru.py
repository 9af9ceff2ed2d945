"""lru: the two queues, and the ghosts."""

import pytest
from world import ME

NIL, FROZEN = 0xFFFFFFFF, 0x80000000
NONE, SMALL, MAIN = 0, 1, 2


def queue(segment, number):
    """The pfns of a queue, youngest first."""
    return segment.words_on(segment.layout.LRU_LISTS + number * segment.layout.LIST_SIZE)


def added(segment, number, count=1, order=0):
    pfns = [segment.new_file(order) for _ in range(count)]
    for pfn in pfns:
        segment.lru.add(ME, pfn, number)
    return pfns


def use(segment, *pfns):
    for pfn in pfns:
        segment.flags.mark_referenced(segment.at(pfn), 0)


def is_referenced(segment, pfn):
    return bool(segment.flags.load(segment.at(pfn)) & segment.layout.PG_REFERENCED)


def isolate(segment):
    return segment.lru.isolate(ME)


def test_setup_empties_the_queues(segment):
    added(segment, SMALL, 3)
    segment.lru.setup()
    assert [segment.lru.pages(number) for number in (NONE, SMALL, MAIN)] == [0, 0, 0]
    assert queue(segment, SMALL) == queue(segment, MAIN) == []
    assert isolate(segment) == NIL


def test_add_puts_the_youngest_first(segment):
    a, b, c = added(segment, SMALL, 3)
    assert queue(segment, SMALL) == [c, b, a]
    assert segment.lru.pages(SMALL) == 3
    assert [segment.field(pfn, segment.layout.F_QUEUE) for pfn in (a, b, c)] == [SMALL] * 3


def test_a_large_folio_counts_with_its_pages(segment):
    (pfn,) = added(segment, MAIN, order=3)
    assert segment.lru.pages(MAIN) == 8
    segment.lru.remove(ME, pfn)
    assert segment.lru.pages(MAIN) == 0


def test_adding_twice_changes_nothing(segment):
    a, b = added(segment, SMALL, 2)
    segment.lru.add(ME, a, MAIN)
    assert queue(segment, SMALL) == [b, a]
    assert queue(segment, MAIN) == []
    assert segment.lru.pages(SMALL) == 2


def test_remove_from_either_queue_or_none(segment):
    (a,), (b,), c = added(segment, SMALL), added(segment, MAIN), segment.new_file()
    for pfn in (a, b, c):
        segment.lru.remove(ME, pfn)
        assert segment.field(pfn, segment.layout.F_QUEUE) == NONE
    assert queue(segment, SMALL) == queue(segment, MAIN) == []


def test_a_damaged_queue_number_counts_as_none(segment):
    pfn = segment.new_file()
    segment.set_field(pfn, segment.layout.F_QUEUE, 77)
    segment.lru.remove(ME, pfn)
    segment.lru.add(ME, pfn, SMALL)
    assert queue(segment, SMALL) == [pfn]


def test_isolate_takes_the_oldest_and_pins_it(segment):
    a, b, _ = added(segment, SMALL, 3)
    assert [isolate(segment), isolate(segment)] == [a, b]
    assert [segment.count(a), segment.count(b)] == [2, 2]
    assert segment.field(a, segment.layout.F_QUEUE) == NONE
    assert segment.lru.pages(SMALL) == 1


def test_isolate_on_empty_queues(segment):
    assert isolate(segment) == NIL
    assert segment.wait.owner(segment.layout.LRU_LOCK) == NIL


def test_a_used_folio_of_the_small_queue_moves_to_the_main_one(segment):
    a, b, c = added(segment, SMALL, 3)
    use(segment, a)
    assert isolate(segment) == b
    assert queue(segment, MAIN) == [a]
    assert queue(segment, SMALL) == [c]
    assert not is_referenced(segment, a)


def test_a_used_folio_of_the_main_queue_gets_another_round(segment):
    a, b, c = added(segment, MAIN, 3)
    use(segment, a)
    assert isolate(segment) == b
    assert queue(segment, MAIN) == [a, c]
    assert isolate(segment) == c
    assert isolate(segment) == a  # not used again


def test_the_small_queue_is_drained_to_its_share(segment):
    """One tenth of the cached pages."""
    main, small = added(segment, MAIN, 18), added(segment, SMALL, 3)
    assert isolate(segment) == small[0]  # 3 of 21
    assert isolate(segment) == small[1]  # 2 of 20
    assert isolate(segment) == main[0]  # 1 of 19


def test_the_small_queue_is_taken_when_there_is_no_other(segment):
    a, b = added(segment, SMALL, 2)
    assert [isolate(segment), isolate(segment), isolate(segment)] == [a, b, NIL]


def test_the_main_queue_is_taken_when_there_is_no_other(segment):
    a, b = added(segment, MAIN, 2)
    assert [isolate(segment), isolate(segment), isolate(segment)] == [a, b, NIL]


def test_isolate_passes_over_a_folio_that_is_being_destroyed(segment):
    a, b = added(segment, SMALL, 2)
    assert segment.page_ref.freeze(segment.at(a), 1)
    assert isolate(segment) == b
    assert segment.count(a) == FROZEN
    segment.folio.destroy(ME, a)  # finds itself on no queue
    assert queue(segment, SMALL) == queue(segment, MAIN) == []


def test_isolate_looks_at_a_bounded_number(segments):
    segment = segments(128)
    batch = segment.layout.SCAN_BATCH
    pfns = added(segment, SMALL, batch + 6)
    use(segment, *pfns)
    assert isolate(segment) == NIL
    assert [is_referenced(segment, pfn) for pfn in pfns] == [False] * batch + [True] * 6
    assert isolate(segment) == pfns[0]  # its second chance is over
    assert is_referenced(segment, pfns[-1])


def test_a_use_between_rounds_counts_again(segment):
    a, b = added(segment, MAIN, 2)
    use(segment, a, b)
    assert isolate(segment) == a
    segment.lru.add(ME, a, MAIN)
    use(segment, b)
    assert isolate(segment) == a


def test_without_a_ghost_a_folio_starts_small(segment):
    assert segment.lru.recall(5, 9) == SMALL


@pytest.mark.parametrize(("ino", "index"), [(1, 0), (0xFFFFFFFFFFFFFFFF, (1 << 40) - 1), (1 << 31 | 7, 3)])
def test_a_ghost_is_recalled_once(segment, ino, index):
    segment.lru.remember(ino, index)
    assert segment.lru.recall(ino, index + 1) == SMALL
    assert segment.lru.recall(ino, index) == MAIN
    assert segment.lru.recall(ino, index) == SMALL


def test_ghosts_stay_within_their_table(segment):
    start, count = segment.shape["ghosts"], segment.shape["nghosts"]
    before = bytes(segment.buffer)
    for index in range(1000):
        segment.lru.remember(7 << 31, index)
    after = bytes(segment.buffer)
    assert before[:start] == after[:start]
    assert before[start + count * 4 :] == after[start + count * 4 :]
    used = [segment.read(start + i * 4) for i in range(count)]
    assert all(used), "the hash leaves places unused"


def test_a_ghost_is_overwritten_by_a_later_one_in_its_place(segment):
    for index in range(1000):
        segment.lru.remember(7 << 31, index)
    recalled = [index for index in range(1000) if segment.lru.recall(7 << 31, index) == MAIN]
    assert len(recalled) == segment.shape["nghosts"]
    assert recalled[-1] == 999
