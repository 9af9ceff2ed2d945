"""Sources that are coroutines: called on an event loop of our own, one thread of each process, begun when it is first needed.

A fill waits in a thread of the engine, or in the one that wants the data, as it does for any source; the loop has any number of
their requests at once. It is not the caller's: a fill goes on when that is closed, and threads without a loop read, too. So
what a source uses (an HTTP session) must belong to no other loop: it is made in the coroutine, when it is first called.

A forked child has no such thread, and begins its own loop. The parent's is left as it is: closing it here would disturb the
parent's.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import functools
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from ..errors import FoliocacheError
from .source import AsyncSource

T = TypeVar("T")
EXIT_PATIENCE = 2.0  # seconds that the end of the interpreter waits for coroutines that have been cancelled

_loops: list[_Loop] = []  # the last is this process's, if it is of its pid


def called(function: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
    """Return a function that waits for what a coroutine function returns."""
    return functools.partial(_call, function)


def read_into(source: AsyncSource) -> Callable[[int, Sequence[memoryview]], Iterator[object]]:
    """Return the ``read_into`` of a source that has only ``read_into_async``."""
    return functools.partial(_read_into, source)


def _call(function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
    return run(function(*arguments))


def _read_into(source: AsyncSource, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
    answer = source.read_into_async(offset, buffers)
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
    """Return what a coroutine returns, called on the loop of this process. If this is interrupted, the coroutine is cancelled.

    Raises FoliocacheError in the thread of that loop, which would wait for itself.
    """
    loop = _loop_of_process()
    if _thread.get_ident() == loop.thread:
        coroutine.close()
        raise FoliocacheError(
            "a source that is a coroutine reads, without await, what another such source has to fetch; it would wait for ever; "
            "use read_async, read_bytes_async or readinto_async there"
        )
    return loop.run(coroutine)


def _loop_of_process() -> _Loop:
    if not _loops or _loops[-1].pid != os.getpid():
        _loops.append(_Loop())
    return _loops[-1]


class _Loop:
    """A loop and its thread."""

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
        except BaseException:  # a signal's handler raises; or the loop has ended, with the interpreter
            call.is_over = True
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(call.cancel)
            raise
        error, result = call.error, call.result
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """Cancel what is under way, and wait for that, at most EXIT_PATIENCE seconds."""
        if self.pid == os.getpid() and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.ended.acquire(timeout=EXIT_PATIENCE)

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
    """A coroutine that a thread waits for."""

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
