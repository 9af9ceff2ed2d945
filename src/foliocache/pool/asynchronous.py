"""Reads in event loops: the coroutines of a mapping. What is cached is in ``async_map``, the wait in ``filler.awaited``."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

from .async_map import AsyncMap, Gather
from .lease import Lease

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..filler.awaited import Miss


class AsyncReads(AsyncMap):
    """The reads of a mapping that are awaited. What is cached is given at once, in the calling thread."""

    async def lease_async(self, offset: SupportsIndex, length: SupportsIndex | None = None) -> Lease:
        """`lease`, awaited.

        Parameters
        ----------
        offset : int
            The first byte.
        length : int, optional
            How many at most, from 1 on. By default all up to the end of the folio that has the first one.

        Returns
        -------
        Lease
            At least one byte, and as many as the folio has from there on, up to ``length``.

        Raises
        ------
        IndexError
            The object has no byte at ``offset``.
        SourceError
            The source did not give the bytes, or there is none.
        FoliocacheError
            The pool has been closed, also while this waits.
        Exception
            Whatever the source raises.
        """
        found = self._look_lease(offset, length)
        lease: Lease = found if type(found) is Lease else self._taken(await _lease_of(found), offset, length)
        return lease

    async def _read_missing(self, offset: SupportsIndex, length: SupportsIndex) -> memoryview:
        """What `read_async` returns, if one folio does not have it."""
        lease = await self.lease_async(offset, length)
        view = self._view_of(lease, offset, length)
        return memoryview(await self.read_bytes_async(offset, length)) if view is None else view

    async def read_bytes_async(self, offset: SupportsIndex, length: SupportsIndex) -> bytes:
        """`read_bytes`, awaited: a copy.

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
            The source did not give the bytes, or there is none.
        FoliocacheError
            The pool has been closed, also while this waits.
        Exception
            Whatever the source raises.
        """
        content = self._cached_bytes(offset, length)
        if content is not None:
            return content
        gather = self._gather_bytes(offset, length)
        await _gathered(gather)
        gathered: bytes = gather.result
        return gathered

    async def readinto_async(self, offset: SupportsIndex, buffer: Buffer) -> int:
        """`readinto`, awaited. If it is cancelled, the buffer may be filled in part.

        Parameters
        ----------
        offset : int
            The first byte.
        buffer : writable bytes-like object
            Contiguous; of bytes or numbers. It cannot be resized meanwhile.

        Returns
        -------
        int
            How many bytes it was given: less than it has only where the object ends.

        Raises
        ------
        TypeError
            Any other buffer.
        SourceError
            The source did not give the bytes, or there is none.
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
    """The lease that a miss is about."""
    from ..filler.awaiting import lease_of  # here, because importing asyncio takes longer than all of foliocache

    lease: Lease = await lease_of(miss)
    return lease


async def _gathered(gather: Gather) -> None:
    """Have a range gathered. Other tasks have their turn between parts of it."""
    from asyncio import sleep

    try:
        while (step := gather.step()) is not True:
            if step is None:
                await sleep(0)
            else:
                gather.take(await _lease_of(step))
    finally:
        gather.close()
