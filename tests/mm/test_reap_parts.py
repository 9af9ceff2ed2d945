"""reap: the parts of its steps, and who names a folio. What they call is replaced."""

import pytest
from calls import Calls
from world import ME, Segment, interpreted

DEAD, KEEPER = 2, 3


@pytest.fixture
def segment():
    """The compiled core's calls cannot be replaced."""
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


def owned(segment, n, pfn):
    segment.write(segment.client.pin(DEAD, n), pfn | segment.layout.PIN_OWNED)


def test_a_dead_clients_pin_is_an_intent_before_it_is_dropped(segment, calls):
    pfn, at = segment.new_file(), segment.client.pin(DEAD, 5)
    owned(segment, 5, pfn)
    calls.replace("reap._finish", (True,), lambda: segment.read(at))
    calls.replace("folio.put", (True,), lambda: segment.read(at))
    assert segment.reap._drop_pin(ME, DEAD, 5, pfn)
    assert [(name, args, word) for name, _, args, word in calls.made] == [
        ("reap._finish", (ME, DEAD, pfn), pfn | segment.layout.PIN_OWNED),
        ("folio.put", (ME, pfn), pfn | segment.layout.PIN_INTENT),
    ]
    assert segment.read(at) == 0


@pytest.mark.parametrize("refused", ["reap._finish", "folio.put"])
def test_a_pin_that_a_refused_lock_keeps(segment, calls, refused):
    pfn, at = segment.new_file(), segment.client.pin(DEAD, 5)
    owned(segment, 5, pfn)
    for name in ("reap._finish", "folio.put"):
        calls.replace(name, (name != refused,))
    assert segment.reap._drop_pin(ME, DEAD, 5, pfn) is False
    kept = segment.layout.PIN_OWNED if refused == "reap._finish" else segment.layout.PIN_INTENT
    assert calls.names[-1] == refused and segment.read(at) == pfn | kept


@pytest.mark.parametrize("pfn", [64, 65])
def test_a_pin_of_no_page_is_cleared(segment, calls, pfn):
    owned(segment, 5, pfn)
    for name in ("reap._finish", "folio.put"):
        calls.replace(name, (True,))
    assert segment.reap._drop_pin(ME, DEAD, 5, pfn)
    assert calls.made == [] and segment.read(segment.client.pin(DEAD, 5)) == 0


FINISHES = ["pagetable.clear", "fill.abandon", "lru.add"]


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize(
    ("type", "called"),
    [("TYPE_TABLE", [("pagetable.clear", (ME, 7))]), ("TYPE_NODE", []), ("TYPE_NONE", []), ("TYPE_FILE", None)],
)
def test_what_a_pins_holder_had_still_to_do(segment, calls, type, called, answer):
    for name in FINISHES:
        calls.replace(name, (answer,))
    segment.page_type.set(7, getattr(segment.layout, type), 0, 0)
    if called is None:
        called = [("fill.abandon", (DEAD, 7)), ("lru.add", (ME, 7, segment.layout.QUEUE_SMALL))]
    assert segment.reap._finish(ME, DEAD, 7) is (answer or not called)
    assert [(name, args) for name, _, args, _ in calls.made] == called


UNPUBLISHES = ["filemap.remove", "lru.remove", "reap._fail", "folio.put"]


@pytest.mark.parametrize(
    ("removed", "taken", "put", "made", "unpublished"),
    [
        (True, True, True, UNPUBLISHES, True),
        (True, True, False, UNPUBLISHES, False),
        (True, False, True, ["filemap.remove", "lru.remove", "folio.put"], False),
        (False, True, True, ["filemap.remove", "folio.put"], False),
    ],
)
def test_unpublish_in_steps(segment, calls, removed, taken, put, made, unpublished):
    ino = 99
    pfn = segment.new_file(ino=ino)
    segment.set_field(pfn, segment.layout.F_ATTACHED, 1)
    for name, answer in zip(UNPUBLISHES, (removed, taken, None, put), strict=True):
        calls.replace(name, (answer,), lambda: (segment.count(pfn), segment.field(pfn, segment.layout.F_ATTACHED)))
    intents = segment.client.intents(ME)
    assert segment.reap._unpublish(ME, pfn) is unpublished
    assert calls.names == made
    assert calls.made[0][2:] == ((ME, ino, pfn), (2, 1)), "it is pinned"
    assert {attached for *_, (_, attached) in calls.made[1:]} == {0 if removed else 1}
    assert segment.client.intents(ME) == intents + 1, "and named"


def test_a_frozen_folio_is_published_nowhere(segment, calls):
    pfn = segment.page_alloc.alloc(ME, 0)
    for name in UNPUBLISHES:
        calls.replace(name)
    intents = segment.client.intents(ME)
    assert segment.reap._unpublish(ME, pfn) is True
    assert calls.made == [] and segment.client.intents(ME) == intents


@pytest.mark.parametrize("type", ["TYPE_NODE", "TYPE_INODE", "TYPE_NAME", "TYPE_TABLE"])
def test_a_page_of_objects_or_a_table_is_in_no_mapping(segment, calls, type):
    pfn = segment.new_file()
    segment.page_type.set(pfn, getattr(segment.layout, type), 0, 0)
    for name in UNPUBLISHES:
        calls.replace(name, (True,))
    assert segment.reap._unpublish(ME, pfn) is True
    assert calls.names == ["folio.put"]


@pytest.mark.parametrize(("locked", "living", "fails"), [(1, 0, True), (1, 1, False), (0, 0, False), (0, 1, False)])
def test_a_fill_ends_with_its_filler(segment, calls, locked, living, fails):
    pfn, owner = segment.new_file(), KEEPER if living else DEAD
    segment.client.attach(KEEPER)
    segment.client.set_state(DEAD, segment.layout.SLOT_DEAD)
    segment.set_field(pfn, segment.layout.F_FLAGS, segment.layout.PG_LOCKED if locked else 0)
    segment.set_field(pfn, segment.layout.F_OWNER, owner)
    calls.replace("fill.fail")
    segment.reap._fail(pfn)
    assert calls.names == (["fill.fail"] if fails else [])


SETTLES = ["page_ref.correct", "backing.empty", "folio.destroy"]
FROZEN = 0x80000000


class Folio:
    """A folio with the count 2, which nobody publishes or queues."""

    def __init__(self, segment, calls, answer=True):
        self.segment, self.pfn = segment, segment.new_file()
        segment.set_field(self.pfn, segment.layout.F_REF, 2)
        for name in SETTLES:
            calls.replace(name, (answer,))

    def settle(self, word=2):
        return self.segment.reap._settle_word(ME, self.pfn, word)


@pytest.mark.parametrize("answer", [True, False])
def test_all_references_that_are_left_are_frozen_at_once(segment, calls, answer):
    folio = Folio(segment, calls, answer)
    assert folio.settle() is answer
    assert calls.names == ["folio.destroy"] and segment.count(folio.pfn) == FROZEN


def test_a_count_that_has_changed_is_not_frozen(segment, calls):
    folio = Folio(segment, calls)
    assert folio.settle(3) is False
    assert calls.made == [] and segment.count(folio.pfn) == 2


def test_an_attached_folio_is_not_frozen(segment, calls):
    folio = Folio(segment, calls)
    segment.set_field(folio.pfn, segment.layout.F_ATTACHED, 1)
    assert folio.settle() is False
    assert calls.made == [] and segment.count(folio.pfn) == 2


def test_a_queued_folio_is_not_frozen(segment, calls):
    folio = Folio(segment, calls)
    segment.set_field(folio.pfn, segment.layout.F_QUEUE, segment.layout.QUEUE_SMALL)
    assert folio.settle() is False
    assert calls.made == [] and segment.count(folio.pfn) == 2


def test_a_parked_page_is_left_to_the_end_of_its_quarantine(segment, calls):
    folio = Folio(segment, calls)
    segment.set_field(folio.pfn, segment.layout.F_BUDDY, segment.layout.BUDDY_PARKED)
    assert folio.settle(FROZEN) is True
    assert calls.made == []


@pytest.mark.parametrize("type", ["TYPE_NONE", "TYPE_FILE"])
def test_what_a_dead_owner_had_frozen_is_destroyed(segment, calls, type):
    """And emptied, if it was free: the owner may have been giving it memory, or taking that."""
    folio = Folio(segment, calls)
    segment.page_type.set(folio.pfn, getattr(segment.layout, type), 0, 0)
    assert folio.settle(FROZEN) is True
    assert calls.names == ["backing.empty"] * (type == "TYPE_NONE") + ["folio.destroy"]


@pytest.mark.parametrize(("word", "called"), [(1, []), (2, ["page_ref.correct"])])
def test_a_page_of_objects_keeps_one_reference(segment, calls, word, called):
    folio = Folio(segment, calls)
    segment.page_type.set(folio.pfn, segment.layout.TYPE_NODE, 0, 0)
    assert folio.settle(word) is True
    assert calls.names == called and [args for *_, args, _ in calls.made] == [(segment.at(folio.pfn), 2, 1)] * len(called)


# Who names a folio.


@pytest.fixture
def other(segment):
    """The last slot, of a living client."""
    last = segment.shape["nclients"] - 1
    segment.client.attach(last)
    return last


def names(segment, dead=DEAD, pfn=7):
    return segment.reap._is_named(dead, pfn)


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("mark", ["PIN_OWNED", "PIN_INTENT"])
def test_a_living_client_names_a_folio_by_any_word(segment, other, n, mark):
    words = segment.client.words()
    assert not names(segment)
    segment.write(segment.client.word_at(other, n % words), 7 | getattr(segment.layout, mark))
    assert names(segment) and not names(segment, pfn=8)


@pytest.mark.parametrize(("mark", "named"), [("PIN_OWNED", True), ("PIN_INTENT", False)])
@pytest.mark.parametrize("told", [True, False])
def test_a_dead_client_names_it_by_pins_alone(segment, other, mark, named, told):
    """The one that is settled, or one of which the kernel says that it has died."""
    if not told:
        segment.client.set_state(other, segment.layout.SLOT_DEAD)
    segment.write(segment.client.word_at(other, 0), 7 | getattr(segment.layout, mark))
    assert names(segment, other if told else DEAD) is named


def test_an_empty_slot_names_nothing(segment, other):
    segment.write(segment.client.word_at(other, 0), 7 | segment.layout.PIN_OWNED)
    segment.client.set_state(other, segment.layout.SLOT_CLEAN)
    assert not names(segment)


def test_a_client_in_an_operation_may_name_anything(segment, other):
    segment.client.op_begin(other)
    assert names(segment)
    assert not names(segment, other), "but not a dead one"
    segment.client.op_end(other)
    assert not names(segment)


def test_a_sample_during_which_a_client_moves_counts_as_a_name(segment, other, monkeypatch):
    """Its loads are compared after a barrier."""

    def operation(mem):
        segment.client.op_begin(other)
        segment.client.op_end(other)

    monkeypatch.setattr(segment.world.atomics, "asymmetric_fence_heavy", operation)
    assert names(segment)
    assert not names(segment, other)


def test_a_table_names_what_its_entries_name(segment, other):
    table = segment.pagetable.create(ME, 4)
    segment.pagetable.map(table, 3, 7)
    segment.write(segment.client.pin(other, 0), table | segment.layout.PIN_OWNED)
    assert names(segment) and not names(segment, pfn=8)
    segment.page_type.set(table, segment.layout.TYPE_FILE, 0, 0)
    assert not names(segment)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_pin_of_no_page_names_nothing(segment, other, beyond, monkeypatch):
    segment.write(segment.client.pin(other, 0), segment.pages + beyond | segment.layout.PIN_OWNED)
    monkeypatch.setattr(segment.world.reap, "_is_mapped", lambda *args: pytest.fail("it is looked at"))
    assert not names(segment)
