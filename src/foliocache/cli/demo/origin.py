"""An HTTP origin that counts: real sockets, real range requests, its own process.

"Every page was fetched once" is a statement about what the origin has sent, so the origin counts, in bytes of bodies and
in requests; a client that counts itself would miss its own mistakes. It runs in its own process, or its threads would share
the interpreter lock with the readers it is measured against, and it sends with ``sendfile``, so that it costs little of the
cores that the readers need. ``latency`` is waited before each answer, as with a distant store.

A body is counted before it is sent, and corrected when it breaks off: a client that has its last byte and asks for the counts
then finds that byte in them. Asking (``/-/counts``) neither counts nor waits.

It ends when its stdin does: however its parent dies, it leaves no server behind. ``python -m foliocache.cli.demo.origin
FOLDER`` serves a folder by hand.
"""

from __future__ import annotations

import argparse
import html
import http.client
import json
import os
import re
import select
import signal
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from foliocache.cli import exits

COUNTS = "/-/counts"
LOOPBACK = "127.0.0.1"
PATIENCE = 60  # seconds for the server to answer, or to end
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Unsatisfiable(ValueError):
    """The range begins behind the end of the file."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """``Range: bytes=…`` as (start, end), end exclusive; None where the whole file is to be sent (RFC 9110, 14.2)."""
    match = RANGE.fullmatch(header or "")
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return None
    if start >= size or end == start:
        raise Unsatisfiable
    return start, end


class Server(socketserver.ThreadingTCPServer):
    """One thread per connection; the counts, and the folder that is served."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, port: int, latency: float, host: str = LOOPBACK):
        super().__init__((host, port), Handler)
        self.folder: Path = folder.resolve()
        self.latency = latency
        self.counts: dict[str, int] = {"requests": 0, "get": 0, "head": 0, "bytes": 0}
        self.lock: threading.Lock = threading.Lock()

    def count(self, **changes: int) -> None:
        """Add to the counts."""
        with self.lock:
            for name, change in changes.items():
                self.counts[name] += change

    def find(self, url: str) -> Path | None:
        """The file or folder that a URL names; None if there is none, or it is outside the folder that is served."""
        name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).lstrip("/")
        path = (self.folder / name).resolve()
        return path if path.is_relative_to(self.folder) and path.exists() else None

    def handle_error(self, request: object, client_address: object) -> None:
        """Show an error, unless it is that a client went away."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD on files and folders."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        """A file, a range of it, a folder's index, or the counts."""
        if self.path == COUNTS:
            self.answer(200, json.dumps(self.server.counts).encode(), "application/json")
        else:
            self.server.count(requests=1, get=1)
            self.reply()

    def do_HEAD(self) -> None:
        """The same without the body."""
        self.server.count(requests=1, head=1)
        self.reply()

    def reply(self) -> None:
        """Wait, then answer."""
        time.sleep(self.server.latency)
        path = self.server.find(self.path)
        if path is None:
            self.answer(404, b"no such file\n")
        elif path.is_dir():
            self.answer(200, index(path), "text/html; charset=utf-8")
        else:
            self.send_file(path)

    def answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        """A short body that is not a file."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, path: Path) -> None:
        """Send a file, or the range of it that was asked for."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            try:
                asked = parse_range(self.headers.get("Range"), status.st_size)
            except Unsatisfiable:
                return self.refuse_range(status.st_size)
            start, end = asked or (0, status.st_size)
            self.send_file_headers(status, asked, end - start)
            if self.command != "HEAD":
                self.send_body(file, start, end - start)

    def send_file_headers(self, status: os.stat_result, asked: tuple[int, int] | None, length: int) -> None:
        """Send the length, range and identity of what follows."""
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {asked[0]}-{asked[1] - 1}/{status.st_size}")
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{status.st_mtime_ns:x}-{status.st_size:x}"')
        self.send_header("Last-Modified", formatdate(status.st_mtime, usegmt=True))
        self.end_headers()

    def send_body(self, file: IO[bytes], start: int, length: int) -> None:
        """Send bytes from the page cache to the socket; they are counted at once, and corrected if the client leaves."""
        self.server.count(bytes=length)
        sent = 0
        try:
            while sent < length:
                done = os.sendfile(self.connection.fileno(), file.fileno(), start + sent, length - sent)
                if not done:
                    break  # the file has shrunk
                sent += done
        finally:
            if sent < length:
                self.server.count(bytes=sent - length)
                self.close_connection = True

    def refuse_range(self, size: int) -> None:
        """Send 416, with the size of the file."""
        self.send_response(416)
        self.send_header("Content-Range", f"bytes */{size}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the counts are the log."""


def index(folder: Path) -> bytes:
    """A folder as links, which is what fsspec's ``ls`` and ``glob`` read."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    links = "\n".join(f'<a href="{urllib.parse.quote(name)}">{html.escape(name)}</a>' for name in names)
    return f"<!doctype html>\n<title>index</title>\n<pre>\n{links}\n</pre>\n".encode()


class Origin:
    """The server, in a process of its own while this is entered.

    Parameters
    ----------
    folder
        What it serves.
    latency
        Seconds that it waits before each answer.
    host
        The address at which it listens.

    Raises
    ------
    OSError
        It does not start, or does not answer.
    """

    def __init__(self, folder: Path, latency: float = 0.0, host: str = LOOPBACK):
        self.folder = folder
        self.latency = latency
        self.host = host

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "foliocache.cli.demo.origin", str(self.folder), "--latency", str(self.latency)]
        command += ["--host", self.host]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)  # Ctrl-C may have to wait until this is over
        line = self.process.stdout.readline() if ready else b""
        if not line:
            if not ready:
                self.process.kill()
            self.process.communicate(timeout=PATIENCE)
            raise OSError(f"the origin server for {self.folder} did not start (exit code {self.process.returncode})")
        self.port: int = int(json.loads(line)["port"])
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    @property
    def url(self) -> str:
        """The URL of the folder, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    def counts(self) -> dict[str, int]:
        """``requests``, ``get``, ``head`` and ``bytes`` (of the bodies of files), since the start."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        try:
            connection.request("GET", COUNTS)
            counts: dict[str, int] = json.loads(connection.getresponse().read())
            return counts
        except OSError as error:
            raise OSError(f"the origin server for {self.folder} does not answer: {error}") from error
        finally:
            connection.close()


def main() -> None:
    """Serve until stdin ends. SIGINT stays blocked if the parent had blocked it: a Ctrl-C meant for the parent may be pending
    here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    parser = argparse.ArgumentParser(description="Serve a folder over HTTP with range requests.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--host", default=LOOPBACK)
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{options.folder}: no such folder")
    server = Server(options.folder, options.port, options.latency, options.host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(
        json.dumps({"port": server.server_address[1], "url": f"http://{options.host}:{server.server_address[1]}"}), flush=True
    )
    try:
        sys.stdin.read()
    except KeyboardInterrupt:
        raise SystemExit(exits.INTERRUPTED) from None


if __name__ == "__main__":
    main()
