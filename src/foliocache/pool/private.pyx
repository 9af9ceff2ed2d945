"""Pages that may be written to: each page that is written becomes a private copy.

Writable leases and windows map the pool's pages privately: the first write to a page of the machine gives the process its own
copy of that page, which no other process sees. Pages that have not been written are the pool's, and the lease or window pins
them.

A forked child has none of its parent's pins. So before a fork all pages of the parent's writable leases and windows are copied:
parent and child then share no page of the pool through them, and neither sees what the other writes. This is compiled: between
two instructions of Python a signal handler may raise, and Python forks even if a hook has raised. Pages would stay the pool's.
"""
import os
from weakref import ref as _ref

from ..sizes import quoted

cdef set _mapped = set()  # weak references; each takes itself out


def is_writable(writable):
    """Return True for "copy", False for None. Raises ValueError for anything else."""
    if writable is not None and writable != "copy":
        raise ValueError(f'writable must be "copy" or None, not {quoted(writable)}: cached bytes are read-only')
    return writable is not None


def watch(mapped):
    """Register what is mapped privately, so that its pages are copied before this process forks."""
    _mapped.add(_ref(mapped, _mapped.discard))


def _before_fork():
    for each in list(_mapped):
        mapped = each()
        if mapped is not None:
            mapped._copy_all()


os.register_at_fork(before=_before_fork)
