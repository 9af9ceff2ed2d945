"""The nodes of a cluster. Values go over a connection to the node that the client's map names, as with a single server.

Where the map is wrong - the node is gone, or says that the values have moved - the client makes the exchange instead, by way of
copies: it follows the redirection and mends its map.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from . import wire
from .connections import Connections

_T = TypeVar("_T")
Block: TypeAlias = tuple[bytes, int]  # a value that has a piece among others, and where
_TRAILER = struct.Struct("<4sI")
ASKED = 3  # nodes that the client may ask for its map, one after the other, while a value is awaited


class Cluster:
    """What `wire` does with one server, with a cluster.

    Parameters
    ----------
    client
        The package's client of the cluster.
    timeouts
        What it raises when a server does not answer in time.
    whole, magic, crc32c
        As for `wire.mget`.
    timeout
        Seconds that one answer may take.
    """

    def __init__(
        self, client: Any, timeouts: type[Exception], whole: int, magic: bytes, crc32c: Callable[..., int], timeout: float
    ) -> None:
        self._client, self._whole, self._magic, self._crc32c = client, whole, magic, crc32c
        self._timeouts = TimeoutError, timeouts
        self._timeout = timeout
        self._nodes: dict[str, Connections] = {}
        self._known: dict[str, Any] = dict(client.nodes_manager.nodes_cache)
        self._is_stale = False  # a node has not answered: the client must look whether another one is in its place

    def mget(
        self,
        keys: Sequence[bytes],
        places: Sequence[memoryview],
        blocks: Sequence[Block | None],
        deadline: float,
        alone: list[int],
    ) -> list[bool]:
        """Receive pieces; see `wire.mget`. Of an exchange in two attempts, ``alone`` may name a piece twice."""
        had = [False] * len(keys)
        for numbers in _by_node(keys):
            names, targets = [keys[n] for n in numbers], [places[n] for n in numbers]
            inside = [blocks[n] for n in numbers]
            own: list[int] = []

            def receive(
                sock: Any,
                names: list[bytes] = names,
                targets: list[memoryview] = targets,
                inside: list[Block | None] = inside,
                own: list[int] = own,
            ) -> list[bool]:
                whole, magic = self._whole, self._magic
                return wire.mget(sock, names, targets, inside, whole, magic, self._crc32c, deadline, self._timeout, own)

            def copy(
                names: list[bytes] = names,
                targets: list[memoryview] = targets,
                inside: list[Block | None] = inside,
                own: list[int] = own,
            ) -> list[bool]:
                commands = self._client.pipeline(transaction=False)  # of one key each: values may be moving one by one
                for name, target, block in zip(names, targets, inside, strict=True):
                    commands.get(name)
                    if block is not None:
                        commands.getrange(*block, block[1] + len(target) + _TRAILER.size - 1)
                values = iter(commands.execute())
                found = []
                for number, (name, target, block) in enumerate(zip(names, targets, inside, strict=True)):
                    answers = [next(values) for _ in range(1 if block is None else 2)]
                    if answers[0] is not None:
                        own.append(number)
                    found.append(any(self._copied(name, value, target) for value in answers))
                return found

            for number, is_there in zip(numbers, self._exchanged(names[0], receive, copy), strict=True):
                had[number] = is_there
            alone += [numbers[n] for n in own]
        return had

    def mset(
        self,
        keys: Sequence[bytes],
        contents: Sequence[memoryview],
        blocks: Sequence[Block | None],
        patience: float,
        alone: Container[bytes],
    ) -> None:
        """Set pieces; see `wire.mset`."""
        for numbers in _by_node(keys):
            names, data = [keys[n] for n in numbers], [contents[n] for n in numbers]
            inside = [blocks[n] for n in numbers]

            def send(
                sock: Any, names: list[bytes] = names, data: list[memoryview] = data, inside: list[Block | None] = inside
            ) -> None:
                wire.mset(sock, names, data, inside, self._magic, self._crc32c, patience, self._timeout, alone)

            def copy(names: list[bytes] = names, data: list[memoryview] = data, inside: list[Block | None] = inside) -> None:
                commands = self._client.pipeline(transaction=False)
                values: dict[bytes, list[bytes | memoryview]] = {}
                gone = []
                for name, content, block in zip(names, data, inside, strict=True):
                    whole = name if block is None else block[0]
                    if block is None or block[1] == 0:
                        values[whole] = []
                    values[whole] += [content, self._trailer(name, content)]
                    if block is not None and block[0] in alone:
                        gone.append(name)
                for name, value in values.items():
                    commands.set(name, b"".join(value))
                for name in gone:
                    commands.delete(name)
                for answer in commands.execute(raise_on_error=False):  # what it raises itself quotes the values
                    if isinstance(answer, Exception):
                        raise answer

            self._exchanged(names[0], send, copy)

    def close(self) -> None:
        """Close the connections. Nobody may be using them."""
        for connections in list(self._nodes.values()):
            connections.close()

    def _exchanged(self, key: bytes, directly: Callable[[Any], _T], by_client: Callable[[], _T]) -> _T:
        """Return what an exchange with the node of a key returns."""
        if not self._is_stale:
            try:
                with self._connections(key).one() as sock:
                    return directly(sock)
            except self._timeouts:  # there is no time left for a second one
                self._is_stale = True
                raise
            except Exception:  # the client says what is wrong, if it cannot do it either
                pass
        self._may_ask_some()
        found = by_client()
        self._is_stale = False
        return found

    def _may_ask_some(self) -> None:
        """Let the client look for its map at a few nodes. By itself it asks all that there are, each for as long as its
        timeout, and never again one that has failed: if all have, it could not even find those that are back."""
        manager = self._client.nodes_manager
        self._known = dict(manager.nodes_cache) or self._known
        chosen = random.sample(list(self._known.values()), min(ASKED, len(self._known)))
        manager.startup_nodes = {node.name: node for node in chosen}

    def _connections(self, key: bytes) -> Connections:
        """Return the connections to the node that has a key."""
        node = self._client.nodes_manager.get_node_from_slot(self._client.keyslot(key))
        found = self._nodes.get(node.name)
        if found is None:
            pool = self._client.get_valkey_connection(node).connection_pool
            found = self._nodes.setdefault(node.name, Connections(pool, self._timeout))
        return found

    def _copied(self, key: bytes, value: Any, place: memoryview) -> bool:
        """Copy a value to its place. Return True if it has the right length, and passes its check."""
        length = len(place)
        if not isinstance(value, bytes) or len(value) != length + _TRAILER.size:
            return False
        with memoryview(value) as whole, whole[:length] as content:
            place[:] = content
        return value[length:] == self._trailer(key, place)

    def _trailer(self, key: bytes, content: memoryview) -> bytes:
        """Return what is behind the bytes of a piece in its value."""
        return _TRAILER.pack(self._magic, self._crc32c(content, self._crc32c(key)))


def tag(key: bytes) -> bytes:
    """Return the part of a key by which a cluster chooses the node."""
    return key[key.index(b"{") : key.index(b"}")]


def _by_node(keys: Sequence[bytes]) -> Iterator[list[int]]:
    """Yield the numbers of the keys that one command may name."""
    found: dict[bytes, list[int]] = {}
    for number, key in enumerate(keys):
        found.setdefault(tag(key), []).append(number)
    yield from found.values()
