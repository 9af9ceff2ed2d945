"""Sources that are coroutines: called on an event loop of our own, in one thread per process, started at the first call.

It is not the caller's loop: a fill continues when that one is closed, and threads without a loop can read, too. So the
resources of a source (an HTTP session) must not belong to another loop: make them in the coroutine, at its first call.

If several calls of the source may run at once, no thread waits for a miss of an event loop (``homes``). Any other caller waits
in its own thread, or in one of the engine.

A forked child has no such thread, and starts its own loop. It leaves its copy of the parent's loop as it is: closing it would
disturb the parent.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import contextlib
import functools
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from ..errors import FoliocacheError
from .source import AsyncSource, async_iterator_of

T = TypeVar("T")
EXIT_PATIENCE = 2.0  # seconds that the interpreter waits at its exit for the cancelled coroutines

_loops: dict[int, _Loop] = {}  # this process's, by its pid
_inherited: list[_Loop] = []  # those of the parents: a loop that is collected closes itself


def called(function: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
    """Return a function that calls a coroutine function, waits, and returns its result."""
    return functools.partial(_call, function)


def read_into(source: AsyncSource) -> Callable[[int, Sequence[memoryview]], Iterator[object]]:
    """Return the ``read_into`` of a source that has only ``read_into_async``."""
    return functools.partial(_read_into, source)


def _call(function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
    return run(function(*arguments))


def _read_into(source: AsyncSource, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
    answer = async_iterator_of(source.read_into_async(offset, buffers))
    try:
        while (full := run(_next(answer))) is not _END:
            yield full
    finally:
        if hasattr(answer, "aclose"):
            run(answer.aclose())


_END = object()


async def _next(answer: Any) -> Any:
    try:
        return await anext(answer)
    except StopAsyncIteration:
        return _END


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on this process's loop and return its result. If this is interrupted, the coroutine is cancelled.

    Raises FoliocacheError in the loop's own thread, which would wait for itself.
    """
    loop = _loop_of_process()
    if _thread.get_ident() == loop.thread:
        coroutine.close()
        raise FoliocacheError(
            "a source that is a coroutine reads, without await, what another such source has to fetch; it would wait for ever; "
            "use read_async, read_bytes_async or readinto_async there"
        )
    return loop.run(coroutine)


def loop_of_process() -> asyncio.AbstractEventLoop:
    """Return foliocache's loop in this process. It runs in a thread of its own."""
    return _loop_of_process().loop


def _loop_of_process() -> _Loop:
    pid = os.getpid()
    loop = _loops.get(pid)
    if loop is None:
        made = _Loop()
        loop = _loops.setdefault(pid, made)  # another thread, or a signal handler, may have been faster
        if loop is not made:
            made.stop()
    return loop


def _leave_behind() -> None:
    _inherited.extend(_loops.values())
    _loops.clear()


os.register_at_fork(after_in_child=_leave_behind)


class _Loop:
    """An event loop and its thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self.ended = _thread.allocate_lock()
        self.ended.acquire()
        self.thread = 0
        self.thread = _thread.start_new_thread(self._serve, ())
        atexit.register(self.close)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        call = _Call(coroutine)
        try:
            self.loop.call_soon_threadsafe(self._begin, call)
            call.ended.acquire()
        except BaseException:  # a signal handler raised; or the interpreter is exiting, and the loop has ended
            call.is_over = True
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(call.cancel)
            raise
        error, result = call.error, call.result
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """Cancel all coroutines, and wait for their end, at most EXIT_PATIENCE seconds."""
        if self.pid == os.getpid() and not self.loop.is_closed():
            self.stop()
            self.ended.acquire(timeout=EXIT_PATIENCE)

    def stop(self) -> None:
        """Have the thread cancel all coroutines, and end."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self.loop.stop)

    def _begin(self, call: _Call) -> None:
        call.task = self.loop.create_task(call.call())
        self.tasks.add(call.task)
        call.task.add_done_callback(self.tasks.discard)
        if call.is_over:
            call.task.cancel()

    def _serve(self) -> None:
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(self._end())
            self.loop.close()
        finally:
            self.ended.release()

    async def _end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()


class _Call:
    """A coroutine for which a thread waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.task: asyncio.Task[None] | None = None
        self.is_over = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = _thread.allocate_lock()
        self.ended.acquire()

    async def call(self) -> None:
        try:
            self.result = await self._coroutine
        except BaseException as error:
            self.error = error
        finally:
            self.ended.release()

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()
