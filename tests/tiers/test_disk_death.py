"""Processes that use one disk tier and are killed at any moment: no wrong byte, nobody waits, the index is sound."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

import pytest
from slots import digest, load, store

from foliocache.tiers import checking
from foliocache.tiers.disk import DiskTier

KIB = 1 << 10
KILLS = int(os.environ.get("FOLIOCACHE_TIER_KILLS", "6"))
WORKERS = 3
LIMIT = 60
# Loads and stores at random until it is killed, or finds a wrong byte. It tells each step, so the test needs no clock.
WORK = """
import random, sys
sys.path.insert(0, sys.argv[2])
from slots import load, store
from foliocache.tiers import index
from foliocache.tiers.disk import DiskTier

index.PATIENCE = 60.0  # a worker that gets no processor while it has the lock
tier, chosen = DiskTier(sys.argv[1]), random.Random(int(sys.argv[3]))
while True:
    n, offset = chosen.randrange(12), chosen.choice([0, 4096, 16384])
    length = chosen.choice([100, 4096, 30000, 65536])
    if not load(tier, n, offset, length):
        store(tier, n, offset, length)
    sys.stdout.write(".")
    sys.stdout.flush()
"""


@pytest.fixture
def disk(tmp_path):
    made = DiskTier(str(tmp_path / "tier"), 600 * KIB, slot=16 * KIB)
    yield made
    made.close()


def start(disk, seed):
    arguments = [sys.executable, "-c", WORK, disk.path, os.path.dirname(__file__), str(seed)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.timeout(300 + 20 * KILLS)  # seconds; a soak has hundreds
def test_killed_at_any_moment(disk):
    chosen = random.Random(3)
    workers = [start(disk, seed) for seed in range(WORKERS)]
    try:
        for kill in range(KILLS):
            steps = chosen.randrange(1, 40)
            for worker in workers:
                assert len(worker.stdout.read(steps)) == steps, worker.stderr.read().decode()  # all go on
            place = chosen.randrange(WORKERS)
            workers[place].send_signal(signal.SIGKILL)
            assert workers[place].wait(LIMIT) == -signal.SIGKILL
            workers[place].communicate(timeout=LIMIT)
            if kill < KILLS - 1:
                workers[place] = start(disk, 100 + kill)
            else:
                del workers[place]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate(timeout=LIMIT)
    assert disk.check() == []
    assert disk.check(data=True) == []
    for n in range(12):
        for offset in (0, 4096, 16384):
            for length in (100, 4096, 30000, 65536):
                load(disk, n, offset, length)  # right, or not there
    store(disk, 50, 0, 30000)
    assert load(disk, 50, 0, 30000)


class Killed(BaseException):
    """The process ends here."""


class Dying:
    """In place of ``os``: the process is killed at its n-th call that writes, before or after it."""

    def __init__(self, n, before):
        self.left, self.before = n, before

    def __getattr__(self, name):
        inner = getattr(os, name)
        if name not in ("pwrite", "pwritev"):
            return inner

        def call(*arguments):
            self.left -= 1
            if self.left < 0 or (self.left == 0 and self.before):
                raise Killed
            done = inner(*arguments)
            if self.left == 0:
                raise Killed
            return done

        return call


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_writer_dies_at_each_of_its_writes(disk, monkeypatch, before):
    """A round of the hand, with pieces of two sizes, so that every kind of write happens: all of them are places to die at."""
    from foliocache.tiers import disk as disks
    from foliocache.tiers import index as indexes

    for n in range(60):
        store(disk, n, 0, 16 * KIB)
    died, step = True, 0
    while died:
        step += 1
        dying, dead = Dying(step, before), DiskTier(disk.path)
        monkeypatch.setattr(indexes, "os", dying)
        monkeypatch.setattr(disks, "os", dying)
        try:
            store(dead, 200 + step, 0, 4096)
            store(dead, 200 + step, 0, 40 * KIB)
            died = False
        except Killed:
            pass
        monkeypatch.undo()
        dead.close()
        assert disk.check(data=True) == []
        everything = [load(disk, n, 0, length) for n in range(300) for length in (4096, 16 * KIB, 40 * KIB)]
        assert any(everything)
        store(disk, 500 + step, 0, 40 * KIB)
        assert load(disk, 500 + step, 0, 40 * KIB)
        held = {(header.digest, header.offset) for header in checking._full(disk)}
        assert len(held) == checking.use(disk).full_slots  # no piece twice
        assert all(disk.index.find(*one) for one in held)  # and all are found
    assert step > 8


def test_damage_is_found_and_repaired(disk):
    for n in range(10):
        store(disk, n, 0, 16 * KIB)
    shape, fd = disk.shape, disk.index.fd
    with open(os.path.join(disk.path, "slots"), "r+b") as file:
        file.seek(2 * shape.slot_size + 7)
        file.write(b"damage")
    os.pwrite(fd, b"damage", shape.headers_at + 3 * 64 + 30)
    os.pwrite(fd, b"damage", 4096)
    os.pwrite(fd, b"\x05\0\0\0damage", 2 * 4096)
    found = [finding.check for finding in disk.check(data=True)]
    assert set(found) == {"state", "header", "table", "data"}
    disk.check(data=True, repair=True)
    assert disk.check(data=True) == []
    assert [load(disk, n, 0, 16 * KIB) for n in range(10)] == [n not in (2, 3) for n in range(10)]


def test_use_and_what_is_held(disk):
    store(disk, 1, 0, 20 * KIB)
    store(disk, 2, 0, 100)
    load(disk, 2, 0, 100)
    used = checking.use(disk)
    assert (used.full_slots, used.used_slots, used.pieces_bytes, used.objects) == (3, 1, 20 * KIB + 100, 2)
    assert checking.held(disk) == [(digest(1).hex(), 2, 20 * KIB), (digest(2).hex(), 1, 100)]
