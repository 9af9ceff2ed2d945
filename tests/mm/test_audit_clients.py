"""audit: what it says of clients and locks, and of a folio that may be damaged; in the interpreted world."""

import pytest
from calls import Calls
from world import ME, Segment, interpreted

OTHER = 2


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def audit(segment):
    return segment.world.audit


def said(segment):
    return [(finding["check"], finding["where"], finding["message"]) for finding in segment.findings()]


def locks(layout):
    """{name: word} of all locks."""
    singles = {
        "allocator": layout.ALLOC_LOCK, "queues": layout.LRU_LOCK, "mapping table": layout.TABLE_LOCK,
        "name table": layout.NAMES_LOCK,
    }  # fmt: skip
    slabs = {f"slab {n}": layout.SLAB_LOCK + n * layout.SLAB_STRIDE for n in range(3)}
    return singles | slabs | {f"tree {n}": layout.TREE_LOCK + n * 64 for n in range(256)}


def test_each_lock_has_a_name(segment, audit):
    words = locks(segment.layout)
    for word in words.values():
        segment.robust_lock.lock(word, ME)
    assert audit.held_locks(segment.memory) == [{"lock": name, "slot": ME} for name in words]
    assert said(segment) == []


@pytest.mark.parametrize("name", ["allocator", "slab 2", "tree 255"])
def test_a_lock_of_a_dead_client_or_a_broken_one(segment, name):
    word = locks(segment.layout)[name]
    segment.client.attach(OTHER)
    segment.robust_lock.lock(word, OTHER)
    segment.robust_lock.mark_broken(word)
    assert said(segment) == []
    segment.mem.dead.add(OTHER)
    assert ("lock", f"lock at {word}", "is held by client 2, which is dead") in said(segment)
    segment.mem.dead.clear()
    segment.robust_lock.unlock(word)
    assert said(segment) == [("lock", f"lock at {word}", "is broken: its next owner repairs what it protects")]


def test_slots_that_have_no_memory_are_not_held(segment):
    segment.write(segment.layout.SLOTS_BACKED, 2)
    segment.mem.dead.update({2, 3})
    assert said(segment) == []
    segment.mem.dead.clear()
    assert said(segment) == [("client", f"slot {n}", "is held, but only 2 slots have memory") for n in (2, 3)]


@pytest.mark.parametrize("slot", [0, ME, 3])
def test_each_word_of_each_slot_is_read(segment, slot):
    segment.client.attach(slot)
    last = segment.client.words() - 1
    for n, (word, message) in {
        0: (segment.pages | segment.layout.PIN_INTENT, "names pfn 64, which is beyond the pool"),
        last: (segment.pages + 1 | segment.layout.PIN_OWNED, "names pfn 65, which is beyond the pool"),
    }.items():
        segment.write(segment.client.word_at(slot, n), word)
        assert said(segment) == [("client", f"slot {slot}", message)]
        segment.write(segment.client.word_at(slot, n), 0)
    segment.write(segment.client.slot(slot) + segment.layout.CLIENT_UNNAMED, 3)
    assert said(segment) == [("client", f"slot {slot}", "had 3 folios for which it had no word")]


@pytest.mark.parametrize("busy", [0, ME, 3])
def test_a_client_in_an_operation_makes_it_unsure(segment, audit, busy):
    segment.client.attach(busy)
    pfn = segment.cache(segment.open(1), [0])[0]
    assert not audit.is_damaged(segment.memory, pfn)
    segment.write64(segment.at(pfn) + segment.layout.F_INDEX, 9)
    assert audit.is_damaged(segment.memory, pfn), "its slot names another"
    segment.client.op_begin(busy)
    assert not audit.is_damaged(segment.memory, pfn)
    segment.mem.dead.add(busy)
    assert audit.is_damaged(segment.memory, pfn)
    segment.mem.dead.clear()
    segment.client.set_state(busy, segment.layout.SLOT_CLEAN)
    assert audit.is_damaged(segment.memory, pfn)


def test_an_operation_meanwhile_makes_it_unsure(segment, audit, monkeypatch):
    pfn = segment.cache(segment.open(1), [0])[0]
    segment.write64(segment.at(pfn) + segment.layout.F_INDEX, 9)
    walk, times = audit.Audit.walk_folio, []

    def walked(self, pfn):
        times.append(1)
        segment.client.op_begin(ME)
        segment.client.op_end(ME)
        return walk(self, pfn)

    monkeypatch.setattr(audit.Audit, "walk_folio", walked)
    assert audit.is_damaged(segment.memory, pfn) is False and len(times) == segment.layout.QUIET_TRIES


def test_a_barrier_comes_before_each_sample(segment, audit, monkeypatch):
    calls = Calls(segment, monkeypatch)
    calls.replace("atomics.asymmetric_fence_heavy", [], lambda: segment.client.op_begin(ME))
    assert audit._activities(segment.mem) is None and len(calls.made) == 1
