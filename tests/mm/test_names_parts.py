"""names: what is sound, and in which order a name is made, asked for, written and dropped, in the interpreted world."""

import pytest
from calls import Calls
from test_names import OTHER, SECOND, Names
from world import ME, Segment, interpreted

NIL = 0xFFFFFFFF


@pytest.fixture
def names():
    return Names(Segment(interpreted(), 256))


@pytest.fixture
def calls(names, monkeypatch):
    return Calls(names.segment, monkeypatch)


def state(names, text=0, version=0, extra=0, kind=1):
    layout = names.layout
    shifted = version << layout.NAME_VERSION_SHIFT | extra << layout.NAME_EXTRA_SHIFT | text << layout.NAME_TEXT_SHIFT
    return shifted | kind


SOUND = {
    "as it is": ({}, True),
    "absent": ({"NAME_STATE": {"kind": 2}}, True),
    "unknown": ({"NAME_STATE": {"kind": 0}}, True),
    "another state": ({"NAME_STATE": {"kind": 3}}, False),
    "the longest text": ({"NAME_STATE": {"text": 168}}, True),
    "a longer text": ({"NAME_STATE": {"text": 169}}, False),
    "the longest data": ({"NAME_STATE": {"version": 100, "extra": 156}}, True),
    "a longer version": ({"NAME_STATE": {"version": 101, "extra": 156}}, False),
    "more extra": ({"NAME_STATE": {"extra": 257}}, False),
    "never written": ({"NAME_SEQ": 0}, False),
    "being written": ({"NAME_SEQ": 3}, False),
    "written once": ({"NAME_SEQ": 2}, True),
    "the last serial": ({"serial": 2}, True),
    "a serial of nobody": ({"serial": 3}, False),
    "no serial": ({"serial": 0}, False),
    "another's number": ({"number": 1}, False),
}


@pytest.mark.parametrize("case", SOUND)
def test_what_is_sound(names, case):
    change, sound = SOUND[case]
    id, layout, segment = names.begin(1), names.layout, names.segment
    at, number = names.record(id), id & layout.OBJECT_MASK
    segment.write64(layout.NAMES_SERIAL, 2)
    if "NAME_STATE" in change:
        segment.write64(at + layout.NAME_STATE, state(names, **change["NAME_STATE"]))
    if "NAME_SEQ" in change:
        segment.write(at + layout.NAME_SEQ, change["NAME_SEQ"])
    if "serial" in change:
        segment.write64(at + layout.NAME_ID, change["serial"] << layout.OBJECT_BITS | number)
    if "number" in change:
        segment.write64(at + layout.NAME_ID, id + change["number"])
    assert names.core.is_sound(number) is sound


def test_a_name_on_a_page_of_another_is_not_sound(names):
    number = names.begin(1) & names.layout.OBJECT_MASK
    pfn = names.segment.slab.pfn_of(number)
    names.segment.write64(names.segment.at(pfn) + names.layout.F_INO, 7)
    assert not names.core.is_sound(number)
    names.segment.write64(names.segment.at(pfn) + names.layout.F_INO, 0)


def test_setup_forgets_all(names):
    names.know(1)
    assert names.segment.read64(names.layout.NAMES_SERIAL) and names.list() == [1]
    words = names.segment.shape["names"], names.segment.shape["nnames"]
    for n in range(words[1]):
        names.segment.write(words[0] + 4 * n, NIL)
    names.core.setup()
    assert names.segment.read64(names.layout.NAMES_SERIAL) == 0
    assert {names.segment.read(words[0] + 4 * n) for n in range(words[1])} == {0}


def test_serials_pass_over_those_whose_low_bits_are_0(names):
    """Twice that would be the sequence word of a record that is being made."""
    mask = names.layout.OBJECT_MASK
    names.segment.write64(names.layout.NAMES_SERIAL, mask - 1)
    assert [names.segment.world.names._serial(names.segment.mem) for _ in range(3)] == [mask, mask + 2, mask + 3]


def test_room_is_made_as_often_as_it_helps(names, calls):
    calls.replace("names._begin", [names.layout.NAME_NOMEM] * 9)
    calls.replace("vmscan.make_room", [True, False])
    assert names.begin(1) == names.layout.NAME_NOMEM
    assert calls.names == ["names._begin", "vmscan.make_room"] * 2 and all(calls.in_operation)
    assert calls.made[1][2] == (ME, 0)


def test_there_is_an_end_of_making_room(names, calls):
    calls.replace("names._begin", [names.layout.NAME_NOMEM] * 9)
    calls.replace("vmscan.make_room", [True] * 9)
    assert names.begin(1) == names.layout.NAME_NOMEM
    assert calls.names.count("names._begin") == names.layout.SHRINK_TRIES


class Stores:
    """Which words of a record are stored, in their order."""

    def __init__(self, names, monkeypatch):
        self.names, self.seen, self.at = names, [], 0
        atomics = names.segment.world.atomics
        for name in ("store_relaxed", "store_relaxed64", "store_release", "record32", "copy_in_relaxed", "fence_release"):
            monkeypatch.setattr(atomics, name, self.watched(name, getattr(atomics, name)))

    def watched(self, name, original):
        def call(*args):
            self.seen.append((name, args[1] if len(args) > 1 else None))
            return original(*args)

        return call

    def of(self, at):
        layout = self.names.layout
        words = {getattr(layout, name): name for name in dir(layout) if name.startswith("NAME_") and name in WORDS}
        found = ["fence" if place is None else words.get(place - at) for name, place in self.seen]
        return [each for each in found if each]


WORDS = {
    "NAME_SEQ", "NAME_ID", "NAME_ASKER", "NAME_ASKER_LIFE", "NAME_ASKED", "NAME_DIGEST_LO", "NAME_DIGEST_HI", "NAME_KEY",
    "NAME_STATE", "NAME_SINCE", "NAME_OBJECT_SIZE", "NAME_TEXT", "NAME_DATA",
}  # fmt: skip


def test_an_answer_is_written_between_two_values_of_the_sequence(names, monkeypatch):
    id = names.begin(1)
    stores = Stores(names, monkeypatch)
    names.answer(id)
    words = stores.of(names.record(id))
    assert words[:2] == ["NAME_SEQ", "fence"] and words[-2:] == ["NAME_SEQ", "NAME_ASKER"]
    assert set(words[2:-2]) == {"NAME_STATE", "NAME_SINCE", "NAME_OBJECT_SIZE", "NAME_DATA"}


def test_the_sequence_is_odd_while_an_answer_is_written(names, monkeypatch):
    id = names.know(1)
    names.begin(1, 20, 20)
    word = names.record(id) + names.layout.NAME_SEQ
    atomics, seen = names.segment.world.atomics, []
    original = atomics.copy_in_relaxed
    monkeypatch.setattr(atomics, "copy_in_relaxed", lambda *args: (seen.append(names.segment.read(word)), original(*args)))
    before = names.segment.read(word)
    names.answer(id, 20)
    assert seen == [before | 1] and names.segment.read(word) > before


def test_a_name_is_indexed_when_it_is_written(names, monkeypatch):
    module, seen = names.segment.world.names, []
    original = module._index

    def index(mem, place, number):
        at = names.segment.slab.at(names.layout.SLAB_NAMES, number)
        seen.append((names.segment.read(at + names.layout.NAME_SEQ), names.segment.read(place)))
        original(mem, place, number)

    monkeypatch.setattr(module, "_index", index)
    names.begin(1)
    ((sequence, word),) = seen
    assert sequence and not sequence & 1 and word == 0


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 168])
def test_the_text_is_written_in_words(names, length):
    """A buffer has a multiple of 8 bytes: no more is read of it."""
    text = bytes(range(1, length + 1))
    names.segment.buffer[names.segment.shape["data"] :] = bytes(len(names.segment.buffer) - names.segment.shape["data"])
    padded = text + b"#" * (168 - length)
    id = names.core.begin(ME, 1, 1, 1, SECOND, SECOND, padded, length)
    at = names.record(id)
    found = bytes(names.segment.buffer[at + names.layout.NAME_TEXT : at + names.layout.NAME_DATA])
    whole = -(-length // 8) * 8
    assert found == padded[:whole] + bytes(168 - whole)
    assert names.segment.read64(at + names.layout.NAME_STATE) >> names.layout.NAME_TEXT_SHIFT == length


def test_who_asks_is_written_last(names, monkeypatch):
    id = names.begin(1)
    names.segment.client.attach(OTHER)
    stores = Stores(names, monkeypatch)
    assert names.begin(1, 20, 20, me=OTHER) == id
    assert stores.of(names.record(id)) == ["NAME_ASKER", "NAME_ASKER_LIFE", "NAME_ASKED", "NAME_ASKER"]


def test_a_dropped_name_is_being_written_first(names, monkeypatch):
    id = names.know(1)
    place, number = names.place(id), id & names.layout.OBJECT_MASK
    at = names.record(id)
    stores = Stores(names, monkeypatch)
    names.segment.world.names._drop(names.segment.mem, ME, place, number)
    assert stores.of(at)[:4] == ["NAME_SEQ", "fence", "NAME_ID", "NAME_ASKER"]
    assert names.segment.read(place) == 0 and names.segment.read(at + names.layout.NAME_SEQ) & 1


def test_sleepers_of_a_dropped_name_are_woken(names, calls):
    id = names.begin(1)
    names.core.join(ME, 1, 1, 1)
    at = names.record(id)
    calls.replace("atomics.futex_wake", (), lambda: names.segment.read64(at + names.layout.NAME_ID))
    names.core.forget(ME, 1)
    assert [(args, seen) for *_, args, seen in calls.made] == [((at + names.layout.NAME_ASKER, NIL), 0)]


def test_nobody_is_woken_who_does_not_sleep(names, calls):
    names.begin(1)
    calls.replace("atomics.futex_wake")
    names.core.forget(ME, 1)
    assert calls.made == []


def test_repair_under_the_lock(names, calls):
    owner = lambda: names.segment.robust_lock.owner(names.layout.NAMES_LOCK)  # noqa: E731
    calls.replace("names._repair", (), owner)
    names.core.repair(ME)
    names.segment.client.attach(OTHER)
    names.segment.robust_lock.lock(names.layout.NAMES_LOCK, OTHER)
    names.core.reap(ME, ME)
    assert owner() == OTHER
    names.core.reap(ME, OTHER)
    assert [(args, seen) for *_, args, seen in calls.made] == [((ME,), ME), ((ME,), ME)] and owner() == NIL


def test_a_broken_lock_is_repaired_by_who_takes_it(names, calls):
    names.segment.robust_lock.lock(names.layout.NAMES_LOCK, ME)
    names.segment.robust_lock.mark_broken(names.layout.NAMES_LOCK)
    names.segment.robust_lock.unlock(names.layout.NAMES_LOCK)
    calls.replace("names._repair")
    names.begin(1)
    names.begin(2)
    assert calls.names == ["names._repair"]


def test_a_name_beyond_the_full_set_is_dropped_by_a_repair(names):
    """And so is one that its set has already."""
    keys = names.same_set(names.layout.NAME_WAYS + 1)
    ids = [names.know(key) for key in keys[:-1]]
    assert names.segment.world.names._index_again(names.segment.mem, ids[0] & names.layout.OBJECT_MASK) is False
    names.segment.write(names.place(ids[-1]), 0)
    assert names.segment.world.names._index_again(names.segment.mem, ids[0] & names.layout.OBJECT_MASK) is False
    assert names.segment.world.names._index_again(names.segment.mem, ids[-1] & names.layout.OBJECT_MASK) is True
    assert names.lookup(keys[-2]) is not None


def test_what_only_digests_tell_apart(names):
    """Two names of one key, and with the same low digest."""
    for hi in (1, 2):
        id = names.core.begin(ME, 1, 5, hi, SECOND, SECOND, bytes(168), 0)
        assert names.answer(id, 1, version=b"%d" % hi)
    out = bytearray(names.layout.NAME_SIZE - names.layout.NAME_KEY)
    for hi in (1, 2, 3):
        found = names.core.lookup(ME, 1, 5, hi, out)
        assert found == (names.layout.NAME_PRESENT if hi < 3 else names.layout.NAME_UNKNOWN)
        assert hi == 3 or names.parsed(out)[2] == b"%d" % hi
