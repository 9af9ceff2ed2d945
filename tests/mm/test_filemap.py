"""filemap: lookup, insert and removal."""

import mmap
import os
import random
import signal

import pytest
from world import BYTES, ME, PAGE, Segment, compiled, forked

from foliocache.pool import geometry

NIL, FROZEN = 0xFFFFFFFF, 0x80000000


def grab(segment, ino, index, order=0):
    return segment.filemap.grab(ME, ino, index, order, 0, BYTES)


def put(segment, pfn):
    segment.folio.put(ME, pfn)


def take_all(segment):
    """Allocate every free page, as frozen single pages."""
    taken = []
    while (pfn := segment.page_alloc.alloc(ME, 0)) != NIL:
        taken.append(pfn)
    return taken


def test_a_miss_adds_a_locked_folio(segment):
    ino = segment.open()
    found = grab(segment, ino, 7)
    pfn = found & NIL
    assert found == segment.layout.GRAB_ADDED | pfn
    assert segment.count(pfn) == 2
    assert segment.flags.load(segment.at(pfn)) == segment.layout.PG_LOCKED
    assert segment.field(pfn, segment.layout.F_OWNER) == ME
    assert segment.field(pfn, segment.layout.F_LENGTH) == PAGE
    assert segment.folio.is_identity(pfn, ino, 7)
    assert segment.findings() == []


def test_a_hit_pins_what_is_there(segment):
    ino = segment.open()
    pfn = segment.add(ino, 7)
    assert grab(segment, ino, 7) == pfn
    assert segment.find(ino, 7) == pfn
    assert segment.count(pfn) == 4


def test_a_second_grabber_gets_the_locked_folio(segment):
    ino = segment.open()
    pfn = grab(segment, ino, 7) & NIL
    assert grab(segment, ino, 7) == pfn
    assert segment.find(ino, 7) == pfn


def test_find_get_of_what_is_not_there(segment):
    ino = segment.open()
    assert segment.find(ino, 0) == NIL
    put(segment, segment.add(ino, 0))
    assert [segment.find(ino, index) for index in (1, 62, 63)] == [NIL] * 3


@pytest.mark.parametrize("folios", [1, 2, 64, 65, 1 << 20, 1 << 40])
def test_the_last_folio_of_objects_of_any_size(segment, folios):
    ino = segment.open(folios=folios)
    pfn = segment.add(ino, folios - 1)
    assert segment.find(ino, folios - 1, folios) == pfn
    assert segment.find(ino, 0, folios) == (pfn if folios == 1 else NIL)


@pytest.mark.parametrize("order", range(5))
def test_large_folios(segment, order):
    ino = segment.open(order=order)
    pfn = segment.add(ino, 2, order)
    assert segment.free() == 64 - (1 << order) - 2  # a node and a record
    assert segment.page_type.order(pfn) == order
    assert segment.find(ino, 2) == pfn
    assert segment.findings() == []


def test_two_objects_do_not_mix(segment):
    first, second = segment.open(1), segment.open(2)
    pfns = segment.add(first, 5), segment.add(second, 5)
    assert (segment.find(first, 5), segment.find(second, 5)) == pfns
    assert pfns[0] != pfns[1]


def test_find_get_refuses_a_folio_of_another_identity(segment):
    """The node was reused: the slot leads to a live folio of another mapping. It keeps its references."""
    ino, other = segment.open(1), segment.open(2)
    pfn, wrong = segment.add(ino, 5), segment.add(other, 5)
    slot = segment.xarray.find(segment.mapping.head(ino), 1, 5)
    segment.write(slot, (wrong + 1) << 1)
    assert segment.find(ino, 5) == NIL
    assert (segment.count(pfn), segment.count(wrong)) == (2, 2)


def test_find_get_refuses_a_frozen_folio_and_leaves_it_frozen(segment):
    ino = segment.open()
    put(segment, pfn := segment.add(ino, 5))
    assert segment.page_ref.freeze(segment.at(pfn), 1)
    assert segment.find(ino, 5) == NIL
    assert segment.count(pfn) == FROZEN


def test_find_get_of_a_saturated_folio_is_a_miss(segment):
    ino = segment.open()
    pfn = segment.add(ino, 5)
    segment.set_field(pfn, segment.layout.F_REF, segment.layout.REF_MAX)
    assert segment.find(ino, 5) == NIL
    assert segment.count(pfn) == segment.layout.REF_MAX


def test_grab_of_a_saturated_folio_gives_up_and_leaves_no_trace(segment):
    ino = segment.open()
    pfn = segment.add(ino, 5)
    segment.set_field(pfn, segment.layout.F_REF, segment.layout.REF_MAX)
    free = segment.free()
    assert grab(segment, ino, 5) == segment.layout.GRAB_NOMEM
    assert segment.count(pfn) == segment.layout.REF_MAX
    assert segment.free() == free
    assert segment.findings() == []


def test_find_get_looks_again_when_the_slot_changed(segments, between):
    """Removed between the get and the second look: the getter is its last holder, and puts it."""
    segment = segments()
    ino = segment.open()
    pfn = segment.add(ino, 5)
    put(segment, segment.add(ino, 6))

    def remove():
        segment.filemap.remove(ME, ino, pfn)
        put(segment, pfn)

    if segment.world.compiled:
        assert segment.page_ref.try_get(segment.at(pfn)) == segment.layout.GOT
        remove()
        put(segment, pfn)
    else:
        at = segment.xarray.find(segment.mapping.head(ino), 1, 5)
        seen = []
        with between(segment, "fetch_add_acquire", lambda: seen.append(at)):
            pass_on = _once_after(segment, "fetch_add_acquire", remove)
            with pass_on:
                assert segment.find(ino, 5) == NIL
        assert seen == [at]
    assert segment.count(pfn) == FROZEN
    assert segment.findings() == []


class _once_after:
    """``with _once_after(segment, name, action)``: do action right after the first step of that name."""

    def __init__(self, segment, name, action):
        self.atomics, self.name, self.action = segment.world.atomics, name, action
        self.original = getattr(self.atomics, name)

    def __enter__(self):
        setattr(self.atomics, self.name, self._step)

    def __exit__(self, *exc):
        setattr(self.atomics, self.name, self.original)

    def _step(self, *args):
        found = self.original(*args)
        setattr(self.atomics, self.name, self.original)
        self.action()
        return found


def test_grab_of_a_mapping_that_is_gone(segment):
    ino = segment.open()
    put(segment, segment.add(ino, 0))
    segment.filemap.truncate(ME, ino, 63)
    before = bytes(segment.buffer)
    assert grab(segment, ino, 0) == segment.layout.GRAB_GONE
    assert bytes(segment.buffer) == before


def test_grab_without_a_free_page(segment):
    """There is nothing to evict either; the record that was made for the folio is freed."""
    ino = segment.open()
    taken = take_all(segment)
    assert grab(segment, ino, 0) == segment.layout.GRAB_NOMEM
    assert segment.mapping.lookup(ME, 1, 2) == 0
    assert (segment.free(), segment.empty()) == (0, 1)
    assert len(taken) == 63


def test_grab_with_a_page_but_none_for_the_node(segment):
    ino = segment.open()
    taken = take_all(segment)
    segment.page_alloc.free(ME, taken.pop(), 0)
    assert grab(segment, ino, 0) == segment.layout.GRAB_NOMEM
    assert (segment.free(), segment.empty()) == (1, 1)  # the page is back; the record's is empty
    assert segment.lru.pages(segment.layout.QUEUE_SMALL) == 0


def test_grab_evicts_for_the_node(segment):
    """There is a page for the folio. The other object has one folio, and so no nodes."""
    ino, other = segment.open(1), segment.open(2, folios=1)
    segment.cache(other, [0])
    taken = take_all(segment)
    segment.page_alloc.free(ME, taken.pop(), 0)
    assert grab(segment, ino, 0) & segment.layout.GRAB_ADDED
    assert segment.mapping.folios(other) == 0


@pytest.mark.parametrize("folios", [1, 3])
def test_a_folio_ends_with_its_object(segment, folios):
    ino = segment.open(folios=folios)
    found = segment.filemap.grab(ME, ino, folios - 1, 0, 2, folios * PAGE)
    assert found & segment.layout.GRAB_ADDED
    assert segment.page_type.span(found & NIL) == 0
    assert segment.findings() == []


def test_grab_keeps_a_mapping_that_has_folios(segment):
    ino = segment.open()
    pfn = segment.add(ino, 0)
    take_all(segment)
    assert grab(segment, ino, 1) == segment.layout.GRAB_NOMEM
    assert segment.find(ino, 0) == pfn


def test_losing_against_another_inserter(segments, between):
    """Another client inserts the same index while ME sets its folio up: that is freed, and ME gets the other one."""
    segment = segments()
    ino = segment.open()
    if segment.world.compiled:
        other = grab(segment, ino, 3) & NIL
        assert grab(segment, ino, 3) == other
        return
    other = []
    with _once_after(segment, "store_release", lambda: other.append(grab(segment, ino, 3) & NIL)):
        mine = grab(segment, ino, 3)
    assert [mine] == other
    assert segment.count(mine) == 3
    assert segment.lru.pages(segment.layout.QUEUE_SMALL) == 0, "no candidate for reclaim before it is filled"
    segment.filemap.complete(ME, mine)
    put(segment, mine)
    put(segment, mine)
    assert segment.findings() == []


def test_a_mapping_that_goes_during_the_insert(segments):
    segment = segments()
    ino = segment.open()
    if segment.world.compiled:
        segment.mapping.release(ME, ino)
        assert grab(segment, ino, 3) == segment.layout.GRAB_GONE
    else:
        with _once_after(segment, "store_release", lambda: segment.mapping.release(ME, ino)):
            assert grab(segment, ino, 3) == segment.layout.GRAB_GONE
    assert segment.available() == 64
    assert segment.findings() == []


def test_a_failed_fill_leaves_nothing(segment):
    ino = segment.open()
    pfn = grab(segment, ino, 3) & NIL
    waiter = grab(segment, ino, 3)
    segment.filemap.remove(ME, ino, pfn)
    segment.fill.fail(pfn)
    assert segment.find(ino, 3) == NIL
    assert segment.flags.load(segment.at(waiter)) & segment.layout.PG_ERROR
    put(segment, pfn)
    put(segment, waiter)
    assert segment.available() == 64


def test_remove_while_pinned(segment):
    """The pin keeps page and content; the index is free for another folio."""
    ino = segment.open()
    old = segment.add(ino, 3)
    segment.set_content(old, b"old data")
    keeper = segment.add(ino, 4)
    segment.filemap.remove(ME, ino, old)
    assert segment.find(ino, 3) == NIL
    new = segment.add(ino, 3)
    assert new != old
    segment.set_content(new, b"new data")
    assert (segment.count(old), segment.content(old)) == (1, b"old data")
    put(segment, old)
    assert segment.count(old) == FROZEN
    assert segment.find(ino, 3) == new
    assert segment.mapping.folios(ino) == 2
    assert segment.count(keeper) == 2


def test_remove_twice(segment):
    ino = segment.open()
    pfn, other = segment.add(ino, 3), segment.add(ino, 4)
    for _ in range(2):
        segment.filemap.remove(ME, ino, pfn)
    assert segment.count(pfn) == 1
    assert segment.mapping.folios(ino) == 1
    assert segment.find(ino, 4) == other


def test_remove_from_a_mapping_that_is_gone(segment):
    ino = segment.open()
    pfn = segment.add(ino, 3)
    segment.filemap.truncate(ME, ino, 63)
    segment.filemap.remove(ME, ino, pfn)
    assert segment.count(pfn) == 1
    put(segment, pfn)
    assert segment.available() == 64


@pytest.mark.parametrize(("last", "left"), [(0, {1, 2, 40, 63}), (2, {40, 63}), (39, {40, 63}), (62, {63}), (63, set())])
def test_truncate(segment, last, left):
    ino = segment.open()
    segment.cache(ino, (0, 1, 2, 40, 63))
    segment.filemap.truncate(ME, ino, last)
    assert {index for index in range(64) if segment.find(ino, index) != NIL} == left
    assert (segment.mapping.lookup(ME, 1, 2) == ino) == bool(left)


def test_truncate_of_nothing(segment):
    ino = segment.open()
    segment.filemap.truncate(ME, ino, 63)
    assert segment.available() == 64
    segment.filemap.truncate(ME, ino, 63)
    assert segment.findings() == []


def test_truncate_to_the_end_of_the_largest_object(segment):
    folios = 1 << 40
    ino = segment.open(folios=folios)
    segment.cache(ino, (0, 1 << 20, folios - 1))
    segment.filemap.truncate(ME, ino, folios - 1)
    assert segment.available() == 64


DAMAGED = {
    "a slot that names another object's": lambda segment, ino, pfn, other: segment.write(
        segment.xarray.find(segment.mapping.head(ino), 1, 3), other + 1 << 1
    ),
    "a folio of another identity": lambda segment, ino, pfn, other: segment.write64(segment.at(pfn) + segment.layout.F_INO, 7),
    "a folio that is in no mapping": lambda segment, ino, pfn, other: segment.set_field(pfn, segment.layout.F_ATTACHED, 0),
    "a node in a page of another use": lambda segment, ino, pfn, other: segment.write64(
        segment.at(segment.slab.pfn_of(segment.read(segment.mapping.head(ino)) >> 1)) + segment.layout.F_INO, 7
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_truncate_drops_no_reference_but_that_of_the_slots(segment, damage):
    """However often: what is left of the others is a lease's."""
    ino = segment.open()
    pfn, other = segment.add(ino, 3), segment.add(segment.open(2), 5)
    segment.cache(ino, (9,))
    DAMAGED[damage](segment, ino, pfn, other)
    for _ in range(3):
        assert segment.filemap.truncate(ME, ino, 63)
    assert segment.count(pfn) == (1 if damage == "a node in a page of another use" else 2) and segment.count(other) == 2
    assert segment.field(other, segment.layout.F_ATTACHED) == 1


def test_truncate_leaves_pins_alone(segment):
    ino = segment.open()
    pfn = segment.add(ino, 3)
    segment.set_content(pfn, b"pinned!!")
    segment.cache(ino, range(10, 30))
    segment.filemap.truncate(ME, ino, 63)
    assert segment.available() == 63
    assert (segment.count(pfn), segment.content(pfn)) == (1, b"pinned!!")
    put(segment, pfn)
    assert segment.findings() == []


# Operations: each begins and ends itself, and leaves no word but its pin's.

KEY, ENTRY = 11, 5


def is_idle(segment):
    """True if ME is in no operation and has no intent."""
    at = segment.client.slot(ME)
    ops = range(at + segment.layout.CLIENT_OPS, at + segment.layout.CLIENT_OPS + 4 * segment.layout.OPS, 4)
    return segment.read(at + segment.layout.CLIENT_OP_SEQ) % 2 == 0 and not any(segment.read(op) for op in ops)


def open_object(segment, folios=64):
    height = segment.world.xarray.height_for(folios)
    return segment.filemap.open(ME, KEY, KEY + 1, KEY % 10, folios * PAGE, 0, height, b"key", 3, 0)


def pin_of(segment):
    return segment.read(segment.client.pin(ME, ENTRY))


@pytest.mark.parametrize(("length", "order"), [(1, 0), (PAGE, 0), (PAGE + 1, 1), (4 * PAGE, 2), (4 * PAGE + 1, 3)])
def test_add_pins_the_smallest_folio_that_will_do_at_the_end(segment, length, order):
    ino = segment.open(KEY, order=3)
    size = 7 * (PAGE << 3) + length
    found = segment.filemap.add(ME, ENTRY, ino, 7, 3, 0, size)
    pfn = found & NIL
    assert found == segment.layout.GRAB_ADDED | pfn
    assert segment.world.page_type.order(segment.mem, pfn) == order
    assert segment.field(pfn, segment.layout.F_LENGTH) == length
    assert pin_of(segment) == pfn | segment.layout.PIN_OWNED and is_idle(segment)
    assert segment.filemap.add(ME, ENTRY + 1, ino, 7, 3, 0, size) == pfn
    assert segment.count(pfn) == 3 and segment.findings() == []


def test_add_without_room_or_mapping_leaves_the_word_alone(segment):
    assert segment.filemap.add(ME, ENTRY, 1 << 40, 7, 0, 0, BYTES) == segment.layout.GRAB_GONE
    ino = open_object(segment)
    take_all(segment)
    before = [segment.read(segment.client.word_at(ME, n)) for n in range(segment.layout.OPS)]
    assert segment.filemap.add(ME, ENTRY, ino, 7, 0, 0, BYTES) == segment.layout.GRAB_NOMEM
    assert pin_of(segment) == 0
    assert [segment.read(segment.client.word_at(ME, n)) for n in range(segment.layout.OPS)] == before


def test_finish_fill_and_lookup(segment):
    ino = open_object(segment)
    pfn = segment.filemap.add(ME, ENTRY, ino, 7, 0, 0, BYTES) & NIL
    segment.filemap.finish_fill(ME, pfn)
    assert segment.flags.load(segment.at(pfn)) == segment.layout.PG_UPTODATE and is_idle(segment)
    segment.folio.release(ME, ENTRY, pfn)
    height = segment.world.xarray.height_for(64)
    assert segment.filemap.lookup(ME, ENTRY, ino, segment.mapping.head(ino), segment.mapping.mark(ino), height, 7) == pfn
    assert pin_of(segment) == pfn | segment.layout.PIN_OWNED and is_idle(segment)
    assert segment.filemap.lookup(ME, ENTRY + 1, ino, segment.mapping.head(ino), segment.mapping.mark(ino), height, 8) == NIL
    assert is_idle(segment) and segment.findings() == []


@pytest.mark.parametrize(("explained", "flags"), [(False, "PG_ERROR"), (True, "PG_ERROR PG_REASON")])
def test_withdraw_leaves_the_pin_alone(segment, explained, flags):
    ino = open_object(segment)
    pfn = segment.filemap.add(ME, ENTRY, ino, 7, 0, 0, BYTES) & NIL
    segment.filemap.withdraw(ME, pfn, explained)
    assert segment.flags.load(segment.at(pfn)) == sum(getattr(segment.layout, flag) for flag in flags.split())
    assert segment.count(pfn) == 1 and pin_of(segment) == pfn | segment.layout.PIN_OWNED and is_idle(segment)
    assert segment.filemap.resolve(ME, KEY, KEY + 1) == 0, "the record went with its only folio"
    segment.folio.release(ME, ENTRY, pfn)
    assert segment.findings() == [] and segment.available() == 64


def test_invalidate_and_resolve(segment):
    segment.filemap.invalidate(ME, KEY, KEY + 1, 63)
    ino = open_object(segment)
    assert segment.filemap.resolve(ME, KEY, KEY + 1) == ino == open_object(segment)
    segment.cache(ino, (3, 5, 63))
    segment.filemap.invalidate(ME, KEY, KEY + 1, 5)
    assert segment.mapping.folios(ino) == 1
    segment.filemap.invalidate(ME, KEY, KEY + 1, 63)
    assert segment.filemap.resolve(ME, KEY, KEY + 1) == 0 and is_idle(segment)
    assert segment.findings() == []


def test_forget_takes_one_version_after_the_other(segment):
    inos = {segment.open(key) for key in (11, 21, 31)}
    other = segment.open(12)
    for ino in (*inos, other):
        segment.cache(ino, (0, 9))
    gone, ino = [], 0
    while ino := segment.filemap.forget(ME, 1, ino):
        gone.append(ino)
    assert set(gone) == inos and len(gone) == 3
    assert segment.mapping.folios(other) == 2 and is_idle(segment)


def test_forget_of_what_was_just_forgotten_does_nothing(segment):
    ino = segment.open(11)
    segment.cache(ino, (0,))
    assert segment.filemap.forget(ME, 1, ino) == ino
    assert segment.mapping.folios(ino) == 1


def test_open_evicts_for_the_record(segment):
    """Every page is used by folios that are not pinned."""
    ino = segment.open(1)
    segment.cache(ino, range(64 - 3))  # less the record, and two nodes
    take_all(segment)
    assert segment.free() == 0
    height = segment.world.xarray.height_for(64)
    for key in range(2, 60):
        assert segment.filemap.open(ME, key, 0, key, 64 * PAGE, 0, height, b"key", 3, 0) != 0


def test_open_of_what_is_there_evicts_nothing(segment):
    ino = segment.open(1)
    segment.cache(ino, range(64 - 3))
    take_all(segment)
    height = segment.world.xarray.height_for(64)
    assert segment.filemap.open(ME, 1, 2, 1, 64 * PAGE, 0, height, b"key", 3, 0) == ino
    assert segment.mapping.folios(ino) == 64 - 3


# Damage, and calls that must end nevertheless.


def test_a_damaged_slot_is_found_out_under_the_lock_as_well(segment):
    """It names another object's folio: neither lookup returns that."""
    ino, other = segment.open(1), segment.open(2)
    pfn, wrong = segment.add(ino, 3), segment.add(other, 3)
    slot = segment.xarray.find(segment.mapping.head(ino), 1, 3)
    segment.write(slot, (wrong + 1) << 1)
    assert segment.find(ino, 3) == NIL
    assert grab(segment, ino, 3) == segment.layout.GRAB_NOMEM
    assert segment.count(wrong) == 2
    segment.write(slot, (pfn + 1) << 1)
    assert grab(segment, ino, 3) == pfn


@pytest.mark.parametrize("height", [0, 1, 2])
def test_a_truncation_goes_no_further_than_the_tree(segment, height):
    """On a record without folios, up to the last possible index: it would otherwise count to 2^40."""
    ino = segment.mapping.open(ME, 7, 8, 1, 1 << 40, 0, height, b"key", 3, 0)
    ends_soon(lambda: segment.filemap.truncate(ME, ino, segment.layout.XA_INDEX_MAX))
    assert segment.filemap.truncate(ME, ino, segment.layout.XA_INDEX_MAX)
    assert segment.mapping.lookup(ME, 7, 8) == 0


def ends_soon(function):
    """Run it in a child, which the kernel kills if it does not end: an endless loop of compiled code cannot be stopped
    otherwise."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            function()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


# Processes, with the compiled core.


def test_processes_at_once():
    """Three processes look up, fill, withdraw and evict in a pool that is too small; every byte that they see is right."""
    shape = geometry.compute(48, PAGE, 4)
    segment = Segment(compiled(), 48, buffer=mmap.mmap(-1, shape["size"]))
    forked(*(lambda me=me: _work(segment, me) for me in range(3)))
    assert segment.findings() == []
    assert segment.census()["pins"] == 0


def _work(segment, me):
    rng, held = random.Random(me), []
    for step in range(6000):
        key, index = rng.randrange(1, 4), rng.randrange(40)
        pfn, ino = _get(segment, me, key, index)
        if pfn == NIL:
            continue
        held.append((pfn, b"%03d %03d " % (key, index)))
        assert segment.content(pfn) == held[-1][1]
        if step % 30 == 0:
            segment.filemap.remove(me, ino, pfn)
        if step % 100 == 0:
            segment.filemap.truncate(me, ino, rng.randrange(40))
        if len(held) > 4:
            _let_go(segment, me, *held.pop(rng.randrange(5)))
    for lease in held:
        _let_go(segment, me, *lease)


def _let_go(segment, me, pfn, wanted):
    assert segment.content(pfn) == wanted, "changed under a pin"
    segment.folio.put(me, pfn)


def _get(segment, me, key, index):
    """Pin a filled folio, filling it if necessary. Return its pfn or NIL, and the ino."""
    layout = segment.layout
    while True:
        ino = segment.open(key, 40, text=b"", me=me)
        if ino == 0:
            return NIL, 0
        pfn = segment.filemap.find_get(me, ino, segment.mapping.head(ino), 1, index)
        if pfn == NIL:
            found = segment.filemap.grab(me, ino, index, 0, 0, BYTES)
            if found == layout.GRAB_NOMEM:
                return NIL, ino
            if found == layout.GRAB_GONE:
                continue
            pfn = found & NIL
            if found & layout.GRAB_ADDED:
                segment.set_content(pfn, b"%03d %03d " % (key, index))
                segment.filemap.complete(me, pfn)
        if segment.fill.wait(pfn, 20 * 10**9) & layout.PG_UPTODATE:
            return pfn, ino
        raise AssertionError("a filler hangs")
