"""names: the index's sets, who makes room in them, and words that name no sound name, in the interpreted world."""

import pytest
from calls import Calls
from test_names import OTHER, SECOND, Names
from world import ME, Segment, interpreted

NIL = 0xFFFFFFFF
LOADS = ("load_relaxed", "load_relaxed64", "load_acquire", "copy_out_relaxed")
STORES = ("store_relaxed", "store_relaxed64", "store_release", "record32", "copy_in_relaxed")


@pytest.fixture
def names():
    return Names(Segment(interpreted(), 256))


@pytest.fixture
def calls(names, monkeypatch):
    return Calls(names.segment, monkeypatch)


@pytest.fixture
def guarded(names, monkeypatch):
    """Names of a segment in whose header nobody looks for one."""
    atomics, end = names.segment.world.atomics, names.layout.HDR_IDENTITY_END

    def guard(name, original):
        def call(mem, at, *args):
            assert at >= end, f"{name} at {at}"
            return original(mem, at, *args)

        return call

    for name in LOADS + STORES:
        monkeypatch.setattr(atomics, name, guard(name, getattr(atomics, name)))
    return names


def is_broken(names):
    return bool(names.segment.read(names.layout.NAMES_LOCK) & names.layout.LOCK_BROKEN)


def full(names, asked=lambda n: 10):
    """Names that fill a set, in the order of their places: their keys and ids."""
    keys = names.same_set(names.layout.NAME_WAYS)
    return keys, [names.know(key, asked(n)) for n, key in enumerate(keys)]


def damage(names, id):
    """Let the word of a name's place name no name. Return its offset."""
    place = names.place(id)
    names.segment.write(place, names.segment.pages << 12 - names.layout.OBJECT_SHIFT)
    return place


def test_each_set_is_used(names):
    sets = names.segment.shape["nnames"] // names.layout.NAME_WAYS
    assert {names.core.first_of(key) for key in range(200)} == {n * names.layout.NAME_WAYS for n in range(sets)}
    assert sets > 1


# Words that name none.


def test_who_asks_for_an_unknown_name_looks_at_no_record(guarded):
    guarded.know(1)
    assert guarded.lookup(2) is None and guarded.list() == [1]
    assert guarded.core.join(ME, 2, 2, 2) == 0
    assert guarded.core.forget(ME, guarded.segment.read64(guarded.layout.NAME_KEY))
    id = guarded.begin(2)
    guarded.core.forget(ME, 2)
    assert guarded.answer(id) is False
    guarded.core.withdraw(ME, id, 10 * SECOND)
    assert guarded.list() == [1]


def test_a_damaged_word_is_passed_over_and_noticed(guarded):
    _, ids = full(guarded)
    damage(guarded, ids[3])
    assert not is_broken(guarded)
    key = guarded.same_set(guarded.layout.NAME_WAYS + 1)[-1]
    assert guarded.core.join(ME, key, key, key) == 0 and is_broken(guarded)
    assert guarded.begin(key) > guarded.layout.NAME_BUSY and not is_broken(guarded), "repaired before"


def test_a_damaged_word_makes_no_room(guarded):
    """Another name of the set does."""
    _, ids = full(guarded)
    damage(guarded, ids[3])
    assert guarded.segment.world.names._victim(guarded.segment.mem, guarded.same_set(1)[0]) == guarded.place(ids[0])


def test_nobody_makes_room_while_all_are_asked_for(guarded, calls):
    keys = guarded.same_set(guarded.layout.NAME_WAYS + 1)
    ids = [guarded.begin(key) for key in keys[:-1]]
    calls.replace("vmscan.make_room", [False])
    assert guarded.begin(keys[-1]) == guarded.layout.NAME_NOMEM
    assert [guarded.place(id) for id in ids] and guarded.objects() == len(ids)


@pytest.mark.parametrize("sequence", [0, 1, 3])
def test_a_name_that_is_being_written_is_unknown(names, sequence):
    id = names.know(1)
    names.segment.write(names.record(id) + names.layout.NAME_SEQ, sequence)
    assert names.lookup(1) is None and names.list() == []
    assert names.answer(id) is False
    assert names.segment.read64(names.record(id) + names.layout.NAME_ID) == id


def test_there_is_no_word_behind_the_index(names):
    id = names.know(1)
    n = names.segment.shape["nnames"]
    behind = names.segment.shape["names"] + n * 4
    before = names.segment.read(behind)
    names.segment.write(behind, (id & names.layout.OBJECT_MASK) + 1)
    assert names.core.next_used(ME, n, bytearray(names.layout.NAME_SIZE)) == NIL
    names.segment.write(behind, before)


def test_a_name_that_the_index_does_not_have_is_dropped(guarded):
    id = guarded.begin(1)
    guarded.segment.write(guarded.place(id), 0)
    guarded.core.withdraw(ME, id, 10 * SECOND)
    assert guarded.objects() == 0


def test_a_full_set_takes_no_name_again(guarded):
    _, ids = full(guarded)
    number = ids[-1] & guarded.layout.OBJECT_MASK
    guarded.segment.write(guarded.place(ids[-1]), (ids[0] & guarded.layout.OBJECT_MASK) + 1)
    assert guarded.segment.world.names._index_again(guarded.segment.mem, number) is False


def test_a_repair_writes_nothing_into_a_page_of_another(names):
    id = names.know(1)
    segment, pfn = names.segment, names.segment.slab.pfn_of(id & names.layout.OBJECT_MASK)
    segment.write64(segment.at(pfn) + names.layout.F_INO, 7)
    before = segment.content(pfn, 4096)
    names.core.repair(ME)
    assert segment.content(pfn, 4096) == before and segment.count(pfn) == 1
    assert names.list() == []


# All places of a set.


def test_each_place_of_a_set_is_looked_at(names):
    keys, ids = full(names)
    assert [names.begin(key) for key in keys] == [names.layout.NAME_FRESH] * len(keys)
    assert names.core.forget(ME, keys[-1])
    assert names.lookup(keys[-1]) is None and names.objects() == len(keys) - 1
    id = names.begin(keys[-1])
    place = names.place(id)
    assert place == names.segment.shape["names"] + (names.core.first_of(keys[-1]) + len(keys) - 1) * 4
    names.core.withdraw(ME, id, 10 * SECOND)
    assert names.objects() == len(keys) - 1 and len(names.list()) == len(ids) - 1
    assert names.segment.read(place) == 0


def test_the_last_place_makes_room_if_its_answer_is_the_oldest(names):
    keys, _ = full(names, lambda n: 40 - n)
    names.begin(names.same_set(len(keys) + 1)[-1], 50, 50)
    assert [key for key in keys if names.lookup(key) is None] == keys[-1:]


def test_a_use_counts_until_the_next_name_makes_room(names):
    keys, _ = full(names, lambda n: 10 + n)
    assert names.lookup(keys[0])
    new = names.same_set(len(keys) + 3)[-3:]
    names.begin(new[0], 50, 50)
    assert names.objects() == len(keys) and names.list() == sorted([keys[0], *keys[2:], new[0]])
    assert names.lookup(keys[0])
    names.begin(new[1], 50, 50)
    assert names.list() == sorted([keys[0], *keys[3:], *new[:2]])
    names.begin(new[2], 50, 50)
    assert names.list() == sorted([*keys[3:], *new])


def test_only_the_first_lookup_marks_a_name(names, monkeypatch):
    word = names.record(names.know(1)) + names.layout.NAME_USED
    atomics, stored = names.segment.world.atomics, []
    original = atomics.store_relaxed
    monkeypatch.setattr(atomics, "store_relaxed", lambda mem, at, value: (stored.append((at, value)), original(mem, at, value)))
    assert names.lookup(1) and names.lookup(1)
    assert [each for each in stored if each[0] == word] == [(word, 1)]


# Questions.


def test_a_later_answer_to_a_question_of_the_same_time(names):
    id = names.know(1, 10)
    assert names.answer(id, 10, version=b"again") and names.lookup(1)[2] == b"again"
    assert not names.answer(id, 9)


def test_what_was_never_answered_is_not_fresh(names):
    assert names.begin(1, 10, 0) > names.layout.NAME_BUSY
    names.segment.client.attach(OTHER)
    assert names.begin(1, 10, 0, me=OTHER) == names.layout.NAME_TAKEN


def test_a_question_is_decided_under_the_lock(names, calls):
    calls.replace("names._ask", [5], lambda: names.segment.robust_lock.owner(names.layout.NAMES_LOCK))
    assert names.begin(1) == 5
    assert [owner for *_, owner in calls.made] == [ME]


def test_a_sleeper_waits_for_the_word_that_it_saw(names, calls):
    id = names.begin(1)
    ticket = names.core.join(ME, 1, 1, 1)
    word = names.record(id) + names.layout.NAME_ASKER
    calls.replace("atomics.futex_wait", [0, 0])
    names.core.sleep(ticket, 5)
    names.core.sleep(ticket, 1 << 62)
    asleep = ME + 1 | names.layout.NAME_WAITERS
    assert names.segment.read(word) == asleep
    assert [args for *_, args, _ in calls.made] == [(word, asleep, 5), (word, asleep, names.layout.WAIT_SLICE_NS)]


def test_the_text_is_there_before_the_sequence_is_even(names, monkeypatch):
    atomics, seen = names.segment.world.atomics, []
    for name in ("copy_in_relaxed", "store_release"):
        original = getattr(atomics, name)
        monkeypatch.setattr(atomics, name, lambda *a, name=name, do=original: (seen.append((name, a[1])), do(*a))[1])
    at = names.record(names.begin(1))
    text, even = ("copy_in_relaxed", at + names.layout.NAME_TEXT), ("store_release", at + names.layout.NAME_SEQ)
    assert seen.index(text) < seen.index(even)


def test_sequences_use_all_bits(names):
    """So that no value comes again soon."""
    serial = names.layout.OBJECT_MASK - 1
    names.segment.write64(names.layout.NAMES_SERIAL, serial - 1)
    id = names.begin(1)
    assert names.segment.read(names.record(id) + names.layout.NAME_SEQ) == serial << 1
