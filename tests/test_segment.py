"""Creation, attachment, and everything that is refused."""

import multiprocessing
import os
import signal
import stat
import struct
import subprocess
import sys

import pytest

import foliocache
from foliocache import segment
from foliocache.mm import layout
from foliocache.sizes import format_size, parse_size

SPAWN = multiprocessing.get_context("spawn")


def test_creates_with_the_asked_parameters_and_mode(pool_name):
    cache = foliocache.open(pool_name, size="4MiB", page_size="32KiB", mode=0o640)
    assert (cache.pool_bytes, cache.page_size) == (4 << 20, 32 << 10)
    found = os.stat(cache.path)
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert found.st_blocks * 512 >= found.st_size, "memory must be reserved at creation"


def test_attaches_with_what_the_segment_has(pool_name):
    first = foliocache.open(pool_name, size="4MiB", page_size=8192)
    assert foliocache.open(pool_name) is first
    assert foliocache.open(pool_name, size=4 << 20, page_size="8KiB") is first
    assert foliocache.attach(pool_name) is first


@pytest.mark.parametrize(
    ("parameters", "named"),
    [({"size": "8MiB"}, ("4 MiB", "8 MiB")), ({"page_size": "4KiB"}, ("16 KiB", "4 KiB")), ({"clients": 3}, ("256", "3"))],
)
def test_other_parameters_are_refused_naming_both(pool_name, parameters, named):
    foliocache.open(pool_name, size="4MiB")
    with pytest.raises(foliocache.SegmentMismatch) as caught:
        foliocache.open(pool_name, **parameters)
    assert all(text in str(caught.value) for text in named)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b", ".hidden", "x" * 101, "näme", None, 3])
def test_names_stay_in_their_folder(name):
    with pytest.raises(ValueError, match="segment name"):
        foliocache.open(name, size="4MiB")
    with pytest.raises(ValueError, match="segment name"):
        foliocache.remove(name)


@pytest.mark.parametrize(
    "parameters",
    [
        {"size": 0}, {"size": -1}, {"size": "lots"}, {"size": "4 XiB"}, {"size": 1.5}, {"size": True}, {"size": "100KiB"},
        {"size": "1024TiB"}, {"page_size": 1000}, {"page_size": "3KiB"}, {"page_size": "4MiB"}, {"clients": 0}, {"clients": "two"},
    ],
)  # fmt: skip
def test_senseless_parameters_are_value_errors(pool_name, parameters):
    with pytest.raises(ValueError):
        foliocache.open(pool_name, **({"size": "4MiB"} | parameters))
    assert pool_name not in foliocache.segments()


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
    cache = foliocache.open(pool_name, size="4MiB")
    assert pool_name in foliocache.segments()
    foliocache.remove(pool_name)
    assert pool_name not in foliocache.segments()
    with pytest.raises(foliocache.SegmentNotFound, match=pool_name):
        foliocache.remove(pool_name)
    with pytest.raises(foliocache.SegmentNotFound, match=pool_name):
        foliocache.attach(pool_name)
    assert cache.audit() == [], "who is attached keeps what he has"
    again = foliocache.open(pool_name, size="4MiB")
    assert again is not cache


def _open_in_child(name, barrier, found):
    barrier.wait(60)
    cache = foliocache.open(name, size="8MiB")
    found.put((os.stat(cache.path).st_ino, cache.stat()["free_bytes"]))
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
    assert set(results) == {(os.stat(segment.path_of(pool_name)).st_ino, 8 << 20)}


def test_a_dead_creators_segment_is_started_over(pool_name):
    with open(segment.path_of(pool_name), "wb") as file:
        file.write(struct.pack("<QII", layout.MAGIC, layout.ABI, layout.STATE_BUILDING) + bytes(5000))
    assert foliocache.open(pool_name, size="4MiB").audit() == []


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
        with pytest.raises(foliocache.SegmentError, match=r"(?s)(remove it|rm )"):
            attach()
    assert os.stat(path).st_size == before.st_size


def test_no_regular_file(pool_name):
    path = segment.path_of(pool_name)
    os.mkfifo(path)
    with pytest.raises(foliocache.SegmentError, match="not a regular file"):
        foliocache.open(pool_name, size="4MiB")
    os.unlink(path)
    os.symlink("/dev/null", path)
    with pytest.raises(foliocache.SegmentError, match="cannot be opened"):
        foliocache.open(pool_name, size="4MiB")
    os.unlink(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_another_users_segment_is_refused_unless_asked_for(pool_name):
    path = foliocache.open(pool_name, size="4MiB").path
    os.chown(path, 12345, 12345)
    with pytest.raises(foliocache.SegmentError, match="uid 12345"):
        foliocache.open(pool_name)
    assert foliocache.open(pool_name, any_owner=True).audit() == []


def test_a_full_file_system_is_an_error_at_once(pool_name, monkeypatch):
    free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
    with pytest.raises(foliocache.SegmentFull, match=r"no room.*smaller size"):
        foliocache.open(pool_name, size=free * 2 // 65536 * 65536)
    assert pool_name not in foliocache.segments(), "nothing half made is left behind"


def test_another_folder(pool_name, monkeypatch, tmp_path):
    monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
    assert foliocache.open(pool_name, size="4MiB").path == str(tmp_path / f"foliocache.{pool_name}")
    assert foliocache.segments() == [pool_name]
    foliocache.remove(pool_name)


def die_at_line(n):
    """Be killed at the n-th line of the package's Python that this process executes from now on."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(os.path.dirname(foliocache.__file__)):
            return None
        lines += event == "line"
        if lines == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def test_killed_at_any_line_of_its_creation(pool_name):
    status, line = -signal.SIGKILL, 0
    while status == -signal.SIGKILL:
        line += 1
        pid = os.fork()
        if pid == 0:
            die_at_line(line)
            foliocache.open(pool_name, size="1MiB", clients=4)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        cache = foliocache.open(pool_name, size="1MiB", clients=4)
        assert cache.mapping("k", 100, "1", bytes_of).read(0, 100) == bytes_of(0, 100)
        assert cache.audit() == []
        cache.close()
        foliocache.remove(pool_name)
    assert status == 0
    assert line > 100


def bytes_of(offset, length):
    return bytes(number % 251 for number in range(offset, offset + length))


def test_metadata_stays_below_half_a_percent():
    shape = segment.geometry(
        segment.DEFAULT_SIZE // segment.DEFAULT_PAGE_SIZE, segment.DEFAULT_PAGE_SIZE, segment.DEFAULT_CLIENTS
    )
    assert shape["data"] / segment.DEFAULT_SIZE <= 0.005


def test_descriptors_are_not_inherited(pool_name):
    foliocache.open(pool_name, size="4MiB")
    listing = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False, check=True, timeout=60
    )
    assert pool_name not in listing.stdout


_WRITE_THROUGH_THE_READ_ONLY_MAPPING = """
import ctypes, sys, foliocache
cache = foliocache.open(sys.argv[1])
lease = cache.mapping("k", 10, read=lambda offset, length: bytes(length)).lease(0)
address = ctypes.c_void_p.from_buffer_copy(b"\\0" * 8)
view = memoryview(lease)
import numpy
target = numpy.frombuffer(lease, dtype=numpy.uint8).ctypes.data
print("about to write", flush=True)
ctypes.memset(target, 1, 1)
print("written")
"""


def test_a_stray_write_faults_in_the_offender_and_harms_nobody(cache):
    child = subprocess.run(
        [sys.executable, "-c", _WRITE_THROUGH_THE_READ_ONLY_MAPPING, cache.name], capture_output=True, text=True, timeout=60
    )
    assert child.stdout == "about to write\n" and child.returncode == -11, child.stderr
    assert bytes(cache.mapping("k", 10).lease(0)) == bytes(10)
    # The child died with its lease: settling dead clients' pins is not built yet, so this test leaves nothing to audit behind.
    cache.mapping("k", 10).invalidate()


def test_one_client_too_many(pool_name):
    first = foliocache.open(pool_name, size="4MiB", clients=1)
    code = f"import foliocache\ntry: foliocache.open({pool_name!r})\nexcept foliocache.SegmentError as e: print(e)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "room for 1 client" in said
    lease = first.mapping("k", 10, read=lambda offset, length: bytes(length)).lease(0)
    first.close()
    del first
    with pytest.raises(foliocache.SegmentError, match="room for 1 client"):
        foliocache.open(pool_name)
    lease.release()
    del lease
    assert foliocache.open(pool_name).stat()["clients"][0]["slot"] == 0, "the slot goes with the last lease"
