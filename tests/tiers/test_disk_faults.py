"""A disk that is full, read-only, broken or without power, and slots that others have written over: never a wrong byte."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import subprocess
import time

import pytest
from slots import WrongBytes, content, digest, load, store

import foliocache
from foliocache.errors import PoolError
from foliocache.tiers import disk as disks
from foliocache.tiers import flush, layout
from foliocache.tiers import index as indexes
from foliocache.tiers.disk import DiskTier

MIB = 1 << 20
KIB = 1 << 10
SECTOR = 512
TRIALS = int(os.environ.get("FOLIOCACHE_TIER_CRASHES", "150"))


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "tier")


@pytest.fixture
def disk(folder):
    made = DiskTier(folder, 8 * MIB)
    yield made
    made.close()


class Recorder:
    """In place of ``os`` in the modules of the tier: what is written is written, and recorded."""

    def __init__(self, disk):
        self._names = {disk.index.fd: "index", disk._fd: "slots"}
        self.log = []

    def __getattr__(self, name):
        return getattr(os, name)

    def pwrite(self, fd, data, at):
        self.log.append((self._names[fd], at, bytes(data)))
        return os.pwrite(fd, data, at)

    def pwritev(self, fd, views, at):
        self.log.append((self._names[fd], at, b"".join(views)))
        return os.pwritev(fd, views, at)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """(the files of a tier as they were made, what was written to them afterwards, what was stored)."""
    folder = tmp_path / "recorded"
    tier = DiskTier(str(folder), 320 * KIB, slot=4096)
    image = {name: (folder / name).read_bytes() for name in ("index", "slots")}
    recorder = Recorder(tier)
    monkeypatch.setattr(indexes, "os", recorder)
    monkeypatch.setattr(disks, "os", recorder)
    chosen, stored = random.Random(5), []
    for _ in range(5 * tier.shape.slots // 3):  # goes round
        n, offset = chosen.randrange(40), chosen.choice([0, 4096, 8192])
        length = chosen.choice([100, 4096, 9000, 3 * 4096])
        store(tier, n, offset, length)
        load(tier, n, offset, 4096)
        stored.append((n, offset, length))
    tier.close()
    monkeypatch.undo()
    return image, recorder.log, stored


def crash(image, log, chosen):
    """The files after a power failure: of all that was written up to then, in any order, any sectors are there."""
    files = {name: bytearray(data) for name, data in image.items()}
    share = chosen.choice([0.2, 0.9, 0.999])
    for name, at, data in log[: chosen.randrange(1, len(log) + 1)]:
        for n in range(0, len(data), SECTOR):
            begin = at + n
            end = min((begin // SECTOR + 1) * SECTOR, at + len(data))
            while begin < min(at + n + SECTOR, at + len(data)):
                if chosen.random() < share:
                    files[name][begin:end] = data[begin - at : end - at]
                begin, end = end, min(end + SECTOR, at + len(data))
    return files


def after(folder, files, stored):
    """Return how many of the stored ranges are there after a crash. Fails if one has wrong bytes."""
    for name, data in files.items():
        with open(os.path.join(folder, name), "r+b") as file:
            file.write(data)
    try:
        tier = DiskTier(folder)
    except PoolError:  # the superblock was never written again, so this is impossible
        raise AssertionError("the tier cannot be opened") from None
    try:
        there = sum(load(tier, *one) for one in stored)
        store(tier, 1000, 0, 5000)  # and it goes on
        assert load(tier, 1000, 0, 5000)
        return there
    finally:
        tier.close()


@pytest.fixture
def crashed(tmp_path, recorded):
    """A folder with the files of the tier, to be written over."""
    folder = tmp_path / "crashed"
    folder.mkdir()
    for name, data in recorded[0].items():
        (folder / name).write_bytes(data)
    return str(folder)


@pytest.mark.timeout(300 + TRIALS)  # seconds; a soak has thousands
def test_no_crash_gives_wrong_bytes(crashed, recorded):
    image, log, stored = recorded
    chosen = random.Random(7)
    stored = sorted(set(stored))
    there = [after(crashed, crash(image, log, chosen), stored) for _ in range(TRIALS)]
    assert min(there) < 3 and max(there) > 10


def test_without_its_crc_a_crash_would(crashed, recorded, monkeypatch):
    """The replay can fail."""
    image, log, stored = recorded
    monkeypatch.setattr(DiskTier, "_is_right", lambda self, header, content: True)
    chosen, wrong = random.Random(7), 0
    for _ in range(40):
        with contextlib.suppress(WrongBytes):
            after(crashed, crash(image, log, chosen), sorted(set(stored)))
            wrong -= 1
        wrong += 1
    assert wrong > 10


def test_damage_anywhere_is_a_miss(crashed, recorded):
    """Random bytes in random places of the index and the slots."""
    image, log, stored = recorded
    chosen = random.Random(11)
    files = crash(image, log, random.Random(2**31))
    for name, at, data in log:
        files[name][at : at + len(data)] = data
    for _ in range(60):
        damaged = {name: bytearray(data) for name, data in files.items()}
        for _ in range(chosen.randrange(1, 200)):
            name = chosen.choice(["index", "slots"])
            at = chosen.randrange(layout.STATE_AT if name == "index" else 0, len(damaged[name]))
            damaged[name][at] = chosen.randrange(256)
        after(crashed, damaged, sorted(set(stored)))


def test_a_slot_that_is_overwritten_while_it_is_read_is_a_miss(disk, monkeypatch):
    store(disk, 1, 0, 64 * KIB)

    def preadv(fd, views, at):
        got = os.preadv(fd, views, at)
        views[0][4096:8192] = content(2, 0, 4096)  # as if another writer's page had come first
        return got

    class Late:
        def __getattr__(self, name):
            return preadv if name == "preadv" else getattr(os, name)

    monkeypatch.setattr(disks, "os", Late())
    assert not load(disk, 1, 0, 64 * KIB)
    monkeypatch.undo()
    assert disk.bad_slots == 1
    assert disk.index.find(digest(1), 0) is None  # it is not read again


def test_a_writer_that_sleeps_for_whole_rounds_keeps_its_slots(disk, monkeypatch):
    """Those of another process, and those of another thread of this one."""
    for late in (DiskTier(disk.path), disk):
        slots = disk.shape.slots
        write = DiskTier._write

        def asleep(tier, slot, views, write=write, late=late, slots=slots):
            monkeypatch.undo()
            for n in range(3 * slots):
                store(disk, 100 + n, 0, 64 * KIB)
            assert disk.check() == []
            write(tier, slot, views)

        monkeypatch.setattr(DiskTier, "_write", asleep)
        store(late, 1, 0, 3 * 64 * KIB)
        assert load(disk, 1, 0, 3 * 64 * KIB)
        assert [load(disk, 100 + n, 0, 64 * KIB) for n in range(2 * slots + 3, 3 * slots)].count(False) == 0
        assert disk.check(data=True) == []
        if late is not disk:
            late.close()


def test_a_tier_in_which_all_slots_are_being_written_takes_nothing(disk):
    other = DiskTier(disk.path)
    with other.index.turn() as lock:
        assert len(lock.own(0, disk.shape.slots)) == disk.shape.slots
    store(disk, 1, 0, 64 * KIB)
    assert not load(disk, 1, 0, 64 * KIB)
    other.close()  # as it does when its process is killed
    store(disk, 1, 0, 64 * KIB)
    assert load(disk, 1, 0, 64 * KIB)


def test_a_stopped_writer_stops_no_reader_and_no_writer_for_long(disk, monkeypatch):
    store(disk, 1, 0, 64 * KIB)
    other = DiskTier(disk.path)
    monkeypatch.setattr(indexes, "PATIENCE", 0.05)
    with other.index.turn():
        assert load(disk, 1, 0, 64 * KIB)
        with pytest.raises(indexes.Busy, match="is it stopped"):
            store(disk, 2, 0, 64 * KIB)
    store(disk, 2, 0, 64 * KIB)
    assert load(other, 2, 0, 64 * KIB)
    other.close()


@contextlib.contextmanager
def mounted(folder, *options):
    """A small file system at a folder, during a ``with``; the test is skipped where none can be mounted."""
    os.makedirs(folder, exist_ok=True)
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], timeout=60, check=True)


def read_twice(pool, content):
    """Read an object two times from the origin, or a tier. Return how many bytes the origin sent."""
    sent = 0

    def read(offset, length):
        nonlocal sent
        sent += length
        return content[offset : offset + length]

    for _ in range(2):
        assert pool.mapping("k", len(content), "1", read).read_bytes(0, len(content)) == content
        assert flush(60)
        pool.forget("k")
    return sent


def test_no_room_switches_it_off_in_words(tmp_path, pool_name, caplog):
    folder = str(tmp_path / "small")
    with mounted(folder, "-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        pool = foliocache.open(pool_name, size="4MiB", tiers=[f"disk:{folder}/tier?size=64MiB"])
        assert read_twice(pool, content(1, 0, 300_000)) == 600_000
        assert re.search(r"MiB cannot be allocated: No space left on device: .*slots", pool.tiers[0].state)
        assert [record.message for record in caplog.records if "No space left" in record.message] != []
        assert not os.path.exists(f"{folder}/tier/slots")
        pool.close()


def test_a_tmpfs_is_a_disk_too(tmp_path, pool_name):
    folder = str(tmp_path / "small")
    with mounted(folder, "-t", "tmpfs", "-o", "size=20m", "tmpfs"):
        pool = foliocache.open(pool_name, size="4MiB", tiers=[f"disk:{folder}/tier?size=16MiB"])
        assert read_twice(pool, content(1, 0, 300_000)) == 300_000
        pool.close()


def test_a_read_only_file_system_is_read(tmp_path, pool_name, caplog):
    folder = str(tmp_path / "fixed")
    with mounted(folder, "-t", "tmpfs", "-o", "size=20m", "tmpfs"):
        url = f"disk:{folder}/tier?size=16MiB"
        pool = foliocache.open(pool_name, size="4MiB", tiers=[url])
        assert read_twice(pool, content(1, 0, 300_000)) == 300_000
        pool._tiers[0].tier.close()
        disks_of(pool).clear()
        subprocess.run(["mount", "-o", "remount,ro", folder], timeout=60, check=True)
        pool = foliocache.open(pool_name)
        assert read_twice(pool, content(1, 0, 300_000)) == 0
        mapping = pool.mapping("other", 10, "1", lambda offset, length: bytes(length))
        assert mapping.read_bytes(0, 10) == bytes(10)
        assert flush(60)
        assert "read-only" in pool.tiers[0].state
        pool._tiers[0].tier.close()
        pool.close()


def disks_of(pool):
    from foliocache.tiers import urls

    return urls._guards


class Broken:
    """In place of ``os``: the disk answers all that goes to some file with an error."""

    def __init__(self, number, fds):
        self.number, self.fds = number, fds

    def __getattr__(self, name):
        inner = getattr(os, name)
        if name not in ("pread", "preadv", "pwrite", "pwritev"):
            return inner

        def call(fd, *arguments):
            if fd in self.fds:
                raise OSError(self.number, os.strerror(self.number))
            return inner(fd, *arguments)

        return call


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE])
@pytest.mark.parametrize("file", ["index", "slots", "both"])
def test_a_failing_disk_is_a_miss(tmp_path, pool_name, monkeypatch, number, file):
    pool = foliocache.open(pool_name, size="4MiB", tiers=[f"disk:{tmp_path}/tier?size=16MiB"])
    data = content(1, 0, 300_000)
    assert read_twice(pool, data) == len(data)
    tier = pool._tiers[0].tier
    fds = {"index": {tier.index.fd}, "slots": {tier._fd}, "both": {tier.index.fd, tier._fd}}[file]
    broken = Broken(number, fds)
    monkeypatch.setattr(indexes, "os", broken)
    monkeypatch.setattr(disks, "os", broken)
    assert read_twice(pool, data) == 2 * len(data)
    assert os.strerror(number) in pool.tiers[0].state
    monkeypatch.undo()
    pool._tiers[0].loads._until = pool._tiers[0].stores._until = time.monotonic()
    assert read_twice(pool, data) <= len(data)  # what failed may have been dropped
    assert read_twice(pool, data) == 0
    assert read_twice(pool, content(2, 0, 1000)) == 1000
    assert pool.tiers[0].state == "ready"
    pool.close()
