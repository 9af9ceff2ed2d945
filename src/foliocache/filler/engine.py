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
CONCURRENCY_FIRST = 4  # how many before it is known whether more of them help
BUSY = 0.75  # of two processors: if the threads that read ahead want less, they wait for the origin, and more of them help ...
WAITING = 1 / 8  # ... also if each wants less than this part of one ...
BUSY_MAX = 1.25  # ... and all of them less than this
TOO_BUSY = 1.5  # of two processors: if they want more, fewer of them do the same
PAIRS_MAX = 4  # of processors; the threads of more of them would take the GIL from a reader that copies for itself
SAMPLE = 0.002  # seconds that the want of processors is measured; longer while it does not change anything
SAMPLE_MAX = 0.064
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
    """At most THREADS_MAX threads, started when they are needed. An engine inherited by fork has none; see ``is_ours``.

    ``processors``: how many this process may use.
    """

    def __init__(self, processors: float = 2) -> None:
        self._pid = os.getpid()
        self._state = _State(processors)
        self._closed = False
        self.servers: int = int(2 * self._state.pairs)  # threads that should serve one filler, if each serves several at a time
        self.at_once_most: int = CONCURRENCY // self.servers  # requests that each of these has under way if there are no others
        self.waiting: set[Waiting] = set()  # every access is a single, atomic call
        self.serving: deque[None] = deque()  # one for each thread that serves several requests at a time ...
        self.under_way: deque[None] = deque()  # ... and for each request that such a thread has
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
    def at_once(self) -> int:
        """How many requests each of the threads that serve several should have under way now, so that all have CONCURRENCY."""
        threads = len(self.serving)
        return self.at_once_most if threads <= self.servers else max(CONCURRENCY // threads, 1)

    def may_have(self, own: int) -> int:
        """Return how many requests a thread that serves several, and has ``own`` under way, may have now: one more while all
        threads have less than CONCURRENCY. A few in any case, since those of others may hang.

        Each of the others may have taken its next request before it has let go of one that is full."""
        free = CONCURRENCY + len(self.serving) - len(self.under_way)
        return max(min(own + free, self.at_once_most), CONCURRENCY_FIRST)

    @property
    def closed(self) -> bool:
        """True if it refuses requests."""
        return self._closed

    @property
    def served(self) -> int:
        """The number of requests that have ended. It grows while the engine makes progress."""
        return self._state.served

    def later(self, request: Request) -> bool:
        """Call ``request()`` when it is its turn, unless the engine is closed meanwhile.

        Of such requests, CONCURRENCY_FIRST run at a time, and up to CONCURRENCY if their threads mostly wait (`_State.adapt`).

        Return False, without calling it, if the engine is closed, or if there is no thread and none can be started.
        """
        return not self._closed and self._state.later(request)

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

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing() and self.is_ours:  # at the end of the interpreter there are no threads, and modules may be gone
            self._state.close()


class _Serving:
    """A thread that reads ahead, and a queue to which it puts an item when it has served all requests."""

    def __init__(self) -> None:
        self.thread = _thread.get_ident()
        self.clock = time.pthread_getcpuclockid(self.thread)
        self.at_first = _processor_time(self.clock)
        self.ended: queue.SimpleQueue[None] = queue.SimpleQueue()


class _State:
    """The state that the threads share. They keep this object alive, but not the engine."""

    def __init__(self, processors: float) -> None:
        self.pairs = min(max(processors / 2, 1.0), PAIRS_MAX)  # of processors, which reading ahead may use
        self.wanted: deque[Request] = deque()  # submitted while all threads were busy
        self.ahead: deque[Request] = deque()
        self.work: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.idle: deque[None] = deque()  # one for each thread that waits for work and has not been given any
        self.spare: deque[None] = deque([None] * THREADS_MAX)  # one for each thread that may still be started
        self.width = CONCURRENCY_FIRST  # how many threads may serve ``ahead``; written by ``adapt`` alone
        self.slots: deque[None] = deque([None] * self.width)  # one for each of them that is not running
        self.surplus: deque[None] = deque()  # one for each that is to end, since ``width`` has become smaller
        self.samplers: deque[None] = deque([None])  # one, if no thread runs ``adapt``
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
        return not self.withdrawn(self.wanted, request)

    def later(self, request: Request) -> bool:
        """Queue a request in ``ahead``. Return False if there is no thread at all."""
        self.ahead.append(request)
        self.start_ahead()
        return len(self.spare) < THREADS_MAX or not self.withdrawn(self.ahead, request)

    def withdrawn(self, queue: deque[Request], request: Request) -> bool:
        """Take a request out of its queue. Return False if it is being served."""
        with contextlib.suppress(ValueError):
            queue.remove(request)
            return True
        return False

    def serve_wanted(self) -> None:
        """Give the wanted requests to idle threads."""
        while self.wanted and self.take(self.idle):
            self.work.put(self.next_wanted)

    def next_wanted(self) -> None:
        """Serve the first wanted request, unless another thread has done so."""
        with contextlib.suppress(IndexError):
            self.wanted.popleft()()

    def start_ahead(self) -> None:
        """Start one more thread that serves ``ahead``, if there is a slot; else a thread that finds out whether there should be
        more slots."""
        if self.take(self.slots):
            if not self.start(self.serve_ahead):
                self.slots.append(None)
        elif self.take(self.samplers) and not self.start(self.adapt):
            self.samplers.append(None)

    def serve_ahead(self) -> None:
        """Serve the requests in ``ahead``, one after the other, until it is empty, or there are too many such threads."""
        serving = _Serving()
        self.busy.append(serving)
        has_slot = True
        while has_slot and self.ahead:
            with contextlib.suppress(BaseException):  # no one waits for the result, and the next request must be served
                self.ahead.popleft()()
            has_slot = not self.take(self.surplus)
        self.busy.remove(serving)
        serving.ended.put(None)
        if has_slot:
            self.slots.append(None)
        if self.ahead:
            self.start_ahead()  # a request may have come before the slot was free

    def adapt(self) -> None:
        """While requests are queued: double ``width`` if the threads that serve them mostly wait, or halve it if they compete
        for the processors.

        How much a connection gives is the origin's business, and so is the time before an answer. What can be seen here, soon
        and without a completed request, is whether the threads wait.
        """
        seconds = SAMPLE
        while self.ahead and not self.closed:
            wanted = self.processors_wanted(seconds)
            width = self.width
            if wanted < max(BUSY, min(WAITING * width / self.pairs, BUSY_MAX)) and self.ahead:
                self.width = min(2 * width, CONCURRENCY)
            elif wanted > TOO_BUSY:
                self.width = max(width // 2, CONCURRENCY_FIRST)
            for _ in range(self.width - width):
                if not self.take(self.surplus):
                    self.slots.append(None)
                    self.start_ahead()
            for _ in range(width - self.width):
                if not self.take(self.slots):
                    self.surplus.append(None)
            seconds = SAMPLE if self.width != width else min(2 * seconds, SAMPLE_MAX)
        self.samplers.append(None)

    def processors_wanted(self, seconds: float) -> float:
        """Return how many of every two processors the threads that serve ``ahead`` use in so many seconds, or would use.

        This thread wakes late if other processes have the processors, or other threads the GIL. Then those threads wait for
        the same, and not for the origin: the part of the time by which it is late counts as used. There is one GIL for
        all processors.
        """
        before = {each: _processor_time(each.clock) for each in list(self.busy)}
        begin = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begin
        used = sum(max(_processor_time(each.clock) - before.get(each, each.at_first), 0.0) for each in list(self.busy))
        return (used / self.pairs + max(took - seconds, 0.0)) / took

    def take(self, tokens: deque[None]) -> bool:
        """Remove one; False if there is none."""
        try:
            tokens.pop()
        except IndexError:
            return False
        return True

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
            if self.ahead and self.take(self.slots):  # no thread could be started for it
                self.call(self.serve_ahead)
            self.idle.append(None)
            self.serve_wanted()
            if self.closed and self.take(self.idle):  # it has not been given work, or told to end, meanwhile
                break
            request = self.work.get()
        self.spare.append(None)

    def call(self, request: Request) -> None:
        with contextlib.suppress(BaseException):
            request()
        self.served += 1


def _processor_time(clock: int) -> float:
    """Return the seconds that a thread has used a processor; 0 if it has ended."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0


def _close_all() -> None:
    for engine in list(_all):
        engine.close(EXIT_PATIENCE)


atexit.register(_close_all)
