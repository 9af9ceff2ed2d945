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
        return found if isinstance(found, Lease) else self._trim(await _lease(found), offset, length)

    async def read_async(self, offset: SupportsIndex, length: SupportsIndex) -> memoryview:
        """`read`, awaited: a view of the folio itself where one has all of the range.

        Parameters
        ----------
        offset, length : int
            The first byte, and how many; cut off at the end of the object.

        Returns
        -------
        memoryview
            Read-only.

        Raises
        ------
        SourceError
            The source did not give the bytes, or there is none.
        FoliocacheError
            The pool has been closed, also while this waits.
        Exception
            Whatever the source raises.
        """
        found = self._look_view(offset, length)
        if isinstance(found, memoryview):
            return found
        if found is not None:
            found = self._view_of(await _lease(found), offset, length)
        if found is None:
            found = memoryview(await self.read_bytes_async(offset, length))
        return found

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
        found = self._look_bytes(offset, length)
        if isinstance(found, bytes):
            return found
        await _gathered(found)
        content: bytes = found.result
        return content

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
        gather = self._look_into(offset, buffer)
        await _gathered(gather)
        count: int = gather.result
        return count


async def _lease(miss: Miss) -> Lease:
    """The lease that a miss is about."""
    from asyncio import get_running_loop  # here, because importing it takes longer than all of foliocache

    try:
        await miss.start(get_running_loop())
        lease: Lease = miss.take()
        return lease
    finally:
        miss.abandon()


async def _gathered(gather: Gather) -> None:
    """Have a range gathered. Other tasks have their turn between parts of it."""
    from asyncio import sleep

    try:
        while (step := gather.step()) is not True:
            if step is None:
                await sleep(0)
            else:
                gather.take(await _lease(step))
    finally:
        gather.close()
