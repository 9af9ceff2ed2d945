"""client: each word of a slot, in which order the words change, and how long a client is waited for; interpreted."""

import pytest
from calls import Calls
from test_client import OTHER, D, ledger, operation
from world import ME, Segment, interpreted


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


@pytest.fixture
def writes(segment, monkeypatch):
    """(offset in the slot of D, value) of each write, in order."""
    atomics, made, slot = segment.world.atomics, [], segment.client.slot(D)
    for name in ("write_once", "store_release"):
        original = getattr(atomics, name)
        monkeypatch.setattr(
            atomics, name, lambda mem, at, value, do=original: (made.append((at - slot, value)), do(mem, at, value))[1]
        )
    return made


def intent(segment, pfn):
    return pfn | segment.layout.PIN_INTENT


def ops(segment, n=0):
    return segment.layout.CLIENT_OPS + 4 * n


def pin(segment, n):
    return segment.layout.CLIENT_LEDGER + 4 * n


# Intents.


def test_no_word_behind_the_intents_is_read_or_written(segment, monkeypatch):
    layout, behind = segment.layout, segment.client.slot(D) + ops(segment, segment.layout.OPS)
    for pfn in range(layout.OPS):
        segment.client.announce(D, pfn)
    for n in range(4):
        segment.write(behind + 4 * n, intent(segment, 50))
    before = bytes(segment.buffer)
    read_once, looked = segment.world.atomics.read_once, []
    monkeypatch.setattr(segment.world.atomics, "read_once", lambda mem, at: (looked.append(at), read_once(mem, at))[1])
    segment.client.retract(D, 50)
    assert bytes(segment.buffer) == before
    for number in (1, 2):
        segment.client.announce(D, 60)
        assert segment.read(segment.client.slot(D) + layout.CLIENT_UNNAMED) == number
    assert operation(segment) == list(range(layout.OPS))
    unnamed = segment.client.slot(D) + layout.CLIENT_UNNAMED
    assert max(at for at in looked if at != unnamed) == behind - 4
    segment.write(unnamed, 0)
    assert bytes(segment.buffer) == before


@pytest.mark.parametrize("words", [[], [0], [14], [0, 7, 14]])
def test_intents_are_counted(segment, words):
    for n in words:
        segment.write(segment.client.slot(D) + ops(segment, n), intent(segment, n))
    segment.client.hold(D, 0, 9)
    assert segment.client.intents(D) == len(words)


@pytest.mark.parametrize("n", [0, 3, 14])
def test_an_intent_is_deferred(segment, writes, n):
    assert segment.client.defer(D, 5) is False and writes == []
    segment.write(segment.client.slot(D) + ops(segment, n), intent(segment, 9))
    assert segment.client.defer(D, 5) is True
    assert writes == [(pin(segment, 5), intent(segment, 9)), (ops(segment, n), 0)]
    assert segment.client.defer(D, 6) is False


def test_intents_of_a_dead_client_are_moved_one_by_one(segment, writes):
    layout, last = segment.layout, segment.layout.OPS - 1
    for n, pfn in ((1, 5), (last, 6)):
        segment.write(segment.client.slot(D) + ops(segment, n), intent(segment, pfn))
    segment.client.move_intents(D)
    assert writes == [
        (pin(segment, 0), intent(segment, 5)), (ops(segment, 1), 0),
        (pin(segment, 1), intent(segment, 6)), (ops(segment, last), 0),
    ]  # fmt: skip
    assert ledger(segment) == {0: (5, layout.PIN_INTENT), 1: (6, layout.PIN_INTENT)}


def test_a_full_ledger_keeps_all_words(segment, monkeypatch):
    for n in range(segment.layout.PINS):
        segment.write(segment.client.slot(D) + pin(segment, n), 1 | segment.layout.PIN_OWNED)
    segment.client.announce(D, 5)
    before = bytes(segment.buffer)
    read_once, looked = segment.world.atomics.read_once, []
    monkeypatch.setattr(segment.world.atomics, "read_once", lambda mem, at: (looked.append(at), read_once(mem, at))[1])
    segment.client.move_intents(D)
    assert bytes(segment.buffer) == before
    assert max(looked) == segment.client.slot(D) + segment.layout.CLIENT_STATISTICS - 4


# In which order.


def test_a_reference_is_never_without_a_word(segment, writes):
    owned = 9 | segment.layout.PIN_OWNED
    segment.client.announce(D, 9)
    segment.client.hold(D, 3, 9)
    segment.client.drop(D, 3, 9)
    assert writes == [
        (ops(segment), intent(segment, 9)),
        (pin(segment, 3), owned), (ops(segment), 0),
        (ops(segment), intent(segment, 9)), (pin(segment, 3), 0),
    ]  # fmt: skip


def test_what_is_done_together_is_done_within_the_operation(segment, writes):
    client, at = segment.client, segment.layout.CLIENT_OP_SEQ
    client.op_begin(D)
    client.announce(D, 9)
    writes.clear()
    client.keep(D, 3, 9)
    assert writes == [(pin(segment, 3), 9 | segment.layout.PIN_OWNED), (ops(segment), 0), (at, 2)]
    writes.clear()
    client.let_go(D, 3, 9)
    assert writes == [(at, 3), (ops(segment), intent(segment, 9)), (pin(segment, 3), 0)]
    writes.clear()
    client.finish(D, 9)
    assert writes == [(ops(segment), 0), (at, 4)]
    client.op_begin(D)
    client.announce(D, 9)
    writes.clear()
    client.keep_intent(D, 4, 9)
    assert writes == [(pin(segment, 4), intent(segment, 9)), (ops(segment), 0), (at, 6)]


def test_a_slot_is_attached_last(segment, writes):
    layout, slot = segment.layout, segment.client.slot(D)
    segment.client.op_begin(D)
    segment.write(slot + layout.CLIENT_UNNAMED, 3)
    writes.clear()
    segment.client.attach(D)
    assert sorted(writes[:2]) == [(layout.CLIENT_OP_SEQ, 2), (layout.CLIENT_UNNAMED, 0)]
    assert writes[2:] == [(layout.CLIENT_STATE, layout.SLOT_ATTACHED)]
    writes.clear()
    segment.client.detach(D)
    assert writes == [(layout.CLIENT_OP_SEQ, 2), (layout.CLIENT_STATE, layout.SLOT_CLEAN)]


# Other clients.


def test_a_slot_without_memory_is_not_looked_at(segment, calls):
    segment.write(segment.layout.SLOTS_BACKED, OTHER)
    calls.replace("client.state", [segment.layout.SLOT_DEAD] * 9)
    assert not segment.client.is_alive(D) and segment.client.is_alive(OTHER)
    segment.mem.dead.add(OTHER)
    assert not segment.client.is_alive(OTHER)
    assert [args for *_, args, _ in calls.made] == [(D,)]


def test_who_refused_a_lock_is_remembered_until_it_goes_on(segment):
    def stalls():
        return segment.read64(segment.client.slot(ME) + segment.layout.CLIENT_COUNTERS + 8 * segment.layout.COUNT_STALLS)

    assert not segment.client.is_refused()
    segment.client.refused(ME, D)
    assert segment.client.is_refused() and segment.client.is_stalled(D) and not segment.client.is_stalled(OTHER)
    assert stalls() == 1
    segment.client.op_begin(D)
    assert not segment.client.is_refused()
    segment.client.refused(ME, D)
    assert segment.client.is_refused() and stalls() == 2


def waiting(segment, monkeypatch, times, relax=lambda: None):
    """Let ME wait for D, which is in an operation. Return whether it left, and how often ME has waited."""
    relaxed, clock = [], iter(times)
    segment.client.op_begin(D)
    monkeypatch.setattr(segment.world.atomics, "now_ns", lambda: next(clock))

    def cpu_relax(*args):
        relaxed.append(1)
        relax()

    monkeypatch.setattr(segment.world.atomics, "cpu_relax", cpu_relax)
    return segment.client.wait_grace_period(ME), len(relaxed)


def test_a_client_ends_its_operation(segment, monkeypatch):
    assert waiting(segment, monkeypatch, [100, 101], lambda: segment.client.op_end(D)) == (True, 1)


def test_a_client_begins_another_operation(segment, monkeypatch):
    def next_one():
        segment.client.op_end(D)
        segment.client.op_begin(D)

    assert waiting(segment, monkeypatch, [100, 101], next_one) == (True, 1)


def test_a_client_does_not_end_its_operation(segment, monkeypatch):
    grace = segment.layout.GRACE_NS
    assert waiting(segment, monkeypatch, [100, 99 + grace, 100 + grace, 101 + grace]) == (False, 2)


def test_a_client_dies_in_its_operation(segment, monkeypatch):
    assert waiting(segment, monkeypatch, [100, 101], lambda: segment.mem.dead.add(D)) == (True, 1)
