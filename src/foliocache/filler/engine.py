"""The threads in which a process calls its sources: one engine for each pool, several requests at a time.

A fill that has begun belongs to the engine, not to its caller: if the caller is interrupted, the fill continues to its end. The
caller may also be a signal handler or a finalizer that has interrupted this code or a thread pool. It would deadlock on a lock
of ``concurrent.futures`` or ``threading`` that its own thread holds. So there are no locks here, only deques, whose methods are
atomic, ``SimpleQueue``, whose ``put`` is reentrant, and threads of the module ``_thread``.
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

CONCURRENCY = 32  # the most requests for reading ahead at a time
THREADS_MAX = 2 * CONCURRENCY  # including the requests for which a caller waits
EXIT_PATIENCE = 2.0  # seconds that the interpreter waits at its exit for reads ahead, since a source may hang

Request = Callable[[], object]


class Waiting(Protocol):
    """A wait without a thread of its own, for a thread of the engine or for another process."""

    def close(self) -> None:
        """End the wait: the pool has been closed."""

    def share_failure(self, identity: object, first: int, end: int, error: BaseException, /) -> None:
        """The source has failed for units first .. end - 1 of the object whose mappings in this process have ``identity``."""


_all: "weakref.WeakSet[Engine]" = weakref.WeakSet()


class Engine:
    """At most THREADS_MAX threads, started when they are needed. An engine inherited by fork has none; see ``is_ours``."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._state = _State()
        self._closed = False
        self.waiting: set[Waiting] = set()  # every access is a single, atomic call
        _all.add(self)

    @property
    def is_ours(self) -> bool:
        """True in the process that made it."""
        return self._pid == os.getpid()

    def run(self, request: Request) -> bool:
        """Call ``request()`` at once, in a thread of the engine. Exceptions that it raises are dropped.

        Return False, without calling it, if no thread is free and none can be started; the caller then calls it itself.
        """
        return not self._closed and self._state.start(request)

    def submit(self, request: Request) -> bool:
        """Call ``request()`` in a thread of the engine as soon as one is free, before the requests given to ``later``.

        Return False, without calling it, if there is no thread and none can be started. It is called even if the engine is
        closed meanwhile.
        """
        return not self._closed and self._state.submit(request)

    @property
    def served(self) -> int:
        """The number of requests that have ended. It grows while the engine makes progress."""
        return self._state.served

    def later(self, request: Request) -> None:
        """Call ``request()`` when fewer than CONCURRENCY such requests are running, unless the engine is closed meanwhile."""
        if not self._closed:
            self._state.ahead.append(request)
            self._state.start_ahead()

    def close(self, patience: float) -> None:
        """Refuse new requests, drop queued reads ahead, and wait at most ``patience`` seconds for those that are running.

        Waits without a thread (``waiting``) are ended. A caller that waits for a fill in its own thread continues to wait.
        Closing twice is harmless.
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
    """A thread that reads ahead, and a queue to which it puts an item when it has served all requests."""

    def __init__(self) -> None:
        self.thread = _thread.get_ident()
        self.ended: queue.SimpleQueue[None] = queue.SimpleQueue()


class _State:
    """The state that the threads share. They keep this object alive, but not the engine."""

    def __init__(self) -> None:
        self.wanted: deque[Request] = deque()  # submitted while all threads were busy
        self.ahead: deque[Request] = deque()
        self.work: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.idle: deque[None] = deque()  # one for each thread that waits for work and has not been given any
        self.spare: deque[None] = deque([None] * THREADS_MAX)  # one for each thread that may still be started
        self.slots: deque[None] = deque([None] * CONCURRENCY)  # one for each request that may be taken from ``ahead``
        self.busy: deque[_Serving] = deque()  # the threads that serve ``ahead``
        self.closed = False
        self.served = 0

    def close(self) -> list[_Serving]:
        """End the idle threads. Return those that are reading ahead."""
        self.closed = True
        self.ahead.clear()
        busy = list(self.busy)
        with contextlib.suppress(IndexError):
            while True:
                self.idle.pop()
                self.work.put(None)
        return busy

    def start(self, request: Request) -> bool:
        """Give a request to an idle or a new thread. Return False if there is none, or if the interpreter is exiting."""
        if sys.is_finalizing():
            return False
        with contextlib.suppress(IndexError):
            self.idle.pop()
            self.work.put(request)
            return True
        with contextlib.suppress(IndexError):
            self.spare.pop()
            try:
                _thread.start_new_thread(self.serve, ([request],))
            except RuntimeError:  # no more threads, or the interpreter is exiting
                self.spare.append(None)
                return False
            return True
        return False

    def submit(self, request: Request) -> bool:
        """Give a request to a thread, now or when one becomes free. Return False if there is no thread at all."""
        if self.start(request):
            return True
        self.wanted.append(request)
        if len(self.spare) < THREADS_MAX:
            self.serve_wanted()  # a thread may have become idle just before the append, and found nothing
            return True
        with contextlib.suppress(ValueError):
            self.wanted.remove(request)
            return False
        return True

    def serve_wanted(self) -> None:
        """Give the wanted requests to idle threads."""
        while self.wanted and self._pop_idle():
            self.work.put(self.next_wanted)

    def next_wanted(self) -> None:
        """Serve the first wanted request, unless another thread has done so."""
        with contextlib.suppress(IndexError):
            self.wanted.popleft()()

    def start_ahead(self) -> None:
        """Start one more thread that serves ``ahead``, if there is a slot."""
        try:
            self.slots.pop()
        except IndexError:
            return
        if not self.start(self.serve_ahead):
            self.slots.append(None)

    def serve_ahead(self) -> None:
        """Serve the requests in ``ahead``, one after the other, until it is empty."""
        serving = _Serving()
        self.busy.append(serving)
        while self.ahead:
            with contextlib.suppress(BaseException):  # no one waits for the result, and the next request must be served
                self.ahead.popleft()()
        self.busy.remove(serving)
        serving.ended.put(None)
        self.slots.append(None)
        if self.ahead:
            self.start_ahead()  # a request may have come before the slot was free

    def serve(self, first: list[Request]) -> None:
        """A thread's main function: serve the one request of ``first``, and then those that it is given.

        The arguments of a thread live as long as the thread, and a request has a mapping, which keeps the pool alive.
        """
        request: Request | None = first.pop()
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
        """Remove one thread from ``idle``. Return False if all of them have been given work, or told to end, meanwhile."""
        try:
            self.idle.pop()
        except IndexError:
            return False
        return True


def _close_all() -> None:
    for engine in list(_all):
        engine.close(EXIT_PATIENCE)


atexit.register(_close_all)
