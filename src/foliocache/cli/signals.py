"""Clean-up that Ctrl-C starts and a second Ctrl-C cannot stop.

A demo that leaves a pool of shared memory behind takes memory from the machine until it reboots. In the usual ``ExitStack`` a
signal does harm at two moments: between acquiring a thing and registering it, and during the clean-up. Here SIGINT and SIGTERM
are held back in both (not ignored: they are handled afterwards). A signal can still do harm in the few instructions of ``with``
itself.

The mask alone does not hold them back: it is this thread's, and a signal of the process goes to any thread that does not block
it (an open pool has one that watches the memory), while Python calls the handler in the main thread, whatever its mask. So the
handlers are replaced, too, by one that takes note. Processes that are started meanwhile inherit the mask. That is right for
SIGINT, because the terminal sends it to the whole process group, and the parent stops the others.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


@contextmanager
def blocked() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until this is left, whichever thread they come to. Call it in the main thread."""
    noted: list[int] = []
    with ExitStack() as after:  # its callbacks are called last first, each one also if one before it was interrupted
        after.callback(_handle, noted)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        after.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        for number in SIGNALS:
            if callable(handler := signal.getsignal(number)):
                after.callback(signal.signal, number, handler)
                signal.signal(number, lambda number, _: noted.append(number))
        yield


def _handle(noted: list[int]) -> None:
    for number in noted:
        signal.raise_signal(number)


class CleanupStack(ExitStack):
    """An ExitStack that enters contexts and cleans up with SIGINT and SIGTERM blocked."""

    def enter_context(self, cm: AbstractContextManager[T]) -> T:
        """Enter a context manager. Return what its ``__enter__`` returns."""
        with blocked():
            return super().enter_context(cm)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None, /
    ) -> bool | None:
        with blocked():
            return super().__exit__(kind, value, tb)
