"""Real origins on loopback for the tests: an HTTP server that counts what it sends, and a counting proxy before moto's S3.

Counting on the server's side is the point. A client can believe that it hit the cache; the origin knows.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Thing:
    """One object, and which of the customs of HTTP its server keeps."""

    data: bytes
    etag: str | None = None
    modified: str | None = None
    ranges: bool | None = True  # Range is heeded; False: it isn't, and the server says so; None: and it doesn't
    length: bool = True  # Content-Length is sent; else the body is chunked
    head: bool = True  # HEAD is answered
    quiet: bool = False  # validators are sent by HEAD only
    kind: str = "application/octet-stream"
    twist: Callable[[str, int, bytes, dict[str, str]], tuple[int, bytes]] | None = None  # may change its headers, too


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.lock = threading.Lock()
        self.requests: Counter[str] = Counter()  # by method
        self.sent: Counter[str] = Counter()  # bytes of GET bodies, by path
        self.agents: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, method: str, path: str, body: int) -> None:
        with self.lock:
            self.requests[method] += 1
            self.sent[path] += body if method == "GET" else 0

    def forget_counts(self) -> None:
        with self.lock:
            self.requests.clear()
            self.sent.clear()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is its own business."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join(60)


class Origin(Server):
    """An HTTP server of objects in memory: HEAD, GET with ranges, PUT, DELETE, listings of links."""

    def __init__(self) -> None:
        super().__init__(OriginHandler)
        self.things: dict[str, Thing] = {}
        self.before_get = lambda path, headers: None  # a test's hand in the door

    def put(self, path: str, data: bytes, **customs: object) -> str:
        customs.setdefault("etag", f'"{hashlib.md5(data).hexdigest()}"')
        self.things[path] = Thing(data, **customs)  # type: ignore[arg-type]
        return f"{self.url}{path}"

    def listing(self, path: str) -> bytes | None:
        folder = path.rstrip("/") + "/"
        names = {name[len(folder) :].partition("/") for name in self.things if name.startswith(folder)}
        links = sorted({f"{first}{slash}" for first, slash, _ in names})
        return "".join(f'<a href="{folder}{link}">{link}</a>\n' for link in links).encode() if links else None


class OriginHandler(BaseHTTPRequestHandler):
    server: Origin
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.server.before_get(self.where(), self.headers)
        self.answer(body=True)

    def do_PUT(self) -> None:
        self.server.put(self.where(), self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(201, b"", {})

    def do_DELETE(self) -> None:
        self.reply(200 if self.server.things.pop(self.where(), None) else 404, b"", {})

    def where(self) -> str:
        return unquote(urlsplit(self.path).path)

    def answer(self, body: bool) -> None:
        thing = self.server.things.get(self.where())
        if thing is None:
            self.answer_listing()
        elif not body and not thing.head:
            self.reply(405, b"", {})
        else:
            self.answer_thing(thing)

    def answer_listing(self) -> None:
        links = self.server.listing(self.where())
        self.reply(404 if links is None else 200, links or b"", {"Content-Type": "text/html"})

    def answer_thing(self, thing: Thing) -> None:
        headers = {"Content-Type": thing.kind}
        if thing.ranges is not None:
            headers["Accept-Ranges"] = "bytes" if thing.ranges else "none"
        if not (thing.quiet and self.command == "GET"):
            headers |= {name: value for name, value in (("ETag", thing.etag), ("Last-Modified", thing.modified)) if value}
        asked = self.range_of(len(thing.data)) if thing.ranges else None
        if thing.twist is not None:
            self.answer_twisted(thing, asked, headers)
        elif asked is None:
            self.reply(200, thing.data, headers, thing.length)
        elif asked[0] >= len(thing.data):
            self.reply(416, b"", {"Content-Range": f"bytes */{len(thing.data)}"})
        else:
            headers["Content-Range"] = f"bytes {asked[0]}-{asked[1] - 1}/{len(thing.data)}"
            self.reply(206, thing.data[asked[0] : asked[1]], headers)

    def answer_twisted(self, thing: Thing, asked: tuple[int, int] | None, headers: dict[str, str]) -> None:
        status, body = 200, thing.data
        if asked is not None:
            status, body = 206, thing.data[asked[0] : asked[1]]
            headers["Content-Range"] = f"bytes {asked[0]}-{asked[1] - 1}/{len(thing.data)}"
        assert thing.twist is not None
        status, body = thing.twist(self.command, status, body, headers)
        self.reply(status, body, headers)

    def range_of(self, size: int) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return None
        first, last = match.groups()
        if not first:
            return max(size - int(last), 0), size
        return int(first), min(int(last) + 1, size) if last else size

    def reply(self, status: int, body: bytes, headers: dict[str, str], length: bool = True) -> None:
        self.server.count(self.command, self.where(), len(body))  # first: the client must not be quicker than the count
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header(*(("Content-Length", str(len(body))) if length else ("Transfer-Encoding", "chunked")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if length else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


class Proxy(Server):
    """Counts what passes between S3 clients and moto."""

    def __init__(self, upstream: str) -> None:
        super().__init__(ProxyHandler)
        self.upstream = urlsplit(upstream)
        self.deaf = False  # to If-Match, as some endpoints are


class ProxyHandler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(self.server.upstream.hostname, self.server.upstream.port)  # type: ignore
        headers = {name: value for name, value in self.headers.items() if not (self.server.deaf and name == "If-Match")}
        upstream.request(self.command, self.path, body, headers)
        reply = upstream.getresponse()
        data = reply.read()
        upstream.close()
        path, _, query = self.path.partition("?")
        self.server.count(self.command, path if not query else "?", len(data) if reply.status < 400 else 0)
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward


@contextmanager
def moto() -> Iterator[str]:
    """moto's S3 server in a process of its own; the URL is what it says when it listens."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = iter(server.stdout.readline, "")  # type: ignore[union-attr]
        url = next((found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line))), None)
        assert url, "moto.server ended before it listened"
        threading.Thread(target=lambda: list(lines), daemon=True).start()  # its log must not fill the pipe
        yield url
    finally:
        server.terminate()
        server.wait(60)


def http_date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)
