"""HTTP: the response that carries the bytes proves which version they belong to.

The response is checked, whatever was requested: its status, the start and the total of Content-Range, ETag and Last-Modified.
If it has too few of these, a HEAD follows the read. An object for which the server's answers contradict each other, or do not
distinguish versions, is passed through uncached.

So an object whose identity is not known yet is requested by a GET of its first bytes, and not by HEAD. That response must have
all that a HEAD would have. If it does not, a HEAD follows, and for the next minute that server is asked by HEAD first.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, lru_cache
from http.client import HTTPException
from itertools import accumulate
from typing import Any
from urllib.parse import urlsplit

from fsspec import AbstractFileSystem

from foliocache import ChangedError
from foliocache.sources.http import Body, Client, Direct, Ranges, Response, common_of
from foliocache.sources.http_async import AsyncClient, client_here, is_simple

from . import place
from .base import UNCACHED, AsyncStream, AsyncTarget, First, Held, Identity, Some, Stream, Unsteady, drop_oldest

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")
_MORE_TRIES = 2  # at a server whose responses differ, such as mirrors behind one name
_TICK = 2.0  # seconds within which a file may change again without a new Last-Modified
_RECENT = 3600.0  # seconds; an older object was not modified within a tick, even if our clock is wrong

_client = Client()

_FIRST_MAX = 1 << 20  # bytes that are read at once before it is known whether the server supports ranges

_WHOLE_MAX = 16 << 20  # the most bytes of an object that are kept when a server without ranges sends all of it

_DATES_MAX = 1024  # parsed dates that are kept

_HEADS_MAX = 1024  # heads of first responses that are kept for the reads that follow

SAME, UNPROVEN, OTHER = "same", "unproven", "other"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, and what it says about its content."""

    verdict: str
    etag: str | None = None
    modified: str | None = None
    start: int | None = None  # None: the whole object
    data: bytes | None = None  # None: it is not known which bytes of the object it has

    def agrees_with(self, identity: Identity) -> bool:
        """Return True if its ETag and date, as far as it has them, are those of the identity."""
        return self.etag in (None, identity.etag) and self.modified in (None, identity.modified)

    def cut(self, start: int, end: int) -> bytes:
        """Return the bytes of a range that it has, from the range's start on: a server may begin and end earlier than asked."""
        if self.data is None or self.start is None or self.start > start:
            return b""
        return self.data[start - self.start : end - self.start]


class HTTPTarget(AsyncTarget):
    """Reads by ranged GETs, whose responses must show the identity's ETag, date and length."""

    kind = "http"
    tells_with_bytes = True
    tells_info = True
    manners: frozenset[str] = frozenset({"simple_links", "same_scheme", "size_policy", "encoded"})

    def __init__(self, fs: AbstractFileSystem, trusted: bool = False) -> None:
        super().__init__(fs, trusted)
        self._ranged = Some()  # paths for which the server has sent a range
        self._heads: dict[str, tuple[Identity, bytes]] = {}  # what the responses with an object's ranges have in common
        self._simple = Some()  # servers whose response to a ranged GET was one that `AsyncClient` understands ...
        self._odd = Some()  # ... and those whose later response was not
        self._terse = Unsteady()  # servers whose response to GET may have less than that to HEAD
        self._changed = Unsteady()  # paths that have changed, with the old stamp, until a response shows the new version

    async def _identify(self, path: str) -> Identity:
        if path in self.unsteady:
            return UNCACHED
        info = await self.fs._info(path)
        size = None if info.get("partial") is False else info.get("size")  # Accept-Ranges: none
        modified = info.get("Last-Modified") if _date(info.get("Last-Modified")) else None
        now = await self._clock(path) if not _is_strong(info.get("ETag")) and _is_recent(modified) else None
        return self._identity(size, info.get("ETag"), modified, now)

    def _identity(self, size: int | None, etag: str | None, modified: str | None, now: float | None) -> Identity:
        """Return the identity in headers. now: the server's time in seconds, if it is known; it matters only for a recent
        date."""
        said = [f"{name}={value}" for name, value in (("ETag", etag), ("Last-Modified", modified)) if value]
        stamp = place.short(";".join([*said, f"size={size}"]), place.VERSION_MAX)
        if _is_strong(etag) or (modified and _is_settled(modified, now)):
            return Identity(size, stamp, etag, modified)
        if modified:
            return Identity(size, stamp, etag, modified, nonce=place.nonce())
        return Identity(size, stamp, etag) if self.trusted else UNCACHED

    async def _clock(self, path: str) -> float | None:
        """Return the server's Date, in seconds since the epoch; None if it sends none."""
        session = await self.fs.set_session()
        async with session.head(self.fs.encode_url(path), allow_redirects=True, **self.fs.kwargs) as response:
            return _date(response.headers.get("Date")) or None

    def first(self, path: str, start: int, end: int) -> First | None:
        if not self._is_plain(path):
            return super().first(path, start, end)
        if not self._may_be_first(path):
            return None
        return self._judged_first(path, *self._first_plain(path, start, end))

    async def _first(self, path: str, start: int, end: int) -> First | None:
        if not self._may_be_first(path):
            return None
        return self._judged_first(path, *await self._first_bytes(path, start, end))

    def _may_be_first(self, path: str) -> bool:
        return path not in self.unsteady and not (self._terse and urlsplit(path).netloc in self._terse)

    def _judged_first(self, path: str, status: int, first: First | None) -> First | None:
        """Return the First of a response with that status, and remember what the response says about the server."""
        if status == 404:
            raise FileNotFoundError(path)
        if status == 206 and first is not None:
            self._ranged.add(path)
        if status in (200, 206) and first is None:
            self._terse.add(urlsplit(path).netloc)
        return first

    def _first_plain(self, path: str, start: int, end: int) -> tuple[int, First | None]:
        """Return (status, what the response proves), by `Client`."""
        with contextlib.suppress(OSError, HTTPException, EOFError, ValueError):
            answer = _client.get(str(self.fs.encode_url(path)), self._headers(f"bytes={start}-{end - 1}"))
            try:
                promised = self._promised(answer.status, answer.headers, start, end)
                if promised is None or answer.has_cookies:
                    return answer.status, None
                common = common_of(answer)
                if answer.status == 206 and common is not None and _verdict(answer.headers, promised[0]) == SAME:
                    while len(self._heads) >= _HEADS_MAX:
                        drop_oldest(self._heads)
                    self._heads[path] = promised[0], common
                return answer.status, First(promised[0], promised[1], answer.read(promised[2]))
            finally:
                answer.close()
        return 0, None

    async def _first_bytes(self, path: str, start: int, end: int) -> tuple[int, First | None]:
        """Return the same as ``_first_plain``, by aiohttp, or `AsyncClient` if the server's answers have been plain."""
        server = path[: path.find("/", len("http://")) + 1]
        if server in self._simple and server not in self._odd and self._is_plain_everywhere:
            try:
                answer = await self._async_client.get(path, self._headers(None), start, end, end - start)
                if answer is not None:
                    return answer[0], self._first_of(*answer, start, end)
                if is_simple(path):
                    self._odd.add(server)
            except OSError:  # aiohttp, which has more to say about it, then tries
                pass
        from aiohttp import ClientError

        options = {name: value for name, value in self.fs.kwargs.items() if name != "headers"}
        session = await self.fs.set_session()
        headers = self._headers(f"bytes={start}-{end - 1}")
        with contextlib.suppress(OSError, ClientError, TimeoutError):
            async with session.get(self.fs.encode_url(path), headers=headers, **options) as response:
                status, found = response.status, response.headers
                if status == 206 and not (response.history or "Transfer-Encoding" in found or "Set-Cookie" in found):
                    self._simple.add(server)
                if self._promised(status, found, start, end) is None:
                    return status, None
                return status, self._first_of(status, found, await response.read(), start, end)
        return 0, None

    @cached_property
    def _async_client(self) -> AsyncClient:
        """The client of the filesystem's loop, in which the coroutines run."""
        return client_here()

    def _first_of(self, status: int, headers: Any, data: bytes, start: int, end: int) -> First | None:
        """Return the First of a response; None if it proves nothing."""
        promised = self._promised(status, headers, start, end)
        if promised is None:
            return None
        identity, start, length = promised
        return First(identity, start, data) if len(data) == length else None

    def _promised(self, status: int, headers: Any, start: int, end: int) -> tuple[Identity, int, int] | None:
        """Return (identity, first byte, number of bytes) of a response, if its headers prove that it has bytes of one version.

        The identity must be the one that HEAD would give. So a weak tag is refused: HEAD may have a strong one.
        """
        get = headers.get
        length = _natural(get("Content-Length"))
        if status == 206:
            found = _RANGE.match(get("Content-Range", ""))
            size, most = _natural(found[3]) if found and int(found[1]) == start else None, end - start
        elif status == 200 and get("Accept-Ranges") != "none":
            size, start, most = length, 0, _WHOLE_MAX
        else:
            return None
        etag, modified = get("ETag"), get("Last-Modified")
        modified = modified if _date(modified) else None
        if not size or length != min(size - start, most) or _is_encoded(headers):
            return None
        is_strong = _is_strong(etag)
        if not is_strong and (etag or not modified):
            return None
        now = None if is_strong else _date(get("Date")) or None
        return self._identity(size, etag, modified, now), start, length

    def _headers(self, asked: str | None) -> dict[str, str]:
        return {**self.fs.kwargs.get("headers", {}), "Accept-Encoding": "identity", **({"Range": asked} if asked else {})}

    def _is_plain(self, path: str) -> bool:
        """Return True if ``http.client`` can do all that the filesystem does for the path."""
        return self._is_plain_everywhere and "@" not in urlsplit(path).netloc

    @cached_property
    def _is_plain_everywhere(self) -> bool:
        from fsspec.implementations.http import HTTPFileSystem, get_client  # without aiohttp there is no such target

        fs = self.fs
        is_plain = type(fs) is HTTPFileSystem and fs.get_client is get_client and not fs.client_kwargs
        return is_plain and not set(fs.kwargs) - {"headers"}

    def told(self, path: str) -> dict[str, Any]:
        return self.fs.info(path)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Ask by HEAD: HTTPFileSystem uses GET, and the server starts to send the whole object."""
        if kwargs:
            return super().exists(path, **kwargs)
        try:
            self.fs.info(path)
        except FileNotFoundError:
            return False
        return True

    def isfile(self, path: str) -> bool:
        return self.exists(path)

    def isdir(self, path: str) -> bool:
        """Return True for a page of links, as HTTPFileSystem does; but fetch the page only if it is HTML according to HEAD."""
        try:
            return self.fs.info(path).get("mimetype") in (None, "text/html") and self.fs.isdir(path)
        except FileNotFoundError:
            return False

    def _reader(self, path: str, identity: Identity) -> Callable[[int, int], Awaitable[bytes]]:
        whole: list[bytes] = []  # the whole object, from a server without ranges; kept as long as the reader
        first = asyncio.Lock()  # until it is known whether there are ranges, one request at a time

        async def read(offset: int, length: int) -> bytes:
            async with contextlib.nullcontext() if path in self._ranged else first:
                if not whole:
                    data, everything = await self._range(path, identity, offset, offset + length)
                    if everything is None:
                        self._ranged.add(path)
                        return data
                    whole.append(everything)
            return whole[0][offset : offset + length]

        return read

    def stream_async(self, path: str, identity: Identity) -> AsyncStream:
        """Return a coroutine function that reads by ranged GETs. Once it is known that the server supports ranges of the
        object, the body of each response goes into the buffers as it comes."""
        slow = super().stream_async(path, identity)

        async def read_into(offset: int, buffers: Sequence[memoryview]) -> AsyncGenerator[object, None]:
            places = list(accumulate(map(len, buffers), initial=offset))  # before the reads: full buffers must not be used
            done = 0
            if path in self._ranged:
                async with contextlib.aclosing(self._poured(path, identity, offset, buffers)) as poured:
                    async for _ in poured:
                        done += 1
                        yield done
            if done < len(buffers):
                async with contextlib.aclosing(slow(places[done], buffers[done:])) as filled:
                    async for _ in filled:
                        yield done

        return read_into

    async def _poured(
        self, path: str, identity: Identity, start: int, buffers: Sequence[memoryview]
    ) -> AsyncGenerator[object, None]:
        """Fill the buffers from one response, as far as it goes and proves that its bytes are the identity's. Yields once for
        each full buffer."""
        from aiohttp import ClientError

        length = sum(map(len, buffers))
        options = {name: value for name, value in self.fs.kwargs.items() if name != "headers"}
        with contextlib.suppress(OSError, ClientError, TimeoutError):
            session = await self.fs.set_session()
            headers = self._headers(f"bytes={start}-{start + length - 1}")
            async with session.get(self.fs.encode_url(path), headers=headers, **options) as response:
                is_range = response.status == 206 and _start(response) == start
                if not is_range or _natural(response.headers.get("Content-Length")) != length:
                    return
                if _verdict(response.headers, identity) != SAME:
                    return
                number = at = 0
                async for chunk in response.content.iter_any():
                    data = memoryview(chunk)
                    while data:
                        buffer = buffers[number]
                        count = min(len(buffer) - at, len(data))
                        buffer[at : at + count] = data[:count]
                        at, data = at + count, data[count:]
                        if at == len(buffer):
                            number, at = number + 1, 0
                            yield number

    def stream(self, path: str, identity: Identity) -> Stream | None:
        """Return a function that reads by ranged GETs with ``http.client``; None if only aiohttp does all that the filesystem
        does.

        Until it is known whether the server supports ranges of the object, one thread asks at a time. If the server sends the
        whole object, that is kept as long as the reader. Any other response that is not exactly the range, proven to be of the
        identity, is not read; the reader that uses aiohttp then asks again.
        """
        if not self._is_plain(path):
            return None
        read = self.reader(path, identity)
        whole: list[bytes] = []
        first = threading.RLock()
        ranges = Ranges(_client, str(self.fs.encode_url(path)), self._headers(None))
        if (seen := self._heads.get(path)) is not None and seen[0].same(identity) and identity.size is not None:
            ranges.is_good(seen[1], identity.size)

        def current() -> Ranges:
            nonlocal ranges
            if ranges.headers != (headers := self._headers(None)):  # such as a new token
                ranges = Ranges(_client, ranges.url, headers)
            return ranges

        def read_into(offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
            if len(buffers) != 1 or not buffers[0] or whole or path not in self._ranged:
                return streamed(offset, buffers)
            # One buffer is filled here: a generator, which could pass it on sooner, takes longer than the rest.
            answer: Body | None = None
            with contextlib.suppress(OSError, HTTPException, EOFError, ValueError):
                asked = current()
                if (found := asked.fill(offset, buffers[0])) is True:
                    return iter((1,))
                answer = self._checked(path, identity, asked, found, offset, offset + len(buffers[0]), whole)
            return poured(answer, 0, offset, buffers)

        def streamed(offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
            done, answer = 0, None
            length = sum(map(len, buffers))
            with contextlib.nullcontext() if path in self._ranged else first:
                if not whole and length:
                    with contextlib.suppress(OSError, HTTPException, EOFError, ValueError):
                        asked = current()
                        found = asked.get(offset, offset + length, buffers[0])
                        answer = self._checked(path, identity, asked, found, offset, offset + length, whole)
                    if answer is None and not whole and path not in self._ranged:
                        done = _fill(read, offset, buffers if length <= _FIRST_MAX else buffers[:1])
            yield from poured(answer, done, offset, buffers)

        def poured(answer: Body | None, done: int, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
            """Fill the buffers after the first ``done`` ones from a response, and what that leaves by other means."""
            places = list(accumulate(map(len, buffers), initial=offset))  # before the reads: full buffers must not be used
            yield from range(done)
            for _ in _body(answer, buffers):
                done += 1
                yield done
            kept = whole[0] if whole else None
            rest = read if kept is None else (lambda start, length: kept[start : start + length])
            yield from range(_fill(rest, places[done], buffers[done:]))

        def read_ranges(wanted: Iterator[tuple[int, list[memoryview]]], at_once: int) -> Iterator[tuple[int, int]]:
            return iter(()) if whole or path not in self._ranged else current().fill_several(wanted, at_once, is_ours)

        def is_ours(headers: Any) -> bool:
            return _verdict(headers, identity) == SAME and not _is_encoded(headers)

        if ranges.is_plain:
            read_into.read_ranges = read_ranges  # type: ignore[attr-defined]
        return read_into

    def latency(self, path: str) -> float | None:
        """See `Target.latency`."""
        return _client.latency(path)

    def _checked(
        self,
        path: str,
        identity: Identity,
        ranges: Ranges,
        answer: Response | Direct,
        start: int,
        end: int,
        whole: list[bytes],
    ) -> Body | None:
        """Return a response, to be read into the buffers, if it has the range; None if it has something else. If that is the
        whole object, it is put into ``whole``."""
        length = _natural(answer.headers.get("Content-Length"))
        is_ours = not answer.has_cookies and _verdict(answer.headers, identity) == SAME
        if is_ours and answer.status == 206 and length == end - start and _start(answer) == start:
            self._ranged.add(path)
            if identity.size is not None:
                ranges.as_good(answer, identity.size)
            return answer
        try:
            if is_ours and answer.status == 200 and length and length == identity.size and not _is_encoded(answer.headers):
                whole.append(answer.read(length))
        finally:
            answer.close()
        return None

    async def _range(self, path: str, identity: Identity, start: int, end: int) -> tuple[bytes, bytes | None]:
        """Return (the range, None), from as many responses as the server needs; or (b"", the whole object) if the server does
        not support ranges."""
        data = bytearray()
        while start < end:
            answer = await self._proven(path, identity, f"bytes={start}-{end - 1}")
            if answer.data is not None and answer.start is None:
                return b"", await self._complete(path, identity, answer)
            piece = answer.cut(start, end)
            if not piece:
                return b"", await self._complete(path, identity, await self._proven(path, identity, None))
            data += piece
            start += len(piece)
        return bytes(data), None

    async def _complete(self, path: str, identity: Identity, answer: Answer) -> bytes:
        if answer.data is not None and answer.start is None and len(answer.data) == identity.size:
            return answer.data
        if (await self._identify(path)).same(identity):
            self.unsteady.add(path)
        raise ChangedError(path)

    async def _proven(self, path: str, identity: Identity, asked: str | None) -> Answer:
        """Return a response with bytes of the identity. Raises ChangedError if the object has changed, or nothing proves that
        it has not."""
        answer = await self._get(path, identity, asked)
        if answer.verdict == OTHER:
            if answer.agrees_with(now := await self._identify(path)) and not now.same(identity):
                if self._changed.get(path, identity.stamp) != identity.stamp:  # it changes faster than it can be read
                    self.unsteady.add(path)
                self._changed.add(path, identity.stamp)
                raise ChangedError(path)
            answer = await self._another(path, identity, asked)
        self._changed.discard(path)
        if answer.verdict == UNPROVEN:
            await self._confirm(path, identity)
        return answer

    async def _another(self, path: str, identity: Identity, asked: str | None) -> Answer:
        """Try again at a server whose responses differ: one of the next may be of the identity. Raises ChangedError if not."""
        for _ in range(_MORE_TRIES):
            answer = await self._get(path, identity, asked)
            if answer.verdict != OTHER:
                return answer
        self.unsteady.add(path)
        raise ChangedError(path)

    async def _get(self, path: str, identity: Identity | None, asked: str | None) -> Answer:
        options = {name: value for name, value in self.fs.kwargs.items() if name != "headers"}
        session = await self.fs.set_session()
        async with session.get(self.fs.encode_url(path), headers=self._headers(asked), **options) as response:
            if identity is not None and response.status in (404, 410):
                raise ChangedError(path)
            if response.status == 416:
                return Answer(OTHER)
            self.fs._raise_not_found_for_status(response, path)
            verdict = SAME if identity is None else _verdict(response.headers, identity)
            says = verdict, response.headers.get("ETag"), response.headers.get("Last-Modified")
            start = _start(response) if response.status == 206 else None
            if verdict == OTHER or (response.status == 206 and start is None):
                return Answer(*says)
            return Answer(*says, start, await response.read())

    async def _uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        """Return a range, from the server if it sends the right one, else cut from the whole object."""
        first = start or 0
        if first >= 0 and end is not None and end >= 0:
            if end <= first:
                return b""
            answer = await self._get(path, None, f"bytes={first}-{end - 1}")
            if answer.data is not None and answer.start is None:
                return answer.data[first:end]
            if len(piece := answer.cut(first, end)) == end - first:
                return piece
        found: bytes = await self.fs._cat_file(path)
        return found[start:end]

    def open(self, path: str, identity: Identity | None, mode: str, **kwargs: Any) -> Any:
        """Open an uncached object. An empty one is a seekable file; HTTPFileSystem would make it a stream."""
        if identity is not None and identity.size == 0:
            return Held(self.fs.cat_file(path))
        return super().open(path, identity, mode, **kwargs)


def _body(answer: Body | None, buffers: Sequence[memoryview]) -> Iterator[object]:
    """Fill the buffers from a response, as far as it goes. Yields once for each full buffer."""
    if answer is None:
        return
    try:
        with contextlib.suppress(OSError, HTTPException, EOFError, ValueError):
            yield from answer.read_into(buffers)
    finally:
        answer.close()


def _fill(read: Callable[[int, int], bytes], offset: int, buffers: Sequence[memoryview]) -> int:
    """Fill all buffers with ``read``. Return the number of buffers."""
    data = memoryview(read(offset, sum(map(len, buffers)))) if buffers else memoryview(b"")
    for buffer in buffers:
        buffer[:], data = data[: len(buffer)], data[len(buffer) :]
    return len(buffers)


def _verdict(headers: Any, identity: Identity) -> str:
    """Return SAME if a response proves that it has the identity, OTHER if it contradicts the identity, else UNPROVEN."""
    total = (found := _RANGE.match(headers.get("Content-Range", ""))) and found[3]
    etag, modified = headers.get("ETag"), headers.get("Last-Modified")
    if total and total != "*" and int(total) != identity.size:
        return OTHER
    if identity.modified and modified and modified != identity.modified:
        return OTHER
    if identity.etag and etag and _opaque(etag) != _opaque(identity.etag):
        return OTHER
    if identity.etag:  # a proxy may add W/: it does not contradict, but proves nothing
        return SAME if etag == identity.etag and (_is_strong(etag) or modified or not identity.modified) else UNPROVEN
    return SAME if modified or not identity.modified else UNPROVEN


def _start(response: Any) -> int | None:
    """Return the offset at which a partial response begins; None if it has none, or is encoded."""
    found = _RANGE.match(response.headers.get("Content-Range", ""))
    return None if found is None or _is_encoded(response.headers) else int(found[1])


def _is_encoded(headers: Any) -> bool:
    return headers.get("Content-Encoding", "identity") not in ("", "identity")


def _natural(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None


def _is_recent(modified: str | None) -> bool:
    """Return True if the server's clock may matter for a date."""
    return bool(modified) and abs(time.time() - _date(modified)) < _RECENT


def _is_settled(modified: str, now: float | None) -> bool:
    """Return True if any later change would change Last-Modified, which has whole seconds. now: the server's time, if it is
    known."""
    age = (now if now is not None and _is_recent(modified) else time.time()) - _date(modified)
    return not -_TICK < age < _TICK


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/")


def _is_strong(etag: str | None) -> bool:
    """Return True for a strong ETag. A weak one promises the same meaning, not the same bytes; an empty one nothing."""
    return bool(etag) and not etag.startswith("W/") and etag != '""'  # type: ignore[union-attr]


@lru_cache(_DATES_MAX)
def _date(text: str | None) -> float:
    """Return an HTTP date in seconds since the epoch; 0.0, which no file has, if the text is not a date."""
    try:
        when: datetime = parsedate_to_datetime(text or "")
        return when.timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
