"""A pool's pages may come from all NUMA nodes in turn. On a machine with one node, nothing else changes."""

import errno
import os
import subprocess
import sys

import pytest
from test_headroom import MIB, cached

import foliocache
from foliocache.pool import numa


def policies(pool):
    """The policies of this process's mappings of a pool's file."""
    ino = str(os.stat(pool.path).st_ino)
    with open("/proc/self/maps") as file:
        places = {line.partition("-")[0].lstrip("0") for line in file if line.split()[4] == ino}
    with open("/proc/self/numa_maps") as file:
        return {line.split()[1].partition(":")[0] for line in file if line.split()[0].lstrip("0") in places}


pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/numa_maps") or os.uname().machine not in numa.MBIND, reason="this kernel has no NUMA"
)


def test_the_file_has_the_policy(pool_name):
    pool = foliocache.open(pool_name, size="64MiB", interleave=True)
    assert policies(pool) == {"interleave"}
    assert cached(pool, "a") and pool.stat().backed_bytes >= MIB and pool.audit() == []
    code = f"import foliocache; pool = foliocache.attach({pool_name!r}); print(open('/proc/self/numa_maps').read())"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True).stdout
    assert "interleave" in next(line for line in seen.splitlines() if pool.path in line), "for every process"


def test_others_have_none(pool_name):
    pool = foliocache.open(pool_name, size="64MiB")
    assert policies(pool) == {"default"}
    foliocache.open(pool_name, interleave=True)
    assert policies(pool) == {"interleave"}, "it may be set later, for the pages that get memory from then on"


def test_a_kernel_that_refuses_is_told_in_words(pool_name, monkeypatch):
    monkeypatch.setattr(numa, "_mbind", lambda *_: errno.EPERM)
    with pytest.raises(foliocache.PoolError, match="NUMA nodes: Operation not permitted"):
        foliocache.open(pool_name, size="64MiB", interleave=True)
    assert cached(foliocache.open(pool_name), "a")


def test_another_processor(pool_name, monkeypatch):
    pool = foliocache.open(pool_name, size="64MiB")
    monkeypatch.setattr(numa, "MBIND", {})
    with pytest.raises(foliocache.PoolError, match="NUMA"):
        numa.interleave(pool._attachment.segment)


@pytest.mark.parametrize(
    ("told", "expected"), [("0\n", [0]), ("0-2,5,7-8\n", [0, 1, 2, 5, 7, 8]), ("", [0]), ("lots\n", [0]), (None, [0])]
)
def test_nodes(told, expected, tmp_path, monkeypatch):
    place = tmp_path / "has_memory"
    if told is not None:
        place.write_text(told)
    monkeypatch.setattr(numa, "NODES", str(place))
    assert numa.nodes() == expected


def test_a_node_that_is_not_there():
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
    try:
        os.ftruncate(fd, 4096)
        assert numa._mbind(fd, 4096, [70]) in (errno.EINVAL, 0)
    finally:
        os.close(fd)
