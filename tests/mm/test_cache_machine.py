"""The whole cache against a dict: after any calls, contents are right, pins hold, and no page is lost."""

import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sampled import WHOLE
from world import BYTES, ME, Segment, compiled, interpreted, state_machine

NIL = 0xFFFFFFFF
ORDERS = {1: 0, 2: 0, 3: 1, 4: 2}  # object: its folios' order
FOLIOS = {1: 1, 2: 64, 3: 80, 4: 5000}
PAGES = 40

objects = st.sampled_from(sorted(ORDERS))
places = st.integers(0, 11)


class Cache(RuleBasedStateMachine):
    """The model: ``cached`` maps (object, index) to (pfn, content); ``pins`` and ``filling`` list what is held."""

    make = None

    def __init__(self):
        super().__init__()
        self.segment = Segment(self.make(), PAGES)
        self.layout = self.segment.layout
        self.cached, self.pins, self.filling = {}, [], []
        self.inos, self.dead = {}, set()
        self.stamps = itertools.count(1)

    # Helpers.

    def index(self, key, place):
        """An index: one of the first few, or of the last."""
        return min(place, FOLIOS[key] - 1) if place < 8 else max(0, FOLIOS[key] - place + 7)

    def open(self, key):
        ino = self.segment.open(key, FOLIOS[key], ORDERS[key])
        if ino and ino != self.inos.get(key):
            assert ino not in self.dead, "an ino was given twice"
            assert not any(owner == key for owner, _ in self.cached), "the record went before its folios"
            self.dead.add(ino)
            self.inos[key] = ino
        return ino

    def grab_folio(self, key, index):
        ino = self.open(key)
        return self.segment.filemap.grab(ME, ino, index, ORDERS[key], 0, BYTES) if ino else self.layout.GRAB_NOMEM

    def find(self, key, index):
        ino = self.inos.get(key)
        return self.segment.find(ino, index, FOLIOS[key]) if ino else NIL

    def forget_evicted(self):
        """After a call that may evict: drop evicted folios from the model, and assert that none of them was in use."""
        for (key, index), folio in list(self.cached.items()):
            found = self.find(key, index)
            if found == NIL:
                assert not self.is_pinned(folio), "a pinned folio was evicted"
                del self.cached[key, index]
            else:
                assert found == folio[0]
                self.segment.folio.put(ME, found)

    def is_pinned(self, folio):
        """True if this folio, by pfn and content, is pinned: the page may belong to another folio by now."""
        return folio in self.pins or any(folio == (pfn, content) for pfn, _, content in self.filling)

    # Calls of users.

    @rule(key=objects, place=places)
    def grab(self, key, place):
        index = self.index(key, place)
        found = self.grab_folio(key, index)
        while found == self.layout.GRAB_GONE:  # making room took the last folio of this very object
            self.forget_evicted()
            found = self.grab_folio(key, index)
        pfn = found & NIL
        if found == self.layout.GRAB_NOMEM:
            assert (key, index) not in self.cached
        elif found & self.layout.GRAB_ADDED:
            assert not self.is_pinned(self.cached.pop((key, index), None))
            content = b"%08d" % next(self.stamps)
            self.segment.set_content(pfn, content)
            self.filling.append((self.segment.hold(pfn), key, content))
            self.cached[key, index] = pfn, content
        else:
            assert self.cached[key, index][0] == self.segment.hold(pfn)
            self.pins.append(self.cached[key, index])
        self.forget_evicted()

    @rule(key=objects, place=places)
    def find_get(self, key, place):
        index = self.index(key, place)
        pfn = self.find(key, index)
        if pfn == NIL:
            assert (key, index) not in self.cached
        else:
            assert self.cached[key, index][0] == self.segment.hold(pfn)
            self.segment.flags.mark_referenced(self.segment.at(pfn), self.segment.flags.load(self.segment.at(pfn)))
            self.pins.append(self.cached[key, index])

    @rule(choice=st.integers(0, 99))
    def complete(self, choice):
        if self.filling:
            pfn, _, content = self.filling.pop(choice % len(self.filling))
            self.segment.filemap.complete(ME, pfn)
            self.pins.append((pfn, content))

    @rule(choice=st.integers(0, 99))
    def fail(self, choice):
        if self.filling:
            pfn, key, content = self.filling.pop(choice % len(self.filling))
            self.segment.filemap.remove(ME, self.inos[key], pfn)
            self.segment.fill.fail(pfn)
            self.cached = {where: what for where, what in self.cached.items() if what != (pfn, content)}
            self.segment.let_go(pfn)

    @rule(choice=st.integers(0, 99))
    def unpin(self, choice):
        if self.pins:
            pfn, content = self.pins.pop(choice % len(self.pins))
            assert self.segment.content(pfn) == content
            self.segment.let_go(pfn)

    @rule()
    def unpin_all(self):
        while self.pins:
            self.unpin(0)

    @rule(key=objects, place=places)
    def truncate(self, key, place):
        if key in self.inos:
            last = self.index(key, place)
            self.segment.filemap.truncate(ME, self.inos[key], last)
            self.cached = {(owner, i): what for (owner, i), what in self.cached.items() if owner != key or i > last}

    # Reclaim.

    @rule(want=st.integers(1, 12))
    def shrink(self, want):
        free = self.segment.free()
        freed = self.segment.vmscan.shrink(ME, want)
        assert self.segment.free() >= free + freed
        self.forget_evicted()

    @rule(order=st.integers(0, 4))
    def make_room(self, order):
        pfn = self.segment.vmscan.alloc_folio(ME, order)
        if pfn != NIL:
            self.segment.page_alloc.free(ME, pfn, order)
            self.segment.client.retract(ME, pfn)
        elif order == 0:
            assert self.segment.free() == 0
        self.forget_evicted()
        if order == 0 and pfn == NIL:
            assert all(self.is_pinned(folio) for folio in self.cached.values())

    @rule(seed=st.integers(0, 99), count=st.integers(5, 60))
    def flood(self, seed, count):
        """Add many folios and release them at once: the pool overflows, and trees and records are made and freed."""
        rng = random.Random(seed)
        for _ in range(count):
            held, before = len(self.pins), len(self.filling)
            self.grab(rng.choice(list(ORDERS)), rng.randrange(12))
            if len(self.filling) > before:
                self.complete(before)
            while len(self.pins) > held:
                self.unpin(held)

    # Invariants.

    @invariant()
    def the_segment_is_clean(self):
        assert self.segment.findings() == []

    @invariant()
    def no_page_is_lost(self):
        census = self.segment.census()
        assert sum(census["pages_by_state"].values()) == PAGES
        assert census["pages_by_state"]["frozen"] == 0
        assert census["pages_by_state"]["free"] == self.segment.free()
        assert census["pins"] == len(self.pins) + len(self.filling)

    @invariant()
    def contents_are_right(self):
        for pfn, content in itertools.chain(self.pins, self.cached.values(), ((pfn, text) for pfn, _, text in self.filling)):
            assert self.segment.content(pfn) == content

    @invariant()
    def what_is_cached_is_found(self):
        for (key, index), (pfn, _) in self.cached.items():
            assert self.find(key, index) == pfn
            self.segment.folio.put(ME, pfn)

    def teardown(self):
        while self.filling:
            self.fail(0)
        self.unpin_all()
        for key in self.inos:
            self.truncate(key, 8)
        assert self.segment.available() == PAGES
        assert self.segment.findings() == []


TestCacheCompiled = state_machine(Cache, compiled, 50)
TestCacheInterpreted = state_machine(Cache, interpreted, 50 if WHOLE else 30)


calls = st.sampled_from(["grab", "let go", "truncate", "shrink", "use", "table"])


@given(steps=st.lists(st.tuples(calls, objects, places), max_size=60))
@settings(max_examples=40)
def test_both_worlds_leave_the_same_bytes(steps):
    """Every word of the segment is the same after the same calls and results, but for ticks of the clock between them."""
    segments = Segment(compiled(), PAGES), Segment(interpreted(), PAGES)
    begin, layout = time.monotonic_ns(), segments[0].layout
    answers = [_play(segment, steps) for segment in segments]
    assert answers[0] == answers[1]
    ticks = (time.monotonic_ns() >> layout.SEEN_TICK_SHIFT) - (begin >> layout.SEEN_TICK_SHIFT)
    for pfn in range(PAGES):
        word, later = (segment.field(pfn, layout.F_QUEUE) for segment in segments)
        if later - word in range(1 << layout.SEEN_SHIFT, (ticks + 1) << layout.SEEN_SHIFT, 1 << layout.SEEN_SHIFT):
            segments[1].set_field(pfn, layout.F_QUEUE, word)
    assert segments[0].buffer == segments[1].buffer


def _play(segment, steps):
    answers, held = [], []
    for step, key, place in steps:
        ino = segment.open(key, FOLIOS[key], ORDERS[key])
        index = min(place, FOLIOS[key] - 1)
        if step == "grab" and ino:
            found = segment.filemap.grab(ME, ino, index, ORDERS[key], 0, BYTES)
            answers.append(found)
            if found & segment.layout.GRAB_ADDED:
                segment.filemap.complete(ME, found & NIL)
            if found < segment.layout.GRAB_NOMEM:
                held.append(found & NIL)
        elif step == "let go" and held:
            segment.folio.put(ME, held.pop(place % len(held)))
        elif step == "truncate" and ino:
            segment.filemap.truncate(ME, ino, index)
        elif step == "shrink":
            answers.append(segment.vmscan.shrink(ME, place))
        elif step == "use" and held:
            segment.flags.mark_referenced(segment.at(held[-1]), 0)
        elif step == "table":
            table = segment.pagetable.create(ME, place)
            answers.append(table)
            if table != NIL:
                segment.pagetable.clear(ME, table)
                segment.folio.put(ME, table)
    return answers


@pytest.mark.parametrize("make", [compiled, interpreted])
def test_the_machine_finds_an_eviction_of_a_pinned_folio(make):
    """The model detects it if a pin is dropped without its knowledge and the pool overflows."""

    class Broken(Cache):
        pass

    Broken.make = staticmethod(make)
    machine = Broken()
    machine.grab(2, 0)
    machine.complete(0)
    machine.segment.folio.put(ME, machine.pins[0][0])
    with pytest.raises(AssertionError):
        for place in range(12):
            machine.flood(place, 60)
