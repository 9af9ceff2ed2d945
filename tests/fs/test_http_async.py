"""``sources.http_async``: small ranged GETs of one event loop; and where ``folio::`` uses them."""

import asyncio
import contextlib
import socket
import threading

import fsspec
import pytest

from foliocache.adapters.fsspec import FolioFileSystem
from foliocache.adapters.fsspec.targets.base import _SOME_MAX, Some
from foliocache.sources import http_async
from foliocache.sources.http_async import AT_ONCE, AsyncClient, is_simple

HEAD = b'HTTP/1.1 206 Partial Content\r\nETag: "1"\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4\r\n\r\n'
OK = HEAD + b"abcd"


def asked(*urls, most=100, headers=None, range_=(0, 4), loops=asyncio):
    """Ask for all URLs, one after the other. Return the answers, and how many connections are idle then. loops: what makes the
    event loop."""

    async def all_of_them():
        client = AsyncClient()
        try:
            found = []
            for url in urls:
                try:
                    found.append(await client.get(url, headers or {}, *range_, most))
                except OSError as error:
                    found.append(error)
            return found, sum(map(len, client._idle.values()))
        finally:
            client.close()

    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(all_of_them(), 60))


@pytest.fixture
def talk():
    """Serve connections, each with a list of answers, each of which is a list of pieces; return what was
    asked. A connection ends behind its last answer, or stays open as long as the test if that is None."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(60)
    heads, threads, done = [], [], threading.Event()

    def serve(connection, answers):
        connection.settimeout(60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(ConnectionError):
            for answer in answers:
                if answer is None:
                    done.wait(60)
                    break
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += connection.recv(1) or b"\r\n\r\n"
                heads.append(head.decode())
                for piece in answer:
                    connection.sendall(piece)

    def accept(connections):
        for answers in connections:
            threads.append(threading.Thread(target=serve, args=(listener.accept()[0], answers)))
            threads[-1].start()

    def start(*connections):
        threads.append(threading.Thread(target=accept, args=(connections,)))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/x"

    yield start, heads
    done.set()
    for thread in threads:
        thread.join(60)
    listener.close()


def test_a_range_over_a_connection_that_is_kept(origin):
    url = origin.put("/x", bytes(range(200)))
    found, idle = asked(url, url, url, range_=(10, 60), headers={"X-Of-Mine": "1"})
    assert [(status, body) for status, _, body in found] == [(206, bytes(range(10, 60)))] * 3 and idle == 1
    assert found[0][1].get("Content-Range") == "bytes 10-59/200" and found[0][1].get("ETag")


def test_what_is_asked(talk):
    start, heads = talk
    url = start([[OK]])
    asked(url, headers={"Authorization": "me"})
    first, *lines = heads[0].removesuffix("\r\n\r\n").split("\r\n")
    assert first == "GET /x HTTP/1.1"
    host = url.removeprefix("http://").removesuffix("/x")
    assert sorted(lines) == ["Accept-Encoding: identity", "Authorization: me", f"Host: {host}", "Range: bytes=0-3"]


def test_an_object_that_is_not_there(origin):
    found, _ = asked(f"{origin.url}/none")
    assert found[0][0] == 404


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + bytes(101),
        b"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9000,
        b"nothing of HTTP\r\n\r\n",
    ],
)
def test_what_is_left_to_aiohttp(talk, answer):
    start, _ = talk
    found, idle = asked(start([[answer]]))
    assert found == [None] and (idle == 0 or b"302" in answer)


def test_an_answer_in_pieces(talk):
    start, _ = talk
    found, idle = asked(start([[bytes([byte]) for byte in OK], None]))
    assert [(status, body) for status, _, body in found] == [(206, b"abcd")] and idle == 1


@pytest.mark.parametrize("answer", [OK + b"more", OK.replace(b"ETag", b"Connection: close\r\nETag")])
def test_a_connection_that_must_not_be_used_again(talk, answer):
    start, _ = talk
    url = start([[answer], None], [[OK]])
    found, _ = asked(url, url)
    assert [body[:4] for _, _, body in found] == [b"abcd"] * 2


def test_a_server_that_has_closed_the_idle_connection(talk):
    start, heads = talk
    url = start([[OK]], [[OK]])
    found, _ = asked(url, url)
    assert [body for _, _, body in found] == [b"abcd"] * 2 and len(heads) == 2


@pytest.mark.parametrize("answer", [[], [HEAD], [HEAD[:20]]])
def test_a_server_that_closes_before_the_end(talk, answer):
    start, _ = talk
    found, idle = asked(start([answer]))
    assert isinstance(found[0], ConnectionError) and idle == 0


def test_a_server_that_says_nothing(talk, monkeypatch):
    start, _ = talk
    monkeypatch.setattr(http_async, "READ_TIMEOUT", 0.1)
    found, idle = asked(start([None]))
    assert isinstance(found[0], TimeoutError) and idle == 0


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_loops_of_either_kind(talk, monkeypatch, kind):
    """Two answers over one connection, then servers that close in the middle and that say nothing."""
    loops = pytest.importorskip(kind, reason=f"{kind} is not installed")
    monkeypatch.setattr(http_async, "READ_TIMEOUT", 0.5)
    start, heads = talk
    url = start([[OK], [OK]], [[HEAD]], [None])
    found, idle = asked(url, url, url, url, loops=loops)
    assert [each[2] for each in found[:2]] == [b"abcd"] * 2 and len(heads) == 3 and idle == 0
    assert isinstance(found[2], ConnectionError) and isinstance(found[3], TimeoutError)


def test_a_cancelled_question_costs_the_connection(talk):
    start, heads = talk
    url = start([[HEAD], None])

    async def both():
        client = AsyncClient()
        task = asyncio.create_task(client.get(url, {}, 0, 4, 100))
        while not heads:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not any(client._idle.values())
        client.close()

    asyncio.run(asyncio.wait_for(both(), 60))


def test_more_questions_than_connections(origin):
    urls = [origin.put(f"/{n}", b"%04d" % n) for n in range(3 * AT_ONCE)]

    async def all_of_them():
        client = AsyncClient()
        try:
            return await asyncio.gather(*(client.get(url, {}, 0, 4, 4) for url in urls)), sum(map(len, client._idle.values()))
        finally:
            client.close()

    found, idle = asyncio.run(asyncio.wait_for(all_of_them(), 60))
    assert [body for _, _, body in found] == [b"%04d" % n for n in range(3 * AT_ONCE)] and 0 < idle <= AT_ONCE


def test_a_place_that_a_cancelled_question_does_not_need(talk, monkeypatch):
    """Of two that wait for it, one is cancelled before it gets the place, and one when it has got it."""
    monkeypatch.setattr(http_async, "AT_ONCE", 1)
    start, heads = talk
    url = start([[OK], [OK], None])

    async def several():
        client = AsyncClient()
        try:
            first = asyncio.create_task(client.get(url, {}, 0, 4, 100))
            waiting = [asyncio.create_task(client.get(url, {}, 0, 4, 100)) for _ in range(3)]
            await asyncio.sleep(0)
            assert len(client._waiting) == 3
            waiting[0].cancel()
            end = client._end_turn
            client._end_turn = lambda: (end(), waiting[1].cancel())
            found = await asyncio.gather(first, *waiting, return_exceptions=True)
            return found, client._running, len(client._waiting)
        finally:
            client.close()

    found, running, left = asyncio.run(asyncio.wait_for(several(), 60))
    assert found[0][2] == found[3][2] == b"abcd" and len(heads) == 2
    assert all(isinstance(each, asyncio.CancelledError) for each in found[1:3]) and running == left == 0


def test_a_place_that_a_closed_question_does_not_need(talk, monkeypatch):
    """A coroutine that is closed while it waits is not cancelled: nothing ends its future."""
    monkeypatch.setattr(http_async, "AT_ONCE", 1)
    start, heads = talk
    url = start([[OK], [OK], None])

    async def several():
        client = AsyncClient()
        try:
            first = asyncio.create_task(client.get(url, {}, 0, 4, 100))
            await asyncio.sleep(0)
            closed = client.get(url, {}, 0, 4, 100)
            closed.send(None)
            assert len(client._waiting) == 1
            closed.close()
            found = await first, await client.get(url, {}, 0, 4, 100)
            return found, client._running, len(client._waiting)
        finally:
            client.close()

    found, running, left = asyncio.run(asyncio.wait_for(several(), 10))
    assert found[0][2] == found[1][2] == b"abcd" and len(heads) == 2 and running == left == 0


def test_a_question_has_all_of_its_own_time(talk, monkeypatch):
    """The timer of the connection's first question is still on the way."""
    start, _ = talk
    url = start([[OK], None])

    async def both():
        client, loop = AsyncClient(), asyncio.get_running_loop()
        monkeypatch.setattr(http_async, "READ_TIMEOUT", 0.5)
        try:
            assert (await client.get(url, {}, 0, 4, 100))[2] == b"abcd"
            connection = next(iter(client._idle.values()))[0]
            first = connection._timer.when()
            while loop.time() < first - 0.25:
                await asyncio.sleep(0.01)
            begin = loop.time()
            with pytest.raises(TimeoutError):
                await client.get(url, {}, 0, 4, 100)
            return first < begin + 0.5 <= loop.time() + 0.01, connection._timer
        finally:
            client.close()

    assert asyncio.run(asyncio.wait_for(both(), 60)) == (True, None)


@pytest.mark.parametrize(
    ("url", "simple"),
    [
        ("http://host/a/b.c", True),
        ("http://127.0.0.1:80/a", True),
        ("http://host/a?b", False),
        ("http://host/a%20b", False),
        ("http://host/a b", False),
        ("http://host/../b", False),
        ("http://host/./b", False),
        ("http://host/a//b", False),
        ("http://user@host/a", False),
        ("http://[::1]/a", False),
        ("http://HOST/a", False),
        ("https://host/a", False),
        ("http://host/", False),
        ("http://host/\u00e9", False),
        ("http://host/a\r\nX: y", False),
    ],
)
def test_simple_urls(url, simple):
    assert is_simple(url) is simple


def test_some_paths_are_remembered_and_not_all():
    some = Some()
    for number in range(3 * _SOME_MAX):
        some.add(f"{number}")
        assert "0" in some or number >= _SOME_MAX
        assert f"{max(number - _SOME_MAX + 1, 0)}" in some and f"{number}" in some
    assert len(some._paths) + len(some._older) <= 2 * _SOME_MAX and "0" not in some


def all_at_once(fs, urls):
    async def each():
        return await asyncio.gather(*map(fs._cat_file, urls))

    return asyncio.run(asyncio.wait_for(each(), 60))


@pytest.fixture
def http(pool):
    return FolioFileSystem(fs=fsspec.filesystem("http", skip_instance_cache=True), skip_instance_cache=True, **pool)


def test_folio_asks_a_server_it_knows_by_it(http, origin, monkeypatch):
    urls = [origin.put(f"/{n}", b"%04d" % n) for n in range(20)]
    assert all_at_once(http, urls[:1]) == [b"0000"]  # by aiohttp, which shows that the server's answers are plain
    asked_by_it = []
    get = AsyncClient.get
    monkeypatch.setattr(AsyncClient, "get", lambda self, url, *rest: asked_by_it.append(url) or get(self, url, *rest))
    origin.requests.clear()
    assert all_at_once(http, urls[1:]) == [b"%04d" % n for n in range(1, 20)]
    assert sorted(asked_by_it) == sorted(urls[1:]) and origin.requests == {"GET": 19}
    with pytest.raises(FileNotFoundError):
        all_at_once(http, [f"{origin.url}/none"])


def test_a_server_whose_answers_are_no_longer_plain(http, origin):
    chunked = [origin.put(f"/{n}", b"%04d" % n, ranges=False, length=False) for n in range(4)]
    assert all_at_once(http, [origin.put("/first", b"0000")]) == [b"0000"]
    for n in range(4):
        assert all_at_once(http, chunked[n : n + 1]) == [b"%04d" % n]
    assert len(http.target._odd._paths) == 1


def test_a_server_that_was_away_for_a_moment(http, origin, monkeypatch):
    urls = [origin.put(f"/{n}", b"%04d" % n) for n in range(3)]
    assert all_at_once(http, urls[:1]) == [b"0000"]

    async def lost(*_):
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(AsyncClient, "get", lost)
        assert all_at_once(http, urls[1:2]) == [b"0001"]
    assert not http.target._odd._paths and all_at_once(http, urls[2:]) == [b"0002"]
