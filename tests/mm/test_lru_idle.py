"""lru and trim: when a folio was seen last, and what is evicted because it was not used for long; in the interpreted world."""

import pytest
import test_lru as lru
from calls import Calls
from test_lru import MAIN, NEW, NIL, NONE, SMALL, attached_file, isolate, queue, queue_of
from world import ME, Segment, World, interpreted

OTHER = 2


@pytest.fixture
def clock():
    """The tick, in a list."""
    return [5]


@pytest.fixture
def segment(monkeypatch, clock):
    segment = Segment(interpreted())
    monkeypatch.setattr(segment.world.atomics, "now_ns", lambda: clock[0] << segment.layout.SEEN_TICK_SHIFT)
    return segment


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


def word(segment, pfn):
    """(queue, heat, whether a use was noted, tick)."""
    layout, word = segment.layout, segment.field(pfn, segment.layout.F_QUEUE)
    return word & layout.QUEUE_MASK, lru.heat_of(segment, pfn), word >> layout.USED_SHIFT & 1, word >> layout.SEEN_SHIFT


def added(segment, number, count=1, heat=0):
    """As there, seen in tick 5."""
    pfns = lru.added(segment, number, count, heat=heat)
    for pfn in pfns:
        segment.set_field(
            pfn, segment.layout.F_QUEUE, segment.field(pfn, segment.layout.F_QUEUE) | 5 << segment.layout.SEEN_SHIFT
        )
    return pfns


def note(segment, pfn):
    segment.set_field(pfn, segment.layout.F_QUEUE, segment.field(pfn, segment.layout.F_QUEUE) | 1 << segment.layout.USED_SHIFT)


# When it was seen.


def test_a_folio_is_seen_when_it_is_queued(segment):
    one, two = attached_file(segment), attached_file(segment)
    segment.lru.add(ME, one, SMALL)
    segment.lru.insert(ME, two)
    assert [word(segment, pfn)[3] for pfn in (one, two)] == [5, 5]


@pytest.mark.parametrize("used", [True, False])
def test_a_use_in_new_is_seen_but_does_not_count(segment, clock, used):
    (pfn,) = added(segment, NEW)
    lru.use(segment, *[pfn] * used)
    clock[0] = 9
    segment.world.lru._look(segment.mem, ME, NEW)
    assert word(segment, pfn) == (SMALL, 0, 0, 9 if used else 5)


@pytest.mark.parametrize(("used", "noted", "seen"), [(1, 0, 9), (0, 1, 5), (1, 1, 9)])
def test_a_use_is_seen_when_it_is_harvested(segment, clock, used, noted, seen):
    """One that was noted had been seen then."""
    (pfn,) = added(segment, MAIN)
    lru.use(segment, *[pfn] * used)
    if noted:
        note(segment, pfn)
    clock[0] = 9
    assert segment.world.lru._harvest_referenced(segment.mem, pfn) is True
    assert word(segment, pfn) == (MAIN, 1, 0, seen) and lru.verdict_of(segment, pfn) == 0
    assert segment.world.lru._harvest_referenced(segment.mem, pfn) is False


@pytest.mark.parametrize("used", [0, 1])
def test_what_is_seen_keeps_its_place(segment, clock, used):
    (pfn,) = added(segment, MAIN, heat=6)
    clock[0] = 0x3FFFF
    segment.world.lru._see(segment.mem, pfn, used)
    assert word(segment, pfn) == (MAIN, 6, used, 0x3FFFF)
    clock[0] = 1
    segment.world.lru._see(segment.mem, pfn, 0)
    assert word(segment, pfn) == (MAIN, 6, used, 1)


@pytest.mark.parametrize(("tick", "age"), [(5, 0), (6, 1), (5 + 0x3BFFF, 0x3BFFF), (5 + 0x3C000, 0), (4, 0)])
def test_an_age_is_not_of_a_time_that_is_ahead(segment, clock, tick, age):
    (pfn,) = added(segment, MAIN)
    clock[0] = tick & 0x3FFFF
    assert segment.world.lru._age(segment.mem, pfn) == age and word(segment, pfn) == (MAIN, 0, 0, 5)


@pytest.mark.parametrize(("used", "held"), [(1, 0), (0, 1), (1, 1)])
def test_what_is_in_use_has_no_age(segment, clock, used, held):
    (pfn,) = added(segment, MAIN)
    lru.use(segment, *[pfn] * used)
    if held:
        segment.page_ref.try_get(segment.at(pfn))
    clock[0] = 50
    assert segment.world.lru._age(segment.mem, pfn) == 0
    assert word(segment, pfn) == (MAIN, 0, used, 50) and not lru.is_referenced(segment, pfn)


# What is isolated.


@pytest.mark.parametrize(("least", "found"), [(10, True), (11, False)])
def test_the_first_that_is_old_enough(segment, clock, least, found):
    a, b, c = added(segment, MAIN, 3)
    clock[0] = 15
    before = segment.client.intents(ME)
    assert segment.lru.isolate_idle(ME, b, b + 2, least) == (b if found else NIL)
    assert queue(segment, MAIN) == ([c, a] if found else [c, b, a])
    assert segment.count(b) == 1 + found and segment.client.intents(ME) == before + found
    assert segment.robust_lock.owner(segment.layout.LRU_LOCK) == NIL
    if found:
        assert segment.field(b, segment.layout.F_QUEUE) == 0
        assert [segment.lru.isolate_idle(ME, 0, c, least) for _ in range(2)] == [a, NIL], "c is behind the end"


def test_only_what_is_on_a_queue(segment, clock):
    pfn = attached_file(segment)
    clock[0] = 15
    assert segment.lru.isolate_idle(ME, 0, 64, 0) == NIL and segment.count(pfn) == 1


def test_no_page_beyond_the_pool_is_looked_at(segment, monkeypatch):
    look, seen = segment.world.lru._queue_of, []
    monkeypatch.setattr(segment.world.lru, "_queue_of", lambda mem, pfn: (seen.append(pfn), look(mem, pfn))[1])
    assert segment.lru.isolate_idle(ME, 60, 70, 0) == NIL and seen == [60, 61, 62, 63]


def test_without_the_lock_nothing_is_isolated():
    segment = Segment(World("impatient idle", {"LOCK_PATIENCE_NS": 0, "LOCK_SPINS": 0}))
    (pfn,) = added(segment, MAIN)
    segment.client.attach(OTHER)
    segment.robust_lock.lock(segment.layout.LRU_LOCK, OTHER)
    assert segment.lru.isolate_idle(ME, 0, 64, 0) == NIL
    assert queue_of(segment, pfn) == MAIN and segment.robust_lock.owner(segment.layout.LRU_LOCK) == OTHER


# And the rest.


def test_no_other_page_is_on_a_queue(segment):
    pfn = attached_file(segment)
    segment.page_type.set(pfn, segment.layout.TYPE_TABLE, 0, 0)
    segment.set_field(pfn, segment.layout.F_QUEUE, MAIN | 1 << segment.layout.HEAT_SHIFT | 77 << segment.layout.SEEN_SHIFT)
    segment.lru.rebuild()
    assert segment.field(pfn, segment.layout.F_QUEUE) == NONE and segment.lru.pages(MAIN) == 0


def test_who_was_not_chosen_leaves_no_ghost(segment, calls):
    pfn = attached_file(segment)
    calls.replace("lru._remember")
    segment.lru.remove(ME, pfn)
    assert calls.made == []


def test_who_was_chosen_is_named(segment):
    (pfn,) = added(segment, SMALL)
    before = segment.client.intents(ME)
    assert isolate(segment) == pfn and segment.client.intents(ME) == before + 1


@pytest.mark.parametrize("evicted", [1, 2, 3, 5])
def test_the_hand_goes_half_as_far_as_what_was_evicted(segment, clock, evicted):
    layout, pages = segment.layout, segment.pages
    pfns = added(segment, MAIN, pages - 1)
    for hand in (0, 1, 2, 3, 62, 63, 125, 126, 127, 128, 400):
        lru.use(segment, *pfns[::2])
        for pfn in pfns:
            segment.set_field(pfn, layout.F_QUEUE, MAIN)
        for at, value in ((layout.LRU_HAND, hand), (layout.LRU_MET, 0), (layout.LRU_USED, 0)):
            segment.write(at, value)
        segment.world.lru._pass_hand(segment.mem, evicted)
        pfn, was = (hand + evicted >> 1) % pages, (hand >> 1) % pages
        met = pfn != was and pfn in pfns
        used = met and pfn in pfns[::2]
        assert [segment.read(at) for at in (layout.LRU_HAND, layout.LRU_MET, layout.LRU_USED)] == [hand + evicted, met, used]
        assert {each for each in pfns if word(segment, each) != (MAIN, 0, 0, 0)} == ({pfn} if used else set())
        if used:
            assert word(segment, pfn) == (MAIN, 0, 1, clock[0])


# As operations.


def test_idle_folios_are_evicted_until_one_stays_named(segment, calls):
    before = segment.client.op_seq(ME)
    calls.replace("lru.isolate_idle", [3, 7, 9])
    calls.replace("vmscan.evict", [2, NIL, 2])
    assert segment.trim.evict_idle(ME, 0, 9, 10) == 2 << 32 | 8
    assert calls.names == ["lru.isolate_idle", "vmscan.evict"] * 2 and all(calls.in_operation)
    assert segment.client.op_seq(ME) == before + 2


@pytest.mark.parametrize("left", [True, False])
def test_a_hole_is_emptied_after_a_grace_period(segment, calls, left):
    before = segment.client.op_seq(ME)
    for name, result in (
        ("page_alloc.alloc_hole", 16), ("client.wait_grace_period", left), ("page_type.order", 4), ("backing.empty", None),
        ("page_alloc.free", True), ("client.retract", None),
    ):  # fmt: skip
        calls.replace(name, [result])
    assert segment.trim.empty_hole(ME, 20) is left
    steps = ["page_alloc.alloc_hole", "client.wait_grace_period", "page_type.order"]
    assert calls.names == [*steps, *["backing.empty"] * left, "page_alloc.free", "client.retract"]
    assert calls.in_operation == [True, False, True, *[True] * left, True, True]
    assert segment.client.op_seq(ME) == before + 4


def test_no_hole_is_emptied(segment, calls):
    before = segment.client.op_seq(ME)
    calls.replace("page_alloc.alloc_hole", [NIL])
    calls.replace("client.wait_grace_period")
    assert segment.trim.empty_hole(ME, 20) is False
    assert calls.names == ["page_alloc.alloc_hole"] and segment.client.op_seq(ME) == before + 2
