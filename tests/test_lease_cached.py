"""Leases on what is cached: the source is never asked, and nobody waits."""

from __future__ import annotations

import os
import threading

import pytest

import foliocache

LIMIT = 60
SIZE = 300_000
CONTENT = os.urandom(SIZE)


@pytest.fixture
def asked():
    return []


@pytest.fixture
def mapping(pool, asked):
    def read(offset, length):
        asked.append((offset, length))
        return CONTENT[offset : offset + length]

    return pool.mapping("k", SIZE, "1", read)


def test_what_is_cached_is_leased(mapping, asked):
    assert mapping.lease_cached(0) is None
    assert mapping.lease_cached(100_000, 5) is None
    mapping.read_bytes(0, SIZE)
    before = list(asked)
    place = 0
    while place < SIZE:
        with mapping.lease_cached(place) as lease:
            assert bytes(lease) == CONTENT[place : place + len(lease)]
            place += len(lease)
    with mapping.lease_cached(1001, 10) as lease:
        assert bytes(lease) == CONTENT[1001:1011]
    assert asked == before


def test_it_is_no_use_and_no_hit(pool, mapping):
    mapping.read_bytes(0, SIZE)
    hits = pool.stat().counters.hits
    for place in range(0, SIZE, 4096):
        mapping.lease_cached(place).release()
    assert pool.stat().counters.hits == hits


def test_it_pins(pool, mapping):
    mapping.read_bytes(0, SIZE)
    lease = mapping.lease_cached(0)
    pool.forget("k")
    assert bytes(lease) == CONTENT[: len(lease)]
    assert mapping.lease_cached(0) is None
    lease.release()


def test_what_is_being_read_is_none(pool):
    begun, go_on = threading.Event(), threading.Event()

    def read(offset, length):
        begun.set()
        assert go_on.wait(LIMIT)
        return bytes(length)

    mapping = pool.mapping("slow", 4096, "1", read)
    thread = threading.Thread(target=mapping.read_bytes, args=(0, 4096))
    thread.start()
    assert begun.wait(LIMIT)
    assert mapping.lease_cached(0) is None
    go_on.set()
    thread.join(LIMIT)
    assert len(mapping.lease_cached(0)) == 4096


def test_wrong_places_are_refused(mapping):
    with pytest.raises(IndexError):
        mapping.lease_cached(SIZE)
    with pytest.raises(ValueError, match="at least 1 byte"):
        mapping.lease_cached(0, 0)


def test_a_closed_pool_is_refused(pool_name):
    with foliocache.open(pool_name, size="4MiB") as pool:
        mapping = pool.mapping("k", 10, "1", lambda offset, length: bytes(length))
    with pytest.raises(foliocache.FoliocacheError):
        mapping.lease_cached(0)
