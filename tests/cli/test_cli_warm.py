"""warm: what it reads is in the pool, and what is in the pool is not read again."""

from __future__ import annotations

import pytest
from cli_command import LIMIT

import foliocache
from foliocache.cli.demo.origin import Origin

SIZE = "16MiB"
TOTAL = 1 + 16384 + 50_001 + 1_500_000 + 70_000


@pytest.fixture
def origin(files):
    """The files over HTTP."""
    with Origin(files) as server:
        yield server


def test_files_are_fetched_once(origin, pool_name, cli_json):
    urls = [f"{origin.url}/odd", f"folio::{origin.url}/deep/large"]
    report = cli_json("warm", *urls, "--name", pool_name, "--size", SIZE)
    assert report.keys() == {"name", "files", "bytes", "fetched_bytes", "seconds", "objects"}
    assert [(one["path"], one["bytes"]) for one in report["objects"]] == [(urls[0], 50_001), (urls[1][7:], 1_500_000)]
    assert all(one["bytes_per_second"] > 0 for one in report["objects"])
    assert (report["name"], report["files"], report["bytes"], report["fetched_bytes"]) == (pool_name, 2, 1_550_001, 1_550_001)
    assert origin.counts()["bytes"] == 1_550_001
    again = cli_json("warm", *urls, "--name", pool_name)
    assert (again["bytes"], again["fetched_bytes"]) == (1_550_001, 0)
    assert origin.counts()["bytes"] == 1_550_001


def test_ls_shows_it_whole(origin, pool_name, cli_json):
    cli_json("warm", f"{origin.url}/odd", "--name", pool_name, "--size", SIZE)
    (mapping,) = cli_json("ls", pool_name)
    assert mapping["key"].endswith("/odd")
    assert (mapping["size"], mapping["cached_bytes"], mapping["pins"]) == (50_001, 50_001, 0)
    assert cli_json("fsck", pool_name)["clean"]


def test_globs_and_folders(origin, files, pool_name, cli_json):
    assert cli_json("warm", f"{origin.url}/deep/*", "--name", pool_name, "--size", SIZE)["files"] == 2
    report = cli_json("warm", f"{files}/**", "--name", pool_name, "--concurrency", 1)
    assert (report["files"], report["bytes"]) == (6, TOTAL)
    assert cli_json("warm", files / "deep", "--name", pool_name)["bytes"] == 1_570_000


def test_a_pool_smaller_than_the_files(files, pool_name, cli_json):
    report = cli_json("warm", files / "deep" / "large", "--name", pool_name, "--size", "1MiB")
    assert report["bytes"] == 1_500_000
    assert cli_json("fsck", pool_name)["clean"]


def test_for_people(files, pool_name, cli):
    done = cli("warm", files / "odd", "--name", pool_name, "--size", SIZE)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"1 file, 48.8 KiB, in pool {pool_name}: 48.8 KiB fetched in ")


@pytest.mark.parametrize("path", ["none", "none*"])
def test_a_file_that_is_not_there(origin, files, pool_name, cli, path):
    for url in (f"{origin.url}/{path}", files / path):
        done = cli("warm", url, "--name", pool_name, "--size", SIZE)
        assert (done.code, done.out) == (3, "")
        assert str(url) in done.err
        assert done.err.count("\n") == 1
        assert pool_name not in foliocache.pools()


@pytest.mark.parametrize("url", ["folio:s3://bucket/x", "folio://s3://bucket/x"])
def test_a_misspelled_url(pool_name, cli, url):
    done = cli("warm", url, "--name", pool_name, "--size", SIZE)
    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
    assert "write 'folio::s3://bucket/x', with two colons" in done.err


def test_a_host_that_is_not_there(origin, pool_name, cli):
    origin.process.kill()
    origin.process.wait(LIMIT)
    done = cli("warm", f"{origin.url}/odd", "--name", pool_name, "--size", SIZE)
    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
    assert "no file matches: ClientConnectorError: Cannot connect" in done.err


def test_sizes(files, pool_name, cli):
    for size, code in (("much", 2), ("1KiB", 2)):
        done = cli("warm", files / "odd", "--name", pool_name, "--size", size)
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
        assert "--size" in done.err and size in done.err
    assert pool_name not in foliocache.pools()
    assert cli("warm", files / "odd", "--name", pool_name, "--size", "16MiB").code == 0
    assert cli("warm", files / "odd", "--name", pool_name, "--size", "32MiB").code == 0
    assert foliocache.attach(pool_name).pool_bytes == 16 << 20, "a pool that exists keeps its size"
