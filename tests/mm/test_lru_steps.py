"""lru: locks that are refused, words that are damaged, and the bounds of what is learnt, in the interpreted world."""

import itertools

import pytest
import test_lru as lru
from calls import Calls
from test_lru import BEATEN, LEFT, LOST, MAIN, NEW, NIL, NONE, SMALL, added, attached_file, evicted, isolate, queue, queue_of
from world import ME, Segment, World, interpreted

OTHER = 2


@pytest.fixture
def segment(monkeypatch):
    """At the time 0."""
    segment = Segment(interpreted())
    monkeypatch.setattr(segment.world.atomics, "now_ns", lambda: 0)
    return segment


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


@pytest.fixture(scope="module")
def impatient():
    return World("impatient queues", {"LOCK_PATIENCE_NS": 0, "LOCK_SPINS": 0})


def owner(segment):
    return segment.robust_lock.owner(segment.layout.LRU_LOCK)


def test_setup_clears_what_was_learnt(segment):
    layout = segment.layout
    for word in range(layout.LRU_FULL, layout.LRU_END, 4):
        segment.write(word, NIL)
    segment.lru.setup()
    words = {word: segment.read(word) for word in range(layout.LRU_FULL, layout.LRU_END, 4)}
    assert {word: value for word, value in words.items() if value} == {
        layout.LRU_RIVALS: layout.RIVALS_FIRST,
        layout.LRU_SMALL: layout.SMALL_FIRST,
    }


# The lock.


def test_without_the_lock_nothing_changes(impatient, monkeypatch):
    segment = Segment(impatient)
    (queued,), free = added(segment, SMALL), attached_file(segment)
    segment.client.attach(OTHER)
    segment.robust_lock.lock(segment.layout.LRU_LOCK, OTHER)
    before = bytes(segment.buffer[segment.layout.LRU_PAGES : segment.layout.LRU_END])
    assert segment.lru.insert(ME, free) is False
    assert segment.lru.add(ME, free, SMALL) is False
    assert segment.lru.remove(ME, queued) is False
    assert segment.lru.take(ME, queued, LOST) is False
    assert isolate(segment) == NIL
    monkeypatch.setattr(impatient.lru, "rebuild", lambda *args: pytest.fail("it is rebuilt"))
    segment.lru.repair(ME)
    assert bytes(segment.buffer[segment.layout.LRU_PAGES : segment.layout.LRU_END]) == before
    assert [queue_of(segment, pfn) for pfn in (queued, free)] == [SMALL, NONE] and owner(segment) == OTHER


def test_all_is_done_under_the_lock(segment, calls):
    (pfn,) = added(segment, SMALL)
    calls.replace("robust_lock.unlock", (), lambda: segment.field(pfn, segment.layout.F_QUEUE))
    segment.lru.remove(ME, pfn)
    assert [seen for *_, seen in calls.made] == [0]


def test_what_is_taken_for_eviction_is_taken_under_the_lock(segment, calls):
    (pfn,) = added(segment, SMALL)
    calls.replace("robust_lock.unlock", (), lambda: (queue_of(segment, pfn), owner(segment)))
    segment.lru.take(ME, pfn, LOST)
    assert [seen for *_, seen in calls.made] == [(NONE, ME)]


def test_a_bounded_number_of_parts_is_counted_under_the_lock(segment, calls):
    residents, (pfn,) = added(segment, MAIN, 4, heat=5), added(segment, SMALL, heat=1)
    segment.write64(segment.at(pfn) + segment.layout.F_DIGEST, 9 << 32 | 1 << segment.layout.WHOLE_SHIFT)
    calls.replace("pagelist.before", itertools.chain(itertools.repeat(pfn, 200), [NIL]))
    assert isolate(segment, True) in (pfn, *residents)
    assert len(calls.made) == 1 << segment.layout.RIVALS_MAX


def test_repair_under_the_lock(segment, calls):
    calls.replace("lru.rebuild", (), lambda: owner(segment))
    segment.lru.repair(ME)
    segment.client.attach(OTHER)
    segment.robust_lock.lock(segment.layout.LRU_LOCK, OTHER)
    segment.lru.reap(ME, ME)
    assert owner(segment) == OTHER
    segment.lru.reap(ME, OTHER)
    assert [seen for *_, seen in calls.made] == [ME, ME] and owner(segment) == NIL


def test_a_broken_lock_is_repaired_by_who_takes_it(segment, calls):
    (pfn,) = added(segment, SMALL)
    segment.robust_lock.lock(segment.layout.LRU_LOCK, ME)
    segment.robust_lock.mark_broken(segment.layout.LRU_LOCK)
    segment.robust_lock.unlock(segment.layout.LRU_LOCK)
    calls.replace("lru.rebuild")
    segment.lru.add(ME, pfn, SMALL)
    segment.lru.add(ME, pfn, SMALL)
    assert calls.names == ["lru.rebuild"]


# Damage.


@pytest.mark.parametrize("damaged", [4, 77, 0x10104])
def test_a_folio_whose_queue_is_not_known_is_put_on_small(segment, damaged):
    """And one of no queue on none."""
    pfn, other = attached_file(segment), attached_file(segment)
    segment.set_field(pfn, segment.layout.F_QUEUE, damaged)
    assert not segment.lru.is_queued(pfn)
    segment.lru.rebuild()
    assert segment.field(pfn, segment.layout.F_QUEUE) == SMALL
    assert lru.queues(segment) == [[], [pfn], []] and queue(segment, NONE) == []
    assert [segment.lru.pages(number) for number in (NONE, NEW, SMALL, MAIN)] == [0, 0, 1, 0]
    assert segment.field(other, segment.layout.F_QUEUE) == NONE


def test_a_wrong_number_of_pages_in_new(segment):
    (pfn,) = added(segment, SMALL)
    segment.write(segment.layout.LRU_PAGES + 4 * NEW, 50)
    assert isolate(segment) == pfn


def test_a_folio_that_is_being_destroyed_is_left_without_a_verdict(segment):
    (pfn,) = added(segment, SMALL)
    assert segment.page_ref.freeze(segment.at(pfn), 1)
    before = segment.client.intents(ME)
    assert isolate(segment) == NIL
    assert segment.field(pfn, segment.layout.F_QUEUE) == 0 and segment.client.intents(ME) == before


# Bounds.


@pytest.mark.parametrize(("new", "stays"), [(1, True), (3, True), (5, True), (6, False)])
def test_new_keeps_half_of_the_share(segment, new, stays):
    """The share is 10 pages."""
    pfns = added(segment, NEW, new)
    main = added(segment, MAIN, 30 - new)
    lru.set_small(segment, 342)
    assert isolate(segment) == main[0]
    assert queue(segment, NEW) == pfns[::-1][: new if stays else 5]


@pytest.mark.parametrize(("cached", "to"), [(13, NEW), (12, MAIN)])
def test_a_pool_fills_again_when_an_eighth_is_missing(segment, cached, to):
    added(segment, NEW, 4)
    added(segment, MAIN, cached - 4)
    segment.write(segment.layout.LRU_FULL, 16)
    pfn = attached_file(segment)
    segment.lru.insert(ME, pfn)
    assert queue_of(segment, pfn) == to


@pytest.mark.parametrize("span", [0, 1, 2])
def test_the_order_of_units(segment, span):
    """Of the last one, as many pages as its bytes need."""
    pfn = segment.new_file(order=4, ino=1)
    segment.page_type.set(pfn, segment.layout.TYPE_FILE, 4, span)
    unit = 1 << 16 >> span
    for length in [1 << 16, *(n * 4096 + more for n in range(1, 16) for more in (-1, 0, 1))]:
        segment.set_field(pfn, segment.layout.F_LENGTH, length)
        for n in range(1 << span):
            left = length - n * unit
            if left > 0:
                order = next(order for order in range(5) if 4096 << order >= min(left, unit))
                assert segment.lru._unit_order(pfn, n) == order, (length, n)


def test_rivals_are_learnt_from_any_count(segment):
    segment.write(segment.layout.LRU_EVICTED + 4 * LOST, 1)
    assert lru.learnt(segment)[0] == segment.layout.RIVALS_FIRST - 1


@pytest.mark.parametrize(("went", "grows"), [(496, True), (497, False)])
def test_small_grows_for_one_of_worth(segment, went, grows):
    """What is learnt from is counted first: EVENT more."""
    lru.counts(segment, back1=(LEFT, 1), back2=(BEATEN, 0))
    segment.write(segment.layout.LRU_EVICTED + 4 * LEFT, went)
    assert (lru.learnt(segment)[1] > segment.layout.SMALL_FIRST) is grows


@pytest.mark.parametrize(("clock", "decides"), [(58, False), (59, True)])
def test_when_it_is_decided_whether_to_renew_main(segment, clock, decides):
    """After three times the 20 pages that are cached."""
    layout = segment.layout
    added(segment, MAIN, 20)
    pfns = added(segment, SMALL)
    for word in (layout.LRU_CLOCK, layout.LRU_LEARNT):
        segment.write(word, 1000 + clock)
    segment.write(layout.LRU_ASKED, 1000)
    evicted(segment, *pfns)
    assert segment.read(layout.LRU_ASKED) == (1060 if decides else 1000)


def test_main_is_renewed_with_few_rivals_and_asked_for_anew(segment):
    assert lru.asked(segment, used=5, again=20, rivals=segment.layout.ASK_RIVALS)
    assert segment.read(segment.layout.LRU_USELESS) == 0


@pytest.mark.parametrize(("again", "renewed"), [(10, False), (11, True)])
def test_main_is_renewed_if_more_than_a_part_came_back(segment, again, renewed):
    """One of 640 that went comes on top."""
    layout = segment.layout
    added(segment, MAIN, 20)
    segment.write(layout.LRU_USELESS, layout.ASK_TIMES - 1)
    segment.write(layout.LRU_RIVALS, 0)
    for word, count in ((layout.LRU_MET, 640), (layout.LRU_GONE, 639), (layout.LRU_AGAIN, again)):
        segment.write(word, count)
    for word in (layout.LRU_CLOCK, layout.LRU_LEARNT):
        segment.write(word, 1000)
    evicted(segment, *added(segment, SMALL))
    assert bool(segment.read(layout.LRU_RENEW)) is renewed


def test_a_use_raises_the_heat_by_one(segment):
    (a,) = added(segment, SMALL)
    lru.use(segment, a)
    added(segment, SMALL)
    assert isolate(segment) != NIL and lru.heat_of(segment, a) == 1
