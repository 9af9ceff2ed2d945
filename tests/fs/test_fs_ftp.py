"""FTP, over a real server: one file is asked for by name, not looked up in a former listing."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter

import fsspec
import pytest

from foliocache import ChangedError
from foliocache.adapters.fsspec import FolioFileSystem

pytest.importorskip("pyftpdlib")
SIZE = 300_000


class Running:
    """An FTP server over a folder that counts what it is asked; `unknown` are the commands that it does not know."""

    def __init__(self, folder, unknown=()):
        from pyftpdlib.authorizers import DummyAuthorizer
        from pyftpdlib.handlers import FTPHandler
        from pyftpdlib.servers import ThreadedFTPServer

        logging.getLogger("pyftpdlib").setLevel(logging.ERROR)
        authorizer = DummyAuthorizer()
        for user in ("u", "v"):
            (folder / user).mkdir()
            authorizer.add_user(user, "p", str(folder / user), perm="elradfmwMT")
        self.counts = counts = Counter()

        class Handler(FTPHandler):
            def ftp_RETR(self, file):
                counts["RETR"] += 1
                return super().ftp_RETR(file)

        Handler.authorizer = authorizer
        Handler.proto_cmds = {name: what for name, what in FTPHandler.proto_cmds.items() if name not in unknown}
        self.folder = folder
        self.server = ThreadedFTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"timeout": 0.05}, daemon=True)
        self.thread.start()

    def options(self, user="u"):
        port = self.server.socket.getsockname()[1]
        return {"host": "127.0.0.1", "port": port, "username": user, "password": "p", "timeout": 20}

    def write(self, path, data, age):
        """A file that was last written some seconds ago."""
        file = self.folder / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        os.utime(file, (time.time() - age,) * 2)

    def close(self):
        self.server.close_all()
        self.thread.join(20)


@pytest.fixture(params=[(), ("MLST", "MLSD")], ids=["MLST", "MDTM"])
def ftp(request, tmp_path):
    server = Running(tmp_path, request.param)
    yield server
    server.close()


def over(server, pool, user="u"):
    return FolioFileSystem(fs=fsspec.filesystem("ftp", **server.options(user)), **pool)


@pytest.mark.parametrize("path", ["/x", "/sub/y"])
def test_rewritten_file_is_noticed(ftp, pool, path):
    fs = over(ftp, pool)
    ftp.write(f"u{path}", b"old" * 1000, age=200)
    assert fs.cat_file(path) == b"old" * 1000
    ftp.write(f"u{path}", b"newer" * 2000, age=100)
    assert fs.cat_file(path) == b"newer" * 2000
    assert fs.open(path, "rb").read() == b"newer" * 2000
    assert fs.cat_file(path, 9_000, 9_005) == b"newer"


def test_file_is_fetched_once(ftp, pool):
    ftp.write("u/x", b"1" * SIZE, age=100)
    for _ in range(2):
        fs = over(ftp, pool)
        assert fs.cat_file("/x") == fs.open("/x", "rb").read() == b"1" * SIZE
    assert ftp.counts["RETR"] == 1


def test_open_file_is_one_version(ftp, pool):
    fs = over(ftp, pool)
    ftp.write("u/x", b"1" * 2_000_000, age=200)
    with fs.open("/x", "rb") as file:
        assert file.read(10) == b"1" * 10
        ftp.write("u/x", b"2" * 2_000_000, age=100)
        with pytest.raises(ChangedError):
            while piece := file.read(100_000):
                assert set(piece) == {ord("1")}
    assert fs.cat_file("/x", 5, 10) == b"2" * 5


def test_file_of_this_second_is_not_shared(ftp, pool):
    """Its date counts seconds: it can change again under the same one."""
    fs = over(ftp, pool)
    now = time.time()
    for byte in (b"1", b"2"):
        ftp.write("u/x", byte * SIZE, age=0)
        os.utime(ftp.folder / "u" / "x", (now, now))
        assert fs.cat_file("/x") == byte * SIZE


def test_users_have_folders_of_their_own(ftp, pool):
    for user, byte in (("u", b"1"), ("v", b"2")):
        ftp.write(f"{user}/x", byte * SIZE, age=0)
        os.utime(ftp.folder / user / "x", (1e9, 1e9))
    assert over(ftp, pool, "u").cat_file("/x") == b"1" * SIZE
    assert over(ftp, pool, "v").cat_file("/x") == b"2" * SIZE


def test_many_at_once_over_one_connection(ftp, pool):
    files = {f"/f{number}": bytes([number]) * (50_000 + number) for number in range(12)}
    for path, data in files.items():
        ftp.write(f"u{path}", data, age=100)
    fs = over(ftp, pool)
    assert fs.cat(sorted(files)) == files
    assert fs.cat_ranges(sorted(files), 10, 1000) == [files[path][10:1000] for path in sorted(files)]


def test_missing_file_and_folder(ftp, pool):
    fs = over(ftp, pool)
    ftp.write("u/d/x", b"1", age=100)
    with pytest.raises(FileNotFoundError):
        fs.cat_file("/none")
    with pytest.raises(OSError):
        fs.cat_file("/d")
    assert fs.cat_file("/d/x") == b"1"


def test_connection_that_was_lost_is_made_anew(ftp, pool):
    fs = over(ftp, pool)
    ftp.write("u/x", b"1" * SIZE, age=100)
    assert fs.cat_file("/x", 0, 10) == b"1" * 10
    fs.target.own.ftp.sock.close()
    ftp.write("u/x", b"2" * SIZE, age=50)
    assert fs.cat_file("/x") == b"2" * SIZE
