"""The counting origin: what it sends, what it counts, and when it ends."""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from foliocache.cli.demo import origin as origin_module
from foliocache.cli.demo.origin import Origin, Unsatisfiable, parse_range


@pytest.fixture
def origin(files: Path) -> Iterator[Origin]:
    """An origin that serves the files."""
    with Origin(files) as server:
        yield server


def ask(origin: Origin, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", origin.port)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-", (10, 100)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=-", None),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
    ],
)
def test_ranges(header, expected):
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-101", "bytes=-0"])
def test_ranges_behind_the_end(header):
    with pytest.raises(Unsatisfiable):
        parse_range(header, 100)


def test_a_whole_file_and_a_range(origin, files):
    data = (files / "odd").read_bytes()
    status, headers, body = ask(origin, "/odd")
    assert (status, body, headers["Accept-Ranges"]) == (200, data, "bytes")
    status, headers, body = ask(origin, "/odd", Range="bytes=100-199")
    assert (status, body, headers["Content-Range"]) == (206, data[100:200], "bytes 100-199/50001")


def test_a_range_behind_the_end_and_a_missing_file(origin):
    status, headers, _ = ask(origin, "/odd", Range="bytes=50001-")
    assert (status, headers["Content-Range"]) == (416, "bytes */50001")
    assert ask(origin, "/none")[0] == 404


def test_nothing_outside_the_folder_is_given_away(origin, files):
    (files.parent / "secret").write_text("secret")
    assert ask(origin, "/../secret")[0] == 404
    assert ask(origin, "/%2e%2e/secret")[0] == 404


def test_head_tells_size_and_identity_and_a_change_changes_it(origin, files):
    status, before, body = ask(origin, "/odd", "HEAD")
    assert (status, body, before["Content-Length"]) == (200, b"", "50001")
    (files / "odd").write_bytes(b"x" * 50_000)
    assert ask(origin, "/odd", "HEAD")[1]["ETag"] != before["ETag"]


def test_counts_are_exact(origin):
    ask(origin, "/odd")
    ask(origin, "/odd", Range="bytes=0-99")
    ask(origin, "/odd", "HEAD")
    ask(origin, "/none")
    assert origin.counts() == {"requests": 4, "get": 3, "head": 1, "bytes": 50_101}
    assert origin.counts()["requests"] == 4, "asking is not counted"


def test_a_body_that_breaks_off_is_not_charged_whole(files):
    size = 64 * 2**20
    with (files / "huge").open("wb") as file:
        file.truncate(size)
    with Origin(files) as origin:
        client = socket.create_connection(("127.0.0.1", origin.port))
        client.sendall(b"GET /huge HTTP/1.1\r\nHost: x\r\n\r\n")
        came = b""
        while not came.partition(b"\r\n\r\n")[2]:  # the headers may come alone, and before anything of the body is sent
            came += client.recv(1000)
        client.close()
        while origin.counts()["bytes"] == size:
            pass  # its thread has not yet seen the connection break
        assert 0 < origin.counts()["bytes"] < size


def test_one_connection_serves_many_requests(origin, files):
    connection = http.client.HTTPConnection("127.0.0.1", origin.port)
    for name in ("tiny", "page", "odd"):
        connection.request("GET", f"/{name}")
        assert connection.getresponse().read() == (files / name).read_bytes()
        socket_before = connection.sock
        assert socket_before is not None, "the server closed the connection"
    connection.close()


def test_fsspec_lists_and_globs(origin):
    fs = fsspec.filesystem("http")
    assert sorted(name.rsplit("/", 1)[1] for name in fs.glob(f"{origin.url}/*d*")) == ["deep", "odd"]
    assert sorted(name.rsplit("/", 1)[1] for name in fs.glob(f"{origin.url}/deep/*")) == ["large", "other"]


def test_it_ends_with_its_parent(files):
    with Origin(files) as origin:
        origin.process.stdin.close()
        assert origin.process.wait(timeout=60) == 0
        origin.process.stdin = None


def test_a_server_that_does_not_come_to_listen(tmp_path, monkeypatch):
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nexec sleep 1000\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.setattr(origin_module, "PATIENCE", 1)
    with pytest.raises(OSError, match=r"did not start \(exit code -9\)"), Origin(tmp_path):
        pass


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="did not start"), Origin(tmp_path / "none"):
        pass
