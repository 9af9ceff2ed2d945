"""What malloc keeps of the memory that making samples took.

Decoders allocate and free much, and malloc keeps it, in each worker, though it makes no further sample. So it is given back to
the kernel once a process has found QUIET samples in a row.
"""

from __future__ import annotations

import ctypes

QUIET = 64  # samples


class Leftovers:
    """The leftovers of one dataset in this process."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = 0

    def add(self) -> None:
        """Count a sample that is made here."""
        self._left = QUIET

    def look(self) -> None:
        """Count a sample that was read, and give memory back if it is time for that."""
        if self._left:
            self._left -= 1
            if not self._left:
                trim()


def trim() -> None:
    """Give the memory that malloc keeps back to the kernel, if this malloc can do that."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not glibc
        return
