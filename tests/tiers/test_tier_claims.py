"""Machines that miss together: one asks the origin, and the others wait for it, but not for ever."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import foliocache
from foliocache.tiers import around, around_threads, behind, claims
from foliocache.tiers.guard import Guard

KIB = 1 << 10
LIMIT = 60


class Shared:
    """A tier that several machines share."""

    piece = 4 * KIB

    def __init__(self, lease=LIMIT):
        self.lease, self.kept, self.claimed, self.asked, self.lock = lease, {}, {}, [], threading.Lock()
        self.waits = threading.Event()  # a machine has been refused
        self.released = []

    def load(self, digest, parts):
        with self.lock:
            return [self._load(digest, offset, buffer) for offset, buffer in parts]

    def _load(self, digest, offset, buffer):
        pieces = [self.kept.get((digest, at)) for at in range(offset, offset + len(buffer), self.piece)]
        if None in pieces:
            return False
        buffer[:] = b"".join(pieces)
        return True

    def store(self, digest, parts):
        with self.lock:
            for offset, data in parts:
                for at in range(0, len(data), self.piece):
                    self.kept[digest, offset + at] = bytes(data[at : at + self.piece])
                    self.claimed.pop((digest, offset + at), None)

    def release(self, digest, spans):
        with self.lock:
            self.released += spans
            for offset, length in spans:
                for at in range(offset, offset + length, self.piece):
                    self.claimed.pop((digest, at), None)

    def claim(self, digest, spans):
        with self.lock:
            granted = []
            for offset, length in spans:
                assert length <= self.piece and offset % self.piece == 0
                key = digest, offset
                granted.append(key not in self.claimed and key not in self.kept)
                if granted[-1]:
                    self.claimed[key] = None
            self.asked.append(granted)
        if not all(granted):
            self.waits.set()
        return granted


@pytest.fixture
def shared():
    return Shared()


@pytest.fixture
def machines(tmp_path, monkeypatch, pool_name, shared):
    """Pools in folders of their own, each with a guard of its own for the shared tier."""
    made = []
    for n in range(3):
        folder = tmp_path / str(n)
        folder.mkdir()
        monkeypatch.setenv("FOLIOCACHE_DIR", str(folder))
        pool = foliocache.open(pool_name, size="4MiB")
        guard = Guard(f"shared:{n}", lambda: shared, LIMIT)
        assert guard.open()
        pool._tiers = (guard,)
        made.append(pool)
    yield made
    assert behind.flush(LIMIT)
    for pool in made:
        pool.close()


DATA = bytes(range(256)) * (KIB // 2)


def run_all(*calls):
    failed = []

    def guarded(call):
        try:
            call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert failed == [] and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("way", ["threads", "coroutines"])
def test_one_of_three_asks_the_origin(machines, shared, way):
    """The origin answers only when another machine waits: so they do miss together."""
    sent = []

    def read(offset, length):
        sent.append((offset, length))
        assert shared.waits.wait(LIMIT)
        return DATA[offset : offset + length]

    async def aread(offset, length):
        return await asyncio.to_thread(read, offset, length)

    def by_thread(pool):
        assert pool.mapping("k", len(DATA), "1", read).read_bytes(0, len(DATA)) == DATA

    def by_coroutine(pool):
        async def reading():
            mapping = pool.mapping("k", len(DATA), "1", aread)
            assert await mapping.read_bytes_async(0, len(DATA)) == DATA

        asyncio.run(reading())

    one = by_thread if way == "threads" else by_coroutine
    run_all(*(lambda pool=pool: one(pool) for pool in machines))
    assert sum(length for _, length in sent) == len(DATA)
    assert not shared.claimed


def test_who_has_waited_long_enough_asks_itself(machines, shared):
    """The holder of the claims has been killed."""
    shared.lease = 0.05
    shared.claim = lambda digest, spans: [False] * len(spans)
    sent = []
    read = lambda offset, length: sent.append(length) or DATA[offset : offset + length]  # noqa: E731
    assert machines[0].mapping("k", len(DATA), "1", read).read_bytes(0, len(DATA)) == DATA
    assert sum(sent) == len(DATA)


def test_a_claim_that_ends_is_taken_over(machines, shared):
    key = []
    refused = shared.claim

    def claim(digest, spans):
        shared.claimed.update({(digest, offset): None for offset, _ in spans} if not key else {})
        key.append(digest)
        if len(key) == 3:
            shared.claimed.clear()
        return refused(digest, spans)

    shared.claim = claim
    read = lambda offset, length: DATA[offset : offset + length]  # noqa: E731
    assert machines[0].mapping("k", 16 * KIB, "1", read).read_bytes(0, 16 * KIB) == DATA[: 16 * KIB]
    assert shared.asked == [[False] * 4, [False] * 4, [True] * 4]


def test_what_is_granted_is_fetched_before_anything_is_waited_for(monkeypatch, shared):
    """Else two machines that claim one another's halves would wait for each other."""
    shared.claimed[b"d", 0] = None
    guard = Guard("shared:", lambda: shared, LIMIT)
    assert guard.open()
    steps = []
    monkeypatch.setattr(around_threads.time, "sleep", lambda seconds: (steps.append("wait"), store_first()))

    def store_first():
        with memoryview(DATA[: 4 * KIB]) as data:
            shared.store(b"d", [(0, data)])

    def read(offset, length):
        steps.append((offset, length))
        return DATA[offset : offset + length]

    source = around.around([guard], b"d", "k", lambda: None, (read, None, None))
    whole = bytearray(16 * KIB)
    buffers = [memoryview(whole)[n * 4 * KIB : (n + 1) * 4 * KIB] for n in range(4)]
    assert len(list(source.read_into(0, buffers))) == 4
    assert steps == [(4 * KIB, 12 * KIB), "wait"]
    assert whole == DATA[: 16 * KIB]
    assert behind.flush(LIMIT)


def test_parts_of_other_sizes_are_claimed_in_pieces(monkeypatch, shared):
    """Another machine has claimed the middle of a folio: the rest is fetched, and the folio is told of once it is whole."""
    shared.claimed = {(b"d", 8 * KIB): None, (b"d", 12 * KIB): None}
    guard = Guard("shared:", lambda: shared, LIMIT)
    assert guard.open()
    sent = []

    def store_middle(seconds):
        assert behind.flush(LIMIT)
        with memoryview(DATA[8 * KIB : 16 * KIB]) as data:
            shared.store(b"d", [(8 * KIB, data)])

    monkeypatch.setattr(around_threads.time, "sleep", store_middle)

    def read(offset, length):
        sent.append((offset, length))
        return DATA[offset : offset + length]

    source = around.around([guard], b"d", "k", lambda: None, (read, None, None))
    whole = bytearray(25 * KIB)
    buffers = [memoryview(whole)[: 20 * KIB], memoryview(whole)[20 * KIB :]]
    for n, _ in enumerate(source.read_into(0, buffers)):
        assert buffers[n] == DATA[20 * KIB * n : 20 * KIB * n + len(buffers[n])]
        buffers[n].release()
    assert sent == [(0, 8 * KIB), (16 * KIB, 9 * KIB)]
    assert behind.flush(LIMIT)
    assert sorted(at for _, at in shared.kept) == [n * 4 * KIB for n in range(7)]
    whole.append(0)  # no view of it is left


@pytest.mark.parametrize("way", ["threads", "coroutines", "given up"])
def test_what_was_claimed_and_not_fetched_is_given_back(machines, shared, way):
    """The origin fails, or the reader goes away: the next one need not wait until the claims end."""

    def read(offset, length):
        raise OSError("the origin is down")

    async def aread(offset, length):
        raise OSError("the origin is down")

    one, other = machines[:2]
    if way == "threads":
        with pytest.raises(OSError, match="down"):
            one.mapping("k", len(DATA), "1", read).read_bytes(0, len(DATA))
    elif way == "coroutines":

        async def reading():
            await one.mapping("k", len(DATA), "1", aread).read_bytes_async(0, len(DATA))

        with pytest.raises(OSError, match="down"):
            asyncio.run(reading())
    else:
        given = (lambda offset, length: DATA[offset : offset + length]), None, None
        source = around.around(one._tiers, b"d" * 16, "k", lambda: None, given)
        filling = source.read_into(0, [memoryview(bytearray(8 * KIB)) for _ in range(4)])
        next(filling)
        filling.close()
    assert behind.flush(LIMIT)
    assert not shared.claimed
    sent = []
    good = lambda offset, length: sent.append(length) or DATA[offset : offset + length]  # noqa: E731
    assert other.mapping("k", len(DATA), "1", good).read_bytes(0, len(DATA)) == DATA
    assert sum(sent) == len(DATA)


def test_what_the_tier_does_not_take_is_given_back(machines, shared):
    def store(digest, parts):
        raise OSError("full")

    shared.store = store
    read = lambda offset, length: DATA[offset : offset + length]  # noqa: E731
    assert machines[0].mapping("k", len(DATA), "1", read).read_bytes(0, len(DATA)) == DATA
    assert behind.flush(LIMIT)
    assert shared.released


def test_a_claim_that_fails_is_granted(shared):
    guard = Guard("shared:", lambda: shared, LIMIT)
    assert guard.open()
    shared.claim = None
    assert list(guard.claim(b"d", [(0, 1), (1, 1)])) == [True, True]
    assert guard.stat().errors == 1
    assert guard.stat().state.startswith("TypeError")


def test_the_pauses_grow_to_a_bound():
    claim = claims.Claim([(0, memoryview(bytearray(1)))], 4 * KIB, 1.0)
    pauses = [claim.pause() for _ in range(12)]
    assert pauses[0] == claims.FIRST_PAUSE and pauses[-1] == claims.LAST_PAUSE
    assert not claim.is_late
    claim._deadline = time.monotonic() - 1
    assert claim.is_late
