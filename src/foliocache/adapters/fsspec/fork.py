"""Keeps a forked child from disturbing its parent's event loop when it finalizes what it inherited.

fsspec gives a child a new loop, and drops its cached filesystems there. But the garbage collector then finalizes them in the
child: their sessions are closed on the copy of the parent's loop, which no thread runs. Closing removes each socket from that
loop's selector, and its epoll set is one object in the kernel that parent and child share. So the *parent's* loop gets no more
events of its own connections, and its next request over one of them waits for ever. (Plain fsspec does this; there is a test.)

So the child gives its copy of the loop a selector without sockets, and marks it as not running, before any finalizer can run.
The finalizers then close only the child's file descriptors.
"""

from __future__ import annotations

import gc
import os
import selectors
from asyncio.selector_events import BaseSelectorEventLoop
from typing import Any

import fsspec.asyn

pid: int = os.getpid()  # of this process; the system call takes longer than what would ask for it

_before_fork: list[Any] = []  # the parent's loop, and whether it collects garbage


def _in_parent_before() -> None:
    """Disable garbage collection: fsspec's own hook runs in the child before ours and drops the filesystems, and no collection
    may come in between."""
    _before_fork[:] = fsspec.asyn.loop[0], gc.isenabled()
    gc.disable()


def _collect_again() -> None:
    if _before_fork.pop():
        gc.enable()


def _in_child_after() -> None:
    global pid
    pid = os.getpid()
    fsspec.asyn.reset_lock()  # fsspec's hook does not reset this lock, which a thread of the parent may have held
    loop = _before_fork[0]
    if isinstance(loop, BaseSelectorEventLoop):
        _disarm(loop)
    _collect_again()


def _disarm(loop: Any) -> None:
    loop._selector = selectors.SelectSelector()
    loop._thread_id = None


os.register_at_fork(before=_in_parent_before, after_in_parent=_collect_again, after_in_child=_in_child_after)
