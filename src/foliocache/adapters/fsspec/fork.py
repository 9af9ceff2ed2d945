"""A forked child leaves its parent's event loop alone, even when it only tidies up.

fsspec gives a child a fresh loop, and it forgets its cached filesystems there. But the garbage collector then finalizes them,
in the child: it closes their sessions on the parent's loop, a copy that no thread runs. Closing takes each socket out of that
loop's selector, and an epoll set is one object in the kernel that parent and child share. So the *parent's* loop never again
hears of its own connections, and its next request over one of them waits for ever. (Plain fsspec does this; there is a test.)

So the child gives its copy of the loop a selector that knows no sockets, and marks it as not running, before any finalizer
can look. What the finalizers then close is the child's file descriptors and nothing else.
"""

from __future__ import annotations

import gc
import os
import selectors
from asyncio.selector_events import BaseSelectorEventLoop
from typing import Any

import fsspec.asyn

_before_fork: list[Any] = []  # the parent's loop, and whether it collects garbage


def _in_parent_before() -> None:
    """fsspec's own hook runs in the child before ours and drops the filesystems; no collection may come in between."""
    _before_fork[:] = fsspec.asyn.loop[0], gc.isenabled()
    gc.disable()


def _collect_again() -> None:
    if _before_fork.pop():
        gc.enable()


def _in_child_after() -> None:
    fsspec.asyn.reset_lock()  # fsspec's hook forgets this lock, and some thread of the parent may have held it
    loop = _before_fork[0]
    if isinstance(loop, BaseSelectorEventLoop):
        _disarm(loop)
    _collect_again()


def _disarm(loop: Any) -> None:
    loop._selector = selectors.SelectSelector()
    loop._thread_id = None


os.register_at_fork(before=_in_parent_before, after_in_parent=_collect_again, after_in_child=_in_child_after)
