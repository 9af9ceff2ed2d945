"""What a source is: where an object's missing bytes come from. Two functions, or an object that fills pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, SupportsIndex, runtime_checkable

if TYPE_CHECKING:
    from typing_extensions import Buffer

# read(offset, length) returns exactly those bytes; readinto(offset, buffer) fills the buffer and returns how many bytes that
# is.
Read = Callable[[int, int], "Buffer"]
ReadInto = Callable[[int, memoryview], SupportsIndex]


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
            Writable and contiguous. They are the pages themselves: no reference may be kept beyond the yield that reports
            them full.

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
