"""Clean-up that Ctrl-C starts and a second Ctrl-C cannot stop.

A demo that leaves a pool of shared memory behind has taken memory from the machine until it reboots. Two windows are open in
the usual ``ExitStack``: a signal between acquiring a thing and registering it, and a signal during the clean-up. Here SIGINT
and SIGTERM are blocked (not ignored: they stay pending) in both. Processes started meanwhile inherit the mask, which is right
for SIGINT: the terminal sends it to the whole group, and the parent is the one that stops the others. What stays open are the
few instructions of ``with`` itself before the mask is set.
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
    """SIGINT and SIGTERM wait until this is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class CleanupStack(ExitStack):
    """An ExitStack that enters contexts and cleans up with SIGINT and SIGTERM blocked."""

    def enter_context(self, cm: AbstractContextManager[T]) -> T:
        """Enter a context; return what it gives."""
        with blocked():
            return super().enter_context(cm)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None, /
    ) -> bool | None:
        with blocked():
            return super().__exit__(kind, value, tb)
