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
from typing import cast

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
        self._running = 0  # exchanges
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def get(self, url: str, headers: Headers, start: int, end: int, most: int) -> Answer | None:
        """Return the response to a GET of the bytes from start to end. None if it is not plain, not one of ANSWERS, or has more
        bytes than ``most``; and for a URL that is not `is_simple`. Raises OSError, and TimeoutError after READ_TIMEOUT."""
        parts = _SIMPLE.fullmatch(url)
        begin = None if parts is None else self._request(parts[1], parts[2], headers)
        if parts is None or begin is None:
            return None
        request = b"GET %b%bRange: bytes=%d-%d\r\n\r\n" % (parts[3].encode(), begin, start, end - 1)
        if self._running < AT_ONCE:
            self._running += 1
        else:
            await self._turn()
        try:
            reply = await self._exchange(("http", parts[1], int(parts[2] or 80)), request, most)
        finally:
            self._end_turn()
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

    async def _turn(self) -> None:
        """Wait until an exchange that ends gives its place to this one."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if not turn.done():  # the coroutine is closed, not cancelled
                self._waiting.remove(turn)
            elif not turn.cancelled():  # it has got the place
                self._end_turn()
            raise

    def _end_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    async def _exchange(self, place: Place, request: bytes, most: int) -> Reply | None:
        """Send a request. If the server has closed the idle connection, which it may do at any time, use a new one."""
        connection = self._open_one(place)
        if connection is not None:
            try:
                return await connection.ask(request, most)
            except ConnectionError:
                pass
            finally:
                self._keep(place, connection)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(READ_TIMEOUT):
            _, connection = await loop.create_connection(_Connection, place[1], place[2])
        try:
            return await connection.ask(request, most)
        finally:
            self._keep(place, connection)

    def _open_one(self, place: Place) -> _Connection | None:
        """Take an idle connection that is still open; None if there is none."""
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    def _keep(self, place: Place, connection: _Connection) -> None:
        """Keep a connection for the next request, or close it."""
        if not connection.may_be_kept():
            connection.close()
            return
        idle = self._idle.get(place)
        if idle is None:
            idle = self._idle[place] = deque()
        idle.append(connection)
        while len(idle) > IDLE_MAX:
            idle.popleft().close()


class _Connection(asyncio.Protocol):
    """A connection, which answers one request at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._most = 0
        self._reply: Reply | None = None
        self._answer: asyncio.Future[Reply | None] | None = None
        self._deadline = 0.0  # of the request
        self._timer: asyncio.TimerHandle | None = None  # for some deadline; it is kept for the next request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.is_open = cast("asyncio.Transport", transport), True  # uvloop's is none of asyncio's classes

    def ask(self, request: bytes, most: int) -> asyncio.Future[Reply | None]:
        """Send a request and return the response; None if it is not plain or has a body of more bytes than ``most``."""
        assert self._transport is not None
        self._data, self._most, self._reply = b"", most, None
        self._answer = answer = self._loop.create_future()
        self._deadline = self._loop.time() + READ_TIMEOUT
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._look_at_the_time)
        self._transport.write(request)
        return answer

    def may_be_kept(self) -> bool:
        """Return True if the last request has been answered, and the server awaits another one."""
        answer = self._answer
        if answer is None or not answer.done() or answer.cancelled() or answer.exception() is not None:
            return False
        reply = answer.result()
        return self.is_open and reply is not None and not _closes(reply)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or answer.done():  # nothing has been asked
            self.close()
            return
        self._data = self._data + data if self._data else data
        reply = self._reply
        if reply is None:
            reply = parsed(self._data)
            if reply.end < 0 and len(self._data) < HEAD_MAX:
                return
            if reply.rest is None or reply.status < 200 or reply.length > self._most:
                answer.set_result(None)
                return
            self._reply = reply
        missing = reply.end + reply.length - len(self._data)
        if missing <= 0:
            if reply.data is not self._data:
                reply = parsed(self._data)
            self.is_open = self.is_open and missing == 0
            answer.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.close()
        self._fail(error if isinstance(error, ConnectionError) else ConnectionResetError("the server closed the connection"))

    def close(self) -> None:
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _look_at_the_time(self) -> None:
        self._timer = None
        if self._answer is None or self._answer.done():
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look_at_the_time)
        else:
            self._fail(TimeoutError(f"the server has not answered for {READ_TIMEOUT:g} s"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _closes(reply: Reply) -> bool:
    """Return True if the server closes the connection after this response."""
    rest = reply.rest
    return rest is None or (b"close" in rest.lower() and _CLOSE.search(rest) is not None)
