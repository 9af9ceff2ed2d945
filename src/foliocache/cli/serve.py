"""``foliocache serve``: a page on loopback that shows pools, live.

The standard library serves it: a page for a few readers, in a handful of read-only resources, needs no framework, and its files
are what the browser gets. Nothing is loaded from elsewhere (a Content-Security-Policy sees to that).

- Without a token it listens on loopback alone, and answers only requests whose Host is a loopback name: a site that the user
  visits cannot read it by giving its own name the address 127.0.0.1.
- Beyond loopback it needs a token of some length. A browser that opens the page with ``?token=`` gets a cookie.
- It is read-only: GET and HEAD, and nothing that changes a pool.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from itertools import pairwise
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import foliocache
from foliocache import FoliocacheError, Mapping, Pool
from foliocache.cli import address, exits
from foliocache.cli.options import AnyName
from foliocache.cli.output import tell
from foliocache.cli.rates import rates
from foliocache.observe.statistics import Picture, Statistics
from foliocache.pool.watch import Watch
from foliocache.sizes import quoted

PORT = 8465
INTERVAL = 1.0  # seconds between two looks
KEPT = 900  # looks that a new page gets
DOTS = 32_768
OBJECTS = 100
NAMES = 200
FINDINGS = 200
PARTS = 400  # of an object whose parts are shown
READERS = 16  # pages at a time
SEND_TIMEOUT = 20.0  # seconds
TOKEN_MIN = 16
COOKIE = "foliocache"
FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "connect-src 'self'",
        "img-src data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def serve(name: AnyName = None, /, *, listen: str = f":{PORT}", token: str | None = None, any_owner: bool = False) -> None:
    """Serve a page that shows pools, live, until Ctrl-C.

    Parameters
    ----------
    name
        The pool; all pools of this user if left out.
    listen
        HOST:PORT, or :PORT for this machine alone. Another machine can connect only if there is a token.
    token
        What a reader must know, at least 16 characters: the page's address then ends in ?token=TOKEN.
    any_owner
        Also show a pool of another user, who can change its bytes at any time.
    """
    host, port = address.parse_address(listen)
    local = address.is_loopback(host)
    if token is None and not local:
        raise exits.UsageError(f"{host} can be reached from other machines: give --token, or listen at :{port}")
    if token is not None and (len(token) < TOKEN_MIN or not token.isascii() or not token.isalnum()):
        raise exits.UsageError(f"--token must have at least {TOKEN_MIN} letters and digits")
    sampler = Sampler(Watch(() if name is None else (name,), any_owner=any_owner), any_owner)
    try:
        server = Server((host, port), sampler, token)
    except OSError as error:
        raise exits.CommandError(f"cannot listen at {address.shown(host, port)}: {error.strerror or error}") from None
    tell(f"http://{address.shown(host, server.server_port)}/{f'?token={token}' if token else ''}")
    sampler.look()
    looking = threading.Thread(target=sampler.run, daemon=True)
    looking.start()
    try:
        server.serve_forever()
    finally:
        sampler.stop()
        server.server_close()
        looking.join(INTERVAL * 2)
        sampler.close()


@contextmanager
def page_of(name: str) -> Iterator[str]:
    """Serve the page of one pool on loopback, in threads, while this is entered. Yields its address."""
    sampler = Sampler(Watch((name,)))
    server = Server(("127.0.0.1", 0), sampler, None)
    sampler.look()
    threads = [threading.Thread(target=run, daemon=True) for run in (sampler.run, server.serve_forever)]
    for thread in threads:
        thread.start()
    try:
        yield f"http://{address.shown('127.0.0.1', server.server_port)}/"
    finally:
        sampler.stop()
        server.shutdown()
        server.server_close()
        for thread in threads:
            thread.join(INTERVAL * 2)
        sampler.close()


class Sampler:
    """What the pages of all readers show: one look a second, whatever their number."""

    def __init__(self, watch: Watch, any_owner: bool = False) -> None:
        self._watch = watch
        self._any_owner = any_owner
        self._changed = threading.Condition()
        self._asking = threading.Lock()
        self._stopped: bool = False
        self._pools: dict[str, Pool] = {}
        self._pictures: dict[str, tuple[float, Picture]] = {}
        self.looks: int = 0
        self.names: list[str] = []
        self.errors: dict[str, str] = {}
        self.statistics: dict[str, Statistics] = {}
        self.history: dict[str, deque[dict[str, float | None]]] = {}
        self.rates: dict[str, dict[str, float | None]] = {}

    @property
    def stopped(self) -> bool:
        """True if no more will be seen."""
        return self._stopped

    def run(self) -> None:
        """Look again and again until ``stop``."""
        due = time.monotonic()
        while not self._stopped:
            due = max(due + INTERVAL, time.monotonic())
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, due - time.monotonic())
            if not self._stopped:
                self.look()

    def stop(self) -> None:
        """End ``run`` and all waits."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop being a client of the pools whose pages were shown."""
        with self._asking:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def look(self) -> None:
        """See the pools as they are now, and wake the readers."""
        try:
            seen = self._watch.look()
        except FoliocacheError:
            seen = []
        with self._changed:
            self.names = [each.name for each in seen]
            self.errors = {each.name: each.error for each in seen if each.error is not None}
            now = {each.name: each.statistics for each in seen if each.statistics is not None}
            for name, found in now.items():
                rate = rates(self.statistics.get(name), found)
                self.rates[name] = rate._asdict()
                sample = {"hit_ratio": rate.hit_ratio, "lookups": rate.lookups, "read": rate.source_bytes}
                self.history.setdefault(name, deque(maxlen=KEPT)).append(sample | {"backed": float(found.backed_bytes)})
            for name in self.history.keys() - now.keys():
                del self.history[name]
            self.statistics = now
            self.looks += 1
            self._changed.notify_all()

    def wait(self, looks: int) -> int:
        """Wait for a look after the one numbered ``looks``. Return its number."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self.looks > looks, 10 * INTERVAL)
            return self.looks

    def shown(self, wanted: str | None) -> dict[str, Any]:
        """Return what a page shows: of the wanted pool, or the first."""
        with self._changed:
            name = wanted if wanted is not None else next(iter(self.names), None)
            told: dict[str, Any] = {"pools": self.names, "pool": name, "now": time.time(), "statistics": None, "error": None}
            if name is None:
                return told | {"error": "There is no pool yet."}
            if name not in self.statistics:
                return told | {"error": self.errors.get(name, f"There is no pool {quoted(name)}.")}
            found, rate, sample = self.statistics[name], self.rates[name], self.history[name][-1]
        told |= {"statistics": found.to_dict(), "rates": rate, "sample": sample}
        try:
            picture = self.picture(name)
        except FoliocacheError as error:
            return told | {"error": str(error), "objects": [], "clients": [], "object_count": found.objects, "pages_per_dot": 1}
        return told | {key: value for key, value in picture.to_dict().items() if key not in ("dots", "page_size")}

    def picture(self, name: str) -> Picture:
        """Return the picture of a pool, at most an interval old. Raises FoliocacheError."""
        with self._asking:
            pool = self.pool(name)
            taken, found = self._pictures.get(name, (0.0, None))
            if found is None or time.monotonic() - taken > INTERVAL * 0.8:
                found = pool.picture(DOTS, OBJECTS)
                self._pictures[name] = time.monotonic(), found
            return found

    def pool(self, name: str) -> Pool:
        """Return the pool, attached. Raises FoliocacheError, ValueError."""
        if name not in self.names:
            raise foliocache.PoolNotFoundError(f"there is no pool {quoted(name)} here")
        found = foliocache.attach(name, any_owner=self._any_owner)
        known = self._pools.get(name)
        if known is not None and known is not found:
            known.close()  # it was removed, and made once more
            self._pictures.pop(name, None)
        self._pools[name] = found
        return found

    def parts(self, name: str, key: str, version: str) -> list[int] | None:
        """Return which parts of an object of the picture are cached, in order: 2 all of it, 1 some, 0 nothing of it. None if
        there is no such object, or it is not found by what the pool keeps of its key, or has folios of another size.

        Raises FoliocacheError.
        """
        found = next((one for one in self.picture(name).objects if (one.key, one.version) == (key, version)), None)
        if found is None or not found.size:
            return None
        with self._asking:
            mapping = self.pool(name).mapping(found.key, found.size, found.version)
            units = -(-found.size // mapping.unit_size)
            count = min(PARTS, units)
            bounds = [min(found.size, units * n // count * mapping.unit_size) for n in range(count + 1)]
            told = [_there(mapping, begin, end - begin) for begin, end in pairwise(bounds)]
        return told if any(told) or not found.cached_bytes else None

    def findings(self, name: str) -> list[dict[str, Any]]:
        """Return what the audit finds. Raises FoliocacheError."""
        with self._asking:
            return [finding.to_dict() for finding in self.pool(name).audit()[:FINDINGS]]

    def known(self, name: str) -> list[dict[str, Any]]:
        """Return the names that the pool knows. Raises FoliocacheError."""
        with self._asking:
            found = sorted(self.pool(name).names.list(), key=lambda each: (each.key, each.version))
        return [each.to_dict() for each in found[:NAMES]]


def _there(mapping: Mapping, begin: int, length: int) -> int:
    """Return 2 if all of a part is cached, 1 if one of some places in it is, else 0."""
    if mapping.is_cached(begin, length):
        return 2
    stride = max(mapping.unit_size, length // 16)
    return int(any(mapping.is_cached(at, 1) for at in range(begin, begin + length, stride)))


class Server(ThreadingHTTPServer):
    """The server; a thread for each connection."""

    daemon_threads: bool = True
    block_on_close: bool = False

    def __init__(self, where: tuple[str, int], sampler: Sampler, token: str | None) -> None:
        self.sampler = sampler
        self.token = token
        self.readers: threading.BoundedSemaphore = threading.BoundedSemaphore(READERS)
        self.address_family: socket.AddressFamily = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)[0][0]
        super().__init__(where, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about a reader that has gone."""


class Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: Server
    protocol_version: str = "HTTP/1.1"
    server_version: str = "foliocache"
    sys_version: str = ""
    timeout: ClassVar[float | None] = SEND_TIMEOUT
    close_connection: bool

    def do_GET(self) -> None:
        """Answer one request."""
        parts = urlsplit(self.path)
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if self.server.token is None and not self._is_for_us():
            return self._refuse(421, "This server answers at its loopback address only.")
        if self.server.token is not None and not self._may(asked.get("token")):
            return self._refuse(403, "Open the address that the command has printed, with its token.")
        name = asked.get("pool")
        try:
            if parts.path in FILES:
                self._file(FILES[parts.path])
            elif parts.path == "/events":
                self._events(name)
            elif parts.path == "/pages" and name is not None:
                self._send("application/octet-stream", self.server.sampler.picture(name).dots)
            elif parts.path == "/findings" and name is not None:
                self._json(self.server.sampler.findings(name))
            elif parts.path == "/parts" and name is not None:
                self._json(self.server.sampler.parts(name, asked.get("key", ""), asked.get("version", "")))
            elif parts.path == "/names" and name is not None:
                self._json(self.server.sampler.known(name))
            else:
                self._refuse(404, "There is no such page.")
        except FoliocacheError as error:
            self._refuse(409, str(error))
        except (BrokenPipeError, ConnectionError, TimeoutError):
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def _is_for_us(self) -> bool:
        """Return True if the request's Host is a loopback address or ``localhost``."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def _may(self, told: str | None) -> bool:
        """Return True if the request has the token: in the address, or in the cookie."""
        token = self.server.token or ""
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        given = told if told is not None else cookie.value if cookie is not None else ""
        return hmac.compare_digest(given.encode(), token.encode())

    def _file(self, name: str) -> None:
        data = resources.files("foliocache.cli").joinpath("page", name).read_bytes()
        self._send(f"{KINDS[name.rpartition('.')[2]]}; charset=utf-8", data)

    def _json(self, value: object) -> None:
        self._send("application/json", json.dumps(value).encode())

    def _send(self, kind: str, data: bytes, code: int = 200) -> None:
        self._head(code, kind, len(data))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, code: int, text: str) -> None:
        self.close_connection = True
        self._send("text/plain; charset=utf-8", text.encode("utf-8", "backslashreplace"), code)

    def _head(self, code: int, kind: str, length: int | None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for header, value in (
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(header, value)
        if self.server.token is not None and code == 200:
            self.send_header("Set-Cookie", f"{COOKIE}={self.server.token}; HttpOnly; SameSite=Strict; Path=/")
        self.end_headers()

    def _events(self, name: str | None) -> None:
        """Send what there is to see, at each look, until the reader goes."""
        if not self.server.readers.acquire(blocking=False):
            return self._refuse(503, f"{READERS} pages are open already.")
        try:
            self.close_connection = True
            self._head(200, "text/event-stream", None)
            if self.command == "HEAD":
                return
            sampler, looks = self.server.sampler, 0
            told = sampler.shown(name)
            past = list(sampler.history.get(told["pool"] or "", ()))[:-1]
            self._event({"event": "history"}, past)
            while not sampler.stopped:
                self._event({}, sampler.shown(name))
                looks = sampler.wait(looks)
        finally:
            self.server.readers.release()

    def _event(self, fields: dict[str, str], value: object) -> None:
        head = "".join(f"{field}: {text}\n" for field, text in fields.items())
        self.wfile.write(f"{head}data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()
