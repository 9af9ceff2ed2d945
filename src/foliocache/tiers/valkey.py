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
from collections.abc import Iterable, Sequence
from typing import Any

from . import wire
from .cluster import Cluster, tag
from .connections import Connections
from .crc import crc32c_function
from .pieces import BLOCK, BLOCK_VALUE, PIECE, complete, divided, spans_of
from .pieces import key as _key
from .tier import Part

_MAGIC = b"fol1"
_KNOWN = 1 << 13  # blocks of whose pieces something is known: of the last 8 GiB at least
_CLAIM = b"claim"  # how the value of a piece begins that a machine is fetching; then who it is
_RELEASE = """
for _, key in ipairs(KEYS) do
    if redis.call('get', key) == ARGV[1] then redis.call('del', key) end
end
"""


class _Alone:
    """Blocks of which the server may have pieces under their own keys: this process has claimed, stored or seen some. A store
    of such a block deletes them. What is forgotten, since it is long ago, is left to the server to evict."""

    def __init__(self) -> None:
        self._recent: set[bytes] = set()
        self._older: set[bytes] = set()

    def add(self, blocks: Iterable[bytes]) -> None:
        self._recent.update(blocks)
        if len(self._recent) >= _KNOWN:
            self._older, self._recent = self._recent, set()

    def take(self, blocks: Iterable[bytes]) -> set[bytes]:
        """Return those of some blocks that are known, and forget them."""
        found = {block for block in blocks if block in self._recent or block in self._older}
        self._recent.difference_update(found)
        self._older.difference_update(found)
        return found


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
        self._alone = _Alone()
        timeouts = valkey.exceptions.TimeoutError
        self._cluster = Cluster(made, timeouts, BLOCK_VALUE, _MAGIC, self._crc32c, timeout) if cluster else None
        self._connections = Connections(None if cluster else made.connection_pool, timeout)

    def load(self, digest: bytes, parts: Sequence[Part]) -> list[bool]:
        """Fill the buffers that the server has; see `Tier.load`."""
        filled = [True] * len(parts)
        deadline = time.monotonic() + self._timeout
        keys, places, blocks, owners = divided(self._name(digest), parts)
        alone: list[int] = []
        try:
            if self._cluster is not None:
                had = self._cluster.mget(keys, places, blocks, deadline, alone)
            else:
                with self._connections.one() as sock:
                    had = wire.mget(
                        sock, keys, places, blocks, BLOCK_VALUE, _MAGIC, self._crc32c, deadline, self._timeout, alone
                    )
        finally:
            for place in places:
                place.release()
        if not all(had):
            for owner, is_there in zip(owners, had, strict=True):
                filled[owner] = filled[owner] and is_there
            self._alone.add({block[0] for number in alone if (block := blocks[number]) is not None})
        return filled

    def store(self, digest: bytes, parts: Sequence[Part]) -> None:
        """Give ranges to the server; see `Tier.store`."""
        keys, views, blocks, _ = divided(self._name(digest), parts)
        values = complete(blocks)
        wholes = {place[0] for place in values if place is not None}
        pieces = {place[0] for place in blocks if place is not None} - wholes
        alone = self._alone.take(wholes)
        try:
            if self._cluster is not None:
                self._cluster.mset(keys, views, values, self._timeout, alone)
            else:
                with self._connections.one() as sock:
                    wire.mset(sock, keys, views, values, _MAGIC, self._crc32c, self._timeout, self._timeout, alone)
        except BaseException:
            self._alone.add(alone)
            raise
        finally:
            self._alone.add(pieces)
            for view in views:
                view.release()

    def claim(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Claim ranges; see `Claiming`. A span is the caller's if one of its pieces was nobody's.

        Who stores a block deletes its claims to the pieces afterwards: so it is looked for blocks after the claims are set.
        """
        commands = self._client.pipeline(transaction=False)
        claimed: list[tuple[int, bytes | None]] = []
        milliseconds = max(1, round(self.lease * 1000))
        claim, name = self._claim(), self._name(digest)
        for number, (offset, length) in enumerate(spans):
            for begin, end in spans_of(offset, length):
                commands.set(_key(name, begin, end - begin), claim, nx=True, px=milliseconds)
                claimed.append((number, _key(name, begin - begin % BLOCK, BLOCK) if end - begin == PIECE else None))
        blocks = list({block: None for _, block in claimed if block is not None})
        for key in blocks:
            commands.strlen(key)
        self._alone.add(blocks)
        answers = commands.execute()
        stored = {key for key, size in zip(blocks, answers[len(claimed) :], strict=True) if size == BLOCK_VALUE}
        granted = [False] * len(spans)
        for (number, block), answer in zip(claimed, answers, strict=False):
            granted[number] = granted[number] or (bool(answer) and block not in stored)
        return granted

    def release(self, digest: bytes, spans: Sequence[tuple[int, int]]) -> None:
        """End claims; see `Claiming`. A value that is not this process's claim stays."""
        nodes: dict[bytes, list[bytes]] = {}
        name = self._name(digest)
        for offset, length in spans:
            for begin, end in spans_of(offset, length):
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
