"""A pool with tiers: what the origin sends once comes from the tier afterwards, whatever kind of source the mapping has."""

from __future__ import annotations

import asyncio
import pickle
import random

import pytest

import foliocache
from foliocache.tiers import flush
from foliocache.tiers.around import around
from foliocache.tiers.guard import Guard

SIZE = 500_003
CONTENT = random.Random(1).randbytes(SIZE)


class Streams:
    """A source for threads that counts what it sends. ``exact``: it does not need cleared pages."""

    def __init__(self, exact=True):
        self.is_exact = exact
        self.sent = 0

    def read_into(self, offset, buffers):
        for buffer in buffers:
            if not self.is_exact:
                assert not any(buffer)
            buffer[:] = CONTENT[offset : offset + len(buffer)]
            self.sent += len(buffer)
            offset += len(buffer)
            yield


class Awaits:
    """A coroutine source."""

    sent = 0

    async def read_into_async(self, offset, buffers):
        for buffer in buffers:
            await asyncio.sleep(0)
            buffer[:] = CONTENT[offset : offset + len(buffer)]
            self.sent += len(buffer)
            offset += len(buffer)
            yield


class Both(Streams, Awaits):
    """A source for both."""


class Functions:
    """Plain functions and coroutine functions."""

    sent = 0

    def read(self, offset, length):
        self.sent += length
        return CONTENT[offset : offset + length]

    def readinto(self, offset, buffer):
        assert not any(buffer)
        self.sent += len(buffer)
        buffer[:] = CONTENT[offset : offset + len(buffer)]
        return len(buffer)

    async def read_async(self, offset, length):
        await asyncio.sleep(0)
        return self.read(offset, length)

    async def readinto_async(self, offset, buffer):
        await asyncio.sleep(0)
        return self.readinto(offset, buffer)


def options(kind):
    """(what counts, the options of Pool.mapping) for a kind of source."""
    functions = Functions()
    made = {
        "read": {"read": functions.read},
        "readinto": {"readinto": functions.readinto},
        "read_async": {"read": functions.read_async},
        "readinto_async": {"readinto": functions.readinto_async},
        "streams": {"source": Streams()},
        "inexact": {"source": Streams(False)},
        "awaits": {"source": Awaits()},
        "both": {"source": Both()},
    }[kind]
    return made.get("source", functions), made


KINDS = ["read", "readinto", "read_async", "readinto_async", "streams", "inexact", "awaits", "both"]


def read_all(pool, made, awaited, concurrent=True, version="1"):
    mapping = pool.mapping("k", SIZE, version, concurrent=concurrent, **made)
    if awaited:
        return asyncio.run(mapping.read_bytes_async(0, SIZE))
    return mapping.read_bytes(0, SIZE)


@pytest.mark.parametrize("awaited", [False, True], ids=["thread", "loop"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_origin_sends_everything_once(tiered, tier, kind, awaited):
    counter, made = options(kind)
    assert read_all(tiered, made, awaited) == CONTENT
    assert counter.sent == SIZE
    assert flush(60)
    tiered.forget("k")
    assert read_all(tiered, made, awaited) == CONTENT
    assert counter.sent == SIZE
    assert tiered.tiers[0].hit_bytes == SIZE


@pytest.mark.parametrize("awaited", [False, True], ids=["thread", "loop"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_tier_has_lost_comes_from_the_origin(tiered, tier, kind, awaited):
    counter, made = options(kind)
    assert read_all(tiered, made, awaited) == CONTENT
    assert flush(60)
    for seed in range(4):
        counter.sent = 0
        tier.forget(seed, 0.5)
        kept = sum(length for _, _, length in tier.kept)
        tiered.forget("k")
        assert read_all(tiered, made, awaited, concurrent=False) == CONTENT
        assert counter.sent == SIZE - kept
        assert flush(60)


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_tier_is_a_miss(tiered, tier, kind, caplog):
    counter, made = options(kind)
    tier.broken = OSError(5, "Input/output error")
    for _ in range(3):
        tiered.forget("k")
        assert read_all(tiered, made, False) == CONTENT
    assert counter.sent == 3 * SIZE
    assert flush(60)
    assert len([record for record in caplog.records if "not read" in record.message]) == 1
    assert "Input/output error" in tiered.tiers[0].state


def test_a_near_tier_is_filled_from_a_far_one(tiered, guard, tier):
    far = type(tier)()
    tiered._tiers = (guard, Guard("far:", lambda: far, 60.0))
    assert tiered._tiers[1].open()
    counter, made = options("streams")
    assert read_all(tiered, made, False) == CONTENT
    assert flush(60)
    assert tier.kept == far.kept
    tier.kept.clear()
    tiered.forget("k")
    assert read_all(tiered, made, False) == CONTENT
    assert flush(60)
    assert counter.sent == SIZE
    assert tier.kept == far.kept


def test_another_version_is_another_object(tiered, tier):
    counter, made = options("read")
    assert read_all(tiered, made, False) == CONTENT
    assert flush(60)
    assert read_all(tiered, made, False, version="2") == CONTENT
    assert counter.sent == 2 * SIZE


def test_what_has_no_version_is_not_stored(tiered, tier):
    _, made = options("read")
    assert read_all(tiered, made, False, version="") == CONTENT
    assert flush(60)
    assert not tier.kept and not tier.loads


def test_python_objects_are_not_stored(tiered, tier):
    assert tiered.get_or_create("o", lambda: bytes(200_000), version="1") == bytes(200_000)
    assert flush(60)
    assert not tier.kept


def test_a_mapping_without_a_source_says_so(tiered):
    with pytest.raises(foliocache.SourceError, match="without a source"):
        tiered.mapping("k", SIZE, "1").read_bytes(0, 10)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"read": lambda offset, length: b"short"}, "gave 5 bytes at offset 0 instead of"),
        ({"read": lambda offset, length: 7}, "returned int, not a bytes-like object"),
        ({"readinto": lambda offset, buffer: 3}, "gave 3 bytes at offset 0 instead of"),
        ({"readinto": lambda offset, buffer: None}, "returned None; readinto must return how many bytes"),
        ({"source": type("Ends", (), {"read_into": lambda self, offset, buffers: iter(())})()}, "gave 0 bytes at offset 0"),
    ],
)
def test_a_wrong_answer_is_the_error_that_it_is_without_tiers(tiered, tier, made, message):
    for tiers in ((), tiered._tiers):
        tiered._tiers = tiers
        with pytest.raises(foliocache.SourceError, match=message):
            tiered.mapping("k", SIZE, "1", **made).read_bytes(0, 10)
    assert flush(60)
    assert not tier.kept


def test_answers_of_numpy_are_read_as_bytes(tiered):
    numpy = pytest.importorskip("numpy")
    numbers = numpy.frombuffer(CONTENT[: 8 * 1000], "<i8")
    for answer in (numbers, numbers.astype("M8[s]"), numpy.stack([numbers, numbers], 1)[:, 0]):
        mapping = tiered.mapping(
            "n", 8000, answer.dtype.str + str(answer.strides), read=lambda offset, length, found=answer: found
        )
        assert mapping.read_bytes(0, 8000) == CONTENT[:8000]


def test_a_source_that_fails_in_the_middle_keeps_what_it_sent(tiered, tier):
    def read_into(self, offset, buffers):
        for n, buffer in enumerate(buffers):
            if offset >= SIZE // 2:
                raise OSError(104, "Connection reset by peer")
            buffer[:] = CONTENT[offset : offset + len(buffer)]
            offset += len(buffer)
            yield n

    source = type("Resets", (), {"read_into": read_into})()
    with pytest.raises(OSError, match="Connection reset"):
        tiered.mapping("k", SIZE, "1", source=source, readahead=0).read_bytes(0, SIZE)
    assert flush(60)
    assert 0 < sum(map(len, tier.kept.values())) < SIZE


def test_a_mapping_pickles_without_its_tiers(tiered):
    mapping = tiered.mapping("k", SIZE, "1", len, concurrent=True)
    copy = pickle.loads(pickle.dumps(mapping))
    for one in (mapping, copy):
        assert one.__reduce__()[1][4:8] == (len, None, None, True)


def test_a_source_keeps_what_it_has_besides(tiered):
    source = Streams()
    outer = around(tiered._tiers, bytes(16), "k", lambda: tiered.engine, (None, None, source))
    assert not hasattr(outer, "failure") and not hasattr(outer, "home_loop")
    source.failure, source.home_loop = str, 7
    assert outer.failure is str and outer.home_loop == 7
