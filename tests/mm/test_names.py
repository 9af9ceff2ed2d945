"""names: what a key means, asked for once, copied without a lock, forgotten; damaged and half written ones are dropped."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import ME, Segment, compiled, interpreted, together

NIL = 0xFFFFFFFF
SECOND = 1_000_000_000
OTHER = 2


class Names:
    """The names of a segment, by small numbers. Times are seconds."""

    def __init__(self, segment):
        self.segment, self.layout = segment, segment.layout
        self.core = segment.names

    def begin(self, key, now=10, oldest=10, me=ME, who=0, text=b""):
        return self.core.begin(me, key, key + who, key, now * SECOND, oldest * SECOND, text.ljust(168, b"\0"), len(text))

    def answer(self, id, asked=10, version=b"v", extra=b"", size=100, me=ME, state=None):
        state = self.layout.NAME_PRESENT if state is None else state
        state |= len(version) << self.layout.NAME_VERSION_SHIFT | len(extra) << self.layout.NAME_EXTRA_SHIFT
        data = version + extra
        return self.core.answer(me, id, asked * SECOND, state, size, data + bytes(-len(data) % 8), len(data) + -len(data) % 8)

    def know(self, key, asked=10, **more):
        id = self.begin(key, asked, asked, who=more.pop("who", 0))
        assert id > self.layout.NAME_BUSY and self.answer(id, asked, **more)
        return id

    def lookup(self, key, who=0):
        """(asked, size, version, extra), "absent" or None."""
        out = bytearray(self.layout.NAME_SIZE - self.layout.NAME_KEY)
        state = self.core.lookup(ME, key, key + who, key, out)
        if state == self.layout.NAME_UNKNOWN:
            return None
        return "absent" if state == self.layout.NAME_ABSENT else self.parsed(out)

    def parsed(self, out):
        words = [int.from_bytes(out[at : at + 8], "little") for at in range(0, 32, 8)]
        data = bytes(out[self.layout.NAME_DATA - self.layout.NAME_KEY :])
        version = words[1] >> self.layout.NAME_VERSION_SHIFT & self.layout.NAME_LENGTH_MASK
        extra = words[1] >> self.layout.NAME_EXTRA_SHIFT & self.layout.NAME_LENGTH_MASK
        return words[2] // SECOND, words[3], data[:version], data[version : version + extra]

    def list(self):
        """The keys of all names."""
        found, n = [], 0
        out = bytearray(self.layout.NAME_SIZE - self.layout.NAME_KEY)
        while (n := self.core.next_used(ME, n, out)) != NIL:
            found.append(int.from_bytes(out[:8], "little"))
            n += 1
        return sorted(found)

    def record(self, id):
        """The offset of a name's record."""
        return self.segment.slab.at(self.layout.SLAB_NAMES, id & self.layout.OBJECT_MASK)

    def place(self, id):
        """The offset of its word in the index."""
        start = self.segment.shape["names"]
        words = [start + n * 4 for n in range(self.segment.shape["nnames"])]
        (place,) = [at for at in words if self.segment.read(at) == (id & self.layout.OBJECT_MASK) + 1]
        return place

    def objects(self):
        return self.segment.slab.objects(self.layout.SLAB_NAMES)

    def same_set(self, count):
        """So many keys of one set."""
        first = self.core.first_of(1)
        keys, key = [], 1
        while len(keys) < count:
            if self.core.first_of(key) == first:
                keys.append(key)
            key += 1
        return keys


@pytest.fixture
def names(segments):
    return Names(segments(pages=256))  # two sets


def test_nothing_is_known_at_first(names):
    assert names.lookup(1) is None
    assert names.list() == []
    assert names.objects() == 0


def test_an_answer_is_known(names):
    id = names.begin(1)
    assert names.lookup(1) is None
    assert names.answer(id, version=b"etag", extra=b"dtype", size=12345)
    assert names.lookup(1) == (10, 12345, b"etag", b"dtype")
    assert names.list() == [1]
    assert names.segment.findings() == []


def test_that_there_is_no_such_thing_is_an_answer(names):
    names.know(1, version=b"", state=names.layout.NAME_ABSENT)
    assert names.lookup(1) == "absent"


def test_a_longest_answer(names):
    names.know(1, version=b"v" * 100, extra=b"e" * 156)
    assert names.lookup(1) == (10, 100, b"v" * 100, b"e" * 156)
    names.know(1, asked=11)
    assert names.lookup(1) == (11, 100, b"v", b"")


def test_who_asks_is_a_part_of_the_name(names):
    names.know(1, who=0, version=b"mine")
    assert names.lookup(1, who=7) is None
    names.know(1, who=7, version=b"theirs")
    assert (names.lookup(1)[2], names.lookup(1, who=7)[2]) == (b"mine", b"theirs")


@pytest.mark.parametrize(("now", "oldest", "is_fresh"), [(12, 10, True), (12, 11, False), (9, 5, True), (8, 5, False)])
def test_fresh_is_what_was_asked_for_lately(names, now, oldest, is_fresh):
    """A second ahead is another process's look at the same clock; more is another clock."""
    names.know(1)
    assert (names.begin(1, now, oldest) == names.layout.NAME_FRESH) == is_fresh


@pytest.mark.parametrize(("now", "oldest", "is_taken"), [(12, 10, True), (12, 11, False), (9, 5, True), (8, 5, False)])
def test_one_asks_at_a_time(names, now, oldest, is_taken):
    names.segment.client.attach(OTHER)
    id = names.begin(1)
    found = names.begin(1, now, oldest, me=OTHER)
    assert found == (names.layout.NAME_TAKEN if is_taken else id)


def test_the_first_asker_may_answer_after_it_was_replaced(names):
    id = names.begin(1)
    assert names.begin(1, 20, 20, me=OTHER) == id
    assert names.answer(id, 10, version=b"old")
    assert names.lookup(1)[2] == b"old"
    assert names.begin(1, 20, 20, me=0) == names.layout.NAME_TAKEN
    assert names.answer(id, 20, version=b"new", me=OTHER)
    assert names.lookup(1)[2] == b"new"
    assert names.core.join(ME, 1, 1, 1) == 0


def test_an_older_answer_does_not_replace_a_later_one(names):
    id = names.begin(1)
    assert names.begin(1, 20, 20, me=OTHER) == id
    assert names.answer(id, 20, version=b"new", me=OTHER)
    assert not names.answer(id, 10, version=b"old")
    assert names.lookup(1)[2] == b"new"


def test_what_was_asked_for_before_it_was_forgotten_is_not_remembered(names):
    id = names.begin(1)
    assert names.core.forget(ME, 1)
    assert not names.answer(id)
    again = names.begin(1)
    assert again != id
    assert not names.answer(id, version=b"old")
    assert names.answer(again, version=b"new")
    assert names.lookup(1)[2] == b"new"


def test_forgetting_is_for_all_who_ask(names):
    for who in (0, 1, 2):
        names.know(1, who=who)
    names.know(2)
    assert names.core.forget(ME, 1)
    assert [names.lookup(1, who) for who in (0, 1, 2)] == [None] * 3
    assert names.list() == [2]
    assert names.objects() == 1
    assert names.segment.findings() == []


def test_a_question_that_failed_leaves_nothing(names):
    id = names.begin(1)
    names.core.withdraw(ME, id, 10 * SECOND)
    assert names.objects() == 0
    assert names.segment.findings() == []


def test_a_question_that_failed_leaves_the_last_answer(names):
    names.know(1)
    id = names.begin(1, 20, 20)
    names.core.withdraw(ME, id, 20 * SECOND)
    assert names.lookup(1)[0] == 10
    assert names.core.join(OTHER, 1, 1, 1) == 0


def test_only_the_asker_withdraws(names):
    id = names.begin(1)
    names.core.withdraw(OTHER, id, 10 * SECOND)
    names.core.withdraw(ME, id, 11 * SECOND)
    assert names.begin(1, me=OTHER) == names.layout.NAME_TAKEN


@pytest.mark.parametrize("end", ["answer", "withdraw", "forget"])
def test_who_sleeps_is_woken(names, end):
    """A sleep ends by itself after a while, so the tickets are looked at, too: two clients sleep on one word."""
    id = names.begin(1)
    tickets = [names.core.join(me, 1, 1, 1) for me in (0, OTHER)]
    assert tickets[0] == tickets[1] != 0
    asker = names.record(id) + names.layout.NAME_ASKER
    assert names.segment.read(asker) == names.layout.NAME_WAITERS | ME + 1

    def finish():
        if end == "answer":
            return names.answer(id)
        return names.core.withdraw(ME, id, 10 * SECOND) if end == "withdraw" else names.core.forget(ME, 1)

    unlocked = names.segment.unlocked.names
    together(lambda: unlocked.sleep(tickets[0], SECOND), lambda: unlocked.sleep(tickets[1], SECOND), finish)
    assert names.segment.read(asker) == 0
    assert names.core.join(0, 1, 1, 1) == 0
    assert unlocked.sleep(tickets[0], 3600 * SECOND) != 0  # the word is another: not even a slice


def test_a_dead_asker_is_replaced(segments):
    names = Names(segments(pages=256))
    if names.segment.world.compiled:
        names.segment.client.set_state(OTHER, names.layout.SLOT_DEAD)
    else:
        names.segment.mem.dead.add(OTHER)
    id = names.begin(1, me=OTHER)
    assert names.core.join(ME, 1, 1, 1) == 0
    assert names.begin(1, 11, 5) == id
    assert names.answer(id, 11)
    assert names.lookup(1)[0] == 11


def test_the_next_client_in_the_slot_is_not_the_asker(names):
    id = names.begin(1, me=OTHER)
    assert names.begin(1) == names.layout.NAME_TAKEN
    life = names.segment.client.slot(OTHER) + names.layout.CLIENT_GENERATION
    names.segment.write(life, names.segment.read(life) + 1)
    assert names.core.join(ME, 1, 1, 1) == 0
    assert names.begin(1) == id


def test_a_full_set_makes_room(names):
    keys = names.same_set(names.layout.NAME_WAYS + 2)
    for n, key in enumerate(keys[: names.layout.NAME_WAYS]):
        names.know(key, asked=100 - n)
    oldest, used = keys[names.layout.NAME_WAYS - 1], keys[names.layout.NAME_WAYS - 2]
    names.lookup(oldest)
    names.know(keys[-1])
    assert names.lookup(used) is None, "of those not looked up, the one with the oldest answer"
    assert names.lookup(oldest) is not None
    names.know(keys[-2], asked=200)
    assert names.objects() == names.layout.NAME_WAYS
    assert names.segment.findings() == []


def test_all_that_were_used_are_compared_by_age(names):
    keys = names.same_set(names.layout.NAME_WAYS + 1)
    for n, key in enumerate(keys[:-1]):
        names.know(key, asked=100 + n)
        names.lookup(key)
    names.know(keys[-1], asked=300)
    assert [names.lookup(key) is None for key in keys] == [True] + [False] * names.layout.NAME_WAYS


def test_a_question_under_way_keeps_its_name(names):
    keys = names.same_set(names.layout.NAME_WAYS + 1)
    ids = [names.begin(key) for key in keys[:-1]]
    assert names.begin(keys[-1]) == names.layout.NAME_NOMEM
    assert all(names.answer(id) for id in ids)
    assert names.begin(keys[-1]) > names.layout.NAME_BUSY


def test_names_take_a_share_of_the_pool(segments):
    """Whatever is asked for, their pages are not many more than their share."""
    names = Names(segments(pages=4096))
    for key in range(3000):
        names.know(key * 7919)
    pages = names.segment.census()["pages_by_state"]["name"]
    assert 30 < pages <= 4096 // names.layout.NAME_SHARE + 1
    assert names.segment.findings() == []


def test_a_name_has_room_where_folios_are_evicted_for_it(names):
    segment = names.segment
    ino = segment.open(folios=1024)
    index = 0
    while segment.free():
        segment.cache(ino, [index])
        index += 1
    names.know(1)
    assert names.lookup(1) is not None
    assert segment.findings() == []


def test_without_memory_nothing_is_remembered(names):
    segment = names.segment
    while segment.page_alloc.alloc(ME, 0) != NIL:
        pass
    assert names.begin(1) == names.layout.NAME_NOMEM


def test_empty_pages_go_back(names):
    free = names.segment.free()
    for key in range(24):
        names.know(key)
    for key in range(24):
        names.core.forget(ME, key)
    names.segment.give_back_empty_pages()
    assert names.segment.free() == free - names.layout.SLAB_KEEP
    assert names.segment.findings() == []


def test_a_lookup_while_the_name_is_written_knows_nothing(names):
    id = names.know(1)
    word = names.record(id) + names.layout.NAME_SEQ
    before = names.segment.read(word)
    names.segment.write(word, before | 1)
    assert names.lookup(1) is None
    assert names.list() == []
    names.segment.write(word, before)
    assert names.lookup(1) is not None


def test_a_lookup_between_two_answers(between):
    """What changes while it is copied is not taken."""
    names = Names(Segment(interpreted(), 256))
    id = names.know(1, version=b"first")
    assert names.begin(1, 11, 11) == id
    with between(names.segment, "copy_out_relaxed", lambda: names.answer(id, 11, version=b"second")):
        assert names.lookup(1) is None
    assert names.lookup(1)[2] == b"second"


# Repair.

DAMAGES = ["sequence", "half written", "id", "serial", "state", "version", "text", "index", "other set", "twice", "pages"]


def damage(names, kind):
    layout, segment = names.layout, names.segment
    id, other = names.know(1), names.know(2)
    at = names.record(id)
    if kind == "sequence":
        segment.write(at + layout.NAME_SEQ, 0)
    elif kind == "half written":
        segment.write(at + layout.NAME_SEQ, segment.read(at + layout.NAME_SEQ) | 1)
    elif kind == "id":
        segment.write64(at + layout.NAME_ID, other)
    elif kind == "serial":
        segment.write64(at + layout.NAME_ID, id + (1000 << layout.OBJECT_BITS))
    elif kind == "state":
        segment.write64(at + layout.NAME_STATE, 3)
    elif kind == "version":
        segment.write64(at + layout.NAME_STATE, layout.NAME_PRESENT | 257 << layout.NAME_VERSION_SHIFT)
    elif kind == "text":
        segment.write64(at + layout.NAME_STATE, layout.NAME_PRESENT | 169 << layout.NAME_TEXT_SHIFT)
    elif kind == "index":
        segment.write(names.place(id), 3)
    elif kind == "other set":
        place = names.place(id)
        start, words = segment.shape["names"], segment.shape["nnames"]
        segment.write(start + (place - start + words * 2) % (words * 4), segment.read(place))
        segment.write(place, 0)
    elif kind == "twice":
        first = segment.shape["names"] + 4 * names.core.first_of(1)
        empty = next(first + 4 * n for n in range(layout.NAME_WAYS) if segment.read(first + 4 * n) == 0)
        segment.write(empty, segment.read(names.place(id)))
    elif kind == "pages":
        segment.set_field(segment.slab.pfn_of(id & layout.OBJECT_MASK), layout.F_USED, 7)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_and_repaired(names, kind):
    damage(names, kind)
    assert any(finding["check"] in ("name", "slab") for finding in names.segment.findings())
    for part in ("REPAIR_SLABS", "REPAIR_NAMES"):
        names.segment.reap.repair(ME, getattr(names.layout, part))
    assert names.segment.findings() == []
    names.know(1, asked=20)
    assert names.lookup(1)[0] == 20 and names.lookup(2) is not None


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_hurts_nobody(names, kind):
    damage(names, kind)
    names.lookup(1)
    names.list()
    names.core.join(ME, 1, 1, 1)
    id = names.begin(1, 30, 30)
    if id > names.layout.NAME_BUSY:
        names.answer(id, 30)
    names.core.forget(ME, 1)
    names.core.forget(ME, 2)


def test_the_word_of_a_damaged_index_may_lead_to_user_data(names):
    segment, layout = names.segment, names.layout
    ino = segment.open()
    pfn = segment.cache(ino, [0])[0]
    place = segment.shape["names"] + 4 * names.core.first_of(5)
    content = bytearray(4096)
    for field, value in (("DIGEST_LO", 5), ("DIGEST_HI", 5), ("STATE", layout.NAME_PRESENT)):
        at = getattr(layout, f"NAME_{field}")
        content[at : at + 8] = value.to_bytes(8, "little")
    content[layout.NAME_SEQ] = 2
    segment.set_content(pfn, content)
    segment.write(place, (pfn << segment.shape["page_shift"] - layout.OBJECT_SHIFT) + 1)
    names.lookup(5)
    names.begin(5)
    names.core.forget(ME, 5)
    assert segment.content(pfn, 4096) == content


@pytest.mark.parametrize("make", [compiled, interpreted])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["begin", "answer", "withdraw", "forget"]), st.integers(0, 40), st.sampled_from([0, 1, 2])),
        max_size=120,
    )
)
def test_any_sequence_keeps_the_last_answer(make, steps):
    """Against a dict: an answer of an id that was forgotten changes nothing; what is known is the latest answer, or nothing."""
    names = Names(Segment(make(), 256))
    for client in (0, 2):
        names.segment.client.attach(client)
    ids, asked, known = {}, {}, {}
    for now, (step, key, me) in enumerate(steps, 10):
        if step == "begin":
            id = names.begin(key, now, now, me=me)
            assert id == names.layout.NAME_NOMEM or id > names.layout.NAME_BUSY
            if id:
                ids[key, me], asked[id] = (id, now), max(now, asked.get(id, 0))
        elif step == "forget":
            names.core.forget(me, key)
            known.pop(key, None)
        elif (key, me) in ids:
            id, then = ids.pop((key, me))
            if step == "withdraw":
                names.core.withdraw(me, id, then * SECOND)
            elif names.answer(id, then, version=str(then).encode(), me=me):
                known[key] = then
    for key in range(41):
        found = names.lookup(key)
        assert found is None or (found[0], found[2]) == (known.get(key), str(known.get(key)).encode())
    assert names.segment.findings() == []
    assert set(names.list()) >= {key for key in known if names.lookup(key)}
