"""A tier that machines share: a Valkey or Redis server, or a cluster of them.

A range is cut at the multiples of 64 KiB, and each piece is a value of its own: those of a range are asked for by one command,
and folios of other sizes find them. The values are never changed, so which of two writers is first does not matter. The CRC of
a value begins with that of its key, so that a value that was asked for by another key does not pass.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from . import wire
from .crc import crc32c_function
from .tier import Part

PIECE = 64 << 10
TOGETHER = 4 << 20  # bytes of an object whose pieces are on one node of a cluster, so that one command asks for them
_TRAILER = struct.Struct("<4sI")
_MAGIC = b"fol1"
_CLAIM = b"claim"  # the value of a piece that a machine is fetching: no piece is so short


class _Asked(NamedTuple):
    """Pieces that are asked for by one command: their keys, where they belong, and the parts that they are of."""

    keys: list[bytes]
    places: list[memoryview]
    parts: list[int]


class ValkeyTier:
    """A server of the protocol of Redis.

    Parameters
    ----------
    url : str
        ``valkey://``, ``valkeys://`` (TLS), ``redis://`` or ``rediss://``, with a user and a password if needed.
    timeout : float
        Seconds that one answer may take.
    cluster : bool
        True if the server is one node of a cluster.
    ca : str, optional
        A file with the certificates that are trusted; by default the system's.
    prefix : str
        What all keys begin with.
    lease : float
        Seconds that other machines wait for a piece that one is fetching; 0 if they are not to wait.

    Raises
    ------
    ImportError
        The package valkey is not installed.
    """

    piece: int = PIECE

    def __init__(
        self,
        url: str,
        timeout: float,
        *,
        cluster: bool = False,
        ca: str | None = None,
        prefix: str = "folio",
        lease: float = 2.0,
    ) -> None:
        try:
            import valkey
            from valkey.backoff import NoBackoff
            from valkey.retry import Retry
        except ImportError as error:
            raise ImportError("a tier on Valkey needs the package valkey: pip install 'foliocache[valkey]'") from error
        self._crc32c = crc32c_function()
        self._prefix = prefix.encode()
        self.lease: float = lease
        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),  # a failure is a miss; the guard decides when to try again
        }
        if ca is not None:
            options["ssl_ca_certs"] = ca
        made: Any
        if cluster:
            made = valkey.ValkeyCluster.from_url(url, cluster_error_retry_attempts=1, **options)
        else:
            made = valkey.Valkey.from_url(url, **options)
        self._client = made
        self._timeout = timeout
        self._is_cluster = cluster

    def load(self, digest: bytes, parts: Sequence[Part]) -> list[bool]:
        """Fill the buffers that the server has; see `Tier.load`."""
        filled = [True] * len(parts)
        asked: dict[bytes, _Asked] = {}  # by node
        deadline = time.monotonic() + self._timeout
        try:
            for number, (offset, buffer) in enumerate(parts):
                for begin, end in _pieces(offset, len(buffer)):
                    tag, key = self._key(digest, begin, end - begin)
                    wanted = asked.setdefault(tag, _Asked([], [], []))
                    wanted.keys.append(key)
                    wanted.places.append(buffer[begin - offset : end - offset])
                    wanted.parts.append(number)
            for wanted in asked.values():
                had = self._from_nodes(wanted) if self._is_cluster else self._from_one(wanted, deadline)
                for number, is_there in zip(wanted.parts, had, strict=True):
                    filled[number] = filled[number] and is_there
        finally:
            for wanted in asked.values():
                for place in wanted.places:
                    place.release()
        return filled

    def _from_one(self, wanted: _Asked, deadline: float) -> list[bool]:
        """Receive values into their places. Return for each whether it is there, and its bytes are right."""
        keys, places = wanted.keys, wanted.places

        def is_right(number: int, trailer: bytes) -> bool:
            return trailer == self._trailer(keys[number], places[number])

        connections = self._client.connection_pool
        connection = connections.get_connection("MGET")
        try:
            return wire.mget(connection, keys, places, _TRAILER.size, deadline, is_right)
        finally:
            connections.release(connection)

    def _from_nodes(self, wanted: _Asked) -> list[bool]:
        """Do what `_from_one` does, through the client, which finds the nodes of a cluster, and by way of copies."""
        had = []
        for key, place, value in zip(wanted.keys, wanted.places, self._client.mget(wanted.keys), strict=True):
            length = len(place)
            if not isinstance(value, bytes) or len(value) != length + _TRAILER.size:
                had.append(False)
                continue
            with memoryview(value) as whole, whole[:length] as content:
                place[:] = content
            had.append(value[length:] == self._trailer(key, place))
        return had

    def store(self, digest: bytes, parts: Sequence[Part]) -> None:
        """Give ranges to the server; see `Tier.store`."""
        items: list[tuple[bytes, memoryview, bytes]] = []
        try:
            for offset, data in parts:
                for begin, end in _pieces(offset, len(data)):
                    piece = data[begin - offset : end - offset]
                    key = self._key(digest, begin, len(piece))[1]
                    items.append((key, piece, self._trailer(key, piece)))
            if self._is_cluster:
                commands = self._client.pipeline(transaction=False)
                for key, piece, trailer in items:
                    commands.set(key, b"".join((piece, trailer)))  # also in the place of a claim
                commands.execute()
            else:
                connections = self._client.connection_pool
                connection = connections.get_connection("SET")
                try:
                    wire.mset(connection, items)
                finally:
                    connections.release(connection)
        finally:
            for _, piece, _ in items:
                piece.release()

    def claim(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Claim ranges; see `Claiming`. A span is the caller's if one of its pieces was nobody's."""
        commands = self._client.pipeline(transaction=False)
        owners = []
        milliseconds = max(1, round(self.lease * 1000))
        for number, (offset, length) in enumerate(spans):
            for begin, end in _pieces(offset, length):
                commands.set(self._key(digest, begin, end - begin)[1], _CLAIM, nx=True, px=milliseconds)
                owners.append(number)
        granted = [False] * len(spans)
        for number, answer in zip(owners, commands.execute(), strict=True):
            granted[number] = granted[number] or bool(answer)
        return granted

    def close(self) -> None:
        """Close the connections. Nobody may be using them."""
        self._client.close()

    def _key(self, digest: bytes, offset: int, length: int) -> tuple[bytes, bytes]:
        tag = b"{%s:%x}" % (digest.hex().encode(), offset // TOGETHER)
        return tag, b"%s:%s:%x:%x" % (self._prefix, tag, offset, length)

    def _trailer(self, key: bytes, content: memoryview) -> bytes:
        """Return what is behind the bytes of a piece in its value."""
        return _TRAILER.pack(_MAGIC, self._crc32c(content, self._crc32c(key)))


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Divide a range at the multiples of PIECE."""
    end = offset + length
    while offset < end:
        stop = min(end, (offset // PIECE + 1) * PIECE)
        yield offset, stop
        offset = stop
