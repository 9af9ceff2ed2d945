"""Functions that run later, in threads of this process: reading ahead.

Whoever asks may be a signal's handler or a finalizer, and may have interrupted this very code, or somebody's thread pool. The locks of
``concurrent.futures`` and ``threading`` are not made for being met again by the thread that holds them, so there are none here: a
``SimpleQueue``, which may be put to from anywhere, and threads that are started without ceremony.
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
EXIT_PATIENCE = (
    2.0  # seconds that the end of the interpreter waits: a source may hang, and what is not read ahead is lost to nobody
)

_all: "weakref.WeakSet[Background]" = weakref.WeakSet()


class Background:
    """At most THREADS threads, and what they are to do. One that was inherited by fork has none: ``is_ours`` tells."""

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
        """Whether it belongs to this process."""
        return self._pid == os.getpid()

    def run(self, function, *args):
        """Have function called with args soon, unless this is closed or the interpreter is going down. What it raises is lost."""
        if self._closed:
            return
        self._work.put((function, args))
        if next(self._turns) < THREADS:
            with contextlib.suppress(RuntimeError):
                self._idents.append(_thread.start_new_thread(_serve, (self._work, self._ended)))

    def close(self, patience):
        """Take nothing new, and wait until what was asked for is done, at most ``patience`` seconds. Doing it twice is harmless."""
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
            with contextlib.suppress(BaseException):  # of interest to nobody, and the next one is to have its turn
                function(*args)
            del task, function, args
    finally:
        ended.put(None)


def _close_all():
    for background in list(_all):
        background.close(EXIT_PATIENCE)


atexit.register(_close_all)
