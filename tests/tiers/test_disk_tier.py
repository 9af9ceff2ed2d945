"""The disk tier: what is stored is loaded, by this process and others, within its size."""

from __future__ import annotations

import gc
import mmap
import os
import random
import subprocess
import sys

import pytest
from slots import aligned, content, digest, load, store

from foliocache.errors import PoolError, PoolMismatchError
from foliocache.sizes import parse_size
from foliocache.tiers import layout
from foliocache.tiers.disk import DiskTier
from foliocache.tiers.files import remove

MIB = 1 << 20
KIB = 1 << 10
LIMIT = 120


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "tier")


@pytest.fixture
def disk(folder):
    made = DiskTier(folder, 8 * MIB)
    yield made
    made.close()


def used(folder):
    return sum(os.stat(os.path.join(folder, name)).st_blocks * 512 for name in os.listdir(folder))


@pytest.mark.parametrize("direct", [None, False])
def test_what_is_stored_is_loaded(folder, direct):
    disk = DiskTier(folder, 8 * MIB, direct=direct)
    for n, (offset, length) in enumerate(
        [(0, 1), (0, 4096), (64 * KIB, 64 * KIB), (0, MIB), (MIB, 300_001), (MIB * MIB, 5000)]
    ):
        assert not load(disk, n, offset, length)
        store(disk, n, offset, length)
        assert load(disk, n, offset, length)
        assert not load(disk, n + 100, offset, length)
    assert disk.holds(digest(3), [(0, MIB), (MIB, 1), (64 * KIB, 64 * KIB)]) == [True, False, True]
    disk.close()


def test_it_is_there_for_the_next_process(folder, disk):
    store(disk, 1, 0, MIB)
    store(disk, 2, 0, 100)
    again = DiskTier(folder)
    assert again.shape == disk.shape
    assert load(again, 1, 0, MIB) and load(again, 2, 0, 100)
    again.close()


@pytest.mark.parametrize("seed", range(3))
def test_any_range_of_what_is_there_is_loaded(folder, seed):
    """Folios have other sizes when they are read again: pieces are put together, and cut."""
    disk = DiskTier(folder, 64 * MIB)  # each piece takes a slot
    chosen = random.Random(seed)
    size = 3 * MIB + 12_345
    at = 0
    while at < size:
        length = min(chosen.choice([4, 8, 16, 32, 64, 128, 256]) * KIB, size - at)
        length = min(length, (at & -at) or length)  # a folio is aligned to its size, but at the end of the object
        store(disk, 1, at, length)
        at += length
    for _ in range(60):
        begin = chosen.randrange(size // 4096) * 4096
        assert load(disk, 1, begin, min(chosen.randrange(1, 300 * KIB), size - begin))
    assert not load(disk, 1, size - size % 4096, size % 4096 + 1)
    disk.close()


def test_parts_are_answered_one_by_one(disk):
    for block in (0, 1, 3):
        store(disk, 1, block * 64 * KIB, 64 * KIB)
    views = [aligned(64 * KIB) for _ in range(5)]
    assert disk.load(digest(1), [(n * 64 * KIB, view) for n, view in enumerate(views)]) == [True, True, False, True, False]
    assert [bytes(views[n]) == content(1, n * 64 * KIB, 64 * KIB) for n in (0, 1, 3)] == [True] * 3


def test_buffers_need_not_be_aligned(disk):
    store(disk, 1, 0, 200_000)
    whole = memoryview(bytearray(200_001))
    assert disk.load(digest(1), [(0, whole[1:])]) == [True]
    assert bytes(whole[1:]) == content(1, 0, 200_000)
    disk.store(digest(2), [(0, whole[1:])])
    assert disk.load(digest(2), [(0, whole[:200_000])]) == [True]
    assert bytes(whole[:200_000]) == content(1, 0, 200_000)


def test_a_longer_piece_replaces_a_shorter_one(disk):
    store(disk, 1, 0, 4096)
    store(disk, 1, 0, 64 * KIB)
    assert load(disk, 1, 0, 64 * KIB)
    hand = disk.index.state().hand
    store(disk, 1, 0, 4096)  # is there already
    assert disk.index.state().hand == hand


@pytest.mark.parametrize("slot", ["4KiB", "64KiB", "1MiB"])
@pytest.mark.parametrize("size", ["17MiB", "40MiB"])
def test_it_has_its_size_from_the_beginning_on(folder, slot, size):
    disk = DiskTier(folder, parse_size(size), slot=parse_size(slot))
    least = 0.8 if slot == "4KiB" else 0.9
    before = used(folder)
    assert least * parse_size(size) < before <= parse_size(size)
    for n in range(min(2 * disk.shape.slots, 700)):
        store(disk, n, 0, 5000)
    assert used(folder) <= parse_size(size)
    disk.close()


def test_the_hand_goes_round(disk):
    slots = disk.shape.slots
    for n in range(2 * slots):
        store(disk, n, 0, 64 * KIB)
    assert [load(disk, n, 0, 64 * KIB) for n in range(2 * slots)] == [False] * slots + [True] * slots


def test_what_was_used_has_a_second_chance(disk):
    slots = disk.shape.slots
    for n in range(slots):
        store(disk, n, 0, 64 * KIB)
    assert all(load(disk, n, 0, 64 * KIB) for n in range(0, slots, 4))
    for n in range(slots, slots + slots // 2):
        store(disk, n, 0, 64 * KIB)
    kept = [n for n in range(slots) if load(disk, n, 0, 64 * KIB)]
    assert set(range(0, slots, 4)) <= set(kept)
    assert len(kept) == slots - slots // 2


def test_a_tier_in_which_all_is_used_takes_new_pieces(disk):
    slots = disk.shape.slots
    for n in range(slots):
        store(disk, n, 0, 64 * KIB)
        assert load(disk, n, 0, 64 * KIB)
    store(disk, slots, 0, 64 * KIB)
    assert load(disk, slots, 0, 64 * KIB)


def test_a_piece_of_many_slots_gets_each_of_them_once(folder):
    """Also when all slots but one are in use, and the hand goes round twice."""
    disk = DiskTier(folder, 4 * MIB, slot=64 * KIB)
    for n in range(disk.shape.slots):
        store(disk, n, 0, 64 * KIB)
    for n in range(1, disk.shape.slots):
        assert load(disk, n, 0, 64 * KIB)
    store(disk, 1000, 0, 5 * 64 * KIB)
    assert load(disk, 1000, 0, 5 * 64 * KIB)
    disk.close()


def test_a_full_tier_takes_what_is_missed_twice(disk):
    slots = disk.shape.slots
    assert all(disk.wants(digest(n), 0, MIB) for n in range(50))  # there is room
    for n in range(slots + 1):
        store(disk, n, 0, 64 * KIB)
    first = [disk.wants(digest(n), 0, 64 * KIB) for n in range(50)]
    second = [disk.wants(digest(n), 0, 64 * KIB) for n in range(50)]
    assert sum(first) < 5 and sum(second) > 40


def test_a_scan_does_not_wear_out_a_full_tier(disk):
    for n in range(disk.shape.slots + 1):
        store(disk, n, 0, 64 * KIB)
    assert sum(disk.wants(digest(1), n * MIB, MIB) for n in range(3000)) < 150


def test_all_processes_together_keep_a_rate(folder, disk):
    """Another process's stores count, too. What is far ahead is of the time before a reboot."""
    other = DiskTier(folder)
    assert disk.pace(500, 1000) == pytest.approx(0.5, abs=0.01)
    assert 0.5 < other.pace(1000, 1000) <= 1.5
    assert 1.0 < disk.pace(1000, 1000) <= 2.5
    os.pwrite(disk.index.fd, layout.pack_pace(2**62, disk.shape.seed), layout.PACE_AT)
    assert other.pace(500, 1000) == pytest.approx(0.5, abs=0.01)
    os.pwrite(disk.index.fd, b"damaged", layout.PACE_AT)
    assert disk.pace(500, 1000) == pytest.approx(0.5, abs=0.01)
    assert disk.check() == []
    other.close()


def test_two_tiers_have_nothing_in_common(tmp_path):
    one, other = DiskTier(str(tmp_path / "one"), 4 * MIB), DiskTier(str(tmp_path / "other"), 4 * MIB)
    store(one, 1, 0, 64 * KIB)
    header = os.pread(one.index.fd, 64, one.shape.headers_at)
    os.pwrite(other.index.fd, header, other.shape.headers_at)
    assert other.index.header(0) is None and one.index.header(0) is not None
    one.close()
    other.close()


def test_a_child_uses_the_tier_of_its_parent(disk):
    store(disk, 1, 0, 64 * KIB)
    with disk.index.turn():  # as a thread of the parent may
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert load(disk, 1, 0, 64 * KIB)
                with disk.index.lock.held(0) as held:
                    assert not held
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            store(disk, 2, 0, 64 * KIB)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert load(disk, 2, 0, 64 * KIB)


def test_processes_make_one_tier(folder):
    code = (
        "import sys; from foliocache.tiers.disk import DiskTier\n"
        "sys.stdin.read(); print(DiskTier(sys.argv[1], 8 << 20).shape.tier_id.hex())"
    )
    makers = [
        subprocess.Popen([sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({maker.communicate(timeout=LIMIT)[0] for maker in makers}) == 1
    assert [maker.returncode for maker in makers] == [0] * 4


def test_the_kernel_keeps_no_second_copy(disk):
    if not disk.is_direct:
        pytest.skip("the file system of the tests has no O_DIRECT")
    for n in range(64):
        store(disk, n, 0, 64 * KIB)
        assert load(disk, n, 0, 64 * KIB)
    assert cached_pages(os.path.join(disk.path, "slots")) == 0


def cached_pages(path):
    """How many pages of a file the kernel has in its cache, by mincore."""
    import ctypes

    size = os.path.getsize(path)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        array = (ctypes.c_char * size).from_buffer(mapped)
        vector = (ctypes.c_ubyte * (size // 4096))()
        assert ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(array), ctypes.c_size_t(size), vector) == 0
        count = sum(one & 1 for one in vector)
        del array
        gc.collect()
    return count


def test_what_cannot_be_opened_is_refused_in_words(folder, disk):
    with pytest.raises(PoolMismatchError, match="126 slots of 64 KiB"):
        DiskTier(folder, 9 * MIB)
    with pytest.raises(PoolMismatchError, match="foliocache tier rm"):
        DiskTier(folder, slot=4096)
    with pytest.raises(PoolError, match="give a size"):
        DiskTier(folder + "2")
    with pytest.raises(ValueError, match="power of two"):
        DiskTier(folder + "2", MIB, slot=5000)
    with pytest.raises(ValueError, match="needs a size of"):
        DiskTier(folder + "2", MIB)
    os.pwrite(disk.index.fd, b"x", 10)
    with pytest.raises(PoolError, match="not the index of a tier"):
        DiskTier(folder)
    os.pwrite(disk.index.fd, layout.pack_super(disk.shape), 0)
    os.truncate(os.path.join(folder, "index"), 4096)
    with pytest.raises(PoolError, match="cut off"):
        DiskTier(folder)
    with pytest.raises(PoolError, match="is not a folder"):
        DiskTier(os.path.join(folder, "slots"), 10 * MIB)


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_tier_without_its_slots_says_what_to_do(folder, disk, as_folder):
    os.unlink(os.path.join(folder, "slots"))
    if as_folder:
        os.mkdir(os.path.join(folder, "slots"))
    with pytest.raises(PoolError, match=r"is missing, or no file; .*foliocache tier rm"):
        DiskTier(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_tier_is_refused(folder, disk):
    store(disk, 1, 0, 64 * KIB)
    disk.close()
    for name in (*os.listdir(folder), "."):
        os.chown(os.path.join(folder, name), 65534, 65534)
    with pytest.raises(PoolError, match="belongs to another user"):
        DiskTier(folder)
    other = DiskTier(folder, any_owner=True)
    assert load(other, 1, 0, 64 * KIB)
    other.close()


def test_what_is_no_tier_is_not_removed(tmp_path):
    for names in (["index"], ["index", "slots"], ["index", "lock"]):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).write_text("mine")
        with pytest.raises(PoolError, match="no tier"):
            remove(str(folder))
        assert sorted(path.name for path in folder.iterdir()) == names


@pytest.mark.parametrize("lost", ["lock", "slots", "index"])
def test_a_tier_that_is_damaged_is_removed(folder, disk, lost):
    os.unlink(os.path.join(folder, lost))
    remove(folder)
    assert not os.path.exists(folder)


def test_rm(folder, disk):
    remove(folder)
    assert not os.path.exists(folder)
    with pytest.raises(PoolError, match="there is no tier"):
        remove(folder)
    store(disk, 1, 0, 64 * KIB)  # those who have it keep it
    assert load(disk, 1, 0, 64 * KIB)
