"""The demo as a user runs it, but small; and that it leaves nothing behind, whatever ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from cli_command import LIMIT, environment, pattern

import foliocache

SMALL = ["--workers", "2", "--shards", "3", "--latency", "0", "--sample", "0.5"]
SLOW = ["--workers", "2", "--shards", "1", "--epochs", "1", "--latency", "300", "--sample", "0.01"]
RUN_KEYS = {"name", "origin_bytes", "requests", "seconds", "peak_pss_bytes", "wrong_bytes"}
TAMPER = """
import json, sys
from foliocache.cli.demo import dataset
packing = dataset.pack

def pack_and_change_a_byte(paths, folder, shards):
    packed = packing(paths, folder, shards)
    victim = max(packed.members, key=lambda member: member.size)
    with open(folder / packed.shards[victim.shard], "r+b") as shard:
        shard.seek(victim.offset)
        shard.write(b"!")
    return packed

if __name__ == "__main__":
    dataset.pack = pack_and_change_a_byte
    from foliocache.cli import main
    raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty files of many sizes."""
    made = tmp_path / "dataset"
    made.mkdir()
    for number in range(60):
        (made / f"{number}.bin").write_bytes(pattern(number, 137 * number**2 + 1))
    return made


@pytest.fixture
def pools(shared_memory):
    """No pool of a demo is left in the end."""
    yield
    assert list(shared_memory.iterdir()) == []


@pytest.fixture
def scratch(tmp_path):
    """A folder for the demo's temporary files, which must be empty in the end."""
    made = tmp_path / "scratch"
    made.mkdir()
    yield made
    assert list(made.iterdir()) == []


def start(scratch: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start the demo in a session of its own, as in a terminal."""
    command = [sys.executable, "-m", "foliocache", "demo", *map(str, arguments)]
    environ = environment(TMPDIR=str(scratch))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environ, start_new_session=True, **pipes)


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    """Read stderr until the step of that name begins."""
    for line in process.stderr:
        if line.startswith(word):
            return
    raise AssertionError(f"the demo did not come to {word}")


def test_json(folder, pools, cli_json):
    report = cli_json("demo", "--dataset", folder, *SMALL)
    assert (report["workers"], report["epochs"], report["files"], report["shards"]) == (2, 2, 60, 3)
    assert [run["name"] for run in report["runs"]] == ["uncached", "blockcache", "folio"]
    assert all(run.keys() >= RUN_KEYS for run in report["runs"])
    uncached, blockcache, folio = report["runs"]
    assert {run["wrong_bytes"] for run in report["runs"]} == {0}
    assert uncached["origin_bytes"] == uncached["read_bytes"]
    assert uncached["members"] == 2 * 2 * 30
    assert blockcache["origin_bytes"] == 2 * report["dataset_bytes"], "each worker fetches its own copy"
    assert folio["members"] == 2 * 2 * 60
    assert folio["read_bytes"] > 3.9 * report["dataset_bytes"] * 0.9
    assert 0.99 * report["dataset_bytes"] <= folio["origin_bytes"] <= report["dataset_bytes"], "every page is fetched once"
    assert folio["findings"] == []
    assert folio["hits"] > folio["misses"]
    assert folio["peak_pss_bytes"] <= folio["pool_bytes"] + 2 * 60e6


def test_for_people(folder, pools, cli):
    done = cli("demo", "--dataset", folder, *SMALL)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert max(map(len, done.out.splitlines())) <= 80
    for name in ("uncached", "blockcache", "folio"):
        assert re.search(rf"^{name}", done.out, re.MULTILINE)
        assert re.search(rf"^{name}: 2 workers", done.err, re.MULTILINE)
    assert re.search(r"^folio .* 1\.00 ", done.out, re.MULTILINE)
    assert "a sample of 50%" in done.out
    assert "every byte was right" in done.out


def test_a_pool_smaller_than_the_dataset_is_still_right(folder, pools, cli_json):
    folio = cli_json("demo", "--dataset", folder, *SMALL, "--size", "2MiB")["runs"][2]
    assert (folio["wrong_bytes"], folio["findings"]) == (0, [])
    assert folio["counters"]["evictions"] > 0


def test_a_wrong_byte_is_seen_and_is_exit_code_1(folder, pools, tmp_path):
    program = tmp_path / "tamper.py"
    program.write_text(TAMPER)
    command = [sys.executable, str(program), "demo", "--dataset", str(folder), *SMALL[:-1], "1"]
    done = subprocess.run([*command, "--json"], env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1, done.stderr
    size = 137 * 59**2 + 1
    assert [run["wrong_bytes"] for run in json.loads(done.stdout)["runs"]] == [2 * 2 * size] * 3
    assert [name.rsplit("/")[-1] for run in json.loads(done.stdout)["runs"] for name in run["wrong_members"]] == ["59.bin"] * 3
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, "BYTES WERE WRONG" in done.stdout) == (1, True)


@pytest.mark.parametrize("step", ["packed", "origin", "uncached", "blockcache", "folio"])
def test_ctrl_c_leaves_nothing(folder, scratch, pools, step):
    process = start(scratch, "--dataset", folder, *SLOW)
    wait_for(process, step)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)  # ends when the last process that has these pipes does
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "foliocache: interrupted"
    assert "Traceback" not in err


def test_sigterm_leaves_nothing(folder, scratch, pools):
    process = start(scratch, "--dataset", folder, *SLOW)
    wait_for(process, "folio")
    process.terminate()
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 143
    assert "Traceback" not in err


def spawned_worker(parent: int) -> int:
    """The pid of one of the demo's workers, as soon as there is one."""
    while True:
        for child in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child


def test_a_worker_that_dies_ends_the_demo_and_leaves_nothing(folder, scratch, pools):
    process = start(scratch, "--dataset", folder, *SLOW)
    wait_for(process, "folio")
    os.kill(spawned_worker(process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (3, "")
    assert re.fullmatch(r"foliocache: worker \d died with exit code -9", err.splitlines()[-1])


def test_sigkill_leaves_no_process(folder, tmp_path):
    process = start(tmp_path, "--dataset", folder, *SLOW)
    wait_for(process, "folio")
    process.kill()
    process.communicate(timeout=LIMIT)  # the workers and the origin have the same stderr, and it has ended
    assert [name[:5] for name in foliocache.pools()] == ["demo-"], "what SIGKILL leaves is for foliocache rm"


def test_a_pool_that_cannot_be_made(folder, scratch, pools, cli):
    done = cli("demo", "--dataset", folder, *SMALL, "--size", "1KiB", TMPDIR=str(scratch))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), "it is known before anything is read"
    assert "--size 1KiB" in done.err


def test_a_dataset_that_is_not_there(cli, tmp_path):
    done = cli("demo", "--dataset", tmp_path / "none", *SMALL)
    assert (done.code, done.out) == (3, "")
    assert "no such folder" in done.err


def test_with_a_page_the_pool_can_be_looked_at_until_ctrl_c(folder, scratch, pools, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/draft && mv {tmp_path}/draft {tmp_path}/opened\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "foliocache", "demo", *SMALL, "--page", "--json", "--dataset", str(folder)]
    environ = environment(TMPDIR=str(scratch), BROWSER=f"{browser} %s")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environ, start_new_session=True, **pipes) as process:
        url = re.fullmatch(r"page (http://127\.0\.0\.1:\d+/)\n", process.stderr.readline())[1]
        lines = [process.stdout.readline()]
        while lines[-1] != "}\n":
            lines.append(process.stdout.readline())
        assert json.loads("".join(lines))["runs"][-1]["findings"] == []
        with urllib.request.urlopen(f"{url}events", timeout=LIMIT) as events:
            seen = [events.readline() for _ in range(4)]
        assert b'"fill_bytes"' in seen[-1]
        deadline = time.monotonic() + LIMIT
        while not (tmp_path / "opened").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "opened").read_text() == f"{url}\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0
