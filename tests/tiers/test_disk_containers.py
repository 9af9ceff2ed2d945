"""Processes of several containers that share a disk tier: each has its own mounts, its own pools and its own path of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from foliocache.tiers.disk import DiskTier

LIMIT = 120
MIB = 1 << 20
CONTAINER = r"""
mount -t tmpfs none /dev/shm && mount --bind "$1" "$2" && mount -t tmpfs none "$3" && shift 3 && exec "$@"
"""
READER = r"""
import json, os, random, sys
import foliocache
from slots import content
from foliocache.tiers import flush, index

index.PATIENCE = 60.0  # the tests' machine may be slow
folder, seed, first, last = sys.argv[1], *map(int, sys.argv[2:])
sent, wrong, chosen = 0, 0, random.Random(seed)
objects = list(range(first, last))
with foliocache.open("train", size="4MiB", tiers=f"disk:{folder}?timeout=60") as pool:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(2):
        chosen.shuffle(objects)
        for n in objects:
            data = content(n, 0, 300_000 + n)

            def origin(offset, length):
                global sent
                sent += 1
                return data[offset : offset + length]

            wrong += pool.mapping(str(n), len(data), "1", origin).read_bytes(0, len(data)) != data
            pool.forget(str(n))
            ended = flush(60)
    found = {"sent": sent, "wrong": wrong, "ended": ended, "errors": pool.tiers[0].errors}
    print(json.dumps(found | {"pools": os.listdir("/dev/shm")}))
"""


@pytest.fixture
def container(tmp_path):
    """Returns a function that starts a reader in a container. It begins when it is told to."""
    probe = ["unshare", "--mount", "--pid", "--fork", "--ipc", "sh", "-c", "mount -t tmpfs none /dev/shm"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, timeout=LIMIT, check=False).returncode:
        pytest.skip("no mount namespaces here")
    (tmp_path / "host").mkdir()
    disk = DiskTier(str(tmp_path / "host" / "tier"), 32 * MIB)
    started = []

    def start(name, *arguments):
        seen = tmp_path / name
        seen.mkdir()
        command = ["unshare", "--mount", "--pid", "--fork", "--ipc", "--kill-child", "sh", "-c", CONTAINER, "sh"]
        command += [tmp_path / "host" / "tier", seen, tmp_path / "host", sys.executable, "-c", READER, seen, *arguments]
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(LIMIT)
        process.stdout.close()
        process.stdin.close()
    assert disk.check(data=True) == []
    disk.close()


def results(*processes):
    """Let readers begin, and return what they say at their end."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [json.loads(process.communicate(timeout=LIMIT)[0]) for process in processes]
    assert all(one["wrong"] == 0 and one["ended"] and one["errors"] == 0 for one in found)
    assert all(len([name for name in one["pools"] if name.endswith("train")]) == 1 for one in found)
    return [one["sent"] for one in found]


def test_what_one_container_has_read_others_need_not_fetch(container):
    (first,) = results(container("one", 1, 0, 12))
    assert first >= 12
    assert results(container("two", 2, 0, 12), container("three", 3, 0, 12)) == [0, 0]


def test_containers_write_at_the_same_time(container):
    """They store the same objects and others, in orders of their own. A third finds all of them."""
    assert all(results(container("one", 1, 0, 16), container("two", 2, 8, 24)))
    assert results(container("three", 3, 0, 24)) == [0]
