"""What a source is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Source(Protocol):
    """One object at one version, read by ranges straight into the pool's pages."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
        """Fill the buffers, in order, with the object's bytes from offset on.

        Parameters
        ----------
        offset
            Of the first byte, in bytes.
        buffers
            Writable and contiguous. They are the pages themselves: no reference may be kept beyond the yield that reports them full.

        Yields
        ------
        object
            Anything, once for each buffer, as soon as that is full: readers of it go on at once.

        Raises
        ------
        Exception
            If the bytes cannot be had, or are of another version than the mapping's.
        """
        ...
