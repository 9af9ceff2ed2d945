"""stat, ls, fsck and rm."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cli_command import LIMIT, environment, pattern

import foliocache
from foliocache.mm import client as core
from foliocache.mm import layout
from foliocache.sizes import format_size

SIZE = 8 * 2**20
OBJECT = 300_000


@pytest.fixture
def pool(pool_name):
    """A pool with one object, cached in part."""
    made = foliocache.open(pool_name, size=SIZE)
    data = pattern(7, OBJECT)
    mapping = made.mapping("memory://half", OBJECT, "v1", read=lambda offset, length: data[offset : offset + length])
    mapping.read(0, 1000)
    mapping.read(OBJECT - 1000, 1000)
    return made


def plain(text: str) -> bool:
    """True if there are no escape codes."""
    return "\x1b" not in text


def test_stat_is_what_the_pool_returns(pool, pool_name, cli_json):
    found = cli_json("stat", pool_name)
    own = pool.stat().to_dict()
    assert found.keys() == own.keys() | {"huge_bytes"}
    assert found["name"] == pool_name
    for key in ("path", "pool_bytes", "page_size", "pages", "metadata_bytes", "mappings", "cached_bytes", "counters"):
        assert found[key] == own[key], key
    assert found["pages"] == sum(found["pages_by_state"].values())
    assert found["counters"]["fills"] >= 2
    assert os.getpid() in [client["pid"] for client in found["clients"]]


def test_stat_for_people(pool, pool_name, cli):
    done = cli("stat", pool_name)
    assert done.code == 0, done.err
    assert plain(done.out)
    assert re.search(r"pool +8 MiB in 512 pages of 16 KiB", done.out)
    assert re.search(r"metadata .*0\.\d\d % of the pool|metadata .*% of the pool", done.out)
    assert re.search(rf"{os.getpid()} +attached", done.out)


HOLD = """
import foliocache, sys
lease = foliocache.attach(sys.argv[1]).mapping("memory://half", 300_000, "v1").lease(0)
print("holds", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(name: str, *wrapper: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lease."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*wrapper, sys.executable, "-c", HOLD, name], env=environment(), **pipes)
    try:
        assert process.stdout.readline() == "holds\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)


def test_stat_says_which_namespace_a_pid_is_of(pool, pool_name, cli, cli_json):
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], timeout=LIMIT, capture_output=True).returncode:
        pytest.skip("a process may not be put into another pid namespace here")
    ours = os.stat("/proc/self/ns/pid").st_ino
    with holder(pool_name, *unshare), holder(pool_name) as beside:
        namespaces = {client["pid"]: client["pid_namespace"] for client in cli_json("stat", pool_name)["clients"]}
        assert namespaces[os.getpid()] == namespaces[beside.pid] == ours
        assert namespaces[1] not in (0, ours)
        shown = cli("stat", pool_name).out
    assert re.search(rf" 1  ?attached .* its pid is one of the namespace pid:\[{namespaces[1]}\]", shown)
    assert shown.count("namespace") == 1
    assert shown.count("this command") == 1


def test_stat_settles_what_dead_clients_have_left(pool, pool_name, cli, cli_json):
    with holder(pool_name) as held:
        assert cli_json("stat", pool_name)["pins"] == 1
        held.kill()
        held.wait(LIMIT)
    found = cli_json("stat", pool_name)
    assert found["pins"] == 0 and held.pid not in [client["pid"] for client in found["clients"]]


def test_stat_says_what_to_do_about_dead_clients(pool, pool_name, cli):
    lease = pool.mapping("memory://half", OBJECT, "v1").lease(0)
    memory = pool._attachment.segment.mem
    pid = os.fork()
    if pid == 0:
        mine = foliocache.attach(pool_name)._attachment.number
        core.op_begin(memory, mine)
        core.announce(memory, mine, int(repr(lease).split()[-1].rstrip(">")))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    shown = cli("stat", pool_name).out
    assert re.search(rf"{pid} +dead +0 ", shown)
    assert "1 client died, and what it left is not settled completely" in shown and f"`foliocache fsck {pool_name}`" in shown
    lease.release()
    shown = cli("stat", pool_name).out
    assert "dead" not in shown and "died" not in shown


def test_ls_shows_what_is_cached_and_pinned(pool, pool_name, cli, cli_json):
    with pool.mapping("memory://half", OBJECT, "v1", read=None).lease(0):
        (found,) = [mapping for mapping in cli_json("ls", pool_name) if mapping["key"] == "memory://half"]
        assert (found["version"], found["size"], found["pins"]) == ("v1", OBJECT, 1)
        assert 2000 <= found["cached_bytes"] <= OBJECT
        assert 0 < found["cached_folios"] <= found["units"]
        listed = cli("ls", pool_name)
    assert plain(listed.out)
    assert re.search(r"memory://half +v1 .* 293 KiB .*% +1", listed.out)
    assert cli_json("ls", pool_name)[0]["pins"] == 0


def test_ls_lists_names(pool, pool_name, cli, cli_json):
    assert cli_json("ls", pool_name, "--names") == []
    assert "no names" in cli("ls", pool_name, "--names").out
    pool.names.ask("s3://bucket/there").answer(3_000_000, "etag", b"more")
    pool.names.ask("s3://bucket/gone").answer_absent()
    asking = pool.names.ask("s3://bucket/asked")
    found = {name.pop("key"): name for name in cli_json("ls", pool_name, "--names")}
    there = found["s3://bucket/there"]
    assert 0 <= there.pop("age") < 3600
    assert there == {"exists": True, "size": 3_000_000, "version": "etag", "extra_bytes": 4}
    assert found["s3://bucket/gone"]["exists"] is False
    assert found["s3://bucket/asked"]["exists"] is None and found["s3://bucket/asked"]["age"] is None
    lines = {line.split()[0]: line for line in cli("ls", pool_name, "--names").out.splitlines() if "s3://" in line}
    assert format_size(3_000_000) in lines["s3://bucket/there"] and "etag" in lines["s3://bucket/there"]
    assert "none" in lines["s3://bucket/gone"]
    assert "asking" in lines["s3://bucket/asked"]
    asking.withdraw()


def test_ls_of_an_empty_pool(pool_name, cli, cli_json):
    pool = foliocache.open(pool_name, size=SIZE)
    assert cli_json("ls", pool_name) == []
    assert "no objects" in cli("ls", pool_name).out
    assert pool.stat().mappings == 0


def test_long_keys_fold_in_a_terminal_and_not_in_a_pipe(pool_name, cli):
    key = "https://example.org/" + "a-long-path/" * 12 + "shard-000.tar"
    pool = foliocache.open(pool_name, size=SIZE)
    pool.mapping(key, 10, "v", read=lambda offset, length: bytes(length)).read(0, 10)
    assert key in cli("ls", pool_name).out
    folded = cli("ls", pool_name, FORCE_COLOR="1", COLUMNS="80").out
    lines = re.sub(r"\x1b\[[0-9;]*m", "", folded).splitlines()
    assert lines
    assert max(map(len, lines)) <= 80


def test_fsck_of_a_sound_pool(pool, pool_name, cli, cli_json):
    assert cli_json("fsck", pool_name) == {"clean": True, "findings": []}
    done = cli("fsck", pool_name)
    assert (done.code, "is clean" in done.out) == (0, True)


def test_rm(pool_name, cli_json, cli):
    foliocache.open(pool_name, size=SIZE).close()
    assert cli_json("rm", pool_name)["removed"] == pool_name
    assert pool_name not in foliocache.pools()
    assert cli("rm", pool_name).code == 3


def test_rm_says_who_keeps_the_memory(pool_name, cli_json, cli):
    pools = []
    for number in range(2):
        pools.append(foliocache.open(pool_name, size=SIZE))
        assert pools[-1].mapping("key", 10, "1", lambda offset, length: b"x" * length).read(0, 10) == b"x" * 10
        if number:
            assert cli_json("rm", pool_name) == {"removed": pool_name, "clients": 1}
        else:
            assert cli("rm", pool_name).out == f"removed pool {pool_name}; its memory is free when 1 client of it has ended\n"
    assert [bytes(pool.mapping("key", 10, "1").read(0, 10)) for pool in pools] == [b"x" * 10] * 2


@pytest.mark.parametrize("command", ["stat", "ls", "fsck", "rm"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_pool_that_is_not_there(cli, command, more):
    done = cli(command, "test-cli-none", *more)
    assert (done.code, done.out) == (3, "")
    assert "test-cli-none" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("name", ["../etc/passwd", "a/b", ".", ""])
def test_a_name_that_is_no_name(cli, name):
    done = cli("stat", name)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1


def damage(name: str, offset: int, data: bytes) -> None:
    """Overwrite a part of a pool's file."""
    pool = foliocache.open(name, size=SIZE)
    path = pool.stat().path
    del pool
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_pool_with_a_foreign_header(pool_name, cli, cli_json):
    damage(pool_name, 0, b"not a pool" * 10)
    done = cli("stat", pool_name)
    assert (done.code, done.out) == (3, "")
    assert done.err.count("\n") == 1
    found = cli_json("fsck", pool_name, code=1)
    assert found["clean"] is False
    assert found["findings"][0].keys() >= {"check", "where", "message"}
    assert cli("fsck", pool_name).code == 1
    assert cli("rm", pool_name).code == 0


def test_fsck_finds_a_damaged_folio(pool, pool_name, cli, cli_json):
    table = pool._attachment.segment.geometry["memmap"]
    with open(pool.path, "r+b") as file:
        file.seek(table + (pool.stat().pages - 1) * layout.FOLIO_SIZE)
        file.write(b"\x07" * layout.FOLIO_SIZE)
    found = cli_json("fsck", pool_name, code=1)
    assert found["clean"] is False
    assert all(finding.keys() >= {"check", "where", "message"} for finding in found["findings"])
    shown = cli("fsck", pool_name)
    assert (shown.code, shown.err) == (1, "")
    for finding in found["findings"]:
        assert finding["check"] in shown.out
        assert finding["message"] in shown.out


def test_a_truncated_pool(pool_name, cli, cli_json):
    path = foliocache.open(pool_name, size=SIZE).stat().path
    os.truncate(path, 5000)
    assert cli("stat", pool_name).code == 3
    assert cli_json("fsck", pool_name, code=1)["clean"] is False


def test_output_that_is_closed_early_is_no_error(pool, pool_name):
    command = f"{sys.executable} -m foliocache stat {pool_name} | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["trim", "--bytes", "x"], 2, "is not a size"),
        (["trim", "--idle", "-1"], 2, "a number of seconds"),
        (["trim", "--idle", "nan"], 2, "a number of seconds"),
        (["resize", "1"], 2, "must be from 64 pages"),
        (["resize", "100TiB"], 2, "must be from 64 pages"),
        (["resize", "512GiB"], 3, "must be at most"),  # of this pool: another one could have it
    ],
)
def test_a_size_or_time_that_makes_no_sense(pool, pool_name, cli, arguments, code, message):
    done = cli(arguments[0], pool_name, *arguments[1:])
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1) and message in done.err
    assert pool.stat().pool_bytes == SIZE
