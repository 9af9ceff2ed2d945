"""What event loops await: a lease, and a call in a thread of the engine.

Another thread ends the wait. It stores the outcome where the coroutine looks, and never sets an exception on the future:
asyncio would report one that is not retrieved because the task was cancelled. If the loop has been closed meanwhile, the
outcome is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ..errors import FoliocacheError
from ..sizes import quoted
from .engine import Engine
from .homes import is_home

if TYPE_CHECKING:
    from .awaited import Miss

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_callers: Engine | None = None  # this process's threads for what waits for other threads: no fill needs one of these


async def lease_of(miss: Miss) -> Any:
    """Return the lease for which ``miss`` waits. Raises what the source raises."""
    try:
        await miss.start(asyncio.get_running_loop())
        return miss.take()
    finally:
        miss.abandon()


async def in_engine(engine: Engine, function: Callable[[], T]) -> T:
    """Return what ``function()`` returns, called in a thread of the engine.

    If this is cancelled, the function still runs to its end. Raises FoliocacheError if the engine has been closed, or has no
    threads.
    """
    return await outcome(engine, lambda tell: tell(function()), is_to_end=True)


async def beside_engine(engine: Engine, function: Callable[..., T], *arguments: Any) -> T:
    """Return what the function returns, called in a thread that may wait for those of the engine: it is none of them.

    If this is cancelled, or the engine is closed, the function still runs to its end. Raises FoliocacheError if the engine is
    closed, at once, and if there are no threads.
    """
    call = functools.partial(contextvars.copy_context().run, function, *arguments)
    return await outcome(engine, lambda tell: tell(call()), threads=_threads_of_callers(), is_to_end=True)


async def outcome(
    engine: Engine,
    begin: Callable[[Tell[T]], object],
    *,
    is_short: bool = False,
    threads: Engine | None = None,
    is_to_end: bool = False,
) -> T:
    """Call ``begin(tell)`` in a thread of the engine, and return the result that ``tell`` is called with, then or later. Raises
    what ``in_engine`` raises, and the error that ``tell`` is called with.

    is_short: it takes locks of the pool, and nothing else. A loop that is a source's home then calls it itself. threads: the
    engine whose thread it is instead. is_to_end: if this is cancelled before the thread has come to it, it is called all the
    same.
    """
    call = _Call(engine, begin, is_to_end)
    try:  # from here on: a signal handler may raise at any line, and nothing is to stay among those that wait
        del begin  # see `abandon`
        engine.waiting.add(call)
        if is_short and is_home():
            call()
        elif engine.closed or not (threads or engine).submit(call):
            call.close()
        call.wakes = True
        if not call.is_told:
            await call.future
    except BaseException:
        call.abandon()
        raise
    finally:
        engine.waiting.discard(call)
    return call.take()


async def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Return what the function returns, called in a thread that is none of a pool's engine. If this is cancelled, the function
    still runs to its end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    if not _threads_of_callers().submit(functools.partial(_answer, loop, future, call)):
        raise RuntimeError("foliocache: no thread can be started for what is awaited")
    return await future


def _threads_of_callers() -> Engine:
    global _callers
    if _callers is None or not _callers.is_ours:
        _callers = Engine()
    return _callers


def _answer(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = call()
    except StopIteration as stop:  # a future refuses it
        error = RuntimeError(f"foliocache: what is awaited raised {quoted(stop)}")
    except BaseException as raised:
        error = raised
    with contextlib.suppress(RuntimeError):  # the loop has been closed, and no task waits any more
        loop.call_soon_threadsafe(_tell, future, result, error)


def _tell(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Tell(Protocol[T_contra]):
    """A function that ends a wait, from any thread, unless the wait has ended."""

    def __call__(self, result: T_contra | None = None, *, error: BaseException | None = None) -> None:
        """End the wait with a result, or with an error."""


class _Call(Generic[T]):
    """A wait in a loop for the outcome of a call in another thread."""

    def __init__(self, engine: Engine, begin: Callable[[Tell[T]], object], is_to_end: bool) -> None:
        self._engine = engine
        self._is_to_end = is_to_end
        self._begin: Callable[[Tell[T]], object] | None = begin
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()
        self._result: T | None = None
        self._error: BaseException | None = None
        self.is_told = False
        self.wakes = False  # True if the loop has to be woken
        self._is_abandoned = False

    def __call__(self) -> None:
        begin, self._begin = self._begin, None
        if begin is None:
            return
        try:
            begin(self.tell)
        except BaseException as error:
            self.tell(error=error)

    def abandon(self) -> None:
        """Keep nothing: the task was cancelled, and its traceback, which has this, may live long. What was begun may hold a
        question for which others wait, or a lease."""
        self._is_abandoned = True  # before the outcome is dropped: `tell` stores that, and then reads this
        self._result = self._error = None
        if not self._is_to_end:
            self._begin = None

    def close(self) -> None:
        self.tell(error=FoliocacheError("the pool has been closed in this process, or there are no threads for its work"))

    def share_failure(self, identity: object, first: int, end: int, error: BaseException, /) -> None:
        pass

    def tell(self, result: T | None = None, *, error: BaseException | None = None) -> None:
        with contextlib.suppress(KeyError):  # the wait has ended
            self._engine.waiting.remove(self)
            self._result, self._error = result, error
            if self._is_abandoned:
                self._result = self._error = None
            self.is_told = True  # before `wakes` is read: the loop writes that, and then reads this
            if self.wakes:
                try:
                    self._loop.call_soon_threadsafe(self._wake)
                except RuntimeError:  # it has been closed: nothing takes this, and it would stay with the task
                    self._result = self._error = None

    def take(self) -> T:
        result, error, self._result, self._error = self._result, self._error, None, None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # a result of None is of type T

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)
