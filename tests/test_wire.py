"""One exchange with an HTTP server in one call: what is received where, and what is left to the slower client."""

import signal
import socket
import struct
import threading

import pytest

from foliocache.sources.http import Client, Ranges
from foliocache.sources.wire import Reply, exchange

HEAD = (
    b"HTTP/1.1 206 Partial Content\r\nServer: it\r\nContent-Length: 10\r\n"
    b"Content-Range: bytes 0-9/99\r\nDate: now \r\nETag: x\r\n\r\n"
)
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def answered(pieces, into=10, length=10, closing=True):
    """Return the Reply to a request that is answered in pieces, and the buffer."""
    ours, theirs = socket.socketpair()
    buffer = bytearray(b"-" * into)
    with ours, theirs:
        theirs.settimeout(30)

        def answer():
            got = theirs.recv(1000)
            for piece in pieces:
                theirs.sendall(piece)
            if closing:
                theirs.shutdown(socket.SHUT_WR)
            assert got == REQUEST

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            return exchange(ours.fileno(), REQUEST, buffer, length), bytes(buffer)
        finally:
            thread.join()


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_body_goes_where_it_belongs(step):
    whole = HEAD + b"0123456789"
    reply, buffer = answered([whole[at : at + step] for at in range(0, len(whole), step)])
    assert buffer == b"0123456789" and reply.placed == 10
    assert (reply.status, reply.length, reply.content_range, reply.date) == (206, 10, b"bytes 0-9/99", b"now")
    assert reply.rest == b"Server: it\r\nETag: x\r\n" and reply.data == HEAD and reply.end == len(HEAD)


def test_no_more_than_the_buffer_holds_and_the_rest_is_kept():
    reply, buffer = answered([HEAD + b"0123456789"], into=4)
    assert (buffer, reply.placed, reply.data[reply.end :]) == (b"0123", 4, b"456789")
    reply, buffer = answered([HEAD + b"0123456789"], into=0)
    assert (buffer, reply.placed, reply.data[reply.end :]) == (b"", 0, b"0123456789")
    reply, buffer = answered([HEAD + b"0123456789"], into=20)
    assert (buffer, reply.placed) == (b"0123456789----------", 10)


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        ((b"206 Partial Content", b"200 OK"), True),
        ((b"Content-Length: 10", b"content-length:\t11"), False),  # a tab is left to the slower client
        ((b"Content-Length: 10", b"content-length:11"), True),
        ((b"Server: it", b"Transfer-Encoding: chunked"), False),
        ((b"Server: it", b"Content-Length: 10"), False),
        ((b"Server: it", b"Content-Range: bytes 0-9/99"), False),
        ((b"Server: it", b"Server"), False),
        ((b"Server: it", b"Server: it\nEvil: x"), False),
        ((b"Content-Length: 10\r\n", b""), False),
        ((b"Content-Length: 10", b"Content-Length: 1000000000000000000"), False),
        ((b"Content-Length: 10", b"Content-Length: +10"), False),
        ((b"Content-Length: 10", b"Content-Length: "), False),
        ((b"HTTP/1.1 206", b"HTTP/1.0 206"), False),
        ((b"HTTP/1.1 206", b"HTTP/1.1 2066"), False),
    ],
)
def test_nothing_is_placed_unless_the_head_is_plain_and_of_that_range(change, plain):
    reply, buffer = answered([HEAD.replace(*change) + b"0123456789"])
    assert buffer == b"-" * 10 and reply.placed == 0
    assert (reply.rest is not None) == plain


def test_a_head_that_does_not_end():
    reply, buffer = answered([b"HTTP/1.1 206 OK\r\n" + b"a: b\r\n" * 2000], closing=False)
    assert reply.end == -1 and reply.rest is None and buffer == b"-" * 10
    assert answered([HEAD[:40]])[0].data == HEAD[:40]


def test_ends_that_come_early():
    with pytest.raises(ConnectionResetError):
        answered([])
    with pytest.raises(EOFError, match="ends 6 bytes early"):
        answered([HEAD + b"0123"])


def test_errors_of_the_socket():
    with pytest.raises(OSError):
        exchange(-1, REQUEST, bytearray(1), 1)
    with pytest.raises((TypeError, BufferError)):
        exchange(-1, REQUEST, b"read-only", 1)
    with pytest.raises(TypeError, match="exchange"):
        Reply()
    ours, theirs = socket.socketpair()
    with ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 20_000))
        with theirs, pytest.raises(BlockingIOError):
            exchange(ours.fileno(), REQUEST, bytearray(1), 1)
        with pytest.raises(ConnectionError):
            exchange(ours.fileno(), REQUEST, bytearray(1), 1)


def test_a_signal_handler_runs_while_the_server_is_silent():
    class Interrupt(Exception):
        pass

    def handler(number, frame):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs, pytest.raises(Interrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            exchange(ours.fileno(), REQUEST, bytearray(1), 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("url", ["ftp://host/x", "http:///x", "http://host:port/x", "x"])
def test_ranges_of_what_is_no_url_of_http(url):
    ranges = Ranges(Client(), url, {})
    with pytest.raises(ValueError):
        ranges.get(0, 1, memoryview(bytearray(1)))
