"""Ranged GETs whose bodies go from the socket straight into the pages, over connections that are kept open.

A process reads with up to some dozens of threads; each uses a connection of its own while it reads, or, for many ranges of an
object, several at a time (`Ranges.fill_several`). urllib3 and aiohttp are not used because both copy each body at least once
more, and aiohttp runs on one thread. ``http.client`` takes twice as long for a response's header fields as everything else
takes together. So it is used only for responses that are not plain (see `Direct`), and for all later requests to a server that
has sent one.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import socket
import ssl
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from time import monotonic
from typing import Any, Literal, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from ..sizes import quoted
from .exchanges import Exchanges
from .wire import Reply, exchange, parsed

CONNECT_TIMEOUT = 30.0  # seconds
READ_TIMEOUT = 300.0  # seconds without a byte
REDIRECTS_MAX = 10
REDIRECTS = (301, 302, 303, 307, 308)
PARSED_MAX = 256  # heads
PROVEN_MAX = 16  # heads of responses to requests for one URL
IDLE_MAX = 64  # connections
HEAD_MAX = 64 << 10  # bytes of a status line and header fields
HEAD_PIECE = 4 << 10  # bytes that are received at once until they are all there
LATENCY_SHARE = 32  # a longer wait for an answer changes what is known of a server's latency by one part in so many
PLACES_MAX = 256  # servers whose latency is kept
REST_MAX = 64 << 10  # the most bytes at the end of a body that are read so that the connection can be kept

Headers = Mapping[str, str]
Place = tuple[str, str, int]

_PORTS = {"http": 80, "https": 443}
_LOST = (http.client.RemoteDisconnected, ConnectionError, http.client.BadStatusLine)
_STATUS = re.compile(r"HTTP/1\.1 ([1-5]\d\d)(?: |$)")
_UNSENDABLE = re.compile(r"[^\x21-\x7e]")  # in a path
_UNSENDABLE_FIELD = re.compile(r"[^\x20-\x7e]")
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})


class Body(ABC):
    """The body of a response, of either kind."""

    @abstractmethod
    def read_into(self, buffers: Sequence[memoryview]) -> Iterator[int]:
        """Fill the buffers, in order, and yield the length of each when it is full. Raises EOFError if the body is shorter."""

    def read(self, length: int) -> bytes:
        """Return the first bytes of the body. Raises EOFError if it is shorter."""
        data = bytearray(length)
        for _ in self.read_into([memoryview(data)]):
            pass
        return bytes(data)

    @abstractmethod
    def close(self) -> None:
        """Keep the connection if at most REST_MAX bytes of the body are left, else close it."""


class Response(Body):
    """A response to a GET by ``http.client``, its body not yet read."""

    def __init__(
        self, client: Client, place: Place, connection: http.client.HTTPConnection, raw: http.client.HTTPResponse
    ) -> None:
        self._client, self._place, self._connection, self._raw = client, place, connection, raw
        self.status: int = raw.status
        self.headers: http.client.HTTPMessage = raw.headers
        self.has_cookies = False  # True if a redirect on the way has set cookies, which were not sent

    def read_into(self, buffers: Sequence[memoryview]) -> Iterator[int]:
        """See `Body`."""
        for buffer in buffers:
            at = 0
            while at < len(buffer):
                got = self._raw.readinto(buffer[at:])
                if not got:
                    raise EOFError(f"the body ends {len(buffer) - at} bytes early")
                at += got
            yield at

    def close(self) -> None:
        """See `Body`."""
        if not self._raw.isclosed() and self._raw.length is not None and self._raw.length <= REST_MAX:
            with suppress(OSError, http.client.HTTPException):
                self._raw.read()
        if self._raw.isclosed() and not self._raw.will_close:
            self._client._keep(self._place, self._connection)
        else:
            self._connection.close()


class Direct(Body):
    """A plain response, read without ``http.client``: header fields of one line each, a length, no transfer coding."""

    def __init__(
        self,
        client: Client,
        place: Place,
        connection: http.client.HTTPConnection,
        status: int,
        headers: Fields,
        ahead: memoryview,
        placed: int = 0,  # bytes of the body that are in the first buffer already
        common: bytes | None = None,  # the part of the head that is the same in each response, if it was found out
    ) -> None:
        self._client, self._place, self._connection, self._ahead, self._placed = client, place, connection, ahead, placed
        length = 0 if status in (204, 304) else int(headers["content-length"])
        self._left = length - placed  # bytes of the body still to read
        self.status = status
        self.headers = headers
        self.common = common
        self.has_cookies = False

    def read_into(self, buffers: Sequence[memoryview]) -> Iterator[int]:
        """See `Body`."""
        for buffer in buffers:
            at, self._placed = self._placed, 0
            while at < len(buffer):
                got = self._receive(buffer[at : at + self._left]) if self._left else 0
                if not got:
                    raise EOFError(f"the body ends {len(buffer) - at} bytes early")
                at, self._left = at + got, self._left - got
            yield at

    def _receive(self, buffer: memoryview) -> int:
        if self._ahead:
            got = min(len(self._ahead), len(buffer))
            buffer[:got], self._ahead = self._ahead[:got], self._ahead[got:]
            return got
        sock = self._connection.sock
        with _timely():
            if isinstance(sock, ssl.SSLSocket):
                return sock.recv_into(buffer)
            return sock.recv_into(buffer, 0, socket.MSG_WAITALL)  # one call, which releases the GIL and wakes up once

    @property
    def is_last(self) -> bool:
        """True if the server closes the connection after this response."""
        return _is_last(self.headers)

    def close(self) -> None:
        """See `Body`."""
        if 0 < self._left <= REST_MAX:
            with suppress(OSError, EOFError):
                list(self.read_into([memoryview(bytearray(self._left))]))
        if not self._left and not self._ahead and not self.is_last:
            self._client._keep(self._place, self._connection)
        else:
            self._connection.close()


_get = dict.get


class Fields(dict[str, str]):
    """Header fields by name. Names are case-insensitive; the values of a repeated field are joined."""

    def get(self, name: str, default: Any = None) -> Any:
        return _get(self, name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())


class Unusual(Exception):
    """The response is not plain: use http.client."""


@contextmanager
def _timely() -> Iterator[None]:
    """Raise TimeoutError for EAGAIN, which the kernel's socket timeout gives."""
    try:
        yield
    except BlockingIOError:
        raise TimeoutError(f"the server sent nothing for {READ_TIMEOUT:g} s") from None


def _set_timeouts(sock: socket.socket) -> None:
    """Set the kernel's timeouts: Python's own would poll before each call."""
    sock.settimeout(None)
    seconds = struct.pack("@ll", int(READ_TIMEOUT), 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)


def _fields(lines: list[str]) -> Fields:
    fields = Fields()
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise Unusual
        name, value = name.lower(), value.strip()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _is_last(fields: Fields) -> bool:
    return str(fields.get("Connection", "")).lower() == "close"


def _fields_in(rest: bytes) -> Fields:
    """Return the header fields in `wire.Reply.rest`."""
    return _fields(rest.decode("iso-8859-1").split("\r\n")[:-1])


def fields_of(parsed: dict[bytes, Fields], reply: Reply, rest: bytes) -> Fields:
    """Return the header fields. Most of them are those of a response before, in ``parsed``."""
    common = parsed.get(rest)
    if common is None:
        if len(parsed) >= PARSED_MAX:
            parsed.clear()
        parsed[rest] = common = _fields_in(rest)
    fields = Fields(common)
    fields["content-length"] = str(reply.length)
    if reply.content_range is not None:
        fields["content-range"] = reply.content_range.decode("iso-8859-1")
    if reply.date is not None:
        fields["date"] = reply.date.decode("iso-8859-1")
    return fields


def _receive_head(sock: socket.socket) -> tuple[int, Fields, memoryview, bytes | None]:
    """Return the status, the header fields, the bytes of the body received with them, and `wire.Reply.rest`. Raises
    ConnectionError if the server closes the connection."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > HEAD_MAX or b"\n\n" in data:
            raise Unusual
        with _timely():
            got = sock.recv(HEAD_PIECE)
        if not got:
            raise ConnectionResetError("the server closed the connection without an answer")
        data += got
    first, *lines = data[:end].decode("iso-8859-1").split("\r\n")
    fields = _fields(lines)
    found = _STATUS.match(first)
    status = int(found[1]) if found else 0
    has_length = fields.get("Content-Length", "").isdecimal() or status in (204, 304)
    if status < 200 or "Transfer-Encoding" in fields or not has_length:
        raise Unusual
    return status, fields, memoryview(data)[end + 4 :], parsed(data).rest


class Known(NamedTuple):
    """What a response must have to be as good as one that was looked at."""

    common: Container[bytes]  # one of these in its head
    content_range: bytes

    def has(self, reply: Reply, length: int) -> bool:
        """Return True if all of the range, and nothing else, has been received with such a response."""
        return (
            reply.placed == length
            and reply.rest in self.common
            and reply.content_range == self.content_range
            and len(reply.data) == reply.end
        )


class Client:
    """An HTTP client with the kept connections of this process, for any number of threads."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[tuple[Place, http.client.HTTPConnection]] = deque()
        self._tls: ssl.SSLContext | None = None
        self._unusual: set[Place] = set()
        self._parsed: dict[bytes, Fields] = {}  # what the responses of a server have in common
        self._latencies: dict[Place, float] = {}
        self._addresses: dict[Place, tuple[int, Any]] = {}  # of the servers, by the last connection: the family, and the rest

    def latency(self, url: str) -> float | None:
        """Return how many seconds a URL's server takes until it begins to answer, if that is known.

        The shortest waits count: others are of a server, a network or a processor that does something else meanwhile.
        """
        try:
            return self._latencies.get(_place_in(url))
        except ValueError:
            return None

    def _has_waited(self, place: Place, seconds: float) -> None:
        """Learn from a wait for an answer."""
        known = self._latencies.get(place)
        if known is None and len(self._latencies) >= PLACES_MAX:
            self._latencies.clear()
        self._latencies[place] = seconds if known is None else min(seconds, known + (seconds - known) / LATENCY_SHARE)

    def get(self, url: str, headers: Headers) -> Response | Direct:
        """Return the response to a GET, after redirects.

        Raises OSError and http.client.HTTPException, and ValueError for a URL that is not an HTTP URL.
        """
        has_cookies = False
        for _ in range(REDIRECTS_MAX):
            parts = urlsplit(url)
            response = self._ask(parts, headers)
            response.has_cookies = has_cookies
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or not location:
                return response
            response.close()
            has_cookies = has_cookies or "Set-Cookie" in response.headers
            target = urljoin(url, location)
            if place_of(urlsplit(target)) != place_of(parts):
                headers = {name: value for name, value in headers.items() if name.lower() not in _SECRET}
            url = target
        raise http.client.HTTPException(f"more than {REDIRECTS_MAX} redirects")

    def _ask(self, parts: SplitResult, headers: Headers) -> Response | Direct:
        """Send one request. If the server has closed the idle connection, which it may do at any time, use a new one."""
        place = place_of(parts)
        path = path_of(parts)
        connection = self._take(place)
        if connection is not None:
            try:
                return self._send(place, connection, path, headers)
            except _LOST:
                connection.close()
        return self._send(place, self._connect(place), path, headers)

    def _send(self, place: Place, connection: http.client.HTTPConnection, path: str, headers: Headers) -> Response | Direct:
        request = None if place in self._unusual else request_of(place, path, headers)
        try:
            if request is not None:
                try:
                    begin = monotonic()
                    connection.sock.sendall(request)
                    status, fields, ahead, common = _receive_head(connection.sock)
                    self._has_waited(place, monotonic() - begin)
                    return Direct(self, place, connection, status, fields, ahead, 0, common)
                except Unusual:
                    self._unusual.add(place)
                    connection.close()
                    connection = self._connect(place)
            connection.request("GET", path, headers=dict(headers))
            return Response(self, place, connection, connection.getresponse())
        except BaseException:
            connection.close()
            raise

    def _exchange(
        self, place: Place, request: bytes, into: memoryview, length: int, known: Known | None
    ) -> Direct | Literal[True] | None:
        """Send a request for a range of that length, whose first bytes may go ``into`` a buffer at once. Return None if the
        response is not plain, and True if all of it is in the buffer, with a ``known`` head."""
        if (connection := self._take(place)) is not None:
            try:
                return self._exchange_by(place, connection, request, into, length, known)
            except _LOST:
                connection.close()
        return self._exchange_by(place, self._connect(place), request, into, length, known)

    def _exchange_by(
        self,
        place: Place,
        connection: http.client.HTTPConnection,
        request: bytes,
        into: memoryview,
        length: int,
        known: Known | None,
    ) -> Direct | Literal[True] | None:
        try:
            with _timely():
                reply = exchange(connection.sock.fileno(), request, into, length)
            if reply.rest is not None and reply.status >= 200:
                self._has_waited(place, reply.waited)
                if known is not None and known.has(reply, length):
                    self._keep(place, connection)
                    return True
                fields = fields_of(self._parsed, reply, reply.rest)
                ahead = memoryview(reply.data)[reply.end :]
                return Direct(self, place, connection, reply.status, fields, ahead, reply.placed, reply.rest)
        except Unusual:
            pass
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None

    def _connect(self, place: Place) -> http.client.HTTPConnection:
        scheme, host, port = place
        if scheme == "https":
            if self._tls is None:
                self._tls = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=CONNECT_TIMEOUT, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT)
        connection.connect()
        if isinstance(connection.sock, ssl.SSLSocket):
            connection.sock.settimeout(READ_TIMEOUT)
        else:
            _set_timeouts(connection.sock)
            if len(self._addresses) >= PLACES_MAX:
                self._addresses.clear()
            with suppress(OSError):  # it may be closed already
                self._addresses[place] = int(connection.sock.family), connection.sock.getpeername()
        return connection

    def _begin_connection(self, place: Place) -> http.client.HTTPConnection | None:
        """Return a kept connection, or one that is being made to where the last one went; None if that is not known, or is not
        reached."""
        if (connection := self._take(place)) is not None:
            return connection
        if (known := self._addresses.get(place)) is None:
            return None
        try:
            sock = socket.socket(known[0], socket.SOCK_STREAM)
        except OSError:  # too many open files, for example
            return None
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if sock.connect_ex(known[1]) not in (0, errno.EINPROGRESS):
                raise ConnectionError
            _set_timeouts(sock)
        except OSError:
            sock.close()
            self._addresses.pop(place, None)  # a name is asked for again by the next `_connect`
            return None
        connection = http.client.HTTPConnection(*place[1:])
        connection.sock = sock
        return connection

    def _take(self, place: Place) -> http.client.HTTPConnection | None:
        if self._pid != os.getpid():  # after a fork: the connections are the parent's
            self._pid, self._idle = os.getpid(), deque()
        for _ in range(len(self._idle)):
            with suppress(IndexError):
                found, connection = self._idle.popleft()
                if found == place:
                    return connection
                self._idle.append((found, connection))
        return None

    def _keep(self, place: Place, connection: http.client.HTTPConnection) -> None:
        self._idle.appendleft((place, connection))
        while len(self._idle) > IDLE_MAX:
            with suppress(IndexError):
                self._idle.pop()[1].close()


class Ranges:
    """GETs of ranges of one URL, which is made into a request once."""

    def __init__(self, client: Client, url: str, headers: Headers) -> None:
        self.url: str = url
        self.headers: Headers = headers
        self._client = client
        self._begin: bytes | None = None
        self._total: int = 0
        self._common: frozenset[bytes] = frozenset()
        with suppress(ValueError):  # `Client.get` raises it
            parts = urlsplit(url)
            self._place = place_of(parts)
            request = request_of(self._place, path_of(parts), headers) if self._place[0] == "http" else None
            self._begin = None if request is None else request[:-2]

    @property
    def is_plain(self) -> bool:
        """True unless only ``http.client`` can send the requests."""
        return self._begin is not None

    def get(self, start: int, end: int, into: memoryview) -> Response | Direct:
        """Return what `Client.get` returns for the bytes from start to end.

        The first of them may have been written to ``into`` already, whatever the header fields say; so that must be the first
        buffer into which the body is then read.
        """
        answer = self._ask(start, end, into, None)
        assert answer is not True, "it is that only for a known head"
        return answer

    def fill(self, start: int, into: memoryview) -> Response | Direct | Literal[True]:
        """Return True if the buffer has been filled with the bytes from start on, by a response that is `as_good` as another;
        if not, what ``get`` returns."""
        end = start + len(into)
        known = Known(self._common, b"bytes %d-%d/%d" % (start, end - 1, self._total)) if self._common else None
        return self._ask(start, end, into, known)

    def fill_several(
        self, wanted: Iterator[tuple[int, list[memoryview]]], at_once: int, is_ours: Callable[[Fields], bool]
    ) -> Iterator[tuple[int, int]]:
        """Fill several ranges at a time in this thread, by responses that are `as_good` as another, or whose header fields are.
        None is taken of ``wanted`` before there is such another.

        Parameters
        ----------
        wanted
            The offset and the buffers of each range. The next one is taken when it is to be requested: if nothing has come of
            those that are under way, and at most ``at_once`` at a time. Of these, as many as its attribute ``at_once`` says at
            that time, if it has one.
        is_ours
            Says of the header fields of a response with the range, but for its length, range and date, whether they are of the
            object as it is expected.

        Yields
        ------
        tuple of int
            The number of a range, counted from 0 as they were taken, and how many of its buffers are full: 0 when it has been
            requested; -1 if the others of it must be read by other means.
        """
        last: set[int] = set()  # ranges after whose responses the server closes the connection

        def judge(tag: tuple[int, http.client.HTTPConnection], rest: bytes) -> bool:
            try:
                fields = _fields_in(rest)
            except Unusual:
                return False
            if not is_ours(fields):
                return False
            if _is_last(fields):
                last.add(tag[0])
            else:
                self.is_good(rest, self._total)
            return True

        exchanges: Exchanges[tuple[int, http.client.HTTPConnection]] = Exchanges(at_once, READ_TIMEOUT, judge, CONNECT_TIMEOUT)
        under_way: dict[int, http.client.HTTPConnection] = {}
        before, number = self._begin or b"", -1
        is_usual = self.is_plain and self._place not in self._client._unusual
        most = at_once if self._common and is_usual else 0

        def may_begin() -> bool:
            """Return True if there should be one more range under way now."""
            return len(under_way) < most and len(under_way) < getattr(wanted, "at_once", most)

        def begin(connection: http.client.HTTPConnection) -> bool:
            """Request the next range over a connection. Return False if there is none."""
            nonlocal number, most
            if (taken := next(wanted, None)) is None:
                most = 0
                return False
            number += 1
            start, buffers = taken
            last = start + sum(map(len, buffers)) - 1
            under_way[number] = connection
            request = before + b"Range: bytes=%d-%d\r\n\r\n" % (start, last)
            said = b"bytes %d-%d/%d" % (start, last, self._total)
            exchanges.begin((number, connection), connection.sock.fileno(), request, tuple(buffers), said, tuple(self._common))
            return True

        found: list[tuple[tuple[int, http.client.HTTPConnection], int, int]] = []
        try:
            while most or under_way:
                if not found and may_begin():
                    if (connection := self._client._begin_connection(self._place)) is None:
                        most = len(under_way)
                    elif begin(connection):
                        yield number, 0
                    else:
                        self._client._keep(self._place, connection)
                found = exchanges.wait(may_begin())
                for (which, used), full, end in found:
                    if end:
                        del under_way[which]
                    if end < 0 or (end > 0 and which in last):
                        used.close()
                    elif end > 0 and may_begin() and begin(used):
                        yield number, 0  # before anything else: the server has something to do meanwhile
                    elif end > 0:
                        self._client._keep(self._place, used)
                    yield which, full
                    if end < 0:
                        yield which, -1
        finally:
            for connection in under_way.values():
                connection.close()

    def as_good(self, answer: Body, total: int) -> None:
        """From now on, a response of an object of ``total`` bytes that differs from this one in its range and date only needs
        not be looked at."""
        if (common := common_of(answer)) is not None:
            self.is_good(common, total)

    def is_good(self, common: bytes, total: int) -> None:
        """See `as_good`; common: what `common_of` has returned for the other response."""
        if self._total != total or len(self._common) >= PROVEN_MAX:
            self._common, self._total = frozenset(), total
        self._common |= {common}

    def _ask(self, start: int, end: int, into: memoryview, known: Known | None) -> Response | Direct | Literal[True]:
        if self._begin is not None and self._place not in self._client._unusual:
            request = self._begin + b"Range: bytes=%d-%d\r\n\r\n" % (start, end - 1)
            answer = self._client._exchange(self._place, request, into, end - start, known)
            if answer is True:
                return True
            if answer is not None:
                if answer.status not in REDIRECTS:
                    return answer
                answer.close()
        return self._client.get(self.url, {**self.headers, "Range": f"bytes={start}-{end - 1}"})


def common_of(answer: Body) -> bytes | None:
    """Return the part of a response's head that others may have in common with it; None if it is not plain, or the last one."""
    return answer.common if isinstance(answer, Direct) and not answer.is_last else None


def request_of(place: Place, path: str, headers: Headers) -> bytes | None:
    """Return the bytes of a GET request; None if http.client must quote or refuse something in it."""
    scheme, host, port = place
    if "host" in {name.lower() for name in headers} or _UNSENDABLE.search(path):
        return None
    if any(_UNSENDABLE_FIELD.search(f"{name}{value}") for name, value in headers.items()):
        return None
    name = f"[{host}]" if ":" in host else host
    fields = {"Host": name if port == _PORTS[scheme] else f"{name}:{port}", "Accept-Encoding": "identity", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


def path_of(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def place_of(parts: SplitResult) -> Place:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an HTTP URL: {quoted(parts.geturl())}")
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


@lru_cache(PLACES_MAX)
def _place_in(url: str) -> Place:
    return place_of(urlsplit(url))
