"""reap: what each of its functions calls, in which order and in which operation; and its results. Its parts are replaced."""

import pytest
from calls import Calls
from world import ME, Segment, interpreted

DEAD, KEEPER = 2, 3
NIL = 0xFFFFFFFF


@pytest.fixture
def segment():
    """The compiled core's calls cannot be replaced."""
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


def test_locks_are_taken_over_from_the_innermost(segment, calls):
    order = ["page_alloc", "lru", "slab", "names", "mapping"]
    for module in order:
        calls.replace(f"{module}.reap")
    segment.reap.locks(ME, DEAD)
    assert calls.names == [f"{module}.reap" for module in order]
    assert all(calls.in_operation) and {args for *_, args, _ in calls.made} == {(ME, DEAD)}
    assert segment.client.op_seq(ME) & 1 == 0


PARTS = {
    "REPAIR_LISTS": ["page_alloc.repair"],
    "REPAIR_QUEUES": ["lru.repair"],
    "REPAIR_SLABS": ["slab.repair"] * 3,
    "REPAIR_TABLE": ["mapping.repair_table"],
    "REPAIR_NAMES": ["names.repair"],
    "REPAIR_TREES": ["mapping.repair_tree"] * 3 + ["mapping.repair_node"] * 2,
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_repaired_and_no_other(segment, calls, part):
    for name in {name for names in PARTS.values() for name in names}:
        rounds = {"mapping.repair_tree": (5, 6, NIL), "mapping.repair_node": (7, NIL)}.get(name, ())
        calls.replace(name, rounds, lambda: segment.client.op_seq(ME))
    before = segment.client.op_seq(ME)
    segment.reap.repair(ME, getattr(segment.layout, part))
    assert calls.names == PARTS[part] and all(calls.in_operation)
    assert segment.client.op_seq(ME) & 1 == 0 and segment.client.op_seq(ME) > before
    if part == "REPAIR_TREES":
        assert [args for *_, args, _ in calls.made] == [(ME, NIL), (ME, 5), (ME, 6), (ME, NIL), (ME, 7)]
        assert len({number for *_, number in calls.made}) == 5, "each in an operation of its own"
    if part == "REPAIR_SLABS":
        assert [args for *_, args, _ in calls.made] == [(ME, cache) for cache in range(segment.layout.SLABS)]


def test_a_sweep_goes_on_to_the_last_record(segment, calls):
    calls.replace("mapping.sweep", (4, 9, NIL), lambda: segment.client.op_seq(ME))
    segment.reap.sweep(ME)
    assert [args for *_, args, _ in calls.made] == [(ME, NIL), (ME, 4), (ME, 9)]
    assert all(calls.in_operation) and len({number for *_, number in calls.made}) == 3
    assert segment.client.op_seq(ME) & 1 == 0


def owned(segment, n, pfn):
    segment.write(segment.client.pin(DEAD, n), pfn | segment.layout.PIN_OWNED)


def test_pins_are_dropped_up_to_the_last_word(segment, calls):
    segment.client.attach(DEAD)
    last = segment.layout.PINS - 1
    for n in (0, 7, last):
        owned(segment, n, n + 1)
    segment.write(segment.client.pin(DEAD, 9), 9 | segment.layout.PIN_INTENT)
    calls.replace("reap._drop_pin", (True, True, True), lambda: segment.client.op_seq(ME))
    segment.reap.pins(ME, DEAD)
    assert [args for *_, args, _ in calls.made] == [(ME, DEAD, n, n + 1) for n in (0, 7, last)]
    assert all(calls.in_operation) and len({number for *_, number in calls.made}) == 3
    assert segment.client.op_seq(ME) & 1 == 0


def test_pins_wait_while_a_lock_is_refused(segment, calls):
    segment.client.attach(DEAD)
    for n in (0, 7, 8):
        owned(segment, n, n + 1)
    calls.replace("reap._drop_pin", (True, False, True))
    segment.reap.pins(ME, DEAD)
    assert len(calls.made) == 2 and segment.client.op_seq(ME) & 1 == 0


def test_intents_are_settled_and_cleared_up_to_the_last_word(segment, calls):
    """Those that have to wait stay, and so do pins."""
    segment.client.attach(DEAD)
    words = [segment.client.word_at(DEAD, n) for n in range(segment.client.words())]
    intents = {words[0]: 1, words[3]: 2, words[-1]: 3}
    for at, pfn in intents.items():
        segment.write(at, pfn | segment.layout.PIN_INTENT)
    segment.write(words[-2], 4 | segment.layout.PIN_OWNED)
    calls.replace("reap.settle", (True, False, True))
    assert segment.reap.resolve_intents(ME, DEAD) == 2
    assert [args for *_, args, _ in calls.made] == [(ME, DEAD, 1), (ME, DEAD, 2), (ME, DEAD, 3)]
    left = {at: segment.read(at) for at in words if segment.read(at)}
    assert left == {words[3]: 2 | segment.layout.PIN_INTENT, words[-2]: 4 | segment.layout.PIN_OWNED}


def test_several_that_have_to_wait_are_counted(segment, calls):
    segment.client.attach(DEAD)
    for n in range(3):
        segment.write(segment.client.word_at(DEAD, n), n + 1 | segment.layout.PIN_INTENT)
    calls.replace("reap.settle", (False, False, False))
    assert segment.reap.resolve_intents(ME, DEAD) == 3


def test_pins_of_the_caller_do_not_wait(segment, calls):
    segment.write(segment.client.pin(ME, 0), 4 | segment.layout.PIN_OWNED)
    assert segment.reap.resolve_intents(ME, ME) == 0
    segment.write(segment.client.pin(ME, 0), 0)


def fill(segment, n):
    """Fill all words of the keeper's ledger but n."""
    for word in range(segment.layout.PINS):
        if word != n:
            segment.write(segment.client.pin(KEEPER, word), 60 | segment.layout.PIN_INTENT)


@pytest.mark.parametrize("room", [0, 5, -1])
def test_the_last_name_goes_to_the_only_room(segment, room):
    for client in (DEAD, KEEPER):
        segment.client.attach(client)
    room %= segment.layout.PINS
    fill(segment, room)
    last = segment.client.word_at(DEAD, segment.client.words() - 1)
    name = 7 | segment.layout.PIN_INTENT
    segment.write(last, name)
    assert segment.reap.hand_over_unresolved(DEAD, KEEPER)
    assert (segment.read(last), segment.read(segment.client.pin(KEEPER, room))) == (0, name)


def test_names_without_room_stay(segment):
    """The first has room, and the second not; what is behind the ledger is not touched."""
    for client in (DEAD, KEEPER):
        segment.client.attach(client)
    fill(segment, 5)
    names = [n + 1 | segment.layout.PIN_INTENT for n in range(2)]
    for n, name in enumerate(names):
        segment.write(segment.client.word_at(DEAD, n), name)
    behind = segment.client.pin(KEEPER, segment.layout.PINS)
    segment.write(behind, 1)
    assert not segment.reap.hand_over_unresolved(DEAD, KEEPER)
    assert [segment.read(segment.client.word_at(DEAD, n)) for n in range(2)] == [0, names[1]]
    assert segment.read(segment.client.pin(KEEPER, 5)) == names[0] and segment.read(behind) == 1


def test_a_full_keeper_is_asked_for_nothing_by_an_empty_slot(segment):
    for client in (DEAD, KEEPER):
        segment.client.attach(client)
    fill(segment, None)
    assert segment.reap.hand_over_unresolved(DEAD, KEEPER)


@pytest.mark.parametrize("pfn", [64, 65, 0x3FFFFFFF])
def test_what_is_no_page_is_settled(segment, calls, pfn):
    calls.replace("page_alloc.quarantine")
    assert segment.reap.settle(ME, DEAD, pfn) is True
    assert calls.made == []


STEPS = ["page_alloc.quarantine", "client.wait_grace_period", "reap._unpublish", "page_ref.count", "reap._is_named"]
ENDS = ["reap._settle_word", "page_alloc.end_quarantine"]
INSIDE = ["reap._unpublish"]


@pytest.mark.parametrize(
    ("results", "made", "settled"),
    [
        ((1, True, True, 5, False, True, True), STEPS + ENDS, True),
        ((1, True, True, 5, False, True, False), STEPS + ENDS, False),
        ((1, True, True, 5, False, False, True), STEPS + ENDS[:1], False),
        ((1, True, True, 5, True, True, True), STEPS, False),
        ((1, True, False, 5, False, True, True), STEPS[:4], False),
        ((1, False, True, 5, False, True, True), STEPS[:2], False),
        ((0, True, True, 5, False, True, True), STEPS[:1], True),
        ((2, True, True, 5, False, True, True), STEPS[:1], False),
    ],
)
def test_settle_in_steps(segment, calls, results, made, settled):
    """results: of each step, the first one 0 for QUARANTINE_NONE, 1 for QUARANTINE_ON, 2 for LOCK_BUSY."""
    layout = segment.layout
    first = (layout.QUARANTINE_NONE, layout.QUARANTINE_ON, layout.LOCK_BUSY)[results[0]]
    for name, result in zip(STEPS + ENDS, (first, *results[1:]), strict=True):
        calls.replace(name, (result,))
    assert segment.reap.settle(ME, DEAD, 7) is settled
    assert calls.names == made
    assert calls.in_operation == [name in INSIDE for name in made]
    assert segment.client.op_seq(ME) & 1 == 0
    if made == STEPS + ENDS:
        assert calls.made[5][2] == (ME, 7, 5), "it is settled by the count of before the names"


@pytest.mark.parametrize("settled", [True, False])
def test_a_damaged_folio_is_named_while_it_is_dropped(segment, calls, settled):
    at, name = segment.client.pin(ME, 3), 7 | segment.layout.PIN_INTENT
    calls.replace("reap.settle", (settled,), lambda: segment.read(at))
    assert segment.reap.drop(ME, 3, 7) is settled
    assert calls.made == [("reap.settle", 0, (ME, ME, 7), name)]
    assert segment.read(at) == (0 if settled else name)
