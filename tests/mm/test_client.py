"""client: a client's slot: counters, intents, and the ledger."""

import pytest
from world import BYTES, ME, together

NIL = 0xFFFFFFFF


@pytest.mark.parametrize("me", [0, 3])
def test_slots_lie_in_a_row(segment, me):
    assert segment.client.slot(me) == segment.shape["clients"] + me * segment.layout.CLIENT_SIZE


def test_counters(segment):
    layout, before = segment.layout, bytes(segment.buffer)
    numbers = [getattr(layout, f"COUNT_{name.upper()}") for name in layout.COUNTERS]
    assert numbers == list(range(len(numbers)))
    for number in numbers:
        segment.client.count(2, number, 1 << 40)
        segment.client.count(2, number, number)
    start = segment.client.slot(2) + layout.CLIENT_COUNTERS
    assert [segment.read64(start + number * 8) for number in numbers] == [(1 << 40) + number for number in numbers]
    assert bytes(segment.buffer[:start]) == before[:start]
    assert bytes(segment.buffer[start + len(numbers) * 8 :]) == before[start + len(numbers) * 8 :]


def test_counters_end_before_the_ledger(world):
    assert world.layout.CLIENT_COUNTERS + 8 * len(world.layout.COUNTERS) <= world.layout.CLIENT_LEDGER


def statistic(segment, word, me=2):
    return segment.read64(segment.client.slot(me) + segment.layout.CLIENT_STATISTICS + 8 * word)


def test_statistics_are_words_of_the_slot_s_end(segment):
    layout, before = segment.layout, bytes(segment.buffer)
    for word in (0, 1, layout.STAT_WORDS - 1):
        segment.client.tally(2, word, 1 << 40)
        segment.client.tally(2, word, word)
    start = segment.client.slot(2) + layout.CLIENT_STATISTICS
    assert [statistic(segment, word) for word in (0, 1, 2, layout.STAT_WORDS - 1)] == [
        1 << 40,
        (1 << 40) + 1,
        0,
        (1 << 40) + 511,
    ]
    assert bytes(segment.buffer[:start]) == before[:start]
    assert bytes(segment.buffer[segment.client.slot(3) :]) == before[segment.client.slot(3) :]


@pytest.mark.parametrize(
    ("ns", "bucket"),
    [(0, 0), (1023, 0), (1024, 1), (2047, 1), (2048, 2), ((1 << 35) - 1, 25), (1 << 35, 26), ((1 << 64) - 1, 26)],
)
def test_a_duration_is_in_the_bucket_of_its_length(segment, ns, bucket):
    histogram = segment.layout.STAT_LOCK_WAITS
    segment.client.record(2, histogram, ns)
    counts = [statistic(segment, histogram + n) for n in range(segment.layout.BUCKETS)]
    assert counts == [int(n == bucket) for n in range(segment.layout.BUCKETS)]
    assert statistic(segment, histogram + segment.layout.STAT_SUM) == ns


def test_the_next_client_of_a_slot_counts_on(segment):
    segment.client.tally(2, 7, 5)
    segment.client.detach(2)
    segment.client.attach(2)
    segment.client.tally(2, 7, 1)
    assert statistic(segment, 7) == 6


# Intents and pins. D is the client whose slot is looked at.

D, OTHER = 2, 3


def operation(segment, me=D):
    """Return the pfns of the intents in CLIENT_OPS, sorted."""
    words = [segment.read(segment.client.word_at(me, n)) for n in range(segment.layout.OPS)]
    return sorted(word & segment.layout.PIN_PFN for word in words if word)


def ledger(segment, me=D):
    """{word: (pfn, mark)} of the ledger."""
    pins = {n: segment.read(segment.client.pin(me, n)) for n in range(segment.layout.PINS)}
    return {n: (word & segment.layout.PIN_PFN, word & ~segment.layout.PIN_PFN) for n, word in pins.items() if word}


def test_note_and_done(segment):
    assert segment.client.is_idle(D)
    segment.client.announce(D, 0)
    segment.client.announce(D, 63)
    assert operation(segment) == [0, 63]
    assert not segment.client.is_idle(D)
    segment.client.retract(D, 0)
    assert operation(segment) == [63]
    segment.client.retract(D, 63)
    assert segment.client.is_idle(D)


def test_two_references_are_two_names(segment):
    for _ in range(2):
        segment.client.announce(D, 7)
    assert operation(segment) == [7, 7]
    segment.client.retract(D, 7)
    assert operation(segment) == [7]


def test_done_of_what_was_not_named(segment):
    segment.client.announce(D, 5)
    segment.client.retract(D, 6)
    assert operation(segment) == [5]


def test_too_many_names_touch_nothing_else(segment):
    for pfn in range(segment.layout.OPS + 3):
        segment.client.announce(D, pfn)
    assert operation(segment) == list(range(segment.layout.OPS))
    assert ledger(segment) == {}
    assert segment.client.is_idle(D + 1)


def test_hold_and_drop(segment):
    segment.client.announce(D, 9)
    segment.client.hold(D, 3, 9)
    assert (operation(segment), ledger(segment)) == ([], {3: (9, segment.layout.PIN_OWNED)})
    assert segment.client.pins(D) == 1
    segment.client.drop(D, 3, 9)
    assert (operation(segment), ledger(segment)) == ([9], {})
    segment.client.retract(D, 9)
    assert segment.client.is_idle(D)


@pytest.mark.parametrize("word", [0, 1, -1])
def test_every_word_of_the_ledger_is_looked_at(segment, word):
    segment.client.hold(D, word % segment.layout.PINS, 4)
    assert not segment.client.is_idle(D)
    assert segment.client.pins(D) == 1
    assert (
        segment.client.word_at(D, segment.client.words() - 1) == segment.client.slot(D) + segment.layout.CLIENT_STATISTICS - 4
    )


def test_set_aside_makes_room_for_a_successors_names(segment):
    segment.client.hold(D, 1, 30)
    for pfn in (5, 6, 5):
        segment.client.announce(D, pfn)
    segment.client.move_intents(D)
    busy = segment.layout.PIN_INTENT
    assert operation(segment) == []
    assert ledger(segment) == {0: (5, busy), 1: (30, segment.layout.PIN_OWNED), 2: (6, busy), 3: (5, busy)}
    segment.client.move_intents(D)
    assert len(ledger(segment)) == 4


def test_set_aside_with_a_full_ledger_loses_nothing(segment):
    for n in range(segment.layout.PINS - 1):
        segment.client.hold(D, n, 1)
    segment.client.announce(D, 5)
    segment.client.announce(D, 6)
    segment.client.move_intents(D)
    assert operation(segment) == [6]
    assert ledger(segment)[segment.layout.PINS - 1] == (5, segment.layout.PIN_INTENT)


def test_attach_ends_the_operation_in_which_the_former_client_died(segment):
    segment.client.attach(D)
    assert segment.client.op_seq(D) % 2 == 0
    segment.client.op_begin(D)
    assert segment.client.op_seq(D) % 2 == 1
    before = segment.client.op_seq(D)
    segment.client.attach(D)
    assert segment.client.op_seq(D) == before + 1
    assert segment.client.state(D) == segment.layout.SLOT_ATTACHED
    segment.client.attach(D)
    assert segment.client.op_seq(D) == before + 1


def test_activity_changes_with_every_operation(segment):
    seen = [segment.client.op_seq(D)]
    for _ in range(3):
        segment.client.op_begin(D)
        seen.append(segment.client.op_seq(D))
        segment.client.op_end(D)
        seen.append(segment.client.op_seq(D))
    assert [activity % 2 for activity in seen] == [0, 1] * 3 + [0]
    assert len(set(seen)) == len(seen)


def test_liveness(segment):
    assert segment.client.is_alive(D)
    assert not segment.client.is_alive(segment.shape["nclients"])
    segment.client.set_state(D, segment.layout.SLOT_DEAD)
    assert not segment.client.is_alive(D)


def test_grace_waits_for_living_clients_in_an_operation_alone(segment):
    assert segment.client.wait_grace_period(D)
    segment.client.op_begin(OTHER)
    assert not segment.client.wait_grace_period(D)
    assert segment.client.wait_grace_period(OTHER)  # it does not wait for itself
    segment.client.op_end(OTHER)
    assert segment.client.wait_grace_period(D)
    segment.client.op_begin(OTHER)
    segment.client.set_state(OTHER, segment.layout.SLOT_DEAD)
    assert segment.client.wait_grace_period(D)


def test_grace_ends_when_the_operation_does(segment):
    unlocked = segment.unlocked.client
    segment.client.op_begin(OTHER)
    assert together(lambda: bool(unlocked.wait_grace_period(D)), lambda: segment.client.op_end(OTHER)) == [True, None]


# No operation leaves an intent, however it ends.


def look_up(segment, ino, index):
    return segment.filemap.find_get(D, ino, segment.mapping.head(ino), 1, index)


def grab(segment, ino, index):
    return segment.filemap.grab(D, ino, index, 0, 0, BYTES)


def test_a_hit_names_what_it_pins_until_it_is_put(segment):
    ino = segment.open()
    pfn = segment.cache(ino, [5])[5]
    assert look_up(segment, ino, 5) == pfn
    assert operation(segment) == [pfn]
    segment.folio.put(D, pfn)
    assert segment.client.is_idle(D)


def test_a_miss_names_nothing(segment):
    ino = segment.open()
    segment.cache(ino, [5])
    for index in (4, 6):
        assert look_up(segment, ino, index) == NIL
    assert segment.client.is_idle(D)


def test_a_failed_second_look_names_nothing(segment):
    """The folio has another identity."""
    ino = segment.open()
    pfn = segment.cache(ino, [5])[5]
    segment.write64(segment.at(pfn) + segment.layout.F_INDEX, 6)
    assert look_up(segment, ino, 5) == NIL
    assert segment.client.is_idle(D)
    assert segment.count(pfn) == 1


@pytest.mark.parametrize("word", ["FROZEN", "REF_MAX"])
def test_a_folio_that_cannot_be_got_is_not_named(segment, word):
    ino = segment.open()
    pfn = segment.cache(ino, [5])[5]
    segment.set_field(pfn, segment.layout.F_REF, getattr(segment.layout, word))
    assert look_up(segment, ino, 5) == NIL
    assert segment.client.is_idle(D)
    assert segment.count(pfn) == getattr(segment.layout, word)


def test_grab_of_a_saturated_folio_names_nothing(segment):
    ino = segment.open()
    pfn = segment.cache(ino, [5])[5]
    segment.set_field(pfn, segment.layout.F_REF, segment.layout.REF_MAX)
    assert grab(segment, ino, 5) == segment.layout.GRAB_NOMEM
    assert segment.client.is_idle(D)


def test_grab_names_its_folio_once(segment):
    ino = segment.open()
    added = grab(segment, ino, 5) & NIL
    assert operation(segment) == [added]
    segment.client.hold(D, 0, added)
    assert grab(segment, ino, 5) == added
    assert operation(segment) == [added]


def test_grab_without_memory_names_nothing(segment):
    ino = segment.open()
    while segment.page_alloc.alloc(ME, 0) != NIL:
        pass
    assert grab(segment, ino, 5) == segment.layout.GRAB_NOMEM
    assert segment.client.is_idle(D)


def test_grab_of_a_mapping_that_is_gone_names_nothing(segment):
    ino = segment.open()
    segment.mapping.release(D, ino)
    assert grab(segment, ino, 5) == segment.layout.GRAB_GONE
    assert segment.client.is_idle(D)


def test_reclaim_and_withdrawal_name_nothing_afterwards(segment):
    ino = segment.open()
    segment.cache(ino, range(20))
    held = segment.hold(segment.add(ino, 30))
    assert segment.vmscan.shrink(D, 5) == 5
    assert segment.client.is_idle(D)
    segment.filemap.remove(D, ino, held)
    assert segment.client.is_idle(D)
    segment.filemap.truncate(D, ino, 63)
    assert segment.client.is_idle(D)
    assert segment.vmscan.shrink(D, 5) == 0
    assert segment.client.is_idle(D)


def test_reclaim_of_what_is_in_use_names_nothing(segment):
    ino = segment.open()
    segment.hold(segment.add(ino, 0))
    assert segment.vmscan.shrink(D, 1) == 0
    assert segment.vmscan.alloc_folio(D, 6) == NIL
    assert segment.client.is_idle(D)


def test_tables_name_nothing_afterwards(segment):
    ino = segment.open()
    pfn = segment.cache(ino, [5])[5]
    table = segment.pagetable.make(D, 0, 4)
    segment.filemap.lookup(D, 1, ino, segment.mapping.head(ino), segment.mapping.mark(ino), 1, 5)
    segment.pagetable.move(D, 1, table, 2, pfn)
    assert segment.pagetable.lookup(D, 1, table, 2) == pfn
    assert segment.pagetable.lookup(D, 2, table, 3) == NIL
    assert operation(segment) == []
    assert {n: found for n, (found, _) in ledger(segment).items()} == {0: table, 1: pfn}
    segment.folio.release(D, 1, pfn)
    segment.pagetable.release(D, 0, table)
    assert segment.client.is_idle(D)
    assert segment.count(pfn) == 1


@pytest.mark.parametrize("word", ["FROZEN", "REF_MAX"])
def test_gup_of_what_cannot_be_got_names_nothing(segment, word):
    pfn = segment.new_file()
    table = segment.pagetable.create(ME, 4)
    segment.pagetable.map(table, 0, pfn)
    segment.set_field(pfn, segment.layout.F_REF, getattr(segment.layout, word))
    assert segment.pagetable.gup_fast(D, table, 0) == NIL
    assert segment.client.is_idle(D)


def test_wipe_clears_what_is_named_in_one_slot(segment):
    layout, client = segment.layout, segment.client
    for me in (D, OTHER):
        client.announce(me, 7)
        segment.write(client.pin(me, 0), 5 | layout.PIN_OWNED)
        segment.write(client.pin(me, layout.PINS - 1), 0xFFFFFFFF)
    client.count(D, layout.COUNT_HITS, 3)
    client.wipe(D)
    assert client.is_idle(D) and not client.is_idle(OTHER)
    assert segment.read64(client.slot(D) + layout.CLIENT_COUNTERS + 8 * layout.COUNT_HITS) == 3
