"""Reads in event loops: the coroutines of a mapping. Hits are in ``async_map``, waits for misses in ``filler.awaited``."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Literal, SupportsIndex

from .async_map import AsyncMap, Gather
from .lease import Lease
from .private import is_writable
from .window import private_lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from ..filler.awaited import Miss
    from ..filler.engine import Engine
    from .pool import Pool


class AsyncReads(AsyncMap):
    """The coroutines with which a mapping is read. Cached bytes are returned at once, in the calling thread."""

    pool: Pool

    async def lease_async(
        self, offset: SupportsIndex, length: SupportsIndex | None = None, *, writable: Literal["copy"] | None = None
    ) -> Lease:
        """`lease` for event loops.

        Parameters
        ----------
        offset : int
            The first byte.
        length : int, optional
            The most bytes to lease, at least 1. By default all up to the end of the folio that has the byte at ``offset``.
        writable : {"copy"}, optional
            The bytes may be written to. Each page that is written becomes a copy, which only this process sees, and which is
            lost when the lease ends.

        Returns
        -------
        Lease
            At least one byte: those from ``offset`` to the end of the folio, but at most ``length``.

        Raises
        ------
        IndexError
            The object has no byte at ``offset``.
        SourceError
            The source did not return the bytes, or the mapping has no source.
        FoliocacheError
            The pool has been closed, also while this waits.
        Exception
            Whatever the source raises.
        """
        wanted = writable is not None and is_writable(writable)
        found = self._look_lease(offset, length)
        lease: Lease = found if type(found) is Lease else self._taken(await _lease_of(found), offset, length)
        return private_lease(lease) if wanted else lease

    async def _read_missing(self, offset: SupportsIndex, length: SupportsIndex) -> memoryview:
        """Return what `read_async` returns, when the range is not cached in one folio."""
        lease = await self.lease_async(offset, length)
        view = self._view_of(lease, offset, length)
        return memoryview(await self.read_bytes_async(offset, length)) if view is None else view

    async def read_bytes_async(self, offset: SupportsIndex, length: SupportsIndex) -> bytes:
        """`read_bytes` for event loops: a copy.

        Parameters
        ----------
        offset, length : int
            The first byte, and how many; cut off at the end of the object.

        Returns
        -------
        bytes

        Raises
        ------
        SourceError
            The source did not return the bytes, or the mapping has no source.
        FoliocacheError
            The pool has been closed, also while this waits.
        Exception
            Whatever the source raises.
        """
        content = self._cached_bytes(offset, length)
        if content is not None:
            return content
        if self._is_long(offset, length):
            return await _read_long(self.pool.engine, self._read_long, offset, length)
        gather = self._gather_bytes(offset, length)
        await _gathered(gather)
        gathered: bytes = gather.result
        return gathered

    async def readinto_async(self, offset: SupportsIndex, buffer: Buffer) -> int:
        """`readinto` for event loops. If it is cancelled, part of the buffer may have been written.

        Parameters
        ----------
        offset : int
            The first byte.
        buffer : writable bytes-like object
            Contiguous; of bytes or numbers. It cannot be resized until this ends.

        Returns
        -------
        int
            The number of bytes written: less than the buffer's size only at the object's end.

        Raises
        ------
        TypeError
            The buffer is read-only, not contiguous, or of something else than bytes or numbers.
        SourceError
            The source did not return the bytes, or the mapping has no source.
        FoliocacheError
            The pool has been closed, also while this waits.
        Exception
            Whatever the source raises.
        """
        gather = self._gather_into(offset, buffer)
        await _gathered(gather)
        count: int = gather.result
        return count


async def _lease_of(miss: Miss) -> Lease:
    """Return the lease for which ``miss`` waits."""
    from ..filler.awaiting import lease_of  # here, because importing asyncio takes longer than all of foliocache

    lease: Lease = await lease_of(miss)
    return lease


async def _read_long(engine: Engine, read: Callable[..., bytes], offset: SupportsIndex, length: SupportsIndex) -> bytes:
    """Call ``read`` in a thread, which gives up soon if this is cancelled, or the pool is closed."""
    from ..filler.awaiting import beside_engine

    ended = Event()
    try:
        return await beside_engine(engine, read, offset, length, ended)
    finally:
        ended.set()


async def _gathered(gather: Gather) -> None:
    """Gather a range. Other tasks run between parts of it."""
    from asyncio import sleep

    try:
        while (step := gather.step()) is not True:
            if step is None:
                await sleep(0)
            else:
                gather.take(await _lease_of(step))
    finally:
        gather.close()
