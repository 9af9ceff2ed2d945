"""robust_lock: between threads, compiled and interpreted, and between processes."""

import mmap
import os
import time

import pytest
from world import ME, Word, World, compiled, forked, together
from world import Segment as NewSegment

from foliocache.pool import geometry

WAITERS = 0x80000000
ROUNDS = 400


@pytest.fixture
def lock(segment):
    return Lock(segment)


class Lock(Word):
    """A lock of a segment, and a counter that only the lock's owner changes."""

    def __init__(self, segment):
        super().__init__(segment, segment.unlocked.robust_lock, segment.layout.TREE_LOCK)
        self.counter = self.at + 8

    def increment(self, me):
        """Increment the counter, not atomically, and slowly enough for others to interfere if the lock allows it.

        Who has waited for LOCK_PATIENCE_NS, as on a machine with other work, is refused the lock, and asks again.
        """
        for _ in range(ROUNDS):
            while self.lock(me) == self.segment.layout.LOCK_BUSY:
                pass
            seen = self.segment.read(self.counter)
            time.sleep(0)  # lets another thread run
            self.segment.write(self.counter, seen + 1)
            self.unlock()


@pytest.mark.parametrize("me", [0, 1, 65535])
def test_the_word_names_the_owner(lock, me):
    assert lock.owner() == lock.segment.layout.NIL
    lock.lock(me)
    assert lock.owner() == me
    assert lock.value == me + 1
    lock.unlock()
    assert lock.value == 0
    assert lock.owner() == lock.segment.layout.NIL


def test_the_owner_shows_under_the_waiters_mark(lock):
    lock.segment.write(lock.at, WAITERS | (7 + 1))
    assert lock.owner() == 7


def test_unlock_clears_the_waiters_mark(lock):
    lock.segment.write(lock.at, WAITERS | (7 + 1))
    lock.unlock()
    assert lock.value == 0


def test_neighbouring_words_are_not_touched(lock):
    before = bytes(lock.segment.buffer)
    lock.lock(2)
    lock.unlock()
    assert bytes(lock.segment.buffer) == before


def test_threads_exclude_each_other(lock):
    together(*(lambda me=me: lock.increment(me) for me in range(4)))
    assert lock.segment.read(lock.counter) == 4 * ROUNDS
    assert lock.value == 0


def test_the_sleeper_gets_the_lock_and_is_recorded(lock):
    """The owner unlocks only after the other has set LOCK_WAITERS."""
    lock.lock(1)

    def holder():
        deadline = time.monotonic() + 20
        while not lock.value & WAITERS and time.monotonic() < deadline:
            time.sleep(0)
        assert lock.value == WAITERS | (1 + 1)
        lock.unlock()

    def sleeper():
        lock.lock(2)
        return lock.owner()

    assert together(holder, sleeper) == [None, 2]
    lock.unlock()
    assert lock.value == 0


# Owners that have died.


def kill(segment, client):
    """Mark a client as dead for the compiled and the interpreted core."""
    segment.client.set_state(client, segment.layout.SLOT_DEAD)


@pytest.mark.parametrize("waiters", [0, WAITERS])
def test_the_lock_of_a_dead_owner_is_taken_over(lock, waiters):
    lock.segment.write(lock.at, waiters | (2 + 1))
    kill(lock.segment, 2)
    assert lock.lock(3)
    assert lock.owner() == 3
    lock.unlock()
    assert lock.value == 0
    assert not lock.lock(1)


def test_a_living_owner_is_left_alone(lock):
    lock.lock(2)
    kill(lock.segment, 3)
    assert not lock.take_over(3, 1)
    assert lock.owner() == 2


def test_the_lock_of_no_client_is_taken_over(lock):
    """The number is not a client's: the word is damaged."""
    lock.segment.write(lock.at, lock.segment.shape["nclients"] + 1)
    assert lock.lock(1)
    assert lock.owner() == 1


def test_a_free_lock_is_no_dead_ones(lock):
    assert not lock.take_over(2, 1)
    assert lock.value == 0


def test_one_of_many_takes_over(lock):
    lock.lock(2)
    kill(lock.segment, 2)

    def take(me):
        taken = lock.lock(me)
        lock.unlock()
        return taken

    results = together(*(lambda me=me: bool(take(me)) for me in (0, 1, 3)))
    assert sorted(results) == [False, False, True]
    assert lock.value == 0


def test_a_sleeper_finds_out_that_the_owner_has_died(lock):
    """No wake-up comes: it looks again after LOCK_SLICE_NS."""
    lock.lock(2)

    def die():
        while not lock.value & WAITERS:
            time.sleep(0)
        kill(lock.segment, 2)

    assert together(lambda: bool(lock.lock(3)), die) == [True, None]
    assert lock.owner() == 3


def test_the_dead_are_known_by_their_process_too(segments):
    segment = segments()
    if segment.world.compiled:
        pytest.skip("a process that has died is for tests of whole processes")
    lock = Lock(segment)
    lock.lock(2)
    segment.mem.dead.add(2)
    assert lock.lock(3)


def test_no_wake_up_is_lost():
    """With a LOCK_SLICE_NS of an hour, a lost wake-up is a thread that hangs. Nobody is refused, and all who wait sleep."""
    hour = 3600 * 10**9
    world = World("impatient to sleep", {"LOCK_SPINS": 1, "LOCK_SLICE_NS": hour, "LOCK_PATIENCE_NS": hour})
    lock = Lock(NewSegment(world))
    together(*(lambda me=me: lock.increment(me) for me in range(4)))
    assert lock.segment.read(lock.counter) == 4 * ROUNDS
    assert lock.value == 0


@pytest.mark.parametrize("step", ["cmpxchg_relaxed", "futex_wait"])
def test_a_release_before_the_waiters_next_step_is_seen(segments, between, step):
    """The owner unlocks after the waiter's load, before its cmpxchg: the waiter does not mark a free lock. Or it unlocks
    between the mark and the sleep. The waiter takes the lock. The compiled core cannot be stopped at a step: there, the two run
    at once."""
    lock = Lock(segments())
    lock.lock(1)
    if lock.segment.world.compiled:
        together(lock.unlock, lambda: lock.lock(2))
        assert lock.owner() == 2
        return
    with between(lock.segment, step, lock.unlock):
        lock.lock(2)
    assert lock.value == WAITERS | (2 + 1)


def _shared(pages=64):
    """A segment in memory that forked children share."""
    size = geometry.compute(pages, 4096, 4)["size"]
    return NewSegment(compiled(), pages, buffer=mmap.mmap(-1, size))


def test_processes_exclude_each_other():
    lock = Lock(_shared())
    forked(*(lambda me=me: [lock.increment(me) for _ in range(5)] for me in range(3)))
    assert lock.segment.read(lock.counter) == 3 * 5 * ROUNDS
    assert lock.value == 0


def test_a_process_waits_for_another_one():
    """The child has the lock when the parent wants it; the parent then reads a number that the child wrote under it."""
    lock = Lock(_shared())
    taken, tell = os.pipe()

    def child():
        lock.lock(3)
        os.write(tell, b"x")
        while not lock.value & WAITERS:
            time.sleep(0)
        lock.segment.write(lock.counter, 99)
        lock.unlock()

    def parent():
        os.read(taken, 1)
        assert lock.owner() == 3
        lock.lock(ME)
        assert lock.segment.read(lock.counter) == 99
        lock.unlock()

    forked(child, parent)
    os.close(taken)
    os.close(tell)


# An owner that lives and has stopped.


@pytest.fixture
def impatient():
    """The interpreted core, with LOCK_PATIENCE_NS 0."""
    world = World("impatient", {"LOCK_PATIENCE_NS": 0, "LOCK_SPINS": 1})
    return NewSegment(world)


def test_a_lock_that_is_not_let_go_of_is_refused(impatient):
    lock = Lock(impatient)
    assert lock.lock(0) == impatient.layout.LOCK_TAKEN
    stalls = impatient.client.slot(ME) + impatient.layout.CLIENT_COUNTERS + 8 * impatient.layout.COUNT_STALLS
    assert lock.lock(ME) == impatient.layout.LOCK_BUSY
    assert lock.owner() == 0
    assert impatient.read64(stalls) == 1
    lock.unlock()
    assert lock.lock(ME) == impatient.layout.LOCK_TAKEN


def test_the_end_of_the_patience_is_no_time_to_sleep(impatient, monkeypatch):
    lock, atomics = Lock(impatient), impatient.world.atomics
    lock.lock(0)
    monkeypatch.setattr(atomics, "now_ns", lambda: 7)
    monkeypatch.setattr(atomics, "futex_wait", lambda *args: pytest.fail("it sleeps"))
    assert lock.lock(ME) == impatient.layout.LOCK_BUSY


def waits(segment):
    start = segment.client.slot(ME) + segment.layout.CLIENT_STATISTICS + 8 * segment.layout.STAT_LOCK_WAITS
    return sum(segment.read64(start + 8 * n) for n in range(segment.layout.BUCKETS))


def test_only_a_wait_is_counted_as_one(impatient):
    lock = Lock(impatient)
    assert lock.lock(ME) == impatient.layout.LOCK_TAKEN
    lock.unlock()
    assert waits(impatient) == 0
    lock.lock(0)
    assert lock.lock(ME) == impatient.layout.LOCK_BUSY
    assert waits(impatient) == 1


def test_a_client_that_was_refused_does_not_wait_for_the_same_one_again(segment):
    """Until that client has made progress, whichever lock it holds."""
    segment.client.op_begin(0)
    segment.client.refused(ME, 0)
    assert segment.client.is_refused()
    lock = Lock(segment)
    lock.lock(0)
    begin = time.monotonic()
    assert lock.lock(ME) == segment.layout.LOCK_BUSY
    assert time.monotonic() - begin < segment.layout.LOCK_PATIENCE_NS / 1e9
    segment.client.op_end(0)
    assert not segment.client.is_refused()


def test_a_broken_lock_is_repaired_by_its_next_owner_alone(lock):
    layout = lock.segment.layout
    lock.lock(0)
    lock.mark_broken()
    lock.unlock()
    assert lock.owner() == layout.NIL
    assert lock.lock(ME) == layout.LOCK_REPAIR
    lock.unlock()
    assert lock.value == 0
    assert lock.lock(ME) == layout.LOCK_TAKEN


def test_a_broken_lock_stays_broken_when_its_repairer_says_so(lock):
    layout = lock.segment.layout
    lock.lock(0)
    lock.mark_broken()
    lock.unlock()
    assert lock.lock(ME) == layout.LOCK_REPAIR
    lock.mark_broken()
    lock.unlock()
    assert lock.take_over(3, 0)
    lock.unlock()
    assert lock.value == 0


# Step by step, in the interpreted core.


@pytest.mark.parametrize(("spins", "step", "mark"), [(2, "cpu_relax", 0), (0, "futex_wait", WAITERS)])
def test_a_lock_that_comes_free_is_taken_whole(between, spins, step, mark):
    """Marked by who has slept, because others may sleep still."""
    lock = Lock(NewSegment(World(f"{spins} spins", {"LOCK_SPINS": spins})))
    lock.segment.client.attach(0)
    lock.lock(0)
    with between(lock.segment, step, lock.unlock):
        assert lock.lock(ME) == lock.segment.layout.LOCK_TAKEN
    assert lock.value == mark | (ME + 1)


def test_a_lock_that_has_the_callers_own_number_is_repaired(impatient):
    """Its owner was the former client of the slot."""
    lock = Lock(impatient)
    lock.segment.write(lock.at, ME + 1)
    assert lock.lock(ME) == impatient.layout.LOCK_REPAIR


def test_unlock_wakes_one_if_any_sleep(impatient, monkeypatch):
    lock, woken = Lock(impatient), []
    monkeypatch.setattr(impatient.world.atomics, "futex_wake", lambda mem, word, count: woken.append((word, count)))
    for mark in (0, WAITERS):
        impatient.write(lock.at, mark | (ME + 1))
        lock.unlock()
        assert woken == [(lock.at, 1)] * bool(mark)
