"""Creating and attaching to pools, and everything that is refused."""

import fcntl
import multiprocessing
import os
import signal
import socket
import stat
import struct
import subprocess
import sys

import numpy as np
import pytest
from lines import answer_of

import foliocache
from foliocache.mm import layout
from foliocache.pool import creation, files, geometry, header, segment
from foliocache.sizes import format_size, parse_size

SPAWN = multiprocessing.get_context("spawn")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")


def test_creates_with_the_asked_parameters_and_mode(pool_name):
    pool = foliocache.open(pool_name, size="4MiB", page_size="32KiB", mode=0o640)
    assert (pool.pool_bytes, pool.page_size) == (4 << 20, 32 << 10)
    found = os.stat(pool.path)
    assert stat.S_IMODE(found.st_mode) == 0o640
    segment = pool._attachment.segment
    tables = geometry.table_bytes(segment.geometry, segment.slots)
    assert tables <= found.st_blocks * 512 < tables + (64 << 10), "the tables' memory is reserved at creation, and no other"


def test_attaches_with_what_the_segment_has(pool_name):
    first = foliocache.open(pool_name, size="4MiB", page_size=8192)
    assert foliocache.open(pool_name) is first
    assert foliocache.open(pool_name, size="8MiB", max_size="1GiB") is first and first.pool_bytes == 4 << 20
    assert foliocache.open(pool_name, size="4MiB", exact=True) is first
    assert foliocache.open(pool_name, size=4 << 20, page_size="8KiB") is first
    assert foliocache.attach(pool_name) is first


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"size": "8MiB", "exact": True}, ("4 MiB", "8 MiB", "foliocache resize")),
        ({"max_size": "8MiB", "exact": True}, ("max_size=16 MiB", "max_size=8 MiB")),
        ({"page_size": "4KiB"}, ("16 KiB", "4 KiB")),
        ({"clients": 3}, ("256", "3")),
    ],
)
def test_other_parameters_are_refused_naming_both(pool_name, parameters, named):
    foliocache.open(pool_name, size="4MiB", max_size="16MiB")
    with pytest.raises(foliocache.PoolMismatchError) as caught:
        foliocache.open(pool_name, **parameters)
    assert all(text in str(caught.value) for text in named)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b", ".hidden", "x" * 101, "näme", None, 3])
def test_names_stay_in_their_folder(name):
    with pytest.raises(ValueError, match="pool name"):
        foliocache.open(name, size="4MiB")
    with pytest.raises(ValueError, match="pool name"):
        foliocache.remove(name)


@pytest.mark.parametrize(
    "parameters",
    [
        {"size": 0}, {"size": -1}, {"size": "lots"}, {"size": "4 XiB"}, {"size": 1.5}, {"size": True}, {"size": "100KiB"},
        {"size": "1024TiB"}, {"size": 10**400}, {"size": "9" * 5000}, {"size": "9" * 400 + ".5"}, {"size": "0.0001"},
        {"size": "nan"}, {"size": np.True_}, {"size": np.float64(1e9)},
        {"size": "0%"}, {"size": "101%"}, {"size": "%"}, {"size": "-5%"}, {"size": "1e1%"}, {"size": "half"},
        {"max_size": "1MiB"}, {"max_size": "1024TiB"}, {"max_size": "0%"},
        {"page_size": 1000}, {"page_size": "3KiB"}, {"page_size": "4MiB"}, {"page_size": 0}, {"page_size": -4096},
        {"clients": 0}, {"clients": "two"}, {"clients": True}, {"clients": 1 << 40}, {"clients": 2.0},
        {"mode": -1}, {"mode": 1 << 40}, {"mode": "0600"}, {"mode": 0o400}, {"mode": 0o4600}, {"mode": True}, {"mode": None},
        {"fill_timeout": float("nan")}, {"fill_timeout": -1}, {"fill_timeout": "5"}, {"fill_timeout": True},
        {"fill_timeout": -(10**400)}, {"fill_timeout": [1]},
    ],
)  # fmt: skip
def test_senseless_parameters_are_value_errors(pool_name, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        foliocache.open(pool_name, **({"size": "4MiB"} | parameters))
    assert pool_name not in foliocache.pools()


def test_numbers_of_every_kind(pool_name):
    pool = foliocache.open(
        pool_name, size=np.int64(4 << 20), page_size=np.uint16(8192), clients=np.int8(7), mode=np.int32(0o640)
    )
    assert (pool.pool_bytes, pool.page_size, pool.stat().max_clients) == (4 << 20, 8192, 7)


@pytest.mark.parametrize("seconds", [0, 1.5, np.float32(2), np.int64(3), float("inf"), 1e300, 10**400])
def test_any_time_can_be_waited(pool_name, seconds):
    pool = foliocache.open(pool_name, size="4MiB", fill_timeout=seconds)
    assert pool.fill_timeout == min(seconds, 1e9)
    assert int(pool.fill_timeout * 1e9) < 1 << 63, "the core counts nanoseconds"
    pool.fill_timeout = 5
    with pytest.raises(ValueError, match="fill_timeout"):
        pool.fill_timeout = -1
    assert pool.fill_timeout == 5


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 << 30),
        ("64 MiB", 64 << 20),
        ("1.5k", 1536),
        ("500MB", 500_000_000),
        ("12", 12),
        ("1tib", 1 << 40),
        (7, 7),
        ("9B", 9),
    ],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


def test_sizes_for_people():
    assert [format_size(n) for n in (5, 1024, 1536, 4 << 30, 3 << 40)] == ["5 B", "1 KiB", "1.5 KiB", "4 GiB", "3 TiB"]


def test_remove_and_list(pool_name):
    pool = foliocache.open(pool_name, size="4MiB")
    assert pool_name in foliocache.pools()
    foliocache.remove(pool_name)
    assert pool_name not in foliocache.pools()
    with pytest.raises(foliocache.PoolNotFoundError, match=pool_name):
        foliocache.remove(pool_name)
    with pytest.raises(foliocache.PoolNotFoundError, match=pool_name):
        foliocache.attach(pool_name)
    assert pool.audit() == [], "an attached process keeps its mapping"
    again = foliocache.open(pool_name, size="4MiB")
    assert again is not pool


def _open_in_child(name, barrier, found):
    barrier.wait(60)
    pool = foliocache.open(name, size="8MiB")
    found.put((os.stat(pool.path).st_ino, pool.stat().free_bytes))
    barrier.wait(60)


def test_racing_creators_get_one_segment(pool_name):
    barrier, found = SPAWN.Barrier(6), SPAWN.Queue()
    children = [SPAWN.Process(target=_open_in_child, args=(pool_name, barrier, found)) for _ in range(6)]
    for child in children:
        child.start()
    results = [found.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    assert {child.exitcode for child in children} == {0}
    assert set(results) == {(os.stat(files.path_of(pool_name)).st_ino, 8 << 20)}


@pytest.mark.parametrize(
    "content",
    [
        *(b"x" * n for n in (0, 1, 3, 7, 15, 16, 20, 108, 5000)),
        bytes(16) + b"my precious data" * 1000,
        struct.pack("<QII", layout.MAGIC, layout.ABI, layout.STATE_BUILDING) + bytes(5000),
        struct.pack("<QII", layout.MAGIC, layout.ABI, layout.STATE_READY) + bytes(5000),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_what_is_no_whole_segment_is_refused_and_never_written_to(pool_name, content):
    path = files.path_of(pool_name)
    with open(path, "wb") as file:
        file.write(content)
    for attach in (lambda: foliocache.open(pool_name, size="4MiB"), lambda: foliocache.attach(pool_name)):
        with pytest.raises(foliocache.PoolDamagedError, match=f"foliocache rm {pool_name}"):
            attach()
    with open(path, "rb") as file:
        assert file.read() == content


def test_one_flipped_bit_of_the_header_harms_nobody_who_is_attached(pool_name):
    """Processes that attach are refused; attached processes go on."""
    pool = foliocache.open(pool_name, size="1MiB", clients=4)
    mapping = pool.mapping("k", 100_000, "1", bytes_of)
    size = os.stat(pool.path).st_size
    with open(pool.path, "r+b", buffering=0) as file:
        for bit in range(8 * layout.HDR_IDENTITY_END):
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))
            for attach in (segment.attach, lambda name: creation.create_or_attach(name, geometry.parameters("1MiB", None, 4))):
                with pytest.raises(foliocache.PoolError, match=f"foliocache rm {pool_name}"):
                    attach(pool_name)
            file.seek(bit // 8)
            file.write(bytes([byte]))
    assert os.stat(pool.path).st_size == size
    assert mapping.read_bytes(0, 100_000) == bytes_of(0, 100_000)
    assert foliocache.open(pool_name) is pool and pool.audit() == []


def test_a_header_that_only_seems_to_make_sense(pool_name):
    """Its checksum is right, but its numbers are impossible."""
    path = files.path_of(pool_name)
    shape = geometry.compute(64, 4096, 4) | {"fenced": 0}
    for wrong in (
        {"page_shift": 40},
        {"page_shift": 4},
        {"npages": 1 << 31},
        {"npages": 63},
        {"nclients": 0},
        {"nclients": 70_000},
    ):
        with open(path, "wb") as file:
            file.write(header.pack(shape | wrong, layout.STATE_READY))
            file.truncate(shape["size"])
        with pytest.raises(foliocache.PoolDamagedError, match="makes no sense"):
            foliocache.attach(pool_name)


def _damage(path, how):
    size = os.path.getsize(path)
    if how == "foreign":
        with open(path, "wb") as file:
            file.write(b"something else entirely" * 1000)
    elif how == "truncated":
        os.truncate(path, size - 4096)
    elif how == "tiny":
        os.truncate(path, 20)
    elif how == "extended":
        os.truncate(path, size + 4096)
    else:
        with open(path, "r+b") as file:
            file.seek({"version": layout.HDR_ABI, "geometry": layout.HDR_NPAGES, "checksum": layout.HDR_CHECKSUM}[how])
            file.write(struct.pack("<I", 12345))


@pytest.mark.parametrize("how", ["foreign", "truncated", "tiny", "extended", "version", "geometry", "checksum"])
def test_damaged_segments_are_refused_and_left_alone(pool_name, how):
    path = foliocache.open(pool_name, size="4MiB").path
    _damage(path, how)
    before = os.stat(path)
    for attach in (lambda: foliocache.open(pool_name, size="4MiB"), lambda: foliocache.attach(pool_name)):
        with pytest.raises(foliocache.PoolError, match=r"(?s)(remove it|rm )"):
            attach()
    assert os.stat(path).st_size == before.st_size


def _socket(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo, os.mkdir, _socket, lambda path: os.symlink("/dev/null", path), lambda path: os.symlink("nowhere", path),
        pytest.param(lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5)), marks=needs_root),
    ],
    ids=["fifo", "folder", "socket", "link", "dangling link", "device"],
)  # fmt: skip
def test_no_regular_file(pool_name, make):
    """Not opened at all: a fifo may wait for its other end, and a device may do anything."""
    path = files.path_of(pool_name)
    make(path)
    try:
        for attach in (lambda: foliocache.open(pool_name, size="4MiB"), lambda: foliocache.attach(pool_name)):
            with pytest.raises(foliocache.PoolError, match="not a regular file"):
                attach()
        assert pool_name not in foliocache.pools()
    finally:
        if os.path.isdir(path):
            with pytest.raises(foliocache.PoolError, match="cannot be removed"):
                foliocache.remove(pool_name)
            os.rmdir(path)
        else:
            foliocache.remove(pool_name)


@needs_root
def test_a_strangers_file_is_refused_before_it_is_opened_or_waited_for(pool_name):
    """Whatever it contains, and whatever locks its owner has on it."""
    path = files.path_of(pool_name)
    with open(path, "wb") as planted:
        os.chown(path, 12345, 12345)
        pid = os.fork()
        if pid == 0:
            fd = os.open(path, os.O_RDWR)  # a description of its own, so the lock is not ours
            fcntl.flock(fd, fcntl.LOCK_EX)
            fcntl.lockf(fd, fcntl.LOCK_EX)
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        try:
            assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
            for work in (lambda: foliocache.open(pool_name, size="4MiB"), lambda: foliocache.attach(pool_name)):
                assert "uid 12345" in answer_of(work, 10)
            assert "not a foliocache pool" in answer_of(lambda: foliocache.attach(pool_name, any_owner=True), 10)
            assert planted.tell() == 0 and os.stat(path).st_size == 0
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@needs_root
def test_another_users_segment_is_refused_unless_asked_for(pool_name):
    path = foliocache.open(pool_name, size="4MiB").path
    os.chown(path, 12345, 12345)
    with pytest.raises(foliocache.PoolError, match="uid 12345"):
        foliocache.open(pool_name)
    assert foliocache.open(pool_name, any_owner=True).audit() == []


def test_a_full_file_system_is_an_error_at_once(pool_name, monkeypatch):
    """It has no room for the tables, as it says; a pool that is larger than its free memory is none of its concern."""
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(foliocache.PoolFullError, match=r"no room.*smaller size.*was removed has its memory until"):
        foliocache.open(pool_name, size="1GiB")
    assert pool_name not in foliocache.pools(), "nothing half made is left behind"


def test_another_folder(pool_name, monkeypatch, tmp_path):
    monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
    assert foliocache.open(pool_name, size="4MiB").path == str(tmp_path / f"foliocache.{pool_name}")
    assert foliocache.pools() == [pool_name]
    foliocache.remove(pool_name)


def bytes_of(offset, length):
    return bytes(number % 251 for number in range(offset, offset + length))


def test_metadata_stays_below_half_a_percent():
    """With the client slots that have memory from the beginning."""
    size = 4 << 30
    shape = geometry.compute(size // geometry.DEFAULT_PAGE_SIZE, geometry.DEFAULT_PAGE_SIZE, geometry.DEFAULT_CLIENTS)
    tables = geometry.table_bytes(shape, geometry.first_slots(shape)) + shape["npages"] * layout.FOLIO_SIZE
    assert tables / size <= 0.005


def test_descriptors_are_not_inherited(pool_name):
    foliocache.open(pool_name, size="4MiB")
    listing = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False, check=True, timeout=60
    )
    assert pool_name not in listing.stdout


_WRITE_THROUGH_THE_READ_ONLY_MAPPING = """
import ctypes, sys, foliocache
pool = foliocache.open(sys.argv[1])
lease = pool.mapping("k", 10, read=lambda offset, length: bytes(length)).lease(0)
address = ctypes.c_void_p.from_buffer_copy(b"\\0" * 8)
view = memoryview(lease)
import numpy
target = numpy.frombuffer(lease, dtype=numpy.uint8).ctypes.data
print("about to write", flush=True)
ctypes.memset(target, 1, 1)
print("written")
"""


def test_a_stray_write_faults_in_the_offender_and_harms_nobody(pool):
    child = subprocess.run(
        [sys.executable, "-c", _WRITE_THROUGH_THE_READ_ONLY_MAPPING, pool.name], capture_output=True, text=True, timeout=60
    )
    assert child.stdout == "about to write\n" and child.returncode == -11, child.stderr
    assert bytes(pool.mapping("k", 10).lease(0)) == bytes(10)
    # The child died with its lease.
    pool.mapping("k", 10).invalidate()


def test_one_client_too_many(pool_name):
    first = foliocache.open(pool_name, size="4MiB", clients=1)
    code = f"import foliocache\ntry: foliocache.open({pool_name!r})\nexcept foliocache.PoolError as e: print(e)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "room for 1 client" in said
    lease = first.mapping("k", 10, read=lambda offset, length: bytes(length)).lease(0)
    first.close()
    del first
    with pytest.raises(foliocache.PoolError, match="room for 1 client"):
        foliocache.open(pool_name)
    lease.release()
    del lease
    assert foliocache.open(pool_name).stat().clients[0].slot == 0, "the slot goes with the last lease"
