"""lru: the three queues, who is evicted, what is learnt, and making the queues again."""

import pytest
from world import BYTES, ME

NIL, FROZEN = 0xFFFFFFFF, 0x80000000
NONE, NEW, SMALL, MAIN = 0, 1, 2, 3
LEFT, LOST, BEATEN = 1, 2, 3


def queue(segment, number):
    """The pfns of a queue, youngest first."""
    return segment.words_on(segment.layout.LRU_LISTS + number * segment.layout.LIST_SIZE)


def queues(segment):
    return [queue(segment, number) for number in (NEW, SMALL, MAIN)]


def attached_file(segment, order=0, ino=0, index=0):
    """A live FILE folio that says that it is in its mapping: no other is ever put on a queue."""
    pfn = segment.new_file(order, ino, index)
    segment.set_field(pfn, segment.layout.F_ATTACHED, 1)
    return pfn


def added(segment, number, count=1, order=0, heat=0):
    pfns = [attached_file(segment, order, ino=1, index=index) for index in range(count)]
    for pfn in pfns:
        segment.lru.add(ME, pfn, number)
        set_heat(segment, pfn, heat)
    return pfns


def set_heat(segment, pfn, heat):
    segment.set_field(pfn, segment.layout.F_QUEUE, queue_of(segment, pfn) | heat << segment.layout.HEAT_SHIFT)


def queue_of(segment, pfn):
    return segment.field(pfn, segment.layout.F_QUEUE) & segment.layout.QUEUE_MASK


def heat_of(segment, pfn):
    return segment.field(pfn, segment.layout.F_QUEUE) >> segment.layout.HEAT_SHIFT & segment.layout.HEAT_MAX


def verdict_of(segment, pfn):
    return segment.field(pfn, segment.layout.F_QUEUE) >> segment.layout.VERDICT_SHIFT & segment.layout.VERDICT_MASK


def use(segment, *pfns):
    for pfn in pfns:
        segment.flags.mark_referenced(segment.at(pfn), 0)


def is_referenced(segment, pfn):
    return bool(segment.flags.load(segment.at(pfn)) & segment.layout.PG_REFERENCED)


def isolate(segment, spare_main=False):
    return segment.lru.isolate(ME, spare_main)


def set_small(segment, share):
    segment.write(segment.layout.LRU_SMALL, share)


def test_setup_empties_the_queues(segment):
    added(segment, SMALL, 3)
    segment.lru.setup()
    assert [segment.lru.pages(number) for number in (NONE, NEW, SMALL, MAIN)] == [0, 0, 0, 0]
    assert queues(segment) == [[], [], []]
    assert isolate(segment) == NIL


def test_add_puts_the_youngest_first(segment):
    a, b, c = added(segment, SMALL, 3)
    assert queue(segment, SMALL) == [c, b, a]
    assert segment.lru.pages(SMALL) == segment.lru.cached() == 3
    assert [queue_of(segment, pfn) for pfn in (a, b, c)] == [SMALL] * 3


def test_a_large_folio_counts_with_its_pages(segment):
    (pfn,) = added(segment, MAIN, order=3)
    assert segment.lru.pages(MAIN) == 8
    segment.lru.remove(ME, pfn)
    assert segment.lru.pages(MAIN) == 0


def test_adding_twice_changes_nothing(segment):
    a, b = added(segment, SMALL, 2)
    segment.lru.add(ME, a, MAIN)
    segment.lru.insert(ME, a)
    assert queues(segment) == [[], [b, a], []]
    assert segment.lru.pages(SMALL) == 2


def test_remove_from_each_queue_or_none(segment):
    (a,), (b,), (c,), d = added(segment, SMALL), added(segment, MAIN), added(segment, NEW), attached_file(segment)
    for pfn in (a, b, c, d):
        segment.lru.remove(ME, pfn)
        assert segment.field(pfn, segment.layout.F_QUEUE) == NONE
    assert queues(segment) == [[], [], []]


@pytest.mark.parametrize(
    ("whole", "parts", "rivals", "looks"),
    [(True, 1, 0, 1), (True, 3, 0, 3), (True, 3, 1, 6), (False, 3, 1, 2), (True, 3, 6, 64)],
)
def test_a_newcomer_of_several_parts_is_compared_with_more_rivals(segments, whole, parts, rivals, looks):
    """As many as its parts would be one after the other: it decides for all of them."""
    segment = segments(200)
    residents = added(segment, MAIN, 100, heat=5)
    newcomers = added(segment, SMALL, parts, heat=1)
    other = added(segment, SMALL, 1, heat=1)
    for pfn in newcomers:
        segment.write64(segment.at(pfn) + segment.layout.F_DIGEST, 9 << 32 | whole << segment.layout.WHOLE_SHIFT)
    segment.write64(segment.at(other[0]) + segment.layout.F_DIGEST, 10 << 32 | whole << segment.layout.WHOLE_SHIFT)
    segment.write(segment.layout.LRU_RIVALS, rivals)
    set_small(segment, 100)
    assert isolate(segment, spare_main=True) == newcomers[0]
    assert [heat_of(segment, pfn) for pfn in residents] == [4] * looks + [5] * (100 - looks)


@pytest.mark.parametrize("number", [NEW, SMALL, MAIN])
def test_take_off_a_queue_for_eviction(segment, number):
    a, b, c = added(segment, number, 3, heat=4)
    assert segment.lru.take(ME, b, LOST)
    assert queue(segment, number) == [c, a]
    assert segment.lru.pages(number) == 2
    assert (queue_of(segment, b), heat_of(segment, b), segment.lru.verdict_of(b)) == (NONE, 4, LOST)
    assert segment.field(b, segment.layout.F_QUEUE) >> segment.layout.SEEN_SHIFT == 0
    assert segment.lru.verdict_of(a) == 0


def test_take_what_is_on_no_queue(segment):
    pfn = attached_file(segment)
    before = segment.field(pfn, segment.layout.F_QUEUE)
    assert not segment.lru.take(ME, pfn, LOST)
    assert segment.field(pfn, segment.layout.F_QUEUE) == before


def test_a_damaged_queue_number_counts_as_none(segment):
    pfn = attached_file(segment)
    segment.set_field(pfn, segment.layout.F_QUEUE, 77)
    segment.lru.remove(ME, pfn)
    segment.lru.add(ME, pfn, SMALL)
    assert queue(segment, SMALL) == [pfn]


# Filling.


def test_an_empty_pool_fills_main_when_new_has_its_share(segment):
    pfns = [attached_file(segment) for _ in range(10)]
    for pfn in pfns:
        segment.lru.insert(ME, pfn)
    assert queues(segment) == [pfns[2::-1], [], pfns[:2:-1]]  # 3 of 64 pages are a twentieth


def test_a_full_pool_starts_folios_in_new(segment):
    added(segment, MAIN, 20)
    added(segment, NEW, 5)
    assert isolate(segment) != NIL
    pfn = attached_file(segment)
    segment.lru.insert(ME, pfn)
    assert queue_of(segment, pfn) == NEW


def test_a_pool_that_lost_much_fills_again(segment):
    pfns = added(segment, MAIN, 40)
    added(segment, NEW, 5)
    assert isolate(segment) != NIL
    for pfn in pfns[20:]:
        segment.lru.remove(ME, pfn)
    pfn = attached_file(segment)
    segment.lru.insert(ME, pfn)
    assert queue_of(segment, pfn) == MAIN


# Who is evicted.


def test_isolate_takes_the_oldest_and_pins_it(segment):
    a, b, _ = added(segment, SMALL, 3)
    assert [isolate(segment), isolate(segment)] == [a, b]
    assert [segment.count(a), segment.count(b)] == [2, 2]
    assert (queue_of(segment, a), verdict_of(segment, a)) == (NONE, LEFT)
    assert segment.lru.pages(SMALL) == 1


def test_isolate_on_empty_queues(segment):
    assert isolate(segment) == NIL
    assert segment.robust_lock.owner(segment.layout.LRU_LOCK) == NIL


def test_a_use_in_new_does_not_count(segment):
    a, b = added(segment, NEW, 2)
    use(segment, a)
    assert isolate(segment) == a
    assert queues(segment) == [[], [b], []]


def test_a_use_in_small_leads_to_main(segment):
    a, b, c = added(segment, SMALL, 3)
    use(segment, a)
    assert isolate(segment) == b
    assert queues(segment) == [[], [c], [a]]
    assert not is_referenced(segment, a)
    assert heat_of(segment, a) == 1


def test_new_and_small_are_drained_to_their_share(segment):
    """51 of 1024 parts: one page of 20."""
    main, small = added(segment, MAIN, 18), added(segment, SMALL, 3)
    assert [isolate(segment), isolate(segment), isolate(segment)] == [small[0], small[1], main[0]]
    assert [verdict_of(segment, pfn) for pfn in (small[0], main[0])] == [LEFT, BEATEN]


def test_main_can_be_spared(segment):
    main, small = added(segment, MAIN, 18), added(segment, SMALL, 1)
    assert [isolate(segment, True), isolate(segment, True)] == [small[0], main[0]]


@pytest.mark.parametrize("number", [NEW, SMALL, MAIN])
def test_a_queue_is_taken_when_there_is_no_other(segment, number):
    a, b = added(segment, number, 2)
    assert [isolate(segment), isolate(segment), isolate(segment)] == [a, b, NIL]


def test_a_used_folio_of_main_gets_another_round(segment):
    a, b, c = added(segment, MAIN, 3)
    use(segment, a)
    assert isolate(segment) == b
    assert queue(segment, MAIN) == [a, c]
    assert isolate(segment) == c
    assert isolate(segment) == a  # its heat went in one more round


def test_main_loses_half_its_heat_where_it_must_give(segment):
    a, b = added(segment, MAIN, 2)
    set_heat(segment, a, 7)
    assert isolate(segment) == b
    assert heat_of(segment, a) == 3


def contested(segment, rivals, newcomer=1, main=1):
    """A full main of 18, all of a heat, and one of small that is to get into it."""
    old = added(segment, MAIN, 18, heat=main)
    (pfn,) = added(segment, SMALL, heat=newcomer)
    added(segment, NEW, 1)
    set_small(segment, 60)
    segment.write(segment.layout.LRU_RIVALS, rivals)
    return old, pfn


def test_a_newcomer_beats_the_oldest_that_has_less_heat(segment):
    old, pfn = contested(segment, 2)
    use(segment, old[0])
    set_heat(segment, old[2], 0)
    assert isolate(segment) == old[2]
    assert verdict_of(segment, old[2]) == BEATEN
    assert queue(segment, MAIN)[:3] == [pfn, old[1], old[0]]
    assert [heat_of(segment, each) for each in old[:2]] == [2, 0]


def test_a_newcomer_that_finds_no_weaker_one_goes(segment):
    old, pfn = contested(segment, 1)
    set_heat(segment, old[2], 0)
    assert isolate(segment) == pfn
    assert (verdict_of(segment, pfn), heat_of(segment, pfn)) == (LOST, 1)
    assert queue(segment, MAIN) == [old[1], old[0], *old[:1:-1]]


def test_among_equals_the_residents_stay(segment):
    _, pfn = contested(segment, 0, newcomer=1, main=1)
    assert isolate(segment) == pfn


def test_isolate_passes_over_a_folio_that_is_being_destroyed(segment):
    a, b = added(segment, SMALL, 2)
    assert segment.page_ref.freeze(segment.at(a), 1)
    assert isolate(segment) == b
    assert segment.count(a) == FROZEN
    segment.folio.destroy(ME, a)  # finds itself on no queue
    assert queues(segment) == [[], [], []]


def test_isolate_looks_at_a_bounded_number(segments):
    segment = segments(128)
    batch = segment.layout.SCAN_BATCH
    pfns = added(segment, SMALL, batch + 6)
    use(segment, *pfns)
    assert isolate(segment) == NIL
    assert [is_referenced(segment, pfn) for pfn in pfns] == [False] * batch + [True] * 6


def test_a_kept_folio_keeps_its_heat(segment):
    (a,) = added(segment, MAIN)
    use(segment, a)
    while isolate(segment) != a:
        pass
    segment.lru.add(ME, a, MAIN)
    assert (queue_of(segment, a), verdict_of(segment, a)) == (MAIN, 0)


# Ghosts and learning.


def evicted(segment, pfn):
    assert isolate(segment, True) == pfn
    assert segment.page_ref.freeze(segment.at(pfn), 2)
    segment.folio.destroy(ME, pfn)


def inserted(segment, index):
    pfn = attached_file(segment, 0, ino=1, index=index)
    segment.lru.insert(ME, pfn)
    return pfn


def test_what_comes_back_has_the_heat_of_its_ghost_and_one_more(segment):
    small = added(segment, SMALL, 4)
    set_heat(segment, small[3], 3)
    evicted(segment, small[0])
    evicted(segment, small[1])
    again = inserted(segment, 0)
    assert heat_of(segment, again) == 1
    assert heat_of(segment, inserted(segment, 77)) == 0
    segment.lru.remove(ME, again)  # by nobody's choice, so it leaves no ghost
    segment.folio.destroy(ME, small[2])
    assert [heat_of(segment, inserted(segment, index)) for index in (0, 1, 2)] == [0, 1, 0]


def statistics(segment, first, count):
    at = segment.client.slot(ME) + segment.layout.CLIENT_STATISTICS + 8 * first
    return [segment.read64(at + 8 * n) for n in range(count)]


def test_evictions_are_counted_by_their_verdicts(segment):
    layout = segment.layout
    evicted(segment, added(segment, SMALL)[0])
    assert statistics(segment, layout.STAT_EVICTED, 4) == [0, 1, 0, 0]
    evicted(segment, added(segment, MAIN)[0])
    assert statistics(segment, layout.STAT_EVICTED, 4) == [0, 1, 0, 1]
    (kept,) = added(segment, SMALL)
    segment.lru.remove(ME, kept)
    assert statistics(segment, layout.STAT_EVICTED, 4) == [0, 1, 0, 1]


@pytest.mark.parametrize(("ticks", "counted"), [(0, 4), (8, 4), (9, 3), (16, 3), (17, 2), (32, 2), (33, 1), (64, 1), (65, 0)])
def test_what_comes_back_is_counted_by_how_much_was_evicted_meanwhile(segment, ticks, counted):
    layout = segment.layout
    evicted(segment, added(segment, SMALL)[0])
    tick = max(segment.shape["npages"] >> layout.TICK_SHIFT, 1)
    segment.write(layout.LRU_CLOCK, segment.read(layout.LRU_CLOCK) // tick * tick + ticks * tick)
    inserted(segment, 0)
    assert statistics(segment, layout.STAT_REFAULTS, 5) == [1] + [int(n >= 4 - counted) for n in range(4)]


def test_who_was_beaten_starts_anew(segment):
    pfns = added(segment, MAIN, 2)
    evicted(segment, pfns[0])
    assert heat_of(segment, inserted(segment, 0)) == 0


def test_heat_has_a_bound(segment):
    old, pfn = contested(segment, 0, newcomer=7, main=7)
    use(segment, *old)
    evicted(segment, pfn)
    assert heat_of(segment, old[0]) == 7
    assert heat_of(segment, inserted(segment, 0)) == 7


def counts(segment, **words):
    for name, (verdict, events) in words.items():
        place = segment.layout.LRU_EVICTED if name.startswith("went") else segment.layout.LRU_REFAULTED
        segment.write(place + 4 * verdict, events * segment.layout.EVENT)


def learnt(segment):
    """Rivals and share after one more eviction, which is when they are set again."""
    evicted(segment, *added(segment, SMALL))
    return segment.read(segment.layout.LRU_RIVALS), segment.read(segment.layout.LRU_SMALL)


def test_more_rivals_when_losers_come_back_more_than_the_beaten(segment):
    counts(segment, went1=(LOST, 100), went2=(BEATEN, 100), back1=(LOST, 50), back2=(BEATEN, 20))
    assert learnt(segment)[0] == segment.layout.RIVALS_FIRST + 1


def test_fewer_rivals_when_the_beaten_come_back_more(segment):
    counts(segment, went1=(LOST, 100), went2=(BEATEN, 10), back1=(LOST, 50), back2=(BEATEN, 9))
    assert learnt(segment)[0] == segment.layout.RIVALS_FIRST - 1


def test_as_many_rivals_when_nobody_competed(segment):
    assert learnt(segment)[0] == segment.layout.RIVALS_FIRST


@pytest.mark.parametrize(("back", "grows"), [(40, True), (5, False), (1, False)])
def test_small_grows_for_what_comes_back_soon(segment, back, grows):
    """More than main's, and at least one of WORTH."""
    counts(segment, went1=(LEFT, 100), went2=(BEATEN, 100), back1=(LEFT, back), back2=(BEATEN, 20 if back == 5 else 0))
    assert (learnt(segment)[1] > segment.layout.SMALL_FIRST) is grows


def test_what_is_learnt_stays_within_its_bounds(segment):
    for word in (0, 0xFFFFFFFF):
        for place in range(segment.layout.LRU_FULL, segment.layout.LRU_END, 4):
            segment.write(place, word)
        for _ in range(30):
            rivals, small = learnt(segment)
        assert 0 <= rivals <= segment.layout.RIVALS_MAX
        assert segment.layout.SMALL_MIN <= small <= segment.layout.SMALL_MAX
        segment.lru.setup()


def asked(segment, used, again, rivals=0, times=2):
    """Whether main is to be renewed, after being asked so often with the same figures."""
    layout = segment.layout
    added(segment, MAIN, 20)
    for _ in range(times):
        segment.write(layout.LRU_RIVALS, rivals)
        for word, count in ((layout.LRU_MET, 640), (layout.LRU_USED, used), (layout.LRU_GONE, 640), (layout.LRU_AGAIN, again)):
            segment.write(word, count)
        segment.write(layout.LRU_CLOCK, segment.read(layout.LRU_ASKED) + layout.ASK_POOLS * 64)
        segment.write(layout.LRU_LEARNT, segment.read(layout.LRU_CLOCK))
        evicted(segment, *added(segment, SMALL))
    return bool(segment.read(layout.LRU_RENEW))


@pytest.mark.parametrize(
    ("figures", "renewed"),
    [
        ({"used": 5, "again": 20}, True),
        ({"used": 5, "again": 20, "times": 1}, False),
        ({"used": 15, "again": 20}, False),
        ({"used": 5, "again": 5}, False),
        ({"used": 5, "again": 20, "rivals": 4}, False),
    ],
)
def test_main_is_renewed_when_it_is_of_no_use_and_others_come_back(segment, figures, renewed):
    assert asked(segment, **figures) is renewed


def test_a_renewal_takes_what_was_not_used(segment):
    old = added(segment, MAIN, 18, heat=5)
    small = added(segment, SMALL, 3)
    use(segment, old[0])
    segment.write(segment.layout.LRU_RENEW, 2)
    assert isolate(segment) == small[0], "main's oldest was used"
    assert isolate(segment) == old[1]
    assert queue(segment, MAIN)[:2] == [small[1], old[0]]
    assert isolate(segment) not in old


def test_the_hand_notes_a_use_without_counting_it_twice(segment):
    old = added(segment, MAIN, 10)
    use(segment, *old)
    segment.write(segment.layout.LRU_HAND, 2 * old[4] - 1)
    evicted(segment, *added(segment, SMALL))
    assert not is_referenced(segment, old[4])
    assert is_referenced(segment, old[5])
    assert (segment.read(segment.layout.LRU_MET), segment.read(segment.layout.LRU_USED)) == (1, 1)
    segment.write(segment.layout.LRU_SMALL, 512)
    added(segment, NEW, 1)
    while heat_of(segment, old[4]) == 0 and isolate(segment) == NIL:
        pass
    assert heat_of(segment, old[4]) <= 1


def test_counts_fade(segment):
    counts(segment, went1=(LOST, 100))
    for _ in range(200):
        learnt(segment)
    assert segment.read(segment.layout.LRU_EVICTED + 4 * LOST) < segment.layout.EVENT


# Making the queues again.


def state(segment):
    """What must be the same after a rebuild, in any order."""
    return [sorted(each) for each in queues(segment)] + [segment.lru.pages(number) for number in (NEW, SMALL, MAIN)]


def busy(segments):
    """A segment whose queues are all in use, large folios and pins included."""
    segment = segments(96)
    ino, large = segment.open(1, folios=4096), segment.open(2, order=2)
    segment.cache(ino, range(60))
    segment.cache(large, range(3), order=2)
    segment.vmscan.shrink(ME, 8)
    use(segment, *queue(segment, SMALL)[::2], *queue(segment, MAIN)[::3])
    segment.add(ino, 99)
    return segment, ino


def test_rebuild_changes_nothing_but_the_order(segments):
    segment, _ = busy(segments)
    before = state(segment)
    assert all(before[:3])
    segment.lru.rebuild()
    segment.lru.rebuild()
    assert state(segment) == before
    assert segment.findings() == []


def test_rebuild_of_lists_that_make_no_sense(segments):
    segment, _ = busy(segments)
    before = state(segment)
    for place in range(segment.layout.LRU_PAGES, segment.layout.BLOCK_HAND, 4):
        segment.write(place, 5)
    for pfns in before[:3]:
        for pfn in pfns:
            segment.set_field(pfn, segment.layout.F_PREV, pfn)
            segment.set_field(pfn, segment.layout.F_NEXT, NIL - 1)
    segment.lru.rebuild()
    assert state(segment) == before
    assert segment.findings() == []


class Dead(BaseException):
    """The client was killed."""


STORES = ("record32", "write32", "write64", "store_relaxed", "fetch_and_relaxed", "fetch_add_acquire")


def die(segment, patch, step):
    """Let the client die right before its step-th store."""
    left = [step]

    def counted(store):
        def counting(*args):
            if left[0] == 0:
                raise Dead
            left[0] -= 1
            return store(*args)

        return counting

    for name in STORES:
        patch.setattr(segment.world.atomics, name, counted(getattr(segment.world.atomics, name)))


def an_insert(segment, ino):
    pfn = segment.filemap.grab(ME, ino, 200, 0, 0, BYTES) & NIL
    return lambda: segment.lru.insert(ME, pfn)


def an_add(segment, _):
    pfn = attached_file(segment)
    return lambda: segment.lru.add(ME, pfn, MAIN)


def a_removal(segment, _):
    pfn = queue(segment, SMALL)[0]
    return lambda: segment.lru.remove(ME, pfn)


def an_isolation_from_small(segment, _):
    return lambda: isolate(segment, True)


def an_isolation_from_main(segment, _):
    set_small(segment, 512)
    return lambda: isolate(segment)


def a_contest(segment, _):
    set_heat(segment, queue(segment, SMALL)[-1], 3)
    return lambda: isolate(segment, True)


def an_eviction_that_teaches(segment, _):
    segment.write(segment.layout.LRU_LEARNT, NIL // 2)
    pfn = isolate(segment, True)
    return lambda: segment.lru.remove(ME, pfn)


@pytest.mark.parametrize(
    "operation",
    [an_insert, an_add, a_removal, an_isolation_from_small, an_isolation_from_main, a_contest, an_eviction_that_teaches],
)
def test_the_queues_can_be_made_again_whatever_step_was_the_last(segments, monkeypatch, operation):
    """LRU_LOCK's owner dies before each of its stores in turn; who takes the lock over rebuilds."""
    if segments().world.compiled:
        pytest.skip("the compiled core's steps cannot be stopped")
    for step in range(500):
        segment, ino = busy(segments)
        before = state(segment)
        run = operation(segment, ino)
        with monkeypatch.context() as patch:
            die(segment, patch, step)
            try:
                run()
                break
            except Dead:
                pass
        segment.lru.rebuild()
        segment.write(segment.layout.LRU_LOCK, 0)
        check(segment, before)
    assert step > 3


def check(segment, before):
    """The lists agree with F_QUEUE and with each other, nobody but the folio in question is lost, and reclaim goes on."""
    assert [finding for finding in segment.findings() if finding["check"] in ("queue", "list")] == []
    was, now = set().union(*before[:3]), set().union(*state(segment)[:3])
    assert len(was - now) <= 1
    assert len(now - was) <= 1
    segment.vmscan.shrink(ME, 96)
    assert [finding for finding in segment.findings() if finding["check"] in ("queue", "list")] == []
    assert len(set().union(*queues(segment))) <= 3  # what is pinned: by a test, or by who died
