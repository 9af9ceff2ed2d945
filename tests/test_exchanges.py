"""Several exchanges at a time: what fills the buffers, what does not count, and who waits for whom."""

import gc
import signal
import socket
import struct
import threading

import pytest

from foliocache.sources.exchanges import Exchanges

COMMON = b"Server: it\r\nETag: x\r\n"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"
SAID = b"bytes 0-9/99"
BODY = b"0123456789"


def head(length=10, said=SAID, status=b"206 Partial Content", common=COMMON):
    lines = b"Content-Length: %d\r\nContent-Range: %b\r\nDate: now\r\n" % (length, said)
    return b"HTTP/1.1 %b\r\n%b%b\r\n" % (status, lines, common)


@pytest.fixture
def pairs():
    made = []

    def pair():
        made.append(socket.socketpair())
        made[-1][1].settimeout(30)
        return made[-1]

    yield pair
    for ours, theirs in made:
        ours.close()
        theirs.close()


def all_of(exchanges):
    """Return what the exchanges say to their end."""
    said = []
    while len(exchanges):
        said += exchanges.wait(False)
    return said


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("sizes", [(10,), (1, 9), (4, 4, 2), (1,) * 10])
def test_bodies_fill_the_buffers(pairs, step, sizes):
    exchanges = Exchanges(3, 30)
    buffers = [tuple(bytearray(size) for size in sizes) for _ in range(3)]
    sockets = [pairs() for _ in range(3)]
    for number, (ours, _) in enumerate(sockets):
        exchanges.begin(f"it {number}", ours.fileno(), REQUEST, buffers[number], SAID, (b"other", COMMON))

    def answer():
        whole = head() + BODY
        for at in range(0, len(whole), step):
            for _, theirs in sockets:
                theirs.sendall(whole[at : at + step])

    thread = threading.Thread(target=answer)
    thread.start()
    said = all_of(exchanges)
    thread.join()
    assert [theirs.recv(100) for _, theirs in sockets] == [REQUEST] * 3
    assert [b"".join(each) for each in buffers] == [BODY] * 3
    ends = {tag: (full, end) for tag, full, end in said}
    assert ends == {f"it {number}": (len(sizes), 1) for number in range(3)}
    assert [end for _, _, end in said].count(1) == 3


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(head(status=b"200 OK") + BODY, id="status"),
        pytest.param(head(said=b"bytes 1-10/99") + BODY, id="range"),
        pytest.param(head(said=b"bytes 0-9/999") + BODY, id="total"),
        pytest.param(head(length=11) + BODY + b"a", id="length"),
        pytest.param(head(common=b"Server: it\r\nETag: y\r\n") + BODY, id="version"),
        pytest.param(head(common=COMMON + b"Connection: close\r\n") + BODY, id="close"),
        pytest.param(head() + BODY + b"more", id="more"),
        pytest.param(b"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n", id="chunked"),
        pytest.param(b"x" * 9000, id="endless"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_not_as_good_does_not_count(pairs, answer):
    exchanges, (ours, theirs), (other, beside) = Exchanges(2, 30), pairs(), pairs()
    fine = bytearray(10)
    exchanges.begin("it", ours.fileno(), REQUEST, (bytearray(5), bytearray(5)), SAID, (COMMON,))
    exchanges.begin("other", other.fileno(), REQUEST, (fine,), SAID, (COMMON,))
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    beside.sendall(head() + BODY)
    assert sorted(all_of(exchanges)) == [("it", 0, -1), ("other", 1, 1)] and fine == BODY


@pytest.mark.parametrize("step", [1, 1000])
def test_a_head_that_is_not_known_is_judged(pairs, step):
    judged = []

    def judge(tag, rest):
        judged.append((tag, rest))
        return tag != "bad"

    exchanges, answers = Exchanges(4, 30, judge), {}
    for tag, common, more in (
        ("new", b"ETag: y\r\n", b""),
        ("bad", b"ETag: z\r\n", b""),
        ("known", COMMON, b""),
        ("more", b"X: \r\n", b"+"),
    ):
        ours, theirs = pairs()
        answers[tag] = theirs, head(common=common) + BODY + more, (bytearray(4), bytearray(6))
        exchanges.begin(tag, ours.fileno(), REQUEST, answers[tag][2], SAID, (COMMON,))

    def answer():
        for theirs, whole, _ in answers.values():
            for at in range(0, len(whole), step):
                theirs.sendall(whole[at : at + step])

    thread = threading.Thread(target=answer)
    thread.start()
    ends = {tag: (full, end) for tag, full, end in all_of(exchanges)}
    thread.join()
    assert ends.pop("more") in ((0, -1), (2, 1)), "what comes later than the body is the next answer's"
    assert ends == {"new": (2, 1), "bad": (0, -1), "known": (2, 1)}
    assert sorted(judged) == [("bad", b"ETag: z\r\n"), ("more", b"X: \r\n"), ("new", b"ETag: y\r\n")]
    assert [b"".join(answers[tag][2]) for tag in ("new", "known")] == [BODY] * 2


def test_a_judge_is_asked_about_nothing_but_the_range_and_what_it_raises_is_raised(pairs):
    def judge(tag, rest):
        raise LookupError(tag)

    exchanges, buffer = Exchanges(3, 30, judge), bytearray(10)
    for tag, answer in (
        ("status", head(status=b"200 OK")),
        ("range", head(said=b"bytes 1-10/99")),
        ("length", head(length=11)),
    ):
        ours, theirs = pairs()
        exchanges.begin(tag, ours.fileno(), REQUEST, (bytearray(10),), SAID, (COMMON,))
        theirs.sendall(answer + BODY)
    assert [end for _, _, end in all_of(exchanges)] == [-1] * 3
    ours, theirs = pairs()
    exchanges.begin("it", ours.fileno(), REQUEST, (buffer,), SAID, (b"other",))
    theirs.sendall(head() + BODY)
    with pytest.raises(LookupError, match="it"):
        exchanges.wait(False)
    del exchanges
    gc.collect()
    buffer += b"grown"


def test_buffers_that_are_full_are_told_before_the_body_ends(pairs):
    exchanges, (ours, theirs) = Exchanges(1, 30), pairs()
    first, last = bytearray(4), bytearray(6)
    exchanges.begin("it", ours.fileno(), REQUEST, (first, last), SAID, (COMMON,))
    assert exchanges.wait(True) == []
    theirs.sendall(head() + BODY[:7])
    assert exchanges.wait(False) == [("it", 1, 0)]
    first += b"grown: nothing holds it any more"
    with pytest.raises(BufferError):
        last += b"grown"
    theirs.shutdown(socket.SHUT_WR)
    assert exchanges.wait(False) == [("it", 1, -1)] and exchanges.wait(False) == [] == exchanges.wait(True)
    last += b"grown"


def test_a_server_that_is_silent_has_failed(pairs):
    exchanges, (ours, theirs) = Exchanges(1, 0.01), pairs()
    exchanges.begin("it", ours.fileno(), REQUEST, (bytearray(10),), SAID, (COMMON,))
    assert theirs.recv(100) == REQUEST
    assert exchanges.wait(False) == [("it", 0, -1)]


def test_a_connection_that_is_being_made():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as ours:
        place = server.getsockname()
        ours.setblocking(False)
        ours.connect_ex(place)
        exchanges, got = Exchanges(1, 30), bytearray(10)
        exchanges.begin("it", ours.fileno(), REQUEST, (got,), SAID, (COMMON,))
        theirs, _ = server.accept()
        with theirs:
            theirs.sendall(head() + BODY)
            assert all_of(exchanges) == [("it", 1, 1)] and got == BODY
    with socket.socket() as ours:
        ours.setblocking(False)
        ours.connect_ex(place)
        exchanges.begin("it", ours.fileno(), REQUEST, (bytearray(10),), SAID, (COMMON,))
        assert all_of(exchanges) == [("it", 0, -1)]


def test_a_reset_ends_one_exchange(pairs):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        exchanges, (other, beside), got = Exchanges(2, 30), pairs(), bytearray(10)
        exchanges.begin("it", ours.fileno(), REQUEST, (bytearray(10),), SAID, (COMMON,))
        exchanges.begin("other", other.fileno(), REQUEST, (got,), SAID, (COMMON,))
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        beside.sendall(head() + BODY)
        assert sorted(all_of(exchanges)) == [("it", 0, -1), ("other", 1, 1)] and got == BODY


def test_buffers_are_let_go_of_with_the_exchanges(pairs):
    exchanges, (ours, _), buffer = Exchanges(1, 30), pairs(), bytearray(10)
    exchanges.begin("it", ours.fileno(), REQUEST, (buffer,), SAID, (COMMON,))
    with pytest.raises(BufferError):
        buffer += b"grown"
    del exchanges
    gc.collect()
    buffer += b"grown"


def test_what_cannot_be_exchanged_is_refused(pairs):
    for most, patience in ((0, 1), (-1, 1), (1025, 1), (1, 0), (1, 2e9)):
        with pytest.raises(ValueError, match="exchanges at a time"):
            Exchanges(most, patience)
    exchanges, (ours, _), buffer = Exchanges(1, 30), pairs(), bytearray(10)
    for buffers, known, error in (
        ((), (COMMON,), TypeError),
        ((buffer, b"read-only"), (COMMON,), BufferError),
        ((buffer, 3), (COMMON,), TypeError),
        ((buffer, bytearray()), (COMMON,), ValueError),
        ((buffer,), ("text",), TypeError),
    ):
        with pytest.raises(error):
            exchanges.begin("it", ours.fileno(), REQUEST, buffers, SAID, known)
        assert len(exchanges) == 0
    buffer += b"grown: no buffer of a refused exchange is held"
    exchanges.begin("it", ours.fileno(), REQUEST, (buffer,), SAID, (COMMON,))
    with pytest.raises(ValueError, match="too many"):
        exchanges.begin("it", ours.fileno(), REQUEST, (bytearray(10),), SAID, (COMMON,))
    with pytest.raises(TypeError, match="pickled"):
        exchanges.__reduce__()


def test_a_signal_handler_runs_while_all_servers_are_silent(pairs):
    class Enough(Exception):
        pass

    def enough(number, frame):
        raise Enough

    exchanges, (ours, theirs), got = Exchanges(1, 30), pairs(), bytearray(10)
    exchanges.begin("it", ours.fileno(), REQUEST, (got,), SAID, (COMMON,))
    before = signal.signal(signal.SIGALRM, enough)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Enough):
            exchanges.wait(False)
    finally:
        signal.signal(signal.SIGALRM, before)
    theirs.sendall(head() + BODY)
    assert all_of(exchanges) == [("it", 1, 1)] and got == BODY
