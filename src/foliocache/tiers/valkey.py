"""A tier that machines share: a Valkey or Redis server, or a cluster of them.

A range is cut at the multiples of 64 KiB, and each piece is a value of its own: those of a range are asked for by one command,
and folios of other sizes find them. The values are never changed, so which of two writers is first does not matter. The CRC of
a value begins with that of its key, so that a value that was asked for by another key does not pass.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from .crc import crc32c_function
from .tier import Part

PIECE = 64 << 10
TOGETHER = 4 << 20  # bytes of an object whose pieces are on one node of a cluster, so that one command asks for them
_TRAILER = struct.Struct("<4sI")
_MAGIC = b"fol1"
_CLAIM = b"claim"  # the value of a piece that a machine is fetching: no piece is so short


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

    def load(self, digest: bytes, parts: Sequence[Part]) -> list[bool]:
        """Fill the buffers that the server has; see `Tier.load`."""
        filled = [True] * len(parts)
        asked: dict[bytes, list[tuple[bytes, int, int, int]]] = {}  # by node: key, part, and where in its buffer
        for number, (offset, buffer) in enumerate(parts):
            for begin, end in _pieces(offset, len(buffer)):
                tag, key = self._key(digest, begin, end - begin)
                asked.setdefault(tag, []).append((key, number, begin - offset, end - offset))
        for wanted in asked.values():
            values = self._client.mget([key for key, *_ in wanted])
            for (key, number, begin, end), value in zip(wanted, values, strict=True):
                if filled[number] and not self._put(key, value, parts[number][1], begin, end):
                    filled[number] = False
        return filled

    def store(self, digest: bytes, parts: Sequence[Part]) -> None:
        """Give ranges to the server; see `Tier.store`."""
        commands = self._client.pipeline(transaction=False)
        for offset, data in parts:
            for begin, end in _pieces(offset, len(data)):
                with data[begin - offset : end - offset] as piece:
                    value = bytearray(len(piece) + _TRAILER.size)
                    value[: len(piece)] = piece
                    key = self._key(digest, begin, len(piece))[1]
                    _TRAILER.pack_into(value, len(piece), _MAGIC, self._crc32c(piece, self._crc32c(key)))
                    commands.set(key, memoryview(value))  # also in the place of a claim
        commands.execute()

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

    def _put(self, key: bytes, value: Any, buffer: memoryview, begin: int, end: int) -> bool:
        """Copy a value into a buffer. False if there is none, or its bytes do not pass their CRC."""
        if not isinstance(value, bytes) or len(value) != end - begin + _TRAILER.size:
            return False
        with memoryview(value) as whole, whole[: end - begin] as content:
            magic, crc = _TRAILER.unpack_from(value, end - begin)
            if magic != _MAGIC or crc != self._crc32c(content, self._crc32c(key)):
                return False
            buffer[begin:end] = content
        return True


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Divide a range at the multiples of PIECE."""
    end = offset + length
    while offset < end:
        stop = min(end, (offset // PIECE + 1) * PIECE)
        yield offset, stop
        offset = stop
