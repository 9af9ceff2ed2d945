"""A tier that fails or is slow is left alone for a while, and told about once."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import threading
from pathlib import Path

import pytest

from foliocache.tiers import behind as behinds
from foliocache.tiers import guard as guards
from foliocache.tiers.behind import LARGE, LARGE_COUNT, SMALL, SMALL_COUNT, Behind
from foliocache.tiers.guard import PAUSE, PAUSE_MAX, Guard

DIGEST = bytes(16)
LIMIT = 60


class Finalizing:
    """In place of ``sys``: no thread can be started any more."""

    @staticmethod
    def is_finalizing():
        return True


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(guards, "time", made)
    return made


def load(guard):
    buffer = bytearray(16)
    return list(guard.load(DIGEST, [(0, memoryview(buffer))]))


def test_a_failure_stops_the_calls_for_a_while(guard, tier, clock, caplog):
    tier.kept[DIGEST, 0, 16] = bytes(16)
    assert load(guard) == [True]
    tier.broken = ConnectionError("gone")
    calls = len(tier.loads)
    pause, total = PAUSE, 0
    for tries in range(1, 12):
        for _ in range(5):
            assert load(guard) == [False]
        assert len(tier.loads) - calls == tries
        clock.now += pause + 0.001
        total += 5
        pause = min(2 * pause, PAUSE_MAX)
    assert guard.skipped == total - 11 and guard.errors == 11
    tier.broken = None
    assert load(guard) == [True]
    assert load(guard) == [True]
    assert guard.stat().state == "ready"
    assert [record.getMessage() for record in caplog.records] == ["tier memory: is not read for a while: ConnectionError: gone"]


def test_stores_and_loads_are_stopped_apart(guard, tier, clock):
    tier.store = None  # a TypeError
    with memoryview(bytes(16)) as data:
        assert not guard.store(DIGEST, [(0, data)])
    assert not guard.wants(DIGEST, 0, 16)
    tier.kept[DIGEST, 0, 16] = bytes(16)
    assert load(guard) == [True]


def test_a_slow_call_stops_the_others(clock, tier):
    guard = Guard("slow:", lambda: tier, 0.05)
    assert guard.open()
    tier.kept[DIGEST, 0, 16] = bytes(16)
    inner = tier.load

    def slow(digest, parts):
        clock.now += 0.04
        assert load_other() == [True]  # not yet too long
        clock.now += 0.04
        assert load_other() == [False]
        return inner(digest, parts)

    def load_other():
        tier.load = inner
        try:
            return load(guard)
        finally:
            tier.load = slow

    tier.load = slow
    assert load(guard) == [True]
    tier.load = inner
    assert load(guard) == [False]
    clock.now += PAUSE + 0.001
    assert load(guard) == [True]


def test_one_call_tries_again(guard, tier, clock):
    tier.broken = ConnectionError("gone")
    assert load(guard) == [False]
    clock.now += PAUSE + 0.001
    inner, seen = tier.load, []

    def trial(digest, parts):
        tier.load = inner
        seen.append(load(guard))  # another caller meanwhile
        return inner(digest, parts)

    tier.load, calls = trial, len(tier.loads)
    assert load(guard) == [False]
    assert seen == [[False]] and len(tier.loads) == calls + 1


def test_a_tier_that_cannot_be_opened_is_tried_again(clock, tier):
    answers = [OSError(28, "No space left on device"), tier]

    def make():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    guard = Guard("late:", make, 1.0)
    assert not guard.open() and not guard.open()
    assert load(guard) == [False] and not guard.wants(DIGEST, 0, 1)
    clock.now += PAUSE + 0.001
    with memoryview(bytes(16)) as data:
        assert guard.store(DIGEST, [(0, data)])
    assert load(guard) == [True]


def test_a_full_queue_drops(guard, tier):
    """The tier does not return; what comes beyond the staging buffers is dropped and counted, and nobody waits."""
    begun, go_on = threading.Event(), threading.Event()
    inner = tier.store

    def blocked(digest, parts):
        begun.set()
        assert go_on.wait(LIMIT)
        inner(digest, parts)

    tier.store = blocked
    queue, count = Behind(), SMALL_COUNT + LARGE_COUNT
    for n in range(count + 7):
        queue.offer(guard, bytes([n]) * 16, 0, memoryview(bytes([n])).cast("B"))
    assert begun.wait(LIMIT)
    assert guard.dropped == 7
    assert not queue.flush(0)
    go_on.set()
    assert queue.flush(LIMIT)
    assert guard.stored == count == len(tier.kept)
    queue.offer(guard, DIGEST, 0, memoryview(bytes(1)))
    assert queue.flush(LIMIT) and guard.stored == count + 1


def test_a_large_folio_is_queued_in_parts(guard, tier):
    queue = Behind()
    data = bytes(range(256)) * (2 * LARGE // 256) + bytes(SMALL)
    queue.offer(guard, DIGEST, 4096, memoryview(data))
    assert queue.flush(LIMIT)
    assert b"".join(part for _, part in sorted(tier.kept.items())) == data
    assert guard.store_bytes == len(data)


def test_what_took_long_to_fetch_waits_for_a_place(guard, tier):
    """The queue is full. An offer with patience is told of a place as soon as there is one, and nothing is dropped."""
    go_on, waits, told = threading.Event(), threading.Event(), []
    inner = tier.store

    def blocked(digest, parts):
        assert go_on.wait(LIMIT)
        inner(digest, parts)

    tier.store = blocked
    queue, count = Behind(), SMALL_COUNT + LARGE_COUNT
    for n in range(count):
        queue.offer(guard, bytes([n]) * 16, 0, memoryview(bytes([n])).cast("B"))
    assert queue.is_full

    def wait():
        waits.set()
        told.append(queue.offer(guard, DIGEST, 0, memoryview(b"late"), LIMIT))

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert waits.wait(LIMIT)
    go_on.set()
    waiter.join(LIMIT)
    assert queue.flush(LIMIT)
    assert guard.dropped == 0 and tier.kept[DIGEST, 0, 4] == b"late"
    assert guard.stat().wait_seconds == told[0] < LIMIT


def _promise(queue, guard, length):
    promise, _ = queue.promise(guard, DIGEST, 4096, length, 0.0, None)
    return promise


def test_a_promise_that_is_not_kept_gives_its_place_back(guard, tier):
    queue = Behind()
    for _ in range(3 * (SMALL_COUNT + LARGE_COUNT)):
        assert _promise(queue, guard, 1) is not None
    assert queue.flush(LIMIT) and not tier.kept
    held = [_promise(queue, guard, 1) for _ in range(SMALL_COUNT + LARGE_COUNT)]
    assert None not in held and _promise(queue, guard, 1) is None
    dropped = guard.dropped
    held.clear()
    assert guard.dropped == dropped + SMALL_COUNT + LARGE_COUNT


def test_without_memory_or_threads_nothing_is_stored_and_no_place_is_lost(monkeypatch, guard, tier):
    queue, count = Behind(), SMALL_COUNT + LARGE_COUNT

    def none(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    for name, broken in (("_memory", none), ("sys", Finalizing)):
        dropped = guard.dropped
        with monkeypatch.context() as patched:
            patched.setattr(behinds, name, broken)
            for _ in range(count + 1):
                assert queue.offer(guard, DIGEST, 0, memoryview(b"lost"), LIMIT) == 0
            _promise(queue, guard, 4).copy(memoryview(b"lost"))
        assert guard.dropped == dropped + count + 2
    assert not tier.kept
    for n in range(count):
        queue.offer(guard, DIGEST, n, memoryview(b"n"), LIMIT)
    assert queue.flush(LIMIT) and len(tier.kept) == count


def test_a_forked_child_has_no_copies(guard, tier):
    """The memory is not in it: so a parent that goes on to copy does not copy pages for its sake."""
    queue = Behind()
    queue.offer(guard, DIGEST, 0, memoryview(b"data"))
    assert queue.flush(LIMIT) and tier.kept[DIGEST, 0, 4] == b"data"
    place = ctypes.addressof(ctypes.c_char.from_buffer(queue._copies))

    def has_it():
        spans = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
        return any(int(begin, 16) <= place < int(end, 16) for begin, end in spans)

    assert has_it()
    child = os.fork()
    if child == 0:
        os._exit(has_it())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_is_in_no_page_is_copied(guard, tier):
    queue, data = Behind(), bytearray(b"data")
    view = memoryview(data)
    _promise(queue, guard, 4).copy(view)
    assert queue.flush(LIMIT)
    assert tier.kept[DIGEST, 4096, 4] == b"data"
    view.release()
    with pytest.raises(ValueError, match="released"):
        _promise(queue, guard, 4).copy(view)
    data += b"no view of it is left"


def test_a_rate_is_kept(clock, tier):
    guard = Guard("memory:", lambda: tier, 60.0, rate=1000)
    assert guard.open()
    assert guard.pace(500) == 0.5
    assert guard.pace(500) == 1.0  # another thread
    clock.now += 10
    assert guard.pace(2000) == 2.0
    assert Guard("memory:", lambda: tier, 60.0).pace(2000) == 0.0


def test_nothing_waits_longer_than_its_fetch_took(monkeypatch, guard):
    clock = Clock()
    monkeypatch.setattr(behinds, "time", clock)
    credit = behinds.Credit(guard)
    clock.now += 0.25
    credit.fetched()
    credit._queue.allowance = 10.0
    assert credit.lend() == 0.25
    credit.spent(0.125)
    clock.now += 100  # the reader's
    credit.go_on()
    clock.now += 0.0625
    credit.fetched()
    assert credit.seconds == 0.1875


def test_nothing_waits_for_a_tier_that_is_behind(guard, tier):
    """From the first thing for which there was no place until the queue is empty again."""
    go_on, taken = threading.Event(), threading.Event()
    inner = tier.store

    def blocked(digest, parts):
        taken.set()
        assert go_on.wait(LIMIT)
        inner(digest, parts)

    tier.store = blocked
    queue = behinds.behind(guard)
    credit = behinds.Credit(guard)
    credit._left = 1.0
    queue.offer(guard, DIGEST, 0, memoryview(b"data"))
    assert taken.wait(LIMIT)
    offers = itertools.count(1)
    while not guard.dropped:
        assert credit.seconds > 0
        queue.offer(guard, DIGEST, 4096 * next(offers), memoryview(b"data"))
    assert credit.seconds == 0 and next(offers) <= SMALL_COUNT + LARGE_COUNT + 2
    go_on.set()
    assert queue.flush(LIMIT)
    assert credit.seconds > 0


@pytest.mark.parametrize("lease", [0.0, 2.0], ids=["ours", "shared"])
def test_all_waits_are_a_share_of_all_fetches(monkeypatch, guard, tier, lease):
    """But for what other machines wait for."""
    tier.lease = lease
    clock, waited = Clock(), 0.0
    monkeypatch.setattr(behinds, "time", clock)
    for _ in range(100):
        credit = behinds.Credit(guard)
        clock.now += 1
        credit.fetched()
        seconds = credit.lend()
        assert seconds <= 1 and (lease or behinds.Credit(guard).lend() == 0)  # not lent twice
        waited += seconds
        credit.spent(seconds)
    assert waited == 100 if lease else waited == pytest.approx(behinds.ALLOWANCE + 100 * behinds.WAIT_SHARE)
