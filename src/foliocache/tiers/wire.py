"""GET and SET of large values over a connection of the client package, without copies of ours.

The package makes the connection (TLS, passwords, forks, pooling) and sends commands. Here is what it has no call for: values
that are received straight into the pool's pages, a deadline for an answer as a whole (its timeout is for each receipt, so a
server that trickles would never run into it), and values that are sent from two places.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

TAIL = 48  # bytes of a value's trailer and the next value's header, received with a value
LINE_MAX = 4096


class Answer:
    """The server's answer to a command on a connection, as it arrives.

    Parameters
    ----------
    connection
        Of the client package, with a command that was just sent.
    deadline
        ``time.monotonic()`` until which all of it must be here.
    """

    def __init__(self, connection: Any, deadline: float) -> None:
        self._socket: Any = connection._sock
        self._deadline = deadline
        self._scatters = type(self._socket) is socket.socket  # TLS cannot
        self._ahead = bytearray()

    def line(self) -> bytes:
        """Return the next line, without its end."""
        while (end := self._ahead.find(b"\r\n")) < 0:
            if len(self._ahead) > LINE_MAX:
                raise ConnectionError("the server's answer is not of the protocol of Redis")
            piece = bytearray(TAIL)
            self._ahead += piece[: self._received(piece)]
        found = bytes(self._ahead[:end])
        del self._ahead[: end + 2]
        return found

    def read(self, view: memoryview) -> None:
        """Fill a buffer with the next bytes."""
        at = min(len(view), len(self._ahead))
        view[:at] = self._ahead[:at]
        del self._ahead[:at]
        tail = bytearray(TAIL)
        while at < len(view):
            with view[at:] as rest:
                got = self._received(rest, tail)
                at += min(got, len(rest))
                if got > len(rest):
                    self._ahead += tail[: got - len(rest)]

    def _received(self, *buffers: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the server has not answered in time")
        self._socket.settimeout(left)
        got: int = self._socket.recvmsg_into(buffers)[0] if self._scatters else self._socket.recv_into(buffers[0])
        if not got:
            raise ConnectionError("the server has closed the connection")
        return got


def mget(
    connection: Any,
    keys: Sequence[bytes],
    places: Sequence[memoryview],
    trailer: int,
    deadline: float,
    is_right: Callable[[int, bytes], bool],
) -> list[bool]:
    """Ask for values, and receive each into its place.

    Parameters
    ----------
    connection
        Of the client package, with nothing under way.
    keys
        The values' names.
    places
        Where each belongs, but for its last bytes.
    trailer
        How many these are.
    deadline
        ``time.monotonic()`` until which all must be here.
    is_right
        Told the number of a value that is in its place, and its last bytes: while the server sends the next one.

    Returns
    -------
    list of bool
        What ``is_right`` has returned for each; False if there is no value of this length.

    Raises
    ------
    Exception
        The server does not answer in time, or answers with an error. Then the connection has been closed.
    """
    try:
        connection.send_command("MGET", *keys)
        answer = Answer(connection, deadline)
        head = answer.line()
        if head != b"*%d" % len(keys):
            raise ConnectionError(
                head[1:].decode(errors="replace") if head[:1] == b"-" else "the server's answer is not a list"
            )
        found = []
        for number, place in enumerate(places):
            end = _value(answer, place, trailer)
            found.append(end is not None and is_right(number, end))
        connection._sock.settimeout(connection.socket_timeout)
    except BaseException:
        connection.disconnect()
        raise
    return found


def _value(answer: Answer, place: memoryview, trailer: int) -> bytes | None:
    """Receive a value. Return its last bytes; None if there is none of this length."""
    head = answer.line()
    if head == b"$-1":
        return None
    if head[:1] != b"$" or not head[1:].isdigit():
        raise ConnectionError("the server's answer is not a value")
    length = int(head[1:])
    if length != len(place) + trailer:
        _skip(answer, length + 2)
        return None
    answer.read(place)
    rest = bytearray(trailer + 2)
    with memoryview(rest) as view:
        answer.read(view)
    return bytes(rest[:trailer])


def _skip(answer: Answer, length: int) -> None:
    scratch = memoryview(bytearray(min(length, 1 << 16)))
    while length:
        with scratch[:length] as view:
            answer.read(view)
            length -= len(view)


def mset(connection: Any, items: Sequence[tuple[bytes, memoryview, bytes]]) -> None:
    """Set values, each of which is a buffer and what comes behind it.

    Raises what the client package raises; the first error of the server, after all values were sent.
    """
    chunks: list[bytes | memoryview] = []
    end = b""
    for key, data, trailer in items:
        head = b"%s*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (end, len(key), key, len(data) + len(trailer))
        chunks += head, data
        end = trailer + b"\r\n"
    connection.send_packed_command([*chunks, end])
    refused: Exception | None = None
    for _ in items:
        try:
            connection.read_response()
        except Exception as error:
            if connection._sock is None:  # there will be no other answer
                raise
            refused = refused or error
    if refused is not None:
        raise refused
