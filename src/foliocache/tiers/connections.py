"""Connections to a server, which the client package makes, for those calls that it does not have."""

from __future__ import annotations

import os
from collections import deque
from types import TracebackType
from typing import Any

from . import wire


class Connections:
    """As many connections as there are calls at a time. Those of a parent process are not used.

    Parameters
    ----------
    pool
        The client's.
    timeout
        Seconds that each call of a socket may take, as a rule: `wire.limit` has been called with it.
    """

    def __init__(self, pool: Any, timeout: float) -> None:
        self._pool = pool
        self.timeout: float = timeout
        self._free: deque[Any] = deque()
        self._pid = os.getpid()

    def one(self) -> _Taken:
        """Return a context manager for a connected socket without a timeout. An exception in a ``with`` of it closes it."""
        return _Taken(self)

    def take(self) -> Any:
        """Take a connection. One that the server has closed meanwhile is replaced."""
        if self._pid != os.getpid():
            self._free, self._pid = deque(), os.getpid()
        while self._free:
            try:
                taken = self._free.pop()
            except IndexError:  # another thread was faster
                break
            if wire.is_silent(taken._sock):
                return taken
            taken.disconnect()
        made = self._pool.connection_class(**self._pool.connection_kwargs)
        made.connect()
        made._sock.settimeout(None)
        wire.limit(made._sock, self.timeout)
        return made

    def give(self, taken: Any) -> None:
        """Give a connection back, on which nothing is under way."""
        self._free.append(taken)

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._free:
            self._free.pop().disconnect()


class _Taken:
    """A connection during a ``with``."""

    __slots__ = ("_connection", "_connections")

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._connection: Any = None

    def __enter__(self) -> Any:
        self._connection = self._connections.take()
        return self._connection._sock

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._connections.give(self._connection)
        else:
            self._connection.disconnect()
