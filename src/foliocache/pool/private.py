"""Pages that may be written to: each page that is written becomes a private copy.

Writable leases and windows map the pool's pages privately: the first write to a page of the machine gives the process its own
copy of that page, which no other process sees. Pages that have not been written are the pool's, and the lease or window pins
them.

A forked child has none of its parent's pins. So before a fork all pages of the parent's writable leases and windows are copied:
parent and child then share no page of the pool through them, and neither sees what the other writes.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .window import PrivatePages, Window

_mapped: weakref.WeakSet[PrivatePages | Window] = weakref.WeakSet()


def is_writable(writable: str | None) -> bool:
    """Return True for "copy", False for None. Raises ValueError for anything else."""
    if writable is not None and writable != "copy":
        raise ValueError(f'writable must be "copy" or None, not {writable!r}: cached bytes are read-only')
    return writable is not None


def watch(mapped: PrivatePages | Window) -> None:
    """Register what is mapped privately, so that its pages are copied before this process forks."""
    _mapped.add(mapped)


def _before_fork() -> None:
    for mapped in list(_mapped):
        mapped._copy_all()


os.register_at_fork(before=_before_fork)
