"""A ranged GET whose body goes from the socket straight into the pages: ``http.client`` under a set of idle connections.

A process reads with up to some dozens of threads, each with a connection of its own meanwhile. Why not urllib3 or aiohttp: both
copy each body at least once more, and aiohttp runs on one thread.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

CONNECT_TIMEOUT = 30.0  # seconds
READ_TIMEOUT = 300.0  # seconds without a byte
REDIRECTS_MAX = 10
IDLE_MAX = 64  # connections
DIRECT_MIN = 64 << 10  # bytes of a buffer from which on it is worth while to go past http.client
REST_MAX = 64 << 10  # bytes of a body that are read for the sake of the connection

Headers = Mapping[str, str]
Place = tuple[str, str, int]

_LOST = (http.client.RemoteDisconnected, ConnectionError, http.client.BadStatusLine)
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})


class Response:
    """The answer to a GET, its body not yet read."""

    def __init__(
        self, client: Client, place: Place, connection: http.client.HTTPConnection, raw: http.client.HTTPResponse
    ) -> None:
        self._client, self._place, self._connection, self._raw = client, place, connection, raw
        self.status: int = raw.status
        self.headers: http.client.HTTPMessage = raw.headers
        self.has_cookies = False  # one of the redirects to it has set cookies, which are not sent

    def read_into(self, buffers: Sequence[memoryview]) -> Iterator[int]:
        """Fill the buffers, in order, and yield the length of each when it is full. Raises EOFError if the body is shorter."""
        for buffer in buffers:
            at = self._read_directly(buffer) if len(buffer) >= DIRECT_MIN else 0
            while at < len(buffer):
                got = self._raw.readinto(buffer[at:])
                if not got:
                    raise EOFError(f"the body ends {len(buffer) - at} bytes early")
                at += got
            yield at

    def _read_directly(self, buffer: memoryview) -> int:
        """Receive all of a buffer but its last byte in one call, which lets go of the GIL and wakes up once. The last one is
        for http.client, to find the body's end. Returns how many bytes; 0 where that is not possible."""
        sock, length = self._connection.sock, self._raw.length or 0
        if type(sock) is not socket.socket or self._raw.chunked or length < len(buffer):
            return 0
        at = self._raw.readinto(buffer[: len(self._raw.peek(1))])  # what came along with the headers
        sock.setblocking(True)  # with SO_RCVTIMEO: a timeout of Python's would poll before each piece
        try:
            while at < len(buffer) - 1:
                got = sock.recv_into(buffer[at : len(buffer) - 1], 0, socket.MSG_WAITALL)
                if not got:
                    raise EOFError(f"the body ends {len(buffer) - at} bytes early")
                at += got
        finally:
            self._raw.length = length - at
            sock.settimeout(READ_TIMEOUT)
        return at

    def read(self, length: int) -> bytes:
        """Return the first bytes of the body. Raises EOFError if it is shorter."""
        data = bytearray(length)
        for _ in self.read_into([memoryview(data)]):
            pass
        return bytes(data)

    def close(self) -> None:
        """Keep the connection if what is left of the body is little, else close it."""
        if not self._raw.isclosed() and self._raw.length is not None and self._raw.length <= REST_MAX:
            with suppress(OSError, http.client.HTTPException):
                self._raw.read()
        if self._raw.isclosed() and not self._raw.will_close:
            self._client._keep(self._place, self._connection)
        else:
            self._connection.close()


class Client:
    """Connections of this process, for any number of threads."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[tuple[Place, http.client.HTTPConnection]] = deque()
        self._tls: ssl.SSLContext | None = None

    def get(self, url: str, headers: Headers) -> Response:
        """GET, after redirects.

        Raises OSError and http.client.HTTPException, and ValueError for a URL that is none of HTTP.
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

    def _ask(self, parts: SplitResult, headers: Headers) -> Response:
        """One question. A server may close an idle connection at any time: then it is asked again over a new one."""
        place = _place(parts)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = self._take(place)
        if connection is not None:
            try:
                return self._send(place, connection, path, headers)
            except _LOST:
                connection.close()
        return self._send(place, self._connect(place), path, headers)

    def _send(self, place: Place, connection: http.client.HTTPConnection, path: str, headers: Headers) -> Response:
        try:
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
        connection.sock.settimeout(READ_TIMEOUT)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(READ_TIMEOUT), 0))
        return connection

    def _take(self, place: Place) -> http.client.HTTPConnection | None:
        if self._pid != os.getpid():  # a parent's connections are in use by the parent
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


def _place(parts: SplitResult) -> Place:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an HTTP URL: {parts.geturl()!r}")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
