"""What malloc keeps of the memory that making samples took.

Decoders allocate and free much, and malloc keeps it, in each worker, though it makes no further sample. So it is given back to
the kernel once a process has found QUIET samples in a row.
"""

from __future__ import annotations

import ctypes

QUIET = 64  # samples


class Leftovers:
    """The leftovers of one dataset in this process."""

    __slots__ = ("_has_made", "_left")

    def __init__(self) -> None:
        self._left = 0
        self._has_made = False  # since the last look

    def add(self) -> None:
        """Note that samples are made here."""
        self._left, self._has_made = QUIET, True

    def look(self, count: int) -> None:
        """Count samples that were read, unless some of them were made, and give memory back if it is time for that."""
        if self._has_made:
            self._has_made = False
        elif self._left:
            self._left = max(self._left - count, 0)
            if not self._left:
                trim()


def trim() -> None:
    """Give the memory that malloc keeps back to the kernel, if this malloc can do that."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not glibc
        return
