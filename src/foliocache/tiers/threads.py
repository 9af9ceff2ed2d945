"""Calls of tiers, which wait, for event loops, which must not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ..filler.engine import Engine

_T = TypeVar("_T")


async def in_thread(engine: Engine, asked: Callable[[], _T], otherwise: _T) -> _T:
    """Return ``asked()``, called in a thread of the engine; ``otherwise`` if there is none, or it fails.

    If this is cancelled, or the pool is closed, it still waits for the end of the call: the call writes to pages, which are
    another's after the return.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def tell(flags: _T) -> None:
        if not future.done():
            future.set_result(flags)

    def call() -> None:
        flags = otherwise
        try:
            flags = asked()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(tell, flags)

    if not engine.submit(call):
        return otherwise
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return future.result()
