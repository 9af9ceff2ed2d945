"""Functions that run in background threads of this process: readahead.

The caller may be a signal handler or a finalizer that has interrupted this code, or a thread pool. The locks of
``concurrent.futures`` and ``threading`` are not reentrant, so none is used here: only a ``SimpleQueue``, to which a handler may
put an item at any time, and threads started by ``_thread``.
"""

import _thread
import atexit
import contextlib
import itertools
import os
import queue
import time
import weakref

THREADS = 2
EXIT_PATIENCE = 2.0  # seconds that the end of the interpreter waits: a source may hang, and no caller waits for readahead

_all: "weakref.WeakSet[Background]" = weakref.WeakSet()


class Background:
    """At most THREADS threads and their queue of work. One that was inherited by fork has no threads: see ``is_ours``."""

    def __init__(self):
        self._pid = os.getpid()
        self._work = queue.SimpleQueue()
        self._ended = queue.SimpleQueue()
        self._turns = itertools.count()
        self._idents = []
        self._closed = False
        _all.add(self)

    @property
    def is_ours(self):
        """True if this object was made by this process."""
        return self._pid == os.getpid()

    def run(self, function, *args):
        """Call function with args in a background thread, unless this is closed or the interpreter is shutting down. Its
        exceptions are dropped."""
        if self._closed:
            return
        self._work.put((function, args))
        if next(self._turns) < THREADS:
            with contextlib.suppress(RuntimeError):
                self._idents.append(_thread.start_new_thread(_serve, (self._work, self._ended)))

    def close(self, patience):
        """Accept no more work, and wait at most ``patience`` seconds until what was accepted is done. Closing twice is
        harmless."""
        self._closed = True
        if not self.is_ours:
            return
        idents, self._idents = self._idents, []
        for _ in idents:
            self._work.put(None)
        deadline = time.monotonic() + patience
        with contextlib.suppress(queue.Empty):
            for ident in idents:
                if ident != _thread.get_ident():
                    self._ended.get(timeout=max(0.0, deadline - time.monotonic()))


def _serve(work, ended):
    try:
        while (task := work.get()) is not None:
            function, args = task
            with contextlib.suppress(BaseException):  # no caller waits for it, and the thread goes on with the next task
                function(*args)
            del task, function, args
    finally:
        ended.put(None)


def _close_all():
    for background in list(_all):
        background.close(EXIT_PATIENCE)


atexit.register(_close_all)
