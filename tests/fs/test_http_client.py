"""``sources.http``: ranged GETs over connections that are kept, straight into buffers."""

import http.client
import os
import socket
import threading

import pytest

from foliocache.sources.http import LATENCY_SHARE, PLACES_MAX, PROVEN_MAX, Client, Known, Ranges
from foliocache.sources.wire import parsed


def body(client, url, length, headers=None):
    """The first bytes of an answer, and its status."""
    answer = client.get(url, headers or {})
    buffers = [memoryview(bytearray(length // 2)), memoryview(bytearray(length - length // 2))]
    try:
        filled = list(answer.read_into(buffers))
    finally:
        answer.close()
    assert filled == [len(buffer) for buffer in buffers]
    return answer.status, b"".join(buffers)


def test_buffers_are_filled_in_order_and_the_connection_is_kept(origin):
    url, client = origin.put("/x", bytes(range(200))), Client()
    for _ in range(3):
        assert body(client, url, 100, {"Range": "bytes=10-109"}) == (206, bytes(range(10, 110)))
    assert len(client._idle) == 1


def test_the_latency_of_a_server_is_the_shortest_wait_until_it_answers(origin):
    url = origin.put("/x", bytes(100))
    origin.before_get = lambda path, headers: threading.Event().wait(0.2)
    for ask in (
        lambda client: body(client, url, 100),
        lambda client: Ranges(client, url, {}).get(0, 100, memoryview(bytearray(100))).close(),
    ):
        client = Client()
        assert client.latency(url) is None
        ask(client)
        assert client.latency(url) >= 0.2 and client.latency(f"{url}y") == client.latency(url), "it is the server's"
    client, place = Client(), ("http", "127.0.0.1", 1)
    for seconds, known in ((0.4, 0.4), (0.1, 0.1), (0.1 + LATENCY_SHARE, 1.1), (0.3, 0.3)):
        client._has_waited(place, seconds)
        assert client.latency("http://127.0.0.1:1/any") == pytest.approx(known), "one long wait says little"
    assert client.latency("no URL") is None
    for port in range(2 * PLACES_MAX):
        client._has_waited(("http", "127.0.0.1", port), 1.0)
    assert len(client._latencies) <= PLACES_MAX


def test_a_body_that_is_not_read_to_its_end_costs_the_connection(origin):
    client = Client()
    client.get(origin.put("/large", bytes(200_000)), {}).close()
    assert not client._idle
    client.get(origin.put("/small", bytes(200)), {}).close()
    assert len(client._idle) == 1


def test_a_body_that_is_too_short(origin):
    url, client = origin.put("/x", bytes(50)), Client()
    with pytest.raises(EOFError, match="50 bytes early"):
        body(client, url, 100)


@pytest.fixture
def talk():
    """Serve connections, one after the other, with what a test says: a list of answers for each connection; what was asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve(connections):
        for answers in connections:
            connection, _ = listener.accept()
            with connection:
                for answer in answers:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += connection.recv(1) or b"\r\n\r\n"
                    asked.append(head.decode())
                    connection.sendall(answer)

    threads = []

    def start(*connections):
        threads.append(threading.Thread(target=serve, args=(connections,)))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start, asked
    for thread in threads:
        thread.join(60)
    listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd"


def moved(where):
    return f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_connection_that_the_server_has_closed_meanwhile_is_made_anew(talk):
    start, asked = talk
    url, client = start([OK], [OK]), Client()
    assert body(client, url, 4) == body(client, url, 4) == (200, b"abcd")
    assert len(asked) == 2


def test_a_server_that_closes_new_connections_is_an_error(talk):
    start, _ = talk
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        body(Client(), start([b""]), 4)


def test_redirects_are_followed_and_secrets_stay_behind(talk, origin):
    start, asked = talk
    there = origin.put("/there", b"abcd")
    seen = []
    origin.before_get = lambda path, headers: seen.append(headers.get("Authorization"))
    url = start([moved("/again"), moved(there)])
    assert body(Client(), url, 4, {"Authorization": "secret"}) == (200, b"abcd")
    assert all("Authorization: secret" in head for head in asked) and len(asked) == 2 and seen == [None]


def test_redirects_in_a_circle_end(talk):
    start, _ = talk
    with pytest.raises(http.client.HTTPException, match="redirects"):
        body(Client(), start([moved("/")] * 10), 4)


@pytest.mark.parametrize("url", ["ftp://x/y", "file:///etc/passwd", "http://", "x"])
def test_what_is_no_http_url(url):
    with pytest.raises(ValueError, match="not an HTTP URL"):
        Client().get(url, {})


def test_a_forked_child_leaves_the_connections_alone(origin):
    url, client = origin.put("/x", b"abcd"), Client()
    assert body(client, url, 4) == (200, b"abcd")
    pid = os.fork()
    if pid == 0:
        ours = client._idle[0][1]
        good = body(client, url, 4) == (200, b"abcd") and client._idle[0][1] is not ours
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert body(client, url, 4) == (200, b"abcd")


def test_large_and_small_buffers(origin):
    data = os.urandom(300_000)
    url, client = origin.put("/x", data), Client()
    for _ in range(2):
        answer = client.get(url, {"Range": "bytes=0-299998"})
        buffers = [memoryview(bytearray(length)) for length in (100_000, 1, 65_536, 100, 134_362)]
        assert list(answer.read_into(buffers)) == [len(buffer) for buffer in buffers]
        assert b"".join(buffers) == data[:-1]
        answer.close()
    assert len(client._idle) == 1


def test_a_large_body_that_is_too_short(talk):
    start, _ = talk
    url = start([b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(100_000)])
    answer = Client().get(url, {})
    with pytest.raises(EOFError, match="100000 bytes early"):
        list(answer.read_into([memoryview(bytearray(200_000))]))
    answer.close()


def test_a_large_body_that_stops_coming(monkeypatch):
    monkeypatch.setattr("foliocache.sources.http.READ_TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(100_000))
                connection.recv(1)  # until the client gives up

        thread = threading.Thread(target=serve)
        thread.start()
        answer = Client().get(url, {})
        with pytest.raises(TimeoutError, match="nothing for 1 s"):
            list(answer.read_into([memoryview(bytearray(200_000))]))
        answer.close()
        thread.join(60)


UNUSUAL = [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\nContent-Length: 4\n\nabcd",
    b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
]


@pytest.mark.parametrize("answer", UNUSUAL)
def test_answers_that_are_not_plain_are_left_to_http_client(answer, talk):
    """The question is asked again, and the place is known from then on."""
    start, asked = talk
    url, client = start([answer], [answer], [answer]), Client()
    for count in (2, 3):
        got = client.get(url, {})
        buffer = memoryview(bytearray(4))
        assert list(got.read_into([buffer])) == [4] and bytes(buffer) == b"abcd"
        got._connection.close()
        assert len(asked) == count


def test_fields_are_asked_for_in_any_case(talk):
    start, _ = talk
    url = start([OK.replace(b"OK\r\n", b"OK\r\neTaG: 1\r\nX: a\r\nx: b\r\n")])
    got = Client().get(url, {})
    assert (got.headers.get("ETag"), got.headers.get("X"), "etag" in got.headers, got.headers.get("y")) == (
        "1",
        "a, b",
        True,
        None,
    )
    got.close()


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X\r\nY": "b"}])
def test_no_field_smuggles_another_one_in(headers, talk):
    start, asked = talk
    url = start([])
    with pytest.raises(ValueError):
        Client().get(url, headers)
    assert asked == []


PART = b'HTTP/1.1 206 Partial Content\r\nETag: "1"\r\nContent-Range: bytes 0-3/100\r\nContent-Length: 4\r\n\r\nabcd'
AGAIN = PART.replace(b"0-3", b"4-7").replace(b"abcd", b"efgh")
NOT_AS_GOOD = {
    "another version": AGAIN.replace(b'"1"', b'"2"'),
    "another range": AGAIN.replace(b"4-7", b"8-11"),
    "another total": AGAIN.replace(b"/100", b"/101"),
    "no range": AGAIN.replace(b"Content-Range: bytes 4-7/100\r\n", b""),
    "another status": AGAIN.replace(b"206 Partial Content", b"200 OK"),
    "longer": AGAIN.replace(b"Length: 4", b"Length: 5") + b"i",
    "shorter": AGAIN.replace(b"Length: 4", b"Length: 3"),
    "more than it says": AGAIN + b"i",
    "the last of its connection": AGAIN.replace(b"ETag", b"Connection: close\r\nETag"),
    "not modified": b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nContent-Length: 0\r\n\r\n',
}


def ask_twice(url, total=100):
    """Ranges that know the first response, and what they return for the second range, and the buffer."""
    ranges, buffer = Ranges(Client(), url, {}), memoryview(bytearray(4))
    first = ranges.get(0, 4, buffer)
    assert list(first.read_into([buffer])) == [4] and bytes(buffer) == b"abcd"
    ranges.as_good(first, total)
    first.close()
    return ranges, ranges.fill(4, buffer), buffer


def test_a_range_whose_head_is_known_is_not_looked_at_again(talk):
    start, asked = talk
    date = AGAIN.replace(b"ETag", b"Date: now\r\nETag")
    ranges, answer, buffer = ask_twice(start([PART, date, PART]))
    assert answer is True and bytes(buffer) == b"efgh" and "Range: bytes=4-7\r\n" in asked[1]
    assert ranges.fill(0, buffer) is True and bytes(buffer) == b"abcd"
    assert len(ranges._client._idle) == 1, "all by one connection"


@pytest.mark.parametrize("second", NOT_AS_GOOD.values(), ids=NOT_AS_GOOD)
def test_a_range_whose_head_is_another_one_is_to_be_looked_at(second, talk):
    start, _ = talk
    _, answer, _ = ask_twice(start([PART, second]))
    assert answer is not True
    answer.close()


def test_a_known_head_without_its_body_is_to_be_looked_at():
    """As with a status that is not 206: `wire` then puts nothing into the buffer."""
    head = parsed(AGAIN[:-4])
    assert not Known({head.rest}, head.content_range).has(head, 4)
    assert Known({head.rest}, head.content_range).has(head, head.placed), "nothing else is wrong with it"


def test_a_range_of_an_object_of_another_size_than_known_is_to_be_looked_at(talk):
    start, _ = talk
    _, answer, _ = ask_twice(start([PART, AGAIN]), total=101)
    assert answer is not True and answer.headers.get("ETag") == '"1"'
    answer.close()


def test_a_known_range_that_ends_early_is_an_error(talk):
    start, _ = talk
    with pytest.raises(EOFError, match="2 bytes early"):
        ask_twice(start([PART, AGAIN[:-2]]))


def test_a_connection_that_is_closed_before_a_known_range_is_made_anew(talk):
    start, asked = talk
    _, answer, buffer = ask_twice(start([PART], [AGAIN]))
    assert answer is True and bytes(buffer) == b"efgh" and len(asked) == 2


def test_a_response_that_is_the_last_of_its_connection_makes_none_known(talk):
    start, _ = talk
    last, second = (one.replace(b"ETag", b"Connection: close\r\nETag") for one in (PART, AGAIN))
    ranges, answer, _ = ask_twice(start([last], [second]))
    assert answer is not True and not ranges._client._idle
    answer.close()


def test_of_the_heads_of_a_url_some_are_known(talk):
    start, _ = talk
    parts = [PART.replace(b'"1"', b'"%d"' % n) for n in range(3 * PROVEN_MAX)]
    ranges, buffer = Ranges(Client(), start([*parts, parts[-1], PART]), {}), memoryview(bytearray(4))
    for _ in parts:
        answer = ranges.get(0, 4, buffer)
        ranges.as_good(answer, 100)
        answer.close()
        assert 1 <= len(ranges._common) <= PROVEN_MAX
    assert ranges.fill(0, buffer) is True, "the last one"
    answer = ranges.fill(0, buffer)
    assert answer is not True
    answer.close()
