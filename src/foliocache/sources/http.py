"""Ranged GETs whose bodies go from the socket straight into the pages, over connections that are kept open.

A process reads with up to some dozens of threads; each uses a connection of its own while it reads. urllib3 and aiohttp are not
used because both copy each body at least once more, and aiohttp runs on one thread. ``http.client`` takes twice as long for a
response's header fields as everything else takes together. So it is used only for responses that are not plain (see `Direct`),
and for all later requests to a server that has sent one.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

CONNECT_TIMEOUT = 30.0  # seconds
READ_TIMEOUT = 300.0  # seconds without a byte
REDIRECTS_MAX = 10
IDLE_MAX = 64  # connections
HEAD_MAX = 64 << 10  # bytes of a status line and header fields
HEAD_PIECE = 4 << 10  # bytes that are received at once until they are all there
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
    ) -> None:
        self._client, self._place, self._connection, self._ahead = client, place, connection, ahead
        self._left = 0 if status in (204, 304) else int(headers["content-length"])  # bytes of the body still to read
        self.status = status
        self.headers = headers
        self.has_cookies = False

    def read_into(self, buffers: Sequence[memoryview]) -> Iterator[int]:
        """See `Body`."""
        for buffer in buffers:
            at = 0
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

    def close(self) -> None:
        """See `Body`."""
        if 0 < self._left <= REST_MAX:
            with suppress(OSError, EOFError):
                list(self.read_into([memoryview(bytearray(self._left))]))
        if not self._left and not self._ahead and self.headers.get("Connection", "").lower() != "close":
            self._client._keep(self._place, self._connection)
        else:
            self._connection.close()


class Fields(dict[str, str]):
    """Header fields by name. Names are case-insensitive; the values of a repeated field are joined."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())


class _Unusual(Exception):
    """The response is not plain: use http.client."""


@contextmanager
def _timely() -> Iterator[None]:
    """Raise TimeoutError for EAGAIN, which the kernel's socket timeout gives."""
    try:
        yield
    except BlockingIOError:
        raise TimeoutError(f"the server sent nothing for {READ_TIMEOUT:g} s") from None


def _receive_head(sock: socket.socket) -> tuple[int, Fields, memoryview]:
    """Return the status, the header fields, and the bytes of the body received with them. Raises ConnectionError if the server
    closes the connection."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > HEAD_MAX or b"\n\n" in data:
            raise _Unusual
        with _timely():
            got = sock.recv(HEAD_PIECE)
        if not got:
            raise ConnectionResetError("the server closed the connection without an answer")
        data += got
    first, *lines = data[:end].decode("iso-8859-1").split("\r\n")
    fields = Fields()
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise _Unusual
        name, value = name.lower(), value.strip()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    found = _STATUS.match(first)
    status = int(found[1]) if found else 0
    has_length = fields.get("Content-Length", "").isdecimal() or status in (204, 304)
    if status < 200 or "Transfer-Encoding" in fields or not has_length:
        raise _Unusual
    return status, fields, memoryview(data)[end + 4 :]


class Client:
    """An HTTP client with the kept connections of this process, for any number of threads."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[tuple[Place, http.client.HTTPConnection]] = deque()
        self._tls: ssl.SSLContext | None = None
        self._unusual: set[Place] = set()

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
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response
            response.close()
            has_cookies = has_cookies or "Set-Cookie" in response.headers
            target = urljoin(url, location)
            if _place(urlsplit(target)) != _place(parts):
                headers = {name: value for name, value in headers.items() if name.lower() not in _SECRET}
            url = target
        raise http.client.HTTPException(f"more than {REDIRECTS_MAX} redirects")

    def _ask(self, parts: SplitResult, headers: Headers) -> Response | Direct:
        """Send one request. If the server has closed the idle connection, which it may do at any time, use a new one."""
        place = _place(parts)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = self._take(place)
        if connection is not None:
            try:
                return self._send(place, connection, path, headers)
            except _LOST:
                connection.close()
        return self._send(place, self._connect(place), path, headers)

    def _send(self, place: Place, connection: http.client.HTTPConnection, path: str, headers: Headers) -> Response | Direct:
        request = None if place in self._unusual else _request(place, path, headers)
        try:
            if request is not None:
                try:
                    connection.sock.sendall(request)
                    return Direct(self, place, connection, *_receive_head(connection.sock))
                except _Unusual:
                    self._unusual.add(place)
                    connection.close()
                    connection = self._connect(place)
            connection.request("GET", path, headers=dict(headers))
            return Response(self, place, connection, connection.getresponse())
        except BaseException:
            connection.close()
            raise

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
        else:  # Python's own timeout would poll before each call
            connection.sock.settimeout(None)
            seconds = struct.pack("@ll", int(READ_TIMEOUT), 0)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
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


def _request(place: Place, path: str, headers: Headers) -> bytes | None:
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


def _place(parts: SplitResult) -> Place:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an HTTP URL: {parts.geturl()!r}")
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
