"""The threads in which a process calls its sources: one engine for each pool, several requests at a time.

A fill that has begun is the engine's and not its caller's: the caller may be interrupted, and the fill goes on to its end. The
caller may also be a signal handler or a finalizer that has interrupted this code or a thread pool. The locks of
``concurrent.futures`` and ``threading`` are not made for being met again by the thread that holds them, so there are none here:
deques, whose methods are single steps, a ``SimpleQueue``, which may be put to from anywhere, and threads that are started
without ceremony.
"""

import _thread
import atexit
import contextlib
import os
import queue
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

CONCURRENCY = 32  # requests that were asked for ahead of their use, at a time
THREADS_MAX = 2 * CONCURRENCY  # with those that a caller waits for
EXIT_PATIENCE = (
    2.0  # seconds that the end of the interpreter waits: a source may hang, and what is read ahead is lost to nobody
)

Request = Callable[[], object]


class Waiting(Protocol):
    """A wait that needs no thread: for what a thread of the engine does, or another process."""

    def close(self) -> None:
        """The pool has been closed: wait no longer."""

    def share_failure(self, identity: object, first: int, end: int, error: BaseException, /) -> None:
        """The source has failed to give units first .. end - 1 of an object. ``identity`` is what its mappings here share."""


_all: "weakref.WeakSet[Engine]" = weakref.WeakSet()


class Engine:
    """At most THREADS_MAX threads, started when they are needed. One that was inherited by fork has none: ``is_ours`` tells."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._state = _State()
        self._closed = False
        self.waiting: set[Waiting] = set()  # each step is a single call of the set
        _all.add(self)

    @property
    def is_ours(self) -> bool:
        """True in the process that made it."""
        return self._pid == os.getpid()

    def run(self, request: Request) -> bool:
        """Have ``request()`` called at once, in a thread of the engine. What it raises is lost.

        Returns False, and nothing is called, if there is no thread to be had: the caller then does it itself.
        """
        return not self._closed and self._state.start(request)

    def submit(self, request: Request) -> bool:
        """Have ``request()`` called in a thread of the engine as soon as there is one, before what ``later`` was given.

        Returns False, and nothing is called, if there is none and will be none. It is called even if the engine is closed
        meanwhile.
        """
        return not self._closed and self._state.submit(request)

    @property
    def served(self) -> int:
        """How many requests have ended: grows as long as the engine gets anywhere."""
        return self._state.served

    def later(self, request: Request) -> None:
        """Have ``request()`` called when fewer than CONCURRENCY such requests are under way, unless the engine is closed
        meanwhile."""
        if not self._closed:
            self._state.ahead.append(request)
            self._state.start_ahead()

    def close(self, patience: float) -> None:
        """Take nothing new, drop what was to be read ahead, and wait at most ``patience`` seconds for what is being read ahead.

        Those that wait without a thread are told; a caller that waits for a fill in a thread does so itself. Closing twice is
        harmless.
        """
        self._closed = True
        if not self.is_ours:
            return
        for waiting in list(self.waiting):
            waiting.close()
        deadline = time.monotonic() + patience
        with contextlib.suppress(queue.Empty):
            for serving in self._state.close():
                if serving.thread != _thread.get_ident():
                    serving.ended.get(timeout=max(0.0, deadline - time.monotonic()))

    def __del__(self) -> None:
        if self.is_ours:
            self._state.close()


class _Serving:
    """A thread that reads ahead, and what it puts to when a request has ended."""

    def __init__(self) -> None:
        self.thread = _thread.get_ident()
        self.ended: queue.SimpleQueue[None] = queue.SimpleQueue()


class _State:
    """What the threads share. They keep it alive, and not the engine."""

    def __init__(self) -> None:
        self.wanted: deque[Request] = deque()  # when all threads are busy
        self.ahead: deque[Request] = deque()
        self.work: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.idle: deque[None] = deque()  # one for each thread that waits for work and was not given any
        self.spare: deque[None] = deque([None] * THREADS_MAX)  # one for each thread that may still be started
        self.slots: deque[None] = deque([None] * CONCURRENCY)  # one for each request that may be taken from ``ahead``
        self.busy: deque[_Serving] = deque()  # at requests from ``ahead``
        self.closed = False
        self.served = 0

    def close(self) -> list[_Serving]:
        """Let the threads end that have nothing to do. Returns those that read ahead."""
        self.closed = True
        self.ahead.clear()
        busy = list(self.busy)
        with contextlib.suppress(IndexError):
            while True:
                self.idle.pop()
                self.work.put(None)
        return busy

    def start(self, request: Request) -> bool:
        """Give a request to an idle thread, or to a new one; at the end of the interpreter there are none that would go on."""
        if sys.is_finalizing():
            return False
        with contextlib.suppress(IndexError):
            self.idle.pop()
            self.work.put(request)
            return True
        with contextlib.suppress(IndexError):
            self.spare.pop()
            try:
                _thread.start_new_thread(self.serve, (request,))
            except RuntimeError:  # no more threads, or the interpreter is going down
                self.spare.append(None)
                return False
            return True
        return False

    def submit(self, request: Request) -> bool:
        """Give a request to a thread, now or when one has ended what it does. False if there is no thread at all."""
        if self.start(request):
            return True
        self.wanted.append(request)
        if len(self.spare) < THREADS_MAX:
            self.serve_wanted()  # a thread may have come to rest since, and found none
            return True
        with contextlib.suppress(ValueError):
            self.wanted.remove(request)
            return False
        return True

    def serve_wanted(self) -> None:
        """Give what is wanted to threads that rest."""
        while self.wanted and self._pop_idle():
            self.work.put(self.next_wanted)

    def next_wanted(self) -> None:
        """Serve what is wanted, if another thread has not done so."""
        with contextlib.suppress(IndexError):
            self.wanted.popleft()()

    def start_ahead(self) -> None:
        """Have one more thread serve ``ahead``, if there is a slot."""
        try:
            self.slots.pop()
        except IndexError:
            return
        if not self.start(self.serve_ahead):
            self.slots.append(None)

    def serve_ahead(self) -> None:
        """Serve ``ahead``, one after the other, until it is empty."""
        serving = _Serving()
        self.busy.append(serving)
        while self.ahead:
            with contextlib.suppress(BaseException):  # of interest to nobody, and the next one is to have its turn
                self.ahead.popleft()()
        self.busy.remove(serving)
        serving.ended.put(None)
        self.slots.append(None)
        if self.ahead:
            self.start_ahead()  # something may have come between the last look and the slot's return, and found none

    def serve(self, request: Request | None) -> None:
        """What a thread does: its first request, and then what it is given."""
        while request is not None:
            self.call(request)
            del request
            while self.wanted:
                self.call(self.next_wanted)
            self.idle.append(None)
            self.serve_wanted()
            if self.closed and self._pop_idle():
                break
            request = self.work.get()
        self.spare.append(None)

    def call(self, request: Request) -> None:
        with contextlib.suppress(BaseException):
            request()
        self.served += 1

    def _pop_idle(self) -> bool:
        """Take one idle thread out of the count. False if others were given work, or told to end, meanwhile."""
        try:
            self.idle.pop()
        except IndexError:
            return False
        return True


def _close_all() -> None:
    for engine in list(_all):
        engine.close(EXIT_PATIENCE)


atexit.register(_close_all)
