"""A disk that does not answer: one call hangs, and all others go on without the tier until it is back."""

from __future__ import annotations

import os
import threading
import time

import pytest
from slots import content

import foliocache
from foliocache.tiers import disk as disks
from foliocache.tiers import flush

LIMIT = 60
SIZE = 5000


class Hanging:
    """In place of ``os`` in the disk tier: the first call of a name returns when it is let go, and no sooner."""

    def __init__(self, name):
        self._name, self._first = name, iter([True])
        self.began, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name):
        inner = getattr(os, name)
        if name != self._name:
            return inner

        def call(*arguments):
            if next(self._first, False):
                self.began.set()
                assert self.go_on.wait(LIMIT)
            return inner(*arguments)

        return call


class Reader:
    """Reads objects through a pool, and knows what the origin was asked for."""

    def __init__(self, pool):
        self.pool, self.asked = pool, []

    def read(self, n):
        data = content(n, 0, SIZE)

        def origin(offset, length):
            self.asked.append(n)
            return data[offset : offset + length]

        assert self.pool.mapping(str(n), SIZE, "1", origin).read_bytes(0, SIZE) == data

    def read_again(self, n):
        self.pool.forget(str(n))
        self.read(n)


@pytest.fixture
def reader(pool_name, tmp_path):
    with foliocache.open(
        pool_name, size="4MiB", tiers=f"disk:{tmp_path}/tier?size=32MiB&timeout={LIMIT}", fill_timeout=0.05
    ) as pool:
        yield Reader(pool)


def test_a_read_that_does_not_return_holds_up_nobody_else(reader, monkeypatch):
    guard = reader.pool._tiers[0]
    for n in range(3):
        reader.read(n)
    assert flush(LIMIT)
    disk = Hanging("preadv")
    monkeypatch.setattr(disks, "os", disk)
    monkeypatch.setattr(guard.loads, "timeout", 0.01)
    reader.asked.clear()
    stuck = threading.Thread(target=reader.read_again, args=(0,))
    stuck.start()
    try:
        assert disk.began.wait(LIMIT)
        reader.read(0)  # the same page: after fill_timeout, from the origin
        assert reader.asked == [0]
        deadline = time.monotonic() + LIMIT
        while not reader.pool.tiers[0].skipped:
            assert time.monotonic() < deadline
            reader.read_again(1)
        reader.read_again(2)
        assert reader.asked[-1] == 2 and stuck.is_alive()
    finally:
        disk.go_on.set()
        stuck.join(LIMIT)
    assert "timeout is 0.01 s" in reader.pool.tiers[0].state
    monkeypatch.undo()
    guard.loads._until = time.monotonic()
    reader.asked.clear()
    reader.read_again(2)
    assert reader.asked == [] and reader.pool.tiers[0].state == "ready"


def test_writes_that_do_not_return_hold_up_nobody(reader, monkeypatch):
    """What found a place in the queue meanwhile is stored when the disk goes on, and the rest when it is missed again."""
    disk, objects = Hanging("pwritev"), range(200)
    monkeypatch.setattr(disks, "os", disk)
    try:
        for n in objects:
            reader.read(n)
        assert disk.began.wait(LIMIT)
        assert not flush(0.01)
        dropped = reader.pool.tiers[0].dropped
        assert 0 < dropped < len(objects)
    finally:
        disk.go_on.set()
    assert flush(LIMIT)
    for missing in (dropped, 0):
        reader.asked.clear()
        for n in objects:
            reader.read_again(n)
            assert flush(LIMIT)
        assert len(reader.asked) == missing
