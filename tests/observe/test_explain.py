"""foliocache explain: what a read would do, and that it changes nothing."""

from __future__ import annotations

import json
import os
import tempfile
import time

import fsspec
import pytest
from cli.cli_command import run
from documents import page, section

import foliocache
from foliocache.adapters.fsspec.targets import local
from foliocache.cli import explain
from foliocache.tiers import flush

SIZE = 3_000_000
NAME = "explained"  # of no other test: fsspec keeps filesystems, and they their pools


@pytest.fixture(autouse=True)
def shared_memory(monkeypatch):
    """A folder for the pools of this test alone."""
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as folder:
        monkeypatch.setenv("FOLIOCACHE_DIR", folder)
        fsspec.get_filesystem_class("folio").clear_instance_cache()
        yield folder
        fsspec.get_filesystem_class("folio").clear_instance_cache()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(SIZE))
    settled(path)
    return str(path)


def settled(path):
    """Wait until a file is old enough for its version to be proven."""
    while local._racy(os.stat(path), time.time_ns()):
        time.sleep(0.001)


def explained(*arguments):
    done = run("explain", *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def read(file, offset, length, **options):
    with fsspec.open(f"folio::file://{file}", folio={"name": NAME, "size": "16MiB", **options}) as opened:
        opened.seek(offset)
        return opened.read(length)


def test_without_a_pool_none_is_made(file, shared_memory):
    found = explained(file, "--name", NAME)
    assert (found["size"], found["cacheable"], found["residency"], found["name"], found["tiers"]) == (
        SIZE,
        True,
        None,
        None,
        [],
    )
    assert found["read"] == {"offset": 0, "length": SIZE, "cached_bytes": 0, "missing_bytes": SIZE}
    assert found["because"] == f"there is no pool {NAME!r}: the first read makes it, and fetches"
    assert os.listdir(shared_memory) == []


def test_what_is_cached_and_what_a_read_would_fetch(file):
    read(file, 0, 200_000, readahead=0)
    pool = foliocache.attach(NAME)
    (info,), before = pool.mappings(), pool.stat().counters
    found = explained(file, "--name", NAME)
    assert found["residency"]["cached_bytes"] == info.cached_bytes == found["read"]["cached_bytes"]
    assert found["version"] == info.version and found["key"] == info.key
    assert found["read"]["missing_bytes"] == SIZE - info.cached_bytes
    assert (
        "are hits, and" in found["because"]
        and found["residency"]["picture"][0] == "█"
        and found["residency"]["picture"][-1] == "·"
    )
    some = explained(file, "--name", NAME, "--offset", "1000", "--length", "100KiB")
    assert some["read"] == {"offset": 1000, "length": 102_400, "cached_bytes": 102_400, "missing_bytes": 0}
    assert some["because"].startswith("all of it is a hit")
    assert explained(file, "--name", NAME, "--offset", str(SIZE))["because"] == "there is nothing to read there"
    assert pool.stat().counters == before and pool.mappings() == [info]


def test_another_version_is_told_of(file):
    read(file, 0, SIZE)
    os.utime(file, (2, 2))
    settled(file)
    found = explained(file, "--name", NAME)
    assert found["residency"]["cached_bytes"] == 0 and found["residency"]["other_versions_bytes"] == SIZE
    assert found["because"] == "all of it is fetched: what is cached is of another version or folio size"


def test_a_name_that_the_pool_knows(file):
    read(file, 0, 10, expiry=3600)
    found = explained(file, "--name", NAME)
    assert found["name"]["exists"] and found["name"]["is_current"] and 0 <= found["name"]["age"] < 3600
    os.utime(file, (2, 2))
    settled(file)
    assert not explained(file, "--name", NAME)["name"]["is_current"]


def test_a_file_that_has_just_changed(file, monkeypatch):
    fs = fsspec.filesystem("folio", target_protocol="file")
    monkeypatch.setattr(local, "_racy", lambda status, now: True)
    identity = fs._identify(file)
    found = explain._because({"read": {"length": 1, "missing_bytes": 1, "cached_bytes": 0}}, identity)
    assert found.startswith("all of it is fetched: it changed a moment ago")


def test_tiers(file, tmp_path):
    read(file, 0, SIZE, tiers=f"disk:{tmp_path}/tier?size=32MiB&timeout=60")
    assert flush(60)
    foliocache.attach(NAME).forget(f"file://{file}")
    found = explained(file, "--name", NAME)
    (tier,) = found["tiers"]
    assert (tier["state"], tier["share"]) == ("ready", 1.0) and f"from {tier['url']}" in found["because"]


def test_what_is_not_cached_says_why(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert explained(str(tmp_path / "empty"))["because"] == "it is not cached: it is empty"
    fs = fsspec.filesystem("folio", fs=fsspec.filesystem("memory"))
    fs.fs.pipe_file("/seen-explain", b"x")
    assert "it is not known how it proves" in explain._why_not(fs, fs._identify("/seen-explain"))
    fs.fs.rm("/seen-explain")


def test_people_read_it_on_one_screen(file):
    read(file, 0, SIZE)
    done = run("explain", file, "--name", NAME)
    rows = {line.split("  ")[0] for line in done.out.splitlines()}
    assert done.code == 0 and {"key", "version", "cached", "a read", "so"} <= rows and "100.0%" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["/no/such/file"], 3, "no file matches\n"),
        (["/etc", "--length", "x"], 2, "not a size"),
        (["/etc", "--name", "../x"], 2, ""),
    ],
)
def test_what_cannot_be_explained(arguments, code, told):
    done = run("explain", *arguments)
    assert done.code == code and told in done.err and done.out == ""


def test_several_files_are_too_many(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    done = run("explain", f"{tmp_path}/*")
    assert done.code == 3 and "is 2 files" in done.err


def test_the_document_of_the_page_has_these_keys(file):
    read(file, 0, 200_000, readahead=0, expiry=60)
    told = json.loads(section(page("cli.md"), "explain").split("```json\n")[1].split("```")[0])
    found = explained(file, "--name", NAME)
    assert told.keys() == found.keys()
    assert all(told[key].keys() == found[key].keys() for key in ("name", "residency", "read"))
