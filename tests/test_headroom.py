"""A pool takes memory only where there is room above a floor: in every cgroup of the process, and on the machine."""

import contextlib
import os
import random
import re
import subprocess
import sys
import time

import pytest

import foliocache
from foliocache.mm.atomics import Memory
from foliocache.pool import geometry, headroom, machine

MIB = 1 << 20
CONTENT = random.Random(0).randbytes(8 * MIB)
LIMIT = 512 * MIB  # before the test lowers it
SHAPE = geometry.compute(64, 4096, 4)


def source(offset, length):
    return CONTENT[offset : offset + length]


class Group:
    """A folder that looks like a memory cgroup's."""

    def __init__(self, folder, **files):
        self.folder = folder
        folder.mkdir(parents=True)
        self.write(**files)

    def write(self, **files):
        for name, content in files.items():
            (self.folder / f"memory.{name}").write_text(f"{content}\n")


def second(folder, limit, usage=0, stat="", high="max"):
    return Group(folder, max=limit, high=high, current=usage, stat=stat)


def first(folder, limit, usage=0, stat=""):
    return Group(folder, limit_in_bytes=limit, usage_in_bytes=usage, stat=stat)


def spare(*groups, share=0.05, floor=0):
    """Return the bytes above the floor in the tightest of the groups."""
    memory = Memory(bytearray(SHAPE["size"]), bytearray(SHAPE["size"]), SHAPE)
    headroom.watch(memory, [str(group.folder) for group in groups])
    headroom.set_floor(memory, share, floor)
    return headroom.spare(memory)[0]


@pytest.mark.parametrize("version", [first, second])
def test_room_of_a_group(version, tmp_path):
    group = version(tmp_path / "own", 100 * MIB, 60 * MIB)
    assert spare(group) == 35 * MIB
    assert spare(group, share=0, floor=10 * MIB) == 30 * MIB
    assert spare(group, share=0.5) == 0
    above = version(tmp_path / "above", 80 * MIB, 70 * MIB)
    assert spare(group, above) == spare(above, group) == 6 * MIB


@pytest.mark.parametrize(
    ("version", "stat"),
    [
        (first, "cache 7\nactive_file 7\ntotal_cache 9\ntotal_dirty 1048576\ntotal_writeback 0\ntotal_inactive_file 8388608\n"
                "total_active_file 1048576\ntotal_unevictable 5"),
        (second, "anon 7\nfile 99\nshmem 88\nfile_dirty 1048576\nfile_writeback 0\ninactive_anon 3\nactive_file 1048576\n"
                 "inactive_file 8388608\nslab 4"),
    ],
)  # fmt: skip
def test_clean_file_pages_count_as_room(version, stat, tmp_path):
    assert spare(version(tmp_path / "own", 100 * MIB, 60 * MIB, stat)) == 43 * MIB


def test_high_is_a_limit(tmp_path):
    assert spare(second(tmp_path / "own", 100 * MIB, 60 * MIB, high=80 * MIB)) == 16 * MIB
    assert spare(second(tmp_path / "other", "max", 60 * MIB, high=80 * MIB)) == 16 * MIB


def test_what_has_no_limit_or_cannot_be_read_does_not_limit(tmp_path):
    assert spare() is None
    groups = [second(tmp_path / "own", "max"), first(tmp_path / "old", 9223372036854771712), Group(tmp_path / "empty")]
    assert spare(*groups, Group(tmp_path / "odd", max="lots", current=""), Group(tmp_path / "half", max=7)) is None
    assert spare(*groups, second(tmp_path / "last", 100 * MIB)) == 95 * MIB


def test_groups_of_this_process(tmp_path):
    proc = tmp_path / "self"
    proc.mkdir()
    (proc / "mountinfo").write_text(
        "30 1 0:1 / / rw - ext4 /dev/a rw\n"
        "35 31 0:32 /docker/a /v\\0401/memory rw shared:7 - cgroup cgroup rw,memory\n"
        "36 31 0:33 / /v1/cpu rw - cgroup cgroup rw,cpu\n"
        "41 31 0:38 / /v2 rw - cgroup2 cgroup2 rw\n"
    )
    (proc / "cgroup").write_text("4:memory:/docker/a/b\n3:cpu:/x\n0::/c/d\n")
    assert machine.groups(str(tmp_path)) == ("/v 1/memory/b", "/v 1/memory", "/v2/c/d", "/v2/c", "/v2")
    assert machine.groups(str(tmp_path), "cpu") == ("/v1/cpu/x", "/v1/cpu", "/v2/c/d", "/v2/c", "/v2")
    assert machine.groups(str(tmp_path / "nothing")) == ()


LIMITS_OF_PROCESSORS = {
    "none": ({}, 2),
    "a quota": ({"v2/c/cpu.max": "150000 100000\n"}, 1.5),
    "no quota": ({"v2/c/cpu.max": "max 100000\n"}, 2),
    "the smallest": ({"v2/cpu.max": "50000 100000", "v2/c/cpu.max": "120000 100000"}, 0.5),
    "more than there are": ({"v2/c/cpu.max": "900000 100000"}, 2),
    "version 1": ({"v1/x/cpu.cfs_quota_us": "25000\n", "v1/x/cpu.cfs_period_us": "100000\n"}, 0.25),
    "version 1, no quota": ({"v1/x/cpu.cfs_quota_us": "-1\n", "v1/x/cpu.cfs_period_us": "100000\n"}, 2),
    "nonsense": ({"v2/c/cpu.max": "lots of 0", "v2/cpu.max": "5 0", "v1/cpu.cfs_quota_us": "many"}, 2),
}


@pytest.mark.parametrize("case", LIMITS_OF_PROCESSORS)
def test_processors_of_this_process(tmp_path, monkeypatch, case):
    files, expected = LIMITS_OF_PROCESSORS[case]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    for name, content in {
        "self/mountinfo": f"36 31 0:33 / {tmp_path}/v1 rw - cgroup _ rw,cpu\n41 31 0:38 / {tmp_path}/v2 rw - cgroup2 _ rw\n",
        "self/cgroup": "3:cpu,cpuacct:/x\n0::/c\n",
        **files,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert machine.processors(str(tmp_path)) == expected


def stat(shmem, clean=0):
    return f"shmem {shmem}\nactive_file {clean}\ninactive_file 0\nfile_dirty 0\nfile_writeback 0\n"


def test_room_is_left_for_what_was_used_a_moment_ago(tmp_path):
    """As much as others have used more than now, where that is more than the floor; and no shared memory, nor clean files."""
    for attempt in range(20):
        begin = time.monotonic()
        said = said_of_swings(tmp_path / f"{attempt}")
        if time.monotonic() - begin < 3:  # a swing is remembered for 4 to 8 s
            break
    assert said == {
        "at first": (0, (700 - 56) * MIB),
        "more": (0, (300 - 56) * MIB),
        "less again": (0, 700 * MIB - 500 * MIB * 7 // 8),
        "the pool takes": ((625 - 200) * MIB, 0),
        "files": ((625 - 200) * MIB, 0),
        "for people": (200 - 64) * MIB,  # what there is now
    }


def said_of_swings(folder):
    group = second(folder, 1000 * MIB, 300 * MIB, stat(100 * MIB))
    memory = Memory(bytearray(SHAPE["size"]), bytearray(SHAPE["size"]), SHAPE)
    headroom.watch(memory, [str(group.folder)])
    headroom.set_floor(memory, 0, 64 * MIB)
    said = {"at first": headroom.short(memory)}
    for when, used, content in (
        ("more", 700, stat(100 * MIB)),
        ("less again", 300, stat(100 * MIB)),
        ("the pool takes", 800, stat(600 * MIB)),
        ("files", 900, stat(600 * MIB, clean=100 * MIB)),
    ):
        group.write(current=used * MIB, stat=content)
        said[when] = headroom.short(memory)
    return said | {"for people": headroom.spare(memory)[0]}


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A cgroup, as it looks, for the pools of this test."""
    made = second(tmp_path / "group", 100 * MIB, 20 * MIB)
    monkeypatch.setattr(machine, "groups", lambda: (str(made.folder),))
    return made


def cached(pool, key):
    """Read an object, and return whether the pool has it now."""
    mapping = pool.mapping(key, MIB, "1", source)
    assert mapping.read_bytes(0, MIB) == source(0, MIB)
    return mapping.is_cached(0, MIB)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_no_room_in_a_cgroup_is_no_memory(pool_name, group):
    pool = foliocache.open(pool_name, size="64MiB", min_free="5%", pressure=False)
    assert cached(pool, "a") and pool.stat().bound_by == "size"
    group.write(current=99 * MIB)
    keys = iter(range(1 << 30))
    wait_for(lambda: not cached(pool, f"x {next(keys)}") or pool.stat().counters.evictions)  # a look is believed for some ms
    backed = pool.stat().backed_bytes
    for n in range(20):
        cached(pool, f"b {n}")
    found = pool.stat()
    assert (
        found.bound_by == "cgroup" and found.backed_bytes == backed and found.counters.evictions + found.counters.bypasses > 0
    )
    assert pool.audit() == []
    group.write(max=200 * MIB)  # a limit that changes is seen
    wait_for(lambda: cached(pool, f"y {next(keys)}") and pool.stat().backed_bytes > backed)


def test_where_there_is_little_it_is_taken_in_small_pieces(pool_name, group):
    """And none of it is left without a mark, which nothing would give back."""
    group.write(max=8 * MIB, current=0)
    pool = foliocache.open(pool_name, size="64MiB", min_free="5%", pressure=False)

    def without_mark():
        return os.stat(pool.path).st_blocks * 512 - pool.stat().backed_bytes

    assert cached(pool, "a")
    before = without_mark()
    group.write(current=7 * MIB)
    for n in range(8):  # with "a", fewer than 1,024 pages: their descriptors have memory
        cached(pool, f"b {n}")
    assert without_mark() == before and pool.audit() == []


def test_a_forked_child_looks_at_its_own_group(pool_name, group, tmp_path, monkeypatch):
    pool = foliocache.open(pool_name, size="64MiB", min_free="10%", pressure=False)
    assert cached(pool, "a") and headroom.spare(pool._memory)[0] == 70 * MIB
    other = second(tmp_path / "other", 10 * MIB, 10 * MIB - 4096)
    monkeypatch.setattr(machine, "groups", lambda: (str(other.folder),))
    pid = os.fork()
    if pid == 0:
        try:
            backed = pool.stat().backed_bytes
            cached(pool, "b")
            assert (pool.stat().backed_bytes, pool.stat().bound_by) == (backed, "cgroup")
            other.write(current=0)
            assert headroom.spare(pool._memory)[0] == 9 * MIB, "the floor stays"
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert headroom.spare(pool._memory)[0] == 70 * MIB


def test_a_pool_without_any_room_reads_privately(pool_name):
    pool = foliocache.open(pool_name, size="64MiB", min_free="100%")
    backed = pool.stat().backed_bytes
    assert not cached(pool, "a") and pool.stat().counters.bypasses > 0
    assert (pool.stat().backed_bytes, pool.stat().bound_by) == (backed, "memory")
    pool = foliocache.open(pool_name, min_free=0)
    assert cached(pool, "a") and pool.audit() == []


def test_a_creation_without_room_is_an_error(pool_name, group):
    group.write(current=100 * MIB - 4096)
    with pytest.raises(foliocache.PoolFullError, match="no memory for the tables"):
        foliocache.open(pool_name, size="64MiB")
    assert not os.path.exists(f"/dev/shm/foliocache.{pool_name}")


@pytest.mark.parametrize("value", ["0%", "101%", -1, "lots", 0.5, True])
def test_impossible_floor(pool_name, value):
    with pytest.raises(ValueError, match="min_free"):
        foliocache.open(pool_name, size="1MiB", min_free=value)


# A real cgroup.

# After "ready", with each object that a client reads, its own memory is larger by ``swing`` MiB for a moment, and by
# ``growth`` / 24 MiB for ever.
CLIENT = """
import os, random, sys
with open(sys.argv[2], "w") as file:
    file.write(str(os.getpid()))
import foliocache
me, MIB = int(sys.argv[3]), 1 << 20
swing, growth = int(sys.argv[4]), int(sys.argv[5])
content = memoryview(random.Random(0).randbytes(5 * MIB))
got = memoryview(bytearray(b"x" * (4 * MIB)))
pool = foliocache.open(sys.argv[1], size="512MiB", clients=16)

def reader(at):
    def readinto(offset, buffer):
        buffer[:] = content[at + offset : at + offset + len(buffer)]
        return len(buffer)
    return readinto

def read(n):
    at = 8 * me + n
    got[:100] = bytes(100)
    mapping = pool.mapping(f"{me} {n}", 4 * MIB, "1", readinto=reader(at))
    assert mapping.readinto(0, got) == 4 * MIB
    assert got == content[at : at + 4 * MIB]

read(0)
print("ready", flush=True)
sys.stdin.readline()
own = []
for n in [*range(12), *range(12)]:
    read(n)
    own.append(bytearray(b"x") * (growth * MIB // 24))
    swung = bytearray(b"x") * (swing * MIB)
    read((n + 6) % 12)
    del swung
print(pool.stat().bound_by)
"""


def set_limit(folder, limit):
    """Set the limit of a memory cgroup. False if it is none."""
    for name in ("memory.limit_in_bytes", "memory.max"):
        if os.path.exists(f"{folder}/{name}"):
            with open(f"{folder}/{name}", "w") as file:
                file.write(str(limit))
            return True
    return False


def count_kills(folder):
    """Let the cgroups in a cgroup of version 2 say how many of their processes were killed."""
    if os.path.exists(f"{folder}/cgroup.subtree_control"):
        with open(f"{folder}/cgroup.subtree_control", "w") as file:
            file.write("+memory")


@pytest.fixture
def limited():
    """A memory cgroup with a limit, and a cgroup in it for processes; skipped where none can be made."""
    for place in machine.groups():
        folder = f"{place}/foliocache-test-{os.getpid()}"
        with contextlib.ExitStack() as made, contextlib.suppress(OSError):
            for path in (folder, f"{folder}/inner"):
                os.mkdir(path)
                made.callback(os.rmdir, path)
            if set_limit(folder, LIMIT):
                count_kills(folder)
                yield folder
                return
    pytest.skip("no memory cgroup can be made here")


def content(*parts):
    with contextlib.suppress(OSError), open("/".join(parts)) as file:
        return file.read()
    return ""


def number(folder, *names):
    """Return the sum of the values of these names in the first of a cgroup's files that has one."""
    for file in ("memory.stat", "memory.events"):
        found = re.findall(rf"^(?:{'|'.join(names)}) (\d+)$", content(folder, file), re.MULTILINE)
        if found:
            return sum(map(int, found))
    return 0


def times_at_the_limit(folder):
    """Return how often something was wanted for which a cgroup had no room: then the kernel takes back what it can."""
    return int(content(folder, "memory.failcnt") or number(folder, "max"))


def file_bytes(folder):
    """Return what of a cgroup's memory the kernel can take back at any time."""
    names = (
        ("total_active_file", "total_inactive_file") if content(folder, "memory.failcnt") else ("active_file", "inactive_file")
    )
    return number(folder, *names)


@pytest.mark.parametrize(("swing", "growth", "room"), [(0, 0, 72), (12, 0, 136), (0, 20, 208)])
def test_nobody_is_killed_in_a_cgroup_at_its_limit(pool_name, limited, swing, growth, room):
    """Eight clients read more than the cgroup may have; its limit is one level above them. Their own memory swings and grows
    meanwhile, which the pool has to make room for."""
    command = [sys.executable, "-c", CLIENT, pool_name, f"{limited}/inner/cgroup.procs"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    clients = [subprocess.Popen([*command, str(n), str(swing), str(growth)], **pipes) for n in range(8)]
    assert [client.stdout.readline() for client in clients] == ["ready\n"] * 8
    limit = room * MIB + int(content(limited, "memory.usage_in_bytes") or content(limited, "memory.current"))
    set_limit(limited, limit)
    files, hits = file_bytes(limited), times_at_the_limit(limited)
    for client in clients:
        client.stdin.write("\n")
        client.stdin.flush()
    said = [client.communicate(timeout=200)[0] for client in clients]
    assert [client.returncode for client in clients] == [0] * 8
    kills = content(limited, "inner/memory.oom_control") + content(limited, "inner/memory.events")
    assert re.findall(r"oom_kill (\d+)", kills) == ["0"]
    found = foliocache.attach(pool_name).stat()
    assert foliocache.attach(pool_name).audit() == []
    assert found.counters.evictions > 0
    if growth:
        assert found.counters.given_back_pressure > 0
    most = int(content(limited, "memory.max_usage_in_bytes") or content(limited, "memory.peak"))
    if not swing and not growth:  # then the pool alone comes near the limit, and stops before
        assert "cgroup\n" in said and limit / 8 < found.backed_bytes < most < limit
    if files < MIB and file_bytes(limited) < MIB:  # else the kernel may let the cgroup come to its limit, and take some of them
        assert times_at_the_limit(limited) == hits and most < limit
