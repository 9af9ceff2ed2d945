"""A tier that machines share: a Valkey or Redis server, or a cluster of them.

A range is cut at the multiples of 64 KiB. A piece is a value of its own, or one of the 16 in the value of a block of 1 MiB,
which a store makes of those that it has all of: one large value costs the server less than 16. A load asks for both by one
request, for all of the block or the part that it needs, so folios of any size find what those of another have stored.

The values are never changed, so which of two writers is first does not matter. The CRC of a piece begins with that of its key,
so that a value that was asked for by another key, or another part of a block, does not pass.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from . import wire
from .cluster import Block, Cluster, tag
from .connections import Connections
from .crc import crc32c_function
from .tier import Part

PIECE = 64 << 10
BLOCK = 1 << 20
_TRAILED = PIECE + 8  # bytes of a piece in a value
_BLOCK_VALUE = BLOCK // PIECE * _TRAILED
_PLACES = list(range(0, _BLOCK_VALUE, _TRAILED))  # of the pieces in the value of a block
TOGETHER = 4 << 20  # bytes of an object whose pieces are on one node of a cluster, so that one command asks for them
_MAGIC = b"fol1"
_CLAIM = b"claim"  # how the value of a piece begins that a machine is fetching; then who it is
_RELEASE = """
for _, key in ipairs(KEYS) do
    if redis.call('get', key) == ARGV[1] then redis.call('del', key) end
end
"""


class _Divided(NamedTuple):
    """Pieces of ranges: their keys, views of their bytes, to be released, where they may be in the value of a block, and the
    numbers of their ranges."""

    keys: list[bytes]
    views: list[memoryview]
    blocks: list[Block | None]
    owners: list[int]


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
        self._claimer = 0, b""
        timeouts = valkey.exceptions.TimeoutError
        self._cluster = Cluster(made, timeouts, _BLOCK_VALUE, _MAGIC, self._crc32c, timeout) if cluster else None
        self._connections = Connections(None if cluster else made.connection_pool, timeout)

    def load(self, digest: bytes, parts: Sequence[Part]) -> list[bool]:
        """Fill the buffers that the server has; see `Tier.load`."""
        filled = [True] * len(parts)
        deadline = time.monotonic() + self._timeout
        keys, places, blocks, owners = self._divided(digest, parts)
        try:
            if self._cluster is not None:
                had = self._cluster.mget(keys, places, blocks, deadline)
            else:
                with self._connections.one() as sock:
                    had = wire.mget(sock, keys, places, blocks, _BLOCK_VALUE, _MAGIC, self._crc32c, deadline, self._timeout)
        finally:
            for place in places:
                place.release()
        if not all(had):
            for owner, is_there in zip(owners, had, strict=True):
                filled[owner] = filled[owner] and is_there
        return filled

    def _divided(self, digest: bytes, parts: Sequence[Part]) -> _Divided:
        """Divide parts into pieces."""
        keys: list[bytes] = []
        views: list[memoryview] = []
        blocks: list[Block | None] = []
        owners: list[int] = []
        name = self._name(digest)
        first, block = -1, b""
        for number, (offset, buffer) in enumerate(parts):
            for begin, end in _pieces(offset, len(buffer)):
                keys.append(_key(name, begin, end - begin))
                views.append(buffer[begin - offset : end - offset])
                owners.append(number)
                if end - begin < PIECE:
                    blocks.append(None)
                    continue
                inside = begin % BLOCK
                if begin - inside != first:
                    first = begin - inside
                    block = _key(name, first, BLOCK)
                blocks.append((block, inside // PIECE * _TRAILED))
        return _Divided(keys, views, blocks, owners)

    def store(self, digest: bytes, parts: Sequence[Part]) -> None:
        """Give ranges to the server; see `Tier.store`."""
        keys, views, blocks, _ = self._divided(digest, parts)
        blocks = _complete(blocks)
        try:
            if self._cluster is not None:
                self._cluster.mset(keys, views, blocks, self._timeout)
            else:
                with self._connections.one() as sock:
                    wire.mset(sock, keys, views, blocks, _MAGIC, self._crc32c, self._timeout, self._timeout)
        finally:
            for view in views:
                view.release()

    def claim(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Claim ranges; see `Claiming`. A span is the caller's if one of its pieces was nobody's.

        Who stores a block deletes the claims to its pieces afterwards: so it is looked for blocks after the claims are set.
        """
        commands = self._client.pipeline(transaction=False)
        claimed: list[tuple[int, bytes | None]] = []
        milliseconds = max(1, round(self.lease * 1000))
        claim, name = self._claim(), self._name(digest)
        for number, (offset, length) in enumerate(spans):
            for begin, end in _pieces(offset, length):
                commands.set(_key(name, begin, end - begin), claim, nx=True, px=milliseconds)
                claimed.append((number, _key(name, begin - begin % BLOCK, BLOCK) if end - begin == PIECE else None))
        blocks = list({block: None for _, block in claimed if block is not None})
        for key in blocks:
            commands.strlen(key)
        answers = commands.execute()
        stored = {key for key, size in zip(blocks, answers[len(claimed) :], strict=True) if size == _BLOCK_VALUE}
        granted = [False] * len(spans)
        for (number, block), answer in zip(claimed, answers, strict=False):
            granted[number] = granted[number] or (bool(answer) and block not in stored)
        return granted

    def release(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> None:
        """End claims; see `Claiming`. A value that is not this process's claim stays."""
        nodes: dict[bytes, list[bytes]] = {}
        name = self._name(digest)
        for offset, length in spans:
            for begin, end in _pieces(offset, length):
                key = _key(name, begin, end - begin)
                nodes.setdefault(tag(key), []).append(key)
        for keys in nodes.values():
            self._client.eval(_RELEASE, len(keys), *keys, self._claim())

    def _claim(self) -> bytes:
        """Return the value of this process's claims."""
        if self._claimer[0] != os.getpid():
            self._claimer = os.getpid(), _CLAIM + os.urandom(16)
        return self._claimer[1]

    def close(self) -> None:
        """Close the connections. Nobody may be using them."""
        self._connections.close()
        if self._cluster is not None:
            self._cluster.close()
        self._client.close()

    def _name(self, digest: bytes) -> bytes:
        """Return how the keys of an object begin."""
        return b"%s:{%s" % (self._prefix, digest.hex().encode())


def _key(name: bytes, offset: int, length: int) -> bytes:
    """Return the key of a value with a range. What is between the braces chooses a cluster's node."""
    return b"%s:%x}:%x:%x" % (name, offset // TOGETHER, offset, length)


def _complete(blocks: Sequence[Block | None]) -> list[Block | None]:
    """Return the places of pieces in blocks, for those blocks of which all pieces are there, in order."""
    found: list[Block | None] = []
    for key, group in groupby(blocks, lambda place: place and place[0]):
        run = list(group)
        is_whole = key is not None and [at for _, at in filter(None, run)] == _PLACES
        found += run if is_whole else [None] * len(run)
    return found


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Divide a range at the multiples of PIECE."""
    end = offset + length
    while offset < end:
        stop = min(end, (offset // PIECE + 1) * PIECE)
        yield offset, stop
        offset = stop
