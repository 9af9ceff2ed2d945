"""Windows that may be written to: private copies, page by page, of what is written.

Such a window maps the same pages as any other, privately: the first write to a page of the machine gives the process a page of
its own, and nobody else sees it. Pages that have not been written are the pool's, and the window pins them.

A forked child has none of its parent's pins. So before a fork the parent's windows get all their pages copied: what the child
inherits is then its own, whatever the parent does, and neither sees what the other writes.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .window import Window

_windows: weakref.WeakSet[Window] = weakref.WeakSet()


def is_writable(writable: str | None) -> bool:
    """Return True for "copy", False for None. Raises ValueError for anything else."""
    if writable is not None and writable != "copy":
        raise ValueError(f'writable must be "copy" or None, not {writable!r}: nobody may write to what others read')
    return writable is not None


def watch(window: Window) -> None:
    """Have a window's pages copied before this process forks."""
    _windows.add(window)


def _before_fork() -> None:
    for window in list(_windows):
        window._copy_all()


os.register_at_fork(before=_before_fork)
