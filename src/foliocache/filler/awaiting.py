"""What is awaited in event loops: a lease, and a call in a thread of the engine.

The end of a wait comes from another thread. It is an outcome that the coroutine looks at, never a future's exception: one that
nobody retrieves, since its task was cancelled, would be reported. A loop that was closed meanwhile has no tasks left to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ..errors import FoliocacheError

if TYPE_CHECKING:
    from .awaited import Miss
    from .engine import Engine

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


async def lease_of(miss: Miss) -> Any:
    """Return the lease that a miss is about. Raises what the source raises."""
    try:
        await miss.start(asyncio.get_running_loop())
        return miss.take()
    finally:
        miss.abandon()


async def in_engine(engine: Engine, function: Callable[[], T]) -> T:
    """Return what ``function()`` returns, called in a thread of the engine.

    If this is cancelled, it is called to its end. Raises FoliocacheError if the engine has been closed, or has no threads.
    """
    return await outcome(engine, lambda tell: tell(function()))


async def outcome(engine: Engine, begin: Callable[[Tell[T]], object]) -> T:
    """As ``in_engine``, of what ``begin(tell)`` has begun: the result is what ``tell`` is called with, then or later."""
    call = _Call(engine, begin)
    if not engine.submit(call):
        call.close()
    try:
        await call.future
    finally:
        engine.waiting.discard(call)
    return call.take()


class Tell(Protocol[T_contra]):
    """Ends a wait, in any thread, if nothing else has ended it."""

    def __call__(self, result: T_contra | None = None, *, error: BaseException | None = None) -> None:
        """This is the outcome."""


class _Call(Generic[T]):
    """An outcome that another thread tells a loop."""

    def __init__(self, engine: Engine, begin: Callable[[Tell[T]], object]) -> None:
        self._engine, self._begin = engine, begin
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()
        self._result: T | None = None
        self._error: BaseException | None = None
        engine.waiting.add(self)

    def __call__(self) -> None:
        try:
            self._begin(self.tell)
        except BaseException as error:
            self.tell(error=error)

    def close(self) -> None:
        self.tell(error=FoliocacheError("the pool has been closed in this process, or there are no threads for its work"))

    def share_failure(self, identity: object, first: int, end: int, error: BaseException, /) -> None:
        pass

    def tell(self, result: T | None = None, *, error: BaseException | None = None) -> None:
        with contextlib.suppress(KeyError, RuntimeError):  # it has ended; the loop has been closed
            self._engine.waiting.remove(self)
            self._result, self._error = result, error
            self._loop.call_soon_threadsafe(self._wake)

    def take(self) -> T:
        result, error, self._result, self._error = self._result, self._error, None, None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # it is T's None then

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)
