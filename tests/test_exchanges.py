"""Several exchanges at a time: what fills the buffers, what does not count, and who waits for whom."""

import contextlib
import gc
import signal
import socket
import struct
import threading

import pytest

from foliocache.sources import http
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


@pytest.fixture
def hanging():
    """The address of a server that lets no one more connect: its backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.create_connection(server.getsockname()):
        yield server.getsockname()


def test_a_connection_that_hangs_fails_sooner_than_an_answer(pairs, hanging):
    exchanges, got, (ours, theirs) = Exchanges(2, 30, None, 0.001), bytearray(10), pairs()
    with socket.socket() as unanswered:
        unanswered.setblocking(False)
        unanswered.connect_ex(hanging)
        exchanges.begin("it", ours.fileno(), REQUEST, (got,), SAID, (COMMON,))
        exchanges.begin("hangs", unanswered.fileno(), REQUEST, (bytearray(10),), SAID, (COMMON,))
        assert exchanges.wait(False) == [("hangs", 0, -1)]
    theirs.sendall(head() + BODY)
    assert all_of(exchanges) == [("it", 1, 1)] and got == BODY


@pytest.mark.parametrize("connecting", [0, -1, 2e9, float("nan")])
def test_a_patience_that_is_none_is_refused(connecting):
    with pytest.raises(ValueError, match="seconds"):
        Exchanges(1, 30, None, connecting)


class Wanted:
    """Ranges of 10 bytes, and how many may be under way."""

    def __init__(self, count, at_once):
        self.left, self.at_once, self.buffers = list(range(count)), at_once, []

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.buffers.append(bytearray(10))
        return 10 * self.left.pop(0), [memoryview(self.buffers[-1])]


class Answering:
    """A server, and requests for ranges of 1,000 bytes of it; nothing is answered but by ``answer``."""

    def __init__(self, stack):
        self.server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.server.settimeout(30)
        self.connections, self.stack = [], stack
        self.client = http.Client()
        place = "http", *self.server.getsockname()
        self.client._addresses[place] = int(socket.AF_INET), self.server.getsockname()
        self.ranges = http.Ranges(self.client, "http://{}:{}/it".format(*self.server.getsockname()), {})
        self.ranges.is_good(COMMON, 1000)
        stack.callback(self.close)

    def close(self):
        while self.client._idle:
            self.client._idle.pop()[1].close()

    def accept(self, count):
        for _ in range(count):
            self.connections.append(self.stack.enter_context(self.server.accept()[0]))
            self.connections[-1].settimeout(30)

    def answer(self, number):
        """Answer the next request of a connection, which may still have to be sent."""
        thread = threading.Thread(target=self._answer, args=(self.connections[number],))
        thread.start()
        self.stack.callback(thread.join)

    def _answer(self, connection):
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):
            asked += connection.recv(1)
        start, last = map(int, asked.split(b"bytes=")[1].split(b"\r\n")[0].split(b"-"))
        connection.sendall(head(said=b"bytes %d-%d/1000" % (start, last)) + bytes(range(start, start + 10)))


def test_as_many_ranges_are_under_way_as_there_should_be_now():
    """Fewer while other threads read, too; and more again when those have ended."""
    with contextlib.ExitStack() as stack:
        answering, wanted = Answering(stack), Wanted(20, 2)
        said = answering.ranges.fill_several(wanted, 4, lambda fields: True)
        stack.callback(said.close)
        assert [next(said) for _ in range(2)] == [(0, 0), (1, 0)]
        answering.accept(2)
        wanted.at_once = 1
        answering.answer(0)
        assert next(said) == (0, 1), "another one would be too many"
        answering.answer(1)
        assert [next(said) for _ in range(2)] == [(2, 0), (1, 1)]
        wanted.at_once = 3
        assert [next(said) for _ in range(2)] == [(3, 0), (4, 0)]
        wanted.at_once = 100
        assert next(said) == (5, 0)
        answering.answer(1)  # range 2, over the connection of range 1
        assert [next(said) for _ in range(2)] == [(6, 0), (2, 1)], "four, and no more"
        assert [bytes(each) for each in wanted.buffers[:3]] == [bytes(range(at, at + 10)) for at in (0, 10, 20)]


def test_ranges_whose_connections_hang_are_left_to_others(hanging, monkeypatch):
    monkeypatch.setattr(http, "CONNECT_TIMEOUT", 0.001)
    client, url = http.Client(), "http://{}:{}/it".format(*hanging)
    client._addresses["http", *hanging] = int(socket.AF_INET), hanging
    ranges = http.Ranges(client, url, {})
    ranges.is_good(COMMON, 1000)
    said = list(ranges.fill_several(Wanted(2, 2), 2, lambda fields: True))
    assert sorted(said) == [(0, -1), (0, 0), (0, 0), (1, -1), (1, 0), (1, 0)]
