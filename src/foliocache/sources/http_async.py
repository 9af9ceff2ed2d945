"""Small ranged GETs of plain HTTP for one event loop, over connections that are kept open.

For an object of a page, aiohttp takes longer than everything else here takes together. So what is asked for often, the first
bytes of objects of one server, is asked for here: a request of one piece, and a response of one status line, header fields of
one line each and a length. Whatever needs a second look (redirects, transfer codings, TLS) is left to aiohttp.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from collections import deque
from collections.abc import Mapping

from .http import IDLE_MAX, READ_TIMEOUT, Fields, Headers, Place, Unusual, fields_of, request_of
from .wire import Reply, parsed

AT_ONCE = 100  # connections of a loop to all servers; the others wait
ANSWERS = (200, 206, 404)
HEAD_MAX = 8192  # bytes; aiohttp receives longer ones
REQUESTS_MAX = 64  # servers and header fields whose requests are kept

_SIMPLE = re.compile(r"http://([a-z0-9.-]+)(?::([0-9]{1,5}))?((?:/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)+)")
_CLOSE = re.compile(rb"^connection:.*\bclose\b", re.IGNORECASE | re.MULTILINE)

Answer = tuple[int, Mapping[str, str], bytes]  # status, header fields, body

_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = weakref.WeakKeyDictionary()


def client_here() -> AsyncClient:
    """Return the client of the running loop."""
    loop = asyncio.get_running_loop()
    found = _clients.get(loop)
    return found if found is not None else _clients.setdefault(loop, AsyncClient())


def is_simple(url: str) -> bool:
    """Return True if nothing in a URL has to be quoted, resolved or left out before it is asked for by plain HTTP."""
    return _SIMPLE.fullmatch(url) is not None


class AsyncClient:
    """The connections of one loop. Its methods are called in that loop."""

    def __init__(self) -> None:
        self._idle: dict[Place, deque[_Connection]] = {}
        self._parsed: dict[bytes, Fields] = {}
        self._begun: dict[tuple[str, str | None, tuple[tuple[str, str], ...]], bytes | None] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def get(self, url: str, headers: Headers, start: int, end: int, most: int) -> Answer | None:
        """Return the response to a GET of the bytes from start to end. None if it is not plain, not one of ANSWERS, or has more
        bytes than ``most``; and for a URL that is not `is_simple`. Raises OSError, and TimeoutError after READ_TIMEOUT."""
        parts = _SIMPLE.fullmatch(url)
        begin = None if parts is None else self._request(parts[1], parts[2], headers)
        if parts is None or begin is None:
            return None
        request = b"GET %b%bRange: bytes=%d-%d\r\n\r\n" % (parts[3].encode(), begin, start, end - 1)
        async with self._turns:
            reply = await self._exchange(("http", parts[1], int(parts[2] or 80)), request, most)
        if reply is None or reply.rest is None or reply.status not in ANSWERS:
            return None
        try:
            return reply.status, fields_of(self._parsed, reply, reply.rest), reply.data[reply.end :]
        except Unusual:
            return None

    def close(self) -> None:
        """Close the connections that are idle."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _request(self, host: str, port: str | None, headers: Headers) -> bytes | None:
        """Return what follows the path in each request to a server; None if it cannot be sent as it is."""
        key = host, port, tuple(headers.items())
        if key not in self._begun:
            if len(self._begun) >= REQUESTS_MAX:
                self._begun.clear()
            whole = request_of(("http", host, int(port or 80)), "/", headers)
            self._begun[key] = None if whole is None else whole[len("GET /") : -2]
        return self._begun[key]

    async def _exchange(self, place: Place, request: bytes, most: int) -> Reply | None:
        """Send a request. If the server has closed the idle connection, which it may do at any time, use a new one."""
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.is_open:
                try:
                    return await self._exchange_by(place, connection, request, most)
                except ConnectionError:
                    break
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(READ_TIMEOUT):
            _, connection = await loop.create_connection(_Connection, place[1], place[2])
        return await self._exchange_by(place, connection, request, most)

    async def _exchange_by(self, place: Place, connection: _Connection, request: bytes, most: int) -> Reply | None:
        reply: Reply | None = None
        try:
            reply = await connection.ask(request, most)
        finally:
            if reply is None or not connection.is_open or _closes(reply):
                connection.close()
            else:
                idle = self._idle.setdefault(place, deque())
                idle.append(connection)
                while len(idle) > IDLE_MAX:
                    idle.popleft().close()
        return reply


class _Connection(asyncio.Protocol):
    """A connection, which answers one request at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._most = 0
        self._reply: Reply | None = None
        self._answer: asyncio.Future[Reply | None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.is_open = transport, True

    async def ask(self, request: bytes, most: int) -> Reply | None:
        """Send a request and return the response; None if it is not plain or has a body of more bytes than ``most``."""
        loop = asyncio.get_running_loop()
        assert self._transport is not None
        self._data, self._most, self._reply = b"", most, None
        self._answer = answer = loop.create_future()
        late = loop.call_later(READ_TIMEOUT, self._fail, TimeoutError(f"the server has not answered for {READ_TIMEOUT:g} s"))
        try:
            self._transport.write(request)
            reply: Reply | None = await answer
            return reply
        finally:
            late.cancel()
            self._answer = None

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        if self._answer is None:  # nothing has been asked
            self.close()
            return
        reply = self._reply
        if reply is None:
            reply = parsed(self._data)
            if reply.end < 0 and len(self._data) < HEAD_MAX:
                return
            if reply.rest is None or reply.status < 200 or reply.length > self._most:
                self._tell(None)
                return
            self._reply = reply
        missing = reply.end + reply.length - len(self._data)
        if missing <= 0:
            if reply.data is not self._data:
                reply = parsed(self._data)
            self.is_open = self.is_open and missing == 0
            self._tell(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._fail(error if isinstance(error, ConnectionError) else ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def _tell(self, reply: Reply | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _closes(reply: Reply) -> bool:
    """Return True if the server closes the connection after this response."""
    return reply.rest is None or _CLOSE.search(reply.rest) is not None
